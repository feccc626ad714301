"""Switches for the relay, its producer, the outbox that it reads, and recovery."""

from pathlib import Path
from typing import Any, Final

from tests.support.hooks import replace
from tests.switches_stock import alter_script


def gaps_noticed() -> None:
    """Nobody asks whether the entry before was ever seen."""
    from gateway import relay

    def never(_previous: str, _position: str) -> bool:
        return False

    replace(relay, "is_gap", never)


def owner_nonce_checked() -> None:
    """Whoever asks moves the checkpoint."""
    alter_script("advance_checkpoint", "if relay[1] ~= ARGV[1] then return {NOT_OWNER, 0} end", "")


def sleep_noticed() -> None:
    """A relay goes on with what it has read, however long ago it claimed."""
    from gateway.relay import Relay

    def never(_self: Relay) -> bool:
        return False

    replace(Relay, "_is_stale", never)


def poison_entries_set_aside() -> None:
    """An entry that cannot be read is tried again and again."""
    from domain.errors import BackendError, PoisonRecordError
    from domain.outbox import decode_entry
    from gateway import order_records

    def stubborn(*entry: Any) -> Any:
        try:
            return decode_entry(*entry)
        except PoisonRecordError as error:
            raise BackendError(str(error)) from error

    replace(order_records, "decode_entry", stubborn)


def publication_has_deadline() -> None:
    """A publication may take as long as it likes."""
    from gateway import publisher

    replace(publisher, "REQUESTS_PER_PUBLICATION", 1_000_000)


def outbox_bounded() -> None:
    """The outbox may grow without end."""
    alter_script("admit_orders", "if outbox_full then return OUTBOX_FULL, 0 end", "")


def failed_producer_replaced() -> None:
    """A producer on which a publication failed is used again."""
    from gateway.publisher import KafkaPublisher

    async def keep(_self: KafkaPublisher) -> None:
        return

    replace(KafkaPublisher, "_discard", keep)


def failed_producer_ended() -> None:
    """A producer on which a publication failed is asked to stop, and left alone if it does not."""
    from adapters.kafka import stop_bounded
    from gateway import publisher

    replace(publisher, "discard_producer", stop_bounded)


def nothing_evicted() -> None:
    """Redis makes room by forgetting keys."""
    from stack import redis

    config = redis._config

    def forgetful(home: Path, port: int) -> str:
        text = config(home, port)
        if "maxmemory-policy noeviction" not in text:
            raise LookupError("the policy is another one")
        return text.replace("noeviction", "allkeys-random")

    replace(redis, "_config", forgetful)


def relay_needs_no_memory() -> None:
    """A relay claims its campaigns by a write that needs memory."""
    alter_script("claim_relay", "redis.call('HDEL', KEYS[1], 'seen_ms')", "")


def loss_told() -> None:
    """The relay does not mind that the outbox is not as far as it was."""
    from gateway.relay import Relay

    def accept(self: Relay, campaign_id: str, newest: str) -> None:
        self._newest[campaign_id] = newest

    replace(Relay, "_find_loss", accept)


def rows_recovered() -> None:
    """Recovery puts back what Kafka knows, and does not ask MySQL where orders stand."""
    from gateway import recovery
    from gateway.recovery_rules import find_loss

    def from_kafka(_rows: Any, *known: Any) -> Any:
        return find_loss((), *known)

    replace(recovery, "find_loss", from_kafka)


def gives_back_first() -> None:
    """Recovery takes units before it gives back those that were taken."""
    from gateway import recovery
    from gateway.recovery_rules import find_loss

    def takes_first(*known: Any) -> Any:
        loss = find_loss(*known)
        return loss._replace(orders=sorted(loss.orders, key=lambda one: -one.held))

    replace(recovery, "find_loss", takes_first)


def reacquisitions_recovered() -> None:
    """Recovery does not look for units that are being taken anew."""
    from gateway.recovery_sources import RecoverySources

    async def none(_self: RecoverySources, _campaign_id: str) -> list[Any]:
        return []

    replace(RecoverySources, "reacquiring", none)


def returns_owed_again() -> None:
    """What was noted as given back is never given back again."""
    from gateway.recovery_sources import RecoverySources

    async def nothing(_self: RecoverySources, _campaign_id: str, _since_ms: int) -> None:
        return

    replace(RecoverySources, "return_again", nothing)


def lost_deductions_marked() -> None:
    """Redis is not told of second deductions that it has lost."""
    marks = "if attempt and order[7] ~= '' then marks[order[1] .. ' ' .. order[7]] = quantity end"
    alter_script("restore_orders", marks, "")


def watermarks_speak_for_their_redis() -> None:
    """A watermark counts whichever Redis it was moved in."""
    from gateway.watermarks import Watermarks

    advance, when_reached = Watermarks.advance, Watermarks.when_reached

    def advance_any(self: Watermarks, campaign_id: str, outbox_id: str, _run_id: str) -> None:
        advance(self, campaign_id, outbox_id, "any")

    def wait_any(self: Watermarks, campaign_id: str, outbox_id: str, _run_id: str, **calls: Any) -> None:
        when_reached(self, campaign_id, outbox_id, "any", **calls)

    replace(Watermarks, "advance", advance_any)
    replace(Watermarks, "when_reached", wait_any)


def failed_sender_replaced() -> None:
    """A producer of dead letters on which a send failed is used again."""
    from adapters.kafka_sender import KafkaSender

    async def keep(_self: KafkaSender) -> None:
        return

    replace(KafkaSender, "_discard", keep)


SWITCHES: Final = {
    switch.__name__: switch
    for switch in (
        gaps_noticed,
        owner_nonce_checked,
        sleep_noticed,
        poison_entries_set_aside,
        publication_has_deadline,
        outbox_bounded,
        failed_producer_replaced,
        failed_producer_ended,
        failed_sender_replaced,
        watermarks_speak_for_their_redis,
        nothing_evicted,
        relay_needs_no_memory,
        loss_told,
        rows_recovered,
        gives_back_first,
        reacquisitions_recovered,
        returns_owed_again,
        lost_deductions_marked,
    )
}

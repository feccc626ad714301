"""Switches for the dead letters: what is given up, what is published again, and what is remembered of it."""

import contextlib
from collections.abc import Sequence

from tests.support.hooks import replace


def drop_compares_the_hold() -> None:
    """Any event with an order's id may give up the units that Redis holds for the order."""
    from consumers import dead_letter_desk
    from consumers.dead_letter_rules import Hold
    from domain.events import OrderAccepted

    def any_payload(event: OrderAccepted, attempts: Sequence[Hold]) -> Hold | None:
        return next((one for one in attempts if event.order_id.endswith(one.digest) and one.held), None)

    replace(dead_letter_desk, "hold_of", any_payload)


def drop_decided_by_nonce() -> None:
    """Whoever gives an order up takes its row for its own, though the consumer has written it."""
    from consumers import dead_letter_sql

    def always(_row_nonce: bytes, _nonce: bytes) -> bool:
        return True

    replace(dead_letter_sql, "is_ours", always)


def drop_waits_for_recovery() -> None:
    """What Redis holds is believed of any server, whether recovery has compared it or not."""
    from consumers import dead_letter_desk

    def always(_compared: str, _run_id: str) -> bool:
        return True

    replace(dead_letter_desk, "is_compared", always)


def replay_waits_for_acknowledgement() -> None:
    """A letter counts as replayed though Kafka has not acknowledged it."""
    from adapters.kafka_sender import KafkaSender, Outgoing
    from domain.errors import BackendError

    send = KafkaSender.send

    async def careless(self: KafkaSender, records: Sequence[Outgoing]) -> None:
        with contextlib.suppress(BackendError):
            await send(self, records)

    replace(KafkaSender, "send", careless)


SWITCHES = {
    switch.__name__: switch
    for switch in (
        drop_compares_the_hold,
        drop_decided_by_nonce,
        drop_waits_for_recovery,
        replay_waits_for_acknowledgement,
    )
}

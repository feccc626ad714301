"""From the outbox to Kafka: may publish twice, may never skip.

The checkpoint moves after Kafka has acknowledged, and only for the owner; the outbox is trimmed below it. What was
published and not checkpointed is published again by whoever comes next, and the consumers' ledger makes that harmless.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from domain.errors import BackendError, OperationRefusedError, PoisonRecordError
from domain.events import TOPIC_ORDERS_ACCEPTED, dead_topic, encode_order_accepted
from domain.failpoints import reach
from domain.outbox import decode_entry, parse_outbox_id
from domain.settings import RelaySettings
from gateway.outbox_source import Entry, OutboxSource

log = logging.getLogger(__name__)

OWNER_NONCE_BYTES: Final = 16
CLAIMS_PER_TTL: Final = 3


class Outgoing(NamedTuple):
    """A record for Kafka."""

    topic: str
    key: bytes
    value: bytes
    timestamp_ms: int
    headers: tuple[tuple[str, bytes], ...] = ()


class Publisher(Protocol):
    """Where the relay publishes."""

    async def publish(self, records: Sequence[Outgoing]) -> None:
        """Return once Kafka has acknowledged all; raises BackendError, after which some may have landed."""

    async def close(self) -> None:
        """Disconnect."""


class Metrics(Protocol):
    """What a relay tells about its work."""

    def relayed(self, orders: int) -> None:
        """Tell that so many orders are in Kafka now."""

    def waiting(self, campaign_id: str, entries: int) -> None:
        """Tell how many entries are in a campaign's outbox."""

    def poison(self) -> None:
        """Tell that an entry could not be read."""


class Gates(Protocol):
    """Recovery, as the relay sees it."""

    async def closed(self, campaign_ids: Iterable[str]) -> list[str]:
        """Return the campaigns whose gate is closed, those that sold last first."""

    async def open_gate(self, campaign_id: str) -> int | None:
        """Compare, restore, open."""


class Relay:
    """One relay. Several may run: each campaign has one owner, the others stand by."""

    def __init__(
        self,
        settings: RelaySettings,
        source_of: Callable[[str], OutboxSource],
        publisher: Publisher,
        list_campaigns: Callable[[], Awaitable[list[str]]],
        gates: Gates,
        metrics: Metrics,
    ) -> None:
        """Take the parts; `gates` runs recovery for a campaign if Redis is another than before."""
        self._settings = settings
        self._source = source_of(secrets.token_hex(OWNER_NONCE_BYTES))
        self._publisher = publisher
        self._list_campaigns = list_campaigns
        self._gates = gates
        self._refused: set[str] = set()
        self._metrics = metrics
        self._positions: dict[str, str] = {}
        self._claim_at_s = 0.0
        self._stopping = asyncio.Event()

    @property
    def owned(self) -> frozenset[str]:
        """Ids of the campaigns that this relay owns now."""
        return frozenset(self._positions)

    async def run(self) -> None:
        """Relay until told to stop; what is on its way is finished first."""
        pause_s = self._settings.retry_initial_s
        while not self._stopping.is_set():
            try:
                await self.run_once()
                pause_s = self._settings.retry_initial_s
            except BackendError as error:
                log.warning("relay: %s; trying again in %.1f s", error, pause_s)
                self._positions.clear()
                self._claim_at_s = 0.0
                await self._pause(pause_s * random.uniform(0.5, 1.5))  # noqa: S311 -- jitter is no secret
                pause_s = min(self._settings.retry_max_s, pause_s * 2)
        await self._publisher.close()

    def stop(self) -> None:
        """Have `run` end after the present round."""
        self._stopping.set()

    async def run_once(self) -> int:
        """Relay what is there, or wait one blocked read for it; returns the orders acknowledged by Kafka.

        Raises:
            BackendError: Redis or Kafka failed; nothing is skipped, the next round begins at the checkpoint.
        """
        if time.monotonic() >= self._claim_at_s:
            await self._claim_all()
        if not self._positions:
            await self._pause(self._settings.block_ms / 1000)
            return 0
        entries = await self._source.read(
            self._positions, entries_max=self._settings.entries_max, block_ms=self._settings.block_ms
        )
        if not entries:
            return 0
        records, orders = self._to_records(entries)
        await self._publisher.publish(records)
        reach("relay.after_produce")
        last = {entry.campaign_id: entry.outbox_id for entry in entries}
        for campaign_id, outbox_id in last.items():
            await self._advance(campaign_id, outbox_id, orders.get(campaign_id, 0))
        return sum(orders.values())

    async def _advance(self, campaign_id: str, outbox_id: str, orders: int) -> None:
        ours, left = await self._source.advance(campaign_id, outbox_id)
        if not ours:
            log.warning("campaign %s has another relay now; this one stands by", campaign_id)
            self._positions.pop(campaign_id, None)
            return
        self._positions[campaign_id] = outbox_id
        self._metrics.relayed(orders)
        self._metrics.waiting(campaign_id, left)

    async def _claim_all(self) -> None:
        """Claim every campaign, and have the gate of one opened: the one that sold last, of those that are closed.

        A campaign whose gate is closed is relayed all the same: what it accepted before is as good as ever.
        """
        campaign_ids = await self._list_campaigns()
        closed = await self._gates.closed(campaign_ids)
        for campaign_id in campaign_ids:
            ours, checkpoint, entries = await self._source.claim(campaign_id, self._settings.owner_ttl_ms)
            self._metrics.waiting(campaign_id, entries)
            if not ours:
                self._positions.pop(campaign_id, None)
            elif campaign_id not in self._positions:
                self._positions[campaign_id] = checkpoint
        pending = [one for one in closed if one in self._positions and one not in self._refused]
        for campaign_id in pending[:1]:
            try:
                await self._gates.open_gate(campaign_id)
            except OperationRefusedError:
                log.exception("campaign %s stays closed until a person has looked; restart the relay then", campaign_id)
                self._refused.add(campaign_id)
        # A campaign that is loaded now is found within one blocked read, and the next closed one at once.
        pause_s = min(self._settings.owner_ttl_ms / 1000 / CLAIMS_PER_TTL, self._settings.block_ms / 1000)
        self._claim_at_s = 0.0 if pending[1:] else time.monotonic() + pause_s

    def _to_records(self, entries: Sequence[Entry]) -> tuple[list[Outgoing], dict[str, int]]:
        """Return the records of entries, and how many orders each campaign has among them."""
        records: list[Outgoing] = []
        orders: dict[str, int] = {}
        for entry in entries:
            try:
                events = decode_entry(entry.campaign_id, entry.outbox_id, entry.fields)
            except PoisonRecordError as error:
                log.error("%s", error)  # noqa: TRY400 -- the message says it all
                self._metrics.poison()
                records.append(_dead(entry, error))
                continue
            orders[entry.campaign_id] = orders.get(entry.campaign_id, 0) + len(events)
            timestamp_ms = parse_outbox_id(entry.outbox_id)[0]
            records += [
                Outgoing(TOPIC_ORDERS_ACCEPTED, event.order_id.encode(), encode_order_accepted(event), timestamp_ms)
                for event in events
            ]
        return records, orders

    async def _pause(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._stopping.wait()
        except TimeoutError:
            return


def _dead(entry: Entry, error: PoisonRecordError) -> Outgoing:
    """Return the dead letter of an entry that cannot be read; its value is the entry, field by field."""
    value = b"\n".join(name + b"=" + content for name, content in entry.fields.items())
    return Outgoing(
        dead_topic(TOPIC_ORDERS_ACCEPTED),
        f"{entry.campaign_id} {entry.outbox_id}".encode(),
        value,
        parse_outbox_id(entry.outbox_id)[0],
        (("reason", b"outbox entry cannot be read"), ("error", str(error).encode())),
    )

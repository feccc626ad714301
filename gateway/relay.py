"""From the outbox to Kafka: may publish twice, may never skip.

The checkpoint moves after Kafka has acknowledged, and only for the owner; the outbox is trimmed below it. What was
published and not checkpointed is published again by whoever comes next, and the consumers' ledger makes that harmless.

Each entry names the one before it. Where that one was never seen, entries have gone from the outbox before they were
relayed: a gap, which is told, and relaying goes on. The orders of a gap are still in their buyers' records, where the
reconciler finds them.
"""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Final, NamedTuple, Protocol

from adapters.tasks import pause
from domain.errors import BackendError, OperationRefusedError, PoisonRecordError
from domain.failpoints import reach
from domain.outbox import START, decode_log, is_gap, parse_outbox_id, previous_id
from domain.settings import RelaySettings
from gateway.draw_records import log_record, won_records
from gateway.order_records import dead_record, order_records
from gateway.outbox_source import Claim, Entry, OutboxSource
from gateway.outgoing import Outgoing

log = logging.getLogger(__name__)

OWNER_NONCE_BYTES: Final = 16
CLAIMS_PER_TTL: Final = 3


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

    def gap(self) -> None:
        """Tell that entries were gone before they were relayed."""


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
        self._gate_turn = 0
        self._metrics = metrics
        self._positions: dict[str, str] = {}
        self._kinds: dict[str, str] = {}
        self._gaps: dict[str, str] = {}
        self._newest: dict[str, str] = {}
        self._claim_at_s = 0.0
        self._owner_until_s = 0.0
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
                self._forget()
                await pause(pause_s * random.uniform(0.5, 1.5), self._stopping)  # noqa: S311 -- jitter is no secret
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
            await pause(self._settings.block_ms / 1000, self._stopping)
            return 0
        entries = await self._source.read(
            self._positions, entries_max=self._settings.entries_max, block_ms=self._settings.block_ms
        )
        if not entries:
            return 0
        if self._is_stale():
            log.warning("relay: it slept for longer than others wait for it; beginning again at the checkpoint")
            self._forget()
            return 0
        self._find_gaps(entries)
        logs, records, orders = self._to_records(entries)
        if logs:
            await self._publisher.publish(logs)
            reach("relay.after_log")
        if records:
            await self._publisher.publish(records)
        reach("relay.after_produce")
        last = {entry.campaign_id: entry.outbox_id for entry in entries}
        for campaign_id, outbox_id in last.items():
            await self._advance(campaign_id, outbox_id, orders.get(campaign_id, 0))
        return sum(orders.values())

    def _is_stale(self) -> bool:
        """Tell whether another relay may have taken over since the last claim.

        What was read may then be relayed already; or Redis may have lost it since, and recovery have opened the gate.
        """
        return time.monotonic() >= self._owner_until_s

    def _forget(self) -> None:
        """Have the next round claim anew, and begin at the checkpoints."""
        self._positions.clear()
        self._claim_at_s = 0.0

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
        owner_until_s = time.monotonic() + self._settings.owner_ttl_ms / 1000
        campaign_ids = await self._list_campaigns()
        closed = await self._gates.closed(campaign_ids)
        for campaign_id in campaign_ids:
            claim = await self._source.claim(campaign_id, self._settings.owner_ttl_ms)
            self._metrics.waiting(campaign_id, claim.entries)
            if not claim.ours or not self._knows_kind(campaign_id, claim):
                self._positions.pop(campaign_id, None)
                continue
            if campaign_id not in closed:
                self._find_loss(campaign_id, claim.newest)
            # What we have read is beyond the checkpoint; or behind it, if somebody else owned the campaign meanwhile.
            position = self._positions.get(campaign_id, START)
            self._positions[campaign_id] = max(position, claim.checkpoint, key=parse_outbox_id)
            await self._find_gap_at_end(campaign_id, claim)
        self._owner_until_s = owner_until_s
        pending = [one for one in closed if one in self._positions and one not in self._refused]
        if pending:
            # One that cannot be opened now holds up neither the others nor what is to be relayed.
            campaign_id = pending[self._gate_turn % len(pending)]
            try:
                await self._gates.open_gate(campaign_id)
                self._gate_turn = 0
            except OperationRefusedError:
                log.exception("campaign %s stays closed until a person has looked; restart the relay then", campaign_id)
                self._refused.add(campaign_id)
            except BackendError as error:
                log.warning("campaign %s stays closed, it is tried again: %s", campaign_id, error)
                self._gate_turn += 1
        # A campaign that is loaded now is found within one blocked read, and the next closed one at once.
        pause_s = min(self._settings.owner_ttl_ms / 1000 / CLAIMS_PER_TTL, self._settings.block_ms / 1000)
        self._claim_at_s = 0.0 if pending[1:] else time.monotonic() + pause_s

    def _knows_kind(self, campaign_id: str, claim: Claim) -> bool:
        """Learn a campaign's kind, which says where its entries go and never changes; tell whether it is known."""
        if claim.kind:
            self._kinds[campaign_id] = claim.kind
        elif campaign_id not in self._kinds:
            log.error("campaign %s: Redis does not say of which kind it is; it is not relayed", campaign_id)
        return campaign_id in self._kinds

    def _find_loss(self, campaign_id: str, newest: str) -> None:
        """Notice that Redis has forgotten entries, and recovery found them nowhere: nobody knows their orders now."""
        known = self._newest.get(campaign_id, START)
        self._newest[campaign_id] = newest
        if is_gap(known, newest):
            log.error("campaign %s: Redis has lost entries after %s, up to %s, for good", campaign_id, newest, known)
            self._metrics.gap()

    async def _find_gap_at_end(self, campaign_id: str, claim: Claim) -> None:
        """Notice that the outbox is empty although not all of it was relayed: no later entry tells of such a gap."""
        if claim.entries == 0 and is_gap(claim.newest, claim.checkpoint):
            self._tell_gap(campaign_id, claim.newest, claim.checkpoint)
            await self._advance(campaign_id, claim.newest, 0)

    def _find_gaps(self, entries: Sequence[Entry]) -> None:
        """Notice entries whose predecessor was neither read nor relayed."""
        positions = dict(self._positions)
        for entry in entries:
            previous = previous_id(entry.fields)
            position = positions.get(entry.campaign_id, START)
            if previous is not None and is_gap(previous, position):
                self._tell_gap(entry.campaign_id, previous, position)
            positions[entry.campaign_id] = entry.outbox_id

    def _tell_gap(self, campaign_id: str, previous: str, position: str) -> None:
        """Tell of a gap; not a second time when the same entries come again."""
        if self._gaps.get(campaign_id) != previous:
            self._gaps[campaign_id] = previous
            log.error(
                "campaign %s: outbox entries after %s, up to %s, are gone and were never relayed; "
                "their orders are in the buyers' records, where reconcile finds them",
                campaign_id,
                position,
                previous,
            )
            self._metrics.gap()

    def _to_records(self, entries: Sequence[Entry]) -> "Records":
        """Return the records of entries."""
        logs: list[Outgoing] = []
        records: list[Outgoing] = []
        orders: dict[str, int] = {}
        for entry in entries:
            kind = self._kinds[entry.campaign_id]
            try:
                draws = decode_log(entry.campaign_id, entry.outbox_id, entry.fields)
                if draws is not None:
                    logs.append(log_record(draws))
                    records += won_records(draws)
                    orders[entry.campaign_id] = orders.get(entry.campaign_id, 0) + len(draws.won())
                    continue
                found = order_records(entry, kind)
            except PoisonRecordError as error:
                log.error("%s", error)  # noqa: TRY400 -- the message says it all
                self._metrics.poison()
                records.append(dead_record(entry, kind, error))
                continue
            orders[entry.campaign_id] = orders.get(entry.campaign_id, 0) + len(found)
            records += found
        return Records(logs, records, orders)


class Records(NamedTuple):
    """What entries come to."""

    logs: list[Outgoing]
    """Of lotteries: they are acknowledged before the others are sent."""
    others: list[Outgoing]
    orders: dict[str, int]
    """Campaign → how many orders it has among them."""

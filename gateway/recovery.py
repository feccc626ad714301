"""Opening the gate after Redis was restarted or replaced.

The scripts admit only connections whose server's run id is the one stored here. So after any restart the gate is
closed until recovery has asked Kafka and MySQL for what is newer than the outbox's last id, and put back what Redis
has lost: orders accepted since, units given back since, units taken anew since. With `appendfsync always` it has lost
nothing, and the gate opens at once.

Loads, top-ups and closes since are put back from the catalog, which has gone on giving units to others: its figure is
the one that counts. There is first made room for the orders, and when they are in, each SKU is brought to that figure,
as far as it is not sold. See `recovery_allocations`. An opened lottery is brought to where its log is instead, see
`draw_recovery`; a top-up whose line is lost is made once more.

What is not put back: that an order is paid, where the order itself was not lost. Its unit is as safe; it only counts
as unpaid, towards `unpaid_per_user`. Nor that a campaign was opened, paused or resumed: nobody else knows.

Runs inside the relay, between two of its rounds, so that nothing of its own is under way to Kafka meanwhile.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final, Protocol

import redis.asyncio as redis

from adapters.campaign_stock import top_up
from adapters.catalog import CatalogCampaign
from adapters.draws import read_log_head
from adapters.holds import reacquire
from adapters.recovery_stock import CampaignStock, Changes, adjust, read_campaign_stock
from adapters.redis import ScriptChannel
from adapters.stock import open_gate, read_fence, restore
from domain.errors import OperationRefusedError, PoisonRecordError
from domain.events import OrderAccepted
from domain.order import digest_of
from domain.outbox import START, parse_outbox_id
from domain.outcomes import ReacquireOutcome
from gateway.recovery_allocations import bring_to_catalog, lost_top_ups, make_room
from gateway.recovery_rules import Loss, StoredOrder, find_loss
from gateway.recovery_sources import Reacquisition

log = logging.getLogger(__name__)

RESTORED_AT_ONCE: Final = 200
SETTLED: Final = frozenset({ReacquireOutcome.TAKEN, ReacquireOutcome.ALREADY_TAKEN, ReacquireOutcome.HOLD_PASSED})


class Sources(Protocol):
    """Who may know more than Redis; see `gateway.recovery_sources`."""

    def events_since(self, campaign_id: str, since_ms: int) -> AsyncIterator[OrderAccepted]:
        """Yield events that Kafka has got since."""

    async def rows_since(self, campaign_id: str, since_ms: int) -> Sequence[StoredOrder]:
        """Return orders that have moved since."""

    async def reacquiring(self, campaign_id: str) -> Sequence[Reacquisition]:
        """Return units that are being taken anew."""

    async def catalog(self, campaign_id: str) -> CatalogCampaign | None:
        """Return what the catalog has of a campaign; None if it does not know it."""

    async def return_again(self, campaign_id: str, since_ms: int) -> None:
        """Have second deductions be given back once more."""


class Lotteries(Protocol):
    """Who restores lotteries; see `gateway.draw_recovery`."""

    async def restore(self, campaign_id: str, since_ms: int, run_id: str) -> int | None:
        """Restore from the log; None if the campaign is no lottery."""


class Recovery:
    """Compares, restores, opens."""

    def __init__(
        self, channel: ScriptChannel, client: "redis.Redis", sources: Sources, lotteries: Lotteries | None = None
    ) -> None:
        """Take the script channel, a client for reads, the sources that may know more than Redis, and for lotteries."""
        self._channel = channel
        self._client = client
        self._sources = sources
        self._lotteries = lotteries

    async def closed(self, campaign_ids: Iterable[str]) -> list[str]:
        """Return the campaigns whose gate is closed, those that sold last first.

        Raises:
            BackendError: Redis is not there.
        """
        run_id = await self._channel.connect()
        fences = {campaign_id: await read_fence(self._client, campaign_id) for campaign_id in campaign_ids}
        found = [campaign_id for campaign_id, (stored, _) in fences.items() if stored not in {None, run_id}]
        return sorted(found, key=lambda campaign_id: parse_outbox_id(fences[campaign_id][1]), reverse=True)

    async def open_gate(self, campaign_id: str) -> int | None:
        """Open a campaign's gate if it is closed; returns the orders restored, or None if it was open.

        Raises:
            BackendError: one of the stores did not answer, or the campaign was loaded meanwhile; the gate stays closed.
            OperationRefusedError: the lost orders do not fit into the stock; the gate stays closed.
        """
        run_id = await self._channel.connect()
        stored, last_outbox_id = await read_fence(self._client, campaign_id)
        if stored in {None, run_id}:
            return None
        since_ms = parse_outbox_id(last_outbox_id)[0]
        # Before the rows: what is finished in between is in the rows then.
        reacquiring = await self._sources.reacquiring(campaign_id)
        drawn = await self._restore_lottery(campaign_id, since_ms, run_id)
        if drawn is not None:
            _, last_outbox_id = await read_fence(self._client, campaign_id)
        loss = await self.find_loss(campaign_id, last_outbox_id, since_ms)
        if drawn is not None and any(order.origin for order in loss.orders):
            raise OperationRefusedError(
                f"campaign {campaign_id!r}: MySQL has prizes that are not in the lottery's log in Kafka; "
                f"the campaign stays closed"
            )
        if drawn is None:
            await self._make_room(campaign_id, {order.sku_id for order in loss.orders}, run_id)
        restored = drawn or 0
        for start in range(0, len(loss.orders), RESTORED_AT_ONCE):
            piece = loss.orders[start : start + RESTORED_AT_ONCE]
            # Only the last piece moves the newest outbox id, so that a recovery that breaks off finds the rest again.
            newest_id = loss.newest_id if start + RESTORED_AT_ONCE >= len(loss.orders) else START
            restored += await restore(self._channel, campaign_id, piece, newest_id, run_id=run_id)
        # Before units are taken anew, which takes what is there.
        await self._bring_to_catalog(campaign_id, run_id)
        for one in reacquiring:
            await self._take_anew(campaign_id, one, run_id)
        await self._sources.return_again(campaign_id, since_ms)
        if drawn is not None:  # at the end, for it moves the newest outbox id, by which a recovery begins
            await self._top_up_again(campaign_id, run_id)
        await open_gate(self._channel, campaign_id, run_id)
        log.warning("campaign %s: Redis was restarted; %d lost orders restored, gate open", campaign_id, restored)
        return restored

    async def find_loss(self, campaign_id: str, last_outbox_id: str, since_ms: int) -> Loss:
        """Return what MySQL and Kafka hold beyond the outbox's last id, and what has moved since then.

        Raises:
            BackendError: one of them did not answer.
        """
        last = parse_outbox_id(last_outbox_id)
        rows = await self._sources.rows_since(campaign_id, since_ms)
        events = [event async for event in self._sources.events_since(campaign_id, since_ms)]
        return find_loss(rows, events, last)

    async def _restore_lottery(self, campaign_id: str, since_ms: int, run_id: str) -> int | None:
        """Bring a lottery to where its log is; returns the draws restored, None if the campaign is no lottery."""
        head = await read_log_head(self._client, campaign_id)
        if self._lotteries is None or head is None:
            return None
        if not head.seq:  # what its log opens with was loaded before
            await self._make_room(campaign_id, set(), run_id)
            await self._bring_to_catalog(campaign_id, run_id)
        return await self._lotteries.restore(campaign_id, since_ms, run_id)

    async def _top_up_again(self, campaign_id: str, run_id: str) -> None:
        """Make the top-ups of an opened lottery once more whose lines are lost."""
        both = await self._look(campaign_id)
        if both is None:
            return
        lost, had = lost_top_ups(*both)
        told = {one.key: f"{one.sku_id} {one.units}" for one in had}
        await adjust(self._channel, campaign_id, Changes(both[1].load_no, top_ups=told), run_id=run_id)
        for one in lost:
            await top_up(self._channel, campaign_id, one.sku_id, one.units, one.key, recovery_run_id=run_id)

    async def _make_room(self, campaign_id: str, needed: set[str], run_id: str) -> None:
        both = await self._look(campaign_id)
        if both is not None:
            await adjust(self._channel, campaign_id, make_room(*both, needed), run_id=run_id)

    async def _bring_to_catalog(self, campaign_id: str, run_id: str) -> None:
        both = await self._look(campaign_id)
        if both is None:
            return
        brought = bring_to_catalog(*both)
        await adjust(self._channel, campaign_id, brought.changes, run_id=run_id)
        for sku_id, units in brought.oversold.items():
            log.error(
                "campaign %s, SKU %s: oversold by %d units, which the catalog has not allocated; take them in and ask "
                "for them in the campaign's file",
                campaign_id,
                sku_id,
                units,
            )

    async def _look(self, campaign_id: str) -> tuple[CatalogCampaign, CampaignStock] | None:
        """Return what the catalog and Redis have of a campaign; None if one of them does not know it.

        Raises:
            BackendError: one of them did not answer.
            OperationRefusedError: it cannot be read; a person has to look.
        """
        try:
            # In this order: a load that Redis had when it was asked is in the catalog.
            here = await read_campaign_stock(self._client, campaign_id)
            catalog = await self._sources.catalog(campaign_id)
        except PoisonRecordError as error:
            raise OperationRefusedError(f"campaign {campaign_id!r} stays closed: {error}") from error
        return None if here is None or catalog is None else (catalog, here)

    async def _take_anew(self, campaign_id: str, one: Reacquisition, run_id: str) -> None:
        """Take units that may have been taken already, by somebody who has not written it down yet.

        If none is left they had not been: Redis holds by now all that it held. Whoever asks for them will be told so.
        """
        outcome = await reacquire(
            self._channel, campaign_id, digest_of(one.order_id), one.user_id, one.hold_no, run_id=run_id
        )
        if outcome in {ReacquireOutcome.UNKNOWN_SKU, ReacquireOutcome.CORRUPT_RECORD}:
            raise OperationRefusedError(
                f"campaign {campaign_id!r}: units of order {one.order_id} cannot be taken anew ({outcome.name}); "
                f"the campaign stays closed"
            )
        if outcome not in SETTLED:
            log.warning("campaign %s: order %s, hold %d: %s", campaign_id, one.order_id, one.hold_no, outcome.name)

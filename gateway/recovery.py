"""Opening the gate after Redis was restarted or replaced.

The scripts admit only connections whose server's run id is the one stored here. So after any restart the gate is
closed until recovery has asked Kafka and MySQL for what is newer than the outbox's last id, and put back what Redis
has lost: orders accepted since, units given back since, units taken anew since. With `appendfsync always` it has lost
nothing, and the gate opens at once.

What is not put back: that an order is paid, where the order itself was not lost. Its unit is as safe; it only counts
as unpaid, towards `unpaid_per_user`.

Runs inside the relay, between two of its rounds, so that nothing of its own is under way to Kafka meanwhile.
"""

import logging
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Final, Protocol

import redis.asyncio as redis

from adapters.holds import reacquire
from adapters.redis import ScriptChannel
from adapters.stock import open_gate, read_fence, restore
from domain.errors import OperationRefusedError
from domain.events import OrderAccepted
from domain.order import digest_of
from domain.outbox import START, parse_outbox_id
from domain.outcomes import ReacquireOutcome
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
            BackendError: one of the three stores did not answer; the gate stays closed.
            OperationRefusedError: the lost orders do not fit into the stock; the gate stays closed.
        """
        run_id = await self._channel.connect()
        stored, last_outbox_id = await read_fence(self._client, campaign_id)
        if stored in {None, run_id}:
            return None
        since_ms = parse_outbox_id(last_outbox_id)[0]
        # Before the rows: what is finished in between is in the rows then.
        reacquiring = await self._sources.reacquiring(campaign_id)
        drawn = await self._lotteries.restore(campaign_id, since_ms, run_id) if self._lotteries is not None else None
        if drawn is not None:
            _, last_outbox_id = await read_fence(self._client, campaign_id)
        loss = await self.find_loss(campaign_id, last_outbox_id, since_ms)
        if drawn is not None and any(order.origin for order in loss.orders):
            raise OperationRefusedError(
                f"campaign {campaign_id!r}: MySQL has prizes that are not in the lottery's log in Kafka; "
                f"the campaign stays closed"
            )
        restored = drawn or 0
        for start in range(0, len(loss.orders), RESTORED_AT_ONCE):
            piece = loss.orders[start : start + RESTORED_AT_ONCE]
            # Only the last piece moves the newest outbox id, so that a recovery that breaks off finds the rest again.
            newest_id = loss.newest_id if start + RESTORED_AT_ONCE >= len(loss.orders) else START
            restored += await restore(self._channel, campaign_id, piece, newest_id, run_id=run_id)
        for one in reacquiring:
            await self._take_anew(campaign_id, one, run_id)
        await self._sources.return_again(campaign_id, since_ms)
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

"""Reads what the gateway, Redis and MySQL have of a load test's campaigns."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Final

import aiohttp

from adapters.mysql import query
from adapters.stock import read_snapshot
from bench.errors import BenchError
from bench.load_books import Books, CampaignBooks, accepted_in, told_orders
from cli.clients import Clients
from cli.load_campaigns import Wanted
from cli.load_target import Target
from consumers.reconcile import reconcile
from gateway.ops import read_token

POLL_S: Final = 0.1
STALLED_S: Final = 30.0
"""MySQL has got no further for so long: what is missing will not come."""
METRICS_WAIT_S: Final = 5.0
"""A worker tells its counts every half second."""
OPS_TIMEOUT_S: Final = 10.0
OPS_READY_TIMEOUT_S: Final = 15.0


async def read_accepted(target: Target) -> int | None:
    """Return how many orders the gateway's workers have accepted so far; None if there is nobody to ask.

    Raises:
        BenchError: the ops plane gives no answer.
    """
    if not target.ops_url:
        return None
    headers = {"Authorization": f"Bearer {read_token(target.settings.ops)}"}
    timeout = aiohttp.ClientTimeout(total=OPS_TIMEOUT_S)
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout, headers=headers) as session,
            session.get(f"{target.ops_url}/metrics") as answer,
        ):
            text = await answer.text()
            if answer.status != 200:
                raise BenchError(f"{target.ops_url}/metrics answers {answer.status}")
    except (aiohttp.ClientError, TimeoutError) as error:
        raise BenchError(f"{target.ops_url}/metrics gives no answer: {error}") from None
    return accepted_in(text)


class Bookkeeper:
    """Holds what a driver was told against the stores, from before a run until after it.

    Args:
        target: what is driven.
        clients: of its stores.
        wanted: the campaigns, one for each aim.
    """

    def __init__(self, target: Target, clients: Clients, wanted: Sequence[Wanted]) -> None:
        self._target = target
        self._clients = clients
        self._wanted = wanted
        self._accepted_before: int | None = None
        self._orders_before: dict[str, int] = {}
        self._units_before: dict[str, int] = {}

    async def begin(self) -> None:
        """Take note of what there is before the run."""
        self._accepted_before = await self._first_accepted()
        self._orders_before, self._units_before = await self._orders(), await self._units()

    async def _first_accepted(self) -> int | None:
        """Return what the gateway has accepted so far; the ops plane may have been started a moment ago."""
        until_s = time.monotonic() + OPS_READY_TIMEOUT_S
        while True:
            try:
                return await read_accepted(self._target)
            except BenchError:
                if time.monotonic() > until_s:
                    raise
            await asyncio.sleep(POLL_S)

    async def close(self, accepted: Mapping[str, int], won: int, *, unknown: int, unsettled: int) -> Books:
        """Wait until MySQL has every order, and return what there is.

        Args:
            accepted: campaign id → requests that were accepted, as the driver was told.
            won: draws with a prize.
            unknown: see `Books`.
            unsettled: see `Books`.
        """
        ended_s = time.monotonic()
        expected = {one.campaign_id: told_orders(one.kind, accepted[one.campaign_id], won) for one in self._wanted}
        orders, moved_s = await self._until_stored(sum(expected.values()))
        report = await reconcile(self._target.settings, sorted(expected))
        drift = {one.campaign_id: one.drift for one in report.campaigns}
        orders, units = await self._orders(), await self._units()
        return Books(
            campaigns=[
                CampaignBooks(
                    campaign_id=one.campaign_id,
                    kind=one.kind,
                    told=accepted[one.campaign_id],
                    told_orders=expected[one.campaign_id],
                    mysql_orders=orders[one.campaign_id] - self._orders_before[one.campaign_id],
                    redis_units=units[one.campaign_id] - self._units_before[one.campaign_id],
                    drift=drift[one.campaign_id],
                )
                for one in self._wanted
            ],
            gateway_accepted=await self._accepted_since(sum(accepted.values())),
            unknown=unknown,
            unsettled=unsettled,
            drain_s=round(max(0.0, moved_s - ended_s), 3),
        )

    async def _until_stored(self, count: int) -> tuple[dict[str, int], float]:
        stored, moved_s = await self._orders(), time.monotonic()
        count += sum(self._orders_before.values())
        while sum(stored.values()) < count and time.monotonic() - moved_s < STALLED_S:
            await asyncio.sleep(POLL_S)
            now = await self._orders()
            if now != stored:
                stored, moved_s = now, time.monotonic()
        return stored, moved_s

    async def _accepted_since(self, count: int) -> int | None:
        before, until_s = self._accepted_before, time.monotonic() + METRICS_WAIT_S
        if before is None:
            return None
        while (now := await read_accepted(self._target)) is not None and now - before < count:
            if time.monotonic() > until_s:
                break
            await asyncio.sleep(POLL_S)
        return None if now is None else now - before

    async def _orders(self) -> dict[str, int]:
        ids = [one.campaign_id for one in self._wanted]
        sql = "SELECT campaign_id, COUNT(*) FROM orders WHERE campaign_id IN %s GROUP BY campaign_id"
        found = {campaign_id: int(count) for campaign_id, count in await query(self._clients.orders, sql, (ids,))}
        return {campaign_id: found.get(campaign_id, 0) for campaign_id in ids}

    async def _units(self) -> dict[str, int]:
        found = {}
        for one in self._wanted:
            snapshot = await read_snapshot(self._clients.client, one.campaign_id)
            stock = snapshot.stock.values() if snapshot else ()
            found[one.campaign_id] = sum(line.taken - line.returned for line in stock)
        return found

"""Measures what an order costs as a campaign grows: with more buyers who hold one already, and with more SKUs.

Every level has a Redis and a gateway worker of its own, all running at once. Each run of a level has a run of the
smallest one next to it, before it in one round and behind it in the next, so that what a machine does meanwhile meets
both.
"""

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

import aiohttp
import msgspec

from adapters.campaign_stock import load_campaign, move_campaign
from adapters.redis import ScriptChannel
from adapters.stock import read_snapshot
from bench import prefill
from bench.cpu import cpu_ns
from bench.drive import Errand
from bench.errors import BenchError
from bench.measure import Driver, check, quiet_units
from bench.sale import Sale
from bench.scale import Cost, Level, LevelCosts, levels
from bench.servers import FLASHGATE, Place, Target, running
from domain import keys
from stack.ports import LOOPBACK

KEEP_FACTOR: Final = 20
"""A campaign with so many times the orders of a round serves the next round, too; a smaller one is made afresh."""
DRIVE_SECONDS_MAX: Final = 60
WARM_UP_ORDERS: Final = 2_000
KNOWN_TIMEOUT_S: Final = 10.0
KNOWN_POLL_S: Final = 0.05
SETTLE_S: Final = 0.6
"""Longer than a worker takes to read again what it knows of a campaign."""
UNLINKED_AT_ONCE: Final = 1_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class ScalePlan:
    """What is measured.

    Attributes:
        buyers_max, skus_max: the largest levels.
        orders: in each round of each level.
        connections: of the driver.
        repeat: rounds.
        prefill_seconds: filling a level up takes no longer; the level is a smaller one then.
    """

    buyers_max: int
    skus_max: int
    orders: int
    connections: int
    repeat: int
    prefill_seconds: float


async def measure_scale(place: Place, driver: Driver, plan: ScalePlan, say: Say) -> list[LevelCosts]:
    """Start every level, fill it, and measure it in alternating rounds.

    Raises:
        BenchError: a server does not start, or a round must not be believed.
    """
    async with contextlib.AsyncExitStack() as opened:
        rigs = []
        for number, level in enumerate(levels(plan.buyers_max, plan.skus_max)):
            own = replace(place, folder=place.folder / f"level-{number}")
            await asyncio.to_thread(own.folder.mkdir)
            target = await opened.enter_async_context(running(FLASHGATE, own, _warm_up_sale(plan)))
            rig = Rig(level, target, plan, driver)
            opened.push_async_callback(rig.close)
            await rig.warm_up()
            rigs.append(rig)
            began_s = time.monotonic()
            buyers = await rig.fill()
            say(f"{level.skus:5,} SKUs, {buyers:9,} buyers with an order, put there in {_since(began_s):.1f} s")
        smallest, *larger = [LevelCosts(level=rig.level, costs=[], beside=[]) for rig in rigs]
        for round_number in range(plan.repeat):
            if not larger:
                smallest.costs.append(await rigs[0].run())
            for found, rig in zip(larger, rigs[1:], strict=True):
                pair = (rigs[0], rig) if round_number % 2 == 0 else (rig, rigs[0])
                costs = {one: await one.run() for one in pair}
                smallest.costs.append(costs[rigs[0]])
                found.beside.append(costs[rigs[0]])
                found.costs.append(costs[rig])
                say(
                    f"round {round_number + 1}/{plan.repeat}  {rig.level.skus:5,} SKUs {rig.level.buyers:9,} buyers  "
                    f"gateway {costs[rig].gateway_us:5.1f} µs  Redis {costs[rig].redis_us:5.1f} µs  "
                    f"together {costs[rig].total_us / costs[rigs[0]].total_us:.3f} of the smallest level's"
                )
        return [smallest, *larger]


def _since(began_s: float) -> float:
    return time.monotonic() - began_s


def _warm_up_sale(plan: ScalePlan) -> Sale:
    return Sale("scale-warm-up", 2 * max(WARM_UP_ORDERS, plan.connections))


class Rig:
    """One level's servers and its present campaign."""

    def __init__(self, level: Level, target: Target, plan: ScalePlan, driver: Driver) -> None:
        """Take a running flashgate with the sale for warming up."""
        assert target.redis is not None  # noqa: S101 -- flashgate has a Redis
        assert target.client is not None  # noqa: S101
        assert target.redis_pid is not None  # noqa: S101
        self.level = level
        self._target = target
        self._client = target.client
        self._redis_pid = target.redis_pid
        self._plan = plan
        self._driver = driver
        self._channel = ScriptChannel(target.redis)
        self._sale = _warm_up_sale(plan)
        self._is_filled = self._is_used = False

    async def warm_up(self) -> None:
        """Place orders in a campaign of their own, which `fill` forgets."""
        errand = self._errand(max(WARM_UP_ORDERS, self._plan.connections))
        self._driver.prepare(errand)
        await self._driver.drive(errand)

    async def fill(self) -> int:
        """Make a fresh campaign with the level's buyers, unless the present one will do; returns how many there are.

        Raises:
            BenchError: an order of theirs was refused, or the gateway does not see the campaign.
        """
        level, plan = self.level, self._plan
        if self._is_filled and (not self._is_used or level.buyers >= KEEP_FACTOR * plan.orders):
            return level.buyers
        await self._forget()
        at_most = level.buyers + (plan.orders + plan.connections) * plan.repeat
        self._sale = sale = Sale(f"scale-{secrets.token_hex(4)}", at_most // level.skus + 1, level.skus)
        campaign = sale.campaign()
        await load_campaign(self._channel, campaign)
        await move_campaign(self._channel, campaign.id, "open")
        ends_s = time.monotonic() + plan.prefill_seconds
        numbers = range(level.buyers)
        done = await prefill.place_orders(self._channel, campaign, "early", numbers, deadline_s=ends_s)
        self.level = msgspec.structs.replace(level, buyers=done)
        await self._until_known()
        self._is_filled, self._is_used = True, False
        return done

    async def run(self) -> Cost:
        """Fill the level up if need be, and measure one round; errors as of `fill` and `measure`."""
        await self.fill()
        return await self.measure()

    async def measure(self) -> Cost:
        """Place the orders of one round.

        Raises:
            BenchError: not all were accepted, or Redis counts differently.
        """
        target, errand = self._target, self._errand(self._plan.orders)
        self._driver.prepare(errand)
        self._is_used = True
        counting = replace(target, units_taken=self._units_taken)
        sold = await quiet_units(counting)
        gateway_ns, redis_ns = cpu_ns(target.pids), cpu_ns((self._redis_pid,))
        driven = await self._driver.drive(errand)
        gateway_ns = cpu_ns(target.pids) - gateway_ns
        redis_ns = cpu_ns((self._redis_pid,)) - redis_ns
        units = await quiet_units(counting) - sold
        check(f"flashgate at {self.level.buyers:,} buyers, {self.level.skus:,} SKUs", driven, units, refusals=False)
        return Cost(
            gateway_us=gateway_ns / driven.answered / 1000,
            redis_us=redis_ns / driven.answered / 1000,
            orders=driven.answered,
        )

    async def close(self) -> None:
        """Close the connection to Redis."""
        await self._channel.close()

    def _errand(self, requests: int) -> Errand:
        return Errand(
            host=LOOPBACK,
            port=self._target.port,
            campaign_id=self._sale.campaign_id,
            sku_ids=self._sale.sku_ids,
            prefix=f"s{secrets.token_hex(4)}",
            requests=requests,
            seconds=DRIVE_SECONDS_MAX,
            connections=self._plan.connections,
        )

    async def _units_taken(self) -> int:
        snapshot = await read_snapshot(self._client, self._sale.campaign_id)
        return sum(line.taken - line.returned for line in snapshot.stock.values()) if snapshot else 0

    async def _until_known(self) -> None:
        """Wait until the worker has read the campaign as it is now."""
        url = f"http://{LOOPBACK}:{self._target.port}/v1/campaigns/{self._sale.campaign_id}"
        try:
            async with aiohttp.ClientSession() as session, asyncio.timeout(KNOWN_TIMEOUT_S):
                while True:
                    async with session.get(url) as answer:
                        if answer.status == 200:
                            break
                    await asyncio.sleep(KNOWN_POLL_S)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise BenchError(f"flashgate: it does not show a campaign that was loaded: {error}") from None
        await asyncio.sleep(SETTLE_S)

    async def _forget(self) -> None:
        """Take the present campaign out of Redis, so that a level's Redis holds its buyers alone."""
        pattern = f"{keys.campaign(self._sale.campaign_id).removesuffix('campaign')}*"
        await self._client.srem(keys.CAMPAIGNS, self._sale.campaign_id)
        names = [name async for name in self._client.scan_iter(match=pattern, count=UNLINKED_AT_ONCE)]
        for start in range(0, len(names), UNLINKED_AT_ONCE):
            await self._client.unlink(*names[start : start + UNLINKED_AT_ONCE])

"""One measurement: a target driven in a closed loop, and what it and its Redis used for it meanwhile."""

import asyncio
import secrets
from typing import Any, Final, NamedTuple, Protocol

import msgspec

from bench.cpu import cpu_s
from bench.drive import Driven, Errand
from bench.errors import BenchError
from bench.sale import Sale
from bench.servers import NGINX, Target
from stack.ports import LOOPBACK

EXPECTED_SHARE_MIN: Final = 0.99
WARM_UP_S: Final = 1
WARM_UP_REQUESTS: Final = 40_000
SPARE_FACTOR: Final = 1.6
"""So many times the tokens that the warm-up's rate would use up."""
REQUESTS_MIN: Final = 2_000
REQUESTS_MAX: Final = 2_000_000
"""So many tokens fit into the memory that wrk's Lua may take."""
OWN_COMMANDS: Final = 1
"""Of the two questions for Redis's counts the first is counted in the second's answer."""
QUIET_POLL_S: Final = 0.05
QUIET_TRIES_MAX: Final = 100


class Driver(Protocol):
    """wrk, or the load driver."""

    def prepare(self, errand: Errand) -> None:
        """Do beforehand what is not to be measured."""

    async def drive(self, errand: Errand) -> Driven:
        """Run the errand."""


class Effort(msgspec.Struct, frozen=True, kw_only=True):
    """How long and how hard a target is driven.

    Attributes:
        seconds: at most.
        requests: at most; 0: as many as fit into the seconds.
        connections: kept alive.
    """

    seconds: int
    requests: int
    connections: int


class Used(NamedTuple):
    """What processes have used so far, or between two readings."""

    gateway_cpu_s: float
    redis_cpu_s: float
    redis_commands: int


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What one run of one target came to.

    Attributes:
        target, scenario: which.
        driven: what the driver saw.
        per_s: answers a second.
        gateway_cpu_us, redis_cpu_us: of each answer.
        redis_commands: of each answer.
        expected_share: answers of the expected kind among all, failures included.
        units_taken: sold meanwhile, as Redis counts.
    """

    target: str
    scenario: str
    driven: Driven
    per_s: float
    gateway_cpu_us: float
    redis_cpu_us: float
    redis_commands: float
    p50_ms: float
    p99_ms: float
    expected_share: float
    units_taken: int


async def read_used(target: Target) -> Used:
    """Return what a target and its Redis have used so far."""
    gateway = cpu_s(target.pids)
    if target.client is None or target.redis_pid is None:
        return Used(gateway, 0.0, 0)
    redis = cpu_s((target.redis_pid,))
    info: dict[str, Any] = await target.client.info("stats")
    return Used(gateway, redis, int(info["total_commands_processed"]))


def used_between(before: Used, after: Used) -> Used:
    """Return what was used between two readings, without the readings themselves."""
    commands = after.redis_commands - before.redis_commands
    return Used(
        after.gateway_cpu_s - before.gateway_cpu_s,
        after.redis_cpu_s - before.redis_cpu_s,
        max(0, commands - OWN_COMMANDS) if after.redis_commands else 0,
    )


def requests_for(effort: Effort, warm_up: Driven) -> int:
    """Return how many tokens to mint, from what the warm-up came to."""
    if effort.requests:
        return effort.requests
    wanted = round(warm_up.per_s * effort.seconds * SPARE_FACTOR)
    return min(REQUESTS_MAX, max(REQUESTS_MIN, effort.connections, wanted))


def expected_share(driven: Driven, *, refusals: bool) -> float:
    """Return the share of answers of the expected kind among all answers and failures."""
    expected = driven.answered - driven.up_to_399 if refusals else driven.up_to_399
    return expected / max(1, driven.answered + driven.errors)


def check(name: str, driven: Driven, units_taken: int, *, refusals: bool) -> None:
    """Hold a run against what Redis says.

    Raises:
        BenchError: it must not be believed: too many answers of another kind, or another number of units sold than of
            orders accepted. Orders that were on their way when the driver stopped may or may not have been.
    """
    if driven.answered == 0:
        raise BenchError(f"{name}: it gave no answer at all")
    share = expected_share(driven, refusals=refusals)
    if share < EXPECTED_SHARE_MIN:
        kind = "refusals" if refusals else "2xx"
        raise BenchError(f"{name}: {share:.1%} {kind}, and {EXPECTED_SHARE_MIN:.0%} are needed for a fair comparison")
    lowest = driven.up_to_399
    highest = driven.up_to_399 + driven.unanswered
    if not lowest <= units_taken <= highest:
        raise BenchError(
            f"{name}: {units_taken:,} units were sold in Redis, and buyers were told of {lowest:,} orders "
            f"({driven.unanswered:,} answers were not waited for)"
        )


async def quiet_units(target: Target) -> int:
    """Wait until nothing is sold any more; returns the units sold so far."""
    last = await target.units_taken()
    for _ in range(QUIET_TRIES_MAX):
        await asyncio.sleep(QUIET_POLL_S)
        now = await target.units_taken()
        if now == last:
            return now
        last = now
    raise BenchError(f"{target.name}: it goes on selling after the driver has stopped")


async def measure(target: Target, sale: Sale, driver: Driver, effort: Effort) -> Measured:
    """Warm a target up, drive it, and return what came of it.

    Raises:
        BenchError: it must not be believed; see `check`.
    """

    def errand(requests: int, seconds: int) -> Errand:
        return Errand(
            host=LOOPBACK,
            port=target.port,
            campaign_id=sale.campaign_id,
            sku_ids=sale.sku_ids,
            prefix=f"b{secrets.token_hex(4)}",
            requests=max(requests, effort.connections),
            seconds=seconds,
            connections=effort.connections,
        )

    warming = errand(min(effort.requests or WARM_UP_REQUESTS, WARM_UP_REQUESTS), WARM_UP_S)
    driver.prepare(warming)
    warm_up = await driver.drive(warming)
    wanted = errand(requests_for(effort, warm_up), effort.seconds)
    driver.prepare(wanted)
    sold = await quiet_units(target)
    before = await read_used(target)
    driven = await driver.drive(wanted)
    used = used_between(before, await read_used(target))
    units = await quiet_units(target) - sold
    refusals = sale.sold_out and target.name != NGINX
    check(target.name, driven, driven.up_to_399 if target.name == NGINX else units, refusals=refusals)
    answers = max(1, driven.answered)
    return Measured(
        target=target.name,
        scenario="sold out" if sale.sold_out else "accepted",
        driven=driven,
        per_s=driven.per_s,
        gateway_cpu_us=used.gateway_cpu_s / answers * 1e6,
        redis_cpu_us=used.redis_cpu_s / answers * 1e6,
        redis_commands=used.redis_commands / answers,
        p50_ms=driven.p50_us / 1000,
        p99_ms=driven.p99_us / 1000,
        expected_share=expected_share(driven, refusals=refusals),
        units_taken=units,
    )

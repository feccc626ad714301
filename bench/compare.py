"""flashgate beside its peers, in one run: the same driver, the same Redis settings, alternating rounds."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from bench.crowd_http import BadAnswerError, parse_response
from bench.drive import body
from bench.errors import BenchError
from bench.figures import ACCEPTED, SOLD_OUT, Figure, Round, figures, ratio, spread
from bench.fsync import FsyncTimes, probe
from bench.load_messages import LoadJob
from bench.load_run import LoadReport, run_load
from bench.measure import REQUESTS_MAX, WARM_UP_S, Driver, Effort, Measured, measure
from bench.memory import Memory, measure_memory
from bench.sale import Sale
from bench.servers import AIOHTTP, FLASHGATE, GO, NGINX, AnswerLine, Place, Target, running
from bench.tokens import Minter
from stack.ports import LOOPBACK

STOCK: Final = 1_000_000
SOLD_OUT_STOCK: Final = 1_000
ANSWERS_PER_S_MAX: Final = 200_000
OFFERED_SHARE: Final = 0.4
"""The offered rate of the latency row, of what the slower of the two can do at most: neither must be at its limit,
and on a small machine the open-loop driver takes more of the cores than wrk does."""
OFFERED_CONNECTIONS: Final = 256
IDLE_CONNECTIONS: Final = 2_000
BUYERS_WITH_ORDER: Final = 50_000
BYTES_PER_MB: Final = 1_000_000
BYTES_PER_KB: Final = 1_000

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is compared.

    Attributes:
        peers: beside flashgate.
        effort: how hard each is driven.
        repeat: rounds.
        offered_seconds: how long each is driven at the offered rate; 0: not at all.
        with_memory: measure memory, too.
        full: measures flashgate with everything behind it; None: not at all.
    """

    peers: tuple[str, ...]
    effort: Effort
    repeat: int
    offered_seconds: float
    with_memory: bool
    full: Callable[[], Awaitable[Measured]] | None


class Offered(msgspec.Struct, frozen=True, kw_only=True):
    """Latency at the same offered rate, one report a round of each target."""

    rate_per_s: float
    seconds: float
    reports: dict[str, list[LoadReport]]
    fsync: FsyncTimes


@dataclass(slots=True)
class Comparison:
    """What a comparison came to."""

    driver: str
    rounds: list[Round] = field(default_factory=list)
    offered: Offered | None = None
    memory: Memory | None = None
    full: Measured | None = None

    @property
    def figures(self) -> list[Figure]:
        """The promised figures."""
        found = figures(self.rounds)
        if self.offered is not None and GO in self.offered.reports:
            found.append(_latency_figure(self.offered))
        if self.memory is not None:
            found += _memory_figures(self.memory)
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        facts: dict[str, Any] = msgspec.to_builtins(
            {
                "driver": self.driver,
                "rounds": [list(one.values()) for one in self.rounds],
                "full": self.full,
                "offered": self.offered,
                "memory": self.memory,
            }
        )
        facts["figures"] = [
            {**msgspec.to_builtins(one), "met": one.met, "stretch_met": one.stretch_met} for one in self.figures
        ]
        return facts


def order_of_runs(peers: Sequence[str], number: int) -> list[tuple[str, str]]:
    """Return (target, scenario) of round `number` (from 0): every second round goes backwards, so that drift cancels.

    In the first round flashgate comes before nginx, which imitates its answer.
    """
    with_redis = [FLASHGATE, *(name for name in (GO, AIOHTTP) if name in peers)]
    sold_out = [FLASHGATE, *([NGINX] if NGINX in peers else []), *with_redis[1:]]
    runs = [*((name, ACCEPTED) for name in with_redis), *((name, SOLD_OUT) for name in sold_out)]
    return runs if number % 2 == 0 else runs[::-1]


def sale_of(scenario: str, orders: float = 0.0) -> Sale:
    """Return a fresh sale for a scenario, with stock for so many orders besides the warm-up's."""
    name = f"bench-{secrets.token_hex(4)}"
    if scenario == SOLD_OUT:
        return Sale(name, SOLD_OUT_STOCK, sold_out=True)
    return Sale(name, max(STOCK, round(2 * orders)))


def orders_at_most(effort: Effort) -> int:
    """Return how many orders a run may place; a bound that no single worker reaches."""
    return effort.requests or min(REQUESTS_MAX, effort.seconds * ANSWERS_PER_S_MAX)


async def compare(place: Place, driver: Driver, minter: Minter, plan: Plan, comparison: Comparison, say: Say) -> None:
    """Measure everything that is planned; what is known so far is in `comparison`.

    Raises:
        BenchError: a target is missing, fails, or must not be believed; its name is in the message.
    """
    like: AnswerLine | None = None
    for number in range(plan.repeat):
        runs: dict[tuple[str, str], Measured] = {}
        comparison.rounds.append(runs)
        for name, scenario in order_of_runs(plan.peers, number):
            sale = sale_of(scenario, orders_at_most(plan.effort))
            async with running(name, place, sale, like=like) as target:
                if like is None and name == FLASHGATE and scenario == SOLD_OUT:
                    like = await look_at_refusal(target, sale, minter)
                run = await measure(target, sale, driver, plan.effort)
            runs[name, scenario] = run
            say(
                f"round {number + 1}/{plan.repeat}  {name:9} {scenario:8}  {run.per_s:9,.0f}/s  "
                f"gateway {run.gateway_cpu_us:6.1f} µs  Redis {run.redis_cpu_us:5.1f} µs  p99 {run.p99_ms:6.1f} ms"
            )
    if plan.offered_seconds:
        comparison.offered = await at_offered_rate(place, plan, comparison.rounds, say)
    if plan.with_memory:
        say("memory: a worker at rest, idle connections, buyers with an order …")
        comparison.memory = await measure_memory(place, connections=IDLE_CONNECTIONS, buyers=BUYERS_WITH_ORDER)
    if plan.full is not None:
        say("flashgate with relay, Kafka, consumer and MySQL behind it …")
        comparison.full = await plan.full()


async def look_at_refusal(target: Target, sale: Sale, minter: Minter) -> AnswerLine:
    """Place one order that is refused, and return the answer.

    Raises:
        BenchError: there was no answer, or no refusal.
    """
    text = body(sale.campaign_id, sale.sku_id)
    token = minter.mint(b"looker").decode()
    request = (
        f"POST /v1/orders HTTP/1.1\r\nHost: {LOOPBACK}\r\nAuthorization: Bearer {token}\r\nIdempotency-Key: look\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n\r\n{text}"
    )
    try:
        async with asyncio.timeout(10):
            reader, writer = await asyncio.open_connection(LOOPBACK, target.port)
            writer.write(request.encode())
            buffer = b""
            while (answer := parse_response(buffer)) is None:
                if not (data := await reader.read(65_536)):
                    raise BenchError(f"{target.name}: closed the connection instead of an answer")
                buffer += data
            writer.close()
    except (OSError, TimeoutError, BadAnswerError) as error:
        raise BenchError(f"{target.name}: no sensible answer to an order: {error}") from None
    if answer.status != 409:
        raise BenchError(f"{target.name}: answered {answer.status} where everything is sold out")
    content_type = answer.headers.get(b"content-type", b"application/json").decode()
    return AnswerLine(status=answer.status, content_type=content_type, body=answer.body.decode())


async def at_offered_rate(place: Place, plan: Plan, rounds: Sequence[Round], say: Say) -> Offered:
    """Offer flashgate and the Go peer the same rate of orders, in alternating rounds."""
    names = [name for name in (FLASHGATE, GO) if name == FLASHGATE or name in plan.peers]
    slower = min(spread([one[name, ACCEPTED].per_s for one in rounds]).median for name in names)
    rate = float(max(1, round(slower * OFFERED_SHARE, -2)))
    reports: dict[str, list[LoadReport]] = {name: [] for name in names}
    fsync = await asyncio.to_thread(probe, place.folder)
    for number in range(plan.repeat):
        for name in names if number % 2 == 0 else names[::-1]:
            sale = sale_of(ACCEPTED, rate * (plan.offered_seconds + WARM_UP_S))
            async with running(name, place, sale) as target:
                job = offered_job(place, target, sale, rate, plan.offered_seconds)
                warming = msgspec.structs.replace(job, prefix=f"w{secrets.token_hex(4)}", seconds=float(WARM_UP_S))
                await run_load(warming, 1, place.folder / "load.log")
                report, _ = await run_load(job, 1, place.folder / "load.log")
            _check_offered(name, report)
            reports[name].append(report)
            say(f"offered {rate:,.0f}/s  {name:9}  p50 {report.p50_ms:.2f} ms  p99 {report.p99_ms:.2f} ms")
    return Offered(rate_per_s=rate, seconds=plan.offered_seconds, reports=reports, fsync=fsync)


def offered_job(place: Place, target: Target, sale: Sale, rate_per_s: float, seconds: float) -> LoadJob:
    """Return the open loop's job against a target."""
    return LoadJob(
        mode="open",
        host=LOOPBACK,
        port=target.port,
        campaign_id=sale.campaign_id,
        sku_ids=sale.sku_ids,
        key_file=str(place.key_file),
        audience=place.audience,
        prefix=f"o{secrets.token_hex(4)}",
        connections=OFFERED_CONNECTIONS,
        seconds=seconds,
        rate_per_s=rate_per_s,
    )


def _check_offered(name: str, report: LoadReport) -> None:
    accepted = report.statuses.get(202, 0)
    if accepted < 0.99 * report.sent:
        raise BenchError(f"{name}: {accepted:,} of {report.sent:,} orders at the offered rate were accepted, not 99%")


def _latency_figure(offered: Offered) -> Figure:
    ours, theirs = offered.reports[FLASHGATE], offered.reports[GO]
    strained = any(report.bottlenecks for report in (*ours, *theirs))
    note = f"at {offered.rate_per_s:,.0f} orders/s; fsync alone: p50 {offered.fsync.p50_ms:.2f} ms, "
    note += f"p99 {offered.fsync.p99_ms:.2f} ms"
    return Figure(
        name="p99 of durable answers, against Go at the same offered rate",
        value=spread([ratio(a.p99_ms, b.p99_ms) for a, b in zip(ours, theirs, strict=True)]),
        bound=1.5,
        stretch=1.0,
        note=note + ("; the driver itself was a bottleneck" if strained else ""),
    )


def _memory_figures(memory: Memory) -> list[Figure]:
    def one(value: float) -> Any:  # noqa: ANN401
        return spread([value])

    return [
        Figure(
            name="memory of a worker at rest", value=one(memory.worker_rest_bytes / BYTES_PER_MB), unit="MB", bound=90
        ),
        Figure(
            name="memory of each idle connection",
            value=one(memory.connection_bytes / BYTES_PER_KB),
            unit="KB",
            bound=12,
            note=f"of {memory.connections:,}",
        ),
        Figure(
            name="Redis memory of a buyer with one order",
            value=one(memory.buyer_bytes),
            unit="B",
            bound=400,
            note=f"of {memory.buyers:,}",
        ),
    ]

"""What a sweep has measured, as `capacity.json` keeps it. Pure."""

from typing import Any, Final

import msgspec

from bench.errors import BenchError

FORMAT: Final = 1
GATEWAY: Final = "gateway"
REDIS: Final = "redis-server"
RELAY: Final = "relay"
KAFKA: Final = "Kafka"
CONSUMER: Final = "consumer orders"
MYSQL: Final = "MySQL"
DRIVER: Final = "driver"
PARTS: Final = (GATEWAY, REDIS, RELAY, KAFKA, CONSUMER, MYSQL)
"""What an order needs: more of them are told for a larger crowd. Others (lifecycle, say) are measured, too."""

IN_STEP_SHARE: Final = 0.98
"""Answers a second, of the requests offered: less is no steady state."""

_SERVERS: Final = {"redis": REDIS, "kafka": KAFKA, "mariadb": MYSQL}


class Idle(msgspec.Struct, frozen=True, kw_only=True):
    """What the processes use while nobody asks for anything: process → CPU seconds in so many seconds."""

    workers: int
    window_s: float
    cpu_s: dict[str, float]


class Rung(msgspec.Struct, frozen=True, kw_only=True):
    """One rung of the ladder: a closed loop, all of it accepted orders. Concurrency is the number of connections.

    Attributes:
        workers: gateway workers.
        connections: each has one request under way at any time.
        seconds: how long.
        answered: requests.
        per_s: answers a second.
        p50_ms, p99_ms: from the time a request was sent.
        drain_s: from its end until MySQL had every order.
        accepted, batches, window_s, cpu_s: see `Point`; without the driver.
    """

    workers: int
    connections: int
    seconds: float
    answered: int
    per_s: float
    p50_ms: float
    p99_ms: float
    drain_s: float
    accepted: int
    batches: int
    window_s: float
    cpu_s: dict[str, float]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One open loop: so many requests a second, whatever becomes of them.

    Attributes:
        workers: gateway workers.
        offered_per_s: requests that were due a second.
        refused_share: this share of them wanted a SKU that was sold out.
        seconds: from the first request to the last answer.
        offered, sent, answered, late, dropped, errors, unanswered: requests, see `bench.load_messages.LoadResult`.
        accepted: orders that Redis has sold, which is how many were answered 202.
        refused: HTTP status → answers that were no 202.
        achieved_per_s: answers a second.
        p50_ms to max_ms: from the time a request was due.
        percentiles: (percentile, ms) for the plot.
        batches: script calls that accepted orders.
        load_s, window_s: how long the load, and the load with its drain, were watched.
        load_cpu_s, cpu_s: process (`gateway 1`, `redis`, …, `driver`) → CPU seconds in that time.
        backlog: (seconds, orders accepted that MySQL has not) as it was seen during the load.
        backlog_max: the most of it.
        drain_s: from the last answer until MySQL had every order.
        bottlenecks: why the driver itself was the bottleneck; empty if it was not.
    """

    workers: int
    offered_per_s: float
    refused_share: float
    seconds: float
    offered: int
    sent: int
    answered: int
    late: int
    dropped: int
    errors: int
    unanswered: int
    accepted: int
    refused: dict[int, int]
    achieved_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    percentiles: list[tuple[float, float]]
    batches: int
    load_s: float
    window_s: float
    load_cpu_s: dict[str, float]
    cpu_s: dict[str, float]
    backlog: list[tuple[float, int]]
    backlog_max: int
    drain_s: float
    bottlenecks: list[str]

    @property
    def failed(self) -> int:
        """Requests that got no answer that makes sense."""
        return self.dropped + self.errors + self.unanswered

    @property
    def in_step(self) -> bool:
        """Whether answers kept in step with what was offered."""
        return self.achieved_per_s >= IN_STEP_SHARE * self.offered_per_s

    @property
    def refusals(self) -> int:
        """Answers that were no 202, whatever they said."""
        return self.answered - self.accepted


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """All orders of a sweep, held against each other at its end.

    Attributes:
        answered_202: as the driver has counted them.
        redis_taken: units that Redis has sold.
        kafka_distinct: order ids in Kafka.
        mysql_rows: orders in MySQL.
        mysql_sold: units that MySQL has sold.
        in_flight: orders on their way.
        drift: orders missing or too many, and counters that are wrong.
    """

    answered_202: int
    redis_taken: int
    kafka_distinct: int
    mysql_rows: int
    mysql_sold: int
    in_flight: int
    drift: int

    @property
    def holds(self) -> bool:
        """Whether every store says the same as every other."""
        same = {self.answered_202, self.redis_taken, self.kafka_distinct, self.mysql_rows, self.mysql_sold}
        return len(same) == 1 and self.in_flight == 0 and self.drift == 0


class Sweep(msgspec.Struct, frozen=True, kw_only=True):
    """One sweep.

    Attributes:
        format: of this file.
        seconds: that it took.
        idle, rungs, points: measured.
        proof: that no order was lost or doubled.
        environment: see `bench.environment`.
    """

    format: int
    seconds: float
    idle: list[Idle]
    rungs: list[Rung]
    points: list[Point]
    proof: Proof
    environment: dict[str, Any]

    @property
    def commit(self) -> str:
        """The commit that was measured; empty if nobody knows."""
        return str(self.environment.get("git", {}).get("commit", ""))

    @property
    def cores(self) -> int:
        """Cores of the machine."""
        return int(self.environment.get("machine", {}).get("cores") or 1)

    @property
    def machine(self) -> str:
        """The machine's processor."""
        return str(self.environment.get("machine", {}).get("cpu", "unknown"))

    @property
    def workers(self) -> list[int]:
        """Worker counts that were measured."""
        return sorted({one.workers for one in self.points})


def component(child: str) -> str:
    """Return the component that a child process of the supervisor is: workers and copies count together."""
    name, _, number = child.rpartition(" ")
    return _SERVERS.get(child) or (name if number.isdigit() else child)


def read_sweep(data: bytes, name: str) -> Sweep:
    """Return what a `capacity.json` says.

    Raises:
        BenchError: it is none, of another format, or empty.
    """
    try:
        sweep = msgspec.json.decode(data, type=Sweep)
    except msgspec.MsgspecError as error:
        raise BenchError(f"{name}: not the file of a sweep: {error}") from None
    if sweep.format != FORMAT:
        raise BenchError(f"{name}: format {sweep.format}; this flashgate reads {FORMAT}: measure again")
    if not sweep.points or not any(one.answered for one in sweep.points):
        raise BenchError(f"{name}: an empty run: it has no point that was answered; run `flashgate bench sweep` again")
    return sweep


def merge_sweeps(sweeps: dict[str, Sweep]) -> Sweep:
    """Return several runs as one, for one report.

    Raises:
        BenchError: none, or runs of different versions or machines: their figures do not go together.
    """
    if not sweeps:
        raise BenchError("no run was given")
    versions = {name: one.commit[:12] or "unknown" for name, one in sweeps.items()}
    machines = {name: f"{one.machine} x {one.cores}" for name, one in sweeps.items()}
    for what, found in (("versions", versions), ("machines", machines)):
        if len(set(found.values())) > 1:
            told = ", ".join(f"{name}: {value}" for name, value in found.items())
            raise BenchError(f"runs of different {what} cannot be one report ({told}); compare two with --compare A B")
    runs = list(sweeps.values())
    proofs = [msgspec.structs.asdict(one.proof) for one in runs]
    return msgspec.structs.replace(
        runs[0],
        seconds=sum(one.seconds for one in runs),
        idle=[idle for one in runs for idle in one.idle],
        rungs=[rung for one in runs for rung in one.rungs],
        points=[point for one in runs for point in one.points],
        proof=Proof(**{key: sum(proof[key] for proof in proofs) for key in proofs[0]}),
    )

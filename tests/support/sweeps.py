"""Sweeps made up from known costs and a known law, so that what is found in them can be held against what is there."""

from collections.abc import Sequence

from bench.capacity_facts import FORMAT, Idle, Point, Proof, Rung, Sweep
from bench.usl import Law

LAW = Law(lambda_=600.0, sigma=0.02, kappa=2e-5)
"""Of every ladder."""
BEST_PER_S = 10_000.0
"""More than this is not answered in time."""
WORK_US = {
    "gateway": (30.0, 25.0, 200.0),
    "redis": (6.0, 0.0, 150.0),
    "relay": (10.0, 0.0, 50.0),
    "kafka": (12.0, 0.0, 80.0),
    "consumer orders": (28.0, 0.0, 0.0),
    "mariadb": (40.0, 0.0, 0.0),
    "lifecycle": (0.0, 0.0, 0.0),
}
"""Process → CPU microseconds of an accepted order, of a refusal, of a script call."""
REST_SHARE = 0.01
DRIVER_US = 10.0
PERCENTILES = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.99, 100.0)
ENVIRONMENT = {
    "at": "2026-11-01T10:00:00+00:00",
    "machine": {"cpu": "Test CPU", "cores": 4, "memory_bytes": 8 << 30, "kernel": "6.1", "load_1m": 0.5},
    "versions": {"python": "3.11", "redis": "7.0"},
    "git": {"commit": "a" * 40, "changed_files": 0},
}


def cpu_s(workers: int, seconds: float, accepted: float, refused: float, calls: float) -> dict[str, float]:
    """Return what the processes would have used."""
    found: dict[str, float] = {}
    for name, (accepted_us, refused_us, call_us) in WORK_US.items():
        used = (accepted * accepted_us + refused * refused_us + calls * call_us) / 1e6
        if name == "gateway":
            found |= {f"gateway {at + 1}": used / workers + REST_SHARE * seconds for at in range(workers)}
        else:
            found[name] = used + REST_SHARE * seconds
    return found


def rung(workers: int, connections: int, law: Law = LAW) -> Rung:
    """Return a rung of a ladder."""
    per_s = law.at(connections)
    accepted, calls = round(per_s * 2), round(per_s * 2 / max(1.0, connections / 4))
    return Rung(
        workers=workers,
        connections=connections,
        seconds=2.0,
        answered=accepted,
        per_s=per_s,
        p50_ms=2.0,
        p99_ms=5.0,
        drain_s=0.3,
        accepted=accepted,
        batches=calls,
        window_s=2.5,
        cpu_s=cpu_s(workers, 2.5, accepted, 0, calls),
    )


def point(workers: int, rate_per_s: float, refused_share: float = 0.0, *, best_per_s: float = BEST_PER_S) -> Point:
    """Return an open loop of five seconds; what is beyond `best_per_s` is late."""
    offered, kept = round(rate_per_s * 5), rate_per_s <= best_per_s
    seconds = 5.0 if kept else 5.0 * rate_per_s / best_per_s
    refused = round(offered * refused_share)
    accepted, calls = offered - refused, round((offered - refused) / max(1.0, rate_per_s / 300))
    busy = min(0.95, rate_per_s / best_per_s * 0.8)
    p99_ms = 4.0 / (1 - busy) if kept else 900.0
    percentiles = [(at, round(p99_ms * (0.2 + 0.8 * (at / 99.0) ** 4), 3)) for at in PERCENTILES]
    cpu = {name: round(value, 6) for name, value in cpu_s(workers, seconds + 1, accepted, refused, calls).items()}
    cpu["driver"] = offered * DRIVER_US / 1e6
    return Point(
        workers=workers,
        offered_per_s=rate_per_s,
        refused_share=refused_share,
        seconds=seconds,
        offered=offered,
        sent=offered,
        answered=offered,
        late=0,
        dropped=0,
        errors=0,
        unanswered=0,
        accepted=accepted,
        refused={409: refused} if refused else {},
        achieved_per_s=offered / seconds,
        p50_ms=percentiles[3][1],
        p90_ms=percentiles[5][1],
        p99_ms=percentiles[8][1],
        p99_9_ms=percentiles[10][1],
        max_ms=percentiles[12][1],
        percentiles=percentiles,
        batches=calls,
        load_s=seconds + 0.5,
        window_s=seconds + 1,
        load_cpu_s=cpu,
        cpu_s=cpu,
        backlog=[(0.0, 0), (1.0, 200), (2.0, 300)],
        backlog_max=300,
        drain_s=0.4,
        bottlenecks=[] if kept else ["it noticed 5.0% of the requests late: it had too little CPU time"],
    )


def sweep(
    *,
    workers: Sequence[int] = (1, 2),
    rates: Sequence[float] = (2_000, 4_000, 6_000, 8_000, 12_000),
    ladder: Sequence[int] = (1, 4, 16, 48, 96, 160, 256, 384),
    commit: str = "a" * 40,
) -> Sweep:
    """Return a sweep; with the defaults 8,000 orders a second are sustained by one worker as by two."""
    points = [point(count, rate) for count in workers for rate in rates]
    points += [point(count, rate, share) for count in workers for rate, share in ((4_000, 0.5), (6_000, 0.9))]
    rungs = [rung(count, connections) for count in workers for connections in ladder]
    orders = sum(one.accepted for one in points) + sum(one.accepted for one in rungs)
    return Sweep(
        format=FORMAT,
        seconds=100.0,
        idle=[Idle(workers=count, window_s=3.0, cpu_s=cpu_s(count, 3.0, 0, 0, 0)) for count in workers],
        rungs=rungs,
        points=points,
        proof=Proof(
            answered_202=orders,
            redis_taken=orders,
            kafka_distinct=orders,
            mysql_rows=orders,
            mysql_sold=orders,
            in_flight=0,
            drift=0,
        ),
        environment=ENVIRONMENT | {"git": {"commit": commit, "changed_files": 0}},
    )

"""`flashgate bench simulate --validate`: a prediction, held against a measurement that it does not know."""

import math
import statistics
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import msgspec

from bench.capacity_facts import Point, Proof, Sweep
from bench.environment import environment
from bench.errors import BenchError
from bench.simulate import simulate
from bench.simulate_fit import (
    P99_BOUND,
    THROUGHPUT_BOUND,
    Checked,
    calibrated,
    calm_points,
    driven_in_time,
    held_out,
    model_of,
    neighbours,
)
from bench.simulate_machine import Others
from bench.simulate_result import Outcome
from bench.sweep import median_by_p99
from cli.bench_run import Run
from cli.bench_simulate_view import show_checked
from cli.bench_sweep_rig import FIRST_WARM_UP_S, open_rig, told
from domain.settings import Settings

EXIT_OUTSIDE: Final = 1
CONNECTIONS: Final = 256
OTHERS_MAX_CORES: Final = 0.25
"""A measurement during which other processes used more is told, and not counted; nor is one with a late driver."""
REFUSED_SHARE: Final = 0.9
"""Of the loads with refusals: a sale that sells out has hardly any, and then nothing else."""
COUNTED_PART: Final = 0.5
"""So many of the measurements of each load must count."""


class Holdout(NamedTuple):
    """What is measured.

    Attributes:
        run: name of the sweep.
        rate_per_s: offered; 0: one between two of the sweep's.
        repeat: rounds; in each, every load is measured once, and of each load the median is taken.
        seconds: each measurement lasts.
        sold_after: stock is enough for this share of the requests.
        warm_up_s: before the first.
        others_max_cores: a measurement is not counted if other processes used more, or the driver was late.
    """

    run: str
    rate_per_s: float
    repeat: int
    seconds: float
    sold_after: float
    warm_up_s: float = FIRST_WARM_UP_S
    others_max_cores: float = OTHERS_MAX_CORES


class Load(NamedTuple):
    """A load of a round; without `units` there is enough for all."""

    rate_per_s: float
    refused_share: float = 0.0
    units: int | None = None


async def validate(run: Run, sweep: Sweep, wanted: Holdout) -> dict[str, Any]:
    """Predict, measure, and return both; leaves them in the run's folder.

    What things cost is the sweep's. How long answers take on a machine that others share changes from one minute to
    the next, so the two rates next to the predicted one, with and without refusals, are measured in the same rounds
    as it is; the prediction is made from those alone.

    Raises:
        FlashgateError: the sweep tells too little, or a measurement failed or was disturbed.
    """
    workers, rate_per_s = held_out(sweep, wanted.rate_per_s)
    stock = max(1, round(math.ceil(rate_per_s * wanted.seconds) * wanted.sold_after))
    model = model_of(sweep, workers=workers, rate_per_s=rate_per_s, seconds=wanted.seconds, stock=stock)
    below, above = neighbours(sweep, workers, rate_per_s)
    judged = Load(rate_per_s, units=stock)
    loads = [Load(below), judged, Load(above), Load(below, REFUSED_SHARE), Load(above, REFUSED_SHARE)]
    run.say(
        f"held out: {rate_per_s:,.0f} requests/s, {stock:,} units, {workers} gateway workers; {wanted.repeat} "
        f"rounds of {len(loads)} loads, {wanted.seconds:g} s each"
    )
    made, disturbed, proof, settings = await _rounds(run, loads, wanted, workers, model.fleet.drivers)
    measured = made.pop(judged)
    today = [median_by_p99(points) for points in made.values()]
    predicted = simulate(calibrated(model, calm_points(model, today)))
    checked = compare(predicted, measured)
    show_checked(run.console, checked)
    spread = {f"{load.rate_per_s:,.0f}/s, {load.refused_share:.0%} refused": _p99s(made[load]) for load in made}
    for name, p99s in {"held out": _p99s(measured), **spread}.items():
        run.say(f"p99 of {len(p99s)} times {name}: {p99s[0]:.1f} to {p99s[-1]:.1f} ms")
    kept = all(one.kept for one in checked)
    run.say("the model holds here" if kept else "the model is off by more than it may be")
    same = (await environment(settings, options={}))["git"]["commit"] == sweep.commit
    if not same:
        run.say("this is another version than the sweep's: what differs may be the version, not the model")
    facts: dict[str, Any] = {
        "sweep": wanted.run,
        "workers": workers,
        "rate_per_s": rate_per_s,
        "stock": stock,
        "seconds": wanted.seconds,
        "kept": kept,
        "same_version": same,
        "checked": [{**msgspec.to_builtins(one), "error": one.error, "kept": one.kept} for one in checked],
        "predicted": msgspec.to_builtins(predicted),
        "calibration": _plain([one for points in made.values() for one in points]),
        "measured": _plain(measured),
        "disturbed": _plain(disturbed),
        "proof": msgspec.to_builtins(proof),
    }
    await run.write("simulate", facts, settings, {"run": wanted.run, "repeat": wanted.repeat})
    return facts


async def _rounds(
    run: Run, loads: Sequence[Load], wanted: Holdout, workers: int, processes: int
) -> tuple[dict[Load, list[Point]], list[Point], Proof, Settings]:
    """Measure all loads by turns; returns what counts of each, what was disturbed, the books, and the settings."""
    made: dict[Load, list[Point]] = {load: [] for load in loads}
    disturbed: list[Point] = []
    async with open_rig(run.place, run.say) as rig, rig.measurer(workers, processes) as (measurer, check):
        await measurer.warm_up(wanted.warm_up_s)
        for number in range(wanted.repeat):
            run.say(f"round {number + 1} of {wanted.repeat}")
            for load in loads:
                others = Others()
                point = await measurer.point(
                    load.rate_per_s,
                    load.refused_share,
                    seconds=wanted.seconds,
                    connections=CONNECTIONS,
                    units=load.units,
                )
                cores = others.cores(sum(point.cpu_s.values()))
                others_busy = cores > wanted.others_max_cores
                counts = driven_in_time(point) and not others_busy
                (made[load] if counts else disturbed).append(point)
                why = f"others used {cores:.2f} cores" if others_busy else "the driver was late"
                run.say(told(point) + ("" if counts else f"; not counted: {why}"))
                check()
        proof = await rig.prove(measurer.campaign_ids, measurer.answered_202)
    if min(len(points) for points in made.values()) < COUNTED_PART * wanted.repeat:
        raise BenchError(
            f"other processes were busy or the driver was late during {len(disturbed)} of {len(loads) * wanted.repeat} "
            "measurements: validate on a quieter machine, or at a lower --rate"
        )
    return made, disturbed, proof, rig.settings


def _p99s(points: Sequence[Point]) -> list[float]:
    return sorted(one.p99_ms for one in points)


def _plain(points: Sequence[Point]) -> list[Any]:
    return [msgspec.to_builtins(one, str_keys=True) for one in points]


def compare(predicted: Outcome, measured: list[Point]) -> list[Checked]:
    """Hold a prediction against the median of measurements; throughput and p99 are judged, the rest is told."""

    def median(name: str) -> float:
        return float(statistics.median(getattr(one, name) for one in measured))

    return [
        Checked(
            name="answers/s",
            predicted=predicted.achieved_per_s,
            measured=median("achieved_per_s"),
            bound=THROUGHPUT_BOUND,
        ),
        Checked(name="p99 ms", predicted=predicted.p99_ms, measured=median("p99_ms"), bound=P99_BOUND),
        Checked(name="p50 ms", predicted=predicted.p50_ms, measured=median("p50_ms")),
        Checked(name="accepted orders", predicted=predicted.accepted, measured=median("accepted")),
        Checked(name="refused", predicted=sum(predicted.refusals.values()), measured=median("refusals")),
    ]

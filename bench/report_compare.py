"""Two sweeps side by side, as one page: what changed, and by how much. Pure."""

import math
from collections.abc import Callable
from typing import Final

from bench.capacity_costs import measured_costs
from bench.capacity_facts import PARTS, Sweep
from bench.capacity_plan import Plan
from bench.errors import BenchError
from bench.report_page import Cell, Number, charts, figure, heading, number, page, paragraph, table
from bench.report_svg import Chart, Series, draw

SIDES: Final = ("A", "B")
NOISE: Final = 0.1
"""Less than this is no change on a shared machine."""


def build_comparison(
    sweeps: tuple[Sweep, Sweep], plans: tuple[Plan | None, Plan | None], names: tuple[str, str]
) -> str:
    """Return the page.

    Args:
        sweeps: A and B; they may be of different versions or machines, which is said.
        plans: what they recommend; None: nothing can be, and the figures stand without.
        names: of the runs.
    """
    return page(
        f"flashgate capacity: {names[0]} and {names[1]}",
        [
            "<h1>flashgate: two runs side by side</h1>",
            *_lead(plans),
            heading("What was measured"),
            table("runs", "The runs", ("what", *SIDES), _about(sweeps, names)),
            *_different(sweeps),
            heading("What changed"),
            table(
                "changes",
                f"B against A; less than {NOISE:.0%} is no change on a shared machine",
                ("what", *SIDES, "B / A"),
                _changes(sweeps, plans),
            ),
            heading("Charts"),
            charts(_charts(sweeps)),
        ],
    )


def _lead(plans: tuple[Plan | None, Plan | None]) -> list[str]:
    found = []
    for side, plan in zip(SIDES, plans, strict=True):
        text = plan.sentence if plan is not None else "no recommendation follows from this run alone."
        found.append(paragraph(f"{side}: {text}", "lead"))
        found += [paragraph(f"{side}: {line}", "warn") for line in (plan.warnings if plan is not None else [])]
    return found


def _about(sweeps: tuple[Sweep, Sweep], names: tuple[str, str]) -> list[list[Cell]]:
    says: dict[str, Callable[[Sweep], str]] = {
        "commit": lambda one: one.commit or "unknown",
        "measured at": lambda one: str(one.environment.get("at", "unknown")),
        "machine": lambda one: f"{one.machine}, {one.cores} cores",
        "load average": lambda one: f"{float(one.environment.get('machine', {}).get('load_1m', 0) or 0):.1f}",
        "gateway workers": lambda one: ", ".join(map(str, one.workers)),
        "orders": lambda one: f"{one.proof.mysql_rows:,}",
        "drift": lambda one: str(one.proof.drift),
    }
    rows: list[list[Cell]] = [["run", *names]]
    for what, say in says.items():
        rows.append([what, say(sweeps[0]), say(sweeps[1])])
    return rows


def _different(sweeps: tuple[Sweep, Sweep]) -> list[str]:
    a, b = sweeps
    found = []
    if (a.machine, a.cores) != (b.machine, b.cores):
        found.append(paragraph("The runs are of different machines: their ratios say nothing of the versions.", "warn"))
    if a.commit != b.commit:
        found.append(paragraph("The runs are of different versions.", "note"))
    return found


def _changes(sweeps: tuple[Sweep, Sweep], plans: tuple[Plan | None, Plan | None]) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    a, b = plans
    if a is not None and b is not None:
        rows.append(_row("sustained orders / s", a.sustained.offered_per_s, b.sustained.offered_per_s))
        rows.append(_row("p99 there, ms", a.sustained.p99_ms, b.sustained.p99_ms, 1))
        rows.append(_row("drain there, s", a.sustained.drain_s, b.sustained.drain_s, 2))
    both = sorted(set(sweeps[0].workers) & set(sweeps[1].workers))
    for workers in both:
        best = [max((one.per_s for one in sweep.rungs if one.workers == workers), default=0.0) for sweep in sweeps]
        rows.append(_row(f"best of a closed loop, {workers} worker{'s' * (workers > 1)}, orders / s", best[0], best[1]))
    try:
        costs = [measured_costs(sweep) for sweep in sweeps]
    except BenchError:
        return rows
    for name in PARTS:
        each = [one.accepted_us(name) for one in costs]
        rows.append(_row(f"{name}, an accepted order, CPU µs", each[0], each[1], 1))
    refused = [one.of(PARTS[0]).refused_us for one in costs]
    rows.append(_row(f"{PARTS[0]}, a refusal, CPU µs", refused[0], refused[1], 1))
    return rows


def _row(what: str, a: float, b: float, digits: int = 0) -> list[Cell]:
    ratio = b / a if a > 0 else math.inf
    mark = "" if not math.isfinite(ratio) or abs(ratio - 1) < NOISE else (" up" if ratio > 1 else " down")
    text = f"{ratio:.2f}{mark}" if math.isfinite(ratio) else "-"
    return [what, number(a, digits), number(b, digits), Number(ratio, text)]


def _charts(sweeps: tuple[Sweep, Sweep]) -> list[str]:
    alone = [
        sorted(
            (one for one in sweep.points if one.refused_share == 0), key=lambda one: (one.workers, one.offered_per_s)
        )
        for sweep in sweeps
    ]
    lines = [
        (f"{side}, {workers} worker{'s' * (workers > 1)}", [one for one in points if one.workers == workers])
        for side, points, sweep in zip(SIDES, alone, sweeps, strict=True)
        for workers in sweep.workers
    ]
    lines = [(name, points) for name, points in lines if points]
    if not lines:
        return []
    latency = Chart(
        "p99 against load, both runs",
        "p99 from the time each request was due, over offered rate.",
        "orders offered / s",
        "ms (log)",
        [Series(name, [(one.offered_per_s, one.p99_ms) for one in points]) for name, points in lines],
        log_y=True,
    )
    achieved = Chart(
        "Offered against achieved, both runs",
        "Answers a second over requests offered a second.",
        "orders offered / s",
        "answered / s",
        [Series(name, [(one.offered_per_s, one.achieved_per_s) for one in points]) for name, points in lines],
    )
    return [figure("Offered against achieved", draw(achieved, 1)), figure("p99 against load", draw(latency, 2))]

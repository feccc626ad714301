"""The capacity report: a sweep and what follows from it, as one page. Pure."""

import math
from collections.abc import Sequence
from typing import Final

from bench.capacity_costs import PartCost, cpu_of
from bench.capacity_facts import DRIVER, PARTS, Point, Sweep
from bench.capacity_plan import Plan
from bench.report_page import Cell, Number, charts, figure, heading, number, page, paragraph, table
from bench.report_plan import environment_section, machines_section, proof_section
from bench.report_svg import Chart, Series, bars, draw
from bench.usl import BAND_SHARE, Fit

CURVES_MAX: Final = 4
"""Percentile curves in one chart."""
LAW_STEPS: Final = 60
NINES: Final = (0.0, 50.0, 90.0, 99.0, 99.9, 99.99)
OTHER: Final = "other"
SHOWN_MIN_US: Final = 0.5
"""A component that no order needs is shown from this on, CPU microseconds an order."""


def build(sweep: Sweep, plan: Plan, names: Sequence[str]) -> str:
    """Return the page.

    Args:
        sweep: measured.
        plan: what it recommends.
        names: of the runs.
    """
    title = f"flashgate capacity: {', '.join(names)}"
    return page(
        title,
        [
            "<h1>flashgate: how much it carries, and what a sale needs</h1>",
            f'<div id="recommendation">{paragraph(plan.sentence, "lead")}</div>',
            paragraph(plan.for_how_long),
            *_warnings(sweep, plan),
            *_load(sweep, plan),
            *_law(sweep, plan),
            *_parts(sweep, plan),
            *_backlog(sweep, plan),
            *proof_section(sweep),
            *machines_section(plan),
            *environment_section(sweep, names),
        ],
    )


def _warnings(sweep: Sweep, plan: Plan) -> list[str]:
    found = []
    strained = sum(bool(one.bottlenecks) for one in sweep.points)
    if strained:
        found.append(
            paragraph(
                f"At {strained} of {len(sweep.points)} points the load driver itself was at its limit, on the same "
                "cores as everything else; they are marked *. What is beyond them is not the gateway's limit alone.",
                "warn",
            )
        )
    found += [paragraph(line, "warn") for line in plan.warnings]
    load = float(sweep.environment.get("machine", {}).get("load_1m", 0.0) or 0.0)
    changed = int(sweep.environment.get("git", {}).get("changed_files", 0) or 0)
    if changed:
        found.append(paragraph(f"Measured with {changed} changed files that are in no commit.", "warn"))
    found.append(
        paragraph(
            f"Everything, the load driver included, ran on {sweep.cores} cores; load average at the end {load:.1f}.",
            "note",
        )
    )
    return found


# -- what was offered, and what became of it -------------------------------------------------------------------------


def _load(sweep: Sweep, plan: Plan) -> list[str]:
    at = plan.sustained
    alone = {w: _alone(sweep, w) for w in sweep.workers}
    ours = alone[at.workers]
    highest = max(one.offered_per_s for one in sweep.points if one.refused_share == 0)
    achieved = draw(
        Chart(
            "Offered against achieved",
            f"Answers a second over requests offered a second; {at.offered_per_s:,.0f} a second are sustained.",
            "orders offered / s",
            "answered / s",
            [
                Series("all of it", [(0, 0), (highest, highest)], "line"),
                *(
                    Series(f"{w} worker{'s' * (w > 1)}", [(p.offered_per_s, p.achieved_per_s) for p in points])
                    for w, points in alone.items()
                    if points
                ),
            ],
            marks=[(at.offered_per_s, "sustained")],
        ),
        1,
    )
    latency = draw(
        Chart(
            "Latency against load",
            f"p50 and p99 from the time each request was due, {at.workers} workers; the knee is where they leave.",
            "orders offered / s",
            "ms (log)",
            [
                Series("p50", [(p.offered_per_s, p.p50_ms) for p in ours]),
                Series("p99", [(p.offered_per_s, p.p99_ms) for p in ours]),
                Series("p99.9", [(p.offered_per_s, p.p99_9_ms) for p in ours]),
            ],
            log_y=True,
            marks=[(at.offered_per_s, "knee")],
        ),
        2,
    )
    rows = [_point_row(one) for one in sweep.points]
    return [
        heading("Offered, achieved, and how long it took"),
        charts(
            [
                figure("Offered against achieved, accepted orders", achieved),
                figure(f"Latency against load, {at.workers} gateway workers", latency),
                figure("Latency by percentile", _percentile_plot(ours, at)),
            ]
        ),
        table(
            "points", f"Every point; the sustained one keeps {plan.slo}", _POINT_HEAD, rows, here=sweep.points.index(at)
        ),
    ]


_POINT_HEAD: Final = (
    "workers", "offered / s", "sold out", "achieved / s", "accepted", "refused", "failed", "p50 ms", "p99 ms",
    "p99.9 ms", "backlog", "drain s",
)  # fmt: skip


def _point_row(one: Point) -> list[Cell]:
    strained = Number(one.achieved_per_s, f"{one.achieved_per_s:,.0f}{'*' * bool(one.bottlenecks)}")
    return [
        number(one.workers),
        number(one.offered_per_s),
        Number(one.refused_share, f"{one.refused_share:.0%}"),
        strained,
        number(one.accepted),
        number(one.refusals),
        number(one.failed),
        number(one.p50_ms, 1),
        number(one.p99_ms, 1),
        number(one.p99_9_ms, 1),
        number(one.backlog_max),
        number(one.drain_s, 2),
    ]


def _alone(sweep: Sweep, workers: int) -> list[Point]:
    """Return the points with accepted orders alone, by rate."""
    found = [one for one in sweep.points if one.workers == workers and one.refused_share == 0]
    return sorted(found, key=lambda one: one.offered_per_s)


def _percentile_plot(ours: Sequence[Point], at: Point) -> str:
    beyond = [one for one in ours if one.offered_per_s > at.offered_per_s]
    chosen = [ours[0], *([at] if at is not ours[0] else []), *beyond[:1], *beyond[1:][-1:]][:CURVES_MAX]
    series = [
        Series(
            f"{one.offered_per_s:,.0f}/s" + (" sustained" if one is at else ""),
            [(_nines(percentile), ms) for percentile, ms in one.percentiles if ms > 0 and percentile < 100],
            "line",
        )
        for one in chosen
    ]
    told = "Latency by percentile at the lowest rate, at the sustained one, and beyond it."
    ticks = [_nines(one) for one in NINES]
    by_tick = dict(zip(ticks, NINES, strict=True))
    chart = Chart(
        "Latency by percentile",
        told,
        "percentile",
        "ms (log)",
        series,
        log_y=True,
        x_ticks=ticks,
        x_text=lambda x: f"{by_tick[x]:g}",
    )
    return draw(chart, 3)


def _nines(percentile: float) -> float:
    return -math.log10(1 - min(percentile, 99.999) / 100)


# -- the law ---------------------------------------------------------------------------------------------------------


def _law(sweep: Sweep, plan: Plan) -> list[str]:
    workers = plan.sustained.workers
    fit = plan.fits[workers]
    rungs = [one for one in sweep.rungs if one.workers == workers]
    measured_to = float(max(one.connections for one in rungs))
    last = min(2 * measured_to, fit.bands[-1][0] if fit.bands else math.inf) if fit.bounded else measured_to
    bands = [one for one in fit.bands if one[0] <= last]
    grid = [1 + (last - 1) * step / LAW_STEPS for step in range(LAW_STEPS + 1)]
    svg = draw(
        Chart(
            "Universal Scalability Law",
            f"Orders a second over connections, measured and fitted; {_highest(fit)}.",
            "connections, each with one request under way (N)",
            "orders / s",
            [
                Series(
                    f"{BAND_SHARE:.0%} of resamples",
                    [(n, low) for n, low, _ in bands],
                    "band",
                    [(n, high) for n, _, high in bands],
                ),
                Series("fitted", [(n, fit.law.at(n)) for n in grid], "line"),
                Series("measured", [(one.connections, one.per_s) for one in rungs], "dots"),
            ],
            marks=[(fit.knee_n, "knee")],
        ),
        4,
    )
    rows: list[list[Cell]] = [
        [
            number(count),
            number(one.law.lambda_, 1),
            number(one.law.sigma, 5),
            Number(one.law.kappa, f"{one.law.kappa:.3g}"),
            Number(one.law.peak_n, f"{one.law.peak_n:g}" if math.isfinite(one.law.peak_n) else "none"),
            Number(one.law.ceiling_x, f"{one.law.ceiling_x:,.0f}" if math.isfinite(one.law.ceiling_x) else "none"),
            f"{one.peak_low or 0:,.0f} to " + (f"{one.peak_high:,.0f}" if one.peak_high else "no bound"),
            number(one.knee_n),
            number(one.r_squared, 3),
        ]
        for count, one in plan.fits.items()
    ]
    head = (
        "workers",
        "lambda",
        "sigma",
        "kappa",
        "peak at N",
        "at most orders / s",
        "90% of resamples",
        "knee at N",
        "R²",
    )
    return [
        heading("Universal Scalability Law"),
        paragraph(
            "X(N) = lambda N / (1 + sigma (N - 1) + kappa N (N - 1)): lambda is what one connection gets, sigma the "
            "share of contention, kappa the cost of agreement. Closed loops, everything accepted; there is a law only "
            "where measurements go past the knee. It has a peak if kappa is above 0; without, it approaches "
            "lambda / sigma."
        ),
        *(
            []
            if fit.bounded
            else [
                paragraph(
                    "Resamples of these measurements have no bound, or differ too much: how throughput goes on beyond "
                    "the last measured N cannot be said, and the curve ends there.",
                    "warn",
                )
            ]
        ),
        charts([figure(f"Orders/s over connections, {workers} gateway workers", svg)]),
        table("law", "Fitted for each count of gateway workers", head, rows),
    ]


def _highest(fit: Fit) -> str:
    return f"highest at N = {fit.law.peak_n:g}" if math.isfinite(fit.law.peak_n) else "without a peak"


# -- what it costs ---------------------------------------------------------------------------------------------------


def _matters(one: PartCost) -> bool:
    return one.component in {*PARTS, DRIVER} or one.accepted_us >= SHOWN_MIN_US


def _parts(sweep: Sweep, plan: Plan) -> list[str]:
    at = plan.sustained
    rows = []
    for one in _alone(sweep, at.workers):
        seconds = max(one.seconds, 1e-9)
        shares = [(name, cpu_of(one.load_cpu_s, name) / seconds) for name in (*PARTS, DRIVER)]
        rest = sum(one.load_cpu_s.values()) / seconds - sum(value for _, value in shares)
        rows.append((f"{one.offered_per_s:,.0f}/s", [*shares, (OTHER, max(0.0, rest))]))
    told = "CPU seconds a second of each component at each offered rate, while the load lasted."
    svg = bars("CPU by component", told, rows, "cores in use", 5)
    costs: list[list[Cell]] = [
        [
            one.component,
            number(one.accepted_us, 1),
            Number(one.batch_us, f"{one.batch_us:,.0f}" if one.batch_us else ""),
            number(plan.costs.fitted_us(one.component), 1),
            number(one.floor_us, 1),
            number(one.refused_us, 1),
            Number(one.rest_share, f"{one.rest_share:.1%}"),
            Number(one.error_share, f"{one.error_share:.0%}"),
            Number(one.r_squared, f"{one.r_squared:.2f}" + " poor fit" * one.poor),
            one.measured_by,
        ]
        for one in plan.costs.parts
        if _matters(one)
    ]
    idle = [one.component for one in plan.costs.parts if not _matters(one)]
    rooms: list[list[Cell]] = [
        [
            one.component,
            number(one.used_cores, 2),
            number(one.limit_cores, 1),
            Number(one.gives_at_per_s, f"{one.gives_at_per_s:,.0f}" if math.isfinite(one.gives_at_per_s) else "never"),
        ]
        for one in plan.rooms
    ]
    head = (
        "component", "order, µs", "script call, µs", f"order in calls of {plan.costs.batch_orders:,.0f}, µs",
        "order as measured, µs", "refusal, µs", "at rest", "off by", "R\u00b2", "measured by",
    )  # fmt: skip
    return [
        heading("CPU, component by component"),
        charts([figure(f"Cores in use while the load lasted, {at.workers} gateway workers", svg)]),
        table(
            "costs", "CPU of an accepted order and of a refusal, by regression over all rungs and points", head, costs
        ),
        paragraph(
            f"As measured: all CPU at {at.offered_per_s:,.0f} orders/s, drained, for each order. Plans go by the "
            "larger of both, or where the fit is poor by what was measured. Off by: how far the regression is from a "
            "measurement, in the median; single requests at a low rate cost more, for every process wakes up for each."
            + (f" Not shown, for next to nothing: {', '.join(idle)}." if idle else ""),
            "note",
        ),
        table(
            "rooms",
            f"What gives first: at {at.offered_per_s:,.0f} orders/s, drained",
            ("component", "cores used", "cores it may use", "gives at orders / s"),
            rooms,
            here=0,
        ),
        paragraph(
            "Cores used include what was done after the load had ended, until MySQL had every order: more than the "
            "machine has means that the rate is a peak's, which cannot be held for ever.",
            "note",
        ),
    ]


# -- behind Redis ----------------------------------------------------------------------------------------------------


def _backlog(sweep: Sweep, plan: Plan) -> list[str]:
    at = plan.sustained
    ours = _alone(sweep, at.workers)
    beyond = [one for one in ours if one.offered_per_s > at.offered_per_s]
    chosen = [ours[0], *([at] if at is not ours[0] else []), *beyond[-1:]]
    over_time = draw(
        Chart(
            "Backlog over time",
            "Accepted orders that MySQL did not have yet, while the load lasted.",
            "seconds",
            "orders on their way",
            [Series(f"{one.offered_per_s:,.0f}/s", list(one.backlog), "line") for one in chosen],
        ),
        6,
    )
    drain = draw(
        Chart(
            "Drain time",
            "Seconds from the last answer until MySQL had every order.",
            "orders offered / s",
            "seconds",
            [Series("drain", [(one.offered_per_s, one.drain_s) for one in ours])],
        ),
        7,
    )
    return [
        heading("Backlog and drain"),
        charts([figure("Orders on their way to MySQL", over_time), figure("Time to drain after the load", drain)]),
    ]

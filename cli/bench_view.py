"""What the benchmarks print for people."""

import math
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bench.compare import Comparison
from bench.figures import Figure, Spread, spread
from bench.load_run import LoadReport
from bench.measure import Measured
from bench.scale import LevelCosts
from bench.scale import figures as scale_figures


def show_comparison(console: Console, comparison: Comparison) -> None:
    """Print the runs, the latency at the offered rate, and the promised figures."""
    console.print(_runs(comparison))
    if comparison.offered is not None:
        console.print(_offered(comparison))
    console.print(figures_table(comparison.figures))


def show_load(console: Console, report: LoadReport) -> None:
    """Print what an open loop has seen."""
    latency = (
        f"p50 {report.p50_ms:.2f} ms, p90 {report.p90_ms:.2f}, p99 {report.p99_ms:.2f}, p99.9 "
        f"{report.p99_9_ms:.2f}, max {report.max_ms:.2f}: since each was due"
    )
    driver = (
        f"{report.processes} processes, {report.connections} connections, at most {report.inflight_max} busy; "
        f"CPU {report.driver_cpu_share_max:.0%} of a core, lag at most {report.driver_lag_max_ms:.1f} ms"
    )
    table = Table.grid(padding=(0, 2))
    for name, text in (
        ("offered", f"{report.offered:,} orders, {report.offered_per_s:,.0f}/s"),
        ("answered", f"{report.answered:,} in {report.seconds:.1f} s, {report.answered_per_s:,.0f}/s"),
        ("status", ", ".join(f"{status}: {count:,}" for status, count in report.statuses.items())),
        ("late", f"{report.late:,} sent more than 5 ms after they were due"),
        ("dropped", f"{report.dropped:,} for which no connection was free in time"),
        ("errors", f"{report.errors:,}, and {report.unanswered:,} without an answer until the end"),
        ("latency", latency),
        ("driver", driver),
    ):
        table.add_row(name, text)
    console.print(table)
    for why in report.bottlenecks:
        console.print(f"[bold yellow]The driver itself was the bottleneck:[/bold yellow] {escape(why)}")
    if report.saturated:
        console.print("All connections were busy: the gateway is at its limit, or --connections are too few.")


def show_scale(console: Console, found: Sequence[LevelCosts]) -> None:
    """Print what an order costs at each level."""
    table = Table(
        "buyers with an order",
        "SKUs",
        "gateway µs",
        "Redis µs",
        "together",
        title="CPU an accepted order: median of the rounds (lowest-highest)",
        title_justify="left",
    )
    for column in table.columns:
        column.justify = "right"
    for one in found:
        table.add_row(
            f"{one.level.buyers:,}",
            f"{one.level.skus:,}",
            _range([cost.gateway_us for cost in one.costs], 1),
            _range([cost.redis_us for cost in one.costs], 1),
            _range([cost.total_us for cost in one.costs], 1),
        )
    console.print(table)
    console.print(figures_table(scale_figures(found)))


def _runs(comparison: Comparison) -> Table:
    table = Table(
        "what",
        "scenario",
        "answers/s",
        "gateway µs",
        "Redis µs",
        "Redis commands",
        "p50 ms",
        "p99 ms",
        "expected",
        title=f"Closed loop, driven by {comparison.driver}: median of {len(comparison.rounds)} rounds (lowest-highest)",
        title_justify="left",
        caption="CPU per answer, of all threads. expected: 2xx; refusals where everything is sold out.",
        caption_justify="left",
    )
    for column in table.columns[2:]:
        column.justify = "right"
    names = [(run.scenario, run.target) for one in comparison.rounds[:1] for run in one.values()]
    for scenario, target in sorted(names, key=lambda name: name[0]):
        _run_row(table, [one[target, scenario] for one in comparison.rounds if (target, scenario) in one])
    if comparison.full is not None:
        _run_row(table, [comparison.full])
    return table


def _run_row(table: Table, runs: Sequence[Measured]) -> None:
    table.add_row(
        runs[0].target,
        runs[0].scenario,
        _range([run.per_s for run in runs], 0),
        _range([run.gateway_cpu_us for run in runs], 1),
        _range([run.redis_cpu_us for run in runs], 1),
        f"{spread([run.redis_commands for run in runs]).median:.4f}",
        _range([run.p50_ms for run in runs], 1),
        _range([run.p99_ms for run in runs], 1),
        f"{min(run.expected_share for run in runs):.2%}",
    )


def _offered(comparison: Comparison) -> Table:
    assert comparison.offered is not None  # noqa: S101 -- the caller looks
    offered = comparison.offered
    table = Table(
        "what",
        "p50 ms",
        "p99 ms",
        "p99.9 ms",
        "max ms",
        "driver",
        title=f"Open loop, {offered.rate_per_s:,.0f} orders/s offered to both, latency from the time each was due",
        title_justify="left",
        caption=f"The disk's own fdatasync here: p50 {offered.fsync.p50_ms:.2f} ms, p99 {offered.fsync.p99_ms:.2f} ms",
        caption_justify="left",
    )
    for name, reports in offered.reports.items():
        strained = next((report.bottlenecks[0] for report in reports if report.bottlenecks), "kept up")
        table.add_row(
            name,
            _range([report.p50_ms for report in reports], 2),
            _range([report.p99_ms for report in reports], 2),
            _range([report.p99_9_ms for report in reports], 2),
            _range([report.max_ms for report in reports], 1),
            strained,
        )
    return table


def figures_table(figures: Sequence[Figure]) -> Table:
    """Return the promised figures, measured beside their bounds."""
    table = Table("figure", "measured", "bound", "stretch", "", "note", title="Promised", title_justify="left")
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        verdict = "[green]stretch met[/green]" if figure.stretch_met else "[green]met[/green]"
        table.add_row(
            figure.name,
            f"{number(figure.value)} {figure.unit}".strip(),
            f"{sign} {_plain(figure.bound)}",
            "" if figure.stretch is None else f"{sign} {_plain(figure.stretch)}",
            verdict if figure.met else "[red]not met[/red]",
            escape(figure.note),
        )
    return table


def number(value: Spread) -> str:
    """Return a median with its extremes, as many digits as say something."""
    if value.lowest == value.highest:
        return _plain(value.median)
    return f"{_plain(value.median)} ({_plain(value.lowest)}-{_plain(value.highest)})"


def _plain(value: float) -> str:
    if value == 0 or math.isinf(value):
        return "∞" if math.isinf(value) else "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{min(digits, 5)}f}"


def _range(values: Sequence[float], digits: int) -> str:
    found = spread(values)
    if len(values) == 1:
        return f"{found.median:,.{digits}f}"
    return f"{found.median:,.{digits}f} ({found.lowest:,.{digits}f}-{found.highest:,.{digits}f})"

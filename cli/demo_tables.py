"""The closing tables that the demos of all kinds share, each with a line that says what it shows."""

from collections.abc import Sequence

from rich.table import Table

from bench.crowd_messages import Result
from cli.demo_facts import Facts, House
from consumers.reconcile_report import CampaignReport

STORES = ("told to buyers", "Redis", "Kafka", "MySQL")


def table(title: str, explanation: str, *columns: str) -> Table:
    """Return an empty table of numbers, the first column of words.

    Args:
        title: in a word or two.
        explanation: one sentence for whoever sees it for the first time.
        columns: their headings; the first one's is empty.
    """
    made = Table("", *columns, title=f"[bold]{title}[/bold]: {explanation}", title_justify="left", title_style="")
    for column in made.columns[1:]:
        column.justify = "right"
    return made


def cells(*numbers: int | None) -> list[str]:
    """Return numbers as they stand in a table; None is an empty cell."""
    return ["" if number is None else f"{number:,}" for number in numbers]


def add_drift(books: Table, report: CampaignReport, drift: int) -> None:
    """Add the rows of what is on its way and what is at fault to a table with a column for each of STORES."""
    faults = [sum(getattr(sku, name) for sku in report.skus) for name in ("missing", "extra", "dead_letters")]
    books.add_row("in flight", *cells(None, None, None, report.in_flight))
    books.add_row("missing, extra, dead", "", "", "", ", ".join(cells(*faults)))
    books.add_row("drift", "", "", "", f"[{'red' if drift else 'green'}]{drift:,}")


def warehouse(before: House, after: House, explanation: str) -> Table:
    """Return what the warehouse had before the campaign opened, and what it has at the end."""
    made = table("The warehouse", explanation, "before", "after")

    def row(name: str, was: int, now: int, *, ends: bool = False) -> None:
        made.add_row(name, *cells(was, now), end_section=ends)

    row("received", before.received, after.received)
    row("shipped", before.shipped, after.shipped)
    row("came back", before.returned, after.returned, ends=True)
    row("on hand", before.on_hand, after.on_hand)
    row("  for the campaign", before.allocated, after.allocated)
    row("  sold by the shop", before.reserved, after.reserved)
    row("  free", before.free, after.free)
    return made


def remarks(facts: Facts, result: Result, *, orders: str, again: str) -> Sequence[tuple[str, str]]:
    """Return what is to be said of the crowd's run.

    Args:
        facts: of the demo.
        result: of the crowd.
        orders: what was accepted, in the plural.
        again: what was told again.
    """
    return (
        (
            "requests",
            f"{result.sent:,} in {result.seconds:.1f} s, {facts.offered_per_s:,.0f}/s; {result.retries:,} retries",
        ),
        ("acceptance", f"{facts.accepted:,} {orders} in {result.accepting_s:.2f} s, {facts.accepted_per_s:,.0f}/s"),
        ("replays", f"{result.replays:,}: asked again with the same key, told the same {again}"),
        (
            "latency",
            f"p50 {facts.p50_ms:,.0f} ms, p99 {facts.p99_ms:,.0f} ms: everybody is ready at once, and waits count",
        ),
        ("drain", f"everything had arrived {facts.drain_s:.2f} s after the last answer"),
        ("batching", f"{facts.evalsha_calls:,} script calls in Redis, {facts.insert_statements:,} INSERTs in MariaDB"),
    )

"""What `bench load` shows: a bar while it runs (a line a second where there is no terminal), and what came of it."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from bench.load_books import Books, lines
from bench.load_messages import LoadProgress
from bench.load_run import LoadReport
from bench.load_slo import Kept
from cli.bench_view import show_load

LINE_EVERY_S: Final = 1.0


class LoadView:
    """Shows how far a run is; keeps what it was told, second by second."""

    def __init__(self, console: Console, requests: int) -> None:
        self._console = console
        self._requests = requests
        self._bar = Progress(
            TextColumn("{task.fields[text]}"),
            BarColumn(),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("load", total=requests, text="")
        self._line_at_s = 0.0
        self.heard: list[LoadProgress] = []

    @contextmanager
    def running(self) -> Iterator[None]:
        """Show it for as long as the block runs."""
        with self._bar:
            yield

    def progress(self, now: LoadProgress) -> None:
        """Take note how far it is."""
        if not self.heard or int(now.seconds) > int(self.heard[-1].seconds):
            self.heard.append(now)
        text = _line(now)
        self._bar.update(self._task, completed=now.offered, text=text)
        if not self._console.is_terminal and time.monotonic() >= self._line_at_s:
            self._line_at_s = time.monotonic() + LINE_EVERY_S
            self._console.print(f"{now.seconds:6.1f} s  {text}", soft_wrap=True)


def _line(now: LoadProgress) -> str:
    classes = "  ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in now.classes.items() if count)
    return f"offered {now.offered:,}  answered {now.answered:,}  late {now.late:,}  dropped {now.dropped:,}  {classes}"


def show_outcome(console: Console, report: LoadReport, kept: Sequence[Kept], books: Books | None) -> None:
    """Print what an open loop has seen, whether the thresholds were kept, and whether the books agree."""
    show_load(console, report)
    counts = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in report.classes.items())
    console.print(f"results   {counts}")
    if report.unknown:
        settled = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in report.settled.items() if count)
        console.print(
            f"unknown   {report.unknown:,} did not learn what came of their requests; asked again with the same keys: "
            f"{settled or 'nothing'}; never learned {report.unsettled:,}"
        )
    show_slo(console, kept)
    if books is not None:
        show_books(console, books)


def show_slo(console: Console, kept: Sequence[Kept]) -> None:
    """Print each threshold, and whether it was kept."""
    for one in kept:
        measured = "nothing could be measured" if one.measured is None else f"measured {one.measured:,.4g}"
        verdict = "[green]kept[/green]" if one.kept else "[bold red]missed[/bold red]"
        console.print(f"slo       {escape(one.term)}: {verdict}, {measured}")


def show_books(console: Console, books: Books) -> None:
    """Print the counts of the driver, the gateway, Redis and MySQL beside each other, and what does not agree."""
    table = Table("campaign", "told accepted", "which makes orders", "Redis units", "MySQL orders", "drift")
    for column in table.columns[1:]:
        column.justify = "right"
    for row in lines(books):
        table.add_row(*row)
    console.print(table)
    if books.gateway_accepted is None:
        console.print("the gateway's own counts are not known here")
    else:
        console.print(f"the driver was told {books.told:,} accepted, the gateway counted {books.gateway_accepted:,}")
    wrong = books.disagreements()
    for text in wrong:
        console.print(f"[bold red]does not agree:[/bold red] {escape(text)}")
    if books.unsettled:
        console.print(f"{books.unsettled:,} never learned what came of their requests: there may be so many more")
    if not wrong:
        console.print(
            f"[green]all counts agree[/green]; MySQL had every order {books.drain_s:.2f} s after the last answer"
        )

"""What a demo shows while it runs: a live view on a terminal, a line a second elsewhere. All on stderr."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from bench.crowd_messages import Progress

FRAMES_PER_S: Final = 8
LINE_EVERY_S: Final = 1.0
RATE_WINDOW_S: Final = 1.0
BAR_WIDTH: Final = 40


class View:
    """The demo's voice."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = time.monotonic()
        self._live: Live | None = None
        self._buyers = self._stock = self._in_mysql = 0
        self._progress = Progress(seconds=0.0, sent=0, accepted=0, sold_out=0, rate_limited=0, failed=0)
        self._recent: deque[Progress] = deque()
        self._line_at_s = 0.0

    def say(self, text: str) -> None:
        """Print a line, with the seconds since the start."""
        self._console.print(f"[dim]{time.monotonic() - self._began_s:5.1f} s[/dim]  {text}", soft_wrap=True)

    @contextmanager
    def sale(self, buyers: int, stock: int) -> Iterator[None]:
        """Show the sale for as long as the block runs."""
        self._buyers, self._stock = buyers, stock
        if not self._console.is_terminal:
            yield
            self._print_line()
            return
        with Live(console=self._console, get_renderable=self._render, refresh_per_second=FRAMES_PER_S) as self._live:
            yield
        self._live = None

    def progress(self, progress: Progress) -> None:
        """Take note how far the crowd has come."""
        self._progress = progress
        self._recent.append(progress)
        while progress.seconds - self._recent[0].seconds > RATE_WINDOW_S:
            self._recent.popleft()
        if self._live is None and time.monotonic() >= self._line_at_s:
            self._line_at_s = time.monotonic() + LINE_EVERY_S
            self._print_line()

    def in_mysql(self, orders: int) -> None:
        """Take note how many orders have arrived."""
        self._in_mysql = orders

    @property
    def _per_s(self) -> float:
        """Requests a second, lately."""
        if len(self._recent) < 2:
            return self._progress.sent / self._progress.seconds if self._progress.seconds else 0.0
        first, last = self._recent[0], self._recent[-1]
        return (last.sent - first.sent) / max(last.seconds - first.seconds, 1e-3)

    def _print_line(self) -> None:
        now = self._progress
        self.say(
            f"offered {now.sent:,} ({self._per_s:,.0f}/s)  accepted {now.accepted:,}  sold out {now.sold_out:,}  "
            f"rate limited {now.rate_limited:,}  failed {now.failed:,}  in MySQL {self._in_mysql:,}"
        )

    def _render(self) -> Table:
        now = self._progress
        answered = now.accepted + now.sold_out + now.rate_limited + now.failed
        grid = Table.grid(padding=(0, 2))
        grid.add_column(justify="right")
        grid.add_column(justify="right", min_width=9)
        grid.add_column()
        grid.add_row("offered", f"{now.sent:,}", f"{self._per_s:,.0f} requests/s")
        grid.add_row("buyers answered", f"{answered:,}", _bar(answered, self._buyers))
        grid.add_row("accepted", f"[green]{now.accepted:,}[/green]", _bar(now.accepted, min(self._stock, self._buyers)))
        grid.add_row(
            "in MySQL", f"[green]{self._in_mysql:,}[/green]", _bar(self._in_mysql, min(self._stock, self._buyers))
        )
        grid.add_row("sold out", f"{now.sold_out:,}")
        grid.add_row("rate limited", f"{now.rate_limited:,}")
        grid.add_row("failed", f"[red]{now.failed:,}[/red]" if now.failed else "0")
        return grid


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(1, total), completed=min(done, total), width=BAR_WIDTH)

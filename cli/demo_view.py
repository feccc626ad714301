"""What a demo shows while it runs: a live view on a terminal, a line a second elsewhere. All on stderr."""

import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from bench.crowd_messages import Progress

FRAMES_PER_S: Final = 8
LINE_EVERY_S: Final = 1.0
RATE_WINDOW_S: Final = 1.0
BAR_WIDTH: Final = 40


class Figure(NamedTuple):
    """A number that is shown."""

    name: str
    counts: tuple[str, ...]
    """Of the crowd, or noted: their sum is shown."""
    total: int = 0
    """How many it can become; 0: nobody knows, and there is no bar."""
    style: str = ""


class View:
    """The demo's voice."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._began_s = time.monotonic()
        self._live: Live | None = None
        self._figures: Sequence[Figure] = ()
        self._noted: Counter[str] = Counter()
        self._progress = Progress(seconds=0.0, sent=0, counts={})
        self._recent: deque[Progress] = deque()
        self._line_at_s = 0.0

    def say(self, text: str) -> None:
        """Print a line, with the seconds since the start."""
        self._console.print(f"[dim]{time.monotonic() - self._began_s:5.1f} s[/dim]  {text}", soft_wrap=True)

    @contextmanager
    def show(self, figures: Sequence[Figure]) -> Iterator[None]:
        """Show these for as long as the block runs."""
        self._figures = figures
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

    def note(self, counts: Mapping[str, int]) -> None:
        """Take note of what is counted elsewhere."""
        self._noted.update({name: count - self._noted[name] for name, count in counts.items()})

    @property
    def _per_s(self) -> float:
        """Requests a second, lately."""
        if len(self._recent) < 2:
            return self._progress.sent / self._progress.seconds if self._progress.seconds else 0.0
        first, last = self._recent[0], self._recent[-1]
        return (last.sent - first.sent) / max(last.seconds - first.seconds, 1e-3)

    def _count(self, figure: Figure) -> int:
        return sum(self._progress.counts.get(name, 0) + self._noted[name] for name in figure.counts)

    def _print_line(self) -> None:
        numbers = "  ".join(f"{figure.name} {self._count(figure):,}" for figure in self._figures)
        self.say(f"requests {self._progress.sent:,} ({self._per_s:,.0f}/s)  {numbers}")

    def _render(self) -> Table:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(justify="right")
        grid.add_column(justify="right", min_width=9)
        grid.add_column()
        grid.add_row("requests", f"{self._progress.sent:,}", f"{self._per_s:,.0f} requests/s")
        for figure in self._figures:
            count = self._count(figure)
            text = f"[{figure.style}]{count:,}[/{figure.style}]" if figure.style and count else f"{count:,}"
            grid.add_row(figure.name, text, _bar(count, figure.total) if figure.total else "")
        return grid


def _bar(done: int, total: int) -> ProgressBar:
    return ProgressBar(total=max(1, total), completed=min(done, total), width=BAR_WIDTH)

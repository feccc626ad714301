"""Charts as inline SVG: no script, no font, no file besides. Pure; every text is escaped.

Series differ in dash and marker as well as in colour, so that a black-and-white print can be read.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Final, Literal

WIDTH: Final = 440.0
HEIGHT: Final = 300.0
LEFT: Final = 58.0
RIGHT: Final = 20.0
TOP: Final = 12.0
BOTTOM: Final = 44.0
LEGEND_LINE: Final = 16.0
TICKS: Final = 5
COLOURS: Final = ("#0b4f9c", "#b3400e", "#1f6f3a", "#6a2c91", "#8a6100", "#444444", "#9c0b4f")
DASHES: Final = ("", "6 3", "2 3", "8 3 2 3", "1 4", "12 4", "4 2")

Xy = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, cloud of dots, or band.

    Attributes:
        name: in the legend; empty: not there.
        points: x and y.
        kind: how it is drawn.
        upper: of a band, whose lower edge is `points`.
    """

    name: str
    points: Sequence[Xy]
    kind: Literal["line", "dots", "both", "band"] = "both"
    upper: Sequence[Xy] = ()


@dataclass(frozen=True, slots=True)
class Chart:
    """One chart.

    Attributes:
        title, told: for those who hear it read; `told` says what there is to see.
        x, y: names of the axes.
        series: drawn in order.
        log_x, log_y: scales.
        marks: vertical lines, (x, text).
        x_text: how a tick of x is written.
        x_ticks: where they are; none: at round numbers.
    """

    title: str
    told: str
    x: str
    y: str
    series: Sequence[Series]
    log_x: bool = False
    log_y: bool = False
    marks: Sequence[tuple[float, str]] = ()
    x_text: Callable[[float], str] | None = None
    x_ticks: Sequence[float] = field(default_factory=tuple)


def short(value: float) -> str:
    """Return a number as a tick says it."""
    if abs(value) >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    if abs(value) >= 10_000:
        return f"{value / 1_000:g}k"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:g}"


def draw(chart: Chart, number: int) -> str:
    """Return a chart as an SVG element; its number makes ids unique on the page.

    Raises:
        ValueError: there is nothing to draw.
    """
    named = [(i, one) for i, one in enumerate(chart.series) if one.name]
    top = TOP + LEGEND_LINE * math.ceil(len(named) / 2)
    every = [xy for one in chart.series for xy in (*one.points, *one.upper)]
    if not every:
        raise ValueError(f"{chart.title}: there is nothing to draw")
    x_axis = _Axis([x for x, _ in every] + [x for x, _ in chart.marks], LEFT, WIDTH - RIGHT, log=chart.log_x)
    y_axis = _Axis([y for _, y in every], HEIGHT - BOTTOM, top, log=chart.log_y)
    parts = [
        f'<svg viewBox="0 0 {WIDTH:g} {HEIGHT:g}" role="img" aria-labelledby="t{number} d{number}">',
        f'<title id="t{number}">{escape(chart.title)}</title><desc id="d{number}">{escape(chart.told)}</desc>',
    ]
    parts += _axes(chart, x_axis, y_axis, top)
    parts += [_series(one, i, x_axis, y_axis) for i, one in enumerate(chart.series)]
    for at, text in chart.marks:
        x = x_axis.at(at)
        anchor, shift = ("end", -4) if x > (LEFT + WIDTH) / 2 else ("start", 4)
        parts.append(f'<line class="mark" x1="{x:.1f}" x2="{x:.1f}" y1="{top:g}" y2="{HEIGHT - BOTTOM:g}"/>')
        parts.append(f'<text x="{x + shift:.1f}" y="{top + 12:g}" text-anchor="{anchor}">{escape(text)}</text>')
    for place, (i, one) in enumerate(named):
        x, y = LEFT + (place % 2) * (WIDTH - LEFT) / 2, TOP + LEGEND_LINE * (place // 2)
        parts.append(_swatch(one, i, x, y))
        parts.append(f'<text x="{x + 30:g}" y="{y + 4:g}">{escape(one.name)}</text>')
    return "".join([*parts, "</svg>"])


class _Axis:
    """Values along one side."""

    def __init__(self, values: Sequence[float], low: float, high: float, *, log: bool) -> None:
        self._log = log
        self._low, self._high = low, high
        if log:
            positive = [value for value in values if value > 0] or [1.0]
            self._from, self._to = math.log10(min(positive)), math.log10(max(positive))
            if self._to - self._from < 1:
                self._from, self._to = math.floor(self._from), math.ceil(self._to + 1e-9)
        else:
            self._from, self._to = min(0.0, *values), max(values) if max(values) > 0 else 1.0
            step = _step(self._to - self._from)
            self._to = math.ceil(self._to / step - 1e-9) * step
        if self._to <= self._from:
            self._to = self._from + 1

    def at(self, value: float) -> float:
        """Return where a value is."""
        there = math.log10(max(value, 1e-12)) if self._log else value
        share = (there - self._from) / (self._to - self._from)
        return self._low + min(1.0, max(0.0, share)) * (self._high - self._low)

    def ticks(self) -> list[float]:
        """Return round values."""
        if self._log:
            first, last = math.ceil(self._from - 1e-9), math.floor(self._to + 1e-9)
            return [10.0**power for power in range(first, last + 1)]
        step = _step(self._to - self._from)
        first = math.ceil(self._from / step - 1e-9)
        return [round(step * n, 10) for n in range(first, math.floor(self._to / step + 1e-9) + 1)]


def _step(span: float) -> float:
    rough = span / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * by for by in (1, 2, 5, 10) if power * by >= rough * (1 - 1e-9))


def _axes(chart: Chart, x_axis: _Axis, y_axis: _Axis, top: float) -> list[str]:
    found = []
    for value in y_axis.ticks():
        y = y_axis.at(value)
        found.append(f'<line class="grid" x1="{LEFT:g}" x2="{WIDTH - RIGHT:g}" y1="{y:.1f}" y2="{y:.1f}"/>')
        found.append(f'<text x="{LEFT - 5:g}" y="{y + 4:.1f}" text-anchor="end">{escape(short(value))}</text>')
    text = chart.x_text or short
    for value in chart.x_ticks or x_axis.ticks():
        x = x_axis.at(value)
        found.append(
            f'<line class="axis" x1="{x:.1f}" x2="{x:.1f}" y1="{HEIGHT - BOTTOM:g}" y2="{HEIGHT - BOTTOM + 4:g}"/>'
        )
        found.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 17:g}" text-anchor="middle">{escape(text(value))}</text>'
        )
    middle = (top + HEIGHT - BOTTOM) / 2
    return [
        *found,
        f'<path class="axis" d="M{LEFT:g} {top:g}V{HEIGHT - BOTTOM:g}H{WIDTH - RIGHT:g}"/>',
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 8:g}" text-anchor="middle">{escape(chart.x)}</text>',
        f'<text transform="translate(13 {middle:.1f}) rotate(-90)" text-anchor="middle">{escape(chart.y)}</text>',
    ]


def _series(one: Series, number: int, x_axis: _Axis, y_axis: _Axis) -> str:
    def path(points: Sequence[Xy]) -> str:
        return " ".join(f"{x_axis.at(x):.1f},{y_axis.at(y):.1f}" for x, y in points)

    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    if one.kind == "band":
        return f'<polygon fill="{colour}" fill-opacity="0.15" points="{path([*one.points, *reversed(one.upper)])}"/>'
    found = ""
    if one.kind in {"line", "both"}:
        found += (
            f'<polyline fill="none" stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}" '
            f'points="{path(one.points)}"/>'
        )
    if one.kind in {"dots", "both"}:
        found += "".join(_dot(x_axis.at(x), y_axis.at(y), number, colour) for x, y in one.points)
    return found


def _dot(x: float, y: float, number: int, colour: str) -> str:
    shapes = (
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>',
        f'<rect x="{x - 3.2:.1f}" y="{y - 3.2:.1f}" width="6.4" height="6.4" fill="{colour}"/>',
        f'<path d="M{x:.1f} {y - 4.5:.1f}l4.5 8h-9z" fill="{colour}"/>',
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.2" fill="#fff" stroke="{colour}" stroke-width="1.6"/>',
    )
    return shapes[number % len(shapes)]


def _swatch(one: Series, number: int, x: float, y: float) -> str:
    colour, dash = COLOURS[number % len(COLOURS)], DASHES[number % len(DASHES)]
    if one.kind == "band":
        return f'<rect x="{x:g}" y="{y - 5:g}" width="24" height="10" fill="{colour}" fill-opacity="0.15"/>'
    line = (
        f'<line x1="{x:g}" x2="{x + 24:g}" y1="{y:g}" y2="{y:g}" stroke="{colour}" stroke-width="2" '
        f'stroke-dasharray="{dash}"/>'
        if one.kind != "dots"
        else ""
    )
    return line + (_dot(x + 12, y, number, colour) if one.kind != "line" else "")


def bars(title: str, told: str, rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str, number: int) -> str:
    """Return horizontal stacked bars as an SVG element: (name of the row, (part, value)…) each.

    Raises:
        ValueError: there is nothing to draw.
    """
    parts = list(dict.fromkeys(part for _, values in rows for part, _ in values))
    most = max((sum(value for _, value in values) for _, values in rows), default=0.0)
    if most <= 0:
        raise ValueError(f"{title}: there is nothing to draw")
    legend = LEGEND_LINE * math.ceil(len(parts) / 2)
    height, left = legend + 26 * len(rows) + 40, 92.0
    scale = (WIDTH - left - 52) / most
    found = [
        f'<svg viewBox="0 0 {WIDTH:g} {height:g}" role="img" aria-labelledby="t{number} d{number}">',
        f'<title id="t{number}">{escape(title)}</title><desc id="d{number}">{escape(told)}</desc>',
    ]
    for place, part in enumerate(parts):
        x, y = (place % 2) * WIDTH / 2, 12 + LEGEND_LINE * (place // 2)
        found.append(f'<rect x="{x:g}" y="{y - 9:g}" width="12" height="12" {_fill(place)}/>')
        found.append(f'<text x="{x + 18:g}" y="{y + 1:g}">{escape(part)}</text>')
    for at, (name, values) in enumerate(rows):
        y, x = legend + 14 + 26 * at, left
        found.append(f'<text x="{left - 6:g}" y="{y + 14:g}" text-anchor="end">{escape(name)}</text>')
        for part, value in values:
            width = max(0.0, value) * scale
            found.append(
                f'<rect x="{x:.1f}" y="{y:g}" width="{width:.1f}" height="20" {_fill(parts.index(part))}>'
                f"<title>{escape(name)}, {escape(part)}: {value:.2f} {escape(unit)}</title></rect>"
            )
            x += width
        total = sum(value for _, value in values)
        found.append(f'<text x="{x + 4:.1f}" y="{y + 14:g}">{total:.2f}</text>')
    found.append(f'<text x="{WIDTH / 2:g}" y="{height - 6:g}" text-anchor="middle">{escape(unit)}</text></svg>')
    return "".join(found)


def _fill(place: int) -> str:
    opacity = 1.0 if place < len(COLOURS) else 0.5
    return f'fill="{COLOURS[place % len(COLOURS)]}" fill-opacity="{opacity}" stroke="#fff" stroke-width="1"'

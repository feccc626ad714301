"""From runs to the figures that are promised: medians, ratios within a round, and whether a bound is met. Pure."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import msgspec

from bench.measure import Measured
from bench.servers import AIOHTTP, FLASHGATE, GO, NGINX

ACCEPTED: Final = "accepted"
SOLD_OUT: Final = "sold out"

Round = Mapping[tuple[str, str], Measured]
"""The runs of one round, by (target, scenario)."""

Value = Callable[[Measured], float]


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """A median, and what it lies between."""

    median: float
    lowest: float
    highest: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One figure that is promised.

    Attributes:
        name: what it is.
        value: measured.
        unit: of the value; empty for a ratio.
        bound, stretch: what it must, and what it should keep; None: no stretch.
        at_least: larger is better.
        note: what else one has to know.
    """

    name: str
    value: Spread
    bound: float
    stretch: float | None = None
    unit: str = ""
    at_least: bool = False
    note: str = ""

    @property
    def met(self) -> bool:
        """Whether the bound is kept."""
        return self._keeps(self.bound)

    @property
    def stretch_met(self) -> bool:
        """Whether the stretch is kept."""
        return self.stretch is not None and self._keeps(self.stretch)

    def _keeps(self, limit: float) -> bool:
        return self.value.median >= limit if self.at_least else self.value.median <= limit


def spread(values: Sequence[float]) -> Spread:
    """Return the median of values and their extremes.

    Raises:
        ValueError: there are none.
    """
    if not values:
        raise ValueError("no values")
    return Spread(median=statistics.median(values), lowest=min(values), highest=max(values))


def ratio(above: float, below: float) -> float:
    """Return a ratio; infinite where the divisor is too small to be measured."""
    return above / below if below > 0 else float("inf")


def figures(rounds: Sequence[Round]) -> list[Figure]:
    """Return the promised figures that these rounds can tell: each ratio is taken within a round.

    What lacks a peer is left out.
    """
    targets = {target for one in rounds for target, _ in one}
    once = GO if GO in targets else AIOHTTP
    found = [
        _ratio(
            rounds,
            "gateway CPU an accepted order, against Go",
            (FLASHGATE, GO, ACCEPTED),
            lambda run: run.gateway_cpu_us,
            0.5,
            0.4,
        ),
        _ratio(
            rounds,
            "gateway + Redis CPU an accepted order, against aiohttp",
            (FLASHGATE, AIOHTTP, ACCEPTED),
            lambda run: run.gateway_cpu_us + run.redis_cpu_us,
            1 / 7,
            1 / 9,
        ),
        _ratio(
            rounds,
            "Redis CPU an accepted order, against one EVALSHA an order",
            (FLASHGATE, once, ACCEPTED),
            lambda run: run.redis_cpu_us,
            0.35,
            0.25,
            note=f"of the peer {once}",
        ),
        _sold_out_against_nginx(rounds),
        _commands(rounds),
        _ratio(
            rounds,
            "accepted orders/s through one worker, against aiohttp",
            (FLASHGATE, AIOHTTP, ACCEPTED),
            lambda run: run.per_s,
            5,
            7,
            at_least=True,
        ),
    ]
    return [figure for figure in found if figure is not None]


def _ratio(
    rounds: Sequence[Round],
    name: str,
    who: tuple[str, str, str],
    value: Value,
    bound: float,
    stretch: float,
    *,
    at_least: bool = False,
    note: str = "",
) -> Figure | None:
    ours, theirs, scenario = who
    ratios = [
        ratio(value(one[ours, scenario]), value(one[theirs, scenario]))
        for one in rounds
        if (ours, scenario) in one and (theirs, scenario) in one
    ]
    if not ratios:
        return None
    return Figure(name=name, value=spread(ratios), bound=bound, stretch=stretch, at_least=at_least, note=note)


def _sold_out_against_nginx(rounds: Sequence[Round]) -> Figure | None:
    name = "gateway CPU a sold-out answer, against nginx's constant answer"
    return _ratio(rounds, name, (FLASHGATE, NGINX, SOLD_OUT), lambda run: run.gateway_cpu_us, 3, 2)


def _commands(rounds: Sequence[Round]) -> Figure | None:
    counts = [one[FLASHGATE, SOLD_OUT].redis_commands for one in rounds if (FLASHGATE, SOLD_OUT) in one]
    if not counts:
        return None
    return Figure(name="Redis commands per sold-out answer", value=spread(counts), bound=0.02, stretch=0.002)

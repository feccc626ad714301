"""What an order costs as a campaign grows: from measured rounds to the promised figures. Pure."""

from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bench.figures import Figure, Spread, ratio, spread

BUYERS_MIN: Final = 1_000
STEP: Final = 10
BOUND: Final = 1.15
STRETCH: Final = 1.05


class Level(msgspec.Struct, frozen=True, kw_only=True):
    """One size of a campaign: buyers who hold an order before a round begins, and SKUs."""

    buyers: int
    skus: int


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What an accepted order cost in one round, CPU microseconds."""

    gateway_us: float
    redis_us: float
    orders: int

    @property
    def total_us(self) -> float:
        """Both together."""
        return self.gateway_us + self.redis_us


class LevelCosts(msgspec.Struct, frozen=True, kw_only=True):
    """All rounds of one level.

    Attributes:
        level: which.
        costs: one a round; of the smallest level one for each round of each other level.
        beside: what the smallest level cost right before or after each; empty for the smallest itself.
    """

    level: Level
    costs: list[Cost]
    beside: list[Cost]

    @property
    def total_us(self) -> Spread:
        """Gateway and Redis together."""
        return spread([cost.total_us for cost in self.costs])


def levels(buyers_max: int, skus_max: int) -> list[Level]:
    """Return the levels, the smallest first: 1,000 buyers and 1 SKU, either ten times as many until the largest."""
    smallest = min(BUYERS_MIN, buyers_max)
    return [
        *(Level(buyers=buyers, skus=1) for buyers in _steps(smallest, buyers_max)),
        *(Level(buyers=smallest, skus=skus) for skus in _steps(1, skus_max)[1:]),
    ]


def _steps(smallest: int, largest: int) -> list[int]:
    found = [smallest]
    while found[-1] * STEP < largest:
        found.append(found[-1] * STEP)
    return found if largest == found[-1] else [*found, largest]


def figures(found: Sequence[LevelCosts]) -> list[Figure]:
    """Return the cost at every level against the first, which is the smallest: ratios of runs next to each other."""
    smallest = found[0]
    made = []
    for one in found[1:]:
        value = spread([ratio(a.total_us, b.total_us) for a, b in zip(one.costs, one.beside, strict=True)])
        name = (
            f"cost an order at {one.level.skus:,} SKUs against 1"
            if one.level.skus > 1
            else f"cost an order at {one.level.buyers:,} buyers against {smallest.level.buyers:,}"
        )
        made.append(Figure(name=name, value=value, bound=BOUND, stretch=STRETCH))
    return made


def to_json(found: Sequence[LevelCosts]) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "levels": [{**msgspec.to_builtins(one), "total_us": msgspec.to_builtins(one.total_us)} for one in found],
        "figures": [
            {**msgspec.to_builtins(one), "met": one.met, "stretch_met": one.stretch_met} for one in figures(found)
        ],
    }

"""What is on sale in a simulated peak, and who still wants any of it. Pure.

SKUs are ranked by when they are sold out if everybody buys in proportion to what is wanted, which is what a crowd does
that is drawn from one law: those that are wanted most in proportion to their stock come first. So the shelf needs one
number to tell what was taken, and a buyer's group one to tell what it wants: the rank from which on.
"""

from bisect import bisect_right
from collections.abc import Sequence

from bench.simulate_line import MIX_CLASSES


class Shelf:
    """Stock of all SKUs.

    Args:
        wanted: of each SKU, the share of the crowd that wants it, and its units.
    """

    def __init__(self, wanted: Sequence[tuple[float, int]]) -> None:
        ranked = sorted(wanted, key=lambda one: one[1] / one[0])
        self._ends = [units / share for share, units in ranked]
        self._tails = [0.0] * (len(ranked) + 1)
        for rank in range(len(ranked) - 1, -1, -1):
            self._tails[rank] = self._tails[rank + 1] + ranked[rank][0]
        self._sold_before = [0.0]
        for _, units in ranked:
            self._sold_before.append(self._sold_before[-1] + units)
        self._asked = 0.0
        self.gone = bisect_right(self._ends, 0.0)

    @property
    def units(self) -> float:
        """All that there was."""
        return self._sold_before[-1]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return self.gone == len(self._ends)

    @property
    def wanted_share(self) -> float:
        """Share of a crowd that has just come which wants something that is left."""
        return self._tails[self.gone] / self._tails[0]

    def still_wanted(self, mix: int) -> float:
        """Return the share of a group which wants something that is left."""
        return self._tails[max(mix, self.gone)] / self._tails[mix]

    def mix_class(self, mix: int) -> int:
        """Return a number below `MIX_CLASSES`: groups that want about the same have the same."""
        return min(MIX_CLASSES - 1, int(self._tails[mix] / self._tails[0] * MIX_CLASSES))

    def take(self, total: float, mix: int) -> float:
        """Give out units to so many buyers, and return how many had one; the others wanted what was sold out."""
        before = self._sold()
        self._asked += total / self._tails[mix]
        self.gone = bisect_right(self._ends, self._asked, lo=self.gone)
        return min(total, self._sold() - before)

    def _sold(self) -> float:
        return self._sold_before[self.gone] + self._asked * self._tails[self.gone]

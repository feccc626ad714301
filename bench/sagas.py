"""How long it takes until sagas that a killed process left half-way have ended: what is measured, and its figures."""

from typing import Final

import msgspec

from domain.saga import BACK, FINISH, FORWARD

GOAL_S: Final = 60.0
"""From the restart until every saga has ended."""
WHOLE: Final = "whole"
COMPENSATED: Final = "compensated"


def crash_points() -> list[tuple[str, str]]:
    """Return (fail point, how the sagas end) of every place at which the process is killed.

    On the way there the sagas end whole; those of the way back are refused their payments, when points are taken and
    the order is there.
    """

    def around(*names: str) -> list[str]:
        return [f"saga.{when}_{name}" for name in names for when in ("before", "after")]

    there = ["saga.after_claim", *around(*FORWARD, "turn", *FINISH, "end")]
    back = around("turn", *BACK, "end")
    return [*((point, WHOLE) for point in there), *((point, COMPENSATED) for point in back)]


class PointFound(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one place.

    Attributes:
        point: where the process was killed.
        way: how its sagas end.
        sagas: so many.
        open: that had not ended when it was dead, those included that were still in Kafka.
        seconds: from the restart until all had ended.
    """

    point: str
    way: str
    sagas: int
    open: int
    seconds: float


class SagasFound(msgspec.Struct, frozen=True, kw_only=True):
    """All places.

    Attributes:
        lease_ms: how long a saga is left to whoever has taken it up, though he be dead.
        at_once: places measured at a time.
        points: as `crash_points`.
    """

    lease_ms: int
    at_once: int
    points: list[PointFound]

    @property
    def slowest_s(self) -> float:
        """Of all places."""
        return max(one.seconds for one in self.points)

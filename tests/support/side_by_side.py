"""A model and the real thing, which are told to do the same, are killed at the same places and have to say the same."""

import contextlib
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final, NamedTuple

from hypothesis import note

from domain import failpoints
from domain.errors import OperationRefusedError
from tests.support.house import DiedError
from tests.support.life_world import World
from tests.support.warehouse_model import KilledError, Model, RefusedError

SAYS: Final = {
    "short": r"units are free|are short|is short|reserved for the shop",
    "closed": r"is closed",
    "closed twice": r"closed already",
    "sold": r"units that are sold",
    "number": r"-?\d+ (units cannot be moved|is not a number of units)",
    "key": r"key '.*' was used",
    "refused before": r"was refused before",
    "no campaign": r"there is no campaign",
    "unpaid": r"only what is paid goes through outbound review",
    "decided before": r"approved by|rejected by|come back|taken back|has not been shipped",
}
"""Why something is refused, as the model calls it → what whoever asked is told."""


class Ended(NamedTuple):
    """How something came out."""

    how: str
    """`done`, `refused` or `killed`."""
    told: Any = None
    """What it returned, or said."""


@contextlib.contextmanager
def killed_at(fail_point: str) -> Iterator[None]:
    """Have whoever reaches a fail point first die there, as if the process had been killed; empty: nobody does."""

    def die(name: str) -> None:
        if name == fail_point:
            failpoints.hook = None
            raise DiedError(name)

    failpoints.hook = die if fail_point else None
    try:
        yield
    finally:
        failpoints.hook = None


class SideBySide:
    """Does everything twice.

    Args:
        world: where the real thing is.
        model: the other one.
        happened: counts what came about.
    """

    def __init__(self, world: World, model: Model, happened: Counter[str]) -> None:
        self._world = world
        self._model = model
        self._happened = happened

    def do(
        self, what: str, expected: Callable[[], object], real: Callable[[], Awaitable[object]], kill: str = ""
    ) -> tuple[Any, Any] | None:
        """Have both do the same; returns what both say, or None if both were refused, or died.

        Args:
            what: is done, in a word.
            expected: has the model do it.
            real: does it.
            kill: the fail point at which whoever does it dies, if it is reached; empty: he lives.
        """
        foreseen = self._foresee(expected, kill)
        how = {"refused": foreseen.told, "killed": kill}.get(foreseen.how, foreseen.how)
        note(f"{what}: {how}")
        self._happened[f"{what}: {how}"] += 1
        came = self._world.do(_ended(real, kill))
        assert came.how == foreseen.how, (what, foreseen, came)
        if foreseen.how == "refused":
            assert re.search(SAYS[foreseen.told], came.told), (what, foreseen, came)
        return (foreseen.told, came.told) if foreseen.how == "done" else None

    def _foresee(self, expected: Callable[[], object], kill: str) -> Ended:
        with self._model.killed_at(kill):
            try:
                return Ended("done", expected())
            except RefusedError as error:
                return Ended("refused", str(error))
            except KilledError:
                return Ended("killed")


async def _ended(real: Callable[[], Awaitable[object]], kill: str) -> Ended:
    with killed_at(kill):
        try:
            return Ended("done", await real())
        except OperationRefusedError as error:
            return Ended("refused", str(error))
        except DiedError:
            return Ended("killed")

"""What an answer comes to for whoever counts: a refusal is no failure. Pure."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Final, NamedTuple


class ResultClass(StrEnum):
    """What a request came to; each in exactly one."""

    ACCEPTED = "accepted"
    """An order or a redemption was accepted, a draw was drawn, for the first time."""
    REPLAYED = "replayed"
    """The same, told again to the same key."""
    SOLD_OUT = "sold_out"
    LIMITED = "limited"
    """Too many or too often: 429, LIMIT_REACHED, and too few points."""
    SHED = "shed"
    """503 BUSY: turned away under overload, before anything was done."""
    FAILED = "failed"
    """No answer, an unknown outcome, or one that no buyer here should get."""


class Meaning(NamedTuple):
    """What an answer means to a buyer: status 0 if there was none."""

    status: int
    code: str = ""
    replayed: bool = False
    won: bool = False


_BY_CODE: Final = {
    "SOLD_OUT": ResultClass.SOLD_OUT,
    "LIMIT_REACHED": ResultClass.LIMITED,
    "POINTS_SHORT": ResultClass.LIMITED,
    "RATE_LIMITED": ResultClass.LIMITED,
    "BUSY": ResultClass.SHED,
}
UNKNOWN: Final = "UNKNOWN"
REPLAYED_HEADER: Final = "Idempotent-Replayed"


def classify(status: int, code: str, *, replayed: bool) -> ResultClass:
    """Return what an answer comes to.

    Args:
        status: of HTTP; 0: there was no answer.
        code: of the problem document; empty if there is none.
        replayed: the answer has the header of a replay.
    """
    if status in {200, 202}:
        return ResultClass.REPLAYED if replayed else ResultClass.ACCEPTED
    if status == 429:
        return ResultClass.LIMITED
    return _BY_CODE.get(code, ResultClass.FAILED)


def is_unknown(status: int, code: str) -> bool:
    """Tell whether the buyer does not know what came of the request, so that the same key must be asked again."""
    return status == 0 or (status >= 500 and code != "BUSY")


def problem_code(body: bytes) -> str:
    """Return the `code` of a problem document, or an empty string; the codes need no unescaping."""
    _, found, rest = body.partition(b'"code":"')
    return rest.partition(b'"')[0].decode("ascii", "replace") if found else ""


def is_win(body: bytes) -> bool:
    """Tell whether a drawn answer has a prize."""
    return b'"prize":{' in body


def by_class(counts: Mapping[str, int]) -> dict[str, int]:
    """Return the counts of all classes, in their order; those that did not come about are 0."""
    return {str(one): counts.get(str(one), 0) for one in ResultClass}

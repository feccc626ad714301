"""Points: what moves an account, within which bounds, and what a batch of movements comes to. Pure."""

from collections import Counter
from collections.abc import Iterable
from enum import Enum, StrEnum, auto
from typing import Annotated, Final, NamedTuple

import msgspec

from domain.errors import OperationRefusedError
from domain.order import IDEMPOTENCY_KEY_MAX_BYTES, USER_ID_MAX_BYTES, is_user_id, order_id

BALANCE_MAX: Final = 10**12
"""No account has more. A balance, and every sum on its way there, fits into 64 bits by far."""
AWARD_MAX: Final = 1_000_000_000
"""Points of one prize; as many as a campaign file may give it."""
NOTE_MAX_CHARS: Final = 255
GRANT_SCOPE: Final = "grant"
"""Stands in a grant's ref_id where a draw's has its campaign."""

RefId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9~._-]{1,73}$(?!\n)")]
"""What a movement is for: a draw, an order, a grant's key. With the kind it is unique in the whole ledger."""


class LedgerKind(StrEnum):
    """Why a ledger row moves its account."""

    GRANT = "grant"
    """A person has given points."""
    AWARD = "award"
    """A prize of a lottery."""
    SPEND = "spend"
    """A redemption has taken points."""
    REFUND = "refund"
    """A redemption has given back what it had taken."""


class Movement(NamedTuple):
    """One row of the ledger, as it is to be written."""

    ref_id: str
    kind: LedgerKind
    user_id: str
    delta: int
    """Points; negative where they are taken. Never 0."""


class Recorded(NamedTuple):
    """What the ledger has under a (ref_id, kind)."""

    user_id: str
    delta: int


class Moved(Enum):
    """What came of one movement."""

    NEW = auto()
    """The row is written and the balance moved, both by this transaction."""
    KNOWN = auto()
    """The same movement was written before; nothing was changed."""
    OTHER = auto()
    """The ledger has another account or another number under this (ref_id, kind); no balance was changed."""
    SHORT = auto()
    """The account has fewer points than are to be taken; nothing was changed."""
    NO_ACCOUNT = auto()
    """There is no such account to take points from; nothing was changed."""
    OVERFLOW = auto()
    """The account would have more than BALANCE_MAX; nothing was changed."""


def refuse_movement(balance: int | None, delta: int) -> Moved | None:
    """Return why an account cannot move by `delta`; None if it can.

    Args:
        balance: of the account; None: there is none.
        delta: points, negative where they are taken.
    """
    if delta < 0 and balance is None:
        return Moved.NO_ACCOUNT
    after = (balance or 0) + delta
    if after < 0:
        return Moved.SHORT
    return Moved.OVERFLOW if after > BALANCE_MAX else None


def compare(found: Recorded, wanted: Movement) -> Moved:
    """Say whether a row that another transaction has written is the same movement."""
    return Moved.KNOWN if found == Recorded(wanted.user_id, wanted.delta) else Moved.OTHER


def sums(movements: Iterable[Movement]) -> dict[str, int]:
    """Return user id → by how much the account moves in all, in the order in which everyone locks accounts."""
    found: Counter[str] = Counter()
    for one in movements:
        found[one.user_id] += one.delta
    return {user_id: found[user_id] for user_id in sorted(found)}


def grant_ref(user_id: str, key: str) -> str:
    """Return the ref_id of a grant: the same key for the same user is the same grant, for another user another."""
    return order_id(GRANT_SCOPE, user_id, key)


def check_grant(user_id: str, points: int, key: str, why: str) -> None:
    """Check what a person asks for.

    Raises:
        OperationRefusedError: it is no grant; the message says what to change.
    """
    if not is_user_id(user_id):
        raise OperationRefusedError(
            f"a user is 1 to {USER_ID_MAX_BYTES} bytes of printable characters, without blanks at its ends"
        )
    if not 1 <= points <= BALANCE_MAX:
        raise OperationRefusedError(f"a grant is 1 to {BALANCE_MAX:,} points, not {points:,}; nothing was changed")
    if not 1 <= len(key) <= IDEMPOTENCY_KEY_MAX_BYTES or not (key.isascii() and key.isprintable()):
        raise OperationRefusedError(f"a key is 1 to {IDEMPOTENCY_KEY_MAX_BYTES} visible ASCII characters")
    if len(why) > NOTE_MAX_CHARS or not why.isprintable():
        raise OperationRefusedError(f"--why is one line of at most {NOTE_MAX_CHARS} characters")

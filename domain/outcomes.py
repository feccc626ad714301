"""What `admit_orders.lua` decides about an order, and how a buyer is told.

The numbers are the script's return codes; `tests/contract` holds header, body and this enum together.
"""

from enum import IntEnum
from typing import Final, NamedTuple


class Outcome(IntEnum):
    """Decision about one order of a batch."""

    ACCEPTED = 1
    REPLAYED = 2
    SOLD_OUT = -1
    LIMIT_REACHED = -2
    RATE_LIMITED = -3
    """The campaign's bucket is empty."""
    USER_RATE_LIMITED = -4
    """The buyer's own bucket is empty."""
    NOT_STARTED = -5
    ENDED = -6
    PAUSED = -7
    KEY_REUSED = -8
    UNKNOWN_SKU = -9
    INVALID_QUANTITY = -10
    CORRUPT_RECORD = -11
    """The buyer's record cannot be read: this order is refused, the rest of the batch is not."""
    OUTBOX_FULL = -12
    """The relay is too far behind; nothing more is accepted until it has caught up."""


class DrawOutcome(IntEnum):
    """Decision of `draw_prize.lua` about one draw: those of `Outcome` that a draw may have."""

    ACCEPTED = Outcome.ACCEPTED
    """Drawn, whatever was won."""
    REPLAYED = Outcome.REPLAYED
    SOLD_OUT = Outcome.SOLD_OUT
    """Every prize is gone, and winning nothing has no weight."""
    LIMIT_REACHED = Outcome.LIMIT_REACHED
    RATE_LIMITED = Outcome.RATE_LIMITED
    USER_RATE_LIMITED = Outcome.USER_RATE_LIMITED
    NOT_STARTED = Outcome.NOT_STARTED
    ENDED = Outcome.ENDED
    PAUSED = Outcome.PAUSED
    CORRUPT_RECORD = Outcome.CORRUPT_RECORD
    OUTBOX_FULL = Outcome.OUTBOX_FULL


class BatchStatus(IntEnum):
    """First element of the script's reply: whether the batch was decided at all."""

    DECIDED = 0
    FENCED = -20
    """The run id of the caller's connection is not the one recovery has stored."""
    UNKNOWN_CAMPAIGN = -21


class ReleaseOutcome(IntEnum):
    """Decision of `release_stock.lua` about one hold."""

    RELEASED = 1
    ALREADY_RELEASED = 2
    NO_SUCH_HOLD = -1
    UNKNOWN_SKU = -9
    CORRUPT_RECORD = -11


class ReacquireOutcome(IntEnum):
    """Decision of `reacquire_stock.lua` about the next hold of an order."""

    TAKEN = 1
    ALREADY_TAKEN = 2
    SOLD_OUT = -1
    NO_SUCH_ORDER = -2
    HOLD_PASSED = -3
    """A hold of that number was given back or refused before, or there is a later one."""
    UNKNOWN_SKU = -9
    CORRUPT_RECORD = -11


class DuplicateOutcome(IntEnum):
    """Decision of `return_duplicate.lua` about a second deduction."""

    RETURNED = 1
    ALREADY_RETURNED = 2
    UNKNOWN_SKU = -9
    CORRUPT_RECORD = -11


class MarkOutcome(IntEnum):
    """Decision of `mark_paid.lua`."""

    MARKED = 1
    ALREADY_MARKED = 2
    NO_SUCH_HOLD = -1
    CORRUPT_RECORD = -11


class RestoreOutcome(IntEnum):
    """Decision of `restore_record.lua` about an order that no buyer's record holds any more."""

    RESTORED = 1
    ALREADY_THERE = 2
    STOCK_SHORT = -1
    STOCK_MOVED = -3
    """The SKU's numbers are not those any more on which the decision stands."""
    UNKNOWN_SKU = -9
    CORRUPT_RECORD = -11


class LoadOutcome(IntEnum):
    """Decision of `load_campaign.lua` about a campaign's file."""

    UNCHANGED = 0
    CREATED = 1
    UPDATED = 2
    STOCK_BELOW_SOLD = -1
    SKU_MISSING = -2
    CORRUPT_STOCK = -3
    STALE = -4
    """A later load has been here before."""
    REFUSED_BEFORE = -5
    """This load was refused, for good: what it was to be given may have been given to others."""
    OTHER_KIND = -6
    """A campaign stays of its kind."""
    FROZEN = -7
    """A lottery that has been opened draws from what its log says."""
    FENCED = -20


class TopUpOutcome(IntEnum):
    """Decision of `topup_stock.lua`."""

    ADDED = 1
    ALREADY_ADDED = 2
    TOO_MANY = -1
    CLOSED = -2
    KEY_REUSED = -8
    UNKNOWN_SKU = -9
    INVALID_QUANTITY = -10


class WithdrawOutcome(IntEnum):
    """Decision of `withdraw_stock.lua` about a campaign."""

    WITHDRAWN = 1
    NOTHING_LEFT = 2
    NOT_CLOSED = -1
    CORRUPT_STOCK = -3


class AdjustOutcome(IntEnum):
    """Decision of `adjust_stock.lua` about a campaign that recovery brings to the catalog."""

    ALREADY_OPEN = 0
    ADJUSTED = 1
    MOVED = -1
    """It is not any more as recovery saw it."""
    CORRUPT_STOCK = -3


class GuardOutcome(IntEnum):
    """What `take_guard.lua` says."""

    TAKEN = 1
    HELD = -1
    """Another has it."""


class GuardReleaseOutcome(IntEnum):
    """What `release_guard.lua` says."""

    RELEASED = 1
    NOT_OWNER = -1
    """It ran out, and may be another's by now."""


class Problem(NamedTuple):
    """A stable problem code (RFC 9457 `code` member) with its HTTP status and words."""

    status: int
    code: str
    title: str


INVALID: Final = Problem(400, "INVALID", "The request is not valid")
KEY_MISSING: Final = Problem(400, "KEY_MISSING", "The Idempotency-Key header is missing")
UNAUTHENTICATED: Final = Problem(401, "UNAUTHENTICATED", "A valid bearer token is needed")
UNSIGNED: Final = Problem(401, "UNAUTHENTICATED", "A valid signature is needed")
NOT_STARTED: Final = Problem(403, "NOT_STARTED", "The sale has not started yet")
ENDED: Final = Problem(403, "ENDED", "The sale is over")
PAUSED: Final = Problem(403, "PAUSED", "The sale is paused")
NOT_FOUND: Final = Problem(404, "NOT_FOUND", "There is no such thing")
METHOD_NOT_ALLOWED: Final = Problem(405, "INVALID", "The method is not allowed here")
SOLD_OUT: Final = Problem(409, "SOLD_OUT", "Sold out")
LIMIT_REACHED: Final = Problem(409, "LIMIT_REACHED", "The purchase limit is reached")
POINTS_SHORT: Final = Problem(409, "POINTS_SHORT", "Not enough points")
NOT_READY: Final = Problem(409, "NOT_READY", "The order is not in the database yet; retry")
STATE: Final = Problem(409, "STATE", "Not possible in the order's state")
TOO_LARGE: Final = Problem(413, "INVALID", "The request is too large")
KEY_REUSED: Final = Problem(422, "KEY_REUSED", "The Idempotency-Key was used for another request")
RATE_LIMITED: Final = Problem(429, "RATE_LIMITED", "Too many requests")
BUSY: Final = Problem(503, "BUSY", "The service cannot take this now; retry with the same key")
UNKNOWN: Final = Problem(503, "UNKNOWN", "The outcome is not known; retry with the same key")

PROBLEM_OF_OUTCOME: Final[dict[Outcome, Problem]] = {
    Outcome.SOLD_OUT: SOLD_OUT,
    Outcome.LIMIT_REACHED: LIMIT_REACHED,
    Outcome.RATE_LIMITED: RATE_LIMITED,
    Outcome.USER_RATE_LIMITED: RATE_LIMITED,
    Outcome.NOT_STARTED: NOT_STARTED,
    Outcome.ENDED: ENDED,
    Outcome.PAUSED: PAUSED,
    Outcome.KEY_REUSED: KEY_REUSED,
    Outcome.UNKNOWN_SKU: NOT_FOUND,
    Outcome.INVALID_QUANTITY: INVALID,
    Outcome.CORRUPT_RECORD: UNKNOWN,
    Outcome.OUTBOX_FULL: BUSY,
}

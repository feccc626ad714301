"""A crowd of buyers, decided without I/O: who asks what, what follows from an answer, and whether it was true.

This is what all crowds have in common. What they want, and what contradicts what, differs: `crowd_orders` buys or
redeems, `crowd_draws` draws in a lottery. Who is told 429 or 503, or nothing, comes back with the same key.
"""

import enum
import random
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Any, Final, Generic, NamedTuple, TypeVar

RETRIES_MAX: Final = 8
"""How often a request that was answered 429 or 503, or not at all, is sent again."""
RETRY_AFTER_MAX_S: Final = 5.0
"""No buyer waits longer, whatever Retry-After says."""
RETRY_JITTER_S: Final = 0.25
"""Buyers who were sent away together do not return together."""
LOST_RETRY_S: Final = 0.5
EXAMPLES_MAX: Final = 5
"""Untrue answers told in full, of each kind."""


class Role(Enum):
    """What a request is for."""

    FIRST = enum.auto()
    TWIN = enum.auto()
    """The same request, sent with the first one."""
    AGAIN = enum.auto()
    """The same request, sent after the first one was answered."""
    SECOND = enum.auto()
    """Another purchase or draw, with another key; a buyer who draws may have several of these."""


class Told(Enum):
    """What an answer comes to."""

    ACCEPTED = enum.auto()
    DRAWN = enum.auto()
    SOLD_OUT = enum.auto()
    LIMIT_REACHED = enum.auto()
    POINTS_SHORT = enum.auto()
    RATE_LIMITED = enum.auto()
    NOT_NOW = enum.auto()
    """503, or no answer: nothing is known."""
    REFUSED = enum.auto()
    """What no buyer of this crowd should be told."""


class Outcome(Enum):
    """How a buyer ends; each in exactly one way."""

    ACCEPTED = "accepted"
    WON = "won"
    NO_PRIZE = "no_prize"
    """He has drawn, and won nothing."""
    SOLD_OUT = "sold_out"
    POINTS_SHORT = "points_short"
    RATE_LIMITED = "rate_limited"
    FAILED = "failed"


class Draw(NamedTuple):
    """A draw as its buyer is told of it."""

    draw_id: str
    sku_id: str
    """Empty where nothing was won."""
    points: int
    left: int
    """Draws that the buyer still has."""
    seq: int
    """Its line in the lottery's log."""
    hash: str
    """Of its entry there."""


class Reply(NamedTuple):
    """An answer as far as a buyer cares; status 0: none came."""

    status: int
    code: str = ""
    order_id: str = ""
    replayed: bool = False
    retry_after_s: float = 0.0
    draw: Draw | None = None


NO_REPLY: Final = Reply(0, "NO_ANSWER", retry_after_s=LOST_RETRY_S)


class Buyer:
    """One buyer, as far as all crowds know him."""

    __slots__ = ("in_doubt", "number", "waiting_for")

    def __init__(self, number: int) -> None:
        self.number = number
        self.waiting_for = 0
        self.in_doubt = False
        """A request came to nothing that is known: it may have been accepted."""


B = TypeVar("B", bound=Buyer)


class Ask(Generic[B]):
    """One request of a buyer; the same object is sent again after 429 and 503."""

    __slots__ = ("buyer", "hangs_up", "key_no", "ready_s", "role", "tries", "was_promised")

    def __init__(self, buyer: B, role: Role, key_no: int, *, hangs_up: bool = False) -> None:
        self.buyer = buyer
        self.role = role
        self.key_no = key_no
        self.hangs_up = hangs_up
        """Whether the connection breaks before the answer to the first try is there."""
        self.tries = 0
        self.ready_s = 0.0
        """When the buyer was ready to send it, seconds of the sender's clock."""
        self.was_promised = False
        """Whether this key had been answered for good when the request was sent."""


def buyer_name(number: int) -> str:
    """Return the user id of a buyer."""
    return f"buyer-{number}"


def purchase_key(seed: int, number: int, key_no: int = 0) -> str:
    """Return the Idempotency-Key of a buyer's first purchase or draw, or of a further one."""
    return f"{seed}-{number}-{key_no}"


def classify(reply: Reply) -> Told:
    """Return what an answer comes to."""
    match reply.status, reply.code:
        case 202, _:
            return Told.ACCEPTED
        case 200, _ if reply.draw is not None:
            return Told.DRAWN
        case 409, "SOLD_OUT":
            return Told.SOLD_OUT
        case 409, "LIMIT_REACHED":
            return Told.LIMIT_REACHED
        case 409, "POINTS_SHORT":
            return Told.POINTS_SHORT
        case 429, _:
            return Told.RATE_LIMITED
        case ((0 | 503), _):
            return Told.NOT_NOW
        case _:
            return Told.REFUSED


def comes_back(told: Told, tries: int) -> bool:
    """Tell whether a buyer sends a request again that was sent again `tries` times already."""
    return told in {Told.RATE_LIMITED, Told.NOT_NOW} and tries < RETRIES_MAX


def pause_s(retry_after_s: float, chance: float) -> float:
    """Return how long a buyer waits before he comes back; `chance` is from [0, 1)."""
    return min(max(retry_after_s, 0.0), RETRY_AFTER_MAX_S) + chance * RETRY_JITTER_S


class Crowd(ABC, Generic[B]):
    """All buyers. The caller sends what it is given, and tells what was answered.

    Args:
        buyers: everybody.
        chance: the same one makes the same crowd.
        known: what may be answered; anything else counts as REFUSED.
    """

    def __init__(self, buyers: Sequence[B], chance: random.Random, known: frozenset[Told]) -> None:
        self.buyers = buyers
        self.chance = chance
        self._known = known | {Told.RATE_LIMITED, Told.NOT_NOW}
        self.unsettled = len(buyers)
        self.units_come_back = False
        """Whether units may be on sale again that were sold before."""
        self.outcomes: Counter[Outcome] = Counter()
        self.order_ids: set[str] = set()
        """Ids of all orders, and draws that won, that anybody was told of."""
        self.answers: Counter[str] = Counter()
        self.untrue: Counter[str] = Counter()
        self.examples: list[str] = []
        self.sent = 0
        self.replays = 0
        self.retries = 0

    @abstractmethod
    def first_asks(self, buyer: B) -> Iterator[Ask[B]]:
        """Yield what a buyer asks at once."""

    @abstractmethod
    def is_promised(self, ask: Ask[B]) -> bool:
        """Tell whether the key of a request was answered for good before."""

    @abstractmethod
    def judge(self, ask: Ask[B], told: Told, reply: Reply) -> None:
        """Hold an answer against everything that this buyer was told before, and remember it."""

    @abstractmethod
    def next_asks(self, ask: Ask[B], told: Told) -> Iterator[Ask[B]]:
        """Yield what a buyer asks because a request was answered for good."""

    @abstractmethod
    def outcome(self, buyer: B) -> Outcome:
        """Return how a buyer ends."""

    def counts(self) -> dict[str, int]:
        """Return how far the crowd has come, by name."""
        return {outcome.value: self.outcomes[outcome] for outcome in Outcome}

    def draws(self) -> list[Draw]:
        """Return all draws that buyers were told of."""
        return []

    def empty_handed(self, _count_max: int) -> list[int]:
        """Return the numbers of buyers who would take what comes back, as many as asked for."""
        return []

    # -- what the caller calls -------------------------------------------------------------------------------------

    def arrive(self) -> Iterator[Ask[B]]:
        """Return everybody's first requests."""
        for buyer in self.buyers:
            yield from self.first_asks(buyer)

    def ask(self, buyer: B, role: Role, key_no: int = 0, *, hangs_up: bool = False) -> Ask[B]:
        """Return a request that the buyer now waits for."""
        buyer.waiting_for += 1
        return Ask(buyer, role, key_no, hangs_up=hangs_up)

    def sending(self, ask: Ask[B]) -> None:
        """Take note that a request goes out now."""
        self.sent += 1
        ask.was_promised = self.is_promised(ask)

    def hear(self, ask: Ask[B], reply: Reply) -> list[tuple[Ask[B], float]]:
        """Take an answer in; returns what is to be sent because of it, and after how many seconds."""
        told = classify(reply)
        if told not in self._known:
            told = Told.REFUSED
        buyer = ask.buyer
        self.answers[reply.code or str(reply.status)] += 1
        self.judge(ask, told, reply)
        if told is Told.NOT_NOW:
            buyer.in_doubt = True
        if comes_back(told, ask.tries):
            ask.tries += 1
            self.retries += 1
            return [(ask, pause_s(reply.retry_after_s, self.chance.random()))]
        following = [(one, 0.0) for one in self.next_asks(ask, told)]
        buyer.waiting_for -= 1
        if not buyer.waiting_for:
            self.unsettled -= 1
            self.outcomes[self.outcome(buyer)] += 1
        return following

    def call_untrue(self, ask: Ask[B], reply: Reply, what: str) -> None:
        """Take note that an answer cannot be true."""
        self.untrue[what] += 1
        if self.untrue[what] <= EXAMPLES_MAX:
            said = f"{reply.status} {reply.code or reply.order_id}"
            self.examples.append(f"buyer {ask.buyer.number}, {ask.role.name.lower()} request: {what}: {said}")


AnyCrowd = Crowd[Any]

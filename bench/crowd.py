"""A crowd of buyers, decided without I/O: who asks what, what follows from an answer, and whether it was true.

All buyers want one unit of the same thing, of which each may have one. Most ask once. Impatient ones send the same
request again with the same key, at once or after the answer; greedy ones try to buy a second time with another key.
Who is told 429 or 503 comes back with the same key. Until the first order can expire nothing is given back, which makes
the truth simple: an acceptance is for ever, and so is SOLD_OUT. From then on SOLD_OUT may be followed by a 202, and who
has let his order expire may buy again.
"""

import enum
import random
import re
from collections import Counter
from collections.abc import Iterator
from enum import Enum
from itertools import islice
from typing import Final, NamedTuple

IMPATIENT_SHARE: Final = 0.10
"""Send the same request twice, one half of them without waiting for the answer."""
GREEDY_SHARE: Final = 0.05
"""Try a second purchase with another key."""
RETRIES_MAX: Final = 8
"""How often a request that was answered 429 or 503, or not at all, is sent again."""
RETRY_AFTER_MAX_S: Final = 5.0
"""No buyer waits longer, whatever Retry-After says."""
RETRY_JITTER_S: Final = 0.25
"""Buyers who were sent away together do not return together."""
LOST_RETRY_S: Final = 0.5
EXAMPLES_MAX: Final = 5
"""Untrue answers told in full, of each kind."""


class Manner(Enum):
    """How a buyer behaves."""

    PLAIN = enum.auto()
    TWICE_AT_ONCE = enum.auto()
    TWICE_AFTERWARDS = enum.auto()
    GREEDY = enum.auto()


class Role(Enum):
    """What a request is for."""

    FIRST = enum.auto()
    TWIN = enum.auto()
    """The same request, sent with the first one."""
    AGAIN = enum.auto()
    """The same request, sent after the first one was answered."""
    SECOND = enum.auto()
    """Another purchase."""


class Told(Enum):
    """What an answer comes to."""

    ACCEPTED = enum.auto()
    SOLD_OUT = enum.auto()
    LIMIT_REACHED = enum.auto()
    RATE_LIMITED = enum.auto()
    NOT_NOW = enum.auto()
    """503, or no answer: nothing is known."""
    REFUSED = enum.auto()
    """What no buyer of this crowd should be told."""


class Outcome(Enum):
    """How a buyer ends; each in exactly one way."""

    ACCEPTED = "accepted"
    SOLD_OUT = "sold_out"
    RATE_LIMITED = "rate_limited"
    FAILED = "failed"


class Reply(NamedTuple):
    """An answer as far as a buyer cares; status 0: none came."""

    status: int
    code: str = ""
    order_id: str = ""
    replayed: bool = False
    retry_after_s: float = 0.0


NO_REPLY: Final = Reply(0, "NO_ANSWER", retry_after_s=LOST_RETRY_S)


class Buyer:
    """One buyer and what he has been told so far, per key (the first purchase, the second)."""

    __slots__ = ("accepted_as_new", "in_doubt", "last", "manner", "number", "order_ids", "sold_out", "waiting_for")

    def __init__(self, number: int, manner: Manner) -> None:
        self.number = number
        self.manner = manner
        self.waiting_for = 0
        self.order_ids = ["", ""]
        self.accepted_as_new = [False, False]
        self.sold_out = [False, False]
        self.in_doubt = False
        """A request came to nothing that is known: it may have been accepted."""
        self.last = Told.REFUSED
        """What the first purchase came to at last."""


class Ask:
    """One request of a buyer; the same object is sent again after 429 and 503."""

    __slots__ = ("buyer", "key_no", "ready_s", "role", "tries", "was_promised")

    def __init__(self, buyer: Buyer, role: Role) -> None:
        self.buyer = buyer
        self.role = role
        self.key_no = 1 if role is Role.SECOND else 0
        self.tries = 0
        self.ready_s = 0.0
        """When the buyer was ready to send it, seconds of the sender's clock."""
        self.was_promised = False
        """Whether this key had been answered 202 when the request was sent."""


def buyer_name(number: int) -> str:
    """Return the user id of a buyer."""
    return f"buyer-{number}"


def purchase_key(seed: int, number: int, key_no: int = 0) -> str:
    """Return the Idempotency-Key of a buyer's first purchase, or of his second."""
    return f"{seed}-{number}-{key_no}"


def classify(reply: Reply) -> Told:
    """Return what an answer comes to."""
    match reply.status, reply.code:
        case 202, _:
            return Told.ACCEPTED
        case 409, "SOLD_OUT":
            return Told.SOLD_OUT
        case 409, "LIMIT_REACHED":
            return Told.LIMIT_REACHED
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


class Crowd:
    """All buyers. The caller sends what it is given, and tells what was answered.

    Args:
        campaign_id: what order ids must begin with.
        buyers: how many.
        seed: the same seed makes the same crowd.
    """

    def __init__(self, campaign_id: str, buyers: int, seed: int) -> None:
        self._chance = random.Random(seed)  # noqa: S311 -- no secret
        self._order_id = re.compile(re.escape(campaign_id) + r"~[0-9a-f]{32}")
        self._buyers = [Buyer(number, self._manner()) for number in range(buyers)]
        self.unsettled = buyers
        self.units_come_back = False
        """Whether orders may have expired by now, so that their units are on sale again."""
        self.outcomes: Counter[Outcome] = Counter()
        self.order_ids: set[str] = set()
        self.answers: Counter[str] = Counter()
        self.untrue: Counter[str] = Counter()
        self.examples: list[str] = []
        self.sent = 0
        self.replays = 0
        self.retries = 0

    def _manner(self) -> Manner:
        chance = self._chance.random()
        if chance < IMPATIENT_SHARE:
            return Manner.TWICE_AT_ONCE if chance < IMPATIENT_SHARE / 2 else Manner.TWICE_AFTERWARDS
        return Manner.GREEDY if chance < IMPATIENT_SHARE + GREEDY_SHARE else Manner.PLAIN

    def arrive(self) -> Iterator[Ask]:
        """Return everybody's first request, and the second of those who cannot wait."""
        for buyer in self._buyers:
            yield self._ask(buyer, Role.FIRST)
            if buyer.manner is Manner.TWICE_AT_ONCE:
                yield self._ask(buyer, Role.TWIN)

    def _ask(self, buyer: Buyer, role: Role) -> Ask:
        buyer.waiting_for += 1
        return Ask(buyer, role)

    def sending(self, ask: Ask) -> None:
        """Take note that a request goes out now."""
        self.sent += 1
        ask.was_promised = bool(ask.buyer.order_ids[ask.key_no])

    def hear(self, ask: Ask, reply: Reply) -> list[tuple[Ask, float]]:
        """Take an answer in; returns what is to be sent because of it, and after how many seconds."""
        told = classify(reply)
        buyer = ask.buyer
        self.answers[reply.code or str(reply.status)] += 1
        self._judge(ask, told, reply)
        if told is Told.NOT_NOW:
            buyer.in_doubt = True
        if comes_back(told, ask.tries):
            ask.tries += 1
            self.retries += 1
            return [(ask, pause_s(reply.retry_after_s, self._chance.random()))]
        if ask.role in {Role.FIRST, Role.TWIN} and told is not Told.NOT_NOW:
            buyer.last = told
        following = [(self._ask(buyer, role), 0.0) for role in _next_roles(ask, told)]
        buyer.waiting_for -= 1
        if not buyer.waiting_for:
            self.unsettled -= 1
            self.outcomes[_outcome(buyer)] += 1
        return following

    def _judge(self, ask: Ask, told: Told, reply: Reply) -> None:
        """Hold an answer against everything that this buyer was told before, and remember it."""
        if told is Told.ACCEPTED:
            self._judge_acceptance(ask, reply)
            return
        if told in {Told.RATE_LIMITED, Told.NOT_NOW}:
            return
        buyer, key_no = ask.buyer, ask.key_no
        if buyer.order_ids[key_no]:
            self._untrue(ask, reply, "a refusal of an order that was accepted")
        if told is Told.LIMIT_REACHED and not buyer.order_ids[1 - key_no] and not buyer.in_doubt:
            self._untrue(ask, reply, "LIMIT_REACHED for a buyer who holds nothing")
        if told is Told.SOLD_OUT:
            buyer.sold_out[key_no] = True

    def _judge_acceptance(self, ask: Ask, reply: Reply) -> None:
        buyer, key_no = ask.buyer, ask.key_no
        known = buyer.order_ids[key_no]
        if not self._order_id.fullmatch(reply.order_id):
            self._untrue(ask, reply, "202 without an order id of this campaign")
            return
        if known and known != reply.order_id:
            self._untrue(ask, reply, "another order id for the same key")
        if not reply.replayed and (ask.was_promised or buyer.accepted_as_new[key_no]):
            self._untrue(ask, reply, "a replay told as a new order")
        if not self.units_come_back:
            if any(buyer.sold_out):
                self._untrue(ask, reply, "202 after SOLD_OUT")
            if buyer.order_ids[1 - key_no]:
                self._untrue(ask, reply, "two orders for one buyer")
        if reply.replayed:
            self.replays += 1
        else:
            buyer.accepted_as_new[key_no] = True
        buyer.order_ids[key_no] = known or reply.order_id
        self.order_ids.add(reply.order_id)

    def empty_handed(self, count_max: int) -> list[int]:
        """Return the numbers of buyers who were told SOLD_OUT for good, as many as asked for."""
        found = (buyer.number for buyer in self._buyers if _outcome(buyer) is Outcome.SOLD_OUT)
        return list(islice(found, count_max))

    def _untrue(self, ask: Ask, reply: Reply, what: str) -> None:
        self.untrue[what] += 1
        if self.untrue[what] <= EXAMPLES_MAX:
            said = f"{reply.status} {reply.code or reply.order_id}"
            self.examples.append(f"buyer {ask.buyer.number}, {ask.role.name.lower()} request: {what}: {said}")


def _next_roles(ask: Ask, told: Told) -> tuple[Role, ...]:
    """Return what a buyer asks for once the first request is answered for good."""
    if ask.role is not Role.FIRST or told in {Told.RATE_LIMITED, Told.NOT_NOW}:
        return ()
    match ask.buyer.manner:
        case Manner.TWICE_AFTERWARDS:
            return (Role.AGAIN,)
        case Manner.GREEDY:
            return (Role.SECOND,)
        case _:
            return ()


def _outcome(buyer: Buyer) -> Outcome:
    if any(buyer.order_ids):
        return Outcome.ACCEPTED
    if buyer.sold_out[0]:
        return Outcome.SOLD_OUT
    return Outcome.RATE_LIMITED if buyer.last is Told.RATE_LIMITED else Outcome.FAILED

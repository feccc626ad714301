"""Crowds that buy, and crowds that redeem points; see `crowd`.

All want one unit of the same thing. Most ask once. Impatient ones send the same request again with the same key, at
once or after the answer; greedy ones ask for a second unit with another key.

In a sale each may have one. Until the first order can expire nothing is given back, which makes the truth simple: an
acceptance is for ever, and so is SOLD_OUT. From then on SOLD_OUT may be followed by a 202, and who has let his order
expire may buy again.

In a redemption buyers have different purses, and each may have as many units as he can pay for, two at most. Of those
who can pay for one exactly, some ask for two at once, with two keys. A unit comes back whenever a redemption is
refused after all.
"""

import enum
import random
import re
from collections.abc import Iterator, Sequence
from enum import Enum
from itertools import islice
from typing import Final

from bench.crowd import Ask, Crowd, Outcome, Reply, Role, Told
from bench.crowd import Buyer as AnyBuyer

IMPATIENT_SHARE: Final = 0.10
"""Send the same request twice, one half of them without waiting for the answer."""
GREEDY_SHARE: Final = 0.05
"""Try a second purchase with another key."""
NO_ACCOUNT_SHARE: Final = 0.05
SHORT_SHARE: Final = 0.10
ENOUGH_FOR_ONE_SHARE: Final = 0.25
RACING_SHARE: Final = 0.4
"""Of those who can pay for one: ask for two at once."""


class Manner(Enum):
    """How a buyer behaves."""

    PLAIN = enum.auto()
    TWICE_AT_ONCE = enum.auto()
    TWICE_AFTERWARDS = enum.auto()
    GREEDY = enum.auto()
    RACING = enum.auto()
    """Sends two purchases at once, with two keys."""


class Purse(Enum):
    """How many points a buyer has."""

    NO_ACCOUNT = enum.auto()
    SHORT = enum.auto()
    """Fewer than one unit costs."""
    ONE = enum.auto()
    """As many as one unit costs."""
    PLENTY = enum.auto()
    """Enough for whatever he asks for."""


class Buyer(AnyBuyer):
    """One buyer and what he has been told so far, per key (the first purchase, the second)."""

    __slots__ = ("accepted_as_new", "last", "manner", "order_ids", "purse", "sold_out")

    def __init__(self, number: int, manner: Manner, purse: Purse = Purse.PLENTY) -> None:
        super().__init__(number)
        self.manner = manner
        self.purse = purse
        self.order_ids = ["", ""]
        self.accepted_as_new = [False, False]
        self.sold_out = [False, False]
        self.last = Told.REFUSED
        """What the first purchase came to at last."""


def purses(seed: int, buyers: int) -> list[Purse]:
    """Return everybody's purse; the same seed gives the same ones."""
    chance = random.Random(f"purses {seed}")  # noqa: S311 -- no secret
    return [_purse(chance.random()) for _ in range(buyers)]


def _purse(chance: float) -> Purse:
    for purse, share in (
        (Purse.NO_ACCOUNT, NO_ACCOUNT_SHARE),
        (Purse.SHORT, SHORT_SHARE),
        (Purse.ONE, ENOUGH_FOR_ONE_SHARE),
    ):
        if chance < share:
            return purse
        chance -= share
    return Purse.PLENTY


class OrderCrowd(Crowd[Buyer]):
    """A crowd in a sale.

    Args:
        campaign_id: what order ids must begin with.
        buyers: how many.
        seed: the same seed makes the same crowd.
    """

    def __init__(self, campaign_id: str, buyers: int, seed: int) -> None:
        chance = random.Random(seed)  # noqa: S311 -- no secret
        super().__init__(self.gather(buyers, seed, chance), chance, self.known())
        self._order_id = re.compile(re.escape(campaign_id) + r"~[0-9a-f]{32}")

    def known(self) -> frozenset[Told]:
        """Return what may be answered."""
        return frozenset({Told.ACCEPTED, Told.SOLD_OUT, Told.LIMIT_REACHED})

    def gather(self, buyers: int, _seed: int, chance: random.Random) -> Sequence[Buyer]:
        """Return everybody."""
        return [Buyer(number, _manner(chance.random())) for number in range(buyers)]

    def first_asks(self, buyer: Buyer) -> Iterator[Ask[Buyer]]:
        """Yield the first request, and the second of those who cannot wait."""
        yield self.ask(buyer, Role.FIRST)
        if buyer.manner is Manner.TWICE_AT_ONCE:
            yield self.ask(buyer, Role.TWIN)
        elif buyer.manner is Manner.RACING:
            yield self.ask(buyer, Role.SECOND, 1)

    def is_promised(self, ask: Ask[Buyer]) -> bool:
        """See `Crowd`."""
        return bool(ask.buyer.order_ids[ask.key_no])

    def next_asks(self, ask: Ask[Buyer], told: Told) -> Iterator[Ask[Buyer]]:
        """Yield what a buyer asks for once the first request is answered for good."""
        buyer = ask.buyer
        if ask.role in {Role.FIRST, Role.TWIN} and told is not Told.NOT_NOW:
            buyer.last = told
        if ask.role is not Role.FIRST or told in {Told.RATE_LIMITED, Told.NOT_NOW}:
            return
        if buyer.manner is Manner.TWICE_AFTERWARDS:
            yield self.ask(buyer, Role.AGAIN)
        elif buyer.manner is Manner.GREEDY:
            yield self.ask(buyer, Role.SECOND, 1)

    def judge(self, ask: Ask[Buyer], told: Told, reply: Reply) -> None:
        """See `Crowd`."""
        if told is Told.ACCEPTED:
            self._judge_acceptance(ask, reply)
            return
        if told in {Told.RATE_LIMITED, Told.NOT_NOW}:
            return
        buyer, key_no = ask.buyer, ask.key_no
        if buyer.order_ids[key_no]:
            self.call_untrue(ask, reply, "a refusal of an order that was accepted")
        if told is Told.LIMIT_REACHED and not buyer.order_ids[1 - key_no] and not buyer.in_doubt:
            self.call_untrue(ask, reply, "LIMIT_REACHED for a buyer who holds nothing")
        if told is Told.SOLD_OUT:
            buyer.sold_out[key_no] = True

    def _judge_acceptance(self, ask: Ask[Buyer], reply: Reply) -> None:
        buyer, key_no = ask.buyer, ask.key_no
        known = buyer.order_ids[key_no]
        if not self._order_id.fullmatch(reply.order_id):
            self.call_untrue(ask, reply, "202 without an order id of this campaign")
            return
        if known and known != reply.order_id:
            self.call_untrue(ask, reply, "another order id for the same key")
        if not reply.replayed and (ask.was_promised or buyer.accepted_as_new[key_no]):
            self.call_untrue(ask, reply, "a replay told as a new order")
        if not self.units_come_back:
            if any(buyer.sold_out):
                self.call_untrue(ask, reply, "202 after SOLD_OUT")
            if buyer.order_ids[1 - key_no]:
                self.call_untrue(ask, reply, "two orders for one buyer")
        if reply.replayed:
            self.replays += 1
        else:
            buyer.accepted_as_new[key_no] = True
        buyer.order_ids[key_no] = known or reply.order_id
        self.order_ids.add(reply.order_id)

    def empty_handed(self, count_max: int) -> list[int]:
        """Return the numbers of buyers who were told SOLD_OUT for good, as many as asked for."""
        found = (buyer.number for buyer in self.buyers if self.outcome(buyer) is Outcome.SOLD_OUT)
        return list(islice(found, count_max))

    def outcome(self, buyer: Buyer) -> Outcome:
        """See `Crowd`."""
        if any(buyer.order_ids):
            return Outcome.ACCEPTED
        if buyer.sold_out[0]:
            return Outcome.SOLD_OUT
        if buyer.last is Told.POINTS_SHORT:
            return Outcome.POINTS_SHORT
        return Outcome.RATE_LIMITED if buyer.last is Told.RATE_LIMITED else Outcome.FAILED


class RedemptionCrowd(OrderCrowd):
    """A crowd in a redemption; its purses are those of `purses`."""

    def __init__(self, campaign_id: str, buyers: int, seed: int) -> None:
        super().__init__(campaign_id, buyers, seed)
        self.units_come_back = True

    def known(self) -> frozenset[Told]:
        """See `OrderCrowd`."""
        return super().known() | {Told.POINTS_SHORT}

    def gather(self, buyers: int, seed: int, chance: random.Random) -> Sequence[Buyer]:
        """See `OrderCrowd`."""
        found = []
        for number, purse in enumerate(purses(seed, buyers)):
            races = purse is Purse.ONE and chance.random() < RACING_SHARE
            manner = Manner.RACING if races else _manner(chance.random())
            found.append(Buyer(number, manner, purse))
        return found

    def judge(self, ask: Ask[Buyer], told: Told, reply: Reply) -> None:
        """See `Crowd`."""
        if told is Told.POINTS_SHORT and not self._may_be_short(ask):
            self.call_untrue(ask, reply, "POINTS_SHORT for a buyer who has enough")
        super().judge(ask, told, reply)

    def empty_handed(self, count_max: int) -> list[int]:
        """Return the numbers of buyers who were told SOLD_OUT for good and have enough, as many as asked for."""
        able = {Purse.ONE, Purse.PLENTY}
        found = (
            buyer.number for buyer in self.buyers if buyer.purse in able and self.outcome(buyer) is Outcome.SOLD_OUT
        )
        return list(islice(found, count_max))

    def _may_be_short(self, ask: Ask[Buyer]) -> bool:
        """Tell whether a buyer may have too few points for a request: at once, or because another has taken them."""
        buyer = ask.buyer
        if buyer.purse is Purse.PLENTY:
            return False
        # The answer about another purchase may still be on its way, after its points have gone.
        return buyer.purse is not Purse.ONE or buyer.manner in {Manner.GREEDY, Manner.RACING}


def _manner(chance: float) -> Manner:
    if chance < IMPATIENT_SHARE:
        return Manner.TWICE_AT_ONCE if chance < IMPATIENT_SHARE / 2 else Manner.TWICE_AFTERWARDS
    return Manner.GREEDY if chance < IMPATIENT_SHARE + GREEDY_SHARE else Manner.PLAIN

"""A crowd in a lottery; see `crowd`.

Most buyers take all draws that they have, with a key each, one after the other or at once. Some take one only, some
ask for one more than they have, some ask for a draw again with the same key, and some lose the connection before they
hear what they have drawn, and ask again, too: the same key must answer the same draw.
"""

import enum
import random
import re
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Final

from bench.crowd import Ask, Crowd, Draw, Outcome, Reply, Role, Told
from bench.crowd import Buyer as AnyBuyer

HANGING_UP_SHARE: Final = 0.02
AGAIN_SHARE: Final = 0.05
GREEDY_SHARE: Final = 0.05
ONCE_SHARE: Final = 0.20
AT_ONCE_SHARE: Final = 0.20


class Manner(Enum):
    """How a buyer behaves."""

    HANGING_UP = enum.auto()
    """Loses the connection during the first draw."""
    AGAIN = enum.auto()
    """Asks for the first draw again."""
    GREEDY = enum.auto()
    """Asks for one draw more than he has."""
    ONCE = enum.auto()
    """Takes one draw."""
    AT_ONCE = enum.auto()
    """Takes all draws without waiting."""
    PLAIN = enum.auto()
    """Takes one draw after the other."""


_SHARES: Final = (
    (Manner.HANGING_UP, HANGING_UP_SHARE),
    (Manner.AGAIN, AGAIN_SHARE),
    (Manner.GREEDY, GREEDY_SHARE),
    (Manner.ONCE, ONCE_SHARE),
    (Manner.AT_ONCE, AT_ONCE_SHARE),
)


class Buyer(AnyBuyer):
    """One buyer and what he has been told so far, per key."""

    __slots__ = ("drawn", "last", "manner", "told_as_new")

    def __init__(self, number: int, manner: Manner) -> None:
        super().__init__(number)
        self.manner = manner
        self.drawn: dict[int, Draw] = {}
        self.told_as_new: set[int] = set()
        self.last = Told.REFUSED
        """What a request came to that was no draw."""


class DrawCrowd(Crowd[Buyer]):
    """A crowd in a lottery.

    Args:
        campaign_id: what draw ids must begin with.
        buyers: how many.
        seed: the same seed makes the same crowd.
        draws_per_user: as the campaign has it.
        prizes: SKU id → points of the prizes that there are.
    """

    def __init__(
        self, campaign_id: str, buyers: int, seed: int, *, draws_per_user: int, prizes: Mapping[str, int]
    ) -> None:
        chance = random.Random(seed)  # noqa: S311 -- no secret
        everybody = [Buyer(number, _manner(chance.random())) for number in range(buyers)]
        super().__init__(everybody, chance, frozenset({Told.DRAWN, Told.SOLD_OUT, Told.LIMIT_REACHED}))
        self._draw_id = re.compile(re.escape(campaign_id) + r"~[0-9a-f]{32}")
        self._draws_per_user = draws_per_user
        self._prizes = prizes
        self._drawn: dict[str, Draw] = {}
        self._hung_up = self._limited = 0

    def counts(self) -> dict[str, int]:
        """Return the outcomes, and the draws, those of them that won, and what was asked for beyond the limit."""
        return {
            **super().counts(),
            "draws": len(self._drawn),
            "prizes": len(self.order_ids),
            "over_limit": self._limited,
            "hung_up": self._hung_up,
        }

    def draws(self) -> list[Draw]:
        """See `Crowd`."""
        return list(self._drawn.values())

    def first_asks(self, buyer: Buyer) -> Iterator[Ask[Buyer]]:
        """Yield one draw, or all of those who cannot wait."""
        hangs_up = buyer.manner is Manner.HANGING_UP
        self._hung_up += hangs_up
        yield self.ask(buyer, Role.FIRST, hangs_up=hangs_up)
        if buyer.manner is Manner.AT_ONCE:
            for key_no in range(1, self._draws_per_user):
                yield self.ask(buyer, Role.SECOND, key_no)

    def is_promised(self, ask: Ask[Buyer]) -> bool:
        """See `Crowd`."""
        return ask.key_no in ask.buyer.drawn

    def next_asks(self, ask: Ask[Buyer], told: Told) -> Iterator[Ask[Buyer]]:
        """Yield the next draw, or the same again."""
        buyer = ask.buyer
        if told is not Told.DRAWN:
            buyer.last = told
            return
        if ask.role is Role.AGAIN or buyer.manner in {Manner.ONCE, Manner.AT_ONCE}:
            return
        if buyer.manner is Manner.AGAIN and ask.role is Role.FIRST:
            yield self.ask(buyer, Role.AGAIN)
        more = 1 if buyer.manner is Manner.GREEDY else 0
        if ask.key_no + 1 < self._draws_per_user + more:
            yield self.ask(buyer, Role.SECOND, ask.key_no + 1)

    def judge(self, ask: Ask[Buyer], told: Told, reply: Reply) -> None:
        """See `Crowd`."""
        buyer = ask.buyer
        if told is Told.DRAWN and reply.draw is not None:
            self._judge_draw(ask, reply, reply.draw)
            return
        if told in {Told.RATE_LIMITED, Told.NOT_NOW}:
            return
        if ask.key_no in buyer.drawn:
            self.call_untrue(ask, reply, "a refusal of a draw that was answered")
        if told is Told.LIMIT_REACHED:
            self._limited += 1
            if len(buyer.drawn) < self._draws_per_user and not buyer.in_doubt:
                self.call_untrue(ask, reply, "LIMIT_REACHED for a buyer who has draws left")

    def _judge_draw(self, ask: Ask[Buyer], reply: Reply, draw: Draw) -> None:
        buyer, key_no = ask.buyer, ask.key_no
        if not self._draw_id.fullmatch(draw.draw_id):
            self.call_untrue(ask, reply, "200 without a draw id of this campaign")
            return
        self._compare(ask, reply, draw)
        if draw.points != self._prizes.get(draw.sku_id, 0) or (draw.sku_id and draw.sku_id not in self._prizes):
            self.call_untrue(ask, reply, "a prize that the lottery does not have")
        if not 0 <= draw.left < self._draws_per_user:
            self.call_untrue(ask, reply, "a number of draws left that cannot be")
        if reply.replayed:
            self.replays += 1
        else:
            buyer.told_as_new.add(key_no)
        buyer.drawn.setdefault(key_no, draw)
        if len(buyer.drawn) > self._draws_per_user:
            self.call_untrue(ask, reply, "more draws than a buyer has")
        self._drawn.setdefault(draw.draw_id, draw)
        if draw.sku_id:
            self.order_ids.add(draw.draw_id)

    def _compare(self, ask: Ask[Buyer], reply: Reply, draw: Draw) -> None:
        """Hold a draw against what was told under its key."""
        known = ask.buyer.drawn.get(ask.key_no)
        if known is None:
            if draw.draw_id in self._drawn:
                self.call_untrue(ask, reply, "one draw for two keys")
            return
        if known._replace(left=0) != draw._replace(left=0):
            self.call_untrue(ask, reply, "another draw for the same key")
        if not reply.replayed and (ask.was_promised or ask.key_no in ask.buyer.told_as_new):
            self.call_untrue(ask, reply, "a replay told as a new draw")

    def outcome(self, buyer: Buyer) -> Outcome:
        """See `Crowd`."""
        if buyer.drawn:
            return Outcome.WON if any(draw.sku_id for draw in buyer.drawn.values()) else Outcome.NO_PRIZE
        if buyer.last is Told.SOLD_OUT:
            return Outcome.SOLD_OUT
        return Outcome.RATE_LIMITED if buyer.last is Told.RATE_LIMITED else Outcome.FAILED


def _manner(chance: float) -> Manner:
    for manner, share in _SHARES:
        if chance < share:
            return manner
        chance -= share
    return Manner.PLAIN

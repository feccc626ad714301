"""The crowd's decisions: who asks again, what is counted, which answers contradict each other."""

import random
from collections import Counter

import pytest

from bench import crowd_draws as draws
from bench.crowd import (
    NO_REPLY,
    RETRIES_MAX,
    RETRY_AFTER_MAX_S,
    RETRY_JITTER_S,
    Ask,
    Draw,
    Outcome,
    Reply,
    Role,
    Told,
    classify,
    comes_back,
    pause_s,
)
from bench.crowd_draws import DrawCrowd
from bench.crowd_http import BadAnswerError, parse_response, read_reply
from bench.crowd_orders import (
    GREEDY_SHARE,
    IMPATIENT_SHARE,
    Buyer,
    Manner,
    OrderCrowd,
    Purse,
    RedemptionCrowd,
)
from domain.order import order_id

CAMPAIGN = "demo"
SOLD_OUT = Reply(409, "SOLD_OUT")
LIMIT_REACHED = Reply(409, "LIMIT_REACHED")
RATE_LIMITED = Reply(429, "RATE_LIMITED", retry_after_s=1)
BUSY = Reply(503, "BUSY", retry_after_s=1)


def accepted(number: int, key_no: int = 0, *, replayed: bool = False) -> Reply:
    """Return a true 202."""
    return Reply(202, "ACCEPTED", order_id(CAMPAIGN, str(number), str(key_no)), replayed)


def first_ask(crowd: OrderCrowd, manner: Manner) -> Ask[Buyer]:
    """Return the first request of a buyer of this manner, sent."""
    ask = next(ask for ask in crowd.arrive() if ask.buyer.manner is manner)
    crowd.sending(ask)
    return ask


class Shop:
    """A shop that tells the truth, now and then late, not at all, or to come back later."""

    def __init__(self, stock: int, trouble: random.Random, share: float) -> None:
        self.stock = stock
        self.orders: dict[int, int] = {}
        self._trouble = trouble
        self._share = share

    def answer(self, ask: Ask[Buyer]) -> Reply:
        """Decide a request; the decision stands even if the answer is lost."""
        if self._trouble.random() < self._share:
            return self._trouble.choice((RATE_LIMITED, BUSY, NO_REPLY))
        reply = self._decide(ask.buyer.number, ask.key_no)
        return NO_REPLY if self._trouble.random() < self._share else reply

    def _decide(self, number: int, key_no: int) -> Reply:
        held = self.orders.get(number)
        if held == key_no:
            return accepted(number, key_no, replayed=True)
        if held is not None:
            return LIMIT_REACHED
        if len(self.orders) == self.stock:
            return SOLD_OUT
        self.orders[number] = key_no
        return accepted(number, key_no)


def let_loose(crowd: OrderCrowd, shop: Shop, order: random.Random) -> None:
    """Run a crowd to its end; requests are decided, and answers come, in any order."""
    ready = list(crowd.arrive())
    on_the_way: list[tuple[Ask[Buyer], Reply]] = []
    while ready or on_the_way:
        if ready and (not on_the_way or order.random() < 0.6):
            ask = ready.pop(order.randrange(len(ready)))
            crowd.sending(ask)
            on_the_way.append((ask, shop.answer(ask)))
        else:
            ask, reply = on_the_way.pop(order.randrange(len(on_the_way)))
            ready += [following for following, _ in crowd.hear(ask, reply)]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.4])
@pytest.mark.parametrize("seed", range(5))
def test_a_truthful_shop_is_never_called_a_liar(seed: int, share: float) -> None:
    """Whatever is lost, late or refused for now: true answers raise no alarm, and each buyer ends in one way."""
    crowd = OrderCrowd(CAMPAIGN, 600, seed)
    shop = Shop(100, random.Random(seed), share)
    let_loose(crowd, shop, random.Random(seed + 1))
    assert not crowd.untrue
    assert crowd.unsettled == 0
    assert crowd.outcomes.total() == 600
    assert len(shop.orders) == 100
    assert crowd.outcomes[Outcome.ACCEPTED] == len(crowd.order_ids)
    if share < 0.1:  # nobody gives up: RETRIES_MAX times in a row is too rare
        assert crowd.outcomes == {Outcome.ACCEPTED: 100, Outcome.SOLD_OUT: 500}


def test_a_seed_makes_a_crowd() -> None:
    """The same seed makes the same buyers, another one others, in about the shares named."""
    manners = [
        [ask.buyer.manner for ask in OrderCrowd(CAMPAIGN, 10_000, seed).arrive() if ask.role is Role.FIRST]
        for seed in (1, 1, 2)
    ]
    assert manners[0] == manners[1] != manners[2]
    counts = Counter(manners[0])
    assert counts[Manner.TWICE_AT_ONCE] == pytest.approx(10_000 * IMPATIENT_SHARE / 2, rel=0.2)
    assert counts[Manner.TWICE_AFTERWARDS] == pytest.approx(10_000 * IMPATIENT_SHARE / 2, rel=0.2)
    assert counts[Manner.GREEDY] == pytest.approx(10_000 * GREEDY_SHARE, rel=0.2)


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (accepted(1), Told.ACCEPTED),
        (SOLD_OUT, Told.SOLD_OUT),
        (LIMIT_REACHED, Told.LIMIT_REACHED),
        (RATE_LIMITED, Told.RATE_LIMITED),
        (BUSY, Told.NOT_NOW),
        (Reply(503, "UNKNOWN"), Told.NOT_NOW),
        (NO_REPLY, Told.NOT_NOW),
        (Reply(403, "NOT_STARTED"), Told.REFUSED),
        (Reply(401, "UNAUTHENTICATED"), Told.REFUSED),
        (Reply(200), Told.REFUSED),
        (Reply(500), Told.REFUSED),
    ],
)
def test_what_an_answer_comes_to(reply: Reply, told: Told) -> None:
    """Only the contract's own answers count as such."""
    assert classify(reply) is told


def test_who_comes_back() -> None:
    """429, 503 and silence bring a buyer back a bounded number of times, nothing else does."""
    for told in Told:
        returns = [comes_back(told, tries) for tries in range(RETRIES_MAX + 1)]
        passing = told in {Told.RATE_LIMITED, Told.NOT_NOW}
        assert returns == [passing] * RETRIES_MAX + [False]


def test_how_long_a_buyer_waits() -> None:
    """Retry-After is kept to, within a bound; chance only adds, and little."""
    assert pause_s(2, 0.0) == 2
    assert pause_s(2, 0.5) == 2 + RETRY_JITTER_S / 2
    assert pause_s(3_600, 0.0) == RETRY_AFTER_MAX_S
    assert pause_s(-1, 0.0) == 0


@pytest.mark.parametrize(
    ("reply", "outcome"),
    [
        (RATE_LIMITED, Outcome.RATE_LIMITED),
        (BUSY, Outcome.FAILED),
        (NO_REPLY, Outcome.FAILED),
    ],
)
def test_a_buyer_gives_up(reply: Reply, outcome: Outcome) -> None:
    """Who is sent away every time ends as rate limited or failed, after RETRIES_MAX repeats of the same request."""
    crowd = OrderCrowd(CAMPAIGN, 1, 3)
    (ask,) = crowd.arrive()
    for _ in range(RETRIES_MAX):
        crowd.sending(ask)
        ((again, after_s),) = crowd.hear(ask, reply)
        assert again is ask
        assert after_s >= reply.retry_after_s
    assert crowd.hear(ask, reply) == []
    assert crowd.outcomes == {outcome: 1}
    assert crowd.sent + 1 == crowd.answers.total() == RETRIES_MAX + 1


def test_impatient_and_greedy_buyers_are_one_buyer_each() -> None:
    """A repeat and a refused second purchase count as nothing of their own."""
    for manner, reply in (
        (Manner.TWICE_AFTERWARDS, accepted(0, replayed=True)),
        (Manner.GREEDY, LIMIT_REACHED),
    ):
        crowd = OrderCrowd(CAMPAIGN, 200, 1)
        ask = first_ask(crowd, manner)
        ((following, after_s),) = crowd.hear(ask, accepted(0))
        assert after_s == 0
        assert (following.key_no == ask.key_no) is (manner is Manner.TWICE_AFTERWARDS)
        assert crowd.outcomes.total() == 0
        crowd.sending(following)
        assert crowd.hear(following, reply) == []
        assert crowd.outcomes == {Outcome.ACCEPTED: 1}
        assert not crowd.untrue


@pytest.mark.parametrize(
    ("manner", "first", "then"),
    [
        (Manner.TWICE_AFTERWARDS, accepted(0), accepted(1, replayed=True)),
        (Manner.TWICE_AFTERWARDS, accepted(0), accepted(0)),
        (Manner.TWICE_AFTERWARDS, accepted(0), SOLD_OUT),
        (Manner.TWICE_AFTERWARDS, accepted(0), Reply(422, "KEY_REUSED")),
        (Manner.TWICE_AFTERWARDS, SOLD_OUT, accepted(0)),
        (Manner.GREEDY, accepted(0), accepted(0, 1)),
        (Manner.GREEDY, SOLD_OUT, accepted(0, 1)),
        (Manner.GREEDY, SOLD_OUT, LIMIT_REACHED),
    ],
)
def test_a_contradiction_is_noticed(manner: Manner, first: Reply, then: Reply) -> None:
    """What contradicts the answer before it is counted once and told in words."""
    crowd = OrderCrowd(CAMPAIGN, 200, 1)
    ((following, _),) = crowd.hear(first_ask(crowd, manner), first)
    assert not crowd.untrue
    crowd.sending(following)
    crowd.hear(following, then)
    assert crowd.untrue.total() == len(crowd.examples) == 1


@pytest.mark.parametrize("reply", [LIMIT_REACHED, Reply(202, "ACCEPTED"), Reply(202, "ACCEPTED", "other~" + "0" * 32)])
def test_a_lie_at_once_is_noticed(reply: Reply) -> None:
    """A limit reached by nobody, and a 202 that is worth nothing, are untrue by themselves."""
    crowd = OrderCrowd(CAMPAIGN, 200, 1)
    crowd.hear(first_ask(crowd, Manner.PLAIN), reply)
    assert crowd.untrue.total() == 1
    assert crowd.outcomes == {Outcome.FAILED: 1}


# -- who draws, and who redeems points -------------------------------------------------------------------------------

PRIZES = {"cup": 100, "pin": 0}


def draw(number: int, sku_id: str = "", *, left: int = 1, replayed: bool = False) -> Reply:
    """Return a true answer to a draw; `number` is its line in the log."""
    told = Draw(order_id(CAMPAIGN, str(number), "0"), sku_id, PRIZES.get(sku_id, 0), left, number, "h")
    return Reply(200, replayed=replayed, draw=told)


def drawing(manner: draws.Manner) -> tuple[DrawCrowd, Ask[draws.Buyer]]:
    """Return a crowd with two draws each, and the first request of a buyer of this manner, sent."""
    crowd = DrawCrowd(CAMPAIGN, 400, 1, draws_per_user=2, prizes=PRIZES)
    ask = next(ask for ask in crowd.arrive() if ask.buyer.manner is manner)
    crowd.sending(ask)
    return crowd, ask


def test_who_draws_is_told_the_same_again() -> None:
    """A repeat with the same key is the same draw; another draw, or a replay told as new, is untrue."""
    for again, untrue in ((draw(1, "cup", replayed=True), 0), (draw(2, "cup", replayed=True), 1), (draw(1, "cup"), 1)):
        crowd, ask = drawing(draws.Manner.AGAIN)
        repeat = next(one for one, _ in crowd.hear(ask, draw(1, "cup")) if one.role is Role.AGAIN)
        crowd.sending(repeat)
        crowd.hear(repeat, again)
        assert crowd.untrue.total() == untrue, again
        assert order_id(CAMPAIGN, "1", "0") in crowd.order_ids


@pytest.mark.parametrize(
    "reply", [draw(1, "car"), draw(1, left=2), Reply(200, draw=Draw("other~1", "", 0, 1, 1, "h")), LIMIT_REACHED]
)
def test_a_draw_that_cannot_be_is_noticed(reply: Reply) -> None:
    """An unknown prize, too many draws left, another campaign's draw, and a limit before the first draw."""
    crowd, ask = drawing(draws.Manner.ONCE)
    crowd.hear(ask, reply)
    assert crowd.untrue.total() == 1


def test_a_greedy_drawer_is_refused_after_his_draws() -> None:
    """One draw more than everybody has is LIMIT_REACHED; if it is drawn, that is untrue."""
    for last, untrue in ((LIMIT_REACHED, 0), (draw(3, left=0), 1)):
        crowd, ask = drawing(draws.Manner.GREEDY)
        ((second, _),) = crowd.hear(ask, draw(1))
        crowd.sending(second)
        ((third, _),) = crowd.hear(second, draw(2, left=0))
        crowd.sending(third)
        crowd.hear(third, last)
        assert (crowd.untrue.total(), crowd.outcomes) == (untrue, {Outcome.NO_PRIZE: 1})


def test_points_are_short_for_those_who_may_have_too_few() -> None:
    """POINTS_SHORT is untrue for a buyer with plenty, and how a buyer ends who never had enough."""
    crowd = RedemptionCrowd(CAMPAIGN, 400, 1)
    firsts = [ask for ask in crowd.arrive() if ask.role is Role.FIRST and ask.buyer.manner is Manner.PLAIN]
    rich, poor = (next(ask for ask in firsts if ask.buyer.purse is purse) for purse in (Purse.PLENTY, Purse.NO_ACCOUNT))
    for ask in (rich, poor):
        crowd.sending(ask)
        crowd.hear(ask, Reply(409, "POINTS_SHORT"))
    assert crowd.untrue.total() == 1
    assert crowd.outcomes == {Outcome.POINTS_SHORT: 2}


def http(status: str, body: bytes, *headers: bytes) -> bytes:
    """Return an HTTP answer."""
    lines = (b"HTTP/1.1 " + status.encode(), *headers, b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + body


def test_answers_are_read_from_any_pieces() -> None:
    """An answer is complete with its last byte, not before, and not longer than it says."""
    whole = http("202 Accepted", b'{"order_id":"demo~1"}', b"Idempotent-Replayed: true")
    for length in range(len(whole)):
        assert parse_response(whole[:length]) is None
    response = parse_response(whole + b"HTTP/1.1 ")
    assert response is not None
    assert response.size == len(whole)
    assert read_reply(response) == Reply(202, "ACCEPTED", "demo~1", replayed=True)


def test_a_refusal_is_read() -> None:
    """Code and Retry-After come from a problem document and its headers; names are of any case."""
    response = parse_response(http("429 Too Many", b'{"code":"RATE_LIMITED"}', b"retry-AFTER: 3", b"Connection: close"))
    assert response is not None
    assert not response.keeps_alive
    assert read_reply(response) == Reply(429, "RATE_LIMITED", retry_after_s=3)


@pytest.mark.parametrize("body", [b"", b"null", b"[]", b"\xff", b'{"code":'])
def test_nonsense_in_a_body_is_no_reason_to_stop(body: bytes) -> None:
    """A body that is no document has no code and no order id."""
    response = parse_response(http("500 Oops", body, b"Retry-After: nan"))
    assert response is not None
    assert read_reply(response) == Reply(500)


@pytest.mark.parametrize(
    "answer",
    [
        b"SMTP ready\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"HTTP/1.1 OK\r\nContent-Length: 0\r\n\r\n",
        b"x" * 20_000,
    ],
)
def test_what_is_no_answer_is_refused(answer: bytes) -> None:
    """Bytes that this client does not understand are an error, never a guess."""
    with pytest.raises(BadAnswerError):
        parse_response(answer)

"""Taking draws of a lottery: as orders are taken (gateway/orders.py), decided by `draw_prize.lua`."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from adapters.draws import DrawDecision, DrawReply, DrawRequest
from domain import outcomes
from domain.errors import BackendError, FencedError, OutcomeUnknownError
from domain.lottery import Prize, user_secret
from domain.order import order_id
from domain.outcomes import BUSY, UNKNOWN, Outcome, Problem
from domain.settings import GatewaySettings
from gateway.admission import draw_refusal, inflight_limit
from gateway.answers import BUSY_NOW, JSON, Answer, Decision, of_decision, problem
from gateway.campaigns import Campaigns
from gateway.group_commit import GroupCommit
from gateway.metrics import GatewayMetrics
from gateway.orders import (
    GUARD_WAIT_MS,
    KEY_MISSING,
    RETRY_WAIT_MS,
    OrderDesk,
    Promise,
    Then,
    decision_of,
    no_campaign,
    wrong_kind,
)
from gateway.requests import DrawBodies, InvalidRequestError, read_idempotency_key
from gateway.view import CampaignView
from gateway.watermarks import Watermarks

DRAWS_PER_ENTRY_MAX: Final = 500
"""An entry of the log is one record of Kafka, which takes a megabyte."""

Draw = Callable[[str, list[DrawRequest]], Awaitable[DrawReply]]

_DRAWN_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n%b"
_REPLAYED: Final = (("Idempotent-Replayed", "true"),)
_IS_ACCEPTED: Final = Outcome.ACCEPTED
_EXHAUSTED: Final = problem(outcomes.SOLD_OUT, "every prize of this lottery is gone")
_ALL_DRAWN: Final = problem(outcomes.LIMIT_REACHED, "you have had all your draws in this lottery")


def drawn(draw_id: str, prize: Prize | None, draws_left: int, seq: int, entry_hash: str, *, replayed: bool) -> Answer:
    """Return 200: what was drawn, and where that stands in the lottery's log."""
    # None of these needs to be escaped: ids, numbers and hex digits.
    won = f'{{"sku_id":"{prize.sku_id}","points":{prize.points}}}' if prize is not None else "null"
    text = f'{{"draw_id":"{draw_id}","prize":{won},"draws_left":{draws_left},"seq":{seq},"hash":"{entry_hash}"}}'
    body = text.encode()
    if replayed:
        head = _DRAWN_HEAD % (len(body), b"Idempotent-Replayed: true\r\n")
        return Answer(200, body, JSON, _REPLAYED, False, head)
    return Answer(200, body, JSON, (), False, _DRAWN_HEAD % (len(body), b""))


class Waiting:
    """A draw that waits for its decision."""

    __slots__ = ("draw", "draw_id", "draws_per_user", "then")

    def __init__(self, draw: DrawRequest, whole_id: str, draws_per_user: int, then: Then) -> None:
        self.draw = draw
        self.draw_id = whole_id
        self.draws_per_user = draws_per_user
        self.then = then


class DrawDesk:
    """Takes draws in for one worker.

    Args:
        settings: bounds.
        orders: the same worker's desk of orders, with which it shares the bound of what may wait.
        campaigns: the views.
        watermarks: who waits for Kafka.
        draw: has a batch decided.
        metrics: counts.
    """

    def __init__(
        self,
        settings: GatewaySettings,
        orders: OrderDesk,
        campaigns: Campaigns,
        watermarks: Watermarks,
        draw: Draw,
        metrics: GatewayMetrics,
    ) -> None:
        self._settings = settings
        self._orders = orders
        self._campaigns = campaigns
        self._watermarks = watermarks
        self._draw = draw
        self._metrics = metrics
        self._bodies = DrawBodies()
        self._queues: dict[str, GroupCommit[Waiting]] = {}

    def place(self, authorization: bytes | None, key: bytes | None, body: bytes, promise: Promise) -> Answer | None:
        """Take one `POST /v1/draws` in: answer it at once, or pass it on to Redis and promise an answer."""
        buyer = self._orders.identify(authorization)
        if isinstance(buyer, Answer):
            return buyer
        if not key:
            return KEY_MISSING
        try:
            key_text = read_idempotency_key(key)
            campaign_id = self._bodies.decode(body)
        except InvalidRequestError as error:
            return problem(outcomes.INVALID, str(error))
        campaigns, now_s = self._campaigns, time.monotonic()
        view = campaigns.views.get(campaign_id)
        if view is None:
            return no_campaign(campaigns, campaign_id, now_s)
        lottery = view.lottery
        if lottery is None:
            return wrong_kind(view.kind)
        refused = draw_refusal(view, campaigns.guards[campaign_id], now_s)
        # As with orders: who has drawn gets his answer again, whatever the refusal.
        if refused is not None and not campaigns.may_hold(campaign_id, buyer.user_hash):
            return self._refuse(view, refused)
        if self._orders.waiting >= inflight_limit(buyer.tier, self._settings.inflight_max):
            self._metrics.busy += 1
            return BUSY_NOW
        user_id = buyer.user_id
        whole_id = order_id(campaign_id, user_id, key_text)
        secret = user_secret(lottery.seed, campaign_id, user_id)
        self._orders.waiting += 1
        queue = self._queues.get(campaign_id) or self._open_queue(campaign_id)
        request = DrawRequest(whole_id[-32:], user_id, buyer.user_hash, secret)
        queue.submit(Waiting(request, whole_id, lottery.draws_per_user, promise()))
        return None

    def _refuse(self, view: CampaignView, refused: Outcome) -> Answer:
        self._metrics.in_memory[refused] += 1
        wait_ms = 0
        if refused is Outcome.RATE_LIMITED:
            self._campaigns.guard_refused(view.id)
            wait_ms = GUARD_WAIT_MS
        return self._refusal(view.id, refused, wait_ms)

    def _refusal(self, campaign_id: str, outcome: Outcome, wait_ms: int) -> Answer:
        if outcome is Outcome.SOLD_OUT:
            return _EXHAUSTED
        if outcome is Outcome.LIMIT_REACHED:
            return _ALL_DRAWN
        limited = outcome in {Outcome.RATE_LIMITED, Outcome.USER_RATE_LIMITED}
        limits = self._orders.limits(campaign_id) if limited else None
        return of_decision(decision_of(outcome, wait_ms), "", limits)

    # -- the batches of one lottery --------------------------------------------------------------------------------

    def _open_queue(self, campaign_id: str) -> GroupCommit[Waiting]:
        queue = self._queues[campaign_id] = GroupCommit(
            lambda batch: self._send(campaign_id, batch),
            lambda batch: self._settle_all(batch, BUSY),
            batch_max=min(self._settings.batch_max, DRAWS_PER_ENTRY_MAX),
            wait_max_s=self._settings.answer_timeout_s,
        )
        return queue

    async def _send(self, campaign_id: str, batch: list[Waiting]) -> None:
        """Have a batch decided by one script call; each of its draws gets an answer, whatever happens."""
        began_s = time.monotonic()
        try:
            reply = await self._draw(campaign_id, [waiting.draw for waiting in batch])
        except (FencedError, OutcomeUnknownError) as error:
            self._metrics.batch_failed(len(batch), error)
            self._settle_all(batch, UNKNOWN)
        except BackendError as error:
            self._metrics.batch_failed(len(batch), error)
            self._settle_all(batch, BUSY)
        except BaseException:
            self._settle_all(batch, UNKNOWN)
            raise
        else:
            self._metrics.batch_sent(len(batch), time.monotonic() - began_s)
            self._decided(campaign_id, batch, reply)

    def _decided(self, campaign_id: str, batch: list[Waiting], reply: DrawReply) -> None:
        """Hand the answers out; with `durability = "kafka"` what was drawn waits for the relay."""
        durable = self._settings.durability == "kafka"
        held_back: list[tuple[Waiting, DrawDecision]] = []
        counts, campaigns = self._metrics.in_redis, self._campaigns
        for waiting, decision in zip(batch, reply.decisions, strict=True):
            outcome = decision.outcome
            counts[outcome] += 1
            if outcome is _IS_ACCEPTED:
                campaigns.note_holder(campaign_id, waiting.draw.user_hash)
            elif outcome is Outcome.REPLAYED:
                campaigns.give_back_token(campaign_id)
            else:
                self._tell(waiting, self._refusal(campaign_id, outcome, decision.detail))
                continue
            if durable:
                held_back.append((waiting, decision))
            else:
                self._tell_drawn(waiting, decision)
        if reply.sold_out:
            campaigns.sold_out_hint(campaign_id, reply.sold_out)
        if held_back:
            self._watermarks.when_reached(
                campaign_id,
                reply.last_outbox_id,
                reply.run_id,
                then=lambda: self._tell_each(held_back),
                otherwise=lambda: self._settle_all([one for one, _ in held_back], UNKNOWN),
            )

    def _tell(self, waiting: Waiting, answer: Answer) -> None:
        self._orders.waiting -= 1
        waiting.then(answer)

    def _tell_drawn(self, waiting: Waiting, decision: DrawDecision) -> None:
        left = max(0, waiting.draws_per_user - decision.detail)
        replayed = decision.outcome is Outcome.REPLAYED
        answer = drawn(waiting.draw_id, decision.prize, left, decision.seq, decision.hash, replayed=replayed)
        self._tell(waiting, answer)

    def _tell_each(self, decided: list[tuple[Waiting, DrawDecision]]) -> None:
        for waiting, decision in decided:
            self._tell_drawn(waiting, decision)

    def _settle_all(self, batch: list[Waiting], what: Problem) -> None:
        """Tell all of them the same: that nothing is known, or that nothing was done."""
        answer = of_decision(Decision(what, wait_ms=RETRY_WAIT_MS), "")
        for waiting in batch:
            self._tell(waiting, answer)

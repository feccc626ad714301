"""Admission: the decisions on one request that need no I/O, in their order, in front of the batcher."""

import time
from asyncio import Future
from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple

from adapters.stock import BatchReply, OrderRequest
from domain import outcomes
from domain.order import fingerprint, order_id, user_hash
from domain.outcomes import PROBLEM_OF_OUTCOME, UNKNOWN, Outcome
from domain.settings import GatewaySettings
from gateway.answers import Answer, Decision, of_decision, problem
from gateway.batcher import Batcher, Waiting, decision_of
from gateway.campaigns import Campaigns
from gateway.identity import Identity, TokenRefusedError, Verifier
from gateway.metrics import GatewayMetrics
from gateway.requests import InvalidRequestError, check_idempotency_key, decode_place_order
from gateway.watermarks import Watermarks

Admit = Callable[[str, list[OrderRequest]], Awaitable[BatchReply]]

GUARD_WAIT_MS: Final = 1_000


def no_campaign(campaigns: Campaigns, campaign_id: str, now_s: float) -> Answer:
    """Return the answer about a campaign that this worker has no view of: 404 only if there certainly is none."""
    if campaigns.is_unknown(campaign_id, now_s):
        return problem(outcomes.NOT_FOUND, "there is no such campaign")
    return problem(outcomes.UNKNOWN, headers=(("Retry-After", "1"),))


class PendingOrder(NamedTuple):
    """An order on its way to Redis: await the decision, then ask `OrderDesk.answer`."""

    order_id: str
    campaign_id: str
    decision: "Future[Decision]"


class OrderDesk:
    """Takes orders in for one worker."""

    def __init__(
        self,
        settings: GatewaySettings,
        verifier: Verifier,
        campaigns: Campaigns,
        watermarks: Watermarks,
        admit: Admit,
        metrics: GatewayMetrics,
    ) -> None:
        self._settings = settings
        self._verifier = verifier
        self._campaigns = campaigns
        self._watermarks = watermarks
        self._admit = admit
        self._metrics = metrics
        self._batchers: dict[str, Batcher] = {}

    @property
    def waiting(self) -> int:
        """Orders taken in and not decided yet."""
        return sum(batcher.waiting for batcher in self._batchers.values())

    def identify(self, authorization: str | None) -> Identity | Answer:
        """Return who asks, or the answer 401."""
        try:
            return self._verifier.identify(authorization, time.time())
        except TokenRefusedError as error:
            return problem(outcomes.UNAUTHENTICATED, str(error), (("WWW-Authenticate", "Bearer"),))

    def place(self, authorization: str | None, key: str | None, body: bytes) -> Answer | PendingOrder:
        """Take one `POST /v1/orders` in: answer it at once, or pass it on to Redis."""
        buyer = self.identify(authorization)
        if isinstance(buyer, Answer):
            return buyer
        if not key:
            return problem(outcomes.KEY_MISSING, "send an Idempotency-Key: any string that is new for each purchase")
        try:
            check_idempotency_key(key)
            wanted = decode_place_order(body)
        except InvalidRequestError as error:
            return problem(outcomes.INVALID, str(error))
        view = self._campaigns.views.get(wanted.campaign_id)
        now_s = time.monotonic()
        if view is None:
            return no_campaign(self._campaigns, wanted.campaign_id, now_s)
        hashed = user_hash(buyer.user_id)
        whole_id = order_id(wanted.campaign_id, buyer.user_id, key)
        if not self._campaigns.may_hold(wanted.campaign_id, hashed):
            refusal = self._campaigns.refuse(view, wanted.sku_id, now_s)
            if refusal is not None:
                self._metrics.decided(refusal.name, "memory")
                decision = Decision(PROBLEM_OF_OUTCOME[refusal], wait_ms=GUARD_WAIT_MS, policy="campaign")
                return self._answer(decision, whole_id, wanted.campaign_id)
        if self.waiting >= self._settings.inflight_max:
            self._metrics.decided(outcomes.BUSY.code, "memory")
            return problem(outcomes.BUSY, headers=(("Retry-After", "1"),))
        digest = whole_id[-32:]
        order = OrderRequest(
            digest, fingerprint(wanted.sku_id, wanted.quantity), wanted.sku_id, wanted.quantity, buyer.user_id, hashed
        )
        return PendingOrder(whole_id, wanted.campaign_id, self._batcher(wanted.campaign_id).submit(order))

    def answer(self, pending: PendingOrder, decision: Decision) -> Answer:
        """Return the answer to an order that Redis has decided."""
        return self._answer(decision, pending.order_id, pending.campaign_id)

    def _answer(self, decision: Decision, whole_id: str, campaign_id: str) -> Answer:
        limits = self._limits(campaign_id) if decision.problem is outcomes.RATE_LIMITED else None
        return of_decision(decision, whole_id, limits)

    def _limits(self, campaign_id: str) -> dict[str, tuple[int, int]]:
        view = self._campaigns.views.get(campaign_id)
        if view is None:
            return {}
        return {"campaign": (view.admit_burst, view.admit_per_s), "user": (view.user_burst, view.user_per_s)}

    def _batcher(self, campaign_id: str) -> Batcher:
        batcher = self._batchers.get(campaign_id)
        if batcher is None:
            batcher = self._batchers[campaign_id] = Batcher(
                lambda orders: self._admit(campaign_id, orders),
                lambda batch, reply: self._decided(campaign_id, batch, reply),
                self._metrics,
                batch_max=self._settings.batch_max,
                answer_timeout_s=self._settings.answer_timeout_s,
            )
        return batcher

    def _decided(self, campaign_id: str, batch: list[Waiting], reply: BatchReply) -> None:
        """Hand the decisions out; with `durability = "kafka"` acceptances wait for the relay."""
        batcher = self._batchers[campaign_id]
        durable = self._settings.durability == "kafka"
        held_back: list[tuple[Waiting, Decision]] = []
        for waiting, (outcome, detail) in zip(batch, reply.decisions, strict=True):
            self._metrics.decided(outcome.name, "redis")
            decision = decision_of(outcome, detail)
            if outcome is Outcome.ACCEPTED:
                self._campaigns.note_holder(campaign_id, waiting.order.user_hash)
            if durable and outcome in {Outcome.ACCEPTED, Outcome.REPLAYED}:
                held_back.append((waiting, decision))
            else:
                batcher.settle_one(waiting, decision)
        if reply.sold_out:
            self._campaigns.sold_out_hint(campaign_id, reply.sold_out)
        if held_back:
            self._watermarks.when_reached(
                campaign_id,
                reply.last_outbox_id,
                then=lambda: batcher.settle_each(held_back),
                otherwise=lambda: batcher.settle([one for one, _ in held_back], Decision(UNKNOWN, wait_ms=1_000)),
            )

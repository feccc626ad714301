"""Taking orders: every decision on one request in its order, up to the script call that decides the rest."""

import time
from collections.abc import Awaitable, Callable
from typing import Final

from adapters.stock import BatchReply, OrderRequest
from domain import outcomes
from domain.campaign import LOTTERY, REDEMPTION, SALE
from domain.errors import BackendError, FencedError, OutcomeUnknownError
from domain.order import order_id
from domain.outcomes import BUSY, PROBLEM_OF_OUTCOME, UNKNOWN, Outcome, Problem
from domain.settings import GatewaySettings
from gateway.admission import inflight_limit, refusal
from gateway.answers import BUSY_NOW, UNKNOWN_NOW, Answer, Decision, accepted, of_decision, problem
from gateway.campaigns import Campaigns
from gateway.group_commit import GroupCommit
from gateway.identity import Identity, TokenRefusedError, Verifier
from gateway.metrics import GatewayMetrics
from gateway.requests import InvalidRequestError, OrderBodies, read_idempotency_key
from gateway.watermarks import Watermarks

Admit = Callable[[str, list[OrderRequest]], Awaitable[BatchReply]]
Then = Callable[[Answer], None]
"""What is called with the answer once there is one; called once, never from within the call that took it."""
Promise = Callable[[], Then]
"""Asked by a call that cannot answer at once where to bring its answer later."""
Aside = Callable[[str, str, OrderRequest, Promise], Answer | None]
"""Takes an order (campaign id, order id, order, promise) that is not to be decided by the script at once."""

GUARD_WAIT_MS: Final = 1_000
RETRY_WAIT_MS: Final = 1_000

_IS_ACCEPTED: Final = Outcome.ACCEPTED
_ACCEPTED: Final = Decision()
_REPLAYED: Final = Decision(replayed=True)
KEY_MISSING: Final = problem(outcomes.KEY_MISSING, "send an Idempotency-Key: any string that is new for each purchase")
_WRONG_KIND: Final = {
    kind: problem(outcomes.INVALID, f"this campaign is a {kind}: send {call}")
    for kind, call in (
        (SALE, "POST /v1/orders"),
        (LOTTERY, "POST /v1/draws"),
        (REDEMPTION, "POST /v1/redemptions"),
    )
}
_NO_CAMPAIGN: Final = problem(outcomes.NOT_FOUND, "there is no such campaign")


def unauthenticated(error: TokenRefusedError) -> Answer:
    """Return 401."""
    return problem(outcomes.UNAUTHENTICATED, str(error), (("WWW-Authenticate", "Bearer"),))


def no_campaign(campaigns: Campaigns, campaign_id: str, now_s: float) -> Answer:
    """Return the answer about a campaign that this worker has no view of: 404 only if there certainly is none."""
    return _NO_CAMPAIGN if campaigns.is_unknown(campaign_id, now_s) else UNKNOWN_NOW


def wrong_kind(kind: str) -> Answer:
    """Return the answer to a call that is not the one for this kind of campaign; it names the right one."""
    return _WRONG_KIND[kind]


def decision_of(outcome: Outcome, detail: int) -> Decision:
    """Translate one outcome of the script."""
    if outcome is _IS_ACCEPTED:
        return _ACCEPTED
    if outcome is Outcome.REPLAYED:
        return _REPLAYED
    policy = "user" if outcome is Outcome.USER_RATE_LIMITED else "campaign"
    return Decision(PROBLEM_OF_OUTCOME[outcome], wait_ms=detail, policy=policy)


_REFUSALS: Final = {outcome: of_decision(Decision(what), "") for outcome, what in PROBLEM_OF_OUTCOME.items()}


class Waiting:
    """An order that waits for its decision."""

    __slots__ = ("order", "order_id", "then")

    def __init__(self, order: OrderRequest, whole_id: str, then: Then) -> None:
        self.order = order
        self.order_id = whole_id
        self.then = then


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
        self._bodies = OrderBodies()
        self._queues: dict[str, GroupCommit[Waiting]] = {}
        self.waiting = 0
        """Orders, draws and redemptions of the same worker, taken in and not decided yet."""

    def identify(self, authorization: bytes | None) -> Identity | Answer:
        """Return who asks, or the answer 401."""
        try:
            return self._verifier.identify(authorization, time.time())
        except TokenRefusedError as error:
            return unauthenticated(error)

    def place(
        self,
        authorization: bytes | None,
        key: bytes | None,
        body: bytes,
        promise: Promise,
        kind: str = SALE,
        aside: Aside | None = None,
    ) -> Answer | None:
        """Take one `POST /v1/orders` in: answer it at once, or pass it on to Redis and promise an answer.

        Args:
            authorization: the header.
            key: the header `Idempotency-Key`.
            body: the body.
            promise: where to bring the answer.
            kind: the kind of campaign that this call is for.
            aside: takes what would go to Redis; it passes it on by `submit`, or answers it by `tell`.
        """
        try:
            buyer = self._verifier.identify(authorization, time.time())
        except TokenRefusedError as error:
            return unauthenticated(error)
        if not key:
            return KEY_MISSING
        try:
            key_text = read_idempotency_key(key)
            wanted, print_ = self._bodies.decode(body)
        except InvalidRequestError as error:
            return problem(outcomes.INVALID, str(error))
        campaign_id, campaigns = wanted.campaign_id, self._campaigns
        view = campaigns.views.get(campaign_id)
        now_s = time.monotonic()
        if view is None:
            return no_campaign(campaigns, campaign_id, now_s)
        if view.kind != kind:
            return wrong_kind(view.kind)
        refused = refusal(view, campaigns.guards[campaign_id], wanted.sku_id, now_s)
        # Asked only before a refusal: the retry of an accepted order gets to Redis, which answers with its acceptance.
        if refused is not None and not campaigns.may_hold(campaign_id, buyer.user_hash):
            return self._refuse(campaign_id, refused)
        if self.waiting >= inflight_limit(buyer.tier, self._settings.inflight_max):
            self._metrics.busy += 1
            return BUSY_NOW
        whole_id = order_id(campaign_id, buyer.user_id, key_text)
        order = OrderRequest(whole_id[-32:], print_, wanted.sku_id, wanted.quantity, buyer.user_id, buyer.user_hash)
        if aside is not None:
            return aside(campaign_id, whole_id, order, promise)
        self.waiting += 1
        queue = self._queues.get(campaign_id) or self._open_queue(campaign_id)
        queue.submit(Waiting(order, whole_id, promise()))
        return None

    def submit(self, campaign_id: str, waiting: Waiting) -> None:
        """Have an order decided by the script that was put aside, and is counted in `waiting`."""
        queue = self._queues.get(campaign_id) or self._open_queue(campaign_id)
        queue.submit(waiting)

    def tell(self, waiting: Waiting, answer: Answer) -> None:
        """Answer an order that was put aside, and is counted in `waiting`."""
        self.waiting -= 1
        waiting.then(answer)

    def _refuse(self, campaign_id: str, refused: Outcome) -> Answer:
        self._metrics.in_memory[refused] += 1
        if refused is Outcome.RATE_LIMITED:
            self._campaigns.guard_refused(campaign_id)
            return self._answer(Decision(outcomes.RATE_LIMITED, False, GUARD_WAIT_MS, "campaign"), "", campaign_id)
        return _REFUSALS[refused]

    def _answer(self, decision: Decision, whole_id: str, campaign_id: str) -> Answer:
        limits = self.limits(campaign_id) if decision.problem is outcomes.RATE_LIMITED else None
        return of_decision(decision, whole_id, limits)

    def limits(self, campaign_id: str) -> dict[str, tuple[int, int]]:
        """Return a campaign's rates as `of_decision` takes them."""
        view = self._campaigns.views.get(campaign_id)
        if view is None:
            return {}
        return {"campaign": (view.admit_burst, view.admit_per_s), "user": (view.user_burst, view.user_per_s)}

    # -- the batches of one campaign -------------------------------------------------------------------------------

    def _open_queue(self, campaign_id: str) -> GroupCommit[Waiting]:
        queue = self._queues[campaign_id] = GroupCommit(
            lambda batch: self._send(campaign_id, batch),
            lambda batch: self._settle_all(batch, BUSY),
            batch_max=self._settings.batch_max,
            wait_max_s=self._settings.answer_timeout_s,
        )
        return queue

    async def _send(self, campaign_id: str, batch: list[Waiting]) -> None:
        """Have a batch decided by one script call; each of its orders gets a decision, whatever happens."""
        began_s = time.monotonic()
        try:
            reply = await self._admit(campaign_id, [waiting.order for waiting in batch])
        except (FencedError, OutcomeUnknownError) as error:
            # Nothing is known of an earlier attempt with the same key either, so this is what all of them are told.
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

    def _decided(self, campaign_id: str, batch: list[Waiting], reply: BatchReply) -> None:
        """Hand the decisions out; with `durability = "kafka"` acceptances wait for the relay."""
        durable = self._settings.durability == "kafka"
        held_back: list[tuple[Waiting, Decision]] = []
        counts, campaigns = self._metrics.in_redis, self._campaigns
        for waiting, (outcome, detail) in zip(batch, reply.decisions, strict=True):
            counts[outcome] += 1
            if outcome is _IS_ACCEPTED:
                campaigns.note_holder(campaign_id, waiting.order.user_hash)
                if not durable:
                    self.waiting -= 1
                    waiting.then(accepted(waiting.order_id, replayed=False))
                    continue
            elif outcome is Outcome.REPLAYED:
                campaigns.give_back_token(campaign_id)
            decision = decision_of(outcome, detail)
            if durable and decision.problem is None:
                held_back.append((waiting, decision))
            else:
                self._settle(campaign_id, waiting, decision)
        if reply.sold_out:
            self._campaigns.sold_out_hint(campaign_id, reply.sold_out)
        if held_back:
            self._watermarks.when_reached(
                campaign_id,
                reply.last_outbox_id,
                reply.run_id,
                then=lambda: self._settle_each(campaign_id, held_back),
                otherwise=lambda: self._settle_all([one for one, _ in held_back], UNKNOWN),
            )

    def _settle(self, campaign_id: str, waiting: Waiting, decision: Decision) -> None:
        self.waiting -= 1
        waiting.then(self._answer(decision, waiting.order_id, campaign_id))

    def _settle_each(self, campaign_id: str, decided: list[tuple[Waiting, Decision]]) -> None:
        for waiting, decision in decided:
            self._settle(campaign_id, waiting, decision)

    def _settle_all(self, batch: list[Waiting], what: Problem) -> None:
        """Tell all of them the same: that nothing is known, or that nothing was done."""
        decision = Decision(what, wait_ms=RETRY_WAIT_MS)
        for waiting in batch:
            self._settle("", waiting, decision)

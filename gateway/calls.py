"""The hot calls of the buyer plane, as functions that both lanes call: plain values in, an answer out.

A call that can be answered from memory returns its answer. One that must wait returns None, and asks where to bring
the answer later.
"""

import time
from collections.abc import Callable
from typing import Any

import orjson

from adapters.stock import StockLine
from domain.campaign import REDEMPTION
from gateway.answers import BUSY_NOW, JSON, Answer
from gateway.campaigns import Campaigns
from gateway.draws import DrawDesk
from gateway.order_status import StatusDesk, iso_utc
from gateway.orders import OrderDesk, Promise, no_campaign
from gateway.redemptions import RedemptionDesk
from gateway.view import CampaignView, LotteryView, sku_state

Place = Callable[[bytes | None, bytes | None, bytes, Promise], Answer | None]
"""Authorization, Idempotency-Key, body, promise → the answer, if there is one at once."""


class BuyerCalls:
    """The hot calls of one worker."""

    __slots__ = ("_campaigns", "_desk", "_status", "posts")

    def __init__(
        self,
        desk: OrderDesk,
        draws: DrawDesk,
        campaigns: Campaigns,
        status: StatusDesk,
        redemptions: RedemptionDesk | None = None,
    ) -> None:
        """Take the desks; without one of redemptions that call is not served."""
        self._desk = desk
        self._campaigns = campaigns
        self._status = status
        self.posts: dict[bytes, Place] = {b"/v1/orders": desk.place, b"/v1/draws": draws.place}
        """The hot calls that bring something, by their path."""
        if redemptions is not None:
            self.posts[b"/v1/redemptions"] = redemptions.place

    def get_order(self, authorization: bytes | None, order_id: str, promise: Promise) -> Answer | None:
        """`GET /v1/orders/{id}`."""
        buyer = self._desk.identify(authorization)
        return buyer if isinstance(buyer, Answer) else self._status.ask(order_id, buyer.user_id, promise)

    def get_campaign(self, campaign_id: str) -> Answer:
        """`GET /v1/campaigns/{id}`."""
        view = self._campaigns.views.get(campaign_id)
        now_s = time.monotonic()
        if view is None:
            return no_campaign(self._campaigns, campaign_id, now_s)
        if not view.is_fresh(now_s):
            return BUSY_NOW
        return campaign_answer(view, now_s)


def campaign_answer(view: CampaignView, now_s: float) -> Answer:
    """Return the answer to `GET /v1/campaigns/{id}`."""
    body: dict[str, Any] = {
        "campaign_id": view.id,
        "kind": view.kind,
        "state": view.state,
        "opens_at": iso_utc(view.opens_ms),
        "closes_at": iso_utc(view.closes_ms),
        "server_time": iso_utc(view.redis_ms(now_s)),
        "skus": [
            {
                "sku_id": sku,
                "state": sku_state(view, sku, now_s),
                **price_told(view.kind, line),
                "per_user": line.per_user,
            }
            for sku, line in view.stock.items()
        ],
    }
    if view.lottery is not None:
        body["lottery"] = lottery_facts(view.lottery)
    return Answer(200, orjson.dumps(body), JSON, (("Cache-Control", "no-store"),))


def price_told(kind: str, line: StockLine) -> dict[str, int]:
    """Return the price of one unit, under the name that says what it is in."""
    return {"points_price" if kind == REDEMPTION else "price_cents": line.price_cents}


def lottery_facts(lottery: LotteryView) -> dict[str, Any]:
    """Return what is told of a lottery: what it draws from, and by what its draws can be checked."""
    return {
        "commitment": lottery.commitment,
        "seed": lottery.seed.hex() if lottery.is_revealed else None,
        "draws_per_user": lottery.draws_per_user,
        "no_prize_weight": lottery.no_prize_weight,
        "prizes": [
            {"sku_id": prize.sku_id, "weight": prize.weight, "points": prize.points} for prize in lottery.prizes
        ],
    }

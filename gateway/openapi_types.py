"""The shapes of the buyer plane's answers, for its OpenAPI document."""

from typing import Annotated, Literal

import msgspec

from adapters.points import LEDGER_SHOWN_MAX
from domain.campaign import CampaignId, SkuId, SkuState
from domain.points import LedgerKind


class OrderAccepted(msgspec.Struct):
    """The order holds stock and is durable."""

    order_id: str
    status: Literal["accepted"]


class OrderPayment(msgspec.Struct):
    """The payment that an order was paid by, else its last one."""

    payment_id: str
    status: str


class OrderStatus(msgspec.Struct):
    """Where an order stands. `version` grows with every state; `pay_by` is there while it has to be paid."""

    order_id: str
    status: str
    campaign_id: CampaignId
    sku_id: SkuId
    quantity: int
    version: int
    pay_by: str | None
    payment: OrderPayment | None


class PaymentBegun(msgspec.Struct):
    """A payment, and where to pay. Once it is declined another one is begun with a new Idempotency-Key."""

    payment_id: str
    status: str
    pay_url: str


class OrderCancelled(msgspec.Struct):
    """The order is cancelled, by this call or an earlier one; its units are sold again."""

    order_id: str
    status: Literal["cancelled"]


class PointsMovement(msgspec.Struct):
    """What moved an account, for which draw, order or grant; `at` is RFC 3339, UTC."""

    ref_id: str
    kind: LedgerKind
    delta: int
    at: str


class Points(msgspec.Struct):
    """An account and its newest movements, at most 100, the newest first."""

    balance: int
    ledger: Annotated[list[PointsMovement], msgspec.Meta(max_length=LEDGER_SHOWN_MAX)]


class PrizeWon(msgspec.Struct):
    """A prize, and the points that it is worth."""

    sku_id: SkuId
    points: int


class PrizeDrawn(msgspec.Struct):
    """A draw and what it won. `seq` is its line in the lottery's log, `hash` that of the entry that the line is in."""

    draw_id: str
    prize: PrizeWon | None
    draws_left: int
    seq: int
    hash: str


class PrizeKind(msgspec.Struct):
    """A kind of prize; the order is that in which weights are counted off."""

    sku_id: SkuId
    weight: int
    points: int


class LotteryPage(msgspec.Struct):
    """What a lottery draws from. `commitment` is the seed's SHA-256; the seed itself is told once all is drawn."""

    commitment: str
    seed: str | None
    draws_per_user: int
    no_prize_weight: int
    prizes: list[PrizeKind]


class SkuView(msgspec.Struct):
    """A SKU as buyers see it. Its price is in points if the campaign is a redemption, else in cents."""

    sku_id: SkuId
    state: SkuState
    per_user: int
    price_cents: int | msgspec.UnsetType = msgspec.UNSET
    points_price: int | msgspec.UnsetType = msgspec.UNSET


class CampaignPage(msgspec.Struct):
    """A campaign as buyers see it; times are RFC 3339, UTC. `lottery` is there if it is one."""

    campaign_id: CampaignId
    kind: Literal["sale", "lottery", "redemption"]
    state: Literal["loaded", "open", "paused", "closed"]
    opens_at: str
    closes_at: str
    server_time: str
    skus: list[SkuView]
    lottery: LotteryPage | msgspec.UnsetType = msgspec.UNSET


class Health(msgspec.Struct):
    """Whether the worker can serve, and what is missing."""

    status: Literal["ok", "unavailable"]
    missing: dict[str, str] = {}


class ProblemDocument(msgspec.Struct):
    """RFC 9457; `code` is stable, the other words are not."""

    type: str
    title: str
    status: int
    code: str
    detail: str = ""

"""A campaign as the operator writes it, and its states."""

import math
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Final, Literal

import msgspec

from domain import toml_source
from domain.errors import ConfigError

SKUS_MAX: Final = 5_000
STOCK_MAX: Final = 100_000_000
SALE: Final = "sale"
LOTTERY: Final = "lottery"
REDEMPTION: Final = "redemption"
PRIZES_MAX: Final = 100
"""Kinds of prizes in a lottery: each draw walks through them."""
WEIGHT_MAX: Final = 1_000_000
"""All weights together are far below the 48 bits of a draw, so that none is favoured by as much as one in a million."""
DRAWS_PER_USER_MAX: Final = 100
"""A buyer's record keeps all his draws, about 100 bytes each."""
RATE_MAX_PER_S: Final = 10_000_000

# In Python `$` also matches before a newline at the end; `\Z` would be no regex in JSON Schema.
CampaignId = Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{1,40}$(?!\n)")]
SkuId = Annotated[str, msgspec.Meta(pattern=r"^[A-Za-z0-9._-]{1,64}$(?!\n)")]
Rate = Annotated[int, msgspec.Meta(ge=1, le=RATE_MAX_PER_S)]
Stock = Annotated[int, msgspec.Meta(ge=0, le=STOCK_MAX)]
Cents = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000_000)]
Small = Annotated[int, msgspec.Meta(ge=0, le=1_000_000_000)]
Count = Annotated[int, msgspec.Meta(ge=1, le=1_000)]


class CampaignState(StrEnum):
    """Where a campaign stands; the window decides beside it."""

    LOADED = "loaded"
    OPEN = "open"
    PAUSED = "paused"
    CLOSED = "closed"


MOVES: Final = {
    "open": (CampaignState.OPEN, (CampaignState.LOADED,)),
    "pause": (CampaignState.PAUSED, (CampaignState.OPEN,)),
    "resume": (CampaignState.OPEN, (CampaignState.PAUSED,)),
    "close": (CampaignState.CLOSED, (CampaignState.LOADED, CampaignState.OPEN, CampaignState.PAUSED)),
}
"""What an operator does → the state it leads to, and those that it may come from."""


class SkuState(StrEnum):
    """What buyers are told of a SKU."""

    UPCOMING = "upcoming"
    ON_SALE = "on_sale"
    SOLD_OUT = "sold_out"
    ENDED = "ended"


class CampaignHead(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[campaign]`."""

    id: CampaignId
    kind: Literal["sale", "lottery", "redemption"] = "sale"
    opens_at: Annotated[datetime, msgspec.Meta(tz=True)]
    closes_at: Annotated[datetime, msgspec.Meta(tz=True)]
    pay_within_s: Annotated[int, msgspec.Meta(ge=1, le=30 * 86_400)] = 900
    draws_per_user: Count = 1


class CampaignLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[limits]`."""

    admit_per_s: Rate = 20_000
    admit_burst: Rate = 20_000
    user_per_s: Rate = 2
    user_burst: Rate = 3
    unpaid_per_user: Count = 5
    """Orders of one buyer in this campaign that hold stock without being paid; past it LIMIT_REACHED."""


class CampaignLottery(msgspec.Struct, frozen=True, kw_only=True):
    """Table `[lottery]`."""

    no_prize_weight: Small = 0
    """The weight of winning nothing, beside the weights of the prizes; it never runs out."""


class Sku(msgspec.Struct, frozen=True, kw_only=True):
    """One `[[sku]]` table; fields of another kind of campaign are allowed and ignored."""

    id: SkuId
    stock: Stock
    price_cents: Cents = 0
    points_price: Small = 0
    points: Small = 0
    weight: Small = 0
    per_user: Count = 1


class Campaign(msgspec.Struct, frozen=True, kw_only=True):
    """A whole campaign file."""

    campaign: CampaignHead
    limits: CampaignLimits = CampaignLimits()
    lottery: CampaignLottery = CampaignLottery()
    sku: Annotated[tuple[Sku, ...], msgspec.Meta(min_length=1, max_length=SKUS_MAX)]

    @property
    def id(self) -> str:
        """The campaign's id."""
        return self.campaign.id

    @property
    def opens_ms(self) -> int:
        """Start of the window, Unix milliseconds."""
        return math.floor(self.campaign.opens_at.timestamp() * 1000)

    @property
    def closes_ms(self) -> int:
        """End of the window (exclusive), Unix milliseconds."""
        return math.floor(self.campaign.closes_at.timestamp() * 1000)

    def price_of(self, sku: Sku) -> int:
        """Return the price of one unit as Redis has it: in points of a redemption, in cents of any other campaign."""
        return sku.points_price if self.campaign.kind == REDEMPTION else sku.price_cents


def parse_campaign(text: str, *, source: str) -> Campaign:
    """Parse and check a campaign file.

    Raises:
        ConfigError: the message names the line and the field.
    """
    data: dict[str, Any] = toml_source.parse(text, source)
    campaign = toml_source.convert(data, Campaign, source=source, text=text)

    def refuse(path: list[str | int], why: str) -> ConfigError:
        line = toml_source.line_of(text, path)
        field = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).lstrip(".")
        return ConfigError(f"{source}, line {line}: {field}: {why}")

    if campaign.closes_ms <= campaign.opens_ms:
        raise refuse(["campaign", "closes_at"], "must be later than opens_at")
    seen: set[str] = set()
    for number, sku in enumerate(campaign.sku):
        if sku.id in seen:
            raise refuse(["sku", number, "id"], f"the SKU {sku.id!r} stands twice in this file")
        seen.add(sku.id)
    faults = {LOTTERY: _lottery_faults, REDEMPTION: _redemption_faults}.get(campaign.campaign.kind)
    for path, why in faults(campaign) if faults is not None else ():
        raise refuse(path, why)
    return campaign


def _lottery_faults(campaign: Campaign) -> Iterator[tuple[list[str | int], str]]:
    """Yield where and why a lottery cannot be drawn."""
    if campaign.campaign.draws_per_user > DRAWS_PER_USER_MAX:
        yield ["campaign", "draws_per_user"], f"a lottery may give at most {DRAWS_PER_USER_MAX}"
    if campaign.lottery.no_prize_weight > WEIGHT_MAX:
        yield ["lottery", "no_prize_weight"], f"must be at most {WEIGHT_MAX}"
    for number, sku in enumerate(campaign.sku):
        if number >= PRIZES_MAX:
            yield ["sku", number, "id"], f"a lottery may have at most {PRIZES_MAX} kinds of prizes"
        if not 1 <= sku.weight <= WEIGHT_MAX:
            why = f"a prize needs a weight from 1 to {WEIGHT_MAX}, its share among all weights"
            yield ["sku", number, "weight"], why


def _redemption_faults(campaign: Campaign) -> Iterator[tuple[list[str | int], str]]:
    """Yield where and why nothing can be had for points."""
    for number, sku in enumerate(campaign.sku):
        if sku.points_price < 1:
            yield ["sku", number, "points_price"], "a redemption needs the points that one unit costs, at least 1"

"""The sales that are measured: limits that are checked and never bind, so that stock alone decides."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from domain.campaign import RATE_MAX_PER_S, Campaign, CampaignHead, CampaignLimits, Sku

WINDOW: Final = timedelta(hours=1)
"""A sale opened so long ago."""
OPEN_FOR: Final = timedelta(days=1)
LIMITS: Final = CampaignLimits(admit_per_s=RATE_MAX_PER_S, admit_burst=RATE_MAX_PER_S, user_per_s=2, user_burst=3)


@dataclass(frozen=True, slots=True)
class Sale:
    """One campaign for a measurement.

    Attributes:
        campaign_id: its id.
        units: of each SKU.
        skus: how many SKUs there are.
        sold_out: all of it is sold before the measurement begins.
    """

    campaign_id: str
    units: int
    skus: int = 1
    sold_out: bool = False

    @property
    def sku_id(self) -> str:
        """The first SKU."""
        return "sku-0"

    @property
    def sku_ids(self) -> tuple[str, ...]:
        """All SKUs."""
        return tuple(f"sku-{number}" for number in range(self.skus))

    def campaign(self) -> Campaign:
        """Return the campaign, open now."""
        now = datetime.now(UTC)
        return Campaign(
            campaign=CampaignHead(id=self.campaign_id, opens_at=now - WINDOW, closes_at=now + OPEN_FOR),
            limits=LIMITS,
            sku=tuple(Sku(id=sku_id, stock=self.units, price_cents=5_900) for sku_id in self.sku_ids),
        )

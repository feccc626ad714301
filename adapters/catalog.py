"""Campaigns in MySQL: their definitions (fg_catalog) and the counters that orders are written against (fg_orders).

The two schemas may lie on two servers, so no transaction spans them. Every step may be repeated, and the catalog comes
last: a campaign that is listed has its counters.
"""

from typing import Final

import msgspec

from adapters.mysql import Pool, insert_many, query, transaction
from domain.campaign import Campaign
from domain.errors import OperationRefusedError

_COUNTERS: Final = """
INSERT INTO campaign_sku (campaign_id, sku_id, allocated, pay_within_s)
VALUES (%s, %s, %s, %s)
ON DUPLICATE KEY UPDATE pay_within_s = VALUES(pay_within_s)"""

_CAMPAIGN: Final = """
INSERT INTO campaign (campaign_id, kind, opens_ms, closes_ms, definition)
VALUES (%s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE kind = %s, opens_ms = %s, closes_ms = %s, definition = %s"""

_SKUS: Final = """
INSERT INTO sku (sku_id)
VALUES (%s)
ON DUPLICATE KEY UPDATE sku_id = sku_id"""

_ALLOCATIONS: Final = """
INSERT INTO allocation (campaign_id, sku_id, quantity)
VALUES (%s, %s, %s)
ON DUPLICATE KEY UPDATE sku_id = sku_id"""


async def register_campaign(catalog: Pool, orders: Pool, campaign: Campaign) -> None:
    """Make a campaign known, with an allocation and a counter for each SKU.

    Loading the same campaign again changes nothing. A changed definition replaces the old one; what was allocated to
    a known SKU stays (`set_allocated` changes it), what was sold is never touched.

    Raises:
        BackendError: MySQL could not do it now; call again.
    """
    skus = sorted(campaign.sku, key=lambda sku: sku.id)
    stock = [(campaign.id, sku.id, sku.stock) for sku in skus]
    async with transaction(orders) as cursor:
        await insert_many(cursor, _COUNTERS, [(*row, campaign.campaign.pay_within_s) for row in stock])
    facts = (
        campaign.campaign.kind,
        campaign.opens_ms,
        campaign.closes_ms,
        msgspec.json.encode(campaign).decode(),
    )
    async with transaction(catalog) as cursor:
        await cursor.execute(_CAMPAIGN, (campaign.id, *facts, *facts))
        await insert_many(cursor, _SKUS, [(sku.id,) for sku in skus])
        await insert_many(cursor, _ALLOCATIONS, stock)


async def list_campaigns(catalog: Pool) -> list[tuple[str, Campaign]]:
    """Return id and definition of every campaign, by id.

    Raises:
        BackendError: MySQL could not do it now.
    """
    rows = await query(catalog, "SELECT campaign_id, definition FROM campaign ORDER BY campaign_id")
    return [(campaign_id, msgspec.json.decode(definition, type=Campaign)) for campaign_id, definition in rows]


async def set_allocated(
    catalog: Pool, orders: Pool, campaign_id: str, sku_id: str, allocated: int, *, lower: bool = False
) -> None:
    """Set what is allocated to a SKU to the figure that Redis has, which is the one that decides.

    It is lowered only with `lower` (a changed file), so that a late repeat of a top-up does no harm.

    Raises:
        BackendError: MySQL could not do it now; call again.
        OperationRefusedError: there is no such SKU in this campaign.
    """
    key = (campaign_id, sku_id)
    async with transaction(orders) as cursor:
        await cursor.execute("SELECT 1 FROM campaign_sku WHERE campaign_id = %s AND sku_id = %s FOR UPDATE", key)
        if await cursor.fetchone() is None:
            raise OperationRefusedError(f"campaign {campaign_id!r} has no SKU {sku_id!r}")
        await cursor.execute(
            "UPDATE campaign_sku SET allocated = %s, version = version + 1 "
            "WHERE campaign_id = %s AND sku_id = %s AND (allocated < %s OR %s AND allocated > %s)",
            (allocated, *key, allocated, lower, allocated),
        )
    async with transaction(catalog) as cursor:
        await cursor.execute(
            "UPDATE allocation SET quantity = %s, version = version + 1 "
            "WHERE campaign_id = %s AND sku_id = %s AND (quantity < %s OR %s AND quantity > %s)",
            (allocated, *key, allocated, lower, allocated),
        )

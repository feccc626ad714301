"""Goods for a campaign that is tried out: the demo, a bench, a test. In earnest they come in by a person's word."""

import secrets
from typing import Final

from adapters import lotteries
from adapters.mysql import Pool, query
from domain.campaign import Campaign
from warehouse.campaigns import load_into
from warehouse.movements import Movement, move
from warehouse.rules import BookingKind
from warehouse.stock_rows import SKUS_A_STATEMENT
from warehouse.stores import Stores, wall_ms

KEY_BYTES: Final = 8

_FREE: Final = (
    "SELECT sku_id, CAST(SUM(on_hand - allocated - reserved) AS SIGNED) FROM warehouse_stock "
    "WHERE sku_id IN %s GROUP BY sku_id"
)
_IN_FILE: Final = "SELECT sku_id, in_file FROM allocation WHERE campaign_id = %s"


async def receive_what_is_short(
    catalog: Pool, campaign: Campaign, *, who: str, why: str, now_ms: int | None = None
) -> dict[str, int]:
    """Take in what a campaign's file wants and the warehouse has not free; returns SKU id → units that came in.

    Whoever else takes units before the file is loaded makes it short again.

    Raises:
        OperationRefusedError: the warehouse has no room for so many.
        BackendError: MySQL could not do it now; call again.
    """
    now_ms = wall_ms() if now_ms is None else now_ms
    wanted = {sku.id: sku.stock for sku in campaign.sku}
    free: dict[str, int] = {}
    sku_ids = sorted(wanted)
    for start in range(0, len(sku_ids), SKUS_A_STATEMENT):
        free |= dict(await query(catalog, _FREE, (sku_ids[start : start + SKUS_A_STATEMENT],)))
    in_file = dict(await query(catalog, _IN_FILE, (campaign.id,)))
    short = {sku_id: wanted[sku_id] - in_file.get(sku_id, 0) - free.get(sku_id, 0) for sku_id in sku_ids}
    received = {sku_id: units for sku_id, units in short.items() if units > 0}
    for sku_id, units in received.items():
        key = secrets.token_hex(KEY_BYTES)
        await move(catalog, Movement(BookingKind.RECEIVE, sku_id, units, key, who=who, why=why), now_ms)
    return received


async def put_on_sale(stores: Stores, campaign: Campaign, *, who: str) -> None:
    """Take in what a campaign needs, load it and open it.

    Raises:
        OperationRefusedError: not possible as things stand.
        BackendError: a server is away.
    """
    await receive_what_is_short(stores.catalog, campaign, who=who, why=f"for campaign {campaign.id}")
    await load_into(stores, campaign, who=who)
    await lotteries.move(stores.channel, stores.client, campaign.id, "open")

"""What campaigns are allocated: the catalog decides (fg_catalog), and the counters of the orders follow (fg_orders).

The two schemas may lie on two servers, so no transaction spans them. An allocation's version rises with every move and
every load; a counter takes over what bears a higher version than it has seen, so the same may be brought again, late,
and by several at a time.
"""

from typing import Final, NamedTuple

import msgspec

from adapters.mysql import Pool, insert_many, query, transaction
from domain.campaign import Campaign
from domain.errors import OperationRefusedError

_ALLOCATIONS: Final = "SELECT sku_id, quantity, version FROM allocation WHERE campaign_id = %s ORDER BY sku_id"
_DEFINITION: Final = "SELECT definition FROM campaign WHERE campaign_id = %s"

# Assignments are made from left to right: the version, which decides, comes last.
_COUNTERS: Final = """
INSERT INTO campaign_sku (campaign_id, sku_id, allocated, pay_within_s, allocation_version)
VALUES (%s, %s, %s, %s, %s)
ON DUPLICATE KEY UPDATE
 allocated = IF(allocation_version < VALUES(allocation_version), VALUES(allocated), allocated),
 pay_within_s = IF(allocation_version < VALUES(allocation_version), VALUES(pay_within_s), pay_within_s),
 version = IF(allocation_version < VALUES(allocation_version), version + 1, version),
 allocation_version = GREATEST(allocation_version, VALUES(allocation_version))"""
_IS_MOVING: Final = "SELECT COUNT(*) FROM allocation_due WHERE campaign_id = %s AND done_at_ms IS NULL"
_COUNTER: Final = (
    "UPDATE campaign_sku SET allocated = %s, version = version + 1, allocation_version = %s "
    "WHERE campaign_id = %s AND sku_id = %s AND allocation_version <= %s AND allocated <> %s"
)


class Allocated(NamedTuple):
    """What the catalog has allocated to a campaign of a SKU."""

    quantity: int
    version: int


async def read_allocated(catalog: Pool, campaign_id: str) -> dict[str, Allocated]:
    """Return SKU id → what is allocated; nothing if there is no such campaign.

    Raises:
        BackendError: MySQL could not do it now.
    """
    return {row[0]: Allocated(*row[1:]) for row in await query(catalog, _ALLOCATIONS, (campaign_id,))}


async def bring_counters(catalog: Pool, orders: Pool, campaign_id: str) -> None:
    """Bring a campaign's counters to what the catalog has allocated, and make those that are missing.

    What was sold is never touched. A campaign that the catalog does not know is left alone.

    Raises:
        BackendError: MySQL could not do it now; call again.
    """
    # In this order: the definition is then at least as new as the versions, and never older.
    allocated = await read_allocated(catalog, campaign_id)
    definition = await query(catalog, _DEFINITION, (campaign_id,))
    if not allocated or not definition:
        return
    pay_within_s = msgspec.json.decode(definition[0][0], type=Campaign).campaign.pay_within_s
    rows = [(campaign_id, sku_id, one.quantity, pay_within_s, one.version) for sku_id, one in allocated.items()]
    async with transaction(orders) as cursor:
        await insert_many(cursor, _COUNTERS, rows)


async def mend_counter(catalog: Pool, orders: Pool, campaign_id: str, sku_id: str) -> int:
    """Set a counter that says another figure than the catalog, of the same version, to that; returns the figure.

    Raises:
        BackendError: MySQL could not do it now; call again.
        OperationRefusedError: the catalog knows no such allocation, or it is being moved; nothing was changed.
    """
    one = (await read_allocated(catalog, campaign_id)).get(sku_id)
    if one is None:
        raise OperationRefusedError(f"the catalog has allocated nothing of SKU {sku_id!r} to campaign {campaign_id!r}")
    ((moving,),) = await query(catalog, _IS_MOVING, (campaign_id,))
    if moving:
        raise OperationRefusedError(f"a load, top-up or close of campaign {campaign_id!r} is under way")
    async with transaction(orders) as cursor:
        key = (campaign_id, sku_id)
        await cursor.execute(_COUNTER, (one.quantity, one.version, *key, one.version, one.quantity))
    return one.quantity

"""The steps of a close: Redis closes the campaign and gives up what is unsold, and only then the catalog frees it.

What Redis tells is all that was ever withdrawn, and the catalog frees what it does not know of yet. So every step may
be repeated, and an answer that comes late frees nothing twice. Orders that expire after the close give their units back
to the closed campaign: it is asked again for as long as anything of it has not been shipped. A lottery's won prizes
are not shipped and never expire, so it is asked for LOTTERY_SETTLED_DAYS, in which a second deduction comes back.
"""

import contextlib
from typing import Final

from adapters.campaign_stock import withdraw
from adapters.lotteries import move
from adapters.mysql import query, transaction
from adapters.stock import read_fence
from domain.errors import OperationRefusedError
from domain.failpoints import reach
from warehouse import allocation_due
from warehouse.allocation_due import Due, DueKind
from warehouse.allocation_rows import Allocation, Reason, free, lock_known, read_allocations
from warehouse.stores import Stores

_CLOSE: Final = "UPDATE campaign SET closed_at_ms = %s WHERE campaign_id = %s"
_CLOSED: Final = (
    "SELECT campaign_id FROM campaign AS c WHERE closed_at_ms IS NOT NULL AND campaign_id > %s AND (%s OR "
    "(kind <> 'lottery' OR closed_at_ms > %s) AND EXISTS ("
    "SELECT 1 FROM warehouse_allocation AS p WHERE p.campaign_id = c.campaign_id AND p.quantity > p.shipped)) "
    "ORDER BY campaign_id LIMIT %s"
)
LOTTERY_SETTLED_DAYS: Final = 30
_DAY_MS: Final = 86_400_000


def ref_of(campaign_id: str) -> str:
    """Return how a campaign's close is called in what is owed."""
    return f"close {campaign_id}"


async def begin(stores: Stores, campaign_id: str, *, now_ms: int) -> Due | None:
    """Close a campaign in the catalog, and write down that Redis is owed it; None if it was closed before.

    Raises:
        OperationRefusedError: there is no such campaign.
        BackendError: MySQL could not do it now.
    """
    due = Due(campaign_id, ref_of(campaign_id), DueKind.CLOSE)
    async with transaction(stores.catalog) as cursor:
        row = await lock_known(cursor, campaign_id)
        if row.closed_at_ms is not None:
            return None
        await cursor.execute(_CLOSE, (now_ms, campaign_id))
        await allocation_due.write(cursor, due, now_ms)
    return due


async def owe_again(stores: Stores, campaign_id: str, now_ms: int) -> None:
    """Have a campaign that is closed in the catalog be closed in Redis once more, by the process.

    Raises:
        BackendError: MySQL could not do it now; call again.
    """
    async with transaction(stores.catalog) as cursor:
        await allocation_due.write_again(cursor, campaign_id, ref_of(campaign_id), now_ms)


async def carry_out(stores: Stores, due: Due, now_ms: int) -> None:
    """Close the campaign in Redis and free what is unsold; may be repeated, also by several at a time.

    Raises:
        OperationRefusedError: Redis does not know the campaign: not before its file is loaded again.
        FencedError: not before recovery is done.
        BackendError: it stays due.
    """
    if await settle(stores, due.campaign_id, now_ms) is None:
        raise OperationRefusedError(f"Redis does not know campaign {due.campaign_id!r}; load its file again")
    await allocation_due.note_done(stores.catalog, due, now_ms)


async def settle(stores: Stores, campaign_id: str, now_ms: int) -> dict[str, int] | None:
    """Have Redis close a campaign that the catalog has closed, withdraw what it has, and free that.

    Returns:
        SKU id → units that this call has freed; None if Redis does not know the campaign.

    Raises:
        OperationRefusedError: the catalog has not so many; a person has to look.
        FencedError, BackendError: as for `carry_out`.
    """
    run_id, _ = await read_fence(stores.client, campaign_id)
    if run_id is None:
        return None
    # A sale's close needs no recovery, withdrawing does: a Redis from before the close is not to sell until then.
    with contextlib.suppress(OperationRefusedError):  # it was closed before
        await move(stores.channel, stores.client, campaign_id, "close")
    withdrawn = await withdraw(stores.channel, campaign_id)
    reach("warehouse.after_withdraw")
    return await free_withdrawn(stores, campaign_id, withdrawn, now_ms)


async def free_withdrawn(stores: Stores, campaign_id: str, withdrawn: dict[str, int], now_ms: int) -> dict[str, int]:
    """Free what Redis has given up and the catalog does not know of yet; returns SKU id → units freed.

    Args:
        stores: both schemas.
        campaign_id: closed.
        withdrawn: SKU id → units that Redis has given up since the close, all in all.
        now_ms: wall clock.

    Raises:
        OperationRefusedError: the catalog has not so many; a person has to look.
        BackendError: MySQL could not do it now.
    """
    async with transaction(stores.catalog) as cursor:
        await lock_known(cursor, campaign_id)
        allocations = await read_allocations(cursor, campaign_id)
        units = newly_withdrawn(allocations, withdrawn)
        if not units:
            return {}
        after = [allocations[sku_id]._replace(withdrawn=withdrawn[sku_id]) for sku_id in units]
        # A version is borne once: so is a reference that names one of each SKU's.
        ref = f"withdraw {campaign_id} {sum(one.version for one in allocations.values())}"
        await free(cursor, Reason(campaign_id, ref, "", "unsold at the close", now_ms), units, after)
        counters = await allocation_due.write_counters(cursor, campaign_id, now_ms)
    await allocation_due.follow(stores.catalog, stores.orders, counters, now_ms)
    return units


def newly_withdrawn(allocations: dict[str, Allocation], withdrawn: dict[str, int]) -> dict[str, int]:
    """Return SKU id → units that Redis has withdrawn and the catalog does not know of."""
    found = {
        sku_id: total - allocations[sku_id].withdrawn for sku_id, total in withdrawn.items() if sku_id in allocations
    }
    return {sku_id: units for sku_id, units in found.items() if units > 0}


async def withdrawn_from(stores: Stores, campaign_id: str) -> dict[str, int]:
    """Return SKU id → units that have gone back to the warehouse since the close.

    Raises:
        BackendError: MySQL is not there.
    """
    sql = "SELECT sku_id, withdrawn FROM allocation WHERE campaign_id = %s ORDER BY sku_id"
    return dict(await query(stores.catalog, sql, (campaign_id,)))


async def find_closed(stores: Stores, after_id: str, limit: int, now_ms: int, *, everything: bool) -> list[str]:
    """Return closed campaigns to which something may come back, or all of them, by id from `after_id` on.

    Raises:
        BackendError: MySQL is not there.
    """
    since_ms = now_ms - LOTTERY_SETTLED_DAYS * _DAY_MS
    return [row[0] for row in await query(stores.catalog, _CLOSED, (after_id, everything, since_ms, limit))]

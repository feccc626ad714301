"""The steps of a top-up: the catalog allocates, Redis adds the units to what may be sold, fg_orders follows."""

from typing import Final

from adapters.campaign_stock import TopUpRefusedError, top_up
from adapters.catalog import key_of_top_up, ref_of_top_up
from adapters.mysql import transaction
from domain.campaign import STOCK_MAX
from domain.errors import OperationRefusedError
from domain.failpoints import reach
from warehouse import allocation_due
from warehouse.allocation_due import Due, DueKind
from warehouse.allocation_rows import Allocation, Reason, allocate, free, lock_known, read_allocations
from warehouse.rules import is_key
from warehouse.stores import Stores

KEY_CHARACTERS_MAX: Final = 80


async def begin(
    stores: Stores, campaign_id: str, sku_id: str, units: int, key: str, *, who: str, why: str, now_ms: int
) -> Due:
    """Allocate the units, once per key, and write down that Redis is owed them.

    Returns:
        What is owed, done or not: that of the first call with this key.

    Raises:
        OperationRefusedError: not possible; nothing was changed.
        BackendError: MySQL could not do it now.
    """
    _check(units, key)
    ref = ref_of_top_up(campaign_id, key)
    async with transaction(stores.catalog) as cursor:
        row = await lock_known(cursor, campaign_id)
        before = await allocation_due.find(cursor, campaign_id, ref)
        if before is not None:
            if (before.sku_id, before.units) != (sku_id, units):
                raise OperationRefusedError(f"the key {key!r} was used for another top-up; nothing was changed")
            if before.error and before.done_at_ms is not None:
                raise OperationRefusedError(f"this top-up was refused before: {before.error}")
            return before
        if row.closed_at_ms is not None:
            raise OperationRefusedError(f"campaign {campaign_id!r} is closed; nothing was changed")
        one = (await read_allocations(cursor, campaign_id)).get(sku_id)
        if one is None:
            raise OperationRefusedError(f"there is no SKU {sku_id!r} in campaign {campaign_id!r}; nothing was changed")
        if one.quantity + units > STOCK_MAX:
            raise OperationRefusedError(f"SKU {sku_id!r} would have more than {STOCK_MAX} units; nothing was changed")
        due = Due(campaign_id, ref, DueKind.TOP_UP, sku_id, units)
        after = one._replace(topped_up=one.topped_up + units)
        await allocate(cursor, Reason(campaign_id, ref, who, why or "top-up", now_ms), {sku_id: units}, [after])
        await allocation_due.write(cursor, due, now_ms)
    return due


def _check(units: int, key: str) -> None:
    if not isinstance(units, int) or isinstance(units, bool) or units < 1:
        raise OperationRefusedError(
            f"{units} is not a number of units: give a whole number of at least 1; nothing was changed"
        )
    if not is_key(key) or len(key) > KEY_CHARACTERS_MAX:
        raise OperationRefusedError(
            f"{key!r} is no key: up to {KEY_CHARACTERS_MAX} letters, digits and signs of ASCII, no blanks; nothing was "
            f"changed"
        )


async def carry_out(stores: Stores, due: Due, now_ms: int) -> tuple[int, bool] | None:
    """Have everyone follow a top-up; may be repeated, also by several at a time.

    Returns:
        Units that Redis has of the SKU then, sold ones included, and whether it was this call that added some; None if
        another had carried it out.

    Raises:
        TopUpRefusedError: refused; what was allocated for it is free again.
        OperationRefusedError: Redis does not know the campaign, or the SKU: not before its file is loaded again.
        FencedError: not before recovery is done.
        BackendError: it stays due.
    """
    key = key_of_top_up(due.campaign_id, due.ref)
    if await _is_done(stores, due):  # Redis may have lost its keys since, and would add the units again
        return None
    try:
        allocated, added = await top_up(stores.channel, due.campaign_id, due.sku_id, due.units, key)
    except TopUpRefusedError as error:
        await _undo(stores, due, str(error), now_ms)
        raise
    reach("warehouse.after_redis")
    await allocation_due.follow(stores.catalog, stores.orders, due, now_ms)
    return allocated, added


async def _is_done(stores: Stores, due: Due) -> bool:
    async with transaction(stores.catalog) as cursor:
        found = await allocation_due.find(cursor, due.campaign_id, due.ref)
    return found is None or found.done_at_ms is not None


async def _undo(stores: Stores, due: Due, error: str, now_ms: int) -> None:
    """Take back what was allocated for a top-up that Redis refuses for good."""
    async with transaction(stores.catalog) as cursor:
        await lock_known(cursor, due.campaign_id)
        found = await allocation_due.find(cursor, due.campaign_id, due.ref)
        if found is None or found.done_at_ms is not None:
            return
        one = (await read_allocations(cursor, due.campaign_id)).get(due.sku_id, Allocation(due.sku_id, 0))
        after = one._replace(topped_up=one.topped_up - due.units)
        reason = Reason(due.campaign_id, due.ref, "", f"refused: {error}"[:255], now_ms)
        await free(cursor, reason, {due.sku_id: due.units}, [after])
        await allocation_due.end(cursor, due, now_ms, error)
        counters = await allocation_due.write_counters(cursor, due.campaign_id, now_ms)
    await allocation_due.follow(stores.catalog, stores.orders, counters, now_ms)

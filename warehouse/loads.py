"""The steps of a load: the catalog allocates, fg_orders and Redis follow, and what fell is freed at last.

The catalog allocates before Redis may sell more; Redis gives up before the catalog frees. Loads of a campaign are
numbered, and one is under way at a time: whoever finds another's carries that out first.
"""

from collections.abc import Mapping
from typing import Final, NamedTuple

import msgspec

from adapters import campaign_stock
from adapters.campaign_stock import Standing
from adapters.catalog import bring_counters
from adapters.lotteries import fields_of_kind
from adapters.mysql import transaction
from adapters.stock import read_fence
from domain.campaign import LOTTERY, Campaign
from domain.errors import FlashgateError, OperationRefusedError
from domain.failpoints import reach
from warehouse import allocation_due, closing
from warehouse.allocation_due import Due, DueKind
from warehouse.allocation_rows import (
    Allocation,
    Reason,
    add_skus,
    allocate,
    free,
    lock_campaign,
    lock_known,
    read_allocations,
)
from warehouse.stores import Stores

_DEFINE: Final = (
    "UPDATE campaign SET kind = %s, opens_ms = %s, closes_ms = %s, definition = %s, load_no = %s WHERE campaign_id = %s"
)


class LoadBehindError(FlashgateError):
    """Redis has taken a later load than the catalog knows of: the catalog is older than it was. Nothing was freed."""


class LoadedAsItWasError(OperationRefusedError):
    """Redis had lost the campaign: it has been loaded with what was allocated, and nothing could be lowered."""


class Begun(NamedTuple):
    """What the catalog made of a file."""

    due: Due
    is_mine: bool
    """False: another's load, which has to be carried out first; the file has not been looked at."""


class Facts(NamedTuple):
    """What a load that is under way is carried out by."""

    campaign: Campaign
    closed: bool
    allocations: Mapping[str, Allocation]
    pending: Mapping[str, int]
    """SKU id → units of top-ups that Redis may not have heard of."""


async def begin(
    stores: Stores, campaign: Campaign, foreseen: str, *, who: str, now_ms: int, seen_no: int = 0
) -> Begun | None:
    """Allocate what a file wants more of, all or nothing, and write down that Redis is owed the load.

    Args:
        stores: where the catalog is.
        campaign: the file.
        foreseen: what Redis said would come of it: `created`, `updated` or `unchanged`.
        who: loads it.
        now_ms: wall clock.
        seen_no: number of the last load that Redis has taken.

    Returns:
        None if nothing has changed.

    Raises:
        OperationRefusedError: not possible; nothing was changed.
        BackendError: MySQL could not do it now.
    """
    definition = msgspec.json.encode(campaign).decode()
    async with transaction(stores.catalog) as cursor:
        row = await lock_campaign(cursor, campaign.id, make=True)
        assert row is not None, "it has been made"  # noqa: S101 -- for the type's sake
        for due in await allocation_due.find_open(cursor, campaign.id, DueKind.LOAD):
            return Begun(due, is_mine=False)
        before = await read_allocations(cursor, campaign.id)
        wanted = {sku.id: sku.stock for sku in campaign.sku}
        same = row.definition == definition and all(
            sku_id in before and before[sku_id].in_file == stock for sku_id, stock in wanted.items()
        )
        _refuse(campaign, row.closed_at_ms is not None, before, foreseen, is_same=same)
        if row.definition and foreseen == "created" and not same and campaign.campaign.kind == LOTTERY:
            raise OperationRefusedError(
                f"Redis has lost lottery {campaign.id!r}, whose log says what was drawn from: load the file as it was "
                f"first; nothing was changed"
            )
        if same and foreseen == "unchanged":
            return None
        load_no = max(row.load_no, seen_no) + 1
        due = Due(
            campaign.id,
            f"load {campaign.id} {load_no}",
            DueKind.LOAD,
            load_no=load_no,
            previous=row.definition or None,
        )
        after = [
            one._replace(in_file=max(one.in_file, wanted[one.sku_id]))
            for one in (before.get(sku_id, Allocation(sku_id, 0)) for sku_id in wanted)
        ]
        head = campaign.campaign
        facts = (head.kind, campaign.opens_ms, campaign.closes_ms, definition, load_no, campaign.id)
        await cursor.execute(_DEFINE, facts)
        await add_skus(cursor, wanted.keys() - before.keys())
        rising = _differences(before, after)
        await allocate(cursor, Reason(campaign.id, due.ref, who, "load", now_ms), rising, after)
        await allocation_due.write(cursor, due, now_ms)
    return Begun(due, is_mine=True)


def _refuse(
    campaign: Campaign, closed: bool, before: Mapping[str, Allocation], foreseen: str, *, is_same: bool
) -> None:
    wanted = {sku.id: sku.stock for sku in campaign.sku}
    gone = sorted(sku_id for sku_id, one in before.items() if sku_id not in wanted and one.quantity)
    if gone:
        raise OperationRefusedError(
            f"SKU {gone[0]!r} is loaded and not in the file: keep it there, with a stock of what is sold, to sell no "
            f"more of it; nothing was changed"
        )
    if closed and not is_same:
        raise OperationRefusedError(f"campaign {campaign.id!r} is closed: its file is final; nothing was changed")
    falls = [sku_id for sku_id, stock in sorted(wanted.items()) if sku_id in before and stock < before[sku_id].in_file]
    if falls and foreseen == "created":
        raise OperationRefusedError(
            f"SKU {falls[0]!r}: Redis has lost this campaign, so that stock cannot be lowered; load the file as it was "
            f"first; nothing was changed"
        )


def _differences(before: Mapping[str, Allocation], after: "list[Allocation]") -> dict[str, int]:
    found = {one.sku_id: one.quantity - (before[one.sku_id].quantity if one.sku_id in before else 0) for one in after}
    return {sku_id: units for sku_id, units in found.items() if units > 0}


async def carry_out(stores: Stores, due: Due, now_ms: int, *, is_new: bool = False) -> None:
    """Have everyone follow a load; may be repeated, also by several at a time.

    Args:
        stores: all of them.
        due: the load.
        now_ms: wall clock.
        is_new: the campaign is one that nothing can have been sold of yet: it may be sold as soon as Redis has it.
            Else, if Redis does not know it, it has lost it: it is created with its gate closed.

    Raises:
        LoadedAsItWasError: done, but for what was to be lowered.
        OperationRefusedError: refused; what was allocated for it is free again, and the file before is the one that
            counts.
        LoadBehindError: the catalog was set back; the load stays due.
        FencedError: not before recovery is done; the load stays due.
        BackendError: the load stays due.
    """
    facts = await _read(stores, due)
    if facts is None:
        return
    lowers_lost = not is_new and bool(_falling(facts)) and await _is_lost(stores, facts.campaign)
    if lowers_lost:
        # Redis may have taken this load before it lost all: what rose may be sold, and what fell as well.
        facts = await _raise_to_allocated(stores, due)
        if facts is None:
            return
    await bring_counters(stores.catalog, stores.orders, due.campaign_id)  # no order may arrive before its counter
    if facts.closed and facts.campaign.campaign.kind == LOTTERY:
        await closing.owe_again(stores, due.campaign_id, now_ms)  # one that Redis has lost is not created closed
    try:
        done = await _load_into_redis(stores, due, facts, is_new=is_new)
    except OperationRefusedError as error:
        await _undo(stores, due, str(error), now_ms)
        raise
    if done == "stale":
        if await _read(stores, due) is None:
            return
        raise LoadBehindError(
            f"campaign {due.campaign_id!r}: Redis has taken a later load than number {due.load_no}, which is the "
            f"catalog's last; if the catalog was restored from a backup, compare it with Redis first"
        )
    reach("warehouse.after_redis")
    await _free_what_fell(stores, due, now_ms)
    await allocation_due.follow(stores.catalog, stores.orders, due, now_ms)
    if lowers_lost:
        raise LoadedAsItWasError(
            f"Redis had lost campaign {due.campaign_id!r}: it is loaded with what was allocated to it; lower its stock "
            f"once recovery has compared"
        )


async def _load_into_redis(stores: Stores, due: Due, facts: Facts, *, is_new: bool) -> str:
    return await campaign_stock.load_campaign(
        stores.channel,
        facts.campaign,
        gate_closed=not is_new,
        load_no=due.load_no,
        standing=_standing(facts),
        closed=facts.closed,
        more_fields=await fields_of_kind(stores.catalog, facts.campaign),
    )


async def _read(stores: Stores, due: Due) -> Facts | None:
    """Return what is to be carried out; None if it has been."""
    async with transaction(stores.catalog) as cursor:
        row = await lock_known(cursor, due.campaign_id)
        found = await allocation_due.find(cursor, due.campaign_id, due.ref)
        if found is None or found.done_at_ms is not None:
            return None
        pending: dict[str, int] = {}
        for one in await allocation_due.find_open(cursor, due.campaign_id, DueKind.TOP_UP):
            pending[one.sku_id] = pending.get(one.sku_id, 0) + one.units
        allocations = await read_allocations(cursor, due.campaign_id)
    campaign = msgspec.json.decode(row.definition, type=Campaign)
    return Facts(campaign, row.closed_at_ms is not None, allocations, pending)


async def _raise_to_allocated(stores: Stores, due: Due) -> Facts | None:
    """Have the file of a load that is under way ask for no less than is allocated; None if it has been carried out."""
    async with transaction(stores.catalog) as cursor:
        row = await lock_known(cursor, due.campaign_id)
        found = await allocation_due.find(cursor, due.campaign_id, due.ref)
        if found is None or found.done_at_ms is not None or row.load_no != due.load_no:
            return None
        allocations = await read_allocations(cursor, due.campaign_id)
        campaign = msgspec.json.decode(row.definition, type=Campaign)
        skus = tuple(
            msgspec.structs.replace(sku, stock=max(sku.stock, allocations[sku.id].in_file)) for sku in campaign.sku
        )
        campaign = msgspec.structs.replace(campaign, sku=skus)
        facts = (campaign.campaign.kind, campaign.opens_ms, campaign.closes_ms, msgspec.json.encode(campaign).decode())
        await cursor.execute(_DEFINE, (*facts, due.load_no, due.campaign_id))
    return await _read(stores, due)


def _falling(facts: Facts) -> dict[str, int]:
    """Return SKU id → units that the file wants fewer than are allocated for it."""
    present = facts.allocations
    found = {sku.id: present[sku.id].in_file - sku.stock for sku in facts.campaign.sku if sku.id in present}
    return {sku_id: units for sku_id, units in found.items() if units > 0}


def _standing(facts: Facts) -> dict[str, Standing]:
    """Return what a campaign is created with that Redis has lost; top-ups that are under way come by themselves."""
    falling = _falling(facts)
    return {
        sku_id: Standing(one.quantity - facts.pending.get(sku_id, 0) - falling.get(sku_id, 0), one.withdrawn)
        for sku_id, one in facts.allocations.items()
    }


async def _is_lost(stores: Stores, campaign: Campaign) -> bool:
    run_id, _ = await read_fence(stores.client, campaign.id)
    return run_id is None


async def _free_what_fell(stores: Stores, due: Due, now_ms: int) -> None:
    """Free what Redis has given up; nothing is left to be freed when it is done again."""
    async with transaction(stores.catalog) as cursor:
        row = await lock_known(cursor, due.campaign_id)
        if row.load_no != due.load_no:
            return
        campaign = msgspec.json.decode(row.definition, type=Campaign)
        allocations = await read_allocations(cursor, due.campaign_id)
        falling = _falling(Facts(campaign, False, allocations, {}))
        if falling:
            after = [allocations[sku_id] for sku_id in falling]
            after = [one._replace(in_file=one.in_file - falling[one.sku_id]) for one in after]
            await free(cursor, Reason(due.campaign_id, due.ref, "", "the file says less", now_ms), falling, after)


async def _undo(stores: Stores, due: Due, error: str, now_ms: int) -> None:
    """Take back what a load was allocated that Redis refuses for good, and have the file before count again."""
    async with transaction(stores.catalog) as cursor:
        await lock_known(cursor, due.campaign_id)
        found = await allocation_due.find(cursor, due.campaign_id, due.ref)
        if found is None or found.done_at_ms is not None:
            return
        stock: dict[str, int] = {}
        if due.previous is not None:
            before = msgspec.json.decode(due.previous, type=Campaign)
            stock = {sku.id: sku.stock for sku in before.sku}
            facts = (before.campaign.kind, before.opens_ms, before.closes_ms, due.previous)
            await cursor.execute(_DEFINE, (*facts, due.load_no, due.campaign_id))
        allocations = await read_allocations(cursor, due.campaign_id)
        risen = {sku_id: one.in_file - stock.get(sku_id, 0) for sku_id, one in allocations.items()}
        risen = {sku_id: units for sku_id, units in risen.items() if units > 0}
        after = [one._replace(in_file=one.in_file - risen.get(one.sku_id, 0)) for one in allocations.values()]
        reason = Reason(due.campaign_id, due.ref, "", f"refused: {error}"[:255], now_ms)
        await free(cursor, reason, risen, after)
        await allocation_due.end(cursor, due, now_ms, error)
        counters = await allocation_due.write_counters(cursor, due.campaign_id, now_ms)
    await allocation_due.follow(stores.catalog, stores.orders, counters, now_ms)

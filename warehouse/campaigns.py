"""A campaign and the warehouse: loading it, topping it up, closing it, and finishing what was left half done.

Each begins with a transaction of the catalog that also writes down what the others are owed, is carried out at once,
and, if whoever began it died, by the process `flashgate consume warehouse` (`finish_due`, `settle_closed`).
"""

import logging
from typing import Final, NamedTuple

from adapters.campaign_stock import load_campaign
from adapters.lotteries import fields_of_kind
from adapters.mysql import DataRefusedError
from adapters.redis import ScriptFailedError
from adapters.stock import read_fence, read_load_no, read_snapshot
from domain.backoff import pause_s
from domain.campaign import Campaign, CampaignState
from domain.errors import BackendError, FencedError, OperationRefusedError, PoisonRecordError
from domain.failpoints import reach
from domain.settings import WarehouseSettings
from warehouse import allocation_due, closing, loads, topups
from warehouse.allocation_due import Due, DueKind
from warehouse.stores import Stores, wall_ms

log = logging.getLogger(__name__)

IN_THE_WAY: Final = (
    FencedError,
    OperationRefusedError,
    ScriptFailedError,
    DataRefusedError,
    PoisonRecordError,
    loads.LoadBehindError,
)
"""What stands in the way of one campaign, and holds up no other."""
LOADS_MAX: Final = 5
"""Loads of others that a load carries out before it gives up."""


class ToppedUp(NamedTuple):
    """What a top-up came to."""

    allocated: int
    """Units that Redis has of the SKU now, sold ones included."""
    added: bool
    """Whether it was this call that added them."""


class Closed(NamedTuple):
    """What a close came to."""

    state: CampaignState
    returned: dict[str, int]
    """SKU id → units that went back to the warehouse."""


async def load_into(stores: Stores, campaign: Campaign, *, who: str = "", now_ms: int | None = None) -> str:
    """Load a campaign; returns `created`, `updated` or `unchanged`.

    Redis is asked first whether it can be, then the warehouse allocates, then the orders' counters and Redis follow.

    Raises:
        OperationRefusedError: the warehouse is short, or Redis refuses; the file before is the one that counts.
        BackendError: a server is away. What the warehouse has allocated by then will be carried out; loading the same
            file again does that, too.
    """
    now_ms = wall_ms() if now_ms is None else now_ms
    more = await fields_of_kind(stores.catalog, campaign)
    for _ in range(LOADS_MAX):
        foreseen = await load_campaign(stores.channel, campaign, check_only=True, more_fields=more)
        seen_no = await read_load_no(stores.client, campaign.id)
        begun = await loads.begin(stores, campaign, foreseen, who=who, now_ms=now_ms, seen_no=seen_no)
        if begun is None:
            return "unchanged"
        if begun.is_mine:
            reach("warehouse.after_allocate")
            is_new = foreseen == "created" and begun.due.previous is None
            await loads.carry_out(stores, begun.due, now_ms, is_new=is_new)
            return "created" if foreseen == "created" else "updated"
        try:
            await loads.carry_out(stores, begun.due, now_ms)
        except OperationRefusedError as error:
            log.warning("%s: %s", begun.due.ref, error)
    raise BackendError(f"campaign {campaign.id!r}: others are loading it; try again")


async def top_up_stock(
    stores: Stores,
    campaign_id: str,
    sku_id: str,
    units: int,
    key: str,
    *,
    who: str = "",
    why: str = "",
    now_ms: int | None = None,
) -> ToppedUp:
    """Give a campaign more units of a SKU, once per key; it goes on sale again at once.

    Raises:
        OperationRefusedError: the warehouse is short, or it is not possible; nothing was changed.
        FencedError: Redis was restarted and recovery is not done; nothing was changed.
        BackendError: a server is away. What the warehouse has allocated by then will be carried out; repeating it with
            the same key does that, too.
    """
    now_ms = wall_ms() if now_ms is None else now_ms
    await _allocated_in_redis(stores, campaign_id, sku_id)
    due = await topups.begin(stores, campaign_id, sku_id, units, key, who=who, why=why, now_ms=now_ms)
    reach("warehouse.after_allocate")
    done = None if due.done_at_ms is not None else await topups.carry_out(stores, due, now_ms)
    if done is None:
        return ToppedUp(await _allocated_in_redis(stores, campaign_id, sku_id), added=False)
    return ToppedUp(*done)


async def _allocated_in_redis(stores: Stores, campaign_id: str, sku_id: str) -> int:
    """Return what Redis has; what it would refuse is refused here, before anything is allocated for it."""
    snapshot = await read_snapshot(stores.client, campaign_id)
    if snapshot is None:
        raise OperationRefusedError(f"there is no campaign {campaign_id!r}; load its file first")
    if sku_id not in snapshot.stock:
        raise OperationRefusedError(f"there is no SKU {sku_id!r} in campaign {campaign_id!r}; nothing was changed")
    if snapshot.fields["run_id"] != await stores.channel.connect():
        raise FencedError(f"campaign {campaign_id}: closed until recovery has compared Redis with Kafka and MySQL")
    return snapshot.stock[sku_id].allocated


async def close_campaign(stores: Stores, campaign_id: str, *, now_ms: int | None = None) -> Closed:
    """Close a campaign for good, and give what is unsold back to the warehouse.

    Raises:
        OperationRefusedError: there is no such campaign, or it was closed before.
        BackendError: a server is away; if it is closed in the catalog by then, the rest will be carried out.
    """
    now_ms = wall_ms() if now_ms is None else now_ms
    run_id, _ = await read_fence(stores.client, campaign_id)
    if run_id is None:
        raise OperationRefusedError(f"there is no campaign {campaign_id!r}; load its file first")
    due = await closing.begin(stores, campaign_id, now_ms=now_ms)
    if due is None:
        late = sum((await closing.settle(stores, campaign_id, now_ms) or {}).values())
        # The first close may have died before it came so far.
        done = f"{late} units that were left have gone back to the warehouse now" if late else "nothing was changed"
        raise OperationRefusedError(f"campaign {campaign_id!r} is closed already; {done}")
    await closing.carry_out(stores, due, now_ms)
    returned = await closing.withdrawn_from(stores, campaign_id)
    return Closed(CampaignState.CLOSED, {sku_id: units for sku_id, units in returned.items() if units})


async def carry_out(stores: Stores, due: Due, now_ms: int) -> None:
    """Have everyone follow what the catalog has begun; may be repeated, also by several at a time.

    Raises:
        OperationRefusedError: refused, for good or for now.
        DataRefusedError: the data contradicts itself; a person has to look.
        BackendError: a server is away.
    """
    match due.kind:
        case DueKind.LOAD:
            await loads.carry_out(stores, due, now_ms)
        case DueKind.TOP_UP:
            await topups.carry_out(stores, due, now_ms)
        case DueKind.CLOSE:
            await closing.carry_out(stores, due, now_ms)
        case DueKind.COUNTERS:
            await allocation_due.follow(stores.catalog, stores.orders, due, now_ms)


async def finish_due(stores: Stores, settings: WarehouseSettings, now_ms: int) -> int:
    """Carry out loads, top-ups and closes that whoever began them has not; returns how many were taken up.

    What is refused is put off, with the reason in its row.

    Raises:
        BackendError: a server is away.
    """
    found = await allocation_due.find_due(stores.catalog, now_ms, settings.batch_max)
    for due in found:
        try:
            await carry_out(stores, due, now_ms)
        except IN_THE_WAY as refused:
            log.error("%s is put off: %s", due.ref, refused)  # noqa: TRY400 -- it says it all
            wait_s = pause_s(due.attempts, settings.retry_initial_s, settings.retry_max_s)
            await allocation_due.put_off(stores.catalog, due, now_ms + round(1_000 * wait_s), str(refused))
    return len(found)


async def settle_closed(stores: Stores, settings: WarehouseSettings, now_ms: int, *, everything: bool = False) -> int:
    """Give back to the warehouse what came back to closed campaigns; returns of how many campaigns something did.

    One that cannot be settled now does not hold up the others, and comes up again in the next round.

    Args:
        stores: all of them.
        settings: how many at once.
        now_ms: wall clock.
        everything: ask also those to which nothing should come back: to be done once when Redis has another run id than
            before, for it may have gone back to an older state.

    Raises:
        FencedError: with `everything`: not all of them could be asked, for recovery is not done; the others were.
        BackendError: a server is away.
    """
    count, after_id = 0, ""
    waiting: FencedError | None = None
    while page := await closing.find_closed(stores, after_id, settings.batch_max, now_ms, everything=everything):
        after_id = page[-1]
        for campaign_id in page:
            try:
                count += bool(await closing.settle(stores, campaign_id, now_ms))
            except (FencedError, ScriptFailedError) as refused:
                log.info("campaign %s cannot be settled now: %s", campaign_id, refused)
                waiting = refused if isinstance(refused, FencedError) else waiting
            except IN_THE_WAY as refused:
                log.warning("campaign %s cannot be settled: %s", campaign_id, refused)
    if everything and waiting is not None:
        raise waiting
    return count

"""Switches for what stands between the catalog, Redis and the orders' counters."""

from collections.abc import Callable
from typing import Any, Final

from tests.support.hooks import replace
from tests.switches_stock import alter_script


def allocated_before_redis() -> None:
    """A top-up is on sale before the warehouse is asked whether it has the units."""
    from adapters.campaign_stock import top_up
    from warehouse import topups

    begin = topups.begin

    async def sell_first(stores: Any, campaign_id: str, sku_id: str, units: int, key: str, **how: Any) -> Any:
        await top_up(stores.channel, campaign_id, sku_id, units, key)
        return await begin(stores, campaign_id, sku_id, units, key, **how)

    replace(topups, "begin", sell_first)


def withdrawals_counted() -> None:
    """The catalog frees whatever Redis says was withdrawn, whether it knows of it or not."""
    from warehouse import closing

    def all_of_it(_allocations: object, withdrawn: dict[str, int]) -> dict[str, int]:
        return withdrawn

    replace(closing, "newly_withdrawn", all_of_it)


def loads_numbered() -> None:
    """A load that was overtaken by a later one is taken by Redis all the same."""
    alter_script("load_campaign", "if load_no < last_no then return {STALE, '', 0} end", "")


def refused_loads_final() -> None:
    """A load that was refused may be asked again."""
    alter_script("load_campaign", "redis.call('HSET', KEYS[1], 'refused_load_no', ARGV[7])", "")


def closed_campaigns_get_no_more() -> None:
    """A closed campaign is topped up like any other."""
    alter_script("topup_stock", "if redis.call('HGET', KEYS[1], 'state') == 'closed' then", "if false then")


def recreated_as_allocated() -> None:
    """A campaign that Redis has lost is created anew with what its file says."""
    alter_script("load_campaign", "allocated = sku[5]", "")


def allocations_owed() -> None:
    """The catalog allocates, and nothing says that the others are owed it."""
    from warehouse import allocation_due

    async def forget(_cursor: Any, _due: object, _now_ms: int) -> None:
        return

    replace(allocation_due, "write", forget)


def counters_take_the_newest() -> None:
    """A counter takes over what comes last, however old it is."""
    from adapters import catalog

    replace(catalog, "_COUNTERS", catalog._COUNTERS.replace("allocation_version < VALUES(allocation_version)", "1"))


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "allocated_before_redis": allocated_before_redis,
    "withdrawals_counted": withdrawals_counted,
    "loads_numbered": loads_numbered,
    "refused_loads_final": refused_loads_final,
    "closed_campaigns_get_no_more": closed_campaigns_get_no_more,
    "recreated_as_allocated": recreated_as_allocated,
    "allocations_owed": allocations_owed,
    "counters_take_the_newest": counters_take_the_newest,
}

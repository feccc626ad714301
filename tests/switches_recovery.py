"""Switches for what recovery brings back from the catalog."""

from collections.abc import Callable
from typing import Any, Final

from tests.support.hooks import replace
from tests.switches_stock import alter_script


def catalog_recovered() -> None:
    """Recovery does not ask the catalog."""
    from gateway.recovery import Recovery

    async def nothing(_self: Recovery, _campaign_id: str) -> None:
        return

    replace(Recovery, "_look", nothing)


def room_made_first() -> None:
    """Lost orders are restored into whatever stock is there."""
    from gateway.recovery import Recovery

    async def nothing(_self: Recovery, *_args: Any) -> None:
        return

    replace(Recovery, "_make_room", nothing)


def withdrawals_recovered() -> None:
    """What a closed campaign has given back in all is counted anew."""
    alter_script("adjust_stock", "if sku[6] > 0 then", "if false then")


def adjusted_as_seen() -> None:
    """A campaign that was loaded while recovery looked is brought to what recovery has seen."""
    alter_script("adjust_stock", "~= ARGV[5] then", "== false then")
    alter_script("adjust_stock", "if s.allocated ~= sku[2] or sold ~= sku[3] then", "if false then")


def sold_shows_what_was_there() -> None:
    """A load that is under way counts as unheard of until Redis says its number."""
    from adapters.catalog import CatalogCampaign
    from adapters.recovery_stock import CampaignStock
    from gateway import recovery_allocations

    def by_number(catalog: CatalogCampaign, here: CampaignStock) -> bool:
        return not catalog.load_is_due or here.load_no >= catalog.load_no

    replace(recovery_allocations, "_has_load", by_number)


def top_ups_under_way_left() -> None:
    """Recovery makes top-ups that are under way, and leaves no trace of them."""
    from adapters.catalog import CatalogCampaign
    from adapters.recovery_stock import CampaignStock
    from gateway import recovery, recovery_allocations

    bring = recovery_allocations.bring_to_catalog

    def all_there(catalog: CatalogCampaign, here: CampaignStock) -> Any:
        return bring(catalog._replace(top_ups=[]), here)

    replace(recovery, "bring_to_catalog", all_there)


def closed_before_withdrawn() -> None:
    """A campaign that the catalog has closed is closed in Redis once it may be asked what it has."""
    from adapters import campaign_stock
    from warehouse import closing

    close, withdraw = campaign_stock.move_campaign, campaign_stock.withdraw

    async def nothing(*_args: object) -> None:
        return

    async def then_close(channel: Any, campaign_id: str) -> dict[str, int]:
        try:
            return await withdraw(channel, campaign_id)
        except campaign_stock.NotClosedError:
            await close(channel, campaign_id, "close")
            return await withdraw(channel, campaign_id)

    replace(closing, "move", nothing)
    replace(closing, "withdraw", then_close)


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "catalog_recovered": catalog_recovered,
    "room_made_first": room_made_first,
    "withdrawals_recovered": withdrawals_recovered,
    "adjusted_as_seen": adjusted_as_seen,
    "sold_shows_what_was_there": sold_shows_what_was_there,
    "top_ups_under_way_left": top_ups_under_way_left,
    "closed_before_withdrawn": closed_before_withdrawn,
}

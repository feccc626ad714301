"""The demo's warehouse: goods come in, a clerk reviews what was paid, parcels leave, and a few come back."""

import asyncio
from collections.abc import Sequence
from typing import Final, NamedTuple

from adapters.mysql import query
from adapters.tasks import pause
from cli.catalog import read_catalog_file
from cli.clients import Clients
from cli.demo_facts import House
from domain.campaign import Campaign
from domain.order_state import ReviewStatus
from domain.settings import Settings
from stack.paths import PROJECT_ROOT
from warehouse.catalog_rows import load_catalog
from warehouse.movements import Movement, move
from warehouse.outbound import OutboundDesk
from warehouse.review_rules import ORDERS_MAX
from warehouse.rules import BookingKind
from warehouse.stores import wall_ms
from warehouse.view import read_report

SAMPLE: Final = PROJECT_ROOT / "examples" / "catalog.toml"
SHOP_SHARE: Final = 0.1
"""Units beyond the campaign's stock, half of which the shop has sold."""
REJECT_SHARE: Final = 0.04
RETURN_SHARE: Final = 0.04
"""Of those who pay at first."""
WHO: Final = "demo clerk"
LOOK_S: Final = 0.1

_DECIDED: Final = (
    "SELECT status, CAST(COALESCE(SUM(quantity), 0) AS SIGNED) FROM outbound_review WHERE campaign_id = %s "
    "GROUP BY status"
)
_LEFT: Final = "SELECT order_id FROM outbound_review WHERE order_id IN %s AND status = %s ORDER BY order_id LIMIT %s"


async def fill_warehouse(clients: Clients, campaign: Campaign) -> None:
    """Load the sample catalog, have the goods come in, into two warehouses, and let the shop sell some of them."""
    await load_catalog(clients.catalog, read_catalog_file(SAMPLE))
    for sku in campaign.sku:
        more = max(2, round(sku.stock * SHOP_SHARE))
        parts = {"main": sku.stock // 2 + more, "north": sku.stock - sku.stock // 2}
        for warehouse_id, units in parts.items():
            if units:
                key, why = f"demo-{sku.id}-{warehouse_id}", "delivery for the sale"
                incoming = Movement(BookingKind.RECEIVE, sku.id, units, key, warehouse_id, WHO, why)
                await move(clients.catalog, incoming, wall_ms())
        sold = Movement(
            BookingKind.RESERVE, sku.id, more // 2, f"demo-{sku.id}-shop", "", WHO, "the shop has sold them"
        )
        await move(clients.catalog, sold, wall_ms())


async def look_around(clients: Clients, campaign: Campaign) -> House:
    """Return what the warehouse has of a campaign's SKUs together, and what of its books does not balance."""
    report = await read_report(clients.catalog)
    ids = {sku.id for sku in campaign.sku}
    lines = [line for line in report.skus if line.sku_id in ids]
    return House(
        on_hand=sum(line.on_hand for line in lines),
        allocated=sum(line.allocated for line in lines),
        reserved=sum(line.reserved for line in lines),
        free=sum(line.free for line in lines),
        received=sum(line.received for line in lines),
        shipped=sum(line.shipped for line in lines),
        returned=sum(line.returned for line in lines),
        differences=tuple(report.differences),
    )


class Parcels(NamedTuple):
    """Units by what the outbound review came to."""

    shipped: int
    rejected: int
    returned: int


async def count_parcels(clients: Clients, campaign_id: str) -> Parcels:
    """Return how many units went which way."""
    rows = {str(status): int(units) for status, units in await query(clients.orders, _DECIDED, (campaign_id,))}
    return Parcels(
        rows.get(ReviewStatus.SHIPPED, 0), rows.get(ReviewStatus.REJECTED, 0), rows.get(ReviewStatus.RETURNED, 0)
    )


class Clerk:
    """Reviews what was paid, as `flashgate outbound` does: most goes out, a few are rejected, a few parcels come back.

    Args:
        clients: both schemas and Redis.
        settings: the demo's.
        campaign_id: whose orders.
        paying: order ids that are paid at first, some of which are rejected, or come back; none: all goes out.
    """

    def __init__(self, clients: Clients, settings: Settings, campaign_id: str, paying: Sequence[str] = ()) -> None:
        self._desk = OutboundDesk(clients, guard=settings.guard, settings=settings.warehouse, now_ms=wall_ms)
        self._orders = clients.orders
        self._stopped = asyncio.Event()
        self._campaign_id = campaign_id
        rejected = _some(paying, REJECT_SHARE)
        self._to_reject = set(paying[:rejected])
        self._to_return = set(paying[rejected : rejected + _some(paying, RETURN_SHARE)])

    async def work(self) -> None:
        """Decide, until told to stop."""
        while not self._stopped.is_set():
            if not await self._round():
                await pause(LOOK_S, self._stopped)

    def stop(self) -> None:
        """Have `work` end after the present round."""
        self._stopped.set()

    @property
    def is_done(self) -> bool:
        """Whether every parcel that is to come back has."""
        return not self._to_return

    async def _round(self) -> bool:
        """Decide about what waits now; returns whether anything did."""
        found = await self._desk.find(ReviewStatus.WAITING, campaign_id=self._campaign_id, limit=ORDERS_MAX)
        waiting = [one.order_id for one in found]
        back = await self._come_back()
        refused = [one for one in waiting if one in self._to_reject]
        good = [one for one in waiting if one not in self._to_reject]
        if refused:
            await self._desk.reject(refused, WHO, "the address does not exist")
        if good:
            await self._desk.approve(good, WHO, "address and payment are fine")
        if back:
            await self._desk.take_back(back, WHO, "nobody opened the door")
            self._to_return.difference_update(back)
        return bool(waiting or back)

    async def _come_back(self) -> list[str]:
        """Return those of the parcels that are to come back which have left the house."""
        if not self._to_return:
            return []
        rows = await query(self._orders, _LEFT, (sorted(self._to_return), ReviewStatus.SHIPPED, ORDERS_MAX))
        return [order_id for (order_id,) in rows]


def _some(orders: Sequence[str], share: float) -> int:
    """Return how many of so many orders; one at least, if there are a few."""
    return max(1, round(len(orders) * share)) if len(orders) > 2 else 0

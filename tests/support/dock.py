"""A shop whose paid orders are reviewed and go out of the warehouse, moved by a test, and what must add up."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from adapters.mysql import Pool, query
from adapters.stock import read_snapshot
from adapters.stores import OpenStores, open_stores
from consumers.reconcile import reconcile
from domain import keys
from domain.errors import FencedError
from domain.order_state import ReviewStatus
from domain.settings import Settings
from lifecycle.callback import Callback
from lifecycle.keeper import Keeper
from lifecycle.payment_rows import Payment
from lifecycle.payments import PaymentDesk
from lifecycle.provider import ProviderState
from stack.ports import free_port
from tests.support.life import Kept, assert_settled, confirmed, new_desk, new_keeper, now_ms, statuses, until_idle
from tests.support.provider import SandboxHandle, adapter, sandbox
from tests.support.shop import SKU, Shop, open_shop, until_true
from warehouse.keeper import WarehouseKeeper
from warehouse.outbound import OutboundDesk
from warehouse.view import read_report

_OF_CAMPAIGN: Final = {
    "orders": "orders outbound_review warehouse_due stock_ledger stock_return payment campaign_sku",
    "catalog": "allocation warehouse_allocation warehouse_ledger allocation_due",
}
"""Tables with a column campaign_id, by schema."""
_OF_ORDER: Final = "order_change order_attribute"


@dataclass
class Dock:
    """A shop with confirmed orders of a-0, a-1 and so on, a provider, and everybody who looks after them."""

    settings: Settings
    shop: Shop
    url: str
    provider: SandboxHandle
    desk: PaymentDesk
    keeper: Keeper
    outbound: OutboundDesk
    warehouse: WarehouseKeeper
    kept: Kept
    """What the warehouse's keeper has told."""
    orders: list[str]
    quantity: int

    async def begun(self, which: int = 0, key: str = "pay-1") -> Payment:
        """Begin a payment for an order that can be paid."""
        payment = await self.desk.pay(self.orders[which], f"a-{which}", key)
        assert isinstance(payment, Payment)
        return payment

    async def pay(self, *which: int, key: str = "pay-1") -> list[str]:
        """Have buyers pay, all if none is named, as the provider confirms; returns the payments' ids."""
        made = []
        for number in which or range(len(self.orders)):
            payment = await self.begun(number, key)
            await self.provider.pay(payment.payment_id)
            await self.confirm(payment)
            made.append(payment.payment_id)
        return made

    async def confirm(self, payment: Payment, state: ProviderState = ProviderState.APPROVED) -> None:
        """Have the provider call back about a payment."""
        await self.desk.take_in(Callback("event", payment.payment_id, state, payment.amount_cents))

    async def status(self, which: int = 0) -> str:
        """Return an order's status."""
        return (await statuses(self.shop))[self.orders[which]]

    async def reviews(self) -> dict[str, tuple[str, str]]:
        """Return order id → status of its review, and who decided last."""
        rows = await query(
            self.shop.clients.orders,
            "SELECT order_id, status, who FROM outbound_review WHERE campaign_id = %s",
            (self.shop.id,),
        )
        return {order_id: (status, who) for order_id, status, who in rows}

    async def waiting(self) -> list[str]:
        """Return the orders that wait for review."""
        found = await self.outbound.find(ReviewStatus.WAITING, campaign_id=self.shop.id)
        return [one.order_id for one in found]

    async def lies_there(self) -> tuple[int, int, int]:
        """Return on_hand, allocated and reserved of the SKU, all warehouses together."""
        rows = await query(
            self.shop.clients.catalog,
            "SELECT CAST(SUM(on_hand) AS SIGNED), CAST(SUM(allocated) AS SIGNED), CAST(SUM(reserved) AS SIGNED) "
            "FROM warehouse_stock WHERE sku_id = %s",
            (SKU,),
        )
        on_hand, allocated, reserved = rows[0]
        return on_hand, allocated, reserved

    async def bookings(self, which: int = 0) -> list[tuple[str, int, int]]:
        """Return what the warehouse's ledger has of an order's parcel: kind, on_hand, allocated."""
        rows = await query(
            self.shop.clients.catalog,
            "SELECT kind, on_hand, allocated FROM warehouse_ledger WHERE ref = %s ORDER BY id",
            (self.orders[which],),
        )
        return [(kind, on_hand, allocated) for kind, on_hand, allocated in rows]

    def without_catalog(self) -> OutboundDesk:
        """Return a desk that can decide, and cannot have the warehouse do its part at once."""
        clients = self.shop.clients
        gone = Pool(msgspec.structs.replace(clients.catalog.dsn, port=free_port()), size_max=1, connect_timeout_s=1)
        stores = OpenStores(gone, clients.orders, clients.points, clients.channel, clients.client)
        return new_outbound(self.settings, stores)

    async def everything(self) -> dict[str, Any]:
        """Return every row and key that speaks of the campaign, to be compared."""
        found: dict[str, Any] = {}
        clients = self.shop.clients
        for pool, tables in ((clients.orders, _OF_CAMPAIGN["orders"]), (clients.catalog, _OF_CAMPAIGN["catalog"])):
            for table in tables.split():
                sql = f"SELECT * FROM {table} WHERE campaign_id = %s"  # noqa: S608 -- names of ours
                found[table] = sorted(map(repr, await query(pool, sql, (self.shop.id,))))
        for table in _OF_ORDER.split():
            sql = f"SELECT * FROM {table} WHERE order_id LIKE %s"  # noqa: S608 -- names of ours
            found[table] = sorted(map(repr, await query(clients.orders, sql, (f"{self.shop.id}~%",))))
        found["lies there"] = await self.lies_there()
        snapshot = await read_snapshot(clients.client, self.shop.id)
        assert snapshot is not None
        found["redis"] = snapshot.stock
        users = [user for user, _, _ in self.shop.accepted.values()]
        found["records"] = [await clients.client.get(keys.buyer(self.shop.id, user)) for user in users]
        found["provider"] = {one.payment_id: one.state for one in self.provider.payments().values()}
        return found

    async def settle(self) -> None:
        """Have both keepers work until nothing of this campaign is owed any more."""

        async def nothing_owed() -> bool:
            await until_idle(self.keeper)
            await one_round(self.warehouse)
            owed = await query(
                self.shop.clients.orders,
                "SELECT 1 FROM payment WHERE campaign_id = %s AND status IN ('refund_due', 'reacquiring') UNION ALL "
                "SELECT 1 FROM stock_return WHERE campaign_id = %s AND done_at_ms IS NULL UNION ALL "
                "SELECT 1 FROM warehouse_due WHERE campaign_id = %s AND done_at_ms IS NULL",
                (self.shop.id,) * 3,
            )
            return not owed

        await until_true(nothing_owed)

    async def assert_adds_up(self) -> None:
        """Assert that all stores speak of the same units and the same money, once everything owed is done."""
        await self.settle()
        await assert_settled(self.shop)
        assert (await reconcile(self.settings, [self.shop.id])).drift == 0
        report = await read_report(self.shop.clients.catalog, SKU)
        assert report.differences == []
        catalog, orders = self.shop.clients.catalog, self.shop.clients.orders
        shipped = await query(
            orders,
            "SELECT CAST(COALESCE(SUM(quantity), 0) AS SIGNED) FROM orders "
            "WHERE campaign_id = %s AND status = 'shipped'",
            (self.shop.id,),
        )
        parts = await query(
            catalog,
            "SELECT CAST(SUM(shipped) AS SIGNED) FROM warehouse_allocation WHERE campaign_id = %s",
            (self.shop.id,),
        )
        assert parts == shipped
        given = await query(catalog, "SELECT sku_id, quantity FROM allocation WHERE campaign_id = %s", (self.shop.id,))
        counted = await query(
            orders, "SELECT sku_id, allocated FROM campaign_sku WHERE campaign_id = %s", (self.shop.id,)
        )
        snapshot = await read_snapshot(self.shop.clients.client, self.shop.id)
        assert snapshot is not None
        sold_from = {sku: one.allocated for sku, one in snapshot.stock.items()}
        assert dict(given) == dict(counted) == sold_from
        # Who has his parcel has paid for it, and who has it not has his money.
        price = next(iter(snapshot.stock.values())).price_cents * self.quantity
        paid = [one for one, status in (await statuses(self.shop)).items() if status in {"paid", "approved", "shipped"}]
        mine = [one for order in self.orders for one in self.provider.payments_of(order)]
        charged = sum(one.amount_cents for one in mine if one.state is ProviderState.APPROVED)
        assert charged == price * len(paid)


def new_outbound(settings: Settings, stores: OpenStores) -> OutboundDesk:
    """Return a desk for outbound review."""
    return OutboundDesk(stores, guard=settings.guard, settings=settings.warehouse, now_ms=now_ms)


async def one_round(keeper: WarehouseKeeper) -> None:
    """Have a warehouse keeper do one round; closed campaigns that other tests have left may wait for recovery."""
    with contextlib.suppress(FencedError):  # settling is the last work of a round
        await keeper.run_once()


@contextlib.asynccontextmanager
async def new_warehouse(settings: Settings) -> AsyncIterator[tuple[WarehouseKeeper, Kept]]:
    """Return a warehouse's keeper with clients of its own, and what it tells."""
    kept = Kept()
    async with open_stores(settings) as stores:
        yield WarehouseKeeper(settings.warehouse, stores=stores, metrics=kept, now_ms=now_ms), kept


@contextlib.asynccontextmanager
async def open_dock(settings: Settings, *, buyers: int = 1, stock: int = 1, quantity: int = 1) -> AsyncIterator[Dock]:
    """Sell `quantity` units to each of so many buyers, and open the dock."""
    hasty = msgspec.structs.replace(
        settings,
        lifecycle=msgspec.structs.replace(settings.lifecycle, check_after_s=0.05, retry_max_s=0.2),
        payment=msgspec.structs.replace(settings.payment, timeout_s=1.0),
        warehouse=msgspec.structs.replace(settings.warehouse, poll_ms=20, retry_initial_s=0.05, retry_max_s=0.2),
    )
    async with (
        sandbox(hasty) as (with_provider, handle),
        open_shop(with_provider, stock=stock, per_user=quantity) as shop,
        shop.worker() as url,
        adapter(with_provider, handle) as provider,
        new_keeper(with_provider, shop, provider=provider) as (keeper, _),
        new_warehouse(with_provider) as (warehouse, kept),
        open_stores(with_provider) as stores,
    ):
        said = await asyncio.gather(*(shop.buy(url, f"a-{one}", quantity=quantity) for one in range(buyers)))
        assert [one.status for one in said] == [202] * buyers
        await confirmed(shop)
        yield Dock(
            with_provider,
            shop,
            url,
            handle,
            new_desk(with_provider, shop, provider),
            keeper,
            new_outbound(with_provider, stores),
            warehouse,
            kept,
            [one.body["order_id"] for one in said],
            quantity,
        )


def changed(before: dict[str, Any], after: dict[str, Any], names: Sequence[str] = ()) -> set[str]:
    """Return the names of what is not as it was, but for those named."""
    return {name for name in before if before[name] != after[name]} - set(names)

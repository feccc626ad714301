"""Every number of a few SKUs, campaigns and orders, read from all stores and held against a model of them."""

import asyncio
from collections import defaultdict
from typing import Final

from adapters.mysql import query
from adapters.stock import read_snapshot
from cli.clients import Clients
from consumers.reconcile import reconcile
from domain.settings import Settings
from lifecycle.provider import ProviderState
from tests.support.provider import SandboxHandle
from tests.support.warehouse_model import HOLDING, KEPT, Model
from warehouse.view import read_report

PRICE: Final = 5_900

_STOCK: Final = "SELECT sku_id, warehouse_id, on_hand, allocated, reserved FROM warehouse_stock WHERE sku_id IN %s"
_LEDGER: Final = (
    "SELECT sku_id, warehouse_id, kind, CAST(SUM(on_hand) AS SIGNED), CAST(SUM(allocated) AS SIGNED), "
    "CAST(SUM(reserved) AS SIGNED) FROM warehouse_ledger WHERE sku_id IN %s GROUP BY sku_id, warehouse_id, kind"
)
_ALLOCATIONS: Final = (
    "SELECT campaign_id, sku_id, quantity, in_file, topped_up, withdrawn FROM allocation WHERE campaign_id IN %s"
)
_PARTS: Final = (
    "SELECT campaign_id, sku_id, CAST(SUM(quantity) AS SIGNED), CAST(SUM(shipped) AS SIGNED) "
    "FROM warehouse_allocation WHERE campaign_id IN %s GROUP BY campaign_id, sku_id"
)
_ORDERS: Final = (
    "SELECT o.order_id, o.status, COALESCE(r.status, '') FROM orders o "
    "LEFT JOIN outbound_review r ON r.order_id = o.order_id WHERE o.campaign_id IN %s"
)
_COUNTERS: Final = "SELECT campaign_id, sku_id, allocated, sold FROM campaign_sku WHERE campaign_id IN %s"
_OWED: Final = {
    "orders": (
        "SELECT order_id, error FROM warehouse_due WHERE campaign_id IN %s AND done_at_ms IS NULL",
        "SELECT order_id, error FROM stock_return WHERE campaign_id IN %s AND done_at_ms IS NULL",
        "SELECT order_id, status FROM payment WHERE campaign_id IN %s AND status IN ('reacquiring', 'refund_due')",
    ),
    "catalog": ("SELECT ref, error FROM allocation_due WHERE campaign_id IN %s AND done_at_ms IS NULL",),
}


async def assert_as_modelled(clients: Clients, model: Model) -> None:
    """Assert that catalog, Redis and orders have the model's numbers now, whatever one still owes the other."""
    await asyncio.gather(
        _assert_stock(clients, model), _assert_campaigns(clients, model), _assert_orders(clients, model)
    )


async def _assert_stock(clients: Clients, model: Model) -> None:
    skus = sorted(model.goods)
    stock = await query(clients.catalog, _STOCK, (skus,))
    ledger = await query(clients.catalog, _LEDGER, (skus,))
    for sku, goods in model.goods.items():
        sums = [sum(row[number] for row in stock if row[0] == sku) for number in (2, 3, 4)]
        assert sums == [goods.on_hand, goods.allocated, goods.reserved], sku
    for sku, warehouse, *numbers in stock:
        flows: dict[str, int] = defaultdict(int)
        sums = [0, 0, 0]
        for _, _, kind, *moved in [row for row in ledger if row[:2] == (sku, warehouse)]:
            flows[kind] += moved[0]
            sums = [total + number for total, number in zip(sums, moved, strict=True)]
        on_hand, allocated, reserved = numbers
        assert numbers == sums, (sku, warehouse)
        assert on_hand == flows["receive"] + flows["ship"] + flows["return"]
        assert flows["receive"] == model.goods[sku].received.get(warehouse, 0)
        assert min(allocated, reserved) >= 0
        assert on_hand >= allocated + reserved
    for kind, expected in (("ship", "shipped"), ("return", "returned")):
        for sku, goods in model.goods.items():
            assert abs(sum(row[3] for row in ledger if (row[0], row[2]) == (sku, kind))) == getattr(goods, expected)


async def _assert_campaigns(clients: Clients, model: Model) -> None:
    ids = sorted(model.campaigns)
    allocations = {row[:2]: row[2:] for row in await query(clients.catalog, _ALLOCATIONS, (ids,))}
    parts = {row[:2]: row[2:] for row in await query(clients.catalog, _PARTS, (ids,))}
    for campaign_id, campaign in model.campaigns.items():
        snapshot = await read_snapshot(clients.client, campaign_id)
        assert (snapshot is not None) == campaign.in_redis
        for sku, line in campaign.lines.items():
            place = campaign_id, sku
            known = (line.quantity, line.in_file, line.topped_up, line.withdrawn)
            assert allocations.get(place, (0,) * 4) == known, place
            assert parts.get(place, (0, 0)) == (line.quantity, line.shipped), place
            if snapshot is not None:
                told = snapshot.stock[sku]
                assert (told.remaining, told.taken - told.returned) == (line.remaining, line.held), place
                assert told.allocated == line.in_redis, place
        if snapshot is not None and campaign.closed:
            assert snapshot.fields["state"] == "closed"


async def _assert_orders(clients: Clients, model: Model) -> None:
    """Hold every order that is in MySQL by now against the model."""
    for order_id, status, review in await query(clients.orders, _ORDERS, (sorted(model.campaigns),)):
        order = model.orders[order_id]
        assert (status, review) == (order.status, order.review), order_id


async def is_stored(clients: Clients, model: Model) -> bool:
    """Tell whether every order that was accepted is in MySQL."""
    return len(await query(clients.orders, _ORDERS, (sorted(model.campaigns),))) == len(model.orders)


async def assert_quiet(settings: Settings, clients: Clients, provider: SandboxHandle, model: Model) -> None:
    """Assert what holds once nobody owes anybody anything: the stores have the same figures, and the books balance."""
    ids = sorted(model.campaigns)
    assert not model.owes
    for pool, statements in ((clients.orders, _OWED["orders"]), (clients.catalog, _OWED["catalog"])):
        for sql in statements:
            assert await query(pool, sql, (ids,)) == []
    await assert_as_modelled(clients, model)
    counters = {row[:2]: row[2:] for row in await query(clients.orders, _COUNTERS, (ids,))}
    for campaign_id, campaign in model.campaigns.items():
        for sku, line in campaign.lines.items():
            held = sum(
                one.quantity
                for one in model.orders.values()
                if (one.campaign, one.sku) == (campaign, sku) and one.status in HOLDING
            )
            assert line.quantity == line.in_redis == line.remaining + held
            assert counters.get((campaign_id, sku), (0, 0)) == (line.quantity, held)
            assert not campaign.closed or line.remaining == 0
    for order in model.orders.values():
        states = [one.state for one in provider.payments_of(order.id)]
        expected = {"charged": ProviderState.APPROVED if order.status in KEPT else ProviderState.REFUNDED}
        assert states == ([expected.get(order.payment, ProviderState.PENDING)] if order.payment else []), order.id
    for sku in model.goods:
        report = await read_report(clients.catalog, sku)
        assert report.balanced, report.differences
    loaded = [one for one, campaign in model.campaigns.items() if campaign.in_redis]
    found = await reconcile(settings, loaded)
    assert found.drift == 0, found

"""A shop with confirmed orders and a payment provider, whose payments a test moves."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass

import msgspec

from adapters.mysql import query
from domain.settings import Settings
from lifecycle.callback import Callback
from lifecycle.keeper import Keeper
from lifecycle.payment_rows import Payment, Refusal
from lifecycle.payments import PaymentDesk
from lifecycle.provider import ProviderState
from tests.support.life import confirmed, make_due, new_desk, new_keeper, statuses, until_idle
from tests.support.provider import SandboxHandle, adapter, sandbox
from tests.support.shop import Shop, open_shop, until_true

PRICE = 5_900
"""Of one unit, cents."""


@dataclass
class Till:
    """A shop with confirmed orders, a provider, and who looks after both."""

    settings: Settings
    shop: Shop
    url: str
    provider: SandboxHandle
    desk: PaymentDesk
    keeper: Keeper
    orders: list[str]

    async def pay(self, which: int = 0, key: str = "pay-1") -> Payment | Refusal:
        """Begin a payment for an order."""
        return await self.desk.pay(self.orders[which], f"a-{which}", key)

    async def begun(self, which: int = 0, key: str = "pay-1") -> Payment:
        """Begin a payment for an order that can be paid."""
        payment = await self.pay(which, key)
        assert isinstance(payment, Payment)
        return payment

    async def tell(self, payment_id: str, state: ProviderState, times: int = 1) -> None:
        """Have the provider call back."""
        for _ in range(times):
            await self.desk.take_in(Callback("event", payment_id, state, PRICE))

    async def payments(self) -> dict[str, str]:
        """Return payment id → status of this campaign's payments."""
        rows = await query(
            self.shop.clients.orders, "SELECT payment_id, status FROM payment WHERE campaign_id = %s", (self.shop.id,)
        )
        return dict(rows)

    async def settle(self) -> None:
        """Have the keeper work until no payment waits for anything but a buyer."""

        async def nothing_due() -> bool:
            await until_idle(self.keeper)
            return not {"creating", "unknown", "reacquiring", "refund_due"} & set((await self.payments()).values())

        await until_true(nothing_due)

    async def status(self, which: int = 0) -> str:
        """Return an order's status."""
        return (await statuses(self.shop))[self.orders[which]]

    async def expire(self) -> None:
        """Have all unpaid orders expire, and Redis be told."""
        await make_due(self.shop)
        await self.keeper.expire_orders()
        await self.keeper.return_stock()


@contextlib.asynccontextmanager
async def open_till(settings: Settings, *, buyers: int = 1, stock: int = 1) -> AsyncIterator[Till]:
    """Sell to so many buyers, `a-0` and so on, and open the till."""
    hasty = msgspec.structs.replace(
        settings,
        lifecycle=msgspec.structs.replace(settings.lifecycle, check_after_s=0.05, retry_max_s=0.2),
        payment=msgspec.structs.replace(settings.payment, timeout_s=1.0),
    )
    async with (
        sandbox(hasty) as (with_provider, handle),
        open_shop(with_provider, stock=stock) as shop,
        shop.worker() as url,
        adapter(with_provider, handle) as provider,
        new_keeper(with_provider, shop, provider=provider) as (keeper, _),
    ):
        desk = new_desk(with_provider, shop, provider)
        said = await asyncio.gather(*(shop.buy(url, f"a-{number}") for number in range(buyers)))
        assert [one.status for one in said] == [202] * buyers
        await confirmed(shop)
        ids = [one.body["order_id"] for one in said]
        yield Till(with_provider, shop, url, handle, desk, keeper, ids)

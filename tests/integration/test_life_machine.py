"""Random lives of orders against the whole stack: whatever happens in whatever order, the books are right.

Gateway worker, relay, consumer, provider and both keepers run all the while in a thread of their own, on real servers.
Operators, and the warehouse's keeper, die at times between the commits of two schemas, and another keeper takes over.
After every step Redis's own equation holds and MySQL has sold no more than Redis has handed out; at the end of
an example everything is drained and must agree exactly.
"""

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import nullcontext
from typing import Any, ClassVar, Final, NamedTuple

import pytest
from hypothesis import note
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    rule,
)

from adapters.catalog import read_allocated
from adapters.mysql import query, transaction
from adapters.stock import read_snapshot
from consumers.reconcile import reconcile
from domain.errors import OperationRefusedError
from domain.order import order_id
from domain.order_state import OrderStatus, ReviewStatus
from domain.settings import Settings
from lifecycle.provider import ProviderState
from sandbox.rules import Payment
from tests.support.house import DiedError
from tests.support.life import assert_settled
from tests.support.life_world import WAIT_S, BusyWorld, busy_world, go_through, open_world
from tests.support.provider import callback_body
from tests.support.shop import SKU, Said, Shop, open_shop, until_true
from warehouse.campaigns import close_campaign, settle_closed, top_up_stock
from warehouse.movements import Movement, move
from warehouse.outbound import Review
from warehouse.review_rules import Deed
from warehouse.rules import BookingKind
from warehouse.stores import wall_ms
from warehouse.view import read_report

MUST_HAPPEN: Final = {"closed", "confirmed", "paid", "cancelled", "expired", Deed.APPROVE}
"""What operators do and what has become of orders."""
STOCK: Final = 4
PER_USER: Final = 3
PRICE: Final = 5_900
USERS: Final = ["ann", "bob", "cem", "dee"]
CLOSES_AFTER: Final = 3
KEYS: Final = ["one", "two", "three"]
FAIL_POINTS: Final = [f"warehouse.after_{what}" for what in ("ship", "return", "allocate", "redis", "withdraw")]

OPEN_WORK: Final = """
SELECT
  (SELECT COUNT(*) FROM stock_return WHERE campaign_id = %s AND done_at_ms IS NULL)
  + (SELECT COUNT(*) FROM orders WHERE campaign_id = %s AND status = 'confirmed' AND pay_by_ms = 1)
  + (SELECT COUNT(*) FROM payment WHERE campaign_id = %s
     AND status IN ('creating', 'unknown', 'reacquiring', 'refund_due'))
  + (SELECT COUNT(*) FROM warehouse_due WHERE campaign_id = %s AND done_at_ms IS NULL)
"""
"""What has to come to 0 before the books can be right. One statement, so one moment: an order that expires between two
would have left the first count and not yet have come to the second."""

OWED_TO_REDIS: Final = "SELECT COUNT(*) FROM allocation_due WHERE campaign_id = %s AND done_at_ms IS NULL"

KEPT: Final = frozenset({OrderStatus.PAID, OrderStatus.SHIPPED})
"""Orders that their buyers have paid for, once all is done."""

REFUSALS: Final = frozenset({"SOLD_OUT", "LIMIT_REACHED", "KEY_REUSED", "ENDED"})
"""What a buyer may be told instead of 202."""


happened: Counter[str] = Counter()
"""What has come about in all lives."""


class Attempt(NamedTuple):
    """A purchase that was tried; the same buyer and key are the same order."""

    id: str
    user: str
    key: str


class OrderLives(RuleBasedStateMachine):
    """One campaign, a few buyers, and everything that may befall them."""

    world: ClassVar[BusyWorld]
    orders = Bundle("orders")

    def __init__(self) -> None:
        super().__init__()
        self.bought: dict[str, int] = {}
        """Order id → quantity of what was answered 202."""
        self.closed = False
        self._exit = contextlib.AsyncExitStack()
        shop = open_shop(self.world.settings, stock=STOCK, per_user=PER_USER)
        self.shop: Shop = self.world.do(self._exit.enter_async_context(shop))
        self.world.do(self._seen())

    async def _seen(self) -> None:
        """Wait until the worker knows that the campaign is open."""

        async def known() -> bool:
            said = await self.shop.get(self.world.url, f"/v1/campaigns/{self.shop.id}")
            return said.status == 200 and bool(said.body["state"] == "open")

        await until_true(known)

    # -- what may happen ---------------------------------------------------------------------------------------

    @rule(target=orders, user=st.sampled_from(USERS), key=st.sampled_from(KEYS), quantity=st.integers(1, 2))
    def buy(self, user: str, key: str, quantity: int) -> Attempt:
        """Somebody buys; an acceptance is for ever, and under one key there is one order.

        What comes of it depends on how far the stack has got, so the attempt is what other steps draw, bought or not.
        """
        said = self.world.do(self.shop.buy(self.world.url, user, key, quantity))
        attempt = Attempt(order_id(self.shop.id, user, key), user, key)
        known = self.bought.get(attempt.id)
        note(f"{user} {key} {quantity}: {said.status} {said.code}")
        if known is not None:
            # What was accepted stays accepted, and under its key nothing else is.
            assert said.code == ("ACCEPTED" if known == quantity else "KEY_REUSED")
        elif said.status == 202:
            assert said.body["order_id"] == attempt.id
            assert not self.closed
            self.bought[attempt.id] = quantity
        else:
            assert said.code in REFUSALS
            assert (said.code == "ENDED") == self.closed
        return attempt

    @rule(order=orders)
    def replay(self, order: Attempt) -> None:
        """A retry gets the same acceptance, whatever has become of the order."""
        if order.id in self.bought:
            buy = self.shop.buy(self.world.url, order.user, order.key, self.bought[order.id])
            said = self.world.do(buy)
            assert (said.status, said.body.get("order_id")) == (202, order.id)
            assert said.headers.get("Idempotent-Replayed") == "true"

    @rule(order=orders, key=st.sampled_from(KEYS))
    def begin_payment(self, order: Attempt, key: str) -> None:
        """The buyer asks where to pay, and leaves it at that."""
        self._begin(order, key)

    @rule(order=orders, key=st.sampled_from(KEYS), approve=st.booleans())
    def pay(self, order: Attempt, key: str, *, approve: bool) -> None:
        """The buyer pays, or is declined."""
        payment_id = self._begin(order, key)
        if payment_id:
            act = self.world.provider.pay if approve else self.world.provider.decline
            self.world.do(act(payment_id))

    @rule(order=orders)
    def pay_at_last(self, order: Attempt) -> None:
        """The buyer, who had the page open all the while, pays there."""
        for payment in self.world.do(self._payments_of(order)):
            if payment.state is ProviderState.PENDING:
                self.world.do(self.world.provider.pay(payment.payment_id))

    @rule(order=orders, state=st.sampled_from([ProviderState.APPROVED, ProviderState.DECLINED]))
    def duplicate_callback(self, order: Attempt, state: ProviderState) -> None:
        """The provider says again what it has said, or what it will say, of a payment."""
        for payment in self.world.do(self._payments_of(order)):
            if payment.state in {ProviderState.APPROVED, ProviderState.REFUNDED} or (
                payment.state is state is ProviderState.DECLINED
            ):
                told = ProviderState.DECLINED if state is ProviderState.DECLINED else ProviderState.APPROVED
                body = callback_body(payment.payment_id, told, payment.amount_cents)
                said = self.world.do(self.shop.call_back(self.world.url, body, self.world.provider.signed(body)))
                assert said.status == 204

    @rule(order=orders)
    def forged_callback(self, order: Attempt) -> None:
        """A callback that is unsigned, or signed long ago, changes nothing and is told so."""
        for payment in self.world.do(self._payments_of(order)):
            body = callback_body(payment.payment_id, "approved", payment.amount_cents)
            for headers in ({}, self.world.provider.signed(body, at_s=1_000_000)):
                said = self.world.do(self.shop.call_back(self.world.url, body, headers))
                assert (said.status, said.code) == (401, "UNAUTHENTICATED")

    @rule(order=orders)
    def cancel(self, order: Attempt) -> None:
        """The buyer cancels, if he still may."""
        said = self.world.do(self._ready(lambda: self.shop.cancel(self.world.url, order.id, order.user)))
        possible = {"200", "STATE"} if order.id in self.bought else {"NOT_FOUND"}
        assert said.code in possible, said

    @rule(order=orders)
    def let_expire(self, order: Attempt) -> None:
        """The time to pay is over."""
        self.world.do(self._make_due(order.id))

    @rule(units=st.integers(-2, 3))
    def add_stock(self, units: int) -> None:
        """An operator adds units; fewer than one is refused, and so is any number once the campaign is closed."""
        self._operate(self._top_up(units), refused=units < 1 or self.closed)

    @initialize(target=orders, users=st.permutations(USERS))
    def somebody_buys(self, users: list[str]) -> Any:
        """Every life begins with two orders, of which one is paid and waits for review."""
        first, second = (self.buy(user=user, key=KEYS[0], quantity=1) for user in users[:2])
        self.pay(first, KEYS[0], approve=True)
        self.world.do(until_true(lambda: self._listed(ReviewStatus.WAITING)))
        return multiple(first, second)

    @rule()
    def close(self) -> None:
        """An operator closes the campaign, once something has happened; closing twice is refused."""
        if len(self.bought) >= CLOSES_AFTER:
            happened["closed twice" if self.closed else "closed"] += 1
            self._operate(close_campaign(self.shop.clients, self.shop.id), refused=self.closed)
            self.closed = True

    @rule(order=orders, deed=st.sampled_from(Deed), which=st.integers(0, 3))
    def review(self, order: Attempt, deed: Deed, which: int) -> None:
        """An operator decides about an order on his list; where that is empty, about any, and is refused."""
        needed = ReviewStatus.SHIPPED if deed is Deed.RETURN else ReviewStatus.WAITING
        listed = self.world.do(self._listed(needed))
        about = listed[which % len(listed)].order_id if listed else order.id
        with contextlib.suppress(OperationRefusedError):
            self._operate(self.world.outbound.decide(deed, [about], "test", "a test"))
            assert about in self.bought
            happened[deed] += 1

    async def _listed(self, status: ReviewStatus) -> list[Review]:
        return await self.world.outbound.find(status, campaign_id=self.shop.id)

    @rule(fail_point=st.sampled_from(FAIL_POINTS))
    def die(self, fail_point: str) -> None:
        """Whoever comes to a fail point next dies there: an operator's command, or the warehouse's process."""
        self.world.die_at(fail_point)

    def _operate(self, work: Coroutine[Any, Any, object], *, refused: bool = False) -> None:
        """Have an operator do something; if he dies over it, it will be finished by the process."""
        with contextlib.suppress(DiedError), pytest.raises(OperationRefusedError) if refused else nullcontext():
            self.world.do(work)

    @rule(order=orders, user=st.sampled_from([*USERS, "eve"]))
    def look(self, order: Attempt, user: str) -> None:
        """Everyone is told how his own order stands, and nothing of another's."""
        said = self.world.do(self.shop.status(self.world.url, order.id, user))
        if user == order.user and order.id in self.bought:
            assert (said.status, said.body["order_id"]) == (200, order.id)
            assert said.body["status"] in set(OrderStatus)
        else:
            assert (said.status, said.code) == (404, "NOT_FOUND")

    # -- what must hold ----------------------------------------------------------------------------------------

    @invariant()
    def redis_adds_up(self) -> None:
        """Redis's equation holds, and MySQL has sold no more than Redis has handed out and the catalog allocated."""
        self.world.do(self._check_books())

    async def _check_books(self) -> None:
        clients, which = self.shop.clients, self.shop.id
        allocated = (await read_allocated(clients.catalog, which))[SKU].quantity
        before = await read_snapshot(clients.client, which)
        ((sold,),) = await query(clients.orders, "SELECT sold FROM campaign_sku WHERE campaign_id = %s", (which,))
        after = await read_snapshot(clients.client, which)
        assert before is not None
        assert after is not None
        for snapshot in (before, after):
            for line in snapshot.stock.values():
                assert line.allocated == line.remaining + line.taken - line.returned
                assert line.remaining >= 0
        # What Redis has handed out while MySQL was read lies between its two readings.
        assert 0 <= sold <= after.stock[SKU].taken - before.stock[SKU].returned
        # The keeper may finish a top-up meanwhile, or take back what a closed campaign was given back.
        assert sold <= max(allocated, (await read_allocated(clients.catalog, which))[SKU].quantity)

    def teardown(self) -> None:
        """Drain, and hold everything against everything."""
        self.world.die_at("")
        try:
            self.world.do(self._settle())
        finally:
            self.world.do(self._exit.aclose())

    async def _settle(self) -> None:
        async with asyncio.timeout(WAIT_S / 2):
            await until_true(self._is_quiet)
        assert set(self.shop.accepted) == set(self.bought)
        await assert_settled(self.shop)
        rows = await query(
            self.shop.clients.orders, "SELECT order_id, status FROM orders WHERE campaign_id = %s", (self.shop.id,)
        )
        for made, status in rows:
            happened[status] += 1
            charged = [
                one.amount_cents for one in self.world.provider.payments_of(made) if one.state is ProviderState.APPROVED
            ]
            assert charged == ([PRICE * self.bought[made]] if status in KEPT else []), (made, status)
        await self._assert_warehouse()
        report = await reconcile(self.world.settings, [self.shop.id])
        assert report.drift == 0, report
        await self.shop.assert_replays(self.world.url)

    async def _assert_warehouse(self) -> None:
        """Assert that the warehouse has what Redis has of the campaign, and got back what a closed one has not sold."""
        clients = self.shop.clients
        await settle_closed(clients, self.world.settings.warehouse, wall_ms())
        snapshot = await read_snapshot(clients.client, self.shop.id)
        assert snapshot is not None
        line = snapshot.stock[SKU]
        assert line.allocated == (await read_allocated(clients.catalog, self.shop.id))[SKU].quantity
        assert not self.closed or line.remaining == 0
        assert (await read_report(clients.catalog, SKU)).balanced

    async def _is_quiet(self) -> bool:
        """Tell whether everything accepted is stored and nothing is owed or under way."""
        pool, which = self.shop.clients.orders, [self.shop.id]
        if set(await self.shop.stored()) != set(self.bought) or self.world.provider.sandbox.store.undelivered():
            return False
        if (await query(self.shop.clients.catalog, OWED_TO_REDIS, which)) != [(0,)]:
            return False
        return await query(pool, OPEN_WORK, which * 4) == [(0,)]

    async def _ready(self, ask: Callable[[], Awaitable[Said]]) -> Said:
        """Ask again, as a buyer does, until the order is in MySQL."""
        while True:
            said = await ask()
            if said.code != "NOT_READY":
                return said
            assert said.headers["Retry-After"] == "1"
            await asyncio.sleep(0.01)

    async def _payments_of(self, order: Attempt) -> list[Payment]:
        """Return an order's payments as the provider knows them."""
        return self.world.provider.payments_of(order.id)

    # -- steps -------------------------------------------------------------------------------------------------

    def _begin(self, order: Attempt, key: str) -> str:
        said = self.world.do(self._ready(lambda: self.shop.pay(self.world.url, order.id, order.user, key)))
        note(f"payment: {said.status} {said.body}")
        if said.status == 202:
            return str(said.body["payment_id"]) if said.body["status"] == "pending" else ""
        assert said.code in ({"STATE"} if order.id in self.bought else {"NOT_FOUND"}), said
        return ""

    async def _make_due(self, made: str) -> None:
        async with transaction(self.shop.clients.orders) as cursor:
            await cursor.execute("UPDATE orders SET pay_by_ms = 1 WHERE order_id = %s", (made,))

    async def _top_up(self, units: int) -> None:
        clients = self.shop.clients
        key = secrets.token_hex(8)
        if units > 0:
            goods = Movement(BookingKind.RECEIVE, SKU, units, key, who="test")
            await move(clients.catalog, goods, wall_ms())
        await top_up_stock(clients, self.shop.id, SKU, units, key)


@pytest.mark.timeout(900)
def test_random_lives_of_orders(shared_settings: Settings, life_examples: int) -> None:
    """A, B and C hold at the end of every random life, and A's equation after every step of it."""
    with open_world(busy_world, shared_settings) as world:
        OrderLives.world = world
        go_through(OrderLives, life_examples, lambda: set(happened), MUST_HAPPEN)

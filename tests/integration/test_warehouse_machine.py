"""Random lives of the warehouse: two campaigns, the shop and their parcels share two SKUs, and all are killed at times.

What is done, and when, is decided here, so that a model can say what every number is after every step: what came in,
was reserved, allocated, sold, shipped and came back, who is refused what, and what is still owed because somebody died
between the two schemas' commits. Relay and consumer bring orders to MySQL all the while, on real servers. At quiet
points the process that finishes what was left half done has done so, and all stores agree.
"""

import contextlib
import itertools
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, ClassVar, Final

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from adapters.campaign_stock import move_campaign
from adapters.mysql import query
from adapters.stock import OrderRequest, admit, read_snapshot
from domain import keys
from domain.campaign import Campaign, parse_campaign
from domain.errors import FencedError, OperationRefusedError
from domain.order import fingerprint, order_id, user_hash
from domain.order_state import OrderStatus
from domain.settings import Settings
from lifecycle.callback import Callback
from lifecycle.order_rows import find_order, give_up
from lifecycle.payment_rows import Payment, Refusal
from lifecycle.provider import ProviderState
from tests.support.house import LIMITS
from tests.support.life import until_idle
from tests.support.life_world import DeskWorld, desk_world, forget_others, go_through, open_world
from tests.support.shop import campaign_text, until_true
from tests.support.side_by_side import SideBySide
from tests.support.warehouse_books import assert_as_modelled, assert_quiet, is_stored
from tests.support.warehouse_figures import File, Order
from tests.support.warehouse_model import Model, RefusedError
from warehouse.campaigns import close_campaign, load_into, top_up_stock
from warehouse.movements import Movement, move
from warehouse.rules import BookingKind
from warehouse.stores import wall_ms

RESTS_AFTER: Final = 5
"""Steps."""
CLOSES_AFTER: Final = 5
"""Orders."""
USERS: Final = ["ann", "bob", "cem"]
ATTEMPTS_MAX: Final = 100
GRACE_MS: Final = 60_000
"""Longer than whoever began something has it to himself."""
SKUS: Final = st.sampled_from(["box", "bag"])
CAMPAIGNS: Final = st.sampled_from(["a", "a", "b"])
PICKS: Final = st.lists(st.integers(0, 5), min_size=1, max_size=2)
"""Orders, counted from the oldest that fits."""
FITS: Final = st.sampled_from([True, True, True, False])
"""Whether only those are meant that it is possible with."""
SOME_KEYS: Final = st.sampled_from(["one", "two", "three", "four"])
APPROVED: Final = st.sampled_from(["", "warehouse.after_ship"])
CAME_BACK: Final = st.sampled_from(["", "warehouse.after_return"])
MOVED: Final = st.sampled_from(["", "warehouse.after_allocate", "warehouse.after_redis"])
CLOSED: Final = st.sampled_from(["", "warehouse.after_withdraw"])
MOVES: Final = {BookingKind.RECEIVE: 2, BookingKind.RESERVE: 3, BookingKind.UNRESERVE: 1, BookingKind.SHIP: 1}
"""What is moved by hand → how often, in proportion."""

MUST_HAPPEN: Final = {
    *(f"warehouse.after_{what}" for what in ("ship", "return", "allocate", "redis", "withdraw")),
    *("short", "closed", "closed twice", "sold", "number", "unpaid", "decided before"),
    *("confirmed", "paid", "shipped", "refunded", "cancelled", "expired", "undone"),
}
"""Deaths, refusals and what has become of orders."""

happened: Counter[str] = Counter()
"""What has come about in all lives."""


class WarehouseLives(RuleBasedStateMachine):
    """Two SKUs in two warehouses, two campaigns and the shop, and everything that may befall them."""

    world: ClassVar[DeskWorld]
    lives: ClassVar[Iterator[int]] = itertools.count()

    def __init__(self) -> None:
        super().__init__()
        self.life = f"w{next(self.lives)}"
        self.model = Model([self._id(one) for one in ("box", "bag")], [self._id(one) for one in ("a", "b")])
        self.opened: set[str] = set()
        self.steps = 0
        """Since all was at rest."""
        self.clients = self.world.clients
        self.do = self.world.do
        self.both = SideBySide(self.world, self.model, happened)

    def _id(self, name: str) -> str:
        return f"{self.life}-{name}"

    # -- the warehouse -----------------------------------------------------------------------------------------

    @initialize(box=st.integers(4, 8), bag=st.integers(1, 3))
    def begin(self, box: int, bag: int) -> None:
        """Goods have come in, and a campaign has sold three units: one is shipped, one is paid, one is not."""
        for sku, units, warehouse in (("box", 6, "main"), ("box", 6, "north"), ("bag", 4, "main")):
            self._move(BookingKind.RECEIVE, sku, units, f"first-{sku}-{warehouse}", warehouse)
        self.load("a", box, bag, "")
        for user, paid in zip(USERS, (True, True, False), strict=True):
            self.buy("a", "box", [user], paid=paid)
        self.approve([0], "", fits=True)
        self._name_what_nobody_knows()

    @rule(
        kind=st.sampled_from([one for one, weight in MOVES.items() for _ in range(weight)]),
        sku=SKUS,
        units=st.integers(0, 4),
        key=SOME_KEYS,
    )
    def shop_moves(self, kind: BookingKind, sku: str, units: int, key: str) -> None:
        """Goods come in; the shop sells units, gives them up, or ships them."""
        self._move(kind, sku, units, key, "main" if kind is BookingKind.RECEIVE else "")

    def _move(self, kind: BookingKind, sku: str, units: int, key: str, warehouse: str = "") -> None:
        movement = Movement(kind, self._id(sku), units, f"{self.life}-{key}", warehouse, who="test")
        said = self.both.do(
            kind,
            lambda: self.model.move(kind, movement.sku_id, units, movement.key, warehouse),
            lambda: move(self.clients.catalog, movement, wall_ms()),
        )
        assert said is None or said[0] == said[1].done

    def _name_what_nobody_knows(self) -> None:
        """What nobody knows is refused, whatever is to be done with it, and so is a number below one."""
        stores, known = self.clients, self._id("box")
        strange = Movement(BookingKind.RESERVE, f"{known}-x", 1, self.life, who="test")
        nowhere = Movement(BookingKind.RECEIVE, known, 1, self.life, "nowhere", who="test")
        nobody = order_id(self._id("a"), "nobody", "k")
        for real in (
            lambda: move(stores.catalog, strange, wall_ms()),
            lambda: move(stores.catalog, strange._replace(sku_id=known, units=-1), wall_ms()),
            lambda: move(stores.catalog, nowhere, wall_ms()),
            lambda: top_up_stock(stores, self._id("a"), f"{known}-x", 1, "x"),
            lambda: top_up_stock(stores, self._id("x"), known, 1, "x"),
            lambda: top_up_stock(stores, self._id("a"), known, -1, "x"),
            lambda: close_campaign(stores, self._id("x")),
            lambda: self.world.outbound.approve([nobody], "test", ""),
            lambda: self.world.outbound.reject(["nothing"], "test", ""),
        ):
            with pytest.raises(OperationRefusedError):
                self.do(real())

    # -- campaigns ---------------------------------------------------------------------------------------------

    @rule(which=CAMPAIGNS, box=st.integers(0, 8), bag=st.integers(0, 4), kill=MOVED)
    def load(self, which: str, box: int, bag: int, kill: str) -> None:
        """A campaign is loaded, or loaded again with more or less."""
        file = {self._id("box"): box, self._id("bag"): bag}
        campaign = self.model.campaigns[self._id(which)]
        said = self.both.do(
            "load", lambda: self.model.load(campaign, file), lambda: self._load(self._file(which, file)), kill
        )
        assert said is None or said[1] in {said[0], ""}
        self._open()

    def _file(self, which: str, file: File) -> Campaign:
        text = campaign_text(self._id(which), stock=sorted(file.items()), per_user=1_000, limits=LIMITS)
        return parse_campaign(text, source="test")

    async def _load(self, campaign: Campaign) -> str:
        """Load a campaign; returns what came of it, or nothing if that is told otherwise when it is tried again."""
        try:
            return await load_into(self.clients, campaign, who="test")
        except FencedError:  # what another has begun has created it just now: recovery has to compare first
            await until_true(lambda: self._gate_is_open(campaign.id))
            await load_into(self.clients, campaign, who="test")
            return ""

    @rule(which=CAMPAIGNS, sku=SKUS, units=st.integers(0, 4), key=SOME_KEYS, kill=MOVED)
    def top_up(self, which: str, sku: str, units: int, key: str, kill: str) -> None:
        """A campaign is given more units."""
        id_, sku_id = self._id(which), self._id(sku)
        said = self.both.do(
            "top up",
            lambda: self.model.top_up(self.model.campaigns[id_], sku_id, units, key),
            lambda: top_up_stock(self.clients, id_, sku_id, units, key, who="test"),
            kill,
        )
        assert said is None or said[0] == said[1]

    @rule(which=CAMPAIGNS, kill=CLOSED, interrupts=st.booleans())
    def close(self, which: str, kill: str, *, interrupts: bool) -> None:
        """A campaign is closed, once something has happened, at times when somebody has just died over a top-up.

        It is closed twice, and refused then, also if whoever closed it has died over it.
        """
        campaign = self.model.campaigns[self._id(which)]
        if sum(order.campaign is campaign for order in self.model.orders.values()) >= CLOSES_AFTER:
            if interrupts:
                self.top_up(which, "box", 1, "last", "warehouse.after_allocate")
            for killed in (kill, ""):
                said = self.both.do(
                    "close",
                    lambda: self.model.close(campaign),
                    lambda: close_campaign(self.clients, campaign.id),
                    killed,
                )
                assert said is None or said[0] == said[1].returned

    # -- orders ------------------------------------------------------------------------------------------------

    @rule(
        which=CAMPAIGNS,
        sku=SKUS,
        users=st.lists(st.sampled_from(USERS), min_size=1, max_size=3),
        paid=st.booleans(),
        interrupt=st.sampled_from([False, False, True]),
    )
    def buy(self, which: str, sku: str, users: list[str], *, paid: bool, interrupt: bool = False) -> None:
        """Some buy, the first of them one unit, the next two, and may pay at once.

        At times somebody has just died over a load that leaves the campaign nothing to sell.
        """
        campaign, sku_id = self.model.campaigns[self._id(which)], self._id(sku)
        if interrupt:
            box, bag = (max(line.file - line.remaining, 0) for line in campaign.lines.values())
            self.load(which, box, bag, "warehouse.after_allocate")
        for quantity, user in enumerate(users if campaign.in_redis else [], start=1):
            made = order_id(campaign.id, user, f"k-{len(self.model.orders)}")
            expected = self.model.buy(Order(made, campaign, sku_id, quantity))
            said = self.do(self._admit(made, campaign.id, sku_id, user, quantity))
            happened[f"buy: {said}"] += 1
            assert said == expected
            if paid and made in self.model.orders:
                self._pay(made)

    async def _admit(self, made: str, campaign_id: str, sku_id: str, user: str, quantity: int) -> str:
        request = OrderRequest(made[-32:], fingerprint(sku_id, quantity), sku_id, quantity, user, user_hash(user))
        reply = await admit(
            self.clients.channel, campaign_id, [request], attempts_max=ATTEMPTS_MAX, outbox_max=1_000_000
        )
        return reply.decisions[0][0].name

    @rule(picks=PICKS, fits=FITS, leaves=st.booleans())
    def pay(self, picks: list[int], *, fits: bool, leaves: bool) -> None:
        """Buyers ask where to pay, and leave it at that, or pay, at once or with a page that was open all the while."""
        payable = {True: {"confirmed"}, False: {"confirmed", "expired", "cancelled"}}[leaves]
        for one in self._some(picks, fits and (lambda order: order.status in payable)):
            if leaves:
                self._begin(one)
            else:
                self._pay(one)

    def _pay(self, order: str) -> None:
        one = self.model.orders[order]
        payment = self._begin(order)
        if payment is not None and one.payment == "pending":
            self.model.charge(one)
            self.do(self._charge(payment))
            self._lifecycle()

    def _some(self, picks: list[int], fits: Callable[[Order], bool] | bool) -> list[str]:
        """Return ids of orders, of those that fit if there are any."""
        known = list(self.model.orders.values())
        meant = [order for order in known if fits(order)] if callable(fits) else []
        meant = meant or known
        return sorted({meant[pick % len(meant)].id for pick in picks})

    def _begin(self, order: str) -> Payment | None:
        one = self.model.orders[order]
        with contextlib.suppress(RefusedError):
            self.model.begin_payment(one)
        said = self.do(self._ask_to_pay(one))
        assert said is Refusal.STATE if not one.payment else isinstance(said, Payment)
        return said if isinstance(said, Payment) else None

    async def _ask_to_pay(self, order: Order) -> Payment | Refusal:
        found = await self._stored(order.id)
        return await self.world.desk.pay(order.id, found.user_id, "pay-1")

    async def _charge(self, payment: Payment) -> None:
        await self.world.provider.pay(payment.payment_id)
        told = Callback("event", payment.payment_id, ProviderState.APPROVED, payment.amount_cents)
        await self.world.desk.take_in(told)

    @rule(picks=PICKS, fits=FITS, to=st.sampled_from([OrderStatus.CANCELLED, OrderStatus.EXPIRED]))
    def give_up(self, picks: list[int], to: OrderStatus, *, fits: bool) -> None:
        """Buyers cancel, or do not pay in time."""
        for one in self._some(picks, fits and (lambda order: order.status == "confirmed")):
            done = self.model.give_up(self.model.orders[one], to)
            assert self.do(self._give_up(one, to)) == done
        self._lifecycle()

    async def _give_up(self, order: str, to: OrderStatus) -> bool:
        found = await self._stored(order)
        moved = await give_up(
            self.clients.orders, [found], to, "a test", wall_ms(), may=lambda one: one.status is OrderStatus.CONFIRMED
        )
        return bool(moved)

    async def _stored(self, order: str) -> Any:
        """Return an order's row, once it is there."""
        while (found := await find_order(self.clients.orders, order)) is None:
            await until_true(lambda: is_stored(self.clients, self.model))
        return found

    # -- outbound ----------------------------------------------------------------------------------------------

    @rule(picks=PICKS, fits=FITS, kill=APPROVED)
    def approve(self, picks: list[int], kill: str, *, fits: bool) -> None:
        """Orders are approved, and leave the house."""
        meant = self._some(picks, fits and (lambda order: order.review == "waiting"))
        self._decide(meant, self.model.approve, self.world.outbound.approve, "approve", kill)

    @rule(picks=PICKS, fits=FITS)
    def reject(self, picks: list[int], *, fits: bool) -> None:
        """Orders are rejected."""
        meant = self._some(picks, fits and (lambda order: order.review == "waiting"))
        self._decide(meant, self.model.reject, self.world.outbound.reject, "reject", "")

    @rule(picks=PICKS, fits=FITS, kill=CAME_BACK)
    def come_back(self, picks: list[int], kill: str, *, fits: bool) -> None:
        """Parcels come back."""
        meant = self._some(picks, fits and (lambda order: order.review == "shipped"))
        self._decide(meant, self.model.take_back, self.world.outbound.take_back, "come back", kill)

    def _decide(
        self,
        ids: list[str],
        expected: Callable[[list[Order]], None],
        real: Callable[[list[str], str, str], Awaitable[object]],
        what: str,
        kill: str,
    ) -> None:
        for one in ids:
            self.do(self._stored(one))
        orders = [self.model.orders[one] for one in ids]
        self.both.do(what, lambda: expected(orders), lambda: real(ids, "test", "a test"), kill)
        self._lifecycle()

    # -- what finishes the rest --------------------------------------------------------------------------------

    @rule(dies=st.booleans(), which=st.integers(0, 3))
    def keep(self, which: int, *, dies: bool) -> None:
        """The warehouse's process does a round, or dies at a place that it comes to."""
        places = self.model.foresee()
        self._keep(places[which % len(places)] if dies and places else "")

    def _keep(self, kill: str = "") -> None:
        self.do(self._let_time_pass())
        self.both.do("keep", self.model.keep, self.world.warehouse.run_once, kill)
        self._open()
        self._lifecycle()

    async def _let_time_pass(self) -> None:
        """Have what others have begun be due for the process."""
        for pool, table in ((self.clients.catalog, "allocation_due"), (self.clients.orders, "warehouse_due")):
            await query(
                pool,
                f"UPDATE {table} SET next_at_ms = next_at_ms - %s WHERE done_at_ms IS NULL",  # noqa: S608 -- names of ours
                (GRACE_MS,),
            )

    def _lifecycle(self) -> None:
        """Give Redis and buyers what they are owed."""
        self.model.lifecycle()
        self.do(until_idle(self.world.keeper))

    @rule()
    @precondition(lambda self: self.steps >= RESTS_AFTER)
    def come_to_rest(self) -> None:
        """Everything owed is done, and all stores agree."""
        self._keep()
        while self.model.owes or self.model.unsettled:
            self._keep()
        self.do(until_true(lambda: is_stored(self.clients, self.model)))
        self.do(assert_quiet(self.world.settings, self.clients, self.world.provider, self.model))
        happened["rest"] += 1
        self.steps = 0

    @invariant()
    def as_modelled(self) -> None:
        """Catalog, Redis and orders have the model's numbers."""
        self.do(assert_as_modelled(self.clients, self.model))
        self.steps += 1

    def teardown(self) -> None:
        """Come to rest, unless something is wrong already, and leave nothing to those who come after."""
        try:
            if sys.exc_info()[0] is None:
                self.come_to_rest()
                happened.update(self.model.undone)
                for order in self.model.orders.values():
                    happened[str(order.status)] += 1
        finally:
            self.do(self._leave())

    async def _leave(self) -> None:
        await self.clients.client.srem(keys.CAMPAIGNS, *self.model.campaigns)
        await forget_others(self.clients)

    def _open(self) -> None:
        """Open campaigns that are there for the first time; one that another's hand created waits for recovery."""
        for id_, campaign in self.model.campaigns.items():
            if campaign.in_redis and id_ not in self.opened:
                self.opened.add(id_)
                self.do(self._open_campaign(id_))

    async def _open_campaign(self, id_: str) -> None:
        await until_true(lambda: self._gate_is_open(id_))
        await move_campaign(self.clients.channel, id_, "open")

    async def _gate_is_open(self, id_: str) -> bool:
        snapshot = await read_snapshot(self.clients.client, id_)
        assert snapshot is not None
        return bool(snapshot.fields["run_id"])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_random_lives_of_the_warehouse(shared_settings: Settings, life_examples: int) -> None:
    """Every number is the model's after every step of every random life, whoever dies at which fail point."""
    with open_world(desk_world, shared_settings) as world:
        WarehouseLives.world = world
        go_through(
            WarehouseLives, life_examples, lambda: {one.partition(": ")[2] or one for one in happened}, MUST_HAPPEN
        )

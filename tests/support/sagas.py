"""Redemptions of a test's own on the shared servers: databases and a topic that no other test uses, a clock that jumps.

The drivers run in the test's process. One that "crashes" at a fail point is given up as it stands, with all that it has
taken up, which nobody touches before the lease is over.
"""

import asyncio
import contextlib
import secrets
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from adapters import kafka
from adapters.mysql import Pool, catalog_dsn, orders_dsn, points_dsn, query
from adapters.points import move_once
from cli.config import as_environment
from consumers.app import REDEMPTIONS, make_redemption_writer
from consumers.batch import Dead, Outcome
from consumers.dead_letters import DeadLetters
from consumers.redemption_batch import Redemption
from consumers.redemptions import RedemptionStore, RedemptionWriter
from consumers.saga_driver import SagaDriver
from domain import failpoints, order
from domain.campaign import Campaign
from domain.errors import BackendError
from domain.events import dead_topic
from domain.points import LedgerKind, Moved, Movement
from domain.redemption_events import RedemptionAccepted, encode_redemption_accepted
from domain.saga import SagaStatus, SagaStep
from domain.settings import SagaSettings, Settings, load_settings
from migrations.runner import upgrade
from stack.paths import PROJECT_ROOT
from stack.servers import Endpoints
from tests.support.allocated import allocate_in_mysql
from tests.support.children import inherited_environment
from tests.support.events import sample_campaign
from tests.support.metrics import Recorded
from tests.support.records import Plain

CAMPAIGN: Final = "redeem-1"
SKU: Final = "box-1"
START_MS: Final = 1_790_000_000_000
PRICE: Final = 300
ROUNDS_MAX: Final = 60
"""Far more than any saga needs to end, or to be parked."""

NO_ORDER, NO_PAYMENT = 2, 3
"""Quantities whose order, or payment, MySQL refuses; see `Redemptions.refuse`."""
KINDS: Final = ("", "points short", "no points account", "order refused", "payment refused")
"""Of redemptions: the first one ends whole, the others are compensated for that reason."""

WHOLE: Final = "whole"
COMPENSATED: Final = "compensated"


class CrashError(Exception):
    """A driver ends at a fail point."""


def redemption(
    number: int, *, user: str = "", points: int = PRICE, quantity: int = 1, sku: str = SKU, origin: int = 0
) -> RedemptionAccepted:
    """Return redemption `number`; the same number is the same one, by default from the same origin."""
    name = user or f"user-{number}"
    return RedemptionAccepted(
        order_id=order.order_id(CAMPAIGN, name, f"key-{number}"),
        campaign_id=CAMPAIGN,
        sku_id=sku,
        user_id=name,
        quantity=quantity,
        points=points,
        fingerprint=order.fingerprint(sku, quantity),
        hold_no=1,
        accepted_at_ms=START_MS + number,
        outbox_id=f"{START_MS + origin}-{number}",
        outbox_index=0,
    )


@dataclass
class Told:
    """Implements SagaMetrics by remembering."""

    ended_in: Counter[SagaStatus] = field(default_factory=Counter)
    parked_count: int = 0
    failed: Counter[SagaStep] = field(default_factory=Counter)
    open_now: tuple[int, int] = (0, 0)

    def ended(self, status: SagaStatus, count: int) -> None:
        """Add up."""
        if count:
            self.ended_in[status] += count

    def parked(self) -> None:
        """Add up."""
        self.parked_count += 1

    def step_failed(self, step: SagaStep) -> None:
        """Add up."""
        self.failed[step] += 1

    def open(self, under_way: int, parked: int) -> None:
        """Keep the last."""
        self.open_now = (under_way, parked)


class Letters(DeadLetters):
    """Keeps dead letters."""

    def __init__(self) -> None:
        self.sent: list[Dead] = []

    async def send(self, dead: Sequence[Dead]) -> None:
        """Keep them."""
        self.sent += dead

    async def close(self) -> None:
        """There is nothing to close."""


@contextlib.contextmanager
def hooked(hook: Any) -> Iterator[None]:
    """Call `hook` with each fail point that is reached meanwhile."""
    failpoints.hook = hook
    try:
        yield
    finally:
        failpoints.hook = None


@contextlib.contextmanager
def crash_at(point: str) -> Iterator[None]:
    """Have whoever first reaches a fail point end there."""

    def crash(name: str) -> None:
        if name == point:
            raise CrashError(name)

    with hooked(crash):
        yield


@dataclass
class Redemptions:
    """Databases and a topic of redemptions."""

    settings: Settings
    orders: Pool
    points: Pool
    catalog: Pool
    topic: str
    campaign: Campaign
    now: int = START_MS
    told: Told = field(default_factory=Told)
    letters: Letters = field(default_factory=Letters)
    granted: Counter[str] = field(default_factory=Counter)
    events: dict[str, RedemptionAccepted] = field(default_factory=dict)

    def now_ms(self) -> int:
        """Return the time, which moves by `pass_time` alone."""
        return self.now

    def pass_time(self, ms: int = 0) -> None:
        """Let time go by; by default so much that every lease is over, and every pause."""
        saga = self.settings.saga
        self.now += ms or saga.lease_ms + round(1_000 * saga.retry_max_s)

    async def grant(self, user: str, points: int) -> None:
        """Give a user points."""
        self.granted[user] += points
        wanted = Movement(f"grant~{secrets.token_hex(8)}", LedgerKind.GRANT, user, points)
        assert await move_once(self.points, wanted, at_ms=self.now) is Moved.NEW

    async def take_in(self, *events: RedemptionAccepted) -> Outcome:
        """Have redemptions be stored as sagas that are due."""
        for event in events:
            self.events.setdefault(event.order_id, event)
        store = RedemptionStore(self.orders)
        return await store.store([Redemption(Plain(), event) for event in events], now_ms=self.now)

    async def ready(self, *events: RedemptionAccepted) -> None:
        """Take redemptions in whose users have exactly the points for them."""
        for event in events:
            await self.grant(event.user_id, event.points_in_all)
        await self.take_in(*events)

    async def refuse(self) -> None:
        """Have MySQL refuse some orders, and some payments."""
        refusal = "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'no'; END IF"
        for table, condition in (
            ("orders", f"NEW.quantity = {NO_ORDER} AND NEW.status = 'confirmed'"),
            ("payment", f"NEW.points = {NO_PAYMENT * PRICE}"),
        ):
            await query(
                self.orders,
                f"CREATE TRIGGER refuse_{table} BEFORE INSERT ON {table} FOR EACH ROW IF {condition} THEN {refusal}",
            )

    async def one_of(self, kind: str, number: int) -> str:
        """Take in a redemption of a kind; returns its saga's id."""
        event = redemption(number, quantity={"order refused": NO_ORDER, "payment refused": NO_PAYMENT}.get(kind, 1))
        if kind != "no points account":
            await self.grant(event.user_id, event.points_in_all - (kind == "points short"))
        await self.take_in(event)
        return event.order_id

    def driver(
        self, *, orders: Pool | None = None, points: Pool | None = None, letters: DeadLetters | None = None, **saga: Any
    ) -> SagaDriver:
        """Return a driver by this clock."""
        return SagaDriver(
            msgspec.structs.replace(self.settings.saga, **saga),
            orders=orders or self.orders,
            points=points or self.points,
            dead_letters=letters or self.letters,
            metrics=self.told,
            topic=self.topic,
            now_ms=self.now_ms,
        )

    def writer(self, metrics: Recorded, stored: Any = lambda: None) -> RedemptionWriter:
        """Return a writer of these redemptions."""
        return make_redemption_writer(self.settings, self.orders, topic=self.topic, metrics=metrics, stored=stored)

    async def publish(self, *events: RedemptionAccepted) -> None:
        """Write events to the topic."""
        producer = kafka.make_producer(self.settings.kafka)
        await producer.start()
        try:
            for event in events:
                self.events.setdefault(event.order_id, event)
                await producer.send(self.topic, value=encode_redemption_accepted(event), key=event.order_id.encode())
            await producer.flush()
        finally:
            await producer.stop()

    async def spawn(self, fail_point: str) -> asyncio.subprocess.Process:
        """Start `consume redemptions` as a process that kills itself at a fail point."""
        return await asyncio.create_subprocess_exec(
            *("setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", "tests.support.consumer_child"),
            *(self.topic, fail_point, "kill", REDEMPTIONS),
            cwd=PROJECT_ROOT,
            env={**inherited_environment(), **as_environment(msgspec.to_builtins(self.settings))},
            stdin=subprocess.DEVNULL,
        )

    async def settle(self, *drivers: SagaDriver) -> None:
        """Have drivers go on, at once, until nothing is due any more, however much time goes by."""
        going = drivers or (self.driver(),)
        for _ in range(ROUNDS_MAX):
            done = await asyncio.gather(*(driver.run_once() for driver in going), return_exceptions=True)
            for one in done:
                if isinstance(one, BaseException) and not isinstance(one, BackendError):
                    raise one
            if not any(done) and not await self.due():
                return
            self.pass_time()
        raise AssertionError(f"still due after {ROUNDS_MAX} rounds: {await self.due()}")

    async def due(self) -> list[str]:
        """Return the sagas that have not ended and are not parked."""
        rows = await query(self.orders, "SELECT saga_id FROM saga WHERE next_at_ms IS NOT NULL")
        return sorted(saga_id for (saga_id,) in rows)

    async def row(self, saga_id: str) -> dict[str, Any]:
        """Return what a saga's row says."""
        names = "status, step, version, reason, attempts, error, next_at_ms, parked_at_ms, ended_at_ms"
        ((*values,),) = await query(self.orders, f"SELECT {names} FROM saga WHERE saga_id = %s", (saga_id,))  # noqa: S608
        return dict(zip(names.split(", "), values, strict=True))

    async def state(self) -> dict[str, list[tuple[Any, ...]]]:
        """Return all that the sagas have written, but for their own rows and times."""
        of_orders = {
            "orders": "order_id, status, version, quantity, unit_price_cents, pay_by_ms, hold_no",
            "stock_ledger": "order_id, hold_no, kind, quantity",
            "payment": "order_id, attempt_no, amount_cents, points, status",
            "outbound_review": "order_id, status, quantity",
            "order_change": "order_id, version, status, reason",
            "stock_return": "order_id, hold_no, origin, quantity",
            "campaign_sku": "sku_id, sold",
            "saga_step": "saga_id, step, outcome",
        }
        of_points = {
            "account": "user_id, balance",
            "points_ledger": "ref_id, kind, user_id, delta",
            "saga_step": "saga_id, step, outcome",
        }
        return {
            f"{pool.dsn.database[:9]}.{table}": sorted(await query(pool, f"SELECT {columns} FROM {table}"))  # noqa: S608
            for pool, tables in ((self.orders, of_orders), (self.points, of_points))
            for table, columns in tables.items()
        }

    async def balances(self) -> dict[str, int]:
        """Return user → balance."""
        return dict(await query(self.points, "SELECT user_id, balance FROM account"))

    async def assert_conserved(self, expected: Mapping[str, str], *, reasons: Mapping[str, str] | None = None) -> None:
        """Assert that exactly these sagas have ended, each whole or compensated as expected, and nothing is between.

        Args:
            expected: saga id → WHOLE or COMPENSATED.
            reasons: saga id → what its order's rejection says.
        """
        ended = "SELECT saga_id, status FROM saga WHERE ended_at_ms > 0 AND next_at_ms IS NULL AND parked_at_ms IS NULL"
        direction = {WHOLE: "confirmed", COMPENSATED: "compensating"}
        assert dict(await query(self.orders, ended)) == {one: direction[end] for one, end in expected.items()}
        assert await query(self.orders, "SELECT COUNT(*) FROM saga") == [(len(expected),)]
        whole = {one for one, end in expected.items() if end == WHOLE}
        back = set(expected) - whole
        units = {one: self.events[one].quantity for one in expected}
        cost = {one: self.events[one].points_in_all for one in expected}
        state = await self.state()
        assert state["fg_orders.orders"] == sorted(
            (one, "paid" if one in whole else "rejected", 2, units[one], 0, None, 1) for one in expected
        )
        kinds = {WHOLE: ["take"], COMPENSATED: ["release", "take"]}
        assert state["fg_orders.stock_ledger"] == sorted(
            (one, 1, kind, units[one]) for one, end in expected.items() for kind in kinds[end]
        )
        payments = [(one, 1, 0, cost[one], "paid") for one in whole]
        payments += [row for row in state["fg_orders.payment"] if row[0] in back]
        assert state["fg_orders.payment"] == sorted(payments)
        assert {row[1:3] + row[4:] for row in state["fg_orders.payment"] if row[0] in back} <= {(1, 0, "void")}
        assert state["fg_orders.outbound_review"] == sorted((one, "waiting", units[one]) for one in whole)
        changes = [(one, 2, "paid" if one in whole else "rejected") for one in expected]
        assert [row[:3] for row in state["fg_orders.order_change"]] == sorted(changes)
        for saga_id, reason in (reasons or {}).items():
            assert (saga_id, 2, "rejected", reason) in state["fg_orders.order_change"]
        returns = [row for row in state["fg_orders.stock_return"] if not row[2]]
        assert returns == sorted((one, 1, "", units[one]) for one in back)
        sold = Counter[str]()
        for one in whole:
            sold[self.events[one].sku_id] += units[one]
        assert {sku: count for sku, count in state["fg_orders.campaign_sku"] if count} == dict(sold)
        await self._assert_points(whole, back, cost, state)

    async def _assert_points(
        self, whole: set[str], back: set[str], cost: Mapping[str, int], state: Mapping[str, list[tuple[Any, ...]]]
    ) -> None:
        """Assert that initial + granted - spent + returned = balance, for each account, and what each saga moved."""
        moved: dict[str, list[tuple[str, int]]] = {}
        sums = Counter[str]()
        for ref_id, kind, user, delta in state["fg_points.points_ledger"]:
            sums[user] += delta
            if kind != "grant":
                moved.setdefault(ref_id, []).append((kind, delta))
        assert set(moved) <= whole | back
        for one in whole:
            assert moved[one] == [("spend", -cost[one])]
        for one in back & moved.keys():
            assert moved[one] == [("refund", cost[one]), ("spend", -cost[one])]
        left = self.granted.copy()
        for one in whole:
            left[self.events[one].user_id] -= cost[one]
        balances = await self.balances()
        assert balances == dict(left)
        assert balances == dict(sums)


@contextlib.asynccontextmanager
async def new_redemptions(
    endpoints: Endpoints, *, skus: Sequence[str] = (SKU, "box-2"), saga: SagaSettings | None = None
) -> AsyncIterator[Redemptions]:
    """Make databases, topics and a group of one's own; the databases are dropped afterwards."""
    name = secrets.token_hex(4)
    login = f"{endpoints.mysql_user}:{endpoints.mysql_password}@{endpoints.mysql_host}:{endpoints.mysql_port}"
    settings = load_settings(
        defaults={
            "kafka": {"bootstrap": endpoints.kafka_bootstrap, "partitions": 2},
            "mysql": {
                "orders_dsn": f"mysql://{login}/fg_orders_{name}",
                "catalog_dsn": f"mysql://{login}/fg_catalog_{name}",
                "points_dsn": f"mysql://{login}/fg_points_{name}",
            },
            "redis": {"host": endpoints.redis_host, "port": endpoints.redis_port},
            "consumer": {"group": f"group-{name}", "session_timeout_ms": 6_000, "batch_linger_ms": 20},
        }
    )
    settings = msgspec.structs.replace(settings, saga=saga or settings.saga)
    mysql = settings.mysql
    dsns = {"orders": orders_dsn(mysql), "catalog": catalog_dsn(mysql), "points": points_dsn(mysql)}
    upgrade("orders", dsns["orders"], connect_timeout_s=5)
    upgrade("catalog", dsns["catalog"], connect_timeout_s=5)
    upgrade("points", dsns["points"], connect_timeout_s=5)
    pools = {schema: Pool(dsn, size_max=8, connect_timeout_s=5) for schema, dsn in dsns.items()}
    campaign = sample_campaign(CAMPAIGN, skus)
    topic = f"redemptions.accepted.{name}"
    try:
        await kafka.create_topics(settings.kafka, [topic, dead_topic(topic)])
        await allocate_in_mysql(pools["catalog"], pools["orders"], campaign)
        yield Redemptions(settings, pools["orders"], pools["points"], pools["catalog"], topic, campaign)
    finally:
        for pool in pools.values():
            await query(pool, f"DROP DATABASE {pool.dsn.database}")
            await pool.close()

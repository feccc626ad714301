"""A redemption campaign whose orders a test takes as far as it wants, step by step."""

import contextlib
import functools
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import aiohttp
from aiokafka import AIOKafkaConsumer
from aiokafka.structs import OffsetAndMetadata, TopicPartition

from adapters.campaign_stock import move_campaign
from adapters.kafka import create_topics, make_producer
from adapters.kafka_reader import open_reader
from adapters.kafka_sender import KafkaSender, Outgoing
from adapters.mysql import query, transaction
from adapters.points import move_once, read_statement
from adapters.saga_points import deduct_all, refund_all
from adapters.stock import OrderRequest, admit
from cli.clients import Clients, open_clients
from consumers import saga_orders, saga_rows
from consumers.redemption_batch import split_poison
from consumers.redemptions import RedemptionStore
from consumers.saga_driver import SagaDriver
from consumers.saga_rows import SagaRow
from domain import keys
from domain.campaign import parse_campaign
from domain.events import dead_topic
from domain.order import digest_of, fingerprint, order_id, user_hash
from domain.outbox import decode_entry
from domain.outcomes import Outcome
from domain.points import LedgerKind, Movement, grant_ref
from domain.redemption_events import (
    TOPIC_REDEMPTIONS_ACCEPTED,
    RedemptionAccepted,
    encode_redemption_accepted,
    redemption_of,
)
from domain.saga import SagaStatus, SagaStep, StepOutcome, Turn
from domain.settings import Settings
from gateway.app import read_key
from tests.support.life import now_ms
from tests.support.records import Plain
from tests.support.sagas import Letters, Told
from tests.support.shop import SKU, Shop
from warehouse.campaigns import load_into
from warehouse.stock_up import receive_what_is_short

PRICE: Final = 300
"""Of one unit, points."""
GRANTED: Final = 1_000
_LEASE_MS: Final = 3_600_000
"""No driver takes up in between what a test moves by hand."""


@dataclass
class Redeemed:
    """A campaign that sells for points, and who looks after its orders."""

    settings: Settings
    shop: Shop
    events: dict[str, RedemptionAccepted] = field(default_factory=dict)
    """Order id → its event, of all that Redis has admitted."""
    rows: dict[str, SagaRow] = field(default_factory=dict)
    """Saga id → its row as it was left by the last step."""

    @property
    def id(self) -> str:
        """The campaign."""
        return self.shop.id

    @property
    def clients(self) -> Clients:
        """The stores."""
        return self.shop.clients

    def user(self, which: int) -> str:
        """Return a user's name, which no other test uses."""
        return f"{self.id}-{which}"

    async def grant(self, which: int, points: int = GRANTED) -> None:
        """Give a user points, once."""
        user = self.user(which)
        wanted = Movement(grant_ref(user, "test"), LedgerKind.GRANT, user, points)
        await move_once(self.clients.points, wanted, at_ms=now_ms())

    async def balance(self, which: int = 0) -> int:
        """Return a user's balance."""
        found = await read_statement(self.clients.points, self.user(which))
        assert found is not None
        return found.balance

    async def moves(self, saga_id: str) -> list[tuple[str, int]]:
        """Return what the ledger of points has under an order: kind and points."""
        rows = await query(
            self.clients.points, "SELECT kind, delta FROM points_ledger WHERE ref_id = %s ORDER BY id", (saga_id,)
        )
        return [(kind, delta) for kind, delta in rows]

    async def admit(self, which: int, quantity: int = 1) -> str:
        """Have Redis admit one redemption; returns its order's id."""
        user = self.user(which)
        made = order_id(self.id, user, "key")
        request = OrderRequest(digest_of(made), fingerprint(SKU, quantity), SKU, quantity, user, user_hash(user))
        reply = await admit(self.clients.channel, self.id, [request], attempts_max=8, outbox_max=1_000)
        assert [outcome for outcome, _ in reply.decisions] == [Outcome.ACCEPTED]
        entries: Any = await self.clients.client.xrange(keys.outbox(self.id))
        for outbox_id, fields in entries:
            for one in decode_entry(self.id, outbox_id.decode(), fields):
                self.events[one.order_id] = redemption_of(one)
        return made

    async def publish(self, *order_ids: str) -> None:
        """Do a relay's work for these orders: Kafka has their records, and the checkpoint is past all that there is."""
        sender = KafkaSender(functools.partial(make_producer, self.settings.kafka), timeout_s=20.0)
        try:
            await sender.send(
                [
                    Outgoing(TOPIC_REDEMPTIONS_ACCEPTED, one.encode(), encode_redemption_accepted(self.events[one]))
                    for one in order_ids
                ]
            )
        finally:
            await sender.close()
        last = await self.clients.client.hget(keys.campaign(self.id), "last_outbox_id")
        await self.clients.client.hset(keys.relay(self.id), "checkpoint", last)

    async def commit(self) -> None:
        """Have the group of redemptions be done with all that Kafka has now."""
        topic, group = TOPIC_REDEMPTIONS_ACCEPTED, f"{self.settings.consumer.group}.redemptions"
        async with open_reader(self.settings.kafka) as reader:
            spans = await reader.spans(topic)
        consumer = AIOKafkaConsumer(
            bootstrap_servers=self.settings.kafka.bootstrap, group_id=group, enable_auto_commit=False
        )
        consumer.assign([TopicPartition(topic, number) for number in spans])
        await consumer.start()
        try:
            await consumer.commit(
                {TopicPartition(topic, number): OffsetAndMetadata(span.end, "") for number, span in spans.items()}
            )
        finally:
            await consumer.stop()

    async def take_in(self, *order_ids: str) -> list[SagaRow]:
        """Write sagas, as the consumer does; no driver comes upon them."""
        records = [Plain(value=encode_redemption_accepted(self.events[one])) for one in order_ids]
        items, _ = split_poison(records)
        await RedemptionStore(self.clients.orders).store(items, now_ms=now_ms())
        async with transaction(self.clients.orders) as cursor:
            await cursor.execute(
                "UPDATE saga SET next_at_ms = %s WHERE saga_id IN %s AND next_at_ms IS NOT NULL",
                (now_ms() + _LEASE_MS, order_ids),
            )
        for one in order_ids:
            self.rows[one] = _row(self.events[one])
        return [self.rows[one] for one in order_ids]

    async def step(self, saga_id: str, step: SagaStep) -> StepOutcome:
        """Do one step of a saga and note it."""
        row, at_ms = self.rows[saga_id], now_ms()
        orders, points = self.clients.orders, self.clients.points
        match step:
            case SagaStep.DEDUCT_POINTS:
                outcomes = await deduct_all(points, [row.cost], at_ms=at_ms)
            case SagaStep.REFUND_POINTS:
                outcomes = await refund_all(points, [row.cost], at_ms=at_ms)
            case _:
                outcomes = await getattr(saga_orders, step.value)(orders, [row], at_ms=at_ms)
        if step in {SagaStep.CONFIRM_ORDER, SagaStep.REFUND_POINTS}:
            left = await saga_rows.note_ended(orders, [row], step, now_ms=at_ms)
        else:
            left = await saga_rows.note_done(orders, [row], step, lease_until_ms=at_ms + _LEASE_MS)
        (self.rows[saga_id],) = left
        return outcomes[saga_id]

    async def turn(self, saga_id: str, to: SagaStatus, reason: str = "") -> None:
        """Decide a saga's direction."""
        left = await saga_rows.turn(
            self.clients.orders, [self.rows[saga_id]], Turn(to, reason), lease_until_ms=now_ms() + _LEASE_MS
        )
        (self.rows[saga_id],) = left

    async def carry_through(self, saga_id: str) -> None:
        """Have a saga that was taken in end well: its order is paid."""
        for step in (SagaStep.DEDUCT_POINTS, SagaStep.CREATE_ORDER, SagaStep.CREATE_PAYMENT):
            assert await self.step(saga_id, step) is StepOutcome.DONE
        await self.turn(saga_id, SagaStatus.CONFIRMED)
        await self.step(saga_id, SagaStep.CONFIRM_ORDER)

    async def turn_back(self, saga_id: str, reason: str = "points short") -> None:
        """Have a saga that was taken in be compensated."""
        await self.turn(saga_id, SagaStatus.COMPENSATING, reason)
        for step in (SagaStep.VOID_PAYMENT, SagaStep.REJECT_ORDER, SagaStep.REFUND_POINTS):
            await self.step(saga_id, step)

    async def redeem(self, which: int, quantity: int = 1) -> str:
        """Have a redemption go the whole way, beside Kafka; returns its order's id."""
        await self.grant(which)
        made = await self.admit(which, quantity)
        await self.take_in(made)
        await self.carry_through(made)
        return made

    async def drive(self) -> None:
        """Have all sagas of the campaign that are neither parked nor ended be due, and a driver end them."""
        orders = self.clients.orders
        async with transaction(orders) as cursor:
            await cursor.execute(
                "UPDATE saga SET next_at_ms = 1 WHERE campaign_id = %s AND next_at_ms IS NOT NULL", (self.id,)
            )
        driver = SagaDriver(
            self.settings.saga, orders=orders, points=self.clients.points, dead_letters=Letters(), metrics=Told()
        )
        while await driver.run_once():
            pass

    async def park(self, saga_id: str, error: str = "no such table") -> None:
        """Park a saga, as a driver does that has tried often enough."""
        (row,) = [self.rows[saga_id]]
        assert await saga_rows.park(self.clients.orders, row, attempts=10, error=error, now_ms=now_ms())
        self.rows[saga_id] = row._replace(version=row.version + 1)

    async def payment(self, saga_id: str) -> tuple[str, str]:
        """Return an order's payment: id and status."""
        ((payment_id, status),) = await query(
            self.clients.orders, "SELECT payment_id, status FROM payment WHERE order_id = %s", (saga_id,)
        )
        return payment_id, status


def _row(event: RedemptionAccepted) -> SagaRow:
    return SagaRow(
        saga_id=event.order_id,
        campaign_id=event.campaign_id,
        sku_id=event.sku_id,
        user_id=event.user_id,
        quantity=event.quantity,
        points=event.points_in_all,
        fingerprint=event.fingerprint,
        hold_no=event.hold_no,
        accepted_at_ms=event.accepted_at_ms,
        outbox_id=event.outbox_id,
        outbox_index=event.outbox_index,
        status=SagaStatus.RUNNING,
        step=None,
        version=1,
        reason="",
        attempts=0,
    )


def campaign_text(campaign_id: str, stock: int, price: int) -> str:
    """Return the file of a redemption campaign that is open for long."""
    return (
        f'[campaign]\nid = "{campaign_id}"\nkind = "redemption"\nopens_at = 2020-01-01T00:00:00Z\n'
        "closes_at = 2036-01-01T00:00:00Z\n[limits]\nuser_per_s = 1000\nuser_burst = 1000\n"
        f'[[sku]]\nid = "{SKU}"\nstock = {stock}\npoints_price = {price}\nper_user = 5\n'
    )


@contextlib.asynccontextmanager
async def open_redeemed(settings: Settings, *, stock: int = 10, price: int = PRICE) -> AsyncIterator[Redeemed]:
    """Load a redemption campaign with an id of its own, open it, and yield it."""
    loaded = parse_campaign(campaign_text(f"t-{secrets.token_hex(5)}", stock, price), source="test")
    topics: Sequence[str] = (TOPIC_REDEMPTIONS_ACCEPTED, dead_topic(TOPIC_REDEMPTIONS_ACCEPTED))
    await create_topics(settings.kafka, topics)
    async with open_clients(settings) as clients, aiohttp.ClientSession() as session:
        await receive_what_is_short(clients.catalog, loaded, who="test", why="a test")
        await load_into(clients, loaded)
        await move_campaign(clients.channel, loaded.id, "open")
        try:
            yield Redeemed(settings, Shop(settings, loaded, clients, session, read_key(settings)))
        finally:
            # The shared servers outlive the test; its campaign must not be served by the relays of later ones.
            await clients.client.srem("fg:campaigns", loaded.id)

"""A campaign of its own on the shared servers, with gateway workers, a relay and a consumer that a test may start."""

import asyncio
import contextlib
import functools
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import aiohttp
import msgspec
import orjson

from adapters.campaign_stock import move_campaign
from adapters.kafka import make_consumer, make_producer
from adapters.kafka_reader import TopicReader
from adapters.mysql import query
from adapters.stock import read_snapshot
from cli.clients import Clients, open_clients
from cli.token import make_token
from consumers.dead_letters import DeadLetters
from consumers.orders import OrderWriter
from domain.campaign import Campaign, parse_campaign
from domain.events import TOPIC_ORDERS_ACCEPTED, OrderAccepted, dead_topic, decode_order_accepted
from domain.settings import Settings, load_settings
from gateway.app import GatewayWorker, listening_socket, make_relay, read_key
from gateway.relay import Relay
from stack.servers import Endpoints
from tests.support.metrics import Recorded
from warehouse.campaigns import load_into
from warehouse.stock_up import receive_what_is_short

SKU: Final = "box"
CONNECTIONS_MAX: Final = 200


def shop_settings(endpoints: Endpoints, folder: Path) -> Settings:
    """Return settings for the shared servers, with secrets in `folder`."""
    key_file, ops_file = folder / "jwt.key", folder / "ops.token"
    key_file.write_text(secrets.token_urlsafe(48))
    ops_file.write_text(secrets.token_urlsafe(48))
    login = f"{endpoints.mysql_user}:{endpoints.mysql_password}@{endpoints.mysql_host}:{endpoints.mysql_port}"
    return load_settings(
        defaults={
            "redis": {"host": endpoints.redis_host, "port": endpoints.redis_port},
            "kafka": {"bootstrap": endpoints.kafka_bootstrap},
            "mysql": {
                "orders_dsn": f"mysql://{login}/fg_orders",
                "catalog_dsn": f"mysql://{login}/fg_catalog",
                "points_dsn": f"mysql://{login}/fg_points",
            },
            "auth": {"key_file": str(key_file)},
            "ops": {"token_file": str(ops_file)},
            "consumer": {"session_timeout_ms": 6_000, "batch_linger_ms": 20},
            "relay": {"block_ms": 100, "owner_ttl_ms": 1_000},
            "gateway": {"linger_s": 0.05},
        },
    )


class Said(NamedTuple):
    """An answer as a buyer sees it."""

    status: int
    body: dict[str, Any]
    headers: dict[str, str]

    @property
    def code(self) -> str:
        """The problem's code, or `ACCEPTED`."""
        return str(self.body.get("code", "ACCEPTED" if self.status == 202 else self.status))


@dataclass
class Shop:
    """One campaign and those who serve it."""

    settings: Settings
    campaign: Campaign
    clients: Clients
    session: aiohttp.ClientSession
    key: bytes
    accepted: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    """Order id → (user, key, quantity) of everything that was answered 202."""

    @property
    def id(self) -> str:
        """The campaign's id."""
        return self.campaign.id

    def bearer(self, user: str) -> dict[str, str]:
        """Return the header that says who asks."""
        return {"Authorization": f"Bearer {make_token(self.settings.auth, self.key, user)}"}

    async def buy(
        self, url: str, user: str, key: str = "key-1", quantity: int = 1, sku: str = SKU, campaign: str = ""
    ) -> Said:
        """Send one order; an acceptance is remembered."""
        body = orjson.dumps({"campaign_id": campaign or self.id, "sku_id": sku, "quantity": quantity})
        said = await self.post(url, body, {**self.bearer(user), "Idempotency-Key": key})
        if said.status == 202:
            self.accepted[said.body["order_id"]] = (user, key, quantity)
        return said

    async def post(self, url: str, body: bytes, headers: dict[str, str]) -> Said:
        """Send a body to `POST /v1/orders`."""
        async with self.session.post(f"{url}/v1/orders", data=body, headers=headers) as answer:
            return Said(answer.status, orjson.loads(await answer.read()), dict(answer.headers))

    async def get(self, url: str, path: str, user: str = "") -> Said:
        """Send a GET, as a user or as nobody."""
        async with self.session.get(url + path, headers=self.bearer(user) if user else {}) as answer:
            return Said(answer.status, orjson.loads(await answer.read()), dict(answer.headers))

    async def cancel(self, url: str, order_id: str, user: str, key: str = "cancel-1") -> Said:
        """Send `POST /v1/orders/{id}/cancel`."""
        return await self.change(url, f"/v1/orders/{order_id}/cancel", {**self.bearer(user), "Idempotency-Key": key})

    async def pay(self, url: str, order_id: str, user: str, key: str = "pay-1") -> Said:
        """Send `POST /v1/orders/{id}/payment`."""
        return await self.change(url, f"/v1/orders/{order_id}/payment", {**self.bearer(user), "Idempotency-Key": key})

    async def call_back(self, url: str, body: bytes, headers: dict[str, str]) -> Said:
        """Send a callback to `POST /v1/webhooks/payment`, as the payment provider does."""
        return await self.change(url, "/v1/webhooks/payment", headers, body)

    async def change(self, url: str, path: str, headers: dict[str, str], body: bytes = b"") -> Said:
        """Send a POST; an answer without a body counts as an empty object."""
        async with self.session.post(url + path, data=body, headers=headers) as answer:
            return Said(answer.status, orjson.loads(await answer.read() or b"{}"), dict(answer.headers))

    async def status(self, url: str, order_id: str, user: str) -> Said:
        """Send `GET /v1/orders/{id}`."""
        return await self.get(url, f"/v1/orders/{order_id}", user)

    def with_gateway(self, **changes: Any) -> Settings:
        """Return the settings with changes to `[gateway]`."""
        return msgspec.structs.replace(self.settings, gateway=msgspec.structs.replace(self.settings.gateway, **changes))

    @contextlib.asynccontextmanager
    async def worker(self, settings: Settings | None = None) -> AsyncIterator[str]:
        """Run a gateway worker in this process; yields its URL."""
        async with self.serving(settings) as (url, _):
            yield url

    @contextlib.asynccontextmanager
    async def serving(
        self, settings: Settings | None = None, *, send_bytes: int = 0
    ) -> AsyncIterator[tuple[str, GatewayWorker]]:
        """Run a gateway worker in this process; yields its URL and itself.

        With `send_bytes` the kernel keeps no more than about so much for buyers who do not read.
        """
        worker = GatewayWorker(settings or self.settings)
        listener: socket.socket = listening_socket("127.0.0.1", 0, 4_096)
        if send_bytes:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_bytes)
        await worker.start(listener)
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}", worker
        finally:
            if not worker.door.draining:  # a test may have told it to stop
                await worker.stop()
            listener.close()

    @contextlib.asynccontextmanager
    async def relay(self, settings: Settings | None = None) -> AsyncIterator[Relay]:
        """Run a relay in this process."""
        relay, close = make_relay(settings or self.settings)
        running = asyncio.create_task(relay.run())
        try:
            yield relay
        finally:
            relay.stop()
            await running
            await close()

    async def relayed(self, settings: Settings | None = None) -> None:
        """Run a relay until this campaign's outbox is empty."""
        async with self.relay(settings):
            await until_true(self.outbox_is_relayed)

    async def outbox_is_relayed(self) -> bool:
        """Tell whether everything accepted so far is in Kafka, and the gate open."""
        snapshot = await read_snapshot(self.clients.client, self.id)
        assert snapshot is not None
        gate_open = snapshot.fields["run_id"] == await self.clients.channel.connect()
        return gate_open and snapshot.fields.get("last_outbox_id", "0-0") == snapshot.checkpoint

    async def published(self) -> list[OrderAccepted]:
        """Return this campaign's events in Kafka, duplicates included."""
        events = []
        async for record in TopicReader(self.settings.kafka, TOPIC_ORDERS_ACCEPTED).read():
            with contextlib.suppress(Exception):
                event = decode_order_accepted(record.value)
                if event.campaign_id == self.id:
                    events.append(event)
        return events

    async def stored(self) -> dict[str, int]:
        """Return order id → quantity of this campaign's rows in MySQL."""
        rows = await query(
            self.clients.orders, "SELECT order_id, quantity FROM orders WHERE campaign_id = %s", (self.id,)
        )
        return dict(rows)

    @contextlib.asynccontextmanager
    async def consumer(
        self, metrics: Recorded | None = None, *, dead_letters_bootstrap: str = ""
    ) -> AsyncIterator[OrderWriter]:
        """Run the writer of accepted orders in this process.

        Args:
            metrics: told of what it does.
            dead_letters_bootstrap: where dead letters go, if not to the same Kafka.
        """
        settings = self.settings
        dead_kafka = settings.kafka
        if dead_letters_bootstrap:
            dead_kafka = msgspec.structs.replace(dead_kafka, bootstrap=dead_letters_bootstrap)
        writer = OrderWriter(
            settings,
            pool=self.clients.orders,
            make_consumer=functools.partial(
                make_consumer,
                settings.kafka,
                [TOPIC_ORDERS_ACCEPTED],
                group=f"{settings.consumer.group}.orders",
                session_timeout_ms=settings.consumer.session_timeout_ms,
            ),
            dead_letters=DeadLetters(
                functools.partial(make_producer, dead_kafka),
                dead_topic(TOPIC_ORDERS_ACCEPTED),
                timeout_s=10.0,
                now_ms=lambda: 0,
            ),
            metrics=metrics or Recorded(),
        )
        running = asyncio.create_task(writer.run())
        try:
            yield writer
        finally:
            writer.stop()
            await running

    async def assert_invariants(self, expected: Iterable[str] | None = None) -> None:
        """Relay and store what is left, then assert invariants A and B for exactly the accepted orders.

        Args:
            expected: ids of all orders that hold stock; default: those that this shop saw accepted.
        """
        ids = set(self.accepted if expected is None else expected)
        await self.relayed()
        async with self.consumer():
            await until_true(self._has_stored(len(ids)))
        stored = await self.stored()
        assert set(stored) == ids
        snapshot = await read_snapshot(self.clients.client, self.id)
        assert snapshot is not None
        units = sum(stored.values())
        for line in snapshot.stock.values():
            assert line.allocated == line.remaining + line.taken - line.returned
            assert line.remaining >= 0
        assert sum(line.taken - line.returned for line in snapshot.stock.values()) == units
        ledger = await query(
            self.clients.orders,
            "SELECT order_id, COUNT(*), CAST(SUM(quantity) AS SIGNED) FROM stock_ledger "
            "WHERE campaign_id = %s GROUP BY order_id",
            (self.id,),
        )
        assert {(order_id, int(count), int(total)) for order_id, count, total in ledger} == {
            (order_id, 1, quantity) for order_id, quantity in stored.items()
        }
        sold = await query(
            self.clients.orders, "SELECT CAST(SUM(sold) AS SIGNED) FROM campaign_sku WHERE campaign_id = %s", (self.id,)
        )
        assert sold == [(units,)]
        assert {event.order_id for event in await self.published()} == ids

    def _has_stored(self, count: int) -> Callable[[], Any]:
        async def check() -> bool:
            return len(await self.stored()) >= count

        return check

    async def assert_replays(self, url: str) -> None:
        """Assert invariant C: every accepted order, asked again, gets the same acceptance."""
        for order_id, (user, key, quantity) in list(self.accepted.items()):
            said = await self.buy(url, user, key, quantity)
            assert (said.status, said.body.get("order_id")) == (202, order_id)
            assert said.headers.get("Idempotent-Replayed") == "true"


async def until_true(condition: Callable[[], Any]) -> None:
    """Wait until an asynchronous condition holds; unbounded, the test's own time-out bounds it."""
    while not await condition():  # noqa: ASYNC110 -- what is waited for tells nobody
        await asyncio.sleep(0.02)


def campaign_text(  # noqa: D103
    campaign_id: str,
    *,
    stock: int | Sequence[tuple[str, int]] = 100,
    opens_at: str = "2020-01-01T00:00:00Z",
    closes_at: str = "2036-01-01T00:00:00Z",
    per_user: int = 1,
    limits: str = "user_per_s = 1000\nuser_burst = 1000",
    head: str = "",
    more: str = "",
) -> str:
    skus = [(SKU, stock)] if isinstance(stock, int) else stock
    tables = "".join(
        f'[[sku]]\nid = "{sku}"\nstock = {units}\nprice_cents = 5900\nper_user = {per_user}\n' for sku, units in skus
    )
    return (
        f'[campaign]\nid = "{campaign_id}"\nopens_at = {opens_at}\ncloses_at = {closes_at}\n{head}\n'
        f"[limits]\n{limits}\n{more}\n{tables}"
    )


@contextlib.asynccontextmanager
async def open_shop(settings: Settings, *, opened: bool = True, **campaign: Any) -> AsyncIterator[Shop]:
    """Load a campaign with an id of its own, open it, and yield the shop. See `campaign_text` for what may be set."""
    loaded = parse_campaign(campaign_text(f"t-{secrets.token_hex(5)}", **campaign), source="test")
    async with (
        open_clients(settings) as clients,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX)) as session,
    ):
        await receive_what_is_short(clients.catalog, loaded, who="test", why="a test")
        await load_into(clients, loaded)
        if opened:
            await move_campaign(clients.channel, loaded.id, "open")
        try:
            yield Shop(settings, loaded, clients, session, read_key(settings))
        finally:
            # The shared servers outlive the test; its campaign must not be served by the relays of later ones.
            await clients.client.srem("fg:campaigns", loaded.id)

"""A gateway worker with a campaign of its own on a private Redis, to be spoken to byte by byte."""

import asyncio
import contextlib
import gc
import logging
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec

from adapters.stock import BatchReply, OrderRequest
from cli.token import make_token
from domain.settings import AuthSettings, GatewaySettings, MysqlSettings, PaymentSettings, RedisSettings, Settings
from gateway.app import GatewayWorker, listening_socket, read_key
from stack.ports import free_port
from tests.support.scripts import ScriptSale, script_sale
from tests.support.shop import SKU
from tests.support.wire import Wire, connected

LANES: Final = ("fast", "aiohttp")
STOCK: Final = 100
LIVEZ: Final = b"GET /livez HTTP/1.1\r\nHost: shop\r\n\r\n"

Headers = Sequence[tuple[str, str]]


def gate_settings(server: RedisSettings, folder: Path) -> Settings:
    """Return settings for a private Redis; there is no MySQL, no Kafka and no payment provider."""
    key_file, payment_file = folder / "jwt.key", folder / "payment.key"
    for file in (key_file, payment_file):
        file.write_text(secrets.token_urlsafe(48))
    nowhere = f"mysql://nobody:none@127.0.0.1:{free_port()}/none"
    return Settings(
        redis=server,
        mysql=MysqlSettings(orders_dsn=nowhere, catalog_dsn=nowhere, points_dsn=nowhere),
        auth=AuthSettings(key_file=str(key_file)),
        payment=PaymentSettings(key_file=str(payment_file), provider_url=f"http://127.0.0.1:{free_port()}"),
        gateway=GatewaySettings(linger_s=0.3),
    )


@dataclass
class Gate:
    """One worker, and the campaign that it sells."""

    worker: GatewayWorker
    port: int
    sale: ScriptSale
    key: bytes
    _tokens: dict[str, str] = field(default_factory=dict)
    _stopped: bool = False

    def wire(self, **how: Any) -> AbstractAsyncContextManager[Wire]:
        """Connect to it."""
        return connected(self.port, **how)

    async def stop(self) -> None:
        """Tell the worker to stop, and wait until it is done; again, that does nothing."""
        if not self._stopped:
            self._stopped = True
            await self.worker.stop()

    def token(self, user: str) -> str:
        """Return a buyer's token, always the same."""
        if user not in self._tokens:
            self._tokens[user] = make_token(self.worker.settings.auth, self.key, user)
        return self._tokens[user]

    def body(self, quantity: int = 1) -> bytes:
        """Return the body of a good order."""
        return b'{"campaign_id":"%b","sku_id":"%b","quantity":%d}' % (self.sale.id.encode(), SKU.encode(), quantity)

    def order(self, user: str = "ann", key: str = "k", body: bytes | None = None, headers: Headers = ()) -> bytes:
        """Return an order, whole; `headers` are put in after the others."""
        return self.head(user, key, (*headers, ("Content-Length", str(len(self._or_good(body)))))) + self._or_good(body)

    def head(self, user: str = "ann", key: str = "k", headers: Headers = ()) -> bytes:
        """Return the head of an order: without headers that say where its body ends."""
        lines = [
            "POST /v1/orders HTTP/1.1",
            "Host: shop",
            f"Authorization: Bearer {self.token(user)}",
            f"Idempotency-Key: {key}",
            *(f"{name}: {value}" for name, value in headers),
            "\r\n",
        ]
        return "\r\n".join(lines).encode("utf-8", "surrogateescape")

    def page(self) -> bytes:
        """Return a request for the campaign's page."""
        return b"GET /v1/campaigns/%b HTTP/1.1\r\nHost: shop\r\n\r\n" % self.sale.id.encode()

    def _or_good(self, body: bytes | None) -> bytes:
        return self.body() if body is None else body

    def hold_decisions(self) -> tuple[asyncio.Event, asyncio.Event]:
        """Keep orders from being decided; returns what tells that one was taken in, and what lets them all go on."""
        asked, go_on = asyncio.Event(), asyncio.Event()
        admit = self.worker.desk._admit

        async def slowly(campaign_id: str, orders: list[OrderRequest]) -> BatchReply:
            asked.set()
            await go_on.wait()
            return await admit(campaign_id, orders)

        self.worker.desk._admit = slowly
        return asked, go_on

    async def taken(self) -> int:
        """Return how many units are taken; what is left and what is taken add up to the stock."""
        line = await self.sale.line()
        assert line.allocated == line.remaining + line.taken - line.returned
        assert line.returned == 0
        return line.taken

    async def assert_sound(self) -> None:
        """Assert that the worker still sells, once, to a buyer who comes now, and remembers it."""
        before = await self.taken()
        async with self.wire() as wire:
            user = secrets.token_hex(4)
            bought, again = await wire.ask(self.order(user)), await wire.ask(self.order(user))
            assert (bought.status, again.status) == (202, 202)
            assert (bought.header("Idempotent-Replayed"), again.header("Idempotent-Replayed")) == (None, "true")
            assert bought.body == again.body
            await wire.finish()
        assert await self.taken() == before + 1
        assert self.worker.desk.waiting == 0


class _Errors(logging.Handler):
    """Keeps what is logged as an error."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep it."""
        self.said.append(self.format(record))


@contextlib.asynccontextmanager
async def no_errors() -> AsyncIterator[None]:
    """Assert that nothing is logged as an error meanwhile, least of all by the loop."""
    gc.collect()  # what earlier tests have left behind is not said meanwhile
    errors = _Errors()
    root = logging.getLogger()
    root.addHandler(errors)
    try:
        yield
        await asyncio.sleep(0)
    finally:
        root.removeHandler(errors)
    assert errors.said == [], errors.said


@contextlib.asynccontextmanager
async def open_gate(
    settings: Settings, lane: str, *, campaign: dict[str, Any] | None = None, **changes: Any
) -> AsyncIterator[Gate]:
    """Start a worker for a campaign that is open; `changes` are those to the table `[gateway]`."""
    gateway = msgspec.structs.replace(settings.gateway, lane=lane, **changes)
    changed = msgspec.structs.replace(settings, gateway=gateway)
    sold = {"stock": STOCK, "per_user": STOCK, **(campaign or {})}
    async with script_sale(settings.redis, **sold) as sale, no_errors():
        worker = GatewayWorker(changed)
        listener = listening_socket("127.0.0.1", 0, 4_096)
        await worker.start(listener)
        gate = Gate(worker, listener.getsockname()[1], sale, read_key(settings))
        try:
            yield gate
        finally:
            await gate.stop()
            listener.close()
        assert worker.door.open_connections == 0
        await sale.client.srem("fg:campaigns", sale.id)

"""The sandbox payment provider, run inside the test's process on a free port, and who it calls back."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import msgspec
from aiohttp import web

from domain.settings import Settings
from lifecycle.callback import SIGNATURE_HEADER, Callback, decode_callback, sign, verify
from lifecycle.http_provider import HttpProvider
from lifecycle.payment_key import read_payment_key
from lifecycle.provider import ProviderState
from sandbox import client as sandbox_client
from sandbox.app import Sandbox
from sandbox.rules import Mode, Payment
from tests.support.shop import until_true

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]

WEBHOOK: Final = "/v1/webhooks/payment"
NOWHERE: Final = "http://127.0.0.1:9/"
"""The port of `discard`: nobody listens there, and callbacks wait."""


@dataclass
class SandboxHandle:
    """A running sandbox, and what a test does with it."""

    sandbox: Sandbox
    key: bytes

    @property
    def url(self) -> str:
        """Where it serves."""
        return self.sandbox.url

    def callback_to(self, gateway_url: str) -> None:
        """Deliver callbacks to a gateway that has been started meanwhile, those that wait at once."""
        self.sandbox.sender.url = gateway_url + WEBHOOK
        self.sandbox.store.hurry(time.time())
        self.sandbox.sender.wake()

    async def tell(self, mode: str, **about: Any) -> None:
        """Tell it how to behave; see `sandbox_client.tell` for `payment_id`, `order_id`, `delay_s` and `callback`."""
        await sandbox_client.tell(self.url, self.key, Mode(mode), **about)

    async def reset(self) -> None:
        """Make it forget what it was told."""
        await sandbox_client.reset(self.url, self.key)

    async def pay(self, payment_id: str) -> ProviderState:
        """Pay, as the buyer does."""
        return await sandbox_client.pay(self.url, payment_id)

    async def decline(self, payment_id: str) -> ProviderState:
        """Decline, as the buyer does."""
        return await sandbox_client.pay(self.url, payment_id, approve=False)

    def payments(self) -> dict[str, Payment]:
        """Return what the provider knows: payment id → payment, with its true state."""
        return {payment.payment_id: payment for payment in self.sandbox.store.payments()}

    def payments_of(self, order_id: str) -> list[Payment]:
        """Return an order's payments as the provider knows them."""
        return self.sandbox.store.payments_of(order_id)

    def charged_cents(self) -> int:
        """Return what all buyers together have paid and not got back."""
        return sum(one.amount_cents for one in self.payments().values() if one.state is ProviderState.APPROVED)

    async def told_all(self) -> None:
        """Wait until every callback has been taken in."""
        await until_true(self._nothing_waits)

    async def _nothing_waits(self) -> bool:
        return self.sandbox.store.undelivered() == 0

    def signed(self, body: bytes, *, at_s: float | None = None) -> dict[str, str]:
        """Return the header that makes a body a callback of this provider, sent now or at some other time."""
        return {SIGNATURE_HEADER: sign(body, self.key, int(time.time() if at_s is None else at_s))}


def callback_body(payment_id: str, state: str, amount_cents: int, event_id: str = "") -> bytes:
    """Return the body of a callback."""
    event = event_id or f"evt_{secrets.token_hex(8)}"
    return msgspec.json.encode(Callback(event, payment_id, ProviderState(state), amount_cents))


def new_key(folder: Path) -> str:
    """Make a key that the provider and we share; returns its file."""
    key_file = folder / "payment.key"
    key_file.write_text(secrets.token_urlsafe(48))
    return str(key_file)


class Receiver:
    """Takes callbacks in, and answers as it is told."""

    def __init__(self) -> None:
        self.url = ""
        self.key = b""
        self.came: list[Callback] = []
        self.answers: list[int] = []
        """Statuses of the next answers; then 204."""

    async def take(self, request: web.BaseRequest) -> web.StreamResponse:
        """Note a callback whose signature is right."""
        body = await request.read()
        verify(request.headers.get(SIGNATURE_HEADER), body, self.key, now_s=time.time(), age_max_s=300)
        self.came.append(decode_callback(body))
        return web.Response(status=self.answers.pop(0) if self.answers else 204)

    @property
    def told(self) -> list[tuple[str, ProviderState]]:
        """What came, in the order in which it came."""
        return [(one.payment_id, one.state) for one in self.came]

    async def until(self, count: int) -> None:
        """Wait until so many have come."""
        await until_true(lambda: asyncio.sleep(0, len(self.came) >= count))


@contextlib.asynccontextmanager
async def serving(handler: Handler) -> AsyncIterator[str]:
    """Serve every path with one handler; yields the URL."""
    runner = web.ServerRunner(web.Server(handler), shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


def impatient_settings(folder: Path) -> Settings:
    """Return plain settings with a key in `folder`, and a provider that is waited for no longer than a second."""
    plain = Settings()
    payment = msgspec.structs.replace(plain.payment, key_file=new_key(folder), timeout_s=1.0)
    return msgspec.structs.replace(plain, payment=payment)


@contextlib.asynccontextmanager
async def adapter(settings: Settings, handle: SandboxHandle) -> AsyncIterator[HttpProvider]:
    """Yield our side of the wire."""
    provider = HttpProvider(settings.payment, handle.key)
    try:
        yield provider
    finally:
        await provider.close()


@contextlib.asynccontextmanager
async def sandbox(
    settings: Settings, callback_url: str = NOWHERE, *, database: str = "", port: int = 0
) -> AsyncIterator[tuple[Settings, SandboxHandle]]:
    """Run a sandbox in this process.

    Args:
        settings: of the test; a key is made unless they name one.
        callback_url: where callbacks go; `callback_to` can say so later, when the gateway is there.
        database: a file, for a sandbox that is started again.
        port: 0 for a free one.

    Yields:
        The settings with the sandbox's URL and the key, and the handle.
    """
    with TemporaryDirectory() as folder:
        payment = settings.payment
        if not payment.key_file:
            payment = msgspec.structs.replace(payment, key_file=new_key(Path(folder)))
        own = msgspec.structs.replace(settings.sandbox, port=port, callback_url=callback_url, database=database)
        told = msgspec.structs.replace(settings, payment=payment, sandbox=own)
        provider = Sandbox(told)
        await provider.start()
        try:
            payment = msgspec.structs.replace(payment, provider_url=provider.url)
            yield msgspec.structs.replace(told, payment=payment), SandboxHandle(provider, read_payment_key(told))
        finally:
            await provider.stop()

"""The sandbox payment provider: a process of its own that takes payments in which no money moves.

Signed calls (`lifecycle.provider_wire`): `POST /payments`, `GET /payments/{id}`, `POST /payments/{id}/refunds`,
`PUT /behaviour` with what it is told (`sandbox.rules.Told`), `DELETE /behaviour`. For the buyer, unsigned:
`GET` and `POST /pay/{id}`. It listens on loopback only, for whoever reaches it can pay for everything.
"""

import asyncio
import contextlib
import ipaddress
import logging
import os
import time
from collections.abc import Awaitable, Callable
from typing import Final, Literal, TypeVar
from urllib.parse import parse_qs

import msgspec
from aiohttp import web

from adapters.process import run_process
from adapters.tasks import end_tasks
from domain.errors import ConfigError, OperationRefusedError
from domain.settings import Settings
from lifecycle.callback import SIGNATURE_HEADER, CallbackRefusedError, verify
from lifecycle.payment_key import read_payment_key
from lifecycle.provider import ProviderState
from lifecycle.provider_wire import BODY_BYTES_MAX, CreateBody, PaymentSaid, RefundBody, RefusalSaid, what_is_signed
from sandbox import page
from sandbox.callbacks import CallbackSender
from sandbox.desk import RefusalError, SandboxDesk
from sandbox.rules import Manner, Payment, Told
from sandbox.store import SandboxStore

T = TypeVar("T", bound=msgspec.Struct)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

log = logging.getLogger(__name__)

HOLD_MAX_S: Final = 30.0
"""How long a call that is never answered is kept open."""
HELD_MAX: Final = 1_024
"""Calls kept open so; past it they are cut at once."""
BODY_TIMEOUT_S: Final = 5.0
KEEPALIVE_S: Final = 75.0
SHUTDOWN_S: Final = 1.0
BACKLOG: Final = 1_024
NONSENSE: Final = b'{"payment_id": 7, "state": "perhaps", "pay_url": "javascript:'

_JSON: Final = "application/json"


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a buyer says at the pay_url."""

    decision: Literal["approve", "decline"]

    @property
    def state(self) -> ProviderState:
        """What the payment becomes."""
        return ProviderState.APPROVED if self.decision == "approve" else ProviderState.DECLINED


class Sandbox:
    """One sandbox provider: a desk, its callbacks, and the server in front."""

    def __init__(self, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        """Open the database; nothing is served yet.

        Raises:
            ConfigError: the key, the host or the database is not as it must be.
        """
        _check_loopback(settings.sandbox.host)
        self._settings = settings
        self._clock = clock
        self._key = read_payment_key(settings)
        self.store = SandboxStore(settings.sandbox.database)
        self.sender = CallbackSender(self.store, settings.sandbox.callback_url, self._key, clock=clock)
        self.desk = SandboxDesk(self.store, self.sender.wake, clock=clock)
        self.url = ""
        """Where it serves; empty before it does."""
        self._held = 0
        self._closing = asyncio.Event()
        self._runner: web.AppRunner | None = None
        self._sending: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Serve, and deliver callbacks that an earlier run has left.

        Raises:
            OperationRefusedError: the port is taken.
        """
        told = self._settings.sandbox
        self._runner = web.AppRunner(
            self._application(),
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=SHUTDOWN_S,
            handler_cancellation=True,
        )
        await self._runner.setup()
        try:
            await web.TCPSite(self._runner, told.host, told.port, backlog=BACKLOG).start()
        except OSError as error:
            await self.stop()
            why = os.strerror(error.errno or 0)
            raise OperationRefusedError(
                f"the payment sandbox cannot listen on {told.host}:{told.port}: {why}"
            ) from None
        host, port = self._runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        self._sending = asyncio.create_task(self.sender.run())

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until told to stop.

        Raises:
            Exception: what the delivery of callbacks died of.
        """
        if self._sending is None:
            raise OperationRefusedError("the payment sandbox is not started")
        told = asyncio.create_task(stopping.wait())
        try:
            await asyncio.wait([told, self._sending], return_when=asyncio.FIRST_COMPLETED)
            if self._sending.done():
                self._sending.result()
        finally:
            told.cancel()

    async def stop(self) -> None:
        """Stop; callbacks that are not delivered stay in the database, if it is a file."""
        self._closing.set()
        if self._sending is not None:
            await end_tasks([self._sending])
        if self._runner is not None:
            await self._runner.cleanup()
        self.store.close()

    def _application(self) -> web.Application:
        app = web.Application(client_max_size=BODY_BYTES_MAX, middlewares=[_plain_errors])
        app.add_routes(
            [
                web.post("/payments", self._create),
                web.get("/payments/{id}", self._find, allow_head=False),
                web.post("/payments/{id}/refunds", self._refund),
                web.put("/behaviour", self._tell),
                web.delete("/behaviour", self._reset),
                web.get("/pay/{id}", self._page, allow_head=False),
                web.post("/pay/{id}", self._pay),
                web.get("/livez", _live),
            ]
        )
        return app

    async def _create(self, request: web.Request) -> web.StreamResponse:
        wanted = _decoded(CreateBody, await self._signed_body(request))
        payment, manner = self.desk.create(wanted.payment_id, wanted.order_id, wanted.amount_cents)
        if manner is Manner.NEVER or payment is None:
            return await self._never_answer(request)
        if manner is Manner.NONSENSE:
            return web.Response(body=NONSENSE, content_type=_JSON)
        return self._said(payment)

    async def _find(self, request: web.Request) -> web.StreamResponse:
        await self._signed_body(request)
        return self._said(self.desk.find(request.match_info["id"]))

    async def _refund(self, request: web.Request) -> web.StreamResponse:
        wanted = _decoded(RefundBody, await self._signed_body(request))
        if wanted.payment_id != request.match_info["id"]:
            raise RefusalError(400, "INVALID", "path and body name different payments")
        return self._said(self.desk.refund(wanted.payment_id, wanted.amount_cents))

    async def _tell(self, request: web.Request) -> web.StreamResponse:
        self.desk.tell(_decoded(Told, await self._signed_body(request)))
        return web.Response(status=204)

    async def _reset(self, request: web.Request) -> web.StreamResponse:
        await self._signed_body(request)
        self.desk.reset()
        return web.Response(status=204)

    async def _page(self, request: web.Request) -> web.StreamResponse:
        try:
            return _html(page.payment_page(self.desk.find(request.match_info["id"])))
        except RefusalError as error:
            return _html(page.problem_page(str(error)), error.status)

    async def _pay(self, request: web.Request) -> web.StreamResponse:
        """Take the buyer's decision, as a form or as JSON, and answer in kind."""
        body = await _body(request)
        payment_id = request.match_info["id"]
        if request.content_type == _JSON:
            payment = self.desk.decide(payment_id, _decoded(Decision, body).state)
            return web.json_response({"payment_id": payment.payment_id, "state": payment.state.value})
        try:
            self.desk.decide(payment_id, _form(body).state)
        except RefusalError as error:
            if error.code != "DECIDED":
                return _html(page.problem_page(str(error)), error.status)
            note = "This payment was decided before."
            return _html(page.payment_page(self.desk.find(payment_id), note), error.status)
        return web.Response(status=303, headers={"Location": f"/pay/{payment_id}"})

    async def _signed_body(self, request: web.Request) -> bytes:
        """Return the body of a call whose signature is right.

        Raises:
            RefusalError: it is not.
        """
        body = await _body(request)
        signed = what_is_signed(request.method, request.raw_path, body)
        age_max_s = self._settings.payment.signature_age_max_s
        try:
            verify(request.headers.get(SIGNATURE_HEADER), signed, self._key, now_s=self._clock(), age_max_s=age_max_s)
        except CallbackRefusedError as error:
            raise RefusalError(401, "UNAUTHENTICATED", str(error)) from None
        return body

    async def _never_answer(self, request: web.Request) -> web.StreamResponse:
        """Keep the call open until the caller gives up, which cancels this, or for long enough; then cut it."""
        if self._held < HELD_MAX:
            self._held += 1
            try:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._closing.wait(), HOLD_MAX_S)
            finally:
                self._held -= 1
        if request.transport is not None:
            request.transport.abort()
        return web.Response(status=504)

    def _said(self, payment: Payment) -> web.Response:
        said = PaymentSaid(
            payment.payment_id,
            payment.order_id,
            payment.amount_cents,
            payment.state,
            f"{self.url}/pay/{payment.payment_id}",
        )
        return web.Response(body=msgspec.json.encode(said), content_type=_JSON)


def run_sandbox(settings: Settings) -> None:
    """Run the sandbox as this process until SIGTERM or Ctrl-C.

    Raises:
        ConfigError: a setting is not as it must be.
        OperationRefusedError: the port is taken.
    """

    async def main(stopping: asyncio.Event) -> None:
        sandbox = Sandbox(settings)
        await sandbox.start()
        log.info("payment sandbox at %s", sandbox.url)
        try:
            await sandbox.run(stopping)
        finally:
            await sandbox.stop()

    run_process("payment sandbox", main)


def _check_loopback(host: str) -> None:
    try:
        inside = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        inside = False
    if not inside:
        raise ConfigError(f"sandbox.host: {host}: whoever reaches the sandbox can pay, so it listens on loopback only")


@web.middleware
async def _plain_errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer what is refused, here or by aiohttp, with a code and a message."""
    try:
        return await handler(request)
    except RefusalError as error:
        return _refusal(error.status, error.code, str(error))
    except web.HTTPClientError as error:
        return _refusal(error.status, "INVALID", error.reason)


def _refusal(status: int, code: str, message: str) -> web.Response:
    body = msgspec.json.encode(RefusalSaid(code, message[:500]))
    return web.Response(status=status, body=body, content_type=_JSON)


def _html(text: str, status: int = 200) -> web.Response:
    return web.Response(status=status, text=text, content_type="text/html", headers=page.HEADERS)


async def _live(_request: web.Request) -> web.Response:
    return web.json_response({"status": "ok"})


async def _body(request: web.Request) -> bytes:
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            return await request.read()
    except TimeoutError:
        raise RefusalError(408, "TIMEOUT", f"the body has not come within {BODY_TIMEOUT_S:.0f} s") from None


def _decoded(kind: type[T], body: bytes) -> T:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise RefusalError(400, "INVALID", str(error)) from None


def _form(body: bytes) -> Decision:
    """Return the decision in a form.

    Raises:
        RefusalError: there is none.
    """
    try:
        fields = parse_qs(body.decode("ascii"), max_num_fields=4)
        return msgspec.convert({name: values[0] for name, values in fields.items()}, Decision)
    except (ValueError, msgspec.ValidationError):
        raise RefusalError(400, "INVALID", "decision=approve or decision=decline is expected") from None

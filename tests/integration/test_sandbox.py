"""The sandbox payment provider, as our adapter sees it over HTTP: every behaviour that it can be told."""

import asyncio
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import pytest
import pytest_asyncio

from domain.errors import BackendError, ConfigError, NotRunningError, OperationRefusedError, OutcomeUnknownError
from domain.settings import Settings
from lifecycle.callback import SIGNATURE_HEADER, sign
from lifecycle.http_provider import HttpProvider
from lifecycle.payment_key import read_payment_key
from lifecycle.provider import Created, ProviderRefusedError, ProviderState
from lifecycle.provider_wire import BODY_BYTES_MAX
from sandbox import desk as sandbox_desk
from sandbox import store as sandbox_store
from sandbox.app import Sandbox
from stack.paths import PROJECT_ROOT
from stack.ports import free_port
from tests.support.provider import NOWHERE, Receiver, SandboxHandle, adapter, impatient_settings, sandbox, serving
from tests.support.shop import until_true

ORDER = "c-1~0123456789abcdef0123456789abcdef"
CENTS = 5_900
PENDING, APPROVED = ProviderState.PENDING, ProviderState.APPROVED
DECLINED, REFUNDED = ProviderState.DECLINED, ProviderState.REFUNDED


@pytest_asyncio.fixture
async def receiver() -> AsyncIterator[Receiver]:
    """Return a receiver that listens."""
    receiver = Receiver()
    async with serving(receiver.take) as url:
        receiver.url = f"{url}/callbacks"
        yield receiver


@pytest.fixture
def own_settings(tmp_path: Path) -> Settings:
    """Return settings with a key and with little patience."""
    return impatient_settings(tmp_path)


@pytest_asyncio.fixture
async def pair(own_settings: Settings, receiver: Receiver) -> AsyncIterator[tuple[HttpProvider, SandboxHandle]]:
    """Return the adapter and the sandbox that it talks to, which calls the receiver back."""
    async with sandbox(own_settings, receiver.url) as (settings, handle), adapter(settings, handle) as provider:
        receiver.key = handle.key
        yield provider, handle


Pair = tuple[HttpProvider, SandboxHandle]


async def test_ask_waits_for_the_buyer(pair: Pair, receiver: Receiver) -> None:
    """A payment waits until its buyer pays; then it is approved, one callback says so, and it stays decided."""
    provider, handle = pair
    created = await provider.create("p1", ORDER, CENTS)
    assert created == Created(PENDING, f"{handle.url}/pay/p1")
    assert await provider.find("p1", ORDER, CENTS) is PENDING
    assert await handle.pay("p1") is APPROVED
    assert await handle.pay("p1") is APPROVED
    with pytest.raises(OperationRefusedError, match="approved already"):
        await handle.decline("p1")
    await handle.told_all()
    assert await provider.find("p1", ORDER, CENTS) is APPROVED
    assert [(one.payment_id, one.state, one.amount_cents) for one in receiver.came] == [("p1", APPROVED, CENTS)]


async def test_the_buyer_declines(pair: Pair, receiver: Receiver) -> None:
    """A declined payment is not charged and cannot be paid any more."""
    provider, handle = pair
    await provider.create("p1", ORDER, CENTS)
    assert await handle.decline("p1") is DECLINED
    with pytest.raises(OperationRefusedError, match="declined already"):
        await handle.pay("p1")
    await handle.told_all()
    assert await provider.find("p1", ORDER, CENTS) is DECLINED
    assert receiver.told == [("p1", DECLINED)]
    assert handle.charged_cents() == 0


@pytest.mark.parametrize(("mode", "state"), [("approve", APPROVED), ("decline", DECLINED)])
async def test_decided_at_once(pair: Pair, receiver: Receiver, mode: str, state: ProviderState) -> None:
    """The payment is decided when it is created, and a callback follows."""
    provider, handle = pair
    await handle.tell(mode)
    assert (await provider.create("p1", ORDER, CENTS)).state is state
    await handle.told_all()
    assert receiver.told == [("p1", state)]


async def test_delay(pair: Pair, receiver: Receiver) -> None:
    """The payment is approved at once, and its callback comes only after the delay."""
    provider, handle = pair
    await handle.tell("delay", delay_s=3_600.0, payment_id="late")
    await handle.tell("delay", delay_s=0.1, payment_id="later")
    await provider.create("late", ORDER, CENTS)
    await provider.create("later", ORDER, CENTS)
    await receiver.until(1)
    assert await provider.find("late", ORDER, CENTS) is APPROVED
    assert receiver.told == [("later", APPROVED)]
    assert handle.sandbox.store.undelivered() == 1


async def test_duplicate(pair: Pair, receiver: Receiver) -> None:
    """The same event is delivered three times."""
    provider, handle = pair
    await handle.tell("duplicate")
    await provider.create("p1", ORDER, CENTS)
    await handle.told_all()
    assert receiver.told == [("p1", APPROVED)] * 3
    assert len({one.event_id for one in receiver.came}) == 1


async def test_reorder(pair: Pair, receiver: Receiver) -> None:
    """The callback about a first, declined try comes last; the payment is approved."""
    provider, handle = pair
    await handle.tell("reorder")
    receiver.answers = [503]
    await provider.create("p1", ORDER, CENTS)
    await handle.told_all()
    assert receiver.told == [("p1", APPROVED), ("p1", APPROVED), ("p1", DECLINED)]
    assert len({one.event_id for one in receiver.came}) == 2
    assert await provider.find("p1", ORDER, CENTS) is APPROVED


@pytest.mark.parametrize("callback", [False, True])
async def test_charge_then_timeout(pair: Pair, receiver: Receiver, *, callback: bool) -> None:
    """The call times out although the buyer was charged: its outcome is unknown, and asking tells."""
    provider, handle = pair
    await handle.tell("charge_then_timeout", callback=callback)
    with pytest.raises(OutcomeUnknownError):
        await provider.create("p1", ORDER, CENTS)
    assert await provider.find("p1", ORDER, CENTS) is APPROVED
    await handle.told_all()
    assert receiver.told == [("p1", APPROVED)] * callback
    with pytest.raises(OutcomeUnknownError):
        await provider.create("p1", ORDER, CENTS)
    assert handle.charged_cents() == CENTS


async def test_timeout(pair: Pair) -> None:
    """The call times out and had no effect: the payment is absent, and can be created later."""
    provider, handle = pair
    await handle.tell("timeout")
    with pytest.raises(OutcomeUnknownError):
        await provider.create("p1", ORDER, CENTS)
    assert await provider.find("p1", ORDER, CENTS) is ProviderState.ABSENT
    await handle.reset()
    assert (await provider.create("p1", ORDER, CENTS)).state is PENDING


async def test_nonsense(pair: Pair) -> None:
    """An answer that is none leaves the outcome unknown; the payment is there, and the buyer can pay it."""
    provider, handle = pair
    await handle.tell("nonsense")
    with pytest.raises(OutcomeUnknownError, match="makes no sense"):
        await provider.create("p1", ORDER, CENTS)
    assert await provider.find("p1", ORDER, CENTS) is PENDING
    await handle.reset()
    assert await provider.create("p1", ORDER, CENTS) == Created(PENDING, f"{handle.url}/pay/p1")
    assert await handle.pay("p1") is APPROVED


async def test_silent(pair: Pair, receiver: Receiver) -> None:
    """No callback is ever planned for the payment; only asking finds it."""
    provider, handle = pair
    await handle.tell("silent")
    await provider.create("p1", ORDER, CENTS)
    assert handle.sandbox.store.undelivered() == 0
    assert await provider.find("p1", ORDER, CENTS) is APPROVED
    assert receiver.told == []


async def test_told_about_one_payment_or_order(pair: Pair) -> None:
    """What is told about a payment goes before what is told about its order, and that before what is told of all."""
    provider, handle = pair
    await handle.tell("silent")
    await handle.tell("decline", order_id="o-1")
    await handle.tell("ask", payment_id="p1")
    assert (await provider.create("p1", "o-1", 1)).state is PENDING
    assert (await provider.create("p2", "o-1", 1)).state is DECLINED
    assert (await provider.create("p3", "o-2", 1)).state is APPROVED
    await handle.reset()
    assert (await provider.create("p4", "o-1", 1)).state is PENDING


async def test_told_about_a_payment_that_waits(pair: Pair, receiver: Receiver) -> None:
    """A payment that waits is decided as if it came now; one that is decided stays as it is."""
    provider, handle = pair
    for payment_id in ("p1", "p2", "p3"):
        await provider.create(payment_id, ORDER, CENTS)
    await handle.decline("p1")
    await handle.tell("approve", payment_id="p2")
    await handle.tell("approve", order_id=ORDER)
    await handle.tell("ask", order_id=ORDER)
    await handle.told_all()
    assert sorted(receiver.told) == [("p1", DECLINED), ("p2", APPROVED), ("p3", APPROVED)]
    assert {one.payment_id: one.state for one in handle.payments_of(ORDER)} == {
        "p1": DECLINED,
        "p2": APPROVED,
        "p3": APPROVED,
    }


async def test_creating_again(pair: Pair) -> None:
    """The same payment again is the same payment; for something else it is not answered as if it were."""
    provider, handle = pair
    await provider.create("p1", ORDER, CENTS)
    await handle.pay("p1")
    assert (await provider.create("p1", ORDER, CENTS)).state is APPROVED
    for order_id, cents in ((ORDER, CENTS + 1), ("other", CENTS)):
        with pytest.raises(OutcomeUnknownError):
            await provider.create("p1", order_id, cents)
    assert handle.charged_cents() == CENTS


async def test_refund(pair: Pair, receiver: Receiver) -> None:
    """The money goes back once, however often it is asked for, and only what was charged."""
    provider, handle = pair
    await provider.create("p1", ORDER, CENTS)
    with pytest.raises(ProviderRefusedError, match="NOT_CHARGED"):
        await provider.refund("p1", CENTS)
    await handle.pay("p1")
    with pytest.raises(ProviderRefusedError, match="AMOUNT"):
        await provider.refund("p1", CENTS - 1)
    assert [await provider.refund("p1", CENTS) for _ in range(3)] == [REFUNDED] * 3
    with pytest.raises(ProviderRefusedError, match="NOT_FOUND"):
        await provider.refund("p2", CENTS)
    await handle.told_all()
    assert sorted(receiver.told) == [("p1", APPROVED), ("p1", REFUNDED)]
    assert await provider.find("p1", ORDER, CENTS) is REFUNDED
    assert handle.charged_cents() == 0


async def test_callbacks_are_tried_again(pair: Pair, receiver: Receiver) -> None:
    """A callback that is not taken in comes again, the same event; a refusal for good ends it."""
    provider, handle = pair
    receiver.answers = [503, 404, 429, 302, 204]
    await handle.tell("approve")
    await provider.create("p1", ORDER, CENTS)
    await handle.told_all()
    assert len(receiver.came) == 5
    assert len({one.event_id for one in receiver.came}) == 1
    receiver.answers = [400]
    await provider.create("p2", ORDER, CENTS)
    await handle.told_all()
    assert [one.payment_id for one in receiver.came[5:]] == ["p2"]


async def test_many_callbacks(pair: Pair, receiver: Receiver) -> None:
    """Each of many payments at once is called back about."""
    provider, handle = pair
    await handle.tell("approve")
    await asyncio.gather(*(provider.create(f"p{number}", ORDER, 1) for number in range(200)))
    await handle.told_all()
    assert sorted(receiver.told) == sorted((f"p{number}", APPROVED) for number in range(200))
    assert handle.charged_cents() == 200


async def test_unsigned_calls_change_nothing(pair: Pair) -> None:
    """A call without a signature, with a stale one, with one of another key or of another call is refused."""
    _, handle = pair
    body = msgspec.json.encode({"payment_id": "p1", "order_id": ORDER, "amount_cents": CENTS})
    now_s = int(time.time())
    headers = [
        {},
        {SIGNATURE_HEADER: "t=1,v1=x"},
        {SIGNATURE_HEADER: sign(body, b"x" * 32, now_s)},
        {SIGNATURE_HEADER: sign(body, handle.key, now_s - 3_600)},
        {SIGNATURE_HEADER: sign(body.replace(b"5900", b"5901"), handle.key, now_s)},
        {SIGNATURE_HEADER: sign(b"/payments/p2", handle.key, now_s)},
    ]
    calls = [
        ("POST", "/payments", body),
        ("GET", "/payments/p1", b""),
        ("POST", "/payments/p1/refunds", body),
        ("PUT", "/behaviour", body),
        ("DELETE", "/behaviour", b""),
    ]
    async with aiohttp.ClientSession() as session:
        for header in headers:
            for method, path, sent in calls:
                async with session.request(method, handle.url + path, data=sent or None, headers=header) as answer:
                    assert (answer.status, (await answer.json())["code"]) == (401, "UNAUTHENTICATED")
    assert handle.payments() == {}


async def test_bad_bodies_are_refused(pair: Pair) -> None:
    """Signed nonsense is a 400 or 413, and changes nothing."""
    _, handle = pair
    cases = [
        ("POST", "/payments", b"", 400),
        ("POST", "/payments", b"[" * 9_000, 400),
        ("POST", "/payments", b'{"payment_id":"p/1","order_id":"o","amount_cents":1}', 400),
        ("POST", "/payments", b'{"payment_id":"p1","order_id":"o","amount_cents":-1}', 400),
        ("POST", "/payments", b'{"payment_id":"p1","order_id":"o","amount_cents":true}', 400),
        ("POST", "/payments", b" " * (BODY_BYTES_MAX + 1), 413),
        ("POST", "/payments/p1/refunds", b'{"payment_id":"p2","amount_cents":1}', 400),
        ("PUT", "/behaviour", b'{"mode":"perhaps"}', 400),
        ("PUT", "/behaviour", b'{"mode":"delay","delay_s":1e9}', 400),
        ("PUT", "/behaviour", b'{"mode":"ask","payment_id":"p1","order_id":"o"}', 400),
        ("PUT", "/payments", b"{}", 405),
        ("POST", "/nowhere", b"{}", 404),
    ]
    async with aiohttp.ClientSession() as session:
        for method, path, body, status in cases:
            async with session.request(method, handle.url + path, data=body, headers=handle.signed(body)) as answer:
                assert (answer.status, (await answer.json())["code"]) == (status, "INVALID"), body[:80]
    assert handle.payments() == {}


async def test_the_tables_are_bounded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither payments nor what is told grow without end; a full sandbox has certainly not charged."""
    provider, handle = pair
    monkeypatch.setattr(sandbox_desk, "PAYMENTS_MAX", 1)
    monkeypatch.setattr(sandbox_desk, "TOLD_MAX", 1)
    await provider.create("p1", ORDER, CENTS)
    with pytest.raises(BackendError, match="FULL") as error:
        await provider.create("p2", ORDER, CENTS)
    assert error.type is BackendError
    await handle.tell("approve", order_id="o-1")
    await handle.tell("decline", order_id="o-1")
    with pytest.raises(OperationRefusedError, match="something was told"):
        await handle.tell("decline")


async def test_the_page(pair: Pair) -> None:
    """The buyer sees the amount and two buttons; after his choice the page says what became of it."""
    provider, handle = pair
    await provider.create("p1", "<script>alert(1)</script>", 1_234_567)
    async with aiohttp.ClientSession() as session:

        async def ask(method: str, payment_id: str, **options: Any) -> tuple[int, str]:
            async with session.request(method, f"{handle.url}/pay/{payment_id}", **options) as answer:
                assert answer.content_type == "text/html" or answer.status == 400
                return answer.status, await answer.text()

        status, page = await ask("GET", "p1")
        assert (status, page.count("12,345.67"), page.count("<button"), page.count("<script")) == (200, 2, 2, 0)
        assert (await ask("POST", "p1", data={"decision": "perhaps"}))[0] == 400
        assert (await ask("POST", "p1", data=b"\xff"))[0] == 400
        status, page = await ask("POST", "p1", data={"decision": "approve"})
        assert (status, "Paid." in page, "<button" in page) == (200, True, False)
        status, page = await ask("POST", "p1", data={"decision": "decline"})
        assert (status, "decided before" in page, "Paid." in page) == (409, True, True)
        assert (await ask("GET", "none"))[0] == 404
        assert (await ask("POST", "none", data={"decision": "approve"}))[0] == 404
    assert await provider.find("p1", "<script>alert(1)</script>", 1_234_567) is APPROVED


async def test_restart_keeps_what_was_charged(own_settings: Settings, receiver: Receiver, tmp_path: Path) -> None:
    """With a file, payments, undelivered callbacks and what was told are there again after a restart."""
    database = str(tmp_path / "sandbox.db")
    async with sandbox(own_settings, database=database) as (settings, handle), adapter(settings, handle) as provider:
        await handle.tell("reorder")
        await provider.create("p1", ORDER, CENTS)
        await handle.tell("decline")
    async with (
        sandbox(settings, receiver.url, database=database) as (settings, handle),
        adapter(settings, handle) as provider,
    ):
        receiver.key = handle.key
        assert await provider.find("p1", ORDER, CENTS) is APPROVED
        await handle.told_all()
        assert receiver.told == [("p1", APPROVED), ("p1", DECLINED)]
        assert (await provider.create("p2", ORDER, CENTS)).state is DECLINED


async def test_callbacks_wait_for_the_gateway(own_settings: Settings, receiver: Receiver) -> None:
    """Callbacks that nobody took in are delivered as soon as there is a gateway."""
    async with sandbox(own_settings) as (settings, handle), adapter(settings, handle) as provider:
        receiver.key = handle.key
        await handle.tell("approve")
        await provider.create("p1", ORDER, CENTS)
        handle.callback_to(receiver.url.removesuffix("/callbacks"))
        await handle.told_all()
    assert receiver.told == [("p1", APPROVED)]


async def test_a_broken_store_ends_the_process(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the outcome of a delivery cannot be noted, the sandbox ends rather than deliver without end."""
    provider, handle = pair

    def fail(_number: int) -> None:
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(handle.sandbox.store, "done", fail)
    await handle.tell("approve")
    await provider.create("p1", ORDER, CENTS)
    with pytest.raises(ExceptionGroup) as error:
        await handle.sandbox.run(asyncio.Event())
    assert error.group_contains(sqlite3.OperationalError, match="disk full")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "169.254.1.1", "example.com", ""])  # noqa: S104
def test_other_hosts_are_refused(own_settings: Settings, host: str) -> None:
    """The sandbox listens on loopback only."""
    told = msgspec.structs.replace(own_settings.sandbox, host=host)
    with pytest.raises(ConfigError, match=r"^sandbox\.host: "):
        Sandbox(msgspec.structs.replace(own_settings, sandbox=told))


async def test_taken_port_is_explained(pair: Pair, own_settings: Settings) -> None:
    """A second sandbox on the same port says so."""
    _, handle = pair
    port = int(handle.url.rpartition(":")[2])
    with pytest.raises(OperationRefusedError, match=f"cannot listen on 127.0.0.1:{port}"):
        async with sandbox(own_settings, port=port):
            pass


async def test_database_of_another(own_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that another sandbox has open, or that is none, is refused."""
    monkeypatch.setattr(sandbox_store, "LOCK_TIMEOUT_S", 0.1)
    database, text = str(tmp_path / "sandbox.db"), tmp_path / "text"
    text.write_text("no database " * 100)
    async with sandbox(own_settings, database=database):
        for path, why in ((database, "locked"), (str(text), "not a database"), (str(tmp_path), "unable to open")):
            with pytest.raises(ConfigError, match=rf"^sandbox\.database: .*{why}"):
                async with sandbox(own_settings, database=path):
                    pass


class Process:
    """`flashgate sandbox run` as a process, and other commands of the group."""

    def __init__(self, settings: Settings, folder: Path, callback_url: str) -> None:
        self._env = {
            **{name: value for name, value in os.environ.items() if not name.startswith("FLASHGATE_")},
            "PYTHONPATH": str(PROJECT_ROOT),
            "FLASHGATE_HOME": str(folder / "home"),
            "FLASHGATE_PAYMENT_KEY_FILE": settings.payment.key_file,
            "FLASHGATE_PAYMENT_PROVIDER_URL": settings.payment.provider_url,
            "FLASHGATE_SANDBOX_PORT": settings.payment.provider_url.rpartition(":")[2],
            "FLASHGATE_SANDBOX_CALLBACK_URL": callback_url,
            "FLASHGATE_SANDBOX_DATABASE": str(folder / "sandbox.db"),
        }
        self._live = f"{settings.payment.provider_url}/livez"

    async def start(self, *args: str) -> asyncio.subprocess.Process:
        """Start a command of the group."""
        pipe = asyncio.subprocess.PIPE
        return await asyncio.create_subprocess_exec(
            sys.executable, "-m", "cli", "sandbox", *args, env=self._env, cwd=PROJECT_ROOT, stdout=pipe, stderr=pipe
        )

    async def serve(self) -> asyncio.subprocess.Process:
        """Start the provider and wait until it serves."""
        process = await self.start("run")
        await until_true(self._is_live)
        return process

    async def _is_live(self) -> bool:
        async with aiohttp.ClientSession() as session:
            try:
                async with session.get(self._live) as answer:
                    return answer.status == 200
            except aiohttp.ClientConnectorError:
                return False

    async def ask(self, *args: str) -> tuple[int | None, str]:
        """Run a command; returns its exit code and what it printed."""
        process = await self.start(*args)
        out, err = await process.communicate()
        return process.returncode, (out + err).decode()


async def test_killed_and_started_again(own_settings: Settings, receiver: Receiver, tmp_path: Path) -> None:
    """A sandbox that is killed after it charged knows the payment when it comes back, and its callback arrives."""
    url = f"http://127.0.0.1:{free_port()}"
    payment = msgspec.structs.replace(own_settings.payment, provider_url=url, timeout_s=10.0)
    settings = msgspec.structs.replace(own_settings, payment=payment)
    receiver.key = read_payment_key(settings)
    provider = HttpProvider(payment, receiver.key)
    alone = Process(settings, tmp_path, NOWHERE)
    serving_one = await alone.serve()
    try:
        assert await alone.ask("tell", "decline", "--order", "o-1") == (0, "")
        assert (await provider.create("p1", ORDER, CENTS)).state is PENDING
        assert await alone.ask("pay", "p1") == (0, "p1 is approved\n")
        assert (await alone.ask("pay", "p1", "--decline"))[0] == 1
    finally:
        serving_one.send_signal(signal.SIGKILL)
        await serving_one.communicate()
    assert (await alone.ask("pay", "p1"))[1] == f"flashgate: no payment sandbox is running at {url}\n"
    heard = Process(settings, tmp_path, receiver.url)
    serving_two = await heard.serve()
    try:
        await receiver.until(1)
        assert receiver.told == [("p1", APPROVED)]
        assert await provider.find("p1", ORDER, CENTS) is APPROVED
        assert (await provider.create("p2", "o-1", CENTS)).state is DECLINED
        await provider.close()
    finally:
        serving_two.send_signal(signal.SIGTERM)
        out, err = await serving_two.communicate()
    assert (serving_two.returncode, out, b"Traceback" in err) == (0, b"", False)


async def test_no_sandbox_is_running(own_settings: Settings) -> None:
    """Telling and paying where no sandbox is says so."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        async with sandbox(own_settings) as (_, handle):
            handle.sandbox.url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            with pytest.raises(NotRunningError):
                await handle.pay("p1")
            with pytest.raises(NotRunningError):
                await handle.reset()

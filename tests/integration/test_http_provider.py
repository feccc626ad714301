"""Our adapter to a payment provider: which answers are believed, and what is known when there is none."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web

from domain.errors import BackendError, ConfigError, FlashgateError, OutcomeUnknownError
from domain.settings import Settings
from lifecycle.http_provider import HttpProvider
from lifecycle.provider import ProviderRefusedError, ProviderState
from lifecycle.provider_wire import BODY_BYTES_MAX
from tests.support.provider import NOWHERE, adapter, impatient_settings, sandbox, serving
from tests.support.shop import until_true

ORDER = "c-1~0123456789abcdef0123456789abcdef"
CENTS = 5_900
APPROVED = ProviderState.APPROVED


@pytest.fixture
def own_settings(tmp_path: Path) -> Settings:
    """Return settings with a key and with little patience."""
    return impatient_settings(tmp_path)


def payment_said(**changes: Any) -> bytes:
    """Return the body of a good answer, with changes."""
    said: dict[str, Any] = {"payment_id": "p1", "order_id": ORDER, "amount_cents": CENTS, "state": "pending"}
    return msgspec.json.encode({**said, "pay_url": "https://pay.example/p1", **changes})


def refusal(code: str) -> bytes:
    """Return the body of a refusal."""
    return msgspec.json.encode({"code": code, "message": "no"})


@contextlib.asynccontextmanager
async def facing(settings: Settings, status: int, body: bytes) -> AsyncIterator[HttpProvider]:
    """Yield an adapter whose provider always answers this."""

    async def answer(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        return web.Response(status=status, body=body, headers={"Location": "/elsewhere"})

    async with serving(answer) as url:
        provider = HttpProvider(msgspec.structs.replace(settings.payment, provider_url=url), b"k" * 32)
        yield provider
        await provider.close()


NONSENSE = {
    "nothing": (200, b""),
    "no JSON": (200, b"<html>OK</html>"),
    "not UTF-8": (200, b'{"payment_id":"\xff"}'),
    "deep": (200, b"[" * 10_000),
    "a list": (200, b"[1]"),
    "another payment": (200, payment_said(payment_id="p2")),
    "another order": (200, payment_said(order_id="o")),
    "another amount": (200, payment_said(amount_cents=CENTS + 1)),
    "amount as text": (200, payment_said(amount_cents=str(CENTS))),
    "unknown state": (200, payment_said(state="perhaps")),
    "absent": (200, payment_said(state="absent")),
    "script as pay_url": (200, payment_said(pay_url="javascript:alert(1)")),
    "pay_url too long": (200, payment_said(pay_url="https://pay.example/" + "x" * 500)),
    "pay_url with a newline": (200, payment_said(pay_url="https://pay.example/\n")),
    "redirect": (302, payment_said()),
    "server error": (500, refusal("DOWN")),
    "gave up waiting": (408, refusal("TIMEOUT")),
    "refusal without a code": (404, b"<h1>Not Found</h1>"),
    "conflict": (409, refusal("CONFLICT")),
}


@pytest.mark.parametrize("what", NONSENSE)
async def test_answers_that_make_no_sense(own_settings: Settings, what: str) -> None:
    """Whatever is neither the payment nor a refusal leaves the outcome of the call unknown."""
    async with facing(own_settings, *NONSENSE[what]) as provider:
        with pytest.raises(OutcomeUnknownError):
            await provider.create("p1", ORDER, CENTS)


@pytest.mark.parametrize("what", ["another payment", "another order", "another amount", "unknown state", "no JSON"])
async def test_found_payments_that_make_no_sense(own_settings: Settings, what: str) -> None:
    """What the provider says when it is asked counts only for the payment, order and amount that were asked for."""
    async with facing(own_settings, *NONSENSE[what]) as provider:
        with pytest.raises(OutcomeUnknownError):
            await provider.find("p1", ORDER, CENTS)


async def test_answers_that_are_too_long(own_settings: Settings) -> None:
    """An answer is not read past its bound. Guards: the bound of the provider's answers."""
    async with facing(own_settings, 200, payment_said(more="x" * BODY_BYTES_MAX)) as provider:
        with pytest.raises(OutcomeUnknownError, match="of more than"):
            await provider.create("p1", ORDER, CENTS)


async def test_absent_is_said_by_the_provider_only(own_settings: Settings) -> None:
    """A 404 counts as absent with the provider's own code, not when some other server has no such page."""
    async with facing(own_settings, 404, refusal("NOT_FOUND")) as provider:
        assert await provider.find("p1", ORDER, CENTS) is ProviderState.ABSENT
    async with facing(own_settings, 404, b"no such page") as provider:
        with pytest.raises(OutcomeUnknownError):
            await provider.find("p1", ORDER, CENTS)
    async with facing(own_settings, 404, refusal("INVALID")) as provider:
        with pytest.raises(ProviderRefusedError):
            await provider.find("p1", ORDER, CENTS)


async def test_a_refund_that_makes_no_sense(own_settings: Settings) -> None:
    """A refund is done when the provider says so of this payment and this amount."""
    async with facing(own_settings, 200, payment_said(state="approved")) as provider:
        assert await provider.refund("p1", CENTS) is APPROVED
        for payment_id, cents in (("p2", CENTS), ("p1", CENTS + 1)):
            with pytest.raises(OutcomeUnknownError):
                await provider.refund(payment_id, cents)
    async with facing(own_settings, 200, payment_said(state="declined")) as provider:
        with pytest.raises(OutcomeUnknownError):
            await provider.refund("p1", CENTS)


@pytest.mark.parametrize("status", [401, 403, 429])
async def test_refusals_that_are_about_us(own_settings: Settings, status: int) -> None:
    """A wrong key or too many requests say nothing of the payment: it had no effect and may work later."""
    async with facing(own_settings, status, refusal("NOT_NOW")) as provider:
        for call in (
            provider.create("p1", ORDER, CENTS),
            provider.find("p1", ORDER, CENTS),
            provider.refund("p1", CENTS),
        ):
            with pytest.raises(BackendError, match="NOT_NOW") as error:
                await call
            assert error.type is BackendError


async def test_refusals_that_are_for_good(own_settings: Settings) -> None:
    """Another refusal is for good, and not worth trying again."""
    async with facing(own_settings, 422, refusal("CARD")) as provider:
        for call in (
            provider.create("p1", ORDER, CENTS),
            provider.find("p1", ORDER, CENTS),
            provider.refund("p1", CENTS),
        ):
            with pytest.raises(ProviderRefusedError, match="CARD: no") as error:
                await call
            assert not error.value.retryable


async def failure_of(call: Awaitable[object]) -> type[Exception] | None:
    """Return what a call raises."""
    try:
        await call
    except FlashgateError as error:
        return type(error)
    return None


async def test_lost_answers_are_unknown(own_settings: Settings) -> None:
    """A call that charged and was not answered in time is not taken for refused.

    Guards: what was sent and not answered has an unknown outcome.
    """
    async with sandbox(own_settings) as (settings, handle), adapter(settings, handle) as provider:
        await handle.tell("charge_then_timeout")
        assert await failure_of(provider.create("p1", ORDER, CENTS)) is OutcomeUnknownError
        assert await provider.find("p1", ORDER, CENTS) is APPROVED


async def test_connection_refused_and_lost(own_settings: Settings) -> None:
    """A call that could not be sent had no effect; one whose connection was lost after it may have had one."""
    nowhere = msgspec.structs.replace(own_settings.payment, provider_url=NOWHERE)
    provider = HttpProvider(nowhere, b"k" * 32)
    assert await failure_of(provider.create("p1", ORDER, CENTS)) is BackendError
    await provider.close()

    async def cut(request: web.BaseRequest) -> web.StreamResponse:
        await request.read()
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    async with serving(cut) as url:
        provider = HttpProvider(msgspec.structs.replace(own_settings.payment, provider_url=url), b"k" * 32)
        for call in (
            provider.create("p1", ORDER, CENTS),
            provider.refund("p1", CENTS),
            provider.find("p1", ORDER, CENTS),
        ):
            assert await failure_of(call) is OutcomeUnknownError
        await provider.close()


async def test_calls_under_way_are_bounded(own_settings: Settings) -> None:
    """Past the bound a call is not made at all, and says so at once. Guards: the bound of calls under way."""
    bounded = msgspec.structs.replace(
        own_settings, payment=msgspec.structs.replace(own_settings.payment, inflight_max=2)
    )
    async with sandbox(bounded) as (settings, handle), adapter(settings, handle) as provider:
        await handle.tell("charge_then_timeout")  # a call of its own, not bounded
        slow = [asyncio.create_task(provider.create(f"p{number}", ORDER, CENTS)) for number in range(2)]
        await until_true(lambda: asyncio.sleep(0, len(handle.payments()) == 2))
        assert await failure_of(provider.find("p0", ORDER, CENTS)) is BackendError
        for task in slow:
            assert await failure_of(task) is OutcomeUnknownError
        assert await provider.find("p0", ORDER, CENTS) is APPROVED


@pytest.mark.parametrize("url", ["", "127.0.0.1:8090", "ftp://x", "http://", "http://[", "http://x?q=1"])
def test_provider_url_is_checked(own_settings: Settings, url: str) -> None:
    """What is no URL of HTTP is refused before anything is sent."""
    with pytest.raises(ConfigError, match=r"payment\.provider_url"):
        HttpProvider(msgspec.structs.replace(own_settings.payment, provider_url=url), b"k" * 32)

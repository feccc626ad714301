"""The calls about orders after the sale, byte by byte: both lanes lend them to aiohttp, framed as everything is.

There is no MySQL here: what gets as far as that is answered UNKNOWN or BUSY.
"""

import time
from collections.abc import Sequence
from typing import Final

import pytest

from domain.settings import Settings
from lifecycle.callback import sign
from lifecycle.payment_key import read_payment_key
from tests.support.gate import LIVEZ, Gate, open_gate
from tests.support.wire import PROBLEM_JSON, chunked

CHANGES: Final = ("cancel", "payment")
AWAY: Final = {"cancel": "UNKNOWN", "payment": "BUSY"}
CALLBACK: Final = b'{"event_id":"e","payment_id":"p-1","state":"approved","amount_cents":1}'
CHUNKED: Final = ("Transfer-Encoding", "chunked")


def change(gate: Gate, call: str, body: bytes = b"", *more: tuple[str, str], user: str = "ann") -> bytes:
    """Return a call about an order that nobody has."""
    headers = [
        ("Authorization", f"Bearer {gate.token(user)}"),
        ("Idempotency-Key", "k"),
        *more,
        *([] if CHUNKED in more else [("Content-Length", str(len(body)))]),
    ]
    return head_of("POST", f"/v1/orders/{gate.sale.id}~{'0' * 32}/{call}", headers) + body


def callback(gate: Gate, body: bytes = CALLBACK, *more: tuple[str, str], at_s: float = 0.0) -> bytes:
    """Return a signed callback; one with `Transfer-Encoding` has its body to be sent apart."""
    signed = sign(body, read_payment_key(gate.worker.settings), round(at_s or time.time()))
    headers = [("X-Signature", signed), *more]
    if CHUNKED in more:
        return head_of("POST", "/v1/webhooks/payment", headers) + chunked([body[:10], body[10:]])
    return head_of("POST", "/v1/webhooks/payment", [*headers, ("Content-Length", str(len(body)))]) + body


def head_of(method: str, path: str, headers: Sequence[tuple[str, str]]) -> bytes:
    """Return the head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: shop", *(f"{name}: {value}" for name, value in headers), "\r\n"]
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize("call", CHANGES)
async def test_changes_in_a_row(plain: Settings, lane: str, call: str) -> None:
    """Calls that change orders share a connection with all others; each is answered in its turn."""
    async with open_gate(plain, lane) as gate:
        async with gate.wire() as wire:
            await wire.send(gate.order() + change(gate, call) + LIVEZ + change(gate, call, b"{}") + gate.order())
            said = await wire.replies(5)
            assert [reply.code for reply in said] == ["202", AWAY[call], "200", AWAY[call], "202"]
            assert {said[place].header("Retry-After") for place in (1, 3)} == {"1"}
            assert said[4].header("Idempotent-Replayed") == "true"
            await wire.finish()
        await gate.assert_sound()


@pytest.mark.parametrize("call", CHANGES)
async def test_bodies_of_changes(plain: Settings, lane: str, call: str) -> None:
    """An empty body or an object is ignored, however it comes; anything else, too much or compressed is refused."""
    async with open_gate(plain, lane, body_bytes_max=256) as gate:
        for body, code in ((b"", AWAY[call]), (b" ", AWAY[call]), (b'{"a":1}', AWAY[call]), (b"[]", "INVALID")):
            async with gate.wire() as wire:
                assert (await wire.ask(change(gate, call, body))).code == code
                await wire.finish()
            async with gate.wire() as wire:
                in_chunks = change(gate, call, chunked([body] if body else []), CHUNKED)
                await wire.send(in_chunks)
                assert (await wire.last_reply()).code == code
        for large in (
            change(gate, call, b" " * 257),
            change(gate, call, chunked([b" " * 100] * 3), CHUNKED),
            change(gate, call, b" " * 257).partition(b"\r\n\r\n")[0] + b"\r\n\r\n",
        ):
            async with gate.wire() as wire:
                await wire.send(large)
                assert (await wire.last_reply()).status == 413
        async with gate.wire() as wire:
            reply = await wire.ask(change(gate, call, b"{}", ("Content-Encoding", "gzip")))
            assert (reply.status, reply.code) == (400, "INVALID")
            await wire.finish()
        await gate.assert_sound()


async def test_callbacks(plain: Settings, lane: str) -> None:
    """A callback with a good signature gets as far as MySQL; an unsigned, stale or altered one does not."""
    async with open_gate(plain, lane) as gate:
        good = callback(gate)
        unsigned = head_of("POST", "/v1/webhooks/payment", [("Content-Length", str(len(CALLBACK)))]) + CALLBACK
        cases = [
            (good, 503, "UNKNOWN"),
            (unsigned, 401, "UNAUTHENTICATED"),
            (callback(gate, at_s=time.time() - 302), 401, "UNAUTHENTICATED"),
            (good.replace(b'"amount_cents":1', b'"amount_cents":2'), 401, "UNAUTHENTICATED"),
            (callback(gate, b"{}"), 400, "INVALID"),
            (callback(gate, CALLBACK, ("Content-Encoding", "gzip")), 400, "INVALID"),
        ]
        async with gate.wire() as wire:
            for request, status, code in cases:
                reply = await wire.ask(request)
                assert (reply.status, reply.code) == (status, code)
                assert reply.header("Content-Type") == PROBLEM_JSON
            await wire.finish()
        async with gate.wire() as wire:
            await wire.send(callback(gate, CALLBACK, CHUNKED))
            assert (await wire.last_reply()).code == "UNKNOWN"
        await gate.assert_sound()


async def test_streams_that_do_not_begin(plain: Settings, lane: str) -> None:
    """Without a token, or where nothing can be told, a stream is a usual answer, and the connection goes on."""
    async with open_gate(plain, lane) as gate:
        path = f"/v1/orders/{gate.sale.id}~{'0' * 32}/events"
        token = ("Authorization", f"Bearer {gate.token('ann')}")
        async with gate.wire() as wire:
            nobody = await wire.ask(head_of("GET", path, []))
            assert (nobody.status, nobody.header("WWW-Authenticate")) == (401, "Bearer")
            away = await wire.ask(head_of("GET", path, [token, ("Last-Event-ID", "1")]))
            assert (away.status, away.code, away.header("Retry-After")) == (503, "UNKNOWN", "1")
            assert (await wire.ask(head_of("GET", "/v1/orders/x/events", [token]))).status == 404
            wrong = await wire.ask(head_of("POST", path, [token, ("Content-Length", "0")]))
            assert (wrong.status, wrong.header("Allow")) == (405, "GET")
            head = await wire.ask(head_of("HEAD", path, [token]), head_only=True)
            assert (head.status, head.header("Allow")) == (405, "GET")
            await wire.finish()
        assert gate.worker.streams.listeners == 0
        await gate.assert_sound()

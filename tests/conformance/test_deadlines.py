"""Slow, silent and too many connections (fault 39): each ends within its deadline, and nobody else waits for it."""

import asyncio
import contextlib
import resource
import socket
from typing import Any, Final

import pytest

from domain.settings import Settings
from tests.support.gate import LIVEZ, Gate, Headers, open_gate
from tests.support.wire import PROBLEM_JSON, Wire, chunked, connect, soon

SOON: Final[dict[str, Any]] = {
    "header_timeout_s": 0.3,
    "body_timeout_s": 0.3,
    "keepalive_timeout_s": 0.3,
    "send_timeout_s": 0.3,
}
CHUNKED: Final[Headers] = (("Transfer-Encoding", "chunked"),)
DRIP_S: Final = 0.05
CROWD: Final = 5_000
BATCH: Final = 500
FILES: Final = 2 * CROWD + 500
UNREAD_BYTES: Final = 4_096
DOCS: Final = b"GET /openapi.json HTTP/1.1\r\nHost: shop\r\n\r\n"


def unfinished(gate: Gate) -> dict[str, bytes]:
    """Return requests that lack something, by what it is."""
    order, half = gate.order(), gate.body()[:20]
    return {
        "line": b"POST /v1/or",
        "head": order[:100],
        "end of the head": order.partition(b"\r\n\r\n")[0] + b"\r\n",
        "body": order[:-1],
        "whole body": order[: -len(gate.body())],
        "body of another": b"PUT /v1/orders HTTP/1.1\r\nHost: shop\r\nContent-Length: 5\r\n\r\nxx",
        "chunk": gate.head(headers=CHUNKED) + b"%x\r\n" % len(gate.body()) + half,
        "all chunks": gate.head(headers=CHUNKED),
        "last chunk": gate.head(headers=CHUNKED) + chunked([gate.body()])[:-5],
        "expected body": gate.head(headers=(("Content-Length", "9"), ("Expect", "100-continue"))),
    }


@pytest.mark.parametrize(
    "lacks",
    [
        "line",
        "head",
        "end of the head",
        "body",
        "whole body",
        "body of another",
        "chunk",
        "all chunks",
        "last chunk",
        "expected body",
    ],
)
async def test_what_does_not_arrive_is_answered(plain: Settings, lane: str, lacks: str) -> None:
    """Fault 39: a head, or a body, that does not arrive in time gets 400; meanwhile others are served.

    Guards the deadlines of heads and bodies.
    """
    async with open_gate(plain, lane, **SOON) as gate:
        async with gate.wire() as wire:
            await wire.send(unfinished(gate)[lacks])
            await gate.assert_sound()
            if lacks == "expected body":
                assert await wire.interim() == b"HTTP/1.1 100 Continue"
            reply = await wire.last_reply()
        assert (reply.status, reply.code) == (400, "INVALID")
        assert reply.header("Content-Type") == PROBLEM_JSON
        assert await gate.taken() == 1
        await gate.assert_sound()


@pytest.mark.parametrize("lacks", ["head", "body"])
async def test_dripping_does_not_help(plain: Settings, lane: str, lacks: str) -> None:
    """A deadline counts from the beginning, not from the last byte that came."""
    async with open_gate(plain, lane, **SOON) as gate:
        async with gate.wire() as wire:
            await wire.send(gate.order()[:50] if lacks == "head" else gate.head(headers=(("Content-Length", "9999"),)))
            answer = asyncio.create_task(wire.last_reply())
            with contextlib.suppress(AssertionError):  # it ends meanwhile
                while not answer.done():
                    await wire.send(b"x")
                    await asyncio.sleep(DRIP_S)
            assert (await answer).status == 400
        assert await gate.taken() == 0


@pytest.mark.parametrize("first", ["nothing", "hot", "cold", "empty lines"])
async def test_idle_connections_end_silently(plain: Settings, lane: str, first: str) -> None:
    """A connection without a request ends after `keepalive_timeout_s`, and nothing is sent on it."""
    async with open_gate(plain, lane, **SOON) as gate:
        async with gate.wire() as wire:
            if first in {"hot", "cold"}:
                await wire.ask(gate.page() if first == "hot" else LIVEZ)
            elif first == "empty lines":
                await wire.send(b"\r\n", b"\r", b"\n")
            await wire.assert_ends()
        await gate.assert_sound()


async def fill(wire: Wire, request: bytes) -> None:
    """Ask without ever reading, until the server takes nothing more in."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while True:
                await wire.send(request * 10)


@pytest.mark.parametrize("request_", ["hot", "cold"])
async def test_unread_answers_end_the_connection(plain: Settings, lane: str, request_: str) -> None:
    """A buyer who does not read his answers is cut off, and the worker stops taking his requests in before that."""
    async with open_gate(plain, lane, **SOON) as gate:
        async with gate.wire(receive_bytes=UNREAD_BYTES) as wire:
            with contextlib.suppress(AssertionError):  # it ends meanwhile
                await fill(wire, gate.page() if request_ == "hot" else DOCS)
            await gate.assert_sound()
            await ended(gate)
            await wire.assert_cut()
        await gate.assert_sound()


@pytest.mark.parametrize("closes", [True, False])
async def test_a_last_answer_that_is_not_read(plain: Settings, lane: str, closes: bool) -> None:
    """Neither a connection that is being closed, nor an idle one, is kept for answers that nobody reads."""
    async with open_gate(plain, lane, **SOON) as gate:
        async with gate.wire(receive_bytes=UNREAD_BYTES) as wire:
            await wire.ask(LIVEZ)
            transport = next(iter(gate.worker.door._connections))._transport
            assert transport is not None
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, UNREAD_BYTES)
            page = gate.page()
            for _ in range(200):
                await wire.send(page)
                if transport.get_write_buffer_size():
                    break
            assert transport.get_write_buffer_size()
            if closes:
                await wire.send(page[:-2] + b"Connection: close\r\n\r\n")
            await ended(gate)
            await wire.assert_cut()
        await gate.assert_sound()


async def ended(gate: Gate) -> None:
    """Wait until no connection is left."""

    async def none_left() -> None:
        while gate.worker.door.open_connections:  # noqa: ASYNC110 -- nobody tells
            await asyncio.sleep(0.02)

    await soon(none_left(), "a connection was not ended")


async def test_one_connection_too_many(plain: Settings, lane: str) -> None:
    """Fault 39: past `connections_max` a connection gets 503 BUSY and is closed; when one leaves, the next is let in.

    Guards the bound on connections.
    """
    async with open_gate(plain, lane, connections_max=3) as gate, contextlib.AsyncExitStack() as inside:
        wires = [await inside.enter_async_context(gate.wire()) for _ in range(3)]
        for wire in wires:
            assert (await wire.ask(LIVEZ)).status == 200
        for request in (b"", gate.order("eve")):
            async with gate.wire() as wire:
                await wire.send(request)
                reply = await wire.reply()
                assert (reply.status, reply.code, reply.closes) == (503, "BUSY", True)
                assert reply.header("Retry-After") == "1"
                await wire.assert_cut()
        assert (await wires[0].ask(gate.order("ann"))).status == 202
        await wires[1].finish()
        async with gate.wire() as wire:
            assert (await wire.ask(gate.order("ben"))).status == 202
            await wire.finish()
        assert await gate.taken() == 2


@pytest.fixture
def many_files() -> None:
    """Allow as many open files as the crowd needs: both ends of each connection are in this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < FILES:
        if hard != resource.RLIM_INFINITY and hard < FILES:
            pytest.skip(f"needs {FILES} open files, {hard} are allowed")
        resource.setrlimit(resource.RLIMIT_NOFILE, (FILES, hard))


@pytest.mark.usefixtures("many_files")
async def test_five_thousand_slow_connections(plain: Settings, lane: str) -> None:
    """Fault 39: while 5,000 connections drip their heads, orders are answered; then each slow one is told 400."""
    slow: dict[str, Any] = {"connections_max": CROWD + 10, "header_timeout_s": 60.0}
    async with open_gate(plain, lane, **slow) as gate, contextlib.AsyncExitStack() as inside:
        crowd: list[socket.socket] = []
        for _ in range(CROWD // BATCH):
            some = await asyncio.gather(*(connect(gate.port) for _ in range(BATCH)))
            for sock in some:
                inside.callback(sock.close)
                sock.send(gate.order("eve")[:40])
            crowd += some
            await gate.assert_sound()
        assert gate.worker.door.open_connections == CROWD
        for sock in crowd:
            sock.send(b"x")
        await gate.assert_sound()
        for connection in list(gate.worker.door._connections):
            connection.check_deadline(gate.worker.door.now_s + 61.0)
        for sock in crowd[:: CROWD // 20]:
            assert (await Wire(sock).last_reply()).status == 400
        await gate.assert_sound()

"""A worker that is told to stop: what it has taken in is answered, and it does not wait for ever."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from domain.settings import Settings
from gateway.fast_lane import Connection
from tests.support.gate import LIVEZ, Gate, open_gate
from tests.support.wire import Wire, chunked, connect, soon


@contextlib.asynccontextmanager
async def stopping(gate: Gate) -> AsyncIterator[None]:
    """Tell the worker to stop; at the end it must have done so."""
    stop = asyncio.create_task(gate.stop())
    await soon(_draining(gate), "it does not stop")
    yield
    await soon(stop, "it is not done")
    assert gate.worker.door.open_connections == 0


async def _draining(gate: Gate) -> None:
    while not gate.worker.door.draining:  # noqa: ASYNC110 -- it tells nobody
        await asyncio.sleep(0)


async def test_orders_that_were_taken_in_are_answered(plain: Settings, lane: str) -> None:
    """Orders that wait for their decision get it, each connection's last answer says `close`, and all are placed."""
    async with open_gate(plain, lane) as gate:
        asked, go_on = gate.hold_decisions()
        async with gate.wire() as one, gate.wire() as two:
            await one.send(gate.order("ann"))
            await two.send(gate.order("ben"))
            await soon(asked.wait(), "no order was taken in")
            async with stopping(gate):
                go_on.set()
                for wire in (one, two):
                    assert (await wire.last_reply()).status == 202
        assert await gate.taken() == 2


@pytest.mark.parametrize("how", ["fixed", "chunked", "head", "cold"])
async def test_requests_that_have_begun_are_answered(plain: Settings, lane: str, how: str) -> None:
    """A request of which a part has come may come to its end, and its answer is the connection's last."""
    async with open_gate(plain, lane) as gate:
        whole, cut = {
            "fixed": (gate.order(), -10),
            "chunked": (gate.head(headers=(("Transfer-Encoding", "chunked"),)) + chunked([gate.body()]), -10),
            "head": (gate.order(), 30),
            "cold": (LIVEZ, 10),
        }[how]
        async with gate.wire() as wire:
            await wire.send(whole[:cut])
            async with stopping(gate):
                await wire.send(whole[cut:])
                assert (await wire.last_reply()).status == (200 if how == "cold" else 202)
        assert await gate.taken() == (0 if how == "cold" else 1)


@pytest.mark.parametrize("asks", [True, False])
async def test_idle_connections(plain: Settings, lane: str, asks: bool) -> None:
    """An idle connection ends, but not at once: a request that was on its way is answered, as the last one."""
    async with open_gate(plain, lane) as gate:
        async with gate.wire() as wire:
            assert (await wire.ask(LIVEZ)).closes is False
            door = gate.worker.door
            for connection in door._connections:
                assert isinstance(connection, Connection)
                connection._since_s -= gate.worker.settings.gateway.linger_s  # it has been idle for long
            async with stopping(gate):
                for connection in list(door._connections):
                    connection.check_deadline(door.now_s)
                if asks:
                    await wire.send(gate.order())
                    assert (await wire.last_reply()).status == 202
                else:
                    await wire.assert_ends()
        assert await gate.taken() == (1 if asks else 0)


@pytest.mark.parametrize("stuck", ["head", "body", "chunks", "unread"])
async def test_nobody_keeps_a_worker_from_stopping(plain: Settings, lane: str, stuck: str) -> None:
    """With a client that never goes on the worker is done after `drain_timeout_s`, and has cut it off."""
    async with open_gate(plain, lane, drain_timeout_s=0.3, body_timeout_s=3_600.0, header_timeout_s=3_600.0) as gate:
        begun = {
            "head": gate.order()[:40],
            "body": gate.order()[:-1],
            "chunks": gate.head(headers=(("Transfer-Encoding", "chunked"),)),
            "unread": b"",
        }[stuck]
        async with gate.wire(receive_bytes=4_096) as wire:
            await wire.send(begun)
            if stuck == "unread":
                await _leave_unread(gate, wire)
            async with stopping(gate):
                pass
            await wire.assert_cut()
        assert await gate.taken() == 0


async def _leave_unread(gate: Gate, wire: Wire) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0.2):
            while True:
                await wire.send(gate.page() * 10)


async def test_nothing_new_is_let_in(plain: Settings, lane: str) -> None:
    """A worker that stops accepts no connection."""
    async with open_gate(plain, lane) as gate, stopping(gate):
        with pytest.raises(ConnectionRefusedError):
            await connect(gate.port)

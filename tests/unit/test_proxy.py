"""The proxy for tests of faults does what its rules say, wherever chunks begin and end."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from stack.proxy import Direction, Proxy
from tests.support.waiting import in_time


class Echo:
    """A server that answers each line with `ok <line>`, and remembers the lines."""

    def __init__(self) -> None:
        self.lines: list[bytes] = []
        self.port = 0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer lines until the client leaves."""
        with contextlib.suppress(OSError):
            while line := await reader.readline():
                self.lines.append(line)
                writer.write(b"ok " + line)
        writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    """Return a running echo server."""
    server = Echo()
    listening = await asyncio.start_server(server.serve, "127.0.0.1", 0)
    server.port = listening.sockets[0].getsockname()[1]
    yield server
    listening.close()


@pytest.fixture
async def proxy(echo: Echo) -> AsyncIterator[Proxy]:
    """Return a proxy before it."""
    async with Proxy("127.0.0.1", echo.port) as running:
        yield running


class Client:
    """One connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, proxy: Proxy) -> "Client":
        """Connect through the proxy."""
        return cls(*await asyncio.open_connection(proxy.host, proxy.port))

    async def ask(self, line: bytes) -> bytes:
        """Send a line and return the answer, b"" if the connection ended."""
        self.writer.write(line + b"\n")
        return await self.reader.readline()

    def close(self) -> None:
        """Close this side."""
        self.writer.close()


async def test_without_rules_everything_passes(proxy: Proxy) -> None:
    """Without rules the proxy is not noticed."""
    client = await Client.connect(proxy)
    assert await client.ask(b"hello") == b"ok hello\n"
    client.close()


async def test_matches_are_counted_across_chunks(proxy: Proxy) -> None:
    """A pattern that arrives byte by byte counts once, and its other occurrences count too."""
    seen = proxy.count(b"EVALSHA")
    answers = proxy.count(b"ok ", Direction.TO_CLIENT)
    client = await Client.connect(proxy)
    for byte in b"EVALSHA EVALSHAEVALSHA\n":
        client.writer.write(bytes([byte]))
        await client.writer.drain()
        await asyncio.sleep(0)
    assert await client.reader.readline() == b"ok EVALSHA EVALSHAEVALSHA\n"
    assert (seen.seen, answers.seen) == (3, 1)
    client.close()


async def test_a_lost_reply_is_lost_after_the_server_acted(proxy: Proxy, echo: Echo) -> None:
    """cut_reply: the request arrives, its answer does not, both sides are closed; the next connection is whole."""
    lost = proxy.cut_reply(b"COMMIT")
    client = await Client.connect(proxy)
    assert await client.ask(b"BEGIN") == b"ok BEGIN\n"
    assert await client.ask(b"COMMIT") == b""
    assert echo.lines == [b"BEGIN\n", b"COMMIT\n"]
    assert lost.fired == 1
    client.close()
    again = await Client.connect(proxy)
    assert await again.ask(b"COMMIT") == b"ok COMMIT\n"
    assert (lost.seen, lost.fired) == (2, 1)
    again.close()


async def test_a_cut_request_does_not_arrive(proxy: Proxy, echo: Echo) -> None:
    """cut: the server never sees the request."""
    rule = proxy.cut(b"SECRET")
    client = await Client.connect(proxy)
    assert await client.ask(b"a SECRET") == b""
    assert (echo.lines, rule.fired) == ([], 1)
    client.close()


async def test_a_truncated_reply_ends_early(proxy: Proxy) -> None:
    """truncate_reply: exactly the first bytes of the answer arrive."""
    proxy.truncate_reply(b"GET", 4)
    client = await Client.connect(proxy)
    assert await client.ask(b"GET") == b"ok G"
    client.close()


async def test_a_held_reply_waits_for_its_release(proxy: Proxy, echo: Echo) -> None:
    """hold_reply: the server has acted, the answer comes when it is released."""
    rule = proxy.hold_reply(b"SLOW")
    client = await Client.connect(proxy)
    asking = asyncio.create_task(client.ask(b"SLOW"))
    await rule.wait_fired()
    assert (echo.lines, asking.done()) == ([b"SLOW\n"], False)
    rule.release()
    assert await asking == b"ok SLOW\n"
    client.close()


async def test_a_held_request_comes_late(proxy: Proxy, echo: Echo) -> None:
    """hold: the server acts when the request is released, though whoever sent it has left by then; once."""
    rule = proxy.hold(b"SLOW")
    client = await Client.connect(proxy)
    client.writer.write(b"SLOW\n")
    await rule.wait_fired()
    client.close()
    other = await Client.connect(proxy)
    assert await other.ask(b"SLOW too") == b"ok SLOW too\n"
    assert echo.lines == [b"SLOW too\n"]
    rule.release()

    async def has_come() -> bool:
        return b"SLOW\n" in echo.lines

    await in_time(has_come, "the held request did not come")
    other.close()


async def test_down_closes_and_refuses_until_up(proxy: Proxy) -> None:
    """down: open connections are closed and new ones end at once; up: they work again."""
    client = await Client.connect(proxy)
    assert await client.ask(b"1") == b"ok 1\n"
    proxy.down()
    assert await client.reader.read() == b""
    refused = await Client.connect(proxy)
    assert await refused.reader.read() == b""
    proxy.up()
    again = await Client.connect(proxy)
    assert await again.ask(b"2") == b"ok 2\n"
    for one in (client, refused, again):
        one.close()

"""A client of Server-Sent Events for tests: reads the stream's lines as they come, and more strictly than a browser."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import orjson
from yarl import URL

from tests.support.shop import Shop
from tests.support.wire import soon


class Event(NamedTuple):
    """One event."""

    version: int
    data: dict[str, Any]

    @property
    def status(self) -> str:
        """The order's status."""
        return str(self.data["status"])


@dataclass
class Stream:
    """An open stream, or what was answered instead of one."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    status: int
    headers: dict[str, str]
    heartbeats: int = 0
    retry_ms: int = 0
    _ended: bool = field(default=False, init=False)

    async def next(self) -> Event | None:
        """Return the next event, None if the stream has ended; heartbeats are counted."""
        fields: dict[str, str] = {}
        while True:
            line = await soon(self.reader.readline(), "nothing came")
            if not line:
                assert not fields, "the stream ended within an event"
                return None
            text = line.decode().removesuffix("\n")
            if text:
                name, _, value = text.partition(": ")
                assert name not in fields
                fields[name] = value
            elif ":" in fields:
                assert fields == {":": ""}
                fields.clear()
                self.heartbeats += 1
            elif "retry" in fields:
                assert list(fields) == ["retry"]
                self.retry_ms = int(fields.pop("retry"))
            else:
                assert list(fields) == ["event", "id", "data"]
                assert fields["event"] == "status"
                data = orjson.loads(fields["data"])
                assert int(fields["id"]) == data["version"]
                return Event(int(fields["id"]), data)

    async def events(self, count: int) -> list[Event]:
        """Return the next events."""
        found = [await self.next() for _ in range(count)]
        assert None not in found, found
        return [one for one in found if one is not None]

    async def ended(self) -> bool:
        """Read on: tell whether the stream ends without another event."""
        return await self.next() is None

    async def body(self) -> dict[str, Any]:
        """Return what was answered instead of a stream."""
        raw = await self.reader.readexactly(int(self.headers.get("content-length", "0")))
        decoded: dict[str, Any] = orjson.loads(raw or b"{}")
        return decoded

    def go_away(self) -> None:
        """Close the connection."""
        self.writer.close()


@contextlib.asynccontextmanager
async def listen(
    shop: Shop,
    url: str,
    order_id: str,
    user: str,
    *,
    last: str | None = None,
    headers: dict[str, str] | None = None,
    before: bytes = b"",
    behind: bytes = b"",
) -> AsyncIterator[Stream]:
    """Open a stream; `before` and `behind` are requests that are sent with it."""
    said = shop.bearer(user) if headers is None else headers
    if last is not None:
        said = {**said, "Last-Event-ID": last}
    lines = [f"GET /v1/orders/{order_id}/events HTTP/1.1", "Host: shop", *(f"{k}: {v}" for k, v in said.items())]
    where = URL(url)
    reader, writer = await asyncio.open_connection(where.host, where.port)
    try:
        writer.write(before + "\r\n".join([*lines, "\r\n"]).encode() + behind)
        yield await read_head(reader, writer)
    finally:
        writer.close()


async def read_head(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Stream:
    """Read a status line and headers."""
    status_line, *lines = (await soon(reader.readuntil(b"\r\n\r\n"), "no answer")).decode().split("\r\n")[:-2]
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    assert len(headers) == len(lines)
    return Stream(reader, writer, int(status_line.split()[1]), headers)

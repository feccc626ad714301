"""A buyer's side of HTTP/1.1: requests as bytes, answers out of bytes, one keep-alive connection."""

import asyncio
import math
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import orjson

from bench.crowd import Draw, Reply

HEAD_BYTES_MAX: Final = 16_384
BODY_BYTES_MAX: Final = 1_048_576
_END: Final = b"\r\n\r\n"


class BadAnswerError(ValueError):
    """The bytes are no answer that this client understands."""


class Response(NamedTuple):
    """One whole HTTP answer."""

    status: int
    headers: dict[bytes, bytes]
    """Names in lower case."""
    body: bytes
    size: int
    """Bytes taken from the buffer."""

    @property
    def keeps_alive(self) -> bool:
        """Whether another request may be sent on this connection."""
        return self.headers.get(b"connection", b"").lower() != b"close"


def parse_response(buffer: bytes) -> Response | None:
    """Return the answer at the start of the buffer, or None while it is incomplete.

    Raises:
        BadAnswerError: no HTTP/1.1 answer with a Content-Length.
    """
    end = buffer.find(_END)
    if end < 0:
        if len(buffer) > HEAD_BYTES_MAX:
            raise BadAnswerError("the head of an answer does not end")
        return None
    start, *lines = buffer[:end].split(b"\r\n")
    try:
        headers = {name.lower(): value.strip() for name, value in (line.split(b":", 1) for line in lines)}
        version, status = start.split(b" ", 2)[:2]
        length = int(headers[b"content-length"])
        code = int(status)
    except (ValueError, KeyError) as error:
        raise BadAnswerError(f"not an answer: {error!r}") from None
    if version != b"HTTP/1.1" or not 0 <= length <= BODY_BYTES_MAX:
        raise BadAnswerError("not an HTTP/1.1 answer of sensible size")
    size = end + len(_END) + length
    if len(buffer) < size:
        return None
    return Response(code, headers, buffer[end + len(_END) : size], size)


def read_reply(response: Response) -> Reply:
    """Return what a buyer reads out of the answer to an order or a draw.

    What makes no sense has no code, no order id and no draw.
    """
    try:
        document = orjson.loads(response.body)
    except orjson.JSONDecodeError:
        document = None
    if not isinstance(document, dict):
        document = {}
    draw = _read_draw(document) if response.status == 200 else None
    return Reply(
        response.status,
        str(document.get("code", "")) or ("ACCEPTED" if response.status == 202 else "DRAWN" if draw else ""),
        str(document.get("order_id", "")),
        response.headers.get(b"idempotent-replayed") == b"true",
        _seconds(response.headers.get(b"retry-after", b"")),
        draw,
    )


def _read_draw(document: dict[str, Any]) -> Draw | None:
    try:
        prize = document["prize"]
        sku_id, points = (prize["sku_id"], prize["points"]) if prize is not None else ("", 0)
        found = Draw(document["draw_id"], sku_id, points, document["draws_left"], document["seq"], document["hash"])
    except (KeyError, TypeError):
        return None
    return found if list(map(type, found)) == [str, str, int, int, int, str] else None


def _seconds(value: bytes) -> float:
    try:
        seconds = float(value)
    except ValueError:
        return 0.0
    return seconds if math.isfinite(seconds) else 0.0


class Lane(asyncio.Protocol):
    """One connection with at most one request on its way.

    Args:
        on_answer: called with the lane and the answer; the lane is free again if it is still open.
        on_lost: called with the lane and whether a request was on its way, once the connection is gone.
    """

    __slots__ = ("_buffer", "_on_answer", "_on_lost", "_transport", "busy", "sent_s")

    def __init__(self, on_answer: Callable[["Lane", Response], None], on_lost: Callable[["Lane", bool], None]) -> None:
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._buffer = b""
        self._transport: asyncio.Transport | None = None
        self.busy = False
        self.sent_s = 0.0

    @property
    def is_open(self) -> bool:
        """Whether a request may be sent."""
        return self._transport is not None and not self._transport.is_closing()

    def send(self, request: bytes) -> None:
        """Send a request; only on an open lane that is not busy."""
        assert self._transport is not None  # noqa: S101 -- the caller asks `is_open`
        self.busy = True
        self.sent_s = time.monotonic()
        self._transport.write(request)

    def abort(self) -> None:
        """Give the connection up; `on_lost` follows."""
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from asyncio's

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._buffer = self._buffer + data if self._buffer else data
        try:
            response = parse_response(self._buffer)
        except BadAnswerError:
            self.abort()
            return
        if response is None:
            return
        if not self.busy or len(self._buffer) > response.size:
            self.abort()  # an answer that nobody asked for
            return
        self._buffer = b""
        self.busy = False
        if not response.keeps_alive:
            self.abort()
        self._on_answer(self, response)

    def connection_lost(self, _exc: Exception | None) -> None:
        """See asyncio."""
        was_busy, self.busy = self.busy, False
        self._transport = None
        self._on_lost(self, was_busy)

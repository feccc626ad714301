"""The load driver's side of HTTP/1.1, as lean as it can be: orders as bytes, and the status out of an answer."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, cast

from bench.crowd_http import BODY_BYTES_MAX, HEAD_BYTES_MAX, BadAnswerError
from bench.drive import body
from bench.load_messages import LoadJob
from bench.tokens import Minter

_END: Final = b"\r\n\r\n"
_LENGTH: Final = b"\r\ncontent-length:"
_CLOSE: Final = b"\r\nconnection: close"


class Answered(NamedTuple):
    """What matters of an answer."""

    status: int
    size: int
    """Bytes of the whole answer."""
    keeps_alive: bool


def read_answer(data: bytes) -> Answered | None:
    """Return the answer at the start of the bytes, or None while it is incomplete.

    Raises:
        BadAnswerError: no HTTP/1.1 answer with a Content-Length.
    """
    end = data.find(_END)
    if end < 0:
        if len(data) > HEAD_BYTES_MAX:
            raise BadAnswerError("the head of an answer does not end")
        return None
    head = data[:end].lower()
    at = head.find(_LENGTH)
    if at < 0 or not head.startswith(b"http/1.1 "):
        raise BadAnswerError("not an HTTP/1.1 answer with a Content-Length")
    stop = head.find(b"\r\n", at + len(_LENGTH))
    try:
        length, status = int(head[at + len(_LENGTH) : stop if stop >= 0 else end]), int(head[9:12])
    except ValueError:
        raise BadAnswerError("not a status and a length") from None
    if not 0 <= length <= BODY_BYTES_MAX:
        raise BadAnswerError("an answer of that size makes no sense")
    size = end + len(_END) + length
    return Answered(status, size, _CLOSE not in head) if len(data) >= size else None


class Orders:
    """Requests as bytes: each another buyer's, with a token of his own, minted when it is sent."""

    def __init__(self, job: LoadJob, minter: Minter) -> None:
        self._mint = minter.mint
        self._buyer = f"{job.prefix}-".encode()
        self._head = (
            f"POST /v1/orders HTTP/1.1\r\nHost: {job.host}:{job.port}\r\nContent-Type: application/json\r\n"
            f"Idempotency-Key: {job.prefix}-"
        ).encode()
        self._tails = [_tail(job.campaign_id, sku_id) for sku_id in job.sku_ids]
        self._other_tail = _tail(job.campaign_id, job.other_sku_id)
        self._other_share = job.other_share

    def order(self, number: int) -> bytes:
        """Return the order of one buyer; each number is used once."""
        text = b"%d" % number
        token = self._mint(self._buyer + text)
        tails = self._tails
        tail = self._other_tail if wants_other(number, self._other_share) else tails[number % len(tails)]
        return self._head + text + b"\r\nAuthorization: Bearer " + token + tail


def wants_other(number: int, share: float) -> bool:
    """Tell whether this buyer is of those who want the other SKU: evenly spread, exactly that share in the long run."""
    return int((number + 1) * share) > int(number * share)


def _tail(campaign_id: str, sku_id: str) -> bytes:
    text = body(campaign_id, sku_id)
    return f"\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


class Line(asyncio.Protocol):
    """One connection with at most one request on its way.

    Args:
        on_answer: called with the connection and the status; it is free again if it is still open.
        on_lost: called with the connection once it is gone.
    """

    __slots__ = ("_buffer", "_on_answer", "_on_lost", "busy", "due_s", "is_open", "transport")

    def __init__(self, on_answer: Callable[["Line", int], None], on_lost: Callable[["Line"], None]) -> None:
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._buffer = b""
        self.transport: asyncio.Transport | None = None
        self.is_open = False
        self.busy = False
        self.due_s = 0.0

    def send(self, request: bytes, due_s: float) -> None:
        """Send a request that was due then; only on an open connection that is not busy."""
        assert self.transport is not None  # noqa: S101 -- the caller asks `is_open`
        self.busy = True
        self.due_s = due_s
        self.transport.write(request)

    def close(self) -> None:
        """Give the connection up."""
        self.is_open = False
        if self.transport is not None:
            self.transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self.transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from asyncio's
        self.is_open = True

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        if self._buffer:
            data = self._buffer + data
        try:
            answer = read_answer(data)
        except BadAnswerError:
            self.close()
            return
        if answer is None:
            self._buffer = data
            return
        if not self.busy or len(data) > answer.size:
            self.close()  # an answer that nobody asked for
            return
        self._buffer = b""
        self.busy = False
        if not answer.keeps_alive:
            self.close()
        self._on_answer(self, answer.status)

    def connection_lost(self, _exc: Exception | None) -> None:
        """See asyncio."""
        self.is_open = False
        self._on_lost(self)

"""The load driver's side of HTTP/1.1, as lean as it can be: requests as bytes, and what an answer says."""

import asyncio
from collections.abc import Callable
from typing import Final, NamedTuple, cast

from bench.crowd_http import BODY_BYTES_MAX, HEAD_BYTES_MAX, BadAnswerError
from bench.drive import body
from bench.load_messages import Aim, LoadJob
from bench.load_outcomes import REPLAYED_HEADER, Meaning, is_win, problem_code
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


def read_meaning(status: int, data: bytes) -> Meaning:
    """Return what a whole answer means."""
    if status >= 400:
        return Meaning(status, problem_code(data))
    return Meaning(status, "", _REPLAYED in data.lower(), status == 200 and is_win(data))


_REPLAYED: Final = f"\r\n{REPLAYED_HEADER}: true".lower().encode()


class Orders:
    """Requests as bytes: each another buyer's, with a token of his own, minted when it is sent."""

    def __init__(self, job: LoadJob, minter: Minter) -> None:
        self._mint = minter.mint
        self._buyer = f"{job.prefix}-".encode()
        aims = job.aims or tuple(Aim(path=_ORDERS, text=body(job.campaign_id, sku_id)) for sku_id in job.sku_ids)
        self._heads_and_tails = [(_head(job, aim.path), _tail(aim.text)) for aim in aims]
        self._other_tail = _tail(body(job.campaign_id, job.other_sku_id))
        self._other_share = job.other_share

    def order(self, number: int) -> bytes:
        """Return the request of one buyer; each number is used once, or again for the same request."""
        text = b"%d" % number
        token = self._mint(self._buyer + text)
        head, tail = self._heads_and_tails[number % len(self._heads_and_tails)]
        if wants_other(number, self._other_share):
            tail = self._other_tail
        return head + text + b"\r\nAuthorization: Bearer " + token + tail


_ORDERS: Final = "/v1/orders"


def _head(job: LoadJob, path: str) -> bytes:
    host = f"[{job.host}]" if ":" in job.host else job.host
    return (
        f"POST {path} HTTP/1.1\r\nHost: {host}:{job.port}\r\nContent-Type: application/json\r\n"
        f"Idempotency-Key: {job.prefix}-"
    ).encode()


def wants_other(number: int, share: float) -> bool:
    """Tell whether this buyer is of those who want the other SKU: evenly spread, exactly that share in the long run."""
    return int((number + 1) * share) > int(number * share)


def _tail(text: str) -> bytes:
    return f"\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


class Line(asyncio.Protocol):
    """One connection with at most one request on its way.

    Args:
        on_answer: called with the connection and what the answer means; it is free again if it is still open.
        on_lost: called with the connection once it is gone.
    """

    __slots__ = ("_buffer", "_on_answer", "_on_lost", "busy", "due_s", "is_open", "number", "transport")

    def __init__(self, on_answer: Callable[["Line", Meaning], None], on_lost: Callable[["Line"], None]) -> None:
        self._on_answer = on_answer
        self._on_lost = on_lost
        self._buffer = b""
        self.transport: asyncio.Transport | None = None
        self.is_open = False
        self.busy = False
        self.due_s = 0.0
        self.number = 0

    def send(self, request: bytes, due_s: float, number: int = 0) -> None:
        """Send a request that was due then, and has this number; only on an open connection that is not busy."""
        assert self.transport is not None  # noqa: S101 -- the caller asks `is_open`
        self.busy = True
        self.due_s = due_s
        self.number = number
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
        self._on_answer(self, read_meaning(answer.status, data))

    def connection_lost(self, _exc: Exception | None) -> None:
        """See asyncio."""
        self.is_open = False
        self._on_lost(self)

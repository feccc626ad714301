"""One connection of the buyer plane: frames HTTP/1.1 requests and answers the hot calls without a task for each.

A request's head ends with an empty line, and its body has the announced length. A hot call goes to gateway/calls.py and
is answered at once, or when its batch comes back. Every other request is lent to aiohttp, whole
(gateway/aiohttp_lane.py). Answers go out in the order of their requests.

What both lanes owe is kept here: limits of size, deadlines, back-pressure, `Connection: close`. The clock and the
limits that all connections of a worker share are the door's (gateway/door.py).
"""

import asyncio
import re
from typing import TYPE_CHECKING, Final, cast

from domain import outcomes
from gateway.aiohttp_lane import LentHandler
from gateway.answers import BODY_LATE, Answer, problem
from gateway.order_stream import Listener
from gateway.request_head import RequestHead, refuse_unfinished

if TYPE_CHECKING:
    from gateway.door import Door

HEAD, BODY, COLD = 0, 1, 2
"""What a request still lacks: its head, its body, or its turn to be lent to aiohttp."""

END_OF_HEAD: Final = b"\r\n\r\n"
ENCODED: Final = problem(outcomes.INVALID, "send the body uncompressed")
HEAD_LATE: Final = problem(outcomes.INVALID, "the head of the request did not arrive in time", closes=True)
NOT_HOT: Final = Answer(0, b"")
"""Stands for: aiohttp is to answer this."""
_CLOSE: Final = b"Connection: close\r\n\r\n"

ORDER_PATH: Final = b"/v1/orders/"
CAMPAIGN_PATH: Final = b"/v1/campaigns/"
is_plain: Final = re.compile(rb"[A-Za-z0-9~._-]+").fullmatch
"""A last part of a path that needs no decoding."""


class Slot:
    """The place of one answer among those of its connection; called with the answer."""

    __slots__ = ("answer", "closes", "connection")

    def __init__(self, connection: "Connection", *, closes: bool, answer: Answer | None = None) -> None:
        self.connection = connection
        self.closes = closes
        self.answer = answer

    def __call__(self, answer: Answer) -> None:
        """Take the answer, and write it if it is its turn."""
        self.answer = answer
        self.connection.answered(self)


class Connection(asyncio.Protocol):
    """See the module. One an open connection."""

    __slots__ = (
        "_buffer",
        "_closes",
        "_door",
        "_ended",
        "_half_closed",
        "_head",
        "_head_bytes",
        "_lent",
        "_lingers",
        "_passed_bytes",
        "_passes",
        "_reading_paused",
        "_since_s",
        "_slots",
        "_stage",
        "_transport",
        "_write_paused",
    )

    def __init__(self, door: "Door") -> None:
        self._door = door
        self._transport: asyncio.Transport | None = None
        self._head = RequestHead()
        self._stage = HEAD
        self._head_bytes = 0
        self._buffer = b""
        """What has come and is not taken yet; begins with a request."""
        self._slots: list[Slot] = []
        self._lent: LentHandler | None = None
        self._passes = False
        """Everything that comes belongs to the request that aiohttp has: it is the last one."""
        self._passed_bytes = 0
        self._closes = False
        """The connection ends with the request that is being answered."""
        self._ended = False
        """No further request is taken from this connection."""
        self._half_closed = False
        """The buyer has said that he sends nothing more; what he has sent is answered."""
        self._lingers = False
        """The last answer is written; what the buyer is still sending is thrown away until he has read it."""
        self._write_paused = False
        self._reading_paused = False
        self._since_s = door.now_s
        """Since when it waits for what it waits for, by the door's clock."""

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the connection in, or turn it away when there are too many."""
        self._transport = transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from asyncio's
        turned_away = self._door.take_in(self)
        if turned_away is not None:
            self._ended = True
            transport.write(self._last(turned_away))
            transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget everything; what is decided later is told to nobody."""
        self._transport = None
        self._buffer = b""
        self._slots.clear()
        self._door.let_go(self)
        lent, self._lent = self._lent, None
        if lent is not None:
            lent.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take what came."""
        if self._passes:
            self._passed_bytes += len(data)
            if self._lent is not None and self._passed_bytes <= self._door.passed_bytes_max:
                self._lent.data_received(data)
        elif not self._ended:
            self._take(self._buffer + data if self._buffer else data)

    def eof_received(self) -> bool:
        """Keep the connection for answers that are still to be written; then close it."""
        self._half_closed = True
        return not self._lingers and self._is_busy()

    def pause_writing(self) -> None:
        """Take no more requests from a buyer who does not read his answers."""
        self._write_paused = True
        self._since_s = self._door.now_s
        if self._lent is not None:
            self._lent.pause_writing()

    def resume_writing(self) -> None:
        """Go on."""
        self._write_paused = False
        self._since_s = self._door.now_s
        if self._lent is not None:
            self._lent.resume_writing()
        else:
            self._go_on()

    def _is_busy(self) -> bool:
        return bool(self._slots or self._lent is not None or (self._buffer and self._write_paused))

    # -- requests --------------------------------------------------------------------------------------------------

    def _take(self, data: bytes) -> None:
        """Take every whole request out of what has come."""
        start, size, head = 0, len(data), self._head
        while start < size and self._may_take():
            if self._stage == HEAD:
                start = self._find_head(data, start)
                if self._stage == HEAD:
                    break
            body_start = start + self._head_bytes
            end = size if head.unframed else body_start + head.body_bytes
            if end > size:
                break
            if self._stage == BODY and not head.unframed:
                self._answer(data[body_start:end])
            if head.unframed or self._stage == COLD:
                if self._slots:
                    break
                self._lend(data[start:end], last=head.unframed)
            start = end
        if start < size or self._buffer or self._reading_paused:
            self._keep(data[start:])

    def _may_take(self) -> bool:
        return not (
            self._lent is not None
            or self._ended
            or self._write_paused
            or self._transport is None
            or len(self._slots) >= self._door.pipeline_max
        )

    def _keep(self, rest: bytes) -> None:
        """Keep what is not taken yet, and read on only while that is bounded."""
        if rest and not self._buffer and self._stage == HEAD:
            self._since_s = self._door.now_s
        self._buffer = b"" if self._ended else rest
        transport = self._transport
        if transport is None:
            return
        too_much = len(self._buffer) > self._door.buffer_bytes_max
        if too_much:  # even if it was paused already: aiohttp may have resumed it since
            self._reading_paused = True
            transport.pause_reading()
        elif self._reading_paused:
            self._reading_paused = False
            transport.resume_reading()

    def _find_head(self, data: bytes, start: int) -> int:
        """Read a head if it is whole, and return where it begins; a bad one ends the connection with its answer."""
        limits = self._door.head_limits
        while data.startswith(b"\r\n", start):  # empty lines before a request are allowed
            start += 2
        end = data.find(END_OF_HEAD, start)
        if end < 0:
            refused = refuse_unfinished(data, start, limits)
        else:
            end += len(END_OF_HEAD)
            refused = self._head.read(data[start:end], limits)
            self._head_bytes = end - start
            self._stage = BODY
            self._since_s = self._door.now_s
        if refused is not None:
            self._stage = HEAD
            self._refuse(refused)
        return start

    def _answer(self, body: bytes) -> None:
        """Have a whole request answered, or find that it is aiohttp's."""
        head = self._head
        self._closes = closes = not head.end(body) or self._door.draining
        answer = ENCODED if body and head.encoded else self._call(body)
        if answer is NOT_HOT:
            self._stage = COLD
            return
        self._stage = HEAD
        if closes:
            self._ended = True
        if answer is None:
            return
        if self._slots:
            self._slots.append(Slot(self, closes=closes, answer=answer))
        else:
            self._write(answer, closes=closes)

    def _promise(self) -> Slot:
        """Return the place of an answer that will come later."""
        slot = Slot(self, closes=self._closes)
        self._slots.append(slot)
        return slot

    def _call(self, body: bytes) -> Answer | None:
        """Make the call if it is a hot one in its plain spelling."""
        calls, head = self._door.hot_calls, self._head
        method, url = head.method(), head.url
        if calls is None:
            return NOT_HOT
        if method == b"POST":
            place = calls.posts.get(url)
            if place is not None:
                return place(head.authorization, head.idempotency_key, body, self._promise)
        elif method == b"GET":
            if url.startswith(ORDER_PATH):
                name = url[len(ORDER_PATH) :]
                if is_plain(name):
                    return calls.get_order(head.authorization, name.decode(), self._promise)
            elif url.startswith(CAMPAIGN_PATH):
                name = url[len(CAMPAIGN_PATH) :]
                if is_plain(name):
                    return calls.get_campaign(name.decode())
        return NOT_HOT

    def _refuse(self, answer: Answer) -> None:
        """Answer what is no request, in its turn, and take nothing more from this connection."""
        self._ended = True
        self._buffer = b""
        if not self._slots:
            self._finish(answer)
            return
        self._slots.append(Slot(self, closes=True, answer=answer))

    # -- answers ---------------------------------------------------------------------------------------------------

    def answered(self, slot: Slot) -> None:
        """Write every answer whose turn it is."""
        slots = self._slots
        if self._transport is None or not slots or slots[0] is not slot:
            return
        while slots and slots[0].answer is not None:
            first = slots.pop(0)
            assert first.answer is not None  # noqa: S101 -- as just asked
            self._write(first.answer, closes=first.closes)
        if self._buffer or self._reading_paused or self._half_closed:
            self._go_on()

    def _write(self, answer: Answer, *, closes: bool) -> None:
        transport = self._transport
        if transport is None:
            return
        if closes or answer.closes:
            self._finish(answer)
            return
        door = self._door
        self._since_s = door.now_s
        transport.write(answer.wire(door.date_line))

    def _finish(self, answer: Answer) -> None:
        """Write the connection's last answer and end it, so that the buyer can read it."""
        transport = self._transport
        assert transport is not None  # noqa: S101 -- the callers have asked
        self._ended = True
        self._slots.clear()
        transport.write(self._last(answer))
        self._linger()

    def _last(self, answer: Answer) -> bytes:
        return b"".join((answer.head(), self._door.date_line[:-2], _CLOSE, answer.body))

    def _linger(self) -> None:
        """Throw away what the buyer is still sending, for a moment, while he reads the connection's last answer.

        Closing at once would reset the connection, and take the answer with it (RFC 9112, 9.6).
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        self._ended = self._lingers = True
        self._passes = self._reading_paused = False
        self._buffer = b""
        self._since_s = self._door.now_s
        if self._half_closed:
            transport.close()
            return
        transport.resume_reading()
        transport.write_eof()

    def _go_on(self) -> None:
        """Take what has been waiting in the buffer."""
        if self._may_take():
            buffer, self._buffer = self._buffer, b""
            self._take(buffer)
        if self._half_closed and self._transport is not None and not self._lingers and not self._is_busy():
            self._transport.close()

    # -- aiohttp's requests ----------------------------------------------------------------------------------------

    def _lend(self, request: bytes, *, last: bool) -> None:
        transport = self._transport
        assert transport is not None  # noqa: S101 -- a request is taken only while there is one
        self._stage = HEAD
        self._passes = last
        handler = self._lent = self._door.lend(self._given_back, last=last or self._closes)
        handler.connection_made(transport)
        handler.data_received(request)

    def _given_back(self, handler: LentHandler, after: bool | Listener) -> None:
        # Not within aiohttp's own task, which has a few things to finish.
        asyncio.get_running_loop().call_soon(self._take_back, handler, after)

    def _take_back(self, handler: LentHandler, after: bool | Listener) -> None:
        transport = self._transport
        if self._lent is not handler or transport is None:
            if isinstance(after, Listener):
                after.close()
            return
        self._lent = None
        handler.detach()
        self._since_s = self._door.now_s
        if isinstance(after, Listener):
            self._transport = None
            self._door.stream(self, transport, after, half_closed=self._half_closed)
            return
        if not after:
            self._linger()
            return
        if not self._reading_paused:
            transport.resume_reading()  # aiohttp pauses it for a large body, and forgets if nobody reads that
        self._go_on()

    # -- its end ---------------------------------------------------------------------------------------------------

    def check_deadline(self, now_s: float) -> None:
        """End the connection if what it waits for is overdue."""
        transport = self._transport
        if transport is None or now_s - self._since_s <= self._patience_s():
            return
        unread = transport.get_write_buffer_size() > 0 and not self._buffer
        if self._write_paused or self._lingers or transport.is_closing() or unread:
            transport.abort()
        elif not self._buffer:
            transport.close()
        else:
            self._refuse(BODY_LATE if self._stage == BODY else HEAD_LATE)

    def _patience_s(self) -> float:
        """Return how long the connection may wait for what it waits for now."""
        settings = self._door.settings
        if self._write_paused or (self._transport is not None and self._transport.is_closing()):
            return settings.send_timeout_s
        if self._lingers:
            return settings.linger_s
        if self._slots or self._lent is not None:
            return float("inf")  # the worker has its own deadlines
        if not self._buffer:
            return settings.linger_s if self._door.draining else settings.keepalive_timeout_s
        return settings.body_timeout_s if self._stage == BODY else settings.header_timeout_s

    def wind_down(self) -> None:
        """Make what is under way this connection's last answer."""
        if self._lent is not None:
            self._lent.is_last = True
        elif self._slots:
            self._slots[-1].closes = True
            self._ended = True
        elif not self._buffer:
            self._since_s = self._door.now_s

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

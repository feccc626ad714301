"""A connection on which one order is told of: the head of the answer, then events until either side ends it.

The fast lane hands a connection over once aiohttp's handler has decided that it becomes a stream
(gateway/aiohttp_lane.py). From then on there is no task and no request for it any more, only this. The body ends with
the connection, so that an event is the same bytes for everybody.
"""

import asyncio
import contextlib
import socket
from typing import TYPE_CHECKING, Final

from gateway.order_stream import HEARTBEAT, Listener

if TYPE_CHECKING:
    from gateway.door import Door

EVENT_STREAM: Final = "text/event-stream"
STREAM_HEADERS: Final = (("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"))
SPREAD: Final = 64
"""Streams that begin together have their heartbeats at this many different times."""
UNACKED_TIMEOUT_OPTION: Final = getattr(socket, "TCP_USER_TIMEOUT", None)
"""Of Linux; without it a buyer whose network is gone is noticed after about a quarter of an hour."""

_HEAD: Final = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b" % (
    EVENT_STREAM.encode(),
    b"".join(b"%b: %b\r\n" % (name.encode(), value.encode()) for name, value in STREAM_HEADERS),
)


class EventConnection(asyncio.Protocol):
    """See the module. Implements `order_stream.Ear`.

    Args:
        door: its clock and its limits.
        transport: the connection's.
        listener: who is told; closed when the connection ends.
        number: how many there are; it spreads heartbeats.
    """

    __slots__ = ("_beat_at_s", "_door", "_ended_s", "_listener", "_transport", "_unread_s")

    def __init__(self, door: "Door", transport: asyncio.Transport, listener: Listener, *, number: int) -> None:
        self._door = door
        self._transport: asyncio.Transport | None = transport
        self._listener = listener
        heartbeat_s = door.settings.stream_heartbeat_s
        self._beat_at_s = door.now_s + heartbeat_s * (1 + number % SPREAD / SPREAD) / 2
        self._unread_s = 0.0
        """Since when there is something that the buyer's side does not take; 0: there is nothing."""
        self._ended_s = 0.0
        """Since when the buyer is expected to close, for there is nothing more; 0: the stream goes on."""

    def begin(self, *, half_closed: bool) -> None:
        """Take the connection over; who sends nothing more and has said so is told where the order stands now."""
        transport = self._transport
        assert transport is not None  # noqa: S101 -- it is as just given
        transport.set_protocol(self)
        if transport.is_closing():  # gone already; `connection_lost` is still to come
            return
        transport.resume_reading()
        if UNACKED_TIMEOUT_OPTION is not None:
            settings = self._door.settings
            timeout_s = settings.stream_heartbeat_s + settings.send_timeout_s
            with contextlib.suppress(OSError):  # gone already
                transport.get_extra_info("socket").setsockopt(
                    socket.IPPROTO_TCP, UNACKED_TIMEOUT_OPTION, round(timeout_s * 1_000)
                )
        transport.write(b"".join((_HEAD, self._door.date_line[:-2], b"Connection: close\r\n\r\n")))
        self._listener.attach(self)
        if half_closed:
            transport.close()

    # -- order_stream.Ear ------------------------------------------------------------------------------------------

    def tell(self, event: bytes) -> None:
        """Write an event."""
        transport = self._transport
        if transport is not None and not self._ended_s and not transport.is_closing():
            transport.write(event)

    def end(self) -> None:
        """End the stream, and let the buyer close the connection: so everything that was written reaches him."""
        transport = self._transport
        if transport is not None and not self._ended_s and not transport.is_closing():
            self._ended_s = self._door.now_s
            transport.write_eof()

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    def data_received(self, _data: bytes) -> None:
        """Throw away what is sent on a connection that takes no more requests."""

    def eof_received(self) -> bool:
        """End: the buyer has gone away."""
        return False

    def pause_writing(self) -> None:
        """Cut off a buyer who reads so little that events gather here."""
        self.abort()

    def connection_lost(self, _exc: Exception | None) -> None:
        """Forget everything."""
        self._transport = None
        self._listener.close()
        self._door.let_go(self)

    # -- the door's guest ------------------------------------------------------------------------------------------

    def check_deadline(self, now_s: float) -> None:
        """Write a heartbeat, or end what lasts too long or is not read."""
        transport = self._transport
        if transport is None:
            return
        settings = self._door.settings
        if not transport.get_write_buffer_size():
            self._unread_s = 0.0
        elif not self._unread_s:
            self._unread_s = now_s
        elif now_s - self._unread_s > settings.send_timeout_s:
            transport.abort()
            return
        if self._ended_s:
            if now_s - self._ended_s > settings.linger_s and not transport.is_closing():
                transport.close()
        elif now_s >= self._listener.ends_s:
            self.end()
        elif now_s >= self._beat_at_s:
            self._beat_at_s = now_s + settings.stream_heartbeat_s
            self.tell(HEARTBEAT)

    def wind_down(self) -> None:
        """End the stream: who listens comes back to another worker."""
        self.end()

    def abort(self) -> None:
        """End the connection at once."""
        if self._transport is not None:
            self._transport.abort()

"""The buyer plane's open connections in one worker: how many, how long, and how they end."""

import asyncio
import socket
import time
from email.utils import formatdate
from typing import Final

from aiohttp import web

from domain import outcomes
from domain.settings import GatewaySettings
from gateway.aiohttp_lane import Done, LentHandler
from gateway.answers import Answer, problem
from gateway.calls import BuyerCalls
from gateway.event_connection import EventConnection
from gateway.fast_lane import Connection
from gateway.order_stream import Listener
from gateway.request_head import HeadLimits

SWEEP_S_MAX: Final = 1.0
SWEEPS_PER_TIMEOUT: Final = 4
CHUNKS_FACTOR: Final = 8
"""A body in chunks of one byte takes six times as many; what is beyond that, extensions and trailers, is not read."""
DRAIN_POLL_S: Final = 0.02
TOO_MANY: Final = problem(outcomes.BUSY, "too many connections", (("Retry-After", "1"),))


class Door:
    """Lets connections in, and keeps for all of them the limits, the clock and the Date header.

    Args:
        settings: the limits.
        calls: the hot calls.
        application: serves everything else; set up by its runner.
    """

    def __init__(self, settings: GatewaySettings, calls: BuyerCalls, application: web.AppRunner) -> None:
        self.settings = settings
        self.head_limits = HeadLimits(settings.line_bytes_max, settings.head_bytes_max, settings.body_bytes_max)
        self.pipeline_max = settings.pipeline_max
        self.buffer_bytes_max = settings.head_bytes_max + settings.body_bytes_max
        self.passed_bytes_max = settings.head_bytes_max + CHUNKS_FACTOR * settings.body_bytes_max
        self.hot_calls = calls if settings.lane == "fast" else None
        self.draining = False
        self._turned_away = 0
        self._application = application
        self._connections: set[Connection | EventConnection] = set()
        self._server: asyncio.Server | None = None
        shortest_s = min(
            settings.header_timeout_s,
            settings.body_timeout_s,
            settings.send_timeout_s,
            settings.keepalive_timeout_s,
            settings.linger_s,
            settings.stream_heartbeat_s,
            settings.stream_max_s,
        )
        self._sweep_s = min(SWEEP_S_MAX, shortest_s / SWEEPS_PER_TIMEOUT)
        self._tick()

    @property
    def open_connections(self) -> int:
        """How many there are."""
        return len(self._connections)

    def take_turned_away(self) -> int:
        """Return how many connections have been turned away since this was last asked."""
        turned_away, self._turned_away = self._turned_away, 0
        return turned_away

    async def open(self, listener: socket.socket) -> None:
        """Begin to accept."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Connection(self), sock=listener, backlog=self.settings.backlog)

    async def close(self) -> None:
        """Accept nothing more, answer what was taken in, and end every connection.

        An idle connection is kept for `linger_s`, for a request may be on its way; its answer says that it is the last.
        """
        if self._server is not None:
            self._server.close()
        self.draining = True
        for connection in list(self._connections):
            connection.wind_down()
        try:
            async with asyncio.timeout(self.settings.drain_timeout_s):
                while self._connections:  # noqa: ASYNC110 -- each of many ends by itself
                    await asyncio.sleep(DRAIN_POLL_S)
        except TimeoutError:
            for connection in list(self._connections):
                connection.abort()

    # -- for connections -------------------------------------------------------------------------------------------

    def take_in(self, connection: Connection) -> Answer | None:
        """Count a connection, or return what it is turned away with."""
        if len(self._connections) >= self.settings.connections_max:
            self._turned_away += 1
            return TOO_MANY
        self._connections.add(connection)
        return None

    def let_go(self, connection: Connection | EventConnection) -> None:
        """Forget a connection that is gone."""
        self._connections.discard(connection)

    def stream(
        self, connection: Connection, transport: asyncio.Transport, listener: Listener, *, half_closed: bool
    ) -> None:
        """Make a connection a stream, whose listener is closed with it."""
        self.let_go(connection)
        stream = EventConnection(self, transport, listener, number=len(self._connections))
        self._connections.add(stream)
        stream.begin(half_closed=half_closed)

    def lend(self, done: Done, *, last: bool) -> LentHandler:
        """Return a handler of aiohttp for one request."""
        server = self._application.server
        assert server is not None  # noqa: S101 -- the runner is set up before the door opens
        return LentHandler(server, self.settings, done, last=last or self.draining)

    # -- time ------------------------------------------------------------------------------------------------------

    def _tick(self) -> None:
        """Read the clocks, once for everybody."""
        self.now_s = time.monotonic()
        self.date_line = f"Date: {formatdate(time.time(), usegmt=True)}\r\n\r\n".encode()

    async def run_sweeping(self) -> None:
        """Hold every connection against its deadline, for ever; a worker in which this ends must end."""
        while True:
            await asyncio.sleep(self._sweep_s)
            self._tick()
            for connection in list(self._connections):
                connection.check_deadline(self.now_s)

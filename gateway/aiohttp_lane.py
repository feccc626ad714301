"""Lending one request at a time to aiohttp, on a connection that stays the fast lane's.

The connection frames every request (gateway/fast_lane.py). One that the fast lane does not answer itself is passed,
whole, to a handler of aiohttp that writes its response to the same transport, and then gives the connection back. So a
connection that has once asked for a page, or paid, does not leave the fast lane for good.

A request whose end the fast lane does not know (chunked, or with `Expect`) is its connection's last.
"""

import asyncio
import logging
from collections.abc import Callable
from typing import Final

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from domain import outcomes
from domain.settings import GatewaySettings
from gateway.answers import problem
from gateway.order_stream import Listener

NO_LIMIT_OF_ITS_OWN: Final = 1 << 20
"""Heads are bounded before aiohttp sees them."""
NEVER_S: Final = 30 * 86_400.0
"""Idle connections are the fast lane's to close."""

NO_ACCESS_LOG: Final = logging.getLogger("flashgate.access")
NO_ACCESS_LOG.setLevel(logging.CRITICAL)

_BAD_REQUEST: Final = problem(outcomes.INVALID, "not a request that can be read")
_FAILED: Final = problem(outcomes.UNKNOWN)

Done = Callable[["LentHandler", bool | Listener], None]
"""Called with the handler once the response is written, and whether the connection can be used again; or with who
listens on it from now on, and nothing is written."""


class _Unsigned(web.Response):
    """A response that does not tell which versions run here; the application's have a signal for that."""

    async def _prepare_headers(self) -> None:
        await super()._prepare_headers()
        self.headers.popall("Server", None)


class EventStream(web.Response):
    """Stands for a stream: the connection becomes one (gateway/event_connection.py), and aiohttp is done with it."""

    def __init__(self, listener: Listener) -> None:
        super().__init__()
        self.listener = listener


class LentHandler(RequestHandler):
    """aiohttp's handler of a connection, for one request on it."""

    __slots__ = ("_done", "is_last")

    def __init__(self, server: web.Server, settings: GatewaySettings, done: Done, *, last: bool) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=NO_ACCESS_LOG,
            tcp_keepalive=False,
            keepalive_timeout=NEVER_S,
            lingering_time=settings.linger_s,
            auto_decompress=False,
            max_line_size=NO_LIMIT_OF_ITS_OWN,
            max_field_size=NO_LIMIT_OF_ITS_OWN,
            max_headers=NO_LIMIT_OF_ITS_OWN,
        )
        self._done = done
        self.is_last = last
        """The connection ends with this request."""

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Write the response, then say that the connection is free."""
        if isinstance(resp, EventStream):
            self._done(self, resp.listener)
            return resp, False
        if self.is_last:
            resp.force_close()
        resp, reset = await super().finish_response(request, resp, start_time)
        self._done(self, not reset and bool(resp.keep_alive))
        return resp, reset

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Answer what aiohttp itself refuses, or what broke outside our handlers, as a problem document."""
        if status >= 500:
            super().handle_error(request, status, exc, message)
        elif request.writer.output_size > 0:
            raise ConnectionError("what cannot be read came after the answer")
        answer = _BAD_REQUEST if status < 500 else _FAILED
        response = _Unsigned(
            status=status, body=answer.body, content_type=answer.content_type, headers={"Connection": "close"}
        )
        response.force_close()
        return response

    def detach(self) -> None:
        """End the handler without touching the connection."""
        self.transport = None
        self.connection_lost(None)

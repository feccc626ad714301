"""One connection to Redis for one command at a time, as lean as asyncio allows; hiredis packs and parses.

For script calls alone, which come by the thousand a second: a call through redis-py's streams takes three times the
CPU. Everything else goes through redis-py.
"""

import asyncio
from typing import Any, Final, cast

import hiredis
from redis.exceptions import NoScriptError, ResponseError

Arg = str | bytes | int

_NO_SCRIPT: Final = "NOSCRIPT"
_CLOSED: Final = "the connection is closed"


def _error_of(text: str) -> ResponseError:
    return NoScriptError(text) if text.startswith(_NO_SCRIPT) else ResponseError(text)


class RedisPipe(asyncio.Protocol):
    """See the module. A command that was cancelled leaves its reply to come: close the connection then."""

    def __init__(self) -> None:
        self._reader = hiredis.Reader(replyError=_error_of)
        self._transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[Any] | None = None

    @property
    def is_open(self) -> bool:
        """Whether a command may be sent."""
        return self._transport is not None

    async def ask(self, *command: Arg) -> Any:  # noqa: ANN401
        """Send a command and return its reply.

        Raises:
            ResponseError: Redis refuses it.
            ConnectionError: the connection was closed; whether the command took effect is not known.
        """
        if self._transport is None:
            raise ConnectionError(_CLOSED)
        waiter = self._waiter = asyncio.get_running_loop().create_future()
        self._transport.write(hiredis.pack_command(command))  # type: ignore[arg-type]  # the stub means tuple[…, ...]
        reply = await waiter
        if isinstance(reply, ResponseError):
            raise reply
        return reply

    def close(self, why: str = _CLOSED) -> None:
        """Close the connection at once, and tell whoever waits why."""
        if self._transport is not None:
            self._transport.abort()
        self._end(why)

    # -- asyncio.Protocol ------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        self._transport = cast("asyncio.Transport", transport)  # uvloop's do not derive from asyncio's

    def data_received(self, data: bytes) -> None:
        """Hand a whole reply to whoever waits for it."""
        self._reader.feed(data)
        try:
            reply = self._reader.gets()
        except hiredis.ProtocolError as error:
            self.close(f"not a reply of Redis: {error}")
            return
        if reply is False:
            return
        waiter, self._waiter = self._waiter, None
        if waiter is None:
            self.close()  # a reply that nobody asked for: from here on no reply would be the right one
        elif not waiter.done():
            waiter.set_result(reply)

    def connection_lost(self, exc: Exception | None) -> None:
        """Tell whoever waits."""
        self._end(str(exc) if exc else _CLOSED)

    def _end(self, why: str) -> None:
        self._transport = None
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_exception(ConnectionError(why))

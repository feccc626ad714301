"""Redis clients, with the options that keep a script from running twice behind our back.

redis-py retries by default, which silently re-runs a script whose reply was lost; here retries are off everywhere, and
a connection on which anything went wrong in the middle of a command is thrown away, never returned to a pool.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import redis.asyncio as redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import NoScriptError, RedisError, ResponseError

from adapters.lua import Script
from adapters.redis_pipe import Arg, RedisPipe
from domain import keys
from domain.errors import BackendError, OutcomeUnknownError
from domain.settings import RedisSettings

ANSWERS_LOST = (RedisError, OSError, TimeoutError, asyncio.IncompleteReadError)
"""What a client raises when Redis is not there or does not answer; `ResponseError` is an answer."""


def make_client(settings: RedisSettings, *, connections_max: int = 16, block_ms: int = 0) -> "redis.Redis":
    """Return a client for plain commands.

    Args:
        settings: where Redis is.
        connections_max: connections of its pool; a caller waits for a free one.
        block_ms: how long its blocking reads block; the read timeout is that much longer.
    """
    pool = redis.BlockingConnectionPool(
        host=settings.host,
        port=settings.port,
        protocol=2,
        max_connections=connections_max,
        timeout=settings.command_timeout_s,
        socket_connect_timeout=settings.connect_timeout_s,
        socket_timeout=settings.command_timeout_s + block_ms / 1000,
        retry=Retry(NoBackoff(), 0),
        driver_info=None,
    )
    return redis.Redis.from_pool(pool)


class ScriptFailedError(BackendError):
    """Redis answered with an error: the script changed nothing, and fails on these keys, or Redis takes no writes."""


class ScriptChannel:
    """One connection for script calls, which knows the run id of the server it is connected to.

    The run id belongs to the connection: after a restart or a failover the new connection has another one, and the
    scripts' fence compares it with the one that recovery has stored.
    """

    def __init__(self, settings: RedisSettings) -> None:
        self._settings = settings
        self._connection: RedisPipe | None = None
        self._lock = asyncio.Lock()
        self.run_id = ""
        """Run id of the present connection's server; empty while there is none."""

    async def connect(self) -> str:
        """Connect if needed and return the server's run id.

        Raises:
            BackendError: Redis is not there, or is still loading its data.
        """
        async with self._lock:
            await self._connected()
            return self.run_id

    async def call(self, script: Script, keys: Sequence[str], args: Sequence[Arg]) -> Any:  # noqa: ANN401
        """Run a script once. `args[0]` may be the placeholder `RUN_ID`, replaced by the connection's run id.

        Raises:
            BackendError: the script did not run, or it refused with an error before it wrote anything.
            OutcomeUnknownError: the call was sent and no answer came.
        """
        async with self._lock:
            connection = await self._connected()
            filled = [self.run_id if arg is RUN_ID else arg for arg in args]
            try:
                async with asyncio.timeout(self._settings.command_timeout_s):
                    try:
                        return await self._ask(connection, "EVALSHA", script.sha, len(keys), *keys, *filled)
                    except NoScriptError:
                        # The server has not run anything, so asking again is no retry. EVAL brings the text along: a
                        # flush between loading and calling cannot come in between.
                        return await self._ask(connection, "EVAL", script.text, len(keys), *keys, *filled)
            except ResponseError as error:
                raise ScriptFailedError(f"{script.name}: {error}") from error
            except ANSWERS_LOST as error:
                self._discard()
                raise OutcomeUnknownError(f"{script.name}: no answer from Redis: {error}") from error
            except asyncio.CancelledError:
                # The reply is still to come on this connection; whoever used it next would read it as his own.
                self._discard()
                raise

    async def close(self) -> None:
        """Close the connection."""
        async with self._lock:
            self._discard()

    @staticmethod
    async def _ask(connection: RedisPipe, *command: Arg) -> Any:  # noqa: ANN401
        return await connection.ask(*command)

    async def _connected(self) -> RedisPipe:
        if self._connection is not None and self._connection.is_open:
            return self._connection
        self.run_id = ""
        host, port = self._settings.host, self._settings.port
        connection = RedisPipe()
        try:
            async with asyncio.timeout(self._settings.connect_timeout_s):
                await asyncio.get_running_loop().create_connection(lambda: connection, host, port)
                info: bytes = await self._ask(connection, "INFO", "server")
                # Answers -LOADING while the log is read back, so that nothing is taken for a lost key.
                await self._ask(connection, "EXISTS", keys.CAMPAIGNS)
        except BaseException as error:
            connection.close()
            if isinstance(error, ANSWERS_LOST):
                raise BackendError(f"Redis at {host}:{port}: {error}") from error
            raise
        self._connection = connection
        self.run_id = _run_id(info)
        return connection

    def _discard(self) -> None:
        connection, self._connection, self.run_id = self._connection, None, ""
        if connection is not None:
            connection.close()


class _RunId(str):
    """The placeholder for the run id of whichever connection a call goes out on."""

    __slots__ = ()


RUN_ID = _RunId("<run id>")


def _run_id(info: bytes) -> str:
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line[len(b"run_id:") :].decode()
    raise BackendError("Redis did not tell its run id")

"""A Redis that goes back to an older state, as after a power loss with `appendfsync everysec`."""

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from domain.settings import RedisSettings, Settings
from stack.ports import free_port
from stack.redis import prepare, spec
from stack.supervisor import Supervisor


@dataclass
class ForgetfulRedis:
    """A redis-server of our own whose log loses its tail when told to."""

    home: Path
    port: int
    supervisor: Supervisor

    def mark(self) -> int:
        """Return how long the log is; what is written from now on may be forgotten. Redis must be quiet."""
        return self._log.stat().st_size

    async def go_back(self, mark: int) -> None:
        """Lose power, and with it all of the log beyond the mark; then start again."""
        await self.supervisor.kill("redis", signal.SIGKILL)
        await self.supervisor.stop_child("redis")
        os.truncate(self._log, mark)
        await self.supervisor.start_child("redis")

    def settings(self, settings: Settings) -> Settings:
        """Return settings with this Redis."""
        return msgspec.structs.replace(settings, redis=RedisSettings(port=self.port))

    @property
    def _log(self) -> Path:
        (log,) = (self.home / "redis" / "appendonlydir").glob("*.incr.aof")
        return log


@contextlib.asynccontextmanager
async def forgetful_redis(home: Path) -> AsyncIterator[ForgetfulRedis]:
    """Run one."""
    port = free_port()
    await prepare(home, port)
    supervisor = Supervisor()
    await supervisor.start([spec(home, port)])
    try:
        yield ForgetfulRedis(home, port, supervisor)
    finally:
        await supervisor.stop()

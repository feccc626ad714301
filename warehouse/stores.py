"""What the steps between the catalog, Redis and the orders work on."""

import time
from typing import Protocol

import redis.asyncio as redis

from adapters.mysql import Pool
from adapters.redis import ScriptChannel


class Stores(Protocol):
    """Both schemas and Redis."""

    @property
    def catalog(self) -> Pool:
        """The database fg_catalog."""

    @property
    def orders(self) -> Pool:
        """The database fg_orders."""

    @property
    def channel(self) -> ScriptChannel:
        """Redis, for scripts."""

    @property
    def client(self) -> "redis.Redis":
        """Redis, for reads."""


def wall_ms() -> int:
    """Return Unix milliseconds."""
    return time.time_ns() // 1_000_000

"""Clients for commands that do one thing and end."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

from adapters.stores import OpenStores as Clients
from adapters.stores import open_stores as open_clients

__all__ = ["Clients", "open_clients", "run"]

T = TypeVar("T")


def run(work: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine."""
    return asyncio.run(work)

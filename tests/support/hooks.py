"""Places in tests that do nothing, until a switch puts something there to turn a server's own mechanism off."""

from typing import Any

from stack.supervisor import Supervisor


async def before_crash(client: Any) -> None:
    """Called with a Redis client before Redis is killed."""


def make_supervisor() -> Supervisor:
    """Return the supervisor that a test runs its processes under."""
    return Supervisor()

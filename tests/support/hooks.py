"""Places in tests that do nothing, until a switch puts something there to turn a server's own mechanism off."""

from typing import Any

from stack.supervisor import Supervisor


async def before_crash(client: Any) -> None:
    """Called with a Redis client before Redis is killed."""


def make_supervisor() -> Supervisor:
    """Return the supervisor that a test runs its processes under."""
    return Supervisor()


def replace(owner: Any, name: str, value: object) -> None:
    """Set an attribute that exists; a switch for what is not there any more would prove nothing."""
    getattr(owner, name)
    setattr(owner, name, value)

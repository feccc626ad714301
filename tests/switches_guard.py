"""Switches for the insert-once guard."""

import asyncio
from collections.abc import Callable, Iterable
from typing import Any, Final

from tests.support.hooks import replace
from tests.switches_stock import alter_script


def insert_once_guard() -> None:
    """Facts are looked for and inserted without any guard."""
    from adapters.insert_once import Guard

    async def free(_self: Guard, _channel: Any, _facts: Iterable[str]) -> None:
        pass

    replace(Guard, "take", free)


def guard_looks_inside() -> None:
    """Under its guard a fact is inserted without a look at whether it is there."""
    from lifecycle import order_attributes

    replace(order_attributes, "_FIND", f"{order_attributes._FIND} AND 1 = 0")


def guard_released_by_its_owner() -> None:
    """Whoever asks releases a guard, whoever has it."""
    alter_script("release_guard", "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return NOT_OWNER end", "")


def guard_released_after_commit() -> None:
    """A guard is released right before the COMMIT."""
    from adapters.insert_once import Guard

    take, assert_held = Guard.take, Guard.assert_held
    channels: dict[Guard, Any] = {}
    releasing = set()

    async def take_and_remember(self: Guard, channel: Any, facts: Iterable[str]) -> None:
        channels[self] = channel
        await take(self, channel, facts)

    def assert_and_release(self: Guard) -> None:
        assert_held(self)
        releasing.add(asyncio.ensure_future(self.release(channels.pop(self))))

    replace(Guard, "take", take_and_remember)
    replace(Guard, "assert_held", assert_and_release)


def guard_checked_before_commit() -> None:
    """Nobody asks before a COMMIT whether the guard may have run out."""
    from adapters.insert_once import Guard

    def unchecked(self: Guard) -> None:
        self._asserted = True

    replace(Guard, "assert_held", unchecked)


def guard_kept_while_commit_is_unknown() -> None:
    """A guard is released though nobody knows whether the COMMIT will take effect."""
    from adapters.insert_once import Guard

    def never(_self: Guard, _error: BaseException) -> bool:
        return False

    replace(Guard, "may_still_commit", never)


SWITCHES: Final[dict[str, Callable[[], None]]] = {
    "insert_once_guard": insert_once_guard,
    "guard_looks_inside": guard_looks_inside,
    "guard_released_by_its_owner": guard_released_by_its_owner,
    "guard_released_after_commit": guard_released_after_commit,
    "guard_checked_before_commit": guard_checked_before_commit,
    "guard_kept_while_commit_is_unknown": guard_kept_while_commit_is_unknown,
}

"""Which facts share a guard, and when a guard may be released."""

import asyncio

import pytest

from adapters.insert_once import FACTS_MAX, Guard
from adapters.mysql import DataRefusedError
from adapters.redis import ScriptChannel
from domain import keys
from domain.errors import BackendError, OutcomeUnknownError
from domain.settings import GuardSettings, RedisSettings
from lifecycle.order_attributes import fact


def test_no_two_facts_share_a_guard() -> None:
    """Parts that run together to the same text are different facts, and each has a key of its own."""
    parts = [("a", "bc"), ("ab", "c"), ("abc", ""), ("", "abc"), ("a 2:bc", ""), ("a", "bc 0:"), ("é", "e")]
    assert len({fact(*one) for one in parts}) == len(parts)
    assert len({keys.guard(fact(*one)) for one in parts}) == len(parts)


def test_a_key_is_short_whatever_the_fact() -> None:
    """Text of strangers makes no key long, and puts nothing of its own into it."""
    for name in ("x" * 100_000, "}{\r\n\0", "\N{SNOWMAN}"):
        key = keys.guard(fact("order", name))
        assert len(key) == len("fg:guard:") + 2 * keys.GUARD_HASH_BYTES
        assert key.isascii()
        assert key.isprintable()


@pytest.mark.parametrize(
    ("error", "asserted", "may"),
    [
        (OutcomeUnknownError("no answer"), False, True),
        (OutcomeUnknownError("no answer"), True, True),
        (BackendError("deadlock"), True, False),
        (DataRefusedError("too long"), True, False),
        (asyncio.CancelledError(), True, True),
        (ZeroDivisionError(), True, True),
        (asyncio.CancelledError(), False, False),
        (ZeroDivisionError(), False, False),
        (BackendError("away"), False, False),
    ],
)
def test_when_a_commit_may_still_take_effect(error: BaseException, asserted: bool, may: bool) -> None:
    """Only what MySQL said is certain after the check before COMMIT; before it no COMMIT was sent."""
    guard = Guard(GuardSettings())
    if asserted:
        guard.assert_held()
    assert guard.may_still_commit(error) is may


async def test_facts_of_one_transaction_are_bounded() -> None:
    """More facts than can be asked for in time are refused before any of them is."""
    guard = Guard(GuardSettings())
    with pytest.raises(ValueError, match=str(FACTS_MAX)):
        await guard.take(ScriptChannel(RedisSettings(port=1)), (str(number) for number in range(FACTS_MAX + 1)))

"""Insert-once guard: one row per fact in a table that no unique index protects, because it is large or sharded.

A guard is a lock in Redis, keyed by the fact. Whoever inserts a fact does it like this, and in this order:

    async with insert_once(channel, [fact], settings) as guard:     # 1. the guard is taken
        async with transaction(pool) as cursor:                     # 2. READ COMMITTED
            …                                                       # 3. look for the fact, insert it if it is missing
            guard.assert_held()                                     # 4. is there time left for the COMMIT?
                                                                    # 5. COMMIT
                                                                    # 6. the guard is released

The look (3) comes after the taking (1), and reads what is committed by then: a transaction of REPEATABLE READ that
began before would read what was there when it began, and insert a second row.

**What it guarantees.** At most one row per fact, among all who insert it under the guard, while

- Redis keeps its data and its clock does not jump, and
- nobody pauses for longer than an eighth of the TTL between the check (4) and the end of the COMMIT (5).

The guard is released only when COMMIT was answered, or when it is certain that there will be none (6): the next to look
finds the row, or there is none and never will be. A transaction that takes longer than seven eighths of the TTL is
rolled back by the check (4), whoever has the guard by then: only a pause between check and COMMIT is left, not one
anywhere in a long transaction. Release compares the owner's token, a random one each time: an owner whose guard ran out
cannot release the next one's.

**Where the outcome of a COMMIT is not known** (its answer was lost, or the caller was cancelled while it was under way)
the guard is not released but left to its TTL: the server may still be about to do it, and who looked before that would
insert a second row. At least an eighth of the TTL is left then; a COMMIT that comes to MySQL later than that is one of
the pauses below. A guard whose taking got no answer is released if Redis can be asked again at once; else, like one
whose release got no answer, it is left to its TTL as well, and until then others are told that it is busy.

**What it cannot do.**

- A process that is stopped, or a COMMIT that hangs, for longer than the last eighth of the TTL after the check (4): its
  guard runs out, another looks and inserts, and then the COMMIT takes effect. Redis cannot know, and MySQL is not asked
  (a fencing token would have to be compared in the table, which is what an index does).
- A failover to a replica that has not got the lock yet, a Redis that comes back with less than it had, a FLUSHALL: two
  have the guard. With `appendfsync always` a crash alone loses nothing.
- Writers that do not use the guard.

Where an owner finds after its COMMIT that the guard was not its own any more, the log says which facts may have two
rows. Where two rows must be impossible, whatever happens, a unique index is the way.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final

from adapters.lua import load_script
from adapters.redis import ScriptChannel
from domain import keys
from domain.errors import BackendError, FlashgateError, OutcomeUnknownError
from domain.outcomes import GuardOutcome, GuardReleaseOutcome
from domain.settings import GuardSettings

log = logging.getLogger(__name__)

FACTS_MAX: Final = 1_000
"""Facts of one transaction: each costs a round trip to Redis before it and another one after it."""
MARGIN_PART: Final = 8
"""No COMMIT is begun in the last eighth of the TTL."""
TOKEN_BYTES: Final = 16
TOLD_MAX: Final = 10
"""Facts named in one line of the log."""


class GuardBusyError(BackendError):
    """Another flow has the guard of a fact; nothing was inserted, try again."""


class Guard:
    """The guards of some facts, while they are held."""

    def __init__(self, settings: GuardSettings) -> None:
        self._settings = settings
        self._token = secrets.token_hex(TOKEN_BYTES)
        self._held: dict[str, str] = {}  # key of the guard → fact
        self._commit_by_s = 0.0
        self._asserted = False

    def assert_held(self) -> None:
        """Check that there is time left for a COMMIT; call it right before, with nothing to wait for in between.

        Raises:
            BackendError: there is not: roll back, and do it all again.
        """
        if self._held and time.monotonic() >= self._commit_by_s:
            raise BackendError(
                f"the guard of {len(self._held)} facts may run out before the COMMIT is done "
                f"(guard.ttl_s is {self._settings.ttl_s:g} s): nothing was inserted"
            )
        self._asserted = True

    def may_still_commit(self, error: BaseException) -> bool:
        """Tell whether a transaction that ended in this error may be committed yet, or may have been.

        COMMIT is sent after `assert_held`. What the database's adapter says then is certain, unless it says that it
        does not know; a cancellation says nothing.
        """
        if isinstance(error, OutcomeUnknownError):
            return True
        return self._asserted and not isinstance(error, FlashgateError)

    async def take(self, channel: ScriptChannel, facts: Iterable[str]) -> None:
        """Take the guards of facts, one after the other; what was taken by then is released if one is not to be had.

        Raises:
            GuardBusyError: another has one of them.
            BackendError: Redis is not there, or has not answered.
        """
        # Whoever wants several takes them in the same order: of two none waits for the other's while he has his.
        wanted = sorted({keys.guard(fact): fact for fact in facts}.items())
        if len(wanted) > FACTS_MAX:
            raise ValueError(f"{len(wanted)} facts at once; at most {FACTS_MAX}")
        began_s = time.monotonic()
        try:
            for name, fact in wanted:
                await self._take_one(channel, name, fact, began_s + self._settings.wait_s)
        except BaseException as error:
            await self.release(channel)
            if isinstance(error, OutcomeUnknownError):
                raise BackendError(f"the guard may have been taken or not, nothing was inserted: {error}") from error
            raise

    async def _take_one(self, channel: ScriptChannel, name: str, fact: str, give_up_s: float) -> None:
        """Take one guard, asking again while another has it."""
        ttl_ms = round(1_000 * self._settings.ttl_s)
        while True:
            asked_s = time.monotonic()
            self._held[name] = fact  # from here on it may be ours, whether we hear of it or not
            code, left_ms = await channel.call(load_script("take_guard"), [name], [self._token, ttl_ms])
            if code == GuardOutcome.TAKEN:
                # Redis counts from later than this. The first one taken is the first to run out.
                self._commit_by_s = self._commit_by_s or asked_s + self._settings.ttl_s * (1 - 1 / MARGIN_PART)
                return
            del self._held[name]
            pause_s = self._settings.poll_ms / 1_000
            if time.monotonic() + pause_s > give_up_s:
                raise GuardBusyError(
                    f"another flow inserts the same fact; it is done in {left_ms / 1_000:.0f} s at the latest"
                )
            await asyncio.sleep(pause_s)

    async def release(self, channel: ScriptChannel) -> list[str]:
        """Release what is held; returns facts whose guards were not ours any more.

        What Redis does not confirm runs out by itself, as the log says.
        """
        held, self._held = self._held, {}
        lost = []
        for number, (name, fact) in enumerate(held.items()):
            try:
                code = await channel.call(load_script("release_guard"), [name], [self._token])
            except BackendError as error:
                self._log_left(len(held) - number, str(error))
                break
            if code == GuardReleaseOutcome.NOT_OWNER:
                lost.append(fact)
        return lost

    def leave(self, error: BaseException) -> None:
        """Leave what is held to its TTL, for the COMMIT may still take effect."""
        held, self._held = self._held, {}
        self._log_left(len(held), f"nobody knows whether the COMMIT took effect: {error!r}")

    def _log_left(self, count: int, why: str) -> None:
        log.warning("%d guards are left to their TTL of %g s: %s", count, self._settings.ttl_s, why)


@contextlib.asynccontextmanager
async def insert_once(channel: ScriptChannel, facts: Iterable[str], settings: GuardSettings) -> AsyncIterator[Guard]:
    """Hold the guards of some facts around the transaction that inserts those of them that are missing.

    See the module for how it is used, and for what it guarantees. It takes a round trip to Redis for each fact before
    the block and another one after it.

    Args:
        channel: Redis; others may use it meanwhile.
        facts: what is to be inserted once; text of any length, at most `FACTS_MAX` of them.
        settings: for how long, and how long to wait for others.

    Raises:
        GuardBusyError: another has one of them for longer than `settings.wait_s`; nothing was inserted.
        BackendError: Redis is not there; nothing was inserted.
        ValueError: too many facts.
    """
    guard = Guard(settings)
    await guard.take(channel, facts)
    try:
        yield guard
    except BaseException as error:
        if guard.may_still_commit(error):
            guard.leave(error)
        else:
            await guard.release(channel)
        raise
    lost = await guard.release(channel)
    if lost:
        log.error(
            "%d guards ran out, or Redis lost them, before their COMMIT was done; there may be two rows of: %s",
            *(len(lost), ", ".join(map(repr, lost[:TOLD_MAX]))),
        )

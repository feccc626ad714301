"""The sandbox provider's callbacks: signed, delivered at least once, tried again until they are taken in."""

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable
from typing import Final

import aiohttp

from lifecycle.callback import SIGNATURE_HEADER, sign
from sandbox.rules import ATTEMPTS_MAX, is_final, retry_after_s
from sandbox.store import Delivery, SandboxStore

log = logging.getLogger(__name__)

INFLIGHT_MAX: Final = 32
TIMEOUT_S: Final = 5.0
IDLE_MAX_S: Final = 5.0
"""How long nothing is looked for when nothing is due."""


class CallbackSender:
    """Delivers what the store has, to one URL, which may be changed."""

    def __init__(self, store: SandboxStore, url: str, key: bytes, *, clock: Callable[[], float] = time.time) -> None:
        self.url = url
        self._store = store
        self._key = key
        self._clock = clock
        self._wanted = asyncio.Event()
        self._under_way: set[int] = set()

    def wake(self) -> None:
        """Look for callbacks now."""
        self._wanted.set()

    async def run(self) -> None:
        """Deliver until cancelled; what is under way then is delivered again after the next start.

        Raises:
            ExceptionGroup: the store failed.
        """
        async with (
            aiohttp.ClientSession(
                timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
                connector=aiohttp.TCPConnector(limit=INFLIGHT_MAX),
                cookie_jar=aiohttp.DummyCookieJar(),
                auto_decompress=False,
            ) as session,
            asyncio.TaskGroup() as group,
        ):
            while True:
                self._wanted.clear()
                for delivery in self._next():
                    self._under_way.add(delivery.number)
                    group.create_task(self._deliver(session, delivery))
                await self._rest()

    def _next(self) -> list[Delivery]:
        """Return what is due and not under way, as far as there is room."""
        room = INFLIGHT_MAX - len(self._under_way)
        if room <= 0:
            return []
        # Those under way are due as well; with this limit there are enough others among what is found.
        due = self._store.due(self._clock(), INFLIGHT_MAX + len(self._under_way))
        return [delivery for delivery in due if delivery.number not in self._under_way][:room]

    async def _rest(self) -> None:
        """Wait until something else may be due."""
        now_s = self._clock()
        due_s = self._store.next_due_s(now_s)
        pause_s = IDLE_MAX_S if due_s is None else min(IDLE_MAX_S, due_s - now_s)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._wanted.wait(), pause_s)

    async def _deliver(self, session: aiohttp.ClientSession, delivery: Delivery) -> None:
        """Make one attempt, and note what came of it."""
        try:
            why = await self._send(session, delivery.body)
            attempts = delivery.attempts + 1
            if why is not None and attempts >= ATTEMPTS_MAX:
                log.warning("callback given up after %d attempts: %s: %r", attempts, why, delivery.body)
                why = None
            if why is None:
                self._store.done(delivery.number)
            else:
                self._store.postpone(delivery.number, self._clock() + retry_after_s(attempts))
        finally:
            self._under_way.discard(delivery.number)
            self._wanted.set()

    async def _send(self, session: aiohttp.ClientSession, body: bytes) -> str | None:
        """Send one callback; returns None if it need not be sent again, else why it must be."""
        headers = {"Content-Type": "application/json", SIGNATURE_HEADER: sign(body, self._key, int(self._clock()))}
        try:
            async with session.post(self.url, data=body, headers=headers, allow_redirects=False) as answer:
                status = answer.status
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"{type(error).__name__}: {error}"
        if not is_final(status):
            return f"status {status}"
        if status >= 400:
            log.warning("callback refused with status %d: %r", status, body)
        return None

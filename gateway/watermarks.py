"""With `durability = "kafka"`: answers wait here until the relay's watermark has passed their outbox entry.

A watermark speaks for the Redis that it was moved in. A Redis that has lost its newest entries goes on with higher ids
than theirs: that these are in Kafka says nothing of the lost ones, and who waits for one of them is told that its
outcome is not known.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from domain.outbox import OutboxPosition, parse_outbox_id


@dataclass(slots=True)
class _Waiting:
    run_id: str
    position: OutboxPosition
    then: Callable[[], None]
    otherwise: Callable[[], None]
    timer: asyncio.TimerHandle
    done: bool = False


class Watermarks:
    """How far the relay is, by campaign, and who waits for it."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._reached: dict[str, tuple[str, OutboxPosition]] = {}
        self._waiting: dict[str, deque[_Waiting]] = {}

    def advance(self, campaign_id: str, outbox_id: str, run_id: str) -> None:
        """Note that all entries of this Redis up to this one are in Kafka, and let those go who wait for them."""
        position = parse_outbox_id(outbox_id)
        if self._has_reached(campaign_id, position, run_id):
            return
        self._reached[campaign_id] = run_id, position
        waiting = self._waiting.get(campaign_id)
        while waiting and (waiting[0].done or waiting[0].run_id != run_id or waiting[0].position <= position):
            entry = waiting.popleft()
            if not entry.done:
                entry.timer.cancel()
                (entry.then if entry.run_id == run_id else entry.otherwise)()

    def _has_reached(self, campaign_id: str, position: OutboxPosition, run_id: str) -> bool:
        known_run_id, reached = self._reached.get(campaign_id, ("", (0, 0)))
        return known_run_id == run_id and position <= reached

    def when_reached(
        self, campaign_id: str, outbox_id: str, run_id: str, then: Callable[[], None], otherwise: Callable[[], None]
    ) -> None:
        """Call `then` once the entry is in Kafka, or `otherwise` if that takes too long, or is not known any more.

        Entries of one campaign must come in rising order, as the script's replies do. `run_id` is the Redis's that
        wrote the entry.
        """
        position = parse_outbox_id(outbox_id)
        if self._has_reached(campaign_id, position, run_id):
            then()
            return

        waiting = self._waiting.setdefault(campaign_id, deque())

        def give_up() -> None:
            entry.done = True
            entry.otherwise()
            # Deadlines pass in the order of the entries; nothing is kept for those who have gone.
            while waiting and waiting[0].done:
                waiting.popleft()

        timer = asyncio.get_running_loop().call_later(self._timeout_s, give_up)
        entry = _Waiting(run_id, position, then, otherwise, timer)
        waiting.append(entry)

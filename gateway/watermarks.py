"""With `durability = "kafka"`: answers wait here until the relay's watermark has passed their outbox entry."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from domain.outbox import OutboxPosition, parse_outbox_id


@dataclass(slots=True)
class _Waiting:
    position: OutboxPosition
    then: Callable[[], None]
    otherwise: Callable[[], None]
    timer: asyncio.TimerHandle
    done: bool = False


class Watermarks:
    """How far the relay is, by campaign, and who waits for it."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._reached: dict[str, OutboxPosition] = {}
        self._waiting: dict[str, deque[_Waiting]] = {}

    def advance(self, campaign_id: str, outbox_id: str) -> None:
        """Note that all entries up to this one are in Kafka, and let those go who wait for them."""
        position = parse_outbox_id(outbox_id)
        if position <= self._reached.get(campaign_id, (0, 0)):
            return
        self._reached[campaign_id] = position
        waiting = self._waiting.get(campaign_id)
        while waiting and (waiting[0].done or waiting[0].position <= position):
            entry = waiting.popleft()
            if not entry.done:
                entry.timer.cancel()
                entry.then()

    def when_reached(
        self, campaign_id: str, outbox_id: str, then: Callable[[], None], otherwise: Callable[[], None]
    ) -> None:
        """Call `then` once the entry is in Kafka, or `otherwise` if that takes too long.

        Entries of one campaign must come in rising order, as the script's replies do.
        """
        position = parse_outbox_id(outbox_id)
        if position <= self._reached.get(campaign_id, (0, 0)):
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
        entry = _Waiting(position, then, otherwise, timer)
        waiting.append(entry)

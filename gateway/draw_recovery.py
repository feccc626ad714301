"""Bringing a lottery back after Redis has lost its newest draws: from its log in Kafka, entry by entry.

Nothing but the log is believed. Each entry must go on from what Redis has, by number and hash; then Redis is again what
it was after the last of them, and all that follows from the draws that won is published once more, for the relay may
have crashed between the log and that.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Final, Protocol

import redis.asyncio as redis

from adapters.draws import LogHead, read_log_head, restore_draws
from adapters.redis import ScriptChannel
from domain.draw_events import DrawLog, in_order
from domain.errors import OperationRefusedError
from domain.lottery import Moved, parse_line
from gateway.draw_records import won_records
from gateway.outgoing import Outgoing

PUBLISHED_AT_ONCE: Final = 1_000


class LogSources(Protocol):
    """Who may know more of a lottery than Redis; see `gateway.recovery_sources`."""

    def logs_since(self, campaign_id: str, since_ms: int) -> AsyncIterator[DrawLog]:
        """Yield entries of the log that Kafka has got since."""

    async def owners(self, campaign_id: str, digests: Collection[str]) -> Mapping[str, str]:
        """Return draw (32 hex) → user, of those that have a row."""


class LotteryRecovery:
    """Restores lotteries.

    Args:
        channel: to Redis.
        client: for reads.
        sources: Kafka and MySQL.
        publish: brings records to Kafka.
    """

    def __init__(
        self,
        channel: ScriptChannel,
        client: "redis.Redis",
        sources: LogSources,
        publish: Callable[[Sequence[Outgoing]], Awaitable[None]],
    ) -> None:
        self._channel = channel
        self._client = client
        self._sources = sources
        self._publish = publish

    async def restore(self, campaign_id: str, since_ms: int, run_id: str) -> int | None:
        """Bring Redis to where the log in Kafka is; returns the draws restored, None if the campaign is no lottery.

        Args:
            campaign_id: the campaign, whose gate is closed.
            since_ms: from when on Redis may have lost something, Unix milliseconds.
            run_id: the server on which recovery compares.

        Raises:
            BackendError: a store did not answer; asking again goes on where this broke off.
            OperationRefusedError: the log does not go on from what Redis has; a person has to look.
        """
        head = await read_log_head(self._client, campaign_id)
        if head is None:
            return None
        logs = missing_logs(campaign_id, head, [log async for log in self._sources.logs_since(campaign_id, since_ms)])
        owners = await self._owners(campaign_id, logs)
        restored = 0
        for log in logs:
            restored += await restore_draws(self._channel, log, owners, run_id=run_id)
        records = [record for log in logs for record in won_records(log)]
        for start in range(0, len(records), PUBLISHED_AT_ONCE):
            await self._publish(records[start : start + PUBLISHED_AT_ONCE])
        return restored

    async def _owners(self, campaign_id: str, logs: Sequence[DrawLog]) -> Mapping[str, str]:
        moves = [what for log in logs for what in map(parse_line, log.lines) if isinstance(what, Moved)]
        released = {move.reference for move in moves if move.kind == "release"}
        return await self._sources.owners(campaign_id, released) if released else {}


def missing_logs(campaign_id: str, head: LogHead, logs: Sequence[DrawLog]) -> list[DrawLog]:
    """Return the entries that Redis lacks, in order.

    Raises:
        OperationRefusedError: Kafka's log is another one than Redis's, or has a hole.
    """
    found = in_order(logs)
    missing = [log for log in found if log.entry.last_seq > head.seq]
    forked = [log for log in found if log.entry.last_seq == head.seq and log.hash != head.hash]
    expected = head.seq + 1
    for log in missing:
        if log.seq != expected:
            forked.append(log)
            break
        expected = log.entry.last_seq + 1
    if forked:
        raise OperationRefusedError(
            f"lottery {campaign_id!r}: its log in Kafka does not go on from line {head.seq}, where Redis is: look at "
            f"line {forked[0].seq}; the lottery stays closed"
        )
    return missing

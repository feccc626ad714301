"""The relay's side of the outbox in Redis: ownership, blocked reads, checkpoint."""

from typing import Any, NamedTuple

import redis.asyncio as redis

from adapters.lua import load_script
from adapters.redis import ANSWERS_LOST, ScriptChannel
from domain import keys
from domain.errors import BackendError
from domain.outbox import next_outbox_id


class Entry(NamedTuple):
    """One outbox entry as it was read."""

    campaign_id: str
    outbox_id: str
    fields: dict[bytes, bytes]


class Claim(NamedTuple):
    """What came of claiming a campaign."""

    ours: bool
    checkpoint: str
    """The last outbox id known to be in Kafka."""
    entries: int
    """Entries in the outbox."""
    newest: str
    """The newest outbox id ever written."""
    kind: str
    """The campaign's; empty if Redis has lost the campaign."""


class OutboxSource:
    """Outbox streams of all campaigns, for one relay with its own nonce."""

    def __init__(self, channel: ScriptChannel, blocking: "redis.Redis", nonce: str) -> None:
        """Take a script channel and a client of its own for blocked reads."""
        self._channel = channel
        self._blocking = blocking
        self._nonce = nonce

    async def claim(self, campaign_id: str, ttl_ms: int) -> Claim:
        """Take or keep ownership.

        Raises:
            BackendError: Redis is not there.
        """
        code, checkpoint, entries, newest, kind = await self._channel.call(
            load_script("claim_relay"),
            [keys.relay(campaign_id), keys.outbox(campaign_id), keys.campaign(campaign_id)],
            [self._nonce, ttl_ms],
        )
        return Claim(code == 1, checkpoint.decode(), int(entries), newest.decode(), kind.decode())

    async def read(self, positions: dict[str, str], *, entries_max: int, block_ms: int) -> list[Entry]:
        """Wait for entries after each campaign's position; empty after `block_ms` without any.

        Raises:
            BackendError: Redis is not there.
        """
        streams = {keys.outbox(campaign_id): position for campaign_id, position in positions.items()}
        names = {keys.outbox(campaign_id).encode(): campaign_id for campaign_id in positions}
        try:
            answer: Any = await self._blocking.xread(streams, count=entries_max, block=block_ms)  # type: ignore[arg-type]
        except ANSWERS_LOST as error:
            raise BackendError(f"Redis: the outbox cannot be read: {error}") from error
        return [
            Entry(names[name], outbox_id.decode(), fields)
            for name, entries in answer or ()
            for outbox_id, fields in entries
        ]

    async def advance(self, campaign_id: str, outbox_id: str) -> tuple[bool, int]:
        """Move the checkpoint; returns whether it is still ours to move, and how many entries are left.

        Raises:
            BackendError: Redis is not there, or the answer was lost; asking again is harmless.
        """
        code, left = await self._channel.call(
            load_script("advance_checkpoint"),
            [keys.relay(campaign_id), keys.outbox(campaign_id), keys.campaign(campaign_id)],
            [self._nonce, outbox_id, next_outbox_id(outbox_id), campaign_id, keys.WATERMARKS],
        )
        return code != 0, int(left)

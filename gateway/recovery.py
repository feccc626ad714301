"""Opening the gate after Redis was restarted or replaced.

The scripts admit only connections whose server's run id is the one stored here. So after any restart the gate is
closed until recovery has asked Kafka and MySQL for orders that are newer than the outbox's last id, and put back what
Redis has lost. With `appendfsync always` it has lost nothing, and the gate opens at once.

Runs inside the relay, between two of its rounds, so that nothing of its own is under way to Kafka meanwhile.
"""

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Final

import redis.asyncio as redis

from adapters.redis import ScriptChannel
from adapters.stock import LostOrder, open_gate, read_fence, restore
from domain.errors import BackendError
from domain.events import OrderAccepted
from domain.order import split_order_id, user_hash
from domain.outbox import START, parse_outbox_id

log = logging.getLogger(__name__)

RESTORED_AT_ONCE: Final = 200

EventsSince = Callable[[str, int], AsyncIterator[OrderAccepted]]
"""(campaign id, Unix ms) → events accepted from then on, as far as the source knows."""


class Recovery:
    """Compares, restores, opens."""

    def __init__(
        self,
        channel: ScriptChannel,
        client: "redis.Redis",
        kafka_since: EventsSince,
        mysql_since: EventsSince,
    ) -> None:
        """Take the script channel, a client for reads, and the two sources that may know more than Redis."""
        self._channel = channel
        self._client = client
        self._sources = (kafka_since, mysql_since)

    async def closed(self, campaign_ids: Iterable[str]) -> list[str]:
        """Return the campaigns whose gate is closed, those that sold last first.

        Raises:
            BackendError: Redis is not there.
        """
        run_id = await self._channel.connect()
        fences = {campaign_id: await read_fence(self._client, campaign_id) for campaign_id in campaign_ids}
        found = [campaign_id for campaign_id, (stored, _) in fences.items() if stored not in {None, run_id}]
        return sorted(found, key=lambda campaign_id: parse_outbox_id(fences[campaign_id][1]), reverse=True)

    async def open_gate(self, campaign_id: str) -> int | None:
        """Open a campaign's gate if it is closed; returns the orders restored, or None if it was open.

        Raises:
            BackendError: one of the three stores did not answer; the gate stays closed.
            OperationRefusedError: the lost orders do not fit into the stock; the gate stays closed.
        """
        run_id = await self._channel.connect()
        stored, last_outbox_id = await read_fence(self._client, campaign_id)
        if stored in {None, run_id}:
            return None
        lost = await self.find_lost(campaign_id, last_outbox_id)
        restored = 0
        for start in range(0, len(lost), RESTORED_AT_ONCE):
            piece = [_lost_order(event) for event in lost[start : start + RESTORED_AT_ONCE]]
            # Only the last piece moves the newest outbox id, so that a recovery that breaks off finds the rest again.
            newest = lost[-1].outbox_id if start + RESTORED_AT_ONCE >= len(lost) else START
            restored += await restore(self._channel, campaign_id, piece, newest, run_id=run_id)
        await open_gate(self._channel, campaign_id, run_id)
        log.warning("campaign %s: Redis was restarted; %d lost orders restored, gate open", campaign_id, restored)
        return restored

    async def find_lost(self, campaign_id: str, last_outbox_id: str) -> list[OrderAccepted]:
        """Return what Kafka or MySQL hold beyond the outbox's last id, oldest first, each order once."""
        last = parse_outbox_id(last_outbox_id)
        lost: dict[str, OrderAccepted] = {}
        for events_since in self._sources:
            async for event in events_since(campaign_id, last[0]):
                if event.campaign_id == campaign_id and parse_outbox_id(event.outbox_id) > last:
                    lost.setdefault(event.order_id, event)
        return sorted(lost.values(), key=lambda event: (parse_outbox_id(event.outbox_id), event.outbox_index))


def _lost_order(event: OrderAccepted) -> LostOrder:
    parts = split_order_id(event.order_id)
    if parts is None:
        raise BackendError(f"{event.order_id!r} is no order id")
    return LostOrder(
        digest=parts[1],
        fingerprint=event.fingerprint,
        sku_id=event.sku_id,
        quantity=event.quantity,
        user_id=event.user_id,
        user_hash=user_hash(event.user_id),
        hold_no=event.hold_no,
        held=True,
    )

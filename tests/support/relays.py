"""What tests of the relay share: orders in entries of their own, metrics, relays that are held up."""

import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
from prometheus_client import REGISTRY

from adapters.stock import read_snapshot
from domain import keys
from domain.settings import Settings
from gateway.outgoing import Outgoing
from gateway.relay import Publisher, Relay
from tests.support.shop import Shop

GAPS = "flashgate_relay_gaps_total"
POISON = "flashgate_relay_dead_letters_total"
RECREATED = "flashgate_relay_producers_recreated_total"


def counted(name: str) -> float:
    """Return a counter of this process."""
    return REGISTRY.get_sample_value(name) or 0.0


async def buy_one_by_one(shop: Shop, url: str, prefix: str, count: int) -> list[str]:
    """Have so many buyers accepted, each in an outbox entry of his own; returns the order ids."""
    order_ids = []
    for number in range(count):
        said = await shop.buy(url, f"{prefix}-{number}")
        assert said.status == 202
        order_ids.append(said.body["order_id"])
    return order_ids


async def entries(shop: Shop) -> list[str]:
    """Return the ids of the entries in the outbox."""
    found: Any = await shop.clients.client.xrange(keys.outbox(shop.id))
    return [name.decode() for name, _ in found]


async def checkpoint(shop: Shop) -> str:
    """Return the relay's checkpoint."""
    snapshot = await read_snapshot(shop.clients.client, shop.id)
    assert snapshot is not None
    return snapshot.checkpoint


def with_relay(settings: Settings, **changes: Any) -> Settings:
    """Return settings with changes to `[relay]`."""
    return msgspec.structs.replace(settings, relay=msgspec.structs.replace(settings.relay, **changes))


class HeldPublisher:
    """Publishes so many times, and then waits until it is let go.

    Args:
        publisher: who does it.
        free: how many publications are not held.
    """

    def __init__(self, publisher: Publisher, free: int) -> None:
        self._publisher = publisher
        self._free = free
        self.go_on = asyncio.Event()

    async def publish(self, records: Sequence[Outgoing]) -> None:
        """Publish, or wait."""
        self._free -= 1
        if self._free < 0:
            await self.go_on.wait()
        await self._publisher.publish(records)

    async def close(self) -> None:
        """Disconnect."""
        await self._publisher.close()

    @classmethod
    def of(cls, relay: Relay, free: int) -> "HeldPublisher":
        """Hold up a relay that has not begun."""
        held = cls(relay._publisher, free)
        relay._publisher = held
        return held

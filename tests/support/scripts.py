"""A private Redis, and campaigns in it whose scripts a test calls directly."""

import contextlib
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis.asyncio as redis

from adapters.campaign_stock import load_campaign, move_campaign
from adapters.redis import ScriptChannel, make_client
from adapters.stock import (
    Attempt,
    BatchReply,
    LostOrder,
    OrderRequest,
    Snapshot,
    StockLine,
    admit,
    read_attempts,
    read_snapshot,
    restore,
)
from domain import keys
from domain.campaign import Campaign, parse_campaign
from domain.order import fingerprint, order_id, user_hash
from domain.outcomes import Outcome
from domain.settings import RedisSettings
from stack.ports import free_port
from stack.redis import prepare, spec
from stack.supervisor import Supervisor
from tests.support.shop import SKU, campaign_text

TOKEN_U: Final = 1_000_000
FAST: Final = "admit_per_s = 1000000\nadmit_burst = 1000000\nuser_per_s = 1000000\nuser_burst = 1000000"
"""Limits that never bind."""


@contextlib.asynccontextmanager
async def private_redis(home: Path) -> AsyncIterator[RedisSettings]:
    """Run a redis-server of our own; yields where it is."""
    port = free_port()
    await prepare(home, port)
    supervisor = Supervisor()
    await supervisor.start([spec(home, port)])
    try:
        yield RedisSettings(port=port)
    finally:
        await supervisor.stop()


@dataclass
class ScriptSale:
    """One campaign in a private Redis."""

    server: RedisSettings
    campaign: Campaign
    channel: ScriptChannel
    client: "redis.Redis"

    @property
    def id(self) -> str:
        """The campaign's id."""
        return self.campaign.id

    def order(self, user: str, key: str = "k", quantity: Any = 1, sku: str = SKU) -> OrderRequest:
        """Return an order as the gateway hands it on, whatever its quantity is."""
        digest = order_id(self.id, user, key)[-32:]
        return OrderRequest(digest, fingerprint(sku, quantity), sku, quantity, user, user_hash(user))

    async def ask(
        self,
        *orders: OrderRequest,
        channel: ScriptChannel | None = None,
        attempts_max: int = 8,
        outbox_max: int = 1_000_000,
    ) -> BatchReply:
        """Have a batch decided."""
        return await admit(channel or self.channel, self.id, orders, attempts_max=attempts_max, outbox_max=outbox_max)

    async def outcomes(self, *orders: OrderRequest, **how: Any) -> list[Outcome]:
        """Have a batch decided; returns the outcomes alone."""
        return [outcome for outcome, _ in (await self.ask(*orders, **how)).decisions]

    async def snapshot(self) -> Snapshot:
        """Read the campaign."""
        found = await read_snapshot(self.client, self.id)
        assert found is not None
        return found

    async def line(self, sku: str = SKU) -> StockLine:
        """Read one SKU's numbers."""
        return (await self.snapshot()).stock[sku]

    async def attempts(self, user: str) -> list[Attempt]:
        """Read a buyer's record."""
        packed: Any = await self.client.get(keys.buyer(self.id, user))
        return read_attempts(packed)

    async def dump(self) -> dict[bytes, bytes | None]:
        """Return all that Redis has of this campaign, byte by byte."""
        names = [name async for name in self.client.scan_iter(match=f"fg:{{{self.id}:*")]
        return {name: await self.client.dump(name) for name in names}

    async def set_fields(self, **fields: str | int) -> None:
        """Tamper with the campaign's hash."""
        await self.client.hset(keys.campaign(self.id), mapping={name: str(value) for name, value in fields.items()})


def sale_file(campaign_id: str, **campaign: Any) -> Campaign:
    """Return a campaign; see `campaign_text` for what may be set. The limits never bind unless set."""
    return parse_campaign(campaign_text(campaign_id, **{"limits": FAST, **campaign}), source="test")


@contextlib.asynccontextmanager
async def script_sale(server: RedisSettings, *, opened: bool = True, **campaign: Any) -> AsyncIterator[ScriptSale]:
    """Load a campaign with an id of its own, and open it."""
    channel, client = ScriptChannel(server), make_client(server)
    made = sale_file(f"t-{secrets.token_hex(5)}", **campaign)
    try:
        await load_campaign(channel, made)
        if opened:
            await move_campaign(channel, made.id, "open")
        yield ScriptSale(server, made, channel, client)
    finally:
        await channel.close()
        await client.aclose()


async def restore_now(channel: ScriptChannel, campaign_id: str, orders: Sequence[LostOrder], newest_id: str) -> int:
    """Restore on the server that the channel is connected to."""
    return await restore(channel, campaign_id, orders, newest_id, run_id=await channel.connect())

"""A campaign whose orders a test moves by hand, from Redis through Kafka to MySQL."""

import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec
import redis.asyncio as redis

from adapters.campaign_stock import load_campaign, move_campaign
from adapters.catalog import CatalogCampaign
from adapters.kafka_sender import KafkaSender
from adapters.mysql import Pool, transaction
from adapters.redis import ScriptChannel, make_client
from adapters.stock import OrderRequest, admit
from consumers.reconcile import reconcile
from consumers.reconcile_report import CampaignReport
from consumers.reconcile_sources import Look, Sources
from domain import keys
from domain.campaign import Campaign
from domain.events import OrderAccepted
from domain.order import digest_of, fingerprint, order_id, user_hash
from domain.order_state import OrderStatus
from domain.outcomes import Outcome
from domain.settings import RedisSettings, Settings
from gateway.outbox_source import OutboxSource
from gateway.outgoing import Outgoing
from gateway.recovery import Recovery
from gateway.recovery_rules import StoredOrder
from gateway.recovery_sources import Reacquisition
from gateway.relay import Relay
from lifecycle.keeper import Keeper
from lifecycle.order_rows import find_order, give_up
from stack.servers import Endpoints
from tests.support.allocated import allocate_in_mysql
from tests.support.events import sample_campaign
from tests.support.metrics import Recorded
from tests.support.orders import Sale, new_sale

STOCK: Final = 50
OWNER: Final = "relay"
"""A test's next relay need not wait for the one before: they are one owner."""


@dataclass
class Quiet:
    """Implements the relay's Metrics and a Publisher that writes to the sale's own topic."""

    sale: Sale
    published: int = 0

    async def publish(self, records: Sequence[Outgoing]) -> None:
        """Publish."""
        await self.sale.publish([(record.key, record.value) for record in records])
        self.published += len(records)

    async def close(self) -> None:
        """Nothing is kept open."""

    def relayed(self, orders: int) -> None:
        """Ignore."""

    def waiting(self, campaign_id: str, entries: int) -> None:
        """Ignore."""

    def poison(self) -> None:
        """Ignore."""

    def gap(self) -> None:
        """Ignore."""


class KnowNothing:
    """Implements recovery's Sources: Redis has lost nothing."""

    async def events_since(self, _campaign_id: str, _since_ms: int) -> AsyncIterator[OrderAccepted]:
        """Yield nothing."""
        for event in list[OrderAccepted]():
            yield event

    async def rows_since(self, _campaign_id: str, _since_ms: int) -> list[StoredOrder]:
        """Return nothing."""
        return []

    async def reacquiring(self, _campaign_id: str) -> list[Reacquisition]:
        """Return nothing."""
        return []

    async def catalog(self, _campaign_id: str) -> CatalogCampaign | None:
        """Return nothing."""
        return None

    async def return_again(self, _campaign_id: str, _since_ms: int) -> None:
        """Do nothing."""


class Unheard:
    """Implements RoundsMetrics."""

    def done(self, work: str, count: int) -> None:
        """Ignore."""

    def put_off(self, work: str) -> None:
        """Ignore."""

    def failed(self, work: str) -> None:
        """Ignore."""


@dataclass
class Flow:
    """A campaign of its own on the way from Redis through Kafka to MySQL, each step by hand."""

    sale: Sale
    settings: Settings
    campaign: Campaign
    channel: ScriptChannel
    client: "redis.Redis"
    blocking: "redis.Redis"
    order_ids: list[str] = field(default_factory=list)

    @property
    def id(self) -> str:
        """The campaign."""
        return self.campaign.id

    @property
    def orders(self) -> Pool:
        """The database fg_orders."""
        return self.sale.orders

    async def accept(self, count: int, sku_id: str = "box-1") -> list[str]:
        """Let so many more buyers order one unit each, in batches; returns the order ids."""
        first = len(self.order_ids)
        users = [f"buyer-{number}" for number in range(first, first + count)]
        made = [order_id(self.id, user, "key") for user in users]
        for start in range(0, count, 7):
            requests = [
                OrderRequest(digest_of(made[i]), fingerprint(sku_id, 1), sku_id, 1, users[i], user_hash(users[i]))
                for i in range(start, min(count, start + 7))
            ]
            reply = await admit(self.channel, self.id, requests, attempts_max=8, outbox_max=1_000)
            assert {outcome for outcome, _ in reply.decisions} == {Outcome.ACCEPTED}
        self.order_ids += made
        return made

    async def relay(self, count: int) -> None:
        """Relay exactly what is in the outbox: so many orders."""
        publisher = Quiet(self.sale)
        relay = self.make_relay(publisher)
        while publisher.published < count:
            await relay.run_once()
        assert publisher.published == count

    def make_relay(self, publisher: Quiet) -> Relay:
        """Return a relay of this campaign alone."""

        async def campaigns() -> list[str]:
            return [self.id]

        return Relay(
            msgspec.structs.replace(self.settings.relay, block_ms=10),
            lambda _nonce: OutboxSource(self.channel, self.blocking, OWNER),
            publisher,
            campaigns,
            Recovery(self.channel, self.client, KnowNothing()),
            publisher,
        )

    async def store(self, count: int) -> None:
        """Let the consumer write exactly what is in Kafka and not stored yet: so many orders."""
        metrics = Recorded()
        await self.sale.drain(self.sale.writer(metrics), metrics, count)
        assert metrics.records == count

    async def sell(self, count: int) -> list[str]:
        """Let orders go the whole way; returns their ids."""
        made = await self.accept(count)
        await self.relay(count)
        await self.store(count)
        return made

    async def expire(self, order_ids: Iterable[str]) -> None:
        """Let orders expire in MySQL; what that owes to Redis stays owed until `give_back`."""
        rows = [await find_order(self.orders, one) for one in order_ids]
        orders = [row for row in rows if row is not None]
        moved = await give_up(self.orders, orders, OrderStatus.EXPIRED, "a test", self.now_ms(), may=lambda _: True)
        assert len(moved) == len(orders) == len(rows)

    async def give_back(self) -> int:
        """Let Redis get back what is owed to it; returns how many returns were taken up."""
        nothing = KafkaSender(lambda: None, timeout_s=1.0)
        keeper = Keeper(
            self.settings.lifecycle,
            pool=self.orders,
            channel=self.channel,
            sender=nothing,
            desk=None,
            metrics=Unheard(),
            now_ms=self.now_ms,
        )
        return await keeper.return_stock()

    @staticmethod
    def now_ms() -> int:
        """Return Unix milliseconds."""
        return time.time_ns() // 1_000_000

    async def report(self) -> CampaignReport:
        """Reconcile this campaign."""
        (campaign,) = (await reconcile(self.settings, [self.id], topic=self.sale.topic)).campaigns
        return campaign

    async def sql(self, *statements: tuple[str, tuple[object, ...]]) -> None:
        """Tamper with MySQL."""
        async with transaction(self.orders) as cursor:
            for statement, args in statements:
                await cursor.execute(statement, args)


@dataclass
class Counted:
    """Counts the looks, and does something after the first."""

    sources: Sources
    then: Callable[[], Awaitable[None]] | None = None
    count: int = 0

    async def look(self, campaign_ids: Collection[str] | None) -> Look:
        """Look."""
        self.count += 1
        found = await self.sources.look(campaign_ids)
        if self.then is not None and self.count == 1:
            await self.then()
        return found


@contextlib.asynccontextmanager
async def new_flow(endpoints: Endpoints) -> AsyncIterator[Flow]:
    """Return an open campaign that no other test uses."""
    async with new_sale(endpoints) as sale:
        settings = msgspec.structs.replace(
            sale.settings, redis=RedisSettings(host=endpoints.redis_host, port=endpoints.redis_port)
        )
        campaign = sample_campaign(f"reconcile-{secrets.token_hex(4)}", stock=STOCK)
        channel = ScriptChannel(settings.redis)
        client, blocking = make_client(settings.redis), make_client(settings.redis, block_ms=1_000)
        await allocate_in_mysql(sale.catalog, sale.orders, campaign)
        await load_campaign(channel, campaign)
        await move_campaign(channel, campaign.id, "open")
        try:
            yield Flow(sale, settings, campaign, channel, client, blocking)
        finally:
            for one in await client.keys(f"fg:{{{campaign.id}:*"):
                await client.delete(one)
            await client.srem(keys.CAMPAIGNS, campaign.id)
            await channel.close()
            await client.aclose()
            await blocking.aclose()

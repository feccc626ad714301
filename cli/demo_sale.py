"""The demo's sale: load, open, let the crowd loose, wait until MySQL has it all, hold everything against each other."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import aiohttp
import msgspec

from adapters.mysql import Pool, query
from bench.crowd_link import LANES_MAX, CrowdLink
from bench.crowd_messages import Job, Result
from cli import demo_life, demo_outbound
from cli.campaign import read_campaign_file
from cli.clients import Clients
from cli.demo_life import Buyers, Life
from cli.demo_outbound import Clerk
from cli.demo_proof import Facts, House
from cli.demo_view import View
from consumers.reconcile import reconcile
from consumers.reconcile_report import Report
from domain.campaign import Campaign
from domain.errors import BackendError, ConfigError
from domain.order_state import OrderStatus
from domain.settings import Settings
from gateway.app import read_key
from stack.paths import PROJECT_ROOT
from warehouse.campaigns import close_campaign

SAMPLE: Final = PROJECT_ROOT / "examples" / "sale.toml"
WINDOW: Final = timedelta(hours=1)
"""The campaign opened so long ago and closes so long from now."""
SEED: Final = 1010
POLL_S: Final = 0.05
STALLED_S: Final = 30.0
"""MySQL has got no further for so long: what is missing will not come."""


@dataclass(frozen=True, slots=True)
class Sale:
    """What a sale came to."""

    facts: Facts
    result: Result
    report: Report
    told: set[str]
    """Order ids that buyers were told."""
    stored: list[str]
    """Order ids in MySQL."""
    life: Life | None
    """What became of the orders afterwards; None: there were too many for the demo to let them pay."""
    before: House
    """The warehouse when the campaign was loaded."""
    after: House
    """The warehouse at the end."""


def sample_campaign(buyers: int, stock: int) -> Campaign:
    """Return the sample campaign, open now, with so much stock and a time to pay that suits so many buyers.

    Raises:
        ConfigError: the file has become another one than the crowd knows to behave in.
    """
    campaign = read_campaign_file(SAMPLE)
    if len(campaign.sku) != 1 or campaign.sku[0].per_user != 1:
        raise ConfigError(f"{SAMPLE.name}: the demo needs one SKU, with per_user = 1")
    now = datetime.now(UTC)
    head = msgspec.structs.replace(campaign.campaign, opens_at=now - WINDOW, closes_at=now + WINDOW)
    if min(buyers, stock) <= demo_life.STOCK_MAX:
        head = msgspec.structs.replace(head, pay_within_s=demo_life.pay_within_s(buyers, stock))
    sku = msgspec.structs.replace(campaign.sku[0], stock=stock)
    return msgspec.structs.replace(campaign, campaign=head, sku=(sku,))


def crowd_job(settings: Settings, gateway_url: str, campaign: Campaign, buyers: int) -> Job:
    """Return what the crowd is to do."""
    url = urlsplit(gateway_url)
    return Job(
        host=url.hostname or "",
        port=url.port or 0,
        campaign_id=campaign.id,
        sku_id=campaign.sku[0].id,
        key_file=str(Path(settings.auth.key_file).absolute()),
        audience=settings.auth.audience,
        buyers=buyers,
        seed=SEED,
        lanes=LANES_MAX,
        pay_within_s=campaign.campaign.pay_within_s,
        empty_handed_max=demo_life.STOCK_MAX,
    )


async def sell(
    settings: Settings,
    clients: Clients,
    campaign: Campaign,
    crowd: CrowdLink,
    view: View,
    *,
    buyers: int,
    gateway_url: str,
    before: House,
) -> Sale:
    """Let a ready crowd loose, have orders paid, cancelled, expire and shipped, and return what came of it.

    Raises:
        FlashgateError: a server or the crowd failed.
    """
    stock = campaign.sku[0].stock
    scripts, inserts = await _script_calls(clients), await _insert_statements(clients.orders)
    with view.sale(buyers, stock):
        async with _watching(clients.orders, campaign.id, view) as arrivals:
            result = await crowd.go(view.progress)
            drained_s = await arrivals.wait_for(len(result.order_ids))
    scripts = _since(scripts, await _script_calls(clients))
    inserts = _since(inserts, await _insert_statements(clients.orders))
    life = await _live_on(settings, clients, campaign, view, result, gateway_url)
    withdrawn = await _close(clients, campaign, view) if life else 0
    view.say("comparing Redis, Kafka, MySQL and the warehouse …")
    report = await reconcile(settings, [campaign.id])
    (compared,) = report.campaigns
    rows = await query(clients.orders, "SELECT order_id FROM orders WHERE campaign_id = %s", (campaign.id,))
    again = life.accepted_ids if life else set()
    statuses = life.statuses if life else Counter({OrderStatus.CONFIRMED: compared.confirmed})
    parcels = await demo_outbound.count_parcels(clients, campaign.id)
    after = await demo_outbound.look_around(clients, campaign.sku[0].id)
    facts = Facts(
        kind=campaign.campaign.kind,
        buyers=buyers,
        stock=stock,
        accepted=len(again.union(result.order_ids)),
        sold_out=result.sold_out - len(again),
        rate_limited=result.rate_limited,
        failed=result.failed,
        confirmed=compared.confirmed,
        released=compared.released,
        sold=compared.sold,
        mysql_rows=compared.mysql_rows,
        redis_taken=compared.redis_taken,
        kafka_distinct=compared.kafka_distinct,
        redis_returned=sum(sku.returned for sku in compared.skus),
        paid=sum(statuses[one] for one in (OrderStatus.PAID, OrderStatus.APPROVED, OrderStatus.SHIPPED)),
        unpaid=statuses[OrderStatus.CONFIRMED],
        cancelled=statuses[OrderStatus.CANCELLED],
        expired=statuses[OrderStatus.EXPIRED],
        refunded=statuses[OrderStatus.REFUNDED],
        shipped=parcels.shipped,
        rejected=parcels.rejected,
        returned=parcels.returned,
        withdrawn=withdrawn,
        sold_again=len(again),
        drift=report.drift,
        offered_per_s=_rate(result.sent, result.seconds),
        accepted_per_s=_rate(len(result.order_ids), result.accepting_s),
        p50_ms=round(result.p50_ms, 1),
        p99_ms=round(result.p99_ms, 1),
        drain_s=round(max(0.0, drained_s - result.ended_monotonic_s), 3),
        evalsha_calls=scripts,
        insert_statements=inserts,
    )
    stored = [order_id for (order_id,) in rows]
    return Sale(facts, result, report, again.union(result.order_ids), stored, life, before, after)


async def _close(clients: Clients, campaign: Campaign, view: View) -> int:
    """Close the campaign; returns the units that nobody bought, which go back to the warehouse."""
    closed = await close_campaign(clients, campaign.id)
    withdrawn = sum(closed.returned.values())
    view.say(f"the campaign is closed, {withdrawn:,} unsold units are free in the warehouse again")
    return withdrawn


async def _live_on(
    settings: Settings, clients: Clients, campaign: Campaign, view: View, result: Result, gateway_url: str
) -> Life | None:
    """Have most orders paid, and what is not paid sold again; None if there are too many for that."""
    if len(result.order_ids) > demo_life.STOCK_MAX:
        view.say(f"more than {demo_life.STOCK_MAX:,} orders: they are left unpaid")
        return None
    orders = await query(
        clients.orders,
        "SELECT order_id, user_id FROM orders WHERE campaign_id = %s AND status = %s ORDER BY order_id",
        (campaign.id, OrderStatus.CONFIRMED),
    )
    view.say(f"{len(orders):,} orders are to be paid within {campaign.campaign.pay_within_s} s …")
    timeout = aiohttp.ClientTimeout(total=settings.gateway.answer_timeout_s * 2)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        buyers = Buyers(settings, read_key(settings), campaign, gateway_url, session, seed=SEED)
        return await demo_life.live_on(
            buyers,
            clients,
            campaign,
            view,
            new_clerk=lambda paying: Clerk(clients, settings, campaign.id, paying),
            orders=[(order_id, user_id) for order_id, user_id in orders],
            empty_handed=result.empty_handed,
            accepted=len(result.order_ids),
        )


class _Arrivals:
    """Orders arriving in MySQL."""

    def __init__(self, pool: Pool, campaign_id: str, view: View) -> None:
        self._pool = pool
        self._campaign_id = campaign_id
        self._view = view
        self._changed = asyncio.Condition()
        self._count = 0
        self._at_s = time.monotonic()

    async def watch(self) -> None:
        """Count for ever."""
        while True:
            count = await self._arrived()
            if count > self._count:
                self._view.in_mysql(count)
                async with self._changed:
                    self._count, self._at_s = count, time.monotonic()
                    self._changed.notify_all()
            await asyncio.sleep(POLL_S)

    async def _arrived(self) -> int:
        """Return how many there are; 0 while MySQL is away, which is no reason to end the sale."""
        sql = "SELECT COUNT(*) FROM orders WHERE campaign_id = %s"
        try:
            ((count,),) = await query(self._pool, sql, (self._campaign_id,))
        except BackendError:
            return 0
        return int(count)

    async def wait_for(self, count: int) -> float:
        """Wait until so many have arrived or none has for long; returns the monotonic time of the last arrival."""
        async with self._changed:
            while self._count < count:
                try:
                    async with asyncio.timeout(STALLED_S):
                        await self._changed.wait()
                except TimeoutError:
                    break
        return self._at_s


@contextlib.asynccontextmanager
async def _watching(pool: Pool, campaign_id: str, view: View) -> AsyncIterator[_Arrivals]:
    arrivals = _Arrivals(pool, campaign_id, view)
    task = asyncio.create_task(arrivals.watch())
    try:
        yield arrivals
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def _script_calls(clients: Clients) -> int:
    """Return how many EVALSHA Redis has run."""
    info: dict[str, Any] = await clients.client.info("commandstats")
    return int(info.get("cmdstat_evalsha", {}).get("calls", 0))


async def _insert_statements(pool: Pool) -> int:
    """Return how many INSERT statements the server has run."""
    ((_, count),) = await query(pool, "SHOW GLOBAL STATUS LIKE 'Com_insert'")
    return int(count)


def _since(before: int, now: int) -> int:
    """Return what a server has counted meanwhile; one that was restarted began anew, and knows no more than that."""
    return now - before if now >= before else now


def _rate(count: int, seconds: float) -> float:
    return round(count / seconds, 1) if seconds > 0 else 0.0

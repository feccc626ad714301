"""What the demos of all kinds share: the stage that a crowd is let loose on, what is counted meanwhile, the ending."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import urlsplit

import msgspec
from rich.console import RenderableType

from adapters.mysql import Pool, query
from adapters.tasks import meanwhile
from bench.crowd_link import LANES_MAX, CrowdLink
from bench.crowd_messages import Job, Result
from cli import demo_outbound
from cli.campaign import read_campaign_file
from cli.clients import Clients
from cli.demo_facts import Evidence, Facts, House
from cli.demo_view import Figure, View
from consumers.reconcile import reconcile
from consumers.reconcile_report import CampaignReport
from domain.campaign import Campaign
from domain.errors import BackendError
from domain.settings import Settings
from warehouse.campaigns import close_campaign, load_into

WINDOW: Final = timedelta(hours=1)
"""The campaign opened so long ago and closes so long from now."""
SEED: Final = 1010
POLL_S: Final = 0.05
STALLED_S: Final = 30.0
"""Nothing has got any further for so long: what is missing will not come."""

Look = Callable[[], Awaitable[Mapping[str, int]]]
"""Returns what has arrived behind the crowd's back, by name."""


@dataclass(frozen=True, slots=True)
class Stage:
    """Everything runs, and the campaign is loaded.

    Attributes:
        settings: of the processes.
        clients: of all stores.
        view: the demo's voice.
        gateway_url: the buyer plane.
        buyers: how many come.
    """

    settings: Settings
    clients: Clients
    view: View
    gateway_url: str
    buyers: int


class Ending(NamedTuple):
    """What a demo came to, to be told."""

    facts: Facts
    wrong: list[str]
    """What is not as promised; empty when all is well."""
    tables: Sequence[RenderableType]
    remarks: Sequence[tuple[str, str]]
    """A word and what is to be said of it."""
    examples: Sequence[str]
    """Of what is wrong."""
    proved: str
    """What has been proved if nothing is wrong."""


class Play(Protocol):
    """A demo of one kind: its campaign, its crowd, and its proof."""

    @property
    def campaign(self) -> Campaign:
        """What is sold, drawn or redeemed."""

    @property
    def wish(self) -> str:
        """What the buyers want, as in: want 100 units."""

    def crowd_options(self) -> dict[str, Any]:
        """Return what a crowd's job needs beyond what all need."""

    async def prepare(self, stage: Stage) -> None:
        """Do what is to be done before the campaign opens."""

    async def perform(self, stage: Stage, crowd: CrowdLink) -> Ending:
        """Let a ready crowd loose and see to everything until the end.

        Raises:
            FlashgateError: a server or the crowd failed.
        """


def open_now(campaign: Campaign) -> Campaign:
    """Return a campaign with a window around now."""
    now = datetime.now(UTC)
    head = msgspec.structs.replace(campaign.campaign, opens_at=now - WINDOW, closes_at=now + WINDOW)
    return msgspec.structs.replace(campaign, campaign=head)


def sample(path: Path) -> Campaign:
    """Return the campaign of a file, open now.

    Raises:
        ConfigError: the message names file, line and field.
    """
    return open_now(read_campaign_file(path))


async def stock_up(stage: Stage, campaign: Campaign) -> House:
    """Have the goods come in and the campaign allocated its share; returns what the warehouse says then."""
    await demo_outbound.fill_warehouse(stage.clients, campaign)
    await load_into(stage.clients, campaign, who=demo_outbound.WHO)
    return await demo_outbound.look_around(stage.clients, campaign)


def crowd_job(stage: Stage, play: Play) -> Job:
    """Return what the crowd is to do."""
    url, campaign, auth = urlsplit(stage.gateway_url), play.campaign, stage.settings.auth
    return Job(
        host=url.hostname or "",
        port=url.port or 0,
        kind=campaign.campaign.kind,
        campaign_id=campaign.id,
        # One of a small lottery's kinds of prizes may have no stock.
        sku_id=next(sku.id for sku in campaign.sku if sku.stock),
        key_file=str(Path(auth.key_file).absolute()),
        audience=auth.audience,
        buyers=stage.buyers,
        seed=SEED,
        lanes=LANES_MAX,
        **play.crowd_options(),
    )


async def close(stage: Stage, campaign: Campaign) -> int:
    """Close the campaign; returns the units that nobody got, which go back to the warehouse."""
    closed = await close_campaign(stage.clients, campaign.id)
    return sum(closed.returned.values())


# -- the crowd's run -----------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """A crowd's run, and what the servers did meanwhile."""

    result: Result
    drain_s: float
    scripts: int
    inserts: int


async def let_loose(
    stage: Stage,
    crowd: CrowdLink,
    figures: Sequence[Figure],
    look: Look,
    wanted: Callable[[Result], Awaitable[Mapping[str, int]] | Mapping[str, int]],
) -> Run:
    """Let a ready crowd loose, show how it goes, and wait until everything has arrived.

    Args:
        stage: where.
        crowd: ready.
        figures: what is shown.
        look: what has arrived.
        wanted: how much of it there must be, given the crowd's result.

    Raises:
        FlashgateError: a server or the crowd failed.
    """
    orders, client = stage.clients.orders, stage.clients
    scripts, inserts = await _script_calls(client), await _insert_statements(orders)
    with stage.view.show(figures):
        async with _watching(look, stage.view) as arrivals:
            result = await crowd.go(stage.view.progress)
            needed = wanted(result)
            arrived_s = await arrivals.wait_for(needed if isinstance(needed, Mapping) else await needed)
    scripts = _since(scripts, await _script_calls(client))
    inserts = _since(inserts, await _insert_statements(orders))
    return Run(result, round(max(0.0, arrived_s - result.ended_monotonic_s), 3), scripts, inserts)


class Compared(NamedTuple):
    """The stores held against each other, and the orders in MySQL."""

    report: CampaignReport
    drift: int
    notes: list[str]
    stored: list[str]
    statuses: Counter[str]
    """Status → order rows."""


async def compare(stage: Stage, campaign: Campaign) -> Compared:
    """Hold Redis, Kafka and MySQL against each other.

    Raises:
        BackendError: a store is not there.
    """
    report = await reconcile(stage.settings, [campaign.id])
    (compared,) = report.campaigns
    sql = "SELECT order_id, status FROM orders WHERE campaign_id = %s"
    rows = await query(stage.clients.orders, sql, (campaign.id,))
    return Compared(
        compared,
        report.drift,
        list(compared.explanations),
        [order_id for order_id, _ in rows],
        Counter(status for _, status in rows),
    )


def facts_of(stage: Stage, campaign: Campaign, run: Run, compared: Compared) -> Facts:
    """Return what is true of every kind."""
    result, report, counts = run.result, compared.report, run.result.counts
    return Facts(
        kind=campaign.campaign.kind,
        buyers=stage.buyers,
        stock=sum(sku.stock for sku in campaign.sku),
        accepted=len(result.order_ids),
        sold_out=counts["sold_out"],
        rate_limited=counts["rate_limited"],
        failed=counts["failed"],
        confirmed=report.confirmed,
        released=report.released,
        sold=report.sold,
        mysql_rows=report.mysql_rows,
        redis_taken=report.redis_taken,
        redis_returned=sum(sku.returned for sku in report.skus),
        kafka_distinct=report.kafka_distinct,
        drift=compared.drift,
        offered_per_s=_rate(result.sent, result.seconds),
        accepted_per_s=_rate(len(result.order_ids), result.accepting_s),
        p50_ms=round(result.p50_ms, 1),
        p99_ms=round(result.p99_ms, 1),
        drain_s=run.drain_s,
        evalsha_calls=run.scripts,
        insert_statements=run.inserts,
    )


def evidence_of(result: Result, compared: Compared, before: House, after: House) -> Evidence:
    """Return what the facts are held against."""
    return Evidence(result.order_ids, compared.stored, result.untrue, compared.notes, before, after)


class _Arrivals:
    """What arrives behind the crowd's back."""

    def __init__(self, look: Look, view: View) -> None:
        self._look = look
        self._view = view
        self._changed = asyncio.Condition()
        self._counts: Mapping[str, int] = {}
        self._at_s = time.monotonic()

    async def watch(self) -> None:
        """Count for ever."""
        while True:
            # A store that is away for a moment is no reason to end the demo.
            with contextlib.suppress(BackendError):
                counts = await self._look()
                if counts != self._counts:
                    self._view.note(counts)
                    async with self._changed:
                        self._counts, self._at_s = counts, time.monotonic()
                        self._changed.notify_all()
            await asyncio.sleep(POLL_S)

    async def wait_for(self, wanted: Mapping[str, int]) -> float:
        """Wait until so much has arrived or nothing has for long; returns the monotonic time of the last arrival."""
        async with self._changed:
            while any(self._counts.get(name, 0) < count for name, count in wanted.items()):
                try:
                    async with asyncio.timeout(STALLED_S):
                        await self._changed.wait()
                except TimeoutError:
                    break
        return self._at_s


@contextlib.asynccontextmanager
async def _watching(look: Look, view: View) -> AsyncIterator[_Arrivals]:
    arrivals = _Arrivals(look, view)
    async with meanwhile(arrivals.watch()):
        yield arrivals


async def count_orders(pool: Pool, campaign_id: str) -> int:
    """Return how many orders of a campaign MySQL has.

    Raises:
        BackendError: MySQL is not there.
    """
    ((count,),) = await query(pool, "SELECT COUNT(*) FROM orders WHERE campaign_id = %s", (campaign_id,))
    return int(count)


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

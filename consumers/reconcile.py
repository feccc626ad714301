"""The reconciler: holds Redis, Kafka and MySQL against each other, once or for as long as the process runs.

A look reads the stores in an order in which nothing that is well can look missing (`reconcile_rules` says why). Some
things are written to two stores one after the other all the same: what is allocated by a load or a top-up, a release.
So what a look finds wrong is only suspected. The suspected campaigns are looked at again, after a pause and from the
beginning, up to `LOOKS_MAX` times, and drift is what every look found: the same order ids, the same counters.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable
from typing import Final, NamedTuple, Protocol

import msgspec
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge

from adapters.kafka import make_producer
from adapters.kafka_sender import KafkaSender
from adapters.mysql import catalog_dsn, connect_pool, orders_dsn, points_dsn
from adapters.process import run_process, run_until_told
from adapters.redis import ScriptChannel, make_client
from consumers.app import DRAWS, ORDERS, POINTS, REDEMPTIONS, group_of
from consumers.reconcile_report import Report, build_report, left_report, repair_report
from consumers.reconcile_rules import Verdict, confirm, judge
from consumers.reconcile_sources import Feed, Look, Sources
from consumers.repair import Repairer
from consumers.repair_rules import Action, Repaired, plan
from domain.draw_events import TOPIC_DRAWS_WON, decode_draw_won
from domain.errors import FlashgateError
from domain.events import TOPIC_ORDERS_ACCEPTED
from domain.redemption_events import TOPIC_REDEMPTIONS_ACCEPTED, decode_redemption_accepted
from domain.settings import Settings

LOOKS_MAX: Final = 3
"""Looks at a suspected campaign before what is found there counts as drift."""
RECHECK_PAUSE_S: Final = 0.5
"""Between two of these looks: longer than a load or a top-up takes from one store to the other."""
BUSY_SHARE: Final = 0.25
"""At most this share of the time is spent looking: a sale of a million orders is read less often than a small one."""

_log = logging.getLogger(__name__)


class ReconcileMetrics(Protocol):
    """What a reconciler reports as it works."""

    def looked(self, report: Report, *, seconds: float) -> None:
        """All campaigns were held against each other."""

    def failed(self) -> None:
        """A store was away."""

    def repaired(self, kind: str, *, done: bool) -> None:
        """A repair was made, or tried in vain."""


class Repairs(Protocol):
    """Who carries repairs out."""

    async def run(self, actions: Iterable[Action]) -> list[Repaired]:
        """Do these."""


class Findings(NamedTuple):
    """What the full set of looks agrees on."""

    verdicts: list[Verdict]
    poison: int
    dead_letters: int

    def report(self) -> Report:
        """Return it as it is told."""
        return build_report(self.verdicts, poison=self.poison, dead_letters=self.dead_letters)


class Reconciler:
    """Looks, and looks again at what it suspects; repairs what is safe, if it is told to.

    Args:
        look: reads the stores: these campaigns, or all.
        campaign_ids: what to look at; None: all that any store knows.
        metrics: told of every report.
        interval_s: pause between two rounds of `run`.
        recheck_pause_s: see RECHECK_PAUSE_S.
        repairs: carries out, after each round of `run`, what `repair_rules` calls automatic; None: nobody does.
    """

    def __init__(
        self,
        look: Callable[[Collection[str] | None], Awaitable[Look]],
        *,
        campaign_ids: Collection[str] | None = None,
        metrics: ReconcileMetrics | None = None,
        interval_s: float = 5.0,
        recheck_pause_s: float = RECHECK_PAUSE_S,
        repairs: Repairs | None = None,
    ) -> None:
        self._look = look
        self._campaign_ids = campaign_ids
        self._metrics = metrics
        self._interval_s = interval_s
        self._recheck_pause_s = recheck_pause_s
        self._repairs = repairs
        self._stopped = asyncio.Event()
        self._told: dict[str, int] = {}

    async def run_once(self) -> Report:
        """Hold the stores against each other; returns what is in flight and what is drift.

        Raises:
            BackendError: a store is not there.
            OperationRefusedError: there is no such campaign.
        """
        return (await self.find()).report()

    async def find(self) -> Findings:
        """Hold the stores against each other; returns what every look has found. Errors as in `run_once`."""
        verdicts, look = await self._judged(self._campaign_ids)
        for _ in range(LOOKS_MAX - 1):
            suspected = {campaign_id for campaign_id, verdict in verdicts.items() if verdict.faults}
            if not suspected:
                break
            await asyncio.sleep(self._recheck_pause_s)
            again, look = await self._judged(suspected)
            for campaign_id, verdict in again.items():
                verdicts[campaign_id] = confirm(verdicts[campaign_id], verdict)
        return Findings(list(verdicts.values()), look.poison, look.dead_letters)

    async def run(self) -> None:
        """Look again and again until `stop`; a store that is away is logged and asked again later."""
        stopping = asyncio.create_task(self._stopped.wait())
        try:
            while not self._stopped.is_set():
                began_s = time.monotonic()
                round_ = asyncio.create_task(self._round(began_s))
                try:
                    await asyncio.wait([round_, stopping], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    round_.cancel()  # what it reads, or repairs, may be broken off anywhere
                    with contextlib.suppress(asyncio.CancelledError):
                        await round_
                spent_s = time.monotonic() - began_s
                pause_s = max(self._interval_s, spent_s * (1 / BUSY_SHARE - 1))
                await asyncio.wait([stopping], timeout=pause_s)
        finally:
            stopping.cancel()

    def stop(self) -> None:
        """Have `run` end now."""
        self._stopped.set()

    async def _judged(self, campaign_ids: Collection[str] | None) -> tuple[dict[str, Verdict], Look]:
        """Look and judge; the look that is returned has no campaigns left, for they may be large."""
        look = await self._look(campaign_ids)
        verdicts = {}
        while look.campaigns:
            campaign_id, campaign = look.campaigns.popitem()
            verdicts[campaign_id] = await asyncio.to_thread(judge, campaign)
        return verdicts, look

    async def _round(self, began_s: float) -> None:
        try:
            found = await self.find()
        except FlashgateError as error:
            _log.warning("not reconciled: %s", error)
            if self._metrics is not None:
                self._metrics.failed()
            return
        report = found.report()
        if self._metrics is not None:
            self._metrics.looked(report, seconds=time.monotonic() - began_s)
        self._tell(report)
        if self._repairs is not None:
            actions = [action for verdict in found.verdicts for action in plan(verdict, by_hand=False).actions]
            for one in await self._repairs.run(actions):
                if self._metrics is not None:
                    self._metrics.repaired(one.action.kind, done=one.done)

    def _tell(self, report: Report) -> None:
        """Log drift when it comes, changes or goes."""
        for campaign in report.campaigns:
            before = self._told.get(campaign.campaign_id, 0)
            if campaign.drift and campaign.drift != before:
                text = "; ".join(campaign.explanations)
                _log.error("campaign %s: drift %d: %s", campaign.campaign_id, campaign.drift, text)
            elif before and not campaign.drift:
                _log.warning("campaign %s: drift is gone", campaign.campaign_id)
            self._told[campaign.campaign_id] = campaign.drift


class PrometheusReconcileMetrics:
    """Implements `ReconcileMetrics`.

    Args:
        registry: where the metrics are registered.
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        def gauge(name: str, text: str, *labels: str) -> Gauge:
            return Gauge(f"flashgate_{name}", text, labels, registry=registry, multiprocess_mode="mostrecent")

        self._drift = gauge("drift", "Orders and units about which Redis, Kafka and MySQL disagree", "campaign")
        self._in_flight = gauge("in_flight", "Accepted orders that are on their way to MySQL", "campaign")
        self._seconds = gauge("reconcile_seconds", "Duration of the last comparison")
        self._at = gauge("reconcile_last_unixtime_seconds", "When the last comparison succeeded")
        self._dead_letters = gauge("dead_letters", "Dead letters that nobody has dealt with")
        self._owed = gauge("pending_returns", "Returns of stock that MySQL owes to Redis", "campaign")
        self._failures = Counter("flashgate_reconcile_failures", "Comparisons that failed", registry=registry)
        self._repairs = Counter("flashgate_reconcile_repairs", "Repairs made", ["kind"], registry=registry)
        self._refused = Counter("flashgate_reconcile_repairs_failed", "Repairs in vain", ["kind"], registry=registry)

    def looked(self, report: Report, *, seconds: float) -> None:
        """See the protocol."""
        for campaign in report.campaigns:
            self._drift.labels(campaign.campaign_id).set(campaign.drift)
            self._in_flight.labels(campaign.campaign_id).set(campaign.in_flight)
            self._owed.labels(campaign.campaign_id).set(campaign.pending_returns)
        self._dead_letters.set(report.dead_letters_open)
        self._seconds.set(seconds)
        self._at.set_to_current_time()

    def failed(self) -> None:
        """See the protocol."""
        self._failures.inc()

    def repaired(self, kind: str, *, done: bool) -> None:
        """See the protocol."""
        (self._repairs if done else self._refused).labels(kind).inc()


# -- wiring ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def open_sources(settings: Settings, *, topic: str = TOPIC_ORDERS_ACCEPTED) -> AsyncIterator[Sources]:
    """Yield the stores and close their clients.

    Raises:
        ConfigError: the settings contradict themselves.
    """
    dsn = orders_dsn(settings.mysql)
    client = make_client(settings.redis, connections_max=2)
    pool, points = connect_pool(dsn, settings.mysql), connect_pool(points_dsn(settings.mysql), settings.mysql)
    feeds = [
        Feed(TOPIC_DRAWS_WON, group_of(settings, DRAWS), decode_draw_won),
        Feed(TOPIC_REDEMPTIONS_ACCEPTED, group_of(settings, REDEMPTIONS), decode_redemption_accepted),
    ]
    try:
        yield Sources(
            client,
            settings.kafka,
            pool,
            group=group_of(settings, ORDERS),
            topic=topic,
            more=feeds,
            points=points,
            awards_group=group_of(settings, POINTS),
        )
    finally:
        await client.aclose()
        await points.close()
        await pool.close()


@contextlib.asynccontextmanager
async def open_repairer(settings: Settings, *, topic: str = TOPIC_ORDERS_ACCEPTED) -> AsyncIterator[Repairer]:
    """Yield what carries repairs out, and close its clients.

    Raises:
        ConfigError: the settings contradict themselves.
    """
    mysql = settings.mysql
    orders, catalog = connect_pool(orders_dsn(mysql), mysql), connect_pool(catalog_dsn(mysql), mysql)
    channel, client = ScriptChannel(settings.redis), make_client(settings.redis, connections_max=2)
    sender = KafkaSender(lambda: make_producer(settings.kafka), timeout_s=settings.kafka.client_start_timeout_s)
    try:
        yield Repairer(channel, client, orders=orders, catalog=catalog, sender=sender, topic=topic)
    finally:
        await sender.close()
        await channel.close()
        await client.aclose()
        await orders.close()
        await catalog.close()


async def reconcile(
    settings: Settings,
    campaign_ids: Collection[str] | None = None,
    *,
    topic: str = TOPIC_ORDERS_ACCEPTED,
) -> Report:
    """Hold the three stores against each other, once.

    Raises:
        FlashgateError: a store is not there, or there is no such campaign.
    """
    async with open_sources(settings, topic=topic) as sources:
        return await Reconciler(sources.look, campaign_ids=campaign_ids).run_once()


async def repair(
    settings: Settings,
    campaign_ids: Collection[str] | None = None,
    *,
    topic: str = TOPIC_ORDERS_ACCEPTED,
) -> Report:
    """Look, repair all that a person may decide to have repaired, and look again; returns what is found then.

    Raises:
        FlashgateError: a store is not there, or there is no such campaign.
    """
    async with open_sources(settings, topic=topic) as sources, open_repairer(settings, topic=topic) as repairer:
        reconciler = Reconciler(sources.look, campaign_ids=campaign_ids)
        found = await reconciler.find()
        plans = {verdict.campaign_id: plan(verdict, by_hand=True) for verdict in found.verdicts}
        done = await repairer.run([action for one in plans.values() for action in one.actions])
        told = [repair_report(one) for one in done]
        told += [left_report(campaign_id, left) for campaign_id, one in plans.items() for left in one.left]
        report = await reconciler.run_once()
        return msgspec.structs.replace(report, repairs=tuple(told))


async def watch(
    settings: Settings,
    campaign_ids: Collection[str] | None,
    *,
    stop: asyncio.Event,
    topic: str = TOPIC_ORDERS_ACCEPTED,
    metrics: ReconcileMetrics | None = None,
) -> None:
    """Reconcile again and again until `stop` is set, and repair what is safe."""
    async with open_sources(settings, topic=topic) as sources, open_repairer(settings, topic=topic) as repairer:
        reconciler = Reconciler(
            sources.look,
            campaign_ids=campaign_ids,
            metrics=metrics if metrics is not None else PrometheusReconcileMetrics(),
            interval_s=settings.reconcile.interval_s,
            repairs=repairer,
        )
        await run_until_told(reconciler.run(), reconciler.stop, stop)


def main_watch(settings: Settings, campaign_ids: Collection[str] | None = None) -> None:
    """Run the reconciler as this process, until SIGTERM or SIGINT."""
    run_process("reconciler", lambda stop: watch(settings, campaign_ids, stop=stop))

"""A gateway with everything behind it on servers of its own, for `bench sweep` and `bench simulate --validate`."""

import asyncio
import contextlib
import logging
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.capacity_facts import FORMAT, Idle, Point, Proof, Rung, Sweep
from bench.environment import environment
from bench.errors import BenchError
from bench.servers import OUTBOX_ENTRIES_MAX, Place
from bench.sweep import SweepPlan, median_by_p99, next_rung, offered, times
from bench.sweep_measure import Measurer
from bench.sweep_watch import Rig
from cli.bench_load import SOLD_OUT_SKU, own_campaign
from cli.clients import Clients, open_clients
from cli.config import local_defaults
from cli.services import ServicePlan, Services
from consumers.reconcile import reconcile
from domain.settings import Settings, load_settings
from stack.servers import Endpoints, LocalStack
from stack.supervisor import Event, Supervisor
from warehouse.stock_up import put_on_sale

FIRST_WARM_UP_S: Final = 20.0
"""Until Kafka's JVM has compiled what is hot and MySQL's buffers are filled."""
WARM_UP_S: Final = 2.0
"""Of each further count of workers."""
IDLE_S: Final = 3.0
PAY_WITHIN_S: Final = 86_400
"""No order of a measurement expires while it runs."""
POLLS_TO_KNOW: Final = 1.2
"""A worker knows a new campaign after so many of its `snapshot_poll_ms`."""
MS_PER_S: Final = 1_000

Say = Callable[[str], None]


class SweepRig:
    """Servers that run; gateways with so many workers are started on them in turn.

    Args:
        place: where, and with which key.
        settings: of the servers.
        home: of the processes.
        supervisor: of the servers.
        died: what has died meanwhile.
    """

    def __init__(
        self, place: Place, settings: Settings, home: Path, supervisor: Supervisor, died: Sequence[Event]
    ) -> None:
        self._place = place
        self.settings = settings
        self._home = home
        self._supervisor = supervisor
        self._died = died

    @contextlib.asynccontextmanager
    async def measurer(self, workers: int, processes: int) -> AsyncIterator[tuple[Measurer, Callable[[], None]]]:
        """Run so many workers with everything behind them; yields who measures them, and a check that nobody died.

        Raises:
            FlashgateError: something did not start.
        """
        plan = ServicePlan(
            self.settings, self._home, workers, with_reconciler=False, with_ops=False, with_sandbox=False
        )
        services = Services(self._supervisor, plan)
        async with contextlib.AsyncExitStack() as opened:
            opened.push_async_callback(services.stop)
            await services.start()
            clients = await opened.enter_async_context(open_clients(self.settings))
            pids = {name: self._pid(name) for name in self._supervisor.names()}
            port = int(services.gateway_url.rpartition(":")[2])
            rig = Rig(self._place, port, workers, pids, clients.client, clients.orders)

            async def on_sale(units: int) -> tuple[str, str, str]:
                return await self._on_sale(clients, units)

            yield Measurer(rig, on_sale, self._home / "logs" / "load.log", processes), self._check

    async def _on_sale(self, clients: Clients, units: int) -> tuple[str, str, str]:
        campaign = own_campaign(units)
        head = msgspec.structs.replace(campaign.campaign, id=f"sweep-{secrets.token_hex(6)}", pay_within_s=PAY_WITHIN_S)
        campaign = msgspec.structs.replace(campaign, campaign=head)
        await put_on_sale(clients, campaign, who="bench")
        await asyncio.sleep(POLLS_TO_KNOW * self.settings.gateway.snapshot_poll_ms / MS_PER_S)
        return campaign.id, campaign.sku[0].id, SOLD_OUT_SKU

    def _pid(self, name: str) -> int:
        pid = self._supervisor.pid(name)
        if pid is None:
            raise BenchError(f"{name} has ended; see {self._home / 'logs'}")
        return pid

    def _check(self) -> None:
        if self._died:
            one = self._died[0]
            raise BenchError(f"{one.name} died with code {one.code}; see {self._home / 'logs'}")

    async def prove(self, campaign_ids: Sequence[str], answered_202: int) -> Proof:
        """Hold all orders of these campaigns against each other, in every store.

        Raises:
            FlashgateError: a store is away.
        """
        report = await reconcile(self.settings, list(campaign_ids))
        return Proof(
            answered_202=answered_202,
            redis_taken=sum(one.redis_taken for one in report.campaigns),
            kafka_distinct=sum(one.kafka_distinct for one in report.campaigns),
            mysql_rows=sum(one.mysql_rows for one in report.campaigns),
            mysql_sold=sum(one.sold for one in report.campaigns),
            in_flight=report.in_flight,
            drift=report.drift,
        )


@contextlib.asynccontextmanager
async def open_rig(place: Place, say: Say) -> AsyncIterator[SweepRig]:
    """Start Redis, Kafka and MariaDB in a home of their own; leaving it leaves no process behind.

    Raises:
        FlashgateError: one did not start.
    """
    # It complains of partitions that have no leader yet, and tries again by itself.
    logging.getLogger("aiokafka").setLevel(logging.CRITICAL)
    home, died = place.folder / "sweep", list[Event]()
    supervisor = Supervisor(on_event=lambda event: died.append(event) if event.kind == "died" else None)
    stack = LocalStack(home, supervisor=supervisor, note=say)
    async with contextlib.AsyncExitStack() as opened:
        opened.push_async_callback(stack.stop)
        yield SweepRig(place, _settings(await stack.start(), home, place), home, supervisor, died)


def _settings(endpoints: Endpoints, home: Path, place: Place) -> Settings:
    """Return settings of their own: no file or environment leads them to servers of another purpose."""
    settings = load_settings(defaults=local_defaults(endpoints, home))
    gateway = msgspec.structs.replace(settings.gateway, port=0, outbox_entries_max=OUTBOX_ENTRIES_MAX)
    auth = msgspec.structs.replace(settings.auth, key_file=str(place.key_file), audience=place.audience)
    return msgspec.structs.replace(settings, gateway=gateway, auth=auth)


async def measure_sweep(place: Place, plan: SweepPlan, options: dict[str, object], say: Say) -> tuple[Sweep, Settings]:
    """Make all measurements of a plan.

    Raises:
        FlashgateError: something did not start or died, or a measurement must not be believed.
    """
    began_s = time.monotonic()
    idle: list[Idle] = []
    rungs: list[Rung] = []
    points: list[Point] = []
    proofs: list[Proof] = []
    async with open_rig(place, say) as rig:
        for workers in plan.workers:
            say(f"{workers} gateway workers: starting …")
            async with rig.measurer(workers, plan.processes) as (measurer, check):
                await measurer.warm_up(WARM_UP_S if idle else FIRST_WARM_UP_S)
                idle.append(await measurer.idle(IDLE_S))
                found = await _ladder(measurer, plan, say)
                best_per_s = max(one.per_s for one in found)
                for rate_per_s, refused_share in offered(plan, best_per_s):
                    made = []
                    for _ in range(times(plan, rate_per_s, best_per_s)):
                        made.append(
                            await measurer.point(
                                rate_per_s, refused_share, seconds=plan.point_seconds, connections=plan.connections
                            )
                        )
                        say(told(made[-1]))
                        check()
                    points.append(median_by_p99(made))
                rungs += found
                say("holding Redis, Kafka and MySQL against each other …")
                proofs.append(await rig.prove(measurer.campaign_ids, measurer.answered_202))
                say(f"  {proofs[-1].mysql_rows:,} orders, drift {proofs[-1].drift}, in flight {proofs[-1].in_flight}")
        about = await environment(rig.settings, options=options)
    total = {key: sum(getattr(one, key) for one in proofs) for key in Proof.__struct_fields__}
    sweep = Sweep(
        format=FORMAT,
        seconds=round(time.monotonic() - began_s, 1),
        idle=idle,
        rungs=rungs,
        points=points,
        proof=Proof(**total),
        environment=about,
    )
    return sweep, rig.settings


async def _ladder(measurer: Measurer, plan: SweepPlan, say: Say) -> list[Rung]:
    found: list[Rung] = []
    while connections := next_rung(plan, [(one.connections, one.per_s) for one in found]):
        found.append(await measurer.rung(connections, plan.rung_seconds))
        one = found[-1]
        say(f"  closed loop, {connections:>4} connections: {one.per_s:>8,.0f} orders/s, p99 {one.p99_ms:.1f} ms")
    return found


def told(point: Point) -> str:
    """Return a point as a line of progress."""
    driver = "; the driver was the bottleneck" if point.bottlenecks else ""
    return (
        f"  offered {point.offered_per_s:>8,.0f}/s ({point.refused_share:.0%} sold out): achieved "
        f"{point.achieved_per_s:,.0f}/s, p50 {point.p50_ms:.1f} ms, p99 {point.p99_ms:.1f} ms, backlog "
        f"{point.backlog_max:,}, drained in {point.drain_s:.1f} s{driver}"
    )

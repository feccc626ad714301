"""Makes the measurements of a sweep on a rig that runs: a rung, a point, and what the driver itself used."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Final

import msgspec
from hdrh.histogram import HdrHistogram

from bench.capacity_facts import DRIVER, Idle, Point, Rung
from bench.errors import BenchError
from bench.load_run import LoadReport, run_load
from bench.sweep_watch import Rig, difference, watching

REQUESTS_MAX: Final = 100_000_000
ORDERS_PER_S_MAX: Final = 100_000
"""Stock for a closed loop is for so many a second."""
WARM_UP_CONNECTIONS: Final = 64
PERCENTILES: Final = (0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9, 99.99, 100.0)
ACCEPTED: Final = 202

OnSale = Callable[[int], Awaitable[tuple[str, str, str]]]
"""Units → a new campaign that is open and known to every worker, its SKU, and a SKU that is sold out."""


class Measurer:
    """Makes measurements on one rig, and counts the orders of all of them.

    Args:
        rig: what is measured.
        on_sale: makes a campaign for each measurement.
        log: what the driver has to say goes there.
        processes: of the driver.
    """

    def __init__(self, rig: Rig, on_sale: OnSale, log: Path, processes: int) -> None:
        self._rig = rig
        self._on_sale = on_sale
        self._log = log
        self._processes = processes
        self.answered_202 = 0
        self.campaign_ids: list[str] = []

    async def idle(self, seconds: float) -> Idle:
        """Look at the processes while nobody asks for anything."""
        before, began_s = self._rig.cpu_s(), time.monotonic()
        await asyncio.sleep(seconds)
        window_s = time.monotonic() - began_s
        cpu_s = difference(before, self._rig.cpu_s())
        return Idle(workers=self._rig.workers, window_s=round(window_s, 3), cpu_s=cpu_s)

    async def warm_up(self, seconds: float) -> None:
        """Have everything compiled, connected and cached."""
        await self.rung(WARM_UP_CONNECTIONS, seconds)

    async def rung(self, connections: int, seconds: float) -> Rung:
        """Run one closed loop.

        Raises:
            BenchError: it must not be believed.
        """
        rig = self._rig
        campaign_id, sku_id, _ = await self._on_sale(math.ceil(ORDERS_PER_S_MAX * seconds))
        self.campaign_ids.append(campaign_id)
        job = msgspec.structs.replace(
            rig.job(campaign_id, sku_id, connections=connections, seconds=seconds), requests=REQUESTS_MAX
        )
        appended, before, began_s = await rig.appended(), rig.cpu_s(), time.monotonic()
        report, _ = await run_load(job, self._processes, self._log)
        ended_s = time.monotonic()
        taken = await rig.until_stored(campaign_id)
        self._count(report, taken)
        return Rung(
            workers=rig.workers,
            connections=connections,
            seconds=report.seconds,
            answered=report.answered,
            per_s=report.answered_per_s,
            p50_ms=report.p50_ms,
            p99_ms=report.p99_ms,
            drain_s=round(time.monotonic() - ended_s, 3),
            accepted=taken,
            batches=await rig.appended() - appended,
            window_s=round(time.monotonic() - began_s, 3),
            cpu_s=difference(before, rig.cpu_s()),
        )

    async def point(
        self, rate_per_s: float, refused_share: float, *, seconds: float, connections: int, units: int | None = None
    ) -> Point:
        """Run one open loop, and wait until MySQL has its orders.

        Args:
            rate_per_s: offered.
            refused_share: of them want a SKU that is sold out.
            seconds: how long requests are due.
            connections: of the driver.
            units: of the SKU that is on sale; None: enough for all.

        Raises:
            BenchError: it must not be believed.
        """
        rig, enough = self._rig, math.ceil(rate_per_s * seconds) + 1
        campaign_id, sku_id, sold_out_id = await self._on_sale(enough if units is None else units)
        self.campaign_ids.append(campaign_id)
        job = msgspec.structs.replace(
            rig.job(campaign_id, sku_id, connections=connections, seconds=seconds),
            mode="open",
            rate_per_s=rate_per_s,
            other_sku_id=sold_out_id,
            other_share=refused_share,
        )
        appended, before, began_s = await rig.appended(), rig.cpu_s(), time.monotonic()
        async with watching(rig, campaign_id) as seen:
            report, histogram = await run_load(job, self._processes, self._log)
        load_s, after_load = time.monotonic() - began_s, rig.cpu_s()
        if not report.answered:
            raise BenchError(f"no answer at {rate_per_s:,.0f} requests/s: {report.errors:,} errors")
        taken = await rig.until_stored(campaign_id)
        window_s, after = time.monotonic() - began_s, rig.cpu_s()
        self._count(report, taken)
        driver_s = report.driver_cpu_share_max * report.seconds * report.processes
        return Point(
            workers=rig.workers,
            offered_per_s=rate_per_s,
            refused_share=refused_share,
            seconds=report.seconds,
            offered=report.offered,
            sent=report.sent,
            answered=report.answered,
            late=report.late,
            dropped=report.dropped,
            errors=report.errors,
            unanswered=report.unanswered,
            accepted=taken,
            refused={status: count for status, count in report.statuses.items() if status != ACCEPTED},
            achieved_per_s=report.answered_per_s,
            p50_ms=report.p50_ms,
            p90_ms=report.p90_ms,
            p99_ms=report.p99_ms,
            p99_9_ms=report.p99_9_ms,
            max_ms=report.max_ms,
            percentiles=_percentiles(histogram),
            batches=await rig.appended() - appended,
            load_s=round(load_s, 3),
            window_s=round(window_s, 3),
            load_cpu_s={**difference(before, after_load), DRIVER: round(driver_s, 4)},
            cpu_s={**difference(before, after), DRIVER: round(driver_s, 4)},
            backlog=seen.backlog,
            backlog_max=max((waiting for _, waiting in seen.backlog), default=0),
            drain_s=round(window_s - load_s, 3),
            bottlenecks=report.bottlenecks,
        )

    def _count(self, report: LoadReport, taken: int) -> None:
        told = report.statuses.get(ACCEPTED, 0)
        unsure = report.errors + report.unanswered
        if not told <= taken <= told + unsure:
            raise BenchError(
                f"buyers were told of {told:,} orders ({unsure:,} got no answer), and Redis has sold {taken:,}"
            )
        self.answered_202 += told


def _percentiles(histogram: HdrHistogram) -> list[tuple[float, float]]:
    return [(at, round(float(histogram.get_value_at_percentile(at)) / 1000, 3)) for at in PERCENTILES]

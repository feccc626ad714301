"""The reconciler's rounds and its report, without any store."""

import asyncio
import itertools
from collections.abc import Collection

import pytest
from prometheus_client import CollectorRegistry
from rich.console import Console

from consumers.reconcile import LOOKS_MAX, PrometheusReconcileMetrics, Reconciler
from consumers.reconcile_look import STORED, CampaignLook
from consumers.reconcile_report import IDS_MAX, SKUS_SHOWN_MAX, Report, build_report, table
from consumers.reconcile_rules import judge
from consumers.reconcile_sources import Look
from domain.errors import BackendError
from tests.support.events import event
from tests.support.looks import QUIET_MS, Told, forget, key_of, sold, told, with_fault


def test_report_bounds_what_it_lists() -> None:
    """At most 20 ids are listed, all are counted; the table sums up the SKUs that it does not show."""
    look, events = sold(50)
    for one in events:
        forget(look, one, STORED)
    for number in range(SKUS_SHOWN_MAX + 5):
        look.sku(f"other-{number:03}")
    campaign = told(look)
    assert len(campaign.missing_ids) == IDS_MAX
    assert campaign.skus[0].missing == 50
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table(Report(drift=50, in_flight=0, poison=0, campaigns=(campaign,))))
    lines = capture.get().splitlines()
    assert any(line.startswith(" 6 more") for line in lines)
    first_sku = lines[lines.index(next(line for line in lines if line.startswith("c-1"))) + 1]
    assert first_sku.startswith(" box-1")


def test_campaign_without_skus_is_told() -> None:
    """A campaign of which nothing is known yet has no rows, no drift and a line of its own."""
    campaign = told(CampaignLook("c-1", began_ms=QUIET_MS))
    assert (campaign.drift, campaign.skus) == (0, ())
    console = Console(width=200)
    with console.capture() as capture:
        console.print(table(Report(drift=0, in_flight=0, poison=0, campaigns=(campaign,))))
    assert "c-1" in capture.get()


def test_table_fits_a_terminal() -> None:
    """The table of a usual sale shows every number in 80 columns."""
    look, _ = sold(30)
    console = Console(width=80)
    with console.capture() as capture:
        console.print(table(build_report([judge(look)], poison=0)))
    assert "…" not in capture.get()
    assert " ".join(f"{number}" for number in (1000, 970, 30, 0, 0, 30, 30, 30, 0, 0, 0, 0)) in " ".join(
        capture.get().split()
    )


class Stores:
    """Stands for the three stores: what each look in turn finds."""

    def __init__(self, *found: CampaignLook | Exception) -> None:
        self.found = itertools.chain(found, itertools.repeat(found[-1]))
        self.asked: list[Collection[str] | None] = []

    async def look(self, campaign_ids: Collection[str] | None) -> Look:
        """Return what is next, and a campaign beside it in which all is well."""
        self.asked.append(campaign_ids)
        found = next(self.found)
        if isinstance(found, Exception):
            raise found
        looks = {"c-1": found, "c-2": CampaignLook("c-2", began_ms=QUIET_MS)}
        return Look({name: look for name, look in looks.items() if campaign_ids is None or name in campaign_ids}, 0)


async def test_suspect_is_looked_at_again() -> None:
    """What the next look does not find is no drift, and only the suspected campaign is read again."""
    stores = Stores(with_fault(), sold(3)[0])
    report = await Reconciler(stores.look, recheck_pause_s=0).run_once()
    assert report.drift == 0
    assert stores.asked == [None, {"c-1"}]


async def test_drift_is_what_every_look_finds() -> None:
    """Drift is told after a bounded number of looks."""
    stores = Stores(*(with_fault() for _ in range(LOOKS_MAX)))
    report = await Reconciler(stores.look, recheck_pause_s=0).run_once()
    assert report.drift == 1
    assert len(stores.asked) == LOOKS_MAX
    assert [campaign.campaign_id for campaign in report.campaigns] == ["c-1", "c-2"]


async def test_store_that_is_away_does_not_end_the_process(caplog: pytest.LogCaptureFixture) -> None:
    """A look that fails is logged and counted, and the next one is made; drift is logged once, not every time."""
    stores = Stores(BackendError("Redis is away"), with_fault())
    metrics = Told()
    reconciler = Reconciler(stores.look, metrics=metrics, interval_s=0.001, recheck_pause_s=0)
    running = asyncio.create_task(reconciler.run())
    reports = [await metrics.reports.get() for _ in range(3)]
    reconciler.stop()
    await running
    assert metrics.failures == 1
    assert [report.drift for report in reports] == [1, 1, 1]
    assert [record.getMessage().split(":")[0] for record in caplog.records] == ["not reconciled", "campaign c-1"]


def test_gauges_show_the_last_report() -> None:
    """Prometheus sees each campaign's drift and what is on its way, dead letters, failures, and repairs by kind."""
    registry = CollectorRegistry()
    metrics = PrometheusReconcileMetrics(registry)
    look = with_fault()
    look.pending_return(key_of(event(1)), "box-1", second=False)
    metrics.looked(build_report([judge(look)], poison=0, dead_letters=4), seconds=0.5)
    metrics.failed()
    metrics.repaired("release", done=True)
    metrics.repaired("reissue", done=False)
    label = {"campaign": "c-1"}
    assert registry.get_sample_value("flashgate_drift", label) == 1
    assert registry.get_sample_value("flashgate_in_flight", label) == 0
    assert registry.get_sample_value("flashgate_pending_returns", label) == 1
    assert registry.get_sample_value("flashgate_dead_letters") == 4
    assert registry.get_sample_value("flashgate_reconcile_failures_total") == 1
    assert registry.get_sample_value("flashgate_reconcile_repairs_total", {"kind": "release"}) == 1
    assert registry.get_sample_value("flashgate_reconcile_repairs_failed_total", {"kind": "reissue"}) == 1


async def test_stop_does_not_wait_for_a_look() -> None:
    """A look that hangs is given up when the process is told to stop: it only reads."""
    looking = asyncio.Event()

    async def hang(_campaign_ids: Collection[str] | None) -> Look:
        looking.set()
        await asyncio.Event().wait()
        raise AssertionError

    reconciler = Reconciler(hang)
    running = asyncio.create_task(reconciler.run())
    await looking.wait()
    reconciler.stop()
    async with asyncio.timeout(1):
        await running

"""A sweep and a held-out measurement on real servers, so small that only their bookkeeping is tested, not speed."""

from pathlib import Path

import msgspec
import pytest
from rich.console import Console

from bench.capacity_costs import measured_costs
from bench.capacity_facts import read_sweep
from bench.servers import new_place
from bench.sweep import Load, SweepPlan
from bench.sweep_measure import WARM_UP_CONNECTIONS, Measurer
from cli.bench_run import Run
from cli.bench_sweep_rig import measure_sweep
from cli.bench_validate import Holdout, validate
from cli.config import as_environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PLAN = SweepPlan(
    workers=(1,),
    ladder=(1, 4, 16),
    rung_seconds=0.3,
    point_seconds=1.0,
    loads=(),
    rates_per_s=(100, 200, 300, 400, 500),
    connections=16,
)


async def test_sweep_counts_every_order_and_is_predicted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """MySQL has the orders of warm-up, rungs and points to the unit; the file is read again; a sale is predicted."""
    place = new_place(tmp_path / "place", lambda settings: as_environment(msgspec.to_builtins(settings)))
    said: list[str] = []
    warmed: list[int] = []

    async def warm_up(measurer: Measurer, seconds: float) -> None:
        warmed.append((await measurer.rung(WARM_UP_CONNECTIONS, seconds)).accepted)

    monkeypatch.setattr(Measurer, "warm_up", warm_up)
    mixed = msgspec.structs.replace(PLAN, loads=(Load(part=0.1, refused_share=0.5),))
    sweep, _ = await measure_sweep(place, mixed, {}, said.append)
    assert sweep.proof.holds
    assert len(warmed) == len(PLAN.workers)
    accepted = [one.accepted for one in sweep.rungs] + [one.accepted for one in sweep.points]
    assert sweep.proof.mysql_rows == sum(warmed) + sum(accepted)
    assert read_sweep(msgspec.json.encode(sweep), "run") == sweep
    for point in sweep.points:
        assert point.offered == round(point.offered_per_s * PLAN.point_seconds)
        assert point.accepted + point.refusals + point.failed == point.offered
        assert {"gateway 1", "redis", "relay", "kafka", "consumer orders", "mariadb", "driver"} <= set(point.cpu_s)
        assert 0 < point.batches <= point.accepted
    assert [one.offered_per_s for one in sweep.points if not one.refused_share] == list(PLAN.rates_per_s)
    assert measured_costs(sweep).of("gateway").accepted_us > 0
    run = Run(tmp_path / "run", place, Console(quiet=True))
    found = await validate(run, sweep, Holdout("run", 0.0, 1, 1.0, 0.5, warm_up_s=1.0, others_max_cores=1e9))
    assert len(found["calibration"]) == 4
    assert {one["offered_per_s"] for one in found["calibration"]}.isdisjoint({found["rate_per_s"]})
    (measured,) = found["measured"]
    assert measured["accepted"] == found["stock"]
    assert found["predicted"]["accepted"] == found["stock"]
    assert found["proof"]["drift"] == 0
    assert (tmp_path / "run" / "simulate.json").exists()

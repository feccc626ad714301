"""The load tests on real servers: schedules, a stall, and counts that agree to the unit. Small numbers; no speed."""

import asyncio
import importlib.util
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.compare import offered_job, sale_of
from bench.figures import ACCEPTED
from bench.load_freeze import freeze
from bench.load_messages import LATENCY_MAX_US, SIGNIFICANT_DIGITS, LoadProgress
from bench.load_outcomes import ResultClass
from bench.load_process import OpenLoop
from bench.load_run import merge, run_load
from bench.load_shapes import Poisson, Replay, Shape, Spike, Step, counts_by_second, duration_s
from bench.servers import FLASHGATE, Place, new_place, running
from cli.config import as_environment
from stack.paths import PROJECT_ROOT

FROZEN_S = 2.0
RATE_PER_S = 150.0
COMMAND_TIMEOUT_S = 120.0

SHAPES: tuple[Shape, ...] = (
    Step(rates_per_s=(100, 300), seconds_each=0.2),
    Spike(base_per_s=50, peak_per_s=500, lead_s=0.1, rise_s=0.1, hold_s=0.1, decay_s=0.2),
    Poisson(rate_per_s=300, seconds=0.4, seed=3),
    Replay(counts=(70,)),
)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return where servers live."""
    return new_place(tmp_path / "bench", lambda settings: as_environment(msgspec.to_builtins(settings)))


async def test_frozen_redis_shows_in_the_tail(place: Place) -> None:
    """Redis stands still for 2 s at a constant rate: p99 is at least 1.5 s, though few could be sent meanwhile.

    Everyone learns what came of his request, and that is what Redis has.
    """
    sale = sale_of(ACCEPTED)
    async with running(FLASHGATE, place, sale) as target:
        assert target.redis_pid is not None
        job = msgspec.structs.replace(
            offered_job(place, target, sale, RATE_PER_S, 3.5), connections=4, wait_max_s=10.0, settle_s=20.0
        )
        loop = OpenLoop(job, lambda _: None)
        await loop.connect()
        freezing = asyncio.create_task(freeze(target.redis_pid, 0.5, FROZEN_S))
        result = await loop.run(time.monotonic())
        await freezing
        taken = await target.units_taken()
    report, _ = merge([result], job)
    assert report.p99_ms >= 1_500
    assert report.max_ms < 10_000
    assert report.offered == report.sent == round(RATE_PER_S * 3.5)
    assert report.late > RATE_PER_S * FROZEN_S / 2
    assert report.unsettled == 0
    assert sum(report.accepted) == taken == report.offered


@pytest.mark.slow
async def test_every_shape_sends_what_its_schedule_says(place: Place) -> None:
    """Two processes send each shape's requests, each once, and Redis has sold exactly what was accepted."""
    sale = sale_of(ACCEPTED)
    told = 0
    async with running(FLASHGATE, place, sale) as target:
        base = offered_job(place, target, sale, 0.0, 1.0)
        for number, shape in enumerate(SHAPES):
            job = msgspec.structs.replace(
                base, shape=shape, seconds=duration_s(shape), connections=8, prefix=f"s{number}", progress_s=0.1
            )
            heard: list[LoadProgress] = []
            report, histogram = await run_load(job, 2, place.folder / "load.log", heard.append)
            assert report.offered == sum(counts_by_second(shape))
            assert report.classes[ResultClass.ACCEPTED] == report.answered == histogram.get_total_count()
            assert sum(report.classes.values()) == report.sent == report.offered - report.dropped
            offered = [now.offered for now in heard]
            assert offered == sorted(offered)
            assert offered
            told += report.accepted[0]
            assert await target.units_taken() == told


async def run_command(tmp_path: Path, *args: str) -> tuple[int, dict[str, Any], str]:
    """Run a bench command with a stack of its own; returns its exit code, its facts, and what it said."""
    env = {**os.environ, "FLASHGATE_HOME": str(tmp_path / "home"), "PYTHONPATH": str(PROJECT_ROOT)}
    argv: Sequence[str] = (
        sys.executable,
        "-m",
        "cli",
        "bench",
        *args,
        "--json",
        "--name",
        "r",
        "--runs",
        str(tmp_path),
    )
    process = await asyncio.create_subprocess_exec(
        *argv, cwd=PROJECT_ROOT, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        async with asyncio.timeout(COMMAND_TIMEOUT_S):
            out, err = await process.communicate()
    finally:
        if process.returncode is None:
            process.terminate()
            await process.wait()
    assert process.returncode is not None
    return process.returncode, json.loads(out) if out else {}, err.decode()


@pytest.mark.slow
async def test_spike_of_the_command_agrees_to_the_unit(tmp_path: Path) -> None:
    """Driver, gateway, Redis and MySQL count the same; a threshold that is missed is exit code 1; the run is kept."""
    shape = ("--shape", "spike", "--base", "20", "--peak", "300", "--lead", "1", "--hold", "1", "--decay", "1")
    code, facts, said = await run_command(tmp_path, "load", *shape, "--stock", "200", "--slo", "failed<=0,max<1us")
    assert code == 1, said
    assert [one["kept"] for one in facts["slo"]] == [True, False]
    books = facts["books"]
    (campaign,) = books["campaigns"]
    assert books["disagreements"] == []
    assert facts["classes"]["accepted"] == books["gateway_accepted"] == campaign["mysql_orders"] == 200
    assert facts["classes"]["sold_out"] == facts["offered"] - 200
    kept = {path.name for path in (tmp_path / "r").iterdir()}
    assert kept == {
        "load.json",
        "environment.json",
        "load.hgrm",
        "load.hlog",
        "schedule.json",
        "schedule.csv",
        "timeline.csv",
        "counts.json",
    }
    assert histogram_total(tmp_path / "r" / "load.hlog") == facts["answered"]
    rows = (tmp_path / "r" / "schedule.csv").read_text().splitlines()[1:]
    assert sum(int(row.partition(",")[2]) for row in rows) == facts["offered"]


def histogram_total(path: Path) -> int:
    """Return how many values a histogram log has."""
    from hdrh.histogram import HdrHistogram
    from hdrh.log import HistogramLogReader

    found = HistogramLogReader(str(path), HdrHistogram(1, LATENCY_MAX_US, SIGNIFICANT_DIGITS))
    try:
        return int(found.get_next_interval_histogram().get_total_count())
    finally:
        found.close()


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("locust") is None, reason="the extra `load` is not installed")
async def test_locust_agrees_to_the_unit(tmp_path: Path) -> None:
    """Two processes of Locust's people come for all three kinds; a refusal is no failure, and all counts agree."""
    plan = ("--users", "20", "--duration", "6", "--stock", "15", "--scenario", "mixed", "--processes", "2")
    code, facts, said = await run_command(tmp_path, "locust", "--headless", *plan)
    assert code == 0, said
    books = facts["books"]
    assert books["disagreements"] == []
    assert sum(facts["told"]) == books["gateway_accepted"] == facts["classes"]["accepted"]
    assert [one["mysql_orders"] for one in books["campaigns"]] == [15, facts["won"], 15]
    assert facts["classes"]["failed"] == 0
    assert facts["classes"]["sold_out"] > 0
    assert facts["looks"] > 0
    entries = json.loads((tmp_path / "r" / "locust-stats.json").read_text())
    assert sum(one["num_failures"] for one in entries) == 0
    assert sum(one["num_requests"] for one in entries if one["name"].endswith(" accepted")) == sum(facts["told"])

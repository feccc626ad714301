"""The benchmarks on real servers, with numbers so small that only their bookkeeping is tested, not speed."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench import go_peer, servers
from bench.compare import Comparison, Plan, compare, offered_job, sale_of
from bench.errors import BenchError
from bench.figures import ACCEPTED, SOLD_OUT
from bench.load_run import OwnDriver, run_load
from bench.measure import Driver, Effort
from bench.memory import measure_memory
from bench.scale import figures
from bench.scale_rig import ScalePlan, measure_scale
from bench.servers import AIOHTTP, FLASHGATE, NGINX, Place, new_place, running
from bench.tokens import minter_from_file
from bench.wrk import Wrk
from cli.config import as_environment
from stack.packages import find
from stack.paths import PROJECT_ROOT

REQUESTS = 300
CONNECTIONS = 8
COMPARED = 3_000
"""Enough for several ticks of the clock that counts CPU time."""
STOP_TIMEOUT_S = 30.0


@pytest.fixture
def place(tmp_path: Path) -> Place:
    """Return where a benchmark's servers live."""
    return new_place(tmp_path / "bench", lambda settings: as_environment(msgspec.to_builtins(settings)))


def driver_of(place: Place) -> Driver:
    """Return the load driver in its closed mode, which is there on every machine."""
    return OwnDriver(place.key_file, place.audience, place.folder / "load.log")


async def test_open_loop_sends_what_is_due_and_counts_every_answer(place: Place) -> None:
    """Two processes offer exactly rate times seconds; Redis has sold exactly what was answered 202."""
    sale = sale_of(ACCEPTED)
    async with running(FLASHGATE, place, sale) as target:
        job = msgspec.structs.replace(offered_job(place, target, sale, 200.0, 1.5), connections=7)
        report, histogram = await run_load(job, 2, place.folder / "load.log")
        taken = await target.units_taken()
    assert report.offered == 300
    assert report.sent + report.dropped == report.offered
    assert report.answered + report.errors + report.unanswered == report.sent
    assert report.statuses.get(202) == taken == report.answered
    assert histogram.get_total_count() == report.answered
    assert report.processes == 2


@pytest.mark.slow
async def test_compare_measures_flashgate_and_a_peer(place: Place) -> None:
    """Every run's orders are those in Redis; what cannot be told without the other peers is left out."""
    plan = Plan(
        peers=(AIOHTTP,),
        effort=Effort(seconds=10, requests=COMPARED, connections=CONNECTIONS),
        repeat=1,
        offered_seconds=0,
        with_memory=False,
        full=None,
    )
    minter = minter_from_file(str(place.key_file), place.audience)
    driver: Driver = Wrk(place.folder, minter) if find("wrk") else driver_of(place)
    comparison, said = Comparison("test"), list[str]()
    await compare(place, driver, minter, plan, comparison, said.append)
    (runs,) = comparison.rounds
    assert set(runs) == {(name, scenario) for name in (FLASHGATE, AIOHTTP) for scenario in (ACCEPTED, SOLD_OUT)}
    for (_, scenario), run in runs.items():
        assert COMPARED <= run.driven.sent <= COMPARED + CONNECTIONS
        assert run.gateway_cpu_us > 0
        if scenario == ACCEPTED:
            assert run.driven.up_to_399 <= run.units_taken <= run.driven.sent
        else:
            assert run.units_taken == run.driven.up_to_399 == 0
    facts = comparison.to_json()
    assert [figure["name"] for figure in facts["figures"]] == [figure.name for figure in comparison.figures]
    assert not [figure for figure in comparison.figures if "Go" in figure.name or "nginx" in figure.name]
    assert len(said) == 4


@pytest.mark.slow
async def test_scale_measures_exactly_the_orders_of_each_round(place: Place) -> None:
    """A level is filled with its buyers, and every round places its orders on top of them."""
    plan = ScalePlan(buyers_max=300, skus_max=3, orders=200, connections=8, repeat=2, prefill_seconds=10)
    found = await measure_scale(place, driver_of(place), plan, lambda _: None)
    assert [(one.level.buyers, one.level.skus) for one in found] == [(300, 1), (300, 3)]
    assert [[cost.orders for cost in one.costs] for one in found] == [[200, 200], [200, 200]]
    assert [cost.orders for cost in found[1].beside] == [200, 200]
    assert all(cost.total_us > 0 for one in found for cost in one.costs)
    assert len(figures(found)) == 1


async def test_memory_is_that_of_the_worker_and_of_its_redis(place: Place) -> None:
    """A worker at rest is resident, and a buyer with an order takes room in Redis."""
    memory = await measure_memory(place, connections=20, buyers=512)
    assert memory.connections == 20
    assert memory.worker_rest_bytes > 10_000_000
    assert 8 < memory.buyer_bytes < 10_000


async def test_missing_peer_is_named(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A peer that is not installed ends a comparison with its name."""
    monkeypatch.setattr(go_peer, "find", lambda *_: None)
    monkeypatch.setattr(go_peer, "binary", lambda: place.folder / "missing")
    monkeypatch.setattr("bench.nginx_peer.find", lambda *_: None)
    like = servers.AnswerLine(status=409, content_type="text/plain", body="x")
    for name in (servers.GO, NGINX):
        with pytest.raises(BenchError, match=f"{name}: .*--without {name}"):
            async with running(name, place, sale_of(SOLD_OUT), like=like):
                pytest.fail("it was started")


async def test_peer_that_does_not_start_is_named(place: Place) -> None:
    """Its own words are in the message, and its Redis is gone."""
    place.key_file.unlink()
    with pytest.raises(BenchError, match=r"(?s)^aiohttp: .*jwt\.key"):
        async with running(AIOHTTP, place, sale_of(ACCEPTED)):
            pytest.fail("it was started")
    assert not (place.folder / "redis-home").exists()


async def test_signal_ends_a_benchmark_and_leaves_nothing_behind(tmp_path: Path) -> None:
    """SIGTERM: exit code 130, no server is left, no folder, no half a result."""
    env = {**os.environ, "FLASHGATE_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT_ROOT)}
    argv = (sys.executable, "-m", "cli", "bench", "scale", "--runs", str(tmp_path / "runs"), "--buyers-max", "1000")
    process = subprocess.Popen(argv, cwd=PROJECT_ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)  # noqa: ASYNC220
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            while not list(tmp_path.glob("bench/work-*/level-0/gateway.ready")):  # noqa: ASYNC240, ASYNC110
                await asyncio.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = await asyncio.to_thread(process.communicate, timeout=STOP_TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 130
    assert said.decode().strip() == "flashgate bench scale: stopped"
    assert not list(tmp_path.glob("bench/work-*"))  # noqa: ASYNC240
    assert not (tmp_path / "runs").exists()
    assert not [path for path in _command_lines() if str(tmp_path) in path]


def _command_lines() -> list[str]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            found.append(path.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:
            continue
    return found


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (("load", "--rate", "5", "--slo", "p99<5%"), "--slo: 'p99<5%': p99 is a latency"),
        (("load", "--rate", "5", "--url", "http://example.com"), "--remote example.com"),
        (("load", "--rate", "0"), "--rate"),
        (("load", "--rate", "5", "--url", "http://127.0.0.1:1", "--campaign", "a", "--sku", "b"), "cannot be reached"),
        (("compare", "--without", "nobody"), "there is no peer 'nobody'"),
        (("compare", "--name", "../x"), "--name"),
    ],
)
async def test_bad_input_is_one_clear_answer_and_exit_code_2(args: tuple[str, ...], word: str, tmp_path: Path) -> None:
    """It says what to do, and no traceback."""
    env = {**os.environ, "FLASHGATE_HOME": str(tmp_path), "PYTHONPATH": str(PROJECT_ROOT), "COLUMNS": "200"}
    argv = (sys.executable, "-m", "cli", "bench", *args)
    ran = await asyncio.to_thread(
        subprocess.run, argv, cwd=PROJECT_ROOT, env=env, capture_output=True, text=True, timeout=60, check=False
    )
    assert ran.returncode == 2
    assert word in ran.stderr
    assert "Traceback" not in ran.stderr

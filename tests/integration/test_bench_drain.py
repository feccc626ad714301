"""`bench drain` on real servers, with numbers so small that only its bookkeeping is tested, not speed."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from adapters.mysql import Pool, orders_dsn, query
from bench.drain import ROUNDS_MIN, figures, to_json
from bench.drain_loads import LOADS
from bench.drain_rig import DrainPlan, measure_drain
from bench.errors import BenchError
from cli.config import as_environment
from domain.settings import Settings

RECORDS = 2_000
BATCH = 50


def plan_of(settings: Settings, folder: Path, topic: str = "orders.accepted") -> DrainPlan:
    """Return a small measurement on the shared servers."""
    return DrainPlan(
        records=RECORDS,
        batch=BATCH,
        settings=settings,
        environment_of=lambda one: as_environment(msgspec.to_builtins(one)),
        server_pid=None,
        log=folder / "drain.log",
        load=LOADS[topic],
    )


async def left_over(settings: Settings) -> list[str]:
    """Return databases of measurements that are still there."""
    pool = Pool(orders_dsn(settings.mysql), size_max=1, connect_timeout_s=5)
    rows = await query(pool, r"SHOW DATABASES LIKE 'fg\_drain%'")
    await pool.close()
    return [name for (name,) in rows]


@pytest.mark.parametrize("topic", list(LOADS))
async def test_both_write_the_same_rows(settings: Settings, tmp_path: Path, topic: str) -> None:
    """The writer and the bare loop write what was queued, by turns, give or take a batch; memory is told all along."""
    said: list[str] = []
    found = await measure_drain(plan_of(settings, tmp_path, topic), said.append)
    assert (len(found.writer), len(found.bare)) == (ROUNDS_MIN, ROUNDS_MIN)
    written, inserted = (sum(one.records for one in stints) for stints in (found.writer, found.bare))
    assert inserted == RECORDS
    assert RECORDS <= written <= RECORDS + BATCH
    assert all(one.seconds > 0 and one.rss_bytes > 10_000_000 for one in [*found.writer, *found.bare])
    assert len(to_json(found)["rss_bytes"]) == 5
    assert len(figures(found)) == 2
    assert len(said) == ROUNDS_MIN + 1
    assert await left_over(settings) == []


async def test_one_that_dies_ends_the_measurement(settings: Settings, tmp_path: Path) -> None:
    """A process that ends is named, and the databases go all the same."""
    plan = replace(plan_of(settings, tmp_path), environment_of=lambda _: {"FLASHGATE_NONSENSE": "1"})
    with pytest.raises(BenchError, match=r"^the writer (has ended with code 1|does not go on)"):
        await measure_drain(plan, lambda _: None)
    assert "FLASHGATE_NONSENSE" in (tmp_path / "drain.log").read_text()
    assert await left_over(settings) == []

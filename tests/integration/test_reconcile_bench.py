"""`bench reconcile` on servers of its own, with so few orders that only its bookkeeping is tested, not its speed."""

from pathlib import Path

import orjson
import pytest

from bench.reconcile import parse_peak_bytes
from domain.settings import Settings
from tests.support.operator import command

ORDERS = 2_000


@pytest.mark.slow
async def test_bench_fills_three_stores_that_agree(tmp_path: Path) -> None:
    """It fills the stores with consistent orders, part of them released, and the look that it times finds no drift."""
    args = ("bench", "reconcile", "--orders", str(ORDERS), "--json", "--runs", str(tmp_path / "runs"), "--name", "one")
    code, lines = await command(Settings(), tmp_path, *args)
    assert code == 0, lines
    facts = orjson.loads(lines[-1])
    assert (facts["orders"], facts["drift"], facts["in_flight"]) == (ORDERS, 0, 0)
    assert ORDERS < facts["ledger_rows"] < 1.2 * ORDERS
    assert facts["seconds"] > 0
    assert facts["peak_rss_bytes"] > 10_000_000
    written = orjson.loads((tmp_path / "runs" / "one" / "reconcile.json").read_bytes())
    assert written == {name: value for name, value in facts.items() if name != "run"}
    assert not list(tmp_path.glob("bench/work-*"))  # noqa: ASYNC240


def test_peak_memory_is_read_from_the_kernel() -> None:
    """The highest resident memory is in the status of a process that runs, and of one that has ended there is none."""
    assert parse_peak_bytes("Name:\tpython\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n") == 2_048 * 1_024
    with pytest.raises(ValueError, match="VmHWM"):
        parse_peak_bytes("Name:\tpython\nState:\tZ (zombie)\n")

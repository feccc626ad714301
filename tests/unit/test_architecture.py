"""Who may import whom."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from stack.paths import PROJECT_ROOT

IO_LIBRARIES = {"redis", "aiohttp", "aiokafka", "aiomysql", "pymysql", "sqlalchemy", "asyncio", "socket", "subprocess"}
CLOCKS = {"time"}
DECISIONS = [
    "gateway/view.py",
    "gateway/admission.py",
    "gateway/holders.py",
    "gateway/requests.py",
    "gateway/request_head.py",
    "gateway/answers.py",
    "gateway/order_records.py",
    "gateway/redemption_rules.py",
    "gateway/recovery_rules.py",
    "gateway/recovery_allocations.py",
    "consumers/backlog.py",
    "consumers/award_batch.py",
    "consumers/batch.py",
    "consumers/redemption_batch.py",
    "consumers/reconcile_look.py",
    "consumers/reconcile_points.py",
    "consumers/reconcile_rules.py",
    "consumers/reconcile_explain.py",
    "consumers/repair_rules.py",
    "consumers/dead_letter_rules.py",
    "consumers/saga_facts.py",
    "consumers/saga_words.py",
    "consumers/trace_rules.py",
    "consumers/trace_topics.py",
    "lifecycle/rules.py",
    "lifecycle/callback.py",
    "lifecycle/provider.py",
    "lifecycle/provider_wire.py",
    "sandbox/rules.py",
    "warehouse/rules.py",
    "warehouse/review_rules.py",
    "warehouse/books.py",
    "bench/capacity_costs.py",
    "bench/capacity_facts.py",
    "bench/capacity_plan.py",
    "bench/load_books.py",
    "bench/load_outcomes.py",
    "bench/load_schedule.py",
    "bench/load_shapes.py",
    "bench/load_slo.py",
    "bench/load_tally.py",
    "bench/locust_buyer.py",
    "bench/locust_shape.py",
    "bench/report.py",
    "bench/report_compare.py",
    "bench/report_page.py",
    "bench/report_plan.py",
    "bench/report_svg.py",
    "bench/simulate.py",
    "bench/simulate_cores.py",
    "bench/simulate_curve.py",
    "bench/simulate_fit.py",
    "bench/simulate_line.py",
    "bench/simulate_plan.py",
    "bench/simulate_result.py",
    "bench/simulate_shelf.py",
    "bench/simulate_tally.py",
    "bench/sweep.py",
    "bench/usl.py",
]
OURS = ("adapters", "gateway", "consumers", "lifecycle", "warehouse", "sandbox", "cli", "bench", "domain")
MODULE_LINES_MAX = 420


def imports_of(path: Path) -> Iterator[str]:
    """Yield the full names of the modules that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def tops(path: Path) -> set[str]:
    """Return the top-level names of what a file imports."""
    return {name.partition(".")[0] for name in imports_of(path)}


@pytest.mark.parametrize("path", sorted((PROJECT_ROOT / "domain").glob("*.py")), ids=lambda path: path.stem)
def test_domain_does_no_io_and_reads_no_clock(path: Path) -> None:
    """`domain/` imports no I/O library, no clock, and no other package of ours."""
    assert not tops(path) & (
        IO_LIBRARIES | CLOCKS | {"adapters", "gateway", "consumers", "lifecycle", "warehouse", "stack", "cli", "bench"}
    )


@pytest.mark.parametrize("name", DECISIONS)
def test_decisions_are_pure(name: str) -> None:
    """Modules that decide import no I/O library and read no clock."""
    assert not tops(PROJECT_ROOT / name) & (IO_LIBRARIES | CLOCKS)


def test_gateway_and_consumers_do_not_know_each_other() -> None:
    """`consumers/` never imports `gateway/`, nor the other way; `lifecycle/`, which both may use, imports neither.

    `warehouse/` stands on `lifecycle/`, and the gateway's ops plane on `warehouse/`. None of them imports the command
    line or the stack. The sandbox stands outside: nobody imports it.
    """
    for package, forbidden in (
        ("gateway", {"consumers", "sandbox"}),
        ("consumers", {"gateway", "warehouse", "sandbox"}),
        ("lifecycle", {"gateway", "consumers", "warehouse", "sandbox"}),
        ("warehouse", {"gateway", "consumers", "sandbox"}),
        ("sandbox", {"gateway", "consumers", "warehouse"}),
    ):
        for path in (PROJECT_ROOT / package).glob("*.py"):
            assert not tops(path) & {*forbidden, "cli", "stack", "bench"}, path.name


def test_keys_are_made_in_one_place() -> None:
    """No Redis key is spelt out anywhere but in domain/keys.py."""
    for package in OURS:
        for path in (PROJECT_ROOT / package).glob("*.py"):
            if path.name != "keys.py":
                assert not re.search(r"[\"']fg:", path.read_text()), path


def test_modules_stay_small() -> None:
    """A module of more than about 400 lines hides a missing idea."""
    for package in (*OURS, "stack"):
        for path in (PROJECT_ROOT / package).glob("*.py"):
            assert len(path.read_text().splitlines()) <= MODULE_LINES_MAX, path

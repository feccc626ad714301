"""`flashgate demo` as its user runs it: a command on a machine that has nothing yet."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from stack.paths import HOME_VARIABLE, PROJECT_ROOT
from stack.runtime import process_started

STARTED: Final = "starting Redis"
ON_SALE: Final = ": go"
NUMBERS: Final = (
    "offered_per_s",
    "accepted_per_s",
    "p50_ms",
    "p99_ms",
    "drain_s",
    "evalsha_calls",
    "insert_statements",
)
WAIT_S: Final = 120.0
GONE_S: Final = 2.0

Process = tuple[int, int]
"""A process id and when it started, which tells a reused id."""


def flashgate(home: Path, *args: str) -> "subprocess.Popen[str]":
    """Start a command in a home of its own."""
    return subprocess.Popen(
        (sys.executable, "-m", "cli", *args),
        cwd=PROJECT_ROOT,
        env={**os.environ, HOME_VARIABLE: str(home), "PYTHONPATH": str(PROJECT_ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        bufsize=0,
    )


@contextmanager
def ended(demo: "subprocess.Popen[str]") -> Iterator[None]:
    """Leave no demo behind, whatever a test finds."""
    try:
        yield
    finally:
        if demo.poll() is None:
            demo.terminate()
            demo.wait(WAIT_S)
        for pipe in (demo.stdout, demo.stderr):
            if pipe is not None:
                pipe.close()


def told_until(demo: "subprocess.Popen[str]", what: str) -> str:
    """Return what a command has said on stderr once it has said this."""
    assert demo.stderr is not None
    descriptor, said, end_s = demo.stderr.fileno(), "", time.monotonic() + WAIT_S
    while what not in said:
        assert select.select([descriptor], [], [], max(0.0, end_s - time.monotonic()))[0], f"no {what!r} in: {said}"
        piece = os.read(descriptor, 65_536)
        assert piece, f"the demo has ended: {said}"
        said += piece.decode()
    return said


def family(pid: int) -> set[Process]:
    """Return a process's children, their children, and so on."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return {(child, started) for child in found - {pid} if (started := process_started(child)) is not None}


def left_of(processes: set[Process], home: Path) -> set[str]:
    """Return the command lines of what still runs of them or names this home, once nothing does or after a while.

    The children's own children are killed with them, not awaited: the kernel may need a moment.
    """
    end_s = time.monotonic() + GONE_S
    while True:
        living = {pid for pid, started in processes if process_started(pid) == started}
        lines = naming(home) | {pid_line(pid) or f"pid {pid}" for pid in living}
        if not lines or time.monotonic() > end_s:
            return lines
        time.sleep(0.02)


def naming(home: Path) -> set[str]:
    """Return the command lines of all processes that name this home."""
    lines = {pid_line(int(entry.name)) for entry in Path("/proc").iterdir() if entry.name.isdigit()}
    return {line for line in lines if str(home) in line}


def pid_line(pid: int) -> str:
    """Return a process's command line; empty once it has gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8", errors="replace").replace("\0", " ")
    except OSError:
        return ""


@pytest.mark.timeout(300)
def test_the_demo_sells_everything_exactly_once(tmp_path: Path) -> None:
    """Redis, Kafka, MySQL and the buyers agree on every unit; nothing is left running; script and SQL are batched."""
    demo = flashgate(tmp_path, "demo", "--buyers", "2000", "--stock", "200", "--json")
    with ended(demo):
        told_until(demo, ON_SALE)
        children = family(demo.pid)
        out, told = demo.communicate(timeout=WAIT_S)
    assert demo.returncode == 0, told
    (line,) = out.splitlines()
    facts = json.loads(line)
    orders = facts["accepted"]
    assert orders == facts["mysql_rows"] == facts["kafka_distinct"] == facts["redis_taken"]
    assert orders == facts["confirmed"] + facts["released"] == 200 + facts["sold_again"]
    given_back = facts["cancelled"] + facts["expired"] + facts["refunded"]
    assert facts["released"] == facts["redis_returned"] == given_back
    assert facts["refunded"] == facts["rejected"] + facts["returned"]
    assert min(facts[name] for name in ("cancelled", "expired", "rejected", "returned")) > 0
    assert orders + facts["sold_out"] == facts["buyers"] == 2000
    same = ("stock", "sold", "confirmed", "paid", "shipped")
    assert {name: facts[name] for name in same} == dict.fromkeys(same, 200)
    none = ("rate_limited", "failed", "unpaid", "withdrawn", "drift")
    assert {name: facts[name] for name in none} == dict.fromkeys(none, 0)
    assert facts["kind"] == "sale"
    assert set(NUMBERS) <= set(facts)
    assert 0 < facts["p50_ms"] <= facts["p99_ms"]
    assert facts["evalsha_calls"] <= 200 / 5
    assert facts["insert_statements"] <= 200 / 20
    assert len(children) >= 10  # three servers, two workers, relay, consumer, lifecycle, sandbox, crowd
    assert left_of(children, tmp_path) == set()


@pytest.mark.parametrize(
    ("moment", "number"),
    [
        (STARTED, signal.SIGTERM),
        pytest.param("gateway workers", signal.SIGINT, marks=pytest.mark.slow),
        (ON_SALE, signal.SIGINT),
        pytest.param("to be paid", signal.SIGTERM, marks=pytest.mark.slow),
    ],
)
@pytest.mark.timeout(300)
def test_an_interrupted_demo_leaves_nothing(tmp_path: Path, moment: str, number: signal.Signals) -> None:
    """Ctrl-C and SIGTERM, at whatever moment: exit code 130, no traceback, no process."""
    demo = flashgate(tmp_path, "demo", "--buyers", "5000", "--json")
    with ended(demo):
        before = told_until(demo, moment)
        children = family(demo.pid)
        demo.send_signal(number)
        out, after = demo.communicate(timeout=WAIT_S)
    assert demo.returncode == 130
    assert out == ""
    assert "Traceback" not in before + after
    assert "stopping" in after
    assert left_of(children, tmp_path) == set()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_kept_servers_are_those_of_stack(tmp_path: Path) -> None:
    """After `demo --keep` the stack commands find its servers and its orders, until `stack stop`."""
    demo = flashgate(tmp_path, "demo", "--buyers", "200", "--stock", "20", "--json", "--keep")
    with ended(demo):
        _, told = demo.communicate(timeout=WAIT_S)
    try:
        assert demo.returncode == 0, told
        status = run(tmp_path, "stack", "status", "--json")
        assert set(json.loads(status.stdout)) == {"redis", "kafka", "mysql"}
        campaign = json.loads(run(tmp_path, "campaign", "status", "demo", "--json").stdout)
        assert [(sku["taken"] - sku["returned"], sku["remaining"]) for sku in campaign["skus"]] == [(20, 0)]
        consumer = ("console-consumer", "--topic", "orders.accepted", "--from-beginning", "--max-messages", "20")
        assert len(re.findall(r'"order_id"', run(tmp_path, "stack", "kafka", *consumer).stdout)) == 20
        again = run(tmp_path, "demo")
        assert (again.returncode, again.stdout) == (1, "")
        assert "stack stop" in again.stderr
    finally:
        stopped = run(tmp_path, "stack", "stop")
    assert stopped.returncode == 0
    assert left_of(set(), tmp_path) == set()


def facts_of(home: Path, *args: str) -> dict[str, Any]:
    """Run a demo to its end and return what it prints."""
    done = run(home, "demo", *args, "--json")
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    facts: dict[str, Any] = json.loads(line)
    assert set(NUMBERS) <= set(facts)
    none = ("drift", "failed", "rate_limited")
    assert {name: facts[name] for name in none} == dict.fromkeys(none, 0)
    assert facts["confirmed"] == facts["sold"] == facts["stock"]
    assert facts["accepted"] == facts["mysql_rows"] == facts["kafka_distinct"] == facts["redis_taken"]
    assert left_of(set(), home) == set()
    return facts


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_draws_every_prize_once(tmp_path: Path) -> None:
    """Prizes won are prizes taken, orders and points awarded; nobody draws too often; the log holds."""
    facts = facts_of(tmp_path, "--kind", "lottery", "--buyers", "2000", "--stock", "100")
    assert (facts["kind"], facts["accepted"], facts["verified"]) == ("lottery", 100, True)
    assert facts["winners"] + facts["no_prize"] + facts["sold_out"] == 2000
    assert 0 < facts["draws_by_one_max"] <= facts["draws_per_user"]
    assert facts["points_awarded"] > 0
    assert facts["released"] == facts["rejected"] == 0


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_demo_spends_points_on_every_unit(tmp_path: Path) -> None:
    """Points spent are those of confirmed redemptions; the others are rejected, with their units sold again."""
    facts = facts_of(tmp_path, "--kind", "redemption", "--buyers", "2000", "--stock", "100")
    assert facts["kind"] == "redemption"
    assert facts["points_spent"] - facts["points_returned"] == facts["confirmed"] * facts["points_price"]
    assert facts["points_granted"] - facts["points_spent"] + facts["points_returned"] == facts["points_left"]
    assert facts["rejected"] == facts["released"] == facts["redis_returned"] == facts["redeemed_again"] > 0


def run(home: Path, *args: str) -> "subprocess.CompletedProcess[str]":
    """Run a command to its end."""
    command = flashgate(home, *args)
    with ended(command):
        out, told = command.communicate(timeout=WAIT_S)
    return subprocess.CompletedProcess(args, command.returncode, out, told)

"""How large a batch is, how fast the backlog shrinks, and what is told of it: pure decisions."""

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from consumers.backlog import Rate, batch_size, drain_s
from consumers.backlog_view import PartitionBacklog, summary
from consumers.metrics import MULTIPROCESS_DIR, forget_dead_processes


@pytest.mark.parametrize(
    ("lag", "size"), [(-1, 100), (0, 100), (1_000, 100), (1_001, 101), (5_000, 500), (10_000, 1_000), (10**9, 1_000)]
)
def test_a_batch_is_a_tenth_of_what_waits_between_two_bounds(lag: int, size: int) -> None:
    """Little waits: the smallest. Much waits: the largest. In between: a tenth, rounded up."""
    assert batch_size(lag, smallest=100, largest=1_000) == size


@given(st.integers(-10, 10**9), st.integers(1, 10_000), st.integers(1, 10_000))
def test_no_batch_is_larger_than_the_largest(lag: int, smallest: int, largest: int) -> None:
    """The largest size holds even where the smallest is larger, and a batch is never empty."""
    assert 1 <= batch_size(lag, smallest=smallest, largest=largest) <= largest


def test_time_to_drain() -> None:
    """Nothing waits: no time. Nothing is done: for ever. Else: what waits, at the rate."""
    assert (drain_s(0, 0.0), drain_s(0, 5.0), drain_s(10, 5.0)) == (0.0, 0.0, 2.0)
    assert math.isinf(drain_s(1, 0.0))


def test_rate_looks_back_over_its_window() -> None:
    """The rate is a mean over the last seconds; what is older no longer counts."""
    rate = Rate(100.0, window_s=10.0)
    assert rate.per_s(100.0) == 0.0
    rate.add(50, 100.5)
    assert rate.per_s(100.5) == 50.0  # in the first second
    for second in range(1, 20):
        rate.add(30, 100.5 + second)
        rate.add(70, 100.6 + second)
    assert rate.per_s(119.6) == 100.0
    assert rate.per_s(125.0) == pytest.approx(50.0, rel=0.2)
    assert rate.per_s(200.0) == 0.0


def line(partition: int, end: int, committed: int | None, start: int = 0, topic: str = "t") -> PartitionBacklog:
    """Return what was seen of a partition."""
    lag = end - max(start, committed or start)
    return PartitionBacklog(topic=topic, partition=partition, end=end, committed=committed, lag=lag)


def test_backlog_adds_up() -> None:
    """The rate is what was committed between two looks; the outlook follows from the second."""
    found = summary([line(0, 100, 10), line(1, 50, None)], [line(0, 120, 30), line(1, 50, 20), line(2, 9, 5)], 2.0)
    assert (found.lag, found.per_s, found.drain_s) == (90 + 30 + 4, 20.0, 124 / 20)
    assert [one.lag for one in found.partitions] == [90, 30, 4]


def test_backlog_that_does_not_drain_says_so() -> None:
    """Where something waits and nothing is done there is no outlook; where nothing waits there is nothing to drain."""
    assert summary([line(0, 100, 10)], [line(0, 120, 10)], 2.0).drain_s is None
    assert summary([line(0, 100, 100)], [line(0, 100, 100)], 2.0).drain_s == 0.0
    assert summary([], [], 2.0).lag == 0


def test_each_topic_has_an_outlook_of_its_own() -> None:
    """Rates and outlooks are told by topic; together the longest counts, and none if one of them does not drain."""
    first = [line(0, 100, 0), line(0, 100, 0, topic="u")]
    found = summary(first, [line(0, 100, 50), line(0, 100, 10, topic="u")], 1.0)
    assert [(one.topic, one.lag, one.per_s, one.drain_s) for one in found.topics] == [
        ("t", 50, 50.0, 1.0),
        ("u", 90, 10.0, 9.0),
    ]
    assert (found.lag, found.per_s, found.drain_s) == (140, 60.0, 9.0)
    stuck = summary(first, [line(0, 100, 50), line(0, 100, 0, topic="u")], 1.0)
    assert (stuck.topics[0].drain_s, stuck.topics[1].drain_s, stuck.drain_s) == (1.0, None, None)


def test_gauges_of_dead_processes_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum over processes counts those that live; files of another kind stay."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()
    names = [f"gauge_livesum_{os.getpid()}.db", f"gauge_mostrecent_{gone.pid}.db", f"counter_{gone.pid}.db"]
    for name in [*names, f"gauge_livesum_{gone.pid}.db", f"gauge_livemax_{gone.pid}.db"]:
        (tmp_path / name).touch()
    monkeypatch.delenv(MULTIPROCESS_DIR, raising=False)
    forget_dead_processes()
    monkeypatch.setenv(MULTIPROCESS_DIR, str(tmp_path))
    forget_dead_processes()
    assert {path.name for path in tmp_path.iterdir()} == set(names)

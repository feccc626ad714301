"""The ops plane's counts over several processes."""

import os
from pathlib import Path

from gateway.ops import _forget_the_dead


def test_live_gauges_of_dead_processes_are_forgotten(tmp_path: Path) -> None:
    """A killed worker's waiting orders are no longer counted; what it has counted for good stays."""
    dead, alive = 2**22 + 1, os.getpid()  # above the largest pid
    names = [
        f"gauge_livesum_{dead}.db",
        f"gauge_livesum_{alive}.db",
        f"counter_{dead}.db",
        f"gauge_mostrecent_{dead}.db",
    ]
    for name in names:
        (tmp_path / name).touch()
    _forget_the_dead(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == set(names[1:])

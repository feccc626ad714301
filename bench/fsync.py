"""How long the disk takes to make a small write durable: the floor of every durable answer."""

import math
import os
import time
from pathlib import Path
from typing import Final

import msgspec

WRITE_BYTES: Final = 4_096
SECONDS: Final = 2.0
WRITES_MAX: Final = 2_000


class FsyncTimes(msgspec.Struct, frozen=True, kw_only=True):
    """fdatasync after an append, as Redis does it with `appendfsync always`."""

    writes: int
    p50_ms: float
    p99_ms: float


def percentile(values: list[float], share: float) -> float:
    """Return the value that so large a share of the sorted values does not exceed (nearest rank)."""
    return values[max(0, math.ceil(share * len(values) - 1e-9) - 1)]


def probe(folder: Path) -> FsyncTimes:
    """Append to a file in this folder and fdatasync, again and again for a bounded time."""
    path = folder / "fsync.probe"
    times: list[float] = []
    ends_s = time.monotonic() + SECONDS
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        while time.monotonic() < ends_s and len(times) < WRITES_MAX:
            began_s = time.perf_counter()
            os.write(fd, b"x" * WRITE_BYTES)
            os.fdatasync(fd)
            times.append((time.perf_counter() - began_s) * 1000)
    finally:
        os.close(fd)
        path.unlink()
    times.sort()
    return FsyncTimes(writes=len(times), p50_ms=percentile(times, 0.5), p99_ms=percentile(times, 0.99))

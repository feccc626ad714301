"""How long one look of the reconciler takes, and how much memory: the command itself, as an operator runs it."""

import asyncio
import contextlib
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import orjson

from bench.cpu import cpu_s
from bench.errors import BenchError
from stack.paths import PROJECT_ROOT

KB: Final = 1_024
LOOK_TIMEOUT_S: Final = 3_600.0
SAMPLE_PAUSE_S: Final = 0.05
"""The process's memory and CPU are read so often, for the last time so long before its end at most."""


class Reconciled(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        orders: in the stores.
        ledger_rows: of these orders.
        fill_s: how long filling took; not part of what is promised.
        seconds: of `flashgate reconcile`, from its start to its end.
        cpu_s: of its process alone.
        peak_rss_bytes: of its process.
        drift, in_flight: what it said.
    """

    orders: int
    ledger_rows: int
    fill_s: float
    seconds: float
    cpu_s: float
    peak_rss_bytes: int
    drift: int
    in_flight: int


async def time_look(campaign_id: str, environment: Mapping[str, str]) -> dict[str, Any]:
    """Run `flashgate reconcile` as a process of its own; returns the last five attributes of `Reconciled`.

    Args:
        campaign_id: what to look at.
        environment: of the process; says where the stores are.

    Raises:
        BenchError: it did not end with a report.
    """
    argv = (sys.executable, "-m", "cli", "reconcile", "--json", "--campaign", campaign_id)
    began_s = time.monotonic()
    process = await asyncio.create_subprocess_exec(
        *argv,
        cwd=PROJECT_ROOT,
        env={**os.environ, **environment, "PYTHONPATH": str(PROJECT_ROOT)},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    sampling = asyncio.create_task(_until_gone(process.pid))
    try:
        async with asyncio.timeout(LOOK_TIMEOUT_S):
            said, complained = await process.communicate()
    except BaseException:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        raise
    seconds = time.monotonic() - began_s
    used_s, peak_bytes = await sampling
    lines = said.splitlines()
    if process.returncode not in {0, 1} or not lines:
        raise BenchError(f"reconcile ended with code {process.returncode}: {complained.decode()[-500:]}")
    report = orjson.loads(lines[-1])
    return {
        "seconds": seconds,
        "cpu_s": used_s,
        "peak_rss_bytes": peak_bytes,
        "drift": report["drift"],
        "in_flight": report["in_flight"],
    }


async def _until_gone(pid: int) -> tuple[float, int]:
    """Read a process's CPU time and its highest resident memory again and again; returns the last ones."""
    used_s, peak_bytes = 0.0, 0
    status = Path(f"/proc/{pid}/status")
    while True:
        try:
            peak_bytes = max(peak_bytes, parse_peak_bytes(status.read_text(errors="replace")))  # noqa: ASYNC240
            used_s = cpu_s([pid])
        except (OSError, ValueError):  # it has ended
            return used_s, peak_bytes
        await asyncio.sleep(SAMPLE_PAUSE_S)


def parse_peak_bytes(status: str) -> int:
    """Return VmHWM of `/proc/PID/status`, bytes.

    Raises:
        ValueError: there is none: the process has ended.
    """
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) * KB
    raise ValueError("no VmHWM in /proc/PID/status")

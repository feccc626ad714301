"""What a process has used, out of /proc (see proc(5)): CPU time of all its threads, resident memory."""

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Final

TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def parse_cpu_ticks(stat: str) -> int:
    """Return utime + stime of `/proc/PID/stat`, clock ticks: all threads, those that have ended included.

    Raises:
        ValueError: it is no such line.
    """
    fields = stat.rpartition(")")[2].split()  # the name before it may hold blanks and brackets
    if len(fields) < 13:
        raise ValueError(f"not a line of /proc/PID/stat: {stat[:80]!r}")
    return int(fields[11]) + int(fields[12])


def parse_rss_bytes(status: str) -> int:
    """Return VmRSS of `/proc/PID/status`, bytes.

    Raises:
        ValueError: there is none.
    """
    for line in status.splitlines():
        name, _, value = line.partition(":")
        if name == "VmRSS":
            return int(value.split()[0]) * 1024
    raise ValueError("no VmRSS in /proc/PID/status")


def cpu_s(pids: Iterable[int]) -> float:
    """Return the CPU time that these processes have used so far, seconds.

    Raises:
        OSError: one of them is gone.
    """
    ticks = sum(parse_cpu_ticks(Path(f"/proc/{pid}/stat").read_text(errors="replace")) for pid in pids)
    return ticks / TICKS_PER_S


def rss_bytes(pid: int) -> int:
    """Return a process's resident memory.

    Raises:
        OSError: it is gone.
    """
    return parse_rss_bytes(Path(f"/proc/{pid}/status").read_text(errors="replace"))


def with_children(pid: int) -> tuple[int, ...]:
    """Return a process and its children: nginx works in one.

    Raises:
        OSError: it is gone.
    """
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return (pid, *[int(child) for child in children.split()])


def cpu_ns(pids: Iterable[int]) -> int:
    """Return the CPU time of all threads that these processes have now, nanoseconds: finer than `cpu_s`.

    Raises:
        OSError: one of them is gone, or the kernel keeps no schedstat.
    """
    files = [path for pid in pids for path in Path(f"/proc/{pid}/task").glob("*/schedstat")]
    return sum(int(path.read_text().split()[0]) for path in files)

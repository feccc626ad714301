"""Whether a machine belonged to a measurement alone: what other processes used meanwhile, out of /proc/stat."""

import time
from pathlib import Path
from typing import Final

from bench.cpu import TICKS_PER_S

IDLE: Final = (3, 4)
"""Fields of a `cpu` line that are no use: idle, iowait. Guests are counted among user already."""
COUNTED: Final = 8


def busy_ticks(stat: str) -> int:
    """Return the ticks that all cores were busy or taken away (steal), of `/proc/stat`.

    Raises:
        ValueError: it is no such file.
    """
    name, *fields = stat.partition("\n")[0].split()
    if name != "cpu" or len(fields) < COUNTED:
        raise ValueError(f"not /proc/stat: {stat[:80]!r}")
    return sum(int(field) for number, field in enumerate(fields[:COUNTED]) if number not in IDLE)


class Others:
    """A look at the machine now, to be asked later what others have used since then."""

    def __init__(self) -> None:
        self._began_s = time.monotonic()
        self._busy = busy_ticks(_stat())

    def cores(self, own_s: float) -> float:
        """Return how many cores others have used since, on average.

        Args:
            own_s: CPU seconds of what was measured.
        """
        busy_s = (busy_ticks(_stat()) - self._busy) / TICKS_PER_S
        return max(0.0, busy_s - own_s) / max(1e-3, time.monotonic() - self._began_s)


def _stat() -> str:
    return Path("/proc/stat").read_text(encoding="ascii")

"""Runs Locust as a process of its own, for importing it patches the standard library, and reads what it counts."""

import asyncio
import contextlib
import importlib.util
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import msgspec

from bench.errors import BenchError
from bench.locust_buyer import LocustCounts, LocustJob, add_up
from bench.locust_shape import LEAVING_S
from stack.paths import PROJECT_ROOT
from stack.process import Process

LOCUSTFILE: Final = PROJECT_ROOT / "bench" / "locustfile.py"
JOB_VARIABLE: Final = "BENCH_LOCUST_JOB"
POLL_S: Final = 0.25
STOP_TIMEOUT_S: Final = 20
"""How long buyers who are in doubt may go on asking when they are told to stop."""
SPARE_S: Final = 60.0
"""Start, stop, and rounds of messages to the processes."""


class Locust:
    """Locust with a job.

    Args:
        job: what its buyers do.
        folder: of this run; the job, the counts, the log and Locust's own statistics go there.
        url: of the buyer plane.
        processes: at least one; with more, one more collects what they tell.
        web_port: of Locust's web page on loopback; 0: none, it begins at once and ends with its peak.
    """

    def __init__(self, job: LocustJob, folder: Path, url: str, *, processes: int, web_port: int) -> None:
        self._job = job
        self._folder = folder
        self._url = url
        self._processes = processes
        self._web_port = web_port
        self.log = folder / "locust.log"

    async def run(self, on_counts: Callable[[LocustCounts], None]) -> LocustCounts:
        """Run it until its end; with a web page, until this is cancelled. Leaves no process behind.

        Raises:
            BenchError: Locust is not installed, failed, or is stuck.
        """
        if importlib.util.find_spec("locust") is None:
            raise BenchError("Locust is not installed here: it is the extra `load` of pyproject.toml")
        path = self._folder / "locust-job.json"
        path.write_bytes(msgspec.json.encode(self._job))
        env = {"PYTHONPATH": str(PROJECT_ROOT), JOB_VARIABLE: str(path)}
        process = Process(self._argv(), log=self.log, env=env)
        timeout_s = self._job.duration_s + LEAVING_S + STOP_TIMEOUT_S + SPARE_S
        try:
            async with asyncio.timeout(None if self._web_port else timeout_s):
                while process.code is None:
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(process.exited.wait(), POLL_S)
                    on_counts(self.counts())
        except TimeoutError:
            raise BenchError(f"Locust is stuck: it has not ended after {timeout_s:.0f} s") from None
        except asyncio.CancelledError:
            if not self._web_port:
                raise
            # Whoever ends the web page wants to see what came of it.
            await process.stop(signal.SIGTERM, timeout_s=STOP_TIMEOUT_S + SPARE_S)
            task = asyncio.current_task()
            if task is not None:
                task.uncancel()
        finally:
            process.destroy()
        if process.code != 0:
            raise BenchError(f"Locust ended with code {process.code}:\n" + "\n".join(process.log_tail()))
        return self.counts()

    def counts(self) -> LocustCounts:
        """Return what all processes have counted so far."""
        paths: Sequence[Path] = sorted(Path(self._job.counts_folder).glob("*.json"))
        parts = [msgspec.json.decode(path.read_bytes(), type=LocustCounts) for path in paths]
        return add_up(parts, len(self._job.aims))

    def _argv(self) -> tuple[str, ...]:
        job = self._job
        argv = [sys.executable, "-m", "locust", "--locustfile", str(LOCUSTFILE), "--host", self._url]
        argv += ["--users", str(job.users), "--spawn-rate", f"{job.spawn_per_s or job.users:g}"]
        argv += ["--run-time", f"{max(1, round(job.duration_s))}s", "--stop-timeout", str(STOP_TIMEOUT_S)]
        argv += ["--exit-code-on-error", "0", "--json-file", str(self._folder / "locust-stats")]
        if self._processes > 1:
            argv += ["--processes", str(self._processes)]
        web = ["--web-host", "127.0.0.1", "--web-port", str(self._web_port)]
        return (*argv, *(web if self._web_port else ["--headless", "--only-summary"]))

"""`python -m stack.daemon`: runs the servers in the background until SIGTERM. Started by `flashgate stack start`.

It tells its starter how it goes by JSON lines on a pipe: {"note": …} any number of times, then {"ready": true} or
{"error": …}.
"""

import argparse
import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path

from setproctitle import setproctitle

from domain.errors import FlashgateError
from stack.runtime import clear_runtime, write_runtime
from stack.servers import LocalStack
from stack.supervisor import Event


class _Report:
    """The pipe to the starter, which may have gone away."""

    def __init__(self, fd: int) -> None:
        self._file = os.fdopen(fd, "w", encoding="utf-8")

    def send(self, **line: object) -> None:
        with contextlib.suppress(OSError):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def note(self, text: str) -> None:
        self.send(note=text)

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._file.close()


async def run(home: Path, report: _Report) -> int:
    """Start, make it known, wait for the signal, stop. Returns the exit code."""
    stopping = asyncio.Event()
    for signum in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(signum, stopping.set)
    stack = LocalStack(home, on_event=_log, note=report.note)
    starting = asyncio.create_task(stack.start())
    told_to_stop = asyncio.create_task(stopping.wait())
    await asyncio.wait((starting, told_to_stop), return_when=asyncio.FIRST_COMPLETED)
    if not starting.done():
        starting.cancel()
    try:
        endpoints = await starting
    except asyncio.CancelledError:
        told_to_stop.cancel()
        report.send(error="stopped before it was ready")
        return 1
    except (FlashgateError, OSError, TimeoutError) as error:
        told_to_stop.cancel()
        report.send(error=str(error) or type(error).__name__)
        return 1
    write_runtime(stack.home, endpoints, owner="stack")
    report.send(ready=True)
    report.close()
    await told_to_stop
    clear_runtime()
    await stack.stop()
    return 0


def _log(event: Event) -> None:
    print(f"{event.name} {event.kind} pid={event.pid} code={event.code}", flush=True)  # noqa: T201 -- this is the log


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="stack.daemon")
    parser.add_argument("--home", type=Path, required=True)
    parser.add_argument("--report-fd", type=int, required=True)
    args = parser.parse_args()
    setproctitle("flashgate: stack")
    report = _Report(args.report_fd)
    try:
        return asyncio.run(run(args.home, report))
    finally:
        report.close()


if __name__ == "__main__":
    sys.exit(main())

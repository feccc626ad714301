"""One child process: spawned in its own session, bound to its parent's life, awaited without threads."""

import asyncio
import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

from stack.errors import ChildFailed, StackError

LOG_ROTATE_BYTES: Final = 16 * 1024 * 1024
"""A log longer than this is set aside as `<name>.1` when its child starts."""
TAIL_READ_BYTES: Final = 16 * 1024

# The kernel signals the child when its parent dies. A parent that died before that was arranged is caught by
# comparing PPID. Both programs replace themselves by exec, so the pid stays that of the real process.
_GUARD: Final = '[ "$PPID" = "$1" ] || exit 1; shift; exec "$@"'


def guarded_argv(argv: Sequence[str], *, parent: int) -> tuple[str, ...]:
    """Return the command line which runs `argv` so that it gets SIGTERM when the process `parent` dies."""
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise StackError("setpriv is missing: install the package util-linux")
    return (setpriv, "--pdeathsig", "TERM", "--", "/bin/sh", "-c", _GUARD, "sh", str(parent), *argv)


def open_log(path: Path) -> BinaryIO:
    """Open a log for appending, with an overlong one set aside."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > LOG_ROTATE_BYTES:
            path.replace(path.with_name(path.name + ".1"))
    return path.open("ab")


class Process:
    """A running child. Created inside a running event loop, in its thread."""

    def __init__(
        self,
        argv: Sequence[str],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self._log = log
        with open_log(log) as out:
            self._log_start = out.tell()
            self._popen = subprocess.Popen(
                guarded_argv(argv, parent=os.getpid()),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env={**os.environ, **(env or {})},
                pass_fds=tuple(pass_fds),
                start_new_session=True,
            )
        self.pid = self._popen.pid
        self.code: int | None = None
        self.exited = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._pidfd = os.pidfd_open(self.pid)
        self._loop.add_reader(self._pidfd, self._on_exit)

    def _on_exit(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # Not reaped yet, so the group's id cannot belong to anybody else: take its stragglers along.
        self.kill_group()
        self.code = self._popen.wait()
        self.exited.set()

    def send(self, signum: signal.Signals) -> None:
        """Signal the process; one that has ended is left alone."""
        if self.code is None:
            self._popen.send_signal(signum)

    def kill_group(self) -> None:
        """SIGKILL the process and whatever it started in its session."""
        if self.code is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)

    def destroy(self) -> None:
        """Kill and reap at once, for a caller that is itself being cancelled; no-op for one that has ended."""
        if self.code is None:
            self.kill_group()
            self._on_exit()

    async def stop(self, signum: signal.Signals, *, timeout_s: float) -> None:
        """Signal the process and wait for its end; after `timeout_s` seconds it is killed."""
        try:
            self.send(signum)
            async with asyncio.timeout(timeout_s):
                await self.exited.wait()
        except TimeoutError:
            self.kill_group()
            await self.exited.wait()
        except asyncio.CancelledError:
            self.kill_group()
            raise

    def log_tail(self, lines: int = 15) -> tuple[str, ...]:
        """The last lines that this run of the process wrote."""
        try:
            with self._log.open("rb") as file:
                end = file.seek(0, os.SEEK_END)
                file.seek(max(self._log_start, end - TAIL_READ_BYTES))
                text = file.read().decode(errors="replace")
        except OSError:
            return ()
        return tuple(line.rstrip() for line in text.splitlines() if line.strip())[-lines:]


async def run_to_end(
    name: str,
    argv: Sequence[str],
    *,
    log: Path,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
) -> None:
    """Run a program to its end, its words going to `log`.

    Raises:
        ChildFailed: it ended with another exit code than 0.
        TimeoutError: it took longer than `timeout_s` seconds; it was killed.
    """
    process = Process(argv, log=log, env=env)
    try:
        async with asyncio.timeout(timeout_s):
            await process.exited.wait()
    finally:
        process.destroy()
    if process.code != 0:
        raise ChildFailed(name, process.code, process.log_tail())

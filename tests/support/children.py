"""flashgate's commands as child processes of a test, with a fail point at which they kill or stop themselves.

One that a failed test has left behind dies with the tests.
"""

import asyncio
import contextlib
import os
import subprocess
import sys
from collections.abc import AsyncIterator

import msgspec

from cli.config import as_environment
from domain.settings import Settings
from stack.paths import PROJECT_ROOT


def inherited_environment() -> dict[str, str]:
    """Return this process's environment without flashgate's own settings."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FLASHGATE_")}


async def _start(
    settings: Settings, module: str, fail_point: str, command: tuple[str, ...]
) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *("setpriv", "--pdeathsig", "KILL", "--", sys.executable, "-m", module, fail_point, *command),
        cwd=PROJECT_ROOT,
        env={**inherited_environment(), **as_environment(msgspec.to_builtins(settings))},
        stdin=subprocess.DEVNULL,
    )


async def start_killed_at(settings: Settings, fail_point: str, *command: str) -> asyncio.subprocess.Process:
    """Start a flashgate command that kills itself at a fail point."""
    return await _start(settings, "tests.support.child", fail_point, command)


@contextlib.asynccontextmanager
async def paused_at(settings: Settings, fail_point: str, *command: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run a flashgate command that stops itself at a fail point; what is left of it in the end is killed."""
    process = await _start(settings, "tests.support.paused_child", fail_point, command)
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def is_stopped(pid: int) -> bool:
    """Tell whether a process of ours is stopped."""
    with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:  # noqa: PTH123 -- no file of ours
        return file.read().rpartition(")")[2].split()[0] == "T"

"""On what a measurement was made."""

import asyncio
import contextlib
import importlib.metadata
import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import msgspec

from domain.settings import Settings
from stack.packages import find
from stack.paths import PROJECT_ROOT

VERSION_TIMEOUT_S: Final = 10.0
PROGRAMS: Final = {
    "redis": ("redis-server", "--version"),
    "go": ("go", "version"),
    "nginx": ("nginx", "-v"),
    "wrk": ("wrk", "-v"),
    "git": ("git", "--version"),
}
LIBRARIES: Final = ("aiohttp", "uvloop", "redis", "hiredis", "pyjwt", "msgspec", "orjson", "hdrhistogram")


def cpu_model(cpuinfo: str) -> str:
    """Return the first model name in `/proc/cpuinfo`, or `unknown`."""
    found = re.search(r"^model name\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return found[1].strip() if found else "unknown"


async def environment(settings: Settings, *, options: dict[str, Any]) -> dict[str, Any]:
    """Return machine, versions, commit, settings and options as plain values; secrets are not among them."""
    plain = msgspec.to_builtins(settings)
    plain.pop("mysql")  # may hold a password
    plain["auth"].pop("key_file")
    return {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {
            "cpu": cpu_model(await asyncio.to_thread(Path("/proc/cpuinfo").read_text)),
            "cores": os.cpu_count(),
            "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
            "kernel": platform.release(),
            "load_1m": os.getloadavg()[0],
        },
        "versions": {
            "python": sys.version.split()[0],
            **{name: await _first_line(*argv) for name, argv in PROGRAMS.items()},
        },
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "git": {
            "commit": await _first_line("git", "-C", str(PROJECT_ROOT), "rev-parse", "HEAD"),
            "changed_files": await _lines("git", "-C", str(PROJECT_ROOT), "status", "--porcelain"),
        },
        "settings": plain,
        "options": options,
    }


async def _first_line(program: str, *args: str) -> str:
    """Return the first line that a program says, or an empty one if it is not there."""
    output = (await _output(program, *args)).splitlines()
    return output[0].strip() if output else ""


async def _lines(program: str, *args: str) -> int:
    return len((await _output(program, *args)).splitlines())


async def _output(program: str, *args: str) -> str:
    path = find(program)
    if path is None:
        return ""
    process = await asyncio.create_subprocess_exec(
        path, *args, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(VERSION_TIMEOUT_S):
                output, _ = await process.communicate()
                return output.decode(errors="replace")
        return ""
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()

"""What all `flashgate bench` commands share: a folder for figures, a place for servers, an end that leaves nothing."""

import asyncio
import contextlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import orjson
import typer
from rich.console import Console

from bench.environment import environment
from bench.load_run import OwnDriver
from bench.measure import Driver
from bench.servers import Place, new_place
from bench.tokens import minter_from_file
from bench.wrk import Wrk
from cli.config import as_environment
from domain.errors import FlashgateError
from domain.settings import Settings
from stack.errors import MissingPackagesError
from stack.packages import ensure_programs, find
from stack.paths import PROJECT_ROOT, state_dir
from stack.runtime import process_started

EXIT_FAILED: Final = 2
EXIT_INTERRUPTED: Final = 130
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
RUNS: Final = PROJECT_ROOT / "runs"
WIDTH: Final = 150
"""Of what goes to a file."""
_WORK: Final = "work-"
_PRETTY: Final = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS | orjson.OPT_APPEND_NEWLINE

T = TypeVar("T")


class Run:
    """One run: where its servers live, where its figures go, how it talks."""

    def __init__(self, folder: Path, place: Place, console: Console) -> None:
        self.folder = folder
        self.place = place
        self.console = console
        self.minter = minter_from_file(str(place.key_file), place.audience)

    def say(self, text: str) -> None:
        """Print a line of progress."""
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    async def install(self, *programs: str) -> None:
        """Install what is missing, if that is permitted.

        Raises:
            MissingPackagesError: it is not; the message names the command to run.
        """
        await ensure_programs(*programs, log=self.place.folder / "packages.log", note=self.say)

    async def closed_loop(self) -> Driver:
        """Return wrk where it is installed or can be, else the load driver in its closed mode."""
        with contextlib.suppress(MissingPackagesError):
            await self.install("wrk")
        if find("wrk"):
            return Wrk(self.place.folder, self.minter)
        self.say("wrk is not installed: the load driver takes its place, which needs more CPU itself")
        return OwnDriver(self.place.key_file, self.place.audience, self.place.folder / "load.log")

    async def write(self, name: str, facts: dict[str, Any], settings: Settings, options: dict[str, Any]) -> None:
        """Write the figures as `<name>.json`, and on what they were measured as `environment.json`."""
        about = await environment(settings, options=options)
        self.folder.mkdir(parents=True, exist_ok=True)
        for file, content in ((f"{name}.json", facts), ("environment.json", about)):
            (self.folder / file).write_bytes(orjson.dumps(content, option=_PRETTY))
        self.say(f"written: {self.folder}")


Work = Callable[[Run], Coroutine[Any, Any, dict[str, Any]]]


def run_measurement(kind: str, work: Work, name: str, runs: Path, *, json: bool) -> None:
    """Run a measurement until its end or a signal; nothing that it started outlives it.

    Raises:
        typer.Exit: 2 if it failed, with one line on stderr that says why; 130 if it was interrupted.
    """
    # From here on SIGTERM ends a command as Ctrl-C does.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    name = name or f"{kind}-{datetime.now(UTC):%Y%m%d-%H%M%S}"
    if not NAME.fullmatch(name):
        raise typer.BadParameter("letters, digits, dots, dashes and underscores only", param_hint="--name")
    folder = runs.absolute() / name
    if folder.exists():
        raise typer.BadParameter(f"{folder} exists already", param_hint="--name")
    console = Console(stderr=json, highlight=False)
    if not console.is_terminal:
        console = Console(stderr=json, highlight=False, width=WIDTH)
    work_folder = _work_folder()
    try:
        place = new_place(work_folder, lambda settings: as_environment(msgspec.to_builtins(settings)))
        facts = asyncio.run(_until_told(work(Run(folder, place, console))))
    except (FlashgateError, OSError) as error:
        sys.stderr.write(f"flashgate bench {kind}: {error}\n")
        raise typer.Exit(EXIT_FAILED) from None
    except (asyncio.CancelledError, KeyboardInterrupt):
        sys.stderr.write(f"flashgate bench {kind}: stopped\n")
        raise typer.Exit(EXIT_INTERRUPTED) from None
    finally:
        shutil.rmtree(work_folder, ignore_errors=True)
    if json:
        typer.echo(orjson.dumps({"run": str(folder), **facts}, option=orjson.OPT_NON_STR_KEYS).decode())


def _work_folder() -> Path:
    """Return the folder of this process's servers; those of processes that were killed are removed."""
    home = state_dir() / "bench"
    for folder in home.glob(f"{_WORK}*"):
        if process_started(int(folder.name.removeprefix(_WORK))) is None:
            shutil.rmtree(folder, ignore_errors=True)
    return home / f"{_WORK}{os.getpid()}"


async def _until_told(work: Coroutine[Any, Any, T]) -> T:
    """Await the work; SIGINT and SIGTERM cancel it once, and what it has started is stopped before it ends."""
    task = asyncio.ensure_future(work)
    told = False

    def cancel_once() -> None:
        nonlocal told
        if not told:
            told = True
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, cancel_once)
    return await task

"""`flashgate stack …`: Redis, Kafka and MariaDB alone."""

import asyncio
import contextlib
import fcntl
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console
from rich.table import Table

from domain.errors import NotRunningError, OperationRefusedError
from stack import kafka
from stack.errors import StackError
from stack.locks import lock_file
from stack.paths import PROJECT_ROOT, stack_home, state_dir
from stack.process import open_log
from stack.runtime import Runtime, read_runtime

STOP_TIMEOUT_S: Final = 120.0
"""Longer than the servers may take to stop, one after the other."""
LEFTOVERS_TIMEOUT_S: Final = 60.0

app = typer.Typer(help="Run Redis, Kafka and MariaDB on this machine, reachable from this machine only.")
AsJson = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


@app.callback(no_args_is_help=True)
def group() -> None:
    """Run Redis, Kafka and MariaDB on this machine, reachable from this machine only."""


@app.command()
def start(*, as_json: AsJson = False) -> None:
    """Start the three servers in the background and wait until all of them answer.

    The first start sets them up, which may install Debian packages and fetches Kafka from Maven Central.
    """
    with one_at_a_time():
        runtime = read_runtime()
        already = runtime is not None
        if runtime is None:
            launch(stack_home())
            runtime = read_runtime()
        if runtime is None:
            raise StackError(f"the servers have stopped again; see {stack_home() / 'logs'}")
    if already:
        _say("already running" + (", by `flashgate up`" if runtime.owner == "up" else ""))
    _show(runtime, as_json=as_json)


@app.command()
def stop() -> None:
    """Stop the servers and wait until nothing of them remains. Their data stay."""
    with one_at_a_time():
        runtime = read_runtime()
        if runtime is None:
            wait_for_leftovers(stack_home())
            _say("not running")
            return
        if runtime.owner == "up":
            raise OperationRefusedError("the servers belong to `flashgate up`: Ctrl-C there stops them")
        terminate(runtime.pid)
        wait_for_leftovers(runtime.home)
    _say("stopped")


@app.command()
def status(*, as_json: AsJson = False) -> None:
    """Say where the servers are; exit code 1 when they are not running."""
    runtime = read_runtime()
    if runtime is None:
        if as_json:
            typer.echo(json.dumps({"running": False}))
        raise NotRunningError("the servers are not running; `flashgate stack start` starts them")
    _show(runtime, as_json=as_json)


@app.command(name="kafka", context_settings={"allow_interspersed_args": False, "ignore_unknown_options": True})
def kafka_tool(
    tool: Annotated[str, typer.Argument(metavar="TOOL", help=f"One of: {', '.join(sorted(kafka.TOOLS))}.")],
    args: Annotated[list[str] | None, typer.Argument(metavar="ARGS", help="Passed on as they are.")] = None,
) -> None:
    """Run one of Kafka's own tools on the running servers; its --bootstrap-server is filled in.

    For example: flashgate stack kafka console-consumer --topic orders.accepted --from-beginning
    """
    if tool not in kafka.TOOLS:
        raise OperationRefusedError(f"no such tool: {tool}; there are {', '.join(sorted(kafka.TOOLS))}")
    runtime = read_runtime()
    if runtime is None:
        raise NotRunningError("the servers are not running; `flashgate stack start` starts them")
    bootstrap = ("--bootstrap-server", runtime.endpoints.kafka_bootstrap)
    argv = kafka.java_argv(kafka.TOOLS[tool], *bootstrap, *(args or ()))
    _replace_by(argv)


def _replace_by(argv: tuple[str, ...]) -> NoReturn:
    sys.stdout.flush()
    os.execv(argv[0], argv)  # noqa: S606 -- no shell is wanted


def launch(home: Path) -> None:
    """Start the background process on a home and follow its report; StackError with the cause when it fails."""
    reading, writing = os.pipe()
    with open_log(home / "logs" / "stack.log") as log:
        daemon = subprocess.Popen(
            (sys.executable, "-m", "stack.daemon", "--home", str(home), "--report-fd", str(writing)),
            cwd=PROJECT_ROOT,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            pass_fds=(writing,),
            start_new_session=True,
        )
    os.close(writing)
    error = f"the background process failed; see {home / 'logs' / 'stack.log'}"
    try:
        with os.fdopen(reading, encoding="utf-8") as report:
            for line in report:
                told = json.loads(line)
                if "ready" in told:
                    return
                if "note" in told:
                    _say(told["note"])
                error = told.get("error", error)
    except KeyboardInterrupt:
        _say("stopping")
        daemon.terminate()
        daemon.wait()
        raise
    daemon.wait()
    raise StackError(error)


def terminate(pid: int) -> None:
    """SIGTERM, and wait for the end."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(pidfd, signal.SIGTERM)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(STOP_TIMEOUT_S * 1_000):
            raise StackError(f"process {pid} has not stopped within {STOP_TIMEOUT_S:.0f} s")
    finally:
        os.close(pidfd)


def wait_for_leftovers(home: Path) -> None:
    """Wait until no server of a killed supervisor is left: each holds the home's lock for as long as it lives."""
    lock = home / "lock"
    if lock.exists():
        os.close(asyncio.run(lock_file(lock, timeout_s=LEFTOVERS_TIMEOUT_S)))


@contextlib.contextmanager
def one_at_a_time() -> Iterator[None]:
    """Two `stack start` or `stop` at once: the second waits, then sees what the first has done."""
    state_dir().mkdir(mode=0o700, parents=True, exist_ok=True)
    with (state_dir() / "stack.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _show(runtime: Runtime, *, as_json: bool) -> None:
    endpoints = runtime.endpoints
    if as_json:
        typer.echo(json.dumps(endpoints.to_json()))
        return
    table = Table("server", "address", "user")
    table.add_row("Redis", f"{endpoints.redis_host}:{endpoints.redis_port}")
    table.add_row("Kafka", endpoints.kafka_bootstrap)
    table.add_row("MariaDB", f"{endpoints.mysql_host}:{endpoints.mysql_port}", endpoints.mysql_user)
    Console().print(table)
    typer.echo(f"MariaDB's password: {runtime.home / 'secrets' / 'mysql_password'}; logs: {runtime.home / 'logs'}")


def _say(text: str) -> None:
    typer.echo(f"flashgate stack: {text}", err=True)

"""The command line: which module has which command. Only the module of the command that is run is loaded.

Everything together takes a second of CPU and 60 MB, which no worker should carry.
"""

import importlib
import sys
from collections.abc import Iterable
from typing import Final

import typer

GROUPS: Final = {
    "bench": "cli.bench:app",
    "campaign": "cli.campaign:app",
    "catalog": "cli.catalog:app",
    "deadletter": "cli.deadletter:app",
    "lottery": "cli.lottery:app",
    "outbound": "cli.outbound:app",
    "points": "cli.points:app",
    "saga": "cli.saga:app",
    "sandbox": "cli.sandbox:app",
    "stack": "cli.stack:app",
    "stock": "cli.campaign:stock_app",
    "warehouse": "cli.warehouse:app",
}
COMMANDS: Final = {
    "demo": "cli.demo:demo",
    "up": "cli.up:up",
    "test": "cli.test:test",
    "token": "cli.token:token",
    "trace": "cli.trace:trace",
    "gateway": "cli.processes:gateway",
    "relay": "cli.processes:relay",
    "consume": "cli.consume:consume",
    "backlog": "cli.backlog:backlog",
    "lifecycle": "cli.processes:lifecycle",
    "reconcile": "cli.reconcile:reconcile",
    "report": "cli.report:report",
    "migrate": "cli.migrate:migrate",
    "ops": "cli.processes:ops",
}
HIDDEN: Final = frozenset({"ops"})


def command_line(names: Iterable[str]) -> typer.Typer:
    """Return the command line with these commands and groups of commands."""
    app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
    app.callback(help="flashgate: a flash-sale gateway.")(_nothing)
    for name in names:
        where = GROUPS.get(name) or COMMANDS[name]
        module, _, attribute = where.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if name in GROUPS:
            app.add_typer(found, name=name)
        else:
            app.command(name, hidden=name in HIDDEN)(found)
    return app


def _nothing() -> None:
    """Keep a command line of one command a command line of several, so that its name must be given."""


def main() -> None:
    """Run the command that the arguments name; ends by SystemExit, or by the command's own error."""
    wanted = sys.argv[1:2]
    known = [*COMMANDS, *GROUPS]
    command_line(wanted if wanted and wanted[0] in known else known)(prog_name="flashgate")

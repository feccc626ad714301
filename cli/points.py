"""`flashgate points …`: give a user points, and look at an account."""

import secrets
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from adapters.mysql import Pool
from adapters.points import AccountSum, LedgerRow, Statement, move_once, read_statement, read_sum
from cli.clients import open_clients, run
from cli.config import load
from domain.errors import OperationRefusedError
from domain.points import BALANCE_MAX, LedgerKind, Moved, Movement, check_grant, grant_ref
from domain.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Points: give a user some, and look at an account.")

KEY_BYTES: Final = 8
ROWS_SHOWN: Final = 20
NARROW: Final = 100
"""Columns of a table that does not go to a terminal."""

UserArgument = Annotated[str, typer.Argument(metavar="USER", help="As in the user's tokens.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@app.command(context_settings={"ignore_unknown_options": True})  # so that -5 is a number, and refused as one
def grant(
    user: UserArgument,
    points: Annotated[int, typer.Argument(metavar="N", help="Points to give, at least 1.")],
    key: Annotated[str, typer.Option(help="Repeat with the same key to be sure: the user gets them once.")] = "",
    why: Annotated[str, typer.Option(help="A line for whoever looks at the account.")] = "",
    json: JsonOption = False,
) -> None:
    """Give a user points; an account is made at the first ones.

    If the outcome is not known, repeat with the key that was printed.
    """
    key = key or secrets.token_hex(KEY_BYTES)
    check_grant(user, points, key, why)
    if not json:
        typer.echo(f"key {key}", err=True)  # before anything happens: whatever fails then, it can be repeated

    async def work(settings: Settings) -> tuple[Moved, int]:
        async with open_clients(settings) as clients:
            return await give(clients.points, user, points, key, why)

    moved, balance = run(work(load()))
    given = moved is Moved.NEW
    if json:
        facts = {"user_id": user, "points": points, "key": key, "granted": given, "balance": balance}
        typer.echo(orjson.dumps(facts).decode())
    else:
        typer.echo(f"{user}: {balance:,} points" + ("" if given else " (this key was used before; nothing was given)"))


async def give(pool: Pool, user: str, points: int, key: str, why: str) -> tuple[Moved, int]:
    """Give points once; returns whether they are new, and the balance afterwards.

    Raises:
        OperationRefusedError: the key was used for another number, or the account would have too many; nothing was
            changed.
        BackendError: MySQL is not there, or its answer was lost; the same call again is harmless.
    """
    wanted = Movement(grant_ref(user, key), LedgerKind.GRANT, user, points)
    moved = await move_once(pool, wanted, at_ms=time.time_ns() // 1_000_000, note=why)
    if moved is Moved.OTHER:
        raise OperationRefusedError(f"the key {key!r} was used for another number of points; nothing was changed")
    if moved is Moved.OVERFLOW:
        raise OperationRefusedError(f"{user} would have more than {BALANCE_MAX:,} points; nothing was changed")
    found = await read_statement(pool, user, rows_max=1)
    return moved, 0 if found is None else found.balance


@app.command()
def show(user: UserArgument, json: JsonOption = False) -> None:
    """Show a user's balance, the last movements, and whether the balance is the sum of all of them."""

    async def work(settings: Settings) -> tuple[AccountSum | None, Statement | None]:
        async with open_clients(settings) as clients:
            return await read_sum(clients.points, user), await read_statement(clients.points, user, rows_max=ROWS_SHOWN)

    total, statement = run(work(load()))
    if total is None or statement is None:
        raise OperationRefusedError(f"there is no account of {user!r}; the first points make one")
    equal = total.balance == total.ledger_sum
    if json:
        typer.echo(orjson.dumps(account_facts(user, total, statement)).decode())
    else:
        typer.echo(f"{user}: {total.balance:,} points, version {total.version}")
        Console(highlight=False, width=None if Console().is_terminal else NARROW).print(_table(statement))
        says = "is" if equal else "IS NOT"
        typer.echo(f"the balance {says} the sum of the ledger: {total.ledger_sum:,} in {total.ledger_rows:,} rows")
    if not equal:
        raise typer.Exit(1)


def account_facts(user: str, total: AccountSum, statement: Statement) -> dict[str, Any]:
    """Return what `show --json` prints."""
    rows = [{**one._asdict(), "at": _iso(one.at_ms)} for one in statement.ledger]
    return {
        "user_id": user,
        **total._asdict(),
        "equal": total.balance == total.ledger_sum,
        "ledger": rows,
    }


def _table(statement: Statement) -> Table:
    table = Table("at", "kind", "points", "for", "note")
    table.columns[2].justify = "right"
    for one in statement.ledger:
        table.add_row(*[Text(cell, overflow="fold") for cell in _cells(one)])
    return table


def _cells(one: LedgerRow) -> tuple[str, ...]:
    return _iso(one.at_ms), str(one.kind), f"{one.delta:+,}", one.ref_id, one.note


def _iso(at_ms: int) -> str:
    return datetime.fromtimestamp(at_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")

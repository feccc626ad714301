"""`flashgate deadletter …`: look at records that could not be processed, process them again, or give them up."""

import functools
from base64 import b64encode
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Annotated, Any, Final, TypeVar

import msgspec
import typer
from rich.table import Table
from rich.text import Text

from adapters.kafka import DEAD_RECORD_BYTES_MAX, make_producer
from adapters.kafka_reader import open_reader
from adapters.kafka_sender import KafkaSender
from cli.clients import open_clients, run
from cli.config import load
from cli.texts import table_console
from consumers.dead_letter_desk import NEWEST_MAX, DeadLetterDesk, Deed, Listing
from consumers.dead_letter_rules import (
    Letter,
    LetterId,
    Mark,
    about,
    as_json,
    iso,
    one_line,
    parse_letter_id,
    pretty,
    printable,
    shorten,
)
from domain.errors import OperationRefusedError
from domain.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Records that could not be processed: look, replay, drop.")

T = TypeVar("T")

ID_HELP: Final = "<topic>:<partition>@<offset>, as `list` shows it."


def _letter_id(text: str) -> LetterId:
    found = parse_letter_id(text)
    if found is None:
        raise typer.BadParameter(f"{text!r} is no dead letter; one looks like orders.accepted.dead:0@12")
    return found


IdArgument = Annotated[LetterId, typer.Argument(metavar="ID", parser=_letter_id, help=ID_HELP)]
IdsArgument = Annotated[list[LetterId] | None, typer.Argument(metavar="ID", parser=_letter_id, help=ID_HELP)]
ReasonOption = Annotated[str, typer.Option("--reason", metavar="R", help="Only those set aside for this reason.")]
JsonOption = Annotated[bool, typer.Option("--json", help="End with one line of JSON.")]


@asynccontextmanager
async def open_desk(settings: Settings, **how: Any) -> AsyncIterator[DeadLetterDesk]:  # noqa: ANN401
    """Yield a desk with clients of its own, and close them; `how` goes to the desk in place of them.

    Raises:
        BackendError: Kafka is not there.
    """
    sender = KafkaSender(
        functools.partial(make_producer, settings.kafka, max_request_bytes=DEAD_RECORD_BYTES_MAX),
        timeout_s=settings.kafka.client_start_timeout_s,
    )
    async with open_clients(settings) as clients, open_reader(settings.kafka) as reader:
        try:
            yield DeadLetterDesk(
                **{"reader": reader, "pool": clients.orders, "client": clients.client, "sender": sender, **how}
            )
        finally:
            await sender.close()


def _at_desk(work: Callable[[DeadLetterDesk], Awaitable[T]]) -> T:
    async def at_desk(settings: Settings) -> T:
        async with open_desk(settings) as desk:
            return await work(desk)

    return run(at_desk(load()))


@app.command(name="list")
def list_command(
    *,
    everything: Annotated[
        bool, typer.Option("--all", help="All of them, those that were replayed or dropped as well.")
    ] = False,
    reason: ReasonOption = "",
    limit: Annotated[
        int, typer.Option(min=1, help="How many of each partition are looked at, the newest.")
    ] = NEWEST_MAX,
    json: JsonOption = False,
) -> None:
    """List the open dead letters, the newest first."""
    newest_max = None if everything else limit
    listing = _at_desk(lambda desk: desk.list_letters(newest_max=newest_max, reason=reason, with_done=everything))
    if listing.letters:
        table = listing_table(listing, with_done=everything)
        table_console().print(table)
    more = f"; {listing.not_looked_at} older ones were not looked at (--all)" if listing.not_looked_at else ""
    typer.echo(f"{listing.open} open, {len(listing.letters)} listed{more}")
    if json:
        typer.echo(one_line(msgspec.to_builtins(listing)))


def listing_table(listing: Listing, *, with_done: bool) -> Table:
    """Return a list as a table in which nothing is obeyed by the terminal."""
    table = Table("id", "time", "reason", "order or key", "error", *(["done"] if with_done else []))
    for one in listing.letters:
        cells = [one.id, iso(one.at_ms), one.reason, one.order_id or one.key, shorten(one.error)]
        if with_done:
            cells.append(f"{one.action} {iso(one.action_at_ms)}" if one.action_at_ms is not None else "")
        table.add_row(*[Text(printable(cell), overflow="fold") for cell in cells])
    return table


@app.command()
def show(letter_id: IdArgument, json: JsonOption = False) -> None:
    """Show everything about one dead letter."""
    letter, mark = _at_desk(lambda desk: desk.find(letter_id))
    for line in letter_lines(letter, mark):
        typer.echo(line)
    if json:
        typer.echo(one_line(letter_facts(letter, mark)))


def letter_lines(letter: Letter, mark: Mark | None) -> list[str]:
    """Return what `show` prints; nothing of it is obeyed by a terminal."""
    facts = [
        ("id", str(letter.id)),
        ("time", iso(letter.at_ms)),
        ("reason", letter.reason),
        ("error", letter.error),
        ("about", about(letter)),
        ("record", "the relay's, an outbox entry" if letter.origin is None else str(letter.origin)),
        ("done", "nothing" if mark is None else f"{mark.action}, {iso(mark.at_ms)}"),
        ("key", _key_text(letter)),
        *((f"header {name}", (value or b"").decode("utf-8", "backslashreplace")) for name, value in letter.headers),
    ]
    lines = [f"{printable(name):<8} {printable(text)}" for name, text in facts]
    return [*lines, "value", *(f"  {line}" for line in pretty(letter.value).splitlines())]


def letter_facts(letter: Letter, mark: Mark | None) -> dict[str, Any]:
    """Return what `show --json` prints; `value_base64` is exact, `value` is its JSON if it is JSON."""
    raw = letter.value
    return {
        "id": str(letter.id),
        "at_ms": letter.at_ms,
        "reason": letter.reason,
        "error": letter.error,
        "about": about(letter),
        "origin": "" if letter.origin is None else str(letter.origin),
        "order_id": letter.order_id,
        "key": _key_text(letter),
        "headers": [[name, (value or b"").decode("utf-8", "backslashreplace")] for name, value in letter.headers],
        "value": as_json(raw),
        "value_base64": None if raw is None else b64encode(raw).decode(),
        "action": "" if mark is None else mark.action,
        "action_at_ms": None if mark is None else mark.at_ms,
    }


def _key_text(letter: Letter) -> str:
    return "" if letter.key is None else letter.key.decode("utf-8", "backslashreplace")


@app.command()
def replay(
    letter_ids: IdsArgument = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All open ones.")] = False,
    reason: ReasonOption = "",
    again: Annotated[bool, typer.Option("--again", help="Also what was replayed or dropped before.")] = False,
    json: JsonOption = False,
) -> None:
    """Publish records again, as they were, to the topics that they come from; their consumers decide anew.

    Doing it twice is harmless: an order is stored once, and a parked saga is taken up anew once. A record that fails
    again becomes a new dead letter.
    """
    ids = _chosen(letter_ids, reason, everything=everything)
    if everything and again:
        raise typer.BadParameter("--again needs the ids of the letters")
    _tell(
        _at_desk(lambda desk: _collect(desk.replay_all(reason) if everything else desk.replay(ids, again=again))),
        json=json,
    )


@app.command()
def drop(
    letter_ids: IdsArgument = None,
    *,
    everything: Annotated[bool, typer.Option("--all", help="All open ones; needs --yes.")] = False,
    reason: ReasonOption = "",
    yes: Annotated[bool, typer.Option("--yes", help="Yes, all of them.")] = False,
    json: JsonOption = False,
) -> None:
    """Give records up. An order that Redis holds units for is rejected, and the units go back on sale.

    A redemption's saga does that; one that is parked has to be turned back first: `saga compensate`.
    """
    ids = _chosen(letter_ids, reason, everything=everything)
    if everything and not yes:
        waiting = sum(_at_desk(lambda desk: desk.count_open()).values())
        raise OperationRefusedError(f"{waiting} dead letters are open; `--all --yes` gives them up, and their orders")
    _tell(_at_desk(lambda desk: _collect(desk.drop_all(reason) if everything else desk.drop(ids))), json=json)


def _chosen(letter_ids: list[LetterId] | None, reason: str, *, everything: bool) -> list[LetterId]:
    if bool(letter_ids) == everything:
        raise typer.BadParameter("give the ids of dead letters, or --all")
    if reason and not everything:
        raise typer.BadParameter("--reason goes with --all")
    return letter_ids or []


async def _collect(deeds: AsyncIterator[Deed]) -> list[Deed]:
    """Print what comes of each letter as it comes, so that an error later on does not hide it."""
    found = []
    async for deed in deeds:
        found.append(deed)
        state = deed.action if deed.now else (deed.action and "nothing to do") or "REFUSED"
        typer.echo(printable(f"{deed.id}: {state}: {deed.detail}"))
    return found


def _tell(deeds: list[Deed], *, json: bool) -> None:
    refused = sum(not deed.action for deed in deeds)
    done = sum(deed.now for deed in deeds)
    typer.echo(f"{done} done, {len(deeds) - done - refused} were done before, {refused} refused")
    if json:
        typer.echo(one_line({"letters": msgspec.to_builtins(deeds), "done": done, "refused": refused}))
    if refused:
        raise typer.Exit(1)

"""`flashgate lottery show|verify`: what a lottery draws from, and whether its draws were what they should be."""

from typing import Annotated, Any, Final

import orjson
import typer
from rich.console import Console
from rich.table import Table

from adapters.draws import LogHead, read_log_head, read_unrelayed_logs
from adapters.kafka_reader import TopicReader
from adapters.lotteries import read_seed
from adapters.stock import read_snapshot
from cli.clients import Clients, open_clients, run
from cli.config import load
from domain.draw_events import TOPIC_DRAWS_LOG, DrawLog, decode_draw_log, in_order
from domain.errors import OperationRefusedError, PoisonRecordError
from domain.lottery import Fault, Replay, Verdict, commitment
from domain.settings import Settings
from gateway.calls import lottery_facts
from gateway.view import make_view

app = typer.Typer(no_args_is_help=True, help="Look at a lottery, and verify its draws.")

FAULTS_SHOWN_MAX: Final = 20

LotteryArgument = Annotated[str, typer.Argument(metavar="ID", help="The lottery's id.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


async def read_logs(settings: Settings, clients: Clients, campaign_id: str) -> list[DrawLog]:
    """Return a lottery's log, in order: what is in the outbox still, and what is in Kafka.

    Raises:
        BackendError: Redis or Kafka is not there.
    """
    # The outbox first: what leaves it meanwhile is in Kafka then.
    found = await read_unrelayed_logs(clients.client, campaign_id)
    async for record in TopicReader(settings.kafka, TOPIC_DRAWS_LOG).read():
        try:
            log = decode_draw_log(record.value)
        except PoisonRecordError:
            continue  # if it was of this lottery its lines are missing, which shows
        if log.campaign_id == campaign_id:
            found.append(log)
    return in_order(found)


def judge(campaign_id: str, seed: bytes, logs: list[DrawLog], head: LogHead | None) -> Verdict:
    """Replay a log and hold its end against where Redis was before it was read."""
    replay = Replay(campaign_id, seed)
    replay.feed(log.entry for log in logs)
    verdict = replay.verdict()
    faults = list(verdict.faults)
    if head is not None and head.seq > 0:
        ends = {log.entry.last_seq: log.hash for log in logs}
        if ends.get(head.seq) != head.hash:
            faults.append(Fault(head.seq, "Redis is there with another hash, or the log does not reach so far"))
    return verdict._replace(faults=faults)


async def verify_lottery(settings: Settings, campaign_id: str) -> tuple[Verdict, str]:
    """Replay a lottery's log and draw every draw again; returns what it comes to, and the commitment.

    Raises:
        OperationRefusedError: there is no such lottery, or it was never opened.
    """
    async with open_clients(settings) as clients:
        seed = await read_seed(clients.catalog, campaign_id)
        if seed is None:
            raise OperationRefusedError(f"there is no lottery {campaign_id!r}")
        head = await read_log_head(clients.client, campaign_id)
        logs = await read_logs(settings, clients, campaign_id)
        if not logs:
            raise OperationRefusedError(f"lottery {campaign_id!r} has no log: it was never opened")
        return judge(campaign_id, seed, logs, head), commitment(seed)


@app.command()
def verify(campaign_id: LotteryArgument, json: JsonOption = False) -> None:
    """Replay a lottery's log, draw every draw again by its seed, and exit 1 if anything is not as it should be."""
    verdict, published = run(verify_lottery(load(), campaign_id))
    if json:
        facts = {
            "campaign_id": campaign_id,
            "verified": not verdict.faults,
            "commitment": published,
            **verdict._asdict(),
            "faults": [fault._asdict() for fault in verdict.faults],
        }
        typer.echo(orjson.dumps(facts).decode())
    else:
        won = sum(verdict.won.values())
        typer.echo(f"lottery {campaign_id}: {verdict.lines:,} lines, {verdict.draws:,} draws, {won:,} of them won")
        for fault in verdict.faults[:FAULTS_SHOWN_MAX]:
            typer.echo(f"  line {fault.seq}: {fault.text}")
        if len(verdict.faults) > FAULTS_SHOWN_MAX:
            typer.echo(f"  and {len(verdict.faults) - FAULTS_SHOWN_MAX:,} more")
        told = "the chain holds, and every draw is what its number wins"
        typer.echo(f"{len(verdict.faults):,} faults" if verdict.faults else f"verified: {told}")
    raise typer.Exit(1 if verdict.faults else 0)


async def show_lottery(settings: Settings, campaign_id: str, line: int) -> dict[str, Any]:
    """Return what Redis has of a lottery, and one line of its log if `line` is not 0.

    Raises:
        OperationRefusedError: there is no such lottery, or no such line.
    """
    async with open_clients(settings) as clients:
        snapshot = await read_snapshot(clients.client, campaign_id)
        view = make_view(campaign_id, snapshot, 0.0) if snapshot is not None else None
        if snapshot is None or view is None or view.lottery is None:
            raise OperationRefusedError(f"there is no lottery {campaign_id!r} in Redis; load its file first")
        facts = lottery_facts(view.lottery)
        for prize in facts["prizes"]:
            stock = snapshot.stock[prize["sku_id"]]
            prize |= {"remaining": stock.remaining, "won": stock.taken - stock.returned}
        head = await read_log_head(clients.client, campaign_id)
        last_seq = head.seq if head is not None else 0
        facts |= {"campaign_id": campaign_id, "state": view.state, "lines": last_seq}
        if line:
            logs = [log for log in await read_logs(settings, clients, campaign_id) if log.seq <= line]
            entry = logs[-1].entry if logs else None
            if entry is None or line > entry.last_seq:
                raise OperationRefusedError(f"the log of lottery {campaign_id!r} has no line {line}")
            facts["line"] = {"seq": line, "text": entry.lines[line - entry.seq], "hash": entry.hash}
        return facts


@app.command()
def show(
    campaign_id: LotteryArgument,
    line: Annotated[int, typer.Option(min=0, help="Show this line of the log, too: `seq` of a draw's answer.")] = 0,
    json: JsonOption = False,
) -> None:
    """Show a lottery's commitment, prizes, and how far its log is; the seed once it is closed."""
    facts = run(show_lottery(load(), campaign_id, line))
    if json:
        typer.echo(orjson.dumps(facts).decode())
        return
    typer.echo(f"lottery {campaign_id}: {facts['state']}, {facts['lines']:,} lines of log")
    typer.echo(f"commitment (SHA-256 of the seed): {facts['commitment']}")
    typer.echo(f"seed: {facts['seed'] or 'told when the lottery is closed'}")
    table = Table("prize", "weight", "points", "won", "remaining")
    for prize in facts["prizes"]:
        table.add_row(*[str(prize[name]) for name in ("sku_id", "weight", "points", "won", "remaining")])
    table.add_row("no prize", str(facts["no_prize_weight"]), "", "", "")
    Console().print(table)
    if line:
        typer.echo(f"line {line}: {facts['line']['text']}\n  hash of its entry: {facts['line']['hash']}")

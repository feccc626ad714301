"""`flashgate reconcile`: holds Redis, Kafka and MySQL against each other, once or as a process, and repairs."""

import asyncio
from typing import Annotated

import msgspec
import orjson
import typer
from rich.console import Console

from cli.config import load
from consumers.reconcile import main_watch
from consumers.reconcile import reconcile as compare
from consumers.reconcile import repair as compare_and_repair
from consumers.reconcile_report import CampaignReport, Report, table


def reconcile(
    *,
    campaign: Annotated[
        list[str] | None, typer.Option("--campaign", metavar="ID", help="Only this one; may be given several times.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Compare again and again until SIGTERM or Ctrl-C.")] = False,
    repair: Annotated[
        bool, typer.Option("--repair", help="Repair what a person may decide on, and compare once more.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="End with one line of JSON.")] = False,
) -> None:
    """Hold Redis, Kafka and MySQL against each other; exit code 1 if there is drift (with --repair: still).

    In flight are accepted orders on their way to MySQL. Drift is orders that are missing or too many anywhere, counters
    that differ from what they count, and points that were not spent or awarded as orders and prizes say. Each
    difference is told with its orders, the hop at which it arose, and what may be done: --watch repairs by itself a
    release that the ledger proves and an entry that was never relayed.
    """
    if watch and repair:
        raise typer.BadParameter("--watch repairs by itself what is safe; --repair is one person's decision, once")
    settings = load()
    if watch:
        main_watch(settings, campaign)
        return
    report = asyncio.run((compare_and_repair if repair else compare)(settings, campaign))
    _show(report)
    if repair and not report.repairs:
        typer.echo("nothing was found that could be repaired")
    if json:
        typer.echo(orjson.dumps(msgspec.to_builtins(report)).decode())
    if report.drift:
        raise typer.Exit(1)


def _points(one: CampaignReport) -> list[str]:
    """Return what is to be said of a campaign's points, if it has to do with any."""
    if not (one.points_spent or one.points_awarded or one.points_drift):
        return []
    return [f"points spent {one.points_spent:,}, awarded {one.points_awarded:,}, orders that differ {one.points_drift}"]


def _show(report: Report) -> None:
    made = table(report)
    console = Console(highlight=False)
    if not console.is_terminal:  # nothing is cut off in a file
        console = Console(highlight=False, width=max(console.width, console.measure(made).maximum))
    console.print(made)
    for repaired in report.repairs:
        about = repaired.order_id or f"{repaired.campaign_id}, SKU {repaired.sku_id}"
        typer.echo(f"{'repaired' if repaired.done else 'not repaired'}: {repaired.kind}, {about}: {repaired.text}")
    for one in report.campaigns:
        for line in [*_points(one), *one.explanations]:
            typer.echo(f"{one.campaign_id}: {line}")
    owed = sum(one.pending_returns for one in report.campaigns)
    typer.echo(f"drift {report.drift}, in flight {report.in_flight}" + (f", owed to Redis {owed}" if owed else ""))
    if report.dead_letters_open:
        typer.echo(f"{report.dead_letters_open} dead letters wait for a person: flashgate deadletter list")

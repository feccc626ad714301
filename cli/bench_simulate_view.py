"""What `flashgate bench simulate` prints for people, and its JSON."""

from typing import Any, Final

import msgspec
from rich.console import Console
from rich.table import Table

from bench.simulate_fit import Checked
from bench.simulate_plan import Model
from bench.simulate_result import Outcome, Sample

ROWS_MAX: Final = 20
"""Moments in the table; the JSON has all."""
AT_LIMIT: Final = 0.99
EXAMPLE: Final = "round figures, not measured: they say how to read this, not how many machines you need"


def show_outcome(console: Console, model: Model, found: Outcome, needs: dict[str, Any]) -> None:
    """Print the peak."""
    if model.costs.example:
        console.print(f"[bold yellow]Example costs[/bold yellow]: {EXAMPLE}. Give --run NAME of a `bench sweep`.")
    console.print(_over_time(found.samples))
    console.print(_facts(model, found))
    fleet = model.fleet
    console.print(
        f"simulated with: {_count(fleet.gateways, 'gateway worker')}, {_count(fleet.shards, 'Redis shard')}, "
        f"{_count(fleet.consumers, 'consumer')}, {fleet.kafka_cores:g} Kafka and {fleet.mysql_cores:g} MySQL cores"
    )
    per_s = f"{needs['orders_per_s']:,.0f}/s"
    console.print(
        f"machines needed, with 30% head-room, for {needs['peak_requests_per_s']:,} requests/s at the peak and orders "
        f"as fast as they were sold here ({per_s}): {_count(needs['gateways'], 'gateway worker')}, "
        f"{_count(needs['shards'], 'Redis shard')}, {_count(needs['consumers'], 'consumer')}, "
        f"{_count(needs['kafka_cores'], 'Kafka core')}, {_count(needs['mysql_cores'], 'MySQL core')}"
        + (" (by example costs)" if model.costs.example else "")
    )


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _over_time(samples: list[Sample]) -> Table:
    table = Table(
        "second", "offered/s", "at the gateways", "at Redis", "outbox", "Kafka", "accepted", "answered", "in MySQL",
        title="What waits where", title_justify="left",
    )  # fmt: skip
    for column in table.columns:
        column.justify = "right"
    every = max(1, -(-len(samples) // ROWS_MAX))
    for at, one in enumerate(samples):
        if at % every == 0 or at == len(samples) - 1:
            counts = (one.gateway_queue, one.redis_queue, one.outbox, one.kafka, one.accepted, one.answered, one.stored)
            table.add_row(f"{one.at_s:.2f}", f"{one.offered_per_s:,.0f}", *(f"{count:,}" for count in counts))
    return table


def _facts(model: Model, found: Outcome) -> Table:
    table = Table.grid(padding=(0, 2))
    latency = (
        f"p50 {found.p50_ms:,.0f} ms, p90 {found.p90_ms:,.0f}, p99 {found.p99_ms:,.0f}, p99.9 {found.p99_9_ms:,.0f}; "
        f"orders alone p99 {found.accepted_p99_ms:,.0f} ms; the network's median is {model.crowd.network_ms:g} ms"
    )
    queues = (
        f"{found.gateway_queue_max:,} requests at the gateways, {found.redis_queue_max:,} orders at Redis, "
        f"{found.outbox_max:,} in the outbox, {found.kafka_max:,} in Kafka"
    )
    busiest = sorted(found.busy_max.items(), key=lambda one: -one[1])
    rows = (
        ("users", f"{found.users:,}, who sent {found.requests:,} requests, at most {found.peak_offered_per_s:,.0f}/s"),
        ("accepted", f"{found.accepted:,} of {found.units:,} units"),
        ("sold out", _sold_out(found)),
        ("left without", _reasons(found.turned_away)),
        ("refusals", _reasons(found.refusals)),
        ("answers", f"the last after {found.seconds:.1f} s; {found.achieved_per_s:,.0f}/s until then"),
        ("latency", latency),
        ("longest queues", queues),
        ("drained", _drained(found)),
        ("busiest", ", ".join(f"{name} {share:.0%}" for name, share in busiest)),
        ("at their limit", ", ".join(name for name, share in busiest if share >= AT_LIMIT)),
        ("no last word", f"{found.waiting:,} users: the simulation ended before" if found.waiting else ""),
    )
    for name, text in rows:
        if text:
            table.add_row(name, text)
    return table


def _sold_out(found: Outcome) -> str:
    if not found.units:
        return "from the beginning: there was no stock"
    if found.first_sold_out_s is None:
        return "nothing"
    first = f"the first SKU after {found.first_sold_out_s:.2f} s"
    whole = "not everything" if found.sold_out_s is None else f"everything after {found.sold_out_s:.2f} s"
    return f"{whole}; {first}"


def _drained(found: Outcome) -> str:
    if not found.accepted:
        return "there was no order"
    return f"MySQL had every order after {found.drained_s:.1f} s, {found.drain_s:.1f} s after the last one"


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{why} {count:,}" for why, count in counts.items()) or "nobody"


def show_checked(console: Console, checked: list[Checked]) -> None:
    """Print what was predicted, and what was measured."""
    table = Table("what", "predicted", "measured", "error", "bound", "", title="Held out", title_justify="left")
    for column in table.columns[1:5]:
        column.justify = "right"
    for one in checked:
        verdict = "" if one.bound is None else ("[green]within[/green]" if one.kept else "[red]outside[/red]")
        table.add_row(
            one.name,
            f"{one.predicted:,.1f}",
            f"{one.measured:,.1f}",
            f"{one.error:+.1%}",
            "" if one.bound is None else f"±{one.bound:.0%}",
            verdict,
        )
    console.print(table)


def as_json(model: Model, found: Outcome, needs: dict[str, Any]) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        "example_costs": model.costs.example,
        "model": msgspec.to_builtins(model),
        "outcome": msgspec.to_builtins(found),
        "machines": needs,
    }

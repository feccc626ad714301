"""The parts of a capacity report that follow its charts: proof, machines, environment. Pure."""

from collections.abc import Sequence
from typing import Final

from bench.capacity_facts import GATEWAY, PARTS, Sweep
from bench.capacity_plan import HEADROOM, Plan
from bench.report_page import Cell, Number, heading, number, paragraph, table

TIMES: Final = "\u00d7"


def proof_section(sweep: Sweep) -> list[str]:
    """Return the proof that no order was lost or doubled."""
    proof = sweep.proof
    verdict = (
        "Every order that was answered 202 is in Redis, in Kafka and in MySQL, once."
        if proof.holds
        else "The stores do not agree: do not trust these figures."
    )
    rows: list[list[Cell]] = [
        ["answered 202, as the driver counted", number(proof.answered_202)],
        ["units taken, Redis", number(proof.redis_taken)],
        ["distinct order ids, Kafka", number(proof.kafka_distinct)],
        ["order rows, MySQL", number(proof.mysql_rows)],
        ["units sold, MySQL", number(proof.mysql_sold)],
        ["in flight", number(proof.in_flight)],
        ["drift", number(proof.drift)],
    ]
    return [
        heading("Reconciliation"),
        paragraph(verdict, "" if proof.holds else "warn"),
        table("proof", "All orders of all measurements, held against each other", ("what", "count"), rows),
    ]


def machines_section(plan: Plan) -> list[str]:
    """Return what 1, 2, 5 and 10 times the target need."""
    rows: list[list[Cell]] = [
        [
            Number(one.factor, f"{one.factor:g}{TIMES}"),
            number(one.orders_per_s),
            number(one.gateways),
            number(one.shards),
            number(one.relays),
            number(one.consumers),
            number(one.kafka_cores),
            number(one.mysql_cores),
            one.first,
        ]
        for one in plan.needs
    ]
    refusals = plan.costs.of(GATEWAY).refused_us
    crowd = (
        f" A gateway worker refuses {1e6 / refusals * (1 - HEADROOM):,.0f} a second besides, with the same head-room: "
        "add workers for the crowd that comes too late."
        if refusals > 0
        else ""
    )
    return [
        heading("What a target needs"),
        table(
            "machines",
            f"With {HEADROOM:.0%} head-room",
            ("of the target", "orders / s", "gateway workers", "Redis shards", "relays", "consumers", "Kafka cores",
             "MySQL cores", "first to give"),
            rows,
            here=0,
        ),
        paragraph(
            f"A row is orders/s times the CPU of an order ({', '.join(PARTS)}: the table above), divided by "
            f"{1 - HEADROOM:g} of a core, rounded up; a shard has a relay of its own. It takes for granted that each "
            "has cores of its own and costs what it cost here, and consumers that keep step with the sale: with fewer "
            "the backlog grows and drains later. A campaign has one Redis shard today: a target that needs more must "
            "be sold as several campaigns." + crowd,
            "note",
        ),
    ]  # fmt: skip


def environment_section(sweep: Sweep, names: Sequence[str]) -> list[str]:
    """Return on what, when and of which commit it was measured."""
    about = sweep.environment
    machine, versions = about.get("machine", {}), about.get("versions", {})
    rows: list[list[Cell]] = [
        ["runs", ", ".join(names)],
        ["measured at", str(about.get("at", "unknown"))],
        ["commit", sweep.commit or "unknown"],
        ["processor", f"{machine.get('cpu', 'unknown')}, {machine.get('cores', '?')} cores"],
        ["memory", f"{float(machine.get('memory_bytes', 0) or 0) / 2**30:,.1f} GiB"],
        ["kernel", str(machine.get("kernel", "unknown"))],
        *([name, str(value)] for name, value in versions.items() if value),
        ["took", f"{sweep.seconds:,.0f} s"],
    ]
    return [heading("Environment"), table("environment", "On what this was measured", ("what", "value"), rows)]

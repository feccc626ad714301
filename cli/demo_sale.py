"""The demo of a sale: the crowd buys, most pay, parcels leave, and what comes back is sold again."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import aiohttp
import msgspec
from rich.table import Table

from adapters.mysql import query
from bench.crowd_link import CrowdLink
from bench.crowd_messages import Result
from cli import demo_life, demo_outbound, demo_tables
from cli.demo_facts import House
from cli.demo_life import Buyers, Life
from cli.demo_outbound import Clerk
from cli.demo_proof import SaleFacts, contradictions
from cli.demo_stage import (
    SEED,
    Compared,
    Ending,
    Run,
    Stage,
    close,
    compare,
    count_orders,
    evidence_of,
    facts_of,
    let_loose,
    sample,
    stock_up,
)
from cli.demo_view import Figure
from domain.campaign import Campaign
from domain.errors import ConfigError
from domain.order_state import OrderStatus
from gateway.app import read_key
from stack.paths import PROJECT_ROOT

SAMPLE: Final = PROJECT_ROOT / "examples" / "sale.toml"


@dataclass(slots=True)
class SalePlay:
    """A `cli.demo_stage.Play`."""

    campaign: Campaign
    before: House | None = field(default=None, init=False)

    @classmethod
    def of(cls, buyers: int, stock: int) -> Self:
        """Return the sample sale with so much stock and a time to pay that suits so many buyers.

        Raises:
            ConfigError: the file has become another one than the crowd knows to behave in.
        """
        campaign = sample(SAMPLE)
        if len(campaign.sku) != 1 or campaign.sku[0].per_user != 1:
            raise ConfigError(f"{SAMPLE.name}: the demo needs one SKU, with per_user = 1")
        head = campaign.campaign
        if min(buyers, stock) <= demo_life.STOCK_MAX:
            head = msgspec.structs.replace(head, pay_within_s=demo_life.pay_within_s(buyers, stock))
        sku = msgspec.structs.replace(campaign.sku[0], stock=stock)
        return cls(msgspec.structs.replace(campaign, campaign=head, sku=(sku,)))

    @property
    def wish(self) -> str:
        """See `Play`."""
        return f"want {self.campaign.sku[0].stock:,}"

    def crowd_options(self) -> dict[str, Any]:
        """See `Play`."""
        return {
            "pay_within_s": float(self.campaign.campaign.pay_within_s),
            "empty_handed_max": demo_life.STOCK_MAX,
        }

    async def prepare(self, stage: Stage) -> None:
        """See `Play`."""
        stage.view.say("goods come into the warehouse, and the campaign is allocated its share …")
        self.before = await stock_up(stage, self.campaign)

    async def perform(self, stage: Stage, crowd: CrowdLink) -> Ending:
        """See `Play`."""
        campaign, clients = self.campaign, stage.clients
        units = min(campaign.sku[0].stock, stage.buyers)
        figures = (
            Figure("answered", ("accepted", "sold_out", "rate_limited", "failed"), stage.buyers),
            Figure("accepted", ("accepted",), units, "green"),
            Figure("in MySQL", ("in_mysql",), units, "green"),
            Figure("sold out", ("sold_out",)),
            Figure("rate limited", ("rate_limited",)),
            Figure("failed", ("failed",), style="red"),
        )

        async def look() -> Mapping[str, int]:
            return {"in_mysql": await count_orders(clients.orders, campaign.id)}

        run = await let_loose(stage, crowd, figures, look, lambda result: {"in_mysql": len(result.order_ids)})
        life = await _live_on(stage, campaign, run.result)
        withdrawn = 0
        if life is not None:
            withdrawn = await close(stage, campaign)
            stage.view.say(f"the campaign is closed, {withdrawn:,} unsold units are free in the warehouse again")
        stage.view.say("comparing Redis, Kafka, MySQL and the warehouse …")
        return await self._end(stage, run, life, withdrawn)

    async def _end(self, stage: Stage, run: Run, life: Life | None, withdrawn: int) -> Ending:
        campaign, result = self.campaign, run.result
        compared = await compare(stage, campaign)
        again = life.accepted_ids if life else set()
        parcels = await demo_outbound.count_parcels(stage.clients, campaign.id)
        after = await demo_outbound.look_around(stage.clients, campaign)
        statuses = compared.statuses
        told = again.union(result.order_ids)
        common = msgspec.structs.asdict(facts_of(stage, campaign, run, compared))
        common |= {"accepted": len(told), "sold_out": result.counts["sold_out"] - len(again)}
        facts = SaleFacts(
            **common,
            paid=sum(statuses[one] for one in (OrderStatus.PAID, OrderStatus.APPROVED, OrderStatus.SHIPPED)),
            unpaid=statuses[OrderStatus.CONFIRMED],
            cancelled=statuses[OrderStatus.CANCELLED],
            expired=statuses[OrderStatus.EXPIRED],
            refunded=statuses[OrderStatus.REFUNDED],
            shipped=parcels.shipped,
            rejected=parcels.rejected,
            returned=parcels.returned,
            withdrawn=withdrawn,
            sold_again=len(again),
        )
        before = self.before or after
        evidence = evidence_of(result, compared, before, after)
        untrue = {**result.untrue, **(life.wrong if life else {})}
        return Ending(
            facts,
            contradictions(facts, evidence._replace(told=told, untrue=untrue)),
            (_books(facts, compared), demo_tables.warehouse(before, after, "where every unit is")),
            demo_tables.remarks(facts, result, orders="orders", again="order"),
            result.examples,
            f"{facts.sold:,} of {facts.stock:,} units are sold, each to one buyer"
            f"{f', {facts.shipped:,} of them shipped' if facts.shipped else ''}; {facts.sold_again:,} came back and "
            "were sold again. Who was told 202 has one order in MySQL, nobody else has one, no answer contradicted "
            "another, and the warehouse's books balance.",
        )


async def _live_on(stage: Stage, campaign: Campaign, result: Result) -> Life | None:
    """Have most orders paid, and what is not paid sold again; None if there are too many for that."""
    settings, clients, view = stage.settings, stage.clients, stage.view
    if len(result.order_ids) > demo_life.STOCK_MAX:
        view.say(f"more than {demo_life.STOCK_MAX:,} orders: they are left unpaid")
        return None
    orders = await query(
        clients.orders,
        "SELECT order_id, user_id FROM orders WHERE campaign_id = %s AND status = %s ORDER BY order_id",
        (campaign.id, OrderStatus.CONFIRMED),
    )
    view.say(f"{len(orders):,} orders are to be paid within {campaign.campaign.pay_within_s} s …")
    timeout = aiohttp.ClientTimeout(total=settings.gateway.answer_timeout_s * 2)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        buyers = Buyers(settings, read_key(settings), campaign, stage.gateway_url, session, seed=SEED)
        return await demo_life.live_on(
            buyers,
            clients,
            campaign,
            view,
            new_clerk=lambda paying: Clerk(clients, settings, campaign.id, paying),
            orders=[(order_id, user_id) for order_id, user_id in orders],
            empty_handed=result.empty_handed,
            accepted=len(result.order_ids),
        )


def _books(facts: SaleFacts, compared: Compared) -> Table:
    """Return the three stores side by side, and the buyers."""
    (sku,) = compared.report.skus
    cells = demo_tables.cells
    books = demo_tables.table("Held against each other", "numbers in one row have to be equal", *demo_tables.STORES)
    books.add_row("orders accepted", *cells(facts.accepted, facts.redis_taken, facts.kafka_distinct, facts.mysql_rows))
    late = facts.refunded - facts.rejected - facts.returned
    for name, count, always in (
        ("  paid and shipped", facts.shipped, True),
        ("  paid, not shipped yet", facts.paid - facts.shipped, False),
        ("  not paid yet", facts.unpaid, False),
        ("  cancelled, expired", facts.cancelled + facts.expired, True),
        ("  rejected in review, refunded", facts.rejected, True),
        ("  parcel came back, refunded", facts.returned, True),
        ("  paid too late, refunded", late, False),
    ):
        if count or always:
            books.add_row(name, *cells(None, None, None, count))
    given_back = facts.cancelled + facts.expired + facts.refunded
    books.add_row("units given back", *cells(None, facts.redis_returned, None, given_back))
    books.add_row("  of them, sold again", *cells(facts.sold_again))
    books.add_row("units sold", *cells(None, sku.taken - sku.returned, None, sku.mysql_sold))
    books.add_row("units left", *cells(None, sku.remaining, None, sku.allocated - sku.mysql_sold))
    books.add_row("units in all", *cells(None, sku.allocated, None, sku.allocated), end_section=True)
    books.add_row("sold out", *cells(facts.sold_out))
    books.add_row("rate limited", *cells(facts.rate_limited))
    books.add_row("failed", *cells(facts.failed), end_section=True)
    demo_tables.add_drift(books, compared.report, facts.drift)
    return books

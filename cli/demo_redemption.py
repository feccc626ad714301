"""The demo of a redemption: the crowd spends points on goods, and who turns out to have too few is turned back."""

import asyncio
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

import aiohttp
import msgspec
from rich.table import Table

from adapters.mysql import insert_many, query, transaction
from adapters.points import ADD_TO_ACCOUNTS, INSERT_LEDGER, MOVES, NONCE_BYTES, ledger_values
from bench.crowd import buyer_name
from bench.crowd_link import CrowdLink
from bench.crowd_messages import Result
from bench.crowd_orders import Purse, purses
from cli import demo_life, demo_outbound, demo_tables
from cli.clients import Clients
from cli.demo_facts import House
from cli.demo_life import Buyers, Life
from cli.demo_outbound import Clerk
from cli.demo_redemption_proof import Ledger, RedemptionFacts, contradictions
from cli.demo_redemption_proof import Movement as Taken
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
from domain.order_state import HOLDING, OrderStatus
from domain.points import LedgerKind, Movement, grant_ref
from gateway.app import read_key
from stack.paths import PROJECT_ROOT

SAMPLE: Final = PROJECT_ROOT / "examples" / "redemption.toml"
PER_USER: Final = 2
"""Units that a buyer may have: so that two at once is a race for his points, not for this."""
PLENTY: Final = 3
"""Units that a buyer with plenty of points could have."""
GRANTS_AT_ONCE: Final = 5_000
GRANT_KEY: Final = "demo"
UNDER_WAY: Final = (OrderStatus.CONFIRMED, OrderStatus.PAID, OrderStatus.APPROVED)
"""In these an order waits for its saga, the clerk or the warehouse."""
PAID: Final = (OrderStatus.PAID, OrderStatus.APPROVED, OrderStatus.SHIPPED)
SETTLE_S: Final = 60.0
"""How long everything may take once the crowd has its answers."""

_ENDED: Final = "SELECT COUNT(*) FROM saga WHERE campaign_id = %s AND ended_at_ms IS NOT NULL"
_UNFINISHED: Final = "SELECT COUNT(*) FROM saga WHERE campaign_id = %s AND ended_at_ms IS NULL"
_MOVED: Final = "SELECT ref_id, user_id, ABS(delta) FROM points_ledger WHERE kind = %s AND ref_id LIKE %s"
_HELD: Final = "SELECT order_id, user_id FROM orders WHERE campaign_id = %s AND status IN %s"
_BALANCES: Final = (
    "SELECT CAST(COALESCE(SUM(balance), 0) AS SIGNED), COUNT(*), COALESCE(SUM(balance < 0), 0) FROM account"
)
_UNEQUAL: Final = """
SELECT COUNT(*) FROM account AS a LEFT JOIN
 (SELECT user_id, SUM(delta) AS points FROM points_ledger GROUP BY user_id) AS l ON l.user_id = a.user_id
WHERE a.balance <> COALESCE(l.points, 0)"""


def points_of(purse: Purse, price: int) -> int:
    """Return the points in a purse, 0 if its owner has no account."""
    return {Purse.NO_ACCOUNT: 0, Purse.SHORT: price - 1, Purse.ONE: price, Purse.PLENTY: PLENTY * price}[purse]


@dataclass(slots=True)
class RedemptionPlay:
    """A `cli.demo_stage.Play`."""

    campaign: Campaign
    house: House | None = field(default=None, init=False)
    granted: int = field(default=0, init=False)

    @classmethod
    def of(cls, _buyers: int, stock: int) -> Self:
        """Return the sample redemption with so much stock.

        Raises:
            ConfigError: the file has become another one than the crowd knows to behave in.
        """
        campaign = sample(SAMPLE)
        if len(campaign.sku) != 1 or campaign.sku[0].per_user != PER_USER:
            raise ConfigError(f"{SAMPLE.name}: the demo needs one SKU, with per_user = {PER_USER}")
        return cls(msgspec.structs.replace(campaign, sku=(msgspec.structs.replace(campaign.sku[0], stock=stock),)))

    @property
    def price(self) -> int:
        """Points that one unit costs."""
        return self.campaign.sku[0].points_price

    @property
    def wish(self) -> str:
        """See `Play`."""
        return f"want {self.campaign.sku[0].stock:,} units for {self.price:,} points each"

    def crowd_options(self) -> dict[str, Any]:
        """See `Play`."""
        return {"empty_handed_max": demo_life.STOCK_MAX}

    async def prepare(self, stage: Stage) -> None:
        """See `Play`."""
        stage.view.say("goods come into the warehouse, and the campaign is allocated its share …")
        self.house = await stock_up(stage, self.campaign)
        everybody = purses(SEED, stage.buyers)
        self.granted = await _grant(stage.clients, everybody, self.price)
        kinds = Counter(everybody)
        stage.view.say(
            f"buyers are given {self.granted:,} points: {kinds[Purse.PLENTY]:,} get plenty, "
            f"{kinds[Purse.ONE]:,} as many as one unit costs, {kinds[Purse.SHORT]:,} one point too few, "
            f"{kinds[Purse.NO_ACCOUNT]:,} have no account"
        )

    async def perform(self, stage: Stage, crowd: CrowdLink) -> Ending:
        """See `Play`."""
        campaign, clients = self.campaign, stage.clients
        units = min(campaign.sku[0].stock, PER_USER * stage.buyers)
        figures = (
            Figure("answered", ("accepted", "points_short", "sold_out", "rate_limited", "failed"), stage.buyers),
            Figure("buyers accepted", ("accepted",), min(units, stage.buyers), "green"),
            Figure("through or turned back", ("ended",), units, "green"),
            Figure("points short", ("points_short",)),
            Figure("sold out", ("sold_out",)),
            Figure("rate limited", ("rate_limited",)),
            Figure("failed", ("failed",), style="red"),
        )

        async def look() -> Mapping[str, int]:
            ((ended,),) = await query(clients.orders, _ENDED, (campaign.id,))
            return {"in_mysql": await count_orders(clients.orders, campaign.id), "ended": int(ended)}

        def wanted(result: Result) -> Mapping[str, int]:
            return dict.fromkeys(("in_mysql", "ended"), len(result.order_ids))

        run = await let_loose(stage, crowd, figures, look, wanted)
        stage.view.say("what was turned back is on sale again, and parcels leave …")
        life = await _live_on(stage, campaign, run.result)
        withdrawn = await close(stage, campaign)
        stage.view.say(f"the campaign is closed, {withdrawn:,} units are free in the warehouse again")
        stage.view.say("comparing Redis, Kafka, MySQL, the points and the warehouse …")
        compared = await compare(stage, campaign)
        return await self._end(stage, run, life, compared, withdrawn)

    async def _end(self, stage: Stage, run: Run, life: Life, compared: Compared, withdrawn: int) -> Ending:
        campaign, result = self.campaign, run.result
        ledger, points_left = await _read_ledger(stage.clients, campaign.id)
        parcels = await demo_outbound.count_parcels(stage.clients, campaign.id)
        after = await demo_outbound.look_around(stage.clients, campaign)
        before, again = self.house or after, len(life.accepted_ids)
        told = life.accepted_ids.union(result.order_ids)
        common = msgspec.structs.asdict(facts_of(stage, campaign, run, compared))
        common |= {"accepted": len(told), "sold_out": result.counts["sold_out"] - again}
        facts = RedemptionFacts(
            **common,
            redeemers=result.counts["accepted"] + again,
            points_short=result.counts["points_short"],
            points_price=self.price,
            points_granted=self.granted,
            points_spent=sum(one.points for one in ledger.spent),
            points_returned=sum(one.points for one in ledger.returned),
            points_left=points_left,
            rejected=compared.statuses[OrderStatus.REJECTED],
            paid=sum(compared.statuses[one] for one in PAID),
            shipped=parcels.shipped,
            redeemed_again=again,
            withdrawn=withdrawn,
        )
        evidence = evidence_of(result, compared, before, after)
        untrue = {**result.untrue, **life.wrong}
        return Ending(
            facts,
            contradictions(facts, evidence._replace(told=told, untrue=untrue), ledger),
            (
                _points(facts),
                _stores(facts, compared),
                demo_tables.warehouse(before, after, "where every unit is"),
            ),
            demo_tables.remarks(facts, result, orders="redemptions", again="order"),
            result.examples,
            f"{facts.sold:,} of {facts.stock:,} units were redeemed, each for {facts.points_price:,} points of one "
            f"buyer, {facts.shipped:,} of them shipped; {facts.rejected:,} redemptions were turned back whole: no "
            f"points taken, and the unit on sale again. Not a point is lost or made up: {facts.points_granted:,} were "
            f"granted, {facts.points_spent:,} spent, {facts.points_returned:,} returned, {facts.points_left:,} are "
            "left. Who was told 202 has one order in MySQL, nobody else has one, and no answer contradicted another.",
        )


# -- points --------------------------------------------------------------------------------------------------------


async def _grant(clients: Clients, everybody: list[Purse], price: int) -> int:
    """Give everybody what is in his purse; returns how many points that were."""
    granted, now_ms = 0, time.time_ns() // 1_000_000
    for grants in _in_batches(everybody, price):
        nonce = b"demo".ljust(NONCE_BYTES)  # nobody else is there, and nothing is repeated
        async with transaction(clients.points) as cursor:
            await insert_many(cursor, ADD_TO_ACCOUNTS, [(one.user_id, one.delta, MOVES) for one in grants])
            await insert_many(cursor, INSERT_LEDGER, [ledger_values(one, nonce, now_ms, "demo") for one in grants])
        granted += sum(one.delta for one in grants)
    return granted


def _in_batches(everybody: list[Purse], price: int) -> Iterator[list[Movement]]:
    for start in range(0, len(everybody), GRANTS_AT_ONCE):
        purses_at = enumerate(everybody[start : start + GRANTS_AT_ONCE], start=start)
        given = [(buyer_name(number), points_of(purse, price)) for number, purse in purses_at]
        grants = [
            Movement(grant_ref(user, GRANT_KEY), LedgerKind.GRANT, user, points) for user, points in given if points
        ]
        if grants:
            yield grants


async def _read_ledger(clients: Clients, campaign_id: str) -> tuple[Ledger, int]:
    """Return what the ledger of points and the orders say, and the points that all accounts have together."""
    spent, returned = [
        [Taken(ref_id, user_id, int(points)) for ref_id, user_id, points in rows]
        for rows in [
            await query(clients.points, _MOVED, (kind, f"{campaign_id}~%"))
            for kind in (LedgerKind.SPEND, LedgerKind.REFUND)
        ]
    ]
    holders = await query(clients.orders, _HELD, (campaign_id, [str(one) for one in HOLDING]))
    ((left, _, overdrawn),) = await query(clients.points, _BALANCES)
    ((unequal,),) = await query(clients.points, _UNEQUAL)
    ((unfinished,),) = await query(clients.orders, _UNFINISHED, (campaign_id,))
    return Ledger(spent, returned, dict(holders), int(unequal), int(overdrawn), int(unfinished)), int(left)


# -- after the crowd -----------------------------------------------------------------------------------------------


async def _live_on(stage: Stage, campaign: Campaign, result: Result) -> Life:
    """Have those who went away empty-handed redeem what comes back, and parcels leave, until all is settled."""
    settings, clients, view = stage.settings, stage.clients, stage.view
    life = Life(len(result.order_ids))
    clerk = Clerk(clients, settings, campaign.id)
    timeout = aiohttp.ClientTimeout(total=settings.gateway.answer_timeout_s * 2)
    async with aiohttp.ClientSession(timeout=timeout) as session, asyncio.TaskGroup() as acts:
        buyers = Buyers(
            settings,
            read_key(settings),
            campaign,
            stage.gateway_url,
            session,
            seed=SEED,
            path="/v1/redemptions",
        )
        reviewing = acts.create_task(clerk.work())

        async def redeem(number: int) -> bool:
            status, order_id = await buyers.buy(number)
            if status == 202:
                life.accepted_ids.add(order_id)
            elif status != 409:
                life.wrong[f"{status} to a redemption"] += 1
            return status == 202

        waiting = deque(result.empty_handed)
        await demo_life.sell_again(
            redeem, clients, campaign, view, life, waiting, clerk, under_way=UNDER_WAY, settle_s=SETTLE_S
        )
        clerk.stop()
        await reviewing
    view.say(life.text)
    return life


# -- tables --------------------------------------------------------------------------------------------------------


def _points(facts: RedemptionFacts) -> Table:
    cells = demo_tables.cells
    made = demo_tables.table("Points", "granted - spent + returned = left, to the point", "points", "redemptions")
    made.add_row("granted before", *cells(facts.points_granted))
    made.add_row("spent", *cells(facts.points_spent, facts.points_spent // facts.points_price))
    made.add_row("returned", *cells(facts.points_returned, facts.points_returned // facts.points_price))
    made.add_row("left in all accounts", *cells(facts.points_left), end_section=True)
    made.add_row("points of confirmed redemptions", *cells(facts.confirmed * facts.points_price, facts.confirmed))
    return made


def _stores(facts: RedemptionFacts, compared: Compared) -> Table:
    (sku,) = compared.report.skus
    cells = demo_tables.cells
    books = demo_tables.table("Held against each other", "numbers in one row have to be equal", *demo_tables.STORES)
    books.add_row(
        "redemptions accepted", *cells(facts.accepted, facts.redis_taken, facts.kafka_distinct, facts.mysql_rows)
    )
    books.add_row("  confirmed, paid by points", *cells(None, None, None, facts.paid))
    books.add_row("    of them, shipped", *cells(None, None, None, facts.shipped))
    books.add_row("  turned back, points were short", *cells(None, None, None, facts.rejected))
    books.add_row("units given back", *cells(None, facts.redis_returned, None, facts.released))
    books.add_row("  of them, redeemed by others", *cells(facts.redeemed_again))
    books.add_row("units redeemed", *cells(None, sku.taken - sku.returned, None, sku.mysql_sold))
    books.add_row("units left", *cells(None, sku.remaining, None, sku.allocated - sku.mysql_sold), end_section=True)
    books.add_row("points short, told at once", *cells(facts.points_short))
    books.add_row("sold out", *cells(facts.sold_out))
    books.add_row("rate limited", *cells(facts.rate_limited))
    books.add_row("failed", *cells(facts.failed), end_section=True)
    demo_tables.add_drift(books, compared.report, facts.drift)
    return books

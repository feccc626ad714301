"""The demo of a lottery: the crowd draws, winners get their points, and every draw is verified by the revealed seed."""

import asyncio
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

import aiohttp
import msgspec
from rich.table import Table

from adapters.mysql import query
from bench.crowd import Draw
from bench.crowd_link import CrowdLink
from bench.crowd_messages import Result
from cli import demo_outbound, demo_tables
from cli.clients import Clients
from cli.demo_facts import House
from cli.demo_lottery_proof import (
    Award,
    Books,
    Check,
    LotteryFacts,
    Page,
    PrizeLine,
    contradictions,
    draws_by_user,
)
from cli.demo_stage import (
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
from cli.lottery import read_logs, verify_lottery
from consumers.reconcile_report import SkuReport
from domain.campaign import Campaign, Sku
from domain.errors import BackendError, ConfigError
from domain.order_state import HOLDING, OrderStatus
from domain.points import LedgerKind
from stack.paths import PROJECT_ROOT

SAMPLE: Final = PROJECT_ROOT / "examples" / "lottery.toml"
PAGE_TIMEOUT_S: Final = 10.0
"""How long the campaign's page may take to show what the lottery has become."""
PAGE_PAUSE_S: Final = 0.1

_AWARDS: Final = "SELECT COUNT(*) FROM points_ledger WHERE kind = %s AND ref_id LIKE %s"
_AWARDED: Final = "SELECT ref_id, user_id, delta FROM points_ledger WHERE kind = %s AND ref_id LIKE %s"
_BALANCES: Final = "SELECT CAST(COALESCE(SUM(balance), 0) AS SIGNED) FROM account"
_HELD: Final = "SELECT order_id, user_id, sku_id FROM orders WHERE campaign_id = %s AND status IN %s"


def share_out(skus: Sequence[Sku], stock: int) -> tuple[Sku, ...]:
    """Return kinds of prizes with `stock` prizes together, in the proportions that they have."""
    whole = sum(sku.stock for sku in skus)
    parts = [sku.stock * stock // whole for sku in skus]
    # What rounding has left goes to the kinds that it took most from; of equals, to the one that there are more of.
    rest = sorted(range(len(skus)), key=lambda i: (skus[i].stock * stock % whole, skus[i].stock), reverse=True)
    for i in rest[: stock - sum(parts)]:
        parts[i] += 1
    return tuple(msgspec.structs.replace(sku, stock=part) for sku, part in zip(skus, parts, strict=True))


@dataclass(slots=True)
class LotteryPlay:
    """A `cli.demo_stage.Play`."""

    campaign: Campaign
    house: House | None = field(default=None, init=False)
    page: Page = field(default=Page("", ""), init=False)

    @classmethod
    def of(cls, _buyers: int, stock: int) -> Self:
        """Return the sample lottery with so many prizes.

        Raises:
            ConfigError: the file has become another one than the crowd knows to behave in.
        """
        campaign = sample(SAMPLE)
        if campaign.lottery.no_prize_weight == 0 or not all(sku.stock for sku in campaign.sku):
            raise ConfigError(f"{SAMPLE.name}: the demo needs a no_prize_weight, and prizes of every kind")
        return cls(msgspec.structs.replace(campaign, sku=share_out(campaign.sku, stock)))

    @property
    def prizes(self) -> int:
        """How many there are."""
        return sum(sku.stock for sku in self.campaign.sku)

    @property
    def wish(self) -> str:
        """See `Play`."""
        return f"draw for {self.prizes:,} prizes, {self.campaign.campaign.draws_per_user} draws each"

    def crowd_options(self) -> dict[str, Any]:
        """See `Play`."""
        return {
            "draws_per_user": self.campaign.campaign.draws_per_user,
            "prizes": {sku.id: sku.points for sku in self.campaign.sku},
        }

    async def prepare(self, stage: Stage) -> None:
        """See `Play`."""
        stage.view.say("prizes come into the warehouse, the lottery is allocated its share, and its seed is drawn …")
        self.house = await stock_up(stage, self.campaign)
        self.page = await _read_page(stage, self.campaign.id, revealed=False)
        stage.view.say(f"the SHA-256 of the secret seed is public before anybody draws: {self.page.commitment}")

    async def perform(self, stage: Stage, crowd: CrowdLink) -> Ending:
        """See `Play`."""
        campaign, clients = self.campaign, stage.clients
        can_be_won = min(self.prizes, stage.buyers * campaign.campaign.draws_per_user)
        figures = (
            Figure("done", ("won", "no_prize", "sold_out", "rate_limited", "failed"), stage.buyers),
            Figure("draws", ("draws",), stage.buyers * campaign.campaign.draws_per_user),
            Figure("prizes won", ("prizes",), can_be_won, "green"),
            Figure("in MySQL", ("in_mysql",), can_be_won, "green"),
            Figure("awards", ("awards",), can_be_won, "green"),
            Figure("refused over the limit", ("over_limit",)),
            Figure("rate limited", ("rate_limited",)),
            Figure("failed", ("failed",), style="red"),
        )
        ours = f"{campaign.id}~%"

        async def look() -> Mapping[str, int]:
            ((awards,),) = await query(clients.points, _AWARDS, (LedgerKind.AWARD, ours))
            return {"in_mysql": await count_orders(clients.orders, campaign.id), "awards": int(awards)}

        def wanted(result: Result) -> Mapping[str, int]:
            awards = sum(draw.points > 0 for draw in result.draws)
            return {"in_mysql": len(result.order_ids), "awards": awards}

        run = await let_loose(stage, crowd, figures, look, wanted)
        withdrawn = await close(stage, campaign)
        left = f"{withdrawn:,} prizes that nobody won are free in the warehouse again"
        stage.view.say(f"the lottery is closed, {left}, and its seed is revealed")
        stage.view.say("comparing Redis, Kafka, MySQL and the warehouse …")
        compared = await compare(stage, campaign)
        stage.view.say("verifying the log: every draw is drawn again …")
        check = await self._verify(stage, run.result.draws)
        return await self._end(stage, run, compared, check, withdrawn)

    async def _verify(self, stage: Stage, told: list[Draw]) -> Check:
        after = await _read_page(stage, self.campaign.id, revealed=True)
        verdict, _ = await verify_lottery(stage.settings, self.campaign.id)
        logs = await read_logs(stage.settings, stage.clients, self.campaign.id)
        return Check(verdict, logs, told, self.page, after)

    async def _end(self, stage: Stage, run: Run, compared: Compared, check: Check, withdrawn: int) -> Ending:
        campaign, result = self.campaign, run.result
        books = await _read_books(stage.clients, campaign, compared.report.skus, check)
        after = await demo_outbound.look_around(stage.clients, campaign)
        before = self.house or after
        facts = LotteryFacts(
            **msgspec.structs.asdict(facts_of(stage, campaign, run, compared)),
            draws=result.counts["draws"],
            winners=result.counts["won"],
            no_prize=result.counts["no_prize"],
            draws_per_user=campaign.campaign.draws_per_user,
            draws_by_one_max=max(draws_by_user(check.logs).values(), default=0),
            over_limit=result.counts["over_limit"],
            points_awarded=sum(award.points for award in books.awards),
            rejected=compared.statuses[OrderStatus.REJECTED],
            withdrawn=withdrawn,
            log_lines=check.verdict.lines,
            verified=not check.verdict.faults,
        )
        evidence = evidence_of(result, compared, before, after)
        why = "prizes wait there for whoever hands them out; what nobody won is free again"
        return Ending(
            facts,
            contradictions(facts, evidence, books, check),
            (
                _prizes(books),
                _draws(facts, result),
                _stores(facts, compared),
                demo_tables.warehouse(before, after, why),
                _log(facts, check),
            ),
            demo_tables.remarks(facts, result, orders="prizes", again="draw and prize"),
            result.examples,
            f"{facts.accepted:,} of {facts.stock:,} prizes were won, each by one draw, and {facts.points_awarded:,} "
            "points went to the winners, once each. Nobody drew more often than allowed, no answer contradicted "
            f"another, and by the revealed seed each of the {facts.draws:,} draws is what its number wins, and what "
            "its buyer was told.",
        )


async def _read_page(stage: Stage, campaign_id: str, *, revealed: bool) -> Page:
    """Return what the campaign's public page says; waits until it says so.

    Raises:
        BackendError: it does not.
    """
    end_s = time.monotonic() + PAGE_TIMEOUT_S
    timeout = aiohttp.ClientTimeout(total=PAGE_TIMEOUT_S)
    url = f"{stage.gateway_url}/v1/campaigns/{campaign_id}"
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while time.monotonic() < end_s:
            try:
                async with session.get(url) as answer:
                    lottery = (await answer.json())["lottery"] if answer.status == 200 else None
            except (aiohttp.ClientError, TimeoutError):
                lottery = None
            if lottery is not None and (lottery["seed"] or not revealed):
                return Page(lottery["commitment"], lottery["seed"] or "")
            await asyncio.sleep(PAGE_PAUSE_S)
    raise BackendError(f"the page of lottery {campaign_id} does not show {'its seed' if revealed else 'it'}")


async def _read_books(clients: Clients, campaign: Campaign, skus: Sequence[SkuReport], check: Check) -> Books:
    held = await query(clients.orders, _HELD, (campaign.id, [str(one) for one in HOLDING]))
    orders = {order_id: (user_id, sku_id) for order_id, user_id, sku_id in held}
    rows = await query(clients.points, _AWARDED, (LedgerKind.AWARD, f"{campaign.id}~%"))
    awards = [Award(ref_id, user_id, int(delta)) for ref_id, user_id, delta in rows]
    ((balances,),) = await query(clients.points, _BALANCES)
    told = Counter(draw.sku_id for draw in check.told)
    in_mysql = Counter(sku_id for _, sku_id in orders.values())
    of_kind: dict[str, list[Award]] = {}
    for award in awards:
        of_kind.setdefault(orders.get(award.ref_id, ("", ""))[1], []).append(award)
    redis = {sku.sku_id: sku.taken - sku.returned for sku in skus}
    prizes = [
        PrizeLine(
            sku.id,
            sku.points,
            sku.stock,
            told[sku.id],
            check.verdict.won.get(sku.id, 0),
            redis.get(sku.id, 0),
            in_mysql[sku.id],
            len(of_kind.get(sku.id, ())),
            sum(award.points for award in of_kind.get(sku.id, ())),
        )
        for sku in campaign.sku
    ]
    return Books(prizes, awards, orders, int(balances))


def _prizes(books: Books) -> Table:
    made = demo_tables.table(
        "Prizes",
        "what winners were told is what was taken, ordered and awarded, kind by kind",
        "worth",
        "there were",
        "told to winners",
        "in the log",
        "taken in Redis",
        "orders in MySQL",
        "points awarded",
    )
    for number, one in enumerate(books.prizes, start=1):
        numbers = (one.worth, one.stock, one.told, one.logged, one.taken, one.orders, one.points)
        made.add_row(one.sku_id, *demo_tables.cells(*numbers), end_section=number == len(books.prizes))
    sums = [sum(getattr(one, name) for one in books.prizes) for name in PrizeLine._fields[2:]]
    stock, told, logged, taken, orders, _, points = sums
    made.add_row("in all", *demo_tables.cells(None, stock, told, logged, taken, orders, points))
    return made


def _draws(facts: LotteryFacts, result: Result) -> Table:
    counts, cells = result.counts, demo_tables.cells
    made = demo_tables.table("Draws", f"each buyer has {facts.draws_per_user}, however often he asks", "")
    made.add_row("draws answered", *cells(facts.draws))
    made.add_row("  with a prize", *cells(facts.accepted))
    made.add_row("  without", *cells(facts.draws - facts.accepted))
    made.add_row("the most that one buyer has", *cells(facts.draws_by_one_max))
    made.add_row("refused: all draws used up", *cells(facts.over_limit))
    made.add_row("asked again, told the same", *cells(result.replays))
    made.add_row("connections lost mid-draw", *cells(counts["hung_up"]), end_section=True)
    made.add_row("buyers who won something", *cells(facts.winners))
    made.add_row("buyers who won nothing", *cells(facts.no_prize))
    made.add_row("sold out", *cells(facts.sold_out))
    made.add_row("rate limited to the end", *cells(facts.rate_limited))
    made.add_row("failed", *cells(facts.failed))
    return made


def _stores(facts: LotteryFacts, compared: Compared) -> Table:
    cells, skus = demo_tables.cells, compared.report.skus
    remaining, allocated = sum(sku.remaining for sku in skus), sum(sku.allocated for sku in skus)
    books = demo_tables.table("Held against each other", "numbers in one row have to be equal", *demo_tables.STORES)
    books.add_row("prizes won", *cells(facts.accepted, facts.redis_taken, facts.kafka_distinct, facts.mysql_rows))
    held = facts.redis_taken - facts.redis_returned
    books.add_row("prizes held by winners", *cells(None, held, None, facts.sold))
    books.add_row("left in the lottery", *cells(None, remaining, None, allocated - facts.sold), end_section=True)
    demo_tables.add_drift(books, compared.report, facts.drift)
    return books


def _log(facts: LotteryFacts, check: Check) -> Table:
    explanation = "anybody can do this with the revealed seed: `flashgate lottery verify`"
    made = Table(title=f"[bold]The draws, verified[/bold]: {explanation}", title_justify="left", title_style="")
    made.show_header = False
    made.add_column()
    made.add_column(overflow="fold")
    made.add_row("SHA-256 of the seed, published before", check.before.commitment)
    made.add_row("the seed, revealed after the close", check.after.seed)
    made.add_row("lines of the log, in an unbroken chain", f"{facts.log_lines:,}")
    made.add_row("draws that were drawn again", f"{check.verdict.draws:,}")
    won = sum(check.verdict.won.values())
    made.add_row("  of them won", f"{won:,}, worth {check.verdict.points:,} points")
    color = "green" if facts.verified else "red"
    made.add_row("faults", f"[{color}]{len(check.verdict.faults):,}")
    return made

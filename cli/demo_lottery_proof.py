"""What the demo of a lottery has to be true: its facts, and what contradicts its promise. Without I/O."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import NamedTuple

from bench.crowd import Draw
from cli.demo_facts import Evidence, Facts, differing, faults_of_all, faults_of_the_house
from domain.draw_events import DrawLog
from domain.lottery import Drawn, Verdict, commitment, parse_line

FAULTS_TOLD_MAX = 5
"""Of a log, in full."""


class LotteryFacts(Facts, frozen=True, kw_only=True):
    """What `demo --json` prints of a lottery, besides.

    Attributes:
        draws: that were answered, each counted once however often it was asked for.
        winners: buyers who won something.
        no_prize: buyers who have drawn and won nothing. With these two, `sold_out`, `rate_limited` and `failed` add up
            to `buyers`.
        draws_per_user: draws that everybody has.
        draws_by_one_max: the most draws that the log has of one buyer.
        over_limit: draws beyond that which were asked for and refused.
        points_awarded: in the ledger of points, for prizes of this lottery.
        rejected: prizes whose order was rejected.
        withdrawn: prizes that nobody won and that went back to the warehouse when the lottery was closed.
        log_lines: of the log that was verified.
        verified: whether the log holds, by the revealed seed.
    """

    draws: int
    winners: int
    no_prize: int
    draws_per_user: int
    draws_by_one_max: int
    over_limit: int
    points_awarded: int
    rejected: int
    withdrawn: int
    log_lines: int
    verified: bool


class PrizeLine(NamedTuple):
    """One kind of prize, in every place that knows of it; units, but for `points`."""

    sku_id: str
    worth: int
    """Points of one."""
    stock: int
    told: int
    """Draws whose buyers were told that they won it."""
    logged: int
    """Draws of the log that won it."""
    taken: int
    """By Redis, less what came back."""
    orders: int
    """Rows that hold one, in MySQL."""
    awards: int
    """Rows in the ledger of points."""
    points: int
    """Their sum."""


class Award(NamedTuple):
    """A row of the ledger of points."""

    ref_id: str
    user_id: str
    points: int


class Books(NamedTuple):
    """What was drawn, in every place that knows of it."""

    prizes: Sequence[PrizeLine]
    awards: Collection[Award]
    orders: Mapping[str, tuple[str, str]]
    """Order id → user and SKU, of rows that hold a prize."""
    balances: int
    """Of all accounts together."""


class Page(NamedTuple):
    """What the campaign's public page says of a lottery."""

    commitment: str
    seed: str
    """Hex digits; empty before the lottery is closed."""


class Check(NamedTuple):
    """A lottery's log and what it was held against."""

    verdict: Verdict
    logs: Sequence[DrawLog]
    told: Sequence[Draw]
    before: Page
    after: Page


def draws_by_user(logs: Sequence[DrawLog]) -> Counter[str]:
    """Return user → draws in a log."""
    found: Counter[str] = Counter()
    for log in logs:
        found.update(what.user_id for what in map(parse_line, log.lines) if isinstance(what, Drawn))
    return found


def contradictions(facts: LotteryFacts, evidence: Evidence, books: Books, check: Check) -> list[str]:
    """Return what is not as promised, one sentence each; empty when all is well."""
    settled = facts.winners + facts.no_prize + facts.sold_out + facts.rate_limited + facts.failed
    found = faults_of_all(facts, evidence, settled=settled)
    found += faults_of_the_house(evidence, stock=facts.stock, shipped=0, withdrawn=facts.withdrawn)
    found += _of_the_prizes(facts, books)
    if facts.draws_by_one_max > facts.draws_per_user:
        found.append(f"somebody has drawn {facts.draws_by_one_max} times, everybody has {facts.draws_per_user}")
    return [*found, *_of_the_log(facts, check)]


def _of_the_prizes(facts: LotteryFacts, books: Books) -> list[str]:
    found = []
    for prize in books.prizes:
        same = {
            f"{prize.sku_id}: draws of the log that won it": prize.logged,
            f"{prize.sku_id}: units taken in Redis": prize.taken,
            f"{prize.sku_id}: orders in MySQL": prize.orders,
            f"{prize.sku_id}: awards of points": prize.awards if prize.worth else prize.told,
        }
        found += differing(same, "told to winners", prize.told)
        found += differing({f"{prize.sku_id}: points awarded": prize.points}, "its worth", prize.worth * prize.told)
        if prize.told > prize.stock:
            found.append(f"{prize.sku_id}: {prize.told} were won of {prize.stock}")
    worth = sum(prize.worth * prize.told for prize in books.prizes)
    same = {"points_awarded": facts.points_awarded, "sum of all balances": books.balances}
    found += differing(same, "what the prizes are worth", worth)
    wrong = [one.ref_id for one in books.awards if books.orders.get(one.ref_id, ("", ""))[0] != one.user_id]
    if wrong:
        found.append(f"{len(wrong)} awards went to somebody who has not won, {min(wrong)} for one")
    return found


def _of_the_log(facts: LotteryFacts, check: Check) -> list[str]:
    verdict = check.verdict
    found = [f"line {fault.seq} of the log: {fault.text}" for fault in verdict.faults[:FAULTS_TOLD_MAX]]
    if len(verdict.faults) > FAULTS_TOLD_MAX:
        found.append(f"{len(verdict.faults) - FAULTS_TOLD_MAX} more faults in the log")
    if not verdict.closed:
        found.append("the log does not say that the lottery is closed")
    if check.before.seed:
        found.append("the seed was public before the lottery was closed")
    if check.after.commitment != check.before.commitment:
        found.append("another SHA-256 is published than before the lottery opened")
    if not check.after.seed or commitment(bytes.fromhex(check.after.seed)) != check.before.commitment:
        found.append("the revealed seed is not the one whose SHA-256 was published before the lottery opened")
    found += differing({"draws of the log": verdict.draws}, "draws that buyers were told of", facts.draws)
    return [*found, *_unlike_the_log(check)]


def _unlike_the_log(check: Check) -> list[str]:
    """Return what buyers were told, draw by draw, that the log says otherwise."""
    lines: dict[int, tuple[str, str, str]] = {}
    for log in check.logs:
        for seq, line in enumerate(log.lines, start=log.seq):
            what = parse_line(line)
            if isinstance(what, Drawn):
                lines[seq] = (f"{log.campaign_id}~{what.digest}", what.sku_id, log.hash)
    wrong = [draw for draw in check.told if lines.get(draw.seq) != (draw.draw_id, draw.sku_id, draw.hash)]
    if not wrong:
        return []
    return [f"{len(wrong)} draws stand otherwise in the log than their buyers were told, line {wrong[0].seq} for one"]

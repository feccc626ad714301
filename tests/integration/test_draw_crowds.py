"""Crowds at a lottery: 20,000 users for 1,000 prizes, and 100,000 draws by chance alone; by the real script."""

from collections import Counter
from collections.abc import AsyncIterator
from typing import Final

import msgspec
import pytest
import pytest_asyncio

from adapters.campaign_stock import load_campaign
from adapters.draws import DrawRequest, lottery_fields, move_lottery
from domain.outcomes import Outcome
from domain.settings import RedisSettings
from tests.support.lotteries import FIVE_KINDS, SEED, ScriptLottery, script_lottery
from tests.support.scripts import private_redis

CROWD: Final = 20_000
CHI_SQUARE_5_AT_0_1_PERCENT: Final = 20.515
"""Upper 0.1 % point of the chi-square distribution with 5 degrees of freedom: NIST/SEMATECH e-Handbook of Statistical
Methods, 1.3.6.7.4, table of upper-tail critical values. Six outcomes, five kinds and no prize, leave five."""


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[RedisSettings]:
    """Return a Redis of our own."""
    async with private_redis(tmp_path_factory.mktemp("redis")) as settings:
        yield settings


async def in_batches(lottery: ScriptLottery, requests: list[DrawRequest], size: int = 200) -> Counter[str]:
    """Have requests decided; returns outcome, or the prize won, → how often."""
    found: Counter[str] = Counter()
    for start in range(0, len(requests), size):
        for one in (await lottery.draw(*requests[start : start + size])).decisions:
            drawn = one.outcome is Outcome.ACCEPTED
            found[(one.prize.sku_id if one.prize else "none") if drawn else one.outcome.name] += 1
    return found


async def test_no_kind_is_over_drawn(server: RedisSettings) -> None:
    """20,000 users, 1,000 prizes in 5 kinds: every prize goes once, nobody draws more than he may, and all adds up."""
    async with script_lottery(server, kinds=FIVE_KINDS, no_prize_weight=4_000) as lottery:
        requests = [lottery.request(f"u-{number}") for number in range(CROWD)]
        found = await in_batches(lottery, requests)
        again = await in_batches(lottery, [lottery.request(f"u-{number}", "other") for number in range(0, CROWD, 10)])
        assert again == {"LIMIT_REACHED": CROWD // 10}
        assert sum(found.values()) == CROWD
        for kind in FIVE_KINDS:
            line = await lottery.line(kind.sku_id)
            assert found[kind.sku_id] == line.taken == kind.stock - line.remaining
            assert (line.remaining, line.allocated) == (0, kind.stock)
        verdict = await lottery.verdict()
        assert (verdict.faults, verdict.draws) == ([], CROWD)
        assert verdict.won == {kind.sku_id: kind.stock for kind in FIVE_KINDS}
        assert verdict.points == sum(kind.stock * kind.points for kind in FIVE_KINDS)


async def test_frequencies_are_those_of_the_weights(server: RedisSettings) -> None:
    """100,000 draws without a limit of stock and with a fixed seed pass a chi-square test at the 0.1 % level."""
    kinds = [kind._replace(stock=1_000_000) for kind in FIVE_KINDS]
    none, draws = 500, 100_000
    async with script_lottery(server, kinds=kinds, no_prize_weight=none) as first:
        # The campaign's id is part of every number: with the same one, and the same seed, the draws are the same ones.
        campaign = msgspec.structs.replace(
            first.campaign, campaign=msgspec.structs.replace(first.campaign.campaign, id="chi-square")
        )
        lottery = ScriptLottery(server, campaign, first.channel, first.client, SEED)
        await load_campaign(lottery.channel, campaign, more_fields=lottery_fields(campaign, SEED))
        await move_lottery(lottery.channel, lottery.id, "open")
        found = await in_batches(lottery, [lottery.request(f"u-{number}") for number in range(draws)], 500)
    total = sum(kind.weight for kind in kinds) + none
    expected = {kind.sku_id: draws * kind.weight / total for kind in kinds} | {"none": draws * none / total}
    assert set(found) == set(expected)
    assert sum((found[name] - wanted) ** 2 / wanted for name, wanted in expected.items()) < CHI_SQUARE_5_AT_0_1_PERCENT

"""The campaign's token bucket is exact, whatever the spread of the crowd over workers."""

import asyncio
import contextlib
from itertools import cycle
from typing import Any

import pytest

from adapters.stock import read_snapshot
from domain import keys
from domain.settings import Settings
from tests.support.lanes import BOTH_LANES
from tests.support.shop import Shop, open_shop

pytestmark = BOTH_LANES

WORKERS = 4
RATE, BURST = 20, 20
OFFERED = 3_000
MICROTOKENS = 1_000_000


async def bucket(shop: Shop) -> tuple[int, int]:
    """Return the bucket as Redis has it: millionths of tokens left, and microseconds of the last refill."""
    snapshot = await read_snapshot(shop.clients.client, shop.id)
    assert snapshot is not None
    return int(snapshot.fields["tokens_u"]), int(snapshot.fields["refilled_us"])


@pytest.mark.parametrize("spread", [WORKERS, 1])
async def test_what_passes_is_rate_times_time_plus_burst(settings: Settings, spread: int) -> None:
    """4 workers, far more than ten times the rate offered, spread evenly or all at one worker.

    What passes = rate x elapsed Redis time + burst, within 1; replays meanwhile take no token.
    """
    limits = f"admit_per_s = {RATE}\nadmit_burst = {BURST}\nuser_per_s = 1000\nuser_burst = 1000"
    async with open_shop(settings, stock=OFFERED, limits=limits) as shop, contextlib.AsyncExitStack() as workers:
        urls = [await workers.enter_async_context(shop.worker()) for _ in range(WORKERS)]
        targets = cycle(urls[:spread])

        async def offer(number: int) -> str:
            url = next(targets)
            code = (await shop.buy(url, f"b-{number}")).code
            if code == "ACCEPTED":
                replay = await shop.buy(url, f"b-{number}")
                assert replay.headers["Idempotent-Replayed"] == "true"
            return code

        codes = await asyncio.gather(*(offer(number) for number in range(OFFERED)))
        passed = codes.count("ACCEPTED")
        tokens_u, refilled_us = await bucket(shop)
        # The bucket was full until the first order; outbox entries tell the time of Redis to the millisecond.
        entries: Any = await shop.clients.client.xrange(keys.outbox(shop.id), count=1)
        elapsed_us = refilled_us - 1_000 * int(entries[0][1][b"t"])
        assert codes.count("RATE_LIMITED") == OFFERED - passed
        assert 10 * RATE * elapsed_us <= OFFERED * MICROTOKENS, "the offer was less than ten times the rate"
        assert abs(passed - (BURST + RATE * elapsed_us / MICROTOKENS)) <= 1
        assert abs(passed * MICROTOKENS + tokens_u - BURST * MICROTOKENS - RATE * elapsed_us) <= RATE * 1_000

"""Orders put into Redis in whole batches, past the gateway: buyers who hold something before a measurement begins."""

import time
from collections.abc import Sequence
from typing import Final

from adapters.redis import ScriptChannel
from adapters.stock import OrderRequest, admit
from bench.errors import BenchError
from domain.campaign import Campaign
from domain.order import fingerprint, order_id, user_hash
from domain.outcomes import Outcome

BATCH: Final = 256
ATTEMPTS_MAX: Final = 8
OUTBOX_MAX: Final = 10_000_000


async def place_orders(
    channel: ScriptChannel, campaign: Campaign, prefix: str, numbers: range, *, deadline_s: float = float("inf")
) -> int:
    """Let the buyers `<prefix>-<number>` order one unit each, over all SKUs in turn; returns how many did in time.

    Args:
        channel: to Redis.
        campaign: open, with stock enough.
        prefix: of the buyers' names.
        numbers: of the buyers.
        deadline_s: monotonic time after which no further batch begins.

    Raises:
        BenchError: one of them was refused.
    """
    skus = [sku.id for sku in campaign.sku]
    prints = {sku: fingerprint(sku, 1) for sku in skus}
    done = 0
    for start in range(numbers.start, numbers.stop, BATCH):
        if time.monotonic() > deadline_s:
            break
        orders = [
            _order(campaign.id, f"{prefix}-{number}", skus[number % len(skus)], prints)
            for number in range(start, min(numbers.stop, start + BATCH))
        ]
        await _admit_all(channel, campaign.id, orders)
        done += len(orders)
    return done


async def sell_all(channel: ScriptChannel, campaign: Campaign) -> None:
    """Sell every unit of a campaign.

    Raises:
        BenchError: an order was refused.
    """
    units = sum(sku.stock for sku in campaign.sku)
    await place_orders(channel, campaign, "early", range(units))


def _order(campaign_id: str, user_id: str, sku_id: str, prints: dict[str, str]) -> OrderRequest:
    digest = order_id(campaign_id, user_id, "k")[-32:]
    return OrderRequest(digest, prints[sku_id], sku_id, 1, user_id, user_hash(user_id))


async def _admit_all(channel: ScriptChannel, campaign_id: str, orders: Sequence[OrderRequest]) -> None:
    reply = await admit(channel, campaign_id, orders, attempts_max=ATTEMPTS_MAX, outbox_max=OUTBOX_MAX)
    for outcome, _ in reply.decisions:
        if outcome is not Outcome.ACCEPTED:
            raise BenchError(f"campaign {campaign_id}: an order was refused that had to be accepted: {outcome.name}")

"""What becomes of an order before Redis is asked. Pure: clocks, counts and the memory of holders are passed in.

The order of the questions is the order of their cost. Whatever is not refused here is decided by `admit_orders.lua`.
"""

from domain.outcomes import Outcome
from gateway.view import CampaignView, LooseGuard, refuse_draw_from_memory, refuse_from_memory


def refusal(view: CampaignView, guard: LooseGuard, sku_id: str, now_s: float) -> Outcome | None:
    """Return the refusal of an order by a buyer who holds nothing, or None: it goes to Redis.

    Args:
        view: the campaign as of one atomic read.
        guard: the worker's loose guard; an order that passes takes a token.
        sku_id: what is wanted.
        now_s: monotonic clock.
    """
    refused = refuse_from_memory(view, sku_id, now_s)
    return Outcome.RATE_LIMITED if refused is None and not guard.admits(now_s) else refused


def draw_refusal(view: CampaignView, guard: LooseGuard, now_s: float) -> Outcome | None:
    """Return the refusal of a draw by a buyer who has drawn nothing yet, or None; as `refusal`."""
    refused = refuse_draw_from_memory(view, now_s)
    return Outcome.RATE_LIMITED if refused is None and not guard.admits(now_s) else refused


def inflight_limit(_tier: str, inflight_max: int) -> int:
    """Return how many orders may wait for a decision before this buyer's is turned away with BUSY.

    Every tier has the whole bound today. A priority lane is a smaller bound for the others, and an adaptive limit is
    another `inflight_max`: both belong here.
    """
    return inflight_max

"""Holds in Redis after the sale, as Python calls: each is one script of `scripts/lua/`, and each may be repeated."""

from adapters.lua import load_script
from adapters.redis import RUN_ID, ScriptChannel
from adapters.stock import refuse_closed
from domain import keys
from domain.outcomes import DuplicateOutcome, MarkOutcome, ReacquireOutcome, ReleaseOutcome


def _names(campaign_id: str, user_id: str) -> list[str]:
    return [keys.campaign(campaign_id), keys.stock(campaign_id), keys.buyer(campaign_id, user_id)]


async def release(channel: ScriptChannel, campaign_id: str, digest: str, user_id: str, hold_no: int) -> ReleaseOutcome:
    """Give one hold's units back, once. The ledger must have its release.

    Raises:
        FencedError: Redis was restarted and recovery is not done; nothing was changed.
        BackendError: nothing was changed.
        OutcomeUnknownError: the reply was lost; ask again.
        OperationRefusedError: there is no such campaign.
    """
    code = await channel.call(
        load_script("release_stock"),
        [*_names(campaign_id, user_id), keys.outbox(campaign_id)],
        [RUN_ID, digest, hold_no, campaign_id, keys.CHANGES],
    )
    refuse_closed(campaign_id, code)
    return ReleaseOutcome(code)


async def reacquire(
    channel: ScriptChannel, campaign_id: str, digest: str, user_id: str, hold_no: int, *, run_id: str = ""
) -> ReacquireOutcome:
    """Take units anew for an order, as its hold number `hold_no`, once. The ledger must have the release before it.

    With `run_id`, recovery's, it is done while the gate is closed.

    Raises:
        FencedError, BackendError, OutcomeUnknownError, OperationRefusedError: as for `release`.
    """
    code = await channel.call(
        load_script("reacquire_stock"),
        [*_names(campaign_id, user_id), keys.outbox(campaign_id)],
        [RUN_ID, digest, hold_no, run_id],
    )
    refuse_closed(campaign_id, code)
    return ReacquireOutcome(code)


async def return_duplicate(
    channel: ScriptChannel,
    campaign_id: str,
    digest: str,
    user_id: str,
    *,
    origin: str,
    sku_id: str,
    quantity: int,
    released_hold_no: int,
) -> DuplicateOutcome:
    """Give back what was deducted a second time for an order, once per origin (`<outbox id>/<place in it>`).

    `released_hold_no` is the last hold of the order whose release the ledger has, 0 for none.

    Raises:
        FencedError, BackendError, OutcomeUnknownError, OperationRefusedError: as for `release`.
    """
    code = await channel.call(
        load_script("return_duplicate"),
        [*_names(campaign_id, user_id), keys.duplicates(campaign_id), keys.outbox(campaign_id)],
        [RUN_ID, digest, origin, sku_id, quantity, released_hold_no, campaign_id, keys.CHANGES],
    )
    refuse_closed(campaign_id, code)
    return DuplicateOutcome(code)


async def mark_paid(channel: ScriptChannel, campaign_id: str, digest: str, user_id: str, hold_no: int) -> MarkOutcome:
    """Have an order no longer count as unpaid.

    Raises:
        FencedError, BackendError, OutcomeUnknownError, OperationRefusedError: as for `release`.
    """
    code = await channel.call(
        load_script("mark_paid"),
        [keys.campaign(campaign_id), keys.buyer(campaign_id, user_id)],
        [RUN_ID, digest, hold_no],
    )
    refuse_closed(campaign_id, code)
    return MarkOutcome(code)

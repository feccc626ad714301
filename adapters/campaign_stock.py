"""A campaign's stock in Redis as operators and the warehouse move it: each call is one script of `scripts/lua/`."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from adapters.lua import load_script
from adapters.redis import RUN_ID, ScriptChannel
from adapters.stock import refuse_closed
from domain import keys
from domain.campaign import LOTTERY, MOVES, STOCK_MAX, Campaign, CampaignState
from domain.errors import FencedError, OperationRefusedError, PoisonRecordError
from domain.outcomes import LoadOutcome, TopUpOutcome, WithdrawOutcome

_pack: Final = msgspec.msgpack.Encoder().encode


class Standing(NamedTuple):
    """What the catalog has of a SKU of a campaign that Redis has lost."""

    allocated: int
    withdrawn: int


class TopUpRefusedError(OperationRefusedError):
    """This top-up can never be made; nothing was changed."""


class NotClosedError(OperationRefusedError):
    """Only a closed campaign gives back what it has not sold; nothing was changed."""


def campaign_fields(campaign: Campaign) -> list[tuple[str, str | int]]:
    """Return the fields of the campaign hash that its file decides."""
    limits = campaign.limits
    return [
        ("kind", campaign.campaign.kind),
        ("opens_ms", str(campaign.opens_ms)),
        ("closes_ms", str(campaign.closes_ms)),
        ("pay_within_s", campaign.campaign.pay_within_s),
        ("admit_per_s", limits.admit_per_s),
        ("admit_burst", limits.admit_burst),
        ("user_per_s", limits.user_per_s),
        ("user_burst", limits.user_burst),
        ("unpaid_per_user", limits.unpaid_per_user),
    ]


async def load_campaign(
    channel: ScriptChannel,
    campaign: Campaign,
    *,
    check_only: bool = False,
    gate_closed: bool = False,
    load_no: int = 0,
    standing: Mapping[str, Standing] | None = None,
    closed: bool = False,
    more_fields: Sequence[tuple[str, str | int]] = (),
) -> str:
    """Create a campaign, or bring it to its file; returns `created`, `updated`, `unchanged` or `stale`.

    Args:
        channel: to Redis.
        campaign: the file.
        check_only: say what would come of it, and change nothing.
        gate_closed: a campaign that is created here admits nothing until recovery has looked what Kafka and MySQL
            know of it.
        load_no: of this load; an earlier one than Redis has seen is `stale`, and changes nothing. 0: not numbered.
        standing: SKU id → what is allocated to a campaign that is created here; default: what the file says.
        closed: a campaign that is created here is closed. A lottery is paused: nothing can be drawn of it, and it is
            closed by a line of its log, which whoever withdraws what is left writes if recovery has not put it back.
        more_fields: those of the campaign's kind, see `adapters.lotteries.fields_of_kind`.

    Raises:
        OperationRefusedError: stock below what is sold, a SKU gone from the file, another kind, or an opened lottery
            would draw from something else; nothing was changed. A numbered load is refused for good.
        PoisonRecordError: a SKU's numbers cannot be read; nothing was changed, and a person has to look.
        FencedError: stock cannot be lowered before recovery is done; nothing was changed.
        BackendError: nothing was changed.
        OutcomeUnknownError: the reply was lost; ask again with the same number.
    """
    fields = [*campaign_fields(campaign), *more_fields]
    state_if_closed = CampaignState.PAUSED if campaign.campaign.kind == LOTTERY else CampaignState.CLOSED
    skus = [
        (sku.id, sku.stock, sku.per_user, campaign.price_of(sku), *(standing or {}).get(sku.id, Standing(sku.stock, 0)))
        for sku in campaign.sku
    ]
    code, sku_id, sold = await channel.call(
        load_script("load_campaign"),
        [
            keys.campaign(campaign.id),
            keys.stock(campaign.id),
            keys.CAMPAIGNS,
            keys.loaded(campaign.id),
            keys.withdrawn(campaign.id),
        ],
        [
            RUN_ID,
            campaign.id,
            _pack(fields),
            _pack(skus),
            keys.CHANGES,
            "1" if check_only else "0",
            load_no,
            state_if_closed if closed else CampaignState.LOADED,
            "1" if gate_closed else "0",
        ],
    )
    return _load_result(campaign.id, LoadOutcome(code), sku_id.decode(), sold)


def _load_result(campaign_id: str, outcome: LoadOutcome, name: str, sold: int) -> str:
    match outcome:
        case LoadOutcome.UNCHANGED | LoadOutcome.CREATED | LoadOutcome.UPDATED | LoadOutcome.STALE:
            return outcome.name.lower()
        case LoadOutcome.STOCK_BELOW_SOLD:
            raise OperationRefusedError(
                f"SKU {name!r}: stock cannot be lowered below the {sold} units that are sold; nothing was changed"
            )
        case LoadOutcome.SKU_MISSING:
            raise OperationRefusedError(
                f"SKU {name!r} is loaded and not in the file: keep it there, with a stock of {sold} (what is sold) "
                f"to sell no more of it; nothing was changed"
            )
        case LoadOutcome.REFUSED_BEFORE:
            raise OperationRefusedError("this load was refused before, for stock below what was sold then")
        case LoadOutcome.OTHER_KIND:
            raise OperationRefusedError(
                f"campaign {campaign_id!r} is loaded as a {name} and stays one; give the other an id of its own; "
                f"nothing was changed"
            )
        case LoadOutcome.FROZEN:
            raise OperationRefusedError(
                f"lottery {campaign_id!r} has been opened, and its log says what is drawn from: {name} cannot be "
                f"changed any more (`stock topup` adds prizes); nothing was changed"
            )
        case LoadOutcome.FENCED:
            raise FencedError(
                f"SKU {name!r}: stock cannot be lowered before recovery has compared Redis with Kafka and MySQL"
            )
        case LoadOutcome.CORRUPT_STOCK:
            raise PoisonRecordError(f"SKU {name!r}: its stock in Redis cannot be read")


async def move_campaign(channel: ScriptChannel, campaign_id: str, verb: str) -> tuple[str, bool]:
    """Open, pause, resume or close a campaign; returns the new state and whether it was another one before.

    Raises:
        OperationRefusedError: not possible from its present state, or closed before; nothing was changed.
    """
    target, sources = MOVES[verb]
    code, before = await channel.call(
        load_script("set_campaign_state"),
        [keys.campaign(campaign_id)],
        [campaign_id, target, keys.CHANGES, *sources],
    )
    refuse_closed(campaign_id, code)
    if code < 0:
        raise OperationRefusedError(
            f"campaign {campaign_id!r} is {before.decode()}: {verb} is possible only from "
            f"{' or '.join(sources)}; nothing was changed"
        )
    if code == 0 and target is CampaignState.CLOSED:
        raise OperationRefusedError(f"campaign {campaign_id!r} is closed already; nothing was changed")
    return target, code == 1


async def top_up(
    channel: ScriptChannel, campaign_id: str, sku_id: str, units: int, key: str, *, recovery_run_id: str = ""
) -> tuple[int, bool]:
    """Add units to a SKU, once per key; returns units allocated afterwards and whether this call added them.

    Recovery, which makes lost ones again before it opens the gate, passes the server on which it compares.

    Raises:
        TopUpRefusedError: closed, or the key was used for another one: for good; nothing was changed.
        OperationRefusedError: not possible now; nothing was changed.
        FencedError: Redis was restarted and recovery is not done; nothing was changed.
        BackendError: nothing was changed.
        OutcomeUnknownError: the reply was lost; ask again with the same key.
    """
    code, allocated = await channel.call(
        load_script("topup_stock"),
        [keys.campaign(campaign_id), keys.stock(campaign_id), keys.topups(campaign_id), keys.outbox(campaign_id)],
        [RUN_ID, campaign_id, sku_id, units, key, keys.CHANGES, STOCK_MAX, recovery_run_id],
    )
    refuse_closed(campaign_id, code)
    match TopUpOutcome(code):
        case TopUpOutcome.CLOSED:
            raise TopUpRefusedError(f"campaign {campaign_id!r} is closed; nothing was changed")
        case TopUpOutcome.KEY_REUSED:
            raise TopUpRefusedError(f"the key {key!r} was used for another top-up; nothing was changed")
        case TopUpOutcome.TOO_MANY:
            raise OperationRefusedError(f"SKU {sku_id!r} would have more than {STOCK_MAX} units; nothing was changed")
        case TopUpOutcome.UNKNOWN_SKU:
            raise OperationRefusedError(f"there is no SKU {sku_id!r} in campaign {campaign_id!r}; nothing was changed")
        case TopUpOutcome.INVALID_QUANTITY:
            raise OperationRefusedError(
                f"{units} is not a number of units: give a whole number of at least 1; nothing was changed"
            )
        case TopUpOutcome.ADDED | TopUpOutcome.ALREADY_ADDED as outcome:
            return int(allocated), outcome is TopUpOutcome.ADDED


async def withdraw(channel: ScriptChannel, campaign_id: str) -> dict[str, int]:
    """Take what a closed campaign has not sold out of its stock.

    Returns:
        SKU id → units withdrawn since it was closed, all in all. SKUs of which nothing ever was are absent.

    Raises:
        NotClosedError: it is not closed.
        PoisonRecordError: a SKU's numbers cannot be read; nothing was changed, and a person has to look.
        OperationRefusedError: there is no such campaign.
        FencedError: Redis was restarted and recovery is not done; nothing was changed.
        BackendError: nothing was changed.
        OutcomeUnknownError: the reply was lost; ask again.
    """
    names = [
        keys.campaign(campaign_id),
        keys.stock(campaign_id),
        keys.withdrawn(campaign_id),
        keys.outbox(campaign_id),
    ]
    code, sku_id, told = await channel.call(load_script("withdraw_stock"), names, [RUN_ID, campaign_id, keys.CHANGES])
    refuse_closed(campaign_id, code)
    match WithdrawOutcome(code):
        case WithdrawOutcome.NOT_CLOSED:
            raise NotClosedError(f"campaign {campaign_id!r} is not closed; nothing was changed")
        case WithdrawOutcome.CORRUPT_STOCK:
            raise PoisonRecordError(f"SKU {sku_id.decode()!r}: its stock in Redis cannot be read")
        case WithdrawOutcome.WITHDRAWN | WithdrawOutcome.NOTHING_LEFT:
            return {told[i].decode(): int(told[i + 1]) for i in range(0, len(told), 2)}

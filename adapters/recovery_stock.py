"""A campaign's stock in Redis as recovery reads it and brings it to the catalog, while the gate is closed."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import msgspec
import redis.asyncio as redis

from adapters.lua import load_script
from adapters.redis import ANSWERS_LOST, RUN_ID, ScriptChannel
from adapters.stock import StockLine, parse_stock_line, refuse_closed
from domain import keys
from domain.errors import BackendError, OperationRefusedError
from domain.outcomes import AdjustOutcome

_pack: Final = msgspec.msgpack.Encoder().encode
_NO_SKU: Final = -1


class CampaignStock(NamedTuple):
    """What Redis has of a campaign, as one atomic read saw it."""

    fields: Mapping[str, str]
    lines: Mapping[str, StockLine]
    in_file: Mapping[str, int]
    """SKU id → stock as the file had it when it was last loaded."""
    withdrawn: Mapping[str, int]
    """SKU id → units given back to the warehouse since the close, all in all."""
    top_ups: frozenset[str]
    """Keys of the top-ups already made."""

    @property
    def load_no(self) -> int:
        """Number of the last load that was taken; 0: none that was numbered."""
        return int(self.fields.get("load_no", 0))


class Adjustment(NamedTuple):
    """What a SKU is brought to."""

    sku_id: str
    before: StockLine | None
    """As it was seen; None: Redis does not have it."""
    allocated: int
    """At least what is sold."""
    in_file: int
    withdrawn: int
    per_user: int
    price_cents: int


class Changes(NamedTuple):
    """What a campaign is brought to."""

    load_no: int
    """Number of the last load, as it was seen."""
    skus: Sequence[Adjustment] = ()
    fields: Mapping[str, str] = {}
    """Of the campaign hash."""
    top_ups: Mapping[str, str] = {}
    """Key of a top-up → SKU and units, with a blank between them."""


async def read_campaign_stock(client: "redis.Redis", campaign_id: str) -> CampaignStock | None:
    """Read a campaign's stock and all that goes with it atomically; None if there is no such campaign.

    Raises:
        BackendError: Redis is not there.
        PoisonRecordError: a SKU's numbers cannot be read.
    """
    try:
        async with client.pipeline(transaction=True) as pipe:
            for name in (keys.campaign, keys.stock, keys.loaded, keys.withdrawn, keys.topups):
                pipe.hgetall(name(campaign_id))
            fields, lines, in_file, withdrawn, top_ups = await pipe.execute()
    except ANSWERS_LOST as error:
        raise BackendError(f"Redis: {error}") from error
    if not fields:
        return None
    return CampaignStock(
        fields={name.decode(): value.decode() for name, value in fields.items()},
        lines={sku_id.decode(): parse_stock_line(line) for sku_id, line in lines.items()},
        in_file={sku_id.decode(): int(units) for sku_id, units in in_file.items()},
        withdrawn={sku_id.decode(): int(units) for sku_id, units in withdrawn.items()},
        top_ups=frozenset(key.decode() for key in top_ups),
    )


async def adjust(channel: ScriptChannel, campaign_id: str, changes: Changes, *, run_id: str) -> None:
    """Bring a campaign to the catalog while its gate is closed. `run_id` is the server on which recovery compares.

    Raises:
        FencedError: this is another server; nothing was changed.
        BackendError: somebody has moved what was seen, or opened the gate; nothing was changed, recovery has to look
            again.
        OutcomeUnknownError: the reply was lost; recovery has to look again.
        OperationRefusedError: a SKU's numbers cannot be read; nothing was changed, and a person has to look.
    """
    if not (changes.skus or changes.fields or changes.top_ups):
        return
    names = [name(campaign_id) for name in (keys.campaign, keys.stock, keys.loaded, keys.withdrawn, keys.topups)]
    packed = [_pack(part) for part in (_rows(changes.skus), *map(_pairs, (changes.fields, changes.top_ups)))]
    code, sku_id = await channel.call(
        load_script("adjust_stock"), names, [RUN_ID, run_id, campaign_id, keys.CHANGES, changes.load_no, *packed]
    )
    refuse_closed(campaign_id, code)
    match AdjustOutcome(code):
        case AdjustOutcome.ALREADY_OPEN:
            raise BackendError(f"campaign {campaign_id!r}: another recovery has opened its gate")
        case AdjustOutcome.MOVED:
            raise BackendError(f"campaign {campaign_id!r}: it was loaded while recovery looked")
        case AdjustOutcome.CORRUPT_STOCK:
            raise OperationRefusedError(f"SKU {sku_id.decode()!r}: its stock in Redis cannot be read")
        case AdjustOutcome.ADJUSTED:
            return


def _rows(skus: Sequence[Adjustment]) -> list[tuple[str | int, ...]]:
    rows: list[tuple[str | int, ...]] = []
    for one in skus:
        seen = one.before
        before = (_NO_SKU, _NO_SKU) if seen is None else (seen.allocated, seen.taken - seen.returned)
        rows.append((one.sku_id, *before, *one[2:]))
    return rows


def _pairs(values: Mapping[str, str]) -> list[tuple[str, str]]:
    return sorted(values.items())

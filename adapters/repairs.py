"""What the reconciler's repairs read and write in Redis and MySQL, beside the calls that others make, too."""

from collections.abc import Collection
from typing import Final, NamedTuple

import msgspec
import redis.asyncio as redis

from adapters.buyer_records import scan_records
from adapters.lua import load_script
from adapters.mysql import Pool, query, transaction
from adapters.redis import RUN_ID, ScriptChannel
from adapters.stock import Attempt, read_attempts, refuse_closed
from domain import keys
from domain.errors import OperationRefusedError, PoisonRecordError
from domain.order import user_hash
from domain.outcomes import RestoreOutcome

_pack: Final = msgspec.msgpack.Encoder().encode

_ORDERS: Final = (
    "SELECT order_id, user_id, sku_id, quantity, fingerprint, status, hold_no FROM orders WHERE order_id IN %s"
)
_LEDGER: Final = "SELECT order_id, sku_id, hold_no, kind FROM stock_ledger WHERE order_id IN %s"
_PENDING: Final = "SELECT DISTINCT order_id FROM stock_return WHERE order_id IN %s AND done_at_ms IS NULL"
_LOCK: Final = "SELECT sold FROM campaign_sku WHERE campaign_id = %s AND sku_id = %s FOR UPDATE"
_COUNTED: Final = (
    "SELECT COALESCE(CAST(SUM(IF(kind = 'take', quantity, -quantity)) AS SIGNED), 0) FROM stock_ledger "
    "WHERE campaign_id = %s AND sku_id = %s"
)
_SET_SOLD: Final = "UPDATE campaign_sku SET sold = %s, version = version + 1 WHERE campaign_id = %s AND sku_id = %s"


class OrderRow(NamedTuple):
    """An order's row, and what the ledger and the returns say of it."""

    order_id: str
    user_id: str
    sku_id: str
    quantity: int
    fingerprint: str
    status: str
    hold_no: int
    taken: frozenset[tuple[str, int]]
    """(SKU, hold number) of the takings in the ledger."""
    released: frozenset[tuple[str, int]]
    """(SKU, hold number) of the releases in the ledger."""
    return_pending: bool
    """Something is owed to Redis for it."""


async def read_orders(pool: Pool, order_ids: Collection[str]) -> dict[str, OrderRow]:
    """Return the rows of these orders, by id; those without a row are absent.

    Raises:
        BackendError: MySQL is not there.
    """
    wanted = sorted(order_ids)
    if not wanted:
        return {}
    rows = await query(pool, _ORDERS, (wanted,))
    ledger = await query(pool, _LEDGER, (wanted,))
    pending = {order_id for (order_id,) in await query(pool, _PENDING, (wanted,))}
    taken: dict[str, set[tuple[str, int]]] = {}
    released: dict[str, set[tuple[str, int]]] = {}
    for order_id, sku_id, hold_no, kind in ledger:
        of_kind = taken if kind == "take" else released
        of_kind.setdefault(order_id, set()).add((sku_id, hold_no))
    return {
        row[0]: OrderRow._make(
            [*row, frozenset(taken.get(row[0], ())), frozenset(released.get(row[0], ())), row[0] in pending]
        )
        for row in rows
    }


async def recount_sold(pool: Pool, campaign_id: str, sku_id: str) -> tuple[int, int]:
    """Set a counter to what the ledger holds, in one transaction with the counter locked; returns before and after.

    Everyone who writes the ledger locks the counter first, so nothing is written meanwhile.

    Raises:
        BackendError: it may or may not have happened; asking again is harmless.
        OperationRefusedError: there is no such counter.
    """
    async with transaction(pool) as cursor:
        await cursor.execute(_LOCK, (campaign_id, sku_id))
        row = await cursor.fetchone()
        if row is None:
            raise OperationRefusedError(f"campaign {campaign_id!r} has no SKU {sku_id!r} in MySQL")
        await cursor.execute(_COUNTED, (campaign_id, sku_id))
        (counted,) = await cursor.fetchone()
        await cursor.execute(_SET_SOLD, (counted, campaign_id, sku_id))
    return int(row[0]), int(counted)


async def find_attempts(
    client: "redis.Redis", campaign_id: str, digests: Collection[str]
) -> dict[str, tuple[str, Attempt]]:
    """Return 32 hex of an order → its buyer, and the attempt in his record; reads all records of the campaign.

    Raises:
        BackendError: Redis is not there.
    """
    prefix = keys.buyer(campaign_id, "")
    found: dict[str, tuple[str, Attempt]] = {}
    async for page in scan_records(client, campaign_id):
        for name, packed in page:
            try:
                attempts = read_attempts(packed)
            except PoisonRecordError:
                continue  # the look has told of it
            for one in attempts:
                if one.digest in digests:
                    found[one.digest] = (name.decode().removeprefix(prefix), one)
    return found


async def restore_record(
    channel: ScriptChannel,
    campaign_id: str,
    user_id: str,
    attempt: Attempt,
    *,
    held: int,
    take: bool,
    taken: int,
    returned: int,
) -> RestoreOutcome:
    """Put an order back into its buyer's record, once.

    Args:
        channel: to Redis.
        campaign_id: the campaign.
        user_id: the buyer.
        attempt: what is put back.
        held: 1, or 2 once it is paid.
        take: take its units from stock, too.
        taken: units taken of the SKU, as the decision stands on them; nothing is done if they have moved.
        returned: likewise.

    Raises:
        FencedError: Redis was restarted and recovery is not done; nothing was changed.
        BackendError: nothing was changed.
        OutcomeUnknownError: the reply was lost; ask again.
        OperationRefusedError: there is no such campaign.
    """
    code = await channel.call(
        load_script("restore_record"),
        [
            keys.campaign(campaign_id),
            keys.stock(campaign_id),
            keys.holders(campaign_id),
            keys.buyer(campaign_id, user_id),
            keys.outbox(campaign_id),
        ],
        [
            RUN_ID,
            _pack([attempt.digest, attempt.fingerprint, attempt.sku_id, attempt.quantity, attempt.hold_no, held]),
            "1" if take else "0",
            taken,
            returned,
            user_hash(user_id),
        ],
    )
    refuse_closed(campaign_id, code)
    return RestoreOutcome(code)

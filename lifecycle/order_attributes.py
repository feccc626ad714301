"""Attributes of orders: name and value, in a big table without a unique index; each is inserted once, under its guard.

Who writes one takes `insert_once` of its `fact` first, see adapters/insert_once.py.
"""

from collections.abc import Sequence
from typing import Any, Final

from adapters.mysql import insert_many

PAYMENT_ID: Final = "payment_id"
"""Name of the attribute that says which payment a paid order was paid by."""

_FIND: Final = "SELECT order_id, name FROM order_attribute WHERE order_id IN %s AND name IN %s"
_INSERT: Final = "INSERT INTO order_attribute (order_id, name, value, created_at_ms) VALUES (%s, %s, %s, %s)"


def fact(order_id: str, name: str) -> str:
    """Return what is to be guarded: that an order has an attribute of this name, whatever its value.

    The parts have their lengths before them, so that no other order and name give the same text.
    """
    return f"order_attribute {len(order_id)}:{order_id} {len(name)}:{name}"


async def add_missing(cursor: Any, attributes: Sequence[tuple[str, str, str]], now_ms: int) -> int:  # noqa: ANN401
    """Insert those of some attributes (order id, name, value) that are not there; returns how many that were.

    To be called in a transaction of READ COMMITTED that was begun under the guards of all of their facts. One that is
    there is left as it is, with whatever value.

    Raises:
        BackendError, DataRefusedError: as for any statement.
    """
    if not attributes:
        return 0
    order_ids = sorted({order_id for order_id, _, _ in attributes})
    names = sorted({name for _, name, _ in attributes})
    await cursor.execute(_FIND, (order_ids, names))
    known = set(await cursor.fetchall())
    missing = {(order_id, name): value for order_id, name, value in attributes if (order_id, name) not in known}
    await insert_many(cursor, _INSERT, [(*key, value, now_ms) for key, value in sorted(missing.items())])
    return len(missing)

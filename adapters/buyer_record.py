"""A buyer's packed record, as the scripts write it; see scripts/lua/include/buyer_record.lua."""

from typing import Any

import msgspec


class Record(msgspec.Struct, array_like=True):
    """One record. In a lottery it has a further part (scripts/lua/include/draw_record.lua), which is not looked at."""

    tokens_u: Any
    refilled_us: Any
    attempts: list[tuple[str, str, str, int, int, int]]
    """Order, fingerprint, SKU, quantity, hold number, held."""

"""An outbox entry: what `admit_orders.lua` wrote for one batch, or lines of a lottery's log, and what it stands for.

Each entry names the one before it, so that a reader notices when entries are gone that it has not read. Where recovery
has moved the outbox's ids on, `restore_orders.lua` leaves an entry without orders, so that this chain is not broken.
"""

import re
from typing import Final

import msgspec

from domain.draw_events import DrawLog, decode_log_entry
from domain.errors import PoisonRecordError
from domain.events import OrderAccepted

OutboxPosition = tuple[int, int]

START: Final = "0-0"
TIME_MAX_MS: Final = 1 << 48

_OUTBOX_ID: Final = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
_decode_orders: Final = msgspec.msgpack.Decoder(list[tuple[str, str, str, int, str, int, int]]).decode


def parse_outbox_id(outbox_id: str) -> OutboxPosition:
    """Return an outbox id `<ms>-<seq>` as numbers that sort.

    Raises:
        ValueError: not an outbox id.
    """
    ms, _, seq = outbox_id.partition("-")
    return int(ms), int(seq or 0)


def next_outbox_id(outbox_id: str) -> str:
    """Return the smallest id after this one."""
    ms, seq = parse_outbox_id(outbox_id)
    return f"{ms}-{seq + 1}"


def previous_id(fields: dict[bytes, bytes]) -> str | None:
    """Return the id of the entry before this one, `0-0` for the first; None if the entry does not say it."""
    found = fields.get(b"p", b"")
    return found.decode() if _OUTBOX_ID.fullmatch(found) else None


def is_gap(previous: str, position: str) -> bool:
    """Tell whether entries are gone that nobody has read.

    An entry that was put in by hand lies beyond the one that its successor names; that is no gap.

    Args:
        previous: the entry that should come before the next one.
        position: the last entry read.
    """
    return parse_outbox_id(previous) > parse_outbox_id(position)


def decode_entry(campaign_id: str, outbox_id: str, fields: dict[bytes, bytes]) -> list[OrderAccepted]:
    """Return the orders of one entry, in its order; of a lottery's those that deliver what was won.

    Raises:
        PoisonRecordError: the entry was not written by one of our scripts.
    """
    log = decode_log(campaign_id, outbox_id, fields)
    if log is not None:
        return [won.order() for won in log.won()]
    try:
        orders = _decode_orders(fields[b"orders"])
        accepted_at_ms = _time_of(fields)
    except (KeyError, ValueError, msgspec.MsgspecError) as error:
        raise PoisonRecordError(f"outbox entry {outbox_id} of campaign {campaign_id}: {error!r}") from None
    return [
        OrderAccepted(
            order_id=f"{campaign_id}~{digest}",
            campaign_id=campaign_id,
            sku_id=sku_id,
            user_id=user_id,
            quantity=quantity,
            unit_price_cents=price_cents,
            fingerprint=fingerprint,
            hold_no=hold_no,
            accepted_at_ms=accepted_at_ms,
            outbox_id=outbox_id,
            outbox_index=index,
        )
        for index, (digest, fingerprint, sku_id, quantity, user_id, price_cents, hold_no) in enumerate(orders)
    ]


def decode_log(campaign_id: str, outbox_id: str, fields: dict[bytes, bytes]) -> DrawLog | None:
    """Return the lines of a lottery's log in an entry; None if it is an entry of orders.

    Raises:
        PoisonRecordError: the entry was not written by one of our scripts.
    """
    if b"log" not in fields:
        return None
    try:
        return decode_log_entry(campaign_id, outbox_id, fields, _time_of(fields))
    except (KeyError, ValueError, msgspec.MsgspecError, PoisonRecordError) as error:
        raise PoisonRecordError(f"outbox entry {outbox_id} of campaign {campaign_id}: {error!r}") from None


def _time_of(fields: dict[bytes, bytes]) -> int:
    at_ms = int(fields[b"t"])
    if not 0 <= at_ms <= TIME_MAX_MS:
        raise ValueError(at_ms)
    return at_ms

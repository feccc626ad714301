"""Identity of an order: what makes a retry the same order, and another payload a conflict."""

import hashlib
import re
import struct
from typing import Final

from domain.errors import BackendError

IDEMPOTENCY_KEY_MAX_BYTES: Final = 255
USER_ID_MAX_BYTES: Final = 128
QUANTITY_MAX: Final = 1_000

ORDER_ID_HASH_BYTES: Final = 16
FINGERPRINT_BYTES: Final = 8

_ORDER_ID: Final = re.compile(r"([a-z0-9-]{1,40})~([0-9a-f]{32})")


_length: Final = struct.Struct(">I").pack


def _prefixed(raw: bytes) -> bytes:
    """Put its length before a part, so that ("ab", "c") and ("a", "bc") differ."""
    return _length(len(raw)) + raw


def order_id(campaign_id: str, user_id: str, idempotency_key: str) -> str:
    """Return `<campaign_id>~<32 hex>`: the same buyer with the same key is the same order."""
    campaign, user, key = campaign_id.encode(), user_id.encode(), idempotency_key.encode()
    # Length-prefixed like `_prefixed`, in one go: this is done for every order.
    parts = b"".join((_length(len(campaign)), campaign, _length(len(user)), user, _length(len(key)), key))
    return f"{campaign_id}~{hashlib.blake2b(parts, digest_size=ORDER_ID_HASH_BYTES).hexdigest()}"


def fingerprint(sku_id: str, quantity: int) -> str:
    """Return 16 hex digits of the payload, by which a key that is used for another payload is told."""
    parts = _prefixed(sku_id.encode()) + _prefixed(str(quantity).encode())
    return hashlib.blake2b(parts, digest_size=FINGERPRINT_BYTES).hexdigest()


def user_hash(user_id: str) -> bytes:
    """Return 8 bytes that stand for a buyer in the log of those who hold something."""
    return hashlib.blake2b(user_id.encode(), digest_size=8).digest()


def is_user_id(text: str) -> bool:
    """Tell whether a text can be a user: the gateway believes no token of any other (`gateway.identity`).

    Blanks at its ends would make two users of one for us, and one of two for MySQL.
    """
    return text.isprintable() and text.strip() == text and 1 <= len(text.encode()) <= USER_ID_MAX_BYTES


def split_order_id(value: str) -> tuple[str, str] | None:
    """Return (campaign id, 32 hex) of an order id, or None if it is not one."""
    parts = _ORDER_ID.fullmatch(value)
    return (parts[1], parts[2]) if parts else None


def digest_of(order_id: str) -> str:
    """Return the part of an order id by which a buyer's record knows it, 32 hex digits.

    Raises:
        BackendError: it is none; whoever asks has read it from a store.
    """
    parts = split_order_id(order_id)
    if parts is None:
        raise BackendError(f"{order_id!r} is no order id")
    return parts[1]

"""Request bodies, decoded strictly: no unknown or duplicate names, no numbers that are not whole, no surprises."""

from typing import Annotated, Final, TypeVar

import msgspec

from domain.campaign import CampaignId, SkuId
from domain.order import IDEMPOTENCY_KEY_MAX_BYTES, QUANTITY_MAX, fingerprint

T = TypeVar("T", bound=msgspec.Struct)

BODIES_REMEMBERED_MAX: Final = 8_192
BODY_REMEMBERED_BYTES_MAX: Final = 256


class InvalidRequestError(ValueError):
    """The request cannot be taken as it is; the message says what to change."""


class PlaceOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/orders` and `POST /v1/redemptions`."""

    campaign_id: CampaignId
    sku_id: SkuId
    quantity: Annotated[int, msgspec.Meta(ge=1, le=QUANTITY_MAX)]


class DrawPrize(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/draws`."""

    campaign_id: CampaignId


_any_object: Final = msgspec.json.Decoder(dict[str, msgspec.Raw])
_place_order: Final = msgspec.json.Decoder(PlaceOrder)
_PLACE_ORDER_NAMES: Final = len(PlaceOrder.__struct_fields__)
_draw: Final = msgspec.json.Decoder(DrawPrize)


def decode_place_order(body: bytes) -> PlaceOrder:
    """Decode the body of an order.

    Raises:
        InvalidRequestError: not JSON, or a name or value that is not allowed.
    """
    return _decode(_place_order, body, _PLACE_ORDER_NAMES)


def decode_draw(body: bytes) -> DrawPrize:
    """Decode the body of a draw.

    Raises:
        InvalidRequestError: not JSON, or a name or value that is not allowed.
    """
    return _decode(_draw, body, 1)


class DrawBodies:
    """Decodes bodies of draws, and remembers the good ones, as `OrderBodies`."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, str] = {}

    def decode(self, body: bytes) -> str:
        """Return the campaign's id.

        Raises:
            InvalidRequestError: as `decode_draw`.
        """
        known = self._known.get(body)
        if known is None:
            known = decode_draw(body).campaign_id
            if len(body) <= BODY_REMEMBERED_BYTES_MAX:
                if len(self._known) >= BODIES_REMEMBERED_MAX:
                    self._known.clear()
                self._known[body] = known
        return known


class OrderBodies:
    """Decodes bodies of orders, and remembers the good ones: a crowd that wants the same thing sends the same bytes."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[PlaceOrder, str]] = {}

    def __len__(self) -> int:
        return len(self._known)

    def decode(self, body: bytes) -> tuple[PlaceOrder, str]:
        """Return what is wanted, and its fingerprint.

        Raises:
            InvalidRequestError: as `decode_place_order`.
        """
        known = self._known.get(body)
        if known is None:
            wanted = decode_place_order(body)
            known = wanted, fingerprint(wanted.sku_id, wanted.quantity)
            if len(body) <= BODY_REMEMBERED_BYTES_MAX:
                if len(self._known) >= BODIES_REMEMBERED_MAX:
                    self._known.clear()
                self._known[body] = known
        return known


def check_empty_body(body: bytes) -> None:
    """Check the body of a call that needs none: nothing, or a JSON object, which is ignored.

    Raises:
        InvalidRequestError: something else.
    """
    if not body.strip():
        return
    try:
        _any_object.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        raise InvalidRequestError("the body must be empty or a JSON object") from None


def _decode(decoder: "msgspec.json.Decoder[T]", body: bytes, names: int) -> T:
    """Decode, and refuse duplicate names.

    A flat object whose names are all known and whose strings cannot hold a colon (their patterns see to that, and
    every occurrence of a name is checked against them) has one colon a name: more colons are a name given twice.
    """
    try:
        value = decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise InvalidRequestError(_explain(str(error))) from None
    except RecursionError:
        raise InvalidRequestError("the body is nested too deeply") from None
    if body.count(b":") != names:
        raise InvalidRequestError("a name stands twice in the body")
    return value


def _explain(message: str) -> str:
    """Put the field first: "Expected `int` - at `$.quantity`" becomes "quantity: Expected `int`"."""
    what, _, where = message.partition(" - at `$.")
    return f"{where.rstrip('`')}: {what}" if where else what


def read_idempotency_key(raw: bytes) -> str:
    """Return the header's value, of which length and characters are checked.

    Raises:
        InvalidRequestError: longer than 255 bytes, or not visible ASCII.
    """
    if len(raw) > IDEMPOTENCY_KEY_MAX_BYTES:
        raise InvalidRequestError(f"Idempotency-Key: at most {IDEMPOTENCY_KEY_MAX_BYTES} bytes")
    key = raw.decode("ascii", "replace")
    if not raw.isascii() or not key.isprintable():
        raise InvalidRequestError("Idempotency-Key: visible ASCII characters only")
    return key

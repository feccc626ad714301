"""A payment provider's callback: its signature and its body. Pure; the clock is passed in.

The signature is a header `X-Signature: t=<unix seconds>,v1=<hex>`, where hex is the HMAC-SHA256 of `<t>.<body>`. The
time is part of what is signed, so that an old callback cannot be sent again later. While a key is being replaced the
sender may give one `v1=` for each key. Names other than `t` and `v1` are left for later versions and ignored.
"""

import hashlib
import hmac
import re
from typing import Annotated, Final

import msgspec

from domain.errors import FlashgateError, PoisonRecordError
from lifecycle.provider import AmountCents, PaymentId, ProviderState

SIGNATURE_HEADER: Final = "X-Signature"
SIGNATURE_CHARS_MAX: Final = 512
"""Room for a time and seven signatures."""
CALLBACK_BYTES_MAX: Final = 4_096
KEY_BYTES_MIN: Final = 32

_FIELD: Final = re.compile(r"([a-z][a-z0-9]{0,15})=([0-9a-f]{1,64})")
_TIME: Final = re.compile(r"[0-9]{1,12}")
_HEX_CHARS: Final = 64

EventId = Annotated[str, msgspec.Meta(pattern=r"^[\x21-\x7e]{1,64}$(?!\n)")]


class CallbackRefusedError(FlashgateError):
    """A callback that is not believed; the message says why: missing, malformed, stale or wrong."""


class Callback(msgspec.Struct, frozen=True):
    """Body of a callback. Unknown names are allowed, for a provider may say more.

    Attributes:
        event_id: the same whenever the provider says the same thing again.
        payment_id: ours.
        state: `approved`, `declined` or `refunded`.
        amount_cents: of the whole payment.
    """

    event_id: EventId
    payment_id: PaymentId
    state: ProviderState
    amount_cents: AmountCents

    def __post_init__(self) -> None:
        """Refuse what no callback says."""
        if self.state in {ProviderState.ABSENT, ProviderState.PENDING}:
            raise ValueError(f"a callback never says {self.state.value!r}")


_decoder: Final = msgspec.json.Decoder(Callback)


def sign(body: bytes, key: bytes, unix_s: int) -> str:
    """Return the header's value for a body that is sent at `unix_s`."""
    return f"t={unix_s},v1={_digest(body, key, str(unix_s))}"


def verify(header: str | None, body: bytes, key: bytes, *, now_s: float, age_max_s: int) -> None:
    """Check that the body comes from who has the key, and was signed a short while ago.

    Args:
        header: the value of `X-Signature`, None if there is none.
        body: the bytes as they came.
        key: the shared secret.
        now_s: Unix seconds.
        age_max_s: how far the signature's time may lie from `now_s`, before or after it.

    Raises:
        CallbackRefusedError: the signature is missing, malformed, stale or wrong.
    """
    if not header:
        raise CallbackRefusedError(f"the signature is missing: {SIGNATURE_HEADER}")
    told_s, signatures = _parse(header)
    if not _is_fresh(int(told_s), now_s, age_max_s):
        raise CallbackRefusedError(f"the signature is stale: its time is more than {age_max_s} s away")
    if not _is_among(_digest(body, key, told_s), signatures):
        raise CallbackRefusedError("the signature is wrong")


def decode_callback(body: bytes) -> Callback:
    """Decode a callback whose signature has been verified.

    Raises:
        PoisonRecordError: not JSON, a name is missing, or a value is of the wrong kind or size.
    """
    if len(body) > CALLBACK_BYTES_MAX:
        raise PoisonRecordError(f"callback: more than {CALLBACK_BYTES_MAX} bytes")
    try:
        return _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise PoisonRecordError(f"callback: {error}") from None


def _digest(body: bytes, key: bytes, told_s: str) -> str:
    return hmac.new(key, told_s.encode() + b"." + body, hashlib.sha256).hexdigest()


def _is_fresh(told_s: int, now_s: float, age_max_s: int) -> bool:
    return abs(now_s - told_s) <= age_max_s


def _is_among(right: str, signatures: list[str]) -> bool:
    # All are compared, so that the time that it takes tells nothing.
    matches = [hmac.compare_digest(right, signature) for signature in signatures]
    return any(matches)


def _parse(header: str) -> tuple[str, list[str]]:
    """Return the time as it stands there, and all signatures.

    Raises:
        CallbackRefusedError: too long, or not of the form; a time given twice; no time or no signature.
    """
    if len(header) > SIGNATURE_CHARS_MAX:
        raise CallbackRefusedError(f"the signature is malformed: more than {SIGNATURE_CHARS_MAX} characters")
    times: list[str] = []
    signatures: list[str] = []
    for part in header.split(","):
        field = _FIELD.fullmatch(part.strip(" "))
        if field is None:
            raise CallbackRefusedError("the signature is malformed: t=<unix seconds>,v1=<hex> is expected")
        name, value = field.groups()
        if name == "t":
            times.append(value)
        elif name == "v1":
            signatures.append(value)
    if len(times) != 1 or not _TIME.fullmatch(times[0]):
        raise CallbackRefusedError("the signature is malformed: one t=<unix seconds> is expected")
    if not signatures or any(len(signature) != _HEX_CHARS for signature in signatures):
        raise CallbackRefusedError(f"the signature is malformed: v1=<{_HEX_CHARS} hex digits> is expected")
    return times[0], signatures

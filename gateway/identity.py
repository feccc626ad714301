"""Who asks: JWTs with pinned algorithms (RFC 7519, RFC 8725), and a bounded memory of those already verified.

HS256 is verified here, by the standard library's hmac: a crowd at 10:00 is cold, each buyer brings a token that was
never seen before, and PyJWT takes ten times as long. What is believed here PyJWT believes too; a test holds the two
together. Other algorithms are PyJWT's.
"""

import binascii
import hashlib
import hmac
from typing import Annotated, Any, Final

import jwt
import msgspec

from domain.errors import ConfigError
from domain.order import USER_ID_MAX_BYTES, user_hash
from domain.settings import AuthSettings

HS256_SECRET_BYTES_MIN: Final = 32
TOKEN_BYTES_MAX: Final = 4_096
"""With `Bearer ` before it."""
TIER_BYTES_MAX: Final = 32
HEADERS_REMEMBERED_MAX: Final = 64
"""Different first parts of tokens; an issuer has one or two."""
_TO_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")
_FROM_URLSAFE: Final = bytes.maketrans(b"-_+/", b"+/!!")
_MISSING: Final = "send Authorization: Bearer <token>"
_EXPIRED: Final = "the token has expired"


class Identity(msgspec.Struct, frozen=True, gc=False):
    """A verified buyer."""

    user_id: str
    tier: str
    expires_s: float
    """Unix time, leeway included."""
    user_hash: bytes
    """See `domain.order.user_hash`."""


class TokenRefusedError(Exception):
    """The token is missing or not believed; the message says why, without repeating it."""


Number = Annotated[int, msgspec.Meta(ge=0, le=1 << 53)] | Annotated[float, msgspec.Meta(ge=0, le=1 << 53)]


class Claims(msgspec.Struct, frozen=True, gc=False):
    """The claims that matter; others are allowed."""

    sub: str
    exp: Number
    aud: str | list[str]
    tier: str = ""
    nbf: Number = 0
    iat: Number = 0
    jti: str = ""


_decode_claims: Final = msgspec.json.Decoder(Claims).decode


class Verifier:
    """Verifies bearer tokens with one algorithm and one key."""

    def __init__(self, settings: AuthSettings, key: bytes) -> None:
        if settings.algorithm == "HS256" and len(key) < HS256_SECRET_BYTES_MIN:
            raise ConfigError(
                f"auth.key_file: an HS256 secret needs at least {HS256_SECRET_BYTES_MIN} bytes, this one has {len(key)}"
            )
        self._settings = settings
        self._key: str | bytes = key if settings.algorithm == "HS256" else key.decode()
        self.mac = hmac.new(key, digestmod=hashlib.sha256)
        self._claims = self._hs256_claims if settings.algorithm == "HS256" else self._pyjwt_claims
        self._good_headers: set[bytes] = set()
        self._seen: set[int] = set()
        """Hashes of tokens that came once: most never come again, and one is remembered from the second time on."""
        self._verified: dict[bytes, Identity] = {}
        """By the header's whole value, as it came."""
        self._verified_before: dict[bytes, Identity] = {}

    @property
    def remembered(self) -> int:
        """How many tokens are remembered."""
        return len(self._verified) + len(self._verified_before)

    def identify(self, authorization: bytes | None, now_s: float) -> Identity:
        """Return who sent an `Authorization` header.

        Args:
            authorization: the header's value as it came, or None.
            now_s: Unix time.

        Raises:
            TokenRefusedError: missing, malformed, forged, expired, or not meant for flashgate.
        """
        if authorization is None:
            raise TokenRefusedError(_MISSING)
        known = self._verified.get(authorization) or self._verified_before.get(authorization)
        if known is not None:
            if now_s < known.expires_s:
                return known
            raise TokenRefusedError(_EXPIRED)
        identity = self.verify(authorization, now_s)
        seen, mark = self._seen, hash(authorization)
        if mark not in seen:
            if len(seen) >= self._settings.cache_max:
                seen.clear()
            seen.add(mark)
            return identity
        if len(self._verified) * 2 >= self._settings.cache_max:
            # Two generations, each half of the bound: the older one goes as a whole, which costs nothing a token.
            self._verified_before, self._verified = self._verified, {}
        self._verified[authorization] = identity
        return identity

    def verify(self, authorization: bytes, now_s: float) -> Identity:
        """Verify a token anew; arguments and errors as of `identify`."""
        if authorization[:7].lower() != b"bearer ":
            raise TokenRefusedError(_MISSING)
        if len(authorization) > TOKEN_BYTES_MAX:
            raise TokenRefusedError("the token is too long")
        claims = self._claims(authorization[7:].strip(), now_s)
        user_id = claims.sub
        # Of all white space the blank alone is printable.
        if not user_id.isprintable() or user_id[:1] == " " or user_id[-1:] == " ":
            raise TokenRefusedError("the token's sub must be printable, without blanks at its ends")
        raw = user_id.encode()
        if not 1 <= len(raw) <= USER_ID_MAX_BYTES:
            raise TokenRefusedError(f"the token's sub must be a string of 1 to {USER_ID_MAX_BYTES} bytes")
        if len(claims.tier) > TIER_BYTES_MAX:
            raise TokenRefusedError(f"the token's tier must be a string of at most {TIER_BYTES_MAX} characters")
        expires_s = claims.exp + self._settings.leeway_s
        if now_s >= expires_s:
            raise TokenRefusedError(_EXPIRED)
        return Identity(user_id, claims.tier, expires_s, user_hash(user_id))

    # -- HS256 ---------------------------------------------------------------------------------------------------

    def _hs256_claims(self, token: bytes, now_s: float) -> Claims:
        signed, _, signature = token.rpartition(b".")
        header, _, payload = signed.partition(b".")
        if not is_signed(self.mac, signed, signature):
            raise TokenRefusedError("the token is not accepted: Signature verification failed")
        if header not in self._good_headers:
            self._check_header(header)
        try:
            claims = _decode_claims(from_base64url(payload))
        except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, RecursionError):
            raise TokenRefusedError("the token's claims cannot be read: sub, aud and exp are needed") from None
        audience, leeway_s = self._settings.audience, self._settings.leeway_s
        if claims.aud != audience and (isinstance(claims.aud, str) or audience not in claims.aud):
            raise TokenRefusedError("the token is not accepted: Audience doesn't match")
        if claims.nbf > now_s + leeway_s or claims.iat > now_s + leeway_s:
            raise TokenRefusedError("the token is not accepted: it is not yet valid")
        return claims

    def _check_header(self, header: bytes) -> None:
        """Check a first part that was not seen before; only headers of signed tokens are remembered."""
        try:
            fields: Any = msgspec.json.decode(from_base64url(header))
        except (msgspec.MsgspecError, UnicodeDecodeError, binascii.Error, RecursionError):
            fields = None
        if not isinstance(fields, dict) or fields.get("alg") != "HS256":
            raise TokenRefusedError("the token is not accepted: The specified alg value is not allowed")
        if "crit" in fields or "b64" in fields or not isinstance(fields.get("kid", ""), str):
            raise TokenRefusedError("the token is not accepted: its header asks for what is not known here")
        if len(self._good_headers) >= HEADERS_REMEMBERED_MAX:
            self._good_headers.clear()
        self._good_headers.add(header)

    # -- other algorithms ----------------------------------------------------------------------------------------

    def _pyjwt_claims(self, token: bytes, _now_s: float) -> Claims:
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[self._settings.algorithm],
                audience=self._settings.audience,
                leeway=self._settings.leeway_s,
                options={"require": ["exp", "aud", "sub"]},
            )
            return msgspec.convert(claims, Claims)
        except jwt.PyJWTError as error:
            raise TokenRefusedError(f"the token is not accepted: {error}") from None
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise TokenRefusedError("the token cannot be read") from None


def is_signed(mac: "hmac.HMAC", signed: bytes, signature: bytes) -> bool:
    """Tell whether a base64url signature is the MAC of what is signed; in constant time (RFC 7515, section 5.2).

    The MAC is encoded and compared as text, so that a signature has one spelling alone.
    """
    own = mac.copy()
    own.update(signed)
    expected = binascii.b2a_base64(own.digest(), newline=False).translate(_TO_URLSAFE)
    return hmac.compare_digest(expected[:-1], signature)


def from_base64url(text: bytes) -> bytes:
    """Decode base64url without padding (RFC 7515, section 2).

    Raises:
        binascii.Error: it is none.
    """
    return binascii.a2b_base64(text.translate(_FROM_URLSAFE) + b"=="[: -len(text) % 4], strict_mode=True)

"""Who asks: JWTs with pinned algorithms (RFC 7519, RFC 8725), and a bounded memory of those already verified."""

from typing import Final, NamedTuple

import jwt

from domain.errors import ConfigError
from domain.order import USER_ID_MAX_BYTES
from domain.settings import AuthSettings

HS256_SECRET_BYTES_MIN: Final = 32
TOKEN_BYTES_MAX: Final = 4_096
TIER_BYTES_MAX: Final = 32


class Identity(NamedTuple):
    """A verified buyer."""

    user_id: str
    tier: str
    expires_s: float
    """Unix time, leeway included."""


class TokenRefusedError(Exception):
    """The token is missing or not believed; the message says why, without repeating it."""


class Verifier:
    """Verifies bearer tokens with one algorithm and one key."""

    def __init__(self, settings: AuthSettings, key: bytes) -> None:
        if settings.algorithm == "HS256" and len(key) < HS256_SECRET_BYTES_MIN:
            raise ConfigError(
                f"auth.key_file: an HS256 secret needs at least {HS256_SECRET_BYTES_MIN} bytes, this one has {len(key)}"
            )
        self._settings = settings
        self._key: str | bytes = key if settings.algorithm == "HS256" else key.decode()
        self._verified: dict[str, Identity] = {}

    def identify(self, authorization: str | None, now_s: float) -> Identity:
        """Return who sent an `Authorization` header.

        Args:
            authorization: the header's value, or None.
            now_s: Unix time.

        Raises:
            TokenRefusedError: missing, malformed, forged, expired, or not meant for flashgate.
        """
        if not authorization or authorization[:7].lower() != "bearer ":
            raise TokenRefusedError("send Authorization: Bearer <token>")
        token = authorization[7:].strip()
        known = self._verified.get(token)
        if known is not None:
            if now_s < known.expires_s:
                return known
            del self._verified[token]
            raise TokenRefusedError("the token has expired")
        identity = self._verify(token, now_s)
        if len(self._verified) >= self._settings.cache_max:
            self._verified.pop(next(iter(self._verified)))
        self._verified[token] = identity
        return identity

    def _verify(self, token: str, now_s: float) -> Identity:
        if len(token) > TOKEN_BYTES_MAX:
            raise TokenRefusedError("the token is too long")
        try:
            claims = jwt.decode(
                token,
                self._key,
                algorithms=[self._settings.algorithm],
                audience=self._settings.audience,
                leeway=self._settings.leeway_s,
                options={"require": ["exp", "aud", "sub"]},
            )
            expires_s = float(claims["exp"]) + self._settings.leeway_s
        except jwt.PyJWTError as error:
            raise TokenRefusedError(f"the token is not accepted: {error}") from None
        except (ValueError, TypeError, OverflowError, RecursionError):
            raise TokenRefusedError("the token cannot be read") from None
        user_id, tier = claims["sub"], claims.get("tier", "")
        if not isinstance(user_id, str) or not 1 <= len(user_id.encode("utf-8", "replace")) <= USER_ID_MAX_BYTES:
            raise TokenRefusedError(f"the token's sub must be a string of 1 to {USER_ID_MAX_BYTES} bytes")
        if not user_id.isprintable() or user_id != user_id.strip():
            raise TokenRefusedError("the token's sub must be printable, without blanks at its ends")
        if not isinstance(tier, str) or len(tier) > TIER_BYTES_MAX:
            raise TokenRefusedError(f"the token's tier must be a string of at most {TIER_BYTES_MAX} characters")
        if now_s >= expires_s:
            raise TokenRefusedError("the token has expired")
        return Identity(user_id, tier, expires_s)

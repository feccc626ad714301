"""Buyers' tokens, HS256 (RFC 7519), minted as fast as a crowd needs them: one hmac each."""

import hashlib
import hmac
import json
import time
from binascii import b2a_base64
from collections.abc import Iterator
from pathlib import Path
from typing import Final

TOKEN_VALID_S: Final = 86_400
_URLSAFE: Final = bytes.maketrans(b"+/", b"-_")


def _base64url(data: bytes) -> bytes:
    return b2a_base64(data, newline=False).translate(_URLSAFE, b"=")


class Minter:
    """Mints tokens that differ in their user alone."""

    def __init__(self, key: bytes, audience: str, *, expires_s: int) -> None:
        """Take the secret, whom the tokens are for, and when they expire, Unix seconds."""
        self._mac = hmac.new(key, digestmod=hashlib.sha256)
        self._head = _base64url(b'{"alg":"HS256","typ":"JWT"}') + b"."
        self._claims = f',"aud":{json.dumps(audience)},"exp":{expires_s}}}'.encode()

    def mint(self, user_id: bytes) -> bytes:
        """Return the token of a user, whose name needs no escaping in JSON."""
        signed = self._head + _base64url(b'{"sub":"' + user_id + b'"' + self._claims)
        mac = self._mac.copy()
        mac.update(signed)
        return signed + b"." + _base64url(mac.digest())

    def mint_many(self, prefix: str, count: int) -> Iterator[bytes]:
        """Yield the tokens of the users `<prefix>-0`, `<prefix>-1` and so on."""
        mint, start = self.mint, prefix.encode() + b"-"
        for number in range(count):
            yield mint(start + b"%d" % number)


def minter_from_file(key_file: str, audience: str) -> Minter:
    """Return a minter of tokens that are valid from now on for a day.

    Raises:
        OSError: the file cannot be read.
    """
    key = Path(key_file).read_bytes().strip()
    return Minter(key, audience, expires_s=int(time.time()) + TOKEN_VALID_S)

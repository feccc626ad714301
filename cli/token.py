"""`flashgate token`: buyers' JWTs for trying things out."""

import sys
import time
from typing import Annotated

import jwt
import typer

from cli.config import load
from domain.errors import OperationRefusedError
from domain.order import USER_ID_MAX_BYTES
from domain.settings import AuthSettings
from gateway.app import read_key

VALID_S = 86_400


def make_token(auth: AuthSettings, key: bytes, user_id: str, *, tier: str = "", valid_s: int = VALID_S) -> str:
    """Return a buyer's JWT that is valid from now on for so many seconds."""
    claims: dict[str, str | int] = {"sub": user_id, "aud": auth.audience, "exp": int(time.time()) + valid_s}
    if tier:
        claims["tier"] = tier
    return jwt.encode(claims, key, algorithm=auth.algorithm)


def token(
    user: Annotated[str, typer.Option(help="The buyer; with --count: U-1 … U-N.")],
    tier: Annotated[str, typer.Option(help="The buyer's tier, if any.")] = "",
    count: Annotated[int | None, typer.Option(min=1, max=10_000_000, help="How many tokens, one a line.")] = None,
    valid_s: Annotated[int, typer.Option(min=1, help="How long they are valid, seconds.")] = VALID_S,
) -> None:
    """Print buyers' tokens (HS256, signed with this machine's secret), one a line."""
    settings = load()
    if settings.auth.algorithm != "HS256":
        raise OperationRefusedError("tokens can be made here with HS256 only; auth.algorithm is another one")
    longest = user if count is None else f"{user}-{count}"
    if not 1 <= len(longest.encode()) <= USER_ID_MAX_BYTES or not longest.isprintable():
        raise OperationRefusedError(f"a user is 1 to {USER_ID_MAX_BYTES} bytes of printable characters")
    key = read_key(settings)
    names = [user] if count is None else (f"{user}-{number}" for number in range(1, count + 1))
    for name in names:
        sys.stdout.write(make_token(settings.auth, key, name, tier=tier, valid_s=valid_s) + "\n")

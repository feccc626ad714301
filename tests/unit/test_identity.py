"""Tokens: what is believed, and every way not to be."""

import base64
import hashlib
import hmac
import json
import time
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.settings import AuthSettings
from gateway.identity import TokenRefusedError, Verifier

SECRET = b"a secret of thirty-two bytes, or more"
NOW_S = time.time()
GOOD: dict[str, Any] = {"sub": "ann", "aud": "flashgate", "exp": int(NOW_S) + 1_000}


def part(raw: bytes) -> bytes:
    """Encode one part of a token."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=")


def token(claims: bytes, header: bytes = b'{"alg":"HS256","typ":"JWT"}', key: bytes = SECRET) -> str:
    """Sign whatever the bytes are, as no library would."""
    head = part(header) + b"." + part(claims)
    return (head + b"." + part(hmac.new(key, head, hashlib.sha256).digest())).decode()


def identify(value: str, **settings: Any) -> Any:
    """Identify the bearer of a token with a fresh verifier."""
    return Verifier(AuthSettings(**settings), SECRET).identify(f"Bearer {value}", NOW_S)


@pytest.mark.parametrize(
    "claims",
    [
        GOOD,
        {**GOOD, "aud": ["another", "flashgate"]},
        {**GOOD, "exp": GOOD["exp"] + 0.5},
        {**GOOD, "tier": "gold"},
        {**GOOD, "more": {"of": ["the", "issuer"]}},
    ],
)
def test_good_tokens(claims: dict[str, Any]) -> None:
    """A signed token with sub, aud (one or among several) and an exp to come is believed."""
    who = identify(jwt.encode(claims, SECRET))
    assert (who.user_id, who.tier) == ("ann", claims.get("tier", ""))
    assert identify(jwt.encode(claims, SECRET)).expires_s == claims["exp"]


@pytest.mark.parametrize(
    "value",
    [
        jwt.encode(GOOD, "", algorithm="none"),
        token(json.dumps(GOOD).encode(), b'{"alg":"none"}'),
        token(json.dumps(GOOD).encode(), b'{"alg":"None"}'),
        token(json.dumps(GOOD).encode(), b'{"alg":"hs256"}'),
        token(json.dumps(GOOD).encode(), b"{}"),
        token(json.dumps(GOOD).encode(), b"[]"),
        token(json.dumps(GOOD).encode(), key=b"another secret of thirty-two bytes"),
        jwt.encode(GOOD, SECRET + b"." * 40, algorithm="HS512"),
        token(json.dumps(GOOD).encode()).rpartition(".")[0] + ".",
        token(json.dumps(GOOD).encode()).replace(".", "..", 1),
        token(b"[]"),
        token(b"null"),
        token(b"\xff"),
        token(b"[" * 2_500),
        token(json.dumps({**GOOD, "pad": "x" * 8_000}).encode()),
        "\udcff.a.b",
    ],
)
def test_forged_and_odd_tokens(value: str) -> None:
    """Unsigned, otherwise signed, cut, too long, too deep, not JSON: refused, and the refusal does not repeat it."""
    with pytest.raises(TokenRefusedError) as refused:
        identify(value)
    assert value.encode("utf-8", "replace").decode() not in str(refused.value)
    assert SECRET.decode() not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("exp", int(NOW_S) - 1),
        ("exp", None),
        ("exp", "soon"),
        ("exp", True),
        ("exp", [1]),
        ("exp", float("inf")),
        ("exp", float("nan")),
        ("exp", 10**400),
        ("aud", "another"),
        ("aud", None),
        ("aud", []),
        ("aud", ["another"]),
        ("aud", {"flashgate": 1}),
        ("sub", None),
        ("sub", ""),
        ("sub", 7),
        ("sub", ["ann"]),
        ("sub", "a" * 129),
        ("sub", "é" * 65),
        ("sub", "a\nb"),
        ("sub", "\ud800"),
        ("tier", 7),
        ("tier", "x" * 33),
        ("nbf", int(NOW_S) + 900),
    ],
)
@pytest.mark.parametrize("removed", [False, True])
def test_bad_claims(name: str, value: Any, *, removed: bool) -> None:
    """Signed, but expired, for another audience, without a needed claim, or of odd types: refused."""
    claims = {**GOOD, name: value}
    if removed:
        del claims[name]
    if removed and name in {"tier", "nbf"}:
        assert identify(token(json.dumps(claims).encode())).user_id == "ann"
        return
    with pytest.raises(TokenRefusedError):
        identify(token(json.dumps(claims).encode()))


@given(st.one_of(st.text(max_size=80), st.from_regex(r"[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*\.[A-Za-z0-9_-]*")))
def test_no_header_is_a_surprise(value: str) -> None:
    """Whatever stands in the header: TokenRefusedError and never another exception."""
    for header in (value, f"Bearer {value}"):
        with pytest.raises(TokenRefusedError):
            Verifier(AuthSettings(), SECRET).identify(header, NOW_S)


def test_remembered_token_ends_with_its_exp() -> None:
    """A token that was verified is refused from its exp on (leeway included), though its signature is remembered."""
    verifier = Verifier(AuthSettings(leeway_s=5), SECRET)
    bearer = f"Bearer {jwt.encode(GOOD, SECRET)}"
    for at_s in (NOW_S, GOOD["exp"] + 4.999):
        assert verifier.identify(bearer, at_s).user_id == "ann"
    with pytest.raises(TokenRefusedError, match="expired"):
        verifier.identify(bearer, GOOD["exp"] + 5)


def test_memory_of_tokens_is_bounded_and_keeps_no_forgery() -> None:
    """However many tokens come, `cache_max` are remembered; refused ones are not among them."""
    verifier = Verifier(AuthSettings(cache_max=10), SECRET)
    for number in range(50):
        assert verifier.identify(f"Bearer {jwt.encode({**GOOD, 'sub': f'u{number}'}, SECRET)}", NOW_S)
        forged = jwt.encode({**GOOD, "sub": f"u{number}"}, SECRET[::-1])
        with pytest.raises(TokenRefusedError):
            verifier.identify(f"Bearer {forged}", NOW_S)
        assert len(verifier._verified) == min(10, number + 1)

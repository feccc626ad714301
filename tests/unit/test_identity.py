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
    return Verifier(AuthSettings(**settings), SECRET).identify(
        f"Bearer {value}".encode("utf-8", "surrogateescape"), NOW_S
    )


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
        pytest.param("exp", int(NOW_S) - 1, id="exp-past"),
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
        pytest.param("nbf", int(NOW_S) + 900, id="nbf-later"),
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
            Verifier(AuthSettings(), SECRET).identify(header.encode(), NOW_S)


def test_remembered_token_ends_with_its_exp() -> None:
    """A token that was verified is refused from its exp on (leeway included), though its signature is remembered."""
    verifier = Verifier(AuthSettings(leeway_s=5), SECRET)
    bearer = f"Bearer {jwt.encode(GOOD, SECRET)}".encode()
    for at_s in (NOW_S, GOOD["exp"] + 4.999):
        assert verifier.identify(bearer, at_s).user_id == "ann"
    with pytest.raises(TokenRefusedError, match="expired"):
        verifier.identify(bearer, GOOD["exp"] + 5)


def test_tokens_are_remembered_from_their_second_sight_on() -> None:
    """A token that comes once leaves no more than a mark: most of a crowd's tokens never come again."""
    verifier = Verifier(AuthSettings(), SECRET)
    bearer = f"Bearer {jwt.encode(GOOD, SECRET)}".encode()
    assert [verifier.identify(bearer, NOW_S).user_id for _ in range(3)] == ["ann"] * 3
    assert verifier.remembered == 1
    other = f"Bearer {jwt.encode({**GOOD, 'sub': 'ben'}, SECRET)}".encode()
    assert verifier.identify(other, NOW_S).user_id == "ben"
    assert verifier.remembered == 1


def test_memory_of_tokens_is_bounded_and_keeps_no_forgery() -> None:
    """However many tokens come, `cache_max` are remembered; refused ones are not among them."""
    verifier = Verifier(AuthSettings(cache_max=10), SECRET)
    for number in range(50):
        assert verifier.identify(f"Bearer {jwt.encode({**GOOD, 'sub': f'u{number}'}, SECRET)}".encode(), NOW_S)
        forged = jwt.encode({**GOOD, "sub": f"u{number}"}, SECRET[::-1])
        with pytest.raises(TokenRefusedError):
            verifier.identify(f"Bearer {forged}".encode(), NOW_S)
        assert verifier.remembered <= 10


def pyjwt_believes(value: str) -> str:
    """Return whom PyJWT takes the bearer for, or an empty string."""
    try:
        claims = jwt.decode(
            value,
            SECRET,
            algorithms=["HS256"],
            audience="flashgate",
            options={"require": ["exp", "aud", "sub"]},
        )
    except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError):
        return ""
    return str(claims["sub"])


def believed(value: str) -> str:
    """Return whom the verifier takes the bearer for, or an empty string."""
    try:
        return str(Verifier(AuthSettings(), SECRET).identify(f"Bearer {value}".encode(), NOW_S).user_id)
    except TokenRefusedError:
        return ""


SOON, PAST, LATER = int(NOW_S) + 1_000, int(NOW_S) - 1_000, int(NOW_S) + 2_000
odd: st.SearchStrategy[Any] = st.sampled_from([None, True, 0, -1, 1.5, "", "x", [], {}, ["x"], 10**30])
odd_claims = st.fixed_dictionaries(
    {},
    optional={
        "sub": st.sampled_from(["ann", "é", "buyer-1"]) | odd,
        "aud": st.sampled_from(["flashgate", "other", ["other", "flashgate"], ["other"], ["flashgate", 7]]) | odd,
        "exp": st.sampled_from([SOON, PAST, float(SOON), str(SOON)]) | odd,
        "nbf": st.sampled_from([PAST, LATER]) | odd,
        "iat": st.sampled_from([PAST, LATER]) | odd,
        "jti": st.sampled_from(["id"]) | odd,
        "iss": st.sampled_from(["issuer"]) | odd,
        "tier": st.just("gold"),
        "more": st.just({"of": ["the", "issuer"]}),
    },
)
odd_headers = st.fixed_dictionaries(
    {},
    optional={
        "alg": st.sampled_from(["HS256", "HS512", "none", "hs256", "RS256", 7, None]),
        "typ": st.sampled_from(["JWT", "at+jwt", 7]),
        "kid": st.sampled_from(["k", 7]),
        "crit": st.sampled_from([["exp"], []]),
        "b64": st.booleans(),
    },
)


@given(claims=odd_claims, header=st.just({"alg": "HS256", "typ": "JWT"}) | odd_headers)
def test_nobody_is_believed_whom_pyjwt_would_not_believe(claims: dict[str, Any], header: dict[str, Any]) -> None:
    """Whatever signed claims and headers say: who is believed here is believed by PyJWT, as the same user."""
    value = token(json.dumps({**GOOD, **claims}).encode(), json.dumps(header).encode())
    who = believed(value)
    assert who in {"", pyjwt_believes(value)}


@given(
    claims=st.fixed_dictionaries(
        {"sub": st.text(st.characters(codec="utf-8", categories=["L", "N"]), min_size=1, max_size=30)},
        optional={
            "aud": st.sampled_from(["flashgate", "other", ["a", "flashgate"], ["a"]]),
            "exp": st.sampled_from([SOON, PAST]),
            "nbf": st.sampled_from([PAST, LATER]),
            "iat": st.sampled_from([PAST, LATER]),
            "jti": st.text(max_size=5),
            "tier": st.sampled_from(["", "gold"]),
        },
    ),
    key=st.sampled_from([SECRET, SECRET, SECRET, b"another secret of thirty-two bytes"]),
)
def test_ordinary_tokens_are_judged_as_pyjwt_judges_them(claims: dict[str, Any], key: bytes) -> None:
    """Tokens as issuers make them are believed exactly if PyJWT believes them."""
    value = jwt.encode({**GOOD, **claims}, key)
    assert believed(value) == pyjwt_believes(value)


@given(st.integers(0, 10_000), st.characters(codec="ascii"))
def test_a_token_with_one_character_changed_is_refused(place: int, other: str) -> None:
    """No character of a token can be changed without its being refused, the last one of the signature included."""
    value = jwt.encode(GOOD, SECRET)
    place %= len(value)
    changed = value[:place] + other + value[place + 1 :]
    assert believed(changed) == ("ann" if changed == value or changed.strip() == value else "")

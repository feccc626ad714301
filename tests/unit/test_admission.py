"""What a worker decides by itself."""

import dataclasses
import time
from typing import Any

import jwt
import pytest

from adapters.stock import Snapshot, StockLine
from domain.errors import ConfigError
from domain.order import user_hash
from domain.outcomes import Outcome
from domain.settings import AuthSettings
from gateway.admission import refusal
from gateway.holders import Holders
from gateway.identity import TokenRefusedError, Verifier
from gateway.view import VIEW_AGE_MAX_S, CampaignView, LooseGuard, make_view, refuse_from_memory, sku_state

SECRET = b"a secret of thirty-two bytes, or more"
OPENS_MS, CLOSES_MS = 1_000_000, 2_000_000


def view(*, state: str = "open", at_ms: int = 1_500_000, remaining: int = 5) -> CampaignView:
    """Return a view that was read at `at_ms` of Redis's clock and 0 s of ours."""
    fields = {
        "kind": "sale",
        "state": state,
        "run_id": "r",
        "opens_ms": str(OPENS_MS),
        "closes_ms": str(CLOSES_MS),
        "admit_per_s": "10",
        "admit_burst": "10",
        "user_per_s": "1",
        "user_burst": "1",
    }
    stock = {"box": StockLine(remaining, 10 - remaining, 0, 10, 2, 1, 100)}
    return make_view("c", Snapshot(fields, stock, at_ms * 1000, b"", "0-0"), 0.0)


@pytest.mark.parametrize(
    ("seen", "sku", "after_s", "expected"),
    [
        (view(), "box", 0.1, None),
        (view(remaining=0), "box", 0.1, Outcome.SOLD_OUT),
        (view(remaining=0), "box", VIEW_AGE_MAX_S + 0.1, None),
        (view(), "bag", 0.1, Outcome.UNKNOWN_SKU),
        (view(state="paused"), "box", 0.1, Outcome.PAUSED),
        (view(state="loaded"), "box", 0.1, Outcome.NOT_STARTED),
        (view(state="closed"), "box", 0.1, Outcome.ENDED),
        (view(at_ms=OPENS_MS - 1_000), "box", 0.5, Outcome.NOT_STARTED),
        (view(at_ms=OPENS_MS - 1_000), "box", 0.95, None),
        (view(at_ms=CLOSES_MS), "box", 0.0, Outcome.ENDED),
        # Read before the end: an order of the last moment may be retried, so Redis is asked.
        (view(at_ms=CLOSES_MS - 100), "box", 1.0, None),
    ],
)
def test_refusals_from_memory(seen: CampaignView, sku: str, after_s: float, expected: Outcome | None) -> None:
    """Only what is certain is refused from memory; near the edges, and from an old view, Redis decides."""
    assert refuse_from_memory(seen, sku, after_s) is expected


@pytest.mark.parametrize("at_ms", [OPENS_MS, 1_500_000, CLOSES_MS - 1_500, CLOSES_MS - 100, CLOSES_MS - 1])
@pytest.mark.parametrize("after_s", [0.0, 0.7, 1.45, 1.95, 2.05])
def test_the_short_cut_while_a_sale_is_on_decides_nothing_else(at_ms: int, after_s: float) -> None:
    """Within the time that a view is certainly on sale, it refuses what it would refuse without the short cut."""
    seen = view(at_ms=at_ms, remaining=0)
    slow = dataclasses.replace(seen, on_sale_until_s=0.0)
    assert refuse_from_memory(seen, "box", after_s) is refuse_from_memory(slow, "box", after_s)
    assert refuse_from_memory(seen, "bag", after_s) is refuse_from_memory(slow, "bag", after_s)


def test_refusals_come_before_redis_and_the_guard_after_them() -> None:
    """What is certain is refused without a token; the guard passes twice its burst; a replay gives its token back."""
    seen, guard = view(), LooseGuard(per_s=1, burst=2, now_s=0.0)
    assert [refusal(view(remaining=0), guard, "box", 0.0) for _ in range(9)] == [Outcome.SOLD_OUT] * 9
    assert [refusal(seen, guard, "box", 0.0) for _ in range(5)] == [None] * 4 + [Outcome.RATE_LIMITED]
    guard.give_back()
    assert [refusal(seen, guard, "box", 0.0) for _ in range(2)] == [None, Outcome.RATE_LIMITED]


def test_sku_states() -> None:
    """Buyers are told upcoming, on sale, sold out, ended."""
    assert sku_state(view(at_ms=OPENS_MS - 1), "box", 0.0) == "upcoming"
    assert sku_state(view(), "box", 0.0) == "on_sale"
    assert sku_state(view(remaining=0), "box", 0.0) == "sold_out"
    assert sku_state(view(at_ms=CLOSES_MS), "box", 0.0) == "ended"


def test_loose_guard_lets_twice_the_rate_through() -> None:
    """The guard passes at least what the exact bucket would, and at most twice that."""
    guard = LooseGuard(per_s=10, burst=5, now_s=0.0)
    assert sum(guard.admits(0.0) for _ in range(100)) == 10
    assert sum(guard.admits(1.0) for _ in range(100)) == 10
    assert sum(guard.admits(0.5) for _ in range(100)) == 0


@pytest.mark.parametrize("exact_max", [10, 10_000])
def test_holders_miss_nobody(exact_max: int) -> None:
    """Everyone added is found, kept exactly or not; of strangers fewer than 1% are, and none while all is exact."""
    people = Holders(exact_max)
    people.add_log(b"".join(user_hash(f"in-{number}") for number in range(2_500)))
    for number in range(2_500, 5_000):
        people.note(user_hash(f"in-{number}"))
    assert all(user_hash(f"in-{number}") in people for number in range(5_000))
    assert sum(user_hash(f"out-{number}") in people for number in range(10_000)) < (100 if exact_max == 10 else 1)


def claims(**changes: Any) -> dict[str, Any]:
    """Return good claims with changes; None removes one."""
    good = {"sub": "ann", "aud": "flashgate", "exp": int(time.time()) + 100}
    return {name: value for name, value in {**good, **changes}.items() if value is not None}


def test_a_token_is_remembered_no_longer_than_it_is_valid() -> None:
    """A verified token is believed until its exp, and the memory of tokens is bounded."""
    verifier = Verifier(AuthSettings(cache_max=3), SECRET)
    now = time.time()
    bearer = f"Bearer {jwt.encode(claims(tier='gold'), SECRET)}".encode()
    assert verifier.identify(bearer, now).tier == "gold"
    assert verifier.identify(bearer, now + 1).user_id == "ann"
    with pytest.raises(TokenRefusedError, match="expired"):
        verifier.identify(bearer, now + 101)
    for number in range(10):
        verifier.identify(f"Bearer {jwt.encode(claims(sub=f'u{number}'), SECRET)}".encode(), now)
    assert verifier.remembered <= 3


@pytest.mark.parametrize("header", [None, "", "Basic x", "Bearer", "Bearer ", "Bearer a.b.c", "Bearer " + "x" * 9_000])
def test_what_is_no_token(header: str | None) -> None:
    """Anything but a token that verifies is refused, and the refusal does not repeat it."""
    with pytest.raises(TokenRefusedError):
        Verifier(AuthSettings(), SECRET).identify(None if header is None else header.encode(), time.time())


@pytest.mark.parametrize("sub", [7, ["ann"], "a\x00b", "\ud800", ""])
def test_odd_subjects_are_refused(sub: Any) -> None:
    """A user is a printable string."""
    import base64
    import hashlib
    import hmac
    import json

    def part(raw: bytes) -> bytes:
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    head = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims(sub=sub)).encode())
    token = head + b"." + part(hmac.new(SECRET, head, hashlib.sha256).digest())
    with pytest.raises(TokenRefusedError):
        Verifier(AuthSettings(), SECRET).identify(b"Bearer " + token, time.time())


def test_short_secrets_are_refused() -> None:
    """An HS256 secret of fewer than 32 bytes is an error at the start."""
    with pytest.raises(ConfigError, match="32 bytes"):
        Verifier(AuthSettings(), b"short")


def test_public_key_is_no_shared_secret() -> None:
    """With RS256 pinned, a token that is signed with the public key as an HS256 secret is refused."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    private = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    public = private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    verifier = Verifier(AuthSettings(algorithm="RS256"), public)
    good = jwt.encode(claims(), private, algorithm="RS256")
    assert verifier.identify(f"Bearer {good}".encode(), time.time()).user_id == "ann"
    import base64
    import hashlib
    import hmac
    import json

    def part(raw: bytes) -> bytes:
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

    head = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims()).encode())
    forged = head + b"." + part(hmac.new(public, head, hashlib.sha256).digest())
    with pytest.raises(TokenRefusedError):
        verifier.identify(b"Bearer " + forged, time.time())

"""Answers as bytes and headers, and the holder filter's and the loose guard's promises."""

import json
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain import outcomes
from domain.order import user_hash
from domain.outcomes import PROBLEM_OF_OUTCOME, Outcome
from gateway.answers import Answer, Decision, accepted, of_decision, problem, retry_after_s
from gateway.holders import BloomFilter, Holders
from gateway.orders import decision_of
from gateway.view import GUARD_FACTOR, LooseGuard

ORDER = "c-1~" + "0" * 32
LIMITS = {"campaign": (20, 5), "user": (3, 2)}
SECONDS = {Outcome.RATE_LIMITED, Outcome.USER_RATE_LIMITED, Outcome.CORRUPT_RECORD, Outcome.OUTBOX_FULL}


def test_acceptance_and_replay_have_the_same_body() -> None:
    """A replay differs from the acceptance in one header only."""
    first, again = accepted(ORDER, replayed=False), accepted(ORDER, replayed=True)
    assert json.loads(first.body) == {"order_id": ORDER, "status": "accepted"}
    assert first.headers == (("Location", f"/v1/orders/{ORDER}"),)
    assert (again.status, again.body) == (first.status, first.body) == (202, again.body)
    assert again.headers == (*first.headers, ("Idempotent-Replayed", "true"))


@pytest.mark.parametrize("replayed", [False, True])
def test_acceptances_are_written_like_every_other_answer(*, replayed: bool) -> None:
    """The head of a 202, which is put together by a short cut, says what its fields say."""
    answer = accepted(ORDER, replayed=replayed)
    assert answer.head() == Answer(answer.status, answer.body, answer.content_type, answer.headers).head()
    assert answer.head().startswith(b"HTTP/1.1 202 Accepted\r\n")
    assert answer.head().endswith(b"\r\n")
    assert b"Content-Length: %d\r\n" % len(answer.body) in answer.head()


@pytest.mark.parametrize("outcome", list(Outcome))
def test_every_outcome_has_an_answer(outcome: Outcome) -> None:
    """Each outcome of the script is 202, or the problem of its code with the status that belongs to it."""
    answer = of_decision(decision_of(outcome, 1_500), ORDER, LIMITS)
    if outcome in {Outcome.ACCEPTED, Outcome.REPLAYED}:
        assert answer == accepted(ORDER, replayed=outcome is Outcome.REPLAYED)
        return
    expected = PROBLEM_OF_OUTCOME[outcome]
    document = json.loads(answer.body)
    assert (answer.status, document["status"], document["code"]) == (expected.status, expected.status, expected.code)
    assert answer.content_type == "application/problem+json"
    assert set(document) <= {"type", "title", "status", "code", "detail"}
    assert (dict(answer.headers).get("Retry-After") == "2") == (outcome in SECONDS)


@pytest.mark.parametrize(
    ("outcome", "policy"), [(Outcome.RATE_LIMITED, "campaign"), (Outcome.USER_RATE_LIMITED, "user")]
)
def test_rate_limited_names_its_policy(outcome: Outcome, policy: str) -> None:
    """A 429 tells which of the two quotas was used up, its size and window, and when to come again."""
    headers = dict(of_decision(decision_of(outcome, 1), ORDER, LIMITS).headers)
    burst, per_s = LIMITS[policy]
    assert headers == {
        "Retry-After": "1",
        "RateLimit-Policy": f'"{policy}";q={burst};w={math.ceil(burst / per_s)}',
        "RateLimit": f'"{policy}";r=0;t=1',
    }
    assert dict(of_decision(decision_of(outcome, 1), ORDER).headers) == {"Retry-After": "1"}


@given(st.integers(0, 10**9))
def test_retry_after_is_never_too_early(wait_ms: int) -> None:
    """Retry-After is whole seconds, at least one, and never less than the wait."""
    told = int(retry_after_s(wait_ms))
    assert told >= 1
    assert wait_ms <= told * 1_000 < wait_ms + 2_000


@given(st.text(max_size=50))
def test_details_are_json(detail: str) -> None:
    """Whatever valid text a detail is, the document says it."""
    detail = detail.encode("utf-8", "replace").decode()
    assert json.loads(problem(outcomes.INVALID, detail).body).get("detail", "") == detail


def test_unknown_outcomes_say_when_to_retry() -> None:
    """BUSY and UNKNOWN carry Retry-After, for a repeat with the same key makes sense."""
    for what in (outcomes.BUSY, outcomes.UNKNOWN):
        assert dict(of_decision(Decision(what, wait_ms=1), ORDER).headers) == {"Retry-After": "1"}


@given(st.sets(st.binary(min_size=8, max_size=8), max_size=200), st.sampled_from([0, 5, 1_000]))
def test_holders_miss_nobody_however_they_come(hashes: set[bytes], exact_max: int) -> None:
    """Whoever was added is found, in whatever pieces the log came, one by one, or both."""
    log = b"".join(sorted(hashes))
    whole, pieces, noted = Holders(exact_max), Holders(exact_max), Holders(exact_max)
    whole.add_log(log)
    for start in range(0, len(log), 24):
        pieces.add_log(log[start : start + 24])
    for one in hashes:
        noted.note(one)
    noted.add_log(log)
    assert all(one in whole and one in pieces and one in noted for one in hashes)


def test_filter_at_capacity_hits_few_strangers() -> None:
    """Full to its capacity, a filter takes at most 0.24% of strangers for holders: of these 40,000 under 0.4%."""
    people = BloomFilter(20_000)
    people.add(number_of(f"in-{number}") for number in range(20_000))
    assert people.count == people.capacity
    assert sum(number_of(f"out-{number}") in people for number in range(40_000)) < 160


def number_of(user_id: str) -> int:
    """Return a buyer's hash as a number."""
    return int.from_bytes(user_hash(user_id), "little")


def test_filters_grow_with_their_holders() -> None:
    """However many come, few strangers are taken for holders: a full filter is followed by a larger one."""
    people = Holders(exact_max=100)
    for start in range(0, 30_000, 1_000):
        people.add_log(b"".join(user_hash(f"in-{number}") for number in range(start, start + 1_000)))
    assert all(user_hash(f"in-{number}") in people for number in range(30_000))
    assert sum(user_hash(f"out-{number}") in people for number in range(10_000)) < 100


def test_guard_is_never_stricter_than_the_exact_bucket() -> None:
    """Offered anything at any time, the guard passes all that the exact bucket would, and at most twice as much."""
    dice = random.Random(7)
    per_s, burst = 50, 20
    guard, now_s, passed, exact, exact_tokens, at_s = LooseGuard(per_s, burst, 0.0), 0.0, 0, 0, float(burst), 0.0
    for _ in range(5_000):
        now_s += dice.expovariate(500)
        exact_tokens = min(burst, exact_tokens + (now_s - at_s) * per_s)
        at_s = now_s
        if exact_tokens >= 1:
            exact, exact_tokens = exact + 1, exact_tokens - 1
        passed += guard.admits(now_s)
        assert exact <= passed <= GUARD_FACTOR * (burst + per_s * now_s)


def test_guard_takes_no_harm_from_a_clock_that_steps_back() -> None:
    """A step back adds no token and raises nothing."""
    guard = LooseGuard(1, 1, 100.0)
    assert [guard.admits(at_s) for at_s in (100.0, 100.0, 50.0, 50.0)] == [True, True, False, False]

"""Answers as plain values, made the same way for every way in. Problems follow RFC 9457."""

import math
from typing import Final, NamedTuple

import orjson

from domain import outcomes
from domain.outcomes import Problem

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"
PROBLEM_TYPE: Final = "https://flashgate.invalid/problems/"


class Answer(NamedTuple):
    """Status, body, content type and further headers."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()


class Decision(NamedTuple):
    """What became of an order: accepted if `problem` is None."""

    problem: Problem | None = None
    replayed: bool = False
    wait_ms: int = 0
    policy: str = ""
    """RateLimit policy of a 429: `campaign` or `user`."""


def problem(what: Problem, detail: str = "", headers: tuple[tuple[str, str], ...] = ()) -> Answer:
    """Return a problem document."""
    document: dict[str, str | int] = {
        "type": PROBLEM_TYPE + what.code.lower().replace("_", "-"),
        "title": what.title,
        "status": what.status,
        "code": what.code,
    }
    if detail:
        document["detail"] = detail
    return Answer(what.status, orjson.dumps(document), PROBLEM_JSON, headers)


def accepted(order_id: str, *, replayed: bool) -> Answer:
    """Return 202: the order is durable."""
    headers: tuple[tuple[str, str], ...] = (("Location", f"/v1/orders/{order_id}"),)
    if replayed:
        headers = (*headers, ("Idempotent-Replayed", "true"))
    return Answer(202, b'{"order_id":"%b","status":"accepted"}' % order_id.encode(), JSON, headers)


_REFUSALS: Final[dict[str, Answer]] = {
    what.code: problem(what)
    for what in (
        outcomes.SOLD_OUT,
        outcomes.LIMIT_REACHED,
        outcomes.NOT_STARTED,
        outcomes.ENDED,
        outcomes.PAUSED,
        outcomes.KEY_REUSED,
    )
}
_NO_SKU: Final = problem(outcomes.NOT_FOUND, "the campaign has no such SKU")
_BAD_QUANTITY: Final = problem(outcomes.INVALID, "quantity: must be a whole number from 1 to 1000")


def of_decision(decision: Decision, order_id: str, limits: dict[str, tuple[int, int]] | None = None) -> Answer:
    """Return the answer to an order.

    Args:
        decision: what became of it.
        order_id: its id.
        limits: policy name → (burst, tokens a second), for the RateLimit headers of a 429.
    """
    what = decision.problem
    if what is None:
        return accepted(order_id, replayed=decision.replayed)
    if what is outcomes.RATE_LIMITED:
        return rate_limited(decision, (limits or {}).get(decision.policy))
    if what is outcomes.NOT_FOUND:
        return _NO_SKU
    if what is outcomes.INVALID:
        return _BAD_QUANTITY
    refusal = _REFUSALS.get(what.code)
    return refusal or problem(what, headers=(("Retry-After", retry_after_s(decision.wait_ms)),))


def retry_after_s(wait_ms: int) -> str:
    """Return whole seconds, at least one."""
    return str(max(1, math.ceil(wait_ms / 1000)))


def rate_limited(decision: Decision, limit: tuple[int, int] | None) -> Answer:
    """Return 429 with Retry-After and the RateLimit headers (draft-ietf-httpapi-ratelimit-headers)."""
    wait = retry_after_s(decision.wait_ms)
    headers: tuple[tuple[str, str], ...] = (("Retry-After", wait),)
    if limit:
        burst, per_s = limit
        window_s = max(1, math.ceil(burst / per_s))
        headers = (
            *headers,
            ("RateLimit-Policy", f'"{decision.policy}";q={burst};w={window_s}'),
            ("RateLimit", f'"{decision.policy}";r=0;t={wait}'),
        )
    return problem(outcomes.RATE_LIMITED, headers=headers)

"""Answers as plain values, made the same way for every way in. Problems follow RFC 9457."""

import math
from http import HTTPStatus
from typing import Final, NamedTuple

import msgspec
import orjson

from domain import outcomes
from domain.outcomes import Problem

JSON: Final = "application/json"
PROBLEM_JSON: Final = "application/problem+json"
PROBLEM_TYPE: Final = "https://flashgate.invalid/problems/"

Headers = tuple[tuple[str, str], ...]


class Answer(msgspec.Struct):
    """Status, body, content type and further headers of one response."""

    status: int
    body: bytes
    content_type: str = JSON
    headers: Headers = ()
    closes: bool = False
    """The connection cannot be used any more: what follows on it is not known to be a request."""
    _head: bytes = b""
    _wire: bytes = b""
    _date_line: bytes = b""

    def head(self) -> bytes:
        """Return status line and headers (RFC 9112), without Date and the empty line; made once an answer."""
        if not self._head:
            lines = [
                f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}",
                f"Content-Type: {self.content_type}",
                f"Content-Length: {len(self.body)}",
                *[f"{name}: {value}" for name, value in self.headers],
                "",
            ]
            self._head = "\r\n".join(lines).encode()
        return self._head

    def wire(self, date_line: bytes) -> bytes:
        """Return the whole response; made once for each date, for the same refusal is told thousands of times.

        Args:
            date_line: the Date header and the empty line.
        """
        if self._date_line is not date_line:
            self._wire = b"".join((self.head(), date_line, self.body))
            self._date_line = date_line
        return self._wire


class Decision(NamedTuple):
    """What became of an order: accepted if `problem` is None."""

    problem: Problem | None = None
    replayed: bool = False
    wait_ms: int = 0
    policy: str = ""
    """RateLimit policy of a 429: `campaign` or `user`."""


def problem(what: Problem, detail: str = "", headers: Headers = (), *, closes: bool = False) -> Answer:
    """Return a problem document; `closes` if the connection must end with it."""
    document: dict[str, str | int] = {
        "type": PROBLEM_TYPE + what.code.lower().replace("_", "-"),
        "title": what.title,
        "status": what.status,
        "code": what.code,
    }
    if detail:
        document["detail"] = detail
    return Answer(what.status, orjson.dumps(document), PROBLEM_JSON, headers, closes)


BUSY_NOW: Final = problem(outcomes.BUSY, headers=(("Retry-After", "1"),))
UNKNOWN_NOW: Final = problem(outcomes.UNKNOWN, headers=(("Retry-After", "1"),))
BODY_LATE: Final = problem(outcomes.INVALID, "the body did not arrive in time", closes=True)


def body_too_large(bytes_max: int) -> Answer:
    """Return 413."""
    return problem(outcomes.TOO_LARGE, f"the body may have at most {bytes_max} bytes", closes=True)


_ACCEPTED_HEAD: Final = (
    b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: %d\r\nLocation: /v1/orders/%b\r\n%b"
)
_REPLAYED: Final = ("Idempotent-Replayed", "true")


def accepted(order_id: str, *, replayed: bool) -> Answer:
    """Return 202: the order is durable."""
    location = ("Location", f"/v1/orders/{order_id}")
    raw = order_id.encode()
    body = b'{"order_id":"%b","status":"accepted"}' % raw
    if replayed:
        head = _ACCEPTED_HEAD % (len(body), raw, b"Idempotent-Replayed: true\r\n")
        return Answer(202, body, JSON, (location, _REPLAYED), False, head)
    return Answer(202, body, JSON, (location,), False, _ACCEPTED_HEAD % (len(body), raw, b""))


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
    headers: Headers = (("Retry-After", wait),)
    if limit:
        burst, per_s = limit
        window_s = max(1, math.ceil(burst / per_s))
        headers = (
            *headers,
            ("RateLimit-Policy", f'"{decision.policy}";q={burst};w={window_s}'),
            ("RateLimit", f'"{decision.policy}";r=0;t={wait}'),
        )
    return problem(outcomes.RATE_LIMITED, headers=headers)

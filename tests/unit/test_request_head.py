"""Heads of requests: what is taken out of them, and what is refused, without a socket."""

import pytest

from gateway.answers import Answer
from gateway.request_head import (
    BAD_REQUEST,
    HEAD_TOO_LARGE,
    LINE_TOO_LONG,
    NO_HOST,
    TWICE,
    HeadLimits,
    RequestHead,
    refuse_unfinished,
)

LIMITS = HeadLimits(line_bytes_max=100, head_bytes_max=400, body_bytes_max=50)


def head_of(*headers: bytes, line: bytes = b"POST /v1/orders HTTP/1.1", host: bool = True) -> bytes:
    """Return a head."""
    return b"\r\n".join([line, *([b"Host: x"] if host else []), *headers, b"", b""])


def test_what_matters_is_taken_out() -> None:
    """Target, method, token, key and length of the body are as they were sent, however the names are spelt."""
    head = RequestHead()
    sent = head_of(b"aUTHORIZATION: Bearer t", b"Idempotency-key:  k 1 ", b"X-Other: y", b"content-length: 3")
    assert head.read(sent, LIMITS) is None
    assert (head.method(), head.url, head.authorization, head.body_bytes) == (b"POST", b"/v1/orders", b"Bearer t", 3)
    assert head.idempotency_key is not None
    assert head.idempotency_key.strip() == b"k 1"
    assert not head.unframed
    assert head.end(b"abc")


def test_nothing_is_left_over_from_the_request_before() -> None:
    """The next request on the same connection has its own token, key and length, or none."""
    head = RequestHead()
    first = head_of(b"Authorization: Bearer t", b"Idempotency-Key: k", b"Content-Length: 1", b"Content-Encoding: gzip")
    assert head.read(first, LIMITS) is None
    assert head.encoded
    assert head.end(b"x")
    assert head.read(head_of(line=b"GET / HTTP/1.1"), LIMITS) is None
    assert (head.authorization, head.idempotency_key, head.body_bytes, head.encoded) == (None, None, 0, False)


@pytest.mark.parametrize(
    ("sent", "unframed", "keeps"),
    [
        (head_of(), False, True),
        (head_of(b"Connection: close"), False, False),
        (head_of(line=b"GET / HTTP/1.0", host=False), False, False),
        (head_of(b"Connection: keep-alive", line=b"GET / HTTP/1.0"), False, False),
        (head_of(b"Transfer-Encoding: chunked"), True, True),
        (head_of(b"Expect: 100-continue", b"Content-Length: 1"), True, True),
        (head_of(b"Connection: Upgrade", b"Upgrade: h2c", line=b"GET / HTTP/1.1"), True, True),
    ],
)
def test_how_a_request_ends(sent: bytes, *, unframed: bool, keeps: bool) -> None:
    """A head tells where its request ends, or that it does not know, and whether another may follow."""
    head = RequestHead()
    assert head.read(sent, LIMITS) is None
    assert head.unframed is unframed
    if not unframed:
        assert head.end(b"") is keeps


@pytest.mark.parametrize(
    ("sent", "refusal"),
    [
        (head_of(host=False), NO_HOST),
        (head_of(b"Host: y"), TWICE),
        (head_of(b"Authorization: a", b"authorization: b"), TWICE),
        (head_of(b"Idempotency-Key: a", b"Idempotency-Key: a"), TWICE),
        (head_of(b"X: " + b"y" * 400), HEAD_TOO_LARGE),
        (head_of(line=b"GET /" + b"y" * 100 + b" HTTP/1.1"), LINE_TOO_LONG),
        (head_of(line=b"GET / HTTP/2.0"), BAD_REQUEST),
        (head_of(line=b"GET / HTTP/0.9"), BAD_REQUEST),
        (head_of(b"Content-Length: 1", b"Transfer-Encoding: chunked"), BAD_REQUEST),
        (head_of(b"Content-Length: 1", b"Content-Length: 1"), BAD_REQUEST),
        (head_of(b"Content-Length: -1"), BAD_REQUEST),
    ],
)
def test_refused_heads(sent: bytes, refusal: Answer) -> None:
    """What is ambiguous, too large or no HTTP/1.1 is refused, and its connection ends with it."""
    assert RequestHead().read(sent, LIMITS) is refusal
    assert refusal.closes


def test_body_over_the_limit_is_refused_by_its_announcement() -> None:
    """413 before a byte of the body is read; a body at the limit is taken."""
    too_large = RequestHead().read(head_of(b"Content-Length: 51"), LIMITS)
    assert too_large is not None
    assert (too_large.status, too_large.closes) == (413, True)
    assert RequestHead().read(head_of(b"Content-Length: 50"), LIMITS) is None


@pytest.mark.parametrize(
    ("came", "refusal"),
    [
        (b"", None),
        (b"P", None),
        (b"\r", None),
        (b"POST /v1/orders HTTP/1.1\r", None),
        (b"POST /v1/orders HTTP/1.1\r\nHost: x\r\n", None),
        (b"GET / HTTP/1.1\n", BAD_REQUEST),
        (b"\n", BAD_REQUEST),
        (b"\x16\x03\x01", BAD_REQUEST),
        (b"get /", BAD_REQUEST),
        (b"GET /" + b"a" * 300, LINE_TOO_LONG),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 400, HEAD_TOO_LARGE),
    ],
)
def test_what_will_never_become_a_head_is_refused_at_once(came: bytes, refusal: Answer | None) -> None:
    """Nobody waits for the end of what is too long already, or no HTTP."""
    assert refuse_unfinished(came, 0, LIMITS) is refusal

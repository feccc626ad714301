"""The head of one request (RFC 9112): read by httptools (llhttp, strict), held against the limits. No I/O."""

from typing import Final, NamedTuple

import httptools

from domain import outcomes
from gateway.answers import Answer, body_too_large, problem

OTHER, HOST, AUTHORIZATION, IDEMPOTENCY_KEY, CONTENT_LENGTH, CONTENT_ENCODING, TRANSFER_ENCODING, EXPECT, CONNECTION = (
    0, 1, 2, 4, 8, 16, 32, 64, 128,
)  # fmt: skip
REPEATED, UNREADABLE, UNEXPECTED = 256, 512, 1024
"""What has been seen in a head; REPEATED: one of the others twice."""
UNFRAMED: Final = TRANSFER_ENCODING | EXPECT
_FIELDS: Final = {
    b"host": HOST,
    b"authorization": AUTHORIZATION,
    b"idempotency-key": IDEMPOTENCY_KEY,
    b"content-length": CONTENT_LENGTH,
    b"content-encoding": CONTENT_ENCODING,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"expect": EXPECT,
    b"connection": CONNECTION,
}
SPELLINGS_MAX: Final = 512
_spellings: Final[dict[bytes, int]] = {}
"""Header names as they came, so that each spelling is put into lower case once."""

CR: Final = 13
BLANKS: Final = b" \t"
LINE_REST_BYTES: Final = 32
"""Of a request line, besides its target."""

BAD_REQUEST: Final = problem(outcomes.INVALID, "not an HTTP/1.1 request that can be read", closes=True)
NO_HOST: Final = problem(outcomes.INVALID, "send a Host header", closes=True)
TWICE: Final = problem(
    outcomes.INVALID, "Host, Authorization, Idempotency-Key and headers of the body may be sent once", closes=True
)
NOT_EXPECTED: Final = problem(
    outcomes.INVALID._replace(status=417), "nothing but 100-continue may be expected", closes=True
)
ENCODED_CHUNKS: Final = problem(outcomes.INVALID, "send the body uncompressed", closes=True)
HEAD_TOO_LARGE: Final = problem(outcomes.TOO_LARGE._replace(status=431), "the head is too large", closes=True)
LINE_TOO_LONG: Final = problem(outcomes.TOO_LARGE._replace(status=414), "the address is too long", closes=True)


class HeadLimits(NamedTuple):
    """What a head may be, in bytes."""

    line_bytes_max: int
    head_bytes_max: int
    body_bytes_max: int


def _learn(name: bytes) -> int:
    """Return which header a name is."""
    field = _FIELDS.get(name.lower(), OTHER)
    if len(_spellings) < SPELLINGS_MAX:
        _spellings[name] = field
    return field


class RequestHead:
    """Reads one request after the other; what it says of the present one is in its attributes."""

    __slots__ = (
        "_parser",
        "_seen",
        "authorization",
        "body_bytes",
        "closes",
        "encoded",
        "idempotency_key",
        "is_http_1_0",
        "method",
        "unframed",
        "url",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self.method = self._parser.get_method
        """Returns the method of the request that was read last."""
        self._seen = 0
        self.url = b""
        self.authorization: bytes | None = None
        self.idempotency_key: bytes | None = None
        self.body_bytes = 0
        self.closes = False
        """The request says that it is its connection's last."""
        self.encoded = False
        """The body is compressed, or the like."""
        self.is_http_1_0 = False
        self.unframed = False
        """Where the request ends is not known from its head."""

    # -- what the parser tells -------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        """Keep the request's target."""
        self.url = url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep the headers that matter."""
        field = _spellings.get(name)
        if field is None:
            field = _learn(name)
        if not field:
            return
        seen = self._seen
        self._seen = seen | field | (REPEATED if seen & field else 0)
        if field == AUTHORIZATION:
            self.authorization = value.rstrip(BLANKS)
        elif field == IDEMPOTENCY_KEY:
            self.idempotency_key = value.rstrip(BLANKS)
        elif field == CONTENT_LENGTH:
            self.body_bytes = int(value)  # llhttp has seen to it that it is a number
        elif field > CONTENT_LENGTH:
            self._read_seldom(field, value.rstrip(BLANKS).lower(), seen)

    def _read_seldom(self, field: int, value: bytes, seen: int) -> None:
        if field == CONNECTION:
            self._seen = seen
            self.closes = self.closes or b"close" in [option.strip(BLANKS) for option in value.split(b",")]
        elif field == CONTENT_ENCODING:
            if value == b"identity":
                self._seen = seen
            else:
                self.encoded = True
        elif field == TRANSFER_ENCODING and value != b"chunked":
            self._seen |= UNREADABLE
        elif field == EXPECT and value != b"100-continue":
            self._seen |= UNEXPECTED

    # -- what the connection asks ----------------------------------------------------------------------------------

    def read(self, head: bytes, limits: HeadLimits) -> Answer | None:
        """Read a whole head, its empty line included; returns the answer to one that is refused."""
        self._seen = self.body_bytes = 0
        self.authorization = self.idempotency_key = None
        self.closes = self.encoded = self.unframed = False
        if not _begins_like_http(head[0]):
            return BAD_REQUEST
        if len(head) > limits.line_bytes_max:
            too_large = _too_large(len(head), head.find(b"\n"), limits)
            if too_large is not None:
                return too_large
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            self.unframed = True
        except httptools.HttpParserError:
            return BAD_REQUEST
        version = self._parser.get_http_version()
        self.is_http_1_0 = version == "1.0"
        if version != "1.1" and not self.is_http_1_0:
            return BAD_REQUEST
        if len(self.url) > limits.line_bytes_max:
            return LINE_TOO_LONG
        seen = self._seen
        refused = self._refuse(seen) if seen & (REPEATED | UNFRAMED) or not seen & HOST else None
        if refused is not None:
            return refused
        return body_too_large(limits.body_bytes_max) if self.body_bytes > limits.body_bytes_max else None

    def _refuse(self, seen: int) -> Answer | None:
        """Refuse by what has been seen."""
        if seen & REPEATED:
            return TWICE
        if not seen & HOST and not self.is_http_1_0:
            return NO_HOST
        if not seen & UNFRAMED:
            return None
        self.unframed = True
        if seen & UNREADABLE or (seen & TRANSFER_ENCODING and self.is_http_1_0):
            return BAD_REQUEST
        if seen & UNEXPECTED:
            return NOT_EXPECTED
        return ENCODED_CHUNKS if self.encoded else None

    def end(self, body: bytes) -> bool:
        """Take the body, of the announced length; returns whether the connection may be used again (RFC 9112, 9.3)."""
        if body:
            self._parser.feed_data(body)
        return not (self.closes or self.is_http_1_0)


def refuse_unfinished(data: bytes, start: int, limits: HeadLimits) -> Answer | None:
    """Return the answer to what begins at `start` and will never become a head: too long, or no HTTP; else None."""
    size, line = len(data) - start, data.find(b"\n", start)
    too_large = _too_large(size, line - start, limits)
    if too_large is not None:
        return too_large
    if (line >= 0 and (line == start or data[line - 1] != CR)) or (size and not _may_begin_http(data, start, size)):
        return BAD_REQUEST
    return None


def _too_large(size: int, line: int, limits: HeadLimits) -> Answer | None:
    """Return the answer to a head that is too large, however it was cut on its way.

    Args:
        size: how much of it is here.
        line: where its first line ends; negative: not yet.
        limits: what is allowed.
    """
    if size > limits.line_bytes_max and (line if line >= 0 else size) > limits.line_bytes_max + LINE_REST_BYTES:
        return LINE_TOO_LONG
    return HEAD_TOO_LARGE if size > limits.head_bytes_max else None


def _may_begin_http(data: bytes, start: int, size: int) -> bool:
    return _begins_like_http(data[start]) or (size == 1 and data[start] == CR)  # an empty line comes before


def _begins_like_http(byte: int) -> bool:
    """Tell whether a method may begin with this byte; TLS, for one, begins otherwise."""
    return 65 <= byte <= 90

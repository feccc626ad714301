"""The head of one request (RFC 9112): read by httptools (llhttp, strict), held against the limits. No I/O."""

from typing import Final, NamedTuple

import httptools

from domain import outcomes
from gateway.answers import Answer, body_too_large, problem

OTHER, HOST, AUTHORIZATION, IDEMPOTENCY_KEY, CONTENT_LENGTH, CONTENT_ENCODING, UNFRAMED = range(7)
_FIELDS: Final = {
    b"host": HOST,
    b"authorization": AUTHORIZATION,
    b"idempotency-key": IDEMPOTENCY_KEY,
    b"content-length": CONTENT_LENGTH,
    b"content-encoding": CONTENT_ENCODING,
    b"transfer-encoding": UNFRAMED,
    b"expect": UNFRAMED,
}
SPELLINGS_MAX: Final = 512
_spellings: Final[dict[bytes, int]] = {}
"""Header names as they came, so that each spelling is put into lower case once."""

CR: Final = 13

BAD_REQUEST: Final = problem(outcomes.INVALID, "not an HTTP/1.1 request that can be read", closes=True)
BAD_HOST: Final = problem(outcomes.INVALID, "send exactly one Host header", closes=True)
TWICE: Final = problem(outcomes.INVALID, "Authorization and Idempotency-Key may be sent once", closes=True)
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
        "_hosts",
        "_parser",
        "_repeated",
        "authorization",
        "body_bytes",
        "encoded",
        "idempotency_key",
        "is_http_1_0",
        "unframed",
        "url",
    )

    def __init__(self) -> None:
        self._parser = httptools.HttpRequestParser(self)
        self.is_http_1_0 = False
        self.begin()

    def begin(self) -> None:
        """Be ready for a request."""
        self._hosts = 0
        self._repeated = False
        self.url = b""
        self.authorization: bytes | None = None
        self.idempotency_key: bytes | None = None
        self.body_bytes = 0
        self.encoded = False
        """The body is compressed, or the like."""
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
        if field == OTHER:
            return
        if field == HOST:
            self._hosts += 1
        elif field == AUTHORIZATION:
            self._repeated |= self.authorization is not None
            self.authorization = value
        elif field == IDEMPOTENCY_KEY:
            self._repeated |= self.idempotency_key is not None
            self.idempotency_key = value
        elif field == CONTENT_LENGTH:
            self.body_bytes = int(value)  # llhttp has seen to it that it is a number
        elif field == CONTENT_ENCODING:
            self.encoded = value.lower() != b"identity"
        else:
            self.unframed = True

    # -- what the connection asks ----------------------------------------------------------------------------------

    def read(self, head: bytes, limits: HeadLimits) -> Answer | None:
        """Read a whole head, its empty line included; returns the answer to one that is refused."""
        if len(head) > limits.head_bytes_max:
            return HEAD_TOO_LARGE
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
        if self._hosts != 1 and (self._hosts or not self.is_http_1_0):
            return BAD_HOST
        if len(self.url) > limits.line_bytes_max:
            return LINE_TOO_LONG
        if self._repeated:
            return TWICE
        return body_too_large(limits.body_bytes_max) if self.body_bytes > limits.body_bytes_max else None

    def end(self, body: bytes) -> bool:
        """Take the body, of the announced length; returns whether the connection may be used again (RFC 9112, 9.3)."""
        if body:
            self._parser.feed_data(body)
        return self._parser.should_keep_alive() and not self.is_http_1_0

    @property
    def method(self) -> bytes:
        """The method of the request that was read last."""
        return self._parser.get_method()


def refuse_unfinished(data: bytes, start: int, limits: HeadLimits) -> Answer | None:
    """Return the answer to what begins at `start` and will never become a head: too long, or no HTTP; else None."""
    size, line = len(data) - start, data.find(b"\n", start)
    if line < 0 and size > limits.line_bytes_max:
        return LINE_TOO_LONG
    if size > limits.head_bytes_max:
        return HEAD_TOO_LARGE
    if (line >= 0 and (line == start or data[line - 1] != CR)) or (size and not _begins_like_http(data[start])):
        return BAD_REQUEST
    return None


def _begins_like_http(byte: int) -> bool:
    """Tell whether a method may begin with this byte; TLS, for one, begins otherwise."""
    return 65 <= byte <= 90 or byte == CR

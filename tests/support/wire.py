"""A raw HTTP/1.1 client for tests: sends the bytes it is given, and reads answers more strictly than a browser would.

Nothing is read from the socket unless a test asks for it.
"""

import asyncio
import contextlib
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Iterable
from email.utils import parsedate_to_datetime
from typing import Any, Final, NamedTuple, TypeVar

import orjson

T = TypeVar("T")

WAIT_MAX_S: Final = 15.0
"""Bounds every wait; nothing is asserted about how long things take."""
TURNS: Final = 3
"""Turns of the loop after each piece that is sent, in which a server in this process takes it in."""
READ_BYTES: Final = 65_536

PROBLEM_JSON: Final = "application/problem+json"

_STATUS_LINE: Final = re.compile(r"HTTP/1\.[01] (\d{3}) [A-Za-z -]+")
_HEADER: Final = re.compile(r"([A-Za-z-]+): (\S(?:.*\S)?)")


class Reply(NamedTuple):
    """One answer."""

    status: int
    headers: tuple[tuple[str, str], ...]
    body: bytes

    def header(self, name: str) -> str | None:
        """Return a header's value, which may be there once."""
        found = [value for other, value in self.headers if other.lower() == name.lower()]
        assert len(found) <= 1, f"{name} stands {len(found)} times in {self}"
        return found[0] if found else None

    @property
    def json(self) -> dict[str, Any]:
        """The body, decoded."""
        decoded: dict[str, Any] = orjson.loads(self.body)
        return decoded

    @property
    def code(self) -> str:
        """The problem's code, or the status of what is none."""
        if self.header("Content-Type") != PROBLEM_JSON or not self.body:
            return str(self.status)
        assert self.json["status"] == self.status
        return str(self.json["code"])

    @property
    def closes(self) -> bool:
        """Whether it says that the connection ends with it."""
        return (self.header("Connection") or "").lower() == "close"


async def soon(what: Awaitable[T], missed: str) -> T:
    """Wait for something that must happen."""
    try:
        async with asyncio.timeout(WAIT_MAX_S):
            return await what
    except TimeoutError:
        raise AssertionError(missed) from None


class Wire:
    """One connection to a server."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._loop = asyncio.get_running_loop()
        self._buffer = b""

    async def send(self, *pieces: bytes) -> None:
        """Send pieces one after the other; the server takes in each of them by itself."""
        for piece in pieces:
            try:
                await soon(self._loop.sock_sendall(self._sock, piece), "the server does not read")
            except ConnectionError:
                raise AssertionError("the connection was reset while something was being sent") from None
            for _ in range(TURNS):
                await asyncio.sleep(0)

    async def ask(self, request: bytes, *, head_only: bool = False) -> Reply:
        """Send one request and read its answer."""
        await self.send(request)
        return await self.reply(head_only=head_only)

    async def reply(self, *, head_only: bool = False) -> Reply:
        """Read exactly one answer; `head_only`: it answers a HEAD."""
        head = await self._until(b"\r\n\r\n")
        status_line, *lines = head.decode("ascii").split("\r\n")
        status = _STATUS_LINE.fullmatch(status_line)
        assert status is not None, status_line
        headers = []
        for line in lines:
            parts = _HEADER.fullmatch(line)
            assert parts is not None, line
            headers.append((parts[1], parts[2]))
        reply = Reply(int(status[1]), tuple(headers), b"")
        _assert_owed(reply)
        if head_only:
            return reply
        length = int(reply.header("Content-Length") or "")
        while len(self._buffer) < length:
            await self._more()
        body, self._buffer = self._buffer[:length], self._buffer[length:]
        return reply._replace(body=body)

    async def replies(self, count: int) -> list[Reply]:
        """Read so many answers; more of them must not have come."""
        found = [await self.reply() for _ in range(count)]
        assert self._buffer == b""
        return found

    async def rest(self) -> list[Reply]:
        """Read every answer up to the connection's end."""
        found: list[Reply] = []
        while True:
            if not self._buffer:
                self._buffer = await self._read()
            if not self._buffer:
                return found
            found.append(await self.reply())

    async def interim(self) -> bytes:
        """Read a head without looking at it: that of an answer like `100 Continue`."""
        return await self._until(b"\r\n\r\n")

    async def last_reply(self) -> Reply:
        """Read an answer after which the server ends the connection, as the answer says."""
        reply = await self.reply()
        assert reply.closes, reply
        await self.assert_ends()
        return reply

    async def assert_ends(self) -> None:
        """Read on: nothing more may come, and the server ends the connection."""
        assert (self._buffer, await self._read()) == (b"", b"")

    async def assert_cut(self) -> bytes:
        """Read to the connection's end, orderly or not; returns what came."""
        came = self._buffer
        with contextlib.suppress(ConnectionResetError):
            while True:
                piece = await soon(self._loop.sock_recv(self._sock, READ_BYTES), "the connection was not ended")
                if not piece:
                    break
                came += piece
        return came

    async def finish(self) -> None:
        """Say that no more requests come; nothing more may be answered."""
        self.shut_down()
        await self.assert_ends()

    def shut_down(self) -> None:
        """End our direction of the connection."""
        self._sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Go away."""
        self._sock.close()

    async def _until(self, end: bytes) -> bytes:
        while end not in self._buffer:
            await self._more()
        found, _, self._buffer = self._buffer.partition(end)
        return found

    async def _more(self) -> None:
        piece = await self._read()
        assert piece, f"the connection ended after {self._buffer!r}"
        self._buffer += piece

    async def _read(self) -> bytes:
        try:
            return await soon(self._loop.sock_recv(self._sock, READ_BYTES), f"nothing came after {self._buffer!r}")
        except ConnectionResetError:
            raise AssertionError(f"the connection was reset after {self._buffer!r}") from None


def _assert_owed(reply: Reply) -> None:
    """Assert what every answer owes: a date, a length, and nothing about what runs here."""
    parsedate_to_datetime(reply.header("Date") or "")
    assert (reply.header("Content-Length") or "").isdecimal()
    assert reply.header("Transfer-Encoding") is None
    assert reply.header("Server") is None
    assert reply.header("Connection") in {None, "close", "keep-alive"}


@contextlib.asynccontextmanager
async def connected(port: int, *, receive_bytes: int = 0) -> AsyncIterator[Wire]:
    """Connect to a port of this machine; `receive_bytes`: the kernel takes in no more than about so much unread."""
    sock = await connect(port, receive_bytes=receive_bytes)
    try:
        yield Wire(sock)
    finally:
        sock.close()


async def connect(port: int, *, receive_bytes: int = 0) -> socket.socket:
    """Return a socket without delays."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    try:
        await soon(asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", port)), "not accepted")
    except BaseException:
        sock.close()
        raise
    return sock


def chunked(pieces: Iterable[bytes]) -> bytes:
    """Encode a body in chunks."""
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"

"""Where a request ends, and what is none: the same in both lanes, whatever the pieces that it comes in (fault 43)."""

from collections.abc import Callable
from typing import Any, Final

import pytest

from domain.settings import Settings
from tests.support.gate import LIVEZ, Gate, open_gate
from tests.support.wire import PROBLEM_JSON, chunked


async def test_split_in_two_at_every_byte(plain: Settings, lane: str) -> None:
    """An order in two pieces, wherever it is cut, gets the answer of the whole one; one unit is taken in all."""
    async with open_gate(plain, lane) as gate:
        order = gate.order()
        async with gate.wire() as wire:
            first = await wire.ask(order)
            assert first.status == 202
            for cut in range(1, len(order)):
                await wire.send(order[:cut], order[cut:])
                again = await wire.reply()
                assert (again.status, again.body, again.closes) == (202, first.body, False), cut
                assert again.header("Idempotent-Replayed") == "true"
            await wire.finish()
        assert await gate.taken() == 1
        await gate.assert_sound()


@pytest.mark.parametrize("how", ["fixed", "chunked", "cold", "empty lines first"])
async def test_byte_by_byte(plain: Settings, lane: str, how: str) -> None:
    """A request byte by byte gets the answer of the whole one."""
    async with open_gate(plain, lane) as gate:
        whole = {
            "fixed": gate.order(),
            "chunked": gate.head(headers=(("Transfer-Encoding", "chunked"),)) + chunked([gate.body()]),
            "cold": LIVEZ,
            "empty lines first": b"\r\n\r\n" + gate.order(),
        }[how]
        async with gate.wire() as wire:
            await wire.send(*(whole[at : at + 1] for at in range(len(whole))))
            reply = await wire.reply()
            assert reply.status == (200 if how == "cold" else 202)
            await wire.finish()
        assert await gate.taken() == (0 if how == "cold" else 1)


def _post(headers: str, body: bytes | None = None) -> Callable[[Gate], bytes]:
    """Return what makes an order whose body is a good one, unless another is given, with these headers about it."""

    def make(gate: Gate) -> bytes:
        good = gate.body() if body is None else body.replace(b"%g", gate.body()).replace(b"%s", _smuggled(gate))
        filled = headers.replace("%n", str(len(gate.body())))
        return gate.head()[:-2] + filled.encode("latin-1") + b"\r\n" + good

    return make


def _get(line: str, headers: str = "Host: shop\r\n") -> Callable[[Gate], bytes]:
    return lambda _gate: f"{line}\r\n{headers}\r\n".encode("latin-1")


def _in_chunks(encode: Callable[[bytes], bytes], coding: str = "chunked") -> Callable[[Gate], bytes]:
    return lambda gate: gate.head(headers=(("Transfer-Encoding", coding),)) + encode(gate.body())


def _smuggled(gate: Gate) -> bytes:
    """Return a good order of somebody else, which must never be placed: it is always inside of another request."""
    return gate.order("eve", "smuggled")


_CHUNKED: Final = "Transfer-Encoding: chunked\r\n"
_LENGTH: Final = "Content-Length: %n\r\n"

REFUSED: Final[dict[str, Callable[[Gate], bytes]]] = {
    "length with chunks": _post(_LENGTH + _CHUNKED),
    "chunks with length": _post(_CHUNKED + _LENGTH),
    "length 0 with chunks": _post("Content-Length: 0\r\n" + _CHUNKED, b"0\r\n\r\n%s"),
    "short length with chunks": _post("Content-Length: 5\r\n" + _CHUNKED, b"0\r\n\r\n%s"),
    "two equal lengths": _post(_LENGTH + _LENGTH),
    "two lengths": _post("Content-Length: 0\r\n" + _LENGTH, b"%s"),
    "plus": _post("Content-Length: +%n\r\n"),
    "list of lengths": _post("Content-Length: %n, %n\r\n"),
    "negative": _post("Content-Length: -1\r\n", b"%s"),
    "too many digits": _post("Content-Length: 99999999999999999999999\r\n", b"%s"),
    "2^64": _post("Content-Length: 18446744073709551616\r\n", b"%s"),
    "hexadecimal": _post("Content-Length: 0x10\r\n", b"%s"),
    "underscore": _post("Content-Length: 1_0\r\n", b"%s"),
    "fraction": _post("Content-Length: 3.0\r\n", b"%s"),
    "no length": _post("Content-Length:\r\n", b"%s"),
    "length in two parts": _post("Content-Length: 3 3\r\n", b"%s"),
    "gzip coding": _post("Transfer-Encoding: gzip\r\n", b"%s"),
    "gzip, then chunked": _post("Transfer-Encoding: gzip, chunked\r\n", b"0\r\n\r\n%s"),
    "chunked, then gzip": _post("Transfer-Encoding: chunked, gzip\r\n", b"0\r\n\r\n%s"),
    "chunked twice": _post("Transfer-Encoding: chunked, chunked\r\n", b"0\r\n\r\n%s"),
    "two codings": _post(_CHUNKED + _CHUNKED, b"0\r\n\r\n%s"),
    "two codings, one identity": _post("Transfer-Encoding: identity\r\n" + _CHUNKED, b"0\r\n\r\n%s"),
    "xchunked": _post("Transfer-Encoding: xchunked\r\n", b"0\r\n\r\n%s"),
    "quoted chunked": _post('Transfer-Encoding: "chunked"\r\n', b"0\r\n\r\n%s"),
    "vertical tab before chunked": _post("Transfer-Encoding: \x0bchunked\r\n", b"0\r\n\r\n%s"),
    "coding without name": _post("Transfer-Encoding:\r\n", b"0\r\n\r\n%s"),
    "chunks in HTTP/1.0": lambda gate: _post(_CHUNKED, b"0\r\n\r\n%s")(gate).replace(b"HTTP/1.1", b"HTTP/1.0", 1),
    "space before the colon of a length": _post("Content-Length : 0\r\n" + _CHUNKED, b"0\r\n\r\n%s"),
    "space before the colon of a coding": _post("Transfer-Encoding : chunked\r\n" + _LENGTH, b"0\r\n\r\n%s"),
    "chunk without a number": _post(_CHUNKED, b"zz\r\n%s"),
    "negative chunk": _post(_CHUNKED, b"-1\r\n%s"),
    "chunk with a plus": _post(_CHUNKED, b"+1\r\n \r\n0\r\n\r\n%s"),
    "chunk with 0x": _post(_CHUNKED, b"0x1\r\n \r\n0\r\n\r\n%s"),
    "empty chunk line": _post(_CHUNKED, b"\r\n%s"),
    "huge chunk": _post(_CHUNKED, b"fffffffffffffffffffff\r\n%s"),
    "space after the size": _post(_CHUNKED, b"1 \r\n \r\n0\r\n\r\n%s"),
    "line feeds between chunks": _post(_CHUNKED, b"1\n \n0\n\n%s"),
    "chunk longer than its size": _post(_CHUNKED, b"1\r\n  \r\n0\r\n\r\n%s"),
    "line feed in an extension": _post(_CHUNKED, b"1;a\nb\r\n \r\n0\r\n\r\n%s"),
    "line feed after the request line": lambda _gate: b"GET /livez HTTP/1.1\nHost: shop\r\n\r\n",
    "line feed after a header": _get("GET /livez HTTP/1.1", "Host: shop\nX: y\r\n"),
    "line feeds alone": lambda _gate: b"GET /livez HTTP/1.1\nHost: shop\n\n",
    "head ended by line feeds": lambda gate: b"GET /livez HTTP/1.1\r\nHost: shop\n\n" + _smuggled(gate),
    "line feed first": lambda _gate: b"\n" + LIVEZ,
    "carriage return first": lambda _gate: b"\r" + LIVEZ,
    "carriage return as end of line": _get("GET /livez HTTP/1.1\rX: y"),
    "folded value": _get("GET /livez HTTP/1.1", "X: a\r\n b\r\nHost: shop\r\n"),
    "folded with a tab": _get("GET /livez HTTP/1.1", "X: a\r\n\tb\r\nHost: shop\r\n"),
    "first header folded": _get("GET /livez HTTP/1.1", " X: a\r\nHost: shop\r\n"),
    "space before the colon": _get("GET /livez HTTP/1.1", "Host: shop\r\nX : a\r\n"),
    "space in a name": _get("GET /livez HTTP/1.1", "Host: shop\r\nX y: a\r\n"),
    "no colon": _get("GET /livez HTTP/1.1", "Host: shop\r\nX\r\n"),
    "no name": _get("GET /livez HTTP/1.1", "Host: shop\r\n: a\r\n"),
    "bracket in a name": _get("GET /livez HTTP/1.1", "Host: shop\r\nX(: a\r\n"),
    "NUL in a name": _get("GET /livez HTTP/1.1", "Host: shop\r\nX\0: a\r\n"),
    "NUL in a value": _get("GET /livez HTTP/1.1", "Host: shop\r\nX: a\0b\r\n"),
    "carriage return in a value": _get("GET /livez HTTP/1.1", "Host: shop\r\nX: a\rb\r\n"),
    "carriage return after a value": _get("GET /livez HTTP/1.1", "Host: shop\r\nX: a\r\r\n"),
    "DEL in a value": _get("GET /livez HTTP/1.1", "Host: shop\r\nX: \x7f\r\n"),
    "NUL in a value of an order": _post(_LENGTH + "X: a\0b\r\n"),
    "carriage return in a value of an order": _post(_LENGTH + "X: a\rb\r\n"),
    "unknown method": _get("BREW /livez HTTP/1.1"),
    "method in small letters": _get("get /livez HTTP/1.1"),
    "bad character in a method": _get("G@T /livez HTTP/1.1"),
    "HTTP/2.0": _get("GET /livez HTTP/2.0"),
    "HTTP/1.2": _get("GET /livez HTTP/1.2"),
    "HTTP/0.9": _get("GET /livez HTTP/0.9"),
    "HTTP/1.10": _get("GET /livez HTTP/1.10"),
    "HTTP/01.1": _get("GET /livez HTTP/01.1"),
    "http/1.1": _get("GET /livez http/1.1"),
    "no version": _get("GET /livez"),
    "blank after the version": _get("GET /livez HTTP/1.1 "),
    "space in the target": _get("GET /li vez HTTP/1.1"),
    "tab before the version": _get("GET /livez\tHTTP/1.1"),
    "control character in the target": _get("GET /\x7f HTTP/1.1"),
    "NUL in the target": _get("GET /\0 HTTP/1.1"),
    "target beyond ASCII": _get("GET /\xff HTTP/1.1"),
    "no target": _get("GET  HTTP/1.1"),
    "target without a slash": _get("GET livez HTTP/1.1"),
    "target of OPTIONS for GET": _get("GET * HTTP/1.1"),
    "absolute target without host": _get("GET http:// HTTP/1.1"),
    "absolute target with a bad port": _get("GET http://shop:port/livez HTTP/1.1"),
    "no host": _get("GET /livez HTTP/1.1", ""),
    "two hosts": _get("GET /livez HTTP/1.1", "Host: shop\r\nHost: shop\r\n"),
    "two hosts of an order": _post(_LENGTH + "Host: elsewhere\r\n"),
    "preface of HTTP/2": lambda _gate: b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": lambda _gate: bytes.fromhex("16030100a5010000a10303") + bytes(160),
    "garbage": lambda _gate: b"\xff\xfe\xfd",
}
"""Name → bytes that are no request; each gets 400 INVALID, and the connection ends."""


@pytest.mark.parametrize("case", REFUSED)
async def test_what_is_no_request(plain: Settings, lane: str, case: str) -> None:
    """Fault 43: bytes that are no request get 400 and end the connection; what follows them is never executed.

    Guards strict framing: lengths that contradict each other, or that others may read otherwise, are refused.
    """
    async with open_gate(plain, lane) as gate:
        async with gate.wire() as wire:
            await wire.send(REFUSED[case](gate) + gate.order("eve", "next"))
            reply = await wire.last_reply()
        assert (reply.status, reply.code) == (400, "INVALID")
        assert reply.header("Content-Type") == PROBLEM_JSON
        assert await gate.taken() == 0
        await gate.assert_sound()


TAKEN: Final[dict[str, tuple[Callable[[Gate], bytes], int]]] = {
    "fixed length": (_post(_LENGTH), 202),
    "zeros before a length": (_post("Content-Length: 00%n\r\n"), 202),
    "chunked": (_in_chunks(lambda body: chunked([body])), 202),
    "chunked in capitals": (_in_chunks(lambda body: chunked([body]), "CHUNKED"), 202),
    "chunks of one byte": (_in_chunks(lambda body: chunked([bytes([one]) for one in body])), 202),
    "extensions are ignored": (_in_chunks(lambda body: b'%x;a=b;c="d"\r\n%b\r\n0;e\r\n\r\n' % (len(body), body)), 202),
    "trailers are ignored": (_in_chunks(lambda body: chunked([body])[:-2] + b"Idempotency-Key: x\r\n\r\n"), 202),
    "blanks before the target": (_get("GET   /livez HTTP/1.1"), 200),
    "empty lines first": (lambda _gate: b"\r\n\r\n" + LIVEZ, 200),
    "value beyond ASCII": (_get("GET /livez HTTP/1.1", "Host: shop\r\nX: \xff\r\n"), 200),
    "empty value": (_get("GET /livez HTTP/1.1", "Host: shop\r\nX:\r\n"), 200),
    "empty host": (_get("GET /livez HTTP/1.1", "Host:\r\n"), 200),
    "absolute target": (_get("GET http://shop/livez HTTP/1.1"), 200),
    "absolute target of an order": (lambda gate: gate.order().replace(b"POST /", b"POST http://shop/", 1), 202),
    "all of the server": (_get("OPTIONS * HTTP/1.1"), 404),
}  # fmt: skip
"""Name → bytes that are a request, though an odd one (RFC 9112, 2.2, 3.2.2, 7.1.1), and its status."""


@pytest.mark.parametrize("case", TAKEN)
async def test_what_is_a_request_after_all(plain: Settings, lane: str, case: str) -> None:
    """What RFC 9112 has a server take is taken, the same in both lanes."""
    make, status = TAKEN[case]
    async with open_gate(plain, lane) as gate:
        async with gate.wire() as wire:
            assert (await wire.ask(make(gate))).status == status
            await wire.finish()
        assert await gate.taken() == (1 if status == 202 else 0)


BODIES: Final = {
    "refused order": lambda gate, body: gate.order("ann", "k", body),
    "campaign": lambda gate, body: _with_body(gate.page(), body),
    "cold": lambda _gate, body: _with_body(LIVEZ, body),
    "unknown path": lambda _gate, body: _with_body(LIVEZ.replace(b"/livez", b"/nothing"), body),
    "wrong method": lambda _gate, body: _with_body(LIVEZ.replace(b"GET /livez", b"PUT /v1/orders"), body),
}


def _with_body(request: bytes, body: bytes) -> bytes:
    return request[:-2] + b"Content-Length: %d\r\n\r\n" % len(body) + body


@pytest.mark.parametrize("how", BODIES)
async def test_an_order_inside_a_body_is_no_order(plain: Settings, lane: str, how: str) -> None:
    """A complete order that is another request's body is not placed; the connection goes on behind it."""
    make: Any = BODIES[how]
    async with open_gate(plain, lane) as gate:
        async with gate.wire() as wire:
            await wire.send(make(gate, _smuggled(gate)) + LIVEZ)
            first, second = await wire.replies(2)
            assert first.status == {"refused order": 400, "unknown path": 404, "wrong method": 405}.get(how, 200)
            assert second.body == b'{"status":"ok"}'
            await wire.finish()
        assert await gate.taken() == 0


@pytest.mark.parametrize("path", ["/v1/orders", "/livez", "/nothing"])
async def test_nothing_is_taken_behind_chunks(plain: Settings, lane: str, path: str) -> None:
    """A chunked request is its connection's last: an order right behind it is not placed, so nobody can smuggle one."""
    async with open_gate(plain, lane) as gate:
        head = gate.head(headers=(("Transfer-Encoding", "chunked"),)).replace(b"/v1/orders", path.encode(), 1)
        async with gate.wire() as wire:
            await wire.send(head + chunked([gate.body()]) + gate.order("eve"))
            reply = await wire.last_reply()
        assert reply.status == {"/v1/orders": 202, "/livez": 405, "/nothing": 404}[path]
        assert await gate.taken() == (1 if path == "/v1/orders" else 0)

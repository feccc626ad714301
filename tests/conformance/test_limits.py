"""How large a request may be (fault 40), and what an order's body may say (fault 41): the same in both lanes."""

import zlib
from typing import Any, Final

import pytest

from domain.settings import Settings
from gateway.door import CHUNKS_FACTOR
from tests.support.gate import Gate, Headers, open_gate
from tests.support.wire import PROBLEM_JSON, Reply, chunked

SMALL: Final[dict[str, Any]] = {"line_bytes_max": 64, "head_bytes_max": 1_024, "body_bytes_max": 256}
CHUNKED: Final[Headers] = (("Transfer-Encoding", "chunked"),)
MEGABYTE: Final = 1_000_000


def padded(gate: Gate, size: int) -> bytes:
    """Return the body of a good order, with blanks up to a size."""
    return gate.body().ljust(size)


def with_head_of(gate: Gate, size: int) -> bytes:
    """Return an order whose head has so many bytes."""
    bare = gate.order(headers=(("X", ""),)).index(b"\r\n\r\n") + 4
    return gate.order(headers=(("X", "x" * (size - bare)),))


def page_of(size: int, *, end: bytes = b"\r\n\r\n") -> bytes:
    """Return a request whose target has so many bytes."""
    return b"GET /nothing?%b HTTP/1.1\r\nHost: shop" % (b"x" * (size - 9)) + end


async def refused(gate: Gate, *pieces: bytes) -> Reply:
    """Send what is too large, and return the answer, after which the connection must end."""
    async with gate.wire() as wire:
        await wire.send(*pieces)
        reply = await wire.last_reply()
    assert (reply.code, reply.header("Content-Type")) == ("INVALID", PROBLEM_JSON)
    return reply


async def test_body_at_its_limit(plain: Settings, lane: str) -> None:
    """Fault 40: a body of `body_bytes_max` is taken, one of a byte more gets 413 before it is sent."""
    async with open_gate(plain, lane, **SMALL) as gate:
        async with gate.wire() as wire:
            assert (await wire.ask(gate.order(body=padded(gate, 256)))).status == 202
            await wire.finish()
        announced = gate.head("ben", headers=(("Content-Length", "257"),))
        assert (await refused(gate, announced)).status == 413
        assert (await refused(gate, announced + padded(gate, 257))).status == 413
        assert (await refused(gate, announced.replace(b"257", b"18446744073709551615"))).status == 413
        assert await gate.taken() == 1
        await gate.assert_sound()


@pytest.mark.parametrize("piece", [1, 100, 257])
async def test_chunked_body_at_its_limit(plain: Settings, lane: str, piece: int) -> None:
    """A chunked body of `body_bytes_max` is taken, one of a byte more gets 413, whatever the chunks."""
    async with open_gate(plain, lane, **SMALL) as gate:
        for user, size, status in (("ann", 256, 202), ("ben", 257, 413)):
            body = padded(gate, size)
            pieces = [body[at : at + piece] for at in range(0, size, piece)]
            async with gate.wire() as wire:
                await wire.send(gate.head(user, headers=CHUNKED) + chunked(pieces))
                assert (await wire.last_reply()).status == status
        assert await gate.taken() == 1


@pytest.mark.parametrize("path", [b"/v1/orders", b"/livez", b"/nothing"])
async def test_bodies_may_be_allowed_to_be_large(plain: Settings, lane: str, path: bytes) -> None:
    """With a large `body_bytes_max` a connection is as good as before after a large body, read by anybody or not."""
    async with open_gate(plain, lane, body_bytes_max=MEGABYTE) as gate:
        large = gate.order(body=padded(gate, MEGABYTE)).replace(b"/v1/orders", path, 1)
        async with gate.wire() as wire:
            await wire.send(large + gate.page())
            first, page = await wire.replies(2)
            again = await wire.ask(large)
            assert first.status == again.status == {b"/v1/orders": 202, b"/livez": 405, b"/nothing": 404}[path]
            assert (page.status, (await wire.ask(gate.order("ben"))).status) == (200, 202)
            await wire.finish()
        body = padded(gate, MEGABYTE)
        pieces = chunked(body[at : at + 1_000] for at in range(0, MEGABYTE, 1_000))
        async with gate.wire() as wire:
            await wire.send(gate.head("cid", headers=CHUNKED).replace(b"/v1/orders", path, 1) + pieces)
            assert (await wire.last_reply()).status == first.status
        assert await gate.taken() == (3 if path == b"/v1/orders" else 1)


async def test_head_at_its_limit(plain: Settings, lane: str) -> None:
    """A head of `head_bytes_max` is taken, one of a byte more gets 431, whole or not."""
    async with open_gate(plain, lane, **SMALL) as gate:
        async with gate.wire() as wire:
            assert (await wire.ask(with_head_of(gate, 1_024))).status == 202
            await wire.finish()
        over = with_head_of(gate, 1_025)
        assert (await refused(gate, over)).status == 431
        assert (await refused(gate, over[:600], over[600:])).status == 431
        assert (await refused(gate, over[:-4], b"xxxx")).status == 431
        assert (await refused(gate, with_head_of(gate, MEGABYTE))).status == 431
        assert await gate.taken() == 1
        await gate.assert_sound()


async def test_target_at_its_limit(plain: Settings, lane: str) -> None:
    """A target of `line_bytes_max` is taken, a longer one gets 414, whole or in pieces, and whatever follows."""
    async with open_gate(plain, lane, **SMALL) as gate:
        for cut in (0, 66, 72, 80):
            exact = page_of(64)
            async with gate.wire() as wire:
                await wire.send(exact[:cut], exact[cut:])
                assert (await wire.reply()).status == 404
                await wire.finish()
            over = page_of(65)
            assert (await refused(gate, over[:cut], over[cut:])).status == 414
        assert (await refused(gate, page_of(MEGABYTE))).status == 414
        assert (await refused(gate, page_of(2_000, end=b"")[:200])).status == 414
        assert (await refused(gate, page_of(2_000)[:200], page_of(2_000)[200:])).status == 414
        assert await gate.taken() == 0


async def test_the_answer_reaches_a_client_that_is_still_sending(plain: Settings, lane: str) -> None:
    """A body of a megabyte gets 413, and the answer can be read after all of it was sent: nothing is reset.

    Guards the lingering close (RFC 9112, 9.6).
    """
    async with open_gate(plain, lane) as gate:
        kilobyte = b"x" * 1_000
        head = gate.head(headers=(("Content-Length", str(MEGABYTE)),))
        assert (await refused(gate, head, *[kilobyte] * 1_000)).status == 413
        head = gate.head(headers=CHUNKED)
        assert (await refused(gate, head, *[b"3e8\r\n" + kilobyte + b"\r\n"] * 1_000)).status == 413
        assert (await refused(gate, gate.order(headers=(("X", "x" * MEGABYTE),)))).status == 431
        closes = (("Connection", "close"),)
        assert (await refused(gate, gate.order(body=b"{", headers=closes), *[kilobyte] * 1_000)).status == 400
        assert (await refused(gate, gate.head(headers=closes), *[kilobyte] * 1_000)).status == 400
        assert await gate.taken() == 0
        await gate.assert_sound()


@pytest.mark.parametrize("flood", [b"X: y\r\n", b"x", b"X: " + b"y" * 500 + b"\r\n"])
async def test_chunks_bring_nothing_endless(plain: Settings, lane: str, flood: bytes) -> None:
    """Endless trailers, or an endless extension, are not kept: the order behind them is late, and not placed."""
    async with open_gate(plain, lane, **SMALL, body_timeout_s=0.3) as gate:
        begun = b"1;" if flood == b"x" else chunked([gate.body()])[:-2]
        kept = SMALL["head_bytes_max"] + CHUNKS_FACTOR * SMALL["body_bytes_max"]
        ended = b"\r\n \r\n0\r\n\r\n" if flood == b"x" else b"\r\n"
        reply = await refused(gate, gate.head(headers=CHUNKED) + begun, flood * (2 * kept // len(flood)), ended)
        assert reply.status == 400
        assert await gate.taken() == 0
        await gate.assert_sound()


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "GZip", "gzip, identity"])
async def test_nothing_is_decompressed(plain: Settings, lane: str, coding: str) -> None:
    """Fault 40: a compressed body gets 400, were it small on its way and huge unpacked, and were it not compressed."""
    async with open_gate(plain, lane) as gate:
        bomb = zlib.compress(gate.body() + b" " * 10 * MEGABYTE, wbits=31)
        assert len(bomb) < plain.gateway.body_bytes_max
        async with gate.wire() as wire:
            for body in (bomb, gate.body()):
                reply = await wire.ask(gate.order(body=body, headers=(("Content-Encoding", coding),)))
                assert (reply.status, reply.code) == (400, "INVALID")
            await wire.finish()
        in_chunks = gate.head(headers=(("Content-Encoding", coding), *CHUNKED)) + chunked([gate.body()])
        assert (await refused(gate, in_chunks)).status == 400
        assert await gate.taken() == 0
        await gate.assert_sound()


async def test_identity_is_no_compression(plain: Settings, lane: str) -> None:
    """`Content-Encoding: identity` says nothing, and an order without a body to decode is refused for that alone."""
    async with open_gate(plain, lane) as gate:
        async with gate.wire() as wire:
            assert (await wire.ask(gate.order(headers=(("Content-Encoding", "Identity"),)))).status == 202
            await wire.finish()
        assert await gate.taken() == 1


ODD: Final = b'{"campaign_id":"%s","sku_id":"box","quantity":%q}'
BAD_BODIES: Final[dict[str, bytes]] = {
    "quantity twice": b'{"campaign_id":"%s","sku_id":"box","quantity":1,"quantity":1}',
    "quantity twice, once escaped": b'{"campaign_id":"%s","sku_id":"box","quantity":1,"quantit\\u0079":2}',
    "escaped first": b'{"campaign_id":"%s","\\u0073ku_id":"bag","sku_id":"box","quantity":1}',
    "SKU twice": b'{"campaign_id":"%s","sku_id":"bag","sku_id":"box","quantity":1}',
    "campaign twice": b'{"campaign_id":"x","campaign_id":"%s","sku_id":"box","quantity":1}',
    "unknown name": b'{"campaign_id":"%s","sku_id":"box","quantity":1,"price_cents":1}',
    "NaN": ODD.replace(b"%q", b"NaN"),
    "Infinity": ODD.replace(b"%q", b"Infinity"),
    "-Infinity": ODD.replace(b"%q", b"-Infinity"),
    "true": ODD.replace(b"%q", b"true"),
    "null": ODD.replace(b"%q", b"null"),
    "1.0": ODD.replace(b"%q", b"1.5"),
    "1e400": ODD.replace(b"%q", b"1e400"),
    "01": ODD.replace(b"%q", b"01"),
    "+1": ODD.replace(b"%q", b"+1"),
    "0x1": ODD.replace(b"%q", b"0x1"),
    "a string": ODD.replace(b"%q", b'"1"'),
    "2^64 + 1": ODD.replace(b"%q", b"18446744073709551617"),
    "a thousand digits": ODD.replace(b"%q", b"1" * 1_000),
    "byte order mark": b"\xef\xbb\xbf" + ODD.replace(b"%q", b"1"),
    "UTF-16": ODD.replace(b"%q", b"1").decode().encode("utf-16"),
    "trailing bytes": ODD.replace(b"%q", b"1") + b"{}",
    "trailing NUL": ODD.replace(b"%q", b"1") + b"\0",
    "trailing comma": b'{"campaign_id":"%s","sku_id":"box","quantity":1,}',
    "comment": b'{"campaign_id":"%s","sku_id":"box",/* */"quantity":1}',
    "single quotes": ODD.replace(b"%q", b"1").replace(b'"', b"'"),
    "in a list": b"[" + ODD.replace(b"%q", b"1") + b"]",
    "deeply nested": ODD.replace(b"%q", b"[" * 5_000 + b"]" * 5_000),
    "deeply nested, not closed": b"[" * 16_000,
    "empty": b"",
}


@pytest.mark.parametrize("case", BAD_BODIES)
async def test_bodies_that_are_no_order(plain: Settings, lane: str, case: str) -> None:
    """Fault 41: JSON that another reader may take otherwise gets 400, and nothing is taken; the connection goes on.

    Guards the strict decoder.
    """
    async with open_gate(plain, lane) as gate:
        body = BAD_BODIES[case].replace(b"%s", gate.sale.id.encode())
        async with gate.wire() as wire:
            reply = await wire.ask(gate.order(body=body))
            assert (reply.status, reply.code, reply.closes) == (400, "INVALID", False)
            assert reply.header("Content-Type") == PROBLEM_JSON
            await wire.finish()
        assert await gate.taken() == 0
        await gate.assert_sound()

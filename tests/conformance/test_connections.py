"""One connection and what is asked on it: how long it lives, how requests may be written, what every answer owes."""

import pytest

from domain.settings import Settings
from tests.support.gate import LIVEZ, Gate, open_gate
from tests.support.wire import Reply, chunked, soon


def stated(request: bytes, *headers: bytes) -> bytes:
    """Return a request with further headers."""
    line, _, rest = request.partition(b"\r\n")
    return b"\r\n".join((line, *headers, rest))


def get(path: str, method: str = "GET") -> bytes:
    """Return a request without a body."""
    return f"{method} {path} HTTP/1.1\r\nHost: shop\r\n\r\n".encode("latin-1")


async def test_one_connection_serves_many_requests(plain: Settings, lane: str) -> None:
    """A connection that has asked for a page is as good as before: hot and cold requests alternate on it."""
    async with open_gate(plain, lane) as gate:
        async with gate.wire() as wire:
            for number in range(20):
                bought = await wire.ask(gate.order(f"b-{number}"))
                assert (bought.status, bought.closes) == (202, False)
                assert bought.header("Location") == f"/v1/orders/{bought.json['order_id']}"
                for request, status in ((LIVEZ, 200), (gate.page(), 200), (get("/nothing"), 404), (get("/docs"), 200)):
                    reply = await wire.ask(request)
                    assert (reply.status, reply.closes) == (status, False)
                again = await wire.ask(gate.order(f"b-{number}"))
                assert (again.body, again.header("Idempotent-Replayed")) == (bought.body, "true")
            await wire.finish()
        assert await gate.taken() == 20


@pytest.mark.parametrize("what", ["order", "page", "cold", "unknown", "refused"])
@pytest.mark.parametrize("said", [b"close", b"Close", b"x, close", b"close, keep-alive", b"close \t"])
async def test_connection_close(plain: Settings, lane: str, what: str, said: bytes) -> None:
    """A request with `Connection: close` is answered, the answer says the same, and the connection ends."""
    async with open_gate(plain, lane) as gate:
        request, status = _of_each_kind(gate)[what]
        async with gate.wire() as wire:
            await wire.send(stated(request, b"Connection: " + said))
            assert (await wire.last_reply()).status == status


@pytest.mark.parametrize("said", [(b"X: close",), (b"Connection: closed",), (b"Connection: keep-alive",)])
async def test_connection_stays_open(plain: Settings, lane: str, said: tuple[bytes, ...]) -> None:
    """HTTP/1.1 connections stay open unless `close` is said."""
    async with open_gate(plain, lane) as gate, gate.wire() as wire:
        for request, status in _of_each_kind(gate).values():
            reply = await wire.ask(stated(request, *said))
            assert (reply.status, reply.closes) == (status, False)
        await wire.finish()


@pytest.mark.parametrize("what", ["order", "page", "cold", "unknown", "refused"])
@pytest.mark.parametrize("said", [(), (b"Connection: keep-alive",), (b"Connection: close",)])
async def test_http_1_0(plain: Settings, lane: str, what: str, said: tuple[bytes, ...]) -> None:
    """An HTTP/1.0 request, which needs no Host, is answered, and its connection ends, whatever it says of that."""
    async with open_gate(plain, lane) as gate:
        request, status = _of_each_kind(gate)[what]
        old = stated(request, *said).replace(b"HTTP/1.1", b"HTTP/1.0", 1).replace(b"Host: shop\r\n", b"", 1)
        async with gate.wire() as wire:
            assert (await wire.ask(old)).status == status
            await wire.assert_ends()
        assert await gate.taken() == (1 if what == "order" else 0)


def _of_each_kind(gate: Gate) -> dict[str, tuple[bytes, int]]:
    return {
        "order": (gate.order(), 202),
        "page": (gate.page(), 200),
        "cold": (LIVEZ, 200),
        "unknown": (get("/nothing"), 404),
        "refused": (gate.order(body=b"{"), 400),
    }


METHODS = ("HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "POST", "GET")
ALLOWED = {"/v1/orders": "POST", "/v1/orders/x": "GET", "/v1/campaigns/x": "GET", "/livez": "GET, HEAD"}


@pytest.mark.parametrize(
    ("path", "method"), [(path, one) for path, allowed in ALLOWED.items() for one in METHODS if one not in allowed]
)
async def test_other_methods(plain: Settings, lane: str, path: str, method: str) -> None:
    """A method that a path does not know gets 405 with `Allow`, and the connection goes on; HEAD's has no body."""
    async with open_gate(plain, lane) as gate, gate.wire() as wire:
        reply = await wire.ask(get(path, method), head_only=method == "HEAD")
        assert (reply.status, reply.header("Allow"), reply.closes) == (405, ALLOWED[path], False)
        assert (await wire.ask(LIVEZ)).status == 200
        await wire.finish()


async def test_expect_100_continue(plain: Settings, lane: str) -> None:
    """A buyer who asks first is told to go on, and then gets his answer; another expectation gets 417."""
    async with open_gate(plain, lane) as gate:
        body = gate.body()
        framed = (("Content-Length", str(len(body))),), body
        in_chunks = (("Transfer-Encoding", "chunked"),), chunked([body])
        for user, (headers, sent) in (("ann", framed), ("ben", in_chunks)):
            async with gate.wire() as wire:
                await wire.send(gate.head(user, headers=(*headers, ("Expect", "100-Continue"))))
                assert await wire.interim() == b"HTTP/1.1 100 Continue"
                await wire.send(sent)
                assert (await wire.last_reply()).status == 202
        async with gate.wire() as wire:
            await wire.send(gate.order("cid", headers=(("Expect", "a miracle"),)))
            reply = await wire.last_reply()
            assert (reply.status, reply.code) == (417, "INVALID")
        assert await gate.taken() == 2


@pytest.mark.parametrize("said", ["Upgrade: websocket", "Upgrade: h2c\r\nHTTP2-Settings: x"])
async def test_upgrades_are_declined(plain: Settings, lane: str, said: str) -> None:
    """A request that would rather speak another protocol is answered in this one, and is its connection's last."""
    async with open_gate(plain, lane) as gate:
        for request, status in ((gate.order(), 202), (gate.page(), 200), (LIVEZ, 200)):
            async with gate.wire() as wire:
                await wire.send(stated(request, b"Connection: Upgrade", said.encode()))
                assert (await wire.last_reply()).status == status
        assert await gate.taken() == 1


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/orders?x=1", 202),
        ("/v1/orders?", 202),
        ("/v1/%6frders", 202),
        ("/v1/orders#x", 202),
        ("//v1/orders", 404),
        ("/v1/orders/", 404),
        ("/v1//orders", 404),
        ("/V1/orders", 404),
        ("/v1/./orders", 404),
    ],
)
async def test_ways_to_write_the_path_of_an_order(plain: Settings, lane: str, path: str, status: int) -> None:
    """Other spellings of a hot path find the same resource, or none, in both lanes."""
    async with open_gate(plain, lane) as gate:
        async with gate.wire() as wire:
            reply = await wire.ask(gate.order().replace(b"/v1/orders", path.encode(), 1))
            await wire.finish()
        assert reply.status == status
        assert await gate.taken() == (1 if status == 202 else 0)


@pytest.mark.parametrize("ending", ["", "?x=1", "#x"])
async def test_ways_to_write_the_path_of_a_campaign(plain: Settings, lane: str, ending: str) -> None:
    """Percent-encoded or with a query, a campaign's page is the same page."""
    async with open_gate(plain, lane) as gate, gate.wire() as wire:
        spelt = "".join(f"%{ord(letter):02x}" for letter in gate.sale.id)
        pages = [await wire.ask(get(f"/v1/campaigns/{name}{ending}")) for name in (gate.sale.id, spelt)]
        for page in pages:
            assert (page.status, page.json["campaign_id"]) == (200, gate.sale.id)
        assert (await wire.ask(get(f"/v1/campaigns/%ff{ending}"))).status == 404
        await wire.finish()


@pytest.mark.parametrize("name", ["-", "..", ".", "%2e%2e", "%2f", "%00", "%zz", "a%20b", "a~b", "é"])
async def test_names_of_nothing(plain: Settings, lane: str, name: str) -> None:
    """A last part of a path that names nothing gets the same in both lanes: 404, or 401 from a nobody."""
    async with open_gate(plain, lane) as gate:
        for path, status in (("campaigns", 404), ("orders", 401)):
            async with gate.wire() as wire:
                reply = await wire.ask(get(f"/v1/{path}/{name}"))
                assert reply.status == (400 if name == "é" else status)
                await wire.finish()


async def test_header_names_in_any_case_with_blanks_around_their_values(plain: Settings, lane: str) -> None:
    """However names are spelt and values padded, it is the same order."""
    async with open_gate(plain, lane) as gate:
        body, token = gate.body(), gate.token("ann").encode()
        async with gate.wire() as wire:
            first = await wire.ask(gate.order("ann", "k"))
            for spell in (bytes.lower, bytes.upper, bytes.title, bytes.swapcase):
                for before, after in ((b"", b""), (b" ", b" "), (b"\t ", b" \t"), (b"    ", b"\t")):
                    headers = {
                        b"Host": b"shop",
                        b"Idempotency-Key": b"k",
                        b"Authorization": b"Bearer " + token,
                        b"Content-Length": b"%d" % len(body),
                        b"Connection": b"keep-alive",
                    }
                    lines = [spell(name) + b":" + before + value + after for name, value in headers.items()]
                    again = await wire.ask(b"\r\n".join((b"POST /v1/orders HTTP/1.1", *lines, b"", body)))
                    assert (again.status, again.body) == (202, first.body), lines
                    assert again.header("Idempotent-Replayed") == "true"
            await wire.finish()
        assert await gate.taken() == 1


@pytest.mark.parametrize("name", ["Authorization", "AUTHORIZATION", "Idempotency-Key", "idempotency-key"])
async def test_who_and_which_are_said_once(plain: Settings, lane: str, name: str) -> None:
    """Two Authorization headers, or two keys, get 400, even if they are equal: readers differ on which one counts."""
    async with open_gate(plain, lane) as gate:
        equal = f"Bearer {gate.token('ann')}" if name.lower() == "authorization" else "k"
        for value in (equal, "another", ""):
            async with gate.wire() as wire:
                await wire.send(gate.order(headers=((name, value),)))
                reply = await wire.last_reply()
                assert (reply.status, reply.code) == (400, "INVALID")
        assert await gate.taken() == 0
        await gate.assert_sound()


async def test_half_closed_connections_get_all_their_answers(plain: Settings, lane: str) -> None:
    """A buyer who says that he sends nothing more still gets what he has asked for, however much that is."""
    async with open_gate(plain, lane, pipeline_max=2) as gate:
        asked = [(gate.order("ann"), 202), (LIVEZ, 200), (gate.order("ben"), 202), (gate.page(), 200)] * 3
        for count in range(1, len(asked) + 1):
            async with gate.wire() as wire:
                await wire.send(b"".join(request for request, _ in asked[:count]))
                wire.shut_down()
                assert [(await wire.reply()).status for _ in range(count)] == [status for _, status in asked[:count]]
                await wire.assert_ends()
        in_chunks = gate.head("cid", headers=(("Transfer-Encoding", "chunked"),)) + chunked([gate.body()])
        async with gate.wire() as wire:
            await wire.send(in_chunks)
            wire.shut_down()
            assert (await wire.last_reply()).status == 202
        assert await gate.taken() == 3


@pytest.mark.parametrize("how", ["half a request", "nothing"])
async def test_half_closed_connections_without_a_request_end(plain: Settings, lane: str, how: str) -> None:
    """What can never become a request is not waited for."""
    async with open_gate(plain, lane) as gate:
        async with gate.wire() as wire:
            if how == "half a request":
                await wire.send(gate.order()[:-5])
            await wire.finish()
        assert await gate.taken() == 0


async def test_a_buyer_who_goes_away_before_his_decision(plain: Settings, lane: str) -> None:
    """His order exists once; asked again with the same key, it is the same order; the worker has forgotten nothing."""
    async with open_gate(plain, lane) as gate:
        asked, go_on = gate.hold_decisions()
        async with gate.wire() as wire:
            await wire.send(gate.order("ann") + LIVEZ)
            await soon(asked.wait(), "the order was not taken in")
        go_on.set()
        async with gate.wire() as wire:
            again = await wire.ask(gate.order("ann"))
            assert (again.status, again.header("Idempotent-Replayed")) == (202, "true")
            await wire.finish()
        assert await gate.taken() == 1
        await gate.assert_sound()


@pytest.mark.parametrize("sent", ["fixed", "chunked", "cold", "everything"])
async def test_a_buyer_who_goes_away_while_sending(plain: Settings, lane: str, sent: str) -> None:
    """Nothing is placed for half an order, and a buyer who breaks off is no error of ours."""
    async with open_gate(plain, lane, body_timeout_s=0.3) as gate:
        begun = {
            "fixed": gate.order()[:-5],
            "chunked": gate.head(headers=(("Transfer-Encoding", "chunked"),)) + chunked([gate.body()])[:-5],
            "cold": LIVEZ[:-2],
            "everything": LIVEZ + get("/docs") + gate.page(),
        }[sent]
        for _ in range(5):
            async with gate.wire() as wire:
                await wire.send(begun)
        assert await gate.taken() == 0
        await gate.assert_sound()


async def test_what_every_answer_owes(plain: Settings, lane: str) -> None:
    """Date, Content-Length and Content-Type are on every answer; nothing tells which versions run here.

    The client asserts the first two of every answer in this suite.
    """
    async with open_gate(plain, lane) as gate:
        said: list[Reply] = []
        async with gate.wire() as wire:
            for request, _ in _of_each_kind(gate).values():
                said.append(await wire.ask(request))
            said.append(await wire.ask(get("/v1/orders/x", "DELETE")))
            said.append(await wire.ask(get("/v1/campaigns/none")))
            said.append(await wire.ask(b"NONSENSE\r\n\r\n"))
        for reply in said:
            good = reply.status in {200, 202}
            assert reply.header("Content-Type") == ("application/json" if good else "application/problem+json")
            assert reply.code == (str(reply.status) if good else {404: "NOT_FOUND"}.get(reply.status, "INVALID"))

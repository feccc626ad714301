"""Whatever is sent, both lanes say the same."""

import contextlib
import itertools
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.settings import Settings
from tests.support.gate import LANES, Gate, open_gate
from tests.support.wire import chunked

EXAMPLES: Final = 700

METHODS: Final = ("POST", "POST", "POST", "GET", "GET", "PUT", "OPTIONS", "DELETE", "BREW", "post")
PATHS: Final = (
    "/v1/orders",
    "/v1/orders",
    "/v1/orders",
    "/v1/orders?x=1",
    "/v1/orders/",
    "/v1/orders/x",
    "/v1/orders/{id}~00000000000000000000000000000000",
    "/v1/%6frders",
    "http://shop/v1/orders",
    "/v1/orders/{id}~00000000000000000000000000000000/cancel",
    "/v1/orders/{id}~00000000000000000000000000000000/payment",
    "/v1/orders/{id}~00000000000000000000000000000000/events",
    "/v1/orders/x/cancel",
    "/v1/redemptions",
    "/v1/redemptions/",
    "/v1/webhooks/payment",
    "/v1/campaigns/{id}",
    "/v1/campaigns/{id}?x",
    "/v1/campaigns/%2e",
    "/v1/campaigns/..",
    "/v1/campaigns/",
    "/livez",
    "/nothing",
    "*",
    "/ x",
)
BODIES: Final = (
    '{"campaign_id":"{id}","sku_id":"box","quantity":1}',
    '{"campaign_id":"{id}","sku_id":"box","quantity":1}',
    '{"campaign_id":"{id}","sku_id":"box","quantity":2}',
    '{"campaign_id":"{id}","sku_id":"box","quantity":0}',
    '{"campaign_id":"{id}","sku_id":"bag","quantity":1}',
    '{"campaign_id":"none","sku_id":"box","quantity":1}',
    '{"campaign_id":"{id}","sku_id":"box","quantity":1,"quantity":1}',
    '{"campaign_id":"{id}","sku_id":"box","quantity":true}',
    "[" * 2_000,
    "{",
    "",
)
HEADERS: Final = (
    ("Authorization", ("Bearer {ann}", "Bearer {ann}", "Bearer {ben}", "bearer  {ann}", "Bearer x.y.z", "Basic x", "")),
    ("Idempotency-Key", ("k", "k", "k2", "k 3", "\xff", "k" * 256, "")),
    ("Host", ("shop", "shop", "shop:80", "")),
)
ODD_HEADERS: Final = (
    ("Connection", ("close", "keep-alive", "x, Close")),
    ("Content-Encoding", ("identity", "gzip")),
    ("Content-Type", ("application/json", "text/plain")),
    ("X-Forwarded-For", ("1.2.3.4", "\xff")),
    ("Authorization", ("Bearer {ann}",)),
    ("Idempotency-Key", ("k",)),
    ("Host", ("shop",)),
    ("Content-Length", ("1", "0", "+1", "99999")),
    ("Transfer-Encoding", ("chunked", "gzip")),
    ("Cookie", ("a=b",)),
    ("X-Signature", ("t=1,v1=" + "0" * 64, "x", "\xff")),
    ("Last-Event-ID", ("0", "x", "\xff")),
    ("Bad Name", ("x",)),
)


@st.composite
def requests(draw: st.DrawFn) -> tuple[str, str, int, list[int]]:
    """Return head and body of a request, how its body is framed, and where its bytes are cut."""
    line = f"{draw(st.sampled_from(METHODS))} {draw(st.sampled_from(PATHS))} HTTP/{draw(_versions)}"
    headers = [(name, draw(st.sampled_from(values))) for name, values in HEADERS if draw(_mostly)]
    for _ in range(draw(st.integers(0, 2)) * draw(st.integers(0, 1))):
        name, values = draw(st.sampled_from(ODD_HEADERS))
        headers.append((name, draw(st.sampled_from(values))))
    framed = draw(st.sampled_from((0, 0, 0, 1, 2)))
    headers.append((("Content-Length", "{length}"), ("Transfer-Encoding", "chunked"), ("X", "y"))[framed])
    lines = [
        f"{_spelt(name, draw(st.integers(0, 2)))}:{draw(_blanks)}{value}{draw(_blanks)}"
        for name, value in draw(st.permutations(headers))
    ]
    head = "\r\n".join((line, *lines, "", ""))
    return head, draw(st.sampled_from(BODIES)), framed, draw(st.lists(st.integers(1, 700), max_size=4))


def _spelt(name: str, how: int) -> str:
    return (name, name.lower(), name.upper())[how]


_versions: Final = st.sampled_from(("1.1", "1.1", "1.1", "1.1", "1.0", "2.0"))
_mostly: Final = st.sampled_from((True,) * 9 + (False,))
_blanks: Final = st.sampled_from((" ", "", "\t", "  "))


def written(gate: Gate, head: str, body: str, framed: int) -> bytes:
    """Return a request's bytes for one of the two campaigns."""
    sent = body.replace("{id}", gate.sale.id).encode()
    filled = head.replace("{id}", gate.sale.id).replace("{length}", str(len(sent)))
    for user in ("ann", "ben"):
        filled = filled.replace(f"{{{user}}}", gate.token(user))
    return filled.encode("latin-1") + (chunked([sent] if sent else []) if framed == 1 else sent)


async def told(gate: Gate, request: bytes, cuts: Sequence[int]) -> list[tuple[Any, ...]]:
    """Send a request in pieces and nothing more; return what is the same in both lanes of every answer to it."""
    ends = [0, *sorted(set(cuts)), len(request)]
    async with gate.wire() as wire:
        with contextlib.suppress(AssertionError, OSError):  # refused, and closed, before all of it was sent
            await wire.send(*(request[start:end] for start, end in itertools.pairwise(ends)))
            wire.shut_down()
        said = await wire.rest()
    names = ("Content-Type", "Allow", "Retry-After", "Idempotent-Replayed", "WWW-Authenticate", "Cache-Control")
    return [(one.status, one.code, *(one.header(name) for name in names)) for one in said]


@pytest_asyncio.fixture(scope="module", loop_scope="session")
async def gates(plain: Settings) -> AsyncIterator[list[Gate]]:
    """Return a worker of each lane, each with a campaign of its own."""
    async with contextlib.AsyncExitStack() as opened:
        yield [
            await opened.enter_async_context(open_gate(plain, lane, body_timeout_s=0.5, header_timeout_s=0.5))
            for lane in LANES
        ]


@settings(
    max_examples=EXAMPLES,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(request_=requests())
async def test_both_lanes_say_the_same(gates: list[Gate], request_: tuple[str, str, int, list[int]]) -> None:
    """Any request gets the same statuses, codes and headers from both lanes, and the same orders are placed."""
    head, body, framed, cuts = request_
    fast, other = [await told(gate, written(gate, head, body, framed), cuts) for gate in gates]
    assert fast == other
    assert await gates[0].taken() == await gates[1].taken()


async def test_orders_were_among_them(gates: list[Gate]) -> None:
    """The requests above are not all bad ones: some orders were placed, and both workers are as good as before."""
    assert await gates[0].taken() > 0
    for gate in gates:
        await gate.assert_sound()

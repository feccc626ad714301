"""What the steps of a hot call cost inside a worker, CPU microseconds, without sockets and Redis.

The requests are those of buyers who were never seen before. What a whole request costs beyond these is the event loop
and the kernel: hold them against `bench compare`.
"""

import asyncio
import gc
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import uvloop

from adapters.draws import DrawDecision, DrawReply, DrawRequest
from adapters.stock import BatchReply, OrderRequest, Snapshot, StockLine
from bench.tokens import Minter
from domain.order import order_id
from domain.outcomes import Outcome
from domain.settings import AuthSettings, GatewaySettings
from gateway.calls import BuyerCalls
from gateway.campaigns import Campaigns
from gateway.door import Door
from gateway.draws import DrawDesk
from gateway.fast_lane import END_OF_HEAD, Connection
from gateway.holders import Holders
from gateway.identity import Verifier, is_signed
from gateway.metrics import GatewayMetrics
from gateway.order_status import StatusDesk
from gateway.orders import OrderDesk
from gateway.request_head import RequestHead
from gateway.requests import OrderBodies
from gateway.view import LooseGuard, make_view
from gateway.watermarks import Watermarks

REQUESTS: Final = 50_000
CONNECTIONS: Final = 128
REPEAT: Final = 5
CAMPAIGN: Final = "c-1010"
BODY: Final = b'{"campaign_id":"c-1010","sku_id":"blindbox-01","quantity":1}'
RATE: Final = 10_000_000


class Nowhere:
    """A transport that forgets."""

    def write(self, data: bytes) -> None:
        """Forget."""


def requests_of(minter: Minter, prefix: str) -> list[bytes]:
    """Return everybody's request."""
    head = b"POST /v1/orders HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: %d\r\n"
    return [
        head % len(BODY) + b"Idempotency-Key: key-%d\r\nAuthorization: Bearer %b\r\n\r\n%b" % (number, token, BODY)
        for number, token in enumerate(minter.mint_many(prefix, REQUESTS))
    ]


def timed(step: Callable[[Any], object], items: Sequence[Any]) -> float:
    """Return what a step costs, CPU microseconds: the least of several tries."""
    tries = []
    for _ in range(REPEAT):
        began = time.process_time()
        for item in items:
            step(item)
        tries.append(time.process_time() - began)
    return min(tries) / len(items) * 1e6


class Counter:
    """A worker's order desk with a campaign in its memory, and a script that accepts everybody."""

    def __init__(self, key: bytes, *, left: int) -> None:
        now_s = time.monotonic()
        settings = GatewaySettings()
        campaigns = Campaigns(cast("Any", None), cast("Any", None), lambda _campaign, _id, _run_id: None, poll_s=1.0)
        fields = {"kind": "sale", "state": "open", "run_id": "r", "opens_ms": "0", "closes_ms": str(1 << 50)}
        fields |= dict.fromkeys(("admit_per_s", "admit_burst", "user_per_s", "user_burst"), str(RATE))
        stock = {"blindbox-01": StockLine(left, 0, 0, left, 1, 1, 5_900)}
        snapshot = Snapshot(fields, stock, round(time.time() * 1e6), b"", "0-0")
        campaigns.views[CAMPAIGN] = make_view(CAMPAIGN, snapshot, now_s + 3_600)
        campaigns.guards[CAMPAIGN] = LooseGuard(RATE, RATE, now_s)
        campaigns.holders[CAMPAIGN] = Holders()
        verifier = Verifier(AuthSettings(), key)
        self._desk = OrderDesk(settings, verifier, campaigns, Watermarks(1.0), _accept, GatewayMetrics())
        draws = DrawDesk(settings, self._desk, campaigns, Watermarks(1.0), _draw_nothing, GatewayMetrics())
        calls = BuyerCalls(self._desk, draws, campaigns, cast("StatusDesk", None))
        door = Door(settings, calls, cast("Any", None))
        self._connections = [Connection(door) for _ in range(CONNECTIONS)]
        for connection in self._connections:
            connection.connection_made(cast("asyncio.Transport", Nowhere()))

    async def serve(self, requests: Sequence[bytes]) -> float:
        """Answer everybody; returns CPU microseconds a request."""
        began = time.process_time()
        for start in range(0, len(requests), CONNECTIONS):
            for connection, request in zip(self._connections, requests[start : start + CONNECTIONS], strict=False):
                connection.data_received(request)
            while self._desk.waiting:  # noqa: ASYNC110 -- nobody else is at work here
                await asyncio.sleep(0)
        return (time.process_time() - began) / len(requests) * 1e6


async def _accept(_campaign_id: str, orders: list[OrderRequest]) -> BatchReply:
    return BatchReply(0, "1-0", 0, [(Outcome.ACCEPTED, 0)] * len(orders), {})


async def _draw_nothing(_campaign_id: str, draws: list[DrawRequest]) -> DrawReply:
    return DrawReply("1-0", [DrawDecision(Outcome.ACCEPTED, 1, 2, "0" * 40)] * len(draws), {}, "")


async def measure() -> list[tuple[str, float]]:
    """Return (step, CPU microseconds a request)."""
    key = secrets.token_bytes(48)
    minter = Minter(key, AuthSettings().audience, expires_s=int(time.time()) + 3_600)
    requests = requests_of(minter, "buyer")
    headers = [b"Bearer " + token for token in minter.mint_many("buyer", REQUESTS)]
    gc.collect()
    gc.freeze()
    head, bodies, settings = RequestHead(), OrderBodies(), GatewaySettings()
    verifier = Verifier(AuthSettings(), key)
    mac, now_s = verifier.mac, time.time()
    limits = Door(settings, cast("BuyerCalls", None), cast("Any", None)).head_limits

    def read(request: bytes) -> None:
        end = request.find(END_OF_HEAD) + len(END_OF_HEAD)
        head.read(request[:end], limits)
        head.end(request[end:])

    def check_signature(header: bytes) -> None:
        signed, _, signature = header[7:].rpartition(b".")
        is_signed(mac, signed, signature)

    return [
        ("read a request (httptools, headers, limits)", timed(read, requests)),
        ("verify a token, whole", timed(lambda header: Verifier.verify(verifier, header, now_s), headers)),
        ("  of which its HMAC", timed(check_signature, headers)),
        ("decode a body that came before", timed(lambda _: bodies.decode(BODY), headers)),
        ("order id", timed(lambda _: order_id(CAMPAIGN, "buyer-12345", "key-12345"), headers)),
        ("a sold-out answer, whole", min([await Counter(key, left=0).serve(requests) for _ in range(REPEAT)])),
        ("an accepted order, whole", min([await Counter(key, left=1).serve(requests) for _ in range(REPEAT)])),
    ]


def measure_steps() -> list[tuple[str, float]]:
    """Measure in an event loop of its own."""
    return uvloop.run(measure())

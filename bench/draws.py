"""What a draw costs a gateway and Redis, beside an order: both whole, by turns, in one process on one private Redis.

A batch is as many requests as come at once, each from a buyer who was never seen before; the buyers' sockets alone are
left out, which cost both the same.
"""

import asyncio
import dataclasses
import time
from collections.abc import Sequence
from typing import Any, Final, cast

import msgspec

from adapters.campaign_stock import load_campaign, move_campaign
from adapters.draws import DrawReply, DrawRequest, draw, lottery_fields, move_lottery
from adapters.redis import ScriptChannel, make_client
from adapters.stock import BatchReply, OrderRequest, admit
from bench.cpu import cpu_ns
from bench.errors import BenchError
from bench.figures import Spread, ratio, spread
from bench.sale import LIMITS, Sale
from bench.servers import OUTBOX_ENTRIES_MAX, Place, private_redis
from bench.tokens import Minter
from domain.campaign import Campaign, CampaignLottery, Sku
from domain.settings import AuthSettings, GatewaySettings, RedisSettings
from gateway.calls import BuyerCalls
from gateway.campaigns import Campaigns
from gateway.door import Door
from gateway.draws import DrawDesk
from gateway.fast_lane import Connection
from gateway.identity import Verifier
from gateway.metrics import GatewayMetrics
from gateway.order_status import StatusDesk
from gateway.orders import OrderDesk
from gateway.watermarks import Watermarks
from stack.supervisor import Supervisor

SALE_ID: Final = "bench-sale"
LOTTERY_ID: Final = "bench-lottery"
SEED: Final = bytes(32)
PRIZES: Final = ((10, 1), (40, 5), (150, 20), (300, 50), (500, 100))
"""Weight and points of each kind."""
NO_PRIZE_WEIGHT: Final = 4_000
"""One of five wins, which is many for a lottery."""
STOCK: Final = 100_000_000
EXPIRES_S: Final = 3_600
ATTEMPTS_MAX: Final = 8
VIEW_AHEAD_S: Final = 3_600
"""The views are read once, and count as fresh for so long."""

BODIES: Final = {
    "order": (b"/v1/orders", b'{"campaign_id":"bench-sale","sku_id":"sku-0","quantity":1}'),
    "draw": (b"/v1/draws", b'{"campaign_id":"bench-lottery"}'),
}


class Cost(msgspec.Struct, frozen=True, kw_only=True):
    """What one request cost in one round, CPU microseconds."""

    gateway_us: float
    redis_us: float

    @property
    def both_us(self) -> float:
        """Gateway and Redis together."""
        return self.gateway_us + self.redis_us


class DrawCost(msgspec.Struct, frozen=True, kw_only=True):
    """All rounds.

    Attributes:
        batch: requests at a time.
        requests: in a round, of each kind.
        orders, draws: one a round.
    """

    batch: int
    requests: int
    orders: list[Cost]
    draws: list[Cost]

    def against(self, part: str) -> Spread:
        """Return a draw's cost against an order's, each ratio within a round: `gateway_us`, `redis_us`, `both_us`."""
        pairs = zip(self.draws, self.orders, strict=True)
        return spread([ratio(getattr(drawn, part), getattr(ordered, part)) for drawn, ordered in pairs])


def lottery() -> Campaign:
    """Return a lottery that is open, and whose limits and stock never bind."""
    sale = Sale(LOTTERY_ID, STOCK).campaign()
    return Campaign(
        campaign=msgspec.structs.replace(sale.campaign, kind="lottery"),
        limits=LIMITS,
        lottery=CampaignLottery(no_prize_weight=NO_PRIZE_WEIGHT),
        sku=tuple(
            Sku(id=f"prize-{number}", stock=STOCK, weight=weight, points=points)
            for number, (weight, points) in enumerate(PRIZES)
        ),
    )


class Buyers:
    """A transport that counts answers."""

    def __init__(self) -> None:
        self.served = 0
        """Answers that are no refusals."""
        self._awaited = 0
        self._all = asyncio.Event()

    def write(self, data: bytes) -> None:
        """Take an answer."""
        self.served += data.startswith((b"HTTP/1.1 200", b"HTTP/1.1 202"))
        self._awaited -= 1
        if self._awaited == 0:
            self._all.set()

    def expect(self, count: int) -> None:
        """Say how many answers come next."""
        self._awaited = count
        self._all.clear()

    async def answered(self) -> None:
        """Wait for them, without using the processor."""
        await self._all.wait()


class Rig:
    """A worker's desks on a private Redis, and connections without sockets."""

    def __init__(self, redis: RedisSettings, redis_pids: Sequence[int], batch: int) -> None:
        self._redis_pids = redis_pids
        self._client = make_client(redis)
        self._channel = ScriptChannel(redis)
        key = bytes(48)
        self._minter = Minter(key, AuthSettings().audience, expires_s=int(time.time()) + EXPIRES_S)
        self._campaigns = Campaigns(self._client, cast("Any", None), lambda _campaign, _id, _run: None, poll_s=1.0)
        settings = GatewaySettings(batch_max=batch)
        verifier, metrics, marks = Verifier(AuthSettings(), key), GatewayMetrics(), Watermarks(1.0)
        self._desk = OrderDesk(settings, verifier, self._campaigns, marks, self._admit, metrics)
        draws = DrawDesk(settings, self._desk, self._campaigns, marks, self._draw, metrics)
        door = Door(
            settings, BuyerCalls(self._desk, draws, self._campaigns, cast("StatusDesk", None)), cast("Any", None)
        )
        self._buyers = Buyers()
        self._connections = [Connection(door) for _ in range(batch)]
        for connection in self._connections:
            connection.connection_made(cast("asyncio.Transport", self._buyers))

    async def open(self) -> None:
        """Load both campaigns, open them, and take them into memory."""
        sale, drawn = Sale(SALE_ID, STOCK).campaign(), lottery()
        await load_campaign(self._channel, sale)
        await move_campaign(self._channel, sale.id, "open")
        await load_campaign(self._channel, drawn, more_fields=lottery_fields(drawn, SEED))
        await move_lottery(self._channel, drawn.id, "open")
        await self._campaigns.refresh_all()
        for campaign_id, view in self._campaigns.views.items():
            until_s = view.on_sale_until_s + VIEW_AHEAD_S
            self._campaigns.views[campaign_id] = dataclasses.replace(view, on_sale_until_s=until_s)

    async def close(self) -> None:
        """Disconnect."""
        await self._channel.close()
        await self._client.aclose()

    async def _admit(self, campaign_id: str, orders: list[OrderRequest]) -> BatchReply:
        return await admit(self._channel, campaign_id, orders, attempts_max=ATTEMPTS_MAX, outbox_max=OUTBOX_ENTRIES_MAX)

    async def _draw(self, campaign_id: str, draws: list[DrawRequest]) -> DrawReply:
        return await draw(self._channel, campaign_id, draws, outbox_max=OUTBOX_ENTRIES_MAX)

    async def serve(self, kind: str, prefix: str, count: int) -> Cost:
        """Answer so many buyers, and return what that cost.

        Raises:
            BenchError: not all of them got what they wanted.
        """
        path, body = BODIES[kind]
        head = b"POST %b HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\nIdempotency-Key: k\r\n" % (
            path,
            len(body),
        )
        requests = [
            head + b"Authorization: Bearer %b\r\n\r\n%b" % (token, body)
            for token in self._minter.mint_many(prefix, count)
        ]
        self._buyers.served, batch = 0, len(self._connections)
        redis_ns, own_ns = cpu_ns(self._redis_pids), time.process_time_ns()
        for start in range(0, count, batch):
            some = requests[start : start + batch]
            self._buyers.expect(len(some))
            for connection, request in zip(self._connections, some, strict=False):
                connection.data_received(request)
            await self._buyers.answered()
        own_ns, redis_ns = time.process_time_ns() - own_ns, cpu_ns(self._redis_pids) - redis_ns
        if self._buyers.served != count:
            raise BenchError(f"{self._buyers.served} of {count} requests of kind {kind} were served")
        return Cost(gateway_us=own_ns / count / 1e3, redis_us=redis_ns / count / 1e3)


async def measure(place: Place, *, rounds: int, requests: int, batch: int) -> DrawCost:
    """Serve orders and draws by turns, and return what each of them cost.

    Raises:
        FlashgateError: Redis did not start, or not everybody was served.
    """
    supervisor = Supervisor()
    orders: list[Cost] = []
    draws: list[Cost] = []
    async with private_redis(place, supervisor) as redis:
        pid = supervisor.pid("redis")
        if pid is None:
            raise BenchError("Redis is not running")
        rig = Rig(redis, [pid], batch)
        try:
            await rig.open()
            for kind in BODIES:
                await rig.serve(kind, f"warm-{kind}", requests)
            for number in range(rounds):
                turns = (("order", orders), ("draw", draws))
                for kind, costs in turns if number % 2 else turns[::-1]:
                    costs.append(await rig.serve(kind, f"{kind}-{number}", requests))
        finally:
            await rig.close()
    return DrawCost(batch=batch, requests=requests, orders=orders, draws=draws)

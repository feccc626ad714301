"""Watches what a load does to the processes behind it: their CPU, the orders on their way, the way into MySQL."""

import asyncio
import contextlib
import secrets
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from adapters.mysql import Pool, query
from adapters.stock import read_snapshot
from adapters.tasks import meanwhile
from bench.cpu import cpu_s
from bench.errors import BenchError
from bench.load_messages import LoadJob
from bench.servers import Place
from stack.ports import LOOPBACK

SAMPLE_S: Final = 0.25
DRAIN_POLL_S: Final = 0.05
STALLED_S: Final = 30.0
"""MySQL has got no further for so long: what is missing will not come."""
SOLD: Final = "SELECT SUM(sold) FROM campaign_sku WHERE campaign_id = %s"


@dataclass(frozen=True, slots=True)
class Rig:
    """A gateway with everything behind it, running now.

    Attributes:
        place: whose key the tokens are signed with.
        port: of the gateway.
        workers: of the gateway.
        pids: child process → its id.
        client: to Redis.
        orders: the database fg_orders.
    """

    place: Place
    port: int
    workers: int
    pids: Mapping[str, int]
    client: Any
    orders: Pool

    def cpu_s(self) -> dict[str, float]:
        """Return the CPU seconds that each process has used so far, out of /proc.

        Raises:
            BenchError: one of them is gone.
        """
        try:
            return {name: cpu_s((pid,)) for name, pid in self.pids.items()}
        except OSError:
            raise BenchError(f"a process has ended during the measurement; see {self.place.folder}") from None

    def job(self, campaign_id: str, sku_id: str, *, connections: int, seconds: float) -> LoadJob:
        """Return a closed loop of accepted orders; whoever wants another load replaces fields."""
        return LoadJob(
            mode="closed",
            host=LOOPBACK,
            port=self.port,
            campaign_id=campaign_id,
            sku_ids=(sku_id,),
            key_file=str(self.place.key_file),
            audience=self.place.audience,
            prefix=f"s{secrets.token_hex(4)}",
            connections=connections,
            seconds=seconds,
        )

    async def taken(self, campaign_id: str) -> int:
        """Return the units that Redis has sold."""
        snapshot = await read_snapshot(self.client, campaign_id)
        return sum(line.taken - line.returned for line in snapshot.stock.values()) if snapshot else 0

    async def stored(self, campaign_id: str) -> int:
        """Return the units that MySQL has sold."""
        ((sold,),) = await query(self.orders, SOLD, (campaign_id,))
        return int(sold or 0)

    async def appended(self) -> int:
        """Return how many entries were ever appended to streams: one for each script call that accepted something."""
        stats: dict[str, Any] = await self.client.info("commandstats")
        return int(stats.get("cmdstat_xadd", {}).get("calls", 0))

    async def until_stored(self, campaign_id: str) -> int:
        """Wait until MySQL has every unit that Redis has sold; returns how many those are.

        Raises:
            BenchError: it gets no further, or it has more.
        """
        taken, stored, moved_s = await self.taken(campaign_id), -1, time.monotonic()
        while stored != taken:
            now = await self.stored(campaign_id)
            if now != stored:
                stored, moved_s = now, time.monotonic()
            elif stored > taken or time.monotonic() - moved_s > STALLED_S:
                raise BenchError(f"{taken:,} units were sold in Redis, and MySQL has {stored:,}")
            else:
                await asyncio.sleep(DRAIN_POLL_S)
        return taken


@dataclass(slots=True)
class Seen:
    """What `watching` has seen: (seconds since it began, orders accepted that MySQL does not have)."""

    backlog: list[tuple[float, int]] = field(default_factory=list)


@contextlib.asynccontextmanager
async def watching(rig: Rig, campaign_id: str) -> AsyncIterator[Seen]:
    """Look at the orders on their way until the block ends.

    Raises:
        FlashgateError: Redis or MySQL did not answer.
    """
    seen, began_s = Seen(), time.monotonic()

    async def look() -> None:
        while True:
            stored = await rig.stored(campaign_id)
            taken = await rig.taken(campaign_id)
            seen.backlog.append((round(time.monotonic() - began_s, 3), max(0, taken - stored)))
            await asyncio.sleep(SAMPLE_S)

    async with meanwhile(look()):
        yield seen


def difference(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    """Return what each process has used between two readings, seconds."""
    return {name: round(after[name] - before[name], 4) for name in after}

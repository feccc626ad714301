"""Memory: a worker at rest, each of its idle connections, and what Redis keeps of a buyer with one order."""

import asyncio
import contextlib
import resource
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from adapters.redis import ScriptChannel
from bench import prefill
from bench.cpu import rss_bytes
from bench.errors import BenchError
from bench.sale import Sale
from bench.servers import FLASHGATE, Place, Target, running
from domain import keys
from stack.ports import LOOPBACK

REST_S: Final = 2.0
SETTLE_S: Final = 1.0
STOCK: Final = 100_000
CONNECTING_AT_ONCE: Final = 100
FDS_SPARE: Final = 200


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured.

    Attributes:
        worker_rest_bytes: resident, with one campaign and nobody there.
        connections: idle ones, each of which had been answered once.
        connection_bytes: what the worker's resident memory grew by, for each.
        buyers: with one order each.
        buyer_bytes: what Redis's used memory grew by, for each, the outbox apart.
    """

    worker_rest_bytes: int
    connections: int
    connection_bytes: float
    buyers: int
    buyer_bytes: float


def connections_possible(wanted: int) -> int:
    """Raise the limit of open files as far as needed and allowed; returns how many connections fit under it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted + FDS_SPARE:
        soft = min(hard, wanted + FDS_SPARE) if hard != resource.RLIM_INFINITY else wanted + FDS_SPARE
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return max(1, min(wanted, soft - FDS_SPARE))


async def measure_memory(place: Place, *, connections: int, buyers: int) -> Memory:
    """Run a worker and measure it.

    Raises:
        BenchError: it does not start, or does not answer.
    """
    connections = connections_possible(connections)
    sale = Sale("bench-memory", max(STOCK, buyers))
    async with running(FLASHGATE, place, sale) as target:
        (pid,) = target.pids
        await asyncio.sleep(REST_S)
        rest = rss_bytes(pid)
        async with _idle_connections(target, sale.campaign_id, connections):
            await asyncio.sleep(SETTLE_S)
            grown = rss_bytes(pid) - rest
        bytes_a_buyer = await _buyer_bytes(target, sale, buyers)
    return Memory(
        worker_rest_bytes=rest,
        connections=connections,
        connection_bytes=grown / connections,
        buyers=buyers,
        buyer_bytes=bytes_a_buyer,
    )


@contextlib.asynccontextmanager
async def _idle_connections(target: Target, campaign_id: str, count: int) -> AsyncIterator[None]:
    """Open connections, ask for the campaign's page on each once, and keep them open."""
    gate = asyncio.Semaphore(CONNECTING_AT_ONCE)
    writers: list[asyncio.StreamWriter] = []
    request = f"GET /v1/campaigns/{campaign_id} HTTP/1.1\r\nHost: {LOOPBACK}\r\n\r\n".encode()

    async def one() -> None:
        async with gate, asyncio.timeout(30):
            reader, writer = await asyncio.open_connection(LOOPBACK, target.port)
            writers.append(writer)
            writer.write(request)
            if not (await reader.readline()).startswith(b"HTTP/1.1 200"):
                raise BenchError("flashgate: the campaign's page is not answered")

    try:
        try:
            await asyncio.gather(*(one() for _ in range(count)))
        except (OSError, TimeoutError) as error:
            raise BenchError(f"flashgate: idle connections: {error or 'no answer in time'}") from None
        yield
    finally:
        for writer in writers:
            writer.close()


async def _buyer_bytes(target: Target, sale: Sale, buyers: int) -> float:
    client = target.client
    assert client is not None  # noqa: S101 -- flashgate has a Redis
    assert target.redis is not None  # noqa: S101
    channel = ScriptChannel(target.redis)

    async def used() -> int:
        await client.xtrim(keys.outbox(sale.campaign_id), maxlen=0, approximate=False)
        info: dict[str, Any] = await client.info("memory")
        return int(info["used_memory"])

    try:
        campaign = sale.campaign()
        await prefill.place_orders(channel, campaign, "first", range(prefill.BATCH))  # what is there only once
        before = await used()
        await prefill.place_orders(channel, campaign, "b", range(buyers))
        return (await used() - before) / buyers
    finally:
        await channel.close()

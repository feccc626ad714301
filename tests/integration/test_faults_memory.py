"""Redis has no memory left, with a real one of our own."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from adapters.mysql import query
from adapters.stock import parse_stock_line
from domain import keys
from domain.order_state import OrderStatus
from domain.settings import Settings
from lifecycle import order_rows
from tests.support.life import assert_settled, confirmed, line, new_keeper, now_ms, until_idle
from tests.support.relays import buy_one_by_one
from tests.support.scripts import private_redis
from tests.support.shop import SKU, Shop, open_shop, until_true
from tests.support.waiting import in_time

CROWD = 100


async def dump(shop: Shop) -> dict[bytes, bytes | None]:
    """Return all that Redis has of this campaign, byte by byte."""
    client = shop.clients.client
    return {name: await client.dump(name) async for name in client.scan_iter(match=f"fg:{{{shop.id}:*")}


def outbox_is_empty(shop: Shop) -> Callable[[], Any]:
    """Return a condition: nothing waits for the relay."""

    async def check() -> bool:
        return await shop.clients.client.xlen(keys.outbox(shop.id)) == 0

    return check


async def test_out_of_memory(settings: Settings, tmp_path: Path) -> None:
    """Fault 10: Redis runs out of memory in the middle of a crowd. Orders are BUSY, and nothing is written by half.

    Who was accepted before is still told so, and what was accepted is relayed, which makes room. A release is not
    possible, and stays owed. When there is memory again, selling goes on and the release is done.
    Guards that Redis forgets nothing to make room (`maxmemory-policy noeviction`), and that a relay needs no memory.
    """
    async with private_redis(tmp_path) as server:
        private = msgspec.structs.replace(settings, redis=server)
        async with open_shop(private, stock=2 * CROWD) as shop, shop.worker(private) as url:
            client = shop.clients.client
            (first,) = await buy_one_by_one(shop, url, "a", 1)
            await confirmed(shop)
            order = await order_rows.find_order(shop.clients.orders, first)
            assert order is not None
            await order_rows.give_up(
                shop.clients.orders, [order], OrderStatus.CANCELLED, "test", now_ms(), may=lambda _: True
            )
            crowd = [asyncio.create_task(shop.buy(url, f"b-{number}")) for number in range(CROWD)]
            await until_true(lambda: asyncio.sleep(0, any(one.done() for one in crowd)))
            await client.config_set("maxmemory", 1)
            assert {(await one).code for one in crowd} <= {"ACCEPTED", "BUSY"}

            before = await dump(shop)
            said = await shop.buy(url, "c")
            assert (said.status, said.code) == (503, "BUSY")
            assert "Retry-After" in said.headers
            await shop.assert_replays(url)
            assert await dump(shop) == before
            async with shop.relay():
                await in_time(outbox_is_empty(shop), "the relay cannot make room")
            async with new_keeper(private, shop) as (keeper, kept):
                before = await dump(shop)
                await keeper.return_stock()
                assert kept.puts_off["return"] >= 1  # what other tests have left is put off as well
                ((attempts, error),) = await query(
                    shop.clients.orders,
                    "SELECT attempts, error FROM stock_return WHERE campaign_id = %s AND done_at_ms IS NULL",
                    (shop.id,),
                )
                assert attempts == 1
                assert "OOM" in error
                assert await dump(shop) == before
                packed: Any = await client.hget(keys.stock(shop.id), SKU)  # not even a transaction of reads is possible
                one = parse_stock_line(packed)
                assert (one.taken, one.returned) == (len(shop.accepted), 0)
                assert one.allocated == one.remaining + one.taken

                await client.config_set("maxmemory", 0)
                assert (await shop.buy(url, "c")).status == 202

                async def is_given_back() -> bool:
                    await until_idle(keeper)
                    return (await line(shop)).returned == 1

                await in_time(is_given_back, "what was put off is never given back")
            await confirmed(shop)
            await shop.assert_replays(url)
            await assert_settled(shop)

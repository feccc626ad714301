"""Gateway workers as processes under a supervisor."""

import asyncio
import contextlib
import functools
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import msgspec

from cli.services import ServicePlan, Services
from domain.settings import Settings
from stack.supervisor import Supervisor
from tests.support import hooks
from tests.support.lanes import BOTH_LANES
from tests.support.shop import Shop, open_shop, until_true

pytestmark = BOTH_LANES

BUYERS = 300
STOCK = 200
TRIES_MAX = 10
ANSWER_TIMEOUT_S = 5.0


@contextlib.asynccontextmanager
async def running(settings: Settings, home: Path, workers: int) -> AsyncIterator[tuple[Supervisor, str]]:
    """Run workers, relay and consumer as processes; yields their supervisor and the gateway's URL."""
    free = msgspec.structs.replace(settings, gateway=msgspec.structs.replace(settings.gateway, port=0))
    supervisor = hooks.make_supervisor()
    services = Services(
        supervisor, ServicePlan(free, home, workers, with_reconciler=False, with_ops=False, with_sandbox=False)
    )
    await services.start()
    try:
        yield supervisor, services.gateway_url
    finally:
        await services.stop()


async def persist(shop: Shop, url: str, user: str) -> str:
    """Buy as a person would: after a broken connection or a 503 ask again with the same key, until there is a word."""
    for _ in range(TRIES_MAX):
        with contextlib.suppress(aiohttp.ClientError, TimeoutError):
            async with asyncio.timeout(ANSWER_TIMEOUT_S):
                said = await shop.buy(url, user)
            if said.status != 503:
                return said.code
        await asyncio.sleep(0.05)
    return "NO ANSWER"


async def test_killed_worker_comes_back_and_nothing_is_doubled(settings: Settings, tmp_path: Path) -> None:
    """Fault 35: a worker is killed in the middle of a crowd; it is started again on the same port.

    Buyers who lost their connection ask again with the same key; exactly the stock is sold, to each at most once.
    Guards the restart, and the replay of what the dead worker had taken in.
    """
    async with open_shop(settings, stock=STOCK) as shop, running(settings, tmp_path, 1) as (supervisor, url):
        first = supervisor.pid("gateway 1")
        crowd = [asyncio.create_task(persist(shop, url, f"b-{number}")) for number in range(BUYERS)]
        await until_true(lambda: asyncio.sleep(0, any(one.done() for one in crowd)))
        await supervisor.kill("gateway 1", signal.SIGKILL)
        codes = await asyncio.gather(*crowd)
        assert supervisor.pid("gateway 1") != first
        assert codes.count("ACCEPTED") == STOCK
        assert codes.count("SOLD_OUT") == BUYERS - STOCK
        await shop.assert_replays(url)
        assert len(shop.accepted) == STOCK
    await shop_is_whole(shop)


async def shop_is_whole(shop: Shop) -> None:
    """Assert the invariants with clients of their own, the shop's being closed."""
    async with open_shop(shop.settings) as helper:
        helper.campaign, helper.accepted = shop.campaign, shop.accepted
        await helper.assert_invariants()


async def test_stopped_worker_answers_what_it_took_in(settings: Settings, tmp_path: Path) -> None:
    """SIGTERM: the worker answers every request that it has taken in, and requests that were only queued wait.

    With the listening socket in the supervisor's hands a planned restart fails nobody: no reset, no 503.
    """
    async with open_shop(settings, stock=BUYERS) as shop, running(settings, tmp_path, 1) as (supervisor, url):

        async def buy_on_own_connection(number: int) -> int:
            headers = {**shop.bearer(f"b-{number}"), "Idempotency-Key": "k", "Connection": "close"}
            body = b'{"campaign_id":"%b","sku_id":"box","quantity":1}' % shop.id.encode()
            async with aiohttp.ClientSession() as own, own.post(f"{url}/v1/orders", data=body, headers=headers) as said:
                return said.status

        crowd = [asyncio.create_task(buy_on_own_connection(number)) for number in range(BUYERS)]
        await until_true(lambda: asyncio.sleep(0, any(one.done() for one in crowd)))
        await supervisor.restart("gateway 1")
        assert set(await asyncio.gather(*crowd)) == {202}


async def test_processes_tell_their_names(settings: Settings, tmp_path: Path) -> None:
    """Every process sets its title, so that `ps` tells the story."""
    async with running(settings, tmp_path, 2) as (supervisor, _):
        for name in ("gateway 1", "gateway 2", "relay", "consumer orders"):
            pid = supervisor.pid(name)
            assert pid is not None
            await until_true(functools.partial(has_title, pid, f"flashgate: {name}"))


async def has_title(pid: int, title: str) -> bool:
    """Tell whether a process has this title."""
    cmdline = Path(f"/proc/{pid}/cmdline").read_bytes()  # noqa: ASYNC240 -- not a disk
    return title == cmdline.replace(b"\0", b"").decode().strip()

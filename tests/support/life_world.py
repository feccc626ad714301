"""What random lives go on in: everything that they need, running in a thread of its own, on real servers."""

import asyncio
import contextlib
import os
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any, Final, TypeVar

import msgspec
from hypothesis import HealthCheck, Phase, seed
from hypothesis import settings as hypothesis_settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from adapters.mysql import query
from adapters.stores import open_stores
from cli.clients import Clients
from domain import failpoints
from domain.settings import Settings
from lifecycle.keeper import Keeper
from lifecycle.payments import PaymentDesk
from tests.support.dock import new_outbound, new_warehouse, one_round
from tests.support.house import DiedError
from tests.support.life import Kept, new_desk, new_keeper, now_ms
from tests.support.provider import SandboxHandle, adapter, sandbox
from tests.support.shop import open_shop
from tests.switches import VARIABLE
from warehouse.keeper import WarehouseKeeper
from warehouse.outbound import OutboundDesk
from warehouse.stores import Stores

T = TypeVar("T")
W = TypeVar("W")

ADD_WAREHOUSE: Final = (
    "INSERT INTO warehouse (warehouse_id, name) VALUES ('north', 'North') ON DUPLICATE KEY UPDATE name = name"
)
WAIT_S: Final = 60.0
STEPS: Final = 30
SAME_EXAMPLES: Final = 20
ROUNDS_MAX: Final = 5
"""So many are the same in every run; who asks for more gets new ones."""


@dataclass
class World:
    """Where everything runs."""

    settings: Settings
    provider: SandboxHandle
    loop: asyncio.AbstractEventLoop

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Do something in the world's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(WAIT_S)


@dataclass
class BusyWorld(World):
    """Everybody is at work all the while: gateway worker, relay, consumer, and both keepers."""

    url: str
    outbound: OutboundDesk
    died: Counter[str] = field(default_factory=Counter)
    """Fail point → how many have died there."""

    def die_at(self, fail_point: str) -> None:
        """Have whoever reaches a fail point next die there, and nobody at another; empty: nobody at all."""

        def die(name: str) -> None:
            if name == fail_point:
                failpoints.hook = None
                self.died[name] += 1
                raise DiedError(name)

        failpoints.hook = die if fail_point else None


@dataclass
class DeskWorld(World):
    """Relay and consumer are at work; what else is done, and when, is for the test to say.

    There are two warehouses, `main` and `north`.
    """

    clients: Clients
    desk: PaymentDesk
    keeper: Keeper
    warehouse: WarehouseKeeper
    outbound: OutboundDesk


@contextlib.asynccontextmanager
async def busy_world(settings: Settings) -> AsyncIterator[BusyWorld]:
    """Have everybody at work."""
    hasty = msgspec.structs.replace(
        settings,
        lifecycle=msgspec.structs.replace(settings.lifecycle, poll_ms=20, check_after_s=0.2, retry_max_s=0.5),
        warehouse=msgspec.structs.replace(settings.warehouse, poll_ms=20, settle_poll_s=0.2, retry_max_s=0.5),
    )
    async with (
        sandbox(hasty) as (told, provider),
        open_shop(told) as base,
        base.worker() as url,
        base.relay(),
        base.consumer(),
        adapter(told, provider) as client,
        new_keeper(told, base, provider=client) as (keeper, _),
        open_stores(told) as stores,
        _kept_warehouse(told, stores),
    ):
        provider.callback_to(url)
        running = asyncio.create_task(keeper.run())
        yield BusyWorld(told, provider, asyncio.get_running_loop(), url, new_outbound(told, stores))
        keeper.stop()
        await running


@contextlib.asynccontextmanager
async def _kept_warehouse(settings: Settings, stores: Stores) -> AsyncIterator[None]:
    """Run the warehouse's keeper; when it dies, another takes its place."""
    keepers: list[WarehouseKeeper] = []

    async def supervise() -> None:
        while True:
            keepers.append(WarehouseKeeper(settings.warehouse, stores=stores, metrics=Kept(), now_ms=now_ms))
            try:
                await keepers[-1].run()
            except DiedError:
                continue
            return

    running = asyncio.create_task(supervise())
    yield
    failpoints.hook = None
    keepers[-1].stop()
    await running


@contextlib.asynccontextmanager
async def desk_world(settings: Settings) -> AsyncIterator[DeskWorld]:
    """Have relay and consumer at work, and everybody else wait to be called."""
    patient = msgspec.structs.replace(
        settings, lifecycle=msgspec.structs.replace(settings.lifecycle, check_after_s=3_600.0)
    )
    async with (
        sandbox(patient) as (told, provider),
        open_shop(told) as base,
        base.relay(),
        base.consumer(),
        adapter(told, provider) as client,
        new_keeper(told, base, provider=client) as (keeper, _),
        new_warehouse(told) as (warehouse, _),
        open_stores(told) as stores,
    ):
        await query(base.clients.catalog, ADD_WAREHOUSE)
        await forget_others(base.clients)
        await one_round(warehouse)
        yield DeskWorld(
            told,
            provider,
            asyncio.get_running_loop(),
            base.clients,
            new_desk(told, base, client),
            keeper,
            warehouse,
            new_outbound(told, stores),
        )


async def forget_others(clients: Clients) -> None:
    """Have nobody look any more at what lives and tests before have left: their closed campaigns, what they owe."""
    await query(clients.catalog, "UPDATE campaign SET closed_at_ms = NULL WHERE closed_at_ms IS NOT NULL")
    for pool, table in ((clients.catalog, "allocation_due"), (clients.orders, "warehouse_due")):
        await query(pool, f"UPDATE {table} SET done_at_ms = 1 WHERE done_at_ms IS NULL")  # noqa: S608 -- names of ours


@contextlib.contextmanager
def open_world(
    make: Callable[[Settings], contextlib.AbstractAsyncContextManager[W]], settings: Settings
) -> Iterator[W]:
    """Run a world in a thread of its own."""
    opened: list[W] = []
    ready, done = threading.Event(), threading.Event()
    failures: list[BaseException] = []

    async def live() -> None:
        async with make(settings) as world:
            opened.append(world)
            ready.set()
            await asyncio.to_thread(done.wait)

    def run() -> None:
        try:
            asyncio.run(live())
        except BaseException as error:  # noqa: BLE001 -- raised again in the test's own thread
            failures.append(error)
        finally:
            ready.set()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        ready.wait()
        if failures:
            raise failures[0]
        yield opened[0]
    finally:
        done.set()
        thread.join()
    if failures:
        raise failures[0]


def go_through(
    lives: type[RuleBasedStateMachine],
    examples: int,
    happened: Callable[[], AbstractSet[str]],
    must_happen: AbstractSet[str],
) -> None:
    """Go through so many random lives, and through as many again while something has not come about that must.

    Up to SAME_EXAMPLES of them are those of a seed. What Hypothesis makes of a seed depends also on which modules were
    imported before, for it tries the constants that it finds in them: so no seed can promise what comes about.
    """
    for number in range(1, ROUNDS_MAX + 1):
        _go_through(seed(number)(lives) if examples <= SAME_EXAMPLES else lives, examples)
        if happened() >= must_happen:
            break
    # What never happened was not tested.
    assert happened() >= must_happen


def _go_through(lives: type[RuleBasedStateMachine], examples: int) -> None:
    """Go through random lives; where a mechanism is switched off, nobody needs the smallest example of that."""
    switched_off = bool(os.environ.get(VARIABLE))
    run_state_machine_as_test(
        lives,
        settings=hypothesis_settings(
            max_examples=examples,
            stateful_step_count=STEPS,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate] if switched_off else list(Phase),
            report_multiple_bugs=False,
            database=None,
            print_blob=True,
        ),
    )

"""Life of a process: its name, its log, its signals."""

import asyncio
import logging
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop
from setproctitle import setproctitle

from adapters.tasks import end_tasks


def run_process(title: str, main: Callable[[asyncio.Event], Coroutine[Any, Any, None]]) -> None:
    """Run a process's main coroutine under uvloop; SIGTERM and SIGINT set the event that it is given."""
    setproctitle(f"flashgate: {title}")
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")

    async def run() -> None:
        stopping = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        await main(stopping)

    uvloop.run(run())


async def run_until_told(work: Coroutine[Any, Any, None], stop: Callable[[], None], stopping: asyncio.Event) -> None:
    """Run a worker's loop until the event is set, then have it finish what it is at.

    Raises:
        Exception: what the worker died of.
    """
    running = asyncio.create_task(work)
    told = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait([running, told], return_when=asyncio.FIRST_COMPLETED)
        stop()
        await running
    finally:
        told.cancel()
        await end_tasks([running])

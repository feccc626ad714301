"""`python -m bench.load_process FD_IN FD_OUT JOB`: one process of the load driver.

It connects, says that it is ready, reads the common start time (monotonic seconds, one line), sends its requests, and
tells what came of them.
"""

import array
import asyncio
import contextlib
import gc
import math
import os
import sys
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final

import msgspec
import uvloop
from hdrh.histogram import HdrHistogram
from setproctitle import setproctitle

from bench.link import tell
from bench.load_http import Line, Orders
from bench.load_messages import (
    LATE_S,
    LATENCY_MAX_US,
    SIGNIFICANT_DIGITS,
    LoadFailed,
    LoadJob,
    LoadMessage,
    LoadProgress,
    LoadReady,
    LoadResult,
    to_line,
)
from bench.load_outcomes import Meaning
from bench.load_settle import settle
from bench.load_shapes import Arrivals, Constant, arrivals
from bench.load_tally import Tally
from bench.timer import acknowledge, periodic
from bench.tokens import minter_from_file

CONNECT_TIMEOUT_S: Final = 10.0
CONNECTING_AT_ONCE: Final = 64
RECONNECT_PAUSE_S: Final = 0.1
TICK_MIN_S: Final = 0.0002
TICK_MAX_S: Final = 0.001
"""Where requests are not evenly spaced, so that none is noticed later than that."""
LINE_BYTES_MAX: Final = 64


Tell = Callable[[LoadMessage], None]


class Loop:
    """Connections, counts and latencies; how requests are paced is the subclass's.

    Args:
        job: what to do.
        say: told of progress, if the job wants it.
    """

    def __init__(self, job: LoadJob, say: Tell) -> None:
        self._job = job
        self._say = say
        self._order = Orders(job, minter_from_file(job.key_file, job.audience)).order
        self._running = asyncio.get_running_loop()
        self._lines: set[Line] = set()
        self._idle: list[Line] = []
        self._latencies_us = array.array("Q")
        self._tally = Tally(len(job.aims) or 1)
        self._reconnecting: set[asyncio.Task[None]] = set()
        self._done = asyncio.Event()
        self._began = False
        self._inflight = self._inflight_max = 0
        self._sent = self._late = self._noticed_late = self._dropped = self._errors = 0
        self._lag_max_s = 0.0
        self._start_s = self._last_s = 0.0

    async def connect(self) -> int:
        """Open all connections; returns how many there are.

        Raises:
            OSError: the target cannot be reached, or not in time.
        """
        gate = asyncio.Semaphore(CONNECTING_AT_ONCE)

        async def one() -> None:
            async with gate:
                await self._connect()

        await asyncio.gather(*(one() for _ in range(self._job.connections)))
        return len(self._lines)

    async def run(self, start_s: float) -> LoadResult:
        """Send everything from the start time on; returns what came of it."""
        await asyncio.sleep(max(0.0, start_s - time.monotonic() - 0.002))
        cpu_s = time.process_time()
        self._start_s = self._last_s = start_s
        self._began = True
        timeout_s = start_s + self._job.seconds + self._job.drain_s + self._job.wait_max_s - time.monotonic()
        pacing = self._begin()
        if self._job.progress_s > 0:
            pacing.callback(self._running.create_task(self._tell_progress()).cancel)
        try:
            async with asyncio.timeout(timeout_s):
                await self._done.wait()
        except TimeoutError:
            self._done.set()  # nobody reconnects any more
        finally:
            pacing.close()
        result = self._result(time.monotonic(), time.process_time() - cpu_s)
        return await self._settled(result)

    async def _tell_progress(self) -> None:
        while True:
            await asyncio.sleep(self._job.progress_s)
            self._say(
                LoadProgress(
                    seconds=time.monotonic() - self._start_s,
                    offered=self._offered,
                    sent=self._sent,
                    answered=self._tally.answered,
                    late=self._late,
                    dropped=self._dropped,
                    classes=self._tally.classes(),
                )
            )

    async def _settled(self, result: LoadResult) -> LoadResult:
        """Ask again what came of requests whose outcome is not known."""
        job, tally = self._job, self._tally
        if not tally.unknown or job.settle_s <= 0:
            return result
        for line in self._lines:
            line.close()
        found = await settle(job.host, job.port, tally.unknown, self._order, timeout_s=job.settle_s)
        for number, meaning in found.items():
            tally.settle(number, meaning)
        return msgspec.structs.replace(result, settled=tally.settled(), won=tally.won)

    # -- what the subclasses do ----------------------------------------------------------------------------------

    def _begin(self) -> "contextlib.ExitStack[None]":
        raise NotImplementedError

    @property
    def _offered(self) -> int:
        raise NotImplementedError

    def _free(self, line: Line, now_s: float) -> None:
        """Use a connection that has become free."""
        raise NotImplementedError

    def _is_over(self) -> bool:
        """Tell whether nothing more will be sent."""
        raise NotImplementedError

    # -- connections ---------------------------------------------------------------------------------------------

    async def _connect(self) -> Line:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, line = await self._running.create_connection(
                lambda: Line(self._answered, self._lost), self._job.host, self._job.port
            )
        self._lines.add(line)
        self._idle.append(line)
        return line

    def _send(self, line: Line, number: int, due_s: float) -> None:
        self._sent += 1
        self._inflight += 1
        self._inflight_max = max(self._inflight_max, self._inflight)
        line.send(self._order(number), due_s, number)

    def _answered(self, line: Line, meaning: Meaning) -> None:
        now_s = time.monotonic()
        self._last_s = now_s
        self._latencies_us.append(max(0, round((now_s - line.due_s) * 1e6)))
        self._tally.answer(line.number, meaning)
        self._inflight -= 1
        if line.is_open:
            self._free(line, now_s)
        self._end_if_over()

    def _lost(self, line: Line) -> None:
        self._lines.discard(line)
        if line.busy:
            line.busy = False
            self._inflight -= 1
            self._errors += 1
            if not self._done.is_set():
                self._tally.lose(line.number)
        if not self._began or self._done.is_set():
            return
        task = self._running.create_task(self._reconnect())
        self._reconnecting.add(task)
        task.add_done_callback(self._reconnecting.discard)
        self._end_if_over()

    async def _reconnect(self) -> None:
        while not self._done.is_set():
            await asyncio.sleep(RECONNECT_PAUSE_S)
            with contextlib.suppress(OSError, TimeoutError):
                line = await self._connect()
                self._idle.remove(line)
                self._free(line, time.monotonic())
                return

    def _end_if_over(self) -> None:
        if self._inflight == 0 and self._is_over():
            self._done.set()

    def _result(self, now_s: float, cpu_s: float) -> LoadResult:
        histogram = HdrHistogram(1, LATENCY_MAX_US, SIGNIFICANT_DIGITS)
        busy = [line for line in self._lines if line.busy]
        for line in busy:
            self._tally.lose(line.number)
        waiting = [max(0, round((now_s - line.due_s) * 1e6)) for line in busy]
        for latency_us, count in Counter([*self._latencies_us, *waiting]).items():
            histogram.record_value(min(max(1, latency_us), LATENCY_MAX_US), count)
        return LoadResult(
            offered=self._offered,
            sent=self._sent,
            answered=self._tally.answered,
            late=self._late,
            noticed_late=self._noticed_late,
            dropped=self._dropped,
            errors=self._errors,
            unanswered=len(waiting),
            statuses=dict(self._tally.statuses),
            histogram=histogram.encode().decode(),
            inflight_max=self._inflight_max,
            seconds=self._last_s - self._start_s,
            cpu_s=cpu_s,
            lag_max_ms=self._lag_max_s * 1000,
            classes=self._tally.classes(),
            by_aim=self._tally.by_aim(),
            unknown=len(self._tally.unknown),
            settled=self._tally.settled(),
            won=self._tally.won,
        )


class OpenLoop(Loop):
    """Requests are due by the clock; one that finds no free connection waits for one, and its wait counts."""

    def __init__(self, job: LoadJob, say: Tell) -> None:
        super().__init__(job, say)
        # A dry run of what is to come: a Poisson process's arrivals take a moment to be drawn.
        self._arrivals = self._from(0.0)
        self._total = self._arrivals.total
        self._next = 0
        self._next_due_s = 0.0
        self._waiting: deque[tuple[int, float]] = deque()

    def _from(self, start_s: float) -> Arrivals:
        job = self._job
        shape = job.shape or Constant(rate_per_s=job.rate_per_s, seconds=job.seconds)
        return arrivals(shape, start_s, job.part, job.parts)

    def _begin(self) -> "contextlib.ExitStack[None]":
        self._next_due_s = self._due_s(0)
        interval_s = max(TICK_MIN_S, self._arrivals.interval_s)
        if not isinstance(self._job.shape, Constant | None):
            interval_s = min(interval_s, TICK_MAX_S)
        fd = periodic(self._next_due_s if self._total else self._start_s, interval_s)
        opened: contextlib.ExitStack[None] = contextlib.ExitStack()
        opened.callback(os.close, fd)
        opened.callback(self._running.remove_reader, fd)
        self._running.add_reader(fd, self._tick, fd)
        return opened

    def _due_s(self, index: int) -> float:
        return self._start_s + self._arrivals.due_s(index) if index < self._total else math.inf

    @property
    def _offered(self) -> int:
        return self._next

    def _is_over(self) -> bool:
        return self._next >= self._total and not self._waiting

    def _tick(self, fd: int) -> None:
        acknowledge(fd)
        now_s = time.monotonic()
        if self._next_due_s <= now_s:
            self._lag_max_s = max(self._lag_max_s, now_s - self._next_due_s)
        while self._next_due_s <= now_s:
            self._noticed_late += now_s - self._next_due_s > LATE_S
            self._waiting.append((self._next, self._next_due_s))
            self._next += 1
            self._next_due_s = self._due_s(self._next)
        self._pump(now_s)
        self._drop(now_s)
        self._end_if_over()

    def _pump(self, now_s: float) -> None:
        while self._waiting and self._idle:
            line = self._idle.pop()
            if not line.is_open:
                continue
            index, due_s = self._waiting.popleft()
            self._late += now_s - due_s > LATE_S
            self._send(line, self._job.part + index * self._job.parts, due_s)

    def _drop(self, now_s: float) -> None:
        while self._waiting and now_s - self._waiting[0][1] > self._job.wait_max_s:
            self._waiting.popleft()
            self._dropped += 1

    def _free(self, line: Line, now_s: float) -> None:
        self._idle.append(line)
        if self._waiting:
            self._pump(now_s)


class ClosedLoop(Loop):
    """Each connection sends its next request when it has the answer to the last."""

    def _begin(self) -> "contextlib.ExitStack[None]":
        lines, self._idle = self._idle, []
        for line in lines:
            self._free(line, time.monotonic())
        ending = self._running.call_later(self._job.seconds, self._end_if_over)
        opened: contextlib.ExitStack[None] = contextlib.ExitStack()
        opened.callback(ending.cancel)
        return opened

    @property
    def _offered(self) -> int:
        return self._sent

    def _is_over(self) -> bool:
        return self._sent >= self._job.requests or time.monotonic() - self._start_s >= self._job.seconds

    def _free(self, line: Line, now_s: float) -> None:
        if not self._is_over():
            self._send(line, self._sent, now_s)


async def work(job: LoadJob, in_: int, out: int) -> None:
    """Do the job; what goes wrong is told."""

    def say(message: LoadMessage) -> None:
        tell(out, to_line(message))

    try:
        loop = OpenLoop(job, say) if job.mode == "open" else ClosedLoop(job, say)
        connections = await loop.connect()
    except (OSError, TimeoutError) as error:
        why = str(error) or "no connection in time"
        say(LoadFailed(why=f"{job.host}:{job.port} cannot be reached: {why}"))
        return
    # Nothing of what exists now will ever be garbage; a collection in the middle would count as latency.
    gc.collect()
    gc.freeze()
    gc.disable()
    say(LoadReady(connections=connections))
    told = asyncio.Event()
    running = asyncio.get_running_loop()
    running.add_reader(in_, told.set)
    await told.wait()
    running.remove_reader(in_)
    start = os.read(in_, LINE_BYTES_MAX)
    if start.endswith(b"\n"):  # else the parent is gone
        say(await loop.run(float(start)))


def main() -> None:
    """Run as a process."""
    setproctitle("flashgate: load")
    in_, out, job = sys.argv[1:]
    uvloop.run(work(msgspec.json.decode(job, type=LoadJob), int(in_), int(out)))


if __name__ == "__main__":
    main()

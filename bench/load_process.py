"""`python -m bench.load_process FD_IN FD_OUT JOB`: one process of the load driver.

It connects, says that it is ready, reads the common start time (monotonic seconds, one line), sends its requests, and
tells what came of them.
"""

import array
import asyncio
import contextlib
import gc
import os
import sys
import time
from collections import Counter, deque
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
    LoadReady,
    LoadResult,
    to_line,
)
from bench.load_schedule import Schedule
from bench.timer import acknowledge, periodic
from bench.tokens import minter_from_file

CONNECT_TIMEOUT_S: Final = 10.0
CONNECTING_AT_ONCE: Final = 64
RECONNECT_PAUSE_S: Final = 0.1
TICK_MIN_S: Final = 0.0002
LINE_BYTES_MAX: Final = 64


class Loop:
    """Connections, counts and latencies; how requests are paced is the subclass's."""

    def __init__(self, job: LoadJob) -> None:
        self._job = job
        self._order = Orders(job, minter_from_file(job.key_file, job.audience)).order
        self._running = asyncio.get_running_loop()
        self._lines: set[Line] = set()
        self._idle: list[Line] = []
        self._latencies_us = array.array("Q")
        self._statuses: Counter[int] = Counter()
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
        try:
            async with asyncio.timeout(timeout_s):
                await self._done.wait()
        except TimeoutError:
            pass
        finally:
            pacing.close()
        return self._result(time.monotonic(), time.process_time() - cpu_s)

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
        line.send(self._order(number), due_s)

    def _answered(self, line: Line, status: int) -> None:
        now_s = time.monotonic()
        self._last_s = now_s
        self._latencies_us.append(max(0, round((now_s - line.due_s) * 1e6)))
        self._statuses[status] += 1
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
        waiting = [max(0, round((now_s - line.due_s) * 1e6)) for line in self._lines if line.busy]
        for latency_us, count in Counter([*self._latencies_us, *waiting]).items():
            histogram.record_value(min(max(1, latency_us), LATENCY_MAX_US), count)
        return LoadResult(
            offered=self._offered,
            sent=self._sent,
            answered=sum(self._statuses.values()),
            late=self._late,
            noticed_late=self._noticed_late,
            dropped=self._dropped,
            errors=self._errors,
            unanswered=len(waiting),
            statuses=dict(self._statuses),
            histogram=histogram.encode().decode(),
            inflight_max=self._inflight_max,
            seconds=self._last_s - self._start_s,
            cpu_s=cpu_s,
            lag_max_ms=self._lag_max_s * 1000,
        )


class OpenLoop(Loop):
    """Requests are due by the clock; one that finds no free connection waits for one, and its wait counts."""

    def __init__(self, job: LoadJob) -> None:
        super().__init__(job)
        self._schedule = Schedule(0.0, job.rate_per_s, job.seconds, job.part, job.parts)
        self._next = 0
        self._waiting: deque[int] = deque()

    def _begin(self) -> "contextlib.ExitStack[None]":
        job = self._job
        self._schedule = Schedule(self._start_s, job.rate_per_s, job.seconds, job.part, job.parts)
        interval_s = max(TICK_MIN_S, self._schedule.interval_s)
        fd = periodic(self._schedule.due_s(0), interval_s)
        opened: contextlib.ExitStack[None] = contextlib.ExitStack()
        opened.callback(os.close, fd)
        opened.callback(self._running.remove_reader, fd)
        self._running.add_reader(fd, self._tick, fd)
        return opened

    @property
    def _offered(self) -> int:
        return self._next

    def _is_over(self) -> bool:
        return self._next >= self._schedule.total and not self._waiting

    def _tick(self, fd: int) -> None:
        acknowledge(fd)
        now_s = time.monotonic()
        due = self._schedule.due_by(now_s)
        if self._next < due:
            self._lag_max_s = max(self._lag_max_s, now_s - self._schedule.due_s(self._next))
        while self._next < due:
            self._noticed_late += now_s - self._schedule.due_s(self._next) > LATE_S
            self._waiting.append(self._next)
            self._next += 1
        self._pump(now_s)
        self._drop(now_s)
        self._end_if_over()

    def _pump(self, now_s: float) -> None:
        while self._waiting and self._idle:
            line = self._idle.pop()
            if not line.is_open:
                continue
            index = self._waiting.popleft()
            due_s = self._schedule.due_s(index)
            self._late += now_s - due_s > LATE_S
            self._send(line, self._job.part + index * self._job.parts, due_s)

    def _drop(self, now_s: float) -> None:
        while self._waiting and now_s - self._schedule.due_s(self._waiting[0]) > self._job.wait_max_s:
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
    try:
        loop = OpenLoop(job) if job.mode == "open" else ClosedLoop(job)
        connections = await loop.connect()
    except (OSError, TimeoutError) as error:
        why = str(error) or "no connection in time"
        tell(out, to_line(LoadFailed(why=f"{job.host}:{job.port} cannot be reached: {why}")))
        return
    # Nothing of what exists now will ever be garbage; a collection in the middle would count as latency.
    gc.collect()
    gc.freeze()
    gc.disable()
    tell(out, to_line(LoadReady(connections=connections)))
    told = asyncio.Event()
    running = asyncio.get_running_loop()
    running.add_reader(in_, told.set)
    await told.wait()
    running.remove_reader(in_)
    start = os.read(in_, LINE_BYTES_MAX)
    if start.endswith(b"\n"):  # else the parent is gone
        tell(out, to_line(await loop.run(float(start))))


def main() -> None:
    """Run as a process."""
    setproctitle("flashgate: load")
    in_, out, job = sys.argv[1:]
    uvloop.run(work(msgspec.json.decode(job, type=LoadJob), int(in_), int(out)))


if __name__ == "__main__":
    main()

"""`python -m bench.crowd_process FD_IN FD_OUT JOB`: a crowd of real HTTP buyers, in a process of its own.

It prepares everybody's token, connects, looks at the campaign's page on every connection until the sale is on, says
that it is ready, waits for `go`, and lets everybody loose at once. A buyer's wait for a free connection counts.
"""

import array
import asyncio
import gc
import json
import os
import sys
import time
from collections import deque
from pathlib import Path
from typing import Any, Final

import jwt
import msgspec
import orjson
import uvloop
from hdrh.histogram import HdrHistogram
from setproctitle import setproctitle

from bench import link
from bench.crowd import NO_REPLY, AnyCrowd, Ask, Reply, buyer_name, purchase_key
from bench.crowd_draws import DrawCrowd
from bench.crowd_http import Lane, Response, read_reply
from bench.crowd_messages import GO, Failed, Job, Message, Progress, Ready, Result, to_line
from bench.crowd_orders import OrderCrowd, RedemptionCrowd
from domain.campaign import LOTTERY, REDEMPTION

TOKEN_VALID_S: Final = 3_600
CONNECT_TIMEOUT_S: Final = 10.0
PAGE_TIMEOUT_S: Final = 30.0
"""How long the campaign's page may say that nothing is on sale yet."""
PAGE_PAUSE_S: Final = 0.1
ANSWER_TIMEOUT_S: Final = 15.0
"""A connection that has not answered by then is given up."""
SWEEP_S: Final = 1.0
PROGRESS_S: Final = 0.1
RECONNECT_PAUSE_S: Final = 0.1
RECONNECTS_MAX: Final = 20
"""In a row, of one connection."""
LATENCY_MAX_US: Final = 3_600_000_000
HANG_UP_S: Final = 0.002
"""A buyer who loses the connection does so this long after the request was sent."""
PATHS: Final = {LOTTERY: "/v1/draws", REDEMPTION: "/v1/redemptions"}
"""Kind of campaign → where its requests go; all others to /v1/orders."""


class CrowdFailedError(Exception):
    """The crowd cannot do its job; the message says why."""


def make_crowd(job: Job) -> AnyCrowd:
    """Return the crowd that suits a job's kind of campaign."""
    if job.kind == LOTTERY:
        return DrawCrowd(job.campaign_id, job.buyers, job.seed, draws_per_user=job.draws_per_user, prizes=job.prizes)
    made = RedemptionCrowd if job.kind == REDEMPTION else OrderCrowd
    return made(job.campaign_id, job.buyers, job.seed)


class Requests:
    """Everybody's requests, as bytes."""

    def __init__(self, job: Job) -> None:
        self._host = f"{job.host}:{job.port}"
        key = Path(job.key_file).read_bytes().strip()
        expires = int(time.time()) + TOKEN_VALID_S
        self._tokens = [
            jwt.encode({"sub": buyer_name(number), "aud": job.audience, "exp": expires}, key, algorithm="HS256")
            for number in range(job.buyers)
        ]
        wanted = {} if job.kind == LOTTERY else {"sku_id": job.sku_id, "quantity": 1}
        body = orjson.dumps({"campaign_id": job.campaign_id, **wanted}).decode()
        self._head = (
            f"POST {PATHS.get(job.kind, '/v1/orders')} HTTP/1.1\r\nHost: {self._host}\r\nAuthorization: Bearer "
        )
        self._tail = f"\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n{body}"
        self._seed = job.seed
        self.page = f"GET /v1/campaigns/{job.campaign_id} HTTP/1.1\r\nHost: {self._host}\r\n\r\n".encode()

    def of(self, ask: Ask[Any]) -> bytes:
        """Return the request; the same purchase or draw has the same key."""
        number = ask.buyer.number
        key = purchase_key(self._seed, number, ask.key_no)
        return f"{self._head}{self._tokens[number]}\r\nIdempotency-Key: {key}{self._tail}".encode()


class Driver:
    """Lets a crowd loose over a bounded number of connections."""

    def __init__(self, job: Job, crowd: AnyCrowd, requests: Requests, out: int) -> None:
        self._job = job
        self._crowd = crowd
        self._requests = requests
        self._out = out
        self._loop = asyncio.get_running_loop()
        self._lanes: set[Lane] = set()
        self._idle: list[Lane] = []
        self._asked: dict[Lane, Ask[Any]] = {}
        self._pages: dict[Lane, asyncio.Future[Response]] = {}
        self._ready: deque[Ask[Any]] = deque()
        self._reconnecting: set[asyncio.Task[None]] = set()
        self._latencies_us = array.array("Q")
        self._done = asyncio.Event()
        self._start_s = 0.0
        self._accepted_s = 0.0
        self._known = 0

    async def gather(self) -> int:
        """Connect everybody and have them see that the sale is on; returns the number of connections.

        Raises:
            CrowdFailedError: the gateway cannot be reached, or sells nothing.
        """
        lanes = min(self._job.lanes, self._job.buyers)
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S + PAGE_TIMEOUT_S):
                await asyncio.gather(*(self._connect() for _ in range(lanes)))
                await asyncio.gather(*(self._watch_page(lane) for lane in self._lanes))
        except (OSError, TimeoutError) as error:
            raise CrowdFailedError(f"the sale cannot be seen: {str(error) or type(error).__name__}") from None
        self._idle = list(self._lanes)
        return len(self._lanes)

    async def run(self) -> Result:
        """Let everybody loose; returns once everybody knows where he stands."""
        cpu_s = time.process_time()
        self._start_s = time.monotonic()
        for ask in self._crowd.arrive():
            ask.ready_s = self._start_s
            self._ready.append(ask)
        ticking = asyncio.create_task(self._tick())
        sweeping = asyncio.create_task(self._sweep())
        expiring = self._loop.call_later(self._job.pay_within_s, self._let_units_come_back)
        self._pump()
        try:
            await self._done.wait()
        finally:
            expiring.cancel()
            ticking.cancel()
            sweeping.cancel()
        self._tell_progress()
        return self._result(time.monotonic(), time.process_time() - cpu_s)

    def _let_units_come_back(self) -> None:
        self._crowd.units_come_back = True

    # -- connections -----------------------------------------------------------------------------------------------

    async def _connect(self) -> None:
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            _, lane = await self._loop.create_connection(
                lambda: Lane(self._answered, self._lost), self._job.host, self._job.port
            )
        self._lanes.add(lane)

    async def _watch_page(self, lane: Lane) -> None:
        """Look at the campaign's page until its SKU is on sale, as people do who wait for ten o'clock."""
        while True:
            if not lane.is_open:
                raise CrowdFailedError("the gateway closed a connection")
            page = self._pages[lane] = self._loop.create_future()
            lane.send(self._requests.page)
            response = await page
            if response.status == 200 and _on_sale(response.body, self._job.sku_id):
                return
            await asyncio.sleep(PAGE_PAUSE_S)

    def _lost(self, lane: Lane, was_busy: bool) -> None:
        self._lanes.discard(lane)
        page = self._pages.pop(lane, None)
        if page is not None and not page.done():
            page.set_exception(CrowdFailedError("the gateway closed a connection"))
        if not self._start_s or self._done.is_set():
            return
        task = self._loop.create_task(self._reconnect())
        self._reconnecting.add(task)
        task.add_done_callback(self._reconnecting.discard)
        if was_busy:
            self._hear(self._asked.pop(lane), NO_REPLY)

    async def _reconnect(self) -> None:
        for _ in range(RECONNECTS_MAX):
            await asyncio.sleep(RECONNECT_PAUSE_S)
            try:
                await self._connect()
            except (OSError, TimeoutError):
                continue
            self._idle = [lane for lane in self._lanes if not lane.busy]
            self._pump()
            return
        if not self._lanes and len(self._reconnecting) == 1:
            # Nobody can be served any more: tell everyone, again and again, until all have given up.
            while not self._done.is_set():
                while self._ready:
                    self._hear(self._ready.popleft(), NO_REPLY)
                await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            overdue_s = time.monotonic() - ANSWER_TIMEOUT_S
            for lane in [lane for lane in self._asked if lane.sent_s < overdue_s]:
                lane.abort()

    # -- requests --------------------------------------------------------------------------------------------------

    def _offer(self, ask: Ask[Any]) -> None:
        ask.ready_s = time.monotonic()
        self._ready.append(ask)
        self._pump()

    def _pump(self) -> None:
        """Send what is ready for as long as there is a free connection."""
        while self._ready and self._idle:
            lane = self._idle.pop()
            if not lane.is_open:
                continue
            ask = self._ready.popleft()
            self._crowd.sending(ask)
            self._asked[lane] = ask
            lane.send(self._requests.of(ask))
            if ask.hangs_up and not ask.tries:
                self._loop.call_later(HANG_UP_S, self._hang_up, lane, ask)

    def _hang_up(self, lane: Lane, ask: Ask[Any]) -> None:
        """Lose a connection unless it was quick: what the answer says is not known then."""
        if self._asked.get(lane) is ask:
            lane.abort()

    def _answered(self, lane: Lane, response: Response) -> None:
        page = self._pages.pop(lane, None)
        if page is not None:
            if not page.done():
                page.set_result(response)
            return
        ask = self._asked.pop(lane)
        self._latencies_us.append(round((time.monotonic() - ask.ready_s) * 1e6))
        if lane.is_open:
            self._idle.append(lane)
        self._hear(ask, read_reply(response))
        self._pump()

    def _hear(self, ask: Ask[Any], reply: Reply) -> None:
        for following, after_s in self._crowd.hear(ask, reply):
            if after_s:
                self._loop.call_later(after_s, self._offer, following)
            else:
                following.ready_s = time.monotonic()
                self._ready.appendleft(following)  # who has just been answered has a free connection
        if len(self._crowd.order_ids) != self._known:
            self._known = len(self._crowd.order_ids)
            self._accepted_s = time.monotonic()
        if not self._crowd.unsettled:
            self._done.set()

    # -- what is told ----------------------------------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(PROGRESS_S)
            self._tell_progress()

    def _tell_progress(self) -> None:
        seconds = time.monotonic() - self._start_s
        tell(self._out, Progress(seconds=seconds, sent=self._crowd.sent, counts=self._crowd.counts()))

    def _result(self, ended_s: float, cpu_s: float) -> Result:
        crowd = self._crowd
        histogram = HdrHistogram(1, LATENCY_MAX_US, 3)
        for latency_us in self._latencies_us:
            histogram.record_value(min(latency_us, LATENCY_MAX_US))
        return Result(
            seconds=ended_s - self._start_s,
            accepting_s=max(0.0, self._accepted_s - self._start_s),
            sent=crowd.sent,
            counts=crowd.counts(),
            answers=dict(crowd.answers),
            replays=crowd.replays,
            retries=crowd.retries,
            untrue=dict(crowd.untrue),
            examples=crowd.examples,
            order_ids=sorted(crowd.order_ids),
            draws=crowd.draws(),
            empty_handed=crowd.empty_handed(self._job.empty_handed_max),
            p50_ms=histogram.get_value_at_percentile(50) / 1000,
            p99_ms=histogram.get_value_at_percentile(99) / 1000,
            max_ms=histogram.get_max_value() / 1000,
            cpu_s=cpu_s,
            ended_monotonic_s=ended_s,
        )


def _on_sale(body: bytes, sku_id: str) -> bool:
    skus = json.loads(body)["skus"]
    return any(sku["sku_id"] == sku_id and sku["state"] == "on_sale" for sku in skus)


def tell(out: int, message: Message) -> None:
    """Write a message, whole: the parent reads."""
    link.tell(out, to_line(message))


async def work(job: Job, in_: int, out: int) -> None:
    """Do the job; what goes wrong is told."""
    driver = Driver(job, make_crowd(job), Requests(job), out)
    try:
        lanes = await driver.gather()
    except CrowdFailedError as error:
        tell(out, Failed(why=str(error)))
        return
    # Nothing of what exists now will ever be garbage; a collection in the middle would count as latency.
    gc.freeze()
    gc.disable()
    tell(out, Ready(lanes=lanes))
    loop = asyncio.get_running_loop()
    told = asyncio.Event()
    loop.add_reader(in_, told.set)
    await told.wait()
    loop.remove_reader(in_)
    if os.read(in_, len(GO)) == GO:
        tell(out, await driver.run())


def main() -> None:
    """Run as a process."""
    setproctitle("flashgate: crowd")
    in_, out, job = sys.argv[1:]
    uvloop.run(work(msgspec.json.decode(job, type=Job), int(in_), int(out)))


if __name__ == "__main__":
    main()

"""Buyers of the 10 o'clock peak for Locust, a closed loop of people; `flashgate bench locust` starts it.

`import locust` patches the standard library: nothing else may import this module.
"""

import itertools
import os
import random
import time
from pathlib import Path
from typing import Any, Final

import gevent
import msgspec
from locust import FastHttpUser, LoadTestShape, between, events, task
from locust.user.users import LOCUST_STATE_STOPPING

from bench.load_outcomes import REPLAYED_HEADER, Meaning, ResultClass, classify, is_win, problem_code
from bench.locust_buyer import Counting, LocustJob, Purchase, buyer_name
from bench.locust_shape import PeakPlan, crowd_at
from bench.tokens import minter_from_file

JOB_VARIABLE: Final = "BENCH_LOCUST_JOB"
WRITE_EVERY_S: Final = 0.5
TIMEOUT_S: Final = 15.0
"""The gateway answers within 5 seconds, or says that it does not know."""


def _read_job() -> LocustJob:
    path = os.environ.get(JOB_VARIABLE)
    if not path:
        raise SystemExit("bench/locustfile.py is started by: ./flashgate bench locust")
    return msgspec.json.decode(Path(path).read_bytes(), type=LocustJob)


JOB: Final = _read_job()
MINT: Final = minter_from_file(JOB.key_file, JOB.audience).mint
COUNTING: Final = Counting(len(JOB.aims))
NUMBERS: Final = [itertools.count() for _ in JOB.aims]
TURNS: Final = itertools.count()
CHANCE: Final = random.Random()  # noqa: S311 -- no secret; each process is seeded anew below


class Opening:
    """When buying begins, by this process's monotonic clock."""

    at_s = 0.0


def plan_of(options: Any) -> PeakPlan:  # noqa: ANN401 -- Locust's parsed options
    """Return the peak that the command or the web page asks for."""
    return PeakPlan(
        int(options.num_users or JOB.users),
        float(options.spawn_rate or JOB.spawn_per_s),
        float(options.run_time or JOB.duration_s),
    )


class Buyer(FastHttpUser):
    """A person at the gate: looks until it opens, buys as one buyer after the other, each once."""

    wait_time = between(0.5, 1.5)
    network_timeout = connection_timeout = TIMEOUT_S
    concurrency = 1

    @task
    def act(self) -> None:
        """Look, or buy."""
        aim = next(TURNS) % len(JOB.aims)
        if time.monotonic() < Opening.at_s:
            COUNTING.looks += 1
            self.client.get(JOB.pages[aim], name="GET /v1/campaigns/[id] while waiting")
            return
        purchase = Purchase(aim, CHANCE.random())
        try:
            self.purchase(purchase)
        finally:
            purchase.end()
            COUNTING.add(purchase)

    def purchase(self, purchase: Purchase) -> None:
        """Ask until it is known what came of it."""
        index = getattr(self.environment.runner, "worker_index", 0)
        buyer = buyer_name(JOB.prefix, index, purchase.aim, next(NUMBERS[purchase.aim]))
        headers = {
            "Authorization": f"Bearer {MINT(buyer.encode()).decode()}",
            "Idempotency-Key": buyer,
            "Content-Type": "application/json",
        }
        wait_s: float | None = 0.0
        while wait_s is not None:
            gevent.sleep(wait_s)
            wait_s = self.ask(purchase, headers)

    def ask(self, purchase: Purchase, headers: dict[str, str]) -> float | None:
        """Send the request once; returns how long to wait before it is sent again, or None."""
        aim = JOB.aims[purchase.aim]
        purchase.ask()
        with self.client.post(aim.path, data=aim.text, headers=headers, catch_response=True) as response:
            status, body, told = int(response.status_code or 0), response.content or b"", response.headers or {}
            replayed = told.get(REPLAYED_HEADER, "") == "true"
            code = problem_code(body) if status >= 400 else ""
            what = classify(status, code, replayed=replayed)
            response.request_meta["name"] = f"{aim.path} {what.replace('_', ' ')}"
            if what is ResultClass.FAILED:
                response.failure(f"{status} {code or response.error}")
            else:
                response.success()  # a refusal is no failure
            try:
                retry_after_s = float(told.get("Retry-After", "1"))
            except ValueError:
                retry_after_s = 1.0
            return purchase.hear(
                Meaning(status, code, replayed, status == 200 and is_win(body)),
                retry_after_s=retry_after_s,
                stopping=self._state == LOCUST_STATE_STOPPING,
                chance=CHANCE.random(),
            )


class Peak(LoadTestShape):
    """The 10 o'clock peak; users, spawn rate and run time of the command or the web page count."""

    use_common_options = True

    def tick(self) -> tuple[int, float] | None:
        """Return how many people are there now, and how fast they come and leave."""
        plan = plan_of(self.runner.environment.parsed_options)
        users = crowd_at(plan, self.get_run_time())
        return None if users is None else (users, plan.rate_per_s)


@events.test_start.add_listener
def on_start(environment: Any, **_: object) -> None:  # noqa: ANN401
    """Set the opening; buying begins in every process at once, give or take a message."""
    CHANCE.seed()
    Opening.at_s = time.monotonic() + plan_of(environment.parsed_options).opens_s


def write_counts() -> None:
    """Write this process's counts, so that a reader sees all of them or those before."""
    path = Path(JOB.counts_folder) / f"{os.getpid()}.json"
    part = path.with_suffix(".part")
    part.write_bytes(msgspec.json.encode(COUNTING.counts()))
    part.replace(path)


def _write_forever() -> None:
    while True:
        gevent.sleep(WRITE_EVERY_S)
        write_counts()


@events.init.add_listener
def on_init(**_: object) -> None:
    """Begin to tell counts: each process for itself, for a worker's last report may come too late for its master."""
    gevent.spawn(_write_forever)


@events.test_stop.add_listener
@events.quitting.add_listener
@events.quit.add_listener
def on_end(**_: object) -> None:
    """Tell the last counts."""
    write_counts()

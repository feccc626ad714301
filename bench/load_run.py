"""Runs the load driver's processes and adds up what they tell."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from hdrh.histogram import HdrHistogram

from bench.drive import Driven, Errand
from bench.errors import BenchError
from bench.link import ChildLink
from bench.load_messages import (
    LATENCY_MAX_US,
    SIGNIFICANT_DIGITS,
    LoadFailed,
    LoadJob,
    LoadMessage,
    LoadProgress,
    LoadReady,
    LoadResult,
    from_line,
)
from bench.load_outcomes import ResultClass, by_class
from bench.load_schedule import Strain, bottlenecks, saturated
from domain.errors import BackendError
from stack.errors import ChildFailed

BEGIN_AFTER_S: Final = 0.25
"""From the moment that all processes are ready to the common start."""
SILENCE_SPARE_S: Final = 60.0


class LoadReport(msgspec.Struct, frozen=True, kw_only=True):
    """What all processes together came to; for the counts see `LoadResult`.

    Attributes:
        offered_per_s: requests that were due a second.
        answered_per_s: answers a second, until the last one.
        bottlenecks: why the driver itself was the bottleneck; empty if it was not.
        saturated: all connections were busy and requests were dropped for it: the server answers too slowly.
        classes: result class (`bench.load_outcomes`) → how many of those that were sent.
        accepted: accepted requests of each aim, those that were settled afterwards among them; none: the driver of
            another version.
        unknown: of the failed, those of which nobody knew at first what had come of them.
        settled: of these, result class → what they turned out to be.
        unsettled: of these, those of which nobody knows it still.
        won: draws with a prize.
    """

    offered: int
    sent: int
    answered: int
    late: int
    noticed_late: int
    dropped: int
    errors: int
    unanswered: int
    statuses: dict[int, int]
    seconds: float
    offered_per_s: float
    answered_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p99_9_ms: float
    max_ms: float
    inflight_max: int
    connections: int
    processes: int
    driver_cpu_share_max: float
    driver_lag_max_ms: float
    bottlenecks: list[str]
    saturated: bool
    classes: dict[str, int] = {}
    accepted: list[int] = []
    unknown: int = 0
    settled: dict[str, int] = {}
    unsettled: int = 0
    won: int = 0


def split(job: LoadJob, processes: int) -> list[LoadJob]:
    """Divide a job over processes, the connections (and a closed loop's requests) as evenly as possible."""
    processes = min(processes, job.connections)
    return [
        msgspec.structs.replace(
            job,
            part=number,
            parts=processes,
            prefix=f"{job.prefix}-{number}",
            connections=share(job.connections, number, processes),
            requests=share(job.requests, number, processes),
        )
        for number in range(processes)
    ]


def share(whole: int, number: int, parts: int) -> int:
    """Return the share of part `number` of so many; all shares together are the whole."""
    return whole // parts + (number < whole % parts)


def merge(results: Sequence[LoadResult], job: LoadJob) -> tuple[LoadReport, HdrHistogram]:
    """Add up what the processes told."""
    histogram = HdrHistogram(1, LATENCY_MAX_US, SIGNIFICANT_DIGITS)
    statuses: Counter[int] = Counter()
    for result in results:
        histogram.decode_and_add(result.histogram)
        statuses.update(result.statuses)
    seconds = max(result.seconds for result in results)
    cpu_shares = tuple(result.cpu_s / max(result.seconds, 1e-9) for result in results)
    offered, sent = sum(r.offered for r in results), sum(r.sent for r in results)
    strain = Strain(
        cpu_shares=cpu_shares,
        offered=offered,
        sent=sent,
        noticed_late=sum(r.noticed_late for r in results),
        inflight_max=sum(r.inflight_max for r in results),
        connections=job.connections,
    )
    answered = sum(r.answered for r in results)
    report = LoadReport(
        offered=offered,
        sent=sent,
        answered=answered,
        late=sum(r.late for r in results),
        noticed_late=strain.noticed_late,
        dropped=sum(r.dropped for r in results),
        errors=sum(r.errors for r in results),
        unanswered=sum(r.unanswered for r in results),
        statuses=dict(sorted(statuses.items())),
        seconds=round(seconds, 3),
        offered_per_s=round(offered / job.seconds if job.mode == "open" else sent / max(seconds, 1e-9), 1),
        answered_per_s=round(answered / max(seconds, 1e-9), 1),
        p50_ms=_percentile_ms(histogram, 50.0),
        p90_ms=_percentile_ms(histogram, 90.0),
        p99_ms=_percentile_ms(histogram, 99.0),
        p99_9_ms=_percentile_ms(histogram, 99.9),
        max_ms=histogram.get_max_value() / 1000 if histogram.get_total_count() else 0.0,
        inflight_max=strain.inflight_max,
        connections=job.connections,
        processes=len(results),
        driver_cpu_share_max=round(max(cpu_shares), 3),
        driver_lag_max_ms=round(max(r.lag_max_ms for r in results), 2),
        bottlenecks=bottlenecks(strain) if job.mode == "open" else [],
        saturated=job.mode == "open" and saturated(strain),
        **_outcomes(results),
    )
    return report, histogram


def _outcomes(results: Sequence[LoadResult]) -> dict[str, Any]:
    classes, settled, accepted = Counter[str](), Counter[str](), Counter[int]()
    for result in results:
        classes.update(result.classes)
        for aims in (result.by_aim, result.settled):
            for number, aim in enumerate(aims):
                accepted[number] += aim[ResultClass.ACCEPTED]
        for aim in result.settled:
            settled.update(aim)
    unknown = sum(result.unknown for result in results)
    return {
        "classes": by_class(classes),
        "accepted": [accepted[number] for number in range(len(accepted))],
        "unknown": unknown,
        "settled": by_class(settled),
        "unsettled": unknown - settled.total(),
        "won": sum(result.won for result in results),
    }


def _percentile_ms(histogram: HdrHistogram, at: float) -> float:
    return float(histogram.get_value_at_percentile(at)) / 1000 if histogram.get_total_count() else 0.0


OnProgress = Callable[[LoadProgress], None]


async def run_load(
    job: LoadJob,
    processes: int,
    log: Path,
    on_progress: OnProgress | None = None,
    *,
    on_start: Callable[[], None] | None = None,
) -> tuple[LoadReport, HdrHistogram]:
    """Run a job in so many processes.

    Args:
        job: of all of them together.
        processes: at most; there is at least one connection for each.
        log: where their output goes.
        on_progress: told how far all of them are together, if the job has `progress_s`.
        on_start: called when the first request is due.

    Raises:
        BenchError: the target cannot be reached, or a process failed.
    """
    jobs = split(job, processes)
    silence_max_s = job.seconds + job.drain_s + job.wait_max_s + job.settle_s + SILENCE_SPARE_S
    together = _Together(on_progress)
    async with contextlib.AsyncExitStack() as opened:
        links = [
            await opened.enter_async_context(
                ChildLink[LoadMessage](
                    "load",
                    "bench.load_process",
                    msgspec.json.encode(one).decode(),
                    log=log,
                    decode=from_line,
                    silence_max_s=silence_max_s,
                )
            )
            for one in jobs
        ]
        try:
            for message in await asyncio.gather(*(link.hear() for link in links)):
                if not isinstance(message, LoadReady):
                    raise BenchError(message.why if isinstance(message, LoadFailed) else "load: not ready")
            start = f"{time.monotonic() + BEGIN_AFTER_S:.6f}\n".encode()
            for link in links:
                link.say(start)
            if on_start is not None:
                asyncio.get_running_loop().call_later(BEGIN_AFTER_S, on_start)
            results = await asyncio.gather(*(together.hear(link) for link in links))
        except (ChildFailed, BackendError, OSError) as error:
            raise BenchError(f"load driver: {error}") from error
    return merge([result for result in results if isinstance(result, LoadResult)], job)


class _Together:
    """Adds up how far the processes are."""

    def __init__(self, on_progress: OnProgress | None) -> None:
        self._on_progress = on_progress
        self._latest: dict[int, LoadProgress] = {}

    async def hear(self, link: ChildLink[LoadMessage]) -> LoadMessage:
        """Return a process's last message; those before are progress."""
        while isinstance(message := await link.hear(), LoadProgress):
            self._latest[id(link)] = message
            if self._on_progress is not None:
                self._on_progress(self._sum())
        return message

    def _sum(self) -> LoadProgress:
        latest = self._latest.values()
        classes: Counter[str] = Counter()
        for one in latest:
            classes.update(one.classes)
        return LoadProgress(
            seconds=max(one.seconds for one in latest),
            offered=sum(one.offered for one in latest),
            sent=sum(one.sent for one in latest),
            answered=sum(one.answered for one in latest),
            late=sum(one.late for one in latest),
            dropped=sum(one.dropped for one in latest),
            classes=by_class(classes),
        )


class OwnDriver:
    """The load driver in its closed mode, for machines without wrk."""

    def __init__(self, key_file: Path, audience: str, log: Path) -> None:
        self._key_file = key_file
        self._audience = audience
        self._log = log

    def prepare(self, errand: Errand) -> None:
        """Tokens are minted as they are sent."""

    async def drive(self, errand: Errand) -> Driven:
        """Run an errand.

        Raises:
            BenchError: the driver failed.
        """
        job = LoadJob(
            mode="closed",
            host=errand.host,
            port=errand.port,
            campaign_id=errand.campaign_id,
            sku_ids=errand.sku_ids,
            key_file=str(self._key_file),
            audience=self._audience,
            prefix=errand.prefix,
            connections=errand.connections,
            seconds=errand.seconds,
            requests=errand.requests,
        )
        report, _ = await run_load(job, 1, self._log)
        return Driven(
            driver="flashgate",
            sent=report.sent,
            answered=report.answered,
            up_to_399=sum(count for status, count in report.statuses.items() if status <= 399),
            errors=report.errors + report.unanswered,
            seconds=report.seconds,
            p50_us=report.p50_ms * 1000,
            p99_us=report.p99_ms * 1000,
        )

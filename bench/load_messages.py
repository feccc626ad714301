"""What a process of the load driver is told and tells, one JSON document a line."""

from collections.abc import Callable
from typing import Final, Literal

import msgspec

from bench.load_shapes import Shape


class Aim(msgspec.Struct, frozen=True, kw_only=True):
    """What some of the requests are: where they go, and their body, JSON that needs no escaping."""

    path: str
    text: str


class LoadJob(msgspec.Struct, frozen=True, kw_only=True):
    """What one process is to do. All rates and counts are its own share, but `rate_per_s`, `part` and `parts`.

    Attributes:
        mode: open: requests are due by the clock, whatever becomes of those before. closed: each connection sends
            its next request when it has the answer to the last.
        host, port: of the buyer plane.
        campaign_id, sku_ids: what is ordered; one SKU after the other, if there are several.
        other_sku_id, other_share: every so many requests want this SKU instead (a share from 0 to 1).
        key_file, audience: what tokens are signed with, and whom they are for.
        prefix: of the buyers' names and keys.
        connections: kept alive, each with at most one request on its way.
        seconds: how long requests are sent.
        rate_per_s: open: of all parts together.
        part, parts: open: this process sends the requests part, part + parts, … of the common schedule.
        requests: closed: at most.
        wait_max_s: open: a request that found no free connection for so long is dropped.
        drain_s: how long answers are waited for after the last request.
        shape: open: when requests are due; None: at `rate_per_s`, which is for constant rates alone.
        aims: what is asked for, one after the other; none: orders of `sku_ids`.
        settle_s: afterwards, for so long at most, ask again with the same keys what came of requests whose outcome is
            not known.
        progress_s: tell how far it is every so many seconds; 0: never.
    """

    mode: Literal["open", "closed"]
    host: str
    port: int
    campaign_id: str
    sku_ids: tuple[str, ...]
    key_file: str
    audience: str
    prefix: str
    connections: int
    seconds: float
    other_sku_id: str = ""
    other_share: float = 0.0
    rate_per_s: float = 0.0
    part: int = 0
    parts: int = 1
    requests: int = 0
    wait_max_s: float = 1.0
    drain_s: float = 10.0
    shape: Shape | None = None
    aims: tuple[Aim, ...] = ()
    settle_s: float = 0.0
    progress_s: float = 0.0


class LoadReady(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """All connections are there; a start time sets the process off."""

    connections: int


class LoadProgress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far a process is, since the common start; for the counts see `LoadResult`."""

    seconds: float
    offered: int
    sent: int
    answered: int
    late: int
    dropped: int
    classes: dict[str, int]


class LoadResult(msgspec.Struct, frozen=True, kw_only=True, tag="result"):
    """What became of all requests of one process.

    Attributes:
        offered: requests that were due (open) or sent (closed).
        sent: offered, less dropped.
        answered: sent, less errors and unanswered.
        late: sent more than `LATE_S` after they were due.
        noticed_late: of these, the ones whose time the process itself had missed: it, not the server, was late.
        dropped: no connection was free in time; never sent.
        errors: the connection was lost, or the answer made no sense.
        unanswered: no answer until the end of the drain; their wait until then is in the histogram.
        statuses: HTTP status → how many.
        histogram: HdrHistogram (base64) of microseconds from the time a request was due (closed: sent) to its answer.
        inflight_max: requests on their way at once, at most.
        seconds: from the common start to the last answer.
        cpu_s: of this process meanwhile.
        lag_max_ms: how late the process has noticed that a request was due, at most.
        classes: result class (`bench.load_outcomes`) → how many of those that were sent; of all aims together.
        by_aim: the same, for each aim.
        unknown: of the failed, those of which nobody knows what came of them.
        settled: of the unknown, for each aim, result class → what they turned out to be when asked about again.
        won: draws with a prize, those that were settled among them.
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
    histogram: str
    inflight_max: int
    seconds: float
    cpu_s: float
    lag_max_ms: float
    classes: dict[str, int] = {}
    by_aim: list[dict[str, int]] = []
    unknown: int = 0
    settled: list[dict[str, int]] = []
    won: int = 0


class LoadFailed(msgspec.Struct, frozen=True, kw_only=True, tag="failed"):
    """The process cannot do its job; why, in one line."""

    why: str


LoadMessage = LoadReady | LoadProgress | LoadResult | LoadFailed

LATE_S: Final = 0.005
LATENCY_MAX_US: Final = 3_600_000_000
SIGNIFICANT_DIGITS: Final = 3

_encode: Final = msgspec.json.Encoder().encode
_decode: Final[Callable[[bytes], LoadMessage]] = msgspec.json.Decoder(LoadMessage).decode


def to_line(message: LoadMessage) -> bytes:
    """Return a message as a line."""
    return _encode(message) + b"\n"


def from_line(line: bytes) -> LoadMessage:
    """Return the message of a line.

    Raises:
        msgspec.MsgspecError: it is none.
    """
    return _decode(line)

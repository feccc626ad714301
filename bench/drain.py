"""How fast a backlog gets into MySQL, beside a bare loop that inserts the same rows: figures from rounds. Pure."""

import itertools
import math
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from bench.figures import Figure, ratio, spread

WRITER: Final = "writer"
BARE: Final = "bare loop"
RECORDS_MIN: Final = 100
QUARTERS: Final = 4
ROUNDS_MIN: Final = 8
"""By turns, the writer first or the bare loop; a quarter of the records is a whole number of rounds."""
ROUND_RECORDS_MAX: Final = 125_000
"""While one of the two works the other waits, and a writer that is silent for too long leaves its group."""
RATIO_MIN: Final = 0.8
GROWTH_MAX: Final = 1.1


class Stint(msgspec.Struct, frozen=True, kw_only=True):
    """What one of the two did in one round.

    Attributes:
        records: written.
        seconds: that it took.
        cpu_s: of its own process.
        server_cpu_s: of MySQL's meanwhile; 0 where it cannot be told.
        rss_bytes: its resident memory afterwards.
    """

    records: int
    seconds: float
    cpu_s: float
    server_cpu_s: float = 0.0
    rss_bytes: int

    @property
    def per_s(self) -> float:
        """Records a second."""
        return ratio(self.records, self.seconds)


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """All rounds; both have written as many rows into tables of the same size.

    Attributes:
        records: queued, and written by either.
        batch: records in a transaction.
        queue_s: how long it took to queue them.
        writer, bare: one stint a round.
        rss_start_bytes: the writer's memory before the first round.
    """

    records: int
    batch: int
    queue_s: float
    writer: list[Stint]
    bare: list[Stint]
    rss_start_bytes: int


def rounds_of(records: int) -> int:
    """Return in how many rounds so many records are written."""
    return max(ROUNDS_MIN, QUARTERS * math.ceil(records / (QUARTERS * ROUND_RECORDS_MAX)))


def shares(records: int, rounds: int) -> list[int]:
    """Divide records over rounds, as evenly as possible; none is empty unless there are fewer records than rounds."""
    return [records * (number + 1) // rounds - records * number // rounds for number in range(rounds)]


def overall_per_s(stints: Sequence[Stint]) -> float:
    """Return records a second over all rounds."""
    return ratio(sum(one.records for one in stints), sum(one.seconds for one in stints))


def left_after(found: Drained) -> list[int]:
    """Return how many records were queued still after each round of the writer's: its lag."""
    written = itertools.accumulate(one.records for one in found.writer)
    return [max(0, found.records - done) for done in written]


def drain_s(stints: Sequence[Stint]) -> float:
    """Return how long one of the two took for all that it has written, without the other's turns."""
    return sum(one.seconds for one in stints)


def quarters(found: Drained) -> list[int]:
    """Return the writer's memory at the start and after each quarter of the rounds, bytes."""
    rounds = len(found.writer)
    ends = [max(1, rounds * number // QUARTERS) for number in range(1, QUARTERS + 1)]
    return [found.rss_start_bytes, *(found.writer[end - 1].rss_bytes for end in ends)]


def figures(found: Drained) -> list[Figure]:
    """Return the promised figures."""
    ratios = [ratio(ours.per_s, theirs.per_s) for ours, theirs in zip(found.writer, found.bare, strict=True)]
    memory = quarters(found)
    return [
        Figure(
            name="records/s into MySQL, against the bare loop",
            value=spread(ratios),
            bound=RATIO_MIN,
            at_least=True,
            note=f"{ratio(overall_per_s(found.writer), overall_per_s(found.bare)):.3f} over all rounds together",
        ),
        Figure(
            name="the writer's memory at the end, against after a quarter",
            value=spread([ratio(memory[-1], memory[1])]),
            bound=GROWTH_MAX,
        ),
    ]


def to_json(found: Drained) -> dict[str, Any]:
    """Return everything as plain values."""
    return {
        **msgspec.to_builtins(found),
        "lag_records": left_after(found),
        "drain_s": drain_s(found.writer),
        "writer_per_s": overall_per_s(found.writer),
        "bare_per_s": overall_per_s(found.bare),
        "ratio": ratio(overall_per_s(found.writer), overall_per_s(found.bare)),
        "rss_bytes": quarters(found),
        "figures": [{**msgspec.to_builtins(one), "met": one.met} for one in figures(found)],
    }

"""What a load test leaves in its run's folder besides its figures: schedule, time line, histogram, counts."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogWriter

from bench.load_messages import LoadProgress
from bench.load_outcomes import ResultClass
from bench.load_shapes import Shape, counts_by_second

US_PER_MS: Final = 1_000.0


def write_schedule(folder: Path, shape: Shape) -> None:
    """Write `schedule.json`, the shape, and `schedule.csv`, how many are due in each second, which can be replayed."""
    facts = {**msgspec.to_builtins(shape), "counts_by_second": counts_by_second(shape)}
    (folder / "schedule.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    with (folder / "schedule.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("second", "count"))
        writer.writerows(enumerate(facts["counts_by_second"]))


def write_timeline(folder: Path, heard: Sequence[LoadProgress]) -> None:
    """Write `timeline.csv`: the counts so far, about once a second."""
    with (folder / "timeline.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        classes = [str(one) for one in ResultClass]
        writer.writerow(("seconds", "offered", "sent", "answered", "late", "dropped", *classes))
        for one in heard:
            counts = (one.offered, one.sent, one.answered, one.late, one.dropped)
            writer.writerow((round(one.seconds, 3), *counts, *(one.classes[name] for name in classes)))


def write_histogram(folder: Path, histogram: HdrHistogram, *, began_s: float, seconds: float) -> None:
    """Write `load.hlog` (the HdrHistogram log format, one interval, microseconds) and `load.hgrm` (percentiles, ms).

    Args:
        folder: of the run.
        histogram: of microseconds.
        began_s: Unix seconds.
        seconds: how long it took.
    """
    with (folder / "load.hlog").open("w", encoding="utf-8") as log:
        writer = HistogramLogWriter(log)
        writer.output_log_format_version()
        writer.output_comment("[Latency from the time a request was due, microseconds; maxima in milliseconds]")
        writer.output_base_time(began_s * 1_000)
        writer.output_legend()
        # A start of 0 would be read as "take the histogram's own", which it has not.
        writer.output_interval_histogram(histogram, 1e-6, seconds, US_PER_MS)
    with (folder / "load.hgrm").open("wb") as file:
        histogram.output_percentile_distribution(file, US_PER_MS)


def write_counts(folder: Path, counts: dict[str, Any]) -> None:
    """Write `counts.json`: requests by result class."""
    (folder / "counts.json").write_text(json.dumps(counts, indent=2) + "\n", encoding="utf-8")

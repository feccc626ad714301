"""What a run must keep: a small grammar, and its judgement. Pure.

    p99<50ms,failed<0.1%,answered>=1000/s

Each term is METRIC OPERATOR VALUE, with commas between the terms. Metrics are latencies (`p50`, `p99.9`, any
percentile, and `max`; values in `us`, `ms` or `s`) and counts of requests (the result classes, `offered`, `sent`,
`answered`, `late`, `dropped`, `unknown`; values as a share of what was offered in `%`, as a rate in `/s`, or plain).
Operators: < <= > >=.
"""

import operator
import re
from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from bench.errors import BenchError
from bench.load_outcomes import ResultClass

TERMS_MAX: Final = 32
_TERM: Final = re.compile(r"\s*([a-z_]+[0-9.]*)\s*(<=|>=|<|>)\s*([0-9]+(?:\.[0-9]+)?)\s*(us|ms|s|%|/s)?\s*")
_PERCENTILE: Final = re.compile(r"p([0-9]{1,2}(?:\.[0-9]{1,4})?)")
_OPERATORS: Final[dict[str, Callable[[float, float], bool]]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_TO_MS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0}
COUNTS: Final = (*(str(one) for one in ResultClass), "offered", "sent", "answered", "late", "dropped", "unknown")
MAX: Final = "max"


class Term(msgspec.Struct, frozen=True, kw_only=True):
    """One threshold.

    Attributes:
        text: as it was written.
        metric: `max`, one of COUNTS, or `p` and a percentile.
        operator: < <= > >=.
        value: in milliseconds, percent, a second, or plain.
        unit: `ms`, `%`, `/s`, or empty.
    """

    text: str
    metric: str
    operator: str
    value: float
    unit: str

    @property
    def percentile(self) -> float | None:
        """Which percentile of the latency is meant; None: no percentile."""
        found = _PERCENTILE.fullmatch(self.metric)
        return 100.0 if self.metric == MAX else float(found[1]) if found else None


class Kept(msgspec.Struct, frozen=True, kw_only=True):
    """A threshold, what was measured in its unit (None: nothing could be), and whether it was kept."""

    term: str
    measured: float | None
    kept: bool


def parse_slo(text: str) -> list[Term]:
    """Return the terms of an SLO.

    Raises:
        BenchError: it cannot be read, or can never be kept or missed; says which term.
    """
    terms = [_term(one) for one in text.split(",")]
    if len(terms) > TERMS_MAX:
        raise BenchError(f"--slo: at most {TERMS_MAX} terms")
    return terms


def _term(text: str) -> Term:
    found = _TERM.fullmatch(text)
    if found is None:
        raise BenchError(f"--slo: {text.strip()!r} is not METRIC OPERATOR VALUE, such as p99<50ms or failed<0.1%")
    metric, sign, number, unit = found[1], found[2], float(found[3]), found[4] or ""
    latency = metric == MAX or _PERCENTILE.fullmatch(metric) is not None
    if not latency and metric not in COUNTS:
        known = f"p50, p99, p99.9 (any percentile), {MAX}, {', '.join(COUNTS)}"
        raise BenchError(f"--slo: there is no metric {metric!r}; metrics: {known}")
    if latency and unit not in _TO_MS:
        raise BenchError(f"--slo: {text.strip()!r}: {metric} is a latency; give us, ms or s")
    if latency and metric != MAX and float(metric[1:]) == 0:
        raise BenchError(f"--slo: {text.strip()!r}: percentiles are above 0 and below 100")
    if not latency and unit in _TO_MS:
        raise BenchError(f"--slo: {text.strip()!r}: {metric} counts requests; give %, /s, or a plain number")
    if unit == "%" and number > 100:
        raise BenchError(f"--slo: {text.strip()!r}: no share is above 100%")
    if sign == "<" and number == 0:
        raise BenchError(f"--slo: {text.strip()!r}: nothing is below 0; say <=0")
    if sign == ">" and number == 100 and unit == "%":
        raise BenchError(f"--slo: {text.strip()!r}: no share is above 100%; say >=100%")
    value, unit = (number * _TO_MS[unit], "ms") if unit in _TO_MS else (number, unit)
    return Term(text=text.strip(), metric=metric, operator=sign, value=value, unit=unit)


def judge(
    terms: list[Term],
    counts: Mapping[str, int],
    *,
    percentile_ms: Callable[[float], float | None],
    offered_s: float,
    answered_s: float,
) -> list[Kept]:
    """Hold what was measured against each term; what could not be measured is not kept.

    Args:
        terms: of `parse_slo`.
        counts: how many, by the names in COUNTS.
        percentile_ms: the latency at a percentile; None: there was no answer.
        offered_s: how long requests were due; rates of `offered`, `sent`, `late` and `dropped` are over this time.
        answered_s: from the start to the last answer; the other rates are over this time.
    """
    found = []
    for term in terms:
        measured = _measured(term, counts, percentile_ms, offered_s, answered_s)
        kept = measured is not None and _OPERATORS[term.operator](measured, term.value)
        found.append(Kept(term=term.text, measured=measured, kept=kept))
    return found


def _measured(
    term: Term,
    counts: Mapping[str, int],
    percentile_ms: Callable[[float], float | None],
    offered_s: float,
    answered_s: float,
) -> float | None:
    if term.percentile is not None:
        return percentile_ms(term.percentile)
    count = counts[term.metric]
    if term.unit == "%":
        return 100 * count / counts["offered"] if counts["offered"] else None
    if term.unit == "/s":
        seconds = offered_s if term.metric in {"offered", "sent", "late", "dropped"} else answered_s
        return count / seconds if seconds > 0 else None
    return float(count)

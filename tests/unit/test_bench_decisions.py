"""What a benchmark makes of what it has seen: counts, ratios, verdicts."""

import itertools
import math

import msgspec
import pytest

from bench.compare import STOCK, order_of_runs, orders_at_most, sale_of
from bench.cpu import parse_cpu_ticks, parse_rss_bytes
from bench.drive import Driven
from bench.errors import BenchError
from bench.figures import ACCEPTED, SOLD_OUT, Figure, figures, ratio, spread
from bench.fsync import percentile
from bench.go_peer import source_hash
from bench.measure import (
    REQUESTS_MAX,
    REQUESTS_MIN,
    Effort,
    Measured,
    Used,
    check,
    expected_share,
    requests_for,
    used_between,
)
from bench.nginx_peer import config
from bench.scale import Cost, Level, LevelCosts, levels
from bench.scale import figures as scale_figures
from bench.servers import AIOHTTP, FLASHGATE, GO, NGINX
from bench.wrk import parse_result, threads_for

STAT = "4242 (flash) gate: 1) S 1 2 3 4 5 6 7 8 9 10 {utime} {stime} 77 88 20 0 1 0 100 200 300"
WRK = {
    "sent": 120,
    "answered": 100,
    "above_399": 30,
    "seconds": 2.0,
    "p50_us": 10,
    "p99_us": 20,
    "max_us": 30,
    "connect_errors": 1,
    "read_errors": 2,
    "write_errors": 3,
    "timeouts": 4,
}


def driven(answered: int, up_to_399: int, *, sent: int | None = None, errors: int = 0, seconds: float = 1.0) -> Driven:
    """Return what a driver has seen."""
    return Driven(
        driver="test",
        sent=answered if sent is None else sent,
        answered=answered,
        up_to_399=up_to_399,
        errors=errors,
        seconds=seconds,
        p50_us=1,
        p99_us=2,
    )


def measured(target: str, scenario: str, per_s: float, gateway: float, redis: float, commands: float = 0.0) -> Measured:
    """Return a run."""
    return Measured(
        target=target,
        scenario=scenario,
        driven=driven(1, 1),
        per_s=per_s,
        gateway_cpu_us=gateway,
        redis_cpu_us=redis,
        redis_commands=commands,
        p50_ms=1,
        p99_ms=1,
        expected_share=1,
        units_taken=1,
    )


# -- /proc ---------------------------------------------------------------------------------------------------------


def test_cpu_ticks_are_user_and_system_time_whatever_the_name_is() -> None:
    """The process's name may hold blanks and brackets."""
    assert parse_cpu_ticks(STAT.format(utime=700, stime=30)) == 730
    with pytest.raises(ValueError, match="not a line"):
        parse_cpu_ticks("4242 (x) S 1")


def test_resident_memory_is_read_in_bytes() -> None:
    """The kernel tells it in units of 1,024 bytes."""
    assert parse_rss_bytes("Name:\tx\nVmHWM:\t9 kB\nVmRSS:\t  120 kB\n") == 122_880
    with pytest.raises(ValueError, match="no VmRSS"):
        parse_rss_bytes("Name:\tx\n")


# -- one run -------------------------------------------------------------------------------------------------------


def test_wrk_result_tells_answers_from_failures() -> None:
    """Statuses above 399 are answers; connections that failed and timeouts are not."""
    found = parse_result(msgspec.json.encode(WRK))
    assert (found.answered, found.up_to_399, found.errors, found.unanswered) == (100, 70, 10, 20)
    assert found.per_s == 50


@pytest.mark.parametrize(
    "text",
    [b"", b"{}", b"nonsense", msgspec.json.encode({**WRK, "sent": 99}), msgspec.json.encode({**WRK, "above_399": 101})],
)
def test_wrk_result_that_makes_no_sense_is_refused(text: bytes) -> None:
    """Nothing is made up from a result that is cut off, or in which more was answered than sent."""
    with pytest.raises(BenchError, match="wrk's result"):
        parse_result(text)


@pytest.mark.parametrize(("cores", "connections", "threads"), [(1, 128, 1), (2, 128, 1), (8, 128, 4), (8, 2, 2)])
def test_wrk_leaves_cores_to_what_it_drives(cores: int, connections: int, threads: int) -> None:
    """Half of the cores at most, and never more threads than connections."""
    assert threads_for(cores, connections) == threads


def test_used_is_the_difference_less_the_reading_itself() -> None:
    """Of the two questions for Redis's counts the first is counted by the second."""
    assert used_between(Used(1.0, 2.0, 100), Used(4.0, 2.5, 151)) == Used(3.0, 0.5, 50)
    assert used_between(Used(1.0, 0.0, 0), Used(2.0, 0.0, 0)).redis_commands == 0


def test_tokens_are_minted_for_more_than_the_warm_up_foretells() -> None:
    """A count that was asked for is kept; else there are enough and not without bound."""
    effort = Effort(seconds=4, requests=0, connections=128)
    assert requests_for(effort, driven(10_000, 10_000)) == 64_000
    assert requests_for(effort, driven(1, 1)) == REQUESTS_MIN
    assert requests_for(effort, driven(10**7, 10**7)) == REQUESTS_MAX
    assert requests_for(msgspec.structs.replace(effort, requests=77), driven(10_000, 10_000)) == 77


def test_failures_count_against_the_expected_share() -> None:
    """A request without an answer is no answer of the expected kind."""
    assert expected_share(driven(90, 90, errors=10), refusals=False) == 0.9
    assert expected_share(driven(100, 1), refusals=True) == 0.99


def test_orders_in_redis_must_be_those_that_buyers_were_told_of() -> None:
    """Only orders that were on their way when the driver stopped may or may not be there."""
    check("x", driven(100, 100), 100, refusals=False)
    check("x", driven(100, 100, sent=128), 128, refusals=False)
    check("x", driven(100, 0), 0, refusals=True)
    for units in (99, 129):
        with pytest.raises(BenchError, match=f"x: {units} units were sold"):
            check("x", driven(100, 100, sent=128), units, refusals=False)


@pytest.mark.parametrize(
    ("seen", "refusals"),
    [(driven(100, 98), False), (driven(100, 2), True), (driven(0, 0), False), (driven(100, 100, errors=2), False)],
)
def test_target_that_gives_other_answers_is_not_compared(seen: Driven, *, refusals: bool) -> None:
    """At least 99% must be of the expected kind, and there must be answers at all; the message has the name."""
    with pytest.raises(BenchError, match="some-peer"):
        check("some-peer", seen, seen.up_to_399, refusals=refusals)


# -- figures -------------------------------------------------------------------------------------------------------


def test_spread_is_the_median_and_the_extremes() -> None:
    """An outlier moves the extremes alone."""
    found = spread([3.0, 100.0, 1.0])
    assert (found.median, found.lowest, found.highest) == (3.0, 1.0, 100.0)
    with pytest.raises(ValueError, match="no values"):
        spread([])


def test_ratio_to_nothing_is_infinite() -> None:
    """What is too small to be measured is no reason to fail."""
    assert ratio(1, 4) == 0.25
    assert math.isinf(ratio(1, 0))


@pytest.mark.parametrize(
    ("value", "at_least", "met", "stretch_met"),
    [(0.5, False, True, False), (0.51, False, False, False), (0.4, False, True, True), (0.5, True, True, True)],
)
def test_bound_is_met_at_its_very_value(value: float, *, at_least: bool, met: bool, stretch_met: bool) -> None:
    """A bound holds for the median, inclusive, in its own direction."""
    figure = Figure(name="x", value=spread([value]), bound=0.5, stretch=0.4, at_least=at_least)
    assert (figure.met, figure.stretch_met) == (met, stretch_met)


def test_promised_ratios_are_taken_within_a_round() -> None:
    """A machine that is twice as slow in one round changes no ratio."""
    one = {
        (FLASHGATE, ACCEPTED): measured(FLASHGATE, ACCEPTED, 20_000, 40, 10),
        (GO, ACCEPTED): measured(GO, ACCEPTED, 8_000, 100, 50),
        (AIOHTTP, ACCEPTED): measured(AIOHTTP, ACCEPTED, 2_500, 400, 100),
        (FLASHGATE, SOLD_OUT): measured(FLASHGATE, SOLD_OUT, 30_000, 30, 0, commands=0.001),
        (NGINX, SOLD_OUT): measured(NGINX, SOLD_OUT, 90_000, 12, 0),
    }
    slow = {
        name: msgspec.structs.replace(
            run, gateway_cpu_us=2 * run.gateway_cpu_us, redis_cpu_us=2 * run.redis_cpu_us, per_s=run.per_s / 2
        )
        for name, run in one.items()
    }
    found = figures([one, slow, one])
    assert [round(figure.value.median, 4) for figure in found] == [0.4, 0.1, 0.2, 2.5, 0.001, 8.0]
    assert all(figure.value.lowest == figure.value.highest for figure in found)
    assert [figure.stretch_met for figure in found] == [True, True, True, False, True, True]


def test_figures_without_a_peer_are_left_out() -> None:
    """What was left out on purpose is not compared with; one EVALSHA an order is then the other peer's."""
    found = figures(
        [
            {
                (FLASHGATE, ACCEPTED): measured(FLASHGATE, ACCEPTED, 20_000, 40, 10),
                (AIOHTTP, ACCEPTED): measured(AIOHTTP, ACCEPTED, 2_500, 400, 100),
            }
        ]
    )
    assert len(found) == 3
    assert found[1].note == "of the peer aiohttp"
    assert figures([{}]) == []


def test_rounds_alternate_and_nginx_comes_after_what_it_imitates() -> None:
    """Every second round goes backwards; everything planned is run once a round."""
    first, second = order_of_runs((GO, AIOHTTP, NGINX), 0), order_of_runs((GO, AIOHTTP, NGINX), 1)
    assert second == first[::-1]
    assert first.index((FLASHGATE, SOLD_OUT)) < first.index((NGINX, SOLD_OUT))
    assert len(set(first)) == len(first) == 7
    assert order_of_runs((), 0) == [(FLASHGATE, ACCEPTED), (FLASHGATE, SOLD_OUT)]


def test_stock_is_enough_for_every_run_that_can_be_asked_for() -> None:
    """A run that sold out in the middle would be refused as unfair; one that is meant to be sold out is small."""
    for effort in (
        Effort(seconds=60, requests=0, connections=1),
        Effort(seconds=1, requests=REQUESTS_MAX, connections=1),
    ):
        assert sale_of(ACCEPTED, orders_at_most(effort)).units >= REQUESTS_MAX
    assert sale_of(ACCEPTED, 10).units == STOCK
    assert sale_of(SOLD_OUT, 10**6).sold_out


# -- scale ---------------------------------------------------------------------------------------------------------


def test_levels_go_up_in_steps_of_ten_to_the_largest() -> None:
    """The smallest level is there once, and first."""
    found = [(level.buyers, level.skus) for level in levels(1_000_000, 1_000)]
    assert found == [(1_000, 1), (10_000, 1), (100_000, 1), (1_000_000, 1), (1_000, 10), (1_000, 100), (1_000, 1_000)]
    assert [(level.buyers, level.skus) for level in levels(500, 1)] == [(500, 1)]
    assert [level.buyers for level in levels(2_500, 1)] == [1_000, 2_500]


def test_scale_compares_every_level_with_the_smallest() -> None:
    """Gateway and Redis together, round by round."""

    def runs(*rounds: tuple[float, float]) -> list[Cost]:
        return [Cost(gateway_us=gateway, redis_us=redis, orders=1) for gateway, redis in rounds]

    def costs(
        buyers: int, skus: int, rounds: list[tuple[float, float]], beside: list[tuple[float, float]]
    ) -> LevelCosts:
        return LevelCosts(level=Level(buyers=buyers, skus=skus), costs=runs(*rounds), beside=runs(*beside))

    found = scale_figures(
        [
            costs(1_000, 1, [(30, 10), (60, 20), (15, 5), (30, 10)], []),
            costs(10_000, 1, [(31, 11), (62, 22)], [(30, 10), (60, 20)]),
            costs(1_000, 10, [(20, 10), (40, 20)], [(15, 5), (30, 10)]),
        ]
    )
    assert [figure.value.median for figure in found] == [1.05, 1.5]
    assert [figure.met for figure in found] == [True, False]
    assert [figure.name for figure in found] == [
        "cost an order at 10,000 buyers against 1,000",
        "cost an order at 10 SKUs against 1",
    ]


# -- the rest ------------------------------------------------------------------------------------------------------


def test_nginx_answers_with_a_body_of_the_same_length() -> None:
    """A body that would need quoting is replaced; the configuration cannot be broken out of."""
    from pathlib import Path

    assert 'return 200 \'{"code":"SOLD_OUT"}\';' in config(Path("/x"), 1, "text/plain", '{"code":"SOLD_OUT"}')
    for unsafe in ("it's", "a\\b", "$host", "a\nb", "ö"):
        assert f"return 200 '{'x' * len(unsafe.encode())}';" in config(Path("/x"), 1, "text/plain", unsafe)


def test_go_peer_is_built_anew_when_any_file_changes() -> None:
    """Names, contents and their boundaries all count."""
    files = [{"a": b"xy", "b": b"z"}, {"a": b"x", "b": b"yz"}, {"a": b"xy"}, {"c": b"xy", "b": b"z"}]
    assert len({source_hash(one) for one in files}) == 4
    assert source_hash({"b": b"z", "a": b"xy"}) == source_hash(files[0])


def test_percentile_is_the_nearest_rank() -> None:
    """Of a hundred values the 99th percentile is the 99th."""
    values = [float(value) for value in range(1, 101)]
    assert [percentile(values, share) for share in (0.0, 0.5, 0.99, 1.0)] == [1, 50, 99, 100]
    assert list(itertools.starmap(percentile, [([7.0], 0.5), ([7.0], 0.99)])) == [7, 7]

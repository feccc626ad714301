"""The decisions of the load tests: when a crowd arrives, what answers mean, what must be kept, whether books agree."""

import itertools
import math
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.errors import BenchError
from bench.load_books import Books, CampaignBooks, accepted_in
from bench.load_http import read_meaning
from bench.load_messages import LoadJob
from bench.load_outcomes import Meaning, ResultClass, classify, is_unknown
from bench.load_shapes import (
    Constant,
    Poisson,
    Replay,
    Shape,
    Spike,
    Step,
    arrivals,
    check,
    counts_by_second,
    duration_s,
    expected,
    read_rates,
    read_replay,
)
from bench.load_slo import judge, parse_slo
from bench.load_tally import Tally
from bench.locust_buyer import RETRIES_MAX, UNKNOWN_TRIES_MAX, Counting, Purchase, add_up
from bench.locust_shape import LEAVING_S, PeakPlan, crowd_at
from cli.bench_load import ShapeName, read_shape
from cli.load_target import check_remote, is_loopback

SPIKE = Spike(base_per_s=20, peak_per_s=400, lead_s=1, rise_s=0.5, hold_s=1, decay_s=1.5)

rates = st.floats(0, 500)
spans = st.floats(0.1, 3)
shapes: st.SearchStrategy[Shape] = st.one_of(
    st.builds(Constant, rate_per_s=st.floats(0.5, 500), seconds=spans),
    st.builds(Step, rates_per_s=st.lists(rates, min_size=1, max_size=4).map(tuple), seconds_each=spans),
    st.builds(
        lambda base, more, lead, rise, hold, decay: Spike(
            base_per_s=base, peak_per_s=base + more, lead_s=lead, rise_s=rise, hold_s=hold, decay_s=decay
        ),
        rates,
        rates,
        st.just(0.0) | spans,
        spans,
        spans,
        st.just(0.0) | spans,
    ),
    st.builds(Poisson, rate_per_s=st.floats(0.5, 500), seconds=spans, seed=st.integers(0, 9)),
    st.builds(Replay, counts=st.lists(st.integers(0, 200), min_size=1, max_size=5).map(tuple)),
)


# -- schedules -------------------------------------------------------------------------------------------------------


def due_of(shape: Shape, parts: int = 1) -> list[float]:
    """Return when all requests of all parts are due, from a start at 100."""
    found = [arrivals(shape, 100.0, part, parts) for part in range(parts)]
    return sorted(one.due_s(index) for one in found for index in range(one.total))


@given(shape=shapes, parts=st.integers(2, 4))
def test_parts_of_a_shape_are_the_whole_of_it(shape: Shape, parts: int) -> None:
    """However many processes share it, the same requests are due at the same moments, within its time."""
    whole = due_of(shape)
    assert due_of(shape, parts) == pytest.approx(whole)
    assert len(whole) == sum(counts_by_second(shape))
    assert not whole or (whole[0] >= 100.0 and whole[-1] <= 100.0 + duration_s(shape) + 1e-6)
    if not isinstance(shape, Poisson):
        assert len(whole) == expected(shape)


@pytest.mark.parametrize(
    ("shape", "counts"),
    [
        (Constant(rate_per_s=3, seconds=2.5), [3, 3, 2]),
        (Step(rates_per_s=(2, 0, 5), seconds_each=1), [2, 0, 5]),
        (Spike(base_per_s=0, peak_per_s=10, lead_s=1, rise_s=2, hold_s=1, decay_s=2), [0, 3, 7, 10, 8, 2]),
        (Replay(counts=(4, 0, 0, 7)), [4, 0, 0, 7]),
    ],
)
def test_counts_of_each_second_are_those_of_the_schedule(shape: Shape, counts: list[int]) -> None:
    """What is due in a second is what the shape says of it, and the moments that requests are due at agree."""
    seen = Counter(math.floor(due - 100.0 + 1e-9) for due in due_of(shape))
    assert counts_by_second(shape) == counts == [seen[second] for second in range(len(counts))]


def test_spike_rises_and_falls_as_its_rates_say() -> None:
    """Half of the rise brings a quarter of what its end brings more, and so back: the area under the rate."""
    due = [moment - 100.0 for moment in due_of(SPIKE)]
    before = [sum(moment < at_s for moment in due) for at_s in (1.0, 1.5, 2.5, 4.0)]
    assert before == pytest.approx([20, 20 + 105, 525, 525 + 315], abs=1)


def test_poisson_is_reproducible_and_has_its_rate() -> None:
    """The same seed makes the same arrivals, another one others; their gaps vary as those of a Poisson process."""
    shape = Poisson(rate_per_s=2_000, seconds=5, seed=7)
    due = due_of(shape)
    assert due == due_of(shape)
    assert due != due_of(msgspec.structs.replace(shape, seed=8))
    assert len(due) == pytest.approx(10_000, abs=400)  # four standard deviations
    gaps = [later - earlier for earlier, later in itertools.pairwise(due)]
    mean = sum(gaps) / len(gaps)
    spread = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert spread == pytest.approx(mean, rel=0.1)


def test_shape_survives_the_way_to_a_process() -> None:
    """A job is handed over as JSON."""
    shape: Shape
    for shape in (SPIKE, Replay(counts=(1, 2)), Poisson(rate_per_s=1, seconds=2, seed=3)):
        job = LoadJob(
            mode="open",
            host="h",
            port=1,
            campaign_id="c",
            sku_ids=("s",),
            key_file="",
            audience="",
            prefix="p",
            connections=1,
            seconds=1,
            shape=shape,
        )
        assert msgspec.json.decode(msgspec.json.encode(job), type=LoadJob).shape == shape


@pytest.mark.parametrize(
    ("shape", "word"),
    [
        (Constant(rate_per_s=1_000_000, seconds=86_400), "requests"),
        (Constant(rate_per_s=0, seconds=1), "requests"),
        (Constant(rate_per_s=1, seconds=90_000), "lasts"),
        (Step(rates_per_s=(-1, 5), seconds_each=1), "rates are from 0"),
        (Spike(base_per_s=9, peak_per_s=3, lead_s=1, rise_s=1, hold_s=1, decay_s=1), "--peak"),
        (Replay(counts=()), "--file"),
        (Replay(counts=(1,) * 20_000), "--file"),
    ],
)
def test_schedule_without_bounds_is_refused(shape: Shape, word: str) -> None:
    """Count, time and rate are bounded, and nothing at all is no load test."""
    with pytest.raises(BenchError, match=word):
        check(shape)


def test_recording_is_read_from_its_first_second_on() -> None:
    """A heading is passed over, seconds that are left out have no requests."""
    assert read_replay("second,count\n100,3\n102,5\n", "f.csv").counts == (3, 0, 5)
    assert read_replay("0,1\n\n1,0\n", "f.csv").counts == (1, 0)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no line"),
        ("second,count\n", "no line"),
        ("1,2\n1,3\n", "line 2"),
        ("5,1\n4,1\n", "line 2"),
        ("1,-2\n", "line 1"),
        ("1,2,3\n", "line 1"),
        ("1,2\nx,y\n", "line 2"),
        ("0,1\n999999,1\n", "line 2"),
    ],
)
def test_recording_that_makes_no_sense_is_refused_with_its_line(text: str, word: str) -> None:
    """In words, before anything is started."""
    with pytest.raises(BenchError, match=f"f.csv.*{word}"):
        read_replay(text, "f.csv")


def test_options_of_another_shape_are_refused() -> None:
    """What is missing is named, and what would be ignored is not."""
    told = {"seconds": 1.0, "seed": 1}
    spike = (5.0, None, 1.0, 1.0, 1.0, 1.0)
    with pytest.raises(BenchError, match="--shape spike needs --peak"):
        read_shape(ShapeName.SPIKE, rate=None, rates="", spike=spike, file=None, **told)  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="--rates is for --shape step"):
        read_shape(ShapeName.CONSTANT, rate=1.0, rates="1", spike=spike, file=None, **told)  # type: ignore[arg-type]
    with pytest.raises(BenchError, match="--file: /nowhere"):
        read_shape(ShapeName.REPLAY, rate=None, rates="", spike=spike, file=Path("/nowhere"), **told)  # type: ignore[arg-type]
    for text in ("a,b", "1,,2", "1,inf"):
        with pytest.raises(BenchError, match="--rates"):
            read_rates(text)


# -- thresholds ------------------------------------------------------------------------------------------------------


COUNTS = {"offered": 1_000, "sent": 990, "answered": 980, "late": 5, "dropped": 10, "unknown": 0}
CLASSES = {"accepted": 500, "replayed": 0, "sold_out": 470, "limited": 0, "shed": 9, "failed": 1}


def kept(text: str) -> list[bool]:
    """Return whether each term of an SLO is kept by a run of ten seconds whose latency at percentile p is p ms."""
    return [
        one.kept
        for one in judge(
            parse_slo(text), {**COUNTS, **CLASSES}, percentile_ms=lambda at: at, offered_s=10.0, answered_s=20.0
        )
    ]


def test_thresholds_are_read_and_judged() -> None:
    """Latencies in any unit, shares of what was offered, rates, and plain counts."""
    assert kept("p99<100ms, p99.9<=0.0999s ,p50>=50000us,max<=100ms") == [True, True, True, True]
    assert kept("failed<0.1%,failed<=0.1%,shed<1%,dropped<=10,late>5") == [False, True, True, True, False]
    assert kept("offered>=100/s,accepted>=25/s,accepted>25/s") == [True, True, False]


def test_what_was_not_measured_is_not_kept() -> None:
    """A run without answers keeps no threshold on latency, nor on shares of nothing."""
    nothing = dict.fromkeys({**COUNTS, **CLASSES}, 0)
    found = judge(parse_slo("p99<50ms,failed<1%"), nothing, percentile_ms=lambda _: None, offered_s=0.0, answered_s=0.0)
    assert [(one.measured, one.kept) for one in found] == [(None, False), (None, False)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "p99",
        "p99<50",
        "p99<50%",
        "p0<5ms",
        "p100<5ms",
        "failed<5ms",
        "failed<101%",
        "failed<0%",
        "answered>100%",
        "p99=5ms",
        "p99<-5ms",
        "p99<5ms,",
        "latency<5ms",
        "P99<5ms",
        "p99<5 min",
        "p99<1e3ms",
    ],
)
def test_impossible_thresholds_are_refused(text: str) -> None:
    """Before anything is started, with the term at fault or what there is."""
    with pytest.raises(BenchError, match="--slo"):
        parse_slo(text)


# -- answers ---------------------------------------------------------------------------------------------------------


def problem(status: int, code: str) -> bytes:
    """Return a problem document as the gateway answers it."""
    body = f'{{"type":"x","title":"x","status":{status},"code":"{code}"}}'
    return f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


@pytest.mark.parametrize(
    ("status", "code", "what"),
    [
        (409, "SOLD_OUT", ResultClass.SOLD_OUT),
        (409, "LIMIT_REACHED", ResultClass.LIMITED),
        (409, "POINTS_SHORT", ResultClass.LIMITED),
        (429, "RATE_LIMITED", ResultClass.LIMITED),
        (503, "BUSY", ResultClass.SHED),
        (503, "UNKNOWN", ResultClass.FAILED),
        (403, "ENDED", ResultClass.FAILED),
        (401, "UNAUTHENTICATED", ResultClass.FAILED),
        (500, "", ResultClass.FAILED),
    ],
)
def test_refusal_is_no_failure(status: int, code: str, what: ResultClass) -> None:
    """What the gateway says by design has a class of its own; what is left is a failure, unknown or not."""
    meaning = read_meaning(status, problem(status, code))
    assert meaning == Meaning(status, code)
    assert classify(status, meaning.code, replayed=False) is what
    assert is_unknown(status, code) == (status >= 500 and code != "BUSY")


def test_replay_and_prize_are_seen() -> None:
    """Header names come in any case; a prize is an object, no prize is null."""
    replay = b"HTTP/1.1 202 Accepted\r\nIDEMPOTENT-replayed: true\r\nContent-Length: 2\r\n\r\n{}"
    assert classify(202, "", replayed=read_meaning(202, replay).replayed) is ResultClass.REPLAYED
    head = b"HTTP/1.1 200 OK\r\n\r\n"
    assert read_meaning(200, head + b'{"draw_id":"x","prize":{"sku_id":"a","points":5}}').won
    assert not read_meaning(200, head + b'{"draw_id":"x","prize":null}').won


def test_tally_settles_what_was_unknown() -> None:
    """A request without a known outcome is asked about again, and a replay is news to its buyer."""
    tally = Tally(2)
    tally.answer(0, Meaning(202))
    tally.answer(1, Meaning(200, won=True))
    tally.answer(2, Meaning(503, "UNKNOWN"))
    tally.lose(3)
    assert tally.unknown == [2, 3]
    tally.settle(2, Meaning(202, replayed=True))
    tally.settle(3, Meaning(200, won=True))
    assert tally.classes() == {"accepted": 2, "replayed": 0, "sold_out": 0, "limited": 0, "shed": 0, "failed": 2}
    assert [one["accepted"] for one in tally.by_aim()] == [1, 1]
    assert [one["accepted"] for one in tally.settled()] == [1, 1]
    assert tally.won == 2


# -- books -----------------------------------------------------------------------------------------------------------


def books(**changes: object) -> Books:
    """Return books that agree, but for changes of the campaign's or of the whole."""
    campaign: dict[str, object] = {
        "campaign_id": "c-1",
        "kind": "lottery",
        "told": 50,
        "told_orders": 10,
        "mysql_orders": 10,
        "redis_units": 10,
        "drift": 0,
    }
    whole: dict[str, object] = {"gateway_accepted": 50, "unknown": 0, "unsettled": 0, "drain_s": 0.0}
    for name, value in changes.items():
        (campaign if name in campaign else whole)[name] = value
    one = CampaignBooks(**campaign)  # type: ignore[arg-type]
    return Books(campaigns=[one], **whole)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"mysql_orders": 9}, "MySQL has 9 orders"),
        ({"redis_units": 11}, "Redis handed out 11 units"),
        ({"gateway_accepted": 49}, "the gateway counted 49"),
        ({"drift": 1}, "drift 1"),
        ({"mysql_orders": 12, "redis_units": 10, "unknown": 1, "unsettled": 1}, "MySQL has 12"),
    ],
)
def test_one_order_more_or_less_is_told(changes: dict[str, object], word: str) -> None:
    """To the unit; only what was never learned may have gone either way."""
    (told,) = books(**changes).disagreements()
    assert word in told


def test_books_agree_when_all_is_known() -> None:
    """An outcome learned later may be missing in the gateway's count, one never learned may be in the stores."""
    assert books().disagreements() == []
    assert books(gateway_accepted=None).disagreements() == []
    assert books(gateway_accepted=48, unknown=2).disagreements() == []
    assert books(mysql_orders=11, redis_units=11, unknown=1, unsettled=1).disagreements() == []


def test_acceptances_are_read_from_the_metrics() -> None:
    """Of all workers, wherever they were decided; nothing else counts."""
    text = (
        "# TYPE flashgate_decisions_total counter\n"
        'flashgate_decisions_total{decided_in="redis",outcome="ACCEPTED"} 7.0\n'
        'flashgate_decisions_total{decided_in="memory",outcome="SOLD_OUT"} 9.0\n'
        'flashgate_decisions_total{outcome="ACCEPTED",decided_in="memory"} 1e3\n'
        'flashgate_relayed_orders_total{outcome="ACCEPTED"} 4.0\n'
    )
    assert accepted_in(text) == 1_007
    assert accepted_in("") == 0


def test_another_machine_needs_its_name_twice() -> None:
    """Loopback needs nothing; a name that is no address could lead anywhere."""
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert not any(is_loopback(host) for host in ("10.0.0.1", "shop.example", "0.0.0.0", ""))  # noqa: S104
    check_remote("127.0.0.1", "")
    check_remote("shop.example", "shop.example")
    for host, remote in (("shop.example", ""), ("shop.example", "other"), ("127.0.0.1", "shop.example")):
        with pytest.raises(BenchError, match="--remote"):
            check_remote(host, remote)


# -- Locust's people -------------------------------------------------------------------------------------------------


def test_peak_waits_rises_holds_and_decays() -> None:
    """A share waits, all are there at the opening, fewer each second, nobody at the end, and then it is over."""
    plan = PeakPlan(100, 0.0, 20.0)
    crowd = [crowd_at(plan, float(second)) for second in range(25)]
    assert crowd[:4] == [30] * 4
    assert crowd[4:12] == [100] * 8
    falling = [one for one in crowd[12:20] if one is not None]
    assert falling == sorted(falling, reverse=True)
    assert falling[-1] > 0
    assert crowd[20:23] == [0] * round(LEAVING_S)
    assert crowd[23:] == [None, None]


def hear(purchase: Purchase, *answers: Meaning, stopping: bool = False) -> list[float | None]:
    """Let a buyer hear answers; returns how long he waits after each."""
    found = []
    for answer in answers:
        purchase.ask()
        found.append(purchase.hear(answer, retry_after_s=2.0, stopping=stopping, chance=0.0))
    purchase.end()
    return found


def test_buyer_comes_back_until_it_is_known_what_came_of_it() -> None:
    """429 and BUSY: a few times; unknown: until it is known, even when the run is ending; the rest is an answer."""
    limited, unknown, accepted = Meaning(429, "RATE_LIMITED"), Meaning(503, "UNKNOWN"), Meaning(202)
    assert hear(Purchase(0, 0.5), *[limited] * (RETRIES_MAX + 1)) == [2.0] * RETRIES_MAX + [None]
    assert hear(Purchase(0, 0.5), limited, stopping=True) == [None]
    doubtful = Purchase(0, 0.5)
    assert hear(doubtful, unknown, limited, Meaning(202, replayed=True), stopping=True) == [0.5, 2.0, None]
    assert (doubtful.is_told, doubtful.was_in_doubt, doubtful.is_in_doubt) == (True, True, False)
    lost = Purchase(0, 0.5)
    assert hear(lost, *[Meaning(0)] * UNKNOWN_TRIES_MAX)[-1] is None
    assert lost.is_in_doubt
    assert hear(Purchase(0, 0.5), Meaning(409, "SOLD_OUT")) == [None]
    assert hear(Purchase(0, 0.0), accepted, Meaning(202, replayed=True)) == [0.0, None]


def test_buyers_of_all_processes_are_counted_once_each() -> None:
    """Requests by class, buyers by what they were told; who was interrupted is in doubt."""
    impatient, interrupted = Purchase(0, 0.0), Purchase(1, 0.5)
    hear(impatient, Meaning(202), Meaning(202, replayed=True))
    interrupted.ask()
    interrupted.end()
    winner = Purchase(1, 0.5)
    hear(winner, Meaning(200, won=True))
    one, other = Counting(2), Counting(2)
    one.add(impatient)
    one.add(interrupted)
    other.add(winner)
    counts = add_up([one.counts(), other.counts()], 2)
    assert counts.told == [1, 1]
    assert (counts.won, counts.unknown, counts.unsettled) == (1, 1, 1)
    assert counts.classes == {"accepted": 2, "replayed": 1, "sold_out": 0, "limited": 0, "shed": 0, "failed": 1}

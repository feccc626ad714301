"""The load driver's decisions: when requests are due, what they are, what answers mean, whether it was too slow."""

import os
import select
import time

import jwt
import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given
from hypothesis import strategies as st

from bench.crowd_http import BadAnswerError
from bench.errors import BenchError
from bench.load_http import Orders, read_answer, wants_other
from bench.load_messages import LATENCY_MAX_US, LoadJob, LoadReady, LoadResult, from_line, to_line
from bench.load_run import merge, share, split
from bench.load_schedule import Schedule, Strain, bottlenecks, saturated
from bench.timer import acknowledge, periodic
from bench.tokens import Minter
from cli.bench_load import address, own_campaign

KEY = b"k" * 40
ANSWER = b'HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}'


def job(**changes: object) -> LoadJob:
    """Return a job."""
    fields: dict[str, object] = {
        "mode": "open",
        "host": "127.0.0.1",
        "port": 80,
        "campaign_id": "c-1",
        "sku_ids": ("sku-0", "sku-1"),
        "key_file": "",
        "audience": "flashgate",
        "prefix": "b",
        "connections": 10,
        "seconds": 2.0,
        "rate_per_s": 50.0,
        **changes,
    }
    return LoadJob(**fields)  # type: ignore[arg-type]


def result(latencies_us: list[int], **changes: object) -> LoadResult:
    """Return what a process told."""
    histogram = HdrHistogram(1, LATENCY_MAX_US, 3)
    for latency_us in latencies_us:
        histogram.record_value(latency_us)
    count = len(latencies_us)
    fields: dict[str, object] = {
        "offered": count,
        "sent": count,
        "answered": count,
        "late": 0,
        "noticed_late": 0,
        "dropped": 0,
        "errors": 0,
        "unanswered": 0,
        "statuses": {202: count},
        "histogram": histogram.encode().decode(),
        "inflight_max": 1,
        "seconds": 2.0,
        "cpu_s": 0.2,
        "lag_max_ms": 0.5,
        **changes,
    }
    return LoadResult(**fields)  # type: ignore[arg-type]


# -- schedule ------------------------------------------------------------------------------------------------------


@given(rate=st.floats(0.5, 10_000), seconds=st.floats(0.1, 3), parts=st.integers(1, 5), start=st.floats(0, 1_000_000))
def test_parts_send_the_whole_schedule_together(rate: float, seconds: float, parts: int, start: float) -> None:
    """However many processes there are, all requests are due once, evenly spaced, within the time."""
    due = sorted(
        schedule.due_s(index)
        for part in range(parts)
        for schedule in [Schedule(start, rate, seconds, part, parts)]
        for index in range(schedule.total)
    )
    whole = Schedule(start, rate, seconds)
    assert due == pytest.approx([whole.due_s(index) for index in range(whole.total)])
    assert len(due) >= rate * seconds - 1e-6
    assert not due or due[-1] < start + seconds + 1e-6


@given(
    rate=st.floats(0.5, 10_000),
    parts=st.integers(1, 4),
    part=st.integers(0, 3),
    after=st.floats(-1, 5),
)
def test_what_is_due_by_now_is_what_had_its_time(rate: float, parts: int, part: int, after: float) -> None:
    """No request is sent before its time, and none is forgotten; rounding may shift one by a microsecond."""
    schedule = Schedule(100.0, rate, 2.0, part % parts, parts)
    due = schedule.due_by(100.0 + after)
    assert 0 <= due <= schedule.total
    assert due == 0 or schedule.due_s(due - 1) <= 100.0 + after + 1e-6
    assert due == schedule.total or schedule.due_s(due) > 100.0 + after - 1e-6


def strain(**changes: object) -> Strain:
    """Return a run in which nothing was at its limit."""
    fields: dict[str, object] = {
        "cpu_shares": (0.5, 0.4),
        "offered": 1_000,
        "sent": 1_000,
        "noticed_late": 0,
        "inflight_max": 5,
        "connections": 10,
        **changes,
    }
    return Strain(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"cpu_shares": (0.1, 0.95)}, "95% of a core"),
        ({"noticed_late": 20}, "2.0% of the requests late"),
        ({"sent": 980}, "although connections were free"),
    ],
)
def test_driver_says_that_it_was_the_bottleneck(changes: dict[str, object], word: str) -> None:
    """Its own CPU, its own lag, or less sent than was due while connections were free."""
    (why,) = bottlenecks(strain(**changes))
    assert word in why


def test_slow_server_is_not_blamed_on_the_driver() -> None:
    """All connections busy and requests dropped: the server is too slow."""
    slow = strain(sent=900, inflight_max=10)
    assert bottlenecks(slow) == []
    assert saturated(slow)
    assert bottlenecks(strain()) == []
    assert not saturated(strain())


def test_timer_becomes_readable_at_its_time() -> None:
    """Once it is due and not before it was asked for; acknowledging twice does no harm."""
    fd = periodic(time.monotonic() + 0.01, 0.5)
    try:
        assert select.select([fd], [], [], 5.0)[0] == [fd]
        acknowledge(fd)
        acknowledge(fd)
    finally:
        os.close(fd)


# -- HTTP ----------------------------------------------------------------------------------------------------------


def test_answer_is_read_whole_wherever_it_is_split() -> None:
    """Until its last byte is there, an answer is none."""
    for end in range(len(ANSWER)):
        assert read_answer(ANSWER[:end]) is None
    assert read_answer(ANSWER) == (202, len(ANSWER), True)
    assert read_answer(ANSWER + b"HTTP") == (202, len(ANSWER), True)


def test_header_names_are_read_in_any_case() -> None:
    """And a server that closes is believed."""
    closing = b"HTTP/1.1 503 X\r\nCONTENT-LENGTH:0\r\nConnection: Close\r\n\r\n"
    assert read_answer(closing) == (503, len(closing), False)


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 abc OK\r\nContent-Length: 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
        b"x" * 20_000,
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    """It counts as an error, not as an answer."""
    with pytest.raises(BadAnswerError):
        read_answer(data)


def test_every_order_is_another_buyers_with_a_token_that_pyjwt_believes() -> None:
    """Tokens are minted by one hmac each; user, key and SKU change with the number."""
    orders = Orders(job(), Minter(KEY, "flashgate", expires_s=int(time.time()) + 60))
    seen = set()
    for number in range(3):
        head, _, body = orders.order(number).partition(b"\r\n\r\n")
        lines = dict(line.split(b": ", 1) for line in head.split(b"\r\n")[1:])
        token = lines[b"Authorization"].removeprefix(b"Bearer ").decode()
        claims = jwt.decode(token, KEY, algorithms=["HS256"], audience="flashgate")
        assert claims["sub"] == f"b-{number}"
        assert int(lines[b"Content-Length"]) == len(body)
        assert (b'"sku-1"' in body) == (number == 1)
        seen.add((token, lines[b"Idempotency-Key"]))
    assert len(seen) == 3


@given(share_=st.floats(0, 1), count=st.integers(1, 2_000))
def test_share_of_the_other_sku_is_exact(share_: float, count: int) -> None:
    """Of the first n buyers exactly the share wants it, rounded down."""
    assert sum(wants_other(number, share_) for number in range(count)) == int(count * share_)


# -- several processes ---------------------------------------------------------------------------------------------


@given(whole=st.integers(0, 1_000), parts=st.integers(1, 20))
def test_shares_are_even_and_make_the_whole(whole: int, parts: int) -> None:
    """Connections and requests are divided without loss."""
    shares = [share(whole, number, parts) for number in range(parts)]
    assert sum(shares) == whole
    assert max(shares) - min(shares) <= 1


def test_no_two_processes_share_a_buyer() -> None:
    """Each has its own prefix, its part, and at least one connection."""
    jobs = split(job(connections=3), 5)
    assert [one.part for one in jobs] == [0, 1, 2]
    assert len({one.prefix for one in jobs}) == 3
    assert sum(one.connections for one in jobs) == 3


def test_reports_of_all_processes_are_added_up() -> None:
    """Percentiles are those of all answers together, not averages of percentiles."""
    slow = result([1_000_000], statuses={202: 0, 409: 1}, late=1, noticed_late=1, cpu_s=1.9, lag_max_ms=7.0)
    report, histogram = merge([result([1_000] * 99), slow], job())
    assert (report.offered, report.answered, report.late) == (100, 100, 1)
    assert report.statuses == {202: 99, 409: 1}
    assert report.p50_ms == pytest.approx(1.0, rel=1e-3)
    assert report.max_ms == pytest.approx(1_000, rel=1e-3)
    assert report.offered_per_s == 50
    assert report.driver_lag_max_ms == 7.0
    assert [why for why in report.bottlenecks if "core" in why]
    assert histogram.get_total_count() == 100


def test_messages_survive_the_pipe() -> None:
    """What a process tells is read as it was told, status codes included."""
    for message in (result([5, 6]), LoadReady(connections=3)):
        assert from_line(to_line(message)) == message


# -- the command ---------------------------------------------------------------------------------------------------


def test_gateway_address_is_read_from_a_url() -> None:
    """Whatever a person may write down for it."""
    assert address("http://127.0.0.1:8080") == ("127.0.0.1", 8080)
    assert address("http://[::1]:81/") == ("::1", 81)
    assert address("http://localhost") == ("localhost", 80)


@pytest.mark.parametrize(
    "url", ["", "127.0.0.1:80", "https://x", "http://", "http://x:y", "http://x/v1", "http://x:99999"]
)
def test_what_is_no_gateway_address_is_refused(url: str) -> None:
    """In one line that names the option."""
    with pytest.raises(BenchError, match="--url"):
        address(url)


def test_campaign_of_a_run_has_a_sku_that_is_sold_out() -> None:
    """From the start: it has no units."""
    campaign = own_campaign(500)
    assert [sku.stock for sku in campaign.sku] == [500, 0]
    assert campaign.id != own_campaign(500).id

"""What `bench drain` makes of what it has seen."""

import pytest

from bench.drain import Drained, Stint, figures, overall_per_s, quarters, rounds_of, shares, to_json
from bench.drain_awards import BUSY_ACCOUNTS, make_award
from bench.drain_loads import LOADS
from bench.drain_orders import CAMPAIGN_ID, ORDERS_AN_ENTRY, make_event
from cli.bench import DrainTopic
from domain.events import (
    decode_order_accepted,
    decode_points_awarded,
    encode_order_accepted,
    encode_points_awarded,
)


def stint(records: int, seconds: float, rss: int = 100) -> Stint:
    """Return what was done in a round."""
    return Stint(records=records, seconds=seconds, cpu_s=seconds / 2, rss_bytes=rss)


def drained(writer: list[Stint], bare: list[Stint], start: int = 90) -> Drained:
    """Return a measurement."""
    return Drained(records=0, batch=10, queue_s=1.0, writer=writer, bare=bare, rss_start_bytes=start)


@pytest.mark.parametrize(("records", "rounds"), [(100, 8), (1_000_000, 8), (1_000_001, 12), (10_000_000, 80)])
def test_rounds_are_neither_few_nor_long(records: int, rounds: int) -> None:
    """There are at least eight, of at most 125,000 records, and a quarter of them is a whole number."""
    assert rounds_of(records) == rounds
    assert rounds % 4 == 0


@pytest.mark.parametrize(("records", "rounds"), [(1_000_000, 8), (2_001, 8), (8, 8), (10, 3)])
def test_shares_add_up(records: int, rounds: int) -> None:
    """Every round gets as many as any other, give or take one."""
    found = shares(records, rounds)
    assert (len(found), sum(found)) == (rounds, records)
    assert max(found) - min(found) <= 1


def test_ratio_is_taken_within_a_round() -> None:
    """Each round's two rates are compared with each other; the rates of all rounds together stand beside."""
    found = drained([stint(100, 1.0), stint(100, 4.0)], [stint(100, 0.8), stint(100, 4.0)])
    rates, _ = figures(found)
    assert (rates.value.lowest, rates.value.highest) == (0.8, 1.0)
    assert rates.value.median == pytest.approx(0.9)
    assert rates.met
    assert overall_per_s(found.writer) == 40.0
    assert "0.960 over all rounds" in rates.note
    assert to_json(found)["ratio"] == pytest.approx(0.96)


def test_slower_than_promised_is_told() -> None:
    """Below 0.8 of the bare loop the figure is not met."""
    assert not figures(drained([stint(100, 1.0)], [stint(100, 0.7)]))[0].met


def test_memory_is_told_at_the_start_and_after_each_quarter() -> None:
    """What counts is how it grows after the first quarter; the start is told, too."""
    writer = [stint(1, 1.0, rss) for rss in (100, 101, 102, 103, 104, 105, 106, 107)]
    assert quarters(drained(writer, writer)) == [90, 101, 103, 105, 107]
    assert figures(drained(writer, writer))[1].met
    grown = [*writer[:-1], stint(1, 1.0, 112)]
    assert not figures(drained(grown, writer))[1].met


def test_orders_are_made_by_number() -> None:
    """Each number is another order of another buyer from another place in the outbox, and a valid event."""
    events = [make_event(number) for number in range(3 * ORDERS_AN_ENTRY)]
    assert [decode_order_accepted(encode_order_accepted(one)) for one in events] == events
    assert len({one.order_id for one in events}) == len({one.user_id for one in events}) == len(events)
    assert len({(one.outbox_id, one.outbox_index) for one in events}) == len(events)
    assert {one.campaign_id for one in events} == {CAMPAIGN_ID}
    assert make_event(7) == make_event(7)


def test_awards_are_made_by_number() -> None:
    """Each number is another draw; every second account gets one award, a thousand accounts share the others."""
    awards = [make_award(number) for number in range(5 * BUSY_ACCOUNTS)]
    assert [decode_points_awarded(encode_points_awarded(one)) for one in awards] == awards
    assert len({one.ref_id for one in awards}) == len(awards)
    busy = {one.user_id for one in awards[1::2]}
    assert len(busy) == BUSY_ACCOUNTS
    assert len({one.user_id for one in awards[::2]} - busy) == len(awards) // 2
    assert make_award(7) == make_award(7)


def test_every_topic_has_a_load() -> None:
    """What the command offers can be queued, and nothing else."""
    assert {topic.value for topic in DrainTopic} == set(LOADS)
    for load in LOADS.values():
        key, value = load.record(3)
        assert key != load.record(4)[0]
        assert key in value

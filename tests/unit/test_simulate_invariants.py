"""Whatever crowd meets whatever machines: nobody is lost, nothing is sold twice, the work is bounded, more helps."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.capacity_costs import US_PER_S
from bench.capacity_facts import MYSQL, REDIS
from bench.simulate import Peak, simulate
from bench.simulate_line import GROUPS_MAX, MIX_CLASSES, TRY_CLASSES, Calendar, Group, Line
from bench.simulate_plan import (
    EXAMPLE_COSTS,
    NETWORK_MAX_MS,
    NETWORK_SIGMA_MAX,
    RETRIES_MAX,
    RISE_MAX_S,
    SKUS_MAX,
    SLOTS_WANTED,
    STOCK_MAX,
    USERS_MAX,
    Crowd,
    Fleet,
    Limits,
    Model,
    slot_for,
)
from bench.simulate_result import NETWORK_PARTS
from bench.simulate_shelf import Shelf

FEW = settings(max_examples=60, deadline=None)
ROUNDING = 4
"""Reasons to leave, each rounded to whole buyers."""

crowds = st.builds(
    Crowd,
    users=st.integers(1, 30_000),
    rise_s=st.floats(0.1, 2.0),
    shape=st.sampled_from(["decline", "even"]),
    skus=st.integers(1, 20),
    zipf=st.floats(0.0, 3.0),
    stock=st.integers(0, 3_000),
    sold_out_share=st.sampled_from([0.0, 0.3, 1.0]),
    retries_max=st.integers(0, 20),
    obeys_retry_after=st.booleans(),
    network_ms=st.sampled_from([0.0, 5.0, 200.0]),
    network_sigma=st.floats(0.0, 1.5),
)
fleets = st.builds(Fleet, gateways=st.integers(1, 8), shards=st.integers(1, 3), consumers=st.integers(1, 3))
limits = st.builds(
    Limits,
    batch_max=st.sampled_from([1, 16, 256]),
    inflight_max=st.sampled_from([1, 100, 8_192]),
    connections_max=st.sampled_from([10, 500, 10_000]),
    admit_per_s=st.sampled_from([0.0, 1.0, 2_000.0]),
)
one_machine = st.builds(
    Fleet,
    gateways=st.integers(1, 4),
    cores=st.floats(1.0, 8.0),
    drivers=st.integers(1, 2),
    at_rest=st.floats(0.0, 0.5),
)
models = st.builds(
    Model, crowd=crowds, fleet=st.one_of(fleets, one_machine), limits=limits, costs=st.just(EXAMPLE_COSTS),
    seed=st.integers(0, 9),
)  # fmt: skip


@FEW
@given(models)
def test_everybody_ends_once_and_everything_sold_is_stored(model: Model) -> None:
    """Users are those with an order and those turned away for one reason; no more is sold than there is."""
    found = simulate(model)
    assert found.waiting == 0
    assert found.accepted + sum(found.turned_away.values()) == pytest.approx(model.crowd.users, abs=ROUNDING)
    assert found.accepted <= found.units
    assert found.samples[-1].stored == found.samples[-1].accepted == found.accepted
    assert found.samples[-1].answered == pytest.approx(found.requests, abs=1)
    assert found.p50_ms <= found.p90_ms <= found.p99_ms <= found.p99_9_ms
    assert (found.sold_out_s is None) or found.accepted == found.units


@FEW
@given(models)
def test_no_component_has_more_than_its_cores(model: Model) -> None:
    """Neither a component nor all of them together use more CPU time than there is."""
    peak = Peak(model)
    fleet = model.fleet
    found = peak.run()
    # Shares are of each component's own cores, and rounded.
    assert all(share <= 1.0 + 1e-3 for share in found.busy_max.values())
    if fleet.cores is not None:
        limits = peak.cores.limits
        for sample in found.samples:
            used = sum(share * limits[name] for name, share in sample.busy.items())
            assert used <= fleet.cores - fleet.at_rest + 1e-3 * len(limits)


@FEW
@given(crowds, st.integers(1, 4), st.integers(0, 9))
def test_more_workers_refuse_no_more(crowd: Crowd, gateways: int, seed: int) -> None:
    """With twice the workers at least as many buyers have an order, and no more leave without one for want of room."""
    few = Model(crowd=crowd, fleet=Fleet(gateways=gateways), costs=EXAMPLE_COSTS, seed=seed)
    many = msgspec.structs.replace(few, fleet=Fleet(gateways=2 * gateways))
    less, more = simulate(few), simulate(many)
    assert more.accepted >= less.accepted - 1
    for why in ("BUSY", "CONNECTIONS"):
        assert more.turned_away.get(why, 0) <= less.turned_away.get(why, 0) + 1


@FEW
@given(
    st.lists(st.tuples(st.floats(0.001, 1.0), st.integers(0, 1_000)), min_size=1, max_size=30),
    st.lists(st.floats(0.1, 5_000.0), min_size=1, max_size=60),
)
def test_shelf_gives_out_what_a_list_of_units_would(wanted: list[tuple[float, int]], buyers: list[float]) -> None:
    """One number for all SKUs gives out as many units as a count of every one of them."""
    whole = sum(share for share, _ in wanted)
    left = [float(units) for _, units in wanted]
    shelf = Shelf([(share / whole, units) for share, units in wanted])
    for total in buyers:
        got = [min(units, total * share / whole) for units, (share, _) in zip(left, wanted, strict=True)]
        left = [units - less for units, less in zip(left, got, strict=True)]
        assert shelf.take(total, 0) == pytest.approx(sum(got), rel=1e-6, abs=1e-6)
        on_sale = sum(share for units, (share, _) in zip(left, wanted, strict=True) if units > 1e-6)
        assert shelf.wanted_share == pytest.approx(on_sale / whole, abs=1e-6) or min(left) < 1e-3


HARD = Crowd(
    users=USERS_MAX,
    rise_s=10.0,
    skus=SKUS_MAX,
    stock=STOCK_MAX,
    retries_max=RETRIES_MAX,
    network_ms=NETWORK_MAX_MS,
    network_sigma=NETWORK_SIGMA_MAX,
)


@pytest.mark.parametrize(
    ("crowd", "gateways"),
    [
        (HARD, 1),
        (msgspec.structs.replace(HARD, obeys_retry_after=False, network_ms=40.0), 1),
        (msgspec.structs.replace(HARD, rise_s=RISE_MAX_S, obeys_retry_after=False), 100),
        (Crowd(users=5_000_000, rise_s=10.0, skus=100, stock=1_000), 36),
    ],
    ids=["everything at its most", "impatient", "an hour", "as it comes"],
)
def test_work_is_bounded(crowd: Crowd, gateways: int) -> None:
    """However many come, and come back: steps and groups held stay below what the constants say."""
    model = Model(
        crowd=crowd, fleet=Fleet(gateways=gateways), costs=EXAMPLE_COSTS, slot_s=slot_for(crowd, Limits())
    )  # fmt: skip
    peak = Peak(model)
    found = peak.run()
    assert found.waiting == 0
    assert peak.steps < 2 * SLOTS_WANTED
    # A slot has a group of each class; buyers come back after two seconds, and are on their way, so many slots ahead.
    slots_ahead = (2 + NETWORK_MAX_MS / 1000 * 17 * bool(crowd.network_ms > 40)) / model.slot_s + NETWORK_PARTS
    assert peak.groups_max < slots_ahead * TRY_CLASSES * MIX_CLASSES + 3 * GROUPS_MAX
    assert len(found.samples) <= 401


def test_line_and_calendar_hold_few_groups_and_lose_nobody() -> None:
    """A hundred thousand groups become a bounded number, with as many buyers in them."""
    line, calendar = Line(), Calendar(RETRIES_MAX)
    for at in range(100_000):
        line.push(Group(at, at % 7, 0.5, at % 5))
        calendar.put(at % 10, Group(at % 10, at % RETRIES_MAX, 0.5, at % 5), at % MIX_CLASSES)
    assert len(line) <= GROUPS_MAX
    assert line.total == pytest.approx(50_000)
    sinces = [group.since for group in line]
    assert sinces == sorted(sinces)
    assert calendar.groups <= 10 * TRY_CLASSES * MIX_CLASSES
    assert sum(group.total for at in range(10) for group in calendar.take(at)) == pytest.approx(50_000)
    assert calendar.groups == 0
    assert not calendar


def test_time_to_sold_out_falls_with_more_workers() -> None:
    """Twice the workers have a crowd's stock sold earlier, until the crowd itself is what takes its time."""
    crowd = Crowd(users=500_000, rise_s=1.0, skus=10, zipf=0.5, stock=4_000, retries_max=20)
    times = [
        simulate(Model(crowd=crowd, fleet=Fleet(gateways=count), costs=EXAMPLE_COSTS)).sold_out_s for count in (1, 2, 4)
    ]
    assert None not in times
    assert times == sorted(times, key=lambda one: -(one or 0.0))
    assert len(set(times)) == 3


def test_nothing_on_sale_is_refused_from_memory() -> None:
    """Without stock nobody asks Redis, and everybody is told so."""
    crowd = Crowd(users=10_000, rise_s=1.0, skus=3, stock=0)
    found = simulate(Model(crowd=crowd, fleet=Fleet(gateways=2), costs=EXAMPLE_COSTS))
    assert found.turned_away == {"SOLD_OUT": 10_000}
    assert found.busy_max[REDIS] == 0.0
    assert found.redis_queue_max == 0


def test_a_long_drain_is_followed_to_its_end() -> None:
    """Orders for hours of work are all stored, in few steps, at the speed of what is slowest."""
    crowd = Crowd(users=20_000_000, rise_s=60.0, shape="even", stock=STOCK_MAX, network_ms=0.0)
    fleet = Fleet(gateways=40, shards=8, kafka_cores=16.0)
    peak = Peak(Model(crowd=crowd, fleet=fleet, costs=EXAMPLE_COSTS))
    found = peak.run()
    assert found.samples[-1].stored == found.accepted
    slowest_us = EXAMPLE_COSTS.of(MYSQL).accepted_us
    assert found.drained_s == pytest.approx(found.accepted * slowest_us / US_PER_S, rel=0.03)
    assert peak.steps < SLOTS_WANTED

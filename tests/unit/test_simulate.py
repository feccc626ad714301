"""The simulated ten o'clock peak: nobody is lost, nothing is sold twice, and more of something helps as it should."""

import math

import msgspec
import pytest

from bench.errors import BenchError
from bench.simulate import simulate
from bench.simulate_cores import pour
from bench.simulate_curve import fit_curve, latencies_ms, percentiles_ms
from bench.simulate_fit import calibrated, calm_points, held_out, model_of, neighbours
from bench.simulate_line import Group, Line
from bench.simulate_plan import EXAMPLE_COSTS, Crowd, Fleet, Limits, Model
from tests.support.sweeps import PERCENTILES, sweep

CROWD = Crowd(users=50_000, rise_s=1.0, skus=10, zipf=1.1, stock=200)
FLEET = Fleet(gateways=4)


def model(crowd: Crowd = CROWD, fleet: Fleet = FLEET, limits: Limits | None = None, seed: int = 0) -> Model:
    """Return a model with round costs."""
    return Model(crowd=crowd, fleet=fleet, limits=limits or Limits(), costs=EXAMPLE_COSTS, seed=seed)


def changed(**fields: object) -> Crowd:
    """Return the crowd with other fields."""
    return msgspec.structs.replace(CROWD, **fields)


@pytest.mark.parametrize(
    "tried",
    [
        model(),
        model(fleet=Fleet(gateways=1)),
        model(limits=Limits(inflight_max=50)),
        model(limits=Limits(admit_per_s=500)),
        model(limits=Limits(admit_per_s=500), crowd=changed(obeys_retry_after=False)),
        model(limits=Limits(connections_max=100), fleet=Fleet(gateways=1)),
        model(crowd=changed(shape="even", zipf=0.0, network_ms=0.0)),
        model(crowd=changed(stock=0)),
    ],
    ids=["plain", "one worker", "full", "limited", "impatient", "no connections", "even", "nothing on sale"],
)
def test_everybody_has_an_end(tried: Model) -> None:
    """Every user has an order or was turned away for one reason; no more is sold than there is, all is stored."""
    found = simulate(tried)
    assert found.accepted + sum(found.turned_away.values()) == pytest.approx(tried.crowd.users, abs=3)
    assert found.waiting == 0
    assert found.accepted <= found.units
    assert found.samples[-1].stored == found.accepted
    assert found.samples[-1].kafka == found.samples[-1].outbox == 0
    assert found.p50_ms <= found.p90_ms <= found.p99_ms <= found.p99_9_ms


def test_wanted_skus_are_sold_out() -> None:
    """With more buyers than units of every SKU everything is sold, the popular first."""
    found = simulate(model())
    assert found.accepted == found.units == 2_000
    assert found.sold_out_s is not None
    assert found.first_sold_out_s is not None
    assert found.first_sold_out_s < found.sold_out_s


def test_same_seed_same_peak() -> None:
    """The crowd is drawn from the seed: the same seed gives the same peak, another another."""
    assert simulate(model(seed=1)) == simulate(model(seed=1))
    assert simulate(model(seed=1)) != simulate(model(seed=2))


def test_few_workers_make_a_queue() -> None:
    """One worker needs 28 microseconds an order: it answers 36,000 a second at most; four have no queue to speak of."""
    few, many = simulate(model(fleet=Fleet(gateways=1))), simulate(model())
    assert few.seconds > many.seconds
    assert few.p99_ms > 2 * many.p99_ms
    assert few.gateway_queue_max > 5_000 > many.gateway_queue_max
    assert few.busy_max["gateway"] == pytest.approx(1.0, abs=0.01)


def test_retry_after_spreads_the_crowd() -> None:
    """Buyers who obey `Retry-After` come back later and spread out: the peak of requests is lower."""
    full = Limits(inflight_max=50)
    patient = simulate(model(limits=full))
    impatient = simulate(model(crowd=changed(obeys_retry_after=False, impatience_s=0.2), limits=full))
    assert patient.refusals["BUSY"] > 0
    assert impatient.peak_offered_per_s > patient.peak_offered_per_s
    assert patient.seconds > impatient.seconds


def test_campaign_bucket_bounds_the_orders() -> None:
    """With a limit of 500 a second orders come no faster than the bucket and its burst allow."""
    found = simulate(model(crowd=changed(stock=100_000, retries_max=0), limits=Limits(admit_per_s=500)))
    assert found.refusals["RATE_LIMITED"] > 0
    assert found.accepted <= 500 * (1 + found.seconds) + 1


def test_slow_consumers_leave_a_backlog() -> None:
    """Orders wait in Kafka for consumers that are too slow, all are stored in the end; two drain faster than one."""
    crowd = changed(stock=4_000, users=100_000)
    one = simulate(model(crowd=crowd, fleet=Fleet(gateways=8)))
    two = simulate(model(crowd=crowd, fleet=Fleet(gateways=8, consumers=2)))
    assert one.kafka_max > two.kafka_max > 0
    assert one.drain_s > two.drain_s


def test_millions_end_in_seconds() -> None:
    """Five million users are groups: the same number of steps as fifty thousand, and all of them are accounted for."""
    found = simulate(model(crowd=changed(users=5_000_000, rise_s=2.0), fleet=Fleet(gateways=100)))
    assert found.accepted + sum(found.turned_away.values()) == pytest.approx(5_000_000, abs=3)


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        (model(crowd=changed(users=0)), "users"),
        (model(crowd=changed(rise_s=0.0)), "rise"),
        (model(fleet=Fleet(gateways=0)), "one gateway"),
        (model(fleet=Fleet(gateways=1, cores=1.0, at_rest=1.0)), "no core left"),
    ],
)
def test_what_cannot_be_simulated(wrong: Model, why: str) -> None:
    """Nobody, no time, no machines: refused, with the reason."""
    with pytest.raises(BenchError, match=why):
        simulate(wrong)


def test_line_is_first_come_first_served() -> None:
    """A line gives out its first, parts of a group too, and drops its last."""
    line = Line()
    line.push(Group(1, 0, 4.0, 0))
    line.push(Group(2, 0, 4.0, 0))
    assert [(one.since, one.total) for one in line.take(5)] == [(1, 4.0), (2, 1.0)]
    assert line.total == 3
    assert [one.total for one in line.drop_last(1)] == [1.0]
    assert [one.since for one in line.take_older(3)] == [2]
    assert line.total == 0


def test_cores_are_shared_by_process() -> None:
    """Each process gets the same, none more than it wants, and what one leaves goes to the others."""
    assert pour(2.0, {"a": (0.1, 1), "b": (5.0, 1), "c": (5.0, 1)}) == pytest.approx({"a": 0.1, "b": 0.95, "c": 0.95})
    assert pour(2.0, {"a": (4.0, 3), "b": (4.0, 1)}) == pytest.approx({"a": 1.5, "b": 0.5})


def test_curve_is_found_again() -> None:
    """A curve that latencies were made from is fitted back; one point that is far off does not draw it away."""

    def made(busy: float, accepted: float) -> list[tuple[float, float]]:
        return [(at, math.exp(0.01 * at - 2 * math.log(1 - busy) + 0.5 * accepted)) for at in PERCENTILES]

    points = [(busy, accepted, made(busy, accepted)) for busy in (0.2, 0.4, 0.6, 0.8) for accepted in (0.1, 1.0)]
    points.append((0.5, 1.0, [(at, 9 * ms) for at, ms in made(0.5, 1.0)]))
    curve = fit_curve(points)
    assert curve is not None
    assert percentiles_ms(curve, 0.7, 0.5)[8] == pytest.approx(made(0.7, 0.5)[8][1], rel=0.05)
    assert sum(part for _, part in latencies_ms(curve, 0.7, 0.5)) == pytest.approx(1.0)
    assert fit_curve(points[:3]) is None


def test_model_of_a_sweep_predicts_what_the_sweep_was_made_from() -> None:
    """Between two measured rates a sale that sells out half-way is predicted: its answers, its orders, its p99."""
    measured = sweep()
    workers, rate_per_s = held_out(measured)
    assert rate_per_s not in {one.offered_per_s for one in measured.points}
    assert neighbours(measured, workers, rate_per_s) == (4_000, 6_000)
    wanted = model_of(measured, workers=workers, rate_per_s=rate_per_s, seconds=5.0, stock=10_000)
    found = simulate(calibrated(wanted, calm_points(wanted, measured.points)))
    assert found.achieved_per_s == pytest.approx(rate_per_s, rel=0.02)
    assert found.accepted == 10_000
    below, above = (next(one.p99_ms for one in measured.points if one.offered_per_s == rate) for rate in (4_000, 6_000))
    assert below * 0.75 < found.p99_ms < above * 1.25


def test_no_prediction_without_sustained_points() -> None:
    """Where nothing was sustained there is nothing to predict from; the message says what to do."""
    late = sweep(rates=(12_000, 14_000))
    with pytest.raises(BenchError, match="Sweep again"):
        held_out(late)
    wanted = model_of(late, workers=1, rate_per_s=1_000, seconds=1.0, stock=10)
    with pytest.raises(BenchError, match="too few to tell"):
        calibrated(wanted, calm_points(wanted, late.points))


def test_only_calm_points_tell_latency() -> None:
    """Where the driver was late or was the bottleneck, its latency is not taken; nor is a rate outside predicted."""
    measured = sweep(workers=(1,))
    wanted = model_of(measured, workers=1, rate_per_s=5_000, seconds=1.0, stock=10)
    calm = calm_points(wanted, measured.points)
    points = [msgspec.structs.replace(one, late=one.offered // 10) for one in measured.points[:1]]
    points += [msgspec.structs.replace(one, bottlenecks=["the driver"]) for one in measured.points[1:2]]
    noisy = msgspec.structs.replace(measured, points=[*points, *measured.points[2:]])
    assert calm_points(wanted, noisy.points) == calm[2:]
    with pytest.raises(BenchError, match="not between two rates that were sustained"):
        held_out(measured, 9_000)
    with pytest.raises(BenchError, match="offered in the sweep itself"):
        held_out(measured, 4_000)


def test_points_measured_later_are_placed_by_the_costs_of_the_sweep() -> None:
    """How busy a point made the cores does not hang on which other points were measured with it."""
    measured = sweep(workers=(1,))
    wanted = model_of(measured, workers=1, rate_per_s=5_000, seconds=1.0, stock=10)
    alone = [one for point in measured.points for one in calm_points(wanted, [point])]
    assert len(alone) > 3
    assert alone == calm_points(wanted, measured.points)


def test_how_busy_cores_are_does_not_hang_on_how_long_one_looks() -> None:
    """Time before the load does not count as idle: half a second of a steady load is as busy as five."""
    measured = sweep(workers=(1,))
    point = measured.points[2]
    wanted = model_of(measured, workers=1, rate_per_s=5_000, seconds=1.0, stock=10)

    def busy(seconds: float) -> float:
        offered = round(point.offered_per_s * seconds)
        one = msgspec.structs.replace(point, seconds=seconds, offered=offered, accepted=offered, answered=offered)
        ((found, _, _),) = calm_points(wanted, [one])
        return found

    assert busy(0.5) == pytest.approx(busy(5.0), rel=0.02)

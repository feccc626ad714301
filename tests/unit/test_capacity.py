"""From a sweep to costs and to a plan: sweeps of known costs, and everything that is refused."""

import math

import msgspec
import pytest

from bench.capacity_costs import measured_costs
from bench.capacity_facts import FORMAT, component, merge_sweeps, read_sweep
from bench.capacity_plan import HEADROOM, MACHINE, need, plan
from bench.errors import BenchError
from bench.sweep import POINTS_MAX, median_by_p99, next_rung, offered, plan_sweep, times
from tests.support.sweeps import DRIVER_US, LAW, WORK_US, point, sweep

NAMES = {"redis": "redis-server", "kafka": "Kafka", "mariadb": "MySQL"}


def test_costs_are_found_again() -> None:
    """The CPU of an order, a refusal and a script call comes out as it was put in, for every component."""
    costs = measured_costs(sweep())
    for process, (accepted_us, refused_us, call_us) in WORK_US.items():
        found = costs.of(NAMES.get(process, process))
        assert found.accepted_us == pytest.approx(accepted_us, abs=0.2)
        assert found.refused_us == pytest.approx(refused_us, abs=0.2)
        assert found.batch_us == pytest.approx(call_us, abs=2)
        assert found.measured_by
    assert costs.of("driver").accepted_us == pytest.approx(DRIVER_US, abs=0.5)
    assert costs.of("gateway").rest_share == pytest.approx(0.015)  # a hundredth of a core for each of 1.5 workers


def test_no_order_is_planned_cheaper_than_it_was() -> None:
    """A plan takes the larger of the regression and of all that was used for an order at the sustained rate."""
    told = plan(sweep())
    at = told.sustained
    for name in ("gateway", "MySQL", "Kafka"):
        used = sum(value for child, value in at.cpu_s.items() if component(child) == name)
        assert told.costs.of(name).floor_us == pytest.approx(used / at.accepted * 1e6)
        assert told.costs.accepted_us(name) == max(told.costs.fitted_us(name), told.costs.of(name).floor_us)


def test_costs_need_different_shares() -> None:
    """Points with accepted orders alone say nothing of a refusal."""
    alone = [one for one in sweep().points if one.refused_share == 0]
    with pytest.raises(BenchError, match="cannot be told apart"):
        measured_costs(msgspec.structs.replace(sweep(), points=alone))


def test_components() -> None:
    """Workers and copies count together; servers have their own names."""
    assert [component(one) for one in ("gateway 12", "redis", "consumer orders 2", "consumer orders", "lifecycle")] == [
        "gateway",
        "redis-server",
        "consumer orders",
        "consumer orders",
        "lifecycle",
    ]


def test_plan_follows_from_the_costs() -> None:
    """The sustained rate is the highest that kept the SLO; each count is orders x CPU / (1 - head-room), rounded up."""
    found = plan(sweep(), target_per_s=50_000)
    assert found.sustained.offered_per_s == 8_000
    assert [one.factor for one in found.needs] == [1, 2, 5, 10]
    for one in found.needs:
        assert one.orders_per_s == 50_000 * one.factor
        for count, name in ((one.gateways, "gateway"), (one.consumers, "consumer orders"), (one.mysql_cores, "MySQL")):
            cores = one.orders_per_s * found.costs.accepted_us(name) / 1e6
            assert cores / count <= 1 - HEADROOM + 1e-6
            assert count == 1 or cores / (count - 1) > 1 - HEADROOM
    first = found.needs[0]
    assert f"{first.gateways} gateway workers, {first.shards} Redis shard" in found.sentence
    assert "your target of 50,000 orders/s" in found.sentence
    assert f"first to give: {found.rooms[0].component} here, {first.first} there" in found.sentence
    assert found.rooms == sorted(found.rooms, key=lambda room: room.gives_at_per_s)
    assert {room.component for room in found.rooms} > {MACHINE, "gateway", "MySQL"}


def test_slo_moves_the_sustained_rate() -> None:
    """A tighter SLO is kept at a lower rate; latency is looked up, not guessed."""
    assert plan(sweep(), slo="p99<7ms").sustained.offered_per_s == 4_000


@pytest.mark.parametrize(
    ("changed", "options", "why"),
    [
        ({"rates": (2_000, 4_000, 6_000)}, {}, "no points past the knee: 6,000 orders/s"),
        ({"ladder": (1, 2, 4, 8, 16, 24)}, {}, "no points past the knee: throughput still rises at N = 24"),
        ({}, {"slo": "p99<1ms"}, "unreachable: no offered rate kept 'p99<1ms'"),
        ({}, {"slo": "p99<<1ms"}, "--slo"),
        ({}, {"target_per_s": 1e9}, "unreachable target: 1,000,000,000 orders/s would need"),
        ({}, {"target_per_s": 0.0}, "--target 0"),
    ],
)
def test_what_no_plan_follows_from(changed: dict[str, object], options: dict[str, object], why: str) -> None:
    """No points past the knee, an SLO nobody kept or can read, a target out of reach: refused, with the reason."""
    with pytest.raises(BenchError, match=why):
        plan(sweep(**changed), **options)  # type: ignore[arg-type]


def test_needs_count_refusals_for_the_gateway_alone() -> None:
    """A crowd that comes too late needs gateway workers, and nothing behind them."""
    costs = measured_costs(sweep())
    few, many = need(costs, 1_000), need(costs, 1_000, refused_per_s=100_000)
    assert many.gateways >= few.gateways + 3
    assert msgspec.structs.replace(many, gateways=few.gateways, first=few.first) == few


def test_file_of_a_sweep() -> None:
    """What was written is read; what is empty, of another format, or something else is refused by name."""
    whole = sweep()
    assert read_sweep(msgspec.json.encode(whole), "a") == whole
    with pytest.raises(BenchError, match="a: an empty run"):
        read_sweep(msgspec.json.encode(msgspec.structs.replace(whole, points=[])), "a")
    with pytest.raises(BenchError, match="a: format 99"):
        read_sweep(msgspec.json.encode(msgspec.structs.replace(whole, format=FORMAT + 98)), "a")
    with pytest.raises(BenchError, match="a: not the file of a sweep"):
        read_sweep(b'{"format": 1}', "a")


def test_runs_of_one_version_are_one() -> None:
    """Runs of one version and machine add up; of two versions they are refused, and both are named."""
    one = sweep()
    both = merge_sweeps({"a": one, "b": one})
    assert len(both.points) == 2 * len(one.points)
    assert both.proof.mysql_rows == 2 * one.proof.mysql_rows
    with pytest.raises(BenchError, match=r"runs of different versions .*a: aaaaaaaaaaaa, b: bbbbbbbbbbbb"):
        merge_sweeps({"a": one, "b": sweep(commit="b" * 40)})


def test_sweep_goes_on_until_the_knee_is_passed() -> None:
    """The ladder is climbed, then goes on half as far again until throughput rises no more, or to its end."""
    made = plan_sweep(quick=True, cores=2)
    assert next_rung(made, []) == 1
    rising = [(float(n), 100.0 * n) for n in made.ladder]
    assert next_rung(made, rising) == 384
    assert next_rung(made, [*rising, (2_000.0, 200_000.0)]) is None
    assert next_rung(made, [(float(n), LAW.at(n)) for n in (*made.ladder, 384, 576)]) is None


def test_sweep_offers_refusals_and_more_than_the_best() -> None:
    """One load is past the ladder's best, some have refusals among them; named rates replace shares, not refusals."""
    loads = offered(plan_sweep(quick=True, cores=2), 10_000)
    assert max(loads, key=lambda load: load[0]) == (13_000, 0.0)
    assert len({share for _, share in loads}) >= 2
    named = offered(plan_sweep(quick=True, cores=2, rates_per_s=(100, 200)), 10_000)
    assert [rate for rate, share in named if share == 0] == [100, 200]
    assert any(share for _, share in named)


def test_calm_points_are_made_thrice() -> None:
    """Below the knee three are made and the middle one is kept; above it, and in a quick sweep, one is."""
    whole, quick = plan_sweep(quick=False, cores=2), plan_sweep(quick=True, cores=2)
    assert [times(whole, rate, 10_000) for rate in (1_000, 6_000, 6_001, 12_500)] == [3, 3, 1, 1]
    assert times(quick, 1_000, 10_000) == 1
    three = [msgspec.structs.replace(point(1, 4_000), p99_ms=ms) for ms in (30.0, 10.0, 20.0)]
    assert median_by_p99(three).p99_ms == 20
    assert median_by_p99(three[:2]).p99_ms == 10


def test_sweep_is_bounded() -> None:
    """A sweep that would not end in time is refused."""
    with pytest.raises(BenchError, match=f"at most {POINTS_MAX}"):
        plan_sweep(quick=False, cores=2, workers=range(1, 60))


def test_point_that_drops_is_not_sustained() -> None:
    """An SLO on failures counts what was dropped, what had errors and what was not answered."""
    lost = msgspec.structs.replace(point(1, 8_000), dropped=100)
    points = [lost if one.offered_per_s == 8_000 else one for one in sweep(workers=(1,)).points]
    assert plan(msgspec.structs.replace(sweep(workers=(1,)), points=points)).sustained.offered_per_s == 6_000


def test_poor_fits_are_told() -> None:
    """A component whose CPU does not follow its orders is flagged; made-up costs that do follow are not."""
    good = sweep()
    assert not any(one.poor for one in measured_costs(good).parts)
    noisy = [
        msgspec.structs.replace(one, cpu_s=one.cpu_s | {"kafka": one.window_s * (0.1 + 0.8 * (at % 2))})
        for at, one in enumerate(good.points)
    ]
    told = plan(msgspec.structs.replace(good, points=noisy))
    assert [one.component for one in told.costs.parts if one.poor] == ["Kafka"]
    assert told.costs.accepted_us("Kafka") == told.costs.of("Kafka").floor_us > 0
    assert any(line.startswith("Poor fit of Kafka: ") for line in told.warnings)


def test_driver_that_gave_first_is_told() -> None:
    """Where the driver was at its limit at the sustained rate, or at all above it, the plan says so."""
    good = sweep()
    at = plan(good).sustained.offered_per_s

    def strained(least: float, most: float) -> list[str]:
        points = [
            msgspec.structs.replace(one, bottlenecks=["late"] if least <= one.offered_per_s <= most else [])
            for one in good.points
        ]
        return plan(msgspec.structs.replace(good, points=points)).warnings

    assert strained(math.inf, math.inf) == []
    assert [line.partition(":")[0] for line in strained(at, at)] == [
        "The load driver itself was at its limit at the sustained rate"
    ]
    assert [line.partition(":")[0] for line in strained(at + 1, 1e9)] == [
        "At every higher rate the load driver was at its limit"
    ]

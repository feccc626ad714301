"""The Universal Scalability Law: published data, its refusal to guess, and its bands."""

import math

import pytest

from bench.usl import Law, UslError, extrapolate, fit, knee

# Throughput over concurrency of a Cisco benchmark, N = 1 to 32: published with B. Schwartz, "Practical Scalability
# Analysis with the Universal Scalability Law", and as the test data of usl4j.
CISCO = list(
    enumerate(
        (955.16, 1878.91, 2688.01, 3548.68, 4315.54, 5130.43, 5931.37, 6531.08, 7219.8, 7867.61, 8278.71, 8646.7,
         9047.84, 9426.55, 9645.37, 9897.24, 10097.6, 10240.5, 10532.39, 10798.52, 11151.43, 11518.63, 11806.0,
         12089.37, 12075.41, 12177.29, 12211.41, 12158.93, 12155.27, 12118.04, 12140.4, 12074.39),
        start=1,
    )
)  # fmt: skip
POINTS = [(float(n), x) for n, x in CISCO]


def test_published_coefficients() -> None:
    """All 32 published points give the published coefficients, to the digits given, and 12,342 at N = 35."""
    law = fit(POINTS)
    assert round(law.sigma, 6) == 0.026716
    assert f"{law.kappa:.4e}" == "7.6909e-04"
    assert round(law.lambda_, 2) == 995.65
    assert law.peak_n == 35
    assert round(law.at(35)) == 12_342


@pytest.mark.parametrize(("count", "peak"), [(6, math.inf), (8, 17_844), (10, 16_052), (12, 10_623)])
def test_fits_without_the_knee_give_what_was_published(count: int, peak: float) -> None:
    """The first points alone lead anywhere, from 10,623 to infinity: that is why they must not be extrapolated."""
    found = fit(POINTS[:count]).peak_x
    assert (found if math.isinf(found) else round(found)) == peak


@pytest.mark.parametrize("count", [6, 8, 10, 12, 24])
def test_no_extrapolation_without_points_past_the_knee(count: int) -> None:
    """Where throughput still rises at the last point nothing is said of what follows; the message says what to do."""
    with pytest.raises(UslError, match=rf"no points past the knee: .*N = {count}, .*Measure on to N = {2 * count}"):
        extrapolate(POINTS[:count])


def test_bands_hold_the_curve_and_are_repeatable() -> None:
    """The band of the published data is narrow, has the curve within, and the same seed gives the same band."""
    found = extrapolate(POINTS, seed=1)
    assert found == extrapolate(POINTS, seed=1)
    assert found != extrapolate(POINTS, seed=2)
    assert found.bounded
    assert found.knee_n == 23
    assert found.r_squared > 0.99
    assert found.bands != extrapolate(POINTS, seed=2).bands
    assert all(low <= found.law.at(n) <= high for n, low, high in found.bands)
    assert found.peak_low is not None
    assert found.peak_high is not None
    assert 11_500 < found.peak_low < 12_342 < found.peak_high < 13_200


def test_noiseless_points_give_their_law() -> None:
    """Points computed from a law give it back, also where it has no contention, or no cost of agreement."""
    for law in (
        Law(lambda_=500, sigma=0.1, kappa=1e-3),
        Law(lambda_=9, sigma=0, kappa=1e-2),
        Law(lambda_=2, sigma=0.5, kappa=0),
    ):
        found = fit([(n, law.at(n)) for n in (1, 2, 4, 8, 16, 32, 64)])
        assert found.lambda_ == pytest.approx(law.lambda_, rel=1e-4)
        assert found.sigma == pytest.approx(law.sigma, abs=1e-5)
        assert found.kappa == pytest.approx(law.kappa, abs=1e-6)


def test_ceiling() -> None:
    """Without a cost of agreement throughput approaches lambda / sigma; without contention, too, nothing bounds it."""
    assert Law(lambda_=600, sigma=0.03, kappa=0).ceiling_x == pytest.approx(20_000)
    assert math.isinf(Law(lambda_=600, sigma=0, kappa=0).ceiling_x)
    assert Law(lambda_=600, sigma=0.03, kappa=1e-4).ceiling_x == Law(lambda_=600, sigma=0.03, kappa=1e-4).peak_x


def test_endless_rise_is_not_bounded() -> None:
    """Points that never bend have no bound, and are told so."""
    straight = [(float(n), 100.0 * n) for n in (1, 2, 4, 8, 16, 32)]
    with pytest.raises(UslError, match="no points past the knee"):
        extrapolate(straight)


@pytest.mark.parametrize(
    ("points", "why"),
    [
        (POINTS[:5], "at least 6"),
        ([(1.0, 10.0), (2.0, 12.0)] * 3, "three different N"),
        ([(float(n), 0.0) for n in range(1, 8)], "above 0"),
    ],
)
def test_what_cannot_be_fitted(points: list[tuple[float, float]], why: str) -> None:
    """Too few points, too few N, or no throughput: refused, with the reason."""
    with pytest.raises(UslError, match=why):
        fit(points)


def test_knee_wants_more_than_the_next_point() -> None:
    """A plateau counts as one only if it was followed for a quarter of the way there."""
    flat = [(1.0, 10.0), (2.0, 19.0), (4.0, 30.0), (8.0, 40.0), (10.0, 40.1)]
    assert knee(flat) == 8
    with pytest.raises(UslError, match="no points past the knee"):
        knee([*flat[:-1], (9.0, 40.1)])

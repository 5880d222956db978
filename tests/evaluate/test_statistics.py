"""Intervals and calibration against published values and hand computations."""

import math

import numpy as np
import pytest

from groma.evaluate.measures import Groups
from groma.evaluate.statistics import Figure, Share, calibration_error, calibration_sums


def apart(count: int) -> Groups:
    """Each case a group of its own."""
    return Groups([str(number) for number in range(count)])


def share_over_groups(shares) -> Figure:
    return apart(len(shares)).shares(shares).figure()


def bootstrap(rows, statistic, *, cases: int) -> Figure:
    return apart(len(rows)).of_sums(rows, statistic, cases=cases).figure()


@pytest.mark.parametrize(
    ("right", "total", "low", "high"),
    [
        # Newcombe 1998 (Statistics in Medicine 17, table I), method 3: Wilson without continuity correction
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_interval(right, total, low, high):
    assert Share(right, total).value == right / total
    assert Share(right, total).interval() == pytest.approx((low, high), abs=5e-5)
    mirrored = Share(total - right, total).interval()
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_shares_without_cases():
    assert math.isnan(Share().value)
    assert Share().interval() == (0.0, 1.0)
    assert Share(5, 5).interval()[1] == 1.0
    assert Share(0, 5).interval()[0] == pytest.approx(0.0, abs=1e-12)


def error_of(scores, right, bins=10):
    return calibration_error(calibration_sums(list(zip(scores, right, strict=True)), bins))


def test_calibration_by_hand():
    # bin 0.8-0.9: confidence 0.85, accuracy 1/2; bin 0.2-0.3: confidence 0.25, accuracy 0; bin 0.9-1: 1 and 1
    scores, right = [0.82, 0.88, 0.25, 1.0], [True, False, False, True]
    assert error_of(scores, right) == pytest.approx((2 * 0.35 + 0.25 + 0.0) / 4)


def test_calibration_of_groups_adds_up():
    cases = [(0.82, True), (0.88, False), (0.25, False), (1.0, True)]
    parts = calibration_sums(cases[:1]) + calibration_sums(cases[1:]) + calibration_sums([])
    assert calibration_error(parts) == pytest.approx(calibration_error(calibration_sums(cases)))


def test_calibration_of_extremes():
    assert error_of([1.0, 1.0], [True, True]) == 0.0
    assert error_of([1.0, 0.0], [False, True]) == 1.0
    assert math.isnan(error_of([], []))


def test_errors_of_opposite_sign_in_one_bin_cancel_and_in_two_do_not():
    assert error_of([0.5, 0.5], [True, False]) == pytest.approx(0.0)
    assert error_of([0.45, 0.55], [True, False]) == pytest.approx(0.55)
    assert error_of([0.45, 0.55], [True, False], bins=1) == pytest.approx(0.0)


def test_the_interval_of_independent_cases_is_wilsons():
    groups = [Share(1, 1)] * 60 + [Share(0, 1)] * 140
    figure, wilson = share_over_groups(groups), Share(60, 200)
    assert figure.value == wilson.value and figure.cases == 200
    assert (figure.low, figure.high) == pytest.approx(wilson.interval(), abs=0.015)
    assert share_over_groups(groups) == figure, "the same again"


def test_the_interval_is_wider_when_a_groups_cases_agree():
    alike = share_over_groups([Share(5, 5)] * 30 + [Share(0, 5)] * 70)
    mixed = share_over_groups([Share(1, 5), Share(2, 5)] * 50)
    independent = Share(150, 500).interval()
    assert alike.value == mixed.value == 0.3
    assert alike.high - alike.low > 1.8 * (independent[1] - independent[0]) > mixed.high - mixed.low


def test_where_all_cases_agree_the_interval_is_wilsons():
    figure = share_over_groups([Share(2, 2)] * 10)
    assert (figure.low, figure.high) == Share(20, 20).interval()
    assert math.isnan(share_over_groups([Share()] * 3).value)


def test_bootstrap_narrows_with_more_groups():
    rng = np.random.default_rng(0)

    def width(n: int) -> float:
        rows = [(value, 1.0) for value in rng.normal(0.5, 0.1, size=n)]
        figure = bootstrap(rows, lambda sums: sums[0] / sums[1], cases=n)
        assert figure.low < figure.value < figure.high
        return figure.high - figure.low

    assert width(400) == pytest.approx(0.1 * 2 * 1.96 / 20, rel=0.15)
    assert width(400) < 0.7 * width(100)


def test_a_calibration_error_lies_in_its_interval():
    """Resampling raises it; a plain percentile interval of calibrated scores often lies above the value."""
    rng = np.random.default_rng(1)
    for _ in range(10):
        scores = rng.random(1000)
        rows = [calibration_sums([case]) for case in zip(scores, rng.random(1000) < scores, strict=True)]
        figure = bootstrap(rows, calibration_error, cases=1000)
        assert figure.low <= figure.value <= figure.high < 0.1


def test_bootstrap_without_cases():
    figure = bootstrap([], lambda sums: 1.0, cases=0)
    assert isinstance(figure, Figure) and math.isnan(figure.value) and figure.cases == 0

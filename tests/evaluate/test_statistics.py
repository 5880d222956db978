"""Intervals and calibration against published values and hand computations."""

import math

import numpy as np
import pytest

from groma.evaluate.statistics import Figure, Share, bootstrap, expected_calibration_error


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
    figure = Share(right, total).figure()
    assert (figure.low, figure.high) == pytest.approx((low, high), abs=5e-5)
    assert figure.value == right / total and figure.cases == total
    mirrored = Share(total - right, total).interval()
    assert mirrored == pytest.approx((1 - high, 1 - low), abs=5e-5)


def test_shares_without_cases():
    assert math.isnan(Share().value)
    assert Share().interval() == (0.0, 1.0)
    assert Share(5, 5).interval()[1] == 1.0
    assert Share(0, 5).interval()[0] == pytest.approx(0.0, abs=1e-12)


def test_calibration_by_hand():
    # bin 0.8-0.9: confidence 0.85, accuracy 1/2; bin 0.2-0.3: confidence 0.25, accuracy 0; bin 0.9-1: 1 and 1
    scores, right = [0.82, 0.88, 0.25, 1.0], [True, False, False, True]
    assert expected_calibration_error(scores, right) == pytest.approx((2 * 0.35 + 0.25 + 0.0) / 4)


def test_calibration_of_extremes():
    assert expected_calibration_error([1.0, 1.0], [True, True]) == 0.0
    assert expected_calibration_error([1.0, 0.0], [False, True]) == 1.0
    assert math.isnan(expected_calibration_error([], []))


def test_errors_of_opposite_sign_in_one_bin_cancel_and_in_two_do_not():
    assert expected_calibration_error([0.5, 0.5], [True, False]) == pytest.approx(0.0)
    assert expected_calibration_error([0.45, 0.55], [True, False]) == pytest.approx(0.55)
    assert expected_calibration_error([0.45, 0.55], [True, False], bins=1) == pytest.approx(0.0)


def test_bootstrap_agrees_with_wilson_on_a_share():
    rows = [(1.0,)] * 60 + [(0.0,)] * 140
    figure, wilson = bootstrap(rows, lambda table: float(table.mean())), Share(60, 200).figure()
    assert figure.value == wilson.value and figure.cases == 200
    assert (figure.low, figure.high) == pytest.approx((wilson.low, wilson.high), abs=0.015)
    assert bootstrap(rows, lambda table: float(table.mean())) == figure, "the same again"


def test_bootstrap_narrows_with_more_cases():
    rng = np.random.default_rng(0)

    def width(n: int) -> float:
        figure = bootstrap(rng.normal(size=(n, 1)).tolist(), lambda table: float(table.mean()))
        assert figure.low < figure.value < figure.high
        return figure.high - figure.low

    assert width(400) == pytest.approx(2 * 1.96 / 20, rel=0.15)
    assert width(400) < 0.7 * width(100)


def test_bootstrap_without_cases():
    figure = bootstrap([], lambda table: 1.0)
    assert isinstance(figure, Figure) and math.isnan(figure.value) and figure.cases == 0

"""Calibration: never falls, equals its plain twin, repairs what is off."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from chopmark.errors import ArtifactError, InvalidInput
from chopmark.models import Calibration, kernels
from chopmark.models.calibration import _pool
from chopmark.models.metrics import calibration_error, log_loss


def held_out(*, slope=0.5, shift=-1.0, num_rows=4_000):
    rng = np.random.default_rng(0)
    raw = rng.normal(size=num_rows) * 2
    y = (rng.random(num_rows) < 1 / (1 + np.exp(-(slope * raw + shift)))).astype(float)
    return raw, y


def probabilities(curve, raw):
    return 1 / (1 + np.exp(-curve.apply(raw)))


@pytest.mark.parametrize("method", [Calibration.platt, Calibration.isotonic])
def test_repairs_overconfident_scores(method):
    raw, y = held_out()
    curve = method(raw[::2], y[::2])
    before, after = probabilities(Calibration.none(), raw[1::2]), probabilities(curve, raw[1::2])
    assert log_loss(y[1::2], after) < log_loss(y[1::2], before) - 0.1
    assert calibration_error(y[1::2], after) < 0.05
    assert np.all(np.diff(curve.apply(np.sort(raw))) >= 0)


def test_platt_finds_the_line():
    curve = Calibration.platt(*held_out(num_rows=100_000))
    assert curve.knots[1, 0] == pytest.approx(0.5, abs=0.03)
    assert curve.knots[0, 1] == pytest.approx(-1.0, abs=0.03)


@pytest.mark.parametrize("method", [Calibration.platt, Calibration.isotonic])
def test_one_class_changes_nothing(method):
    raw = np.array([0.0, 1.0, 2.0])
    assert method(raw, np.ones(3)).apply(raw).tolist() == raw.tolist()


def test_platt_refuses_to_turn_the_order_round():
    raw, y = held_out()
    assert len(Calibration.platt(-raw, y).knots) == 0


def test_pools_as_sklearn_does():
    raw, y = held_out(num_rows=500)
    raw = np.round(raw, 1)
    centers, bads, rows = _pool(raw, y)
    oracle = IsotonicRegression().fit(raw, y)
    assert bads.sum() == y.sum()
    assert rows.sum() == len(y)
    assert bads / rows == pytest.approx(np.unique(oracle.predict(np.sort(raw))), abs=1e-12)
    assert np.all(np.diff(centers) > 0)


@settings(deadline=None)
@given(
    z=st.floats(-50, 50),
    points=st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), max_size=5),
    slopes=st.tuples(st.floats(0, 3), st.floats(0, 3)),
)
def test_the_kernel_equals_the_plain_twin(z, points, slopes):
    xs = np.unique([x for x, _ in points])
    ys = np.sort([y for _, y in points])[: len(xs)]
    # np.interp loses digits between points that nearly coincide; the kernel need not follow.
    if len(xs) > 1 and np.diff(xs).min() < 1e-6:
        return
    knots = np.vstack([np.column_stack([xs, ys]), slopes]) if len(xs) else np.empty((0, 2))
    curve = Calibration.from_array(knots)
    for logit in (True, False):
        assert kernels.calibrate(z, curve.knots, logit) == pytest.approx(
            curve.apply(np.array([z]), logit=logit)[0], abs=1e-9
        )


@pytest.mark.parametrize(
    "knots",
    [np.zeros((1, 2)), np.zeros(3), np.array([[1.0, 0], [0, 1], [1, 1]]),
     np.array([[0.0, 1], [1, 0], [1, 1]]), np.array([[0.0, 0], [-1, 1]]),
     np.array([[0.0, np.nan], [1, 1]])],
)  # fmt: skip
def test_maps_that_fall_are_refused(knots):
    with pytest.raises(ArtifactError, match="calibration is broken"):
        Calibration.from_array(knots)


def test_no_rows():
    with pytest.raises(InvalidInput, match="at least one"):
        Calibration.platt(np.empty(0), np.empty(0))

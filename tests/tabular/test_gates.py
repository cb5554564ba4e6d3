"""The gate keeps what earns its place on held-out rows and closes on what does not."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from chopmark.models.splits import Split, folds
from chopmark.tabular import EasyML, gates, heads
from chopmark.tabular.gates import gated
from chopmark.tabular.heads import Recipe, fit_head
from chopmark.tabular.portfolio import learners_of

RNG = np.random.default_rng(0)
N = 1_500


@pytest.fixture
def through_the_gate(monkeypatch):
    """A function from a table to what stands before and behind the gate of a fit."""

    def fit(frame, y):
        seen = []
        monkeypatch.setattr(
            heads, "gated", lambda *ready, workers: seen.append(ready) or gated(*ready)
        )
        recipe = Recipe(learners=learners_of("prior"), columns={}, extra=(), target="target")
        head = fit_head(frame, y, recipe, parts=list(folds(y, count=5)))
        return seen[0], head.encoder

    return fit


def _dates(days):
    return pl.Series(np.datetime64("2024-01-01", "us") + days.astype("timedelta64[D]"))


def test_a_difference_that_tells_the_label_stays(through_the_gate):
    begin, wait = RNG.integers(0, 700, N), RNG.integers(0, 30, N)
    y = (wait < 8).astype(float)
    frame = pl.DataFrame({"begin": _dates(begin), "end": _dates(begin + wait)})
    _, encoder = through_the_gate(frame, y)
    assert "date differences" in encoder.groups


def test_what_harms_is_sent_away_and_the_rest_keeps_its_bits(through_the_gate):
    begin, wait = RNG.integers(0, 700, N), RNG.integers(0, 30, N)
    frame = pl.DataFrame({"begin": _dates(begin), "end": _dates(begin + wait)})
    y = (begin % 7 < 3).astype(float)
    (encoder, problem), _ = through_the_gate(frame, y)
    rows = np.arange(N)
    split = Split(train=rows[:1_000], test=rows[1_000:])
    # Differences that know the label of training rows alone, as a careless target mean would.
    x = problem.x.copy()
    place = encoder.groups.index("date differences")
    x[:, place] = np.where(rows < 1_000, y, RNG.integers(0, 2, N))
    smaller, left = gated(encoder, replace(problem, x=x, parts=[split]))
    assert "date differences" not in smaller.groups
    assert "date parts" in smaller.groups
    assert np.array_equal(left.x, np.delete(x, place, axis=1))
    assert np.array_equal(smaller.table(frame), left.x)


def test_nothing_made_is_nothing_to_judge(monkeypatch, through_the_gate):
    monkeypatch.setattr(gates, "_losses", lambda *_: 1 / 0)
    frame = pl.DataFrame({"amount": RNG.normal(size=100)})
    (before, _), encoder = through_the_gate(frame, (RNG.random(100) < 0.5).astype(float))
    assert encoder is before


def test_a_better_gate_reaches_every_subclass(monkeypatch, payments):
    class Payments(EasyML):
        columns = {"note": "drop"}  # noqa: RUF012

    def closed(encoder, problem, *, workers):
        smaller = encoder.without(sorted(set(encoder.groups) - {"raw"}))
        kept = np.array([group == "raw" for group in encoder.groups])
        return smaller, replace(problem, x=problem.x[:, kept], encoded=smaller.encoded)

    monkeypatch.setattr(heads, "gated", closed)
    assert set(Payments(model="linear").fit(payments).encoder.groups) == {"raw"}

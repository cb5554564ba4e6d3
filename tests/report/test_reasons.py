"""Effects and cases say what the model's own contributions say, row by row."""

import numpy as np
import polars as pl
import pytest

from chopmark.models import Contributions, Encoder
from chopmark.report import reasons
from chopmark.report.report import make_report


@pytest.fixture(scope="module")
def view(model, later):
    return make_report(model, later, target="target").views[0]


def test_effects_are_means_over_rows(view, model, later):
    why = model.explain(later)
    effect = next(effect for effect in view.effects if effect.column == "country")
    moves = pl.DataFrame(
        {
            "country": later["country"],
            "move": why.values[:, why.reads.index("country")],
            "bad": later["target"],
        }
    )
    for place, label in enumerate(effect.labels):
        rows = moves.filter(pl.col("country") == label)
        assert effect.rows[place] == rows.height
        assert effect.mean[place] == pytest.approx(rows["move"].mean())
        assert effect.outcome[place] == pytest.approx(rows["bad"].mean())
        assert effect.low[place] == pytest.approx(rows["move"].quantile(0.1, "linear"))
    assert effect.labels[0] == "ng"  # what raises the score most comes first
    strength = np.abs(why.values).mean(axis=0)
    shares = dict(zip(why.reads, strength / strength.sum(), strict=True))
    assert {found.column: found.share for found in view.effects} == pytest.approx(shares)


def test_numbers_fall_into_quantile_bins_and_missing_has_its_own(view, later):
    effect = next(effect for effect in view.effects if effect.column == "age_days")
    assert effect.rows.sum() == later.height
    assert effect.labels[-1] == "missing"
    assert effect.rows[-1] == later["age_days"].null_count()
    assert len(effect.labels) == 11
    assert effect.rows[:-1].min() > 50
    is_new = next(effect for effect in view.effects if effect.column == "is_new")
    assert is_new.labels == ("false", "true")


def test_cases_add_up_and_show_raw_values(view, model, later):
    scores = model.score(later)
    groups = [case.group for case in view.cases]
    assert groups == ["riskiest"] * 20 + ["missed"] * 10 + ["typical"] * (len(groups) - 30)
    assert len({case.row for case in view.cases}) == len(groups)
    assert [case.row for case in view.cases[:20]] == np.argsort(-scores, kind="stable")[
        :20
    ].tolist()
    for case in view.cases:
        assert case.score == scores[case.row]
        assert case.outcome == later["target"][case.row]
        z = case.bias + sum(move.amount for move in case.moves)
        assert 1 / (1 + np.exp(-z)) == pytest.approx(case.score)
        shown = {move.column: move.value for move in case.moves}
        assert shown["country"] == later["country"][case.row]
        assert "payment number" not in shown
    bad = np.nonzero(later["target"].to_numpy() == 1)[0]
    worst = bad[np.argsort(scores[bad], kind="stable")[:10]]
    assert [case.row for case in view.cases if case.group == "missed"] == worst.tolist()


def test_a_model_without_an_encoder_is_read_by_types(later):
    encoder = reasons.readings(None, later, ("amount_usd", "country", "is_new"))
    assert [column.kind for column in encoder.columns] == ["number", "category", "boolean"]
    assert encoder.columns[1].categories == ("de", "fr", "ng")
    assert isinstance(encoder, Encoder)


def test_columns_that_hold_one_value_or_none():
    frame = pl.DataFrame({"a": [None, None, None], "b": [2.0, 2.0, 2.0], "c": ["x", "x", None]})
    frame = frame.with_columns(pl.col("a").cast(pl.Float64))
    encoder = reasons.readings(None, frame, ("a", "b", "c"))
    why = Contributions(reads=("a", "b", "c"), values=np.zeros((3, 3)), bias=0.0)
    effects = reasons.effects(
        encoder.base_table(frame), encoder.columns, np.array([0.0, 1.0, 1.0]), why, np.arange(3)
    )
    assert {effect.column: effect.labels for effect in effects} == {
        "a": ("missing",),
        "b": ("2",),
        "c": ("x", "missing"),
    }
    assert [effect.share for effect in effects] == [1 / 3] * 3

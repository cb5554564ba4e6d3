"""The figures of a report equal independent computations, and it warns of what it should."""

import numpy as np
import polars as pl
import pytest
from sklearn import metrics as oracle

from chopmark.errors import InvalidTable
from chopmark.models.drift import Reference
from chopmark.report import Costs, make_report
from chopmark.tabular import EasyML
from tests.report.examples import Line, Nearest, payments


def test_metrics_and_gain(model, later, train):
    baseline = EasyML(model="linear").fit(train.select("amount_usd", "target"))
    report = make_report(model, later, target="target", baseline=baseline)
    y, p, base = later["target"].to_numpy(), model.score(later), baseline.score(later)
    metrics = {metric.name: metric for metric in report.views[0].metrics}
    for name, known in (
        ("ROC-AUC", oracle.roc_auc_score),
        ("PR-AUC", oracle.average_precision_score),
        ("Log loss", oracle.log_loss),
        ("Brier score", oracle.brier_score_loss),
    ):
        assert metrics[name].estimate.value == pytest.approx(known(y, p))
        assert metrics[name].baseline == pytest.approx(known(y, base))
    gain = report.views[0].gain
    areas = oracle.roc_auc_score(y, p), oracle.roc_auc_score(y, base)
    assert gain.absolute.value == pytest.approx(areas[0] - areas[1])
    assert gain.relative == pytest.approx(areas[0] / areas[1] - 1)
    given = make_report(model, later, target="target", baseline=base)
    assert given.views[0].gain == gain


def test_without_a_baseline_the_training_share_is_the_answer(model, later, train):
    report = make_report(model, later, target="target")
    losses = report.views[0].metrics[2]
    prior = np.full(later.height, train["target"].mean())
    assert losses.baseline == pytest.approx(oracle.log_loss(later["target"], prior))
    assert report.views[0].gain.baseline == 0.5


def test_the_headline_counts(model, later):
    report = make_report(model, later, target="target")
    top = np.argsort(-model.score(later))[: later.height // 10]
    share = later["target"].to_numpy()[top].sum() / later["target"].sum()
    assert f"puts {share * 100:.0f} in the riskiest tenth" in report.headline


def test_what_it_warns_of(model, later, train):
    assert make_report(model, later, target="target").warnings == ()
    small = make_report(model, later.head(60), target="target").warnings
    assert any("rows are bad" in text for text in small)
    twice = make_report(model, train, target="target", train=train).warnings
    assert any("1200 rows are equal to a training row" in text for text in twice)
    richer = later.with_columns(pl.col("amount_usd") * 3, target=pl.lit(1) - pl.col("target"))
    moved = make_report(model, richer, target="target", train=train).warnings
    assert any("look very different" in text and "`amount_usd`" in text for text in moved)
    assert any("the level is off" in text for text in moved)


def test_a_leak_is_named(train, later):
    def leaking(table):
        return table.with_columns(refund=pl.col("target") * 10 + pl.col("is_new").cast(pl.Int8))

    model = EasyML(model="linear").fit(leaking(train))
    warnings = make_report(model, leaking(later), target="target").warnings
    assert any("`refund`" in text and "known before the outcome" in text for text in warnings)


def test_drift_comes_from_the_artifact_or_from_the_training_rows(model, later, line_table):
    drift = make_report(model, later, target="target").drift
    assert {item.column for item in drift} == {*model.reads, "score"}
    stored = Reference.from_json(model.scorer.artifact.header["reference"])
    assert drift == tuple(stored.drift(later, model.encoder, model.score(later)))
    plain = Line().fit(line_table, target="target")
    assert make_report(plain, line_table, target="target").drift == ()
    (item,) = make_report(plain, line_table, target="target", train=line_table).drift
    assert (item.column, item.verdict, item.ks) == ("x", "stable", 0.0)


def test_one_class_and_few_rows(model, later):
    good = make_report(model, later.filter(pl.col("target") == 0), target="target")
    assert good.headline == "All rows are good: there is nothing to tell apart."
    assert np.isnan(good.views[0].metrics[0].estimate.value)
    assert any("of one class" in text for text in good.warnings)
    few = make_report(model, later.head(20), target="target", amount="amount_usd")
    assert few.num_rows == 20
    one = make_report(model, later.head(1), target="target")
    assert len(one.views[0].cases) == 1


def test_a_number(line_table):
    model = Line().fit(line_table[:200], target="target")
    later = line_table[200:]
    report = make_report(model, later, target="target")
    y, predicted = later["target"], model.predict(later)
    values = [metric.estimate.value for metric in report.number.metrics]
    assert values == pytest.approx(
        [
            oracle.mean_absolute_error(y, predicted),
            oracle.root_mean_squared_error(y, predicted),
            oracle.r2_score(y, predicted),
        ]
    )
    assert report.number.metrics[2].baseline == pytest.approx(0.0)
    assert report.views == ()
    assert "off by" in report.headline
    worst = np.argmax(np.abs(predicted - y.to_numpy()))
    assert worst in {case.row for case in report.number.cases}


def test_several_classes(class_table):
    model = Nearest().fit(class_table[:200], target="target")
    later = class_table[200:]
    report = make_report(model, later, target="target")
    p = model.predict_proba(later)
    chosen = [Nearest.classes[place] for place in p.argmax(axis=1)]
    assert report.accuracy.value == pytest.approx(oracle.accuracy_score(later["target"], chosen))
    expected = oracle.confusion_matrix(later["target"], chosen, labels=Nearest.classes)
    assert report.confusion.tolist() == expected.tolist()
    assert [view.name for view in report.views] == list(Nearest.classes)
    for place, view in enumerate(report.views):
        y = later["target"].eq(Nearest.classes[place]).to_numpy()
        area = view.metrics[0].estimate.value
        assert area == pytest.approx(oracle.roc_auc_score(y, p[:, place]))
        assert len(view.effects) == 1


def test_easyml_of_several_classes_and_of_a_number(class_table, line_table):
    classes = EasyML(model="linear").fit(class_table[:200])
    report = make_report(classes, class_table[200:], target="target")
    assert [view.name for view in report.views] == ["high", "low", "middle"]
    assert report.accuracy.value > 0.6
    assert all(view.effects and view.cases for view in report.views)
    number = EasyML(model="linear").fit(line_table[:200])
    report = make_report(number, line_table[200:], target="target")
    assert report.task == "regression"
    assert report.number.metrics[2].estimate.value > 0.7
    for case in report.number.cases:
        assert case.bias + sum(move.amount for move in case.moves) == pytest.approx(case.score)


def test_parts_of_a_blend(model, later, monkeypatch):
    training = {
        **model.training,
        "weights": {"linear": 0.4, "trees": 0.6},
        "held_out_parts": {"trees": {"roc_auc": 0.8, "pr_auc": None}},
        "losses": {"linear": 0.5},
    }
    monkeypatch.setattr(type(model), "training", property(lambda self: training))
    blend = make_report(model, later, target="target").blend
    assert [(part.name, part.weight) for part in blend] == [("trees", 0.6), ("linear", 0.4)]
    assert blend[0].held_out == {"roc_auc": 0.8, "pr_auc": None}
    assert blend[1].held_out == {"loss": 0.5}


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.head(0), {}, "at least one row"),
        (lambda t: t.drop("country"), {}, "needs column `country`"),
        (lambda t: t.drop("target"), {}, "needs column `target`"),
        (lambda t: t.with_columns(target=pl.lit("x")), {}, "expected labels 0, 1 in `target`"),
        (lambda t: t.with_columns(target=pl.lit(None)), {}, "got a missing one"),
        (lambda t: t, {"amount": "amount"}, "did you mean `amount_usd`"),
        (lambda t: t, {"amount": "country"}, "expected US dollars in `country`"),
        (
            lambda t: t.with_columns(-pl.col("amount_usd")),
            {"amount": "amount_usd"},
            "at least zero",
        ),
        (lambda t: t, {"baseline": [0.1]}, "expected baseline scores of shape"),
    ],
)
def test_what_is_refused(change, options, message, model):
    with pytest.raises(InvalidTable, match=message):
        make_report(model, change(payments(50, 3)), target="target", **options)


def test_costs_are_carried(model, later):
    costs = Costs(fee_share=0.02)
    report = make_report(model, later, target="target", amount="amount_usd", costs=costs)
    assert report.costs is costs
    assert report.views[0].amounts.sum() == pytest.approx(later["amount_usd"].sum())

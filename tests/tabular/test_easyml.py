"""EasyML keeps the contract of a model, and is as good as it claims on real tables."""

import subprocess
import sys
import warnings
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from chopmark.errors import ArtifactError, DeclarationError, InvalidInput, InvalidTable
from chopmark.models import ArtifactScorer, Column, Combination, Model, Scorer, load_scorer
from chopmark.models.metrics import calibration_error, log_loss, roc_auc
from chopmark.tabular import EasyML, portfolio
from chopmark.testing.models import check_model

FAMILIES = ("trees", "linear")
SINGLE = (*FAMILIES, "prior", "deep", "catboost", "xgboost", "vw")


@pytest.mark.parametrize("calibration", ["platt", "isotonic"])
@pytest.mark.parametrize("family", ["auto", *SINGLE])
def test_the_contract(family, calibration, payments):
    if calibration == "isotonic" and family not in ("auto", *FAMILIES):
        pytest.skip("calibration comes after the parts, whichever they are")
    check_model(lambda: EasyML(model=family, calibration=calibration), payments, "target")


@pytest.mark.parametrize("family", ["auto", *FAMILIES])
def test_the_contract_on_a_real_table(family, real_table):
    check_model(lambda: EasyML(model=family), real_table("titanic"), "target")


def test_the_contract_of_a_blend_of_all_kinds_of_parts(payments):
    model = ("linear", "trees", "deep")
    check_model(lambda: EasyML(model=model), payments, "target")


@pytest.fixture(scope="module", params=FAMILIES)
def fitted(request, payments):
    return EasyML(model=request.param).fit(payments)


def test_it_is_a_model_and_its_scorer_a_scorer(fitted):
    assert isinstance(fitted, Model)
    assert isinstance(fitted.scorer, Scorer)


def test_it_finds_what_matters(fitted, payments):
    assert set(list(fitted.importance())[:5]) >= {"amount_usd", "country"}
    assert fitted.training["held_out"]["roc_auc"] > 0.65
    strongest = fitted.explain(payments).top(0, count=3)
    assert [abs(move) for _, move in strongest] == sorted(
        (abs(move) for _, move in strongest), reverse=True
    )


# Log loss of a hand-tuned LightGBM with early stopping, and of logistic regression on 20
# buckets, on this split: EasyML is to be as good on its own, 1 % is noise of library versions.
@pytest.mark.parametrize(
    ("name", "trees", "linear"),
    [
        ("titanic", 0.4395, 0.4511),
        ("german_credit", 0.5043, 0.5129),
        ("credit_data", 0.4253, 0.4314),
        ("online_shoppers", 0.2313, 0.2545),
    ],
)
def test_good_on_real_tables(name, trees, linear, real_parts):
    train, test = real_parts(name)
    y = test["target"].to_numpy()
    for family, limit in (("trees", trees), ("linear", linear)):
        scores = EasyML(model=family).fit(train).score(test)
        assert log_loss(y, scores) < 1.01 * limit
        # Ten buckets of 27 rows are off by 0.07 on average even when all is right.
        assert calibration_error(y, scores) < (0.03 if len(y) > 3_000 else 0.12)


def test_date_differences_are_worth_having(real_parts):
    train, test = real_parts("compas_recid")
    y = test["target"].to_numpy()
    assert roc_auc(y, EasyML().fit(train).score(test)) > 0.80


def test_a_subclass_says_what_it_knows(real_parts):
    class Titanic(EasyML):
        columns = {"Pclass": "category", "Ticket": "drop"}  # noqa: RUF012
        extra = (
            Column(name="Name", kind="category", pattern=r" ([A-Za-z]+)\."),
            Column(name="Cabin", kind="category", pattern=r"^(.)"),
            Combination(operation="sum", left="SibSp", right="Parch"),
        )
        target = "survived"

    train, test = (part.rename({"target": "survived"}) for part in real_parts("titanic"))
    model = Titanic(model="linear").fit(train)
    assert "Ticket" not in model.reads
    assert "Name" in model.importance()
    plain = EasyML(model="linear").fit(train, target="survived")
    y = test["survived"].to_numpy()
    assert log_loss(y, model.score(test)) < log_loss(y, plain.score(test))


def test_any_sort_of_table(payments, tmp_path):
    payments.write_csv(tmp_path / "payments.csv")
    payments.write_parquet(tmp_path / "payments.parquet")
    expected = EasyML(model="linear").fit(payments).score(payments)
    for table in (payments.lazy(), payments.to_arrow(), str(tmp_path / "payments.parquet")):
        assert np.array_equal(EasyML(model="linear").fit(table).score(table), expected)
    from_csv = EasyML(model="linear").fit(tmp_path / "payments.csv")
    assert from_csv.score(payments) == pytest.approx(expected, abs=1e-3)
    assert isinstance(payments.to_arrow(), pa.Table)


def test_a_pandas_table(payments):
    table = payments.to_pandas()
    assert EasyML(model="linear").fit(table).score(table).shape == (payments.height,)


@pytest.mark.parametrize("family", FAMILIES)
def test_later_rows_to_stop_by_are_not_learned_from(family, payments):
    train, valid = payments[:600], payments[600:]
    model = EasyML(model=family).fit(train, valid=valid)
    assert model.training["num_rows"] == 600
    flipped = valid.with_columns(target=1 - pl.col("target"))
    other = EasyML(model=family).fit(train, valid=flipped)
    assert other.training["losses"][family] > model.training["losses"][family]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_large_table_holds_out_one_part(family):
    rng = np.random.default_rng(0)
    x = rng.normal(size=40_000)
    y = (rng.random(40_000) < 1 / (1 + np.exp(2 - x))).astype(int)
    table = pl.DataFrame({"x": x, "target": y})
    model = EasyML(model=family, threads=1).fit(table[:20_000])
    x, y, table = x[20_000:], y[20_000:], table[20_000:]
    assert roc_auc(y, model.score(table)) == pytest.approx(
        roc_auc(y, 1 / (1 + np.exp(-x))), abs=0.01
    )
    assert calibration_error(y, model.score(table)) < 0.02


def test_shallow_trees_are_for_small_tables():
    rng = np.random.default_rng(0)
    x = rng.normal(size=20_000)
    table = {"x": x, "target": (x + rng.normal(size=20_000) > 0).astype(int)}
    large = EasyML(model="trees").fit(table)
    assert set(large.weights) == {"trees", "trees, random cuts"}
    small = {name: values[:2_000] for name, values in table.items()}
    assert len(EasyML(model="trees").fit(small).weights) == 3


def test_what_the_artifact_remembers(payments, tmp_path):
    hashes = {"amount_usd": "ab" * 32, "payment number": "cd" * 32}
    created = datetime(2024, 5, 1, tzinfo=UTC)
    model = EasyML(seed=7).fit(payments, feature_hashes=hashes, created=created)
    model.save(tmp_path / "model.chopmark")
    scorer = load_scorer(tmp_path / "model.chopmark")
    assert scorer.feature_hashes == {"amount_usd": "ab" * 32}
    assert scorer.hash == model.scorer.hash
    assert scorer.training["created"] == "2024-05-01T00:00:00+00:00"
    assert scorer.training["seed"] == 7
    assert scorer.training["num_bad"] == payments["target"].sum()
    assert (tmp_path / "model.chopmark").stat().st_size < 2_000_000


def test_another_seed_is_another_model(payments):
    hashes = {EasyML(seed=seed).fit(payments).scorer.hash for seed in (0, 1, 0)}
    assert len(hashes) == 2


def test_scoring_a_saved_model_imports_no_learner(payments, tmp_path):
    EasyML(model="trees").fit(payments).save(tmp_path / "model.chopmark")
    code = (
        "import sys; from chopmark.models import load_scorer\n"
        f"scorer = load_scorer({str(tmp_path / 'model.chopmark')!r})\n"
        "scorer.explain_row([None] * len(scorer.reads))\n"
        "heavy = {'sklearn', 'lightgbm', 'pandas', 'torch', 'polars', 'pyarrow'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.drop("target"), "expected the label in column `target`"),
        (lambda t: t.with_columns(target=pl.lit(1)), "got `1` in all 900 rows"),
        (lambda t: t.with_columns(target=pl.lit("bad")), "got `bad` in all 900 rows"),
        (lambda t: t.with_columns(target=pl.lit(None)), "no label"),
        (lambda t: t.head(0), "a table without rows"),
        (lambda t: 3, "expected a polars or pandas DataFrame"),
        (lambda t: "table.xls", "ends in .csv"),
        (lambda t: "no such file.csv", "no such file.csv"),
    ],
)
def test_tables_that_cannot_be_learned_from(change, message, payments):
    with pytest.raises(InvalidTable, match=message):
        EasyML().fit(change(payments))


def test_what_else_is_refused(payments, tmp_path):
    with pytest.raises(DeclarationError, match="as the model, got `tree`; did you mean `trees`"):
        EasyML(model="tree")
    with pytest.raises(DeclarationError, match="as calibration, got `none`"):
        EasyML(calibration="none")
    for wrong in ({"sample": 0.5}, {"seed": -1}, {"threads": 1.5}):
        with pytest.raises(DeclarationError, match=r"whole number|a seed from 0"):
            EasyML(**wrong)
    for wrong in (
        {"budget": 0},
        {"class_weight": "bal"},
        {"class_weight": float("inf")},
        {"costs": (1.0, -1.0)},
        {"class_weight": 0.0},
        {"sample": 0},
    ):
        with pytest.raises(DeclarationError, match=f"expected `{next(iter(wrong))}` above zero"):
            EasyML(**wrong)
    with pytest.raises(InvalidInput, match="not fitted"):
        EasyML().score(payments)
    with pytest.raises(InvalidTable, match="at least 20 rows"):
        EasyML().fit(payments.head(10))
    with pytest.raises(InvalidTable, match="reads column `amount_usd`"):
        EasyML(model="linear").fit(payments).score(payments.drop("amount_usd"))
    with pytest.raises(ArtifactError, match="No such file"):
        EasyML.load(tmp_path / "none.chopmark")


def test_no_warning_reaches_the_user(payments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for family in FAMILIES:
            EasyML(model=family).fit(payments).explain(payments)


@pytest.fixture(scope="module")
def seasons():
    """Rows of three classes, a number, a time and a person, with a known truth."""
    rng = np.random.default_rng(3)
    n = 1_200
    x, person = rng.normal(size=n), rng.integers(0, 150, n)
    kind = np.where(x + rng.normal(size=n) * 0.3 > 0.7, "high", np.where(x > -0.7, "mid", "low"))
    begin = np.datetime64("2024-01-01", "us")
    return pl.DataFrame(
        {
            "x": x,
            "noise": rng.normal(size=n),
            "person": [f"p{number}" for number in person],
            "at": begin + np.arange(n).astype("timedelta64[h]"),
            "kind": kind,
            "amount": 3.0 + 2.0 * x + rng.normal(size=n) * 0.1,
            "bad": (rng.random(n) < 1 / (1 + np.exp(-2 * x))).astype(int),
        }
    )


def test_several_classes(seasons, tmp_path):
    train, test = seasons[:900].drop("amount", "bad"), seasons[900:]
    model = EasyML(target="kind", columns={"person": "drop"}).fit(train)
    assert model.classes == ("high", "low", "mid")
    chances = model.predict_proba(test)
    assert chances.shape == (300, 3)
    assert np.allclose(chances.sum(axis=1), 1.0)
    assert (model.predict(test) == test["kind"].to_numpy()).mean() > 0.8
    assert model.training["held_out"]["accuracy"] > 0.8
    model.save(tmp_path / "kinds.chopmark")
    loaded = EasyML.load(tmp_path / "kinds.chopmark")
    assert np.array_equal(loaded.predict_proba(test), chances)
    rows = test.select(loaded.reads).iter_rows()
    for row, expected in zip(rows, chances, strict=True):
        assert np.array_equal(loaded.scorer.score_row(row), expected)
    # Each class's own question is explained exactly.
    found = loaded.explain(test, of="low")
    own = loaded.scorer.questions[1].score(test)
    assert np.abs(found.log_odds() - np.log(own / (1 - own))).max() < 1e-9
    assert next(iter(model.importance())) == "x"
    with pytest.raises(InvalidInput, match="call `predict_proba`"):
        model.score(test)
    with pytest.raises(InvalidInput, match="as the class to explain"):
        model.explain(test)
    with pytest.raises(ArtifactError, match="several classes, and one score a row"):
        load_scorer(tmp_path / "kinds.chopmark")


def test_a_number(seasons, tmp_path):
    train, test = seasons[:900].drop("kind", "bad"), seasons[900:]
    model = EasyML(target="amount").fit(train)
    predicted = model.predict(test)
    assert np.sqrt(np.mean((predicted - test["amount"].to_numpy()) ** 2)) < 0.3
    assert model.training["held_out"]["r2"] > 0.97
    assert np.allclose(model.explain(test).log_odds(), predicted, atol=1e-9)
    model.save(tmp_path / "amount.chopmark")
    assert np.array_equal(EasyML.load(tmp_path / "amount.chopmark").predict(test), predicted)
    row = test.select(model.reads).row(0)
    assert model.scorer.score_row(row) == predicted[0]
    with pytest.raises(InvalidInput, match="call `predict`"):
        model.predict_proba(test)


def test_two_words_are_a_label_too(seasons):
    words = seasons.with_columns(bad=pl.col("bad").replace_strict({0: "no", 1: "yes"}))
    model = EasyML(model="linear", target="bad").fit(words)
    assert model.classes == ("no", "yes")
    plain = EasyML(model="linear", target="bad").fit(seasons)
    assert np.array_equal(model.score(seasons), plain.score(seasons))
    assert set(model.predict(seasons)) == {"no", "yes"}
    other = EasyML(model="linear", target="bad", positive="no").fit(words)
    assert roc_auc(seasons["bad"], 1 - other.score(seasons)) > 0.8


def test_costs_move_the_line(seasons):
    alarms = [
        (
            EasyML(model="linear", target="bad", costs=costs).fit(seasons).predict(seasons) == 1
        ).mean()
        for costs in ((1.0, 10.0), (1.0, 1.0), (10.0, 1.0))
    ]
    assert alarms[0] < alarms[1] < alarms[2]


def test_costs_are_kept_in_the_file(seasons, tmp_path):
    model = EasyML(model="linear", target="bad", costs=(9.0, 1.0)).fit(seasons)
    model.save(tmp_path / "careful.chopmark")
    loaded = EasyML.load(tmp_path / "careful.chopmark")
    assert loaded.costs == (9.0, 1.0)
    assert np.array_equal(loaded.predict(seasons), model.predict(seasons))
    # Others may read a model, as any other file of one's own.
    assert (tmp_path / "careful.chopmark").stat().st_mode & 0o400


def test_what_says_who_is_held_out_must_be_there(seasons):
    for where in ("time", "groups"):
        with pytest.raises(
            (InvalidTable, DeclarationError), match=r"`persn`.*did you mean `person`"
        ):
            EasyML(model="linear", target="bad", **{where: "persn"}).fit(seasons)
    with pytest.raises(DeclarationError, match="got both"):
        EasyML(time="at", groups="person")


def test_trees_stop_where_held_out_rows_say(seasons):
    clean = EasyML(model="trees", target="bad").fit(seasons.drop("kind", "amount", "at"))
    noise = seasons.with_columns(bad=pl.Series(np.random.default_rng(1).integers(0, 2, 1_200)))
    noisy = EasyML(model="trees", target="bad").fit(noise.drop("kind", "amount", "at"))
    rounds = [model.training["settings"]["trees"]["rounds"] for model in (clean, noisy)]
    assert rounds[1] < rounds[0] < 2_000


def test_numbers_fall_into_quantile_buckets(seasons):
    """The linear family's buckets: twenty of equal size, one for missing, ends that hold."""
    x = seasons["x"].to_numpy().copy()
    x[::10] = np.nan
    table = pl.DataFrame({"x": x, "target": seasons["bad"]})
    (part,) = EasyML(model="linear").fit(table).scorer.parts
    known = np.sort(x[~np.isnan(x)])
    assert len(part.edges) == 19
    assert np.allclose(part.edges, np.quantile(known, np.linspace(0, 1, 21)[1:-1], method="higher"))
    assert np.ptp(np.bincount(np.searchsorted(part.edges, known, side="right"))) <= 2
    beyond = part.raw(
        np.array([[known[0] - 9], [known[0]], [known[-1]], [known[-1] + 9], [np.nan]])
    )
    assert beyond[0] == beyond[1]
    assert beyond[2] == beyond[3]
    assert beyond[4] not in beyond[:4]


def test_a_better_base_reaches_every_subclass(payments, monkeypatch):
    """Processing, training and explanation of a subclass are those of the base."""

    class Payments(EasyML):
        columns = {"note": "drop"}  # noqa: RUF012

    before = Payments(model="prior").fit(payments)
    monkeypatch.setitem(
        portfolio.FAMILIES["prior"], "prior", portfolio.FAMILIES["linear"]["linear"]
    )
    after = Payments(model="prior").fit(payments)
    assert roc_auc(payments["target"], after.score(payments)) > 0.6
    assert np.ptp(before.score(payments)) == 0.0
    monkeypatch.setattr(ArtifactScorer, "explain", lambda self, table: "another explanation")
    assert after.explain(payments) == "another explanation"


def test_held_out_by_time_and_by_group(seasons):
    train = seasons.drop("kind", "amount")
    by_time = EasyML(model="linear", target="bad", time="at").fit(train)
    assert by_time.training["time"] == "at"
    by_group = EasyML(model="linear", target="bad", groups="person").fit(train)
    assert "person" not in by_group.reads
    with pytest.raises(InvalidTable, match="no part has rows of all labels"):
        EasyML(model="linear", target="bad", time="at").fit(
            train.sort("bad").with_columns(at=pl.Series(np.arange(train.height)))
        )


def test_leaks_over_entities_do_not_flatter():
    """A person's rows share a label: only held out by person is the loss honest."""
    rng = np.random.default_rng(5)
    person = rng.integers(0, 120, 1_500)
    style = rng.normal(size=(120, 3))[person]
    table = pl.DataFrame(style + rng.normal(size=style.shape) * 0.01).with_columns(
        person=pl.Series([f"p{number}" for number in person]),
        target=pl.Series(rng.integers(0, 2, 120)[person]),
    )
    blind = EasyML(model="trees", columns={"person": "drop"}).fit(table)
    honest = EasyML(model="trees", groups="person").fit(table)
    assert blind.training["held_out"]["roc_auc"] > 0.95
    assert honest.training["held_out"]["roc_auc"] < 0.65


def test_rare_bad_rows_stay_calibrated():
    rng = np.random.default_rng(0)
    n = 40_000
    x = rng.normal(size=(n, 3))
    y = (rng.random(n) < 1 / (1 + np.exp(8 - 1.5 * x[:, 0]))).astype(int)
    table = pl.DataFrame(x).with_columns(target=pl.Series(y))
    assert 0.0005 < y.mean() < 0.002
    train, test = table[: n // 2], table[n // 2 :]
    best = roc_auc(test["target"], 1 / (1 + np.exp(-x[n // 2 :, 0])))
    for class_weight in (None, "balanced"):
        scores = EasyML(class_weight=class_weight).fit(train).score(test)
        assert roc_auc(test["target"], scores) > best - 0.08
        assert scores.mean() == pytest.approx(test["target"].mean(), rel=0.6)


def test_a_sample_is_a_first_look(payments):
    model = EasyML(model="linear", sample=200).fit(payments)
    assert model.training["num_rows"] == 200
    assert EasyML(model="linear", sample=10_000).fit(payments).training["num_rows"] == 900


def test_progress_is_told(payments):
    told = []
    EasyML().fit(payments, on_progress=lambda *step: told.append(step))
    assert [step[1:] for step in told] == [(done, 4) for done in (1, 2, 3, 4)]


def test_weights_are_shown(payments):
    model = EasyML().fit(payments)
    assert list(model.weights) == sorted(model.weights, key=lambda n: -model.weights[n])
    parts = model.scorer.explain_parts(payments)
    assert set(parts) <= {"linear", "trees"}


def test_the_habits_of_scikit_learn(payments):
    from sklearn.base import clone, is_classifier
    from sklearn.model_selection import cross_val_score
    from sklearn.pipeline import make_pipeline

    model = EasyML(model="linear", seed=3, columns={"note": "drop"})
    copied = clone(model)
    assert copied.get_params() == model.get_params()
    assert copied.set_params(seed=4).seed == 4
    assert is_classifier(model)
    frame = payments.to_pandas()
    x, y = frame.drop(columns="target"), frame["target"].to_numpy()
    pipeline = make_pipeline("passthrough", clone(model)).fit(x, y)
    assert pipeline.predict_proba(x).shape == (900, 2)
    assert set(pipeline.predict(x)) == {0, 1}
    assert cross_val_score(model, x, y, cv=3, scoring="roc_auc").mean() > 0.6
    with pytest.raises(InvalidTable, match="labels came twice"):
        EasyML().fit(payments, y)
    with pytest.raises(InvalidTable, match="expected 900 labels"):
        EasyML().fit(payments.drop("target"), y[:10])


def test_held_out_rows_of_several_classes_are_the_same_for_all():
    """One split for all classes: each row is judged by models that had not seen it, or not."""
    rng = np.random.default_rng(0)
    kinds = rng.integers(0, 3, 21_000)
    table = pl.DataFrame({"x": rng.normal(size=21_000), "target": [f"kind {k}" for k in kinds]})
    held_out = EasyML(model="prior").fit(table).training["held_out"]
    assert held_out["log_loss"] == pytest.approx(np.log(3), abs=0.01)
    late = table[:600].with_columns(
        day=pl.Series(np.arange(600)),
        target=pl.Series(np.where(np.arange(600) < 350, kinds[:600] % 2, kinds[:600]).astype(str)),
    )
    found = EasyML(model="prior", time="day").fit(late).training["held_out"]
    assert 0.5 < found["log_loss"] < 3.0


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"task": "guess"},
        {"classes": 5},
        {"classes": [0]},
        {"classes": [[0], [1]]},
        {"task": "regression", "classes": []},
        {"weights": ["linear"]},
        {"importance": "all"},
        {"costs": [1.0]},
        {"costs": [0, 1]},
    ],
)
def test_a_record_that_is_not_of_easyml_is_refused(changed, payments, tmp_path):
    artifact = EasyML(model="prior").fit(payments).scorer.artifact
    training = {**artifact.header["training"], **changed} if changed else {}
    path = tmp_path / "foreign.chopmark"
    replace(artifact, header={**artifact.header, "training": training}).save(path)
    with pytest.raises(ArtifactError, match="record of its training is not EasyML's"):
        EasyML.load(path)


def test_numbers_that_cannot_be_told_apart(seasons):
    flat = seasons.select("x", amount=pl.when(pl.int_range(pl.len()) < 5).then(9.0).otherwise(0.5))
    for table, options in (
        (flat.with_columns(amount=pl.Series([0.5] * 1_199 + [9.0])), {"sample": 30, "seed": 1}),
        (seasons.select("x", amount=pl.col("amount") * 1e300), {}),
        (seasons.select("x", amount=pl.col("amount") * 1e-300), {}),
    ):
        with pytest.raises(InvalidTable, match="expected numbers in `amount` that differ"):
            EasyML(target="amount", task="regression", **options).fit(table)


def test_the_label_is_not_read_again(payments):
    with pytest.raises(DeclarationError, match="reads the label"):
        EasyML(extra=(Column(name="target", kind="number"),)).fit(payments)

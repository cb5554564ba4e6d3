"""EasyBlend keeps the contract of a model, keeps its layers' rows apart, and tells its weights."""

from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from chopmark.blend import EasyBlend
from chopmark.errors import ArtifactError, DeclarationError, InvalidInput, InvalidTable
from chopmark.models import Model, Scorer, families, load_scorer
from chopmark.models.metrics import log_loss
from chopmark.tabular import EasyML
from chopmark.testing.models import check_model

MODES = ("cross-fitted", "split")
SECONDS = ("logistic", "linear")


def linear():
    return EasyML(model="linear")


@pytest.mark.parametrize("second", SECONDS)
@pytest.mark.parametrize("mode", MODES)
def test_the_contract(mode, second, purchases):
    parts = {"trees": EasyML(model="trees"), "linear": linear()}
    options = {"mode": mode, "second": second, "num_folds": 2}
    check_model(lambda: EasyBlend(parts, **options), purchases[:150], "target")


@pytest.mark.parametrize("second", SECONDS)
def test_the_contract_with_a_model_of_another_house(second, purchases, bucket_rates):
    def make():
        parts = {"ages": bucket_rates("age_days"), "fewer": few, "amounts": bucket_rates}
        return EasyBlend(parts, second=second)

    def few():
        return bucket_rates("age_days", 2)

    check_model(make, purchases, "target")


def test_a_blend_of_blends(purchases, bucket_rates, tmp_path):
    inner = EasyBlend({"a": bucket_rates(), "b": bucket_rates("age_days")}, num_folds=2)
    blend = EasyBlend({"inner": inner, "days": bucket_rates("day")}, num_folds=2).fit(purchases)
    blend.save(tmp_path / "blend.chopmark")
    loaded = EasyBlend.load(tmp_path / "blend.chopmark")
    assert np.array_equal(loaded.score(purchases), blend.score(purchases))
    assert set(loaded.reads) <= {"amount", "age_days", "day"}


@pytest.fixture(scope="module", params=[(m, s) for m in MODES for s in SECONDS])
def fitted(request, purchases, bucket_rates):
    mode, second = request.param
    parts = {"linear": linear(), "rates": bucket_rates("age_days")}
    return EasyBlend(parts, mode=mode, second=second, num_folds=2).fit(purchases)


def test_it_is_a_model_and_its_scorer_a_scorer(fitted):
    assert isinstance(fitted, Model)
    assert isinstance(fitted.scorer, Scorer)


def test_the_score_is_the_weighted_sum_of_its_parts(fitted, purchases):
    scorer = fitted.scorer
    scores = np.column_stack([part.score(purchases) for part in scorer.parts])
    weights = np.array([fitted.weights[name] for name in scorer.names])
    bias = scorer.artifact.arrays["layer"][0]
    if fitted.second == "linear":
        expected = bias + scores @ weights
        inside = (expected > 0.01) & (expected < 0.99)
        assert inside.mean() > 0.5
        assert fitted.score(purchases)[inside] == pytest.approx(expected[inside], abs=1e-12)
    else:
        z = bias + np.log(scores / (1 - scores)) @ weights
        assert fitted.score(purchases) == pytest.approx(1 / (1 + np.exp(-z)), abs=1e-12)


def test_explanations_of_columns_and_of_parts_sum_to_the_same(fitted, purchases):
    columns, parts = fitted.explain(purchases), fitted.contributions_of_parts(purchases)
    scores = fitted.score(purchases)
    log_odds = np.log(scores / (1 - scores))
    assert columns.log_odds() == pytest.approx(log_odds, abs=1e-9)
    assert parts.log_odds() == pytest.approx(log_odds, abs=1e-9)
    assert parts.reads == fitted.scorer.names
    assert parts.values.shape == (purchases.height, len(parts.reads))


def test_a_logistic_blend_explains_by_the_weighted_explanations(purchases, bucket_rates):
    parts = {"amounts": bucket_rates(), "rates": bucket_rates("age_days")}
    blend = EasyBlend(parts).fit(purchases)
    found = blend.explain(purchases)
    expected = np.zeros((purchases.height, len(found.reads)))
    for name, part in zip(blend.scorer.names, blend.scorer.parts, strict=True):
        told = part.explain(purchases)
        for j, column in enumerate(told.reads):
            expected[:, found.reads.index(column)] += blend.weights[name] * told.values[:, j]
    assert found.values == pytest.approx(expected, abs=1e-8)


def test_it_learns_who_is_worth_listening_to(purchases, bucket_rates):
    noise = np.random.default_rng(1).normal(size=purchases.height)
    table = purchases.with_columns(noise=noise)
    blend = EasyBlend({"noise": bucket_rates("noise"), "good": bucket_rates()}).fit(table)
    assert list(blend.weights) == ["good", "noise"]
    assert blend.weights["good"] > 5 * blend.weights["noise"]
    assert blend.held_out["good"]["log_loss"] < blend.held_out["noise"]["log_loss"]
    assert blend.held_out["blend"]["log_loss"] < 1.02 * blend.held_out["good"]["log_loss"]


def test_a_part_without_weight_is_not_served(purchases, bucket_rates, tmp_path):
    table = purchases.with_columns(same=pl.lit(1.0))
    parts = {"same": bucket_rates("same"), "rates": bucket_rates("amount")}
    blend = EasyBlend(parts, num_folds=2).fit(table)
    assert blend.weights["same"] == 0.0
    assert blend.reads == ("amount",)
    assert set(blend.held_out) == {"same", "rates", "blend"}
    assert len(blend.scorer.artifact.parts) == 1


def test_it_predicts_the_likelier_class(fitted, purchases):
    assert fitted.classes == (0, 1)
    found = fitted.predict(purchases)
    assert set(found.tolist()) == {0, 1} == set(fitted.classes_.tolist())
    assert np.array_equal(found, fitted.predict_proba(purchases).argmax(axis=1))
    assert (found == purchases["target"].to_numpy()).mean() > 0.6


@pytest.mark.parametrize("name", ["weights", "importance"])
@pytest.mark.parametrize("found", [None, ["linear"], {"linear": "much"}])
def test_a_record_that_is_not_of_a_blend_is_refused(name, found, fitted, tmp_path):
    artifact = fitted.scorer.artifact
    training = {**artifact.header["training"], name: found}
    replace(artifact, header={**artifact.header, "training": training}).save(tmp_path / "b")
    with pytest.raises(ArtifactError, match=f"expected numbers as the {name}"):
        EasyBlend.load(tmp_path / "b")


def test_the_given_models_stay_unfitted(purchases, bucket_rates):
    rates, line = bucket_rates(), linear()
    EasyBlend({"rates": rates, "line": line}, num_folds=2).fit(purchases)
    assert rates.scorer is None
    with pytest.raises(InvalidInput, match="not fitted"):
        line.score(purchases)


class Spy:
    """A factory of bucket models that remember which rows they were fitted to and scored."""

    def __init__(self, kind):
        self.kind, self.seen = kind, []

    def __call__(self):
        seen = {"fit": [], "score": []}
        self.seen.append(seen)
        kind = self.kind

        class Remembering(kind):
            def fit(self, table, *, target):
                seen["fit"] = table["row"].to_list()
                return super().fit(table, target=target)

            def score(self, table):
                assert "target" not in table.columns
                seen["score"] = table["row"].to_list()
                return super().score(table)

        return Remembering()


@pytest.mark.parametrize("column", [None, "time", "groups"])
def test_no_row_is_in_two_parts_of_a_split(column, purchases, bucket_rates):
    options = {"time": {"time": "day"}, "groups": {"groups": "user"}}.get(column, {})
    table, spy = purchases.with_row_index("row"), Spy(bucket_rates)
    parts = {"spied": spy, "other": bucket_rates("age_days")}
    EasyBlend(parts, mode="split", **options).fit(table)
    (seen,) = spy.seen
    # What was scored last are the rows to judge by; the blender's rows are the rest.
    learned, judged = set(seen["fit"]), set(seen["score"])
    weighed = set(range(600)) - learned - judged
    assert not learned & judged
    assert len(judged) == pytest.approx(120, abs=15)
    assert len(weighed) == pytest.approx(120, abs=15)
    if column == "time":
        days = [{table["day"][row] for row in rows} for rows in (learned, weighed, judged)]
        assert max(days[0]) < min(days[1])
        assert max(days[1]) < min(days[2])
    if column == "groups":
        users = [{table["user"][row] for row in rows} for rows in (learned, weighed, judged)]
        assert sum(map(len, users)) == len(set.union(*users))


@pytest.mark.parametrize("column", [None, "time", "groups"])
def test_cross_fitting_scores_no_row_by_a_model_that_saw_it(column, purchases, bucket_rates):
    options = {"time": {"time": "day"}, "groups": {"groups": "user"}}.get(column, {})
    table, spy = purchases.with_row_index("row"), Spy(bucket_rates)
    parts = {"spied": spy, "other": bucket_rates("age_days")}
    EasyBlend(parts, **options).fit(table)
    *folds, last = spy.seen
    assert sorted(last["fit"]) == list(range(600))
    scored = [row for fold in folds for row in fold["score"]]
    assert len(scored) == len(set(scored))
    assert len(scored) == 600 or column == "time"
    for fold in folds:
        assert not set(fold["fit"]) & set(fold["score"])
        if column == "time":
            assert max(table["day"][fold["fit"]]) < min(table["day"][fold["score"]])
        if column == "groups":
            assert not set(table["user"][fold["fit"]]) & set(table["user"][fold["score"]])


def test_validation_judges_and_teaches_nothing(purchases, bucket_rates):
    train, valid = purchases[:450], purchases[450:]
    parts = {"rates": bucket_rates("age_days"), "amounts": bucket_rates()}
    for mode in MODES:
        blend = EasyBlend(parts, mode=mode).fit(train, valid=valid)
        loss = log_loss(valid["target"], blend.score(valid))
        assert blend.held_out["blend"]["log_loss"] == pytest.approx(loss, abs=1e-9)
        flipped = valid.with_columns(target=1 - pl.col("target"))
        other = EasyBlend(parts, mode=mode).fit(train, valid=flipped)
        assert np.array_equal(other.score(valid), blend.score(valid))


def test_threads_and_progress_change_no_bit(purchases, bucket_rates, tmp_path):
    told = []
    for threads in (1, 4):
        blend = EasyBlend(
            {"rates": bucket_rates(), "line": bucket_rates("age_days")},
            threads=threads,
            num_folds=3,
            progress=lambda *step: told.append(step),
        ).fit(purchases)
        blend.save(tmp_path / f"{threads}.chopmark")
    one, four = (tmp_path / f"{threads}.chopmark" for threads in (1, 4))
    assert one.read_bytes() == four.read_bytes()
    assert told[:8] == told[8:]
    assert told[0] == (1, 8, "rates: fold 1 of 3")
    assert told[7] == (8, 8, "line: all rows")


def test_features_hashes_of_blend_and_parts(purchases, bucket_rates):
    hashes = {"amount": "ab" * 32, "unread": "cd" * 32}
    parts = {"one": bucket_rates("amount"), "two": bucket_rates("age_days")}
    blend = EasyBlend(parts, num_folds=2).fit(purchases, feature_hashes=hashes)
    assert blend.scorer.feature_hashes == {"amount": "ab" * 32}
    parts["one"] = bucket_rates("amount", feature_hashes={"amount": "ef" * 32})
    with pytest.raises(ArtifactError, match="part `one` reads another feature `amount`"):
        EasyBlend(parts, num_folds=2).fit(purchases, feature_hashes=hashes)


def test_a_family_that_nothing_reads(purchases, bucket_rates, tmp_path, monkeypatch):
    parts = {"one": bucket_rates("amount"), "two": bucket_rates("age_days")}
    blend = EasyBlend(parts, num_folds=2).fit(purchases)
    blend.save(tmp_path / "blend.chopmark")
    monkeypatch.setattr(families, "_MAKERS", {})
    with pytest.raises(ArtifactError, match=r"part `one` of the blend: .* family `bucket rates`"):
        load_scorer(tmp_path / "blend.chopmark")
    with pytest.raises(ArtifactError, match="family `bucket rates`"):
        EasyBlend(parts, num_folds=2).fit(purchases)


def test_a_family_has_one_scorer(bucket_rates):
    families.register("bucket rates", families._MAKERS["bucket rates"])
    for family in ("bucket rates", "blend"):
        with pytest.raises(DeclarationError, match=f"`{family}` has a scorer already"):
            families.register(family, lambda artifact: None)


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ({"one": EasyML()}, {}, "two or more models by name"),
        ([EasyML(), EasyML()], {}, "two or more models by name"),
        ({"one": EasyML(), "two parts": EasyML()}, {}, "got 'two parts'"),
        ({"one": EasyML(), "blend": EasyML()}, {}, "other than `blend`"),
        ({"one": EasyML(), "two": 3}, {}, "part `two` is no model .* a int has no `fit`"),
        ({"a": EasyML, "b": EasyML}, {"mode": "splits"}, "did you mean `split`"),
        ({"a": EasyML, "b": EasyML}, {"second": "tree"}, "one of logistic, linear, got `tree`"),
        ({"a": EasyML, "b": EasyML}, {"time": "t", "groups": "g"}, "by time or by groups"),
        ({"a": EasyML, "b": EasyML}, {"share": 0.5}, "a share in"),
        ({"a": EasyML, "b": EasyML}, {"num_folds": 1}, "two folds or more"),
    ],
)
def test_what_cannot_be_declared(models, options, message):
    with pytest.raises(DeclarationError, match=message):
        EasyBlend(models, **options)


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (lambda t: t.drop("target"), {}, "expected a column `target`"),
        (lambda t: t.with_columns(target=pl.lit(1)), {}, "two good and two bad rows"),
        (lambda t: t.with_columns(target=pl.lit(2)), {}, "got 2"),
        (lambda t: t.with_columns(target=pl.lit("bad")), {}, "values of type String"),
        (lambda t: t.head(0), {}, "two good and two bad"),
        (lambda t: "table.csv", {}, "expected a polars or pandas DataFrame"),
        (lambda t: t, {"time": "country"}, "a time or a number in each row of `country`"),
        (lambda t: t, {"groups": "users"}, "did you mean `user`"),
    ],
)
def test_tables_that_cannot_be_blended_on(change, options, message, purchases, bucket_rates):
    parts = {"one": bucket_rates, "two": bucket_rates}
    with pytest.raises(InvalidTable, match=message):
        EasyBlend(parts, **options).fit(change(purchases))


def test_validation_rows_that_were_learned_from_are_refused(purchases, bucket_rates):
    blend = EasyBlend({"one": bucket_rates, "two": bucket_rates}, num_folds=2)
    with pytest.raises(InvalidTable, match="5 of 105 validation rows are rows of the training"):
        blend.fit(purchases[:500], valid=purchases[495:])
    with pytest.raises(InvalidTable, match="lacks column `amount`"):
        blend.fit(purchases[:500], valid=purchases[500:].drop("amount"))
    # A table whose rows are equal by nature has no way to tell.
    plain = purchases.select((pl.col("age_days") / 50).floor().alias("amount"), "target")
    blend.fit(plain[:500], valid=plain[500:])


def test_a_part_that_gives_no_scores(purchases, bucket_rates):
    class Broken(bucket_rates):
        def score(self, table):
            return 2 * super().score(table) + 1

    with pytest.raises(InvalidInput, match=r"`bad: fold 1 of 2` gave scores .* in \[0, 1\]"):
        EasyBlend({"good": bucket_rates, "bad": Broken}, num_folds=2).fit(purchases)


def test_what_a_blend_is_not(purchases, bucket_rates, tmp_path):
    parts = {"one": bucket_rates("amount"), "two": bucket_rates("age_days")}
    with pytest.raises(InvalidInput, match="not fitted"):
        EasyBlend(parts).score(purchases)
    linear().fit(purchases).save(tmp_path / "linear.chopmark")
    with pytest.raises(ArtifactError, match="holds no blend"):
        EasyBlend.load(tmp_path / "linear.chopmark")
    blend = EasyBlend(parts, num_folds=2).fit(purchases)
    blend.save(tmp_path / "blend.chopmark")
    loaded = EasyBlend.load(tmp_path / "blend.chopmark")
    assert loaded.weights == blend.weights
    with pytest.raises(InvalidInput, match="loaded and has no learners"):
        loaded.fit(purchases)
    with pytest.raises(InvalidInput, match="expected 2 values"):
        loaded.scorer.score_row([1.0])

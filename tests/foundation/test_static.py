import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import polars as pl
import pytest

from chopmark.blend import EasyBlend
from chopmark.errors import ArtifactError, InvalidInput, InvalidTable
from chopmark.foundation.static import StaticEmbedding
from chopmark.foundation.usermodel import UserModel
from chopmark.histories import Histories
from chopmark.models import Model, Scorer, artifact, load_scorer
from chopmark.models.embedded import EmbeddedScorer
from chopmark.models.families import scorer_of
from chopmark.models.metrics import roc_auc
from chopmark.sequence.shape import Shape
from chopmark.sequence.training import Pace
from chopmark.tabular.easyml import EasyML
from chopmark.testing import check_model

DAY = 86_400_000_000


def made(num_users, seed=0):
    """Histories of users of whom some sell more, and a table with two columns beside."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, 25, num_users)
    y = (rng.random(num_users) < 0.4).astype(np.int64)
    owner = np.repeat(np.arange(num_users), lengths)
    sells = rng.random(len(owner)) < np.where(y[owner] == 1, 0.6, 0.3)
    frame = pl.DataFrame(
        {
            "user": owner,
            "happened_at": rng.integers(0, 30 * DAY, len(owner)),
            "type": np.where(sells, "sell", rng.choice(["buy", "view"], len(owner))).tolist(),
            "amount_usd": rng.lognormal(3, 1, len(owner)),
        }
    )
    histories = Histories.from_frame(frame)
    table = pl.DataFrame(
        {
            "history": histories.every(31 * DAY).to_lists(),
            "age_days": np.round(rng.normal(30, 9, num_users) + 8 * y),
            "country": rng.choice(["DE", "US", "FR"], num_users),
            "bad": y,
        }
    )
    return histories, table


@pytest.fixture(scope="module")
def user_model():
    histories, _ = made(150)
    shape = Shape(width=8, depth=1, length=16)
    return UserModel(shape=shape, pace=Pace(steps=15, rate=3e-3), budget=1_024).fit(histories)


def trees():
    return EasyML(model="trees", threads=1)


@pytest.fixture(scope="module")
def fitted(user_model):
    return StaticEmbedding(user_model, trees()).fit(made(150)[1], target="bad")


def test_it_keeps_the_contract_of_a_model(user_model):
    _, table = made(60)
    linear = EasyML(model="linear", threads=1)
    check_model(lambda: StaticEmbedding(user_model, linear), table, "bad")


def test_the_embedding_is_that_of_the_user_model(fitted, user_model):
    histories, table = made(150)
    vectors = user_model.embed(histories.every(31 * DAY, last=16))
    own = [fitted.scorer.embed_row(value) for value in table["history"].to_list()]
    assert np.abs(vectors - own).max() < 1e-4
    assert isinstance(fitted, Model)
    assert isinstance(fitted.scorer, Scorer)


def test_a_table_of_pandas_or_arrow_gives_the_model_of_polars(user_model, fitted):
    _, table = made(150)
    for other in (table.to_pandas(), table.to_arrow()):
        model = StaticEmbedding(user_model, trees()).fit(other, target="bad")
        assert np.array_equal(model.score(other), fitted.score(table))
        assert np.array_equal(model.explain(other).values, fitted.explain(table).values)
    alone = StaticEmbedding(user_model, trees()).fit(table.select("history", "bad"), target="bad")
    only = table.select("history")
    assert np.array_equal(alone.score(only.to_pandas()), alone.score(only))


def test_the_newest_events_are_those_of_least_age_wherever_they_stand(fitted, user_model):
    length = user_model.shape.length
    history = [{"type": ["sell", "buy", "view"][i % 3 if i < 60 else 0], "age": (90 - i) * DAY,
                "amount_usd": float(i)} for i in range(80)]  # fmt: skip
    expected = fitted.scorer.embed_row(history[-length:])
    assert not np.array_equal(expected, fitted.scorer.embed_row(history[:length]))
    mixed = [history[place] for place in np.random.default_rng(0).permutation(80)]
    for order in (history, history[::-1], mixed, tuple(mixed), pl.Series(mixed), np.array(mixed)):
        assert np.array_equal(fitted.scorer.embed_row(order), expected)


def test_the_list_column_is_explained_as_one(fitted):
    _, table = made(150)
    assert fitted.reads[0] == "history"
    assert set(fitted.reads) <= {"history", "age_days", "country"}
    found = fitted.explain(table.head(30))
    inside = fitted.scorer.inner.explain(fitted.scorer._table(table.head(30)))
    own = [place for place, name in enumerate(inside.reads) if name.startswith("history[")]
    assert np.allclose(found.values[:, 0], inside.values[:, own].sum(axis=1))
    shares = fitted.importance()
    assert shares["history"] > 0.2
    assert sum(shares.values()) == pytest.approx(1.0)


def test_history_and_columns_together_find_more_than_either(user_model, fitted):
    _, table = made(150)
    _, later = made(1_000, seed=5)
    without = trees().fit(table.drop("history"), target="bad")
    alone = StaticEmbedding(user_model, trees()).fit(table.select("history", "bad"), target="bad")
    y = later["bad"].to_numpy()
    areas = [roc_auc(y, model.score(later)) for model in (fitted, without, alone)]
    assert areas[0] > max(areas[1:])
    assert min(areas[1:]) > 0.6


def test_a_new_event_and_the_passing_of_time_change_the_score(fitted):
    history = made(150)[1]["history"].to_list()[0]
    rest = [30.0, "DE"][: len(fitted.reads) - 1]
    older = [{**event, "age": event["age"] + 9 * DAY} for event in history]
    longer = [*older, *({"type": "sell", "age": age, "amount_usd": 20.0} for age in (9, 5, 1))]
    scores = {fitted.scorer.score_row([value, *rest]) for value in (history, older, longer)}
    assert len(scores) == 3


def test_a_deep_model_reads_the_embedding_too(user_model):
    _, table = made(120)
    model = StaticEmbedding(user_model, EasyML(model="deep", threads=1)).fit(table, target="bad")
    scores = model.score(table)
    assert roc_auc(table["bad"].to_numpy(), scores) > 0.7
    row = table.select(model.reads).row(7)
    assert model.scorer.score_row(row) == scores[7]


def test_it_takes_part_in_a_blend(user_model, tmp_path):
    _, table = made(150)
    parts = {"static": StaticEmbedding(user_model, trees()), "columns": trees()}
    blend = EasyBlend(parts).fit(table, target="bad")
    blend.save(tmp_path / "blend.chopmark")
    again = load_scorer(tmp_path / "blend.chopmark")
    assert np.array_equal(again.score(table), blend.score(table))


def test_a_request_needs_neither_torch_nor_a_data_frame(fitted, tmp_path):
    path = tmp_path / "model.chopmark"
    fitted.save(path)
    row = [[{"type": "sell", "age": 5, "amount_usd": 3.0}], 30.0, "DE"][: len(fitted.reads)]
    code = (
        "import sys\nfrom chopmark.models import load_scorer\n"
        f"scorer = load_scorer({str(path)!r})\nprint(scorer.score_row({row!r}))\n"
        "print([name for name in ('torch', 'polars', 'lightgbm') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    score, modules = told.stdout.split("\n")[:2]
    assert float(score) == fitted.scorer.score_row(row)
    assert modules == "[]"


def test_hashes_of_features_and_the_space_are_kept(user_model):
    _, table = made(80)
    hashes = {"history": "h1", "age_days": "a1", "country": "c1", "elsewhere": "e1"}
    when = datetime(2026, 5, 1, tzinfo=UTC)
    model = StaticEmbedding(user_model, trees())
    model.fit(table, target="bad", feature_hashes=hashes, created=when)
    kept = dict(model.scorer.feature_hashes)
    assert kept == {name: hashes[name] for name in model.reads}
    assert model.training["space"] == user_model.space
    assert model.training["created"] == when.isoformat()


def test_a_table_that_cannot_be_read_is_said(user_model, fitted):
    _, table = made(60)
    static = StaticEmbedding(user_model, trees())
    with pytest.raises(InvalidTable, match="one list column of events, got 0"):
        static.fit(table.drop("history"), target="bad")
    with pytest.raises(InvalidTable, match="did you mean"):
        StaticEmbedding(user_model, column="histor").fit(table, target="bad")
    with pytest.raises(InvalidTable, match="gets that name"):
        static.fit(table.with_columns(pl.lit(1.0).alias("history[0]")), target="bad")
    with pytest.raises(InvalidTable, match="did you mean"):
        fitted.score(table.rename({"history": "history_1"}))
    with pytest.raises(InvalidInput, match="not fitted"):
        static.score(table)
    with pytest.raises(InvalidInput, match="values, one for each"):
        fitted.scorer.score_row([])


def test_several_classes_are_refused(user_model):
    _, table = made(90)
    several = table.with_columns(bad=pl.Series(np.arange(90) % 3))
    with pytest.raises(InvalidInput, match="two classes"):
        StaticEmbedding(user_model, trees()).fit(several, target="bad")


def test_a_loaded_model_scores_and_cannot_be_fitted(fitted, tmp_path):
    fitted.save(tmp_path / "model.chopmark")
    loaded = StaticEmbedding.load(tmp_path / "model.chopmark")
    _, table = made(20, seed=3)
    assert np.array_equal(loaded.score(table), fitted.score(table))
    with pytest.raises(InvalidInput, match="no user model"):
        loaded.fit(table, target="bad")
    trees().fit(made(80)[1].drop("history"), target="bad").save(tmp_path / "other.chopmark")
    with pytest.raises(ArtifactError, match="no model over an embedding"):
        StaticEmbedding.load(tmp_path / "other.chopmark")


def test_parts_that_do_not_fit_each_other_are_refused(fitted):
    whole = fitted.scorer.artifact

    def refused(words, **changes):
        with pytest.raises(ArtifactError, match=words):
            scorer_of(artifact.unpack(replace(whole, **changes).pack()))

    tower, model = whole.parts["tower"], whole.parts["model"]
    refused("expected a part `model`", parts={"tower": tower})
    refused("expected a part `tower`", parts={"model": model})
    refused("name of the list column", header={**whole.header, "column": 3})
    refused("lacks `training`|feature_hashes", header={"column": "history"})
    refused("user model, which lacks", parts={"model": model, "tower": model})
    without = {name: array for name, array in tower.arrays.items() if name != "center_R"}
    refused("center_R", parts={"model": model, "tower": replace(tower, arrays=without)})
    layout = {**tower.header["layout"], "sizes": [3]}
    wrong = replace(tower, header={**tower.header, "layout": layout})
    refused("other tokens", parts={"model": model, "tower": wrong})
    shape = {**tower.header["shape"], "length": 0}
    short = replace(tower, header={**tower.header, "shape": shape})
    refused("a length of 1", parts={"model": model, "tower": short})
    with pytest.raises(ArtifactError, match="with its hash"):
        EmbeddedScorer(replace(whole, hash=""), fitted.scorer.inner)

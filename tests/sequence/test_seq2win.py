"""Seq2Win keeps the contract of all models, and reads order and time."""

import json
import subprocess
import sys

import numpy as np
import polars as pl
import pytest

from chopmark.blend import EasyBlend
from chopmark.errors import ArtifactError, InvalidInput, InvalidTable
from chopmark.models import load_scorer
from chopmark.models.artifact import read
from chopmark.models.metrics import roc_auc
from chopmark.sequence import SEED, Pace, Seq2Win
from chopmark.tabular import EasyML
from chopmark.testing import check_model
from tests.sequence.examples import SHAPES, table


def made(kind="recurrent", **options):
    return Seq2Win(shape=SHAPES[kind], epochs=3.0, pace=Pace(steps=30, rate=5e-3), **options)


@pytest.fixture(scope="module")
def fitted():
    model = Seq2Win(shape=SHAPES["recurrent"], epochs=20.0, pace=Pace(steps=150, rate=5e-3))
    return model.fit(table(num_users=200), target="label")


@pytest.mark.parametrize("kind", sorted(SHAPES))
def test_every_encoder_keeps_the_contract_of_a_model(kind):
    check_model(lambda: made(kind), table(), "label")


def test_the_seeds_own_shape_is_the_default():
    shape = Seq2Win().shape
    assert shape == SEED
    assert (shape.kind, shape.length, shape.heads, shape.depth) == ("seed", 256, 8, 4)


def test_it_learns_what_a_bag_of_events_shows(fitted):
    new = table(num_users=200, seed=7)
    assert roc_auc(new["label"].to_numpy(), fitted.score(new)) > 0.9


def test_events_are_explained_one_by_one(fitted):
    history = [{"type": "visit", "age": 9_000_000_000 - i, "asset": "BTC"} for i in range(6)]
    history.insert(3, {"type": "cash_out", "age": 8_999_999_997, "asset": "ETH", "amount": 50.0})
    found = fitted.scorer.explain_events(history)
    assert found.shape == (7,)
    assert found.argmax() == 3
    assert fitted.scorer.explain_events("nonsense").shape == (0,)


def test_a_new_event_changes_the_score_at_the_next_call(fitted):
    history = [{"type": "visit", "age": 5_000_000 * (9 - i)} for i in range(9)]
    before = fitted.scorer.score_row([history])
    after = fitted.scorer.score_row([[*history, {"type": "cash_out", "age": 0}]])
    assert after > before


def test_only_the_newest_events_count_when_there_are_more_than_it_reads():
    model = made("seed").fit(table(), target="label")
    history = [{"type": "visit", "age": 10**9 - i} for i in range(300)]
    assert model.shape.length == 64
    assert model.scorer.score_row([history]) == model.scorer.score_row([history[-64:]])
    assert model.scorer.score_row([[]]) == model.scorer.score_row([None])


def test_a_part_of_a_blend_beside_easyml():
    both = table(num_users=120)
    rng = np.random.default_rng(0)
    noise = pl.Series("age", both["label"] * 5 + rng.normal(30, 10, both.height))
    blend = EasyBlend({"easyml": EasyML(model="linear"), "seq2win": made()}, num_folds=2)
    blend.fit(both.with_columns(noise), target="label")
    assert set(blend.held_out) == {"easyml", "seq2win", "blend"}
    assert 0.0 <= blend.score(both.with_columns(noise)).min() <= 1.0


def test_what_it_cannot_read_is_refused_in_words(tmp_path, fitted):
    some = table()
    for wrong, words in (
        (some.drop("history"), "one list column"),
        (some.with_columns(other="history"), "name the one to read"),
        (some.with_columns(label=pl.lit(0)), "two rows of each"),
        (some.with_columns(label=pl.lit(None, dtype=pl.Int8)), "missing labels"),
        (some.drop("label"), "a column `label`"),
    ):
        with pytest.raises(InvalidTable, match=words):
            made().fit(wrong, target="label")
    with pytest.raises(InvalidTable, match="`history`"):
        fitted.score(some.rename({"history": "past"}))
    with pytest.raises(InvalidInput, match="not fitted"):
        made().score(some)
    EasyML(model="linear").fit(pl.DataFrame({"x": range(40), "label": [0, 1] * 20}),
                               target="label").save(tmp_path / "other.chopmark")  # fmt: skip
    with pytest.raises(ArtifactError, match="no sequence network"):
        Seq2Win.load(tmp_path / "other.chopmark")


def test_an_artifact_whose_parts_do_not_fit_is_refused(tmp_path, fitted):
    path = tmp_path / "model.chopmark"
    fitted.save(path)
    artifact = read(path)
    import dataclasses

    from chopmark.models import artifact as artifacts
    from chopmark.models.families import scorer_of

    def changed(**header):
        other = dataclasses.replace(artifact, header={**artifact.header, **header})
        return artifacts.unpack(other.pack())

    layout = artifact.header["layout"]
    for broken in (
        {"tower": {"kind": "seed", "heads": 4}},
        {"tower": {"kind": "magic", "heads": 1}},
        {"layout": {**layout, "sizes": [3]}},
        {"layout": {**layout, "times": ["moon"]}},
        {"tokenizer": {}},
        {"length": 0},
        {"bias": "much"},
        {"feature_hashes": 3},
    ):
        with pytest.raises(ArtifactError):
            scorer_of(changed(**broken))
    arrays = dict(artifact.arrays)
    arrays["head.line.weight"] = np.full_like(arrays["head.line.weight"], np.nan)
    with pytest.raises(ArtifactError, match="finite"):
        scorer_of(artifacts.unpack(dataclasses.replace(artifact, arrays=arrays).pack()))


def test_it_is_served_without_torch(tmp_path, fitted):
    path = tmp_path / "model.chopmark"
    fitted.save(path)
    history = [{"type": "cash_out", "age": 10**9}, {"type": "visit", "age": 5}]
    script = (
        "import json, sys; from chopmark.models import load_scorer;"
        f"s = load_scorer({str(path)!r}); print(s.score_row([json.loads(sys.argv[1])]));"
        "assert not {'torch', 'polars', 'pandas', 'sklearn'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", script, json.dumps(history)],
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert float(done.stdout) == load_scorer(path).score_row([history])

"""Seq2Win keeps the contract of all models, and reads order and time."""

import json
import subprocess
import sys
from decimal import Decimal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.blend import EasyBlend
from chopmark.errors import ArtifactError, InvalidInput, InvalidTable
from chopmark.histories import Histories
from chopmark.models import load_scorer
from chopmark.models.artifact import read
from chopmark.models.metrics import roc_auc
from chopmark.sequence import SEED, Pace, Seq2Win
from chopmark.sequence.shape import Shape
from chopmark.sequence.supervised import held_out_rows
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


def test_the_newest_events_are_those_of_least_age_wherever_they_stand():
    model = made("seed").fit(table(), target="label")
    rng = np.random.default_rng(3)
    words = rng.choice(["visit", "buy", "sell", "cash_out"], 150).tolist()
    oldest_first = [{"type": word, "age": 10**9 - 7 * i} for i, word in enumerate(words)]
    expected = model.scorer.score_row([oldest_first[-64:]])
    assert expected != model.scorer.score_row([oldest_first[:64]])
    mixed = [oldest_first[place] for place in rng.permutation(150)]
    for order in (oldest_first, oldest_first[::-1], mixed):
        assert model.scorer.score_row([order]) == expected
        assert model.score(pl.DataFrame({"history": [order]}))[0] == expected
        pieces = Histories.from_lists(pl.Series([order])).every(0, last=64).to_lists()
        assert model.scorer.score_row([pieces.to_list()[0]]) == expected
    strange = [{"type": "visit", "age": "x"}, 7, None, *mixed, {"type": "visit", "age": 10**30}]
    newest = [*oldest_first[-61:], {"type": "visit"}, {}, {}]
    assert model.scorer.score_row([strange]) == model.scorer.score_row([newest])


def test_events_of_a_mixed_list_are_explained_at_their_places(fitted):
    history = [{"type": "cash_out", "age": 5}, *({"type": "visit", "age": a} for a in (90, 40, 70))]
    found = fitted.scorer.explain_events(history)
    assert found.argmax() == 0
    assert np.allclose(found[::-1], fitted.scorer.explain_events(history[::-1]))


def test_what_is_no_event_in_a_list_says_nothing_and_spoils_nothing(fitted):
    good = [{"type": "visit", "age": 90}, {"type": "cash_out", "age": 40, "amount": 9.0}]
    for strange in (None, 3, "visit", [good[0]]):
        scored = fitted.scorer.score_row([[strange, *good]])
        assert scored == fitted.scorer.score_row([[{}, *good]])
        assert scored != fitted.scorer.score_row([[]])
    # Training is strict where serving is not: an event without an age is refused by its name.
    kind = pl.List(pl.Struct({"type": pl.String, "age": pl.Int64}))
    with pytest.raises(InvalidTable, match="an age of 0 or more"):
        Histories.from_lists(pl.Series("history", [[None, {"type": "visit", "age": 1}]], kind))


def test_amounts_as_decimals_are_read_as_numbers_in_training_and_serving():
    some = table()
    cents = pl.col("history").list.eval(
        pl.struct(
            pl.element().struct.field("type"),
            pl.element().struct.field("age"),
            pl.element().struct.field("amount").round(2).cast(pl.Decimal(18, 2)),
        )
    )
    decimals = some.with_columns(cents)
    kind = decimals.schema["history"].inner
    floats = decimals.with_columns(
        pl.col("history").cast(
            pl.List(pl.Struct({field.name: pl.Float64 if field.name == "amount" else field.dtype
                               for field in kind.fields}))
        )
    )  # fmt: skip
    model = made().fit(decimals, target="label")
    past = Histories.from_lists(decimals["history"])
    columns = model.scorer.tokenizer.reader(past).batch(past.every(0))
    rows = model.scorer.tokenizer.batch_of_rows(decimals["history"].to_list())
    assert np.array_equal(rows.ids, columns.ids)
    assert np.array_equal(rows.numbers, columns.numbers)
    assert np.abs(rows.numbers).max() > 0.1
    assert np.array_equal(model.score(decimals), model.score(floats))
    event = {"type": "buy", "age": 5}
    signal = [[{**event, "amount": Decimal("sNaN")}]]
    assert model.scorer.score_row(signal) == model.scorer.score_row([[event]])


def near_equal(num_users, *, seed):
    """Six rows of each user that hardly differ, and a coin for each user."""
    rng = np.random.default_rng(seed)
    rows = []
    for user in range(num_users):
        label = int(rng.integers(2))
        words = rng.choice(["visit", "buy", "sell"], 8).tolist()
        past = [{"type": word, "age": 10**8 * (9 - i), "amount": float(rng.lognormal(3, 2))}
                for i, word in enumerate(words)]  # fmt: skip
        for later in range(6):
            aged = [{**event, "age": event["age"] + later * 1_000_000} for event in past]
            rows.append({"user": f"u{user}", "history": aged, "label": label})
    return pl.DataFrame(rows)


def test_rows_of_one_user_are_on_one_side_where_groups_are_named():
    some = near_equal(80, seed=0)
    shape = Shape(width=32, dropout=0.0)

    def told(groups):
        model = Seq2Win(shape=shape, epochs=60.0, pace=Pace(steps=400, rate=2e-2), groups=groups)
        model.fit(some, target="label")
        assert model.reads == ("history",)
        return model.training["held_out"]["roc_auc"]

    assert told(None) > 0.9  # what users one has seen look like
    assert told("user") < 0.8
    with pytest.raises(InvalidTable, match="did you mean `user`"):
        Seq2Win(groups="usr").fit(some, target="label")
    one = some.with_columns(user=pl.lit("same"))
    with pytest.raises(InvalidTable, match="groups of rows with each label"):
        Seq2Win(groups="user").fit(one, target="label")


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 1)), min_size=2, max_size=60),
       st.integers(0, 5))  # fmt: skip
def test_no_group_is_on_both_sides(rows, seed):
    groups, y = (np.array(values, dtype=np.int64) for values in zip(*rows, strict=True))
    try:
        held_out = held_out_rows(y, groups, seed=seed)
    except InvalidTable:
        # Refused where all groups of the highest class of one kind are one.
        most = {g: y[groups == g].max() for g in set(groups.tolist())}
        assert min(sum(m == label for m in most.values()) for label in set(y.tolist())) <= 1
        return
    learned = np.setdiff1d(np.arange(len(y)), held_out)
    assert 0 < len(held_out) < len(y)
    assert not set(groups[held_out].tolist()) & set(groups[learned].tolist())
    assert set(y[learned].tolist()) == set(y.tolist())


def test_tables_of_pandas_and_arrow_give_the_model_of_polars():
    some = table()
    plain = made().fit(some, target="label")
    for other in (some.to_pandas(), some.to_arrow(), some.lazy()):
        model = made().fit(other, target="label")
        assert model.scorer.hash == plain.scorer.hash
        assert np.array_equal(model.score(other), plain.score(some))
        assert np.array_equal(model.explain(other).values, plain.explain(some).values)
    with pytest.raises(InvalidTable, match="polars or pandas"):
        made().fit(some.to_dicts(), target="label")
    mixed = some.to_pandas()
    mixed["label"] = [1, "a"] * (len(mixed) // 2)
    with pytest.raises(InvalidTable, match="cannot read the pandas table"):
        made().fit(mixed, target="label")


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
        (some.with_columns(label=pl.col("label") + 0.7), "such as [01].7"),
        (some.with_columns(label=pl.col("label") / pl.col("label")), "such as nan"),
        (some.with_columns(label=pl.lit(2)), "such as 2"),
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

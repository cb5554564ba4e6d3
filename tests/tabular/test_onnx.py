"""The ONNX export against our own scorer, computed by onnxruntime."""

import json
import sys
from dataclasses import replace

import numpy as np
import onnxruntime
import polars as pl
import pytest

from chopmark.errors import InvalidInput, MissingExtra
from chopmark.models import (
    Additive,
    Calibration,
    ClassScorer,
    Column,
    Combination,
    Encoder,
    Term,
    Trees,
    kernels,
    load_scorer,
)
from chopmark.models.dense import COLUMN, Dense
from chopmark.tabular.easyml import EasyML
from chopmark.tabular.onnx import TOLERANCE, export_onnx, graph_of, joined

RNG = np.random.default_rng(0)
NAN = float("nan")


def session_of(path_or_bytes):
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path_or_bytes, options, providers=["CPUExecutionProvider"])


def run(path_or_bytes, x):
    score, log_odds = session_of(path_or_bytes).run(["score", "log_odds"], {"x": x})
    return score, log_odds


def computed(parts, x, **options):
    """Score and log-odds of a graph that is checked, written to bytes and run."""
    encoder = Encoder(columns=[Column(name=f"c{j}", kind="number") for j in range(x.shape[1])])
    settings = {"calibration": Calibration.none(), "encoder": encoder} | options
    return run(graph_of(parts, **settings).SerializeToString(), x)


def strange(table, rng):
    """Rows as training never saw them: unknown categories, missing and huge values."""
    columns = {}
    for series in table.get_columns():
        hit = pl.Series(rng.random(table.height) < 0.2)
        odd = 1e9 if series.dtype.is_numeric() else "never seen"
        mixed = pl.select(pl.when(hit).then(pl.lit(odd)).otherwise(series)).to_series()
        gone = pl.Series(rng.random(table.height) < 0.2)
        columns[series.name] = pl.select(pl.when(gone).then(None).otherwise(mixed)).to_series()
    return pl.DataFrame(columns)


@pytest.mark.parametrize(
    ("name", "family", "calibration"),
    [
        ("titanic", "linear", "platt"),
        ("titanic", "trees", "isotonic"),
        ("german_credit", "linear", "isotonic"),
        ("german_credit", "trees", "platt"),
        ("email_spam", "trees", "isotonic"),
        ("compas_recid", "linear", "platt"),
    ],
)
def test_the_graph_scores_as_the_scorer_does(name, family, calibration, real_parts, tmp_path):
    train, test = real_parts(name)
    model = EasyML(model=family, calibration=calibration).fit(train)
    export_onnx(model.scorer, tmp_path / "model.onnx")
    table = test.drop("target")
    for rows in (table, strange(table, np.random.default_rng(1))):
        score, log_odds = run(tmp_path / "model.onnx", model.encoder.table(rows))
        ours = model.score(rows)
        assert score.shape == ours.shape
        np.testing.assert_allclose(score, ours, rtol=0, atol=1e-13)
        np.testing.assert_allclose(1 / (1 + np.exp(-log_odds)), ours, rtol=0, atol=1e-13)


def test_a_loaded_artifact_is_exported_to_the_same_bytes(real_parts, tmp_path):
    train, _ = real_parts("titanic")
    model = EasyML(model="trees").fit(train)
    model.save(tmp_path / "model.chopmark")
    export_onnx(model.scorer, tmp_path / "first.onnx")
    export_onnx(load_scorer(tmp_path / "model.chopmark"), tmp_path / "second.onnx")
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


def test_others_can_build_the_columns_from_the_metadata(real_parts, tmp_path):
    train, test = real_parts("titanic")
    model = EasyML(model="linear").fit(train)
    export_onnx(model.scorer, tmp_path / "model.onnx")
    metadata = session_of(tmp_path / "model.onnx").get_modelmeta().custom_metadata_map
    encoder = Encoder.from_json(json.loads(metadata["encoder"]))
    assert json.loads(metadata["encoded"]) == [column.name for column in model.encoder.encoded]
    assert tuple(json.loads(metadata["reads"])) == model.reads
    assert metadata["artifact"] == model.scorer.hash
    score, _ = run(tmp_path / "model.onnx", encoder.table(test))
    np.testing.assert_allclose(score, model.score(test), rtol=0, atol=1e-13)


@pytest.fixture(scope="module")
def visits():
    """A table of four classes, one of them rare, with every kind of column."""
    rng, n = np.random.default_rng(5), 1_000
    spent, town = rng.normal(size=n), rng.integers(0, 40, n)
    z = spent + 0.8 * (town % 3 == 0) + rng.normal(size=n) * 0.3
    begin = np.datetime64("2024-01-01", "us")
    table = pl.DataFrame(
        {
            "spent": spent,
            "visits": rng.integers(0, 9, n),
            "town": [f"town {place}" for place in town],
            "begin": begin + rng.integers(0, 10**7, n).astype("timedelta64[s]"),
            "end": begin + rng.integers(0, 10**7, n).astype("timedelta64[s]"),
            "note": [" ".join(rng.choice(["red", "old", "new", "blue"], 3)) for _ in range(n)],
            "kind": np.select([z > 1.2, z > 0.3, z > -0.6], ["gold", "silver", "iron"], "none"),
        }
    )
    gone = rng.random(n) < 0.1
    return table.with_columns(spent=pl.when(pl.Series(gone)).then(None).otherwise("spent"))


@pytest.mark.parametrize("family", ["prior", "linear", "trees", "auto"])
def test_the_graph_of_several_classes_gives_their_probabilities(family, visits, tmp_path):
    extra = (Combination(left="spent", right="visits", operation="product"),)
    model = EasyML(model=family, target="kind", extra=extra).fit(visits[:700])
    export_onnx(model.scorer, tmp_path / "model.onnx")
    session = session_of(tmp_path / "model.onnx")
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["classes"]) == list(model.classes)
    assert metadata["artifact"] == model.scorer.hash
    encoder = Encoder.from_json(json.loads(metadata["encoder"]))
    assert set(json.loads(metadata["reads"])) == set(model.reads)
    rows = visits[700:].drop("kind")
    for table in (rows, strange(rows, np.random.default_rng(1)), rows[:0]):
        outputs = ["probabilities", "log_odds"]
        found, log_odds = session.run(outputs, {"x": encoder.table(table)})
        assert found.shape == log_odds.shape == (table.height, 4)
        np.testing.assert_allclose(found, model.predict_proba(table), rtol=0, atol=1e-11)
        np.testing.assert_allclose(found.sum(axis=1), 1.0, rtol=0, atol=1e-14)
        own = [question.score(table) for question in model.scorer.questions]
        ours = np.column_stack(own)
        np.testing.assert_allclose(1 / (1 + np.exp(-log_odds)), ours, rtol=0, atol=1e-11)


def test_columns_that_classes_share_are_encoded_once(visits):
    model = EasyML(model="linear", target="kind").fit(visits)
    encoders = [question.encoder for question in model.scorer.questions]
    encoder, places = joined(encoders)
    assert len(encoder.encoded) < sum(len(one.encoded) for one in encoders)
    x = encoder.table(visits)
    for one, chosen in zip(encoders, places, strict=True):
        np.testing.assert_array_equal(x[:, chosen], one.table(visits))
    same, (all_of_it, _) = joined([encoders[0], encoders[0]])
    assert same.to_json() == encoders[0].to_json()
    assert all_of_it.tolist() == list(range(len(encoders[0].encoded)))


def test_dates_of_which_classes_read_other_parts_are_joined(visits):
    def reads(*parts, left="begin"):
        return Encoder(
            columns=[
                Column(name=name, kind="date", format="iso", parts=parts if name == left else ())
                for name in ("begin", "end")
            ],
            combinations=[Combination(left="end", right="begin", operation="days_between")],
        )

    encoders = [reads("hour"), reads("month", "hour"), reads("day", left="end")]
    encoder, places = joined(encoders)
    assert len(encoder.encoded) == 4
    for one, chosen in zip(encoders, places, strict=True):
        np.testing.assert_array_equal(encoder.table(visits)[:, chosen], one.table(visits))


@pytest.mark.parametrize("other", ["%d/%m/%Y", "number"])
def test_two_readings_of_one_name_are_not_confused(other):
    def reads(begin):
        made = [("days_between", "end")] if begin.kind == "date" else [("sum", "begin")]
        return Encoder(
            columns=[begin, Column(name="end", kind="date", format="iso")],
            combinations=[Combination(left="begin", right=r, operation=o) for o, r in made],
        )

    iso = Column(name="begin", kind="date", format="iso")
    number = Column(name="begin", kind="number")
    foreign = number if other == "number" else replace(iso, format=other)
    with pytest.raises(InvalidInput, match="a column of one name in different ways"):
        joined([reads(iso), reads(foreign)])


def test_a_loaded_model_of_several_classes_is_exported_to_the_same_bytes(visits, tmp_path):
    model = EasyML(model="linear", target="kind").fit(visits)
    model.save(tmp_path / "model.chopmark")
    loaded = EasyML.load(tmp_path / "model.chopmark").scorer
    assert isinstance(loaded, ClassScorer)
    export_onnx(model.scorer, tmp_path / "first.onnx")
    export_onnx(loaded, tmp_path / "second.onnx")
    assert (tmp_path / "first.onnx").read_bytes() == (tmp_path / "second.onnx").read_bytes()


def lightgbm_trees():
    import lightgbm

    x = RNG.normal(size=(3_000, 3))
    x[:, 2] = RNG.integers(0, 120, 3_000)
    x[RNG.random(3_000) < 0.2, 0] = NAN
    y = np.nan_to_num(x[:, 0]) * x[:, 1] + np.isin(x[:, 2], [1, 31, 32, 63, 64, 100])
    settings = {"verbosity": -1, "num_leaves": 31, "min_data_per_group": 5, "seed": 0}
    data = lightgbm.Dataset(x, y, categorical_feature=[2], params={"verbosity": -1})
    booster = lightgbm.train(settings, data, 40)
    return booster, Trees.from_lightgbm(booster.model_to_string())


def test_trees_go_where_lightgbm_sends_every_row():
    booster, trees = lightgbm_trees()
    x = RNG.normal(size=(4_000, 3))
    x[:, 2] = RNG.integers(0, 130, 4_000)
    x[RNG.random((4_000, 3)) < 0.1] = NAN
    # On a threshold itself, and one step to its right.
    on = trees.nodes[(trees.nodes["feature"] == 0)]["threshold"]
    x[: len(on), 0], x[len(on) : 2 * len(on), 0] = on, np.nextafter(on, np.inf)
    score, log_odds = computed([trees], x, link="identity")
    np.testing.assert_allclose(score, booster.predict(x, raw_score=True), rtol=0, atol=TOLERANCE)
    np.testing.assert_array_equal(score, log_odds)


def test_a_tree_that_is_one_leaf_is_a_constant():
    nodes = np.array([(0.25, 0, -1, 0)] * 2, dtype=kernels.NODE)
    arrays = {name: nodes[name] for name in nodes.dtype.names}
    roots = {"roots": np.array([0, 1], np.int32), "bitsets": np.empty(0, np.uint32)}
    trees = Trees.from_arrays(
        {**arrays, **roots, "values": np.full(2, 0.25), "covers": np.ones(2)}, num_encoded=1
    )
    _, log_odds = computed([trees], np.zeros((3, 1)))
    assert log_odds.tolist() == [0.5, 0.5, 0.5]


def test_zero_as_missing_is_refused():
    _, trees = lightgbm_trees()
    nodes = trees.nodes.copy()
    nodes["flags"][nodes["feature"] == 0] |= kernels.ZERO_IS_MISSING
    arrays = {**trees.to_arrays(), "flags": nodes["flags"]}
    with pytest.raises(InvalidInput, match="zero_as_missing"):
        computed([Trees.from_arrays(arrays, num_encoded=3)], np.zeros((1, 3)))


def additive():
    number = Term(
        weights=np.array([-1.0, 0.5, 2.0]),
        edges=np.array([0.0, 10.0]),
        slope=0.3,
        center=4.0,
        low=-5.0,
        high=20.0,
        missing=-0.7,
    )
    category = Term(weights=np.array([0.1, -0.4, 0.9]))
    flat = Term(weights=np.array([0.2]), edges=np.empty(0), missing=3.0)
    return Additive.of([number, category, flat], bias=-0.25)


def test_lookup_tables_meet_edges_codes_and_missing_values():
    numbers = [-1e300, -5.0, -1e-9, 0.0, 5.0, np.nextafter(10, 0), 10.0, 20.0, 1e300, NAN]
    x = np.array([[n, c, f] for n in numbers for c in (0, 1, 2, 3, 99, -1, NAN) for f in (7, NAN)])
    part = additive()
    _, log_odds = computed([part], x)
    np.testing.assert_allclose(log_odds, part.raw(x), rtol=0, atol=TOLERANCE)


def network():
    """A network of three members over a number, a category and a constant number."""
    columns = np.array([(0, 4, 0, 5), (0, -1, 5, 3), (4, 2, 8, 3)], dtype=COLUMN)
    return Dense(
        columns=columns,
        edges=np.array([-1.0, 0.0, 0.5, 3.0, 0.0, 0.0]),
        levels=RNG.normal(size=(11, 6)),
        adapters=RNG.normal(size=(3, 3)),
        hidden=RNG.normal(size=(2, 6, 6)),
        biases=RNG.normal(size=(3, 3, 6)),
        heads=RNG.normal(size=(3, 6)) / 10,
        shift=0.5,
    )


def test_a_network_is_interpolated_and_multiplied_alike():
    part = network()
    numbers = [-9.0, -1.0, -0.3, 0.0, 0.2, 0.5, 2.9, 3.0, 1e12, NAN]
    x = np.array(
        [[n, c, f] for n in numbers for c in (0, 1, 2, 3, -1, NAN) for f in (1, 2, 3, NAN)]
    )
    _, log_odds = computed([part], x)
    assert np.ptp(log_odds) > 1.0
    np.testing.assert_allclose(log_odds, np.clip(part.raw(x), -15, 15), rtol=0, atol=TOLERANCE)


def test_parts_add_up_before_the_calibration():
    _, trees = lightgbm_trees()
    x = RNG.normal(size=(500, 3))
    x[:, 1:] = RNG.integers(0, 3, (500, 2))
    parts = [trees, additive(), network()]
    raw = sum(part.raw(x) for part in parts)
    knots = np.array([[-2.0, -1.0], [-1.0, -1.0], [-1.0 + 1e-9, 0.5], [3.0, 0.6], [0.2, 1.5]])
    calibration = Calibration(knots=knots)
    score, log_odds = computed(parts, x, calibration=calibration)
    # The steep piece turns a rounding error into one of a billion times its size.
    near = np.abs(raw + 1.0) < 1e-6
    expected = calibration.apply(raw)
    np.testing.assert_allclose(log_odds[~near], expected[~near], rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(score, 1 / (1 + np.exp(-log_odds)), rtol=0, atol=1e-14)


@pytest.mark.parametrize("raw", [-1e6, -15.1, 15.1, 1e6])
def test_log_odds_keep_within_their_limit(raw):
    part = Additive.of([Term(weights=np.array([0.0]), edges=np.empty(0))], bias=raw)
    _, log_odds = computed([part], np.zeros((1, 1)))
    assert log_odds.tolist() == [np.sign(raw) * kernels.LOG_ODDS_LIMIT]


def test_a_number_has_no_limit():
    part = Additive.of([Term(weights=np.array([0.0]), edges=np.empty(0))], bias=100.0)
    line = Calibration(knots=np.array([[0.0, 7.0], [2.0, 2.0]]))
    score, log_odds = computed([part], np.zeros((1, 1)), calibration=line, link="identity")
    assert score.tolist() == log_odds.tolist() == [207.0]


def test_an_empty_table_has_no_scores():
    score, log_odds = computed([additive()], np.empty((0, 3)))
    assert score.shape == log_odds.shape == (0,)


def test_without_the_package_the_message_is_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingExtra, match=r"pip install 'chopmark\[onnx\]'"):
        computed([additive()], np.zeros((1, 3)))

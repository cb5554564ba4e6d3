"""GraphSAGE beside a dense numpy forward pass, and what it can learn that columns cannot."""

import json
import os
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import (
    ArtifactError,
    DeclarationError,
    InvalidInput,
    InvalidTable,
    MissingExtra,
)
from chopmark.graph.adjacency import Graph
from chopmark.graph.behaviour import Behaviour
from chopmark.models.metrics import roc_auc

pytest.importorskip("torch")
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from chopmark.graph.sage import SageModel

DATA = Path(os.environ.get("CHOPMARK_DATA", Path(__file__).parents[2].parent / "shared" / "data"))


def sides(src, dst, num_nodes, amount=None):
    """The two graphs of some transfers."""
    return [
        Graph.of_edges(
            src, dst, amount, num_nodes=num_nodes, directed=side,
            weight=None if amount is None else "amount",
        )
        for side in ("out", "in")
    ]  # fmt: skip


def random_data(seed=0, size=30, edges=90):
    rng = np.random.default_rng(seed)
    src, dst = rng.integers(0, size, (2, edges))
    amount = rng.exponential(2.0, edges)
    columns = rng.normal(0, 30, (size, 3))
    columns[rng.random(columns.shape) < 0.2] = np.nan
    labels = np.arange(size) % 3 == 0
    return sides(src, dst, size, amount), (src, dst, amount), columns, labels


def whole_pass(path, src, dst, amount, columns):
    """Probabilities of all addresses, from a saved file and dense matrices alone."""
    t = load_file(path)
    with safe_open(path, "np") as stored:
        about = json.loads(stored.metadata()["about"])
    size = len(columns)
    with np.errstate(invalid="ignore"):
        logs = np.sign(columns) * np.log1p(np.abs(columns))
    x = np.nan_to_num((logs - t["center_C"]) / t["spread_C"], nan=0.0).clip(-5, 5)
    means = []
    for scale, rows, others in zip(t["scale_2"], (src, dst), (dst, src), strict=True):
        matrix = np.zeros((size, size))
        for row, other, coins in zip(rows, others, amount, strict=True):
            if row != other:
                matrix[row, other] += coins
        degree = (matrix > 0).sum(axis=1)
        share = matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1e-30)
        means.append(share * (np.log1p(degree) / scale)[:, None])
    h = x
    for weight, bias in (("W_D3C", "b_D"), ("V_D3D", "c_D")):
        h = np.maximum(np.hstack([h, means[0] @ h, means[1] @ h]) @ t[weight].T + t[bias], 0)
    logits = np.hstack([h, x]) @ t["a_1"][0] + t["d_1"][0]
    return 1 / (1 + np.exp(about["shift"] - logits))


@given(st.integers(0, 1_000))
@settings(max_examples=5, deadline=None)
def test_scores_are_those_of_a_dense_forward_pass_where_rows_are_read_whole(tmp_path_factory, seed):
    graphs, edges, columns, labels = random_data(seed)
    model = SageModel(width=5, fanout=40, epochs=3, seed=seed)
    model.fit(*graphs, columns, np.arange(30), labels)
    path = tmp_path_factory.mktemp("sage") / "model.safetensors"
    model.save(path)
    expected = whole_pass(path, *edges, columns)
    np.testing.assert_allclose(model.score(np.arange(30)), expected, atol=2e-5)


def test_draws_of_long_rows_agree_with_the_dense_pass_on_average():
    # One hub pays 400; amounts are skewed, and so must draws be.
    rng = np.random.default_rng(1)
    size, amount = 401, rng.pareto(1.5, 400) + 0.1
    src, dst = np.zeros(400, dtype=np.int64), np.arange(1, 401)
    columns = rng.normal(0, 1, (size, 2))
    columns[1:, 0] += amount
    data = [*sides(src, dst, size, amount), columns]
    from chopmark.graph.sage import _Data, _new_tensors, _Reader, torch

    tensors = _new_tensors(2, 4, 0)
    tensors |= {"center_C": torch.zeros(2), "spread_C": torch.ones(2), "scale_2": torch.ones(2)}
    reader = _Reader(_Data.of(*data), tensors, {"fanout": 50, "seed": 0, "dropout": 0.0})
    x = (np.sign(columns) * np.log1p(np.abs(columns))).clip(-5, 5)
    expected = amount @ x[1:] / amount.sum() * np.log1p(400)
    found = []
    for epoch in range(200):
        ids, weights = reader._drawn(np.array([0]), epoch, 1, 0)
        found.append((weights[0, :, None] * x[ids[0]]).sum(axis=0))
    error = np.std(found, axis=0) / np.sqrt(200)
    assert (np.abs(np.mean(found, axis=0) - expected) < 4 * error).all()
    assert (np.std(found, axis=0) > 0).all()


def test_it_finds_who_was_paid_by_those_who_were_paid_by_the_bad():
    # Own columns are noise, those of neighbours too: only two steps away it shows.
    rng = np.random.default_rng(0)
    num = 600
    bad = rng.random(num) < 0.3
    top, middle, end = np.arange(num), np.arange(num, 2 * num), np.arange(2 * num, 3 * num)
    src, dst = np.concatenate([top, middle]), np.concatenate([middle, end])
    columns = rng.normal(0, 1, (3 * num, 2))
    columns[top, 0] += 3 * bad
    graphs = sides(src, dst, 3 * num)
    train, test = end[:400], end[400:]
    model = SageModel(width=16, epochs=40, seed=1).fit(*graphs, columns, train, bad[:400])
    area = roc_auc(bad[400:], model.score(test))
    assert area > 0.9
    alone = SageModel(width=16, epochs=40, seed=1)
    alone.fit(*sides([0], [1], 3 * num), columns, train, bad[:400])
    assert roc_auc(bad[400:], alone.score(test)) < 0.65


def test_the_same_seed_gives_the_same_scores_and_another_one_others():
    graphs, _, columns, labels = random_data()
    first, again, other = (
        SageModel(width=6, fanout=2, epochs=4, seed=seed)
        .fit(*graphs, columns, np.arange(30), labels)
        .score(np.arange(30))
        for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1e-4


def test_a_score_depends_on_no_other_address_that_is_asked_for():
    graphs, _, columns, labels = random_data()
    model = SageModel(width=6, fanout=2, epochs=4)
    model.fit(*graphs, columns, np.arange(30), labels)
    together = model.score(np.arange(30))
    alone = [float(model.score([node])[0]) for node in range(30)]
    np.testing.assert_allclose(together, alone, atol=1e-6)
    np.testing.assert_allclose(model.score(np.arange(29, -1, -1)), together[::-1], atol=1e-6)
    assert model.score([]).tolist() == []


def test_scores_are_set_back_to_the_share_of_illicit_labels():
    rng = np.random.default_rng(5)
    size = 2_000
    columns = rng.normal(0, 1, (size, 2))
    labels = rng.random(size) < 0.05 + 0.1 * (columns[:, 0] > 1)
    model = SageModel(width=8, epochs=30).fit(
        *sides([0], [1], size), columns, np.arange(size), labels
    )
    assert abs(model.score(np.arange(size)).mean() - labels.mean()) < 0.03


def test_it_stops_when_addresses_held_out_gain_no_more_and_keeps_the_best_pass():
    graphs, _, columns, labels = random_data(2)
    model = SageModel(width=8, epochs=200, patience=3, rate=0.03)
    model.fit(
        *graphs, columns, np.arange(20), labels[:20], validation=(np.arange(20, 30), labels[20:])
    )
    assert len(model.history) < 200
    assert np.argmin(model.history) == len(model.history) - 4


def test_a_model_from_a_file_scores_the_same_and_also_new_addresses(tmp_path):
    graphs, (src, dst, amount), columns, labels = random_data()
    model = SageModel(width=6, epochs=3).fit(*graphs, columns, np.arange(30), labels)
    model.save(tmp_path / "sage.safetensors")
    read = SageModel.load(tmp_path / "sage.safetensors")
    with pytest.raises(InvalidInput, match="with `on`"):
        read.score([0])
    read.on(*graphs, columns)
    np.testing.assert_array_equal(read.score(np.arange(30)), model.score(np.arange(30)))
    larger = sides(np.append(src, 0), np.append(dst, 30), 31, np.append(amount, 1.0))
    read.on(*larger, np.vstack([columns, columns[:1]]))
    assert 0 < read.score([30])[0] < 1
    assert [path.name for path in tmp_path.iterdir()] == ["sage.safetensors"]


def test_damaged_files_are_refused(tmp_path):
    graphs, _, columns, labels = random_data()
    model = SageModel(width=4, epochs=1).fit(*graphs, columns, np.arange(30), labels)
    path = tmp_path / "sage.safetensors"
    model.save(path)
    content = path.read_bytes()
    tensors = load_file(path)
    with safe_open(path, "np") as stored:
        about = stored.metadata()
    for broken in (b"", content[: len(content) // 2], b"\0" * 100):
        path.write_bytes(broken)
        with pytest.raises(ArtifactError, match=r"SageModel\.save.*fit it again"):
            SageModel.load(path)
    for odd in (
        {"W_D3C": tensors["W_D3C"][:, :-1].copy()},
        {"b_D": np.full_like(tensors["b_D"], np.nan)},
    ):
        save_file(tensors | odd, path, about)
        with pytest.raises(ArtifactError, match="fit it again"):
            SageModel.load(path)
    save_file(tensors, path, {"about": '{"format": "other"}'})
    with pytest.raises(ArtifactError, match="not `chopmark-sage`"):
        SageModel.load(path)
    with pytest.raises(ArtifactError, match="nothing-there"):
        SageModel.load(tmp_path / "nothing-there")


def test_what_does_not_fit_together_is_refused():
    (out, into), (src, dst, _), columns, labels = random_data()
    ids = np.arange(30)
    fit = SageModel(width=4, epochs=1).fit
    with pytest.raises(
        InvalidInput, match=r'graph_out made with directed="out".*got directed="in"'
    ):
        fit(into, out, columns, ids, labels)
    with pytest.raises(InvalidInput, match="two graphs of the same addresses, got 30 and 31"):
        fit(out, sides(src, dst, 31)[1], columns, ids, labels)
    with pytest.raises(InvalidTable, match="each of 30 addresses, got 29"):
        fit(out, into, columns[:-1], ids, labels)
    with pytest.raises(InvalidInput, match="ids of 0 to 29, got 30 in row 0"):
        fit(out, into, columns, ids + 30, labels)
    with pytest.raises(InvalidTable, match=r"labels of 0 and 1, got .*2.* in row 4"):
        fit(out, into, columns, ids, np.where(ids == 4, 2, labels))
    with pytest.raises(InvalidTable, match="two illicit addresses"):
        fit(out, into, columns, ids, np.zeros(30))
    with pytest.raises(InvalidTable, match="label for each of 30 ids"):
        fit(out, into, columns, ids, labels[:-1])
    with pytest.raises(InvalidInput, match="call `fit`"):
        SageModel().score([0])
    model = fit(out, into, columns, ids, labels)
    with pytest.raises(InvalidTable, match=r"the 3 columns .* got 2"):
        model.on(out, into, columns[:, :2])
    with pytest.raises(InvalidInput, match="ids of 0 to 29, got -1"):
        model.score([-1])


@pytest.mark.parametrize(
    "option", [{"width": 0}, {"fanout": 2.5}, {"dropout": 1.0}, {"rate": 0.0}, {"seed": -1}]
)
def test_options_that_cannot_be_are_refused(option):
    with pytest.raises(DeclarationError, match=f"`{next(iter(option))}` of SageModel"):
        SageModel(**option)


def test_a_missing_torch_is_answered_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.delitem(sys.modules, "chopmark.graph.sage")
    with pytest.raises(MissingExtra, match=r"pip install 'chopmark\[deep\]'"):
        import_module("chopmark.graph.sage")


def test_phishers_of_a_real_graph_are_told_from_other_accounts():
    path = DATA / "graph" / "eth_phishing_tedge_edges.parquet"
    if not path.exists():
        pytest.skip(f"no real graph at {path}; set CHOPMARK_DATA to the folder of data sets")
    edges = pl.read_parquet(path)
    labels = pl.read_parquet(DATA / "graph" / "eth_phishing_tedge_labels.parquet")
    src, dst, amount, time = (
        edges[name].to_numpy() for name in ("src", "dst", "amount", "timestamp")
    )
    size = int(max(src.max(), dst.max(), labels["node"].max())) + 1
    columns = Behaviour.of(src, dst, amount, time.astype(float), num_nodes=size)
    columns = columns.features(hops=0)[1]
    train, test = labels.filter("is_train"), labels.filter("is_test")
    model = SageModel(width=32, epochs=12)
    model.fit(*sides(src, dst, size, amount), columns, train["node"], train["label"])
    assert roc_auc(test["label"], model.score(test["node"])) > 0.96

"""Node2Vec: what it learns, what an update leaves alone, and what a folder holds after a kill."""

import json
import shutil
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest

from chopmark.errors import DeclarationError, InvalidInput, StoreError
from chopmark.graph.adjacency import Graph
from chopmark.graph.alignment import aligned, rotation
from chopmark.graph.ledger import Ledger
from chopmark.graph.node2vec import Node2Vec
from chopmark.graph.walks import walk
from chopmark.graph.walkstore import WalkStore

OPTIONS = {"num_walks": 6, "length": 12, "rate": 0.1, "q": 2.0}


def towns(seed=0, size=120, edges=700):
    """Two halves that trade within; few edges lead over."""
    rng = np.random.default_rng(seed)
    src = rng.integers(0, size, edges)
    half = size // 2
    dst = (src // half) * half + rng.integers(0, half, edges)
    return np.append(src, [1, 2]), np.append(dst, [half + 1, half + 2])


def town_graph():
    return Graph.of_edges(*towns(), weight="count", keep_amounts=True)


def fitted(**options):
    return Node2Vec(8, **{**OPTIONS, **options}).fit(town_graph())


def same(one, two):
    return (
        np.array_equal(one.vectors, two.vectors)
        and np.array_equal(one.model.contexts, two.model.contexts)
        and (one.version, one.mark, one.space) == (two.version, two.mark, two.space)
    )


def cosines(vectors):
    vectors = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors @ vectors.T


def test_nodes_of_one_town_are_near():
    like = cosines(fitted().vectors)
    within = (like[:60, :60].mean() + like[60:, 60:].mean()) / 2
    assert within > like[:60, 60:].mean() + 0.3


def test_the_kept_walks_are_those_of_the_graph_in_a_shuffled_order():
    model = fitted()
    walks = model.store.walks
    assert (np.sort(walks[:120, 0]) == np.arange(120)).all()
    assert (walks[:120, 0] != np.arange(120)).any()
    again = walk(town_graph(), walks[:, 0], length=12, q=2.0, seed=0)
    assert (walks == again).all()


def test_progress_is_told_and_a_fit_that_is_cut_off_changes_nothing():
    model = fitted()
    before = model.vectors.copy()
    told = []

    def stop(share):
        told.append(share)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        model.fit(town_graph(), stop)
    assert told == [1 / 6]
    assert model.version == 1
    assert (model.vectors == before).all()


@pytest.mark.parametrize("keep_walks", [True, False])
def test_what_is_saved_is_opened_as_it_was_and_updated_as_it_would_have_been(tmp_path, keep_walks):
    model = fitted(keep_walks=keep_walks, space="towns")
    model.mark = 7
    model.save(tmp_path / "model")
    opened = Node2Vec.open(tmp_path / "model", thorough=True)
    assert same(model, opened)
    assert opened.options == model.options
    graph, touched = model.graph.with_edges([3, 120], [70, 4])
    mapped, touched_too = opened.graph.with_edges([3, 120], [70, 4])
    assert (touched == touched_too).all()
    model.update(graph, touched, mark=8)
    opened.update(mapped, touched, mark=8)
    assert same(model, opened)
    assert opened.mark == 8
    assert opened.version == 2
    opened.save(tmp_path / "model")
    assert same(model, Node2Vec.open(tmp_path / "model", thorough=True))
    names = sorted(path.name for path in (tmp_path / "model").iterdir())
    assert names == ["000002", "current.json"]


def test_a_save_that_was_killed_leaves_the_model_of_before(tmp_path):
    folder = tmp_path / "model"
    model = fitted()
    model.save(folder)
    # Killed while it wrote, and killed before the name was changed over.
    shutil.copytree(folder / "000001", folder / ".000002-abc")
    (folder / ".000002-abc" / "vectors.npy").write_bytes(b"half")
    shutil.copytree(folder / "000001", folder / "000002")
    (folder / "000002" / "about.json").unlink()
    assert same(Node2Vec.open(folder, thorough=True), model)
    model.update(*model.graph.with_edges([0], [61]))
    model.save(folder)
    assert same(Node2Vec.open(folder, thorough=True), model)
    assert len(list(folder.iterdir())) == 2


def test_a_run_killed_between_the_ledger_and_the_vectors_goes_on_from_its_mark(tmp_path):
    def blocks(first, seed, rows):
        rng = np.random.default_rng(seed)
        names = [f"0x{number:040x}" for number in range(60)]
        block = np.sort(rng.integers(first, first + 10, rows))
        begin = datetime(2024, 1, 1, tzinfo=UTC)
        return pl.DataFrame(
            {
                "sender": [names[i] for i in rng.integers(0, 50 + first, rows)],
                "receiver": [names[i] for i in rng.integers(0, 50 + first, rows)],
                "amount": rng.random(rows),
                "happened_at": [begin + timedelta(minutes=int(one)) for one in block],
                "block": block,
                "tx": [f"{first}-{row}" for row in range(rows)],
                "place": np.zeros(rows, dtype=np.int64),
                "asset": [""] * rows,
            },
            schema_overrides={"happened_at": pl.Datetime("us", "UTC")},
        )

    def catch_up(ledger, model):
        came, went = ledger.since(model.mark)
        assert not len(went)
        graph, touched = model.graph.with_edges(came.columns["src"], came.columns["dst"])
        return model.update(graph, touched, mark=ledger.mark)

    ledger = Ledger.create(tmp_path / "ledger")
    ledger.append(blocks(0, 0, 300))
    rows = ledger.columns()
    model = Node2Vec(8, **OPTIONS).fit(Graph.of_edges(rows["src"], rows["dst"]), mark=ledger.mark)
    model.save(tmp_path / "model")
    ledger.append(blocks(10, 1, 9))
    # Killed here: the ledger has the rows, the folder has not.
    opened = Node2Vec.open(tmp_path / "model")
    assert opened.mark < Ledger.open(tmp_path / "ledger").mark
    catch_up(Ledger.open(tmp_path / "ledger"), opened)
    assert same(opened, catch_up(ledger, model))
    assert opened.mark == ledger.mark
    assert opened.num_nodes > 50


def test_an_update_teaches_new_nodes_and_leaves_the_others_where_they_are():
    model = fitted(rate=0.05, num_walks=20)
    before = model.vectors.copy()
    graph, touched = model.graph.with_edges([120] * 3, [3, 9, 27])
    model.update(graph, touched)
    assert model.vectors.shape == (121, 8)
    like = cosines(model.vectors)[120]
    assert like[:60].mean() > like[60:120].mean() + 0.3
    apart = np.setdiff1d(np.arange(120), touched)
    kept = (before[apart] * model.vectors[apart]).sum(axis=1)
    kept /= np.linalg.norm(before[apart], axis=1) * np.linalg.norm(model.vectors[apart], axis=1)
    assert kept.mean() > 0.98
    assert model.drift.cosine == pytest.approx(kept.mean(), abs=1e-5)
    assert model.num_redone < 0.06 * 121 * 20 * 12


def test_contexts_of_nodes_that_are_not_touched_stay():
    model = fitted()
    before = model.model.contexts.copy()
    graph, touched = model.graph.with_edges([3, 4], [70, 80])
    model.update(graph, touched)
    differs = (model.model.contexts != before).any(axis=1)
    assert differs[touched].all()
    assert set(np.flatnonzero(differs)) <= set(touched.tolist())


def test_an_update_of_nothing_changes_no_vector():
    model = fitted()
    before = model.vectors.copy()
    model.update(model.graph, [])
    assert (model.vectors == before).all()
    assert model.num_redone == 0
    assert model.version == 2


@pytest.mark.parametrize("mode", ["coupled", "resume"])
def test_kept_walks_after_updates_are_walks_of_the_graph(mode):
    model = fitted()
    rng = np.random.default_rng(5)
    for _ in range(12):
        graph, touched = model.graph.with_edges(*rng.integers(0, model.num_nodes + 2, (2, 4)))
        if rng.random() < 0.3:
            node = int(touched[0])
            graph, gone = graph.without_edges([node], [int(graph.row(node)[0])])
            touched = np.union1d(touched, gone)
        model.update(graph, touched, mode=mode)
        walks = model.store.walks
        assert len(walks) == 6 * graph.num_nodes
        assert (np.bincount(walks[:, 0]) == 6).all()
        rows = [set(graph.row(node).tolist()) for node in range(graph.num_nodes)]
        for one, two in zip(walks[:, :-1].ravel(), walks[:, 1:].ravel(), strict=True):
            assert one < 0 or two in rows[one] or (two < 0 and not rows[one])


def test_the_cheap_mode_needs_no_walks_and_ends_exact_repair():
    model = fitted(keep_walks=False)
    assert model.store is None
    graph, touched = model.graph.with_edges([3, 120], [70, 4])
    model.update(graph, touched)
    assert model.num_nodes == 121
    assert model.num_redone == 6 * 12 * len(touched)
    with pytest.raises(InvalidInput, match="keep_walks=True"):
        model.update(graph, touched, mode="coupled")
    kept = fitted()
    kept.update(graph, touched, mode="cheap")
    assert kept.store is None


def test_an_update_that_cannot_be_is_refused_before_anything_changes():
    model = fitted()
    before = model.vectors.copy(), model.store.walks.copy()
    graph, touched = model.graph.with_edges([3], [70])
    other = Graph.of_edges(*towns(), weight="amount", amount=np.ones(702), keep_amounts=True)
    bare = Graph.of_edges(*towns(), weight="count")
    for call, message in [
        (lambda: model.update(graph, [500]), "0 to 119, got 500"),
        (lambda: model.update(graph, [0.5]), "whole numbers"),
        (lambda: model.update(graph, touched, mode="coupld"), "did you mean `?coupled"),
        (lambda: model.update(other, touched), "weight='count', got 'amount'"),
        (lambda: model.update(bare, touched), "keep_amounts=True"),
        (lambda: model.update(Graph.of_edges([0], [1], weight="count"), [0]), "120 nodes or more"),
        (lambda: Node2Vec(8).update(graph, touched), "call `fit` first"),
        (lambda: Node2Vec(8).fit(Graph.of_edges([], [])), "a graph with edges"),
    ]:
        with pytest.raises(InvalidInput, match=message):
            call()
    assert model.version == 1
    assert (model.vectors == before[0]).all()
    assert (model.store.walks == before[1]).all()


def test_more_walks_than_numbers_go_are_refused_before_anything_changes(monkeypatch):
    model = fitted()
    graph, touched = model.graph.with_edges([3], [120])
    monkeypatch.setattr(WalkStore, "__len__", lambda _: 2**31 - 1)
    with pytest.raises(InvalidInput, match=r"fewer than 2\^31 walks to keep"):
        model.update(graph, touched)
    assert (model.version, model.num_nodes) == (1, 120)


@pytest.mark.parametrize(
    "options", [{"num_walks": 0}, {"p": 0.0}, {"q": float("inf")}, {"seed": -1}, {"max_degree": 0}]
)
def test_options_that_cannot_be_are_refused(options):
    with pytest.raises(DeclarationError, match=f"`{next(iter(options))}` of Node2Vec"):
        Node2Vec(8, **options)


def test_damaged_and_foreign_folders_are_told_apart_from_sound_ones(tmp_path):
    folder = tmp_path / "model"
    model = fitted()
    model.save(folder)
    sound = {
        path: path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }  # fmt: skip
    for path, content in sound.items():
        flipped = bytearray(content)
        flipped[len(content) // 2] ^= 0x10
        path.write_bytes(bytes(flipped))
        try:
            opened = Node2Vec.open(folder, thorough=True)
        except StoreError:
            pass
        else:  # in the text of a description, or in room: what holds must not have changed
            assert path.suffix == ".json" or flipped[len(content) // 2] == 0x10
            assert np.array_equal(opened.vectors, model.vectors)
            assert np.array_equal(opened.store.walks, model.store.walks)
            assert np.array_equal(opened.graph.neighbours, model.graph.neighbours)
        path.write_bytes(content[:-1] if path.suffix == ".npy" else b"{")
        with pytest.raises(StoreError):
            Node2Vec.open(folder)
        path.write_bytes(content)
    current = json.loads((folder / "current.json").read_text())
    (folder / "current.json").write_text(json.dumps(current | {"folder": "../000001"}))
    with pytest.raises(StoreError, match="names no folder"):
        Node2Vec.open(folder)
    (folder / "current.json").write_text(json.dumps(current | {"version": 9}))
    with pytest.raises(StoreError, match="of version 2"):
        Node2Vec.open(folder)
    with pytest.raises(StoreError, match=r"no `current\.json`"):
        Node2Vec.open(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(StoreError, match="choose another name"):
        model.save(tmp_path / "mine")
    with pytest.raises(InvalidInput, match="call `fit` first"):
        Node2Vec(8).save(tmp_path / "none")


def test_a_turned_space_is_turned_back():
    rng = np.random.default_rng(0)
    before = rng.normal(size=(400, 6)).astype(np.float32)
    turn = np.linalg.qr(rng.normal(size=(6, 6)))[0].astype(np.float32)
    found, drift = aligned(before @ turn.T, before, np.arange(400))
    assert np.abs(found - turn).max() < 1e-5
    assert drift.aligned_cosine > 0.99999 > drift.cosine + 0.5
    with pytest.raises(InvalidInput, match="one shape"):
        rotation(before, before[:5])
    with pytest.raises(InvalidInput, match="finite"):
        rotation(before * np.nan, before)


def test_a_space_learned_anew_is_turned_onto_the_last_one():
    last = fitted(space="towns")
    anew = Node2Vec(8, **OPTIONS, seed=5).fit(town_graph())
    turned = Node2Vec(8, **OPTIONS, seed=5).fit(town_graph(), like=last)
    assert (turned.space, turned.version) == ("towns", 2)
    assert turned.drift.aligned_cosine > turned.drift.cosine + 0.1
    assert np.allclose(cosines(anew.vectors), cosines(turned.vectors), atol=1e-4)
    products = anew.vectors @ anew.model.contexts.T
    assert np.allclose(products, turned.vectors @ turned.model.contexts.T, atol=1e-4)
    with pytest.raises(InvalidInput, match="width 4"):
        Node2Vec(4).fit(town_graph(), like=last)

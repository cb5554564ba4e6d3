"""What an update of Node2Vec costs beside learning anew, and what it is worth.

    python benchmarks/graph/dynamic.py [--edges 100000 1000000] [--touched 0.01]
        [--modes coupled resume cheap] [--num-walks 10] [--p 1] [--q 1] [--no-retrain]

A graph of skewed degrees in communities; 5 of 100 transfers are held out. The last ones, as many
as touch the given share of nodes (some of them new), come after the model was fitted. Printed are
CPU seconds of a fit on the graph with them and of the update, the share of steps that were walked
anew, how often new edges are walked beside fresh walks (1 is right), and how well inner products
of vectors tell held-out edges from pairs drawn by degree: ROC-AUC of all, and of those that have
a touched node. Without `--no-retrain` the same is printed of the model learned anew and of the one
that was not updated.
"""

from __future__ import annotations

import argparse
from time import process_time

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from chopmark.graph.adjacency import Graph
from chopmark.graph.node2vec import Node2Vec
from chopmark.graph.repair import new_edge_ratio
from chopmark.graph.walkstore import WalkStore


def transfers(num_edges: int, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ten transfers a node; 4 of 5 stay in a community of 100, popular ones have most."""
    rng = np.random.default_rng(seed)
    size, group = num_edges // 10, 100
    names = rng.permutation(size)

    def popular(most: int) -> NDArray[np.int64]:
        return (most * rng.random(num_edges) ** 2.5).astype(np.int64)

    home = rng.integers(0, size // group, num_edges) * group
    src = home + popular(group)
    near = rng.random(num_edges) < 0.8
    dst = np.where(near, home + popular(group), popular(size))
    apart = src != dst
    return names[src[apart]], names[dst[apart]]


def auc(vectors: NDArray[np.float32], held: NDArray[np.int64], apart: NDArray[np.int64]) -> float:
    """Of inner products: (2, m) held-out pairs before (2, m) pairs without an edge."""
    one, two = ((vectors[a] * vectors[b]).sum(axis=1) for a, b in (held, apart))
    ranks = rankdata(np.concatenate([one, two]))[: len(one)]
    return float((ranks.sum() - len(one) * (len(one) + 1) / 2) / (len(one) * len(two)))


def run(num_edges: int, share: float, modes: list[str], *, retrain: bool, options: dict) -> None:
    src, dst = transfers(num_edges, seed=1)
    rng = np.random.default_rng(2)
    held = rng.random(len(src)) < 0.05
    pairs = np.stack([src, dst])
    test, pairs = pairs[:, held], pairs[:, ~held]
    # The last transfers, until they touch so many nodes.
    wanted = int(share * num_edges / 10)
    last = pairs[:, ::-1][:, : 4 * wanted]
    first_seen = np.unique(last.T.ravel(), return_index=True)[1]
    num_last = (np.sort(first_seen)[wanted - 1] + 2) // 2
    base, new = pairs[:, :-num_last], pairs[:, -num_last:]
    # Some nodes are seen for the first time.
    unseen = np.unique(new)[::20]
    base = base[:, ~np.isin(base, unseen).any(axis=0)]
    # Ids in order of first appearance, as an address book gives them.
    order = np.unique(np.concatenate([base, new, test], axis=1).T.ravel(), return_index=True)
    ids = np.empty(int(order[0].max()) + 1, dtype=np.int64)
    ids[order[0]] = np.argsort(np.argsort(order[1]))
    base, new, test = ids[base], ids[new], ids[test]
    warm(options)
    kind = {"weight": "count", "keep_amounts": True}
    graph = Graph.of_edges(*base, **kind)
    began = process_time()
    after, touched = graph.with_edges(*new)
    spent = process_time() - began
    known = (test < after.num_nodes).all(axis=0)
    test = test[:, known]
    by_degree = rng.permutation(test[1])
    apart = np.stack([test[0], by_degree])
    near = np.zeros(after.num_nodes, dtype=bool)
    near[touched] = True
    some = near[test].any(axis=0)
    print(
        f"{num_edges:,} transfers, {graph.num_nodes:,} nodes; {new.shape[1]:,} new ones touch "
        f"{len(touched):,} nodes ({after.num_nodes - graph.num_nodes:,} new); {spent:.3f} s to add"
    )

    def line(name: str, vectors: NDArray[np.float32], spent: float, more: str = "") -> None:
        full = np.zeros((after.num_nodes, vectors.shape[1]), dtype=np.float32)
        full[: len(vectors)] = vectors
        print(
            f"  {name:16s} {spent:8.2f} CPU s   AUC {auc(full, test, apart):.4f}   touched "
            f"{auc(full, test[:, some], apart[:, some]):.4f}   {more}",
            flush=True,
        )

    began = process_time()
    model = Node2Vec(**options).fit(graph)
    fitted = process_time() - began
    line("not updated", model.vectors, fitted)
    if retrain:
        began = process_time()
        anew = Node2Vec(**options).fit(after)
        fitted = process_time() - began
        line("learned anew", anew.vectors, fitted)
        del anew
    total = after.num_nodes * model.num_walks * model.length
    assert model.store is not None
    vectors, contexts = model.vectors.copy(), model.model.contexts.copy()
    walks, index = model.store.walks, model.store.index
    for mode in modes:
        again = Node2Vec(**options)
        again.graph, again.version, again._visits = graph, 1, model._visits.copy()
        again.model.vectors, again.model.contexts = vectors.copy(), contexts.copy()
        again.store = WalkStore(walks.copy(), graph.num_nodes, index=index)
        began = process_time()
        again.update(after, touched, mode=mode)
        spent = process_time() - began
        ratio = float("nan")
        if again.store is not None:
            options_then = {"p": again.p, "q": again.q, "seed": 99}
            ratio = new_edge_ratio(again.store.walks, after, *new, **options_then)
        cosine = again.drift.cosine if again.drift else float("nan")
        line(
            mode, again.vectors, spent,
            f"{spent / fitted:.2%} of a fit; {again.num_redone / total:.2%} of steps; new-edge "
            f"ratio {ratio:.3f}; cosine of untouched nodes {cosine:.4f}",
        )  # fmt: skip


def warm(options: dict) -> None:
    """Compile all that is timed."""
    graph = Graph.of_edges([0, 1, 2], [1, 2, 3], weight="count", keep_amounts=True)
    after, touched = graph.with_edges([3], [4])
    for mode in ("coupled", "resume", "cheap"):
        Node2Vec(**options).fit(graph).update(after, touched, mode=mode)


def main() -> None:
    """Read the command line and run."""
    reader = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    reader.add_argument("--edges", type=int, nargs="+", default=[100_000, 1_000_000])
    reader.add_argument("--touched", type=float, default=0.01)
    reader.add_argument("--modes", nargs="+", default=["coupled", "resume", "cheap"])
    reader.add_argument("--no-retrain", action="store_true")
    reader.add_argument("--p", type=float, default=1.0)
    reader.add_argument("--q", type=float, default=1.0)
    reader.add_argument("--num-walks", type=int, default=10)
    given = reader.parse_args()
    options = {"dim": 64, "num_walks": given.num_walks, "length": 40, "p": given.p, "q": given.q}
    for num_edges in given.edges:
        run(num_edges, given.touched, given.modes, retrain=not given.no_retrain, options=options)


if __name__ == "__main__":
    main()

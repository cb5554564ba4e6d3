"""Embeddings of graphs: skip-gram beside gensim on the same walks, ProNE and FastRP beside both.

    embeddings.py                               PPI and BlogCatalog, widths 64 and 128, 3 seeds
    embeddings.py --graphs ppi --dims 128 --seeds 0 1

A seed is a split of the edges, its walks (10 from every node, 40 steps), and a first vector.
Links: of 80 % of the edges, the rest is told from pairs that are no edge, by a logistic regression
on products of the two vectors; ROC-AUC. The pairs are drawn evenly, or (`matched`) in proportion
to degree, as otherwise the degree is most of the answer.
Classes: of the whole graph; one logistic regression per class on unit vectors of half of the
nodes, 5 splits; each other node gets as many classes as it has; F1.
Speed: seconds of processor of training alone, one thread; for gensim with its vocabulary and its
taking of words. The ratio is gensim's to ours on the same walks, in turns.

gensim is installed in an environment of its own. Graphs are `graph/*.parquet` in the folder that
CHOPMARK_DATA names, or in ../shared/data.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from time import process_time

import numpy as np
import polars as pl
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score, roc_auc_score

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import number, one_core, parser, progress, ratio, report, runs, table
from tabular.run import ROOT, Environment, prepare

from chopmark.graph.adjacency import Graph
from chopmark.graph.skipgram import SkipGram
from chopmark.graph.spectral import fastrp, prone
from chopmark.graph.walks import walk

HERE = Path(__file__).resolve().parent
DATA = Path(os.environ.get("CHOPMARK_DATA", ROOT.parent / "shared" / "data")) / "graph"
PEER = Environment(ROOT / ".venv-graph-words", HERE / "embeddings_peers.txt")

GRAPHS = ("ppi", "blogcatalog", "email_eu_core")
OTHER = {
    "ProNE": lambda graph, dim, seed: prone(graph, dim, seed=seed),
    "FastRP": lambda graph, dim, seed: fastrp(graph, dim, seed=seed),
}
MEASURES = ("links", "links, matched", "F1 micro", "F1 macro")


def main() -> None:
    """Measure and print Markdown."""
    arguments = parser(__doc__)
    arguments.add_argument("--graphs", nargs="+", choices=GRAPHS, default=GRAPHS[:2])
    arguments.add_argument("--dims", nargs="+", type=int, default=[64, 128])
    arguments.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    arguments.add_argument("--sharing", type=int, nargs="+", default=[1], help="of SkipGram")
    given = arguments.parse_args()
    prepare(PEER)
    with report("Embeddings of graphs"):
        for name in given.graphs:
            for dim in given.dims:
                measure(name, dim, given.seeds, given.sharing)


def measure(name: str, dim: int, seeds: list[int], sharing: list[int]) -> None:
    """One table: rows are ways to embed, columns are means over seeds."""
    edges, classes = read(name)
    found: dict[str, list[list[float]]] = {}
    for seed in seeds:
        draws = np.random.default_rng(seed)
        order = draws.permutation(len(edges))
        train, test = edges[order[len(edges) // 5 :]], edges[order[: len(edges) // 5]]
        whole, part = (
            Graph.of_edges(chosen[:, 0], chosen[:, 1], num_nodes=len(classes))
            for chosen in (edges, train)
        )
        for way, vectors in embedded(whole, part, dim, seed, sharing).items():
            (of_whole, of_part), seconds = vectors
            row = [*links(of_part, edges, train, test, seed), *labels(of_whole, classes), seconds]
            found.setdefault(way, []).append(row)
            progress(f"{name} {dim} {seed} {way}: " + " ".join(f"{value:.4f}" for value in row))
    print(f"### {name}, {len(classes):,} nodes, {len(edges):,} edges, width {dim}\n")
    peer = runs([row[-1] for row in found["gensim"]])
    table(
        ["way", *(f"{measure} %" for measure in MEASURES), "CPU s", "times gensim's speed"],
        [
            [
                way,
                *(f"{100 * value:.2f}" for value in np.mean(rows, axis=0)[:-1]),
                number(float(np.median([row[-1] for row in rows]))),
                ratio(runs([row[-1] for row in rows]), peer).text(),
            ]
            for way, rows in found.items()
        ],
    )


def read(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Edges once each, (m, 2); and which classes a node has, (n, classes) bool."""
    path = DATA / f"{name}_edges.parquet"
    if not path.exists():
        raise SystemExit(f"no graph at {path}; set CHOPMARK_DATA to the folder of data sets")
    edges = np.sort(pl.read_parquet(path).select("src", "dst").to_numpy().astype(np.int64), axis=1)
    edges = np.unique(edges[edges[:, 0] != edges[:, 1]], axis=0)
    labels = pl.read_parquet(DATA / f"{name}_labels.parquet").to_numpy().astype(np.int64)
    num = int(max(edges.max(), labels[:, 0].max())) + 1
    classes = np.zeros((num, labels[:, 1].max() + 1), dtype=bool)
    classes[labels[:, 0], labels[:, 1]] = True
    return edges, classes


def embedded(
    whole: Graph, part: Graph, dim: int, seed: int, sharing: list[int]
) -> dict[str, tuple[list[np.ndarray], float]]:
    """By way: vectors of the whole graph and of the part, and CPU seconds of both."""
    found: dict[str, tuple[list[np.ndarray], float]] = {}
    corpora = [corpus(graph, seed) for graph in (whole, part)]
    found["gensim"] = both([lambda c=c: gensim(c, dim, seed, whole.num_nodes) for c in corpora])
    for share in sharing:
        way = "SkipGram" if share == 1 else f"SkipGram, sharing {share}"
        SkipGram(dim, sharing=share).grow([1, 1]).train(np.array([[0, 1]]))  # compiled
        found[way] = both([lambda c=c, s=share: own(c, dim, seed, whole, s) for c in corpora])
    for way, call in OTHER.items():
        call(part, dim, seed)
        found[way] = both([
            lambda g=g, call=call: clocked(lambda: call(g, dim, seed)) for g in (whole, part)
        ])  # fmt: skip
    return found


def both(calls: list) -> tuple[list[np.ndarray], float]:
    """Vectors of each call, and the sum of their seconds."""
    results = [call() for call in calls]
    return [vectors for vectors, _ in results], sum(seconds for _, seconds in results)


def clocked(call) -> tuple[np.ndarray, float]:
    began = process_time()
    return call(), process_time() - began


def corpus(graph: Graph, seed: int) -> np.ndarray:
    """Ten walks from every node, round by round in a new order."""
    draws = np.random.default_rng(seed)
    live = np.flatnonzero(graph.counts)
    starts = np.concatenate([draws.permutation(live) for _ in range(10)])
    return walk(graph, starts, length=40, seed=seed)


def own(walks: np.ndarray, dim: int, seed: int, graph: Graph, sharing: int):
    visits = np.bincount(walks[walks >= 0], minlength=graph.num_nodes)
    return clocked(
        lambda: SkipGram(dim, seed=seed, sharing=sharing).grow(visits).train(walks).vectors
    )


def gensim(walks: np.ndarray, dim: int, seed: int, num_nodes: int) -> tuple[np.ndarray, float]:
    """Vectors of gensim, 0 where a node was not visited."""
    with tempfile.TemporaryDirectory() as folder:
        here, there = Path(folder) / "walks.npy", Path(folder) / "vectors.npy"
        np.save(here, walks)
        command = [str(PEER.python), str(HERE / "words.py"), str(here), str(dim), str(seed)]
        told = subprocess.run(
            [*command, str(there)], check=True, capture_output=True, text=True, env=one_core()
        )
        found = np.load(there)
    vectors = np.zeros((num_nodes, dim), dtype=np.float32)
    vectors[: len(found)] = found
    return vectors, json.loads(told.stdout.splitlines()[-1])["seconds"]


def links(vectors, edges, train, test, seed) -> list[float]:
    """ROC-AUC with negatives drawn evenly, and in proportion to degree."""
    draws = np.random.default_rng(seed + 1000)
    degrees = np.bincount(train.ravel(), minlength=len(vectors))
    test = test[(degrees[test] > 0).all(axis=1)]
    known = np.unique(edges[:, 0] * len(vectors) + edges[:, 1])
    results = []
    for ends in (np.flatnonzero(degrees), np.repeat(np.arange(len(vectors)), degrees)):
        parts = []
        for pairs in (train, test):
            true = pairs[draws.permutation(len(pairs))[:15_000]]
            false = negatives(ends, known, len(true), len(vectors), draws)
            both_ends = np.concatenate([true, false])
            products = vectors[both_ends[:, 0]] * vectors[both_ends[:, 1]]
            parts.append((products, np.repeat([1, 0], len(true))))
        scale = parts[0][0].std(axis=0) + 1e-12
        model = LogisticRegression(max_iter=200).fit(parts[0][0] / scale, parts[0][1])
        results.append(roc_auc_score(parts[1][1], model.decision_function(parts[1][0] / scale)))
    return results


def negatives(ends, known, count: int, num_nodes: int, draws) -> np.ndarray:
    """Pairs of these ends that are no edge."""
    found = np.empty((0, 2), dtype=np.int64)
    while len(found) < count:
        pairs = np.sort(draws.choice(ends, (count, 2)), axis=1)
        pairs = pairs[pairs[:, 0] != pairs[:, 1]]
        pairs = pairs[~np.isin(pairs[:, 0] * num_nodes + pairs[:, 1], known)]
        found = np.concatenate([found, pairs])
    return found[:count]


def labels(vectors, classes, *, num_splits: int = 5) -> list[float]:
    """Micro and macro F1, each the mean of the splits."""
    rows = np.flatnonzero(classes.any(axis=1))
    lengths = np.linalg.norm(vectors[rows], axis=1, keepdims=True)
    inputs, truth = vectors[rows] / np.maximum(lengths, 1e-12), classes[rows]
    results = []
    for split in range(num_splits):
        order = np.random.default_rng(split).permutation(len(rows))
        train, test = order[: len(rows) // 2], order[len(rows) // 2 :]
        scores = np.full((len(test), classes.shape[1]), -np.inf)
        for kind in np.flatnonzero(truth[train].any(axis=0)):
            model = LogisticRegression(C=10.0, max_iter=200)
            scores[:, kind] = model.fit(inputs[train], truth[train, kind]).decision_function(
                inputs[test]
            )
        ranks = (-scores).argsort(axis=1).argsort(axis=1)
        said = ranks < truth[test].sum(axis=1, keepdims=True)
        results.append([
            f1_score(truth[test], said, average=average, zero_division=0)
            for average in ("micro", "macro")
        ])  # fmt: skip
    return np.mean(results, axis=0).tolist()


if __name__ == "__main__":
    main()

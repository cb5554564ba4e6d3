"""What each kind of column says of the risk of an address.

    python benchmarks/graph/risk.py --folder ../shared/data/graph      all parts
    python benchmarks/graph/risk.py --parts chain dynamic --seeds 0 1

tedge     890 labelled accounts of Ethereum in a graph of 86,622 (T-EDGE; not shipped): 5 folds
          twice, settings of the trees chosen inside the first fold.
later     the same, by time: learned from is what was known when half of the phishers had come,
          and half of the licit accounts, which are nearly all older; judged are the later
          phishers and the other half, weighted up so that 2, 0.5 and 0.1 % are illicit.
chain     `simulate_chain` at 0.2 % illicit, 3 folds by group: no gang is on both sides, and there
          are licit structures of the shapes of crime. Ordinary addresses to learn from are a
          sample; all of a fold are judged.
dynamic   the last 10 % of days come after all was learned: vectors updated, spread to new
          addresses alone, left as they were, or none; or all learned anew, vectors and model, from
          the same addresses and today's behaviour. Judged are addresses that moved in these
          days, and the new ones of them; none of their groups was learned from. More is illicit
          than in `chain` (--illicit-dynamic), as a week has few new gangs.

Behaviour as it is (0 hops), with means over neighbours (1, 2 hops); "walks" are Node2Vec, p 0.5
and q 2, by log(1 + amount), and without weights at p = q = 1; "around" are means of the walks'
vectors over who was paid and who paid; "known bad" are shares of neighbours, one and two steps
away, that are illicit and in the learned folds, never of the own group. Trees are LightGBM;
"blend" is the mean of log-odds of trees and GraphSAGE. Numbers are appended to
build/benchmarks/risk.jsonl.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import lightgbm
import numpy as np
import polars as pl
from machine import BUILD, goal, parser, progress, report, table
from scipy import sparse
from scipy.stats import t as student

from chopmark.graph.adjacency import Graph
from chopmark.graph.behaviour import Behaviour
from chopmark.graph.node2vec import Node2Vec
from chopmark.graph.propagation import fill, propagate
from chopmark.graph.sage import SageModel
from chopmark.graph.spectral import csr_of, prone
from chopmark.models.metrics import pr_auc, roc_auc

PARTS = ("tedge", "later", "chain", "dynamic")
OWN = 42
"""Behaviour columns of an address alone."""

SETTINGS = {
    "plain": {"n_estimators": 200, "learning_rate": 0.05, "num_leaves": 31},
    "narrow": {
        "n_estimators": 300, "learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 5,
        "colsample_bytree": 0.3, "subsample": 0.7, "subsample_freq": 1,
    },
    "extra": {
        "n_estimators": 400, "learning_rate": 0.05, "num_leaves": 15, "min_child_samples": 5,
        "colsample_bytree": 0.3, "subsample": 0.7, "subsample_freq": 1, "extra_trees": True,
    },
}  # fmt: skip
RARE = SETTINGS["narrow"] | {"n_estimators": 200, "max_bin": 63}
"""For the simulated chain: few are illicit and rows are many."""

Arrays = dict[str, Any]


def main() -> None:
    """Read the command line and run."""
    arguments = parser(__doc__)
    arguments.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS)
    arguments.add_argument("--folder", type=Path, default=Path("../shared/data/graph"))
    arguments.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    arguments.add_argument("--addresses", type=int, default=60_000)
    arguments.add_argument("--illicit", type=float, default=0.002)
    arguments.add_argument("--illicit-dynamic", type=float, default=0.01)
    given = arguments.parse_args()
    with report("Risk of addresses"):
        if "tedge" in given.parts:
            tedge(given.folder)
        if "later" in given.parts:
            later(given.folder)
        if "chain" in given.parts:
            over_seeds(chain, given, given.illicit)
        if "dynamic" in given.parts:
            over_seeds(dynamic, given, given.illicit_dynamic)


# --- T-EDGE


def tedge(folder: Path) -> None:
    """Folds of the labelled accounts."""
    data = _read_tedge(folder)
    nodes, y, size = data["nodes"], data["y"], data["size"]
    edges = data["src"], data["dst"], data["amount"]
    own = Behaviour.of(*edges, data["time"], num_nodes=size).features(hops=2)[1]
    began = perf_counter()
    walks, flat = _walks(edges, size), _walks(edges, size, weighted=False)
    progress(f"Node2Vec twice: {perf_counter() - began:.0f} s")
    spectral = prone(Graph.of_edges(*edges[:2], num_nodes=size), 64)
    sides = _sides(edges, size)
    columns = {
        "behaviour, 0 hops": own[:, :OWN], "behaviour, 1 hop": own[:, : 3 * OWN],
        "behaviour, 2 hops": own, "0 hops + walks": np.hstack([own[:, :OWN], walks]),
        "2 hops + walks": np.hstack([own, walks]),
        "2 hops + walks, weighted and not": np.hstack([own, walks, flat]),
        "2 hops + ProNE": np.hstack([own, spectral]),
    }  # fmt: skip
    all_of_them = "2 hops + walks, weighted and not"
    folds = [fold for repeat in range(2) for fold in _folds(y, 5, repeat)]
    settings = _chosen(own[nodes[folds[0][0]]], y[folds[0][0]])
    scores: dict[str, list[Any]] = {}
    for name, table_of in columns.items():
        scores[name] = [
            _trees(table_of[nodes[learn]], y[learn], table_of[nodes[test]], SETTINGS[settings])
            for learn, test in folds
        ]  # fmt: skip
        progress(f"{name}: {_areas(scores[name], folds, y)[0].mean():.4f}")
    scores["GraphSAGE"] = [
        _sage(sides, own[:, :OWN], nodes[learn], y[learn]).score(nodes[test])
        for learn, test in folds
    ]
    scores["blend of 2 hops and GraphSAGE"] = _blends(scores, "behaviour, 2 hops")
    scores["blend of all and GraphSAGE"] = _blends(scores, all_of_them)
    lines = []
    for name, found in scores.items():
        roc, pr = _areas(found, folds, y)
        _note(part="tedge", arm=name, settings=settings, roc_auc=roc.tolist(), pr_auc=pr.tolist())
        error = pr.std(ddof=1) / len(pr) ** 0.5
        lines.append((name, f"{roc.mean():.4f}", f"{pr.mean():.4f} ± {error:.4f}"))
    print(f"T-EDGE, 5 folds twice; trees: {settings}, chosen inside the first fold.\n")
    table(["columns", "ROC-AUC", "PR-AUC"], lines)
    roc, pr = (areas.mean() for areas in _areas(scores[all_of_them], folds, y))
    print(
        f"ROC-AUC >= 0.990 {goal(roc, 0.990, least=True)}, PR-AUC >= 0.991 "
        f"{goal(pr, 0.991, least=True)} by: {all_of_them}.\n"
    )


def later(folder: Path) -> None:
    """Learn from accounts as they were at a moment; judge phishers that came after it."""
    data = _read_tedge(folder)
    nodes, y, size, time = data["nodes"], data["y"], data["size"], data["time"]
    edges = data["src"], data["dst"], data["amount"]
    first = np.full(size, np.inf)
    np.minimum.at(first, edges[0], time)
    np.minimum.at(first, edges[1], time)
    moment = float(np.median(first[nodes][y == 1]))
    known = time <= moment
    own = Behaviour.of(*edges, time, num_nodes=size).features(hops=2)[1]
    then = Behaviour.of(*edges, time, now=moment, num_nodes=size).features(hops=2)[1]
    walks, now = _walks(edges, size), _sides(edges, size)
    before = _sides([column[known] for column in edges], size)
    early = first[nodes] <= moment
    found: dict[str, list[list[float]]] = {}
    for repeat in range(5):
        half = np.random.default_rng(repeat).random(len(y)) < 0.5
        learn = np.flatnonzero(early & ((y == 1) | half))
        test = np.flatnonzero(np.where(y == 1, ~early, ~half))
        scores = {
            name: _trees(
                a[nodes[learn]], y[learn], b[nodes[test]], SETTINGS["extra"]
            )
            for name, a, b in (
                ("behaviour, 0 hops", then[:, :OWN], own[:, :OWN]),
                ("behaviour, 2 hops", then, own),
                ("2 hops + walks of the whole graph", np.hstack([then, walks]),
                 np.hstack([own, walks])),
            )
        }  # fmt: skip
        sage = _sage(before, then[:, :OWN], nodes[learn], y[learn]).on(*now, own[:, :OWN])
        scores["GraphSAGE"] = sage.score(nodes[test])
        scores["blend of 2 hops and GraphSAGE"] = _blend(
            scores["behaviour, 2 hops"], scores["GraphSAGE"]
        )
        for name, judged in scores.items():
            at = [_pr_auc_at(y[test], judged, share) for share in (0.02, 0.005, 0.001)]
            found.setdefault(name, []).append([roc_auc(y[test], judged), *at])
        progress(f"split by time, {repeat + 1} of 5")
    lines = []
    for name, areas in found.items():
        _note(part="later", arm=name, roc_auc_and_pr_auc_at_2_05_01_percent=areas)
        roc, *at = np.mean(areas, axis=0)
        low, high = np.min(areas, axis=0)[3], np.max(areas, axis=0)[3]
        lines.append(
            (name, f"{roc:.4f}", *(f"{area:.3f}" for area in at), f"{low:.3f} to {high:.3f}")
        )
    print(
        f"T-EDGE by time: {len(learn)} to learn from, {int(y[test].sum())} later phishers and "
        f"{int((y[test] == 0).sum())} licit ones to judge; means of 5 halves of the licit.\n"
    )
    table(["columns", "ROC-AUC", "PR-AUC at 2 %", "at 0.5 %", "at 0.1 %", "(range)"], lines)


def _read_tedge(folder: Path) -> Arrays:
    edges = pl.read_parquet(folder / "eth_phishing_tedge_edges.parquet")
    labels = pl.read_parquet(folder / "eth_phishing_tedge_labels.parquet")
    names = pl.concat([edges["src"], edges["dst"], labels["node"]]).unique(maintain_order=True)
    ids = dict(zip(names.to_list(), range(len(names)), strict=True))
    src, dst, nodes = (
        column.replace_strict(ids, return_dtype=pl.Int64).to_numpy()
        for column in (edges["src"], edges["dst"], labels["node"])
    )
    return {
        "src": src, "dst": dst, "amount": edges["amount"].to_numpy(), "size": len(names),
        "time": edges["timestamp"].cast(pl.Float64).to_numpy(), "nodes": nodes,
        "y": labels["label"].to_numpy().astype(np.int64),
    }  # fmt: skip


# --- the simulated chain


def over_seeds(part: Any, given: Any, illicit: float) -> None:
    """Run a part for all seeds; a table of PR-AUC and of ratios to the first arm."""
    found: dict[str, list[float]] = {}
    for seed in given.seeds:
        began = perf_counter()
        for name, area in part(_simulated(given.addresses, illicit, seed), seed).items():
            found.setdefault(name, []).append(area)
            _note(part=part.__name__, seed=seed, arm=name, pr_auc=area,
                  addresses=given.addresses, illicit=illicit)  # fmt: skip
        told = ", ".join(f"{name} {areas[-1]:.3f}" for name, areas in found.items())
        progress(f"{part.__name__}, seed {seed}: {told} ({perf_counter() - began:.0f} s)")
    first = next(iter(found))
    lines = []
    for name, areas in found.items():
        _, part_of, rows = name.partition(";")
        base = np.array(found[first + part_of + rows])
        low, ratio, high = _interval(np.log(np.array(areas) / base))
        lines.append((name, f"{np.mean(areas):.3f}", f"{ratio:.2f} ({low:.2f} to {high:.2f})"))
    print(f"{part.__name__}: {given.addresses:,} addresses, {illicit:.2%} illicit, "
          f"{len(given.seeds)} seeds; ratios with their 95 % interval.\n")  # fmt: skip
    table(["columns", "PR-AUC", f"ratio to {first}"], lines)


def chain(data: Arrays, seed: int) -> dict[str, float]:
    """Mean PR-AUC of 3 folds by group, for each set of columns."""
    edges, size, y, groups = data["edges"], data["size"], data["y"], data["groups"]
    own = Behaviour.of(*edges, num_nodes=size).features(hops=2)[1]
    walks = _walks(edges[:3], size, dim=32)
    sides = _sides(edges[:3], size)
    around = [propagate(side, walks, hops=1)[:, 0] for side in sides]
    of_fold = np.random.default_rng(seed).integers(0, 3, groups.max() + 1)[groups]
    scores: dict[str, list[Any]] = {}
    folds = []
    for fold in range(3):
        learn, test = np.flatnonzero(of_fold != fold), np.flatnonzero(of_fold == fold)
        sample = _sampled(learn, data, seed, 12_000)
        folds.append((learn, test))
        near = _known_bad(edges[:2], size, y * (of_fold != fold), groups)
        for name, parts in (
            ("behaviour, 0 hops", [own[:, :OWN]]), ("2 hops", [own]),
            ("0 hops + walks", [own[:, :OWN], walks]),
            ("2 hops + walks", [own, walks]), ("2 hops + walks + around", [own, walks, *around]),
            ("0 hops + known bad", [own[:, :OWN], near]),
            ("2 hops + walks + known bad", [own, walks, near]),
        ):  # fmt: skip
            columns = np.hstack(parts)
            scores.setdefault(name, []).append(
                _trees(columns[sample], y[sample], columns[test], RARE)
            )
        # Stops by groups that it does not learn from.
        rng = np.random.default_rng(seed + 99)
        gangs = np.unique(groups[sample][y[sample] == 1])
        others = np.setdiff1d(groups[sample], gangs)
        stops = [rng.permutation(some)[: len(some) // 5] for some in (gangs, others)]
        held = np.isin(groups[sample], np.concatenate(stops))
        rows, stop = sample[~held], sample[held]
        sage = _sage(sides, own[:, :OWN], rows, y[rows], (stop, y[stop]), quick=True)
        scores.setdefault("GraphSAGE", []).append(sage.score(test))
    scores["blend of 2 hops and GraphSAGE"] = _blends(scores, "2 hops")
    scores["blend of 2 hops, walks, known bad and GraphSAGE"] = _blends(
        scores, "2 hops + walks + known bad"
    )
    return {name: float(_areas(found, folds, y)[1].mean()) for name, found in scores.items()}


def dynamic(data: Arrays, seed: int) -> dict[str, float]:
    """PR-AUC of addresses that moved in the last 10 % of days, by what was done for vectors."""
    y, groups = data["y"], data["groups"]
    src, dst, amount, time = data["edges"]
    # Crime of the simulated chain begins in its first two thirds, to play out.
    begin, length = time.min(), (time.max() - time.min()) * 2 / 3
    seen, old = time <= begin + length, time <= begin + 0.9 * length
    new = seen & ~old
    known, size = (int(max(src[rows].max(), dst[rows].max())) + 1 for rows in (old, seen))
    moved = np.unique(np.concatenate([src[new], dst[new]]))
    judged = np.isin(groups, groups[moved])
    sample = _sampled(np.flatnonzero(~judged[:known]), data, seed, 12_000)
    then = Behaviour.of(src[old], dst[old], amount[old], time[old]).features(hops=2)[1][sample]
    today = Behaviour.of(src[seen], dst[seen], amount[seen], time[seen])
    now = today.features(moved, hops=2)[1]
    graph = Graph.of_edges(src[old], dst[old], amount[old], weight="log", keep_amounts=True)
    model = Node2Vec(32, num_walks=5, length=20, p=0.5, q=2.0, rate=0.05, seed=seed).fit(graph)
    before = model.vectors.copy()
    after, touched = graph.with_edges(src[new], dst[new], amount[new])
    stale = np.vstack([before, np.full((size - known, 32), np.nan, dtype=np.float32)])
    spread = fill(after, before, hops=2)[0]
    updated = model.update(after, touched).vectors
    anew = Node2Vec(32, num_walks=5, length=20, p=0.5, q=2.0, rate=0.05, seed=seed).fit(after)
    with_vectors = np.hstack([then[:, :OWN], before[sample]])
    arms = {"behaviour alone": (then[:, :OWN], now[:, :OWN]), "behaviour, 2 hops": (then, now)} | {
        name: (with_vectors, np.hstack([now[:, :OWN], vectors[moved]]))
        for name, vectors in (
            ("vectors of old addresses", stale), ("vectors spread to new addresses", spread),
            ("vectors updated", updated),
        )
    }  # fmt: skip
    arms["all learned anew"] = tuple(
        np.hstack([today.features(rows, hops=0)[1], anew.vectors[rows]]) for rows in (sample, moved)
    )
    fresh, label = moved >= known, y[moved]
    progress(
        f"learned from {int(y[sample].sum())} illicit of {len(sample):,}; judged "
        f"{int(label.sum())} of {len(moved):,}, of them new {int(label[fresh].sum())} of "
        f"{int(fresh.sum()):,}"
    )
    scores = {name: _trees(learn, y[sample], test, RARE) for name, (learn, test) in arms.items()}
    return {name: pr_auc(label, found) for name, found in scores.items()} | {
        f"{name}; new ones": pr_auc(label[fresh], found[fresh]) for name, found in scores.items()
    }


def _simulated(addresses: int, illicit: float, seed: int) -> Arrays:
    """A chain with ids in the order of appearance; each address without a group is its own."""
    from chopmark.datasets.chain import simulate_chain

    made = simulate_chain(num_addresses=addresses, days=90, seed=seed, illicit=illicit)
    rows = made.transfers.sort("happened_at", maintain_order=True)
    pairs = pl.DataFrame(
        {"a": pl.concat([rows["sender"], rows["receiver"]]), "row": 2 * list(range(len(rows)))}
    )
    names = pairs.sort("row", maintain_order=True)["a"].unique(maintain_order=True)
    ids = pl.DataFrame({"address": names, "id": np.arange(len(names))})
    src, dst = (
        rows.select(address=column).join(ids, on="address", how="left", maintain_order="left")["id"]
        for column in ("sender", "receiver")
    )
    truth = ids.join(made.truth, on="address", how="left", maintain_order="left")
    group = truth["group"].fill_null(truth["address"])
    return {
        "edges": (
            src.to_numpy(), dst.to_numpy(), rows["amount"].to_numpy(),
            rows["happened_at"].dt.epoch("us").to_numpy() / 1e6,
        ),
        "size": len(names), "y": truth["is_illicit"].to_numpy().astype(np.int64),
        "groups": np.unique(group.to_numpy().astype(str), return_inverse=True)[1],
        "is_ordinary": truth["group"].is_null().to_numpy(),
    }  # fmt: skip


def _sampled(learn: Any, data: Arrays, seed: int, most: int) -> Any:
    """Rows to learn from: all of structures, all illicit, and so many ordinary addresses."""
    plain = data["is_ordinary"][learn] & (data["y"][learn] == 0)
    ordinary = np.random.default_rng(seed).permutation(learn[plain])[:most]
    return np.sort(np.concatenate([learn[~plain], ordinary]))


def _known_bad(edges: Any, size: int, y: Any, groups: Any) -> Any:
    """(n, 4) shares of payees and payers, one and two steps away, that are bad in other groups."""
    bad = np.flatnonzero(y)
    column = np.unique(groups[bad], return_inverse=True)[1]
    names = groups[bad][np.unique(column, return_index=True)[1]]
    of_group = np.zeros((size, len(names)))
    of_group[bad, column] = 1.0
    own = groups[:, None] == names[None, :]
    found = []
    for directed in ("out", "in"):
        steps = csr_of(Graph.of_edges(*edges, num_nodes=size, directed=directed)).astype(float)
        steps = sparse.diags_array(1 / np.maximum(steps.sum(axis=1), 1e-12)) @ steps
        one = steps @ of_group
        found += [np.where(own, 0, one).sum(axis=1), np.where(own, 0, steps @ one).sum(axis=1)]
    return np.stack(found, axis=1)


# --- learners, folds and areas


def _walks(edges: Any, size: int, *, weighted: bool = True, dim: int = 64) -> Any:
    src, dst, amount = edges
    weight = "log" if weighted else None
    graph = Graph.of_edges(src, dst, amount if weighted else None, num_nodes=size, weight=weight)
    turn = {"p": 0.5, "q": 2.0} if weighted else {}
    model = Node2Vec(dim, num_walks=5, length=20, rate=0.05, keep_walks=False, **turn)
    return model.fit(graph).vectors


def _sides(edges: Any, size: int) -> list[Graph]:
    return [
        Graph.of_edges(*edges, num_nodes=size, directed=side, weight="log")
        for side in ("out", "in")
    ]  # fmt: skip


def _trees(learn: Any, y: Any, test: Any, settings: Arrays) -> Any:
    """Scores of two LightGBM models that differ by seed."""
    log_odds = [
        lightgbm.LGBMClassifier(**settings, n_jobs=1, verbose=-1, random_state=seed)
        .fit(learn, y)
        .predict(test, raw_score=True)
        for seed in range(2)
    ]
    return 1 / (1 + np.exp(-np.mean(log_odds, axis=0)))


def _sage(
    sides: list[Graph], columns: Any, nodes: Any, y: Any, validation: Any = None, *,
    quick: bool = False,
) -> SageModel:  # fmt: skip
    options = {"width": 32, "batch": 512, "epochs": 25, "patience": 5} if quick else {}
    return SageModel(**options).fit(*sides, columns, nodes, y, validation=validation)


def _blend(one: Any, two: Any) -> Any:
    """Mean of log-odds."""
    odds = [np.log(s / (1 - s)) for s in (np.clip(p, 1e-9, 1 - 1e-9) for p in (one, two))]
    return 1 / (1 + np.exp(-np.mean(odds, axis=0)))


def _blends(scores: dict[str, list[Any]], name: str) -> list[Any]:
    pairs = zip(scores[name], scores["GraphSAGE"], strict=True)
    return [_blend(one, two) for one, two in pairs]


def _chosen(columns: Any, y: Any) -> str:
    """The settings that are best in 3 folds of the rows given."""
    folds = list(_folds(y, 3, 7))

    def area(name: str) -> float:
        found = [_trees(columns[a], y[a], columns[b], SETTINGS[name]) for a, b in folds]
        return float(_areas(found, folds, y)[1].mean())

    return max(SETTINGS, key=area)


def _folds(y: Any, count: int, seed: int) -> Iterator[tuple[Any, Any]]:
    """Rows to learn from and to judge, with as many of both classes in each."""
    rng = np.random.default_rng(seed)
    fold = np.empty(len(y), dtype=np.int64)
    for kind in (0, 1):
        rows = rng.permutation(np.flatnonzero(y == kind))
        fold[rows] = np.arange(len(rows)) % count
    for number in range(count):
        yield np.flatnonzero(fold != number), np.flatnonzero(fold == number)


def _areas(found: list[Any], folds: list[tuple[Any, Any]], y: Any) -> tuple[Any, Any]:
    """ROC-AUC and PR-AUC of each fold."""
    pairs = [(y[test], scores) for scores, (_, test) in zip(found, folds, strict=True)]
    return tuple(np.array([area(*pair) for pair in pairs]) for area in (roc_auc, pr_auc))


def _pr_auc_at(y: Any, scores: Any, share: float) -> float:
    """PR-AUC with licit rows weighted so that this share of all is illicit."""
    order = np.argsort(-scores, kind="stable")
    y = y[order]
    weight = y.sum() * (1 - share) / share / (y == 0).sum()
    hits, misses = np.cumsum(y), np.cumsum(y == 0) * weight
    return float((hits / (hits + misses))[y == 1].mean())


def _interval(logs: Any) -> tuple[float, float, float]:
    """Low end, middle and high end of a ratio from its logarithms, by Student's t."""
    middle = logs.mean()
    half = 0.0
    if len(logs) > 1:
        half = student.ppf(0.975, len(logs) - 1) * logs.std(ddof=1) / len(logs) ** 0.5
    return tuple(float(np.exp(middle + shift)) for shift in (-half, 0, half))


def _note(**facts: Any) -> None:
    """One line of results."""
    with (BUILD / "risk.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps(facts) + "\n")


if __name__ == "__main__":
    main()

"""Walks side by side: chopmark, PecanPy, fastnode2vec, GRAPE, csrgraph, on one R-MAT graph.

    walks.py                                   1e5 edges, all walkers, one core
    walks.py --edges 1e7 --only chopmark       ours at scale: build, bytes, steps per second
    walks.py --only chopmark pecanpy --seconds 600

Each walker is a fresh process on one core with the same edges (R-MAT, amounts log-normal), and
walks 40 steps from each node that has neighbours, once (`--starts` of them at most). Steps per
CPU-second of the process, threads summed, best of 3, without imports, compilation and graph
building; a walker that is not done after `--seconds` is killed and reported so. Rivals run in an
environment of their own, which is made when it is missing. The last column is ours over theirs.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
OWN = ROOT / ".venv"
PEERS = ROOT / ".venv-graph"

TASKS = {
    "first order, unweighted": (False, 1.0, 1.0),
    "first order, weighted": (True, 1.0, 1.0),
    "second order p .5 q 2, weighted": (True, 0.5, 2.0),
    "second order p 4 q .25, weighted": (True, 4.0, 0.25),
}
LENGTH = 40
RUNS = 3


def rmat(num_nodes: int, num_edges: int, seed: int) -> dict[str, np.ndarray]:
    """Edges of an R-MAT graph (Chakrabarti et al. 2004: .57 .19 .19 .05), ids shuffled."""
    rng = np.random.default_rng(seed)
    scale = max(1, int(np.ceil(np.log2(num_nodes))))
    src, dst = np.zeros(num_edges, np.int64), np.zeros(num_edges, np.int64)
    for _ in range(scale):
        u = rng.random(num_edges, dtype=np.float32)
        down = u >= 0.76
        right = ((u >= 0.57) & ~down) | (u >= 0.95)
        src, dst = 2 * src + down, 2 * dst + right
    ids = rng.permutation(1 << scale) % num_nodes
    src, dst = ids[src], ids[dst]
    apart = src != dst
    src, dst = src[apart].astype(np.int32), dst[apart].astype(np.int32)
    return {"src": src, "dst": dst, "amount": rng.lognormal(0, 2, len(src)).astype(np.float32)}


def timed(act: Callable[[], int], runs: int = RUNS) -> tuple[int, float]:
    """What it gives (steps), and the CPU seconds of the fastest run."""
    best, steps = np.inf, 0
    for _ in range(runs):
        begun = process_time()
        steps = act()
        best = min(best, process_time() - begun)
    return steps, best


def merged(edges: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Undirected pairs, each once, with log(1 + sum of amounts): what rivals are given."""
    low = np.minimum(edges["src"], edges["dst"]).astype(np.int64)
    high = np.maximum(edges["src"], edges["dst"]).astype(np.int64)
    keys, places = np.unique((low << 32) | high, return_inverse=True)
    weights = np.log1p(np.bincount(places, weights=edges["amount"]))
    return keys >> 32, keys & 0xFFFFFFFF, weights


def chopmark(edges: Any, starts: Any, weighted: bool, p: float, q: float, _: Path) -> Any:
    from chopmark.graph.adjacency import Graph
    from chopmark.graph.bloom import edge_filter
    from chopmark.graph.walks import walk

    src, dst, amount = edges["src"], edges["dst"], edges["amount"]
    weight = "log" if weighted else None
    Graph.of_edges(src[:9], dst[:9], amount[:9], weight=weight)  # compiled
    begun = process_time()
    graph = Graph.of_edges(src, dst, amount, weight=weight)
    build = process_time() - begun
    begun = process_time()
    words = edge_filter(graph) if (p, q) != (1, 1) else None
    build += process_time() - begun
    walk(graph, starts[:100], length=LENGTH, p=p, q=q, edges=words)
    steps, seconds = timed(
        lambda: int((walk(graph, starts, length=LENGTH, p=p, q=q, edges=words)[:, 1:] >= 0).sum())
    )
    return {
        "steps": steps, "seconds": seconds, "build_s": build,
        "bytes_per_slot": (graph.num_bytes - 12 * graph.num_nodes) / graph.num_slots,
    }  # fmt: skip


def pecanpy(edges: Any, starts: Any, weighted: bool, p: float, q: float, folder: Path) -> Any:
    from pecanpy import pecanpy as peer

    low, high, weights = merged(edges)
    table = folder / "edges.tsv"
    np.savetxt(table, np.c_[low, high, weights], fmt=("%d", "%d", "%.6f"), delimiter="\t")
    kind = peer.FirstOrderUnweighted if (p, q) == (1, 1) and not weighted else peer.SparseOTF
    graph = kind(p=p, q=q, workers=1, verbose=False)
    begun = process_time()
    graph.read_edg(str(table), weighted, False)
    graph.preprocess_transition_probs()
    build = process_time() - begun
    graph.simulate_walks(1, 1)  # compiled; it has no choice of starts
    steps, seconds = timed(
        lambda: sum(len(path) - 1 for path in graph.simulate_walks(1, LENGTH)), runs=1
    )
    return {"steps": steps, "seconds": seconds, "build_s": build}


def fastnode2vec(edges: Any, starts: Any, weighted: bool, p: float, q: float, _: Path) -> Any:
    from fastnode2vec import Graph as Peer

    low, high, weights = merged(edges)
    rows = list(zip(low.tolist(), high.tolist(), weights.tolist(), strict=True))
    if not weighted:
        rows = [row[:2] for row in rows]
    begun = process_time()
    graph = Peer(rows, directed=False, weighted=weighted)
    build = process_time() - begun
    places = range(len(starts))  # it numbers the nodes that have neighbours
    graph.generate_random_walk(LENGTH, p, q, 0)
    steps, seconds = timed(
        lambda: sum(len(graph.generate_random_walk(LENGTH, p, q, place)) - 1 for place in places)
    )
    return {"steps": steps, "seconds": seconds, "build_s": build}


def csrgraph(edges: Any, starts: Any, weighted: bool, p: float, q: float, _: Path) -> Any:
    import csrgraph as peer
    from scipy.sparse import csr_matrix

    low, high, weights = merged(edges)
    if not weighted:
        weights = np.ones(len(low))
    size = int(high.max()) + 1
    begun = process_time()
    half = csr_matrix((weights.astype(np.float32), (low, high)), shape=(size, size))
    graph = peer.csrgraph(half + half.T, threads=1)
    build = process_time() - begun
    few = starts if (p, q) == (1, 1) else starts[:500]
    options = {"walklen": LENGTH + 1, "return_weight": 1 / p, "neighbor_weight": 1 / q}
    graph.random_walks(start_nodes=few[:10], **options)
    steps, seconds = timed(
        lambda: len(graph.random_walks(start_nodes=few, **options)) * LENGTH, runs=1
    )
    return {"steps": steps, "seconds": seconds, "build_s": build}


def grape(edges: Any, starts: Any, weighted: bool, p: float, q: float, folder: Path) -> Any:
    from grape import Graph as Peer

    low, high, weights = merged(edges)
    table = folder / "edges.csv"
    np.savetxt(
        table, np.c_[low, high, weights], fmt=("%d", "%d", "%.6f"), delimiter=",",
        header="s,d,w", comments="",
    )  # fmt: skip
    options: Any = {"weights_column": "w", "default_weight": 1.0} if weighted else {}
    begun = process_time()
    graph = Peer.from_csv(
        edge_path=str(table), edge_list_separator=",", edge_list_header=True,
        sources_column="s", destinations_column="d", directed=False, verbose=False, **options,
    )  # fmt: skip
    build = process_time() - begun
    steps, seconds = timed(
        lambda: int(
            graph.complete_walks(
                walk_length=LENGTH,
                iterations=1,
                return_weight=1 / p,
                explore_weight=1 / q,
                random_state=1,
            ).size
        ),
        runs=1,
    )
    return {"steps": steps, "seconds": seconds, "build_s": build}


WALKERS = {
    "chopmark": chopmark, "pecanpy": pecanpy, "fastnode2vec": fastnode2vec, "grape": grape,
    "csrgraph": csrgraph,
}  # fmt: skip


def prepare() -> None:
    """Make the rivals' environment if it is missing or older than its list."""
    ready, wanted = PEERS / ".ready", HERE / "peers.txt"
    if ready.exists() and ready.stat().st_mtime >= wanted.stat().st_mtime:
        return
    python = PEERS / "bin" / "python"
    if not python.exists():
        subprocess.run(
            [OWN / "bin" / "python", "-m", "venv", "--without-pip", str(PEERS)], check=True
        )
    subprocess.run(
        [ROOT / "scripts" / "uv", "pip", "install", "--quiet", "--python", python, "-r", wanted],
        check=True,
        env={**os.environ, "UV_BIN": str(OWN / "bin")},
    )
    ready.touch()


def contend(arguments: argparse.Namespace) -> None:
    """One walker, one task, in this process: a line of JSON."""
    with np.load(arguments.data) as file:
        edges = {name: file[name] for name in ("src", "dst", "amount")}
        starts = file["starts"]
    with tempfile.TemporaryDirectory() as folder:
        found = WALKERS[arguments.contend](edges, starts, *TASKS[arguments.task], Path(folder))
    print("\n" + json.dumps(found))


def run(name: str, task: str, data: Path, seconds: float, core: int) -> dict[str, float] | str:
    """What a walker's process says, or why it says nothing."""
    python = (OWN if name == "chopmark" else PEERS) / "bin" / "python"
    command = ["taskset", "-c", str(core), str(python), __file__, "--contend", name]
    command += ["--task", task, "--data", str(data)]
    one = dict.fromkeys(("OMP_NUM_THREADS", "NUMBA_NUM_THREADS", "RAYON_NUM_THREADS"), "1")
    begun = perf_counter()
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=seconds, env={**os.environ, **one}
        )
    except subprocess.TimeoutExpired:
        return f"not done in {seconds:.0f} s"
    if done.returncode:
        lines = done.stderr.strip().splitlines()
        return f"failed: {lines[-1][:90] if lines else done.returncode}"
    found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return {**found, "wall_s": perf_counter() - begun}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=float, default=1e5)
    parser.add_argument("--starts", type=int, default=200_000)
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=120.0, help="until a walker is killed")
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--only", nargs="+", choices=WALKERS, default=list(WALKERS))
    parser.add_argument("--contend", choices=WALKERS, help=argparse.SUPPRESS)
    parser.add_argument("--task", choices=TASKS, help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.contend:
        contend(arguments)
        return
    if set(arguments.only) != {"chopmark"}:
        prepare()
    num_edges = int(arguments.edges)
    edges = rmat(max(num_edges // 10, 16), num_edges, arguments.seed)
    active = np.unique(np.concatenate([edges["src"], edges["dst"]]))
    starts = np.random.default_rng(0).permutation(active)[: arguments.starts]
    print(
        f"{len(edges['src']):,} edges, {len(active):,} nodes, {len(starts):,} walks of {LENGTH}\n"
    )
    print("| walks | walker | M steps/CPU-s | build CPU-s | B/slot | chopmark is |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "edges.npz"
        np.savez(data, **edges, starts=starts)
        for task in TASKS:
            own = None
            for name in arguments.only:
                found = run(name, task, data, arguments.seconds, arguments.core)
                if isinstance(found, str):
                    print(f"| {task} | {name} | {found} | | | |", flush=True)
                    continue
                rate = found["steps"] / found["seconds"] / 1e6
                own = rate if name == "chopmark" else own
                times = f"{own / rate:.1f} times" if own and name != "chopmark" else ""
                size = f"{found['bytes_per_slot']:.2f}" if "bytes_per_slot" in found else ""
                print(
                    f"| {task} | {name} | {rate:.3g} | {found['build_s']:.2f} | {size} | {times} |",
                    flush=True,
                )


if __name__ == "__main__":
    sys.exit(main())

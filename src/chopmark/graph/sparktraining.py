"""Skip-gram on walks in Spark: rounds in which parts learn side by side, and are then merged.

Each part of the walks trains from the same arrays; each row is then the mean of the rows of
those parts that moved it. With one part the vectors equal those of `SkipGram.train`; with more
they depend on their number, and the order of learning is not that of one machine.
Serves row H10.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import mkdtemp
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import InvalidInput
from chopmark.graph.skipgram import SkipGram
from chopmark.graph.sparktasks import Batches, done, expect_all, work_off
from chopmark.histories.storage import whole, write_array

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


def train(
    spark: SparkSession,
    blocks: Sequence[Path],
    model: SkipGram,
    folder: str | Path,
    *,
    num_nodes: int,
    parts: int = 1,
    rounds: int = 1,
) -> SkipGram:
    """Train skip-gram on walks in files, `parts` at a time; the model, with arrays mapped.

    Parameters
    ----------
    blocks
        What `walk` gave.
    model
        New, or resumed.
    folder
        New; gets `vectors.npy` and `contexts.npy`, (num_nodes, dim) float32.
    num_nodes
        Of the graph.
    parts
        Tasks that learn side by side. 1: the vectors of `SkipGram.train`, bit for bit, if rounds
        is 1 too.
    rounds
        How often they are merged on the way; the learning rate falls along all rounds.

    Raises
    ------
    InvalidInput
        If there are fewer than 1 of either, or no walks.
    StoreError
        If the folder is there already or cannot be written.

    Notes
    -----
    Exact for any number of parts: the walks, the visits and the noise they make, first vectors,
    and the random numbers of each walk. Not exact: within a round a part does not see what the
    others learn. A task maps the arrays copy on write: it holds what its walks and noise move,
    and reads all rows once to see which did. Visits of all nodes are counted by the driver.
    """
    if parts < 1 or rounds < 1:
        raise InvalidInput(f"expected parts and rounds of 1 or more, got {parts} and {rounds}")
    walks = [np.load(path, mmap_mode="r", allow_pickle=False) for path in blocks]
    total = sum(map(len, walks))
    if not total:
        raise InvalidInput("expected walks to train on, got none")
    last = max(int(block.max(initial=-1)) for block in walks)
    if last >= num_nodes:
        raise InvalidInput(f"expected walks of nodes below {num_nodes:,}, got {last:,}")
    visits = np.zeros(num_nodes, np.int64)
    for block in walks:
        visits += np.bincount(block[block >= 0], minlength=num_nodes)
    model.grow(visits)
    options = {
        name: getattr(model, name)
        for name in (
            "dim", "window", "negatives", "rate", "last_rate", "sharing", "noise_power", "sample",
            "seed",
        )
    }  # fmt: skip
    begun = model.num_walks
    with whole(folder) as made:
        made = made.absolute()
        write_array(made / "visits.npy", visits)
        home = made / "round-0"
        home.mkdir()
        np.save(home / "vectors.npy", model.vectors)
        np.save(home / "contexts.npy", model.contexts)
        tasks = spark.range(0, parts, 1, parts)
        paths = [str(path) for path in blocks]
        for turn in range(rounds):
            ends = [total * (turn * parts + part) // (rounds * parts) for part in range(parts + 1)]
            learn = _train_task(made, turn, rounds, ends, paths, options, begun)
            work_off(tasks.mapInArrow(learn, "done long"))
            expect_all(made / f"round-{turn}" / f"part-{part}" for part in range(parts))
            home = made / f"round-{turn + 1}"
            home.mkdir()
            for name in ("vectors.npy", "contexts.npy"):
                np.lib.format.open_memmap(
                    home / name, mode="w+", dtype=np.float32, shape=(num_nodes, model.dim)
                ).flush()
            work_off(tasks.mapInArrow(_merge_task(made, turn, parts, num_nodes), "done long"))
            shutil.rmtree(made / f"round-{turn}")
        for name in ("vectors.npy", "contexts.npy"):
            os.replace(home / name, made / name)
        home.rmdir()
        (made / "visits.npy").unlink()
    model.vectors, model.contexts = (
        np.asarray(np.load(Path(folder) / name, mmap_mode="c", allow_pickle=False))
        for name in ("vectors.npy", "contexts.npy")
    )
    model.num_walks = begun + total
    return model


def _train_task(
    folder: Path, turn: int, rounds: int, ends: list[int], blocks: list[str],
    options: dict[str, Any], begun: int,
) -> Callable[[Batches], Batches]:  # fmt: skip
    def run(batches: Batches) -> Batches:
        for batch in batches:
            for part in batch.column(0).to_pylist():
                low, high = ends[part], ends[part + 1]
                home = folder / f"round-{turn}"
                model = SkipGram(**options)
                # Mapped copy on write: memory is for the rows that move.
                model.vectors, model.contexts = (
                    np.asarray(np.load(home / f"{name}.npy", mmap_mode="c", allow_pickle=False))
                    for name in ("vectors", "contexts")
                )
                model.grow(np.load(folder / "visits.npy", allow_pickle=False))
                model.num_walks = begun + low
                progress = (turn / rounds, (turn + 1) / rounds)
                model.train(_cut(blocks, low, high), progress)
                made = Path(mkdtemp(prefix=".", dir=home))
                for name in ("vectors", "contexts"):
                    _write_moved(made, name, home, getattr(model, name))
                target = home / f"part-{part}"
                shutil.rmtree(target, ignore_errors=True)  # of a task that was run before
                os.replace(made, target)
                yield done(high - low)

    return run


def _cut(blocks: list[str], low: int, high: int) -> NDArray[np.int32]:
    """Walks low .. high - 1 of files that follow each other."""
    found, first = [], 0
    for path in blocks:
        block = np.load(path, mmap_mode="r", allow_pickle=False)
        found.append(block[max(low - first, 0) : max(high - first, 0)])
        first += len(block)
    return np.concatenate(found)


def _write_moved(made: Path, name: str, home: Path, after: NDArray[np.float32]) -> None:
    """The rows that a part has moved, and their ids."""
    before = np.load(home / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    moved = np.concatenate(
        [np.empty(0, np.int64)]
        + [
            first + np.flatnonzero((after[first : first + 65536] != before[first : first + 65536])
                                   .any(1))
            for first in range(0, len(after), 65536)
        ]
    )  # fmt: skip
    np.save(made / f"{name}-ids.npy", moved)
    np.save(made / f"{name}.npy", after[moved])


def _merge_task(
    folder: Path, turn: int, parts: int, num_nodes: int
) -> Callable[[Batches], Batches]:
    def run(batches: Batches) -> Batches:
        for batch in batches:
            for part in batch.column(0).to_pylist():
                low, high = num_nodes * part // parts, num_nodes * (part + 1) // parts
                for name in ("vectors", "contexts"):
                    _merge(folder, turn, parts, name, low, high)
                yield done(high - low)

    return run


def _merge(folder: Path, turn: int, parts: int, name: str, low: int, high: int) -> None:
    """Rows low .. high - 1 of the next round: the mean of those that parts have moved."""
    home = folder / f"round-{turn}"
    rows = np.array(np.load(home / f"{name}.npy", mmap_mode="r", allow_pickle=False)[low:high])
    sums = np.zeros(rows.shape, np.float64)
    movers = np.zeros(len(rows), np.int64)
    for part in range(parts):
        ids = np.load(home / f"part-{part}" / f"{name}-ids.npy", allow_pickle=False)
        moved = np.load(home / f"part-{part}" / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        first, last = np.searchsorted(ids, (low, high))
        places = ids[first:last] - low
        sums[places] += moved[first:last]
        movers[places] += 1
    some = movers > 0
    rows[some] = sums[some] / movers[some, None]
    target = np.lib.format.open_memmap(folder / f"round-{turn + 1}" / f"{name}.npy", mode="r+")
    target[low:high] = rows
    target.flush()

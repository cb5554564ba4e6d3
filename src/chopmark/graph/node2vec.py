"""Node2Vec that is kept up to date: walks streamed into skip-gram, and repaired when edges come.

    fit       walks of all nodes, pass by pass in a shuffled order, each block trained and passed by
    update    the stored walks are repaired exactly (`repair`), nodes that are new get walks, and
              skip-gram learns from the changed stretches alone, from where it was

An update keeps the space in its place: contexts of nodes that are not touched stay as they are, so
a model on top of the vectors stays valid. A new `fit` is a new space; `like` turns it onto the old
one as far as a rotation can. `space` names it, `version` counts what happened to it, and `mark`
is the mark of the ledger that the vectors belong to: a run that was killed goes on from there.

    folder/current.json    which version holds; replaced when all of that is durable
           000003/         vectors, contexts, walks with their index, the graph they are of; what
                           did not change since 000002 is the same file (`rowfiles`)

References: Grover and Leskovec, "node2vec: Scalable Feature Learning for Networks", 2016.
Sajjad, Docherty and Tyshetskiy, "Efficient Representation Learning Using Random Walks for Dynamic
Graphs", 2019.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import DeclarationError, InvalidInput, StoreError, did_you_mean
from chopmark.graph.addresses import replace_json
from chopmark.graph.adjacency import Graph
from chopmark.graph.alignment import Drift, aligned, drift_of, sample_of
from chopmark.graph.bloom import edge_filter
from chopmark.graph.repair import check_repairable, repair, stretches_of
from chopmark.graph.rowfiles import Kept, kept_of, open_rows, write_rows
from chopmark.graph.skipgram import SkipGram
from chopmark.graph.walks import walk
from chopmark.graph.walkstore import WalkStore
from chopmark.histories.description import read_description
from chopmark.histories.storage import whole

FORMAT = "chopmark-node2vec"
VERSION = 2

Mode = Literal["coupled", "resume", "cheap"]

_LATER = 0x2545F4914F6CDD1D
"""Between the seeds of versions, so that an update's numbers are none of an earlier one's."""


class Node2Vec:
    """A vector for each node, such that nodes that walks meet together are near.

    Parameters
    ----------
    dim : int, >= 1
        Width of a vector.
    num_walks : int, >= 1
        Walks from each node.
    length : int, >= 1
        Steps of a walk.
    p, q : float, > 0
        A step back weighs 1/p, a step away from all that is near 1/q.
    window, negatives, rate
        As of `SkipGram`.
    max_degree : int, optional
        Walks end on nodes with more neighbours: hot wallets of exchanges say nothing of a payer.
    keep_walks : bool
        Whether walks are kept, for exact updates: 8 bytes a step. If not, updates are "cheap".
    threads : int, >= 1
        Walks are the same for any number; vectors are repeatable with 1 only.
    seed : int, >= 0
    space : str
        A name for the space of the vectors.

    Attributes
    ----------
    version, mark : int
        Fits and updates so far, and the mark of the ledger that the vectors belong to.
    graph : Graph or None
        What the vectors are of: give what its `with_edges` makes to `update`.
    store : WalkStore or None
        The walks that are kept.
    drift : Drift or None
        How far the last update, or a fit with `like`, moved nodes that were not touched.
    num_redone : int
        Steps that the last fit or update walked.

    Examples
    --------
    >>> ring = Graph.of_edges([0, 1, 2, 3], [1, 2, 3, 0])
    >>> model = Node2Vec(8, num_walks=4, length=6).fit(ring)
    >>> model.vectors.shape
    (4, 8)
    >>> larger, touched = ring.with_edges([3], [4])
    >>> model.update(larger, touched).vectors.shape, model.version
    ((5, 8), 2)
    """

    def __init__(
        self,
        dim: int = 64,
        *,
        num_walks: int = 10,
        length: int = 40,
        p: float = 1.0,
        q: float = 1.0,
        window: int = 5,
        negatives: int = 5,
        rate: float = 0.025,
        max_degree: int | None = None,
        keep_walks: bool = True,
        threads: int = 1,
        seed: int = 0,
        space: str = "",
    ) -> None:
        whole_numbers = {"num_walks": num_walks, "length": length, "threads": threads}
        for name, number in whole_numbers.items():
            if type(number) is not int or number < 1:
                raise DeclarationError(f"`{name}` of Node2Vec: expected 1, 2, ...; got {number!r}")
        for name, value in (("p", p), ("q", q)):
            if not 0 < value < np.inf:
                raise DeclarationError(f"`{name}` of Node2Vec: expected above 0; got {value!r}")
        if max_degree is not None and (type(max_degree) is not int or max_degree < 1):
            raise DeclarationError(
                f"`max_degree` of Node2Vec: expected 1, 2, ... or None; got {max_degree!r}"
            )
        if type(seed) is not int or not 0 <= seed < 2**62:
            raise DeclarationError(f"`seed` of Node2Vec: expected 0 to 2^62; got {seed!r}")
        self.options: dict[str, Any] = {
            "dim": dim, "num_walks": num_walks, "length": length, "p": p, "q": q,
            "window": window, "negatives": negatives, "rate": rate, "max_degree": max_degree,
            "keep_walks": keep_walks, "threads": threads, "seed": seed, "space": space,
        }  # fmt: skip
        self.dim, self.num_walks, self.length, self.p, self.q = dim, num_walks, length, p, q
        self.window, self.max_degree, self.threads, self.seed = window, max_degree, threads, seed
        self.keep_walks, self.space = keep_walks, space
        self.version = 0
        self.mark = 0
        self.graph: Graph | None = None
        self.store: WalkStore | None = None
        self.drift: Drift | None = None
        self.num_redone = 0
        self.model = self._skip_gram()
        # In visits of one walk from each node.
        self._visits: NDArray[np.float64] = np.empty(0)
        self._kept: dict[str, Kept] = {}

    @property
    def vectors(self) -> NDArray[np.float32]:
        """(n, dim) float32: row i is node i's."""
        return self.model.vectors

    @property
    def num_nodes(self) -> int:
        """Nodes that have a vector."""
        return self.model.num_nodes

    def fit(
        self,
        graph: Graph,
        on_progress: Callable[[float], None] | None = None,
        *,
        mark: int = 0,
        like: Node2Vec | None = None,
    ) -> Node2Vec:
        """Learn all vectors anew: version + 1 of the space.

        Parameters
        ----------
        on_progress
            Called with the share that is done, 0 to 1, after each block.
        mark
            Of the ledger that the graph was made of.
        like
            The vectors of the last space: those learned are turned onto them, and `drift` says
            how well that went.

        Raises
        ------
        InvalidInput
            If the graph has no edge, or `like` is of another width.

        Complexity: O(n num_walks length window negatives dim).
        """
        if not graph.num_slots:
            raise InvalidInput("expected a graph with edges to learn vectors of, got none")
        if like is not None and (like.dim != self.dim or not like.num_nodes):
            raise InvalidInput(
                f"expected `like` with vectors of width {self.dim}, got ({like.num_nodes:,}, "
                f"{like.dim})"
            )
        size = graph.num_nodes
        if self.keep_walks and size * self.num_walks >= 2**31:
            raise InvalidInput(
                f"expected fewer than 2^31 walks to keep, got {size * self.num_walks:,}; take "
                "keep_walks=False or fewer walks"
            )
        order = np.random.default_rng(self.seed).permutation(size).astype(np.int32)
        total = size * self.num_walks
        per_block = max(1, min(size, (1 << 21) // (self.length + 1)))
        edges = edge_filter(graph) if (self.p, self.q) != (1.0, 1.0) else None
        kept = np.empty((total, self.length + 1), np.int32) if self.keep_walks else None
        model = self._skip_gram()

        def block_of(first: int, last: int) -> NDArray[np.int32]:
            return self._walked(graph, order[np.arange(first, last) % size], first, edges=edges)

        visits = np.zeros(size)
        for first in range(0, size, per_block):
            paths = block_of(first, min(first + per_block, size))
            visits += np.bincount(paths[paths >= 0], minlength=size)
        model.grow(visits)
        for first in range(0, total, per_block):
            last = min(first + per_block, total)
            paths = block_of(first, last)
            model.train(paths, (first / total, last / total))
            if kept is not None:
                kept[first:last] = paths
            if on_progress is not None:
                on_progress(last / total)
        self.drift = None
        if like is not None:
            shared = np.arange(min(size, like.num_nodes))
            turned, self.drift = aligned(model.vectors, like.vectors, shared)
            model.vectors = model.vectors @ turned
            model.contexts = model.contexts @ turned
            self.version, self.space = like.version, like.space
        self.store = None if kept is None else WalkStore(kept, size)
        self.model, self.graph, self._visits, self._kept = model, graph, visits, {}
        self.num_redone = total * self.length
        self.version, self.mark = self.version + 1, mark
        return self

    def update(
        self,
        graph: Graph,
        touched: ArrayLike,
        *,
        mode: Mode | None = None,
        mark: int | None = None,
    ) -> Node2Vec:
        """Learn what changed since: version + 1 of the same space.

        Parameters
        ----------
        graph
            What `Graph.with_edges` and `without_edges` made of this model's `graph`.
        touched : (k,) whole numbers
            The nodes that they named, all of them.
        mode
            "coupled" (the default): stored walks become walks of the new graph, and as few steps
            change as can be. "resume": they are walked anew from the first touched node on.
            "cheap": walks from touched nodes alone are learned from and none is repaired, so that
            what is new is seen too often by some and not at all by others; the only one without
            stored walks.
        mark
            Of the ledger that the graph is of; None: as before.

        Raises
        ------
        InvalidInput
            Before anything changes: if there was no `fit`, nodes are out of range, the graph has
            other options or fewer nodes, or the mode needs what was not kept.

        Complexity: O(slots of touched nodes + walks that come through them + steps redone window
        negatives dim), and a few operations for each node.
        """
        if mode is None:
            mode = "coupled" if self.store is not None else "cheap"
        before, nodes = self._checked(graph, touched, mode)
        size, known = graph.num_nodes, before.num_nodes
        seed = (self.seed + self.version * _LATER) % 2**62
        newcomers = np.arange(known, size)
        fresh_starts = newcomers
        changed = np.empty((0, self.length + 1), dtype=np.int32)
        self.num_redone = 0
        if mode == "cheap":
            old = nodes[nodes < known]
            fresh_starts = np.concatenate([old[graph.counts[old] > 0], newcomers])
            first = self.model.num_walks
        elif self.store is not None:
            numbers = self.store.through(nodes)
            firsts = repair(
                self.store.walks, numbers, before, graph, nodes, p=self.p, q=self.q, seed=seed,
                mode=mode, max_degree=self.max_degree, threads=self.threads,
            )  # fmt: skip
            moved = np.flatnonzero(firsts >= 0)
            numbers, firsts = numbers[moved], firsts[moved]
            self.num_redone += int((self.length + 1 - firsts).sum())
            changed = stretches_of(self.store.walks, numbers, firsts, self.window)
            self.store.changed(stretches_of(self.store.walks, numbers, firsts, 0), numbers, size)
            first = len(self.store)
        starts = np.tile(fresh_starts.astype(np.int32), self.num_walks)
        paths = self._walked(graph, starts, first, seed=seed)
        if self.store is not None and mode != "cheap" and len(paths):
            self.store.append(paths, size)
        self.num_redone += len(paths) * self.length
        self._learn(np.concatenate([changed, paths]), nodes, size)
        self.graph = graph
        if mode == "cheap":
            self.store = None  # those walks are of no graph any more
        self.version += 1
        self.mark = self.mark if mark is None else mark
        return self

    def save(self, folder: str | Path) -> None:
        """Write all to a folder, where it takes the place of what was saved there before.

        A reader finds the one or the other, whole, at any moment; also after a crash.

        Raises
        ------
        StoreError
            If there is something else, or the disk takes no more; what was there stays.
        """
        folder = Path(folder)
        if self.graph is None:
            raise InvalidInput("expected a model with vectors to save, got none; call `fit` first")
        last = ""
        if (folder / "current.json").exists():
            last = _current(folder)
        elif folder.exists() and (not folder.is_dir() or any(_foreign(folder))):
            raise StoreError(
                f"expected a new folder or one of a Node2Vec, but `{folder}` is another; choose "
                "another name or remove it"
            )
        name = f"{int(last or 0) + 1:06d}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            _clear(folder, last)
            with whole(folder / name) as made:
                about = self._write(made)
            self._settle(folder / name, about["files"])
            replace_json(
                folder / "current.json", {"format": FORMAT, "version": VERSION, "folder": name}
            )
            _clear(folder, name)
        except OSError as error:
            raise StoreError(
                f"expected to write a Node2Vec to `{folder}`, but {error}; what was saved there "
                "before is there still"
            ) from error

    def _arrays(self) -> dict[str, NDArray[Any]]:
        return {
            "vectors": self.model.vectors, "contexts": self.model.contexts, "visits": self._visits
        }  # fmt: skip

    def _write(self, made: Path) -> dict[str, Any]:
        assert self.graph is not None
        files = {
            name: write_rows(made, name, array, self._kept.get(name))
            for name, array in self._arrays().items()
        }
        if self.store is not None:
            files |= self.store.write(made)
        self.graph.save(made / "graph")
        about = {
            "format": FORMAT, "version": VERSION, "options": self.options, "space": self.space,
            "space_version": self.version, "mark": self.mark, "trained": self.model.num_walks,
            "has_walks": self.store is not None, "files": files,
        }  # fmt: skip
        replace_json(made / "about.json", about)
        return about

    def _settle(self, folder: Path, files: dict[str, Any]) -> None:
        """What was written is here now: the next `save` writes what changes from here on."""
        assert self.graph is not None
        for name in self._arrays():
            self._kept[name] = kept_of(folder, name, files[name], self._kept.get(name))
        if self.store is not None:
            self.store.settle(folder, files)
        self.graph.settle(folder / "graph")

    @classmethod
    def open(cls, folder: str | Path, *, thorough: bool = False) -> Node2Vec:
        """The model of a folder, mapped into memory: nothing is read before it is needed.

        Parameters
        ----------
        thorough
            Also read all and compare it with the checksums.

        Raises
        ------
        StoreError
            If it is no such folder, is of another version, or is damaged.
        """
        folder = Path(folder)
        within = folder / _current(folder)
        about = _read(within / "about.json", folder)
        if not _sound(about):
            raise _damaged(folder, "`about.json` lacks sizes or options, or has odd ones")
        try:
            found = cls(**about["options"])
        except (DeclarationError, TypeError) as error:
            raise _damaged(folder, f"its options cannot be ({error})") from error
        graph = Graph.open(within / "graph", thorough=thorough)
        size, files = graph.num_nodes, about["files"]
        arrays: dict[str, NDArray[Any]] = {}
        try:
            for name, kind, width in (
                ("vectors", np.float32, (found.dim,)), ("contexts", np.float32, (found.dim,)),
                ("visits", np.float64, ()),
            ):  # fmt: skip
                arrays[name], found._kept[name] = open_rows(
                    within, name, files.get(name), kind, *width, thorough=thorough
                )
                if len(arrays[name]) != size:
                    raise StoreError(
                        f"`{name}` of {len(arrays[name]):,} nodes are of a graph of {size:,}"
                    )
            if about["has_walks"]:
                found.store = WalkStore.open(within, files, found.length, size, thorough=thorough)
        except StoreError as error:
            raise _damaged(folder, str(error)) from error
        found.model.vectors, found.model.contexts = arrays["vectors"], arrays["contexts"]
        found.model.num_walks, found._visits = about["trained"], arrays["visits"]
        found.graph, found.space = graph, about["space"]
        found.version, found.mark = about["space_version"], about["mark"]
        return found

    def _skip_gram(self) -> SkipGram:
        return SkipGram(
            self.dim, window=self.window, negatives=self.options["negatives"],
            rate=self.options["rate"], last_rate=min(0.0001, self.options["rate"]),
            threads=self.threads, seed=self.seed,
        )  # fmt: skip

    def _walked(
        self,
        graph: Graph,
        starts: NDArray[np.int32],
        first: int,
        *,
        seed: int | None = None,
        edges: NDArray[np.uint64] | None = None,
    ) -> NDArray[np.int32]:
        """Walks as I am told to make them."""
        return walk(
            graph, starts, length=self.length, p=self.p, q=self.q, first=first,
            seed=self.seed if seed is None else seed, threads=self.threads,
            max_degree=self.max_degree, edges=edges,
        )  # fmt: skip

    def _checked(
        self, graph: Graph, touched: ArrayLike, mode: str
    ) -> tuple[Graph, NDArray[np.int64]]:
        """The graph of before and the touched nodes; all that an update could refuse."""
        if self.graph is None:
            raise InvalidInput(
                "expected a model with vectors to update, got none; call `fit` first"
            )
        if mode not in get_args(Mode):
            raise InvalidInput(
                f"expected a mode of {', '.join(get_args(Mode))}, got {mode!r}"
                f"{did_you_mean(str(mode), get_args(Mode))}"
            )
        if mode != "cheap" and self.store is None:
            raise InvalidInput(
                f'mode "{mode}" repairs stored walks, and none are kept; build with '
                'keep_walks=True, `fit` again after a "cheap" update, or use mode="cheap"'
            )
        before = self.graph
        for name in ("directed", "weight", "half_life_days", "order"):
            was, is_now = getattr(before, name), getattr(graph, name)
            if was != is_now:
                raise InvalidInput(
                    f"expected a graph like the one of `fit`, {name}={was!r}, got {is_now!r}"
                )
        if graph.num_nodes < before.num_nodes:
            raise InvalidInput(
                f"expected a graph of {before.num_nodes:,} nodes or more, got {graph.num_nodes:,}"
            )
        nodes = np.unique(np.asarray(touched))
        if nodes.ndim != 1 or (nodes.dtype.kind not in "iu" and len(nodes)):
            raise InvalidInput(f"expected touched as (k,) whole numbers, got {nodes.dtype}")
        if len(nodes) and (nodes[0] < 0 or nodes[-1] >= graph.num_nodes):
            raise InvalidInput(
                f"expected touched nodes of 0 to {graph.num_nodes - 1:,}, got {nodes[0]:,} to "
                f"{nodes[-1]:,}"
            )
        if mode != "cheap" and self.store is not None:
            num = len(self.store) + (graph.num_nodes - before.num_nodes) * self.num_walks
            if num >= 2**31:
                raise InvalidInput(
                    f"expected fewer than 2^31 walks to keep, got {num:,}; take fewer walks, or "
                    'mode="cheap"'
                )
            check_repairable(before, graph)
        return before, nodes.astype(np.int64)

    def _learn(self, paths: NDArray[np.int32], nodes: NDArray[np.int64], size: int) -> None:
        """Skip-gram on what is new, with the contexts of all that is not touched held."""
        known = self.num_nodes
        seen = np.bincount(paths[paths >= 0], minlength=size) / self.num_walks
        walked = np.flatnonzero(seen)
        for name, rows in (("vectors", walked), ("visits", walked), ("contexts", nodes)):
            if name in self._kept:
                self._kept[name] = self._kept[name].changed(rows)
        seen[:known] += self._visits
        self._visits = seen
        self.model.grow(seen)
        held = np.ones(size, dtype=np.bool_)
        held[nodes] = False
        held[known:] = False
        same = sample_of(np.flatnonzero(held))
        was = self.model.vectors[same]
        if len(paths):
            self.model.train(paths, frozen=held)
        self.drift = drift_of(self.model.vectors[same], was) if len(same) else None


def _read(path: Path, folder: Path) -> dict[str, Any]:
    return read_description(
        path, folder=folder, format=FORMAT, version=VERSION, what="a Node2Vec",
        make="make one with `Node2Vec.save`", again="update chopmark, or fit again",
        damaged=_damaged,
    )  # fmt: skip


def _current(folder: Path) -> str:
    name = _read(folder / "current.json", folder).get("folder")
    # A name with a way in it would lead out of the folder.
    if not isinstance(name, str) or not name.isascii() or not name.isdigit():
        raise _damaged(folder, "`current.json` names no folder")
    return name


def _sound(about: dict[str, Any]) -> bool:
    """Whether the description has all that is read from it, of the right kinds."""

    def size(given: object, most: int = 2**48) -> bool:
        return type(given) is int and 0 <= given <= most

    return (
        isinstance(about.get("options"), dict)
        and isinstance(about.get("files"), dict)
        and isinstance(about.get("space"), str)
        and isinstance(about.get("has_walks"), bool)
        and all(size(about.get(name)) for name in ("space_version", "mark", "trained"))
    )


def _foreign(folder: Path) -> list[Path]:
    """What is in a folder that no save has left there."""
    return [path for path in folder.iterdir() if not path.name.strip(".").split("-")[0].isdigit()]


def _clear(folder: Path, but: str) -> None:
    """Remove what other saves left, those that were cut off too."""
    for path in folder.iterdir():
        if path.is_dir() and path.name != but and path not in _foreign(folder):
            shutil.rmtree(path, ignore_errors=True)


def _damaged(folder: Path, what: str) -> StoreError:
    return StoreError(f"Node2Vec in `{folder}` is damaged: {what}; fit again, or restore a copy")

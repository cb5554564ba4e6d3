"""Boosted trees as flat arrays: one sum of trees, whichever library grew them.

A node knows how many training rows reached it (its cover), hence the value that a row may
expect there: the mean of the leaves below, weighted by their covers. What a column contributes
is its Shapley value in the game where an unknown column is split by cover (see `shap`).
Serves A8, A11 and A12 of the requirements.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import ClassVar, Self

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import ArtifactError
from chopmark.models import kernels, shap
from chopmark.models.catboost_json import read_catboost
from chopmark.models.lightgbm_text import read_lightgbm
from chopmark.models.shap import ShapPaths
from chopmark.models.tree import Tree
from chopmark.models.xgboost_json import read_xgboost

_LIMIT_FEATURES = 32_767
_LIMIT_WORDS = (1 << 16 - kernels.WORDS_SHIFT) - 1
_LEAST_COVER, _MOST_COVER = 1e-6, 1e15
"""An empty leaf counts as a millionth of a row: the game needs every way to be open."""

_FIELDS = ("threshold", "child", "feature", "flags")


# Without slots, so that the paths can be kept once they are laid out.
@dataclass(frozen=True, kw_only=True, eq=False)
class Trees:
    """A sum of trees over encoded columns, in log-odds.

    Attributes
    ----------
    nodes
        (p,) structured as `kernels.NODE`, tree after tree: the two children of a node lie side
        by side, after it.
    values
        (p,) float64, the expected value at each node; a leaf's own value at a leaf.
    covers
        (p,) float64, training rows (or their hessians) that reached each node, > 0.
    roots
        (t,) int32, the first node of each tree.
    bitsets
        (w,) uint32, the category codes that go left, 32 to a word.
    """

    name: ClassVar[str] = "trees"

    nodes: NDArray[np.void]
    values: NDArray[np.float64]
    covers: NDArray[np.float64]
    roots: NDArray[np.int32]
    bitsets: NDArray[np.uint32]

    @classmethod
    def of(cls, trees: Iterable[Tree]) -> Self:
        """The sum of these trees.

        Raises
        ------
        ArtifactError
            If a tree is broken, or asks more columns or categories than a node can name.
        """
        layout = _Layout()
        for tree in trees:
            layout.add(tree)
        nodes = np.array(layout.nodes, dtype=kernels.NODE)
        covers = np.array(layout.covers, dtype=np.float64)
        _add_covers(nodes, covers)
        return cls(
            nodes=nodes,
            values=_expected(nodes, covers),
            covers=covers,
            roots=np.array(layout.roots, dtype=np.int32),
            bitsets=np.array(layout.bitsets, dtype=np.uint32),
        )

    @classmethod
    def from_lightgbm(cls, text: str) -> Self:
        """Trees of the text that `Booster.model_to_string` or `save_model` wrote.

        Raises
        ------
        ArtifactError
            If the text is no LightGBM model, or of a sort that is not a sum of constant leaves.
        """
        return cls.of(read_lightgbm(text))

    @classmethod
    def from_xgboost(cls, text: str | bytes | bytearray) -> Self:
        """Trees of the JSON that `Booster.save_raw` wrote; raises as `from_lightgbm`."""
        return cls.of(read_xgboost(text))

    @classmethod
    def from_catboost(cls, text: str | bytes, *, columns: Sequence[int]) -> Self:
        """Trees of the JSON that `save_model` wrote with a pool; see `read_catboost`."""
        return cls.of(read_catboost(text, columns=columns))

    @classmethod
    def joined(cls, parts: Sequence["Trees"]) -> Self:
        """The sum of several sums of trees, as one; at least one part."""
        firsts = np.cumsum([0, *(len(part.nodes) for part in parts)])
        words = np.cumsum([0, *(len(part.bitsets) for part in parts)])
        return cls(
            nodes=np.concatenate([
                _moved(part.nodes, nodes_before=int(first), words_before=int(word))
                for part, first, word in zip(parts, firsts, words, strict=False)
            ]),
            values=np.concatenate([part.values for part in parts]),
            covers=np.concatenate([part.covers for part in parts]),
            roots=np.concatenate([
                part.roots + np.int32(first) for part, first in zip(parts, firsts, strict=False)
            ]),
            bitsets=np.concatenate([part.bitsets for part in parts]),
        )  # fmt: skip

    @property
    def bias(self) -> float:
        """Log-odds of an average training row: the sum of the roots' expected values."""
        return float(self.values[self.roots].sum())

    @cached_property
    def paths(self) -> ShapPaths:
        """The arrays of `shap.shap_moves`, laid out at the first explanation."""
        return ShapPaths.of(self.nodes, self.covers, self.roots, self.bitsets)

    def raw(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) sums of leaves, in log-odds, of encoded columns (n, m)."""
        z = np.empty(len(x), np.float64)
        kernels.trees_raw(_rows(x), self.nodes, self.roots, self.bitsets, z)
        return z

    def moves(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n, m) Shapley values of the encoded columns: with `bias` they sum to `raw`."""
        moves: NDArray[np.float64] = shap.shap_table(_rows(x), *self.paths.arrays)
        return moves

    def scaled(self, weight: float) -> Self:
        """The trees whose leaves are `weight` times these, weight >= 0."""
        nodes = self.nodes.copy()
        nodes["threshold"][nodes["feature"] < 0] *= weight
        return type(self)(
            nodes=nodes,
            values=self.values * weight,
            covers=self.covers,
            roots=self.roots,
            bitsets=self.bitsets,
        )

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Plain arrays, as an artifact stores them; `values` follow from the others."""
        return {
            **{field: self.nodes[field].copy() for field in _FIELDS},
            "covers": self.covers,
            "roots": self.roots,
            "bitsets": self.bitsets,
        }

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.generic]], *, num_encoded: int) -> Self:
        """Trees of stored arrays, checked so that no kernel can leave them.

        Parameters
        ----------
        num_encoded
            Columns that the trees may ask, >= 1.

        Raises
        ------
        ArtifactError
            If an array is missing or points outside the others.
        """
        try:
            nodes = np.empty(len(arrays["threshold"]), dtype=kernels.NODE)
            for field in _FIELDS:
                nodes[field] = arrays[field]
            covers = np.ascontiguousarray(arrays["covers"], dtype=np.float64)
            roots = np.ascontiguousarray(arrays["roots"], dtype=np.int32)
            bitsets = np.ascontiguousarray(arrays["bitsets"], dtype=np.uint32)
        except (KeyError, ValueError, TypeError) as error:
            raise ArtifactError(f"the artifact's trees cannot be read: {error!r}") from error
        _check(nodes, covers, roots, bitsets, num_encoded)
        values = _expected(nodes, covers)
        return cls(nodes=nodes, values=values, covers=covers, roots=roots, bitsets=bitsets)


class _Layout:
    """Lays out one tree after the other, breadth first."""

    def __init__(self) -> None:
        self.nodes: list[tuple[float, int, int, int]] = []
        self.covers: list[float] = []
        self.roots: list[int] = []
        self.bitsets: list[int] = []

    def add(self, tree: Tree) -> None:
        """Append one tree, parents before children, siblings side by side."""
        if max(tree.feature) > _LIMIT_FEATURES:
            raise ArtifactError(f"trees over more than {_LIMIT_FEATURES} columns are not read")
        first = len(self.nodes)
        self.roots.append(first)
        queue = [0]
        for source in queue:
            is_leaf = tree.feature[source] < 0
            child = 0 if is_leaf else first + len(queue)
            if not is_leaf:
                queue += [tree.left[source], tree.right[source]]
            if len(queue) > len(tree.feature):
                raise ArtifactError("a tree is broken: expected every node once")
            cover = max(tree.cover[source], _LEAST_COVER) if is_leaf else 0.0
            threshold, flags = tree.threshold[source], tree.flags[source]
            if source in tree.words:
                threshold, flags = float(len(self.bitsets)), self._words(tree.words[source])
            self.nodes.append((threshold, child, tree.feature[source], flags))
            self.covers.append(cover)

    def _words(self, words: Sequence[int]) -> int:
        """The flags of a node with this bitset, which is appended."""
        if len(words) > _LIMIT_WORDS:
            raise ArtifactError(f"categories beyond {32 * _LIMIT_WORDS} are not read")
        self.bitsets += words
        return kernels.CATEGORICAL | len(words) << kernels.WORDS_SHIFT


def _moved(nodes: NDArray[np.void], *, nodes_before: int, words_before: int) -> NDArray[np.void]:
    """These nodes behind others: places of children and of bitsets count those as well."""
    moved = nodes.copy()
    inner = moved["feature"] >= 0
    moved["child"][inner] += nodes_before
    moved["threshold"][inner & (moved["flags"] & kernels.CATEGORICAL != 0)] += words_before
    return moved


def _rows(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.ascontiguousarray(x, dtype=np.float64)


@njit(cache=True)  # type: ignore[misc]
def _add_covers(nodes: NDArray[np.void], covers: NDArray[np.float64]) -> None:
    """Fill in the covers of all nodes that are no leaves, bottom up."""
    for i in range(len(nodes) - 1, -1, -1):
        if nodes[i].feature >= 0:
            child = nodes[i].child
            covers[i] = covers[child] + covers[child + 1]


@njit(cache=True)  # type: ignore[misc]
def _expected(nodes: NDArray[np.void], covers: NDArray[np.float64]) -> NDArray[np.float64]:
    """(p,) means of the leaves below each node, weighted by cover, bottom up."""
    values = np.empty(len(nodes), np.float64)
    for i in range(len(nodes) - 1, -1, -1):
        values[i] = nodes[i].threshold
        if nodes[i].feature >= 0:
            child = nodes[i].child
            left, right = covers[child], covers[child + 1]
            values[i] = (left * values[child] + right * values[child + 1]) / (left + right)
    return values


def _check(
    nodes: NDArray[np.void],
    covers: NDArray[np.float64],
    roots: NDArray[np.int32],
    bitsets: NDArray[np.uint32],
    num_encoded: int,
) -> None:
    if any(array.ndim != 1 for array in (nodes, covers, roots, bitsets)):
        raise ArtifactError("the artifact's trees are broken: expected flat arrays")
    # One after the other: the later ones look where the earlier ones have allowed it to.
    for expectation, holds in chain(
        _shape(nodes, roots),
        _questions(nodes, bitsets, num_encoded),
        _numbers(nodes, covers),
    ):
        if not holds:
            raise ArtifactError(f"the artifact's trees are broken: expected {expectation}")


def _shape(nodes: NDArray[np.void], roots: NDArray[np.int32]) -> Iterator[tuple[str, bool]]:
    """Each tree has its own stretch of nodes, and every node but its root has one parent."""
    ends = np.append(roots, len(nodes)).astype(np.int64)
    yield (
        "roots among the nodes, rising from 0",
        bool(ends[0] == 0 and np.all(np.diff(ends) > 0)),
    )
    end = np.repeat(ends[1:], np.diff(ends))
    inner = nodes["feature"] >= 0
    child = nodes["child"][inner].astype(np.int64)
    # Then every walk ends, and stays in its tree.
    yield (
        "children after their parent, in its tree",
        bool(np.all((child > np.nonzero(inner)[0]) & (child + 1 < end[inner]))),
    )
    # Disjoint pairs that with the roots are as many as the nodes: each node is named once.
    yield (
        "children of one parent each",
        bool(np.all(np.diff(np.sort(child)) >= 2) and len(nodes) == len(roots) + 2 * len(child)),
    )


def _questions(
    nodes: NDArray[np.void], bitsets: NDArray[np.uint32], num_encoded: int
) -> Iterator[tuple[str, bool]]:
    yield f"features below {num_encoded}", bool(np.all(nodes["feature"] < num_encoded))
    categorical = nodes[(nodes["feature"] >= 0) & (nodes["flags"] & kernels.CATEGORICAL != 0)]
    first, words = categorical["threshold"], categorical["flags"] >> kernels.WORDS_SHIFT
    yield (
        "bitsets within their array",
        bool(
            np.all((first >= 0) & (first == np.floor(first)))
            and np.all(first + words <= len(bitsets))
        ),
    )


def _numbers(nodes: NDArray[np.void], covers: NDArray[np.float64]) -> Iterator[tuple[str, bool]]:
    inner = nodes["feature"] >= 0
    yield "finite leaves", bool(np.all(np.isfinite(nodes["threshold"][~inner])))
    yield "a cover for every node", len(covers) == len(nodes)
    yield (
        f"covers from {_LEAST_COVER:g} to {_MOST_COVER:g}",
        bool(np.all((covers >= _LEAST_COVER) & (covers <= _MOST_COVER))),
    )
    child = nodes["child"][inner]
    below = covers[child] + covers[child + 1]
    yield (
        "covers of children that add up to their parent's",
        bool(np.all(np.abs(below - covers[inner]) <= 1e-9 * below)),
    )

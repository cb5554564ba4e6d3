"""Boosted trees as flat arrays, read from LightGBM's text and equal to its raw prediction.

A node knows the value that a row may expect there: the mean of the leaves below, weighted by
their training rows. The moves between these values are the explanation (see `kernels`).
Serves A8, A11 and A12 of the requirements.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import ArtifactError
from chopmark.models import kernels

_MISSING_KIND = {0: "none", 1: "zero", 2: "nan"}
_LIMIT_FEATURES = 32_767
_LIMIT_WORDS = (1 << 16 - kernels.WORDS_SHIFT) - 1


_T = TypeVar("_T", bound="Trees")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trees:
    """A sum of trees over encoded columns, in log-odds.

    Attributes
    ----------
    nodes
        (p,) structured as `kernels.NODE`: the two children of a node lie side by side, after it.
    values
        (p,) float64, the expected value at each node; a leaf's own value at a leaf.
    roots
        (t,) int32, the first node of each tree.
    bitsets
        (w,) uint32, the category codes that go left, 32 to a word.
    """

    nodes: NDArray[np.void]
    values: NDArray[np.float64]
    roots: NDArray[np.int32]
    bitsets: NDArray[np.uint32]

    @property
    def bias(self) -> float:
        """Log-odds of an average training row: the sum of the roots' expected values."""
        return float(self.values[self.roots].sum())

    @classmethod
    def from_lightgbm(cls, text: str) -> Self:
        """Trees of the text that `Booster.model_to_string` or `save_model` wrote.

        Raises
        ------
        ArtifactError
            If the text is no LightGBM model, or of a sort that is not a sum of constant leaves.
        """
        head, *blocks = text.split("\nTree=")
        if not head.startswith("tree") or "feature_names" not in head:
            raise ArtifactError("expected the text of a LightGBM model, which begins with `tree`")
        if "average_output" in head.split("\n"):
            raise ArtifactError("random forests of LightGBM are not read; train with boosting=gbdt")
        builder = _Builder()
        for block in blocks:
            builder.add(_fields(block.split("end of trees")[0]))
        return builder.trees(cls)

    def raw(self, x: NDArray[np.float64]) -> NDArray[np.float64]:
        """(n,) sums of leaves, in log-odds, of encoded columns (n, m)."""
        arrays = (self.nodes, self.roots, self.bitsets)
        return np.array([kernels.trees_raw(row, *arrays) for row in x], dtype=np.float64)

    def to_arrays(self) -> dict[str, NDArray[np.generic]]:
        """Plain arrays, as an artifact stores them."""
        return {
            "threshold": self.nodes["threshold"].copy(),
            "child": self.nodes["child"].copy(),
            "feature": self.nodes["feature"].copy(),
            "flags": self.nodes["flags"].copy(),
            "values": self.values,
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
            for field in ("threshold", "child", "feature", "flags"):
                nodes[field] = arrays[field]
            trees = cls(
                nodes=nodes,
                values=np.ascontiguousarray(arrays["values"], dtype=np.float64),
                roots=np.ascontiguousarray(arrays["roots"], dtype=np.int32),
                bitsets=np.ascontiguousarray(arrays["bitsets"], dtype=np.uint32),
            )
        except (KeyError, ValueError, TypeError) as error:
            raise ArtifactError(f"the artifact's trees cannot be read: {error!r}") from error
        trees._check(num_encoded)
        return trees

    def _check(self, num_encoded: int) -> None:
        flat = (self.nodes, self.values, self.roots, self.bitsets)
        if any(array.ndim != 1 for array in flat):
            raise ArtifactError("the artifact's trees are broken: expected flat arrays")
        num_nodes = len(self.nodes)
        places = np.arange(num_nodes)
        inner = self.nodes["feature"] >= 0
        child = self.nodes["child"]
        categorical = inner & (self.nodes["flags"] & kernels.CATEGORICAL != 0)
        first = self.nodes["threshold"][categorical]
        words = self.nodes["flags"][categorical] >> kernels.WORDS_SHIFT
        checks = {
            "a value for every node": len(self.values) == num_nodes,
            "roots among the nodes": bool(np.all((self.roots >= 0) & (self.roots < num_nodes))),
            # Children after their parent: a walk ends.
            "children after their parent": bool(
                np.all((child[inner] > places[inner]) & (child[inner] < num_nodes - 1))
            ),
            f"features below {num_encoded}": bool(np.all(self.nodes["feature"] < num_encoded)),
            "bitsets within their array": bool(
                np.all((first >= 0) & (first == np.floor(first)))
                and np.all(first + words <= len(self.bitsets))
            ),
            "finite values": bool(
                np.all(np.isfinite(self.values))
                and np.all(np.isfinite(self.nodes["threshold"][~inner]))
            ),
        }
        for expectation, holds in checks.items():
            if not holds:
                raise ArtifactError(f"the artifact's trees are broken: expected {expectation}")


class _Builder:
    """Collects the nodes of one tree after the other."""

    def __init__(self) -> None:
        self.nodes: list[tuple[float, int, int, int]] = []
        self.values: list[float] = []
        self.roots: list[int] = []
        self.bitsets: list[int] = []

    def add(self, fields: Mapping[str, str]) -> None:
        """Append one tree, parents before children, siblings side by side."""
        if fields.get("is_linear", "0").strip() == "1":
            raise ArtifactError("linear trees of LightGBM are not read; train without linear_tree")
        leaf_value = _floats(fields, "leaf_value")
        self.roots.append(len(self.nodes))
        if len(leaf_value) == 1:
            self.nodes.append((leaf_value[0], 0, -1, 0))
            self.values.append(leaf_value[0])
            return
        thresholds = _floats(fields, "threshold")
        decisions = _ints(fields, "decision_type")
        features = _ints(fields, "split_feature")
        left, right = _ints(fields, "left_child"), _ints(fields, "right_child")
        expected = _expected(leaf_value, _ints(fields, "leaf_count"), left, right)
        if max(features) > _LIMIT_FEATURES:
            raise ArtifactError(f"trees over more than {_LIMIT_FEATURES} columns are not read")
        first_word, bounds = len(self.bitsets), [0]
        if int(fields.get("num_cat", "0")) > 0:
            self.bitsets += _ints(fields, "cat_threshold")
            bounds = _ints(fields, "cat_boundaries")
        # Breadth first: (LightGBM's number of the node, our place for it).
        queue = [(0, self._place())]
        for source, place in queue:
            if source < 0:
                value = leaf_value[~source]
                self.nodes[place] = (value, 0, -1, 0)
                self.values[place] = value
                continue
            threshold, flags = thresholds[source], _flags(decisions[source], thresholds[source])
            if flags & kernels.CATEGORICAL:
                begin, end = bounds[int(threshold)], bounds[int(threshold) + 1]
                if end - begin > _LIMIT_WORDS:
                    raise ArtifactError(f"categories beyond {32 * _LIMIT_WORDS} are not read")
                threshold = float(first_word + begin)
                flags |= (end - begin) << kernels.WORDS_SHIFT
            child = self._place()
            self._place()
            self.nodes[place] = (threshold, child, features[source], flags)
            self.values[place] = expected[source]
            queue += [(left[source], child), (right[source], child + 1)]

    def trees(self, kind: type[_T]) -> _T:
        """All that was added."""
        return kind(
            nodes=np.array(self.nodes, dtype=kernels.NODE),
            values=np.array(self.values, dtype=np.float64),
            roots=np.array(self.roots, dtype=np.int32),
            bitsets=np.array(self.bitsets, dtype=np.uint32),
        )

    def _place(self) -> int:
        self.nodes.append((0.0, 0, -1, 0))
        self.values.append(0.0)
        return len(self.nodes) - 1


def _flags(decision: int, threshold: float) -> int:
    if decision & 1:
        return kernels.CATEGORICAL
    missing = _MISSING_KIND[(decision >> 2) & 3]
    default_left = decision & 2 != 0
    if missing == "none":
        # LightGBM then reads NaN as 0: the side of 0 is known here.
        return kernels.NAN_LEFT if threshold >= 0.0 else 0
    nan_left = kernels.NAN_LEFT if default_left else 0
    return nan_left | (kernels.ZERO_IS_MISSING if missing == "zero" else 0)


def _expected(
    leaf_value: list[float], leaf_count: list[int], left: list[int], right: list[int]
) -> list[float]:
    """Mean of the leaves below each inner node, weighted by training rows."""
    rows = [0] * len(left)
    expected = [0.0] * len(left)
    # LightGBM numbers a child after its parent, so backwards is bottom up.
    for node in range(len(left) - 1, -1, -1):
        parts = []
        for child in (left[node], right[node]):
            if child < 0:
                parts.append((max(leaf_count[~child], 1), leaf_value[~child]))
            else:
                parts.append((rows[child], expected[child]))
        rows[node] = parts[0][0] + parts[1][0]
        expected[node] = (parts[0][0] * parts[0][1] + parts[1][0] * parts[1][1]) / rows[node]
    return expected


def _fields(block: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in block.split("\n") if "=" in line)


def _floats(fields: Mapping[str, str], name: str) -> list[float]:
    try:
        return [float(text) for text in fields[name].split()]
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"a tree of the LightGBM model lacks a good `{name}`") from error


def _ints(fields: Mapping[str, str], name: str) -> list[int]:
    try:
        return [int(text) for text in fields[name].split()]
    except (KeyError, ValueError) as error:
        raise ArtifactError(f"a tree of the LightGBM model lacks a good `{name}`") from error

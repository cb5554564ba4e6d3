"""Our trees and lookup tables as attributes of ONNX's operator TreeEnsemble (ai.onnx.ml 5).

A lookup table is a tree over one column: its root sends NaN to a leaf of its own, the branches
below find the bucket, whose leaf is the weight. Nothing here needs the package onnx.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import InvalidInput
from chopmark.models import Additive, Trees, kernels

# A node of a tree on its way from our arrays to ONNX's: a leaf has feature -1 and its value as
# split; `mode` is ONNX's number of the comparison, which leads to `true` or to `false`.
_NODE = np.dtype(
    [
        ("feature", "<i4"),
        ("mode", "u1"),
        ("split", "<f8"),
        ("true", "<i4"),
        ("false", "<i4"),
        ("missing_true", "?"),
    ]
)
_Row = tuple[int, int, float, int, int, bool]
_AT_MOST, _BELOW, _MEMBER = 0, 1, 6

Attributes = dict[str, Any]
"""Numbers, lists of numbers, and arrays where the operator wants tensors."""


def ensemble_of_trees(trees: Trees) -> Attributes:
    """The operator whose output (n, 1) is `Trees.raw`, for whole category codes.

    Raises
    ------
    InvalidInput
        If the trees treat zero as missing.
    """
    ours = trees.nodes
    inner = ours["feature"] >= 0
    flags = np.where(inner, ours["flags"], 0)
    if np.any(flags & kernels.ZERO_IS_MISSING):
        raise InvalidInput(
            "the ONNX export does not know trees that treat zero as missing; train without "
            "zero_as_missing"
        )
    categorical = flags & kernels.CATEGORICAL != 0
    nodes = np.empty(len(ours), dtype=_NODE)
    nodes["feature"] = ours["feature"]
    nodes["mode"] = np.where(categorical, _MEMBER, _AT_MOST)
    nodes["split"] = np.where(categorical, 0.0, ours["threshold"])
    nodes["true"], nodes["false"] = ours["child"], ours["child"] + 1
    nodes["missing_true"] = ~categorical & (flags & kernels.NAN_LEFT != 0)
    sets = [_codes(trees.bitsets, node) for node in ours[categorical]]
    return _ensemble(nodes, trees.roots, sets)


def ensemble_of_lookups(part: Additive) -> Attributes:
    """The operator whose output (n, 1) is `Additive.raw` without its bias and slopes."""
    rows: list[_Row] = []
    roots = []
    for column, term in enumerate(part.terms):
        weights = part.weights[term["weight"] :][: term["num_weights"]]
        edges = part.edges[term["edge"] :][: max(term["num_edges"], 0)]
        if term["num_edges"] < 0:
            # A code is a bucket of its own; one that the model never saw counts as code 1.
            edges = np.arange(len(weights) + 1.0)
            weights = np.array([weights[1], *weights, weights[1]])
        roots.append(len(rows))
        _add_lookup(rows, column, edges.tolist(), weights.tolist(), float(term["missing"]))
    return _ensemble(np.array(rows, dtype=_NODE), np.array(roots, dtype=np.int32), ())


def _codes(bitsets: NDArray[np.uint32], node: np.void) -> Sequence[float]:
    """The category codes that a node sends to the left."""
    first, words = int(node["threshold"]), int(node["flags"]) >> kernels.WORDS_SHIFT
    little_endian = bitsets[first : first + words].astype("<u4")
    bits = np.unpackbits(little_endian.view(np.uint8), bitorder="little")
    codes: list[float] = np.flatnonzero(bits).astype(np.float64).tolist()
    return codes


def _add_lookup(
    rows: list[_Row], column: int, edges: list[float], weights: list[float], missing: float
) -> None:
    """Append a balanced tree that finds a value's bucket; its root sends NaN away."""
    root = len(rows)
    rows += [(column, _AT_MOST, np.inf, root + 1, root + 2, False), _leaf(0.0), _leaf(missing)]
    queue = [(root + 1, 0, len(edges))]
    for place, low, high in queue:
        if low == high:
            rows[place] = _leaf(weights[low])
            continue
        middle, child = (low + high) // 2, len(rows)
        rows[place] = (column, _BELOW, edges[middle], child, child + 1, False)
        rows += [_leaf(0.0), _leaf(0.0)]
        queue += [(child, low, middle), (child + 1, middle + 1, high)]


def _leaf(value: float) -> _Row:
    return (-1, 0, value, 0, 0, False)


def _ensemble(
    nodes: NDArray[np.void], roots: NDArray[np.int32], sets: Sequence[Sequence[float]]
) -> Attributes:
    """Attributes of the TreeEnsemble: ONNX numbers branches and leaves apart."""
    is_leaf = nodes["feature"] < 0
    number = np.where(is_leaf, np.cumsum(is_leaf), np.cumsum(~is_leaf)) - 1
    # A tree that is one leaf begins with a branch whose two ways lead there.
    lone = roots[is_leaf[roots]]
    stubs = np.zeros(len(lone), dtype=_NODE)
    stubs["true"] = stubs["false"] = lone
    starts = number[roots]
    starts[is_leaf[roots]] = np.count_nonzero(~is_leaf) + np.arange(len(lone))
    branches = np.concatenate([nodes[~is_leaf], stubs])
    true, false = branches["true"], branches["false"]
    members = [code for codes in sets for code in (*codes, np.nan)]
    return {
        "n_targets": 1,
        "tree_roots": starts.tolist(),
        "nodes_featureids": branches["feature"].tolist(),
        "nodes_modes": branches["mode"].copy(),
        "nodes_splits": branches["split"].copy(),
        "nodes_truenodeids": number[true].tolist(),
        "nodes_trueleafs": is_leaf[true].astype(int).tolist(),
        "nodes_falsenodeids": number[false].tolist(),
        "nodes_falseleafs": is_leaf[false].astype(int).tolist(),
        "nodes_missing_value_tracks_true": branches["missing_true"].astype(int).tolist(),
        "leaf_targetids": [0] * int(is_leaf.sum()),
        "leaf_weights": nodes["split"][is_leaf].copy(),
        **({"membership_values": np.array(members)} if members else {}),
    }

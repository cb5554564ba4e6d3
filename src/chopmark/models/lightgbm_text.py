"""Trees of LightGBM, read from the text of `Booster.model_to_string` or `save_model`."""

from collections.abc import Mapping, Sequence

from chopmark.errors import ArtifactError
from chopmark.models import kernels
from chopmark.models.tree import Tree, leaf

_MISSING_KIND = {0: "none", 1: "zero", 2: "nan"}


def read_lightgbm(text: str) -> list[Tree]:
    """The trees of a LightGBM model.

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
    try:
        return [_tree(_fields(block.split("end of trees")[0])) for block in blocks]
    except (IndexError, ValueError) as error:
        raise ArtifactError(f"a tree of the LightGBM model is broken: {error}") from error


def _tree(fields: Mapping[str, str]) -> Tree:
    if fields.get("is_linear", "0").strip() == "1":
        raise ArtifactError("linear trees of LightGBM are not read; train without linear_tree")
    leaf_value = _floats(fields, "leaf_value")
    if len(leaf_value) == 1:
        return leaf(leaf_value[0])
    thresholds = _floats(fields, "threshold")
    decisions = _ints(fields, "decision_type")
    num_inner, num_leaves = len(thresholds), len(leaf_value)
    # LightGBM numbers leaves apart from the other nodes and names leaf j as ~j.
    left, right = (
        [child if child >= 0 else num_inner + ~child for child in _ints(fields, name)]
        for name in ("left_child", "right_child")
    )
    none = [0] * num_leaves
    return Tree(
        feature=_ints(fields, "split_feature") + [-1] * num_leaves,
        threshold=thresholds + leaf_value,
        left=left + none,
        right=right + none,
        cover=[0.0] * num_inner + [max(rows, 1.0) for rows in _floats(fields, "leaf_count")],
        flags=[*map(_flags, decisions, thresholds), *none],
        words=_words(fields, decisions, thresholds),
    )


def _flags(decision: int, threshold: float) -> int:
    if decision & 1:
        return 0
    missing = _MISSING_KIND[(decision >> 2) & 3]
    default_left = decision & 2 != 0
    if missing == "none":
        # LightGBM then reads NaN as 0: the side of 0 is known here.
        return kernels.NAN_LEFT if threshold >= 0.0 else 0
    nan_left = kernels.NAN_LEFT if default_left else 0
    return nan_left | (kernels.ZERO_IS_MISSING if missing == "zero" else 0)


def _words(
    fields: Mapping[str, str], decisions: Sequence[int], thresholds: Sequence[float]
) -> dict[int, list[int]]:
    """The bitset of each categorical node, whose threshold is the bitset's number."""
    if int(fields.get("num_cat", "0")) == 0:
        return {}
    words, bounds = _ints(fields, "cat_threshold"), _ints(fields, "cat_boundaries")
    return {
        node: words[bounds[int(number)] : bounds[int(number) + 1]]
        for node, (decision, number) in enumerate(zip(decisions, thresholds, strict=True))
        if decision & 1
    }


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

"""Trees of XGBoost, read from the JSON of `Booster.save_raw("json")` or `save_model`.

XGBoost keeps rows and thresholds in float32 and goes left if value < threshold; the threshold
read here decides the same for every float64. Its sums are float32, ours are float64.
"""

import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from chopmark.errors import ArtifactError
from chopmark.models import kernels
from chopmark.models.tree import Tree, last_within_float32, leaf, words_of

_LINKS = {"binary:logistic": "logit", "reg:squarederror": "identity"}


def read_xgboost(text: str | bytes | bytearray) -> list[Tree]:
    """The trees of an XGBoost model, after a leaf that holds its intercept.

    A missing category is not read; every other value goes where XGBoost sends it.

    Raises
    ------
    ArtifactError
        If the text is no XGBoost model, or of a sort that is not one sum of constant leaves.
    """
    try:
        learner = json.loads(text)["learner"]
        booster, objective = learner["gradient_booster"], learner["objective"]["name"]
        if booster["name"] != "gbtree" or objective not in _LINKS:
            raise ArtifactError(
                f"expected an XGBoost model of gbtree and {' or '.join(_LINKS)}, got "
                f"{booster['name']} and {objective}"
            )
        start = _intercept(learner["learner_model_param"]["base_score"], _LINKS[objective])
        return [leaf(start), *map(_tree, booster["model"]["trees"])]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(f"expected the JSON of an XGBoost model: {error!r}") from error


def _intercept(text: str, link: str) -> float:
    mean = np.float32(text.strip("[]"))
    one = np.float32(1.0)
    # In float32 as there, to the last bit.
    return float(-np.log(one / mean - one) if link == "logit" else mean)


def _tree(data: Mapping[str, Any]) -> Tree:
    inner = [child >= 0 for child in data["left_children"]]
    words = _words(data)
    left, right = list(data["left_children"]), list(data["right_children"])
    for node in words:
        # The codes that XGBoost lists go right there, and left here.
        left[node], right[node] = right[node], left[node]
    conditions = np.asarray(data["split_conditions"], dtype=np.float32)
    return Tree(
        feature=[
            column if is_inner else -1
            for column, is_inner in zip(data["split_indices"], inner, strict=True)
        ],
        threshold=[
            _last_below(value) if is_inner and node not in words else float(value)
            for node, (value, is_inner) in enumerate(zip(conditions, inner, strict=True))
        ],
        left=left,
        right=right,
        cover=data["sum_hessian"],
        flags=[
            kernels.NAN_LEFT if default_left and node not in words else 0
            for node, default_left in enumerate(data["default_left"])
        ],
        words=words,
    )


def _last_below(threshold: np.float32) -> float:
    return last_within_float32(float(np.nextafter(threshold, np.float32(-np.inf))))


def _words(data: Mapping[str, Any]) -> dict[int, list[int]]:
    codes = data["categories"]
    return {
        node: words_of(codes[begin : begin + size])
        for node, begin, size in zip(
            data["categories_nodes"],
            data["categories_segments"],
            data["categories_sizes"],
            strict=True,
        )
    }

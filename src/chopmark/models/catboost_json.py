"""Trees of CatBoost, read from the JSON of `save_model(format="json", pool=...)`.

All nodes of one level of a CatBoost tree ask the same, so a tree is a list of questions and a
table of leaves: bit i of a leaf's number is the answer to question i. It is unfolded into
nodes, and a part whose leaves are all equal becomes one leaf. CatBoost keeps rows in float32;
the thresholds read here decide the same for every float64.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from chopmark.errors import ArtifactError
from chopmark.models import kernels
from chopmark.models.tree import Tree, last_within_float32, leaf, words_of

_MOST_QUESTIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """What a level asks. A number's answer is 1 to the right, a category's 1 to the left."""

    column: int
    threshold: float = 0.0
    flags: int = 0
    code: int = -1


def read_catboost(text: str | bytes, *, columns: Sequence[int]) -> list[Tree]:
    """The trees of a CatBoost model, after a leaf that holds its bias.

    Parameters
    ----------
    columns
        The encoded column of each column of CatBoost's pool. Its categories are codes, written
        as integers.

    Raises
    ------
    ArtifactError
        If the text is no CatBoost model, or asks more than borders of numbers and single
        categories.
    """
    try:
        model = json.loads(text)
        questions = _Reader(model["features_info"], columns)
        scale, (bias,) = model["scale_and_bias"]
        trees = [
            _tree([questions.read(split) for split in tree["splits"] or ()], tree, scale)
            for tree in model["oblivious_trees"]
        ]
        return [leaf(float(bias)), *trees]
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ArtifactError(f"expected the JSON of a CatBoost model: {error!r}") from error


class _Reader:
    """Reads questions: knows the columns behind CatBoost's numbers, and the codes' hashes."""

    def __init__(self, info: Mapping[str, Any], columns: Sequence[int]) -> None:
        self._numbers = {
            item["feature_index"]: (
                columns[item["flat_feature_index"]],
                0 if item["nan_value_treatment"] == "AsTrue" else kernels.NAN_LEFT,
            )
            for item in info.get("float_features") or ()
        }
        self._categories = {
            item["feature_index"]: columns[item["flat_feature_index"]]
            for item in info.get("categorical_features") or ()
        }
        self._codes = {
            item["hash"]: int(item["value"]) for item in info.get("cat_features_hash") or ()
        }

    def read(self, split: Mapping[str, Any]) -> _Question:
        """The question of a level."""
        kind = split["split_type"]
        if kind == "FloatFeature":
            column, flags = self._numbers[split["float_feature_index"]]
            return _Question(
                column=column, threshold=last_within_float32(split["border"]), flags=flags
            )
        if kind == "OneHotFeature":
            # Hashes are listed without sign and asked for with one.
            code = self._codes[split["value"] & 0xFFFFFFFF]
            return _Question(column=self._categories[split["cat_feature_index"]], code=code)
        raise ArtifactError(f"a CatBoost model that asks `{kind}` is not read; use one-hot only")


def _tree(questions: Sequence[_Question], data: Mapping[str, Any], scale: float) -> Tree:
    if len(questions) > _MOST_QUESTIONS:
        raise ArtifactError(f"CatBoost trees deeper than {_MOST_QUESTIONS} are not read")
    values = [scale * float(value) for value in data["leaf_values"]]
    covers = [float(weight) for weight in data["leaf_weights"]]
    if not len(values) == len(covers) == 1 << len(questions):
        raise ArtifactError(f"expected {1 << len(questions)} leaves in a CatBoost tree")
    unfolded = _Unfolded()
    unfolded.add(questions, values, covers)
    return unfolded.tree()


class _Unfolded:
    """Collects the nodes of one tree, children after their parents."""

    def __init__(self) -> None:
        self._nodes: list[tuple[int, float, float, int]] = []
        self._children: dict[int, tuple[int, int]] = {}
        self._words: dict[int, list[int]] = {}

    def add(
        self, questions: Sequence[_Question], values: Sequence[float], covers: Sequence[float]
    ) -> int:
        """Add the node that asks the last question, and all below; the depth is small."""
        place = len(self._nodes)
        if values.count(values[0]) == len(values):
            self._nodes.append((-1, values[0], sum(covers), 0))
            return place
        *rest, question = questions
        self._nodes.append((question.column, question.threshold, 0.0, question.flags))
        half = len(values) // 2
        no, yes = (
            self.add(rest, values[part], covers[part]) for part in (slice(half), slice(half, None))
        )
        self._children[place] = (no, yes) if question.code < 0 else (yes, no)
        if question.code >= 0:
            self._words[place] = words_of([question.code])
        return place

    def tree(self) -> Tree:
        """All that was added."""
        feature, threshold, cover, flags = zip(*self._nodes, strict=True)
        children = [self._children.get(node, (0, 0)) for node in range(len(feature))]
        left, right = zip(*children, strict=True)
        return Tree(
            feature=feature,
            threshold=threshold,
            left=left,
            right=right,
            cover=cover,
            flags=flags,
            words=self._words,
        )

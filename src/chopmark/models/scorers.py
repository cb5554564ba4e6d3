"""Scorers: a fitted model on the request path, from an artifact or straight from training.

A family is an encoder, arrays and the compiled functions that read them. `load_scorer` picks
the family that the artifact names; all families answer through one class.
Serves A11 and A12 of the requirements.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, did_you_mean
from chopmark.models import artifact as artifacts
from chopmark.models import kernels
from chopmark.models.additive import Additive
from chopmark.models.artifact import Artifact
from chopmark.models.calibration import Calibration
from chopmark.models.encoder import Encoder
from chopmark.models.model import Contributions, Scores, Table, Value
from chopmark.models.trees import Trees


class _Family(Protocol):
    """The compiled functions of one family, bound to one model's arrays."""

    @property
    def bias(self) -> float: ...

    def score_row(self, base: NDArray[np.float64]) -> float: ...

    def explain_row(self, base: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]: ...

    def score_table(self, base: NDArray[np.float64]) -> Scores: ...

    def explain_table(self, base: NDArray[np.float64]) -> NDArray[np.float64]: ...


class ArtifactScorer:
    """The scorer of an artifact: implements `chopmark.models.Scorer`, for rows and tables.

    Immutable after construction; safe in any number of threads.

    Parameters
    ----------
    artifact
        What `chopmark.models.artifact.read` gave, with its hash.

    Raises
    ------
    ArtifactError
        If the artifact's parts do not fit each other.
    """

    def __init__(self, artifact: Artifact) -> None:
        header = artifact.header
        if not artifact.hash:
            raise ArtifactError("expected an artifact with its hash: pack it and unpack it first")
        self.artifact = artifact
        self.encoder = Encoder.from_json(_section(header, "encoder"))
        self.calibration = Calibration.from_array(_calibration(artifact))
        self._feature_hashes = {
            str(name): str(digest) for name, digest in _section(header, "feature_hashes").items()
        }
        self._family = _family(artifact, self.encoder, self.calibration)
        self._base_row = self.encoder.base_row

    @property
    def reads(self) -> tuple[str, ...]:
        """Raw columns, in the order in which values are given."""
        return self.encoder.reads

    @property
    def hash(self) -> str:
        """sha256 of the artifact file, 64 hexadecimal digits."""
        return self.artifact.hash

    @property
    def feature_hashes(self) -> Mapping[str, str]:
        """Hash of each feature's definition at training."""
        return self._feature_hashes

    @property
    def training(self) -> Mapping[str, Any]:
        """What training left: metrics, rows, seed and the like."""
        return _section(self.artifact.header, "training")

    @property
    def bias(self) -> float:
        """Log-odds of an average row, calibrated."""
        return self._family.bias

    def score_row(self, values: Sequence[Value]) -> float:
        """Probability of bad of one row, `values` in the order of `reads`.

        Raises
        ------
        InvalidInput
            If there are more or fewer values than `reads` has columns.
        """
        return self._family.score_row(self._base_row(values))

    def explain_row(self, values: Sequence[Value]) -> tuple[float, NDArray[np.float64]]:
        """Score, and (len(reads),) contributions: with `bias` they sum to its log-odds."""
        return self._family.explain_row(self._base_row(values))

    def score(self, table: Table) -> Scores:
        """(n,) scores of a polars DataFrame, each equal to `score_row` of its row."""
        return self._family.score_table(self.encoder.base_table(table))

    def explain(self, table: Table) -> Contributions:
        """Contributions of all rows of a polars DataFrame."""
        values = self._family.explain_table(self.encoder.base_table(table))
        return Contributions(reads=self.reads, values=values, bias=self.bias)

    def warm(self) -> None:
        """Compile (or load from the cache) all functions, with a row that has no value."""
        values: list[Value] = [None] * len(self.reads)
        self.score_row(values)
        self.explain_row(values)
        base = np.full((1, len(self.encoder.columns)), np.nan)
        self._family.score_table(base)
        self._family.explain_table(base)


def load_scorer(path: str | Path) -> ArtifactScorer:
    """The scorer of an artifact file, checked and warm.

    Raises
    ------
    ArtifactError
        If the file is missing, damaged, foreign, or its parts do not fit each other.
    """
    scorer = ArtifactScorer(artifacts.read(path))
    scorer.warm()
    return scorer


class _TreeFamily:
    """Functions of `kernels` bound to the arrays of a tree model."""

    def __init__(self, trees: Trees, encoder: Encoder, calibration: Calibration) -> None:
        plan, knots = encoder.plan, calibration.knots
        tail = (trees.roots, trees.bitsets, knots)
        self._score = (plan, trees.nodes, *tail)
        self._explain = (plan, trees.nodes, trees.values, *tail, trees.bias, len(encoder.reads))
        self.bias = float(kernels.calibrate(trees.bias, knots))

    def score_row(self, base: NDArray[np.float64]) -> float:
        score: float = kernels.score_trees_row(base, *self._score)
        return score

    def explain_row(self, base: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        score, moves = kernels.explain_trees_row(base, *self._explain)
        return score, moves[:-1]

    def score_table(self, base: NDArray[np.float64]) -> Scores:
        scores: Scores = kernels.score_trees_table(base, *self._score)
        return scores

    def explain_table(self, base: NDArray[np.float64]) -> NDArray[np.float64]:
        moves: NDArray[np.float64] = kernels.explain_trees_table(base, *self._explain)
        return moves[:, :-1]


class _AdditiveFamily:
    """Functions of `kernels` bound to the arrays of a linear model.

    Its contributions come with the sum, so scores are explanations that are thrown away.
    """

    def __init__(self, model: Additive, encoder: Encoder, calibration: Calibration) -> None:
        knots = calibration.knots
        self._arrays = (
            encoder.plan,
            model.terms,
            model.edges,
            model.weights,
            knots,
            model.bias,
            len(encoder.reads),
        )
        self.bias = float(kernels.calibrate(model.bias, knots))

    def score_row(self, base: NDArray[np.float64]) -> float:
        score: float = kernels.explain_additive_row(base, *self._arrays)[0]
        return score

    def explain_row(self, base: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        score, moves = kernels.explain_additive_row(base, *self._arrays)
        return score, moves[:-1]

    def score_table(self, base: NDArray[np.float64]) -> Scores:
        scores: Scores = kernels.explain_additive_table(base, *self._arrays)[0]
        return scores

    def explain_table(self, base: NDArray[np.float64]) -> NDArray[np.float64]:
        moves: NDArray[np.float64] = kernels.explain_additive_table(base, *self._arrays)[1]
        return moves[:, :-1]


def _family(artifact: Artifact, encoder: Encoder, calibration: Calibration) -> _Family:
    prefix = f"{artifact.family}."
    arrays = {
        name.removeprefix(prefix): array
        for name, array in artifact.arrays.items()
        if name.startswith(prefix)
    }
    num_encoded = len(encoder.encoded)
    if artifact.family == "trees":
        trees = Trees.from_arrays(arrays, num_encoded=num_encoded)
        return _TreeFamily(trees, encoder, calibration)
    if artifact.family == "linear":
        additive = Additive.from_arrays(arrays, num_encoded=num_encoded)
        return _AdditiveFamily(additive, encoder, calibration)
    raise ArtifactError(
        f"the artifact holds a model of family `{artifact.family}`, which this chopmark cannot "
        "score" + did_you_mean(artifact.family, ("trees", "linear"))
    )


def _section(header: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = header.get(name)
    if not isinstance(section, dict):
        raise ArtifactError(f"the artifact's header lacks `{name}`")
    return section


def _calibration(artifact: Artifact) -> NDArray[np.generic]:
    try:
        return artifact.arrays["calibration"]
    except KeyError:
        raise ArtifactError("the artifact lacks its calibration") from None

"""The scorer of a model made of models: parts' scores in, one score and one explanation out.

    logistic   log-odds = bias + sum_j weight_j * log-odds_j
    linear     score = bias + sum_j weight_j * score_j
    both       log-odds kept within +-limit

An explanation is the weighted sum of the parts' own. Where a step is a curve (the scores of a
linear blend, the limit), contributions are scaled by the curve's secant from the average row to
this one: they still sum to the log-odds, and none changes its sign. The functions for tables
loop over those for one row. Serves B10 and B14 of the requirements.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Protocol, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, InvalidInput, did_you_mean
from chopmark.models.artifact import Artifact
from chopmark.models.kernels import LOG_ODDS_LIMIT, sigmoid
from chopmark.models.model import Contributions, Scorer, Scores, Table, Value

SECONDS = ("logistic", "linear")
"""Kinds of second layer."""

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]
Places = NDArray[np.int64]

_Pick: TypeAlias = Callable[[Sequence[Value]], Sequence[Value]]
_Explain: TypeAlias = Callable[[Sequence[Value]], tuple[float, NDArray[np.float64]]]

_NEAR = 1e-9
_LARGEST = 1e6


class TableScorer(Scorer, Protocol):
    """A scorer that takes whole tables too, each row as `score_row` and `explain_row` do."""

    @property
    def training(self) -> Mapping[str, Any]:
        """What training left: metrics, rows, seed and the like."""
        ...

    def reasons_row(self, values: Sequence[Value]) -> tuple[float, Vector]:
        """As `explain_row`, fast enough for the live path."""
        ...

    def score(self, table: Table) -> Scores:
        """(n,) scores of a polars DataFrame."""
        ...

    def explain(self, table: Table) -> Contributions:
        """Contributions of all rows of a polars DataFrame."""
        ...


class BlendScorer:
    """The scorer of a blend: implements `chopmark.models.Scorer`, for rows and tables.

    Immutable after construction; safe in any number of threads.

    Parameters
    ----------
    artifact
        Of family "blend", with its hash. Header: "second", "names" of the parts in order,
        "feature_hashes", "training". Arrays: "weights" (p,), and "layer" (2,), which are the
        bias and the limit.
    scorers
        Of the artifact's parts, by name.

    Raises
    ------
    ArtifactError
        If the artifact and its parts do not fit each other.
    """

    def __init__(self, artifact: Artifact, scorers: Mapping[str, TableScorer]) -> None:
        if not artifact.hash:
            raise ArtifactError("expected an artifact with its hash: pack it and unpack it first")
        self.artifact = artifact
        self.names = _names(artifact, scorers)
        self.parts = tuple(scorers[name] for name in self.names)
        self._reads = tuple(dict.fromkeys(name for part in self.parts for name in part.reads))
        self._feature_hashes = _feature_hashes(artifact, self.names, self.parts)
        self._pick = tuple(_picker(part.reads, self._reads) for part in self.parts)
        self._score_parts = [
            (part.score_row, pick) for part, pick in zip(self.parts, self._pick, strict=True)
        ]
        self._explain_parts = [
            (part.explain_row, pick) for part, pick in zip(self.parts, self._pick, strict=True)
        ]
        self._reason_parts = [
            (part.reasons_row, pick) for part, pick in zip(self.parts, self._pick, strict=True)
        ]
        self._layer = _layer(artifact, len(self.names))
        averages = np.array([sigmoid(part.bias) for part in self.parts])
        self._spread = (*_places(self.parts, self._reads), averages, len(self._reads))
        self._bias = float(_combined(averages, *self._layer))

    @property
    def reads(self) -> tuple[str, ...]:
        """Raw columns of all parts, each once, in the order in which values are given."""
        return self._reads

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
        """What training left: weights, held-out metrics of parts and blend, rows, seed."""
        return _section(self.artifact, "training")

    @property
    def bias(self) -> float:
        """Log-odds of the blend where every part says what it says of an average row."""
        return self._bias

    def score_row(self, values: Sequence[Value]) -> float:
        """Probability of bad of one row, `values` in the order of `reads`.

        Raises
        ------
        InvalidInput
            If there are more or fewer values than `reads` has columns.
        """
        self._check(values)
        scores = np.array([score(pick(values)) for score, pick in self._score_parts])
        score: float = _score_row(scores, *self._layer)
        return score

    def explain_row(self, values: Sequence[Value]) -> tuple[float, NDArray[np.float64]]:
        """Score, and (len(reads),) contributions: with `bias` they sum to its log-odds."""
        return self._told_row(self._explain_parts, values)

    def reasons_row(self, values: Sequence[Value]) -> tuple[float, NDArray[np.float64]]:
        """Score, and (len(reads),) contributions for the live path, of the parts' own reasons."""
        return self._told_row(self._reason_parts, values)

    def score(self, table: Table) -> Scores:
        """(n,) scores of a polars DataFrame, each equal to `score_row` of its row."""
        scores: Scores = _score_table(self._scores(table), *self._layer)
        return scores

    def explain(self, table: Table) -> Contributions:
        """Contributions of all rows of a polars DataFrame."""
        return Contributions(reads=self._reads, values=self._told(table)[0], bias=self._bias)

    def explain_parts(self, table: Table) -> Contributions:
        """What each part adds to each row's log-odds; its `reads` are the parts' names."""
        return Contributions(reads=self.names, values=self._told(table)[1], bias=self._bias)

    def warm(self) -> None:
        """Compile (or load from the cache) all functions, with a row that has no value."""
        for part in self.parts:
            part.warm()
        values: list[Value] = [None] * len(self._reads)
        self.score_row(values)
        self.explain_row(values)
        self.reasons_row(values)
        scores = np.full((1, len(self.parts)), 0.5)
        _score_table(scores, *self._layer)
        moves = np.zeros((1, len(self._spread[0])))
        _explain_table(scores, moves, *self._spread, *self._layer)

    def _check(self, values: Sequence[Value]) -> None:
        if len(values) != len(self._reads):
            raise InvalidInput(
                f"expected {len(self._reads)} values, one for each column that the model reads; "
                f"got {len(values)}"
            )

    def _told_row(
        self, parts: Sequence[tuple[_Explain, _Pick]], values: Sequence[Value]
    ) -> tuple[float, NDArray[np.float64]]:
        self._check(values)
        told = [explain(pick(values)) for explain, pick in parts]
        scores = np.array([score for score, _ in told])
        moves = np.concatenate([moved for _, moved in told])
        score, contributions, _ = _explain_row(scores, moves, *self._spread, *self._layer)
        return score, contributions

    def _scores(self, table: Table) -> Matrix:
        return np.column_stack([part.score(table) for part in self.parts])

    def _told(self, table: Table) -> tuple[Matrix, Matrix]:
        """Contributions (n, len(reads)) of the columns and (n, p) of the parts."""
        moves = np.column_stack([part.explain(table).values for part in self.parts])
        told: tuple[Matrix, Matrix] = _explain_table(
            self._scores(table), moves, *self._spread, *self._layer
        )
        return told


@njit(cache=True)  # type: ignore[misc]
def _log_odds(score: float) -> float:
    """Log-odds of a score, within `LOG_ODDS_LIMIT`."""
    if score <= 0.0:
        return -LOG_ODDS_LIMIT
    if score >= 1.0:
        return LOG_ODDS_LIMIT
    return min(max(math.log(score / (1.0 - score)), -LOG_ODDS_LIMIT), LOG_ODDS_LIMIT)


@njit(cache=True)  # type: ignore[misc]
def _sum(scores: Vector, weights: Vector, bias: float, is_linear: bool) -> float:
    """The weighted sum of p scores, or of their log-odds."""
    total = bias
    for j in range(weights.shape[0]):
        total += weights[j] * (scores[j] if is_linear else _log_odds(scores[j]))
    return total


@njit(cache=True)  # type: ignore[misc]
def _bounded(total: float, limit: float, is_linear: bool) -> float:
    """Log-odds of a weighted sum, within the limit."""
    z = _log_odds(total) if is_linear else total
    return min(max(z, -limit), limit)


@njit(cache=True)  # type: ignore[misc]
def _combined(scores: Vector, weights: Vector, bias: float, limit: float, is_linear: bool) -> float:
    """Log-odds of the blend."""
    z: float = _bounded(_sum(scores, weights, bias, is_linear), limit, is_linear)
    return z


@njit(cache=True)  # type: ignore[misc]
def _score_row(
    scores: Vector, weights: Vector, bias: float, limit: float, is_linear: bool
) -> float:
    score: float = sigmoid(_combined(scores, weights, bias, limit, is_linear))
    return score


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _score_table(
    scores: Matrix, weights: Vector, bias: float, limit: float, is_linear: bool
) -> Vector:
    result = np.empty(scores.shape[0], np.float64)
    for i in range(scores.shape[0]):
        result[i] = _score_row(scores[i], weights, bias, limit, is_linear)
    return result


@njit(cache=True)  # type: ignore[misc]
def _explain_row(
    scores: Vector,
    moves: Vector,
    places: Places,
    begins: Places,
    averages: Vector,
    num_reads: int,
    weights: Vector,
    bias: float,
    limit: float,
    is_linear: bool,
) -> tuple[float, Vector, Vector]:
    """Score, contributions of the columns and contributions of the parts.

    `moves` are the parts' contributions one after the other: those of part j lie from
    `begins[j]` on, and each belongs to the column at its place.
    """
    total = _sum(scores, weights, bias, is_linear)
    first = _sum(averages, weights, bias, is_linear)
    z = _bounded(total, limit, is_linear)
    rise = z - _bounded(first, limit, is_linear)
    slope = 1.0 / max(total * (1.0 - total), 1e-12) if is_linear else 1.0
    outer = _secant(rise, total - first, slope)
    columns, parts = np.zeros(num_reads, np.float64), np.zeros(weights.shape[0], np.float64)
    for j in range(weights.shape[0]):
        moved = 0.0
        for k in range(begins[j], begins[j + 1]):
            moved += moves[k]
        if is_linear:
            inner = _secant(scores[j] - averages[j], moved, scores[j] * (1.0 - scores[j]))
        else:
            inner = _secant(_log_odds(scores[j]) - _log_odds(averages[j]), moved, 1.0)
        share = outer * inner * weights[j]
        parts[j] = share * moved
        for k in range(begins[j], begins[j + 1]):
            columns[places[k]] += share * moves[k]
    return sigmoid(z), columns, parts


@njit(cache=True, nogil=True)  # type: ignore[misc]
def _explain_table(
    scores: Matrix,
    moves: Matrix,
    places: Places,
    begins: Places,
    averages: Vector,
    num_reads: int,
    weights: Vector,
    bias: float,
    limit: float,
    is_linear: bool,
) -> tuple[Matrix, Matrix]:
    columns = np.empty((scores.shape[0], num_reads), np.float64)
    parts = np.empty(scores.shape, np.float64)
    for i in range(scores.shape[0]):
        _, columns[i], parts[i] = _explain_row(
            scores[i],
            moves[i],
            places,
            begins,
            averages,
            num_reads,
            weights,
            bias,
            limit,
            is_linear,
        )
    return columns, parts


@njit(cache=True)  # type: ignore[misc]
def _secant(rise: float, run: float, slope: float) -> float:
    """rise / run; where the run is too short to divide by, the slope of the curve."""
    return rise / run if abs(run) * max(slope, 1.0) > _NEAR else slope


def _names(artifact: Artifact, scorers: Mapping[str, TableScorer]) -> tuple[str, ...]:
    names = artifact.header.get("names")
    if not isinstance(names, list) or not names or {*map(repr, names)} != {*map(repr, scorers)}:
        raise ArtifactError(
            f"the blend names the parts {names} and holds {sorted(scorers)}; expected the same"
        )
    return tuple(names)


def _layer(artifact: Artifact, num_parts: int) -> tuple[Vector, float, float, bool]:
    """Weights, bias, limit, and whether scores are summed instead of log-odds."""
    second = artifact.header.get("second")
    if second not in SECONDS:
        raise ArtifactError(
            f"the blend has second layer `{second}`; expected one of {', '.join(SECONDS)}"
            + did_you_mean(str(second), SECONDS)
        )
    try:
        weights = np.ascontiguousarray(artifact.arrays["weights"], dtype=np.float64)
        layer = np.asarray(artifact.arrays["layer"], dtype=np.float64)
    except KeyError as error:
        raise ArtifactError(f"the blend lacks its array {error}") from error
    good = weights.shape == (num_parts,) and layer.shape == (2,)
    # Beyond this a sum has no digits left for what is explained.
    if not good or not (np.abs([*weights, *layer]) <= _LARGEST).all() or weights.min() < 0:
        raise ArtifactError(
            f"the blend's second layer is broken: expected {num_parts} weights of at least "
            f"zero, a bias and a limit, none beyond {_LARGEST:g}"
        )
    if not 0.0 < layer[1] <= LOG_ODDS_LIMIT:
        raise ArtifactError(f"the blend's limit is {layer[1]:g}; expected 0 to {LOG_ODDS_LIMIT:g}")
    return weights, float(layer[0]), float(layer[1]), second == "linear"


def _feature_hashes(
    artifact: Artifact, names: Sequence[str], parts: Sequence[TableScorer]
) -> dict[str, str]:
    """Of the blend and of all parts: one feature cannot be two."""
    known = {str(name): str(hash_) for name, hash_ in _section(artifact, "feature_hashes").items()}
    for part_name, part in zip(names, parts, strict=True):
        for name, digest in part.feature_hashes.items():
            if known.setdefault(name, digest) != digest:
                raise ArtifactError(
                    f"part `{part_name}` reads another feature `{name}` than the rest of the "
                    "blend: fit all parts to one table"
                )
    return known


def _places(parts: Sequence[TableScorer], reads: Sequence[str]) -> tuple[Places, Places]:
    """Where each part's columns lie among all, and where each part begins among its own."""
    place = {name: j for j, name in enumerate(reads)}
    places = [place[name] for part in parts for name in part.reads]
    begins = np.cumsum([0, *(len(part.reads) for part in parts)])
    return np.array(places, dtype=np.int64), begins.astype(np.int64)


def _picker(wanted: Sequence[str], reads: Sequence[str]) -> _Pick:
    """A function from the values of all columns to those that a part wants."""
    if tuple(wanted) == tuple(reads):
        return lambda values: values
    places = [reads.index(name) for name in wanted]
    if len(places) == 1:
        # itemgetter of one place gives the bare value.
        return itemgetter(slice(places[0], places[0] + 1))
    return itemgetter(*places) if places else lambda values: ()


def _section(artifact: Artifact, name: str) -> Mapping[str, Any]:
    section = artifact.header.get(name)
    if not isinstance(section, dict):
        raise ArtifactError(f"the artifact's header lacks `{name}`")
    return section

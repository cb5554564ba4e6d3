"""Scorers: a fitted model on the request path, from an artifact or straight from training.

A model is an encoder and a sum of parts (`chopmark.models.part`): trees, lookup tables, a small
network, any of them. Trees and lookup tables are walked by one compiled function; a network
goes first and hands over its number as an offset. Serves A11 and A12 of the requirements.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, did_you_mean
from chopmark.models import kernels
from chopmark.models.additive import Additive
from chopmark.models.artifact import Artifact
from chopmark.models.calibration import Calibration
from chopmark.models.dense import Dense
from chopmark.models.encoder import Encoder
from chopmark.models.model import Contributions, Scores, Table, Value
from chopmark.models.part import Part
from chopmark.models.trees import Trees

PARTS: tuple[type[Part], ...] = (Trees, Additive, Dense)
"""Kinds of parts, in the order in which they are summed."""

FAMILY = "sum"
"""Family of the artifact: a sum of parts."""


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
        self.encoder = Encoder.from_json(section(header, "encoder"))
        self.calibration = Calibration.from_array(_calibration(artifact))
        self.parts = _parts(artifact, len(self.encoder.encoded))
        self._feature_hashes = {
            str(name): str(digest) for name, digest in section(header, "feature_hashes").items()
        }
        self._logit = _link(header) == "logit"
        self._knots = self.calibration.knots
        self._expected = float(sum(part.bias for part in self.parts))
        self._bias = float(kernels.calibrate(self._expected, self._knots, self._logit))
        self._base_row = self.encoder.base_row
        self._bind()

    def _bind(self) -> None:
        """Lay out the arguments of the compiled functions once."""
        kinds = {type(part): part for part in self.parts}
        trees, linear = kinds.get(Trees), kinds.get(Additive)
        trees = trees if isinstance(trees, Trees) else Trees.of([])
        linear = linear if isinstance(linear, Additive) else Additive.of([], bias=0.0)
        self._dense = next((part for part in self.parts if isinstance(part, Dense)), None)
        forest = (trees.nodes, trees.roots, trees.bitsets)
        terms = (linear.terms, linear.edges, linear.weights, linear.bias)
        plan, knots, logit = self.encoder.plan, self._knots, self._logit
        self._sum = (*forest, *terms)
        self._score = (plan, *forest, *terms, knots, logit)
        self._reasons = (
            plan, trees.nodes, trees.values, trees.roots, trees.bitsets, *terms, self._expected,
            knots, logit, len(self.encoder.reads),
        )  # fmt: skip
        self._no_moves = np.zeros(len(self.encoder.encoded))

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
        return section(self.artifact.header, "training")

    @property
    def is_probability(self) -> bool:
        """Whether scores are probabilities, else numbers."""
        return self._logit

    @property
    def bias(self) -> float:
        """Calibrated log-odds (or the number) of an average row."""
        return self._bias

    def score_row(self, values: Sequence[Value]) -> float:
        """Probability of bad (or the number) of one row, `values` in the order of `reads`.

        Raises
        ------
        InvalidInput
            If there are more or fewer values than `reads` has columns.
        """
        base = self._base_row(values)
        offset = 0.0 if self._dense is None else self._dense.raw(self._encoded(base)[None])[0]
        score: float = kernels.score_row(base, offset, *self._score)
        return score

    def reasons_row(self, values: Sequence[Value]) -> tuple[float, NDArray[np.float64]]:
        """Score, and (len(reads),) path contributions: with `bias` they sum to its log-odds.

        For the live path: hardly slower than `score_row`. Columns that say the same may share
        their weight less fairly than `explain_row` does.
        """
        base = self._base_row(values)
        offset, moves = 0.0, self._no_moves
        if self._dense is not None:
            x = self._encoded(base)
            offset, moves = self._dense.raw(x[None])[0], self._dense.moves(x[None])[0]
        score, out = kernels.reasons_row(base, offset, moves, *self._reasons)
        return score, out[:-1]

    def explain_row(self, values: Sequence[Value]) -> tuple[float, NDArray[np.float64]]:
        """Score, and (len(reads),) Shapley values: with `bias` they sum to its log-odds."""
        base = self._base_row(values)[None]
        return float(self._scores(base)[0]), self._contributions(base)[0]

    def score(self, table: Table) -> Scores:
        """(n,) scores of a polars DataFrame, each equal to `score_row` of its row."""
        return self._scores(self.encoder.base_table(table))

    def explain(self, table: Table) -> Contributions:
        """Shapley values of all rows of a polars DataFrame."""
        values = self._contributions(self.encoder.base_table(table))
        return Contributions(reads=self.reads, values=values, bias=self.bias)

    def explain_parts(self, table: Table) -> dict[str, NDArray[np.float64]]:
        """(n,) what each part adds to z of an average row, before calibration, by part."""
        x = self.encoder.table(table)
        return {part.name: part.raw(x) - part.bias for part in self.parts}

    def warm(self) -> None:
        """Compile (or load from the cache) all functions, with a row that has no value."""
        values: list[Value] = [None] * len(self.reads)
        self.score_row(values)
        self.reasons_row(values)
        self.explain_row(values)

    def _encoded(self, base: NDArray[np.float64]) -> NDArray[np.float64]:
        x: NDArray[np.float64] = kernels.encode_row(base, self.encoder.plan)
        return x

    def _scores(self, base: NDArray[np.float64]) -> Scores:
        scores: Scores = kernels.score_table(base, self._offsets(base), *self._score)
        return scores

    def _offsets(self, base: NDArray[np.float64]) -> NDArray[np.float64]:
        if self._dense is None:
            return np.zeros(len(base))
        return self._dense.raw(kernels.encode_table(base, self.encoder.plan))

    def _contributions(self, base: NDArray[np.float64]) -> NDArray[np.float64]:
        x = kernels.encode_table(base, self.encoder.plan)
        moves = np.zeros(x.shape)
        for part in self.parts:
            moves += part.moves(x)
        zs = kernels.raw_table(x, self._offsets(base), *self._sum)
        values: NDArray[np.float64] = kernels.spread_table(
            zs, self._expected, moves, self.encoder.plan, self._knots, self._logit, len(self.reads)
        )
        return values[:, :-1]


def _parts(artifact: Artifact, num_encoded: int) -> tuple[Part, ...]:
    if artifact.family != FAMILY:
        raise ArtifactError(
            f"the artifact holds a model of family `{artifact.family}`, which this chopmark "
            "cannot score" + did_you_mean(artifact.family, (FAMILY,))
        )
    found = []
    for kind in PARTS:
        prefix = f"{kind.name}."
        arrays = {
            name.removeprefix(prefix): array
            for name, array in artifact.arrays.items()
            if name.startswith(prefix)
        }
        if arrays:
            found.append(kind.from_arrays(arrays, num_encoded=num_encoded))
    return tuple(found)


def section(header: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section of an artifact's header, which must be an object."""
    section = header.get(name)
    if not isinstance(section, dict):
        raise ArtifactError(f"the artifact's header lacks `{name}`")
    return section


def _link(header: Mapping[str, Any]) -> str:
    link = header.get("link")
    if link not in ("logit", "identity"):
        raise ArtifactError(f"the artifact has link `{link}`; expected `logit` or `identity`")
    return str(link)


def _calibration(artifact: Artifact) -> NDArray[np.generic]:
    try:
        return artifact.arrays["calibration"]
    except KeyError:
        raise ArtifactError("the artifact lacks its calibration") from None

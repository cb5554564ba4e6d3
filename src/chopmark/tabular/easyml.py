"""EasyML: a table with a label in, a scored, explained and saved model out.

    kinds -> encoder -> held-out parts -> learner -> calibration -> artifact -> scorer

The fitted model *is* its artifact: `score` and `explain` run the code of the request path over
the artifact's arrays, so training cannot see other scores than serving gives. A subclass sets
what it knows better as class attributes and gets every improvement of this class for nothing.
Serves A1, A2, A8, A10 to A16 of the requirements.
"""

import os
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import DeclarationError, InvalidInput, InvalidTable, did_you_mean
from chopmark.models import (
    ArtifactScorer,
    Calibration,
    Column,
    Combination,
    Contributions,
    Encoder,
    Kind,
    Scores,
    Table,
)
from chopmark.models import artifact as artifacts
from chopmark.models.artifact import Artifact
from chopmark.models.metrics import summary
from chopmark.models.splits import Split, folds, stratified
from chopmark.tabular.learned import Learned
from chopmark.tabular.linear import learn_linear
from chopmark.tabular.tables import frame_of, labels_of
from chopmark.tabular.transforms import make_encoder
from chopmark.tabular.trees import learn_trees

Family = Literal["trees", "linear"]

_FAMILIES = ("trees", "linear")
_CALIBRATIONS = ("platt", "isotonic", "none")
SMALL_TABLE = 20_000
"""Rows below which one thread is faster than two and five folds are affordable."""

_NUM_FOLDS = 5
_LEAST_ROWS = 20
_IMPORTANCE_ROWS = 10_000


class EasyML:
    """A model of tabular data: fit, score, explain, save.

    Parameters
    ----------
    model
        "trees" (LightGBM) or "linear" (logistic regression over buckets).
    seed
        Same seed, same table: same scores, bit for bit.
    columns
        Kinds of columns that deduction should not find for itself, by name: "number",
        "boolean", "category", "date", or "drop". Added to the class's own.
    calibration
        "platt", "isotonic" (from some thousand rows on) or "none"; learned on held-out rows.
    threads
        Threads of the learner; None is one below 20,000 rows, else half of the cores.

    Attributes
    ----------
    columns : mapping of column to kind
        Hook: kinds that the subclass knows.
    extra : sequence of Column or Combination
        Hook: further readings of raw columns, for example a pattern in a text.
    target : str
        Hook: the label's column when `fit` is not told another.

    Examples
    --------
    >>> class Titanic(EasyML):
    ...     extra = (Column(name="Name", kind="category", pattern=r" ([A-Za-z]+)\\."),)
    ...     target = "survived"
    >>> Titanic(model="linear").target
    'survived'
    """

    columns: ClassVar[Mapping[str, Kind]] = {}
    extra: ClassVar[Sequence[Column | Combination]] = ()
    target: ClassVar[str] = "target"

    def __init__(
        self,
        *,
        model: Family = "trees",
        seed: int = 0,
        columns: Mapping[str, Kind] | None = None,
        calibration: Literal["platt", "isotonic", "none"] = "platt",
        threads: int | None = None,
    ) -> None:
        for value, known in ((model, _FAMILIES), (calibration, _CALIBRATIONS)):
            if value not in known:
                raise DeclarationError(
                    f"expected one of {', '.join(known)}, got `{value}`"
                    + did_you_mean(value, known)
                )
        self.model = model
        self.seed = seed
        self.calibration = calibration
        self.threads = threads
        self._columns = {**type(self).columns, **(columns or {})}
        self._scorer: ArtifactScorer | None = None

    def fit(
        self,
        table: Table,
        *,
        target: str | None = None,
        valid: Table | None = None,
        feature_hashes: Mapping[str, str] | None = None,
        created: datetime | None = None,
    ) -> Self:
        """The model itself, fitted.

        Parameters
        ----------
        table
            Rows to learn from: a polars or pandas DataFrame, a pyarrow Table, or the path of a
            CSV or Parquet file. Columns other than the label are features.
        target
            Column of the label, 0 (good) or 1 (bad); None is the class's `target`.
        valid
            Later rows to stop and calibrate by, which the model then never learns from. None
            holds out folds (below 20,000 rows) or a fifth of the table in turn, then refits
            on all rows.
        feature_hashes
            Hash of the definition of each feature among the columns; kept for those read.
        created
            When the model was made, for the record. None leaves it out, so that equal inputs
            give an equal file.

        Raises
        ------
        InvalidTable
            If the label is missing or of one class, there are fewer than 20 rows or two rows of
            a label, or no column can be learned from.
        """
        target = type(self).target if target is None else target
        frame = frame_of(table)
        y = labels_of(frame, target)
        if len(y) < _LEAST_ROWS or min(y.sum(), len(y) - y.sum()) < 2:
            raise InvalidTable(
                f"expected at least {_LEAST_ROWS} rows, two of each label; got {len(y)} rows, "
                f"{int(y.sum())} of them bad"
            )
        encoder = make_encoder(frame, target=target, columns=self._columns, extra=self.extra)
        x = encoder.table(frame)
        if valid is None:
            parts = self._parts(y)
        else:
            later = frame_of(valid)
            x = np.vstack([x, encoder.table(later)])
            y = np.concatenate([y, labels_of(later, target)])
            rows = np.arange(len(y))
            parts = [Split(train=rows[: frame.height], test=rows[frame.height :])]
        learned = self._learn(x, y, encoder, parts, refit=valid is None)
        curve = self._calibrated(learned, y)
        self._scorer = self._packed(
            frame, learned, encoder, curve, y, feature_hashes or {}, created
        )
        return self

    def score(self, table: Table) -> Scores:
        """(n,) probability of bad, each equal to `scorer.score_row` of its row."""
        return self.scorer.score(frame_of(table))

    def predict_proba(self, table: Table) -> NDArray[np.float64]:
        """(n, 2) probabilities of good and bad."""
        scores = self.score(table)
        return np.column_stack([1.0 - scores, scores])

    def explain(self, table: Table) -> Contributions:
        """Contributions of the columns in `reads` to the log-odds of each row's score."""
        return self.scorer.explain(frame_of(table))

    def importance(self) -> dict[str, float]:
        """Share of each column in the model's contributions, largest first; they sum to 1.

        The share is of the mean absolute contribution over the training rows.
        """
        shares: dict[str, float] = dict(self.training["importance"])
        return dict(sorted(shares.items(), key=lambda share: -share[1]))

    def save(self, path: str | Path) -> None:
        """Write the artifact, whole or not at all; its usual extension is ``.chopmark``."""
        artifacts.write_whole(Path(path), self._artifact.pack())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A saved model, ready to score and to explain.

        Raises
        ------
        ArtifactError
            If the file is missing, damaged or foreign.
        """
        scorer = ArtifactScorer(artifacts.read(path))
        family = scorer.artifact.family
        loaded = cls(model="linear" if family == "linear" else "trees")
        loaded._scorer = scorer
        return loaded

    @property
    def scorer(self) -> ArtifactScorer:
        """The request path's view of the fitted model.

        Raises
        ------
        InvalidInput
            If the model is not fitted.
        """
        if self._scorer is None:
            raise InvalidInput(f"this {type(self).__name__} is not fitted: call `fit` or `load`")
        return self._scorer

    @property
    def reads(self) -> tuple[str, ...]:
        """Raw columns that the fitted model looks at."""
        return self.scorer.reads

    @property
    def encoder(self) -> Encoder:
        """How raw columns are read, and which are not and why."""
        return self.scorer.encoder

    @property
    def training(self) -> Mapping[str, Any]:
        """What training left: rows, settings, held-out metrics, importance."""
        return self.scorer.training

    @property
    def _artifact(self) -> Artifact:
        return self.scorer.artifact

    def _parts(self, y: NDArray[np.float64]) -> list[Split]:
        if len(y) >= SMALL_TABLE:
            return [stratified(y, test_share=0.2, seed=self.seed)]
        count = int(min(_NUM_FOLDS, y.sum(), len(y) - y.sum()))
        return list(folds(y, count=count, seed=self.seed))

    def _learn(
        self,
        x: NDArray[np.float64],
        y: NDArray[np.float64],
        encoder: Encoder,
        parts: Sequence[Split],
        *,
        refit: bool,
    ) -> Learned:
        if self.model == "linear":
            return learn_linear(x, y, encoder=encoder, parts=parts, refit=refit, seed=self.seed)
        threads = self.threads
        if threads is None:
            # LightGBM's threads spin while they wait: on cores that others use as well, one
            # thread per core was thirty times slower than half as many.
            threads = 1 if len(y) < SMALL_TABLE else max(1, (os.cpu_count() or 1) // 2)
        return learn_trees(
            x, y, encoder=encoder, parts=parts, refit=refit, seed=self.seed, threads=threads
        )

    def _calibrated(self, learned: Learned, y: NDArray[np.float64]) -> Calibration:
        raw, labels = learned.held_out_raw, y[learned.held_out_rows]
        if self.calibration == "platt":
            return Calibration.platt(raw, labels)
        if self.calibration == "isotonic":
            return Calibration.isotonic(raw, labels)
        return Calibration.none()

    def _packed(
        self,
        frame: pl.DataFrame,
        learned: Learned,
        encoder: Encoder,
        curve: Calibration,
        y: NDArray[np.float64],
        feature_hashes: Mapping[str, str],
        created: datetime | None,
    ) -> ArtifactScorer:
        """The scorer of the packed artifact: what is in memory is what a file would hold."""
        raw = learned.held_out_raw
        held_out = 1.0 / (1.0 + np.exp(-curve.apply(raw)))
        training: dict[str, Any] = {
            "learner": type(self).__name__,
            "num_rows": frame.height,
            "num_bad": int(y[: frame.height].sum()),
            "seed": self.seed,
            "calibration": self.calibration,
            "settings": dict(learned.settings),
            "held_out": summary(y[learned.held_out_rows], held_out),
        }
        if created is not None:
            training["created"] = created.isoformat()

        def pack() -> ArtifactScorer:
            packed = Artifact(
                family=learned.family,
                header={
                    "encoder": encoder.to_json(),
                    "feature_hashes": {
                        name: feature_hashes[name]
                        for name in encoder.reads
                        if name in feature_hashes
                    },
                    "training": training,
                },
                arrays={
                    "calibration": curve.knots,
                    **{f"{learned.family}.{name}": a for name, a in learned.arrays.items()},
                },
            ).pack()
            return ArtifactScorer(artifacts.unpack(packed))

        step = frame.height // _IMPORTANCE_ROWS + 1
        moved = np.abs(pack().explain(frame.gather_every(step)).values).mean(axis=0)
        total = float(moved.sum())
        shares = moved / total if total > 0 else np.full(len(moved), 1.0 / len(moved))
        training["importance"] = dict(zip(encoder.reads, shares.tolist(), strict=True))
        return pack()

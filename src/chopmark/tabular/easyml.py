"""EasyML: a table with a label in, a scored, explained and saved model out.

    kinds -> encoder -> held-out parts -> portfolio -> blend -> calibration -> artifact -> scorer

The fitted model *is* its artifact: `score` and `explain` run the code of the request path over
the artifact's arrays, so training cannot see other scores than serving gives. A subclass sets
what it knows better as class attributes and gets every improvement of this class for nothing.
Serves A1, A2, A8 to A18 and A21 of the requirements.
"""

import math
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator
from sklearn.utils import Tags

from chopmark.errors import (
    ArtifactError,
    DeclarationError,
    InvalidInput,
    InvalidTable,
    did_you_mean,
)
from chopmark.models import (
    ArtifactScorer,
    ClassScorer,
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
from chopmark.models.classes import CLASSES
from chopmark.models.encoder import num_cores
from chopmark.tabular.fitting import fit_artifact
from chopmark.tabular.heads import Recipe
from chopmark.tabular.memory import Memory
from chopmark.tabular.portfolio import Progress, learners_of
from chopmark.tabular.record import check_record
from chopmark.tabular.tables import frame_of
from chopmark.tabular.targets import Class, Task

_CALIBRATIONS = ("platt", "isotonic")


class EasyML(BaseEstimator):  # type: ignore[misc]
    """A model of tabular data: fit, score, explain, save.

    The first eight parameters are also hooks: a subclass sets them as class attributes.

    Parameters
    ----------
    model
        "auto" (linear and trees, blended), "best" (these and deep: some times slower), one
        family of "prior", "linear", "trees", "deep", "xgboost", "catboost", "vw", or several
        of them, to be blended.
    target
        The label's column; "target" by default.
    columns
        Kinds of columns that deduction should not find for itself, by name: "number",
        "boolean", "category", "high_cardinality", "date", "text", or "drop". Added to the
        class's own.
    extra
        Further readings of raw columns: a `Column`, for example a pattern in a text, or a
        `Combination` of two columns.
    time
        Column that says when each row was. Rows are then held out by time, as a risk model
        will meet them, and all dates are also read as days before it.
    groups
        Column that names whom a row is about: nobody is then on both sides of a split. It is
        not read. Not together with `time`.
    costs
        Cost of a bad row that is missed and of a false alarm: where `predict` draws the line.
    budget
        Seconds of learning after which no further learner is begun.
    calibration
        "platt" or "isotonic" (from some thousand rows on); learned on held-out rows.
    class_weight
        How much more a bad row counts in fitting, a number or "balanced"; scores stay
        calibrated. None, all alike, is right nearly always.
    task, positive
        "binary", "multiclass" or "regression", and the label that counts as bad, where they
        are not as deduced (`chopmark.tabular.targets`).
    sample
        Learn from so many rows, drawn at random: a first look at a large table in seconds.
    memory
        Folder in which what was read from a table is kept, so that the next fit of the same
        table with another model, calibration or cost begins with learning. It changes no
        score and may be emptied at any time.
    seed
        Same seed, same table: same scores, bit for bit (unless a budget cuts learning short).
    threads
        Learners that run at a time; None is all cores. The result does not depend on it.

    Examples
    --------
    >>> class Titanic(EasyML):
    ...     extra = (Column(name="Name", kind="category", pattern=r" ([A-Za-z]+)\\."),)
    ...     target = "survived"
    >>> Titanic(model="linear").target
    'survived'
    """

    model: str | Sequence[str] = "auto"
    target: str = "target"
    columns: Mapping[str, Kind] | None = None
    extra: Sequence[Column | Combination] = ()
    time: str | None = None
    groups: str | None = None
    costs: tuple[float, float] = (1.0, 1.0)
    budget: float | None = None

    def __init__(
        self,
        *,
        model: str | Sequence[str] | None = None,
        target: str | None = None,
        columns: Mapping[str, Kind] | None = None,
        extra: Sequence[Column | Combination] | None = None,
        time: str | None = None,
        groups: str | None = None,
        costs: tuple[float, float] | None = None,
        budget: float | None = None,
        calibration: Literal["platt", "isotonic"] = "platt",
        class_weight: float | Literal["balanced"] | None = None,
        task: Task | None = None,
        positive: Class | None = None,
        sample: int | None = None,
        memory: str | Path | None = None,
        seed: int = 0,
        threads: int | None = None,
    ) -> None:
        own = type(self)
        self.model = own.model if model is None else model
        self.target = own.target if target is None else target
        self.columns = columns
        self.extra = own.extra if extra is None else extra
        self.time = own.time if time is None else time
        self.groups = own.groups if groups is None else groups
        self.costs = own.costs if costs is None else costs
        self.budget = own.budget if budget is None else budget
        self.calibration = calibration
        self.class_weight = class_weight
        self.task = task
        self.positive = positive
        self.sample = sample
        self.memory = memory
        self.seed = seed
        self.threads = threads
        self._scorer: ArtifactScorer | ClassScorer | None = None
        self._check()

    def fit(
        self,
        table: Table,
        y: ArrayLike | None = None,
        *,
        target: str | None = None,
        valid: Table | None = None,
        feature_hashes: Mapping[str, str] | None = None,
        created: datetime | None = None,
        on_progress: Progress | None = None,
    ) -> Self:
        """The model itself, fitted.

        Parameters
        ----------
        table
            Rows to learn from: a polars or pandas DataFrame, a pyarrow Table, a dict of columns,
            the path of a CSV, Parquet or JSON-lines file, or a `Query`
            (`chopmark.tabular.tables.frame_of` lists all).
        y
            (n,) labels, where the table has no column for them.
        target
            Column of the label: two values, several, or numbers. None is the model's `target`.
        valid
            Later rows to stop and calibrate by, which the model then never learns from. None
            holds out folds (below 20,000 rows) or a fifth of the table in turn, then refits
            on all rows.
        feature_hashes
            Hash of the definition of each feature among the columns; kept for those read.
        created
            When the model was made, for the record. None leaves it out, so that equal inputs
            give an equal file.
        on_progress
            Called with the learner that has ended, how many have, and how many there are.

        Raises
        ------
        InvalidTable
            If the label is missing or all alike, there are fewer than 20 rows or two rows of
            a label, or no column can be learned from.
        """
        self._check()
        target = self.target if target is None else target
        frame = _with_labels(frame_of(table), y, target)
        recipe = self._recipe(target)
        self._scorer = fit_artifact(
            frame,
            None if valid is None else frame_of(valid),
            recipe,
            learner=type(self).__name__,
            task=self.task,
            positive=self.positive,
            sample=self.sample,
            feature_hashes=feature_hashes or {},
            costs=self.costs,
            created=created,
            on_progress=on_progress,
        )
        return self

    def score(self, table: Table) -> Scores:
        """(n,) probability of the second class (or the number), as `scorer.score_row` gives it.

        Raises
        ------
        InvalidInput
            If there are more than two classes: `predict_proba` gives a probability for each.
        """
        return self._single("score").score(frame_of(table))

    def predict_proba(self, table: Table) -> NDArray[np.float64]:
        """(n, number of classes) probabilities, in the order of `classes_`."""
        scorer = self.scorer
        if isinstance(scorer, ClassScorer):
            return scorer.score(frame_of(table))
        if not self.classes:
            raise InvalidInput("a model of a number has no probabilities: call `predict`")
        scores = scorer.score(frame_of(table))
        return np.column_stack([1.0 - scores, scores])

    def predict(self, table: Table) -> NDArray[Any]:
        """(n,) the number; or the class: of two, where `costs` say so, of many, the likeliest."""
        if not self.classes:
            return self.score(table)
        classes = self.classes_
        if len(classes) > 2:
            found: NDArray[Any] = classes[self.predict_proba(table).argmax(axis=1)]
            return found
        missed, alarm = self.costs
        # Elkan, "The Foundations of Cost-Sensitive Learning", 2001: no action costs p * missed.
        bad = self.score(table) >= alarm / (alarm + missed)
        found = classes[bad.astype(int)]
        return found

    def explain(self, table: Table, *, of: Class | None = None) -> Contributions:
        """What each column in `reads` did to each row's score, in log-odds (or the number's unit).

        Shapley values: exact of trees and lookup tables, Deep SHAP of a network.

        Parameters
        ----------
        of
            Of more than two classes, the one whose log-odds are explained: those of its own
            yes-or-no question, before the classes' probabilities are made to sum to one.
        """
        scorer = self.scorer
        if isinstance(scorer, ClassScorer):
            return scorer.explain(frame_of(table), of=of)
        return scorer.explain(frame_of(table))

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
        loaded = cls()
        artifact = artifacts.read(path)
        if artifact.family == "blend":
            raise ArtifactError(f"`{path}` holds a blend of models: load it with EasyBlend.load")
        kind = ClassScorer if artifact.family == CLASSES else ArtifactScorer
        loaded._scorer = kind(artifact)
        check_record(loaded.training, loaded.scorer)
        if "costs" in loaded.training:
            missed, alarm = loaded.training["costs"]
            loaded.costs = (float(missed), float(alarm))
        return loaded

    @property
    def scorer(self) -> ArtifactScorer | ClassScorer:
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
        """What training left: rows, settings, held-out metrics, weights, importance."""
        return self.scorer.training

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each learner's log-odds in the blend, largest first."""
        weights: dict[str, float] = dict(self.training["weights"])
        return dict(sorted(weights.items(), key=lambda weight: -weight[1]))

    @property
    def classes(self) -> tuple[Class, ...]:
        """Labels, the second of two is the one that scores are of; () for numbers."""
        return tuple(self.training["classes"])

    @property
    def classes_(self) -> NDArray[Any]:
        """`classes` as scikit-learn wants them."""
        return np.array(self.classes)

    @property
    def _artifact(self) -> Artifact:
        return self.scorer.artifact

    def _single(self, method: str) -> ArtifactScorer:
        scorer = self.scorer
        if isinstance(scorer, ClassScorer):
            raise InvalidInput(
                f"`{method}` is of one number a row and this model has {len(self.classes)} "
                "classes: call `predict_proba` or `predict`"
            )
        return scorer

    def _recipe(self, target: str) -> Recipe:
        columns = {**(type(self).columns or {}), **(self.columns or {})}
        if self.groups:
            columns = {self.groups: "drop", **columns}
        return Recipe(
            learners=learners_of(self.model),
            columns=columns,
            extra=self.extra,
            target=target,
            time=self.time or "",
            groups=self.groups or "",
            calibration=self.calibration,
            class_weight=self.class_weight,
            budget=self.budget,
            seed=self.seed,
            workers=self.threads or num_cores(),
            memory=None if self.memory is None else Memory(self.memory),
        )

    def _check(self) -> None:
        """Refuse what cannot be before anything long begins."""
        learners_of(self.model)
        if self.calibration not in _CALIBRATIONS:
            raise DeclarationError(
                f"expected one of {', '.join(_CALIBRATIONS)} as calibration, got "
                f"`{self.calibration}`" + did_you_mean(self.calibration, _CALIBRATIONS)
            )
        if self.time and self.groups:
            raise DeclarationError(
                "expected rows to be held out by `time` or by `groups`, got both: held out by "
                "time, a group may stand on both sides"
            )
        positive = {
            "costs": min(self.costs),
            "budget": self.budget,
            "class_weight": None if self.class_weight == "balanced" else self.class_weight,
            "sample": self.sample,
            "threads": self.threads,
        }
        for name, value in positive.items():
            if value is not None and not (_is_number(value) and 0 < value < math.inf):
                raise DeclarationError(f"expected `{name}` above zero, got {value}")
        for name, value in {"sample": self.sample, "threads": self.threads}.items():
            if value is not None and not isinstance(value, int):
                raise DeclarationError(f"expected a whole number as `{name}`, got {value!r}")
        if not isinstance(self.seed, int) or not 0 <= self.seed < 2**31:
            raise DeclarationError(f"expected a seed from 0 to 2**31 - 1, got {self.seed!r}")

    def __sklearn_is_fitted__(self) -> bool:
        return self._scorer is not None

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.estimator_type = "regressor" if self.task == "regression" else "classifier"
        tags.target_tags.required = False
        tags.input_tags.string = tags.input_tags.categorical = tags.input_tags.allow_nan = True
        return tags


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _with_labels(frame: pl.DataFrame, y: ArrayLike | None, target: str) -> pl.DataFrame:
    if y is None:
        return frame
    if target in frame.columns:
        raise InvalidTable(f"labels came twice: as `y` and as the table's column `{target}`")
    labels = pl.Series(target, np.asarray(y))
    if len(labels) != frame.height:
        raise InvalidTable(f"expected {frame.height} labels, one for each row, got {len(labels)}")
    return frame.with_columns(labels)

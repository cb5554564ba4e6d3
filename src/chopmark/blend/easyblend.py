"""EasyBlend: several models in, one model out, by a linear second layer.

    split           train_models -> models;  their scores of train_blender -> weights;  valid
    cross-fitted    each row is scored by models that did not see it -> weights;  models refitted

The split is that of the text which EasyBlend is named after. It takes rows away from the models,
which a small table cannot spare; cross-fitting takes none, and fits each model once more per
fold. Both keep every row that a weight learns from out of the models that scored it. The fitted
blend *is* its artifact, which holds those of its parts whole. Serves B10 to B15 of the
requirements.

References
----------
David Wolpert, "Stacked Generalization", 1992.
"""

import tempfile
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.blend.firstlayer import (
    FirstLayer,
    Fitter,
    Parts,
    Progress,
    check_models,
    log_odds_of,
)
from chopmark.blend.rows import Order, check_apart, check_disjoint, frame_of, labels_of
from chopmark.blend.secondlayer import SecondLayer, cross_fitted_scores, sigmoid
from chopmark.errors import ArtifactError, DeclarationError, InvalidInput, did_you_mean
from chopmark.models import Artifact, Contributions, Model, Scores, Table
from chopmark.models import artifact as artifacts
from chopmark.models.blended import SECONDS, BlendScorer
from chopmark.models.families import BLEND, scorer_of
from chopmark.models.metrics import summary
from chopmark.models.splits import Split

_MODES = ("cross-fitted", "split")
_IMPORTANCE_ROWS = 10_000


class EasyBlend:
    """A model made of models: fit, score, explain, save.

    Parameters
    ----------
    models
        Two or more by name. Each is an unfitted model, or a function that makes one; it must
        keep the contract `chopmark.models.Model`. The given ones are copied, never fitted.
    mode
        "cross-fitted", or "split" as in the original text.
    second
        Second layer: "logistic" over the parts' log-odds, or "linear" over their scores.
    seed
        Same seed, table and models: same scores, bit for bit.
    num_folds
        Of cross-fitting, >= 2; fewer where a class has fewer rows.
    share
        Of a split: the part of the rows that the blender learns from, in (0, 0.5). Without a
        validation table as much again is held out to judge by.
    time
        Column of a time or number: the rows that the second layer learns from come after those
        of the first, in cross-fitting block by block.
    groups
        Column of an entity, all of whose rows stay on one side.
    threads
        Fits at a time. More than one pays where the models themselves use one each.
    progress
        Called after each fit with the fits done, the fits in all and the name of this one.
    """

    def __init__(
        self,
        models: Parts,
        *,
        mode: Literal["cross-fitted", "split"] = "cross-fitted",
        second: Literal["logistic", "linear"] = "logistic",
        seed: int = 0,
        num_folds: int = 5,
        share: float = 0.2,
        time: str | None = None,
        groups: str | None = None,
        threads: int = 1,
        progress: Progress | None = None,
    ) -> None:
        check_models(models)
        for value, known in ((mode, _MODES), (second, SECONDS)):
            if value not in known:
                raise DeclarationError(
                    f"expected one of {', '.join(known)}, got `{value}`"
                    + did_you_mean(value, known)
                )
        if time is not None and groups is not None:
            raise DeclarationError("expected rows to be kept apart by time or by groups, got both")
        if not 0.0 < share < 0.5 or num_folds < 2 or threads < 1:
            raise DeclarationError(
                "expected a share in (0, 0.5), two folds or more and a thread or more; got "
                f"{share}, {num_folds} and {threads}"
            )
        self.models = dict(models)
        self.mode = mode
        self.second = second
        self.seed = seed
        self.num_folds = num_folds
        self.share = share
        self.threads = threads
        self.progress = progress
        self._order = Order(time=time, groups=groups)
        self._scorer: BlendScorer | None = None

    def fit(
        self,
        table: Table,
        *,
        target: str = "target",
        valid: Table | None = None,
        feature_hashes: Mapping[str, str] | None = None,
        created: datetime | None = None,
    ) -> Self:
        """The blend itself, fitted.

        Parameters
        ----------
        table
            Rows to learn from: a polars or pandas DataFrame or a pyarrow Table.
        target
            Column of the label, 0 (good) or 1 (bad).
        valid
            Rows to judge parts and blend by, no row of `table`. None judges by rows held out:
            a third part of a split, or each fold by weights fitted to the other folds.
        feature_hashes
            Hash of the definition of each feature among the columns; kept for those read.
        created
            When the blend was made, for the record; None leaves it out.

        Raises
        ------
        InvalidTable
            If the label is missing or of one class, or rows of `valid` are rows of `table`.
        """
        if not self.models:
            raise InvalidInput("this blend was loaded and has no learners; make a new one to fit")
        frame = frame_of(table)
        y = labels_of(frame, target)
        judges = None if valid is None else frame_of(valid)
        if judges is not None:
            labels_of(judges, target)
            check_apart(frame, judges)
        fitter = Fitter(
            models=self.models,
            frame=frame,
            target=target,
            threads=self.threads,
            progress=self.progress,
        )
        if self.mode == "split":
            first, judges = self._split(fitter, y, judges)
        else:
            first = fitter.cross_fitted(self._order.folded(frame, y, self.num_folds, self.seed))
        labels = y[first.rows]
        second = SecondLayer.fitted(first.raw, labels, kind=self.second)
        if judges is None:
            scores = cross_fitted_scores(first.raw, labels, first.fold, kind=self.second)
            metrics = self._metrics(first.raw, labels, scores)
        else:
            raw = self._raw(first.models, judges.drop(target))
            metrics = self._metrics(raw, labels_of(judges, target), second.scores(raw))
        training = {
            "learner": type(self).__name__,
            "num_rows": frame.height,
            "num_bad": int(y.sum()),
            "seed": self.seed,
            "mode": self.mode,
            "second": self.second,
            "num_blender_rows": len(first.rows),
            "weights": dict(zip(self.models, second.learned.weights.tolist(), strict=True)),
            **metrics,
            **({} if created is None else {"created": created.isoformat()}),
        }
        self._scorer = self._packed(frame, first, second, training, feature_hashes or {})
        return self

    def score(self, table: Table) -> Scores:
        """(n,) probability of bad, each equal to `scorer.score_row` of its row."""
        return self.scorer.score(frame_of(table))

    def predict_proba(self, table: Table) -> NDArray[np.float64]:
        """(n, 2) probabilities of good and bad."""
        scores = self.score(table)
        return np.column_stack([1.0 - scores, scores])

    def predict(self, table: Table) -> NDArray[np.int64]:
        """(n,) the likelier class, one of `classes_`."""
        found: NDArray[np.int64] = self.classes_[(self.score(table) >= 0.5).astype(int)]
        return found

    def explain(self, table: Table) -> Contributions:
        """Contributions of the columns in `reads` to the log-odds of each row's score."""
        return self.scorer.explain(frame_of(table))

    def contributions_of_parts(self, table: Table) -> Contributions:
        """What each part adds to the log-odds of each row's score: (n, parts with a weight).

        Its `reads` are the names of the parts. With the bias they sum to the log-odds.
        """
        return self.scorer.explain_parts(frame_of(table))

    def importance(self) -> dict[str, float]:
        """Share of each column in the blend's contributions, largest first; they sum to 1."""
        shares: dict[str, float] = dict(self.training["importance"])
        return dict(sorted(shares.items(), key=lambda share: -share[1]))

    def save(self, path: str | Path) -> None:
        """Write the artifact, whole or not at all; its usual extension is ``.chopmark``."""
        artifacts.write_whole(Path(path), self.scorer.artifact.pack())

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A saved blend, ready to score and to explain. It holds no learner to fit again.

        Raises
        ------
        ArtifactError
            If the file is missing, damaged or no blend, or nothing here reads one of its parts.
        """
        scorer = scorer_of(artifacts.read(path))
        if not isinstance(scorer, BlendScorer):
            raise ArtifactError(f"`{path}` holds no blend; load it as the model that it is")
        loaded = cls.__new__(cls)
        loaded.models, loaded._scorer = {}, scorer
        try:
            loaded.mode, loaded.second = scorer.training["mode"], scorer.training["second"]
        except KeyError as error:
            raise ArtifactError(f"`{path}` does not say the {error} of its blend") from error
        for name in ("weights", "importance"):
            found = scorer.training.get(name)
            shares = list(found.values()) if isinstance(found, dict) else [None]
            if not all(isinstance(share, int | float) for share in shares):
                raise ArtifactError(f"`{path}`: expected numbers as the {name} of its blend")
        return loaded

    @property
    def scorer(self) -> BlendScorer:
        """The request path's view of the fitted blend.

        Raises
        ------
        InvalidInput
            If the blend is not fitted.
        """
        if self._scorer is None:
            raise InvalidInput(f"this {type(self).__name__} is not fitted: call `fit` or `load`")
        return self._scorer

    @property
    def classes(self) -> tuple[int, int]:
        """The labels that it learns from; scores are of the second."""
        return (0, 1)

    @property
    def classes_(self) -> NDArray[np.int64]:
        """`classes` as scikit-learn wants them."""
        return np.array(self.classes)

    @property
    def reads(self) -> tuple[str, ...]:
        """Raw columns that some part with a weight looks at."""
        return self.scorer.reads

    @property
    def training(self) -> Mapping[str, Any]:
        """What training left: rows, settings, weights, held-out metrics, importance."""
        return self.scorer.training

    @property
    def weights(self) -> dict[str, float]:
        """Weight of each part by name, largest first; zero for one that is left out."""
        weights: dict[str, float] = dict(self.training["weights"])
        return dict(sorted(weights.items(), key=lambda weight: -weight[1]))

    @property
    def held_out(self) -> dict[str, Mapping[str, float | None]]:
        """Metrics of each part by name and of the "blend", on rows that none had learned from."""
        return {**self.training["held_out_parts"], BLEND: self.training["held_out"]}

    def _split(
        self, fitter: Fitter, y: NDArray[np.float64], judges: pl.DataFrame | None
    ) -> tuple[FirstLayer, pl.DataFrame]:
        """Models of train_models held to train_blender, and the rows to judge by."""
        frame, everything = fitter.frame, np.arange(len(y))
        judging = everything[:0]
        learning = everything
        if judges is None:
            part = self._order.parted(frame, y, self.share, self.seed)
            learning, judging = part.train, part.test
            judges = frame[judging]
        # Of what is left, so that both held-out parts are of one size.
        share = self.share * len(y) / len(learning)
        inner = self._order.parted(frame[learning], y[learning], share, self.seed)
        part = Split(train=learning[inner.train], test=learning[inner.test])
        check_disjoint(part.train, part.test, judging)
        return fitter.split(part), judges

    def _raw(self, models: Sequence[Model], table: pl.DataFrame) -> NDArray[np.float64]:
        columns = zip(models, self.models, strict=True)
        return np.column_stack([log_odds_of(model, table, name) for model, name in columns])

    def _metrics(
        self,
        raw: NDArray[np.float64],
        labels: NDArray[np.float64],
        scores: NDArray[np.float64],
    ) -> dict[str, Any]:
        parts = zip(self.models, raw.T, strict=True)
        return {
            "held_out": summary(labels, scores),
            "held_out_parts": {name: summary(labels, sigmoid(z)) for name, z in parts},
        }

    def _packed(
        self,
        frame: pl.DataFrame,
        first: FirstLayer,
        second: SecondLayer,
        training: dict[str, Any],
        feature_hashes: Mapping[str, str],
    ) -> BlendScorer:
        """The scorer of the packed artifact: what is in memory is what a file would hold."""
        weights = second.learned.weights
        used = weights > 0.0
        if not used.any():
            used = ~used
        names = [name for name, is_used in zip(self.models, used, strict=True) if is_used]
        models = [model for model, is_used in zip(first.models, used, strict=True) if is_used]
        parts = {name: _saved(model) for name, model in zip(names, models, strict=True)}

        def pack(hashes: Mapping[str, str]) -> BlendScorer:
            header = {"second": self.second, "names": names, "feature_hashes": dict(hashes)}
            artifact = Artifact(
                family=BLEND,
                header={**header, "training": training},
                arrays={
                    "weights": weights[used],
                    "layer": np.array([second.learned.bias, second.limit]),
                },
                parts=parts,
            )
            scorer = scorer_of(artifacts.unpack(artifact.pack()))
            assert isinstance(scorer, BlendScorer)
            return scorer

        draft = pack({})
        step = frame.height // _IMPORTANCE_ROWS + 1
        moved = np.abs(draft.explain(frame.gather_every(step)).values).mean(axis=0)
        total = float(moved.sum())
        shares = moved / total if total > 0 else np.full(len(moved), 1.0 / len(moved))
        training["importance"] = dict(zip(draft.reads, shares.tolist(), strict=True))
        return pack({name: feature_hashes[name] for name in draft.reads if name in feature_hashes})


def _saved(model: Model) -> Artifact:
    """The artifact that a model saves itself as."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "part.chopmark"
        model.save(path)
        return artifacts.read(path)

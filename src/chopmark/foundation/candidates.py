"""The candidates among which `foundation.uses` chooses, each behind one interface.

Each is fitted on the same views of the same rows and gives probabilities of classes; two train
the network, two measure likeness, the others read the frozen embedding, aggregates, or both.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidInput
from chopmark.foundation.chances import (
    SMALLEST,
    Chances,
    Codes,
    both,
    log_loss,
    normed,
    sigmoid,
    softmax,
)
from chopmark.foundation.similarity import Similarity
from chopmark.foundation.usermodel import UserModel
from chopmark.histories import Aggregates, Slices, Tokenizer
from chopmark.models.calibration import Calibration
from chopmark.sequence.network import Tower
from chopmark.sequence.supervised import (
    STRENGTHS,
    Course,
    Learned,
    along,
    course_of,
    is_shown,
    learn,
    logistic,
    raw_scores,
)
from chopmark.sequence.training import Pace

Rows = NDArray[np.int64]
Numbers = NDArray[np.float32]

METHODS = (
    "positives only",
    "centroids",
    "probe",
    "aggregates",
    "trees",
    "trees and aggregates",
    "fine-tuned",
    "from scratch",
)
"""All uses, the simplest first: of two that are as good, the earlier one is chosen."""

_TREES: dict[str, Any] = {
    "learning_rate": 0.03,
    "num_leaves": 15,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "max_bin": 63,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "verbosity": -1,
}
_FINE, _SCRATCH = Pace(steps=4_000, rate=3e-4), Pace(steps=4_000, rate=1e-3)
_MOST_TREES = 1_500
_PATIENCE = 100
_FEW_TREES, _FEW_PATIENCE = 400, 50
NETWORK_PARTS = 3
"""Of cross-validation; those of other uses are a multiple."""

_SHARPNESS = np.geomspace(0.5, 64.0, 15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """How the two uses that train the network do so.

    Parameters
    ----------
    fine, scratch
        Steps and rates with a pre-trained network and with a fresh one.
    epochs
        How often each labelled row is seen at most.
    budget
        Events of a step.
    """

    fine: Pace = _FINE
    scratch: Pace = _SCRATCH
    epochs: float = 12.0
    budget: int = 8_192


@dataclass(frozen=True, slots=True, eq=False)
class Views:
    """Pieces of histories as the uses read them: computed once, used by all.

    Attributes
    ----------
    pieces : m pieces
    embedding : (m, d)
    columns : (m, k)
        Aggregates, and what else is known of the user; NaN where there is none.
    owners : (m,)
        A number of whose each row is: rows of one user are alike.
    """

    pieces: Slices
    embedding: Numbers
    columns: Numbers
    owners: Rows

    @classmethod
    def of(
        cls,
        user_model: UserModel,
        pieces: Slices,
        *,
        aggregates: Aggregates | None = None,
        features: ArrayLike | None = None,
    ) -> "Views":
        """What a fitted user model and fitted aggregates say of pieces.

        Raises
        ------
        InvalidInput
            If the model is not fitted, or there is not one row of features for each piece.
        """
        parts = [np.zeros((len(pieces), 0), np.float32)]
        if aggregates is not None:
            parts.append(aggregates.table(pieces).to_numpy().astype(np.float32))
        if features is not None:
            given = np.asarray(features, dtype=np.float32)
            if given.ndim != 2 or len(given) != len(pieces):
                raise InvalidInput(
                    f"expected features of shape ({len(pieces)}, any), one row for each piece, "
                    f"got {given.shape}"
                )
            parts.append(given)
        embedding = user_model.embed(newest(pieces, user_model.shape.length))
        return cls(pieces, embedding, np.concatenate(parts, axis=1), owners_of(pieces))

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.pieces)

    def __getitem__(self, which: NDArray[Any]) -> "Views":
        """Some of the rows."""
        return Views(
            self.pieces[which], self.embedding[which], self.columns[which], self.owners[which]
        )


def owners_of(pieces: Slices) -> Rows:
    """(m,) place of the user of each piece; below 0, each another, where nothing tells."""
    begins = pieces.histories.offsets[:-1]
    places = np.searchsorted(begins, pieces.starts, side="right")
    same = places - np.searchsorted(begins, pieces.starts)
    # An empty piece at the first row may be of anybody who is not in the histories; one where
    # several users begin, of any of these.
    unknown = (pieces.starts == pieces.ends) & ((pieces.ends == 0) | (same > 1))
    return np.where(unknown, -1 - np.arange(len(pieces)), places)


class Use(Protocol):
    """One way to make a model of labels."""

    def fit(self, views: Views, y: Codes, train: Rows, valid: Rows) -> None:
        """Learn from some rows, and stop by others."""
        ...

    def cross(self, views: Views, y: Codes, parts: Rows) -> Chances:
        """Learn from all rows; give (m, C) probabilities by models that had not learned from
        the part that a row is in.

        Parameters
        ----------
        parts : (m,)
            Number of the part of each row, from 0.
        """
        ...

    def chances(self, views: Views) -> Chances:
        """(m, C) probabilities."""
        ...


def _crossed(make: Callable[[], "Use"], views: Views, y: Codes, parts: Rows) -> Chances:
    """(m, C) probabilities of rows by uses that are fitted to the other parts."""
    found = []
    for part in range(parts.max() + 1):
        use = make()
        use.fit(views, y, np.flatnonzero(parts != part), np.zeros(0, dtype=np.int64))
        found.append(use.chances(views[parts == part]))
    return _in_order(found, parts)


def _in_order(found: list[Chances], parts: Rows) -> Chances:
    """Values of the rows of each part, in the order of the rows."""
    joined = np.concatenate(found)
    ordered = np.empty_like(joined)
    ordered[np.argsort(parts, kind="stable")] = joined
    return ordered


def newest(pieces: Slices, length: int) -> Slices:
    """The pieces with their last `length` events at most."""
    starts = np.maximum(pieces.starts, pieces.ends - length)
    return Slices(pieces.histories, starts, pieces.ends, pieces.now)


class _Centroids:
    """Cosine to centroids, as probabilities by what left-out rows say of them."""

    def __init__(self, num_classes: int, seed: int, *, weight: float | None) -> None:
        self._similarity = Similarity(weight, seed=seed)
        self._make = partial(_Centroids, num_classes, seed, weight=weight)
        self._num_classes = num_classes
        self._calibration = Calibration.none()
        self._log_prior = np.zeros(num_classes)
        self._sharpness = 1.0

    def fit(self, views: Views, y: Codes, train: Rows, valid: Rows) -> None:
        known, codes = views.embedding[train], y[train]
        # The class of the highest code may be missing here; the directions are for those seen.
        self._similarity.fit(known, codes)
        out = self._similarity.left_out(known, codes)
        counts = np.bincount(codes, minlength=self._num_classes) + 0.5
        self._log_prior = np.log(counts / counts.sum())
        if self._num_classes == 2:
            self._calibration = Calibration.platt(self._raw(out), codes.astype(np.float64))
            return
        losses = [log_loss(codes, softmax(self._logs(out, sharpness))) for sharpness in _SHARPNESS]
        self._sharpness = float(_SHARPNESS[int(np.argmin(losses))])

    def cross(self, views: Views, y: Codes, parts: Rows) -> Chances:
        found = _crossed(self._make, views, y, parts)
        self.fit(views, y, np.arange(len(y)), np.zeros(0, dtype=np.int64))
        return found

    def chances(self, views: Views) -> Chances:
        cosines = self._similarity.score(views.embedding)
        if self._num_classes == 2:
            return both(sigmoid(self._calibration.apply(self._raw(cosines))))
        return softmax(self._logs(cosines, self._sharpness))

    def _raw(self, cosines: Chances) -> Chances:
        z: Chances = self._log_prior[1] - self._log_prior[0] + 4.0 * cosines
        return z

    def _logs(self, cosines: Chances, sharpness: float) -> Chances:
        table = cosines[:, None] if cosines.ndim == 1 else cosines
        full = np.zeros((len(table), self._num_classes))
        # With one column the cosine is that of class 1.
        place = slice(1, 2) if cosines.ndim == 1 else slice(0, table.shape[1])
        full[:, place] = table
        z: Chances = self._log_prior + sharpness * full
        return z


class _Probe:
    """Logistic regression on the standardised embedding; its strength by rows left out."""

    def __init__(self, num_classes: int, seed: int) -> None:
        self._num_classes = num_classes
        self._model: Any = None

    def fit(self, views: Views, y: Codes, train: Rows, valid: Rows) -> None:
        x = views.embedding
        self._model = logistic(x[train], y[train], x[valid], y[valid], owners=views.owners[train])

    def cross(self, views: Views, y: Codes, parts: Rows) -> Chances:
        x, truth = views.embedding, y[np.argsort(parts, kind="stable")]
        told: dict[float, Chances] = {}
        for strength in STRENGTHS:
            each = []
            for part in range(parts.max() + 1):
                model = logistic(x[parts != part], y[parts != part], strength=strength)
                each.append(self._told(model, x[parts == part]))
            told[strength] = np.concatenate(each)
        # One strength for all parts: each by its own would take six times as long.
        best = min(told, key=lambda strength: log_loss(truth, told[strength]))
        self._model = logistic(x, y, strength=best)
        return _in_order([told[best]], parts)

    def chances(self, views: Views) -> Chances:
        return self._told(self._model, views.embedding)

    def _told(self, model: Any, x: Numbers) -> Chances:
        found = np.full((len(x), self._num_classes), SMALLEST)
        if len(x):
            found[:, model.classes_] = model.predict_proba(x)
        return normed(found)


class _Trees:
    """LightGBM with the same settings everywhere, stopped by the validation rows."""

    def __init__(self, num_classes: int, seed: int, *, embedding: bool, columns: bool) -> None:
        self._num_classes, self._seed = num_classes, seed
        self._embedding, self._columns = embedding, columns
        self._model: Any = None
        self._rounds = 0

    def fit(self, views: Views, y: Codes, train: Rows, valid: Rows) -> None:
        import lightgbm

        stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
        self._model = self._grown(self._read(views), y, train, valid, _MOST_TREES, [stop])
        self._rounds = self._model.best_iteration

    def cross(self, views: Views, y: Codes, parts: Rows) -> Chances:
        import lightgbm

        x = self._read(views)
        grown, losses = [], []
        for part in range(parts.max() + 1):
            told: dict[str, dict[str, list[float]]] = {}
            calls = [
                lightgbm.early_stopping(_FEW_PATIENCE, verbose=False),
                lightgbm.record_evaluation(told),
            ]
            rest, own = np.flatnonzero(parts != part), np.flatnonzero(parts == part)
            grown.append(self._grown(x, y, rest, own, _FEW_TREES, calls))
            curve = np.array(next(iter(told["valid_0"].values())))
            # Who stopped early was past its best, and would not have become better.
            losses.append(len(own) * np.pad(curve, (0, _FEW_TREES - len(curve)), mode="edge"))
        # One number of trees for all parts: each by its own would flatter it.
        self._rounds = 1 + int(np.argmin(np.sum(losses, axis=0)))
        found = [self._told(model, x[parts == part]) for part, model in enumerate(grown)]
        every = np.arange(len(y))
        self._model = self._grown(x, y, every, every[:0], self._rounds, [])
        return _in_order(found, parts)

    def chances(self, views: Views) -> Chances:
        if not len(views):
            return np.zeros((0, self._num_classes))
        return self._told(self._model, self._read(views))

    def _grown(
        self, x: Numbers, y: Codes, train: Rows, valid: Rows, rounds: int, calls: list[Any]
    ) -> Any:
        import lightgbm

        several = self._num_classes > 2
        settings = _TREES | {
            "objective": "multiclass" if several else "binary",
            "min_data_in_leaf": int(np.clip(len(train) // 20, 2, 20)),
            "seed": self._seed,
            **({"num_class": self._num_classes} if several else {}),
        }
        data = lightgbm.Dataset(x[train], y[train], params=settings)
        held = [lightgbm.Dataset(x[valid], y[valid], reference=data, params=settings)]
        return lightgbm.train(
            settings,
            data,
            num_boost_round=rounds,
            valid_sets=held if len(valid) else [],
            callbacks=calls,
        )

    def _told(self, model: Any, x: Numbers) -> Chances:
        found: Chances = model.predict(x, num_iteration=self._rounds, num_threads=1)
        return normed(found) if self._num_classes > 2 else both(found)

    def _read(self, views: Views) -> Numbers:
        parts = [views.embedding] if self._embedding else []
        parts += [views.columns] if self._columns else []
        return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)


class _Network:
    """The network itself, trained on the labels; pre-trained or not."""

    def __init__(
        self,
        user_model: UserModel,
        training: Training,
        num_classes: int,
        seed: int,
        *,
        pretrained: bool,
    ) -> None:
        if user_model.tower is None or user_model.tokenizer is None:
            raise InvalidInput("this UserModel is not fitted: call `fit` or `load`")
        self._start: Tower = user_model.tower
        self._tokenizer: Tokenizer = user_model.tokenizer
        self._training, self._num_classes, self._seed = training, num_classes, seed
        self._pretrained = pretrained
        self._classes = np.arange(num_classes)
        self._learned: Learned | None = None

    def fit(self, views: Views, y: Codes, train: Rows, valid: Rows) -> None:
        # A class that nobody here has to learn from has no output, and no row to be judged by.
        self._classes = np.unique(y[train])
        rows = np.concatenate([train, valid[np.isin(y[valid], self._classes)]])
        self._learned = self._trained(
            views[rows],
            np.searchsorted(self._classes, y[rows]),
            held_out=np.arange(len(train), len(rows)),
        )

    def cross(self, views: Views, y: Codes, parts: Rows) -> Chances:
        # Each training is long: parts are joined to three, and one course is found for all.
        parts = parts % NETWORK_PARTS
        self._classes = np.arange(self._num_classes)
        trails = [
            self._trained(views, y, held_out=np.flatnonzero(parts == part)).trail
            for part in range(parts.max() + 1)
        ]
        shortest = min(len(trail) for trail in trails)
        trail = np.concatenate([trail[:shortest] for trail in trails], axis=1)
        truth = y[np.argsort(parts, kind="stable")]
        course = course_of(trail, truth, fine=self._pretrained)
        owners = views.owners[np.argsort(parts, kind="stable")]
        if self._pretrained and not is_shown(trail, truth, course, owners):
            course = Course(0)
        self._learned = self._trained(views, y, course=course)
        return _in_order([self._spoken(along(trail, course))], parts)

    def chances(self, views: Views) -> Chances:
        if self._learned is None:
            raise InvalidInput("this use is not fitted")
        return self._spoken(
            raw_scores(
                self._learned.tower,
                self._learned.head,
                self._tokenizer,
                newest(views.pieces, self._start.shape.length),
                budget=self._training.budget,
            )
        )

    def _trained(
        self, views: Views, y: Codes, *, held_out: Rows | None = None, course: Course | None = None
    ) -> Learned:
        tower = Tower(self._start.shape, self._tokenizer, torch.Generator().manual_seed(self._seed))
        if self._pretrained:
            tower.load_state_dict(self._start.state_dict())
        return learn(
            tower,
            self._tokenizer,
            newest(views.pieces, self._start.shape.length),
            y,
            pace=self._training.fine if self._pretrained else self._training.scratch,
            epochs=self._training.epochs,
            budget=self._training.budget,
            seed=self._seed,
            pretrained=self._pretrained,
            held_out=held_out,
            owners=views.owners,
            course=course,
        )

    def _spoken(self, z: Numbers) -> Chances:
        """(m, C) probabilities of log-odds of the classes that were learned."""
        wide = z.astype(np.float64)
        found = np.full((len(wide), self._num_classes), SMALLEST)
        found[:, self._classes] = both(sigmoid(wide[:, 0])) if wide.shape[1] == 1 else softmax(wide)
        return normed(found)


def made(name: str, user_model: UserModel, training: Training, num_classes: int, seed: int) -> Use:
    """The unfitted candidate of a name of `METHODS`."""
    if name in ("positives only", "centroids"):
        return _Centroids(num_classes, seed, weight=0.0 if name == "positives only" else None)
    if name == "probe":
        return _Probe(num_classes, seed)
    if name in ("fine-tuned", "from scratch"):
        pretrained = name == "fine-tuned"
        return _Network(user_model, training, num_classes, seed, pretrained=pretrained)
    return _Trees(num_classes, seed, embedding=name != "aggregates", columns="aggregates" in name)

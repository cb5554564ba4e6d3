"""The three uses of a user model, side by side, and the one that validation rows choose.

    uses = choose(user_model, pieces, y)           # pieces of histories, and their labels
    uses.chosen, uses.table()                      # which use is best here, and all figures
    uses.score(later)                              # probabilities by it

    positives only        likeness to the positives (zero-shot: `foundation.similarity`)
    centroids             the same, less the weighted likeness to the negatives
    probe                 frozen embedding and a logistic regression
    aggregates            hand-made columns and LightGBM: no embedding, what is to be beaten
    trees                 frozen embedding and LightGBM
    trees and aggregates  both, and LightGBM
    fine-tuned            the pre-trained network, trained on the labels
    from scratch          the same network, not pre-trained, trained on the labels

No use is best everywhere, so none is wired in: each is fitted on the same rows, judged on the
same others, and ROC-AUC there decides. The others are of users of whom no row is learned from,
unless the rows are named. Serves G13, G15, G16 and G17 of the requirements.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import polars as pl
import torch
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import DeclarationError, InvalidInput, did_you_mean
from chopmark.foundation.similarity import Similarity
from chopmark.foundation.usermodel import UserModel
from chopmark.histories import Aggregates, Slices, Tokenizer
from chopmark.models import metrics
from chopmark.models.calibration import Calibration
from chopmark.models.splits import stratified
from chopmark.sequence.network import Tower
from chopmark.sequence.supervised import Learned, learn, raw_scores
from chopmark.sequence.training import Pace

Rows = NDArray[np.int64]
Codes = NDArray[np.int64]
Chances = NDArray[np.float64]  # (m, C), rows sum to 1; C = 2 of a yes-or-no label
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

BLEND = "blend"

_TIE = 1e-3
_CLEARLY = 0.02
_ONE_SIDED = 1.645
_MOST_PARTS = 3
_SMALLEST = 1e-6
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
_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
_CROSS_VALIDATED = 2_000
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
    """

    pieces: Slices
    embedding: Numbers
    columns: Numbers

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
        return cls(pieces, embedding, np.concatenate(parts, axis=1))

    def __len__(self) -> int:
        """Number of pieces."""
        return len(self.pieces)

    def __getitem__(self, which: NDArray[Any]) -> "Views":
        """Some of the rows."""
        return Views(self.pieces[which], self.embedding[which], self.columns[which])


class _Use(Protocol):
    def fit(self, views: Views, y: Codes, train: Rows, valid: Rows) -> None: ...

    def chances(self, views: Views) -> Chances: ...


class Uses:
    """Fitted uses, what validation says of each, and the chosen one.

    Made by `choose`.

    Attributes
    ----------
    chosen : str
        Name of the use that scores, or "blend".
    parts : tuple of str
        The uses whose log-odds are averaged; one if nothing is blended.
    figures : dict
        By use: ``roc_auc``, ``pr_auc``, ``log_loss``, ``calibration_error`` on validation
        rows (means over classes where there are several), and ``seconds`` of fitting.
    """

    def __init__(
        self,
        user_model: UserModel,
        aggregates: Aggregates | None,
        fitted: Mapping[str, _Use],
        figures: dict[str, dict[str, float | None]],
        parts: tuple[str, ...],
        num_classes: int,
        num_columns: int,
    ) -> None:
        self.user_model, self.aggregates = user_model, aggregates
        self.figures, self.parts, self.num_classes = figures, parts, num_classes
        self._fitted, self._num_columns = fitted, num_columns

    @property
    def chosen(self) -> str:
        """The use that scores, or "blend"."""
        return self.parts[0] if len(self.parts) == 1 else BLEND

    @property
    def best(self) -> str:
        """The best single use by validation, whether or not it is blended."""
        return self.parts[0]

    def score(
        self,
        pieces: Slices | Views,
        *,
        method: str | None = None,
        features: ArrayLike | None = None,
    ) -> Chances:
        """(m,) probabilities of label 1, of several classes (m, C).

        Parameters
        ----------
        method
            A use by name, or "blend"; the chosen one if not given.
        features
            As they were given to `choose`.

        Raises
        ------
        InvalidInput
            If no use of that name was fitted, or it reads columns and there are not as many as
            `choose` had.
        """
        asked = self.chosen if method is None else method
        if asked not in self.figures:
            raise InvalidInput(
                f"expected a use that was fitted ({', '.join(self.figures)}), got `{asked}`"
                + did_you_mean(asked, self.figures)
            )
        names = self.parts if asked == BLEND else (asked,)
        views = self.views(pieces, features=features)
        found = views.columns.shape[1]
        if found != self._num_columns and any("aggregates" in name for name in names):
            raise InvalidInput(
                f"expected {self._num_columns} columns beside the embedding for `{asked}`, as "
                f"`choose` had them, got {found}; give the `features` that `choose` was given, or "
                "`Views` made as those were"
            )
        chances = blended([self._fitted[name].chances(views) for name in names])
        return chances if self.num_classes > 2 else chances[:, 1]

    def views(self, pieces: Slices | Views, *, features: ArrayLike | None = None) -> Views:
        """The rows as the uses read them: make them once to `score` by several uses."""
        if isinstance(pieces, Views):
            return pieces
        return Views.of(self.user_model, pieces, aggregates=self.aggregates, features=features)

    def table(self) -> pl.DataFrame:
        """All figures, best use first: a row for each use, ``chosen`` marks the one that scores."""
        rows = [{"use": name, "chosen": name == self.chosen, **told}
                for name, told in self.figures.items()]  # fmt: skip
        return pl.DataFrame(rows, infer_schema_length=None).sort(
            "roc_auc", descending=True, nulls_last=True, maintain_order=True
        )


def choose(
    user_model: UserModel,
    pieces: Slices | Views,
    y: ArrayLike,
    *,
    valid: float | ArrayLike = 0.2,
    groups: ArrayLike | pl.Series | None = None,
    methods: Sequence[str] = METHODS,
    aggregates: Aggregates | bool = True,
    features: ArrayLike | None = None,
    training: Training | None = None,
    blend: bool = True,
    seed: int = 0,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Uses:
    """Fit each use on some rows, judge it on the others, and choose.

    Parameters
    ----------
    user_model
        A fitted one.
    pieces
        m pieces, each up to the instant at which its label is asked for; or `Views` of them.
    y : (m,)
        1 or 0; or codes 0 to C - 1 of three classes or more.
    valid
        Row numbers to judge and to stop by, taken as they are; or a share. Of a share whole
        users are drawn, by class, as many as make that share of the users: a user's rows are
        alike, and a use that knows some of them seems to foretell the others.
    groups : (m,)
        Whose each row is, none missing. None: the user of the histories of whom it is a piece.
        Give them where a row is a history of its own (`Histories.from_lists`), or where users
        without events have several rows: those are told apart by nothing, so each row stands
        alone. Read only if `valid` is a share.
    methods
        Some of `METHODS`.
    aggregates
        Whether to make aggregates of the pieces, or which; not read where `Views` are given.
    features : (m, k)
        Further numbers known of each row, NaN where missing; used beside the aggregates.
    blend
        Whether to average the best use with others where that is better by more than noise.
    on_progress
        Called with the use that comes, how many are done, and how many there are.

    Raises
    ------
    InvalidInput
        If labels are no codes, are not one for each piece, rows to learn from or to judge by
        have one class, or groups are not one for each piece.
    DeclarationError
        If there is no such use.
    """
    unknown = [name for name in methods if name not in METHODS]
    if unknown or not methods:
        raise DeclarationError(
            f"expected some of {', '.join(METHODS)}, got {', '.join(unknown) or 'none'}"
            + (did_you_mean(unknown[0], METHODS) if unknown else "")
        )
    codes = _codes(y, len(pieces))
    num_classes = max(2, int(codes.max(initial=0)) + 1)
    train, held = _parted(codes, valid, _groups(groups, pieces), seed)
    found: Aggregates | None = None
    if isinstance(pieces, Views):
        views = pieces
    else:
        if isinstance(aggregates, Aggregates):
            found = aggregates
        elif aggregates:
            found = Aggregates().fit(pieces[train])
        views = Views.of(user_model, pieces, aggregates=found, features=features)
    if views.columns.shape[1] == 0:
        methods = [name for name in methods if "aggregates" not in name]
        if not methods:
            raise DeclarationError("expected aggregates or features for a use that reads them")
    fitted: dict[str, _Use] = {}
    chances: dict[str, Chances] = {}
    figures: dict[str, dict[str, float | None]] = {}
    ordered = [name for name in METHODS if name in methods]
    for done, name in enumerate(ordered):
        if on_progress is not None:
            on_progress(name, done, len(ordered))
        begin = perf_counter()
        use = _made(name, user_model, training or Training(), num_classes, seed)
        use.fit(views, codes, train, held)
        chances[name] = use.chances(views[held])
        fitted[name] = use
        seconds = perf_counter() - begin
        figures[name] = {**judged(codes[held], chances[name]), "seconds": round(seconds, 3)}
    if on_progress is not None:
        on_progress("", len(ordered), len(ordered))
    best = _best(figures)
    parts = _mixed(best, chances, codes[held]) if blend else (best,)
    if len(parts) > 1:
        mixed = blended([chances[name] for name in parts])
        spent = [figures[name]["seconds"] or 0.0 for name in parts]
        figures[BLEND] = {**judged(codes[held], mixed), "seconds": round(sum(spent), 3)}
    num_columns = views.columns.shape[1]
    return Uses(user_model, found, fitted, figures, parts, num_classes, num_columns)


def judged(y: Codes, chances: Chances) -> dict[str, float | None]:
    """Metrics of probabilities (m, C) by name; None where one is not defined.

    Of more than two classes ROC-AUC, PR-AUC and calibration error are means over the classes,
    each against all others; log loss is that of the class that came.
    """
    if chances.shape[1] == 2:
        told = metrics.summary(y.astype(np.float64), np.clip(chances[:, 1], 0.0, 1.0))
        return {name: told[name] for name in FIGURES}
    each = [
        metrics.summary((y == code).astype(np.float64), np.clip(chances[:, code], 0.0, 1.0))
        for code in range(chances.shape[1])
        if (y == code).any() and not (y == code).all()
    ]
    found: dict[str, float | None] = {}
    for name in FIGURES:
        known = [value for one in each if (value := one[name]) is not None]
        found[name] = float(np.mean(known)) if known else None
    found["log_loss"] = _loss(y, chances)
    return found


FIGURES = ("roc_auc", "pr_auc", "log_loss", "calibration_error")
"""What every use is judged by."""


def blended(chances: Sequence[Chances]) -> Chances:
    """Probabilities (m, C) whose log is the mean of the logs of the parts, but for a constant."""
    if len(chances) == 1:
        return chances[0]
    logs = [np.log(np.clip(part, _SMALLEST, 1.0)) for part in chances]
    return _softmax(np.mean(logs, axis=0))


def newest(pieces: Slices, length: int) -> Slices:
    """The pieces with their last `length` events at most."""
    starts = np.maximum(pieces.starts, pieces.ends - length)
    return Slices(pieces.histories, starts, pieces.ends, pieces.now)


class _Centroids:
    """Cosine to centroids, as probabilities by what left-out rows say of them."""

    def __init__(self, num_classes: int, seed: int, *, weight: float | None) -> None:
        self._similarity = Similarity(weight, seed=seed)
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
        losses = [_loss(codes, _softmax(self._logs(out, sharpness))) for sharpness in _SHARPNESS]
        self._sharpness = float(_SHARPNESS[int(np.argmin(losses))])

    def chances(self, views: Views) -> Chances:
        cosines = self._similarity.score(views.embedding)
        if self._num_classes == 2:
            return _both(_sigmoid(self._calibration.apply(self._raw(cosines))))
        return _softmax(self._logs(cosines, self._sharpness))

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
        from sklearn.linear_model import LogisticRegression, LogisticRegressionCV
        from sklearn.pipeline import make_pipeline
        from sklearn.preprocessing import StandardScaler

        x, codes = views.embedding[train], y[train]
        folds = int(min(5, np.bincount(codes)[np.unique(codes)].min()))
        if len(train) < _CROSS_VALIDATED and folds > 1:
            line = LogisticRegressionCV(
                Cs=_STRENGTHS,
                l1_ratios=(0.0,),
                cv=folds,
                scoring="neg_log_loss",
                max_iter=300,
                use_legacy_attributes=False,
            )
            self._model = make_pipeline(StandardScaler(), line).fit(x, codes)
            return
        best = np.inf
        for strength in _STRENGTHS:
            line = LogisticRegression(C=strength, max_iter=300)
            model = make_pipeline(StandardScaler(), line).fit(x, codes)
            chances = self._told(model, views.embedding[valid])
            found = _loss(y[valid], chances)
            if found < best:
                best, self._model = found, model

    def chances(self, views: Views) -> Chances:
        return self._told(self._model, views.embedding)

    def _told(self, model: Any, x: Numbers) -> Chances:
        found = np.full((len(x), self._num_classes), _SMALLEST)
        if len(x):
            found[:, model.classes_] = model.predict_proba(x)
        return _normed(found)


class _Trees:
    """LightGBM with the same settings everywhere, stopped by the validation rows."""

    def __init__(self, num_classes: int, seed: int, *, embedding: bool, columns: bool) -> None:
        self._num_classes, self._seed = num_classes, seed
        self._embedding, self._columns = embedding, columns
        self._model: Any = None

    def fit(self, views: Views, y: Codes, train: Rows, valid: Rows) -> None:
        import lightgbm

        several = self._num_classes > 2
        settings = _TREES | {
            "objective": "multiclass" if several else "binary",
            "min_data_in_leaf": int(np.clip(len(train) // 20, 2, 20)),
            "seed": self._seed,
            **({"num_class": self._num_classes} if several else {}),
        }
        x = self._read(views)
        data = lightgbm.Dataset(x[train], y[train], params=settings)
        held = lightgbm.Dataset(x[valid], y[valid], reference=data, params=settings)
        stop = lightgbm.early_stopping(_PATIENCE, verbose=False)
        self._model = lightgbm.train(
            settings, data, num_boost_round=_MOST_TREES, valid_sets=[held], callbacks=[stop]
        )

    def chances(self, views: Views) -> Chances:
        if not len(views):
            return np.zeros((0, self._num_classes))
        found: Chances = self._model.predict(
            self._read(views), num_iteration=self._model.best_iteration, num_threads=1
        )
        return _normed(found) if self._num_classes > 2 else _both(found)

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
        generator = torch.Generator().manual_seed(self._seed)
        tower = Tower(self._start.shape, self._tokenizer, generator)
        if self._pretrained:
            tower.load_state_dict(self._start.state_dict())
        # A class that nobody here has to learn from has no output, and no row to be judged by.
        self._classes = np.unique(y[train])
        rows = np.concatenate([train, valid[np.isin(y[valid], self._classes)]])
        learned = learn(
            tower,
            self._tokenizer,
            newest(views.pieces[rows], self._start.shape.length),
            np.searchsorted(self._classes, y[rows]),
            pace=self._training.fine if self._pretrained else self._training.scratch,
            epochs=self._training.epochs,
            budget=self._training.budget,
            seed=self._seed,
            pretrained=self._pretrained,
            held_out=np.arange(len(train), len(rows)),
        )
        self._learned = learned

    def chances(self, views: Views) -> Chances:
        if self._learned is None:
            raise InvalidInput("this use is not fitted")
        z = raw_scores(
            self._learned.tower,
            self._learned.head,
            self._tokenizer,
            newest(views.pieces, self._start.shape.length),
            budget=self._training.budget,
        ).astype(np.float64)
        found = np.full((len(z), self._num_classes), _SMALLEST)
        found[:, self._classes] = _both(_sigmoid(z[:, 0])) if z.shape[1] == 1 else _softmax(z)
        return _normed(found)


def _made(
    name: str, user_model: UserModel, training: Training, num_classes: int, seed: int
) -> _Use:
    if name in ("positives only", "centroids"):
        return _Centroids(num_classes, seed, weight=0.0 if name == "positives only" else None)
    if name == "probe":
        return _Probe(num_classes, seed)
    if name in ("fine-tuned", "from scratch"):
        pretrained = name == "fine-tuned"
        return _Network(user_model, training, num_classes, seed, pretrained=pretrained)
    return _Trees(num_classes, seed, embedding=name != "aggregates", columns="aggregates" in name)


def _codes(y: ArrayLike, count: int) -> Codes:
    given = np.asarray(y)
    if given.shape != (count,):
        raise InvalidInput(
            f"expected one label for each of {count} pieces, got labels of shape {given.shape}"
        )
    whole = given.dtype.kind in "biuf" and np.isfinite(given.astype(np.float64)).all()
    if not whole or (given.astype(np.float64) % 1 != 0).any() or (given.astype(np.int64) < 0).any():
        raise InvalidInput(
            "expected labels 0 and 1, or codes 0 to C - 1 of several classes, got others; leave "
            "rows out whose label is not known"
        )
    return given.astype(np.int64)


def _groups(given: ArrayLike | pl.Series | None, pieces: Slices | Views) -> Rows:
    """(m,) whose each row is: a number for each user, in the order in which they come."""
    if given is None:
        owners = _owners(pieces.pieces if isinstance(pieces, Views) else pieces).tolist()
    else:
        owners = given.to_list() if isinstance(given, pl.Series) else np.asarray(given).tolist()
        if not isinstance(owners, list) or len(owners) != len(pieces):
            raise InvalidInput(
                f"expected one group for each of {len(pieces)} pieces, got groups of shape "
                f"{np.shape(owners)}"
            )
        if any(name is None or name != name for name in owners):
            raise InvalidInput("expected a group for each piece, got none for some")
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(name, len(numbers)) for name in owners], dtype=np.int64)


def _owners(pieces: Slices) -> Rows:
    """(m,) place of the user of each piece; below 0, each another, where nothing tells."""
    begins = pieces.histories.offsets[:-1]
    places = np.searchsorted(begins, pieces.starts, side="right")
    same = places - np.searchsorted(begins, pieces.starts)
    # An empty piece at the first row may be of anybody who is not in the histories; one where
    # several users begin, of any of these.
    unknown = (pieces.starts == pieces.ends) & ((pieces.ends == 0) | (same > 1))
    return np.where(unknown, -1 - np.arange(len(pieces)), places)


def _drawn(codes: Codes, groups: Rows, share: float, seed: int) -> Rows:
    """Rows of some users, as large a share of those of each class; a user counts for the rarest
    class among their rows."""
    if not len(codes):
        raise InvalidInput("expected pieces to choose by, got none")
    order = np.argsort(-np.bincount(codes), kind="stable")  # classes, the most frequent first
    rarest = np.zeros(groups.max() + 1, dtype=np.int64)
    np.maximum.at(rarest, groups, np.argsort(order)[codes])
    num_groups = len(rarest)
    try:
        drawn = stratified(order[rarest], test_share=share, seed=seed).test
    except InvalidInput as error:
        if not 0.0 < share < 1.0:
            raise
        raise InvalidInput(
            f"expected users enough to learn from some and to judge by a share of {share} of "
            f"others, got {num_groups} with {len(codes)} rows; label more users, or name the rows "
            "(`valid`)"
        ) from error
    return np.flatnonzero(np.isin(groups, drawn))


def _parted(codes: Codes, valid: float | ArrayLike, groups: Rows, seed: int) -> tuple[Rows, Rows]:
    """Rows to learn from and rows to judge by, each rising."""
    if isinstance(valid, int | float):
        held = _drawn(codes, groups, float(valid), seed)
    else:
        given = np.asarray(valid)
        held = np.unique(np.flatnonzero(given) if given.dtype == np.bool_ else given)
        if held.dtype.kind not in "iu" or (held < 0).any() or (held >= len(codes)).any():
            raise InvalidInput(
                f"expected row numbers from 0 to {len(codes) - 1} as validation rows, got others"
            )
    train = np.setdiff1d(np.arange(len(codes)), held)
    for what, rows in (("learn from", train), ("judge by", held)):
        if len(np.unique(codes[rows])) < 2:
            raise InvalidInput(
                f"expected two classes or more among the {len(rows)} rows to {what}, got "
                f"{len(np.unique(codes[rows]))}; label more rows, of more users, or choose other "
                "validation rows"
            )
    return train, held.astype(np.int64)


def _best(figures: Mapping[str, Mapping[str, float | None]]) -> str:
    """The highest ROC-AUC; of those within a tie of it, the simplest, unless its log loss is
    clearly above another's: ten rows can be ranked without fault by many, and be known by few."""
    areas = {name: told["roc_auc"] or 0.0 for name, told in figures.items()}
    most = max(areas.values())
    tied = [name for name in METHODS if name in areas and areas[name] >= most - _TIE]
    losses = {name: figures[name]["log_loss"] or 0.0 for name in tied}
    least = min(losses.values())
    return next(name for name in tied if losses[name] <= least + _CLEARLY)


def _mixed(best: str, chances: Mapping[str, Chances], y: Codes) -> tuple[str, ...]:
    """The best use, and those that better it in an average by more than noise."""
    parts = [best]
    while len(parts) < _MOST_PARTS:
        now = blended([chances[name] for name in parts])
        found: dict[str, float] = {}
        for name in chances:
            if name not in parts:
                mixed = blended([chances[part] for part in (*parts, name)])
                gain, error = gained(y, mixed, now)
                if gain > _ONE_SIDED * error and gain > _TIE:
                    found[name] = gain
        if not found:
            break
        parts.append(max(found, key=lambda name: found[name]))
    return tuple(parts)


def gained(y: Codes, new: Chances, old: Chances) -> tuple[float, float]:
    """ROC-AUC of `new` minus that of `old` on the same rows, and its standard error.

    By what each row adds to the area (DeLong's placements), so rows that both order alike count
    for nothing. Of several classes, of the mean of the areas.

    References
    ----------
    Elizabeth DeLong, David DeLong and Daniel Clarke-Pearson, "Comparing the Areas under Two or
    More Correlated Receiver Operating Characteristic Curves", 1988.
    """
    codes = np.unique(y)
    sides = [1] if new.shape[1] == 2 else codes.tolist()
    gain, moved = 0.0, np.zeros(len(y))
    for code in sides:
        own = y == code
        for rows, others, sign in ((own, ~own, 1.0), (~own, own, -1.0)):
            places = _below(new[others, code], new[rows, code])
            places -= _below(old[others, code], old[rows, code])
            moved[rows] += sign * (places - places.mean()) / max(rows.sum(), 1)
            gain += 0.5 * sign * float(places.mean())
    return gain / len(sides), float(np.sqrt((moved**2).sum())) / len(sides)


def _below(others: Chances, scores: Chances) -> Chances:
    """Share of the others below each score, ties half."""
    ordered = np.sort(others)
    count = np.searchsorted(ordered, scores, "left") + np.searchsorted(ordered, scores, "right")
    found: Chances = count / (2.0 * len(ordered))
    return found


def _loss(y: Codes, chances: Chances) -> float:
    given = np.clip(chances[np.arange(len(y)), y], np.finfo(np.float64).eps, 1.0)
    return float(-np.mean(np.log(given)))


def _both(scores: Chances) -> Chances:
    return np.column_stack([1.0 - scores, scores])


def _normed(chances: Chances) -> Chances:
    found: Chances = chances / chances.sum(axis=1, keepdims=True)
    return found


def _sigmoid(z: Chances) -> Chances:
    found: Chances = 0.5 * (1.0 + np.tanh(0.5 * z))
    return found


def _softmax(z: Chances) -> Chances:
    return _normed(np.exp(z - z.max(axis=1, keepdims=True)))

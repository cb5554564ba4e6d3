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
unless the rows are named. A few labels are too few to set some aside: up to 1,000 each use is
judged by cross-validation, on all rows, and then learns from all. Serves G13, G15, G16 and G17
of the requirements.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import DeclarationError, InvalidInput, did_you_mean
from chopmark.foundation.candidates import (
    METHODS,
    NETWORK_PARTS,
    Training,
    Use,
    Views,
    made,
    owners_of,
)
from chopmark.foundation.chances import Chances, Codes, blended, gained, judged
from chopmark.foundation.usermodel import UserModel
from chopmark.histories import Aggregates, Slices
from chopmark.models.splits import stratified

Rows = NDArray[np.int64]

BLEND = "blend"

FEW = 1_000
"""Labelled rows up to which no share of them is set aside to choose by."""

_TIE = 1e-3
_CLEARLY = 0.02
_ONE_SIDED = 1.645
_OF_SEVERAL = 2.5
_MOST_PARTS = 3
_FOLDS = 6


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
        rows, or by cross-validation on all (means over classes where there are several), and
        ``seconds`` of fitting.
    """

    def __init__(
        self,
        user_model: UserModel,
        aggregates: Aggregates | None,
        fitted: Mapping[str, Use],
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
        alike, and a use that knows some of them seems to foretell the others. Of up to
        1,000 rows no share is set aside: each use is judged on all rows by cross-validation
        (six parts of whole users, three for a network), and then learns from all.
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
        Whether to average the best use with others: where that is better by more than noise;
        or, where each is cross-validated, with all that are not shown to be worse.
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
    owners = _groups(groups, pieces)
    parts_of = None
    if isinstance(valid, int | float) and 0.0 < valid < 1.0 and 0 < len(codes) <= FEW:
        parts_of = _folds(codes, owners, seed)
    if parts_of is not None:
        train = held = np.arange(len(codes))
    else:
        train, held = _parted(codes, valid, owners, seed)
    found: Aggregates | None = None
    if isinstance(pieces, Views):
        views = pieces
    else:
        if isinstance(aggregates, Aggregates):
            found = aggregates
        elif aggregates:
            found = Aggregates().fit(pieces[train])
        views = Views.of(user_model, pieces, aggregates=found, features=features)
    views = replace(views, owners=owners)
    if views.columns.shape[1] == 0:
        methods = [name for name in methods if "aggregates" not in name]
        if not methods:
            raise DeclarationError("expected aggregates or features for a use that reads them")
    fitted: dict[str, Use] = {}
    chances: dict[str, Chances] = {}
    figures: dict[str, dict[str, float | None]] = {}
    ordered = [name for name in METHODS if name in methods]
    for done, name in enumerate(ordered):
        if on_progress is not None:
            on_progress(name, done, len(ordered))
        begin = perf_counter()
        use = made(name, user_model, training or Training(), num_classes, seed)
        if parts_of is None:
            use.fit(views, codes, train, held)
            chances[name] = use.chances(views[held])
        else:
            chances[name] = use.cross(views, codes, parts_of)
        fitted[name] = use
        seconds = perf_counter() - begin
        figures[name] = {**judged(codes[held], chances[name]), "seconds": round(seconds, 3)}
    if on_progress is not None:
        on_progress("", len(ordered), len(ordered))
    best = best_of(figures)
    mix = _mixed if parts_of is None else _as_good
    parts = mix(best, chances, codes[held]) if blend else (best,)
    if len(parts) > 1:
        mixed = blended([chances[name] for name in parts])
        spent = [figures[name]["seconds"] or 0.0 for name in parts]
        figures[BLEND] = {**judged(codes[held], mixed), "seconds": round(sum(spent), 3)}
    num_columns = views.columns.shape[1]
    return Uses(user_model, found, fitted, figures, parts, num_classes, num_columns)


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
        owners = owners_of(pieces.pieces if isinstance(pieces, Views) else pieces).tolist()
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


def _drawn(codes: Codes, groups: Rows, share: float, seed: int) -> Rows:
    """Rows of some users, as large a share of those of each class; a user counts for the rarest
    class among their rows."""
    if not len(codes):
        raise InvalidInput("expected pieces to choose by, got none")
    rarest = _rarest(codes, groups)
    num_groups = len(rarest)
    try:
        drawn = stratified(rarest, test_share=share, seed=seed).test
    except InvalidInput as error:
        if not 0.0 < share < 1.0:
            raise
        raise InvalidInput(
            f"expected users enough to learn from some and to judge by a share of {share} of "
            f"others, got {num_groups} with {len(codes)} rows; label more users, or name the rows "
            "(`valid`)"
        ) from error
    return np.flatnonzero(np.isin(groups, drawn))


def _rarest(codes: Codes, groups: Rows) -> Codes:
    """(g,) the rarest class among the rows of each group."""
    order = np.argsort(-np.bincount(codes), kind="stable")  # classes, the most frequent first
    rarest = np.zeros(groups.max() + 1, dtype=np.int64)
    np.maximum.at(rarest, groups, np.argsort(order)[codes])
    return order[rarest]


def _folds(codes: Codes, groups: Rows, seed: int) -> Rows | None:
    """(m,) part of each row, whole groups in a part and as large a share of each class; None if
    the rows outside of a part would have one class."""
    rarest = _rarest(codes, groups)
    order = np.random.default_rng((seed, 5)).permutation(len(rarest))
    order = order[np.argsort(rarest[order], kind="stable")]
    part = np.empty(len(rarest), dtype=np.int64)
    part[order] = np.arange(len(rarest)) % _FOLDS
    found: Rows = part[groups]
    # A network joins parts to three.
    joined = [codes[found % NETWORK_PARTS != number] for number in range(NETWORK_PARTS)]
    return found if all(len(np.unique(some)) > 1 for some in joined) else None


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


def best_of(figures: Mapping[str, Mapping[str, float | None]]) -> str:
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


def _as_good(best: str, chances: Mapping[str, Chances], y: Codes) -> tuple[str, ...]:
    """The best use, and all that it betters by no more than noise: with few labels there is
    no telling which of them is best, and their average is seldom worse than any. The best of
    several is so by luck, too, so it takes more than to better a single other one."""
    parts = [best]
    for name, told in chances.items():
        gain, error = gained(y, chances[best], told)
        if name != best and gain <= _OF_SEVERAL * error:
            parts.append(name)
    return tuple(parts)

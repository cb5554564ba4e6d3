"""The model of a chain: fitted to labelled addresses and a sample, judged by rows it has not seen.

Addresses without a label are drawn as if they were licit, and each stands for many. What the
model says is moved by that, so that it is a chance at the prevalence of the whole chain: that of
being labelled illicit. Divided by the share of illicit addresses that labels name it is the chance
of being illicit (Elkan and Noto, "Learning Classifiers from Only Positive and Unlabeled Data",
2008), which is the score.
Figures and bounds are of scores out of fold: each row's is by a model of the others.
Serves rows H1, H8 and H15 of the requirements.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import cpu_count
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.models import load_scorer
from chopmark.pipelines.chainlabels import TARGET
from chopmark.pipelines.chainrun import MODEL, Point, Recipe
from chopmark.tabular import EasyML

Done = Callable[[float], None]
"""Called with the share that is done, 0 to 1."""

FOLDS = 3
SHARES = (0.05, 0.01, 0.005, 0.001)
"""False alarms that a `Point` is told for: shares of addresses that are not illicit."""
_CHUNK = 20_000
_MIDDLE = 1e-9
_SURE = 0.9


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model's figures.

    Attributes
    ----------
    held_out
        ROC-AUC, PR-AUC, log loss, the prevalence, and how many were expected for each that was
        found, of being labelled illicit, out of fold.
    points
        What bounds on the score would find, and whom they would trouble.
    shift
        What to add to the model's log-odds.
    """

    held_out: dict[str, float | None]
    points: tuple[Point, ...]
    shift: float


def fit(
    table: pl.DataFrame, known: pl.DataFrame, recipe: Recipe, folder: Path, done: Done
) -> Fitted:
    """Fit a model, judge it, and save it to a folder.

    Parameters
    ----------
    table
        A row for each address of the chain, in the order of ids.
    known
        ``id`` and ``is_illicit`` (1 or 0) of those with a label.
    """
    rng = np.random.default_rng(recipe.seed)
    others = np.setdiff1d(np.arange(table.height), known["id"].to_numpy())
    drawn = np.sort(rng.choice(others, min(recipe.sampled, len(others)), replace=False))
    ids = np.concatenate([known["id"].to_numpy(), drawn])
    label = np.concatenate([known[TARGET].to_numpy(), np.zeros(len(drawn), np.int8)])
    # Each address that was drawn stands for so many; those with a label for themselves.
    stands = np.where(np.arange(len(ids)) < known.height, 1.0, len(others) / max(len(drawn), 1))
    rows = table[ids].with_columns(pl.Series(TARGET, label))
    shift = float(np.log((label == 0).sum() / stands[label == 0].sum()))
    fold = _folds(label, rng)
    told = np.empty(len(ids))
    for place in range(FOLDS):
        held = pl.Series(fold == place)
        apart = EasyML(model=recipe.model, seed=recipe.seed)
        apart.fit(rows.filter(~held), target=TARGET)
        told[fold == place] = chance(apart.score(rows.filter(held).drop(TARGET)), shift)
        done((place + 1) / (FOLDS + 1))
    model = EasyML(model=recipe.model, seed=recipe.seed).fit(rows, target=TARGET)
    model.save(folder / MODEL)
    bounds = points(label, chance(told, 0.0, recipe.known_share), stands, recipe.known_share)
    return Fitted(_judged(label, told, stands), bounds, shift)


def scored(
    folder: Path, table: pl.DataFrame, shift: float, known_share: float, done: Done
) -> NDArray[np.float32]:
    """(k,) what the model of a folder says of rows."""
    scorer = load_scorer(folder / MODEL)
    scores = np.empty(table.height, dtype=np.float32)
    starts = range(0, table.height, _CHUNK)

    def run(start: int) -> NDArray[np.float64]:
        return chance(scorer.score(table[start : start + _CHUNK]), shift, known_share)

    with ThreadPoolExecutor(cpu_count()) as pool:  # of no influence on what comes out
        for start, found in zip(starts, pool.map(run, starts), strict=True):
            scores[start : start + _CHUNK] = found
            done(min(1.0, (start + _CHUNK) / table.height))
    return scores


def chance(scores: Any, shift: float, known_share: float = 1.0) -> NDArray[np.float64]:
    """Chances to be illicit, of what a model gave for being labelled illicit in its sample.

    Parameters
    ----------
    shift
        Added to the log-odds: what drawing a sample did to them.
    known_share
        Of illicit addresses so many are labelled. What then is above `_SURE` is pressed into the
        rest, so that no two addresses change places.
    """
    p = np.clip(np.asarray(scores, dtype=np.float64), _MIDDLE, 1 - _MIDDLE)
    p = 1.0 / (1.0 + (1.0 - p) / p * np.exp(-shift))
    if known_share < 1.0:
        sure = _SURE * known_share
        pressed = 1.0 - (1.0 - _SURE) * (1.0 - p) / (1.0 - sure)
        p = np.where(p <= sure, p / known_share, pressed)
    found: NDArray[np.float64] = p
    return found


def points(
    label: NDArray[Any],
    scores: NDArray[np.float64],
    stands: NDArray[np.float64],
    known_share: float = 1.0,
) -> tuple[Point, ...]:
    """For each of `SHARES` the lowest bound that flags no more of those that are not illicit.

    Parameters
    ----------
    label, scores, stands : (m,)
        1 or 0, a chance, and for how many addresses of the chain a row stands.
    known_share
        Of illicit addresses so many have a 1; the others stand among those with a 0, at the same
        scores.
    """
    order = np.argsort(-scores, kind="stable")
    score, bad = scores[order], label[order] == 1
    found = np.cumsum(np.where(bad, stands[order], 0.0))
    hidden = found * (1.0 - known_share) / known_share
    good = np.cumsum(np.where(bad, 0.0, stands[order])) - hidden
    good = np.maximum.accumulate(np.maximum(good, 0.0))
    last = np.flatnonzero(np.diff(score, append=-1.0))  # rows of one score are flagged together
    told = []
    for share in SHARES:
        fits = last[good[last] <= share * good[-1]]
        if len(fits):
            place = int(fits[-1])
            bound, flagged, caught = float(score[place]), good[place], found[place] / known_share
        else:  # even the highest scores have too many among them
            bound, flagged, caught = float(np.nextafter(score[0], 2.0)), 0.0, 0.0
        told.append(
            Point(
                false_positive_share=share,
                bound=bound,
                recall=float(caught * known_share / found[-1]),
                precision=float(caught / (caught + flagged)) if caught + flagged else None,
            )
        )
    return tuple(told)


def _judged(
    label: NDArray[Any], scores: NDArray[np.float64], stands: NDArray[np.float64]
) -> dict[str, float | None]:
    """Figures of rows that each stand for so many: at the prevalence of the whole chain."""
    from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

    return {
        "roc_auc": float(roc_auc_score(label, scores, sample_weight=stands)),
        "pr_auc": float(average_precision_score(label, scores, sample_weight=stands)),
        "log_loss": float(log_loss(label, scores, sample_weight=stands, labels=[0, 1])),
        "prevalence": float(stands[label == 1].sum() / stands.sum()),
        "expected_over_found": float((scores * stands).sum() / stands[label == 1].sum()),
    }


def _folds(label: NDArray[Any], rng: np.random.Generator) -> NDArray[np.int64]:
    """(m,) which fold a row is in: of each class as many in each, as far as that goes."""
    fold = np.empty(len(label), dtype=np.int64)
    for value in np.unique(label):
        rows = rng.permutation(np.flatnonzero(label == value))
        fold[rows] = np.arange(len(rows)) % FOLDS
    return fold

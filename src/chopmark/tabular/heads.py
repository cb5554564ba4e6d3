"""A head: one question (one label, 0 or 1, or a number) asked of a table, and its answer.

    frame -> encoder -> x -> portfolio -> blend -> calibration -> artifact

A binary model and a regression have one head; a model of many classes one for each of them.
Serves A8, A11, A12 and A16 of the requirements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.models import Calibration, Column, Combination, Encoder, Kind
from chopmark.models.artifact import Artifact
from chopmark.models.scorers import FAMILY
from chopmark.models.splits import Split
from chopmark.tabular.gates import gated
from chopmark.tabular.memory import Memory, Readings, key_of
from chopmark.tabular.portfolio import Blend, Learner, Progress, learn
from chopmark.tabular.problem import Objective, Problem
from chopmark.tabular.target_means import fit_encoder
from chopmark.tabular.transforms import make_encoder


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How to learn: everything about a fit but the table.

    Attributes
    ----------
    learners
        By name, the most useful first.
    columns
        Kinds of columns that are known.
    extra
        Further readings of raw columns.
    target
        The label's column, which is not read.
    time, groups
        Columns by whose values rows are held out: later ones, whole groups; "" is neither.
    calibration
        "platt" or "isotonic".
    class_weight
        How much more a bad row counts than a good one while fitting; None is alike.
    budget
        Seconds after which no further learner is begun.
    seed, workers
        Of the learners.
    memory
        Where readings of tables are kept; None keeps none.
    """

    learners: Mapping[str, Learner]
    columns: Mapping[str, Kind]
    extra: Sequence[Column | Combination]
    target: str
    time: str = ""
    groups: str = ""
    calibration: Literal["platt", "isotonic"] = "platt"
    class_weight: float | Literal["balanced"] | None = None
    budget: float | None = None
    seed: int = 0
    workers: int = 1
    memory: Memory | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Head:
    """A fitted head.

    Attributes
    ----------
    encoder
        How raw columns are read.
    blend
        Parts, weights and held-out predictions.
    calibration
        From the parts' sum to log-odds (or the number).
    link
        "logit" or "identity".
    rows
        (h,) int64 held-out rows.
    held_out
        (h,) float64 what the head says of them: probabilities, or numbers.
    """

    encoder: Encoder
    blend: Blend
    calibration: Calibration
    link: Literal["logit", "identity"]
    rows: NDArray[np.int64]
    held_out: NDArray[np.float64]

    def artifact(self, header: Mapping[str, Any]) -> Artifact:
        """The head as an artifact, not yet packed; `header` adds to what the head says."""
        arrays: dict[str, NDArray[np.generic]] = {"calibration": self.calibration.knots}
        for part in self.blend.parts:
            arrays |= {f"{part.name}.{name}": a for name, a in part.to_arrays().items()}
        return Artifact(
            family=FAMILY,
            header={"encoder": self.encoder.to_json(), "link": self.link, **header},
            arrays=arrays,
        )


def fit_head(
    frame: pl.DataFrame,
    y: NDArray[np.float64],
    recipe: Recipe,
    *,
    parts: Sequence[Split],
    objective: Objective = "binary",
    num_train: int | None = None,
    on_progress: Progress | None = None,
) -> Head:
    """One question answered.

    Parameters
    ----------
    frame
        (n,) rows.
    y
        (n,) labels 0.0 or 1.0, or numbers.
    parts
        Which rows are held out (`chopmark.tabular.holdout`).
    num_train
        The first so many rows are learned from, those after them are held out and never
        learned from. None holds out folds (or a fifth) in turn and then learns from all rows.
    """
    center, scale = 0.0, 1.0
    if objective == "number":
        known = y[:num_train]
        center, scale = float(known.mean()), float(known.std())
    target = (y - center) / scale
    refit = num_train is None

    def make() -> Readings:
        train = frame if refit else frame[:num_train]
        encoder = make_encoder(
            train,
            target=recipe.target,
            columns=recipe.columns,
            extra=recipe.extra,
            time=recipe.time or None,
        )
        encoder, x = _read(frame, target, encoder, parts, recipe, objective, refit=refit)
        posed = _posed(x, target, encoder, parts, recipe, objective, refit=refit)
        encoder, problem = gated(encoder, posed, workers=recipe.workers)
        return encoder, problem.x

    if recipe.memory is None:
        encoder, x = make()
    else:
        held = [rows for part in parts for rows in (part.train, part.test)]
        key = key_of(
            frame,
            [target, *held],
            *(recipe.target, dict(recipe.columns), list(recipe.extra), recipe.time),
            *(recipe.seed, objective, num_train),
        )
        encoder, x = recipe.memory.readings(key, make)
    problem = _posed(x, target, encoder, parts, recipe, objective, refit=refit)
    blend = learn(
        problem,
        recipe.learners,
        workers=recipe.workers,
        budget=recipe.budget,
        on_progress=on_progress,
    )
    rows = problem.held_out_rows % len(y)
    if objective == "number":
        curve = Calibration.line(slope=scale, shift=center + scale * blend.bias)
        held_out = curve.apply(blend.held_out_raw - blend.bias, logit=False)
    else:
        curve = _calibrated(blend, y[rows], recipe.calibration)
        held_out = 1.0 / (1.0 + np.exp(-curve.apply(blend.held_out_raw - blend.bias)))
    return Head(
        encoder=encoder,
        blend=blend,
        calibration=curve,
        link="logit" if objective == "binary" else "identity",
        rows=rows,
        held_out=held_out,
    )


def _read(
    frame: pl.DataFrame,
    y: NDArray[np.float64],
    encoder: Encoder,
    parts: Sequence[Split],
    recipe: Recipe,
    objective: Objective,
    *,
    refit: bool,
) -> Readings:
    """The encoder with its learned readings, and the rows as it reads them.

    Where something is learned and there are several parts, the rows stand once more for each
    of them behind themselves (`Problem.repeats`).
    """

    def read(parts: Sequence[Split]) -> Readings:
        return fit_encoder(
            frame,
            y,
            encoder,
            parts=parts,
            refit=refit,
            objective=objective,
            seed=recipe.seed,
            threads=recipe.workers,
        )

    fitted, x = read(parts)
    if len(parts) > 1 and len(fitted.encoded) > len(encoder.encoded):
        x = np.vstack([x, *(read([part])[1] for part in parts)])
    return fitted, x


def _posed(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    encoder: Encoder,
    parts: Sequence[Split],
    recipe: Recipe,
    objective: Objective,
    *,
    refit: bool,
) -> Problem:
    """The problem that learners are given, of rows as `_read` gave them."""
    repeats = len(x) // len(y) - 1
    learned = slice(None) if refit else parts[0].train
    weights = _weights(y, learned, recipe.class_weight) if objective == "binary" else None
    if repeats:
        parts = [
            Split(train=part.train + place * len(y), test=part.test + place * len(y))
            for place, part in enumerate(parts, start=1)
        ]
    return Problem(
        x=x,
        y=np.tile(y, 1 + repeats),
        encoded=encoder.encoded,
        parts=parts,
        refit=refit,
        objective=objective,
        weights=None if weights is None else np.tile(weights, 1 + repeats),
        repeats=repeats,
        seed=recipe.seed,
    )


def _calibrated(
    blend: Blend, y: NDArray[np.float64], kind: Literal["platt", "isotonic"]
) -> Calibration:
    """The map from the parts' sum; the weights' bias is part of it."""
    if kind == "isotonic":
        return Calibration.isotonic(blend.held_out_raw - blend.bias, y)
    return Calibration.line(slope=1.0, shift=blend.bias)


def _weights(
    y: NDArray[np.float64],
    learned: NDArray[np.int64] | slice,
    class_weight: float | Literal["balanced"] | None,
) -> NDArray[np.float64] | None:
    if class_weight is None:
        return None
    bad = float(y[learned].mean())
    weight = (1.0 - bad) / bad if class_weight == "balanced" else class_weight
    return np.where(y == 1.0, float(weight), 1.0)

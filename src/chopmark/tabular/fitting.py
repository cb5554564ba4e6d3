"""From a table to the scorer of a packed artifact: what is in memory is what a file would hold.

    two values -> one head; numbers -> one head; many classes -> one head for each, nested

Serves A8, A10, A12 and A21 of the requirements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np
import polars as pl

from chopmark.errors import InvalidTable
from chopmark.models import ArtifactScorer, ClassScorer
from chopmark.models import artifact as artifacts
from chopmark.models.artifact import Artifact
from chopmark.models.classes import CLASSES
from chopmark.models.drift import Reference
from chopmark.models.metrics import class_summary, number_summary, summary
from chopmark.tabular.heads import Head, Recipe, fit_head
from chopmark.tabular.holdout import held_out_parts, is_large
from chopmark.tabular.leaks import find_leaks
from chopmark.tabular.portfolio import FOR_SMALL_TABLES, Progress
from chopmark.tabular.problem import Objective
from chopmark.tabular.targets import Class, Target, Task, target_of

_LEAST_ROWS = 20
_IMPORTANCE_ROWS = 1_000
_SMALLEST, _LARGEST = 1e-100, 1e100


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Rows:
    """Rows to learn from, and after them those that are only judged by."""

    frame: pl.DataFrame
    target: Target
    num_train: int | None

    @property
    def train(self) -> pl.DataFrame:
        return self.frame if self.num_train is None else self.frame[: self.num_train]


def fit_artifact(
    frame: pl.DataFrame,
    valid: pl.DataFrame | None,
    recipe: Recipe,
    *,
    learner: str,
    task: Task | None,
    positive: Class | None,
    sample: int | None,
    feature_hashes: Mapping[str, str],
    costs: tuple[float, float],
    created: datetime | None,
    on_progress: Progress | None,
) -> ArtifactScorer | ClassScorer:
    """The scorer of a model fitted to a table.

    Parameters
    ----------
    learner
        Name of the class that asks, for the record.

    For the others see `EasyML`.
    """
    rows = _rows(frame, valid, recipe, task, positive, sample)
    target = rows.target
    training: dict[str, Any] = {
        "learner": learner,
        "task": target.task,
        "classes": list(target.classes),
        "num_rows": rows.train.height,
        "target": recipe.target,
        "time": recipe.time,
        "groups": recipe.groups,
        "seed": recipe.seed,
        "calibration": recipe.calibration,
        "costs": list(costs),
    }
    if created is not None:
        training["created"] = created.isoformat()
    heads = _heads(rows, recipe, on_progress)
    training |= _held_out(heads, target)
    header = {"feature_hashes": _hashes_read(heads, feature_hashes)}
    if target.task == "binary":
        training["num_bad"] = int(target.y[: rows.train.height].sum())
    if target.task != "multiclass":
        training |= _choices(heads[0])
        training["leaks"] = _leaks(rows, heads[0])
        return _packed(heads[0], header, training, rows.train)
    training["weights"] = _mean_weights(heads)
    parts = {
        str(code): _packed(
            head,
            {"feature_hashes": {}},
            {**_choices(head), "class": target.classes[code]},
            rows.train,
        ).artifact
        for code, head in enumerate(heads)
    }
    reads = {name for head in heads for name in head.encoder.reads}
    shares = [part.header["training"]["importance"] for part in parts.values()]
    mean = {name: float(np.mean([s.get(name, 0.0) for s in shares])) for name in sorted(reads)}
    training["importance"] = mean
    whole = Artifact(
        family=CLASSES, header={**header, "training": training}, arrays={}, parts=parts
    )
    return ClassScorer(artifacts.unpack(whole.pack()))


def _rows(
    frame: pl.DataFrame,
    valid: pl.DataFrame | None,
    recipe: Recipe,
    task: Task | None,
    positive: Class | None,
    sample: int | None,
) -> _Rows:
    target = target_of(frame, recipe.target, task=task, positive=positive)
    if sample is not None and sample < frame.height:
        chosen = np.sort(np.random.default_rng(recipe.seed).permutation(frame.height)[:sample])
        frame, target = frame[chosen], replace(target, y=target.y[chosen])
    _check_counts(target, recipe.target)
    if valid is None:
        return _Rows(frame=frame, target=target, num_train=None)
    later = target_of(valid, recipe.target, task=target.task, positive=positive)
    if later.classes != target.classes:
        raise InvalidTable(
            f"the rows to validate by have labels {list(later.classes)}; those to learn from "
            f"{list(target.classes)}"
        )
    missing = [name for name in frame.columns if name not in valid.columns]
    if missing:
        raise InvalidTable(
            f"the rows to validate by lack the columns {', '.join(f'`{n}`' for n in missing)}"
        )
    try:
        both = pl.concat([frame, valid.select(frame.columns)], how="vertical_relaxed")
    except pl.exceptions.PolarsError as error:
        raise InvalidTable(
            f"the rows to validate by have other types of columns: {error}"
        ) from error
    y = np.concatenate([target.y, later.y])
    return _Rows(frame=both, target=replace(target, y=y), num_train=frame.height)


def _check_counts(target: Target, name: str) -> None:
    if target.task == "regression":
        if len(target.y) < _LEAST_ROWS:
            raise InvalidTable(f"expected at least {_LEAST_ROWS} rows, got {len(target.y)}")
        spread = float(np.ptp(target.y / 2))
        if not _SMALLEST < spread < _LARGEST:
            raise InvalidTable(
                f"expected numbers in `{name}` that differ by something between {_SMALLEST:g} and "
                f"{_LARGEST:g}, got {2 * spread:g} among the rows to learn from; rescale them"
            )
        return
    counts = np.bincount(target.y.astype(int), minlength=len(target.classes))
    if len(target.y) < _LEAST_ROWS or counts.min() < 2:
        found = ", ".join(f"{n} of `{c}`" for c, n in zip(target.classes, counts, strict=True))
        raise InvalidTable(
            f"expected at least {_LEAST_ROWS} rows, two of each label in `{name}`; got {found}"
        )


def _heads(rows: _Rows, recipe: Recipe, on_progress: Progress | None) -> list[Head]:
    target = rows.target
    recipe = _affordable(rows, recipe)
    parts = held_out_parts(
        rows.frame,
        target.y,
        numbers=target.task == "regression",
        time=recipe.time,
        groups=recipe.groups,
        num_train=rows.num_train,
        seed=recipe.seed,
    )
    if target.task != "multiclass":
        objective: Objective = "binary" if target.task == "binary" else "number"
        return [
            fit_head(
                rows.frame,
                target.y,
                recipe,
                parts=parts,
                objective=objective,
                num_train=rows.num_train,
                on_progress=on_progress,
            )
        ]
    count, num_learners = len(target.classes), len(recipe.learners)

    def step(code: int) -> Progress:
        def told(what: str, done: int, total: int) -> None:
            if on_progress is not None:
                before = code * num_learners
                on_progress(f"{target.classes[code]}: {what}", before + done, count * num_learners)

        return told

    share = None if recipe.budget is None else recipe.budget / count
    return [
        fit_head(
            rows.frame,
            np.where(target.y == code, 1.0, 0.0),
            replace(recipe, budget=share),
            parts=parts,
            num_train=rows.num_train,
            on_progress=step(code),
        )
        for code in range(count)
    ]


def _affordable(rows: _Rows, recipe: Recipe) -> Recipe:
    """The recipe without learners that only help where rows are few."""
    known = rows.target.y[: rows.train.height]
    if not is_large(known, numbers=rows.target.task == "regression"):
        return recipe
    kept = {name: f for name, f in recipe.learners.items() if name not in FOR_SMALL_TABLES}
    return replace(recipe, learners=kept)


def _held_out(heads: Sequence[Head], target: Target) -> dict[str, Any]:
    held_out = heads[0].rows
    y = target.y[held_out]
    if target.task == "binary":
        return {"held_out": summary(y, heads[0].held_out)}
    if target.task == "regression":
        return {"held_out": number_summary(y, heads[0].held_out)}
    # All heads were held out by the same splits, so their rows are in one order.
    chances = np.column_stack([head.held_out for head in heads])
    return {"held_out": class_summary(y, chances / chances.sum(axis=1, keepdims=True))}


def _choices(head: Head) -> dict[str, Any]:
    blend = head.blend
    return {
        "weights": dict(blend.weights),
        "losses": dict(blend.losses),
        "settings": {name: dict(chosen) for name, chosen in blend.settings.items()},
        "skipped": list(blend.skipped),
    }


def _mean_weights(heads: Sequence[Head]) -> dict[str, float]:
    names = dict.fromkeys(name for head in heads for name in head.blend.weights)
    return {
        name: float(np.mean([head.blend.weights.get(name, 0.0) for head in heads]))
        for name in names
    }


def _hashes_read(heads: Sequence[Head], feature_hashes: Mapping[str, str]) -> dict[str, str]:
    reads = dict.fromkeys(name for head in heads for name in head.encoder.reads)
    return {name: feature_hashes[name] for name in reads if name in feature_hashes}


def _packed(
    head: Head, header: Mapping[str, Any], training: dict[str, Any], train: pl.DataFrame
) -> ArtifactScorer:
    """The head's scorer; what its training rows looked like is measured with the scorer itself."""

    def scorer(**more: Any) -> ArtifactScorer:
        artifact = head.artifact({**header, "training": training, **more})
        return ArtifactScorer(artifacts.unpack(artifact.pack()))

    first = scorer()
    step = train.height // _IMPORTANCE_ROWS + 1
    moved = np.abs(first.explain(train.gather_every(step)).values).mean(axis=0)
    total = float(moved.sum())
    shares = moved / total if total > 0 else np.full(len(moved), 1.0 / len(moved))
    training["importance"] = dict(zip(head.encoder.reads, shares.tolist(), strict=True))
    scores = head.held_out if head.link == "logit" else None
    reference = Reference.of(train, head.encoder, scores).to_json()
    return scorer(reference=reference)


def _leaks(rows: _Rows, head: Head) -> list[dict[str, Any]]:
    if rows.target.task != "binary":
        return []
    y = rows.target.y[: rows.train.height]
    return [
        {"column": leak.column, "reason": leak.reason}
        for leak in find_leaks(rows.train, y, head.encoder)
    ]

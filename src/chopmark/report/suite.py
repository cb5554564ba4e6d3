"""What the results of the benchmark suite say: gains and losses, ranks, and claims judged.

    compared = compare(results, candidate="mixed", baseline="pairs")
    compared.regressions                       # where the candidate is worse than the baseline

Results are a frame with a row for each task, budget of labels, seed and method, as
`chopmark.foundation.suite.read_results` gives it; nothing of the foundation is imported. All
comparisons are paired: the same task, budget and seed on both sides. Intervals are Student's t
over the means of the tasks, so they tell of other tasks of this kind and not of these alone.
Serves G14, G17, G20 and G21 of the requirements.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import nan
from typing import Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import stdtrit

from chopmark.errors import InvalidInput, InvalidTable, did_you_mean
from chopmark.report import words
from chopmark.report.bands import Estimate

Verdict = Literal["better", "worse", "no difference", "too few cells"]
Judgement = Literal["reproduced", "refuted", "not decided", "not measured"]

CHOSEN = "chosen"
EMBEDDING_USES = ("centroids", "probe", "trees")
"""Uses of the frozen embedding alone, by which pretexts are compared."""

_NEEDED = ("candidate", "version", "task", "budget", "seed", "method", "roc_auc")
_LOWER = ("log_loss", "calibration_error")
_CELL = ["task", "budget", "seed", "method"]
_FEWEST = 4
_FEWEST_TASKS = 5
"""A claim is about tasks; of fewer nothing is said."""

_LEAST_DROP = 0.002
_TASK_LEVEL, _LEVEL = 0.99, 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """How much better one side is than another, over paired cells.

    Attributes
    ----------
    task, method
        "" stands for all.
    num_cells, num_tasks
        What both sides have.
    before, after
        Means of the two sides.
    gain : Estimate
        After less before, above 0 is better; its interval is of 95 % over all tasks and of
        99 % within one, as many tasks are looked at. NaN ends where there are too few cells.
    """

    task: str
    method: str
    num_cells: int
    num_tasks: int
    before: float
    after: float
    gain: Estimate

    @property
    def verdict(self) -> Verdict:
        """What the interval says; a change of less than 0.002 is no difference."""
        if np.isnan(self.gain.low):
            return "too few cells"
        if self.gain.high < 0.0 and self.gain.value <= -_LEAST_DROP:
            return "worse"
        if self.gain.low > 0.0 and self.gain.value >= _LEAST_DROP:
            return "better"
        return "no difference"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A candidate beside a baseline, method by method.

    Attributes
    ----------
    overall : tuple of Gain
        Each method over all tasks.
    tasks : tuple of Gain
        Each method on each task.
    """

    candidate: str
    baseline: str
    metric: str
    overall: tuple[Gain, ...]
    tasks: tuple[Gain, ...]

    @property
    def regressions(self) -> tuple[Gain, ...]:
        """All that became worse, the largest loss first."""
        worse = [gain for gain in (*self.overall, *self.tasks) if gain.verdict == "worse"]
        return tuple(sorted(worse, key=lambda gain: gain.gain.value))


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A claim and what these results say of it.

    Attributes
    ----------
    text
        The claim in words.
    judgement
        "reproduced", "refuted", "not decided" (the interval holds both), or "not measured".
    told
        The figures behind it in words.
    """

    text: str
    judgement: Judgement
    told: str


def runs(results: pl.DataFrame) -> pl.DataFrame:
    """The results with a column ``run``: the candidate, and its version where it has several.

    Raises
    ------
    InvalidTable
        If a column is missing, or there is no row.
    """
    for name in _NEEDED:
        if name not in results.columns:
            raise InvalidTable(
                f"expected results of the suite with column `{name}`, got "
                f"{', '.join(results.columns) or 'no column'}"
            )
    if not results.height:
        raise InvalidTable("expected results of the suite, got no row; run it first")
    several = pl.col("version").n_unique().over("candidate") > 1
    told = pl.concat_str("candidate", pl.lit("@"), "version")
    return results.with_columns(run=pl.when(several).then(told).otherwise(pl.col("candidate")))


def compare(
    results: pl.DataFrame, *, baseline: str, candidate: str | None = None, metric: str = "roc_auc"
) -> Comparison:
    """A candidate beside a baseline on the cells that both have.

    Parameters
    ----------
    results
        As `chopmark.foundation.suite.read_results` gives them.
    baseline, candidate
        Names; "name@version" where a name has several versions. The candidate is the other one
        if there are two.
    metric
        ``roc_auc``, ``pr_auc``, ``log_loss`` or ``calibration_error``; of the last two less is
        better, and the gain is turned round.

    Raises
    ------
    InvalidInput
        If a name is not there, or both have no cell in common.
    """
    known = runs(results)
    if metric not in known.columns:
        raise InvalidInput(f"expected a metric among the results, got `{metric}`")
    names = known["run"].unique(maintain_order=True).to_list()
    if candidate is None:
        others = [name for name in names if name != baseline]
        if len(others) != 1:
            raise InvalidInput(f"expected the candidate, one of {', '.join(others) or 'none'}")
        candidate = others[0]
    for name in (candidate, baseline):
        if name not in names:
            raise InvalidInput(
                f"expected a candidate with results ({', '.join(names)}), got `{name}`"
                + did_you_mean(name, names)
            )
    one, two = (known.filter(pl.col("run") == name) for name in (baseline, candidate))
    cells = _paired(one, two, metric, _CELL)
    if not cells.height:
        raise InvalidInput(
            f"expected `{candidate}` and `{baseline}` to have a cell in common (task, budget, "
            "seed, method), got none; run both on the same tasks"
        )
    methods = cells["method"].unique(maintain_order=True).to_list()
    tasks = cells["task"].unique(maintain_order=True).to_list()
    return Comparison(
        candidate=candidate,
        baseline=baseline,
        metric=metric,
        overall=tuple(gain_of(cells.filter(pl.col("method") == m), method=m) for m in methods),
        tasks=tuple(
            gain_of(part, task=task, method=method)
            for task in tasks
            for method in methods
            if (
                part := cells.filter((pl.col("task") == task) & (pl.col("method") == method))
            ).height
        ),
    )


def methods_compared(
    results: pl.DataFrame, method: str, other: str, *, metric: str = "roc_auc"
) -> Gain:
    """One method less another one, on the cells of the same candidate that have both."""
    one = results.filter(pl.col("method") == other)
    two = results.filter(pl.col("method") == method)
    return gain_of(_paired(one, two, metric, ["run", "task", "budget", "seed"]), method=method)


def gain_of(cells: pl.DataFrame, *, task: str = "", method: str = "") -> Gain:
    """The mean gain over cells (``task``, ``before``, ``after``, ``gain``) and its interval."""
    groups = [part["gain"].to_numpy() for part in cells.partition_by("task", maintain_order=True)]
    return Gain(
        task=task,
        method=method,
        num_cells=cells.height,
        num_tasks=len(groups),
        before=_mean(cells["before"].to_numpy()),
        after=_mean(cells["after"].to_numpy()),
        gain=interval(groups, level=_TASK_LEVEL if task else _LEVEL),
    )


def interval(groups: Sequence[NDArray[np.float64]], *, level: float) -> Estimate:
    """Mean of the groups' means, with the interval of Student's t over these means.

    Groups are tasks: what is new on another day is another task, so their means are the
    sample, and of few of them little is known. A group alone is a sample by itself. NaN ends
    for fewer than four numbers.
    """
    if not groups:
        return Estimate(value=nan, low=nan, high=nan)
    means = np.array([group.mean() for group in groups])
    value = float(means.mean())
    if sum(map(len, groups)) < _FEWEST:
        return Estimate(value=value, low=nan, high=nan)
    sample = means if len(groups) > 1 else groups[0]
    error = float(sample.std(ddof=1)) / np.sqrt(len(sample))
    reach = float(stdtrit(len(sample) - 1, (1.0 + level) / 2.0)) * error
    return Estimate(value=value, low=value - reach, high=value + reach)


def ranked(results: pl.DataFrame) -> pl.DataFrame:
    """Each method of one run: means of all figures, mean rank by ROC-AUC, and how often first.

    Only cells that all methods have count, so that no method gains by missing a hard task.
    """
    num_methods = results["method"].n_unique()
    cell = ["task", "budget", "seed"]
    whole = results.filter(
        (pl.col("method").n_unique().over(cell) == num_methods)
        & pl.col("roc_auc").is_not_null().all().over(cell)
    ).with_columns(rank=pl.col("roc_auc").rank("average", descending=True).over(cell))
    figures = [name for name in ("roc_auc", "pr_auc", *_LOWER) if name in whole.columns]
    return (
        whole.group_by("method", maintain_order=True)
        .agg(
            *(pl.col(name).mean() for name in figures),
            pl.col("rank").mean(),
            first=(pl.col("rank") < 1.75).sum(),
            cells=pl.len(),
            seconds=pl.col("seconds").mean() if "seconds" in whole.columns else pl.lit(None),
        )
        .sort("rank", "method")
    )


def claims(results: pl.DataFrame) -> tuple[Claim, ...]:
    """The claims that the suite is there to judge, by all runs that it is given."""
    known = runs(results)
    return (_pairs(known), _fine_tuned(known), _weighted(known), _pretext(known))


def best_uses(results: pl.DataFrame) -> pl.DataFrame:
    """By task: mean ROC-AUC of the three uses, and which is best. Column ``best`` names it.

    The static use is the better one of probe and trees, by its mean on the task.
    """
    means = (
        results.group_by("task", "method", maintain_order=True)
        .agg(pl.col("roc_auc").mean())
        .pivot("method", index="task", values="roc_auc")
    )
    have = [name for name in (*EMBEDDING_USES, "fine-tuned") if name in means.columns]
    static = [name for name in ("probe", "trees") if name in have]
    told = means.select("task", *have)
    if static:
        told = told.with_columns(static=pl.max_horizontal(static))
    three = [name for name in ("centroids", "static", "fine-tuned") if name in told.columns]
    words = {"centroids": "zero-shot", "static": "static", "fine-tuned": "fine-tuned"}
    best = pl.lit(None, dtype=pl.String)
    for name in three:
        is_best = pl.col(name) >= pl.max_horizontal(three)
        best = pl.when(is_best & best.is_null()).then(pl.lit(words[name])).otherwise(best)
    return told.select("task", *three, best=best).rename({"centroids": "zero-shot"}, strict=False)


def _pairs(known: pl.DataFrame) -> Claim:
    text = "Pair classification is a better pretext than masking."
    if "pretext" not in known.columns:
        return Claim(text=text, judgement="not measured", told="No result says its pretext.")
    frozen = known.filter(pl.col("method").is_in(EMBEDDING_USES))
    one = frozen.filter(pl.col("pretext").is_in(["masked", "bert"]))
    two = frozen.filter(pl.col("pretext") == "pairs")
    mean = pl.col("roc_auc").mean()
    one, two = (part.group_by(_CELL, maintain_order=True).agg(mean) for part in (one, two))
    cells = _paired(one, two, "roc_auc", _CELL)
    if not cells.height:
        told = "It takes a candidate trained on pairs and one trained on masked tokens."
        return Claim(text=text, judgement="not measured", told=told)
    gain = gain_of(cells)
    return Claim(text=text, judgement=_judgement(gain), told=_told(gain, "pairs", "masking")
                 + " Uses of the frozen embedding alone.")  # fmt: skip


def _fine_tuned(known: pl.DataFrame) -> Claim:
    text = "Of the three uses, fine-tuning is the best."
    there = set(known["method"].unique())
    others = [name for name in EMBEDDING_USES if name in there]
    if "fine-tuned" not in there or not others:
        return Claim(text=text, judgement="not measured", told="It takes all three uses.")
    gains = {name: methods_compared(known, "fine-tuned", name) for name in others}
    uses = best_uses(known)
    won = int((uses["best"] == "fine-tuned").sum())
    hardest = min(gains, key=lambda name: gains[name].gain.value)
    verdicts = [gain.verdict for gain in gains.values()]
    judgement: Judgement = "not decided"
    if min(gain.num_tasks for gain in gains.values()) < _FEWEST_TASKS:
        pass
    elif "worse" in verdicts:
        judgement = "refuted"
    elif all(verdict == "better" for verdict in verdicts):
        judgement = "reproduced"
    told = (
        f"It is the best use on {won} of {uses.height} tasks. Against the hardest rival: "
        + _told(gains[hardest], "fine-tuned", hardest)
    )
    return Claim(text=text, judgement=judgement, told=told)


def _weighted(known: pl.DataFrame) -> Claim:
    text = "Zero-shot, the weighted difference of centroids beats positives only."
    if not {"centroids", "positives only"} <= set(known["method"].unique()):
        return Claim(text=text, judgement="not measured", told="It takes both methods.")
    gain = methods_compared(known, "centroids", "positives only")
    told = _told(gain, "weighted", "positives only")
    return Claim(text=text, judgement=_judgement(gain), told=told)


def _pretext(known: pl.DataFrame) -> Claim:
    """Whether a lower pretext loss went with a better embedding, for what it is worth."""
    text = "A pretext that is solved better gives a better embedding."
    if not {"pretext", "pretext_loss"} <= set(known.columns):
        return Claim(text=text, judgement="not measured", told="No result says its pretext.")
    means = (
        known.filter(pl.col("method").is_in(EMBEDDING_USES) & pl.col("pretext_loss").is_not_null())
        .group_by("pretext", "task", "run", "seed")
        .agg(pl.col("roc_auc").mean(), pl.col("pretext_loss").first())
    )
    apart = ["pretext", "task"]
    # Losses compare only within one pretext on one task.
    sided = means.with_columns(
        loss=pl.col("pretext_loss") - pl.col("pretext_loss").mean().over(apart),
        area=pl.col("roc_auc") - pl.col("roc_auc").mean().over(apart),
    ).filter(pl.len().over(apart) > 1)
    if sided.height < 2 * _FEWEST:
        told = "It takes several pre-trainings on the same pretext. It gates nothing (row G21)."
        return Claim(text=text, judgement="not measured", told=told)
    signs = sided.filter((pl.col("loss") != 0) & (pl.col("area") != 0))
    share = float((signs["loss"] * signs["area"] < 0).mean() or 0.0)  # type: ignore[arg-type]
    told = (
        f"In {share:.0%} of {signs.height} pre-trainings a loss on one side of the mean of its "
        "pretext and task went with an ROC-AUC on the other side; by chance it is half. It "
        "gates nothing (row G21)."
    )
    return Claim(text=text, judgement="not decided", told=told)


def _judgement(gain: Gain) -> Judgement:
    told: dict[Verdict, Judgement] = {
        "better": "reproduced",
        "worse": "refuted",
        "no difference": "not decided",
        "too few cells": "not decided",
    }
    return told[gain.verdict] if gain.num_tasks >= _FEWEST_TASKS else "not decided"


def _told(gain: Gain, one: str, two: str) -> str:
    low, high = (words.signed(100.0 * end) for end in (gain.gain.low, gain.gain.high))
    within = "too few cells for an interval" if np.isnan(gain.gain.low) else f"{low} to {high}"
    return (
        f"{one} {gain.after:.4f}, {two} {gain.before:.4f}: {words.signed(100.0 * gain.gain.value)} "
        f"points of ROC-AUC ({within}) over {gain.num_cells} cells."
    )


def _paired(one: pl.DataFrame, two: pl.DataFrame, metric: str, on: list[str]) -> pl.DataFrame:
    """Cells that both have: columns of `on`, ``before``, ``after``, ``gain``."""
    before = one.select(*on, before=pl.col(metric).cast(pl.Float64)).unique(
        on, keep="last", maintain_order=True
    )
    after = two.select(*on, after=pl.col(metric).cast(pl.Float64)).unique(
        on, keep="last", maintain_order=True
    )
    sign = -1.0 if metric in _LOWER else 1.0
    return (
        after.join(before, on=on, how="inner", maintain_order="left")
        .drop_nulls(["before", "after"])
        .with_columns(gain=sign * (pl.col("after") - pl.col("before")))
    )


def _mean(values: NDArray[np.float64]) -> float:
    return float(values.mean()) if len(values) else nan

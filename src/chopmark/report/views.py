"""How well one class is told from the others, or a number predicted, beside a baseline.

Serves A16, A19 and A20 of the requirements.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from chopmark.models import metrics as plain
from chopmark.models.metrics import Reliability
from chopmark.report import bands
from chopmark.report.bands import Estimate
from chopmark.report.ranking import Ranking
from chopmark.report.reasons import Case, Effect

_DRAWN_POINTS = 1_500


@dataclass(frozen=True, slots=True, kw_only=True)
class Metric:
    """One metric of the model, beside that of the baseline.

    Attributes
    ----------
    name, meaning
        Its name, and what it says in one plain sentence.
    estimate
        The model's, with its 95 % band.
    baseline
        The baseline's; NaN where it is not defined.
    higher_is_better
        Which way is better.
    """

    name: str
    meaning: str
    estimate: Estimate
    baseline: float
    higher_is_better: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Gain:
    """ROC-AUC over the baseline's, absolute and relative."""

    baseline: float
    absolute: Estimate

    @property
    def relative(self) -> float:
        """Absolute gain as a share of the baseline's ROC-AUC."""
        return self.absolute.value / self.baseline


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClassView:
    """How well one class is told from all others.

    Attributes
    ----------
    name
        The class; "bad" where there are two.
    y, scores
        (n,) labels in {0, 1} and scores of the class.
    amounts
        (n,) US dollars, None where no amount was named.
    metrics, gain
        Against the baseline.
    by_chance
        Calibration error that true scores would show on as many rows.
    effects, cases
        Reasons; empty where the model gives none for a class.
    """

    name: str
    y: NDArray[np.float64]
    scores: NDArray[np.float64]
    amounts: NDArray[np.float64] | None
    metrics: tuple[Metric, ...]
    gain: Gain
    by_chance: float
    effects: tuple[Effect, ...]
    cases: tuple[Case, ...]

    @property
    def ranking(self) -> Ranking:
        """Rows in falling order of score."""
        return Ranking.of(self.y, self.scores, self.amounts)

    @property
    def reliability(self) -> Reliability:
        """Scores against what happened."""
        return plain.reliability(self.y, self.scores)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class NumberView:
    """How well a number is predicted.

    Attributes
    ----------
    y, predicted
        (n,) targets and predictions.
    metrics
        Against the baseline, which predicts the mean unless another was given.
    effects, cases
        Reasons, in units of the target.
    """

    y: NDArray[np.float64]
    predicted: NDArray[np.float64]
    metrics: tuple[Metric, ...]
    effects: tuple[Effect, ...]
    cases: tuple[Case, ...]

    @property
    def drawn(self) -> NDArray[np.int64]:
        """Row numbers of an even sample that a chart can hold."""
        return even_rows(len(self.y), _DRAWN_POINTS)


def class_view(
    y: NDArray[np.float64],
    scores: NDArray[np.float64],
    baseline: NDArray[np.float64],
    *,
    name: str,
    amounts: NDArray[np.float64] | None = None,
    effects: tuple[Effect, ...] = (),
    cases: tuple[Case, ...] = (),
) -> ClassView:
    """The view of labels (n,) in {0, 1}, scores (n,) and a baseline's scores (n,)."""
    return ClassView(
        name=name,
        y=y,
        scores=scores,
        amounts=amounts,
        metrics=_class_metrics(y, scores, baseline),
        gain=Gain(
            baseline=plain.roc_auc(y, baseline), absolute=bands.roc_auc_gain(y, scores, baseline)
        ),
        by_chance=bands.calibration_error_by_chance(scores),
        effects=effects,
        cases=cases,
    )


def number_view(
    y: NDArray[np.float64],
    predicted: NDArray[np.float64],
    baseline: NDArray[np.float64],
    *,
    effects: tuple[Effect, ...] = (),
    cases: tuple[Case, ...] = (),
) -> NumberView:
    """The view of targets (n,), predictions (n,) and a baseline's predictions (n,)."""
    return NumberView(
        y=y,
        predicted=predicted,
        metrics=_number_metrics(y, predicted, baseline),
        effects=effects,
        cases=cases,
    )


def _class_metrics(
    y: NDArray[np.float64], scores: NDArray[np.float64], baseline: NDArray[np.float64]
) -> tuple[Metric, ...]:
    return tuple(
        Metric(
            name=name,
            meaning=meaning,
            estimate=estimate(y, scores),
            baseline=without_band(y, baseline),
            higher_is_better=higher,
        )
        for name, meaning, estimate, without_band, higher in _METRICS
    )


_METRICS: tuple[tuple[str, str, Callable[..., Estimate], Callable[..., float], bool], ...] = (
    (
        "ROC-AUC",
        "How often a bad row scores above a good one: 0.5 is a coin, 1 is perfect.",
        bands.roc_auc,
        plain.roc_auc,
        True,
    ),
    (
        "PR-AUC",
        "Precision, averaged over the bad rows; a coin gets the bad share.",
        bands.pr_auc,
        plain.pr_auc,
        True,
    ),
    (
        "Log loss",
        "Punishes scores that are sure and wrong; 0 is perfect.",
        bands.log_loss,
        plain.log_loss,
        False,
    ),
    (
        "Brier score",
        "Mean squared distance of score and outcome; 0 is perfect.",
        bands.brier,
        plain.brier,
        False,
    ),
    (
        "Calibration error",
        "By how much scores are off as probabilities, on average.",
        bands.calibration_error,
        plain.calibration_error,
        False,
    ),
)


def _number_metrics(
    y: NDArray[np.float64], predicted: NDArray[np.float64], baseline: NDArray[np.float64]
) -> tuple[Metric, ...]:
    off, base_off = np.abs(predicted - y), np.abs(baseline - y)
    squares = bands.mean(off**2)
    spread = float(((y - y.mean()) ** 2).mean()) or float("nan")
    root = Estimate(
        value=squares.value**0.5, low=max(0.0, squares.low) ** 0.5, high=squares.high**0.5
    )
    explained = Estimate(
        value=1 - squares.value / spread,
        low=1 - squares.high / spread,
        high=1 - squares.low / spread,
    )
    base_square = float((base_off**2).mean())
    return (
        Metric(
            name="MAE",
            meaning="Mean distance of prediction and truth, in units of the target.",
            estimate=bands.mean(off),
            baseline=float(base_off.mean()),
            higher_is_better=False,
        ),
        Metric(
            name="RMSE",
            meaning="As MAE, but large misses count more.",
            estimate=root,
            baseline=base_square**0.5,
            higher_is_better=False,
        ),
        Metric(
            name="R2",
            meaning="Share of the target's spread that is explained; 1 is perfect.",
            estimate=explained,
            baseline=1 - base_square / spread,
            higher_is_better=True,
        ),
    )


def even_rows(rows: int, most: int) -> NDArray[np.int64]:
    """Row numbers of an even sample of at most so many rows."""
    return np.unique(np.linspace(0, rows - 1, min(rows, most)).astype(np.int64))

"""Probabilities of classes: made, mixed, judged, and compared on the same rows.

Of a yes-or-no label (m, 2), of C classes (m, C); rows sum to 1.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chopmark.models import metrics

Codes = NDArray[np.int64]
Chances = NDArray[np.float64]

SMALLEST = 1e-6
"""Of a class that nothing speaks for."""

FIGURES = ("roc_auc", "pr_auc", "log_loss", "calibration_error")
"""What every use is judged by."""


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
    found["log_loss"] = log_loss(y, chances)
    return found


def blended(chances: Sequence[Chances]) -> Chances:
    """Probabilities (m, C) whose log is the mean of the logs of the parts, but for a constant."""
    if len(chances) == 1:
        return chances[0]
    logs = [np.log(np.clip(part, SMALLEST, 1.0)) for part in chances]
    return softmax(np.mean(logs, axis=0))


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


def log_loss(y: Codes, chances: Chances) -> float:
    """Mean of minus the logarithm of what the class that came was given."""
    given = np.clip(chances[np.arange(len(y)), y], np.finfo(np.float64).eps, 1.0)
    return float(-np.mean(np.log(given)))


def both(scores: Chances) -> Chances:
    """(m, 2) of probabilities of the second class."""
    return np.column_stack([1.0 - scores, scores])


def normed(chances: Chances) -> Chances:
    """The same with rows that sum to 1."""
    found: Chances = chances / chances.sum(axis=1, keepdims=True)
    return found


def sigmoid(z: Chances) -> Chances:
    """Probabilities of log-odds, of any size."""
    found: Chances = 0.5 * (1.0 + np.tanh(0.5 * z))
    return found


def softmax(z: Chances) -> Chances:
    """(m, C) probabilities of the logarithms of their ratios."""
    return normed(np.exp(z - z.max(axis=1, keepdims=True)))

"""The second layer of a blend: weights learned from held-out opinions, and what they make of them.

Serves B13 to B15 of the requirements.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from chopmark.models import Scores
from chopmark.models.blending import Kind, Weights, fit_weights
from chopmark.models.kernels import LOG_ODDS_LIMIT


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SecondLayer:
    """A fitted second layer.

    Attributes
    ----------
    kind
        "logistic" or "linear".
    learned
        Bias and weights.
    limit
        Largest log-odds that it gives.
    """

    kind: Kind
    learned: Weights
    limit: float

    @classmethod
    def fitted(cls, raw: NDArray[np.float64], labels: NDArray[np.float64], *, kind: Kind) -> Self:
        """The layer of held-out log-odds (h, p) and labels (h,) in {0, 1}."""
        # A sum of scores may leave [0, 1]: no certainty beyond one miss in twice the rows seen.
        seen = float(np.log(2.0 * len(labels) + 1.0))
        limit = min(seen, LOG_ODDS_LIMIT) if kind == "linear" else LOG_ODDS_LIMIT
        return cls(kind=kind, learned=fit_weights(raw, labels, kind=kind), limit=limit)

    def scores(self, raw: NDArray[np.float64]) -> Scores:
        """(n,) scores of the parts' log-odds (n, p); the plain twin of `BlendScorer`."""
        if self.kind == "logistic":
            return sigmoid(np.clip(self.learned.apply(raw), -self.limit, self.limit))
        edge = 1.0 / (1.0 + np.exp(self.limit))
        return np.clip(self.learned.apply(sigmoid(raw)), edge, 1.0 - edge)


def cross_fitted_scores(
    raw: NDArray[np.float64],
    labels: NDArray[np.float64],
    fold: NDArray[np.int64],
    *,
    kind: Kind,
) -> Scores:
    """(h,) scores of each fold by a second layer that was fitted to the other folds.

    A single fold has no others: its layer judges itself, by one number per part.
    """
    scores = np.empty(len(labels))
    for number in np.unique(fold):
        inside = fold == number
        others = inside if inside.all() else ~inside
        layer = SecondLayer.fitted(raw[others], labels[others], kind=kind)
        scores[inside] = layer.scores(raw[inside])
    return scores


def sigmoid(z: NDArray[np.float64]) -> Scores:
    """(n,) or (n, p) scores of log-odds."""
    scores: Scores = 1.0 / (1.0 + np.exp(-z))
    return scores

"""From a score to a graded limit: nobody is blocked, the riskiest may still buy a little.

The weekly purchase power falls with the score along a curve, log-linear between its points,
down to a floor of 5 USD a week: what such users then do is how the exchange goes on
learning, and its cost is known in advance (rows E4, E5).
"""

import math
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise

from chopmark.errors import PolicyError

FLOOR_USD = 5.0


@dataclass(frozen=True, slots=True)
class LimitCurve:
    """Weekly purchase power by score.

    Parameters
    ----------
    points : tuple of (score, limit_usd)
        Scores rising from 0 to 1, limits never rising and never below ``FLOOR_USD``.

    Examples
    --------
    >>> curve = LimitCurve(((0.0, 10_000.0), (0.1, 1_000.0), (1.0, 5.0)))
    >>> curve.limit_usd(0.05)
    3162.27
    >>> curve.limit_usd(1.0)
    5.0
    """

    points: tuple[tuple[float, float], ...]
    _scores: tuple[float, ...] = field(init=False, repr=False, compare=False)
    _logs: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        scores = [score for score, _ in self.points]
        limits = [limit for _, limit in self.points]
        if len(scores) < 2 or scores[0] != 0.0 or scores[-1] != 1.0 or not _rises(scores):
            raise PolicyError(f"expected scores rising from 0 to 1 in a limit curve, got {scores}")
        if not _rises([-limit for limit in limits], strictly=False):
            raise PolicyError(f"expected limits that never rise with the score, got {limits}")
        if not all(FLOOR_USD <= limit < math.inf for limit in limits):
            raise PolicyError(f"expected limits of at least {FLOOR_USD} USD a week, got {limits}")
        object.__setattr__(self, "_scores", tuple(scores))
        object.__setattr__(self, "_logs", tuple(math.log(limit) for limit in limits))

    def limit_usd(self, score: float) -> float:
        """Weekly purchase power in USD, in whole cents, at a score in [0, 1]."""
        if not 0.0 <= score <= 1.0:
            raise PolicyError(f"expected a score from 0 to 1, got {score!r}")
        right = min(bisect_right(self._scores, score), len(self._scores) - 1)
        left = right - 1
        share = (score - self._scores[left]) / (self._scores[right] - self._scores[left])
        limit = math.exp((1.0 - share) * self._logs[left] + share * self._logs[right])
        # Down to whole cents, save what rounding in exp and log took from an exact limit.
        return math.floor(limit * 100.0 * (1.0 + 1e-14) + 1e-6) / 100.0


def _rises(numbers: Iterable[float], *, strictly: bool = True) -> bool:
    return all(a < b if strictly else a <= b for a, b in pairwise(numbers))


DEFAULT_CURVE = LimitCurve(
    ((0.0, 25_000.0), (0.02, 5_000.0), (0.1, 1_000.0), (0.3, 200.0), (0.8, 20.0), (1.0, 5.0))
)
"""A hand-made curve: a start, until one is fitted to the margin and the losses."""

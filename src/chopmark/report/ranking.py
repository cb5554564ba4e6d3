"""Rows in falling order of score: every curve and every threshold reads from here.

A threshold stops the rows that score at or above it. Rows of equal score are stopped together,
so a curve has one point for each distinct score. Serves A16 and A20 of the requirements.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import DeclarationError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Ranking:
    """Counts of what each threshold stops. The first point stops nothing, the last all.

    Attributes
    ----------
    thresholds
        (g,) float64, falling: infinity, then the distinct scores.
    stopped, bad
        (g,) float64: rows stopped, and bad rows among them.
    volume, bad_volume
        (g,) float64: their amounts in US dollars; zeros where there are none.
    """

    thresholds: NDArray[np.float64]
    stopped: NDArray[np.float64]
    bad: NDArray[np.float64]
    volume: NDArray[np.float64]
    bad_volume: NDArray[np.float64]

    @classmethod
    def of(
        cls,
        y: NDArray[np.float64],
        scores: NDArray[np.float64],
        amounts: NDArray[np.float64] | None = None,
    ) -> Self:
        """The ranking of labels (n,) in {0, 1} by scores (n,), n > 0. O(n log n)."""
        order = np.argsort(-scores, kind="stable")
        amounts = np.zeros(len(y)) if amounts is None else amounts[order]
        labels, ordered = y[order], scores[order]
        last = np.append(np.nonzero(np.diff(ordered))[0], len(ordered) - 1)

        def up_to_here(values: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.append(0.0, np.cumsum(values)[last])

        return cls(
            thresholds=np.append(np.inf, ordered[last]),
            stopped=np.append(0.0, last + 1.0),
            bad=up_to_here(labels),
            volume=up_to_here(amounts),
            bad_volume=up_to_here(amounts * labels),
        )

    @property
    def num_rows(self) -> float:
        """All rows."""
        return float(self.stopped[-1])

    @property
    def num_bad(self) -> float:
        """All bad rows."""
        return float(self.bad[-1])

    @property
    def good(self) -> NDArray[np.float64]:
        """(g,) good rows stopped."""
        return self.stopped - self.bad

    @property
    def precision(self) -> NDArray[np.float64]:
        """(g,) share of bad rows among those stopped; where nothing is stopped, that of the next
        threshold."""
        shares = self.bad[1:] / self.stopped[1:]
        return np.append(shares[0], shares)

    @property
    def recall(self) -> NDArray[np.float64]:
        """(g,) share of the bad rows that is stopped; NaN if there are none."""
        return self.bad / (self.num_bad or np.nan)

    @property
    def friction(self) -> NDArray[np.float64]:
        """(g,) share of the good rows that is stopped; NaN if there are none."""
        return self.good / ((self.num_rows - self.num_bad) or np.nan)

    def recall_in_top(self, share: float) -> float:
        """Share of the bad rows among the riskiest `share` of all rows, 0 to 1.

        Where rows of equal score stand on both sides of the cut, they count in proportion.
        """
        return float(np.interp(share * self.num_rows, self.stopped, self.recall))

    def thinned(self, points: int) -> Self:
        """About `points` of the thresholds, half of them among the riskiest tenth."""
        if len(self.thresholds) <= points:
            return self
        half = points // 2
        wanted = (
            np.append(np.linspace(0.0, 0.1, half), np.linspace(0.1, 1.0, points - half))
            * self.num_rows
        )
        keep = np.unique(np.searchsorted(self.stopped, wanted))
        return type(self)(
            thresholds=self.thresholds[keep],
            stopped=self.stopped[keep],
            bad=self.bad[keep],
            volume=self.volume[keep],
            bad_volume=self.bad_volume[keep],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What a payment earns and what a bad one costs; the page lets its reader change them.

    Attributes
    ----------
    fee_share
        Share of a good payment's amount that is earned, 0 to 1.
    loss_share
        Share of a bad payment's amount that is lost, 0 to 1.
    stop_usd
        Cost of stopping one payment (a review, an angry customer) in US dollars, >= 0.

    Raises
    ------
    DeclarationError
        If a share is no share, or a cost is below zero.
    """

    fee_share: float = 0.01
    loss_share: float = 1.0
    stop_usd: float = 0.0

    def __post_init__(self) -> None:
        shares = (self.fee_share, self.loss_share)
        if not (all(0.0 <= share <= 1.0 for share in shares) and 0.0 <= self.stop_usd < np.inf):
            raise DeclarationError(
                f"expected shares from 0 to 1 and a cost of at least zero, got {self}"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Business:
    """Money at each threshold of a ranking with amounts, all (g,) float64.

    Attributes
    ----------
    net_revenue_usd
        Fees of the good payments let through, minus losses, minus the cost of stops.
    fraud_rate_bp
        Losses per volume let through, in basis points; 0 if nothing is let through.
    friction
        Share of the good payments that is stopped.
    """

    net_revenue_usd: NDArray[np.float64]
    fraud_rate_bp: NDArray[np.float64]
    friction: NDArray[np.float64]

    @classmethod
    def of(cls, ranking: Ranking, costs: Costs) -> Self:
        """The read-outs of each threshold; the first, which stops nothing, is "before"."""
        passed = ranking.volume[-1] - ranking.volume
        bad_passed = ranking.bad_volume[-1] - ranking.bad_volume
        losses = costs.loss_share * bad_passed
        fees = costs.fee_share * (passed - bad_passed)
        return cls(
            net_revenue_usd=fees - losses - costs.stop_usd * ranking.stopped,
            fraud_rate_bp=1e4 * losses / np.where(passed > 0.0, passed, np.inf),
            friction=ranking.friction,
        )

"""Calibration: raw log-odds to log-odds that mean what they say, learned on held-out rows.

One form for all: a piecewise linear function g of the log-odds that never falls, so that
calibration keeps the order of scores and fits the request path.

- Platt: g(z) = slope * z + shift by maximum likelihood, drawn towards g(z) = z by a prior.
- Isotonic: pool adjacent violators, then points at the blocks' centres joined by lines;
  beyond the ends the slope is 1, so that extreme rows keep their order.

Serves A8 ("best practices baked in") of the requirements.

References
----------
John Platt, "Probabilistic Outputs for Support Vector Machines", 1999.
Assaf Oron and Nancy Flournoy, "Centered Isotonic Regression", 2017.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, InvalidInput
from chopmark.models.kernels import LOG_ODDS_LIMIT

_PRIOR_WEIGHT = 5.0
_STEPS = 50


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Calibration:
    """A piecewise linear map of log-odds, never falling.

    Attributes
    ----------
    knots
        (p + 1, 2) float64: p points (raw, calibrated) with rising raw, and a last row with the
        slopes to the left of the first point and to the right of the last. (0, 2) is no change.
    """

    knots: NDArray[np.float64]

    @classmethod
    def none(cls) -> Self:
        """The map that changes nothing."""
        return cls(knots=np.empty((0, 2)))

    @classmethod
    def line(cls, *, slope: float, shift: float) -> Self:
        """The line `slope * z + shift`, slope > 0."""
        return cls(knots=np.array([[0.0, shift], [slope, slope]]))

    @classmethod
    def platt(cls, raw: NDArray[np.float64], target: NDArray[np.float64]) -> Self:
        """A line, fitted to held-out log-odds (n,) and labels (n,) in {0, 1}.

        Where the line would fall or the labels are of one class, the map changes nothing.

        Raises
        ------
        InvalidInput
            If there are no rows, or the two arrays differ in length.
        """
        _check_pair(raw, target)
        if target.min() == target.max():
            return cls.none()
        design = np.column_stack([raw, np.ones_like(raw)])
        prior = np.array([1.0, 0.0])
        line = prior.copy()
        for _ in range(_STEPS):
            p = 1.0 / (1.0 + np.exp(-np.clip(design @ line, -500.0, 500.0)))
            gradient = design.T @ (p - target) + _PRIOR_WEIGHT * (line - prior)
            curvature = (design * (p * (1.0 - p))[:, None]).T @ design
            step = np.linalg.solve(curvature + _PRIOR_WEIGHT * np.eye(2), gradient)
            # A step of more than 1 overshoots where the sigmoid is flat.
            line -= step / max(1.0, float(np.abs(step).max()))
            if np.abs(step).max() < 1e-10:
                break
        slope, shift = line
        if slope <= 0.0:
            return cls.none()
        return cls.line(slope=float(slope), shift=float(shift))

    @classmethod
    def isotonic(cls, raw: NDArray[np.float64], target: NDArray[np.float64]) -> Self:
        """A monotone curve, fitted to held-out log-odds (n,) and labels (n,) in {0, 1}.

        Needs a thousand rows or more to be worth its freedom.

        Raises
        ------
        InvalidInput
            If there are no rows, or the two arrays differ in length.
        """
        _check_pair(raw, target)
        if target.min() == target.max():
            return cls.none()
        centers, bads, rows = _pool(raw, target)
        # Half a row of each class keeps a pure block from infinite log-odds.
        calibrated = np.log((bads + 0.5) / (rows - bads + 0.5))
        calibrated = np.maximum.accumulate(calibrated)
        points = np.column_stack([centers, calibrated])
        return cls(knots=np.vstack([points, [1.0, 1.0]]))

    def apply(self, raw: NDArray[np.float64], *, logit: bool = True) -> NDArray[np.float64]:
        """(n,) calibrated log-odds of raw log-odds (n,), within `LOG_ODDS_LIMIT`.

        Not `logit`: (n,) numbers, which have no limit. The plain twin of `kernels.calibrate`.
        """
        limit = LOG_ODDS_LIMIT if logit else np.inf
        if len(self.knots) == 0:
            return np.clip(raw, -limit, limit)
        x, y = self.knots[:-1, 0], self.knots[:-1, 1]
        left, right = self.knots[-1]
        inside = np.interp(raw, x, y)
        below = y[0] + left * (raw - x[0])
        above = y[-1] + right * (raw - x[-1])
        curve = np.where(raw <= x[0], below, np.where(raw >= x[-1], above, inside))
        return np.clip(curve, -limit, limit)

    @classmethod
    def from_array(cls, knots: NDArray[np.generic]) -> Self:
        """The map of a stored array.

        Raises
        ------
        ArtifactError
            If the array is no map that never falls.
        """
        floats = np.ascontiguousarray(knots, dtype=np.float64)
        good = floats.ndim == 2 and floats.shape[1] == 2 and floats.shape[0] != 1
        if good:
            steps = np.diff(floats[:-1], axis=0)
            good = bool(
                np.all(np.isfinite(floats))
                and np.all(steps[:, 0] > 0.0)
                and np.all(steps[:, 1] >= 0.0)
                and np.all(floats[-1:] >= 0.0)
            )
        if not good:
            raise ArtifactError(
                "the artifact's calibration is broken: expected points that rise and two slopes "
                "of at least zero"
            )
        return cls(knots=floats)


def _pool(
    raw: NDArray[np.float64], target: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Pool adjacent violators: centre, bad rows and rows of each block. O(n log n)."""
    order = np.argsort(raw, kind="stable")
    values, first = np.unique(raw[order], return_index=True)
    rows = np.diff(np.append(first, len(raw))).astype(np.float64)
    bads = np.add.reduceat(target[order].astype(np.float64), first)
    blocks: list[tuple[float, float, float]] = []  # sum of raw * rows, bads, rows
    for value, bad, count in zip(values.tolist(), bads.tolist(), rows.tolist(), strict=True):
        block = (value * count, bad, count)
        while blocks and blocks[-1][1] * block[2] >= block[1] * blocks[-1][2]:
            last = blocks.pop()
            block = (last[0] + block[0], last[1] + block[1], last[2] + block[2])
        blocks.append(block)
    table = np.array(blocks)
    centers = table[:, 0] / table[:, 2]
    # Rounding may bring the centres of two close blocks together.
    keep = np.append(True, np.diff(centers) > 0.0)
    return centers[keep], table[keep, 1], table[keep, 2]


def _check_pair(raw: NDArray[np.float64], target: NDArray[np.float64]) -> None:
    if len(raw) == 0 or len(raw) != len(target):
        raise InvalidInput(
            f"calibration expects as many scores as labels, at least one; "
            f"got {len(raw)} and {len(target)}"
        )

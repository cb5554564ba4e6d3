"""What a learner is given, and what it hands back.

A learner is a function from a `Problem` to a `Learned`: it fits on the training rows of each
split, says what those fits make of the rows held out, and fits once more for use. All learners
of the portfolio get the same problem, so their held-out scores can be blended row by row.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from chopmark.models import Encoded, Part
from chopmark.models.splits import Split

Objective = Literal["binary", "number"]
"""What is learned: log-odds of bad by log loss, or a standardised number by squared error."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """A table that is ready to be learned from.

    Attributes
    ----------
    x
        (n, m) float64 encoded columns. NaN is missing; a category is its code from 0 on.
    y
        (n,) float64: 0.0 (good) or 1.0 (bad), or standardised numbers.
    encoded
        Name and number of codes of each of the m columns.
    parts
        Splits into rows to learn from and rows to stop and to judge by: one, or folds.
    refit
        The last fit takes all rows; else the training rows of the one part.
    objective
        What y is.
    weights
        (n,) float64 how much each row counts in fitting, above zero; None is one each. Rows
        that are judged by always count alike.
    repeats
        How often the table's rows stand again behind themselves: once for each part, with
        readings that were learned from the part's training rows alone. A label that is held
        out must not shine through the target mean of another row.
    seed, threads
        Of the learner; the result does not depend on the threads.
    """

    x: NDArray[np.float64]
    y: NDArray[np.float64]
    encoded: Sequence[Encoded]
    parts: Sequence[Split]
    refit: bool
    objective: Objective = "binary"
    weights: NDArray[np.float64] | None = None
    repeats: int = 0
    seed: int = 0
    threads: int = 1

    @property
    def num_rows(self) -> int:
        """Rows of the table; they are the first ones of x."""
        return len(self.y) // (1 + self.repeats)

    @property
    def held_out_rows(self) -> NDArray[np.int64]:
        """(h,) row numbers that are held out, part after part, each once."""
        return np.concatenate([part.test for part in self.parts])

    @property
    def final_rows(self) -> NDArray[np.int64]:
        """Rows of the last fit."""
        return np.arange(self.num_rows) if self.refit else self.parts[0].train

    def loss(self, raw: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        """Mean log loss of log-odds (h,), or mean squared error of numbers."""
        if self.objective == "number":
            return float(np.mean((raw - y) ** 2))
        return float(np.mean(np.logaddexp(0.0, raw) - y * raw))

    @property
    def categorical(self) -> list[int]:
        """Columns that hold category codes."""
        return [j for j, column in enumerate(self.encoded) if column.num_codes]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Learned:
    """The outcome of one learner.

    Attributes
    ----------
    part
        The fitted arrays, ready to serve.
    held_out_raw
        (h,) float64 log-odds (or standardised numbers) of `Problem.held_out_rows`, given by
        models that had not seen these rows.
    settings
        What was chosen, as JSON takes it: number of rounds, penalty and the like.
    """

    part: Part
    held_out_raw: NDArray[np.float64]
    settings: Mapping[str, Any]

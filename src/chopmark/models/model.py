"""What a model promises to training, and what a scorer promises to the request path.

A *model* is a function from a table to scores and keeps scikit-learn's habits. A *scorer* is
what is left of a fitted model when a request comes: arrays, no learner, microseconds. Both
answer alike: `Model.score(table)` equals `Scorer.score_row` of each row, bit for bit.
Serves A10 to A12 of the requirements.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Scores: TypeAlias = NDArray[np.float64]
"""(n,) probabilities of bad in [0, 1]: high is risky."""

Value: TypeAlias = float | int | str | bool | None
"""One raw value. Missing is None or NaN; dates come as text (or as date and datetime)."""

Table: TypeAlias = Any
"""A polars DataFrame; `chopmark.tabular` also takes pandas, pyarrow and a path to a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Contributions:
    """Why each row has its score: parts of the log-odds per raw column.

    Attributes
    ----------
    reads
        Raw columns, in the order of the contributions.
    values
        (n, len(reads)) float64, log-odds; above zero raises the score.
    bias
        Log-odds of an average row. `bias + values.sum(axis=1)` is the score's log-odds.
    """

    reads: tuple[str, ...]
    values: NDArray[np.float64]
    bias: float

    def log_odds(self) -> NDArray[np.float64]:
        """(n,) log-odds of the scores: bias plus contributions."""
        total: NDArray[np.float64] = self.bias + self.values.sum(axis=1)
        return total

    def top(self, row: int, *, count: int = 5) -> list[tuple[str, float]]:
        """The columns that moved one row's score most, strongest first."""
        order = np.argsort(-np.abs(self.values[row]), kind="stable")[:count]
        return [(self.reads[j], float(self.values[row, j])) for j in order]


@runtime_checkable
class Model(Protocol):
    """A function from a table to scores, learned from a table with a label.

    Proven by `chopmark.testing.check_model`. Implementations add keyword-only options to
    `fit` and may be loaded by a class method `load(path)`.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """Raw columns that the fitted model looks at."""
        ...

    def fit(self, table: Table, *, target: str) -> Self:
        """The model itself, fitted to a table whose column `target` is 0 (good) or 1 (bad)."""
        ...

    def predict_proba(self, table: Table) -> NDArray[np.float64]:
        """(n, 2) probabilities of good and bad."""
        ...

    def score(self, table: Table) -> Scores:
        """(n,) probability of bad."""
        ...

    def explain(self, table: Table) -> Contributions:
        """Contributions of the columns in `reads` to the log-odds of each row's score."""
        ...

    def importance(self) -> dict[str, float]:
        """Share of each column in the model's scores, largest first; the shares sum to 1."""
        ...

    def save(self, path: str | Path) -> None:
        """Write one artifact, whole or not at all."""
        ...

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """A saved model, ready to score and to explain."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """A fitted model on the request path: no learner, no data frame, any thread.

    `values` are in the order of `reads`. Nothing that a request carries raises: missing is
    None or NaN, a text in a numeric column that is no number is missing, an unseen category
    falls in the bucket of the unseen. Only a wrong count of values is an error of ours.

    A scorer whose `explain_row` is slow may have a `reasons_row` of the same form: contributions
    that sum too, are less fair between columns that say the same, and cost hardly more than the
    score. The engine takes it where there is one.
    """

    @property
    def reads(self) -> tuple[str, ...]:
        """Raw columns, in the order in which values are given."""
        ...

    @property
    def hash(self) -> str:
        """The artifact's sha256, 64 hexadecimal digits: which model gave this score."""
        ...

    @property
    def feature_hashes(self) -> Mapping[str, str]:
        """Hash of each feature's definition at training; serving refuses a mismatch."""
        ...

    @property
    def bias(self) -> float:
        """Log-odds of an average row."""
        ...

    def score_row(self, values: Sequence[Value]) -> float:
        """Probability of bad of one row."""
        ...

    def explain_row(self, values: Sequence[Value]) -> tuple[float, NDArray[np.float64]]:
        """Score, and (len(reads),) contributions: with `bias` they sum to its log-odds."""
        ...

    def warm(self) -> None:
        """Compile and touch all that a request needs, so that the first one is not slow."""
        ...

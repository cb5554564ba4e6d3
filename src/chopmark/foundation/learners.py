"""Learners for Smart Targeting: a straight line or trees on any features, a heuristic, chance.

    learner = LinearLearner(beside(choices_of(events), habits_of(events)))

With a dozen who engaged, what counts is how few numbers say most about a user. `choices_of`
gives such numbers, learned without labels from all users, and a line through them needs no more
answers; trees on hundreds of aggregates (`TreeLearner`, `aggregates_of`) need some hundred.
Serves rows G25, G29 and G31 of the requirements.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput
from chopmark.foundation.factors import Factors
from chopmark.foundation.targeting import Learn, Scorer
from chopmark.histories import Aggregates, Histories, Slices

if TYPE_CHECKING:
    from chopmark.foundation.usermodel import UserModel

Features = Callable[[pl.DataFrame], NDArray[np.float32]]
"""From rows (``user``, ``as_of``) to (n, d) numbers, NaN where there is none."""

_SETTINGS = {
    "objective": "binary",
    "verbosity": -1,
    "num_threads": 1,
    "deterministic": True,
    "force_col_wise": True,
    "feature_fraction": 0.3,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambda_l2": 5.0,
    # Random thresholds: with 20 answers a best one is mostly the best by chance.
    "extra_trees": True,
}
_HABITS = ("seconds_since_last", "count", "active_days")


class LinearLearner:
    """Logistic regression with a normal prior on the features of a user at an instant.

    Parameters
    ----------
    features : callable
        Of about unit scale and finite, such as `beside(choices_of(events), habits_of(events))`.
        They are not standardised: one that varies little counts little.
    penalty : float, > 0
        Inverse variance of the prior on each coefficient: the more, the slower answers move it.
        The default was chosen on simulated campaigns other than those of the benchmark.

    Raises
    ------
    InvalidInput
        If the penalty is no number above 0.
    """

    def __init__(self, features: Features, *, penalty: float = 8.0) -> None:
        if not isinstance(penalty, (int, float, np.floating)) or not 0.0 < penalty < np.inf:
            raise InvalidInput(f"expected penalty, a finite number above 0, got {penalty!r}")
        self._features = features
        self._penalty = float(penalty)
        self._line: NDArray[np.float64] | None = None

    def fit(self, rows: pl.DataFrame, engaged: NDArray[np.float64]) -> "LinearLearner":
        """Train from scratch on rows (``user``, ``as_of``) and (n,) answers.

        Raises
        ------
        InvalidInput
            If there is no row, an answer is not from 0 to 1, or a feature is not finite.
        """
        if not rows.height:
            raise InvalidInput(
                "expected answers to learn from, got none; let `least_engaged` be 1 or more"
            )
        answers = np.asarray(engaged, np.float64)
        if answers.shape != (rows.height,):
            raise InvalidInput(
                f"expected an answer for each of {rows.height} rows, got answers of shape "
                f"{answers.shape}"
            )
        strange = np.flatnonzero(~((answers >= 0.0) & (answers <= 1.0)))
        if len(strange):
            raise InvalidInput(
                f"expected answers 0 or 1, got {answers[strange[0]]} in row {strange[0]}; leave "
                "out rows without an answer"
            )
        self._line = _line(self._inputs(rows), answers, self._penalty)
        return self

    def score(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """(n,) chance to engage.

        Raises
        ------
        InvalidInput
            If nothing is fitted, or a feature is not finite.
        """
        if self._line is None:
            raise InvalidInput("expected a fitted learner; call `fit` with answers")
        return _chances(self._inputs(rows) @ self._line)

    def _inputs(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        found = self._features(rows).astype(np.float64)
        if not np.isfinite(found).all():
            row, column = (int(place) for place in np.argwhere(~np.isfinite(found))[0])
            raise InvalidInput(
                f"expected finite features, got {found[row, column]} in column {column} of row "
                f"{row}; fill or leave out what is missing, or use a TreeLearner"
            )
        return np.hstack([np.ones((len(found), 1)), found])


class TreeLearner:
    """LightGBM on the features of a user at an instant, with settings for few answers.

    Parameters
    ----------
    features : callable
        Such as `aggregates_of(events)`, or a function that gives embeddings.
    seed : int

    Notes
    -----
    Leaves and rounds grow with the number of those who engaged, so that 20 do not make a
    forest of chance; nothing is tuned, as there is nothing to spare for tuning.
    """

    def __init__(self, features: Features, *, seed: int = 0) -> None:
        self._features = features
        self._seed = seed
        self._model: Any = None

    def fit(self, rows: pl.DataFrame, engaged: NDArray[np.float64]) -> "TreeLearner":
        """Train from scratch on rows (``user``, ``as_of``) and (n,) answers."""
        import lightgbm

        few = min(engaged.sum(), len(engaged) - engaged.sum())
        settings = _SETTINGS | {
            "seed": self._seed,
            "learning_rate": 0.05,
            "num_leaves": int(np.clip(few // 10, 3, 31)),
            "min_data_in_leaf": int(np.clip(len(engaged) // 50, 5, 50)),
        }
        data = lightgbm.Dataset(self._features(rows), engaged, params={"verbosity": -1})
        rounds = int(np.clip(2 * few, 40, 300))
        self._model = lightgbm.train(settings, data, num_boost_round=rounds)
        return self

    def score(self, rows: pl.DataFrame) -> NDArray[np.float64]:
        """(n,) chance to engage."""
        scores: NDArray[np.float64] = self._model.predict(self._features(rows), num_threads=1)
        return scores


def aggregates_of(events: pl.DataFrame | Histories) -> Features:
    """Features of a user at an instant: the hand-made aggregates of all events until then.

    Parameters
    ----------
    events : polars.DataFrame or Histories
        Also of times after the instant: they are cut off.
    """
    histories = events if isinstance(events, Histories) else Histories.from_frame(events)
    chosen: list[Aggregates] = []

    def features(rows: pl.DataFrame) -> NDArray[np.float32]:
        pieces = histories.slices(rows["user"], rows["as_of"])
        if not chosen:
            # By all users as of the first day: what columns there are does not depend on answers.
            chosen.append(Aggregates().fit(histories.every(_first(pieces))))
        return chosen[0].table(pieces).to_numpy().astype(np.float32)

    return features


def choices_of(events: pl.DataFrame | Histories, *, most: int = 8) -> Features:
    """Features of a user at an instant: what they choose of each category, as a few numbers.

    A factor model (`chopmark.foundation.factors`), fitted without labels on what all users did
    until the first instant that is asked for.

    Parameters
    ----------
    events : polars.DataFrame or Histories
        Also of times after the instant: they are cut off.
    most : int, > 0
        Numbers per category at most.
    """
    histories = events if isinstance(events, Histories) else Histories.from_frame(events)
    factors = Factors(most=most)
    fitted: list[Factors] = []

    def features(rows: pl.DataFrame) -> NDArray[np.float32]:
        pieces = histories.slices(rows["user"], rows["as_of"])
        if not fitted:
            fitted.append(factors.fit(histories.every(_first(pieces))))
        return fitted[0].embed(pieces)

    return features


def habits_of(events: pl.DataFrame | Histories) -> Features:
    """Features of a user at an instant: how lately and how often they were active.

    Time since the last event, events, active days, and events that fade at up to three paces,
    which fit the span of the histories. Logarithms, of mean zero and variance one over all users
    at the first instant that is asked for; of a user without events they are zero.

    Parameters
    ----------
    events : polars.DataFrame or Histories
        Also of times after the instant: they are cut off.
    """
    histories = events if isinstance(events, Histories) else Histories.from_frame(events)
    # No columns by value: they are what `choices_of` is for.
    aggregates = Aggregates(most_values=0)
    scale: list[NDArray[np.float64]] = []

    def of(pieces: Slices) -> NDArray[np.float64]:
        names = [name for name in aggregates.columns if name.startswith("decayed_count_")]
        found = aggregates.table(pieces).select(*_HABITS, *names).to_numpy()
        logs: NDArray[np.float64] = np.log1p(found.astype(np.float64))
        return logs

    def features(rows: pl.DataFrame) -> NDArray[np.float32]:
        pieces = histories.slices(rows["user"], rows["as_of"])
        if not scale:
            everyone = histories.every(_first(pieces))
            known = everyone[everyone.lengths > 0]
            aggregates.fit(known)
            found = of(known) if len(known) else np.zeros((1, 1))
            scale.extend([found.mean(axis=0), np.maximum(found.std(axis=0), 1e-6)])
        standard: NDArray[np.float64] = (of(pieces) - scale[0]) / scale[1]
        standard[pieces.lengths == 0] = 0.0
        return np.clip(standard, -4.0, 4.0).astype(np.float32)

    return features


def embeddings_of(user_model: "UserModel", events: pl.DataFrame | Histories) -> Features:
    """Features of a user at an instant: the embedding of all events until then.

    Parameters
    ----------
    user_model : UserModel
        A fitted one. It must not have been trained on what came after the campaign began.
    events : polars.DataFrame or Histories
        Also of times after the instant: they are cut off.
    """
    histories = events if isinstance(events, Histories) else Histories.from_frame(events)

    def features(rows: pl.DataFrame) -> NDArray[np.float32]:
        last = user_model.shape.length
        return user_model.embed(histories.slices(rows["user"], rows["as_of"], last=last))

    return features


def beside(*parts: Features) -> Features:
    """Features of several kinds as one: their columns side by side."""
    return lambda rows: np.hstack([part(rows) for part in parts])


def by_rule(rule: Callable[[pl.DataFrame], NDArray[Any]]) -> Learn:
    """A learner that learns nothing: whom the rule marks comes first, in random order.

    Parameters
    ----------
    rule : callable
        From rows (``user``, ``as_of``) to (n,) booleans or numbers.
    """

    def learn(rows: pl.DataFrame, engaged: NDArray[np.float64]) -> Scorer:
        return lambda candidates: np.asarray(rule(candidates), dtype=np.float64)

    return learn


def at_random() -> Learn:
    """A learner to which all are equal, so that the keyed hash alone decides."""
    return by_rule(lambda rows: np.zeros(rows.height))


def _first(pieces: Slices) -> int:
    """The first instant that is asked for, whatever the order of the rows."""
    if not len(pieces):
        raise InvalidInput("expected rows to make features of, got none before any other")
    return int(pieces.now.min())


def _line(
    inputs: NDArray[np.float64], engaged: NDArray[np.float64], penalty: float
) -> NDArray[np.float64]:
    """Coefficients of a logistic regression by Newton's method; the first column is the level."""
    # The level is all but free: how many engage is no matter of the prior.
    prior = np.full(inputs.shape[1], penalty)
    prior[0] = 1e-3
    share = (engaged.sum() + 0.5) / (len(engaged) + 1.0)
    line = np.zeros(inputs.shape[1])
    line[0] = np.log(share / (1.0 - share))

    def loss(at: NDArray[np.float64]) -> float:
        odds = inputs @ at
        return float(np.logaddexp(0.0, odds).sum() - engaged @ odds + 0.5 * prior @ at**2)

    now = loss(line)
    for _ in range(100):
        chances = _chances(inputs @ line)
        slope = inputs.T @ (engaged - chances) - prior * line
        weighted = inputs * (chances * (1.0 - chances))[:, None]
        step = np.linalg.solve(inputs.T @ weighted + np.diag(prior), slope)
        # Far from the end a whole step may go too far; a half or a quarter does not.
        while (then := loss(line + step)) > now and np.abs(step).max() > 1e-9:
            step /= 2.0
        if then >= now:
            break
        line, now = line + step, then
        if np.abs(step).max() < 1e-9:
            break
    return line


def _chances(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    chances: NDArray[np.float64] = np.exp(-np.logaddexp(0.0, -odds))
    return chances

"""Plain learners for Smart Targeting: trees on any table, a heuristic, and chance.

They are what the foundation model has to beat, and a campaign can be run with them alone.
Serves rows G25, G29 and G31 of the requirements.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.foundation.targeting import Learn, Scorer
from chopmark.histories import Aggregates, Histories

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
            chosen.append(Aggregates().fit(histories.every(pieces.now[0])))
        return chosen[0].table(pieces).to_numpy().astype(np.float32)

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

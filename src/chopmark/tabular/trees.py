"""Gradient boosting trees (LightGBM) in a few fixed settings, stopped early, refitted.

    trees    balanced        the workhorse: 15 or 31 leaves, half of the columns per tree
             random cuts     thresholds drawn at random (extremely randomised trees)
             shallow         four leaves: effects of one column or of two, hardly more

Where rows are few the three are wrong on different rows, so a blend of them is better than the
best of them, and no search over settings is needed: sums of trees blend into one sum of trees.
The number of rounds is where the held-out loss, averaged over the folds, is lowest; the refit
has more rows than any fold had, so it gets a little more rounds. Serves A8 and A16 of the
requirements.

References
----------
Guolin Ke et al., "LightGBM: A Highly Efficient Gradient Boosting Decision Tree", 2017.
Pierre Geurts et al., "Extremely randomized trees", 2006.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal, TypeAlias

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from chopmark.models import Trees
from chopmark.models.splits import Split
from chopmark.tabular.problem import Learned, Problem

Setting = Literal["balanced", "random cuts", "shallow"]
Settings: TypeAlias = dict[str, float | int | str | bool]

SETTINGS: Mapping[Setting, Mapping[str, float | bool]] = MappingProxyType(
    {
        # Sampling and the small penalty: 1 % less held-out log loss, as a mean over eight tables.
        "balanced": {"feature_fraction": 0.5},
        "random cuts": {"feature_fraction": 0.8, "extra_trees": True},
        "shallow": {"feature_fraction": 0.3, "learning_rate": 0.1, "num_leaves": 4},
    }
)
_MOST_ROUNDS = 2_000
_MOST_GROWTH = 1.5
_PATIENCE = 60
_SMALL = 5_000


def learn_trees(problem: Problem, *, setting: Setting = "balanced") -> Learned:
    """Trees fitted to a problem, in one of the `SETTINGS`."""
    settings = _settings(problem, setting)
    boosters, curves = [], []
    for part in problem.parts:
        booster, curve = _stopped(problem, part, settings)
        boosters.append(booster)
        curves.append(curve)
    rounds = _best_round(curves)
    held_out = [
        raw_of(booster, problem.x[part.test], rounds=rounds, threads=problem.threads)
        for booster, part in zip(boosters, problem.parts, strict=True)
    ]
    final = boosters[0]
    if problem.refit:
        rounds = grown(rounds, problem)
        rows = _dataset(problem, problem.final_rows)
        final = lgb.train(settings, rows, num_boost_round=rounds, keep_training_booster=True)
    return Learned(
        part=Trees.from_lightgbm(final.model_to_string(num_iteration=rounds)),
        held_out_raw=np.concatenate(held_out),
        settings={"setting": setting, "rounds": rounds},
    )


def raw_of(
    booster: lgb.Booster, x: NDArray[np.float64], *, rounds: int, threads: int
) -> NDArray[np.float64]:
    """(n,) raw predictions of the first rounds.

    LightGBM's number of threads is one for the whole process, and `predict` sets it to all
    cores unless told otherwise: under another thread's training that reads beyond its buffers.
    Hence every call of LightGBM here names the same number.
    """
    raw: NDArray[np.float64] = booster.predict(
        x, raw_score=True, num_iteration=rounds, num_threads=threads
    )
    return raw


def grown(rounds: int, problem: Problem) -> int:
    """Rounds for all rows, where `rounds` was best for the rows of a fold: at most half more.

    Examples
    --------
    >>> from chopmark.models.splits import Split
    >>> half = Split(train=np.arange(5), test=np.arange(5, 10))
    >>> problem = Problem(x=np.zeros((10, 1)), y=np.zeros(10), encoded=[], parts=[half], refit=True)
    >>> grown(100, problem)
    150
    """
    share = float(np.mean([len(part.train) for part in problem.parts])) / problem.num_rows
    return max(1, round(rounds * min(1.0 / share, _MOST_GROWTH)))


def _settings(problem: Problem, setting: Setting) -> Settings:
    small = problem.num_rows < _SMALL
    return {
        "objective": "binary" if problem.objective == "binary" else "regression",
        "metric": "binary_logloss" if problem.objective == "binary" else "l2",
        "learning_rate": 0.05,
        "num_leaves": 15 if small else 31,
        "min_data_in_leaf": 10 if small else 20,
        "bagging_fraction": 0.8,
        "bagging_freq": 1,
        "lambda_l2": 1.0,
        "cat_smooth": 20.0,
        "seed": problem.seed,
        # The same trees whatever the number of threads and the machine's mood.
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": problem.threads,
        "verbosity": -1,
        **SETTINGS[setting],
    }


def _dataset(problem: Problem, rows: NDArray[np.int64]) -> lgb.Dataset:
    weights = None if problem.weights is None else problem.weights[rows]
    return lgb.Dataset(
        problem.x[rows],
        problem.y[rows],
        weight=weights,
        categorical_feature=problem.categorical,
        params={"num_threads": problem.threads, "verbosity": -1},
    )


def _stopped(problem: Problem, part: Split, settings: Settings) -> tuple[lgb.Booster, list[float]]:
    """A booster trained until its held-out loss rises, and the loss after each round."""
    train = _dataset(problem, part.train)
    valid = train.create_valid(problem.x[part.test], problem.y[part.test])
    history: dict[str, dict[str, list[float]]] = {}
    booster = lgb.train(
        settings,
        train,
        num_boost_round=_MOST_ROUNDS,
        valid_sets=[valid],
        valid_names=["held out"],
        callbacks=[
            lgb.early_stopping(_PATIENCE, verbose=False),
            lgb.record_evaluation(history),
        ],
        # Else each booster goes through its text and back.
        keep_training_booster=True,
    )
    return booster, history["held out"][str(settings["metric"])]


def _best_round(curves: list[list[float]]) -> int:
    shortest = min(map(len, curves))
    return int(np.argmin(np.mean([curve[:shortest] for curve in curves], axis=0))) + 1

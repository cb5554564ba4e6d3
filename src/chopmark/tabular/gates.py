"""The gate: what was made of the columns goes again where it harms on rows held out.

Date differences, target means, scores of texts and hashed values are made for every column
that could use them. One after the other these groups are left out where a quick model is better
without them by half a standard error. So processing may be generous and hardly ever harms. To
ask that a group helps, instead of that it harms, cost more than it saved: on small tables what
helps by 3 % is within the error. Serves A4 to A6 of the requirements.
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import lightgbm as lgb
import numpy as np
from numpy.typing import NDArray

from chopmark.models import Encoder
from chopmark.tabular.problem import Problem
from chopmark.tabular.trees import raw_of

SURE = 0.5
"""Standard errors by which a quick model must be better without a group before it goes."""

_MOST_ROUNDS = 300
_PATIENCE = 20
_MOST_ROWS = 20_000


def gated(encoder: Encoder, problem: Problem, *, workers: int = 1) -> tuple[Encoder, Problem]:
    """Encoder and problem without the groups of columns that do harm.

    Groups go one at a time, the most harmful first: of two that say the same, one stays.

    Parameters
    ----------
    workers
        Quick models that are fitted at a time; the result does not depend on it.
    """
    groups = np.array(encoder.groups)
    made = set(encoder.groups) - {"raw"}
    if not made or "raw" not in encoder.groups:
        return encoder, problem
    kept = np.ones(len(groups), dtype=bool)
    with ThreadPoolExecutor(workers) as pool:
        losses = pool.submit(_losses, problem, kept).result()
        while made:
            left = sorted(made)
            tried = pool.map(partial(_losses, problem), [kept & (groups != each) for each in left])
            without = dict(zip(left, tried, strict=True))
            worst = min(left, key=lambda group: without[group].mean())
            if not _harms(losses, without[worst]):
                break
            made.remove(worst)
            kept, losses = kept & (groups != worst), without[worst]
    if kept.all():
        return encoder, problem
    smaller = encoder.without(sorted(set(groups) - set(groups[kept])))
    return smaller, replace(problem, x=problem.x[:, kept], encoded=smaller.encoded)


def _harms(losses: NDArray[np.float64], without: NDArray[np.float64]) -> bool:
    harm = losses - without
    return bool(harm.mean() > SURE * harm.std() / np.sqrt(len(harm)))


def _losses(problem: Problem, kept: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(h,) held-out losses of a quick model that sees the columns kept (m,)."""
    columns = np.nonzero(kept)[0]
    binary = problem.objective == "binary"
    settings = {
        "objective": "binary" if binary else "regression",
        "metric": "binary_logloss" if binary else "l2",
        "learning_rate": 0.1,
        "num_leaves": 8,
        "min_data_in_leaf": 10,
        "lambda_l2": 1.0,
        "cat_smooth": 20.0,
        "seed": problem.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": problem.threads,
        "verbosity": -1,
    }
    categorical = [j for j, c in enumerate(columns.tolist()) if problem.encoded[c].num_codes]
    losses = []
    for part in problem.parts:
        rows = part.train[:: len(part.train) // _MOST_ROWS + 1]
        x, y = problem.x[np.ix_(part.test, columns)], problem.y[part.test]
        data = lgb.Dataset(
            problem.x[np.ix_(rows, columns)],
            problem.y[rows],
            categorical_feature=categorical,
            params=settings,
        )
        booster = lgb.train(
            settings,
            data,
            num_boost_round=_MOST_ROUNDS,
            valid_sets=[data.create_valid(x, y)],
            callbacks=[lgb.early_stopping(_PATIENCE, verbose=False)],
            keep_training_booster=True,
        )
        raw = raw_of(booster, x, rounds=booster.best_iteration, threads=problem.threads)
        losses.append(np.logaddexp(0.0, raw) - y * raw if binary else (raw - y) ** 2)
    return np.concatenate(losses)

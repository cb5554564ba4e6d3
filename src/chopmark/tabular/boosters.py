"""The other gradient boosting libraries: XGBoost and CatBoost, served as our own trees.

They train as `trees` does: stopped early on each part's held-out rows, refitted on all rows
with the mean number of rounds; then their model is read into `Trees`, equal to their own raw
prediction, so nothing of them is needed to serve it. CatBoost gets categories as single
yes-or-no questions (one-hot), since its target statistics are no trees. Both packages are
optional. Serves A8 of the requirements.
"""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import MissingExtra
from chopmark.models import Trees
from chopmark.tabular.problem import Learned, Problem

_MOST_ROUNDS = 2_000
_MOST_GROWTH = 1.25
_PATIENCE = 60
_SMALL = 5_000
_MOST_ONE_HOT = 255
"""Codes of a column that CatBoost can ask one by one; a column with more is read as a number."""

Rows = NDArray[np.int64]
Settings = dict[str, float | int | str | bool]


def learn_xgboost(problem: Problem) -> Learned:
    """Trees that XGBoost grew.

    Raises
    ------
    MissingExtra
        If the package is not installed.
    """
    return _learn(problem, _XGBoost)


def learn_catboost(problem: Problem) -> Learned:
    """Symmetric trees that CatBoost grew: all nodes of a level ask the same.

    Raises
    ------
    MissingExtra
        If the package is not installed.
    """
    return _learn(problem, _CatBoost)


class _Library(Protocol):
    """What the two libraries have in common; a model is whatever they make of it."""

    settings: Settings

    def stopped(self, train: Rows, test: Rows) -> tuple[Any, list[float]]:
        """A model trained until its loss on test rows rises, and that loss by round."""
        ...

    def grown(self, rows: Rows, rounds: int) -> Any:
        """A model of so many rounds."""
        ...

    def raw(self, model: Any, rows: Rows, rounds: int) -> NDArray[np.float64]:
        """(len(rows),) what the library itself makes of its first rounds."""
        ...

    def trees(self, model: Any, rounds: int) -> Trees:
        """The first rounds as trees of ours."""
        ...


def _learn(problem: Problem, kind: Callable[[Problem], _Library]) -> Learned:
    library = kind(problem)
    stopped = [library.stopped(part.train, part.test) for part in problem.parts]
    shortest = min(len(curve) for _, curve in stopped)
    losses = np.mean([curve[:shortest] for _, curve in stopped], axis=0)
    rounds = int(np.argmin(losses)) + 1
    held_out = np.concatenate(
        [
            library.raw(model, part.test, rounds)
            for (model, _), part in zip(stopped, problem.parts, strict=True)
        ]
    )
    model = stopped[0][0]
    if problem.refit:
        # More rows than any part had can bear a few more rounds.
        share = float(np.mean([len(part.train) for part in problem.parts])) / problem.num_rows
        rounds = max(1, round(rounds * min(1.0 / share, _MOST_GROWTH)))
        model = library.grown(problem.final_rows, rounds)
    return Learned(
        part=library.trees(model, rounds),
        held_out_raw=held_out,
        settings={"rounds": rounds, **library.settings},
    )


class _XGBoost:
    """XGBoost's own calls. Binned thresholds, categories split into sets."""

    _OBJECTIVES: ClassVar = {
        "binary": ("binary:logistic", "logloss"),
        "number": ("reg:squarederror", "rmse"),
    }

    def __init__(self, problem: Problem) -> None:
        self._xgboost = _xgboost()
        self._problem = problem
        categorical = set(problem.categorical)
        self._types = ["c" if j in categorical else "q" for j in range(problem.x.shape[1])]
        objective, self._metric = self._OBJECTIVES[problem.objective]
        self.settings: Settings = {
            "learning_rate": 0.05,
            "max_depth": 4 if problem.num_rows < _SMALL else 6,
            "min_child_weight": 2.0,
            "lambda": 1.0,
            "subsample": 0.8,
            "colsample_bytree": 0.5,
        }
        self._settings: Settings = {
            **self.settings,
            "objective": objective,
            "eval_metric": self._metric,
            "tree_method": "hist",
            "seed": problem.seed,
            "nthread": problem.threads,
            "verbosity": 0,
        }

    def stopped(self, train: Rows, test: Rows) -> tuple[Any, list[float]]:
        history: dict[str, dict[str, list[float]]] = {}
        model = self._xgboost.train(
            self._settings,
            self._data(train),
            num_boost_round=_MOST_ROUNDS,
            evals=[(self._data(test), "held_out")],
            early_stopping_rounds=_PATIENCE,
            evals_result=history,
            verbose_eval=False,
        )
        return model, history["held_out"][self._metric]

    def grown(self, rows: Rows, rounds: int) -> Any:
        return self._xgboost.train(self._settings, self._data(rows), num_boost_round=rounds)

    def raw(self, model: Any, rows: Rows, rounds: int) -> NDArray[np.float64]:
        raw = model.predict(self._data(rows), output_margin=True, iteration_range=(0, rounds))
        return np.asarray(raw, dtype=np.float64)

    def trees(self, model: Any, rounds: int) -> Trees:
        return Trees.from_xgboost(model[:rounds].save_raw("json"))

    def _data(self, rows: Rows) -> Any:
        return self._xgboost.DMatrix(
            self._problem.x[rows],
            self._problem.y[rows],
            feature_types=self._types,
            enable_categorical=True,
            nthread=self._problem.threads,
        )


class _CatBoost:
    """CatBoost's own calls. Its pool has the numbers first, then the categories."""

    _OBJECTIVES: ClassVar = {"binary": "Logloss", "number": "RMSE"}

    def __init__(self, problem: Problem) -> None:
        self._catboost = _catboost()
        self._problem = problem
        self._categories = [
            j for j in problem.categorical if problem.encoded[j].num_codes <= _MOST_ONE_HOT
        ]
        self._numbers = [j for j in range(problem.x.shape[1]) if j not in set(self._categories)]
        self._loss = self._OBJECTIVES[problem.objective]
        self.settings: Settings = {
            "learning_rate": 0.05,
            "depth": 5 if problem.num_rows < _SMALL else 6,
            "l2_leaf_reg": 3.0,
        }
        self._settings: Settings = {
            **self.settings,
            "loss_function": self._loss,
            "boosting_type": "Plain",
            "boost_from_average": True,
            "one_hot_max_size": _MOST_ONE_HOT,
            "random_seed": problem.seed,
            "thread_count": problem.threads,
            "allow_writing_files": False,
            "logging_level": "Silent",
        }

    def stopped(self, train: Rows, test: Rows) -> tuple[Any, list[float]]:
        settings = {"iterations": _MOST_ROUNDS, "od_type": "Iter", "od_wait": _PATIENCE}
        model = self._catboost.CatBoost({**self._settings, **settings, "use_best_model": False})
        model.fit(self._pool(train), eval_set=self._pool(test))
        return model, model.get_evals_result()["validation"][self._loss]

    def grown(self, rows: Rows, rounds: int) -> Any:
        model = self._catboost.CatBoost({**self._settings, "iterations": rounds})
        return model.fit(self._pool(rows))

    def raw(self, model: Any, rows: Rows, rounds: int) -> NDArray[np.float64]:
        raw = model.predict(
            self._pool(rows),
            prediction_type="RawFormulaVal",
            ntree_end=rounds,
            thread_count=self._problem.threads,
        )
        return np.asarray(raw, dtype=np.float64)

    def trees(self, model: Any, rounds: int) -> Trees:
        if model.tree_count_ > rounds:
            model.shrink(ntree_end=rounds)
        with TemporaryDirectory() as folder:
            path = Path(folder) / "model.json"
            model.save_model(str(path), format="json", pool=self._all_codes())
            text = path.read_bytes()
        return Trees.from_catboost(text, columns=[*self._numbers, *self._categories])

    def _pool(self, rows: Rows) -> Any:
        return self._pool_of(self._problem.x[rows], self._problem.y[rows])

    def _all_codes(self) -> Any:
        """A pool in which each code occurs: CatBoost writes the hashes of a pool's categories."""
        most = max([1, *(self._problem.encoded[j].num_codes for j in self._categories)])
        codes = np.arange(most, dtype=np.float64)
        return self._pool_of(np.tile(codes[:, None], self._problem.x.shape[1]), codes)

    def _pool_of(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> Any:
        names = np.array([b"%d" % code for code in range(_MOST_ONE_HOT)], dtype=object)
        features = self._catboost.FeaturesData(
            num_feature_data=np.ascontiguousarray(x[:, self._numbers], dtype=np.float32),
            cat_feature_data=names[x[:, self._categories].astype(np.int64)],
        )
        return self._catboost.Pool(features, y)


def _xgboost() -> ModuleType:
    try:
        import xgboost
    except ImportError:
        raise MissingExtra("the model `xgboost`", "boost") from None
    module: ModuleType = xgboost
    return module


def _catboost() -> ModuleType:
    try:
        import catboost
    except ImportError:
        raise MissingExtra("the model `catboost`", "boost") from None
    module: ModuleType = catboost
    return module

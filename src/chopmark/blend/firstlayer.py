"""The first layer of a blend: fresh copies of the models, fitted, and their held-out opinions.

Serves B10 to B12 of the requirements.
"""

import copy
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeAlias, cast

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import DeclarationError, InvalidInput
from chopmark.models import Model
from chopmark.models.kernels import LOG_ODDS_LIMIT
from chopmark.models.splits import Rows, Split

Parts: TypeAlias = Mapping[str, Model | Callable[[], Model]]
"""Unfitted models, or functions that make one, by name."""

Progress: TypeAlias = Callable[[int, int, str], None]
"""Told after each fit: fits done, fits in all, and which one it was."""

_NEEDED = ("fit", "score", "explain", "save")
_LONGEST_NAME = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstLayer:
    """Fitted models, and what models that had not seen them said of the held-out rows.

    Attributes
    ----------
    models
        p fitted models, the ones to serve.
    rows
        (h,) held-out rows, fold after fold.
    fold
        (h,) number of the fold that each lies in.
    raw
        (h, p) log-odds.
    """

    models: Sequence[Model]
    rows: Rows
    fold: NDArray[np.int64]
    raw: NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitter:
    """Fits copies of models to rows of one table.

    Attributes
    ----------
    models
        By name; never fitted themselves.
    frame, target
        Table and its column of the label.
    threads, progress
        Fits at a time, and whom to tell after each; see `EasyBlend`.
    """

    models: Parts
    frame: pl.DataFrame
    target: str
    threads: int = 1
    progress: Progress | None = None

    def split(self, parts: Split) -> FirstLayer:
        """Models of `parts.train`, held to `parts.test`."""
        fitted = self._all([parts], ["fit"])
        return _layer([model for model, _ in fitted], [parts], [raw for _, raw in fitted])

    def cross_fitted(self, parts: Sequence[Split]) -> FirstLayer:
        """Models of all rows; the opinions are those of models of each part's training rows."""
        everything = np.arange(self.frame.height)
        last = Split(train=everything, test=everything[:0])
        names = [f"fold {number} of {len(parts)}" for number in range(1, len(parts) + 1)]
        fitted = self._all([*parts, last], [*names, "all rows"])
        held_out = fitted[: -len(self.models)]
        models = [model for model, _ in fitted[-len(self.models) :]]
        return _layer(models, parts, [raw for _, raw in held_out])

    def _all(
        self, parts: Sequence[Split], what: Sequence[str]
    ) -> list[tuple[Model, NDArray[np.float64]]]:
        """Each model of each part, and its log-odds of the part's test rows; part after part."""
        jobs = [
            (fresh(model), part, f"{name}: {step}")
            for part, step in zip(parts, what, strict=True)
            for name, model in self.models.items()
        ]
        done = []
        with ThreadPoolExecutor(max_workers=self.threads) as pool:
            for result in pool.map(self._one, *zip(*jobs, strict=True)):
                done.append(result)
                if self.progress is not None:
                    self.progress(len(done), len(jobs), jobs[len(done) - 1][2])
        return done

    def _one(self, model: Model, part: Split, what: str) -> tuple[Model, NDArray[np.float64]]:
        model.fit(self.frame[part.train], target=self.target)
        if len(part.test) == 0:
            return model, np.empty(0)
        return model, log_odds_of(model, self.frame[part.test].drop(self.target), what)


def check_models(models: Parts) -> None:
    """Refuse models that cannot be blended.

    Raises
    ------
    DeclarationError
        If there are fewer than two, a name is no identifier, or one is neither a model nor a
        function.
    """
    if not isinstance(models, Mapping) or len(models) < 2:
        raise DeclarationError(
            'expected two or more models by name, as in {"trees": EasyML(), "linear": '
            f'EasyML(model="linear")}}; got {models!r:.80}'
        )
    for name, model in models.items():
        good = isinstance(name, str) and name.isidentifier() and name.isascii()
        if not good or name == "blend" or len(name) > _LONGEST_NAME:
            raise DeclarationError(
                f"expected a name of letters, digits and `_` for each part, other than `blend`; "
                f"got {name!r:.80}"
            )
        missing = _missing(model)
        if missing and not callable(model):
            raise DeclarationError(
                f"part `{name}` is no model and makes none: a {type(model).__name__} has no "
                f"`{missing[0]}`"
            )


def fresh(model: Model | Callable[[], Model]) -> Model:
    """An unfitted copy: of its class with its `get_params`, else a deep copy, else newly made."""
    if isinstance(model, type) or _missing(model):
        return cast(Callable[[], Model], model)()
    given: Any = model
    if not hasattr(given, "get_params"):
        return cast(Model, copy.deepcopy(given))
    return cast(Model, type(given)(**copy.deepcopy(given.get_params(deep=False))))


def log_odds_of(model: Model, table: pl.DataFrame, what: str) -> NDArray[np.float64]:
    """(n,) log-odds of a model's scores, within `LOG_ODDS_LIMIT`.

    Raises
    ------
    InvalidInput
        If the model gives other than one score in [0, 1] to each row.
    """
    scores = np.asarray(model.score(table), dtype=np.float64)
    if scores.shape != (table.height,) or not np.all((scores >= 0.0) & (scores <= 1.0)):
        raise InvalidInput(
            f"`{what}` gave scores of shape {scores.shape} for {table.height} rows; expected one "
            "score in [0, 1] for each"
        )
    with np.errstate(divide="ignore"):
        raw = np.log(scores) - np.log1p(-scores)
    clipped: NDArray[np.float64] = np.clip(raw, -LOG_ODDS_LIMIT, LOG_ODDS_LIMIT)
    return clipped


def _missing(model: object) -> list[str]:
    """Methods of a model that this object lacks.

    By its class: asking an unfitted model itself for `reads`, as `isinstance` does, is an error.
    """
    return [method for method in _NEEDED if not hasattr(type(model), method)]


def _layer(
    models: Sequence[Model], parts: Sequence[Split], raw: Sequence[NDArray[np.float64]]
) -> FirstLayer:
    num_models = len(models)
    columns = [np.concatenate(raw[j::num_models]) for j in range(num_models)]
    sizes = [len(part.test) for part in parts]
    return FirstLayer(
        models=models,
        rows=np.concatenate([part.test for part in parts]),
        fold=np.repeat(np.arange(len(parts)), sizes),
        raw=np.column_stack(columns),
    )

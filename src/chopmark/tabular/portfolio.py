"""The portfolio: several learners on one problem, blended into one sum of parts.

    problem -> learners -> held-out predictions -> weights -> parts times weights, joined

Every learner has a name. Each is right on other rows, so their blend is hardly ever worse than
the best of them and mostly better; weights come from rows that no learner had seen. A weight is
folded into the arrays of its part, and sums of trees join to one sum of trees: what is served
knows nothing of the blend. Serves A8, A16 and B15 of the requirements.
"""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from time import monotonic
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import DeclarationError, did_you_mean
from chopmark.models import Additive, Part, Term, Trees
from chopmark.models.blending import fit_weights
from chopmark.tabular.problem import Learned, Problem

Learner: TypeAlias = Callable[[Problem], Learned]
Progress: TypeAlias = Callable[[str, int, int], None]
"""Called with what was done last, how many steps are done, and how many there are."""

RAW_LIMIT = 15.0
"""Held-out log-odds beyond this are taken as this when weights are fitted: one row that a
model is too sure of would else decide for all."""


def learn_prior(problem: Problem) -> Learned:
    """The share of bad rows (or the mean), whatever the columns say."""

    def bias_of(rows: NDArray[np.int64]) -> float:
        mean = float(problem.y[rows].mean())
        if problem.objective == "number":
            return mean
        # Half a row of each class keeps a part without bad rows from infinite log-odds.
        bad, good = mean * len(rows) + 0.5, (1.0 - mean) * len(rows) + 0.5
        return float(np.log(bad / good))

    flat = [Term(weights=np.zeros(max(column.num_codes, 2))) for column in problem.encoded]
    held_out = [np.full(len(part.test), bias_of(part.train)) for part in problem.parts]
    return Learned(
        part=Additive.of(flat, bias=bias_of(problem.final_rows)),
        held_out_raw=np.concatenate(held_out),
        settings={},
    )


def _at_home(module: str, name: str, **fixed: str) -> Learner:
    """A learner that is imported when it is first called: each brings a library of its own."""

    def learn(problem: Problem) -> Learned:
        learner: Learner = getattr(import_module(module), name)
        return partial(learner, **fixed)(problem)

    return learn


_TREES = ("chopmark.tabular.trees", "learn_trees")

FAMILIES: Mapping[str, Mapping[str, Learner]] = MappingProxyType(
    {
        "prior": {"prior": learn_prior},
        "linear": {"linear": _at_home("chopmark.tabular.linear", "learn_linear")},
        "trees": {
            "trees": _at_home(*_TREES),
            "trees, shallow": _at_home(*_TREES, setting="shallow"),
            "trees, random cuts": _at_home(*_TREES, setting="random cuts"),
        },
        "deep": {"deep": _at_home("chopmark.tabular.deep", "learn_deep")},
        "xgboost": {"xgboost": _at_home("chopmark.tabular.boosters", "learn_xgboost")},
        "catboost": {"catboost": _at_home("chopmark.tabular.boosters", "learn_catboost")},
        "vw": {"vw": _at_home("chopmark.tabular.vw", "learn_vw")},
    }
)
"""The learners of each family, in the order in which a budget of time is spent."""

FOR_SMALL_TABLES = frozenset({"trees, shallow"})
"""Where rows abound they take a third of the time and win nothing."""

_LOOKUP_TABLES = ("prior", "linear", "vw")

PRESETS: Mapping[str, Sequence[str]] = MappingProxyType(
    {"auto": ("linear", "trees"), "best": ("linear", "trees", "deep")}
)
"""Families by what is asked for: "auto" needs nothing but the core, "best" the extra `deep`."""


def learners_of(model: str | Sequence[str]) -> dict[str, Learner]:
    """The learners that a model stands for, by name.

    Raises
    ------
    DeclarationError
        If there is no such family, or none is named.
    """
    named = (model,) if isinstance(model, str) else tuple(model)
    families = [family for name in named for family in PRESETS.get(name, (name,))]
    for family in families:
        if family not in FAMILIES:
            known = (*PRESETS, *FAMILIES)
            raise DeclarationError(
                f"expected one or several families as the model, got `{family}`"
                + did_you_mean(str(family), known)
            )
    if len(set(families)) < len(families):
        raise DeclarationError(f"expected each family once in a model, got {', '.join(families)}")
    if not families:
        raise DeclarationError("expected at least one family as the model, got none")
    tables = [family for family in families if family in _LOOKUP_TABLES]
    if len(set(tables)) > 1:
        raise DeclarationError(
            f"expected one of {', '.join(_LOOKUP_TABLES)} in a model, which holds one set of "
            f"lookup tables; got {' and '.join(tables)}. EasyBlend blends whole models"
        )
    return {name: learner for family in families for name, learner in FAMILIES[family].items()}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Blend:
    """What the portfolio came to.

    Attributes
    ----------
    parts
        Fitted arrays with their weights folded in, at most one of each kind.
    bias
        To be added to the parts' sum.
    held_out_raw
        (h,) blended log-odds (or numbers) of the held-out rows.
    weights
        Weight of each learner; zero if it was left out.
    losses
        Held-out loss of each learner by itself.
    settings
        What each learner chose.
    skipped
        Learners for which the budget left no time.
    """

    parts: tuple[Part, ...]
    bias: float
    held_out_raw: NDArray[np.float64]
    weights: Mapping[str, float]
    losses: Mapping[str, float]
    settings: Mapping[str, Mapping[str, Any]]
    skipped: tuple[str, ...]


def learn(
    problem: Problem,
    learners: Mapping[str, Learner],
    *,
    workers: int = 1,
    budget: float | None = None,
    on_progress: Progress | None = None,
) -> Blend:
    """All learners fitted to a problem and blended.

    Parameters
    ----------
    learners
        By name, the most useful first.
    workers
        Learners that run at a time, >= 1; the result does not depend on it.
    budget
        Seconds after which no further learner is begun; the first one always is.
    """
    learned = _run(problem, learners, workers, budget, on_progress)
    y = problem.y[problem.held_out_rows]
    raw = np.column_stack([found.held_out_raw for found in learned.values()])
    if problem.objective == "binary":
        raw = np.clip(raw, -RAW_LIMIT, RAW_LIMIT)
    weights = fit_weights(raw, y, objective=problem.objective)
    return Blend(
        parts=_joined([found.part for found in learned.values()], weights.weights),
        bias=weights.bias,
        held_out_raw=weights.apply(raw),
        weights=dict(zip(learned, weights.weights.tolist(), strict=True)),
        losses={name: problem.loss(raw[:, j], y) for j, name in enumerate(learned)},
        settings={name: found.settings for name, found in learned.items()},
        skipped=tuple(name for name in learners if name not in learned),
    )


def _run(
    problem: Problem,
    learners: Mapping[str, Learner],
    workers: int,
    budget: float | None,
    on_progress: Progress | None,
) -> dict[str, Learned]:
    started = monotonic()
    waiting = list(learners.items())
    running: dict[Future[Learned], str] = {}
    learned: dict[str, Learned] = {}
    with ThreadPoolExecutor(workers) as pool:
        while waiting or running:
            late = budget is not None and monotonic() - started >= budget
            if late and (running or learned):
                waiting = []
            while waiting and len(running) < workers:
                name, learner = waiting.pop(0)
                running[pool.submit(learner, problem)] = name
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                name = running.pop(future)
                learned[name] = future.result()
                if on_progress is not None:
                    on_progress(name, len(learned), len(learned) + len(running) + len(waiting))
    return {name: learned[name] for name in learners if name in learned}


def _joined(parts: Sequence[Part], weights: NDArray[np.float64]) -> tuple[Part, ...]:
    """Parts times their weights; those of one kind as one, those without weight left out."""
    scaled = [part.scaled(w) for part, w in zip(parts, weights.tolist(), strict=True) if w > 0.0]
    trees = [part for part in scaled if isinstance(part, Trees)]
    others: dict[str, Part] = {}
    for part in scaled:
        if isinstance(part, Trees):
            continue
        others[part.name] = part
    return (*([Trees.joined(trees)] if trees else []), *others.values())

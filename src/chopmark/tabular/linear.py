"""Logistic (or linear) regression over 20 quantile buckets, the scaled number and categories.

Each encoded number becomes its scaled value (clipped to the training range), one indicator per
bucket and one for missing; each category one indicator per code. The penalty is chosen on
held-out rows. The weights are then folded into one lookup table per column
(`chopmark.models.Additive`), centred so that an average row has no contributions.
Serves A4 and A8 of the requirements.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from chopmark.models import Additive, Encoded, Term
from chopmark.tabular.problem import Learned, Problem

NUM_BUCKETS = 20
_WEIGHTS = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)

_Regression: TypeAlias = LogisticRegression | Ridge


def learn_linear(problem: Problem) -> Learned:
    """A linear model fitted to a problem."""
    weight, held_out = _best_penalty(problem)
    rows = problem.final_rows
    design = Design.of(problem.x[rows], problem.encoded)
    matrix = design.matrix(problem.x[rows])
    final = _regression(problem, matrix, rows, weight, None)
    model = design.additive(np.ravel(final.coef_), float(np.ravel(final.intercept_)[0]), matrix)
    return Learned(
        part=model, held_out_raw=held_out, settings={"C": weight, "buckets": NUM_BUCKETS}
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Block:
    """Design columns of one encoded column: [scaled, buckets, missing] or one per code."""

    begin: int
    edges: NDArray[np.float64] | None
    num_weights: int
    center: float = 0.0
    scale: float = 1.0
    low: float = 0.0
    high: float = 0.0

    @property
    def end(self) -> int:
        return self.begin + self.num_weights + (0 if self.edges is None else 2)


class Design:
    """The sparse matrix that logistic regression sees, and the way back to terms."""

    def __init__(self, blocks: list[_Block]) -> None:
        self.blocks = blocks

    @classmethod
    def of(cls, x: NDArray[np.float64], encoded: Sequence[Encoded]) -> "Design":
        """The blocks of encoded columns (n, m)."""
        blocks: list[_Block] = []
        for values, column in zip(x.T, encoded, strict=True):
            begin = blocks[-1].end if blocks else 0
            if column.num_codes:
                blocks.append(_Block(begin=begin, edges=None, num_weights=column.num_codes))
                continue
            known = values[~np.isnan(values)]
            edges = _edges(known)
            spread = float(known.std()) if len(known) else 0.0
            blocks.append(
                _Block(
                    begin=begin,
                    edges=edges,
                    num_weights=len(edges) + 1,
                    center=float(known.mean()) if len(known) else 0.0,
                    scale=1.0 / spread if spread > 0 and np.isfinite(1.0 / spread) else 0.0,
                    low=float(known.min()) if len(known) else 0.0,
                    high=float(known.max()) if len(known) else 0.0,
                )
            )
        return cls(blocks)

    def matrix(self, x: NDArray[np.float64]) -> csr_matrix:
        """(n, d) sparse: per row and encoded column one indicator, and the scaled number."""
        places = np.empty((len(x), 2 * len(self.blocks)), dtype=np.int32)
        values = np.zeros((len(x), 2 * len(self.blocks)))
        for j, block in enumerate(self.blocks):
            column = x[:, j]
            values[:, 2 * j] = 1.0
            if block.edges is None:
                places[:, 2 * j] = block.begin + column.astype(np.int32)
                places[:, 2 * j + 1] = block.begin
                continue
            missing = np.isnan(column)
            bucket = np.searchsorted(block.edges, column, side="right")
            bucket[missing] = block.num_weights
            places[:, 2 * j] = block.begin + 1 + bucket
            places[:, 2 * j + 1] = block.begin
            scaled = (np.clip(column, block.low, block.high) - block.center) * block.scale
            values[:, 2 * j + 1] = np.where(missing, 0.0, scaled)
        starts = np.arange(0, places.size + 1, places.shape[1])
        shape = (len(x), self.blocks[-1].end)
        matrix = csr_matrix((values.ravel(), places.ravel(), starts), shape=shape)
        matrix.sum_duplicates()
        matrix.eliminate_zeros()
        return matrix

    def additive(
        self, weights: NDArray[np.float64], intercept: float, matrix: csr_matrix
    ) -> Additive:
        """The same model as lookup tables; their means over the rows of `matrix` are bias."""
        means = np.asarray(matrix.mean(axis=0)).ravel() * weights
        terms = []
        for block in self.blocks:
            own = weights[block.begin : block.end]
            mean = float(means[block.begin : block.end].sum())
            intercept += mean
            if block.edges is None:
                terms.append(Term(weights=own - mean))
                continue
            terms.append(
                Term(
                    weights=own[1:-1] - mean,
                    edges=block.edges,
                    slope=float(own[0]) * block.scale,
                    center=block.center,
                    low=block.low,
                    high=block.high,
                    missing=float(own[-1]) - mean,
                )
            )
        return Additive.of(terms, bias=intercept)


def _edges(known: NDArray[np.float64]) -> NDArray[np.float64]:
    """Inner edges of up to `NUM_BUCKETS` buckets; few distinct values get one each."""
    distinct = np.unique(known)
    if len(distinct) <= NUM_BUCKETS:
        return distinct[1:]
    inner = np.linspace(0.0, 1.0, NUM_BUCKETS + 1)[1:-1]
    edges = np.unique(np.quantile(known, inner, method="higher"))
    # An edge at the minimum would leave an empty bucket below.
    above: NDArray[np.float64] = edges[edges > distinct[0]]
    return above


def _best_penalty(problem: Problem) -> tuple[float, NDArray[np.float64]]:
    """The weight of the data against the penalty (C), and its held-out predictions.

    Goes from a strong penalty to a weak one, each fit begun where the last one ended, until
    two in a row are no better.
    """
    matrices = []
    for part in problem.parts:
        design = Design.of(problem.x[part.train], problem.encoded)
        matrices.append((design.matrix(problem.x[part.train]), design.matrix(problem.x[part.test])))
    y = problem.y[problem.held_out_rows]
    models: list[_Regression | None] = [None] * len(problem.parts)
    best = (np.inf, _WEIGHTS[0], np.empty(0))
    worse = 0
    for weight in _WEIGHTS:
        scored = []
        for number, (part, (train, test)) in enumerate(zip(problem.parts, matrices, strict=True)):
            model = _regression(problem, train, part.train, weight, models[number])
            models[number] = model
            scored.append(
                model.decision_function(test)
                if isinstance(model, LogisticRegression)
                else model.predict(test)
            )
        raw = np.concatenate(scored)
        loss = problem.loss(raw, y)
        worse = 0 if loss < best[0] else worse + 1
        best = min(best, (loss, weight, raw), key=lambda found: found[0])
        if worse == 2:
            break
    return best[1], best[2]


def _regression(
    problem: Problem,
    matrix: csr_matrix,
    rows: NDArray[np.int64],
    weight: float,
    begin: _Regression | None,
) -> _Regression:
    model: _Regression
    if problem.objective == "number":
        # A logistic weight of 1 counts a row as a quarter of what a square does, at most.
        model = Ridge(alpha=0.25 / weight, solver="lsqr", tol=1e-6)
    else:
        model = LogisticRegression(C=weight, max_iter=500, tol=1e-4, random_state=problem.seed)
        if isinstance(begin, LogisticRegression):
            model.set_params(warm_start=True)
            model.coef_, model.intercept_ = begin.coef_.copy(), begin.intercept_.copy()
            model.classes_ = begin.classes_
    weights = None if problem.weights is None else problem.weights[rows]
    # BLAS threads on vectors this short wait for each other: ten times slower on busy cores.
    with warnings.catch_warnings(), threadpool_limits(limits=1):
        # 500 steps of a convex problem are near enough to its end.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(matrix, problem.y[rows], sample_weight=weights)
    return model

"""A friction policy learned from logged decisions by Vowpal Wabbit, as a table of costs.

    minimise  sum over rows of (cost / scale - w x(context, friction))^2 / propensity
              +  l2 / 2 * |w|^2

This is the multi-task regression of Vowpal Wabbit's contextual bandits (``--cb_type mtr``): the
cost of the friction that was chosen, weighed by one over its propensity. What differs: it is
solved to its end by L-BFGS and not in one pass, because costs in dollars have long tails and a
single pass leaves the weights where the last large losses threw them (`benchmarks/friction.py`
compares both), and the penalty is chosen on rows held out. The scale is the amount: a loss is a
share of it, so per dollar a payment of 10,000 USD is no more noise than one of 100, and which
friction is the cheapest stays the same. x has an indicator per cell of the
context, once for all frictions together and once for each: what makes a payment costly under
every friction is learned from all rows. The weights are read back into a `LearnedFriction`, so
serving needs no Vowpal Wabbit. Serves row I7 of the requirements.

References
----------
Alberto Bietti, Alekh Agarwal, John Langford: A contextual bandit bake-off, 2021.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from chopmark.decisions.friction import EVERYTHING, AllowList, Value
from chopmark.decisions.learnedfriction import Buckets, CostTerm, LearnedFriction
from chopmark.decisions.offpolicy import FrictionLog
from chopmark.errors import InvalidInput
from chopmark.tabular.vw import Wabbit

LEAST_ROWS = 50
"""A friction that was logged less often cannot be learned."""

_PENALTIES = (30_000.0, 10_000.0, 3_000.0, 1_000.0, 300.0, 100.0, 30.0, 10.0, 3.0, 1.0)
_FOLDS = 3
_BASE = 10.0
"""Value of a friction's own constant: its weight is so many times smaller, hence hardly
penalised, as what a friction costs on the whole is no matter of taste."""


def learn_friction(
    log: FrictionLog,
    *,
    reads: Sequence[str],
    together: Sequence[tuple[str, str]] = (),
    num_buckets: int = 8,
    per: str | None = "amount_usd",
    per_least: float = 20.0,
    cap_usd: float | None = None,
    epsilon: float = 0.05,
    allow: AllowList = EVERYTHING,
    seed: int = 0,
) -> LearnedFriction:
    """The policy of the least cost, as the log has it; cost is the reward below zero.

    Parameters
    ----------
    log : FrictionLog
        Of a policy that explored: what was never chosen cannot be learned.
    reads : sequence of str
        Values of the context: scores, the amount, texts.
    together : sequence of pairs
        Of what is read, whose cells are learned together: a score and the amount, say.
    num_buckets : int
        Of a number, >= 2; as many rows in each.
    per : str, optional
        The scale of costs, a value of the context; none is dollars as they are.
    per_least : float
        A smaller or missing scale counts as this, > 0.
    cap_usd : float, optional
        Largest reward, and loss, that is learned from.
    epsilon : float
        Share of random choices of the new policy, in [0, 1].
    allow : AllowList
    seed : int
        Of the rows held out.

    Raises
    ------
    InvalidInput
        If a friction was logged fewer than 50 times, or a value is text here and a number
        there, or the same in all rows.
    MissingExtra
        If the package vowpalwabbit is not installed.
    """
    counts = np.bincount(log.actions, minlength=len(log.frictions))
    for name, count in zip(log.frictions, counts.tolist(), strict=True):
        if count < LEAST_ROWS:
            raise InvalidInput(
                f"expected `{name}` at least {LEAST_ROWS} times in the log, got {count}; let a "
                "policy explore it first, or leave it out of the log"
            )
    columns = tuple(_buckets(name, log.values, num_buckets) for name in reads)
    design = CostDesign.of(columns, together, num_frictions=len(log.frictions))
    matrix = design.matrix(log.values, log.actions)
    costs = -log.rewards_usd if cap_usd is None else -np.clip(log.rewards_usd, -cap_usd, cap_usd)
    costs = costs / _scales(log.values, per, per_least)
    weights = 1.0 / log.propensities
    weights /= weights.mean()
    with TemporaryDirectory(prefix="chopmark-bandit-") as folder:
        penalty = _best_penalty(matrix, costs, weights, Path(folder), seed)
        whole = _wabbit(matrix, costs, weights, Path(folder) / "all")
        learned, intercept = whole.fit(penalty)
    return LearnedFriction(
        frictions=log.frictions,
        columns=columns,
        base_micro_usd=design.base(learned, intercept),
        terms=design.terms(learned),
        per=per,
        per_least=per_least,
        epsilon=epsilon,
        allow=allow,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class CostDesign:
    """Where each cell of the context, and each friction in it, stands among the weights.

    First a weight per cell, then one per cell and friction, then one per friction.

    Parameters
    ----------
    columns : tuple of Buckets
    of_terms : tuple of tuple of int
        Places of the one or two columns of each term.
    num_frictions : int
    """

    columns: tuple[Buckets, ...]
    of_terms: tuple[tuple[int, ...], ...]
    num_frictions: int

    @classmethod
    def of(
        cls,
        columns: tuple[Buckets, ...],
        together: Sequence[tuple[str, str]],
        *,
        num_frictions: int,
    ) -> "CostDesign":
        """A term for each column and for each pair of names.

        Raises
        ------
        InvalidInput
            If a pair names what is no column.
        """
        places = {column.name: place for place, column in enumerate(columns)}
        for name in {name for pair in together for name in pair} - set(places):
            raise InvalidInput(f"expected `{name}`, of `together`, among what is read")
        pairs = tuple((places[one], places[other]) for one, other in together)
        single = tuple((place,) for place in range(len(columns)))
        return cls(columns=columns, of_terms=(*single, *pairs), num_frictions=num_frictions)

    @property
    def cells(self) -> list[int]:
        """How many cells each term has."""
        counts = [column.count for column in self.columns]
        return [int(np.prod([counts[place] for place in term])) for term in self.of_terms]

    def matrix(
        self, values: Sequence[Mapping[str, Value]], actions: NDArray[np.int64]
    ) -> csr_matrix:
        """(n, d) sparse: for each row its cells, its cells with its friction, its friction."""
        n, k = len(values), self.num_frictions
        places = np.array(
            [[c.place(row.get(c.name)) for c in self.columns] for row in values], dtype=np.int64
        ).reshape(n, len(self.columns))
        total, found = 0, []
        for term, cells in zip(self.of_terms, self.cells, strict=True):
            cell = places[:, term[0]]
            if len(term) == 2:
                cell = cell * self.columns[term[1]].count + places[:, term[1]]
            found.append(total + cell)
            total += cells
        cell_of = np.stack(found, axis=1)
        own = total + cell_of * k + actions[:, None]
        base = total * (1 + k) + actions[:, None]
        indices = np.concatenate([cell_of, own, base], axis=1)
        data = np.ones(indices.shape)
        data[:, -1] = _BASE
        starts = np.arange(n + 1) * indices.shape[1]
        return csr_matrix((data.ravel(), indices.ravel(), starts), (n, total * (1 + k) + k))

    def terms(self, weights: NDArray[np.float64]) -> tuple[CostTerm, ...]:
        """The weights of cells and frictions, added up."""
        total, k = sum(self.cells), self.num_frictions
        table = weights[:total, None] + weights[total : total * (1 + k)].reshape(total, k)
        micro = np.rint(table * 1e6).astype(np.int64)
        parts = np.split(micro, np.cumsum(self.cells)[:-1])
        return tuple(
            CostTerm(columns=term, micro_usd=tuple(map(tuple, part.tolist())))
            for term, part in zip(self.of_terms, parts, strict=True)
        )

    def base(self, weights: NDArray[np.float64], intercept: float) -> tuple[int, ...]:
        """What each friction costs before the context is looked at."""
        own = weights[len(weights) - self.num_frictions :] * _BASE
        return tuple(np.rint((own + intercept) * 1e6).astype(np.int64).tolist())


def _buckets(name: str, rows: Sequence[Mapping[str, Value]], count: int) -> Buckets:
    """Buckets with as many rows in each, or every text that was seen."""
    known = [value for row in rows if (value := row.get(name)) is not None]
    texts = {value for value in known if isinstance(value, str)}
    if texts:
        if not all(isinstance(value, str) for value in known):
            raise InvalidInput(f"expected texts or numbers in `{name}`, got both")
        return Buckets(name=name, texts=tuple(sorted(texts)))
    numbers = np.array(known, dtype=np.float64)
    numbers = numbers[np.isfinite(numbers)]
    if not len(numbers) or numbers.min() == numbers.max():
        raise InvalidInput(f"expected different values in `{name}`, got the same in all rows")
    edges = np.unique(np.quantile(numbers, np.arange(1, count) / count))
    # An edge at the least number would part nothing from the rest.
    edges = edges[edges > numbers.min()]
    return Buckets(name=name, edges=tuple(edges.tolist() or [float(numbers.max())]))


def _scales(
    rows: Sequence[Mapping[str, Value]], per: str | None, least: float
) -> NDArray[np.float64]:
    found = [row.get(per) if per else 1.0 for row in rows]
    texts = next((value for value in found if isinstance(value, str)), None)
    if texts is not None:
        raise InvalidInput(f"expected numbers in `{per}`, got {texts!r}")
    numbers = np.array([least if value is None else value for value in found], dtype=np.float64)
    return np.maximum(numbers, least) if per else numbers


def _best_penalty(
    matrix: csr_matrix,
    costs: NDArray[np.float64],
    weights: NDArray[np.float64],
    folder: Path,
    seed: int,
) -> float:
    """The penalty of the least held-out error, from strong ones to weak ones."""
    fold_of = np.random.default_rng(seed).permutation(len(costs)) % _FOLDS
    parts = []
    for fold in range(_FOLDS):
        train, test = np.flatnonzero(fold_of != fold), np.flatnonzero(fold_of == fold)
        wabbit = _wabbit(matrix[train], costs[train], weights[train], folder / str(fold))
        parts.append((wabbit, test))
    best, worse = (np.inf, _PENALTIES[0]), 0
    for penalty in _PENALTIES:
        loss = 0.0
        for wabbit, test in parts:
            learned, intercept = wabbit.fit(penalty)
            errors = costs[test] - matrix[test] @ learned - intercept
            loss += float((weights[test] * errors**2).sum())
        worse = 0 if loss < best[0] else worse + 1
        best = min(best, (loss, penalty))
        if worse == 2:
            break
    return best[1]


def _wabbit(
    matrix: csr_matrix, costs: NDArray[np.float64], weights: NDArray[np.float64], path: Path
) -> Wabbit:
    return Wabbit(matrix, costs, objective="number", row_weights=weights, path=path)

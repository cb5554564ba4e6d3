"""The linear family as Vowpal Wabbit trains it, folded into lookup tables.

    minimise  sum over rows of loss(w x + b, y)  +  l2 / 2 * |w|^2

The design matrix is that of `chopmark.tabular.linear`: 20 buckets, the scaled number, one
indicator per code. Vowpal Wabbit reads it from a file once, keeps its own cache of it, and goes
over that in up to twenty passes of L-BFGS: unlike its online passes, these have one end whatever
the order of the rows, and a penalty that means what it says. The weights are read back and
become `Additive`, so that serving needs no Vowpal Wabbit; it computes in float32, hence its own
predictions differ from ours in the sixth digit. Serves A4 and A8 of the requirements.

References
----------
Alekh Agarwal et al., "A Reliable Effective Terascale Linear Learning System", 2014.
"""

from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from chopmark.errors import MissingExtra
from chopmark.tabular.linear import NUM_BUCKETS, Design
from chopmark.tabular.problem import Learned, Objective, Problem

OPTIONS = "--bfgs --passes 20 --termination 1e-4 --holdout_off --no_bias_regularization"
"""What Vowpal Wabbit is told besides loss, penalty, table size and files."""

_LOSSES: dict[Objective, str] = {
    "binary": "--loss_function logistic",
    # Without bounds of its own it would clip predictions to the labels seen so far.
    "number": "--loss_function squared --min_prediction -1e6 --max_prediction 1e6",
}
_PENALTIES = (300.0, 100.0, 30.0, 10.0, 3.0, 1.0, 0.3, 0.1)
_CONSTANT = 11_650_396
"""Vowpal Wabbit's own number of the constant feature; its place is this modulo the table."""


def learn_vw(problem: Problem) -> Learned:
    """A linear model by Vowpal Wabbit, its penalty chosen on the rows held out.

    Raises
    ------
    MissingExtra
        If the package vowpalwabbit is not installed.
    """
    with TemporaryDirectory(prefix="chopmark-vw-") as folder:
        penalty, held_out = _best_penalty(problem, Path(folder))
        rows = problem.final_rows
        design = Design.of(problem.x[rows], problem.encoded)
        matrix = design.matrix(problem.x[rows])
        weights, intercept = _wabbit(problem, rows, matrix, Path(folder) / "all").fit(penalty)
    return Learned(
        part=design.additive(weights, intercept, matrix),
        held_out_raw=held_out,
        settings={
            "l2": penalty,
            "buckets": NUM_BUCKETS,
            "options": f"{_LOSSES[problem.objective]} {OPTIONS}",
        },
    )


class Wabbit:
    """Rows in a file of Vowpal Wabbit, ready to be fitted again and again.

    Parameters
    ----------
    matrix
        (n, d) sparse design.
    y
        (n,) labels 0 and 1, or numbers.
    objective
        What y is.
    row_weights
        (n,) how much each row counts, above zero.
    path
        Where to write the rows; the cache lies beside it.

    Raises
    ------
    MissingExtra
        If the package vowpalwabbit is not installed.
    """

    def __init__(
        self,
        matrix: csr_matrix,
        y: NDArray[np.float64],
        *,
        objective: Objective,
        row_weights: NDArray[np.float64],
        path: Path,
    ) -> None:
        self._workspace = _workspace()
        num_columns = matrix.shape[1]
        # A table with room for every column and the constant: no two share a place.
        bits = max(10, num_columns.bit_length() + 1)
        mask = (1 << bits) - 1
        self._constant = _CONSTANT & mask
        self._places = (self._constant + 1 + np.arange(num_columns)) & mask
        labels = 2.0 * y - 1.0 if objective == "binary" else y
        path.write_text("".join(_lines(matrix, labels, row_weights, self._places)))
        self._options = (
            f"--quiet {_LOSSES[objective]} {OPTIONS} --bit_precision {bits} "
            f"--data {path} --cache_file {path}.cache"
        )

    def fit(self, penalty: float) -> tuple[NDArray[np.float64], float]:
        """(d,) weights and the intercept under an l2 penalty >= 0, the same each time."""
        workspace = self._workspace(f"{self._options} --l2 {penalty!r}")
        weights = np.array([workspace.get_weight(place) for place in self._places.tolist()])
        intercept = float(workspace.get_weight(self._constant))
        workspace.finish()
        return weights, intercept


def _workspace() -> Callable[[str], Any]:
    """Vowpal Wabbit's class: made with its options, it has trained on the data they name."""
    try:
        from vowpalwabbit import Workspace  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingExtra("the Vowpal Wabbit backend", "vw") from error
    made: Callable[[str], Any] = Workspace
    return made


def _lines(
    matrix: csr_matrix,
    labels: NDArray[np.float64],
    row_weights: NDArray[np.float64],
    places: NDArray[np.int64],
) -> list[str]:
    """One line of Vowpal Wabbit's text format per row: label, weight, then place:value."""
    values = zip(places[matrix.indices].tolist(), matrix.data.tolist(), strict=True)
    cells = [f"{place}:{value!r}" for place, value in values]
    heads = zip(labels.tolist(), row_weights.tolist(), strict=True)
    return [
        f"{label!r} {weight!r} | {' '.join(cells[begin:end])}\n"
        for (label, weight), (begin, end) in zip(
            heads, pairwise(matrix.indptr.tolist()), strict=True
        )
    ]


def _wabbit(problem: Problem, rows: NDArray[np.int64], matrix: csr_matrix, path: Path) -> Wabbit:
    """The rows of the problem whose design is the matrix."""
    weights = np.ones(len(problem.y)) if problem.weights is None else problem.weights
    return Wabbit(
        matrix,
        problem.y[rows],
        objective=problem.objective,
        row_weights=weights[rows],
        path=path,
    )


def _best_penalty(problem: Problem, folder: Path) -> tuple[float, NDArray[np.float64]]:
    """The penalty of the least held-out loss, and its held-out raw values.

    Goes from a strong penalty to a weak one until two in a row are no better.
    """
    parts = []
    for number, part in enumerate(problem.parts):
        x = problem.x[part.train]
        design = Design.of(x, problem.encoded)
        wabbit = _wabbit(problem, part.train, design.matrix(x), folder / str(number))
        parts.append((wabbit, design.matrix(problem.x[part.test])))
    labels = problem.y[problem.held_out_rows]
    best = (np.inf, _PENALTIES[0], np.empty(0))
    worse = 0
    for penalty in _PENALTIES:
        raw = np.concatenate([_raw(wabbit.fit(penalty), matrix) for wabbit, matrix in parts])
        loss = problem.loss(raw, labels)
        worse = 0 if loss < best[0] else worse + 1
        best = min(best, (loss, penalty, raw), key=lambda found: found[0])
        if worse == 2:
            break
    return best[1], best[2]


def _raw(fitted: tuple[NDArray[np.float64], float], matrix: csr_matrix) -> NDArray[np.float64]:
    weights, intercept = fitted
    raw: NDArray[np.float64] = matrix @ weights + intercept
    return raw

"""A deep model (TabM's sort of ensemble), stopped early, refitted on all rows.

Numbers are interpolated between quantiles, categories pick a vector, and members that share a
small network average their log-odds (`chopmark.models.dense`). All folds are trained at once;
the number of epochs is where the held-out loss over all folds is lowest, and the last fit
takes as many. Quantiles come from the rows of the last fit; they know no label.

The same seed gives the same bits on CPUs. Under torchrun the same call shares each batch among
the processes (nccl on CUDA, gloo on CPUs): all end with the same weights, equal to those of one
process up to rounding. Tried with two processes on CPUs; not tried with CUDA, where sums may
differ from run to run. Serves A4, A7 and A9 of the requirements.

References
----------
Yury Gorishniy et al., "TabM: Advancing tabular deep learning with parameter-efficient
ensembling", 2024.
"""

from dataclasses import asdict, dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import MissingExtra
from chopmark.models.dense import Dense
from chopmark.tabular.places import Places
from chopmark.tabular.problem import Learned, Problem

if TYPE_CHECKING:
    from chopmark.tabular.network import Training

_LEAST_GAIN = 1e-5


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Shape and training of a network.

    The defaults have about the lowest held-out loss over three small tables among a dozen
    tried; rate and decay are near those of the paper.

    Attributes
    ----------
    members
        Networks that share weights, >= 1.
    width, depth
        Units of a hidden layer, and number of hidden layers, >= 1.
    edges
        Most edges between which a number is interpolated, >= 2.
    dropout
        Share of units that are left out in training, in [0, 1).
    rate, decay
        Learning rate and weight decay of AdamW.
    batch
        Rows of a batch; None goes from 128 to 512 with the table.
    patience
        Epochs without a lower held-out loss after which training stops.
    most_epochs
        Epochs at most.
    """

    members: int = 8
    width: int = 64
    depth: int = 2
    edges: int = 17
    dropout: float = 0.1
    rate: float = 2e-3
    decay: float = 3e-4
    batch: int | None = None
    patience: int = 12
    most_epochs: int = 200

    def batch_of(self, num_rows: int) -> int:
        """Rows of a batch when there are so many to learn from."""
        return self.batch or min(max(num_rows // 64, 128), 512)


DEFAULT = Settings()


def learn_deep(
    problem: Problem, *, settings: Settings = DEFAULT, seconds: float | None = None
) -> Learned:
    """A network fitted to a problem.

    Parameters
    ----------
    settings
        Shape and training of the network.
    seconds
        Time for the whole call, > 0: it ends with the best number of epochs until then. At
        least one epoch is trained. None sets no limit; with a limit the result depends on the
        machine's speed.

    Raises
    ------
    MissingExtra
        If torch is not installed.
    """
    try:
        from chopmark.tabular import network
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise MissingExtra("the deep model", "deep") from error
    began = perf_counter()
    deadline = began + (np.inf if seconds is None else seconds)
    places = Places.of(problem.x[problem.final_rows], problem.encoded, most_edges=settings.edges)
    with network.threads(problem.threads):
        trains = [part.train for part in problem.parts]
        training = network.Training(problem, places, settings, trains)
        best = _best(training, problem, settings, deadline)
        part = best.part
        if problem.refit:
            training = network.Training(problem, places, settings, [problem.final_rows])
            part = _refitted(training, best.epochs, deadline)
    chosen = {"epochs": best.epochs, **asdict(settings)}
    return Learned(part=part, held_out_raw=best.held_out_raw, settings=chosen)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Best:
    """The epoch with the lowest held-out loss so far; `part` is its first net."""

    epochs: int
    loss: float
    held_out_raw: NDArray[np.float64]
    part: Dense


def _best(training: "Training", problem: Problem, settings: Settings, deadline: float) -> _Best:
    """Train until the held-out loss has not fallen for a while, or time is up."""
    tests = [part.test for part in problem.parts]
    y = problem.y[problem.held_out_rows]
    best: _Best | None = None
    began = perf_counter()
    for epoch in range(1, settings.most_epochs + 1):
        training.epoch()
        raw = np.concatenate(training.raw(tests))
        loss = problem.loss(raw, y)
        if best is None or loss < best.loss - _LEAST_GAIN:
            best = _Best(epochs=epoch, loss=loss, held_out_raw=raw, part=training.dense())
        spent = perf_counter() - began
        # The last fit takes its part of the time: its rows for all that the folds have.
        share = len(problem.final_rows) / sum(len(part.train) for part in problem.parts)
        reserve = spent / epoch * best.epochs * share if problem.refit else 0.0
        left = training.agreed(deadline - began - spent - reserve)
        if epoch - best.epochs >= settings.patience or left <= 0:
            break
    assert best is not None, "most_epochs is at least one"
    return best


def _refitted(training: "Training", epochs: int, deadline: float) -> Dense:
    for epoch in range(epochs):
        if epoch and training.agreed(deadline - perf_counter()) <= 0:
            break
        training.epoch()
    return training.dense()

"""Pipelines: the steps that turn a log into a model, each repeatable from the command line.

In come a data folder and an application; out come training tables, artifacts and reports.
`folder` is what an installation keeps, `training` the way to a model, `sequences` to one that
reads histories, `why` says what moved one score, `chain` is from transfers to the risk of every
address, `losses` the ledger of what decisions saved and cost, `demo` the whole loop.
Serves rows A2, A18, E15, H1 to H16, I1, I14 of the requirements.
"""

from typing import TYPE_CHECKING, Any

from chopmark.pipelines.folder import DataFolder

if TYPE_CHECKING:
    from chopmark.pipelines.training import Trained as Trained
    from chopmark.pipelines.training import train as train

__all__ = ["DataFolder", "Trained", "train"]


def __getattr__(name: str) -> Any:
    # Late, so that `chopmark serve`, which opens a data folder, never pays for a learner.
    if name not in __all__:
        raise AttributeError(f"module `chopmark.pipelines` has no attribute `{name}`")
    from chopmark.pipelines import training

    return getattr(training, name)

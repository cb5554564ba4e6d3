"""Pipelines: the steps that turn a log into a model, each repeatable from the command line.

In come a data folder and an application; out come training tables, artifacts and reports.
`folder` is what an installation keeps, `train` the way to a model, `demo` the whole loop.
Serves rows A2, A18, E15, I1, I14 of the requirements.
"""

from chopmark.pipelines.folder import DataFolder
from chopmark.pipelines.train import Trained, train

__all__ = ["DataFolder", "Trained", "train"]

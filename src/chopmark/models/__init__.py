"""Models: the contracts between learners and the request path, and no learner.

In: tables (training) or rows of raw values (requests), and artifacts: files of numbers and JSON.
Out: scores in [0, 1], contributions per raw column in log-odds, metrics, splits, calibration.
Serves rows A3 to A6 and A8 to A12 of the requirements (000).
"""

from chopmark.models.additive import Additive, Term
from chopmark.models.artifact import Artifact
from chopmark.models.calibration import Calibration
from chopmark.models.encoder import Column, Combination, Dropped, Encoded, Encoder, Kind
from chopmark.models.model import Contributions, Model, Scorer, Scores, Table, Value
from chopmark.models.scorers import ArtifactScorer, load_scorer
from chopmark.models.trees import Trees

__all__ = [
    "Additive",
    "Artifact",
    "ArtifactScorer",
    "Calibration",
    "Column",
    "Combination",
    "Contributions",
    "Dropped",
    "Encoded",
    "Encoder",
    "Kind",
    "Model",
    "Scorer",
    "Scores",
    "Table",
    "Term",
    "Trees",
    "Value",
    "load_scorer",
]

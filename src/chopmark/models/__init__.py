"""Models: the contracts between learners and the request path, and no learner.

In: tables (training) or rows of raw values (requests), and artifacts: files of numbers and JSON.
Out: scores in [0, 1], contributions per raw column in log-odds, metrics, splits, calibration.
Serves rows A3 to A6 and A8 to A12 of the requirements (000).
"""

from chopmark.models.additive import Additive, Term
from chopmark.models.artifact import Artifact
from chopmark.models.calibration import Calibration
from chopmark.models.classes import ClassScorer
from chopmark.models.dense import Dense
from chopmark.models.encoder import Column, Combination, Dropped, Encoded, Encoder, Kind
from chopmark.models.families import load_scorer, scorer_of
from chopmark.models.model import Contributions, Model, Scorer, Scores, Table, Value
from chopmark.models.part import Part
from chopmark.models.scorers import ArtifactScorer
from chopmark.models.trees import Trees

__all__ = [
    "Additive",
    "Artifact",
    "ArtifactScorer",
    "Calibration",
    "ClassScorer",
    "Column",
    "Combination",
    "Contributions",
    "Dense",
    "Dropped",
    "Encoded",
    "Encoder",
    "Kind",
    "Model",
    "Part",
    "Scorer",
    "Scores",
    "Table",
    "Term",
    "Trees",
    "Value",
    "load_scorer",
    "scorer_of",
]

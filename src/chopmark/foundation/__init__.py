"""Foundation: one model of users for many uses, and Smart Targeting, which learns from answers.

In come histories of users without labels, later a few labels or the answers to messages.
Out come embeddings of users, models made from them, and whom to notify today.
Serves rows G1 to G32 and C5 of the requirements.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chopmark.errors import MissingExtra

if TYPE_CHECKING:
    from chopmark.foundation.adapting import adapt as adapt
    from chopmark.foundation.adapting import read_labels as read_labels
    from chopmark.foundation.candidates import Training as Training
    from chopmark.foundation.embeddings import Embeddings as Embeddings
    from chopmark.foundation.factors import Factors as Factors
    from chopmark.foundation.learners import LinearLearner as LinearLearner
    from chopmark.foundation.learners import TreeLearner as TreeLearner
    from chopmark.foundation.learners import aggregates_of as aggregates_of
    from chopmark.foundation.learners import at_random as at_random
    from chopmark.foundation.learners import beside as beside
    from chopmark.foundation.learners import by_rule as by_rule
    from chopmark.foundation.learners import choices_of as choices_of
    from chopmark.foundation.learners import embeddings_of as embeddings_of
    from chopmark.foundation.learners import habits_of as habits_of
    from chopmark.foundation.similarity import Similarity as Similarity
    from chopmark.foundation.static import StaticEmbedding as StaticEmbedding
    from chopmark.foundation.suite import read_results as read_results
    from chopmark.foundation.suite import run_suite as run_suite
    from chopmark.foundation.targeting import Learner as Learner
    from chopmark.foundation.targeting import SmartTargeting as SmartTargeting
    from chopmark.foundation.usermodel import UserModel as UserModel
    from chopmark.foundation.uses import Uses as Uses
    from chopmark.foundation.uses import choose as choose

_HOMES = {
    "factors": ("Factors",),
    "learners": (
        "LinearLearner",
        "TreeLearner",
        "aggregates_of",
        "at_random",
        "beside",
        "by_rule",
        "choices_of",
        "embeddings_of",
        "habits_of",
    ),
    "targeting": (
        "Learner",
        "SmartTargeting",
    ),
    "embeddings": ("Embeddings",),
    "usermodel": ("UserModel",),
    "similarity": ("Similarity",),
    "static": ("StaticEmbedding",),
    "candidates": ("Training",),
    "uses": ("Uses", "choose"),
    "adapting": (
        "adapt",
        "read_labels",
    ),
    "suite": (
        "read_results",
        "run_suite",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Embeddings",
    "Factors",
    "Learner",
    "LinearLearner",
    "Similarity",
    "SmartTargeting",
    "StaticEmbedding",
    "Training",
    "TreeLearner",
    "UserModel",
    "Uses",
    "adapt",
    "aggregates_of",
    "at_random",
    "beside",
    "by_rule",
    "choices_of",
    "choose",
    "embeddings_of",
    "habits_of",
    "read_labels",
    "read_results",
    "run_suite",
]


def __getattr__(name: str) -> Any:
    # Late: a campaign of trees and rules needs no torch.
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module `chopmark.foundation` has no attribute `{name}`")
    try:
        return getattr(import_module(f"chopmark.foundation.{home}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise MissingExtra("user models", "deep") from error

"""Foundation: one model of users for many uses, and Smart Targeting, which learns from answers.

In come histories of users without labels, later a few labels or the answers to messages.
Out come embeddings of users, models made from them, and whom to notify today.
Serves rows G1 to G32 and C5 of the requirements.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chopmark.foundation.embeddings import Embeddings as Embeddings
    from chopmark.foundation.learners import TreeLearner as TreeLearner
    from chopmark.foundation.learners import aggregates_of as aggregates_of
    from chopmark.foundation.learners import at_random as at_random
    from chopmark.foundation.learners import beside as beside
    from chopmark.foundation.learners import by_rule as by_rule
    from chopmark.foundation.learners import embeddings_of as embeddings_of
    from chopmark.foundation.targeting import Learner as Learner
    from chopmark.foundation.targeting import SmartTargeting as SmartTargeting
    from chopmark.foundation.usermodel import UserModel as UserModel

_HOMES = {
    "learners": ("TreeLearner", "aggregates_of", "at_random", "beside", "by_rule", "embeddings_of"),
    "targeting": ("Learner", "SmartTargeting"),
    "embeddings": ("Embeddings",),
    "usermodel": ("UserModel",),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = [
    "Embeddings",
    "Learner",
    "SmartTargeting",
    "TreeLearner",
    "UserModel",
    "aggregates_of",
    "at_random",
    "beside",
    "by_rule",
    "embeddings_of",
]


def __getattr__(name: str) -> Any:
    # Late: a campaign of trees and rules needs no torch.
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module `chopmark.foundation` has no attribute `{name}`")
    return getattr(import_module(f"chopmark.foundation.{home}"), name)

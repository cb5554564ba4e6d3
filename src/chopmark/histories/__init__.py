"""Histories: the events of many users as columns, and what can be computed from them.

In come frames of events with a user, a time and a type; or list columns of a training table.
Out go pieces of histories seen from an instant: tokens, time features, hand-made aggregates.
Serves rows B1, B2, G2 to G6 and G9 of the requirements.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from chopmark.histories.batch import Batch, Reader
from chopmark.histories.moments import Moments, moments
from chopmark.histories.tokenizer import Tokenizer

if TYPE_CHECKING:
    from chopmark.histories.aggregates import Aggregates as Aggregates
    from chopmark.histories.building import build as build
    from chopmark.histories.histories import Histories as Histories
    from chopmark.histories.sketch import Sketch as Sketch
    from chopmark.histories.slices import Slices as Slices

__all__ = [
    "Aggregates",
    "Batch",
    "Histories",
    "Moments",
    "Reader",
    "Sketch",
    "Slices",
    "Tokenizer",
    "build",
    "moments",
]


def __getattr__(name: str) -> Any:
    # Late: these need Polars, which a service does not pay for.
    homes = {
        "Aggregates": "aggregates",
        "Histories": "histories",
        "Sketch": "sketch",
        "Slices": "slices",
        "build": "building",
    }
    if name not in homes:
        raise AttributeError(f"module `chopmark.histories` has no attribute `{name}`")
    return getattr(import_module(f"chopmark.histories.{homes[name]}"), name)

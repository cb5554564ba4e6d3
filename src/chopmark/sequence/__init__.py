"""Sequence networks: models that learn from what a user did, in order and in time.

In come histories (a list column, or `chopmark.histories`) and labels; out come models that are
served without torch. `Seq2Win` is the seed's transformer by default; better encoders stand
behind the same interface. Needs ``chopmark[deep]``.
Serves B1 to B9 of the requirements.
"""

from typing import TYPE_CHECKING, Any

from chopmark.errors import MissingExtra
from chopmark.models.sequences import SequenceScorer

if TYPE_CHECKING:
    from chopmark.sequence.seq2win import Seq2Win as Seq2Win
    from chopmark.sequence.shape import RECURRENT as RECURRENT
    from chopmark.sequence.shape import SEED as SEED
    from chopmark.sequence.shape import TRANSFORMER as TRANSFORMER
    from chopmark.sequence.shape import Shape as Shape
    from chopmark.sequence.training import Pace as Pace

__all__ = ["RECURRENT", "SEED", "TRANSFORMER", "Pace", "Seq2Win", "SequenceScorer", "Shape"]

_HOMES = {"Seq2Win": "seq2win", "Pace": "training", "Shape": "shape", "RECURRENT": "shape",
          "SEED": "shape", "TRANSFORMER": "shape"}  # fmt: skip


def __getattr__(name: str) -> Any:
    # Late: torch takes a second, and is an extra.
    if name not in _HOMES:
        raise AttributeError(f"module `chopmark.sequence` has no attribute `{name}`")
    from importlib import import_module

    try:
        return getattr(import_module(f"chopmark.sequence.{_HOMES[name]}"), name)
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "safetensors"):
            raise
        raise MissingExtra("sequence networks", "deep") from error

"""The shapes that an encoder may have, and the encoder of a shape.

    RECURRENT     fading gated sums: O(1) per event, the default
    TRANSFORMER   attention that knows the time
    SEED          Seq2Win's: 256 events, 8 heads, 4 layers, event and gap bucket added

A new encoder is a module ``forward(inputs) -> (events (N, D), readout (B, R))`` and one line in
`encoder_of`. Serves B4, B5 and B9 of the requirements.
"""

import math
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Self, get_args

import numpy as np
import torch

from chopmark.errors import ArtifactError, DeclarationError
from chopmark.histories import Histories
from chopmark.histories.tokenizer import Tokenizer
from chopmark.models.layout import Layout

Kind = Literal["recurrent", "transformer", "seed"]

_SHORTEST, _LONGEST = 60.0, 2.0 * 365.0 * 86_400.0
_GAPS = 100_000
_ALL = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """An encoder in numbers.

    Parameters
    ----------
    kind
        "recurrent", "transformer" or "seed".
    width
        Of each event's vector, and of the state.
    depth
        Layers.
    heads
        Of attention; a multiple of 4 of them fits into `width` for "transformer".
    length
        The most recent events that are read; 0, the default, is all of them (up to a million)
        where the encoder is recurrent and 256 where it attends, at a cost that grows squared.
    dropout
        Share of each layer's output that is left out in training.
    calendar
        Whether to read hour and weekday (UTC) of each event.
    lifetimes
        Seconds: the shortest and the longest lifetime that channels of a recurrent encoder begin
        with; None takes them from the data (`lifetimes_of`).
    """

    kind: Kind = "recurrent"
    width: int = 128
    depth: int = 1
    heads: int = 8
    length: int = 0
    dropout: float = 0.1
    calendar: bool = False
    lifetimes: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise DeclarationError(
                f"expected one of {', '.join(get_args(Kind))} as the kind of encoder, got "
                f"`{self.kind}`"
            )
        if self.length == 0:
            object.__setattr__(self, "length", _ALL if self.kind == "recurrent" else 256)
        numbers = (self.width, self.depth, self.heads, self.length)
        if min(numbers) < 1 or not 0.0 <= self.dropout < 1.0:
            raise DeclarationError(
                f"expected sizes of at least 1 and a dropout in [0, 1), got {self}"
            )
        if self.lifetimes is not None:
            shortest, longest = self.lifetimes
            object.__setattr__(self, "lifetimes", (float(shortest), float(longest)))
            if not 0.0 < shortest < longest < math.inf:
                raise DeclarationError(
                    f"expected lifetimes above 0, the shortest first, got {self.lifetimes}"
                )
        unit = {"recurrent": 1, "transformer": 4 * self.heads, "seed": self.heads}[self.kind]
        if self.width % unit:
            raise DeclarationError(
                f"expected a width that is a multiple of {unit} for {self.heads} heads, got "
                f"{self.width}"
            )

    def layout(self, tokenizer: Tokenizer) -> Layout:
        """What such an encoder reads of the tokens."""
        calendar = ("hour", "weekday") if self.calendar else ()
        if self.kind == "seed":
            return Layout(
                sizes=tokenizer.sizes[:1], times=("gap",), buckets=True, positions=self.length
            )
        ages = ("age",) if self.kind == "transformer" else ()
        return Layout(
            sizes=tokenizer.sizes,
            num_numbers=len(tokenizer.numbers),
            times=("gap", "same_gap", *ages, *calendar),
        )

    def fitted(self, histories: Histories) -> "Shape":
        """The shape with lifetimes that fit these histories."""
        if self.kind != "recurrent" or self.lifetimes is not None:
            return self
        return replace(self, lifetimes=lifetimes_of(histories))

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """The shape that `to_dict` told; `ArtifactError` if it is none."""
        try:
            return cls(**found)
        except (TypeError, DeclarationError) as error:
            raise ArtifactError(f"expected the shape of an encoder: {error}") from error


RECURRENT = Shape()
TRANSFORMER = Shape(kind="transformer", depth=4)
SEED = Shape(kind="seed", depth=4)


def lifetimes_of(histories: Histories) -> tuple[float, float]:
    """Seconds from a short gap between events up to the longest histories, and twice that."""
    first, last = histories.offsets[:-1], histories.offsets[1:] - 1
    some = last > first
    times = histories.times
    spans = (times[last[some]] - times[first[some]]) / 1e6
    rows = first[some][:: max(1, int(some.sum()) // _GAPS)]
    gaps = (times[rows + 1] - times[rows]) / 1e6
    longest = max(float(np.quantile(spans, 0.95)) if len(spans) else 0.0, 3_600.0)
    gaps = gaps[gaps > 0.0]
    shortest = float(np.quantile(gaps, 0.1)) if len(gaps) else _SHORTEST
    return min(max(shortest, 1.0), longest / 100.0), 2.0 * longest


def encoder_of(shape: Shape, layout: Layout, generator: torch.Generator) -> torch.nn.Module:
    """A fresh encoder, its weights drawn from a generator."""
    from chopmark.sequence.recurrent import Recurrent
    from chopmark.sequence.transformer import Transformer

    if shape.kind == "recurrent":
        return Recurrent(
            layout,
            width=shape.width,
            depth=shape.depth,
            dropout=shape.dropout,
            lifetimes=shape.lifetimes or (_SHORTEST, _LONGEST),
            generator=generator,
        )
    return Transformer(
        layout,
        width=shape.width,
        heads=shape.heads,
        depth=shape.depth,
        dropout=shape.dropout,
        plain=shape.kind == "seed",
        generator=generator,
    )

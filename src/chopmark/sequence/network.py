"""A tower: an encoder and what it says of a piece; and the last layer of a task.

The embedding is the penultimate layer (row G12): the readout of the encoder, each number of it
standardised over the users that it was trained on. Whatever task trains the tower puts layers
of its own on top, which are thrown away afterwards. No mixing layer stands between: a channel
that counts one kind of event stays one column, which is what trees can split.
"""

import torch
from torch import Tensor
from torch.nn import Module
from torch.nn import functional as F

from chopmark.histories.tokenizer import Tokenizer
from chopmark.models.towers import MOST
from chopmark.sequence.inputs import Inputs
from chopmark.sequence.products import Linear
from chopmark.sequence.shape import Shape, encoder_of

_LEAST_SPREAD = 1e-3


class Tower(Module):  # type: ignore[misc]
    """Pieces of histories in, vectors of events and embeddings of the pieces out."""

    center_R: Tensor
    spread_R: Tensor

    def __init__(self, shape: Shape, tokenizer: Tokenizer, generator: torch.Generator) -> None:
        super().__init__()
        self.shape = shape
        self.layout = shape.layout(tokenizer)
        self.encoder = encoder_of(shape, self.layout, generator)
        self.embedding: int = self.encoder.readout_width
        self.register_buffer("center_R", torch.zeros(self.embedding))
        self.register_buffer("spread_R", torch.ones(self.embedding))

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Vectors of the events (N, D), and embeddings of the pieces (B, R)."""
        events_ND, readout_BR = self.encoder(inputs)
        standard_BR = (readout_BR - self.center_R) / self.spread_R
        return events_ND, standard_BR.clamp(-MOST, MOST)

    def standardise(self, embedding_BR: Tensor) -> None:
        """Give each number of the embedding mean 0 and deviation 1 over these pieces."""
        spread_R = embedding_BR.std(0, unbiased=False).clamp(min=_LEAST_SPREAD)
        self.center_R += embedding_BR.mean(0) * self.spread_R
        self.spread_R *= spread_R


class Head(Module):  # type: ignore[misc]
    """The last layers of a task: embeddings (B, R) to log-odds (B, C), linear and more."""

    def __init__(
        self, embedding: int, outputs: int, generator: torch.Generator, *, hidden: int = 64
    ) -> None:
        super().__init__()
        self.line = Linear(embedding, outputs, generator)
        self.inner = Linear(embedding, hidden, generator)
        self.outer = Linear(hidden, outputs, generator)
        with torch.no_grad():
            # What is not linear begins at nothing.
            self.line.weight.mul_(0.1)
            self.outer.weight.zero_()

    def forward(self, embedding_BR: Tensor, dropout: float = 0.0) -> Tensor:
        """(B, C)."""
        kept_BR = F.dropout(embedding_BR, dropout, self.training)
        return self.line(kept_BR) + self.outer(F.gelu(self.inner(kept_BR), approximate="tanh"))

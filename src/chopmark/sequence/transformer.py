"""Transformer encoders over events: the seed's, and one that knows the time.

    seed        learned positions, gaps in buckets, norm after each step, ReLU
    ours        norm before, GELU, queries and keys turned by the logarithm of the age

Turning by ``log(age)`` (continuous-time rotary positions) makes attention depend on how many
times longer ago one event is than another, at the scale of minutes and of months alike; the
other half of each head is turned by the order. Products run over all events without padding;
only attention itself is padded, to the longest piece of its batch, which batches of like
lengths keep short. There is no dropout in attention: on a CPU it costs 2.5 times the time.

Shape suffixes: N events of a batch, B pieces, T longest piece, D width, H heads, E width of a
head, R width of the readout. Serves B3 to B5 and G32 of the requirements.

References
----------
Ashish Vaswani et al., "Attention is all you need", 2017.
Jianlin Su et al., "RoFormer: enhanced transformer with rotary position embedding", 2021.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import Module, ModuleList, Parameter
from torch.nn import functional as F

from chopmark.models.layout import Layout
from chopmark.sequence.inputs import Events, Inputs, left_out, pooled
from chopmark.sequence.products import Linear


class Transformer(Module):  # type: ignore[misc]
    """A stack of attention and feed-forward steps.

    Parameters
    ----------
    layout
        What is read of an event.
    width, heads, depth
        D, H and the number of layers; D is a multiple of 4 H where `rotary`.
    plain
        As the seed has it: norm after each step, ReLU, no rotation, mean over the events.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        width: int,
        heads: int,
        depth: int,
        dropout: float,
        plain: bool,
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.events = Events(layout, width, generator)
        self.layers = ModuleList(
            Attending(width, heads, plain=plain, generator=generator) for _ in range(depth)
        )
        self.scale_D = Parameter(torch.ones(width))
        self.dropout, self.plain = dropout, plain
        self.readout_width = width if plain else 3 * width + 2

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Vectors of the events (N, D), and the readout of the pieces now (B, R)."""
        x_ND = self.events(inputs)
        pieces = Pieces.of(inputs)
        dropout = self.dropout if self.training else 0.0
        for layer in self.layers:
            x_ND = layer(x_ND, pieces, dropout)
        if not self.plain:
            x_ND = F.rms_norm(x_ND, (x_ND.shape[1],), self.scale_D)
        mean_BD, most_BD = pooled(x_ND, inputs.offsets)
        if self.plain:
            return x_ND, mean_BD
        lengths = inputs.lengths
        some = (lengths > 0).nonzero()[:, 0]
        last_BD = torch.zeros_like(mean_BD)
        last_BD = last_BD.index_put((some,), x_ND[inputs.offsets[1:][some] - 1])
        count_B1 = torch.log1p(lengths.to(x_ND.dtype))[:, None]
        since_B1 = torch.log1p(inputs.since_B1) / 4.0
        return x_ND, torch.cat([last_BD, mean_BD, most_BD, count_B1, since_B1], dim=1)


@dataclass(frozen=True, slots=True, eq=False)
class Pieces:
    """Where events stand when their pieces are padded, and who may be attended to.

    Attributes
    ----------
    place_N : (N,) int64
        Row of each event among the B * T padded ones.
    size : (B, T)
    mask_B11T : (B, 1, 1, T) bool, or None where no piece is padded
    order_N, log_age_N : (N,) float32
        Events after this one in the piece, and the logarithm of its age.
    """

    place_N: Tensor
    size: tuple[int, int]
    mask_B11T: Tensor | None
    order_N: Tensor
    log_age_N: Tensor

    @classmethod
    def of(cls, inputs: Inputs) -> "Pieces":
        """The places of a batch."""
        lengths, first = inputs.lengths, inputs.offsets[:-1]
        num_pieces, num_events = len(lengths), len(inputs.rows)
        longest = max(int(lengths.max()) if num_pieces else 0, 1)
        device = lengths.device
        owner = torch.repeat_interleave(
            torch.arange(num_pieces, device=device), lengths, output_size=num_events
        )
        within = torch.arange(num_events, device=device) - first[owner]
        mask = None
        if int(lengths.min() if num_pieces else 0) < longest:
            # An empty piece attends to its padding: nobody reads what comes of it.
            places = torch.arange(longest, device=device)
            mask = (places < lengths.clamp(min=1)[:, None])[:, None, None, :]
        return cls(
            owner * longest + within,
            (num_pieces, longest),
            mask,
            (lengths[owner] - 1 - within).float(),
            inputs.log_age_N,
        )


class Attending(Module):  # type: ignore[misc]
    """One layer: look at the other events of the piece, then think about what was seen."""

    def __init__(self, width: int, heads: int, *, plain: bool, generator: torch.Generator) -> None:
        super().__init__()
        self.heads, self.plain = heads, plain
        self.qkv = Linear(width, 3 * width, generator)
        self.mix = Linear(width, width, generator)
        self.inner = Linear(width, 4 * width, generator)
        self.outer = Linear(4 * width, width, generator)
        self.scales_2D = Parameter(torch.ones(2, width))
        self.shifts_2D = Parameter(torch.zeros(2, width)) if plain else None

    def forward(self, x_ND: Tensor, pieces: Pieces, dropout: float) -> Tensor:
        """(N, D)."""
        if self.plain:
            x_ND = self._norm(x_ND + left_out(self._attended(x_ND, pieces), dropout, True), 0)
            thought_ND = self.outer(F.relu(self.inner(x_ND)))
            return self._norm(x_ND + left_out(thought_ND, dropout, True), 1)
        x_ND = x_ND + left_out(self._attended(self._norm(x_ND, 0), pieces), dropout, True)
        thought_ND = self.outer(F.gelu(self.inner(self._norm(x_ND, 1)), approximate="tanh"))
        return x_ND + left_out(thought_ND, dropout, True)

    def _norm(self, x_ND: Tensor, step: int) -> Tensor:
        width = (x_ND.shape[1],)
        if self.shifts_2D is not None:
            return F.layer_norm(x_ND, width, self.scales_2D[step], self.shifts_2D[step])
        return F.rms_norm(x_ND, width, self.scales_2D[step])

    def _attended(self, x_ND: Tensor, pieces: Pieces) -> Tensor:
        num_events, width = x_ND.shape
        q_NHE, k_NHE, v_NHE = (
            self.qkv(x_ND).view(num_events, 3, self.heads, width // self.heads).unbind(1)
        )
        if not self.plain:
            turns = turns_of(pieces.order_N, pieces.log_age_N, q_NHE.shape[2])
            q_NHE, k_NHE = turned(q_NHE, *turns), turned(k_NHE, *turns)
        num_pieces, longest = pieces.size

        def padded(part_NHE: Tensor) -> Tensor:
            flat = part_NHE.new_zeros(num_pieces * longest, *part_NHE.shape[1:])
            flat = flat.index_copy(0, pieces.place_N, part_NHE)
            return flat.view(num_pieces, longest, self.heads, width // self.heads).transpose(1, 2)

        seen_BHTE = F.scaled_dot_product_attention(
            padded(q_NHE), padded(k_NHE), padded(v_NHE), attn_mask=pieces.mask_B11T
        )
        seen_ND = seen_BHTE.transpose(1, 2).reshape(-1, width)[pieces.place_N]
        return self.mix(seen_ND)


def turns_of(order_N: Tensor, log_age_N: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Cosines and sines (N, 1, E / 2) of the angles: by age in the first half, then by order."""
    count = head_width // 4
    steps = torch.arange(count, device=order_N.device, dtype=torch.float32) / max(count, 1)
    by_age = log_age_N[:, None] * (4.0 * 0.05**steps)  # from a sixth of a factor e to all ages
    by_order = order_N[:, None] * 1e-3**steps
    angles_N1E = torch.cat([by_age, by_order], dim=1)[:, None]
    return torch.cos(angles_N1E), torch.sin(angles_N1E)


def turned(x_NHE: Tensor, cos_N1E: Tensor, sin_N1E: Tensor) -> Tensor:
    """Pairs of coordinates (i, i + E / 2) turned by their angles."""
    left, right = x_NHE.chunk(2, dim=2)
    return torch.cat([left * cos_N1E - right * sin_N1E, left * sin_N1E + right * cos_N1E], dim=2)

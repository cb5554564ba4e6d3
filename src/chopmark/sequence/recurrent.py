"""The recurrent encoder: gated sums that fade with time, updated in O(1) per event.

    sum_t    = sigmoid(keep_t) * exp(-gap_t / lifetime) * sum_{t-1}    + sigmoid(let_t) * v_t
    weight_t = sigmoid(keep_t) * exp(-gap_t / lifetime) * weight_{t-1} + sigmoid(let_t)

Each channel of the state fades by the clock, with a lifetime of its own that is learned: from
a minute to years. With open gates such a sum *is* a windowed count or amount, and sum over weight a
windowed mean: the hand-made features that are so hard to beat. In half of the channels what is
let in replaces what was kept (the state before is also taken ``1 - sigmoid(let_t)`` times), so
that they hold the last value of its kind and how long ago it was. Gates let the network forget
and choose. What is read at the end are sums and averages of all layers. Sums fade on from the last
event to now, so it is a function of history and of now (row G32).

The recurrence is linear, so all products are over all events at once and only one elementwise
step runs through time: several times the speed of a GRU of equal width.

Shape suffixes: N events of a batch, B pieces, D width, R width of the readout.

References
----------
Antonio Orvieto et al., "Resurrecting recurrent neural networks for long sequences", 2023.
Soham De et al., "Griffin: mixing gated linear recurrences with local attention", 2024.
Leo Feng et al., "Were RNNs all we needed?", 2024.
"""

import math

import torch
from torch import Tensor
from torch.nn import Module, ModuleList, Parameter
from torch.nn import functional as F

from chopmark.models.layout import Layout
from chopmark.models.towers import LEAST
from chopmark.sequence.inputs import Events, Inputs, left_out, pooled, squash
from chopmark.sequence.products import Linear
from chopmark.sequence.scan import scan


class Recurrent(Module):  # type: ignore[misc]
    """A stack of fading gated sums.

    Parameters
    ----------
    layout
        What is read of an event; without its age, which changes with now.
    width
        D, of each event's vector and of the state of each layer.
    depth
        Number of layers.
    dropout
        Share of the events that a layer says nothing about, in training.
    lifetimes
        Seconds: the channels' lifetimes begin evenly between these, on a scale of factors.
    """

    def __init__(
        self,
        layout: Layout,
        *,
        width: int,
        depth: int,
        dropout: float,
        lifetimes: tuple[float, float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        self.events = Events(layout, width, generator)
        self.layers = ModuleList(Fading(width, lifetimes, generator) for _ in range(depth))
        self.dropout = dropout
        self.readout_width = (2 * depth + 2) * width + 2

    def forward(self, inputs: Inputs) -> tuple[Tensor, Tensor]:
        """Vectors of the events (N, D), and the readout of the pieces now (B, R)."""
        x_ND = self.events(inputs)
        lengths = inputs.lengths
        some = lengths > 0
        place, last = some.nonzero()[:, 0], inputs.offsets[1:][some] - 1
        empty_BD = x_ND.new_zeros(len(lengths), x_ND.shape[1])
        parts = []
        for layer in self.layers:
            change_ND, sum_ND, weight_ND = layer(x_ND, inputs)
            x_ND = x_ND + left_out(change_ND, self.dropout, self.training)
            left_BD = torch.exp(-inputs.since_B1[some] * layer.rates_D)
            parts += [squash(sum_ND[last] * left_BD), sum_ND[last] / (weight_ND[last] + LEAST)]
        parts = [empty_BD.index_put((place,), part_BD) for part_BD in parts]
        count_B1 = torch.log1p(lengths.to(x_ND.dtype))[:, None]
        since_B1 = torch.log1p(inputs.since_B1) / 4.0
        return x_ND, torch.cat([*parts, *pooled(x_ND, inputs.offsets), count_B1, since_B1], dim=1)


class Fading(Module):  # type: ignore[misc]
    """One layer: normalise, gate, fade and add up, and mix."""

    def __init__(
        self, width: int, lifetimes: tuple[float, float], generator: torch.Generator
    ) -> None:
        super().__init__()
        half = (width + 1) // 2
        self.scale_D = Parameter(torch.ones(width))
        self.inner = Linear(width, 4 * width, generator)
        self.outer = Linear(width, width, generator)
        with torch.no_grad():
            # Keep by default; each channel lets some kinds of event in and others not.
            self.inner.bias[width : 2 * width] = 5.0
            self.inner.weight[2 * width : 3 * width] *= 3.0
        # All lifetimes in the first half of the channels, and all again in the second.
        places = (torch.arange(width) % half) / max(half - 1, 1)
        spread = math.log(lifetimes[1] / lifetimes[0])
        self.log_rates_D = Parameter(-math.log(lifetimes[0]) - spread * places)

    @property
    def rates_D(self) -> Tensor:
        """1 / lifetime, per second."""
        return torch.exp(self.log_rates_D)

    def forward(self, x_ND: Tensor, inputs: Inputs) -> tuple[Tensor, Tensor, Tensor]:
        """What the layer adds to the events, its sums after each, and the sums of what was let
        in, by which they are averages; all (N, D)."""
        z_ND = F.rms_norm(x_ND, (x_ND.shape[1],), self.scale_D)
        v_ND, keep_ND, let_ND, open_ND = self.inner(z_ND).chunk(4, dim=1)
        a_ND = torch.sigmoid(keep_ND) * torch.exp(-inputs.gap_N1 * self.rates_D)
        let_ND = torch.sigmoid(let_ND)
        # In the second half of the channels what is let in takes the place of what was there.
        half = x_ND.shape[1] // 2
        a_ND = torch.cat([a_ND[:, :half], a_ND[:, half:] * (1.0 - let_ND[:, half:])], dim=1)
        sum_ND = scan(a_ND, let_ND * v_ND, inputs.offsets)
        weight_ND = scan(a_ND, let_ND, inputs.offsets)
        return self.outer(squash(sum_ND) * F.silu(open_ND)), sum_ND, weight_ND

"""A batch of pieces of histories as tensors, and events as vectors."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.nn import functional as F

from chopmark.histories.batch import Batch
from chopmark.models.layout import Layout


@dataclass(frozen=True, slots=True, eq=False)
class Inputs:
    """What an encoder reads of B pieces with N events in all.

    Attributes
    ----------
    offsets : (B + 1,) int64
    rows, weights : (N, M) int32, float32
        The terms of each event (`Layout.terms`).
    gap_N1 : (N, 1) float32
        Seconds since the event before it in the piece, 0 for the first.
    log_age_N : (N,) float32
        log1p of the seconds to now.
    since_B1 : (B, 1) float32
        Seconds from the last event to now.
    """

    offsets: Tensor
    rows: Tensor
    weights: Tensor
    gap_N1: Tensor
    log_age_N: Tensor
    since_B1: Tensor

    @classmethod
    def of(cls, batch: Batch, layout: Layout, device: torch.device | None = None) -> "Inputs":
        """The tensors of a batch, on a device."""
        rows, weights = layout.terms(batch)

        def tensor(array: object) -> Tensor:
            found = torch.as_tensor(array)
            return found if device is None else found.to(device, non_blocking=True)

        return cls(
            tensor(batch.offsets),
            tensor(rows),
            tensor(weights),
            tensor(batch.gap)[:, None],
            tensor(batch.log_age),
            tensor(batch.since_last)[:, None],
        )

    @property
    def lengths(self) -> Tensor:
        """(B,) events of each piece."""
        return self.offsets.diff()


class Events(torch.nn.Module):  # type: ignore[misc]
    """Events as vectors (N, D): each the weighted sum of its rows of one table."""

    def __init__(self, layout: Layout, width: int, generator: torch.Generator) -> None:
        super().__init__()
        scale = layout.num_terms**-0.5
        self.table = Parameter(torch.randn(layout.num_rows, width, generator=generator) * scale)

    def forward(self, inputs: Inputs) -> Tensor:
        """(N, D)."""
        if len(inputs.rows) == 0:
            return self.table[:0]
        return F.embedding_bag(
            inputs.rows, self.table, per_sample_weights=inputs.weights, mode="sum"
        )


class _Squash(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        size = x.abs()
        ctx.save_for_backward(size)
        return torch.log1p(size).copysign_(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (size,) = ctx.saved_tensors
        return gradients[0] / (size + 1.0)


def squash(x: Tensor) -> Tensor:
    """sign(x) log(1 + |x|): sums of any size made comparable; keeps one array for the way back."""
    found: Tensor = _Squash.apply(x)
    return found


def left_out(x_ND: Tensor, share: float, training: bool) -> Tensor:
    """Dropout of whole rows: a random number for each event costs nothing, one for each of its
    channels more than the products."""
    if not training or share == 0.0:
        return x_ND
    keep_N1 = torch.rand(len(x_ND), 1, device=x_ND.device) >= share
    return x_ND * (keep_N1.to(x_ND.dtype) / (1.0 - share))


def pooled(x_ND: Tensor, offsets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and maximum over the events of each piece, (B, D) both; zeros for an empty one."""
    lengths = offsets.diff()
    owner = torch.repeat_interleave(
        torch.arange(len(lengths), device=x_ND.device), lengths, output_size=len(x_ND)
    )
    total_BD = x_ND.new_zeros(len(lengths), x_ND.shape[1]).index_add(0, owner, x_ND)
    mean_BD = total_BD / lengths.clamp(min=1)[:, None]
    index = owner[:, None].expand_as(x_ND)
    most_BD = torch.zeros_like(mean_BD).scatter_reduce(0, index, x_ND, "amax", include_self=False)
    return mean_BD, most_BD

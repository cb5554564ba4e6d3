"""The one step of a linear recurrence over pieces of any length, without padding.

    h_t = a_t * h_{t-1} + x_t        elementwise, h before a piece is 0

All else of a recurrent layer is matrix products over all events at once; this runs through the
pieces as they lie in memory. On the CPU it is compiled code, elsewhere a loop over places that
takes all pieces at a time.

Shape suffixes: N events of a batch, D width, B pieces, T longest piece.
"""

from typing import Any

import numpy as np
import torch
from numba import njit
from torch import Tensor

from chopmark.models.towers import scan_forward


def scan(a_ND: Tensor, x_ND: Tensor, offsets: Tensor) -> Tensor:
    """(N, D) states after each event.

    Parameters
    ----------
    a_ND, x_ND
        What is kept of the state before, and what comes to it.
    offsets
        (B + 1,) int64: piece b has the events ``offsets[b]:offsets[b + 1]``.
    """
    if a_ND.device.type != "cpu":
        return _by_places(a_ND, x_ND, offsets)
    h_ND: Tensor = _Scan.apply(a_ND.contiguous(), x_ND.contiguous(), offsets)
    return h_ND


def _by_places(a_ND: Tensor, x_ND: Tensor, offsets: Tensor) -> Tensor:
    """The same in plain torch: place by place, all pieces that are so long at a time."""
    lengths, order = torch.sort(offsets.diff(), descending=True, stable=True)
    first = offsets[:-1][order]
    counts = (lengths[:, None] > torch.arange(int(lengths.max()) if len(lengths) else 0,
                                              device=lengths.device)).sum(0).tolist()  # fmt: skip
    h_BD = a_ND.new_zeros(len(lengths), a_ND.shape[1])
    found, rows = [], []
    for place, count in enumerate(counts):
        at = first[:count] + place
        h_BD = a_ND[at] * h_BD[:count] + x_ND[at]
        found.append(h_BD)
        rows.append(at)
    if not found:
        return x_ND
    return torch.empty_like(x_ND).index_copy(0, torch.cat(rows), torch.cat(found))


class _Scan(torch.autograd.Function):  # type: ignore[misc]
    @staticmethod
    def forward(ctx: Any, a_ND: Tensor, x_ND: Tensor, offsets: Tensor) -> Tensor:
        h_ND = torch.empty_like(x_ND)
        scan_forward(a_ND.detach().numpy(), x_ND.detach().numpy(), offsets.numpy(), h_ND.numpy())
        ctx.save_for_backward(a_ND, h_ND, offsets)
        return h_ND

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        a_ND, h_ND, offsets = ctx.saved_tensors
        da_ND, dx_ND = torch.empty_like(a_ND), torch.empty_like(a_ND)
        _backward(
            a_ND.numpy(),
            h_ND.numpy(),
            offsets.numpy(),
            gradients[0].contiguous().numpy(),
            da_ND.numpy(),
            dx_ND.numpy(),
        )
        return da_ND, dx_ND, None


@njit(cache=True, fastmath={"contract"})
def _backward(a, h, offsets, dh, da, dx):  # type: ignore[no-untyped-def]
    width = h.shape[1]
    for piece in range(offsets.size - 1):
        first, last = offsets[piece], offsets[piece + 1]
        for i in range(last - 1, first - 1, -1):
            if i + 1 == last:
                dx[i] = dh[i]
            else:
                for j in range(width):
                    dx[i, j] = dh[i, j] + a[i + 1, j] * dx[i + 1, j]
            if i == first:
                da[i] = np.float32(0.0)
            else:
                for j in range(width):
                    da[i, j] = dx[i, j] * h[i - 1, j]

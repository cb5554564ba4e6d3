"""The processes that train one model together: alone, or as torchrun started them.

The code of a model stays that of one device; this is all that several devices add to it. Each
process takes its rows of every batch and gradients are added up, so that all hold the same
weights. Serves A9 and B8 of the requirements.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, distributed


@dataclass(frozen=True, slots=True, kw_only=True)
class Ranks:
    """This process's place among those that train together; alone, it is rank 0 of 1.

    Attributes
    ----------
    rank, size
        Which process this is, from 0 on, and how many there are.
    device
        Where it computes.
    """

    rank: int
    size: int
    device: torch.device

    @classmethod
    def joined(cls) -> Self:
        """The place that torchrun's environment names (nccl on CUDA, gloo on CPUs).

        The group is joined once and kept for the life of the process, as torch has one default
        group; one that the caller has made is used as it is.
        """
        cuda = torch.cuda.is_available()
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            return cls(rank=0, size=1, device=torch.device("cuda" if cuda else "cpu"))
        device = torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if cuda else "cpu")
        if cuda:
            torch.cuda.set_device(device)
        if not distributed.is_initialized():
            distributed.init_process_group("nccl" if cuda else "gloo")
        return cls(rank=distributed.get_rank(), size=distributed.get_world_size(), device=device)

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by its sum over the processes, the same bits in all of them."""
        if self.size == 1:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        distributed.all_reduce(flat)
        totals = flat.split([gradient.numel() for gradient in gradients])
        for gradient, total in zip(gradients, totals, strict=True):
            gradient.copy_(total.view_as(gradient))

    def agreed(self, values: Tensor) -> Tensor:
        """What rank 0 has: all processes must stop at the same epoch."""
        if self.size > 1:
            distributed.broadcast(values, src=0)
        return values

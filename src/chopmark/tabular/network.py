"""The network of the deep learner, and its training: torch, one random stream.

Several nets of one shape (one per fold) are trained at once, as one batch of matrices: on
small tables the time goes into calls, not into arithmetic. Each net has members that share its
weights and differ in how they read the columns (see `chopmark.models.dense` for the equations).
The loss is the mean of the members' own losses, so that each of them learns to answer alone.
Serves A4 and A9 of the requirements.

Shape suffixes: F nets, K members, B rows of a batch, N rows, M encoded columns, P places,
H width.

References
----------
Yury Gorishniy et al., "TabM: Advancing tabular deep learning with parameter-efficient
ensembling", 2024.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Parameter, ParameterList
from torch.nn import functional as F

from chopmark.models.dense import Dense
from chopmark.ranks import Ranks
from chopmark.tabular.places import Places
from chopmark.tabular.problem import Objective, Problem

if TYPE_CHECKING:
    from chopmark.tabular.deep import Settings

_STRIP = 1 << 20
_CHUNK = 2_048


class Network(torch.nn.Module):  # type: ignore[misc]
    """F nets of one shape, each with an average row of its own.

    Parameters
    ----------
    places
        Places of the encoded columns.
    settings
        Shape of the nets.
    weights_FP
        How much of each net's average row lies at each place.
    start_F
        z that the nets begin with: log-odds of the base rate, or the mean.
    generator
        Of the initial weights.
    """

    owner_P: Tensor
    first_P: Tensor
    is_edge_P1: Tensor
    seen_FP1: Tensor
    weights_FP1: Tensor

    def __init__(
        self,
        places: Places,
        settings: "Settings",
        weights_FP: Tensor,
        start_F: Sequence[float],
        generator: torch.Generator,
    ) -> None:
        super().__init__()
        nets, num_places = weights_FP.shape
        members, width, num_columns = settings.members, settings.width, len(places.columns)

        def uniform(*shape: int, fan: float = width) -> Tensor:
            return (torch.rand(shape, generator=generator) * 2.0 - 1.0) * fan**-0.5

        firsts = places.columns["place"].astype(np.int64)[places.owner]
        is_edge_P1 = torch.from_numpy(places.is_edge)[:, None]
        self.register_buffer("owner_P", torch.from_numpy(places.owner))
        self.register_buffer("first_P", torch.from_numpy(firsts))
        self.register_buffer("is_edge_P1", is_edge_P1)
        self.register_buffer("weights_FP1", weights_FP[..., None])
        # A code that no row had says what the average row says: nothing.
        self.register_buffer("seen_FP1", (weights_FP[..., None] > 0) | is_edge_P1)
        # The steps of a number add up: together they vary as much as one code's.
        fan_P1 = torch.from_numpy(places.fan).float()[:, None]
        steps_FPH = uniform(nets, num_places, width, fan=num_columns / 3.0) * fan_P1**-0.5
        self.steps_FPH = Parameter(steps_FPH)
        # Members begin as different as they can: each reads every column with its own sign.
        signs_FKM = torch.randint(0, 2, (nets, members, num_columns), generator=generator)
        self.adapters_FKM = Parameter(signs_FKM * 2.0 - 1.0)
        self.hidden_FHH = ParameterList(
            uniform(nets, width, width) for _ in range(settings.depth - 1)
        )
        self.biases_FK1H = ParameterList(
            uniform(nets, 1, 1, width).repeat(1, members, 1, 1) for _ in range(settings.depth)
        )
        self.heads_FKH1 = Parameter(uniform(nets, members, width, 1))
        start_F111 = torch.tensor(start_F, dtype=torch.float32)[:, None, None, None]
        self.shifts_FK11 = Parameter(start_F111.repeat(1, members, 1, 1))

    @property
    def decayed(self) -> list[Tensor]:
        """Weights that decay towards zero."""
        return [self.steps_FPH, *self.hidden_FHH, self.heads_FKH1]

    @property
    def free(self) -> list[Tensor]:
        """Adapters and biases, which do not."""
        return [self.adapters_FKM, *self.biases_FK1H, self.shifts_FK11]

    def levels(self) -> Tensor:
        """(F, P, H) what each place adds to the first layer; the average row adds zero."""
        steps_FPH = self.steps_FPH * self.is_edge_P1
        sums_FPH = steps_FPH.cumsum(1)
        before_FPH = (sums_FPH - steps_FPH)[:, self.first_P]
        levels_FPH = torch.where(self.is_edge_P1, sums_FPH - before_FPH, self.steps_FPH)
        nets, _, width = levels_FPH.shape
        means_FMH = levels_FPH.new_zeros(nets, self.adapters_FKM.shape[2], width)
        means_FMH = means_FMH.index_add(1, self.owner_P, levels_FPH * self.weights_FP1)
        return (levels_FPH - means_FMH[:, self.owner_P]) * self.seen_FP1

    def forward(self, places_FBM: Tensor, shares_FBM: Tensor, keep: "Keep | None" = None) -> Tensor:
        """(F, K, B) z of each member; `keep` leaves units out, in training."""
        nets, batch, columns = places_FBM.shape
        members, width = self.heads_FKH1.shape[1:3]
        inputs = self._inputs(places_FBM, shares_FBM).view(nets, columns, batch * width)
        u_FKBH = torch.bmm(self.adapters_FKM, inputs).view(nets, members, batch, width)
        active_FKBH = (u_FKBH + self.biases_FK1H[0]).relu()
        for layer, weights_FHH in enumerate(self.hidden_FHH, start=1):
            if keep is not None:
                active_FKBH = active_FKBH * keep.window()
            flat = torch.bmm(active_FKBH.view(nets, members * batch, width), weights_FHH)
            u_FKBH = flat.view(nets, members, batch, width) + self.biases_FK1H[layer]
            active_FKBH = u_FKBH.relu()
        if keep is not None:
            active_FKBH = active_FKBH * keep.window()
        return (active_FKBH @ self.heads_FKH1 + self.shifts_FK11).squeeze(-1)

    @torch.no_grad()
    def dense(self, places: Places) -> Dense:
        """The first net, ready to serve."""
        members, width = self.heads_FKH1.shape[1:3]
        hidden = [_array(matrix_FHH[0]) for matrix_FHH in self.hidden_FHH]
        return Dense(
            columns=places.columns,
            edges=places.edges,
            levels=_array(self.levels()[0]),
            adapters=_array(self.adapters_FKM[0]),
            hidden=np.array(hidden).reshape(-1, width, width),
            biases=np.array([_array(bias_FK1H[0, :, 0]) for bias_FK1H in self.biases_FK1H]),
            heads=_array(self.heads_FKH1[0, :, :, 0]) / members,
            shift=float(_array(self.shifts_FK11[0]).mean()),
        )

    def _inputs(self, places_FBM: Tensor, shares_FBM: Tensor) -> Tensor:
        """(F * M * B, H) the vector of each column and row."""
        levels_FPH = self.levels()
        nets, num_places, width = levels_FPH.shape
        begin_F11 = torch.arange(nets, device=places_FBM.device)[:, None, None] * num_places
        at = (places_FBM + begin_F11).transpose(1, 2).flatten()
        shares = shares_FBM.transpose(1, 2).reshape(-1, 1)
        # The next edge's step is the way to it. Where there is none, the share is zero.
        ways_FPH = self.steps_FPH.roll(-1, dims=1)
        low = F.embedding(at, levels_FPH.reshape(-1, width))
        return low + shares * F.embedding(at, ways_FPH.reshape(-1, width))


class Keep:
    """Which units stay in each step (dropout): windows of one long random strip.

    Drawing a number per unit takes longer than computing with it; a window at a random place
    of the strip costs one draw.

    Parameters
    ----------
    shape
        (F, K, B, H) of a batch over all processes.
    dropout
        Share of units that are left out, in [0, 1).
    """

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        dropout: float,
        ranks: Ranks,
        generator: torch.Generator,
    ) -> None:
        self._shape, self._ranks, self._generator = shape, ranks, generator
        self._count = int(np.prod(shape))
        strip = torch.rand(_STRIP + self._count, generator=generator) >= dropout
        self._strip = (strip / (1.0 - dropout)).to(ranks.device)

    def window(self) -> Tensor:
        """(F, K, b, H) zero, or one over the share that stays, for this process's rows."""
        begin = int(torch.randint(0, _STRIP, (1,), generator=self._generator))
        all_FKBH = self._strip[begin : begin + self._count].view(self._shape)
        return all_FKBH[:, :, self._ranks.rank :: self._ranks.size]


class Training:
    """Nets in training, one per set of rows, an epoch at a time.

    Parameters
    ----------
    problem
        The table, the weights of its rows, the objective and the seed.
    places
        Where its values lie.
    settings
        Shape and training of the nets.
    learn
        Row numbers that each net learns from. All nets take the same number of steps: one with
        fewer rows sees some of them twice.
    """

    def __init__(
        self,
        problem: Problem,
        places: Places,
        settings: "Settings",
        learn: Sequence[NDArray[np.int64]],
    ) -> None:
        self._ranks = Ranks.joined()
        device = self._ranks.device
        located, shares = places.locate(problem.x)
        self._places, self._objective = places, problem.objective
        self._places_NM = torch.from_numpy(located).to(device)
        self._shares_NM = torch.from_numpy(shares).to(device)
        weights = np.ones(len(problem.y)) if problem.weights is None else problem.weights
        # Copies: numpy's arrays may be read-only, which torch does not know.
        self._y_N = torch.tensor(problem.y, dtype=torch.float32, device=device)
        self._weights_N = torch.tensor(weights / weights.mean(), dtype=torch.float32, device=device)
        self._learn = [torch.from_numpy(rows) for rows in learn]
        longest = max(map(len, learn))
        self._num_steps = max(1, round(longest / settings.batch_of(longest)))
        self._batch = longest // self._num_steps
        # Drawn on the CPU whatever the device, so that all processes draw the same.
        self._generator = torch.Generator().manual_seed(problem.seed)
        average_FP = torch.from_numpy(
            np.stack([places.average(located[rows], shares[rows]) for rows in learn])
        )
        start_F = [_start(problem.y[rows], weights[rows], problem.objective) for rows in learn]
        self._network = Network(places, settings, average_FP, start_F, self._generator).to(device)
        shape = (len(learn), settings.members, self._batch, settings.width)
        self._keep = Keep(shape, settings.dropout, self._ranks, self._generator)
        decayed, free = {"params": self._network.decayed}, {"params": self._network.free}
        self._optimizer = torch.optim.AdamW(
            [{**decayed, "weight_decay": settings.decay}, {**free, "weight_decay": 0.0}],
            lr=settings.rate,
            fused=True,
        )

    def epoch(self) -> None:
        """See every row once, but for the few that whole batches leave over."""
        longest = max(map(len, self._learn))
        order_FN = torch.stack([self._shuffled(rows, longest) for rows in self._learn])
        for all_FB in order_FN.split(self._batch, dim=1)[: self._num_steps]:
            mine_FB = all_FB[:, self._ranks.rank :: self._ranks.size]
            self._step(mine_FB.to(self._ranks.device))

    def raw(self, rows: Sequence[NDArray[np.int64]]) -> list[NDArray[np.float64]]:
        """z that each net, as it is now, gives to its rows."""
        longest = max(map(len, rows))
        chosen_FN = torch.from_numpy(np.stack([np.resize(own, longest) for own in rows]))
        with torch.no_grad():
            chunks = [
                self._network(self._places_NM[some_FB], self._shares_NM[some_FB]).mean(1)
                for some_FB in chosen_FN.to(self._ranks.device).split(_CHUNK, dim=1)
            ]
        z_FN = _array(self._ranks.agreed(torch.cat(chunks, dim=1)))
        return [z[: len(own)] for z, own in zip(z_FN, rows, strict=True)]

    def agreed(self, number: float) -> float:
        """The number that the first of the processes has."""
        value = torch.tensor([number], dtype=torch.float64, device=self._ranks.device)
        return float(self._ranks.agreed(value))

    def dense(self) -> Dense:
        """The first net, ready to serve."""
        dense: Dense = self._network.dense(self._places)
        return dense

    def _step(self, mine_FB: Tensor) -> None:
        z_FKB = self._network(self._places_NM[mine_FB], self._shares_NM[mine_FB], self._keep)
        y_FKB = self._y_N[mine_FB][:, None].expand_as(z_FKB)
        losses_FKB = _losses(z_FKB, y_FKB, self._objective) * self._weights_N[mine_FB][:, None]
        # The sum over nets, which share nothing, of the mean over members and rows.
        loss = losses_FKB.sum() / (z_FKB.shape[1] * self._batch)
        self._optimizer.zero_grad()
        loss.backward()
        self._ranks.add_gradients([*self._network.decayed, *self._network.free])
        self._optimizer.step()

    def _shuffled(self, rows: Tensor, length: int) -> Tensor:
        order = torch.randperm(len(rows), generator=self._generator)
        return rows[order].repeat(-(-length // len(rows)))[:length]


@contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch compute with so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _start(y: NDArray[np.float64], weights: NDArray[np.float64], objective: Objective) -> float:
    mean = float(np.average(y, weights=weights))
    return float(np.log(mean / (1.0 - mean))) if objective == "binary" else mean


def _losses(z: Tensor, y: Tensor, objective: Objective) -> Tensor:
    if objective == "binary":
        return F.binary_cross_entropy_with_logits(z, y, reduction="none")
    return (z - y) ** 2


def _array(tensor: Tensor) -> NDArray[np.float64]:
    array: NDArray[np.float64] = tensor.cpu().double().numpy()
    return array

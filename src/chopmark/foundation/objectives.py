"""What a tower can be trained on without labels; each is a loss of one step.

    Pairs      the seed's: do two windows belong to one user? concatenated, half and half
    Contrast   which of all windows of the batch is the other one of this user? (InfoNCE)
    Next       what comes next at each event, when, and how much; and the rest of the window
    Masked     which token is hidden here? against sampled tokens (three ways), or two
    Bert       which token is hidden here, among all? 80 % hidden, 10 % wrong, 10 % as it is

Each puts its own last layers on the tower, which are thrown away. How well a pretext is
solved says nothing of the worth of an embedding (row G21): `foundation.suite` measures that.
Serves G7 to G12 and G22 to G24 of the requirements.

References
----------
Aaron van den Oord et al., "Representation learning with contrastive predictive coding", 2018.
Dmitrii Babaev et al., "CoLES: contrastive learning for event sequences", 2022.
Jacob Devlin et al., "BERT: pre-training of deep bidirectional transformers", 2019.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import Module, Parameter
from torch.nn import functional as F

from chopmark.histories import Slices
from chopmark.histories.aggregates import Aggregates
from chopmark.histories.batch import Batch
from chopmark.models.layout import NUM_KNOTS
from chopmark.sequence.inputs import Inputs
from chopmark.sequence.network import Tower
from chopmark.sequence.products import Linear

_MOST_CLASSES = 1_024
_MOST_EVENTS = 4_096
_PROJECTED = 128
_MOST_VALUES = 40
_LEAST_KNOWN = 0.05
_RANKS = np.linspace(0.0, 1.0, 65)
_DISTIL = 5.0


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """Both windows of all users of a step, through the tower once.

    Attributes
    ----------
    pieces, batch
        The earlier windows, then the later ones.
    hidden
        Events whose tokens the tower did not see.
    events_ND, embedding_BE
        What the tower says of the events and of the windows.
    """

    pieces: Slices
    batch: Batch
    hidden: NDArray[np.int64]
    events_ND: Tensor
    embedding_BE: Tensor


class Objective(Protocol):
    """A loss of one step, with the layers of its own that it trains."""

    layers: Module

    def hide(
        self, batch: Batch, inputs: Inputs, rng: np.random.Generator
    ) -> tuple[Inputs, NDArray[np.int64]]:
        """The inputs without what is to be guessed, and the events that are."""
        ...

    def loss(self, seen: Seen, rng: np.random.Generator, done: float) -> Tensor:
        """The loss; `done` is the share of the training that is over."""
        ...


class Open:
    """Hides nothing."""

    def hide(
        self, batch: Batch, inputs: Inputs, rng: np.random.Generator
    ) -> tuple[Inputs, NDArray[np.int64]]:
        """The inputs as they are."""
        return inputs, np.zeros(0, np.int64)


class Pairs(Open):
    """Sequence-pair classification with two towers of shared weights, as the seed has it."""

    def __init__(self, tower: Tower, generator: torch.Generator) -> None:
        width = tower.shape.width
        inner = Linear(2 * tower.embedding, width, generator)
        outer = Linear(width, 1, generator)
        self.layers = torch.nn.Sequential(inner, torch.nn.GELU(), outer)

    def loss(self, seen: Seen, rng: np.random.Generator, done: float) -> Tensor:
        """Cross-entropy of same user or not over a balanced set of pairs."""
        earlier_BE, later_BE = seen.embedding_BE.chunk(2)
        partner, same = balanced(len(earlier_BE), rng)
        z_B = self.layers(torch.cat([earlier_BE, later_BE[partner]], dim=1))[:, 0]
        return F.binary_cross_entropy_with_logits(z_B, torch.from_numpy(same).to(z_B))


class Contrast(Open):
    """InfoNCE: each window's partner among all windows of the other side, both ways.

    Parameters
    ----------
    hardest
        Negatives that count, the most alike ones; None for all of the batch.
    temperature
        Where the learned temperature begins.
    """

    def __init__(
        self,
        tower: Tower,
        generator: torch.Generator,
        *,
        hardest: int | None = None,
        temperature: float = 0.1,
    ) -> None:
        project = Linear(tower.embedding, _PROJECTED, generator)
        self.layers = torch.nn.ModuleDict({"project": project})
        self.layers.sharpness = Parameter(torch.tensor(float(np.log(1.0 / temperature))))
        self.hardest = hardest

    def loss(self, seen: Seen, rng: np.random.Generator, done: float) -> Tensor:
        """Mean cross-entropy over the windows of both sides."""
        projected = F.normalize(self.layers["project"](seen.embedding_BE), dim=1)
        earlier_BE, later_BE = projected.chunk(2)
        alike_BB = earlier_BE @ later_BE.T * self.layers.sharpness.exp().clamp(max=50.0)
        both = [self._chosen(alike_BB), self._chosen(alike_BB.T)]
        return torch.stack([F.cross_entropy(z, _place(z)) for z in both]).mean()

    def _chosen(self, alike_BB: Tensor) -> Tensor:
        """The partner and the hardest others, in place where there are no more than asked for."""
        count = len(alike_BB)
        if self.hardest is None or self.hardest >= count - 1:
            return alike_BB
        own = torch.eye(count, dtype=torch.bool, device=alike_BB.device)
        hard = alike_BB.masked_fill(own, -torch.inf).topk(self.hardest + 1, dim=1).indices
        kept = torch.zeros_like(own).scatter(1, hard[:, : self.hardest], True) | own
        return alike_BB.masked_fill(~kept, -torch.inf)


class Next(Open):
    """What comes: the next event's tokens and gap from each event's vector, and what is and
    will be in the windows from their embeddings (their counts, and those of the other window).

    Vectors of a transformer have seen the events after them: for it, windows alone count.
    """

    def __init__(self, tower: Tower, generator: torch.Generator, sizes: Sequence[int]) -> None:
        shape = tower.shape
        self.causal = shape.kind == "recurrent"
        self.sizes = [min(size, _MOST_CLASSES) for size in sizes]
        total = sum(self.sizes)
        self.layers = torch.nn.ModuleDict(
            {
                "own": Linear(tower.embedding, total, generator),
                "other": Linear(tower.embedding, total, generator),
            }
        )
        if self.causal:
            self.layers["events"] = Linear(shape.width, total + NUM_KNOTS, generator)

    def loss(self, seen: Seen, rng: np.random.Generator, done: float) -> Tensor:
        """Sum of the parts, each a mean."""
        bags_BV = self._bags(seen.batch, seen.embedding_BE.device)
        earlier_BV, later_BV = bags_BV.chunk(2)
        swapped_BV = torch.cat([later_BV, earlier_BV])
        own = F.mse_loss(self.layers["own"](seen.embedding_BE), torch.log1p(bags_BV))
        other = self._share_loss(self.layers["other"](seen.embedding_BE), swapped_BV)
        total = 10.0 * own + other
        if self.causal:
            total = total + self._event_loss(seen, rng)
        return total

    def _bags(self, batch: Batch, device: torch.device) -> Tensor:
        """(B, V) how often each token is in each window."""
        owner = np.repeat(np.arange(len(batch)), batch.lengths)
        total = sum(self.sizes)
        bags = np.zeros(len(batch) * total, np.float32)
        base = 0
        for column, size in enumerate(self.sizes):
            cells = owner * total + base + batch.ids[:, column] % size
            bags += np.bincount(cells, minlength=len(bags)).astype(np.float32)
            base += size
        return torch.from_numpy(bags.reshape(len(batch), total)).to(device)

    def _share_loss(self, z_BV: Tensor, bags_BV: Tensor) -> Tensor:
        """Cross-entropy of the shares of tokens, per column."""
        losses = []
        for z, bag in zip(z_BV.split(self.sizes, 1), bags_BV.split(self.sizes, 1), strict=True):
            share = bag / bag.sum(1, keepdim=True).clamp(min=1.0)
            losses.append(-(share * F.log_softmax(z, dim=1)).sum(1).mean())
        return torch.stack(losses).mean()

    def _event_loss(self, seen: Seen, rng: np.random.Generator) -> Tensor:
        batch = seen.batch
        follows = np.ones(batch.num_tokens, dtype=bool)
        follows[batch.offsets[1:][batch.lengths > 0] - 1] = False
        here = np.flatnonzero(follows)
        if len(here) == 0:
            return seen.events_ND.sum() * 0.0
        if len(here) > _MOST_EVENTS:
            here = np.sort(rng.choice(here, _MOST_EVENTS, replace=False))
        device = seen.events_ND.device
        z_NV = self.layers["events"](seen.events_ND[torch.from_numpy(here).to(device)])
        parts = z_NV.split([*self.sizes, NUM_KNOTS], dim=1)
        targets = [batch.ids[here + 1, j] % size for j, size in enumerate(self.sizes)]
        scale = (NUM_KNOTS - 1) / 18.0
        targets.append(np.minimum(batch.log_gap[here + 1] * scale + 0.5, NUM_KNOTS - 1))
        losses = [
            F.cross_entropy(z, torch.from_numpy(target.astype(np.int64)).to(device))
            for z, target in zip(parts, targets, strict=True)
        ]
        return torch.stack(losses).mean()


class Distil(Open):
    """The hand-made aggregates of a window, told from its embedding.

    Counts, recencies and means per type are what a careful analyst would ask of any history;
    an embedding that does not hold them loses to them. Each is told as its rank among the
    windows of a sample, so that no scale counts more than another.
    """

    def __init__(self, tower: Tower, generator: torch.Generator, sample: Slices) -> None:
        self._aggregates = Aggregates(most_values=_MOST_VALUES).fit(sample)
        values = self._table(sample)
        kept = np.isfinite(values).mean(axis=0) > _LEAST_KNOWN
        known = np.where(np.isfinite(values), values, np.nan)[:, kept]
        kept[kept] = np.nanstd(known, axis=0) > 0.0
        self._kept = np.flatnonzero(kept)
        self._grids = [
            np.quantile(column[np.isfinite(column)], _RANKS) for column in values.T[self._kept]
        ]
        self.layers = Linear(tower.embedding, max(len(self._kept), 1), generator)

    def loss(self, seen: Seen, rng: np.random.Generator, done: float) -> Tensor:
        """Mean squared error over what is known."""
        values = self._table(seen.pieces)[:, self._kept]
        targets = np.zeros((len(values), max(len(self._kept), 1)), np.float32)
        known = np.zeros_like(targets)
        for j, grid in enumerate(self._grids):
            column = values[:, j]
            there = np.isfinite(column)
            # Between the first and the last place that a value has among equal ones.
            low = np.searchsorted(grid, column[there], side="left")
            high = np.searchsorted(grid, column[there], side="right")
            targets[there, j] = 3.4 * ((low + high) / (2.0 * len(grid)) - 0.5)
            known[there, j] = 1.0
        device = seen.embedding_BE.device
        told_BA, known_BA = self.layers(seen.embedding_BE), torch.from_numpy(known).to(device)
        wrong_BA = (told_BA - torch.from_numpy(targets).to(device)) ** 2 * known_BA
        return _DISTIL * wrong_BA.sum() / known_BA.sum().clamp(min=1.0)

    def _table(self, pieces: Slices) -> NDArray[np.float32]:
        found: NDArray[np.float32] = self._aggregates.table(pieces).to_numpy()
        return found


class Masked:
    """A hidden token against sampled ones.

    Parameters
    ----------
    sampling
        Where wrong tokens come from: all alike ("uniform"), as often as they occur
        ("empirical"), or from the one to the other as training goes on ("adaptive").
    classes
        "binary": is it this one, asked of the right one and of one wrong; "many": which of
        the right one and `num_wrong` wrong ones.
    share
        Of the events whose token is hidden.
    """

    def __init__(
        self,
        tower: Tower,
        generator: torch.Generator,
        counts: NDArray[np.float64],
        *,
        sampling: Literal["uniform", "empirical", "adaptive"] = "adaptive",
        classes: Literal["binary", "many"] = "many",
        num_wrong: int = 64,
        share: float = 0.15,
    ) -> None:
        self.sampling, self.classes = sampling, classes
        self.num_wrong = 1 if classes == "binary" else num_wrong
        self.share = share
        self.counts = counts
        self._num_terms = len(tower.layout.sizes) + tower.layout.num_numbers
        self.layers = Linear(tower.shape.width, len(counts), generator)

    def hide(
        self, batch: Batch, inputs: Inputs, rng: np.random.Generator
    ) -> tuple[Inputs, NDArray[np.int64]]:
        """All tokens of some events count for nothing; their times stay."""
        hidden = np.flatnonzero(rng.random(batch.num_tokens) < self.share)
        weights = inputs.weights.clone()
        weights[torch.from_numpy(hidden).to(weights.device), : self._num_terms] = 0.0
        return replace(inputs, weights=weights), hidden

    def loss(self, seen: Seen, rng: np.random.Generator, done: float) -> Tensor:
        """Mean over the hidden tokens."""
        z_NV, right = guesses(self.layers, seen)
        if len(right) == 0:
            return seen.events_ND.sum() * 0.0
        chances = self.chances(done)
        wrong = rng.choice(len(chances), size=(len(right), self.num_wrong), p=chances)
        wrong_NK = torch.from_numpy(wrong).to(z_NV.device)
        z_right_N1 = z_NV.gather(1, right[:, None])
        z_wrong_NK = z_NV.gather(1, wrong_NK)
        # The right one, drawn as a wrong one, is no mistake.
        z_wrong_NK = z_wrong_NK.masked_fill(wrong_NK == right[:, None], -30.0)
        if self.classes == "binary":
            return F.softplus(-z_right_N1).mean() + F.softplus(z_wrong_NK).mean()
        z_NK = torch.cat([z_right_N1, z_wrong_NK], dim=1)
        return F.cross_entropy(z_NK, torch.zeros_like(right))

    def chances(self, done: float) -> NDArray[np.float64]:
        """(V,) how probable each token is as a wrong one, sum 1."""
        known = (self.counts > 0).astype(np.float64)
        weight = {"uniform": 0.0, "empirical": 1.0, "adaptive": done}[self.sampling]
        mixed: NDArray[np.float64] = (1.0 - weight) * known / known.sum()
        mixed += weight * self.counts / self.counts.sum()
        mixed /= mixed.sum()
        return mixed


class Bert:
    """A token among all: of 15 % of the events, 80 % hidden, 10 % wrong, 10 % as they are."""

    def __init__(
        self,
        tower: Tower,
        generator: torch.Generator,
        counts: NDArray[np.float64],
        *,
        share: float = 0.15,
    ) -> None:
        self.share = share
        self._known = np.flatnonzero(counts > 0)
        self.layers = Linear(tower.shape.width, len(counts), generator)

    def hide(
        self, batch: Batch, inputs: Inputs, rng: np.random.Generator
    ) -> tuple[Inputs, NDArray[np.int64]]:
        """The type of some events hidden or exchanged; their times stay."""
        hidden = np.flatnonzero(rng.random(batch.num_tokens) < self.share)
        fate = rng.random(len(hidden))
        weights, rows = inputs.weights.clone(), inputs.rows.clone()
        gone = torch.from_numpy(hidden[fate < 0.8]).to(weights.device)
        wrong = torch.from_numpy(hidden[(fate >= 0.8) & (fate < 0.9)]).to(weights.device)
        weights[gone, 0] = 0.0
        drawn = rng.choice(self._known, size=len(wrong)).astype(np.int32)
        rows[wrong, 0] = torch.from_numpy(drawn).to(rows.device)
        return replace(inputs, rows=rows, weights=weights), hidden

    def loss(self, seen: Seen, rng: np.random.Generator, done: float) -> Tensor:
        """Cross-entropy over all tokens, mean over the chosen events."""
        z_NV, right = guesses(self.layers, seen)
        return F.cross_entropy(z_NV, right) if len(right) else seen.events_ND.sum() * 0.0


class Together(Open):
    """The sum of several objectives that hide nothing."""

    def __init__(self, *parts: Open) -> None:
        self.parts = parts
        self.layers = torch.nn.ModuleList(part.layers for part in parts)  # type: ignore[attr-defined]

    def loss(self, seen: Seen, rng: np.random.Generator, done: float) -> Tensor:
        """The sum of their losses."""
        losses = [part.loss(seen, rng, done) for part in self.parts]  # type: ignore[attr-defined]
        return torch.stack(losses).sum()


def guesses(layer: Module, seen: Seen) -> tuple[Tensor, Tensor]:
    """(n, V) odds of all tokens for the hidden events, and (n,) the right ones."""
    device = seen.events_ND.device
    z_NV = layer(seen.events_ND[torch.from_numpy(seen.hidden).to(device)])
    right = torch.from_numpy(seen.batch.ids[seen.hidden, 0].astype(np.int64))
    return z_NV, right.to(device)


def balanced(count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """For each of `count` windows the row of its partner, and whether it is of the same user.

    Half are of one user and half of two, any two with the same chance (rows G10 and G11); an
    odd one falls to either side by chance. Of fewer than two users there are only pairs of one.
    """
    partner = np.arange(count)
    same = np.ones(count, dtype=bool)
    if count > 1:
        num_same = (count + int(rng.integers(2))) // 2
        apart = rng.permutation(count)[num_same:]
        others = rng.integers(count - 1, size=len(apart))
        partner[apart] = others + (others >= apart)
        same[apart] = False
    return partner, same


def _place(z_BB: Tensor) -> Tensor:
    return torch.arange(len(z_BB), device=z_BB.device)

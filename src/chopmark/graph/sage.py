"""GraphSAGE: a network that reads an address, whom it paid and who paid it, two steps away.

    h0(i) = clip((signed log x(i) - center) / spread, -5, 5), 0 where x(i) is NaN
    h(i)  = relu(W [h0(i); out-sum of h0; in-sum of h0] + b)                 layer 1
    g(i)  = relu(V [h(i); out-sum of h; in-sum of h] + c)                    layer 2
    log-odds = a [g(i); h0(i)] + d                                           the skip

    sum over a side of h = log(1 + degree) / mean log(1 + degree) * weighted mean of h there

A row of at most `fanout` neighbours is read whole; of a longer one so many are drawn by weight,
with the counters of `chopmark.graph.counter`: a score depends on no other address of the batch.
While learning, each pass draws anew. Nothing is learned of an address by name, so a model scores
addresses, and graphs, that it has never seen (`on`).

It differs from the paper in this: sums scaled by log degree in place of means or maxima, the two
directions apart, raw columns beside the last layer, and labels in place of walks to learn from.
The challenger of behaviour features in trees; serves row B16 of the requirements.

References: Hamilton, Ying and Leskovec, "Inductive Representation Learning on Large Graphs", 2017.
Corso et al., "Principal Neighbourhood Aggregation for Graph Nets", 2020 (the scale of sums).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call, untyped-decorator"
# Shapes: B addresses asked for, U addresses of the inner layer, K neighbours, C columns, D width.

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import (
    ArtifactError,
    DeclarationError,
    InvalidInput,
    InvalidTable,
    MissingExtra,
    StoreError,
)
from chopmark.graph.adjacency import Graph
from chopmark.graph.counter import drawn, fraction_of, place_of, stream_of
from chopmark.graph.propagation import slot_weights

try:
    import torch
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save
    from torch import Tensor
    from torch.nn import functional as F
except ModuleNotFoundError as error:
    if error.name not in ("torch", "safetensors"):
        raise
    raise MissingExtra("graph neural networks", "deep") from error

FORMAT = "chopmark-sage"
VERSION = 1

_MOST = 5.0
_LEAST_SPREAD = 1e-3
_HELD = 0.15


class SageModel:
    """Probability that an address is illicit, from its columns and those around it.

    Parameters
    ----------
    width : int, >= 1
        Of both layers.
    fanout : int, >= 1
        Neighbours that are read of each side of an address.
    epochs : int, >= 1
        Passes over the labelled addresses at most.
    patience : int, >= 1
        Passes without a better loss on addresses held out, after which it stops.
    rate, decay : float, > 0 and >= 0
        Learning rate, and decay of weights (AdamW).
    dropout : float in [0, 1)
        Of the two layers, while learning.
    batch : int, >= 1
        Addresses at once.
    seed : int, 0 to 2^62

    Examples
    --------
    >>> src, dst = np.arange(40), (np.arange(40) + 1) % 40
    >>> sides = [Graph.of_edges(src, dst, directed=side) for side in ("out", "in")]
    >>> columns, labels = np.arange(40.0)[:, None], np.arange(40) >= 20
    >>> model = SageModel(width=8, epochs=30).fit(*sides, columns, np.arange(40), labels)
    >>> model.score([1, 38]).round().tolist()
    [0.0, 1.0]
    """

    def __init__(
        self,
        *,
        width: int = 64,
        fanout: int = 10,
        epochs: int = 100,
        patience: int = 10,
        rate: float = 3e-3,
        decay: float = 1e-2,
        dropout: float = 0.2,
        batch: int = 256,
        seed: int = 0,
    ) -> None:
        for name, number in (
            ("width", width), ("fanout", fanout), ("epochs", epochs), ("patience", patience),
            ("batch", batch),
        ):  # fmt: skip
            if type(number) is not int or number < 1:
                raise DeclarationError(f"`{name}` of SageModel: expected 1, 2, ...; got {number!r}")
        for name, value, fits in (
            ("rate", rate, 0 < rate < np.inf), ("decay", decay, 0 <= decay < np.inf),
            ("dropout", dropout, 0 <= dropout < 1),
            ("seed", seed, type(seed) is int and 0 <= seed < 2**62),
        ):  # fmt: skip
            if not fits:
                raise DeclarationError(
                    f"`{name}` of SageModel: expected rate > 0, decay >= 0, dropout in [0, 1), "
                    f"seed of 0 to 2^62; got {value!r}"
                )
        self.options: dict[str, Any] = {
            "width": width, "fanout": fanout, "epochs": epochs, "patience": patience, "rate": rate,
            "decay": decay, "dropout": dropout, "batch": batch, "seed": seed,
        }  # fmt: skip
        self.history: list[float] = []
        """Loss on the addresses held out, after each pass."""
        self._tensors: dict[str, Tensor] = {}
        self._shift = 0.0
        self._reader: _Reader | None = None

    @property
    def num_columns(self) -> int:
        """Columns that it reads; 0 before it is fitted."""
        return len(self._tensors["center_C"]) if self._tensors else 0

    def fit(
        self,
        graph_out: Graph,
        graph_in: Graph,
        columns: NDArray[Any],
        ids: ArrayLike,
        labels: ArrayLike,
        *,
        validation: tuple[ArrayLike, ArrayLike] | None = None,
    ) -> SageModel:
        """Learn from labelled addresses; the pass that was best on those held out is kept.

        Parameters
        ----------
        graph_out, graph_in : Graph
            Of the same n addresses, made with ``directed="out"`` and ``"in"``.
        columns : (n, c) floats
            What is known of each address, as `Behaviour.features` gives it; NaN: does not exist.
        ids, labels : (m,)
            Labelled addresses, and whether each is illicit (1) or not (0). Classes count alike
            while learning; scores are set back to the share among these labels.
        validation : (ids, labels), optional
            To stop by. None: about one in seven of the labelled, drawn by class. Name it where
            addresses of one gang are labelled, or a gang is on both sides.

        Raises
        ------
        InvalidInput, InvalidTable
            If graphs, columns, ids or labels do not fit together, or a class is missing.
        """
        data = _Data.of(graph_out, graph_in, columns)
        nodes, y = data.labelled(ids, labels)
        seed = self.options["seed"]
        if validation is None:
            held = _held_out(y, np.random.default_rng(seed))
            nodes, y, val_nodes, val_y = nodes[~held], y[~held], nodes[held], y[held]
        else:
            val_nodes, val_y = data.labelled(*validation)
        center, spread, scale = data.statistics()
        tensors = _new_tensors(len(center), self.options["width"], seed)
        weights = [tensor.requires_grad_() for tensor in tensors.values()]
        tensors["center_C"], tensors["spread_C"] = torch.tensor(center), torch.tensor(spread)
        tensors["scale_2"] = torch.tensor(scale)
        reader = _Reader(data, tensors, self.options)
        # As if there were as many of both classes.
        heavy = float((y == 0).sum() / (y == 1).sum())
        optimizer = torch.optim.AdamW(
            weights, lr=self.options["rate"], weight_decay=self.options["decay"]
        )
        history: list[float] = []
        best: dict[str, Tensor] = {}
        since, size = 0, self.options["batch"]
        for epoch in range(1, self.options["epochs"] + 1):
            order = np.random.default_rng((seed, epoch)).permutation(len(nodes))
            generator = torch.Generator().manual_seed((seed * 1009 + epoch) % 2**62)
            for begin in range(0, len(order), size):
                rows = order[begin : begin + size]
                logits_B = reader.logits(nodes[rows], epoch, generator)
                loss = _loss(logits_B, y[rows], heavy)
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(weights, 1.0)
                optimizer.step()
            held_loss = float(_loss(reader.all_logits(val_nodes), val_y, heavy))
            history.append(held_loss)
            if held_loss <= min(history):
                best = {name: tensor.detach().clone() for name, tensor in tensors.items()}
                since = 0
            else:
                since += 1
            if since == self.options["patience"]:
                break
        if not best:
            raise InvalidInput(
                "expected columns that can be learned from, but the loss was not finite after any "
                f"pass; try a rate below {self.options['rate']}"
            )
        self._tensors, self._shift = best, float(np.log(heavy))
        self._reader, self.history = _Reader(data, best, self.options), history
        return self

    def on(self, graph_out: Graph, graph_in: Graph, columns: NDArray[Any]) -> SageModel:
        """The model over other addresses, or the same ones later; needed after `load`.

        Raises
        ------
        InvalidInput, InvalidTable
            As `fit`, and if the columns are not as many as were learned from.

        Complexity: O(n columns + slots), once; 4 bytes are kept of each number and each slot.
        """
        data = _Data.of(graph_out, graph_in, columns)
        self._check_fitted()
        if data.columns.shape[1] != self.num_columns:
            raise InvalidTable(
                f"expected the {self.num_columns} columns that the model was fitted with, got "
                f"{data.columns.shape[1]}"
            )
        self._reader = _Reader(data, self._tensors, self.options)
        return self

    def score(self, ids: ArrayLike) -> NDArray[np.float64]:
        """(k,) probabilities that addresses are illicit, 0 to 1.

        Raises
        ------
        InvalidInput
            If nothing was fitted or loaded, or an id is out of range.

        Complexity: O(k fanout^2 columns) at most, whatever the size of the graph.
        """
        self._check_fitted()
        if self._reader is None:
            raise InvalidInput(
                "expected a graph and columns to score on; give them with `on`, as a file holds "
                "the model alone"
            )
        logits = self._reader.all_logits(self._reader.data.nodes(ids))
        found: NDArray[np.float64] = torch.sigmoid(logits.double() - self._shift).numpy()
        return found

    def save(self, path: str | Path) -> None:
        """Write the model, without graph and columns, to one safetensors file: whole or not at all.

        Raises
        ------
        InvalidInput
            If nothing was fitted.
        StoreError
            If the disk fails.
        """
        self._check_fitted()
        target = Path(path)
        about = {
            "format": FORMAT, "version": VERSION, "options": self.options, "shift": self._shift,
        }  # fmt: skip
        content = save(self._tensors, {"about": json.dumps(about)})
        made = target.with_name(f".{target.name}.new")
        try:
            with made.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(made, target)
        except OSError as error:
            made.unlink(missing_ok=True)
            raise StoreError(f"the model cannot be written to `{target}`: {error}") from error

    @classmethod
    def load(cls, path: str | Path) -> SageModel:
        """The model of a file; say with `on` what it is to score.

        Raises
        ------
        ArtifactError
            If the file is missing, damaged, or of something else.
        """
        place = Path(path)
        try:
            with safe_open(place, "pt") as stored:
                about = json.loads((stored.metadata() or {}).get("about", "{}"))
            if about.get("format") != FORMAT or about.get("version") != VERSION:
                raise ValueError(f"it is not `{FORMAT}` of version {VERSION}")
            tensors = load_file(place)
            model = cls(**about["options"])
            wanted = _new_tensors(len(tensors["center_C"]), model.options["width"], 0)
            shapes = {name: tensor.shape for name, tensor in wanted.items()}
            shapes["center_C"] = shapes["spread_C"] = tensors["center_C"].shape
            shapes["scale_2"] = torch.Size([2])
            if {name: tensor.shape for name, tensor in tensors.items()} != shapes:
                raise ValueError("its tensors are of other shapes than it says")
            if not all(bool(torch.isfinite(tensor).all()) for tensor in tensors.values()):
                raise ValueError("it holds numbers that are not finite")
            model._tensors, model._shift = tensors, float(about["shift"])
        except (
            OSError, SafetensorError, ValueError, KeyError, TypeError, AttributeError,
            RecursionError, DeclarationError,
        ) as error:  # fmt: skip
            raise ArtifactError(
                f"expected a file that `SageModel.save` wrote, got `{place}`: {error}; fit it again"
            ) from error
        return model

    def _check_fitted(self) -> None:
        if not self._tensors:
            raise InvalidInput("expected a fitted model; call `fit`, or `load` a file")


class _Data(NamedTuple):
    """Two graphs and columns that were found to fit together."""

    sides: tuple[Graph, Graph]
    columns: NDArray[Any]

    @classmethod
    def of(cls, graph_out: Graph, graph_in: Graph, columns: NDArray[Any]) -> _Data:
        """Checked.

        Raises
        ------
        InvalidInput, InvalidTable
        """
        for graph, side in ((graph_out, "out"), (graph_in, "in")):
            if graph.directed != side or graph.order != "neighbour":
                raise InvalidInput(
                    f'expected graph_{side} made with directed="{side}" and in the order of '
                    f'neighbours, got directed="{graph.directed}", order="{graph.order}"'
                )
        size = graph_out.num_nodes
        if graph_in.num_nodes != size:
            raise InvalidInput(
                f"expected two graphs of the same addresses, got {size:,} and "
                f"{graph_in.num_nodes:,}; make both with the same num_nodes"
            )
        table = np.asarray(columns)
        if table.ndim != 2 or table.shape[1] == 0 or table.dtype.kind not in "iuf":
            raise InvalidTable(
                f"expected columns as (n, c) numbers, got {table.dtype} of {table.shape}"
            )
        if len(table) != size:
            raise InvalidTable(
                f"expected a row of columns for each of {size:,} addresses, got {len(table):,}"
            )
        return cls((graph_out, graph_in), table)

    def nodes(self, ids: ArrayLike) -> NDArray[np.int64]:
        """Checked ids."""
        nodes = np.asarray(ids)
        if nodes.ndim != 1 or (nodes.dtype.kind not in "iu" and len(nodes)):
            raise InvalidInput(f"expected a list of ids, got {nodes.dtype} of {nodes.shape}")
        if len(nodes) and not 0 <= int(nodes.min()) <= int(nodes.max()) < len(self.columns):
            row = int(np.argmax((nodes < 0) | (nodes >= len(self.columns))))
            raise InvalidInput(
                f"expected ids of 0 to {len(self.columns) - 1:,}, got {nodes[row]:,} in row {row:,}"
            )
        return nodes.astype(np.int64)

    def labelled(
        self, ids: ArrayLike, labels: ArrayLike
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Checked ids and labels."""
        nodes, y = self.nodes(ids), np.asarray(labels)
        if y.shape != nodes.shape:
            raise InvalidTable(
                f"expected a label for each of {len(nodes):,} ids, got labels of {y.shape}"
            )
        odd = ~np.isin(y, (0, 1))
        if odd.any():
            row = int(np.argmax(odd))
            raise InvalidTable(f"expected labels of 0 and 1, got {y[row]!r} in row {row:,}")
        y = y.astype(np.float32)
        for kind, count in (("illicit", (y == 1).sum()), ("licit", (y == 0).sum())):
            if count < 2:
                raise InvalidTable(
                    f"expected at least two {kind} addresses to learn from and as many to stop by, "
                    f"got {count}"
                )
        return nodes, y

    def statistics(self) -> tuple[NDArray[np.float32], ...]:
        """Center and spread of the columns, and the mean log(1 + degree) of each side."""
        logs = _signed_log(self.columns)
        there = np.isfinite(logs)
        count = np.maximum(there.sum(axis=0), 1)
        center = np.where(there, logs, 0).sum(axis=0) / count
        spread = np.sqrt((np.where(there, logs - center, 0) ** 2).sum(axis=0) / count)
        scale = np.array([np.log1p(side.counts).mean() for side in self.sides])
        return (
            center.astype(np.float32),
            np.maximum(spread, _LEAST_SPREAD).astype(np.float32),
            np.maximum(scale, _LEAST_SPREAD).astype(np.float32),
        )


class _Reader:
    """The network over some data: draws neighbours, and computes log-odds."""

    def __init__(self, data: _Data, tensors: dict[str, Tensor], options: dict[str, Any]) -> None:
        self.data, self.tensors, self.options = data, tensors, options
        logs = torch.from_numpy(_signed_log(data.columns).astype(np.float32))
        standard_NC = (logs - tensors["center_C"]) / tensors["spread_C"]
        self.columns_NC = torch.nan_to_num(standard_NC, nan=0.0).clamp(-_MOST, _MOST)
        self.rows = [
            (
                (
                    np.asarray(side.starts), np.asarray(side.counts), np.asarray(side.neighbours),
                    slot_weights(side), _table(side.threshold, np.float32),
                    _table(side.alias, np.int32),
                ),
                float(scale),
            )
            for side, scale in zip(data.sides, tensors["scale_2"], strict=True)
        ]  # fmt: skip

    def all_logits(self, nodes: NDArray[np.int64]) -> Tensor:
        """(k,) log-odds, batch by batch and without gradients; always the same neighbours."""
        size = max(self.options["batch"], 256)
        with torch.no_grad():
            parts = [
                self.logits(nodes[begin : begin + size], 0)
                for begin in range(0, len(nodes), size)
            ]  # fmt: skip
        return torch.cat(parts) if parts else torch.zeros(0)

    def logits(
        self, nodes: NDArray[np.int64], epoch: int, generator: torch.Generator | None = None
    ) -> Tensor:
        """(B,) log-odds; with dropout if there is a generator."""
        t = self.tensors
        near = [self._drawn(nodes, epoch, 2, side) for side in (0, 1)]
        inner_U, place = np.unique(
            np.concatenate([nodes, *(ids_BK.ravel() for ids_BK, _ in near)]), return_inverse=True
        )
        sums = [_summed(self.columns_NC, *self._drawn(inner_U, epoch, 1, side)) for side in (0, 1)]
        own_UC = self.columns_NC[torch.from_numpy(inner_U)]
        hidden_UD = F.relu(F.linear(torch.cat([own_UC, *sums], dim=1), t["W_D3C"], t["b_D"]))
        hidden_UD = self._dropped(hidden_UD, generator)

        begin, sums = len(nodes), []
        for ids_BK, weights_BK in near:
            places_BK = place[begin : begin + ids_BK.size].reshape(ids_BK.shape)
            begin += ids_BK.size
            sums.append(_summed(hidden_UD, places_BK, weights_BK))
        own_BD = hidden_UD[torch.from_numpy(place[: len(nodes)])]
        outer_BD = F.relu(F.linear(torch.cat([own_BD, *sums], dim=1), t["V_D3D"], t["c_D"]))
        outer_BD = self._dropped(outer_BD, generator)
        raw_BC = self.columns_NC[torch.from_numpy(nodes)]
        return F.linear(torch.cat([outer_BD, raw_BC], dim=1), t["a_1"], t["d_1"]).squeeze(1)

    def _dropped(self, hidden: Tensor, generator: torch.Generator | None) -> Tensor:
        share = self.options["dropout"]
        if generator is None or share == 0:
            return hidden
        kept = torch.rand(hidden.shape, generator=generator) >= share
        return hidden * kept / (1 - share)

    def _drawn(
        self, nodes: NDArray[np.int64], epoch: int, layer: int, side: int
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """(B, K) neighbours of a side, and what each adds to the sum; 0 where there are none."""
        arrays, scale = self.rows[side]
        shape = (len(nodes), self.options["fanout"])
        ids, weights = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.float32)
        _draw_rows(*arrays, nodes, self.options["seed"], 4 * epoch + 2 * layer + side, ids, weights)
        degrees = arrays[1][nodes]
        weights *= (np.log1p(degrees) / scale).astype(np.float32)[:, None]
        return ids, weights


def _new_tensors(columns: int, width: int, seed: int) -> dict[str, Tensor]:
    """Weights of both layers and of the last one, before anything was learned."""
    generator = torch.Generator().manual_seed(seed)

    def drawn_weights(outs: int, ins: int) -> Tensor:
        return torch.randn(outs, ins, generator=generator) * (2 / ins) ** 0.5

    return {
        "W_D3C": drawn_weights(width, 3 * columns), "b_D": torch.zeros(width),
        "V_D3D": drawn_weights(width, 3 * width), "c_D": torch.zeros(width),
        # Small, so that the first pass begins near even odds.
        "a_1": drawn_weights(1, width + columns) * 0.1, "d_1": torch.zeros(1),
    }  # fmt: skip


def _summed(table: Tensor, ids_BK: NDArray[np.int64], weights_BK: NDArray[np.float32]) -> Tensor:
    """Weighted sums of rows of a table, (B, columns of the table)."""
    weights = torch.from_numpy(weights_BK)
    return F.embedding_bag(
        torch.from_numpy(ids_BK), table, mode="sum", per_sample_weights=weights
    )  # fmt: skip


def _loss(logits: Tensor, y: NDArray[np.float32], heavy: float) -> Tensor:
    """Mean log loss in which an illicit address weighs as many as there are licit ones of it."""
    target = torch.from_numpy(y)
    weights = torch.where(target == 1, heavy, 1.0)
    losses = F.binary_cross_entropy_with_logits(logits, target, weights, reduction="sum")
    return losses / weights.sum()


def _signed_log(columns: NDArray[Any]) -> NDArray[np.float64]:
    wide = np.asarray(columns, dtype=np.float64)
    wide = np.where(np.isfinite(wide), wide, np.nan)
    logs: NDArray[np.float64] = np.sign(wide) * np.log1p(np.abs(wide))
    return logs


def _held_out(y: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.bool_]:
    """About one in seven of each class, at least one, and never all."""
    held = np.zeros(len(y), dtype=np.bool_)
    for kind in (0, 1):
        rows = np.flatnonzero(y == kind)
        held[rng.permutation(rows)[: max(1, round(_HELD * len(rows)))]] = True
    return held


def _table(array: NDArray[Any] | None, kind: Any) -> NDArray[Any]:
    return np.empty(0, dtype=kind) if array is None else np.asarray(array)


@njit(cache=True, error_model="numpy")
def _draw_rows(
    starts, counts, neighbours, shares, threshold, alias, nodes, seed, step, ids, weights
):
    """Short rows whole, with their shares; of long ones as many draws as there is room, alike."""
    room = ids.shape[1]
    for i in range(nodes.shape[0]):
        begin, count = starts[nodes[i]], counts[nodes[i]]
        if count <= room:
            for k in range(count):
                ids[i, k] = neighbours[begin + k]
                weights[i, k] = shares[begin + k] if shares.shape[0] else 1.0 / count
            continue
        stream = stream_of(np.uint64(seed), np.uint64(nodes[i]))
        for k in range(room):
            bits = drawn(stream, step, k)
            place = place_of(bits, count)
            if threshold.shape[0] and fraction_of(bits) >= threshold[begin + place]:
                place = np.int64(alias[begin + place])
            ids[i, k] = neighbours[begin + place]
            weights[i, k] = 1.0 / room

"""Trained sequence networks without torch: pieces of histories in, embeddings out.

The equations are those of `chopmark.sequence`, over the same flat arrays, in numpy and one
compiled loop; that both give the same is tested. A recurrent tower also goes on from a state,
event by event, at a cost that does not depend on the history (`Recurrence.advance`).

Shape suffixes: N events, B pieces, D width, H heads, E width of a head, R of the readout.
Serves B2, B3, B7 and G5 of the requirements.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import ArtifactError
from chopmark.histories.batch import Batch
from chopmark.models.layout import Layout

Floats = NDArray[np.float32]
Arrays = Mapping[str, NDArray[Any]]

KINDS = ("recurrent", "transformer", "seed")
LEAST = 1e-3
"""Added to a weight that an average is divided by."""

MOST = 6.0
"""A number of an embedding is within so many deviations: a history unlike all that training saw
may not say more than the strangest of those."""
_EPSILON = float(np.finfo(np.float32).eps)  # of torch's rms_norm
_LAYER_EPSILON = 1e-5  # of torch's layer_norm


class Tower:
    """A trained encoder and its embedding.

    Parameters
    ----------
    kind
        "recurrent", "transformer" or "seed".
    layout
        What is read of an event.
    arrays
        Weights by their names in training, float32.

    Raises
    ------
    ArtifactError
        If a weight is missing or of another shape.
    """

    def __init__(self, kind: str, layout: Layout, arrays: Arrays, *, heads: int = 1) -> None:
        if kind not in KINDS:
            raise ArtifactError(f"expected a tower of kind {', '.join(KINDS)}, got `{kind}`")
        self.kind, self.layout = kind, layout
        self._weights = _Weights(arrays)
        table = self._weights.matrix("encoder.events.table", (layout.num_rows, None))
        self.width = table.shape[1]
        self.table = table
        self._encode: Callable[[Batch, Floats], Floats]
        if kind == "recurrent":
            self.layers = tuple(_Fading.of(self._weights, i, self.width) for i in self._depth())
            self._encode = self._recurrent
        else:
            if not 1 <= heads <= self.width or self.width % (heads * (1 if kind == "seed" else 4)):
                raise ArtifactError(f"expected heads that fit into {self.width}, got {heads}")
            self.heads = heads
            self._encode = self._attending
            self.attending = tuple(
                _Attending.of(self._weights, i, self.width, plain=kind == "seed")
                for i in self._depth()
            )
            self._last_scale = self._weights.vector("encoder.scale_D", self.width)
        readout = {
            "recurrent": (2 * len(self._depth()) + 2) * self.width + 2,
            "transformer": 3 * self.width + 2,
            "seed": self.width,
        }[kind]
        self.embedding = readout
        self._center_R = self._weights.vector("center_R", readout)
        self._spread_R = self._weights.vector("spread_R", readout)
        if (self._spread_R <= 0).any():
            raise ArtifactError("expected spreads above 0 in the embedding")

    def embed(self, batch: Batch) -> Floats:
        """(b, `embedding`) what the penultimate layer says of each piece."""
        rows, weights = self.layout.terms(batch)
        x_ND = np.empty((len(rows), self.width), np.float32)
        _sum_rows(rows, weights, self.table, x_ND)
        return self.embedded(self._encode(batch, x_ND))

    def embedded(self, readout_BR: Floats) -> Floats:
        """(b, embedding) of readouts."""
        found: Floats = (readout_BR - self._center_R) / self._spread_R
        return np.clip(found, -MOST, MOST)

    def _depth(self) -> range:
        depth = 0
        while self._weights.has(f"encoder.layers.{depth}."):
            depth += 1
        if depth == 0:
            raise ArtifactError("expected a tower with layers, got none")
        return range(depth)

    def _recurrent(self, batch: Batch, x_ND: Floats) -> Floats:
        lengths = np.diff(batch.offsets)
        some = lengths > 0
        last = batch.offsets[1:][some] - 1
        parts = []
        for layer in self.layers:
            z_ND = _rms(x_ND, layer.scale) @ layer.inner + layer.inner_bias
            v_ND, keep_ND, let_ND, open_ND = np.split(z_ND, 4, axis=1)
            a_ND = _sigmoid(keep_ND) * np.exp(-batch.gap[:, None] * layer.rates)
            let_ND = _sigmoid(let_ND)
            half = self.width // 2
            a_ND[:, half:] *= np.float32(1.0) - let_ND[:, half:]
            sum_ND, weight_ND = np.empty_like(x_ND), np.empty_like(x_ND)
            scan_forward(a_ND, let_ND * v_ND, batch.offsets, sum_ND)
            scan_forward(a_ND, let_ND, batch.offsets, weight_ND)
            x_ND = x_ND + (
                (squash(sum_ND) * open_ND * _sigmoid(open_ND)) @ layer.outer + layer.outer_bias
            )
            left_BD = np.exp(-batch.since_last[some, None] * layer.rates)
            parts += [squash(sum_ND[last] * left_BD), sum_ND[last] / (weight_ND[last] + LEAST)]
        read = []
        for part in parts:
            whole_BD = np.zeros((len(lengths), self.width), np.float32)
            whole_BD[some] = part
            read.append(whole_BD)
        return _readout([*read, *_pooled(x_ND, batch.offsets)], lengths, batch.since_last)

    def _attending(self, batch: Batch, x_ND: Floats) -> Floats:
        lengths = np.diff(batch.offsets)
        order_N = np.repeat(batch.offsets[1:], lengths) - 1 - np.arange(len(x_ND))
        plain = self.kind == "seed"
        turns = None if plain else _turns(order_N, batch.log_age, self.width // self.heads)
        for layer in self.attending:
            if plain:
                seen_ND = self._attended(layer, x_ND, batch.offsets, None)
                x_ND = _layer_norm(x_ND + seen_ND, layer.scales[0], layer.shifts[0])
                inner_ND = np.maximum(x_ND @ layer.inner + layer.inner_bias, np.float32(0.0))
                thought_ND = inner_ND @ layer.outer + layer.outer_bias
                x_ND = _layer_norm(x_ND + thought_ND, layer.scales[1], layer.shifts[1])
            else:
                z_ND = _rms(x_ND, layer.scales[0])
                x_ND = x_ND + self._attended(layer, z_ND, batch.offsets, turns)
                inner_ND = _rms(x_ND, layer.scales[1]) @ layer.inner + layer.inner_bias
                x_ND = x_ND + (_gelu_tanh(inner_ND) @ layer.outer + layer.outer_bias)
        if plain:
            return _pooled(x_ND, batch.offsets)[0]
        x_ND = _rms(x_ND, self._last_scale)
        mean_BD, most_BD = _pooled(x_ND, batch.offsets)
        last_BD = np.zeros_like(mean_BD)
        last_BD[lengths > 0] = x_ND[batch.offsets[1:][lengths > 0] - 1]
        return _readout([last_BD, mean_BD, most_BD], lengths, batch.since_last)

    def _attended(
        self,
        layer: "_Attending",
        x_ND: Floats,
        offsets: NDArray[np.int64],
        turns: tuple[Floats, Floats] | None,
    ) -> Floats:
        qkv = (x_ND @ layer.qkv + layer.qkv_bias).reshape(
            len(x_ND), 3, self.heads, self.width // self.heads
        )
        q_NHE, k_NHE, v_NHE = qkv[:, 0], qkv[:, 1], qkv[:, 2]
        if turns is not None:
            q_NHE, k_NHE = _turned(q_NHE, *turns), _turned(k_NHE, *turns)
        q_NHE = q_NHE * np.float32(q_NHE.shape[2] ** -0.5)
        seen_ND = np.empty_like(x_ND)
        for first, last in zip(offsets[:-1].tolist(), offsets[1:].tolist(), strict=True):
            if first == last:
                continue
            q_HTE = np.ascontiguousarray(q_NHE[first:last].transpose(1, 0, 2))
            k_HET = np.ascontiguousarray(k_NHE[first:last].transpose(1, 2, 0))
            v_HTE = np.ascontiguousarray(v_NHE[first:last].transpose(1, 0, 2))
            odds_HTT = q_HTE @ k_HET
            odds_HTT -= odds_HTT.max(axis=2, keepdims=True)
            np.exp(odds_HTT, out=odds_HTT)
            odds_HTT /= odds_HTT.sum(axis=2, keepdims=True)
            seen_ND[first:last] = (
                (odds_HTT @ v_HTE).transpose(1, 0, 2).reshape(last - first, self.width)
            )
        mixed_ND: Floats = seen_ND @ layer.mix + layer.mix_bias
        return mixed_ND


@dataclass(frozen=True, slots=True, eq=False)
class _Fading:
    """Weights of one recurrent layer, matrices as (in, out)."""

    scale: Floats
    inner: Floats
    inner_bias: Floats
    outer: Floats
    outer_bias: Floats
    rates: Floats

    @classmethod
    def of(cls, weights: "_Weights", place: int, width: int) -> "_Fading":
        at = f"encoder.layers.{place}."
        inner, inner_bias = weights.linear(f"{at}inner", width, 4 * width)
        outer, outer_bias = weights.linear(f"{at}outer", width, width)
        rates = np.exp(weights.vector(f"{at}log_rates_D", width))
        scale = weights.vector(f"{at}scale_D", width)
        return cls(scale, inner, inner_bias, outer, outer_bias, rates)


@dataclass(frozen=True, slots=True, eq=False)
class _Attending:
    """Weights of one layer of attention, matrices as (in, out)."""

    qkv: Floats
    qkv_bias: Floats
    mix: Floats
    mix_bias: Floats
    inner: Floats
    inner_bias: Floats
    outer: Floats
    outer_bias: Floats
    scales: Floats
    shifts: Floats

    @classmethod
    def of(cls, weights: "_Weights", place: int, width: int, *, plain: bool) -> "_Attending":
        at = f"encoder.layers.{place}."
        shifts = np.zeros((2, width), np.float32)
        if plain:
            shifts = weights.matrix(f"{at}shifts_2D", (2, width))
        return cls(
            *weights.linear(f"{at}qkv", width, 3 * width),
            *weights.linear(f"{at}mix", width, width),
            *weights.linear(f"{at}inner", width, 4 * width),
            *weights.linear(f"{at}outer", 4 * width, width),
            weights.matrix(f"{at}scales_2D", (2, width)),
            shifts,
        )


class _Weights:
    """Arrays of an artifact by name, checked as they are taken."""

    def __init__(self, arrays: Arrays) -> None:
        self._arrays = arrays

    def has(self, prefix: str) -> bool:
        return any(name.startswith(prefix) for name in self._arrays)

    def vector(self, name: str, size: int | None) -> Floats:
        return self.matrix(name, (size,))

    def linear(self, name: str, fan_in: int, fan_out: int | None) -> tuple[Floats, Floats]:
        """The matrix (in, out) and the bias of a linear layer."""
        weight = self.matrix(f"{name}.weight", (fan_out, fan_in))
        return np.ascontiguousarray(weight.T), self.vector(f"{name}.bias", weight.shape[0])

    def matrix(self, name: str, shape: tuple[int | None, ...]) -> Floats:
        found = self._arrays.get(name)
        if (
            found is None
            or found.ndim != len(shape)
            or any(want not in (None, have) for want, have in zip(shape, found.shape, strict=True))
            or found.dtype.kind != "f"
            or not np.isfinite(found).all()
        ):
            what = "none" if found is None else f"{found.dtype} of shape {found.shape}"
            raise ArtifactError(f"expected finite weights `{name}` of shape {shape}, got {what}")
        return np.ascontiguousarray(found, dtype=np.float32)


def _readout(parts: Sequence[Floats], lengths: NDArray[np.int64], since_last: Floats) -> Floats:
    count_B1 = np.log1p(lengths.astype(np.float32))[:, None]
    since_B1 = (np.log1p(since_last) / np.float32(4.0))[:, None]
    return np.concatenate([*parts, count_B1, since_B1], axis=1)


def _pooled(x_ND: Floats, offsets: NDArray[np.int64]) -> tuple[Floats, Floats]:
    """Mean and maximum over the events of each piece; zeros for an empty one."""
    lengths = np.diff(offsets)
    some = lengths > 0
    mean_BD = np.zeros((len(lengths), x_ND.shape[1]), np.float32)
    most_BD = np.zeros_like(mean_BD)
    if some.any():
        starts = offsets[:-1][some]
        mean_BD[some] = np.add.reduceat(x_ND, starts, axis=0) / lengths[some, None]
        most_BD[some] = np.maximum.reduceat(x_ND, starts, axis=0)
    return mean_BD, most_BD


def _rms(x: Floats, scale: Floats) -> Floats:
    power = np.einsum("nd,nd->n", x, x)[:, None] / np.float32(x.shape[1])
    found: Floats = x * (scale / np.sqrt(power + np.float32(_EPSILON)))
    return found


def _layer_norm(x: Floats, scale: Floats, shift: Floats) -> Floats:
    apart = x - x.mean(axis=1, keepdims=True)
    power = np.einsum("nd,nd->n", apart, apart)[:, None] / np.float32(x.shape[1])
    found: Floats = apart / np.sqrt(power + np.float32(_LAYER_EPSILON)) * scale + shift
    return found


def _sigmoid(x: Floats) -> Floats:
    # By tanh, which does not overflow.
    half = np.float32(0.5)
    found: Floats = half * np.tanh(half * x) + half
    return found


def squash(x: Floats) -> Floats:
    """sign(x) log(1 + |x|): sums of any size made comparable."""
    found: Floats = np.abs(x)
    np.log1p(found, out=found)
    np.copysign(found, x, out=found)
    return found


def _gelu_tanh(x: Floats) -> Floats:
    inner: Floats = np.float32(0.7978845608028654) * (x + np.float32(0.044715) * x * x * x)
    np.tanh(inner, out=inner)
    found: Floats = np.float32(0.5) * x * (np.float32(1.0) + inner)
    return found


def _turns(order_N: NDArray[Any], log_age: Floats, head_width: int) -> tuple[Floats, Floats]:
    count = head_width // 4
    steps = np.arange(count, dtype=np.float32) / np.float32(max(count, 1))
    by_age = log_age[:, None] * (np.float32(4.0) * np.float32(0.05) ** steps)
    by_order = order_N.astype(np.float32)[:, None] * np.float32(1e-3) ** steps
    angles = np.concatenate([by_age, by_order], axis=1)[:, None]
    return np.cos(angles), np.sin(angles)


def _turned(x_NHE: Floats, cos: Floats, sin: Floats) -> Floats:
    left, right = np.split(x_NHE, 2, axis=2)
    return np.concatenate([left * cos - right * sin, left * sin + right * cos], axis=2)


@njit(cache=True)
def _sum_rows(rows, weights, table, out):  # type: ignore[no-untyped-def]
    width = table.shape[1]
    for i in range(rows.shape[0]):
        for j in range(width):
            out[i, j] = 0.0
        for k in range(rows.shape[1]):
            weight = weights[i, k]
            row = rows[i, k]
            for j in range(width):
                out[i, j] += weight * table[row, j]


@njit(cache=True, fastmath={"contract"}, nogil=True)
def scan_forward(a, x, offsets, h):  # type: ignore[no-untyped-def]
    """h_t = a_t * h_{t-1} + x_t within each piece; all (N, D), h is filled in."""
    width = x.shape[1]
    for piece in range(offsets.size - 1):
        first, last = offsets[piece], offsets[piece + 1]
        if first < last:
            h[first] = x[first]
        for i in range(first + 1, last):
            for j in range(width):
                h[i, j] = a[i, j] * h[i - 1, j] + x[i, j]

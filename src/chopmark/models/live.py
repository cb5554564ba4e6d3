"""Embeddings that keep up with events: a state per user, moved on in O(1).

A recurrent tower needs of a history its last state alone. Here the states of all users are
rows of a few arrays; an event moves one of them on in microseconds, however long the history,
and an embedding is read as of any later instant, as the state fades by the clock. The state
after the last event of a history is the same whichever way it was reached.

Serves B2, G4 and G5 of the requirements.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, InvalidInput
from chopmark.histories import Histories
from chopmark.histories.tokenizer import Tokenizer
from chopmark.models.towers import LEAST, Floats, Tower, squash
from chopmark.times import Instant

_NEVER = np.iinfo(np.int64).min
_CHUNK = 512


class LiveStates:
    """The states of a recurrent tower for many users.

    Parameters
    ----------
    tower, tokenizer
        Of a trained recurrent network.

    Notes
    -----
    A state holds the whole history. It says what the network says of a history that it reads
    whole, as recurrent ones do unless their `Shape` has a shorter `length`.

    Memory per user: 4 (2 layers + 3) width + 8 types bytes; 4.5 KB for two layers of 128 channels
    and 100 types. One thread at a time.

    Raises
    ------
    ArtifactError
        If the tower is not recurrent: attention has no state to go on from.
    """

    def __init__(self, tower: Tower, tokenizer: Tokenizer) -> None:
        if tower.kind != "recurrent":
            raise ArtifactError(
                f"expected a recurrent tower to go on from a state, got a `{tower.kind}`; embed "
                "whole histories with it"
            )
        self.tower, self.tokenizer = tower, tokenizer
        self._row_of: dict[str | int, int] = {}
        self._num_types = tokenizer.sizes[0]
        layers = tower.layers
        self._weights = (
            tower.table,
            np.stack([layer.scale for layer in layers]),
            np.stack([layer.inner for layer in layers]),
            np.stack([layer.inner_bias for layer in layers]),
            np.stack([layer.outer for layer in layers]),
            np.stack([layer.outer_bias for layer in layers]),
            np.stack([layer.rates for layer in layers]),
        )
        self._allocate(_CHUNK)

    def __len__(self) -> int:
        """Users with a state."""
        return len(self._row_of)

    def add(self, user: str | int, happened_at: Instant, event: Mapping[str, Any]) -> None:
        """Move a user's state on by an event.

        Parameters
        ----------
        happened_at
            Microseconds since 1970, not before the user's last event.
        event
            "type" and the fields that the tokenizer reads; others are ignored.

        Raises
        ------
        InvalidInput
            If the event is earlier than the user's last one; the state is as before. Build it
            anew from the history (`take`).
        """
        row = self._row(user)
        last = int(self._last[row])
        if happened_at < last:
            raise InvalidInput(
                f"expected events in the order of time, got one {(last - happened_at) / 1e6:g} s "
                "before the last one of its user; take the user's history anew"
            )
        batch = self.tokenizer.batch_of_rows([[{**event, "age": 0}]])
        gap = 0.0 if last == _NEVER else (happened_at - last) / 1e6
        kind = int(batch.ids[0, 0])
        same = int(self._last_of_type[row, kind])
        missing = kind == 0  # an event without a type is of no type that comes again
        batch.log_gap[0] = -1.0 if last == _NEVER else math.log1p(gap)
        batch.log_same_gap[0] = (
            -1.0 if same == _NEVER or missing else math.log1p((happened_at - same) / 1e6)
        )
        hours = happened_at // 3_600_000_000
        batch.hour[0], batch.weekday[0] = hours % 24, (hours // 24 + 3) % 7
        batch.gap[0] = gap
        rows, weights = self.tower.layout.terms(batch)
        _advance(rows[0], weights[0], batch.gap[0], *self._weights, self._states[row],
                 self._totals[row], self._most[row], bool(self._counts[row] == 0))  # fmt: skip
        self._counts[row] += 1
        self._last[row] = happened_at
        if not missing:
            self._last_of_type[row, kind] = happened_at

    def take(self, histories: Histories) -> None:
        """Take over the users of a history, event by event; states that they had are dropped."""
        words = histories.words
        fields = [name for name in self.tokenizer.fields if name in histories.categories]
        numbers = [name for name in set(self.tokenizer.sources) if name in histories.numbers]
        for place, user in enumerate(histories.users.to_list()):
            self.drop(user)
            for i in range(int(histories.offsets[place]), int(histories.offsets[place + 1])):
                codes = {name: int(histories.categories[name][i]) for name in fields}
                event: dict[str, Any] = {
                    name: words[name][code] for name, code in codes.items() if code >= 0
                }
                event |= {name: float(histories.numbers[name][i]) for name in numbers}
                self.add(user, Instant(int(histories.times[i])), event)

    def drop(self, user: str | int) -> None:
        """Forget a user's state; no matter if there is none."""
        row = self._row_of.pop(user, None)
        if row is not None:
            self._clear(row)
            self._free.append(row)

    def embed(self, user: str | int, now: Instant) -> Floats:
        """(embedding,) of a user as of an instant; of one without events, that of no history.

        Parameters
        ----------
        now
            Microseconds since 1970; before the user's last event it counts as that.
        """
        row = self._row_of.get(user)
        width, layers = self.tower.width, self.tower.layers
        readout = np.zeros((1, self.tower.embedding), np.float32)
        if row is not None and self._counts[row]:
            since = np.float32(max(now - int(self._last[row]), 0) / 1e6)
            count = np.float32(self._counts[row])
            parts = []
            for layer, (total, weight) in zip(layers, self._states[row], strict=True):
                parts.append(squash(total * np.exp(-since * layer.rates)))
                parts.append(total / (weight + np.float32(LEAST)))
            parts += [self._totals[row] / count, self._most[row]]
            readout[0, : len(parts) * width] = np.concatenate(parts)
            readout[0, -2] = np.log1p(count)
            readout[0, -1] = np.log1p(since) / np.float32(4.0)
        embedding: Floats = self.tower.embedded(readout)[0]
        return embedding

    def _row(self, user: str | int) -> int:
        row = self._row_of.get(user)
        if row is None:
            if not self._free:
                self._grow()
            row = self._row_of[user] = self._free.pop()
        return row

    def _allocate(self, size: int) -> None:
        width, depth = self.tower.width, len(self.tower.layers)
        self._states = np.zeros((size, depth, 2, width), np.float32)
        self._totals = np.zeros((size, width), np.float64)
        self._most = np.zeros((size, width), np.float32)
        self._counts = np.zeros(size, np.int64)
        self._last = np.full(size, _NEVER, np.int64)
        self._last_of_type = np.full((size, self._num_types), _NEVER, np.int64)
        self._free = list(range(size - 1, -1, -1))

    def _grow(self) -> None:
        """Twice the room; what is there stays where it is."""
        old, size = self._arrays(), len(self._counts)
        self._allocate(2 * size)
        for mine, theirs in zip(self._arrays(), old, strict=True):
            mine[:size] = theirs
        self._free = list(range(2 * size - 1, size - 1, -1))

    def _arrays(self) -> tuple[NDArray[Any], ...]:
        return (self._states, self._totals, self._most, self._counts, self._last,
                self._last_of_type)  # fmt: skip

    def _clear(self, row: int) -> None:
        for array in (self._states, self._totals, self._most, self._counts):
            array[row] = 0
        self._last[row] = _NEVER
        self._last_of_type[row] = _NEVER


@njit(cache=True, fastmath={"contract"})
def _advance(  # type: ignore[no-untyped-def]
    rows, weights, gap, table, scales, inners, inner_biases, outers, outer_biases, rates,
    state, total, most, first,
):  # fmt: skip
    depth, _, width = state.shape
    x = np.zeros(width, np.float32)
    for k in range(rows.size):
        for j in range(width):
            x[j] += weights[k] * table[rows[k], j]
    z = np.empty(4 * width, np.float32)
    mixed = np.empty(width, np.float32)
    for layer in range(depth):
        power = np.float32(0.0)
        for j in range(width):
            power += x[j] * x[j]
        scale = np.float32(1.0) / np.sqrt(power / np.float32(width) + np.float32(1.1920929e-07))
        z[:] = inner_biases[layer]
        for j in range(width):
            normal = x[j] * scale * scales[layer, j]
            for k in range(4 * width):
                z[k] += normal * inners[layer, j, k]
        for j in range(width):
            keep = np.float32(0.5) * np.tanh(np.float32(0.5) * z[width + j]) + np.float32(0.5)
            let = np.float32(0.5) * np.tanh(np.float32(0.5) * z[2 * width + j]) + np.float32(0.5)
            kept = keep * np.exp(-gap * rates[layer, j])
            if j >= width // 2:
                kept *= np.float32(1.0) - let
            state[layer, 0, j] = kept * state[layer, 0, j] + let * z[j]
            state[layer, 1, j] = kept * state[layer, 1, j] + let
            total_now = state[layer, 0, j]
            size = np.log1p(np.abs(total_now))
            gate = z[3 * width + j]
            opened = np.float32(0.5) * np.tanh(np.float32(0.5) * gate) + np.float32(0.5)
            mixed[j] = (size if total_now >= 0 else -size) * gate * opened
        for j in range(width):
            x[j] += outer_biases[layer, j]
        for k in range(width):
            for j in range(width):
                x[j] += mixed[k] * outers[layer, k, j]
    for j in range(width):
        total[j] += x[j]
        most[j] = x[j] if first else max(most[j], x[j])

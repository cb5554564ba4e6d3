"""The state of a sequence: for each entity a chain of its last events, in a few arrays.

A **chain** holds up to ``last`` events of an entity in the order of ``happened_at``. It lives in
**blocks** of eight consecutive slots of three arrays (times, types, values), linked both ways;
all blocks of a chain are full but for its two ends. So adding an event moves no other, what an
entity costs follows what it has, and a block whose events are all too old is free for anybody.

An event known late is put in its place from the newest backwards, at the cost of the events
younger than it. A chain of ``last`` events gives up its oldest for a new one; an event older
than all of these is not kept, since ``last`` younger ones stand before it for ever. Events
that have left the window are dropped when the entity is next seen.

So what is listed depends on the order of the log alone, and not on how the log is cut
(rows D10, D11, G4).
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"
# The kernels are typed by numba from their arguments; `Chains` is the typed door.

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numba import njit
from numpy.typing import NDArray

from chopmark.events.schema import Schema
from chopmark.features.eventlists import EventLists, dicts
from chopmark.features.feature import EVERYONE
from chopmark.features.hashing import rehash, slot_of
from chopmark.features.plan import Table, source_of
from chopmark.features.sequence import EventList, Sequence
from chopmark.times import duration

# A use of an event type: rows of the entity that it reads for and feeds, and its place in the
# list of types; EVERY is everyone and NONE is none.
U_READ, U_FEED, U_TYPE = range(3)
EVERY, NONE = -1, -2
# A chain: its first and last block (0: none), where in the first its oldest event is, how many.
C_FIRST, C_LAST, C_HEAD, C_COUNT = range(4)
# Links of a block; the next of a free one is the next free one. The outer ones mean nothing.
NEXT, PREVIOUS = range(2)
# Words of the header: blocks and chains in use, first free block, events written for the caller.
BLOCKS, CHAINS, FREE, WRITTEN = range(4)
L_LAST, L_WINDOW, L_CONDITION, L_BLOCK = range(4)
BLOCK = 8

Array = TypeVar("Array", bound=NDArray[np.generic])
_STATE = ("times", "types", "values", "links", "chains", "directory", "header")


@dataclass(frozen=True, slots=True)
class Layout:
    """A sequence laid out for the kernel.

    Attributes
    ----------
    texts : tuple of bool
        Whether each field is a text.
    uses : (num_event_types, 3) int64
    fields : (num_listed_types, num_fields) int64
        Their columns, -1 where the type has no such field.
    limits : (4,) int64
        Most events; length of the window in microseconds, 0 for none; column of the condition,
        -1 for none; slots of a block.
    """

    feature: Sequence
    texts: tuple[bool, ...]
    uses: Table
    fields: Table
    limits: NDArray[np.int64]


def lay_out(
    schema: Schema,
    feature: Sequence,
    *,
    field_rows: Mapping[str, int],
    entity_rows: Mapping[str, int],
    condition: int,
) -> Layout:
    """The tables of a sequence that `chopmark.features.plan.check_fields` has passed."""

    def row_of(source: str | None) -> int:
        if source is None:
            return NONE
        return EVERY if source == EVERYONE else entity_rows[source]

    uses = [
        [
            row_of(source_of(schema, event, feature.by)),
            row_of(feature.by) if event in feature.events else NONE,
            feature.events.index(event) if event in feature.events else 0,
        ]
        for event in schema.types
    ]
    fields = [
        [field_rows[name] if name in schema.fields_of[event] else -1 for name in feature.fields]
        for event in feature.events
    ]
    window = duration(feature.window) if feature.window else 0
    block = min(BLOCK, feature.last)
    return Layout(
        feature,
        tuple(schema.fields[name].kind == "text" for name in feature.fields),
        np.array(uses, dtype=np.int64),
        np.array(fields, dtype=np.int64),
        np.array([feature.last, window, condition, block], dtype=np.int64),
    )


class Chains:
    """The chains of one sequence.

    Parameters
    ----------
    layout : Layout

    Notes
    -----
    An event costs 12 bytes and 8 for each field, and an entity up to 80 and two blocks that are
    not full: n events of u entities, as many as were kept at once, at most
    ``(12 + 8 fields) (n + 14 u) + 80 u`` bytes. The arrays grow by half, so for a while they
    are up to half larger, and while one grows it is there twice. Blocks are used again and
    never given back.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.type_names = layout.feature.events
        self.fields = tuple(zip(layout.feature.fields, layout.texts, strict=True))
        # Event types that read or feed the chains; others need no call.
        self.used = (layout.uses[:, :2] != NONE).any(axis=1)
        self._last = layout.feature.last
        self._block = int(layout.limits[L_BLOCK])
        width = len(self.fields)
        self.times = np.zeros(self._block, dtype=np.int64)
        self.types = np.zeros(self._block, dtype=np.int16)
        self.values = np.zeros((self._block, width), dtype=np.float64)
        self.links = np.zeros((1, 2), dtype=np.int64)
        self.chains = np.zeros((1, 4), dtype=np.int64)
        self.directory = np.zeros((64, 2), dtype=np.int64)
        self.header = np.array([1, 0, 0, 0], dtype=np.int64)  # block 0 means "none"
        self._ages = np.zeros(self._last, dtype=np.int64)
        self._types = np.zeros(self._last, dtype=np.int16)
        self._values = np.zeros((self._last, width), dtype=np.float64)
        self._counts = np.zeros(1, dtype=np.int64)

    def advance(
        self,
        types: NDArray[np.int64],
        happened_at: NDArray[np.int64],
        known_at: NDArray[np.int64],
        entities: NDArray[np.int64],
        columns: NDArray[np.float64],
        wanted: NDArray[np.uint8],
        size: int,
    ) -> None:
        """Fold the first ``size`` events in, and keep the lists of the wanted ones at hand.

        Parameters
        ----------
        types, happened_at, known_at, entities, columns, wanted
            As for `chopmark.features.kernel.advance`, conditions filled in.
        """
        layout = self.layout
        if len(self._counts) < size:
            self._counts = np.zeros(size, dtype=np.int64)
        self.header[WRITTEN] = 0
        first = 0
        while True:
            first = advance(
                layout.uses, layout.fields, layout.limits,
                self.times, self.types, self.values,
                self.links, self.chains, self.directory, self.header,
                types, happened_at, known_at, entities, columns, wanted,
                self._counts, self._types, self._ages, self._values, first, size,
            )  # fmt: skip
            if first == size:
                return
            self._grow()

    def one(self, texts: dict[float, str]) -> EventList | None:
        """The list of the one event that was advanced; `texts` are those of the codes."""
        count = int(self._counts[0])
        if count < 0:
            return None
        return dicts(
            self._types[:count], self._ages[:count], self._values[:count],
            self.type_names, self.fields, texts,
        )  # fmt: skip

    def lists(self, rows: NDArray[np.int64], texts: dict[float, str]) -> EventLists:
        """The lists of the wanted events among those that were advanced; a copy."""
        written = int(self.header[WRITTEN])
        return EventLists(
            self._counts[rows],
            self._types[:written].copy(),
            self._ages[:written].copy(),
            self._values[:written].copy(),
            self.type_names,
            self.fields,
            texts,
        )

    def freeze(self) -> dict[str, NDArray[np.generic]]:
        """Copies of the arrays of the state."""
        blocks, chains = int(self.header[BLOCKS]), int(self.header[CHAINS])
        used = {"links": blocks, "chains": chains}
        used |= dict.fromkeys(("times", "types", "values"), blocks * self._block)
        return {name: getattr(self, name)[: used.get(name)].copy() for name in _STATE}

    def take(self, arrays: Mapping[str, NDArray[np.generic]]) -> None:
        """Go on from the arrays that `freeze` gave."""
        for name in _STATE:
            setattr(self, name, arrays[name])

    def _grow(self) -> None:
        """Make room where the kernel found none for one more event."""
        blocks, chains, _, written = self.header.tolist()
        if blocks == len(self.links):
            blocks += blocks // 2 + 64
            self.links = _longer(self.links, blocks)
            self.times = _longer(self.times, blocks * self._block)
            self.types = _longer(self.types, blocks * self._block)
            self.values = _longer(self.values, blocks * self._block)
        if chains == len(self.chains):
            self.chains = _longer(self.chains, chains + chains // 2 + 64)
        if 3 * (chains + 1) > 2 * len(self.directory):
            larger = np.zeros((2 * len(self.directory), 2), dtype=np.int64)
            rehash(self.directory, larger)
            self.directory = larger
        if written + self._last > len(self._ages):
            size = 2 * written + self._last
            self._ages = _longer(self._ages, size)
            self._types = _longer(self._types, size)
            self._values = _longer(self._values, size)


def _longer(array: Array, size: int) -> Array:
    larger = np.zeros((size, *array.shape[1:]), dtype=array.dtype)
    larger[: len(array)] = array
    return larger  # type: ignore[return-value]


@njit(cache=True, error_model="numpy")
def advance(
    uses, fields, limits, times, types, values, links, chains, directory, header,
    event_types, happened_at, known_at, entities, columns, wanted,
    counts, out_types, out_ages, out_values, first, end,
):  # fmt: skip
    """Fold the events ``first`` to ``end - 1`` into the chains, reading before adding.

    Stops before an event for which there may be no room; gives its position, or ``end``.

    Parameters
    ----------
    uses, fields, limits
        Of a `Layout`.
    times, types, values, links, chains, directory, header
        The state of `Chains`.
    event_types, happened_at, known_at, entities, columns, wanted
        As for `chopmark.features.kernel.advance`.
    counts : (n,) int64
        Filled with the number of events read, -1 where the event names no entity.
    out_types, out_ages, out_values
        Filled with these events, one list after the other.
    """
    last, window, condition = limits[L_LAST], limits[L_WINDOW], limits[L_CONDITION]
    block = limits[L_BLOCK]
    for i in range(first, end):
        use = event_types[i]
        as_of = known_at[i]
        time = min(happened_at[i], as_of)
        cut = as_of - window
        counts[i] = -1
        row = uses[use, U_READ]
        if wanted[i] and row != NONE:
            code = entities[row, i] if row != EVERY else np.int64(1)
            if code != 0:
                if header[WRITTEN] + last > out_ages.shape[0]:
                    return i
                counts[i] = 0
                slot = slot_of(directory, code)
                if directory[slot, 0] != 0:
                    chain = directory[slot, 1]
                    if window > 0:
                        _expire(times, links, chains, chain, header, block, cut)
                    counts[i] = chains[chain, C_COUNT]
                    _read(
                        times, types, values, links, chains, chain, block, as_of,
                        out_types, out_ages, out_values, header[WRITTEN],
                    )  # fmt: skip
        row = uses[use, U_FEED]
        if row != NONE and (condition < 0 or columns[condition, i] == 1.0):
            code = entities[row, i] if row != EVERY else np.int64(1)
            if code != 0 and (window == 0 or time > cut):
                num_chains = header[CHAINS]
                if (
                    (header[FREE] == 0 and header[BLOCKS] == links.shape[0])
                    or num_chains == chains.shape[0]
                    or 3 * (num_chains + 1) > 2 * directory.shape[0]
                ):
                    return i
                slot = slot_of(directory, code)
                if directory[slot, 0] == 0:
                    directory[slot, 0] = code
                    directory[slot, 1] = num_chains
                    header[CHAINS] = num_chains + 1
                chain = directory[slot, 1]
                if window > 0:
                    _expire(times, links, chains, chain, header, block, cut)
                _add(
                    times, types, values, links, chains, chain, header, block, last, time,
                    uses[use, U_TYPE], fields, columns, i,
                )  # fmt: skip
        if counts[i] > 0:
            # Only now: an event for which there was no room is read again.
            header[WRITTEN] += counts[i]
    return end


@njit(cache=True, error_model="numpy", inline="always")
def _expire(times, links, chains, chain, header, block, cut):
    """Drop the events that have left the window."""
    while (
        chains[chain, C_COUNT] > 0
        and times[chains[chain, C_FIRST] * block + chains[chain, C_HEAD]] <= cut
    ):
        _drop_oldest(links, chains, chain, header, block)


@njit(cache=True, error_model="numpy")
def _drop_oldest(links, chains, chain, header, block):
    chains[chain, C_HEAD] += 1
    chains[chain, C_COUNT] -= 1
    if chains[chain, C_COUNT] > 0 and chains[chain, C_HEAD] < block:
        return
    empty = chains[chain, C_FIRST]
    chains[chain, C_HEAD] = 0
    if chains[chain, C_COUNT] > 0:
        chains[chain, C_FIRST] = links[empty, NEXT]
    else:
        chains[chain, C_FIRST] = 0
        chains[chain, C_LAST] = 0
    links[empty, NEXT] = header[FREE]
    header[FREE] = empty


@njit(cache=True, error_model="numpy", inline="always")
def _read(
    times, types, values, links, chains, chain, block, as_of, out_types, out_ages, out_values, out
):
    """Write the events of a chain, oldest first."""
    place, offset = chains[chain, C_FIRST], chains[chain, C_HEAD]
    for k in range(out, out + chains[chain, C_COUNT]):
        slot = place * block + offset
        out_types[k] = types[slot]
        out_ages[k] = as_of - times[slot]
        for f in range(values.shape[1]):
            out_values[k, f] = values[slot, f]
        offset += 1
        if offset == block:
            place = links[place, NEXT]
            offset = np.int64(0)


@njit(cache=True, error_model="numpy", inline="always")
def _add(
    times, types, values, links, chains, chain, header, block, last, time, event_type, fields,
    columns, i,
):  # fmt: skip
    """Put an event into its place of a chain."""
    if chains[chain, C_COUNT] == last:
        if time < times[chains[chain, C_FIRST] * block + chains[chain, C_HEAD]]:
            return
        _drop_oldest(links, chains, chain, header, block)
    offset = (chains[chain, C_HEAD] + chains[chain, C_COUNT]) % block
    if offset == 0:
        _append_block(links, chains, chain, header)
    place = chains[chain, C_LAST]
    slot = place * block + offset
    for _ in range(chains[chain, C_COUNT]):
        if offset == 0:
            place = links[place, PREVIOUS]
            offset = block
        offset -= 1
        earlier = place * block + offset
        if times[earlier] <= time:
            break
        times[slot] = times[earlier]
        types[slot] = types[earlier]
        for f in range(values.shape[1]):
            values[slot, f] = values[earlier, f]
        slot = earlier
    times[slot] = time
    types[slot] = event_type
    for f in range(values.shape[1]):
        row = fields[event_type, f]
        values[slot, f] = columns[row, i] if row >= 0 else np.nan
    chains[chain, C_COUNT] += 1


@njit(cache=True, error_model="numpy")
def _append_block(links, chains, chain, header):
    new = header[FREE]
    if new != 0:
        header[FREE] = links[new, NEXT]
    else:
        new = header[BLOCKS]
        header[BLOCKS] = new + 1
    newest = chains[chain, C_LAST]
    links[new, PREVIOUS] = newest
    chains[chain, C_LAST] = new
    if newest != 0:
        links[newest, NEXT] = new
    else:
        chains[chain, C_FIRST] = new

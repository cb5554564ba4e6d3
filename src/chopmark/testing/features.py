"""The contract that every feature keeps, as library code: `check_feature`.

- Live equals history, and history equals itself however it is cut into batches: bit for bit.
- Both equal the oracle, which looks at the past with plain loops.
- Nothing known later leaks in: the future can be cut off or replaced and no value changes.
- A snapshot taken anywhere and continued gives the same values.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from chopmark.events.event import Event
from chopmark.features.catalog import Catalog, Feature
from chopmark.features.fold import Fold, Replayed, Value
from chopmark.features.sequence import EventList
from chopmark.testing.oracle import Oracle, Raw


def check_feature(
    feature: Feature | Sequence[Feature],
    catalog: Catalog,
    events: Sequence[Event],
    *,
    cuts: Sequence[int] = (1, 3, 7, 1000),
) -> None:
    """Raise AssertionError where a feature breaks the contract on these events.

    Parameters
    ----------
    feature : feature or features of the catalog
        Which to judge.
    events : sequence of Event
        In the order of the log, with ``known_at`` set; use ones that are late, repeated in
        their values, and equal in their times.
    cuts : sequence of int
        Sizes of the batches to try.
    """
    chosen = feature if isinstance(feature, Sequence) else (feature,)
    places = [catalog.names.index(one.name) for one in chosen]
    live = live_values(catalog, events)
    for size in cuts:
        _assert_same(live, replayed_values(catalog, events, size), places, catalog, f"cut {size}")
    oracle = Oracle(catalog, events)
    for position in range(len(events)):
        for place in places:
            name = catalog.names[place]
            expected = oracle.value(name, position)
            got = live[position][place]
            assert _close(got, expected), (
                f"`{name}` of event {position} ({events[position].id}): expected {expected!r} "
                f"from the oracle, got {got!r}"
            )
    half = len(events) // 2
    _assert_same(
        live[:half], live_values(catalog, events[:half]), places, catalog, "without the future"
    )
    _assert_same(live, resumed_values(catalog, events, half), places, catalog, "from a snapshot")


def live_values(catalog: Catalog, events: Sequence[Event]) -> list[list[Value]]:
    """Features of each event, one `Fold.step` after the other."""
    fold = Fold(catalog)
    return [fold.step(event) for event in events]


def replayed_values(catalog: Catalog, events: Sequence[Event], size: int) -> list[list[Value]]:
    """Features of each event, from replays of `size` events at a time."""
    fold = Fold(catalog)
    rows: list[list[Value]] = []
    for start in range(0, len(events), size):
        for replayed in fold.replay(fold.columns_of(events[start : start + size])):
            columns: list[list[Value]] = [
                _column(replayed, name, values)
                for name, values in zip(catalog.names, replayed.values, strict=True)
            ]
            rows += [list(row) for row in zip(*columns, strict=True)]
    return rows


def resumed_values(catalog: Catalog, events: Sequence[Event], at: int) -> list[list[Value]]:
    """Features of each event, with a snapshot and a new fold after the first `at` events."""
    first = Fold(catalog)
    rows = [first.step(event) for event in events[:at]]
    second = Fold(catalog)
    with TemporaryDirectory() as folder:
        first.freeze(offset=at).write(Path(folder) / "state.npz")
        assert second.load(Path(folder) / "state.npz") == (at, "")
    return rows + [second.step(event) for event in events[at:]]


def _column(replayed: Replayed, name: str, values: np.ndarray) -> list[Value]:
    if name in replayed.texts:
        return list(replayed.texts[name])
    if name in replayed.lists:
        return list(replayed.lists[name].to_list())
    return [None if value != value else value for value in values.tolist()]


def _assert_same(
    left: list[list[Value]],
    right: list[list[Value]],
    places: list[int],
    catalog: Catalog,
    where: str,
) -> None:
    assert len(left) == len(right), f"{len(left)} rows against {len(right)} ({where})"
    for position, (one, other) in enumerate(zip(left, right, strict=True)):
        for place in places:
            assert one[place] == other[place], (
                f"`{catalog.names[place]}` of event {position}: {one[place]!r} live, "
                f"{other[place]!r} {where}"
            )


def _close(got: Value, expected: Raw | EventList) -> bool:
    """Equal, up to the rounding of the last operation on floats."""
    if got is None or expected is None or isinstance(got, str | list):
        return got == expected
    if isinstance(expected, list):
        return False
    return math.isclose(float(got), float(expected), rel_tol=1e-9, abs_tol=1e-7)

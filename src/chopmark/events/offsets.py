"""Where in the log an id or a subject stands: sorted runs beside the file.

Ids are random, so an index in the database itself would rewrite one 4 KiB page for each
event; on a log of a million events a commit of 64 pairs then took 15 ms instead of 0.7. So
the table stays bare, and this index is written as log-structured stores do it: the newest
events are in a dict, older ones in sorted runs, and runs of similar size are merged. A run
keeps 64-bit hashes and offsets, so what it finds is a *candidate*, to be checked against the
event itself. Runs are derived: a missing or damaged one is made anew from the log.

Complexity: a look-up touches at most log2(n / 32,768) runs, each in constant time; an event
costs about 24 bytes on disk and, once in a run, no memory but mapped pages.

References
----------
Patrick O'Neil et al., "The Log-Structured Merge-Tree", 1996.
"""

import os
from bisect import bisect_left
from collections.abc import Callable, Iterable
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

RUN_EVENTS = 1 << 15
"""Events in memory (about 10 MB) before they become a run."""

_MAGIC = 0x3130_6E75_7268_6363  # "cchrun01"
_HEADER = 6  # words: magic, first, last, number of ids, number of subjects, checksum
_EMPTY: tuple[int, ...] = ()

Keys = NDArray[np.uint64]  # (n,) ascending hashes
Offsets = NDArray[np.uint32]  # (n,) offsets, counted from the run's first


class OffsetIndex:
    """Candidates for "which event has this id?" and "which is the newest of this subject?".

    One thread adds and one (perhaps another) compacts; any thread looks up, without a lock.

    Parameters
    ----------
    folder : path or None
        Where the runs are kept; None keeps them in memory.
    read_only : bool
        Use the runs of another process, and write none.
    """

    def __init__(self, folder: Path | None, *, read_only: bool = False) -> None:
        self._folder = folder
        self._read_only = read_only
        self._tail = _Tail(0)
        self._frozen: tuple[_Tail, ...] = ()  # on their way to a run, newest first
        self._runs: tuple[_Run, ...] = ()  # newest first
        self.num_compactions = 0

    @property
    def covered(self) -> int:
        """All events up to this offset are in the index."""
        return self._tail.last

    @property
    def num_waiting(self) -> int:
        """Events in memory that wait for `compact`."""
        return len(self._tail.ids)

    def load(self, id_at: Callable[[int], str | None]) -> None:
        """Take up the runs in the folder that belong to this log.

        Parameters
        ----------
        id_at : function of offset to id or None
            What the log has there. A run that says otherwise is of another log (say, the
            file was restored from a backup) and is dropped.
        """
        found = []
        if self._folder is not None and self._folder.is_dir():
            for path in self._folder.glob("*.run"):
                run = _Run.read(path)
                if run is not None and run.holds(id_at(run.last)):
                    found.append(run)
        chain: list[_Run] = []
        last = 0
        for run in sorted(found, key=lambda run: (run.first, -run.last)):
            if run.first == last + 1:
                chain.insert(0, run)
                last = run.last
        self._runs = tuple(chain)
        self._tail = _Tail(last)
        self._frozen = ()
        if not self._read_only:
            self._drop_others()

    def add(self, offset: int, event_id: str, kind: str, subject: str | None) -> None:
        """Add the event after `covered`."""
        tail = self._tail
        tail.ids[event_id] = offset
        if subject is not None:
            tail.newest[kind, subject] = offset
        tail.last = offset

    def of_id(self, event_id: str) -> tuple[int, ...]:
        """Offsets that may have this id; surely no other has."""
        for tail in (self._tail, *self._frozen):
            if event_id in tail.ids:
                return (tail.ids[event_id],)
        runs = self._runs
        if not runs:
            return _EMPTY
        key = _key(event_id)
        found = _EMPTY
        for run in runs:
            found += run.ids.find(key)
        return found

    def is_recent(self, event_id: str) -> bool:
        """Whether the id is in memory, that is, was added since the last compaction began."""
        return any(event_id in tail.ids for tail in (self._tail, *self._frozen))

    def of_subject(self, kind: str, subject: str) -> tuple[int, ...]:
        """Offsets that may be the newest of an event type and subject, likeliest first."""
        for tail in (self._tail, *self._frozen):
            if (kind, subject) in tail.newest:
                return (tail.newest[kind, subject],)
        key = _key(f"{kind}\0{subject}")
        found = _EMPTY
        for run in self._runs:
            found += run.newest.find(key)
        return found

    def compact(self) -> None:
        """Turn the events in memory into a run, and merge runs that are not much larger."""
        # In this order, as the look-ups read without a lock: first there, then here. What a
        # failure (no memory) leaves frozen is still found, and taken up by the next call.
        if self._tail.ids:
            frozen = self._tail
            self._frozen = (frozen, *self._frozen)
            self._tail = _Tail(frozen.last)
        while self._frozen:
            run = _Run.of(self._frozen[-1])
            older = list(self._runs)
            while older and len(older[0].ids) <= 2 * len(run.ids):
                run = _Run.merge(older.pop(0), run)
            if self._folder is not None and not self._read_only:
                run = run.written(self._folder)
            self._runs = (run, *older)
            self.num_compactions += 1
            self._frozen = self._frozen[:-1]
        if not self._read_only:
            self._drop_others()

    def _drop_others(self) -> None:
        """Remove the files of merged and foreign runs."""
        if self._folder is None or not self._folder.is_dir():
            return
        kept = {run.name for run in self._runs}
        for path in self._folder.iterdir():
            if path.name not in kept and path.suffix in (".run", ".draft"):
                with suppress(OSError):
                    path.unlink()


class _Tail:
    """The events ``first`` to ``last``, by their real keys."""

    __slots__ = ("first", "ids", "last", "newest")

    def __init__(self, covered: int) -> None:
        self.first = covered + 1
        self.last = covered
        self.ids: dict[str, int] = {}
        self.newest: dict[tuple[str, str], int] = {}


class _Sorted:
    """A map of hashes to offsets.

    Hashes are uniform, so the top bits of a hash give its place but for two neighbours or
    so: ``starts[bits]`` is where the hashes with these bits begin.
    """

    __slots__ = ("_first", "_keys", "_offsets", "_shift", "_starts", "keys", "offsets")

    def __init__(self, first: int, keys: Keys, offsets: Offsets) -> None:
        self.keys = keys
        self.offsets = offsets
        self._first = first
        num_bits = max(1, len(keys).bit_length() - 1)
        self._shift = 64 - num_bits
        tops = (keys >> np.uint64(self._shift)).astype(np.uint32)
        starts = np.searchsorted(tops, np.arange((1 << num_bits) + 1, dtype=np.uint32))
        # Views: an item of a memoryview is a plain int, and costs half of numpy's scalar.
        self._starts = starts.astype(np.uint32).data
        self._keys = keys.data
        self._offsets = offsets.data

    def __len__(self) -> int:
        return len(self.keys)

    def find(self, key: int) -> tuple[int, ...]:
        top = key >> self._shift
        start, end = self._starts[top], self._starts[top + 1]
        if start == end:
            return _EMPTY
        place = bisect_left(self._keys, key, start, end)
        if place == end or self._keys[place] != key:
            return _EMPTY
        after = place
        while after < end and self._keys[after] == key:
            after += 1
        return tuple(self._first + self._offsets[at] for at in range(after - 1, place - 1, -1))


class _Run:
    """The events ``first`` to ``last`` as sorted hashes."""

    __slots__ = ("first", "ids", "last", "newest")

    def __init__(self, first: int, last: int, ids: _Sorted, newest: _Sorted) -> None:
        self.first = first
        self.last = last
        self.ids = ids
        self.newest = newest

    @property
    def name(self) -> str:
        return f"{self.first:016d}-{self.last:016d}.run"

    @classmethod
    def of(cls, tail: _Tail) -> "_Run":
        subjects = (f"{kind}\0{subject}" for kind, subject in tail.newest)
        return cls(
            tail.first,
            tail.last,
            _sorted(tail.first, tail.ids, tail.ids.values()),
            _sorted(tail.first, subjects, tail.newest.values()),
        )

    @classmethod
    def merge(cls, older: "_Run", newer: "_Run") -> "_Run":
        moved = np.uint32(newer.first - older.first)
        merged = []
        for old, new in ((older.ids, newer.ids), (older.newest, newer.newest)):
            keys = np.concatenate([old.keys, new.keys])
            offsets = np.concatenate([old.offsets, new.offsets + moved])
            order = np.argsort(keys, kind="stable")  # linear for two sorted halves
            merged.append(_Sorted(older.first, keys[order], offsets[order]))
        return cls(older.first, newer.last, *merged)

    @classmethod
    def read(cls, path: Path) -> "_Run | None":
        """The run of a file; None if that is damaged or gone."""
        try:
            # Read once to check, then map anew: mapped pages count as memory once touched.
            checksum = crc32(path.read_bytes()[_HEADER * 8 :])
            words = np.memmap(path, dtype=np.uint64, mode="r")
        except (OSError, ValueError):
            return None
        if len(words) < _HEADER or int(words[0]) != _MAGIC or int(words[5]) != checksum:
            return None
        _, first, last, num_ids, num_subjects, _ = (int(word) for word in words[:_HEADER])
        parts = []
        start = _HEADER
        for count in (num_ids, num_subjects):
            middle = start + count
            end = middle + (count + 1) // 2
            if end > len(words):
                return None
            offsets = words[middle:end].view(np.uint32)[:count]
            parts.append(_Sorted(first, np.asarray(words[start:middle]), np.asarray(offsets)))
            start = end
        return cls(first, last, *parts)

    def written(self, folder: Path) -> "_Run":
        """Write the file and give the run that is mapped from it; this one if that fails."""
        parts = []
        for half in (self.ids, self.newest):
            padded = np.zeros((len(half) + 1) // 2 * 2, dtype=np.uint32)
            padded[: len(half)] = half.offsets
            parts += [half.keys.tobytes(), padded.tobytes()]
        body = b"".join(parts)
        words = (_MAGIC, self.first, self.last, len(self.ids), len(self.newest), crc32(body))
        path = folder / self.name
        draft = path.with_suffix(".draft")
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            draft.write_bytes(np.array(words, dtype=np.uint64).tobytes() + body)
            os.replace(draft, path)
        except OSError:
            # No harm: it works from memory now, and the next start makes it anew.
            return self
        return _Run.read(path) or self

    def holds(self, event_id: str | None) -> bool:
        """Whether the last event of the run has this id."""
        return event_id is not None and self.last in self.ids.find(_key(event_id))


def _sorted(first: int, texts: Iterable[str], offsets: Iterable[int]) -> _Sorted:
    keys = np.fromiter(map(_key, texts), dtype=np.uint64)
    counted = np.fromiter(offsets, dtype=np.int64) - first
    order = np.argsort(keys, kind="stable")
    return _Sorted(first, keys[order], counted[order].astype(np.uint32))


def _key(text: str) -> int:
    """64 bits that no client can make to collide in numbers; the same in every process."""
    code = blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(code, "little")

"""What the current run of a chain says of addresses, light enough for a request to wait for.

    risks = AddressRisks("ethereum")
    risks.of(["0x6cb9..."])      # [AddressRisk(score=0.41, band="high", label=None, ...)]

It reads what `chopmark.pipelines.chain` leaves in a chain's folder, and writes nothing:

    folder/ledger/addresses/           names to numbers, mapped
           runs/<run>/scores.npy       a score of each, mapped; about.json has the bounds of bands
           current.json                which run answers
           labels.db                   who is on a list (`chopmark.graph.labels`), if it is there

A run that takes the place of another answers within a second. What is damaged, half made or gone
leaves the run in place that answered before; `trouble` says so. Serves rows H3, H13 and H16 of
the requirements.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, StoreError
from chopmark.graph.addresses import AddressBook, folded
from chopmark.graph.labels import ILLICIT, AddressLabels, Holding
from chopmark.graph.scored import AddressRisk, Band
from chopmark.histories.storage import BROKEN

LOOK_AGAIN_S = 1.0
"""So often the folder is looked at for another run."""

_BARE = re.compile(r"[0-9a-fA-F]{40}")
_RUN = re.compile(r"[0-9]{1,12}")

_Stamp = tuple[int, int, int]


class AddressRisks:
    """The risks of one chain's addresses, following its folder. One thread at a time.

    Parameters
    ----------
    folder : path
        Of a chain that was learned.
    name : str, optional
        Of the chain; the ledger's own by default.

    Attributes
    ----------
    trouble : str
        Why the folder is not followed now; empty if it is.

    Raises
    ------
    StoreError
        If there is no chain, nothing was learned yet, or something is damaged.
    """

    def __init__(self, folder: str | Path, *, name: str | None = None) -> None:
        self.folder = Path(folder)
        self.trouble = ""
        self._labels: AddressLabels | None = None
        self._labels_stamp: _Stamp | None = None
        self._now = _Opened.of(self.folder)
        self._follow_labels()
        self.name = self._now.chain if name is None else name
        self._look_at = monotonic() + LOOK_AGAIN_S
        self.of([""])  # compiles what the first request would wait for

    @property
    def run(self) -> str:
        """The run that answers."""
        return self._now.run

    def __len__(self) -> int:
        """Addresses that the run knows."""
        return len(self._now.scores)

    def close(self) -> None:
        """Let the labels go."""
        if self._labels is not None:
            self._labels.close()
            self._labels = None

    def of(self, addresses: Sequence[str]) -> list[AddressRisk]:
        """What is known of addresses, in their order.

        Hex addresses may be written in any case and without 0x, those of bech32 in capitals.

        Raises
        ------
        InvalidInput
            If a text cannot be written as UTF-8.
        StoreError
            If the labels cannot be read now. A score without its label would let through whom a
            list forbids, so there is none.

        Complexity: two random reads an address, and an index look-up of its labels.
        """
        if not addresses:
            return []
        self.follow()
        now = self._now
        plain = [plain_address(address) for address in addresses]
        scores = now.scores_of(plain)
        # Both, as a list may have been written in capitals too.
        asked = dict.fromkeys([*plain, *addresses])
        held = {} if self._labels is None else self._labels.holding(list(asked))
        found = []
        for address, name, score in zip(addresses, plain, scores, strict=True):
            band = now.band_of(score)
            risk = AddressRisk(
                address=address, chain=self.name, run=now.run, score=score, band=band,
                warning=_warned(band),
            )  # fmt: skip
            holding = held.get(name) or held.get(address)
            found.append(risk if holding is None else _labelled(risk, holding))
        return found

    def follow(self, *, at_once: bool = False) -> None:
        """Look whether another run or other labels took their places, at most every second."""
        if not at_once and monotonic() < self._look_at:
            return
        troubles = []
        try:
            self._follow_labels()
        except StoreError as error:
            troubles.append(str(error))
        try:
            if not self._now.is_current(self.folder):
                self._now = _Opened.of(self.folder, wait=True)
        except StoreError as error:
            troubles.append(str(error))
        self.trouble = "; ".join(troubles)
        self._look_at = monotonic() + LOOK_AGAIN_S

    def _follow_labels(self) -> None:
        path = self.folder / "labels.db"
        stamp = _stamp(path, content=False)
        if stamp == self._labels_stamp:
            return
        if stamp is None:
            raise StoreError(
                f"expected labels in `{path}`, which are gone; those that were read go on to hold"
            )
        made = AddressLabels.open(path)
        self.close()
        self._labels, self._labels_stamp = made, stamp


@dataclass(frozen=True, slots=True, eq=False)
class _Opened:
    """One run with the book that its scores are of."""

    run: str
    chain: str
    bounds: tuple[float, float] | None
    scores: NDArray[np.float32]
    book: AddressBook
    stamps: tuple[_Stamp | None, _Stamp | None]

    @classmethod
    def of(cls, folder: Path, *, wait: bool = False) -> _Opened:
        """The run of a folder; with `wait`, only one that can be opened in an instant."""
        # Before it is read: what is replaced meanwhile is found to be another one.
        stamp = _stamp(folder / "current.json")
        if not (folder / "ledger" / "ledger.json").exists():
            raise StoreError(
                f"expected a chain in `{folder}`, got none; make one with `chopmark chain run`"
            )
        if stamp is None:
            raise StoreError(
                f"expected a run in `{folder}`, got none; learn from labels first "
                "(`chopmark chain run`)"
            )
        run = _read(folder / "current.json").get("run")
        if not isinstance(run, str) or not _RUN.fullmatch(run):
            raise StoreError(f"`{folder / 'current.json'}` is damaged: it names no run")
        home = folder / "runs" / run
        path = home / "scores.npy"
        stamps = stamp, _stamp(path)
        bounds = _bounds(home, _read(home / "about.json"))
        try:
            scores = np.load(path, mmap_mode="r", allow_pickle=False)
        except BROKEN as error:
            raise StoreError(f"the run in `{home}` is damaged: {error}") from error
        if scores.dtype != np.float32 or scores.ndim != 1:
            raise StoreError(f"the run in `{home}` is damaged: `scores.npy` is of another kind")
        books = folder / "ledger" / "addresses"
        if wait and _read(books / "head.json").get("slots") is None:
            # The index of a whole chain would be laid while requests wait.
            raise StoreError(f"addresses are being written to `{books}`")
        book = AddressBook.open(books)
        if len(book) < len(scores):
            raise StoreError(
                f"the run in `{home}` is damaged, or of another ledger: it has {len(scores):,} "
                f"scores of {len(book):,} addresses"
            )
        chain = str(_read(folder / "ledger" / "ledger.json").get("chain"))
        return cls(run, chain, bounds, scores, book, stamps)

    def is_current(self, folder: Path) -> bool:
        """Whether it is still the run that the folder names, with the same scores."""
        scores = _stamp(folder / "runs" / self.run / "scores.npy")
        return (_stamp(folder / "current.json"), scores) == self.stamps

    def scores_of(self, addresses: list[str]) -> list[float | None]:
        """A score of each address, None of one that the run did not see."""
        try:
            names = pl.Series(addresses, dtype=pl.String)
        except UnicodeEncodeError as error:
            raise InvalidInput("expected addresses as texts of UTF-8") from error
        ids = self.book.ids(names)
        seen = (ids >= 0) & (ids < len(self.scores))
        if not seen.any():
            return [None] * len(addresses)
        scores = self.scores[np.where(seen, ids, 0)].astype(np.float64)
        sound = seen & (scores >= 0.0) & (scores <= 1.0)
        return [
            score if is_sound else None
            for score, is_sound in zip(scores.tolist(), sound.tolist(), strict=True)
        ]

    def band_of(self, score: float | None) -> Band | None:
        """Where a score lies."""
        if score is None or self.bounds is None:
            return None
        raised, high = self.bounds
        return "high" if score >= high else "raised" if score >= raised else "usual"


def plain_address(address: str) -> str:
    """An address as the chain's folder has it, for texts that mean the same wallet.

    Examples
    --------
    >>> plain_address(" 0X" + "AB" * 20) == "0x" + "ab" * 20
    True
    >>> plain_address("BC1QAR0SRRR7XFKVY5L643LYDNW9RE59GTZZWF5MDQ")
    'bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq'
    """
    address = address.strip()
    return folded(f"0x{address}" if _BARE.fullmatch(address) else address)


def _labelled(risk: AddressRisk, holding: Holding) -> AddressRisk:
    """The same with a label, which has the last word on the warning."""
    illicit = holding.label == ILLICIT
    return msgspec.structs.replace(
        risk,
        label="illicit" if illicit else "licit",
        category=holding.category,
        source=holding.source,
        warning=f"This address is on a list of those used for crime ({holding.category}): do not "
        "send money to it."
        if illicit
        else None,
    )


def _warned(band: Band | None) -> str | None:
    if band == "high":
        return (
            "This address behaves like those used for crime: ask its owner by another way before "
            "you send money to it."
        )
    if band == "raised":
        return "Some of what this address did is unusual: make sure that you know whose it is."
    return None


def _bounds(home: Path, about: dict[str, Any]) -> tuple[float, float] | None:
    """From where on a score is raised and high; None of a run that was made without."""
    given = about.get("bands")
    if given is None:
        return None
    bounds = [given.get(name) for name in ("raised", "high")] if isinstance(given, dict) else []
    numbers = [float(one) for one in bounds if isinstance(one, int | float)]
    if len(numbers) != 2 or not numbers[0] <= numbers[1]:
        raise StoreError(
            f"the run in `{home}` is damaged: expected `bands` with bounds `raised` and `high`, "
            f"got {given!r}"
        )
    return numbers[0], numbers[1]


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"`{path}` is damaged: {error}") from error
    if not isinstance(found, dict):
        raise StoreError(f"`{path}` is damaged: expected an object, got {type(found).__name__}")
    return found


def _stamp(path: Path, *, content: bool = True) -> _Stamp | None:
    """What tells a file from another that took its place; None if it is not there."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns if content else 0

"""Ledger: the transfers of one chain on disk as columns of numbers, each taken in once.

    folder/ledger.json        the chain, the mark, and of each segment: rows, bounds, crc
           addresses/         the book of senders and receivers
           assets/            the book of assets; "" is 0
           segments/000001/   one .npy for each column of `COLUMNS`

A segment is written once and never changed. `ledger.json` is replaced when a segment and the
books are durable; what it does not name was never taken in. Rewinding shortens what it counts of
segments, whose rows are in the order of blocks. So a crash, a full disk or a kill at any moment
leaves the ledger as it was before or as it is after.

A row is known by its block, time, tx, asset and place. A row without a tx is known by what it
says and by how many rows of one `append` said the same before it.
"""

from __future__ import annotations

import fcntl
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, StoreError
from chopmark.graph.addresses import AddressBook, replace_json, text_hashes
from chopmark.graph.transfers import arranged, check_transfers
from chopmark.histories.description import read_description
from chopmark.histories.storage import BROKEN, sync, write_array

FORMAT = "chopmark-ledger"
VERSION = 1

COLUMNS: Mapping[str, np.dtype[Any]] = {
    "src": np.dtype(np.int32),
    "dst": np.dtype(np.int32),
    "amount": np.dtype(np.float64),
    "time": np.dtype(np.int64),
    "block": np.dtype(np.int64),
    "asset": np.dtype(np.int32),
    "tx": np.dtype(np.uint64),
    "place": np.dtype(np.int32),
}
"""Columns on disk, 48 bytes a row: ids of addresses, whole coins, microseconds since 1970, block,
id of the asset, hash of the transaction, index in it."""

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """Rows that came, or that went: `columns` as in `COLUMNS`, all of one length.

    `duplicates` counts rows of an `append` that were in the ledger, or came twice.
    """

    columns: Columns
    duplicates: int = 0

    def __len__(self) -> int:
        return len(self.columns["src"])

    @property
    def touched(self) -> NDArray[np.int64]:
        """Ids of the addresses of the rows, each once, in order."""
        return np.unique(np.concatenate([self.columns["src"], self.columns["dst"]])).astype(
            np.int64
        )


class Ledger:
    """All transfers of one chain that were read, in a folder; several chains, several folders.

    `mark` counts the changes. Who keeps the mark up to which they have worked asks `since` what
    came and what went after it, so that a run which was killed on the way is made up for.

    Examples
    --------
    >>> ledger = Ledger.create(folder)  # doctest: +SKIP
    >>> for read in read_ethereum("transactions.csv"):  # doctest: +SKIP
    ...     ledger.append(read.transfers)
    """

    def __init__(self, folder: Path, about: dict[str, Any], *, thorough: bool) -> None:
        self.folder = folder
        self._about = about
        self._segments = {
            one["name"]: _map_segment(folder, one, thorough=thorough) for one in about["segments"]
        }
        books = (("addresses", about["addresses"]), ("assets", about["assets"]))
        self.addresses, self.assets = (
            AddressBook.open(folder / name, length=length, thorough=thorough)
            for name, length in books
        )

    @classmethod
    def create(cls, folder: str | Path, chain: str = "ethereum") -> Ledger:
        """An empty ledger in a new folder.

        Raises
        ------
        StoreError
            If the folder has something in it, or cannot be written.
        """
        folder = Path(folder)
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise StoreError(
                f"expected a new folder for a ledger, but `{folder}` is there; open it, or choose "
                "another name"
            )
        about = {
            "format": FORMAT, "version": VERSION, "chain": chain, "mark": 0,
            "addresses": 0, "assets": 0, "segments": [],
        }  # fmt: skip
        try:
            (folder / "segments").mkdir(parents=True)
            AddressBook.create(folder / "addresses")
            AddressBook.create(folder / "assets")
            replace_json(folder / "ledger.json", about)
        except OSError as error:
            raise StoreError(f"a ledger cannot be written to `{folder}`: {error}") from error
        return cls(folder, about, thorough=False)

    @classmethod
    def open(cls, folder: str | Path, *, thorough: bool = False) -> Ledger:
        """The ledger of a folder, mapped; with `thorough` all bytes are read and checked.

        Raises
        ------
        StoreError
            If there is none, it is of a later version, or damaged.
        """
        return cls(Path(folder), _read_about(Path(folder)), thorough=thorough)

    def __len__(self) -> int:
        return sum(one["rows"] for one in self._about["segments"])

    @property
    def chain(self) -> str:
        """The name of the chain."""
        return str(self._about["chain"])

    @property
    def mark(self) -> int:
        """How many changes there were."""
        return int(self._about["mark"])

    @property
    def last_block(self) -> int:
        """The highest block that has a row, 0 if none has."""
        return max(
            (
                int(self._segments[one["name"]]["block"][one["rows"] - 1])
                for one in self._about["segments"]
                if one["rows"]
            ),
            default=0,
        )

    def columns(self) -> Columns:
        """All rows, as they came, within one `append` by block: mapped if it is one segment."""
        return _joined(
            [_part(self._segments[one["name"]], 0, one["rows"]) for one in self._about["segments"]]
        )

    def append(self, transfers: pl.DataFrame) -> Delta:
        """Take in transfers; the rows that are new, durable when this returns.

        Rows that are in the ledger already are counted as duplicates, so that the same delta
        twice is the same as once.

        Raises
        ------
        InvalidTable
            If the frame has not the columns of `TRANSFERS`, or a row is not sound.
        StoreError
            If it cannot be written, or another process wrote. Nothing is taken in then.
        """
        transfers = arranged(check_transfers(transfers))
        if not len(transfers):
            return Delta(_joined([]))
        with self._alone():
            return self._append(transfers)

    def rewind(self, block: int) -> Delta:
        """Take back all rows of blocks above `block`, the last one that stays; the rows that went.

        For blocks that the chain has re-organised: rewind below them, then append what is there
        now. Addresses keep their ids.

        Raises
        ------
        InvalidInput
            If the block is negative.
        StoreError
            If it cannot be written, or another process wrote. Nothing is taken back then.
        """
        if block < 0:
            raise InvalidInput(f"expected a block of 0 or more to rewind to, got {block}")
        with self._alone():
            mark, segments, gone = self.mark + 1, [], []
            for one in self._about["segments"]:
                columns = self._segments[one["name"]]
                stay = int(np.searchsorted(columns["block"][: one["rows"]], block, side="right"))
                if stay < one["rows"]:
                    gone.append(_part(columns, stay, one["rows"]))
                    one = one | {"rows": stay, "cuts": [*one["cuts"], [mark, stay]]}
                segments.append(one)
            if gone:
                self._commit({"mark": mark, "segments": segments})
            return Delta(_joined(gone))

    def since(self, mark: int) -> tuple[Delta, Delta]:
        """Rows that came and rows that went after a mark; rows that did both are in neither.

        Raises
        ------
        InvalidInput
            If the ledger never had that mark.
        """
        if not 0 <= mark <= self.mark:
            raise InvalidInput(
                f"expected a mark of 0 to {self.mark} of the ledger in `{self.folder}`, got {mark}"
            )
        came, went = [], []
        for one in self._about["segments"]:
            columns = self._segments[one["name"]]
            if one["mark"] > mark:
                came.append(_part(columns, 0, one["rows"]))
                continue
            then = min([one["total"], *(rows for at, rows in one["cuts"] if at <= mark)])
            went.append(_part(columns, one["rows"], then))
        return Delta(_joined(came)), Delta(_joined(went))

    def _append(self, transfers: pl.DataFrame) -> Delta:
        lengths = len(self.addresses), len(self.assets)
        mark = self.mark + 1
        name = f"{mark:06d}"
        target = self.folder / "segments" / name
        try:
            columns = self._numbered(transfers)
            new = self._unknown(columns)
            duplicates = len(transfers) - len(new)
            if not len(new):
                self._undo(lengths, None)
                return Delta(_joined([]), duplicates)
            columns = {column: values[new] for column, values in columns.items()}
            self.addresses.flush()
            self.assets.flush()
            shutil.rmtree(target, ignore_errors=True)  # of a run that was cut off
            target.mkdir()
            for column, values in columns.items():
                write_array(target / f"{column}.npy", values)
            sync(target)
            sync(target.parent)
            segment = {
                "name": name,
                "mark": mark,
                "total": len(new),
                "rows": len(new),
                "cuts": [],
                "blocks": [int(columns["block"][0]), int(columns["block"][-1])],
                "times": [int(columns["time"].min()), int(columns["time"].max())],
                "crc32": {column: zlib.crc32(values.data) for column, values in columns.items()},
            }
            self._commit(
                {
                    "mark": mark,
                    "addresses": len(self.addresses),
                    "assets": len(self.assets),
                    "segments": [*self._about["segments"], segment],
                }
            )
        except BaseException as error:
            if _read_about(self.folder)["mark"] < mark:
                self._undo(lengths, target)
            if isinstance(error, OSError):
                raise self._unwritten(error) from error
            raise
        self._segments[name] = _map_segment(self.folder, segment, thorough=False)
        return Delta(columns, duplicates)

    def _numbered(self, transfers: pl.DataFrame) -> Columns:
        """Rows as numbers; names that are new get their ids."""
        # Sender and receiver by turns: ids do not depend on where a table was cut.
        ends = transfers.select(pl.concat_list("sender", "receiver").alias("end")).explode("end")
        ids = self.addresses.add(ends["end"])
        self.assets.add(pl.Series([""]))  # the coin is 0
        assets = transfers["asset"]
        coins_alone = bool((assets == "").all())
        found: Columns = {
            "src": ids[0::2],
            "dst": ids[1::2],
            "amount": transfers["amount"].to_numpy(),
            "time": transfers["happened_at"].to_physical().to_numpy(),
            "block": transfers["block"].to_numpy(),
            "asset": np.zeros(len(assets)) if coins_alone else self.assets.add(assets),
            "tx": text_hashes(transfers["tx"]),
            "place": transfers["place"].to_numpy(),
        }
        bare = (transfers["tx"] == "").to_numpy()
        if bare.any():
            said = _mixed(
                found["src"], found["dst"], found["amount"].view(np.uint64), found["place"]
            )
            found["tx"] = np.where(bare, said, found["tx"])
            found["place"] = np.where(
                bare,
                pl.DataFrame({"said": said, **{k: found[k] for k in ("block", "time", "asset")}})
                .select(pl.int_range(pl.len()).over("said", "block", "time", "asset"))[:, 0]
                .to_numpy(),
                found["place"],
            )
        return {
            column: np.ascontiguousarray(found[column], dtype=kind)
            for column, kind in COLUMNS.items()
        }

    def _unknown(self, columns: Columns) -> NDArray[np.int64]:
        """Rows that are not in the ledger, the first one of each."""
        block, time = columns["block"], columns["time"]
        bounds = int(block[0]), int(block[-1]), int(time.min()), int(time.max())
        rows = (
            _identities(columns)
            .with_row_index("row")
            .unique(["block", "key"], keep="first", maintain_order=True)
        )
        for one in self._about["segments"]:
            (first, last), (since, until) = one["blocks"], one["times"]
            if first > bounds[1] or last < bounds[0] or since > bounds[3] or until < bounds[2]:
                continue
            there = self._segments[one["name"]]
            blocks = there["block"][: one["rows"]]
            start = int(np.searchsorted(blocks, bounds[0], side="left"))
            stop = int(np.searchsorted(blocks, bounds[1], side="right"))
            rows = rows.join(
                _identities(_part(there, start, stop)),
                on=["block", "key"],
                how="anti",
                maintain_order="left",
            )
        return rows["row"].to_numpy().astype(np.int64)

    def _undo(self, lengths: tuple[int, int], target: Path | None) -> None:
        self.addresses.cut(lengths[0])
        self.assets.cut(lengths[1])
        if target is not None:
            shutil.rmtree(target, ignore_errors=True)

    def _commit(self, changes: dict[str, Any]) -> None:
        about = self._about | changes
        try:
            replace_json(self.folder / "ledger.json", about)
        except OSError as error:
            if _read_about(self.folder) == about:
                raise StoreError(
                    f"the ledger in `{self.folder}` was written, but the disk does not confirm it "
                    f"({error}); open it again and see whether its mark is {about['mark']}"
                ) from error
            raise self._unwritten(error) from error
        self._about = about

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """No other process writes meanwhile, and none has since this ledger was opened."""
        try:
            lock = (self.folder / "lock").open("a")
        except OSError as error:
            raise self._unwritten(error) from error
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise StoreError(
                    f"another process is writing to the ledger in `{self.folder}`; try again "
                    "when it has ended"
                ) from error
            if _read_about(self.folder) != self._about:
                raise StoreError(
                    f"the ledger in `{self.folder}` was changed by another process; open it again"
                )
            yield

    def _unwritten(self, error: OSError) -> StoreError:
        return StoreError(
            f"the ledger in `{self.folder}` cannot be written ({error}); nothing was applied: "
            "make room, then try again"
        )


def _identities(columns: Columns) -> pl.DataFrame:
    """By what a row is known."""
    key = _mixed(columns["tx"], columns["asset"], columns["place"], columns["time"])
    return pl.DataFrame({"block": columns["block"], "key": key})


def _mixed(*parts: NDArray[Any]) -> NDArray[np.uint64]:
    """64 bits of several numbers, by splitmix64's finaliser; numpy's twin of `hashing.mix`."""
    mixed = np.zeros(len(parts[0]), dtype=np.uint64)
    for part in parts:
        mixed = (mixed ^ part.astype(np.uint64)) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return mixed


def _part(columns: Columns, start: int, stop: int) -> Columns:
    return {name: values[start:stop] for name, values in columns.items()}


def _joined(parts: list[Columns]) -> Columns:
    parts = [part for part in parts if len(part["src"])]
    if len(parts) == 1:
        return parts[0]
    return {
        name: np.concatenate([np.empty(0, dtype=kind), *(part[name] for part in parts)])
        for name, kind in COLUMNS.items()
    }


def _map_segment(folder: Path, segment: dict[str, Any], *, thorough: bool) -> Columns:
    home = folder / "segments" / segment["name"]
    columns: Columns = {}
    for name, kind in COLUMNS.items():
        path = home / f"{name}.npy"
        try:
            # Copy on write, as kernels are compiled for arrays that may be written.
            columns[name] = np.asarray(np.load(path, mmap_mode="c", allow_pickle=False))
        except BROKEN as error:
            raise _damaged(folder, f"`{path.name}` of segment {home.name} ({error})") from error
        if columns[name].dtype != kind or columns[name].shape != (segment["total"],):
            raise _damaged(folder, f"`{path.name}` of segment {home.name} has another size or kind")
        if thorough and zlib.crc32(columns[name].data) != segment["crc32"][name]:
            raise _damaged(folder, f"`{path.name}` of segment {home.name} has other bytes")
    return columns


def _read_about(folder: Path) -> dict[str, Any]:
    about = read_description(
        folder / "ledger.json", format=FORMAT, version=VERSION, what="a ledger",
        make="make one with `Ledger.create`", again="update chopmark", damaged=_damaged,
    )  # fmt: skip
    if not _sound(about):
        raise _damaged(folder, "`ledger.json` lacks sizes or segments, or has odd ones")
    return about


def _sound(about: dict[str, Any]) -> bool:
    """Whether the description has all that is read from it, of the right kinds."""

    def size(given: object) -> bool:
        return type(given) is int and 0 <= given < 2**62

    def pair(given: object) -> bool:
        return isinstance(given, list) and len(given) == 2 and all(type(x) is int for x in given)

    def segment(given: object) -> bool:
        return (
            isinstance(given, dict)
            # A name with a way in it would lead out of the folder.
            and isinstance(given.get("name"), str)
            and given["name"].isdigit()
            and all(size(given.get(name)) for name in ("mark", "total", "rows"))
            and given["total"] > 0
            and given["rows"] <= given["total"]
            and isinstance(given.get("cuts"), list)
            and all(pair(cut) for cut in given["cuts"])
            and pair(given.get("blocks"))
            and pair(given.get("times"))
            and isinstance(given.get("crc32"), dict)
            and all(size(given["crc32"].get(name)) for name in COLUMNS)
        )

    segments = about.get("segments")
    return (
        isinstance(about.get("chain"), str)
        and all(size(about.get(name)) for name in ("mark", "addresses", "assets"))
        and isinstance(segments, list)
        and all(segment(one) for one in segments)
        and len({one["name"] for one in segments}) == len(segments)
    )


def _damaged(folder: Path, what: str) -> StoreError:
    return StoreError(f"the ledger in `{folder}` is damaged: {what}; restore a copy")

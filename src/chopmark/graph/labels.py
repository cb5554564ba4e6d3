"""Labels of addresses: who said it, when it was known, who objected, and what holds as of when.

    labels = AddressLabels.create("labels.db", [Source("court", rank=1), Source("forum", rank=5)])
    labels.add(frame)                                  # address, label, category, source, known_at
    number = labels.appeal("0xab..", by="owner", reason="sold the wallet", at=moment)
    labels.rule(number, upheld=True, by="analyst-7", reason="proof of sale", at=later)
    labels.as_of(later)                                # one row per address: what holds

Nothing is ever changed or removed: a label, a retraction, an appeal and its ruling are records,
so that training can ask what was known at any instant. Of one source its newest label of an
address holds, until it is retracted or runs out. Of several sources the one of the best rank
holds, then the surest, then the newest. An upheld appeal is a negative label of rank 0, above
every source: no list that repeats itself can undo it. Serves rows H8 and H15.
"""

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from os import PathLike
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.errors import InvalidInput, InvalidTable, StoreError, did_you_mean
from chopmark.times import instant, now

APPEALS = "appeals"
"""The source of labels that come from upheld appeals; its rank is 0."""
ILLICIT, LICIT = "illicit", "licit"

_APPLICATION_ID = 0x63686F6C  # "chol"
_LAYOUT_VERSION = 1
_MOMENT = pl.Datetime("us", "UTC")
_Z = 1.96
_TABLES = f"""
BEGIN;
CREATE TABLE sources (name TEXT PRIMARY KEY, rank INTEGER NOT NULL) STRICT;
CREATE TABLE records (
    number INTEGER PRIMARY KEY,
    kind TEXT NOT NULL,
    address TEXT NOT NULL,
    label TEXT,
    category TEXT,
    source TEXT NOT NULL,
    confidence REAL,
    known_at INTEGER NOT NULL,
    until INTEGER,
    by TEXT,
    reason TEXT,
    appeal INTEGER,
    written_at INTEGER NOT NULL
) STRICT;
CREATE INDEX of_address ON records (address);
CREATE UNIQUE INDEX no_label_twice
    ON records (address, source, known_at, label, category, confidence, ifnull(until, 'never'))
    WHERE kind = 'label';
CREATE UNIQUE INDEX one_ruling ON records (appeal) WHERE kind = 'ruling';
CREATE TRIGGER no_change BEFORE UPDATE ON records BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER no_removal BEFORE DELETE ON records BEGIN SELECT RAISE(ABORT, 'append only'); END;
PRAGMA application_id = {_APPLICATION_ID};
PRAGMA user_version = {_LAYOUT_VERSION};
COMMIT;
"""
_RECORDS: dict[str, pl.DataType | type[pl.DataType]] = {
    "number": pl.Int64, "kind": pl.String, "address": pl.String, "label": pl.String,
    "category": pl.String, "source": pl.String, "confidence": pl.Float64, "known_at": pl.Int64,
    "until": pl.Int64, "by": pl.String, "reason": pl.String, "appeal": pl.Int64,
}  # fmt: skip
_INSERT = (
    f"INSERT INTO records ({', '.join(list(_RECORDS)[1:])}, written_at) "
    f"VALUES ({', '.join('?' * len(_RECORDS))})"
)


@dataclass(frozen=True, slots=True)
class Source:
    """Who gives labels. Only labels of declared sources are taken.

    Attributes
    ----------
    name : str
    rank : int, >= 1
        1 is believed most; an upheld appeal has 0.
    """

    name: str
    rank: int

    def __post_init__(self) -> None:
        if not self.name or self.name == APPEALS or self.rank < 1:
            raise InvalidInput(
                f"expected a source with a name (not `{APPEALS}`) and a rank >= 1, got "
                f"`{self.name}` of rank {self.rank}"
            )


class AddressLabels:
    """All records of labels in one SQLite file; each call is applied whole or not at all."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self._connection = path, connection

    @classmethod
    def create(cls, path: str | PathLike[str], sources: Collection[Source]) -> Self:
        """A new file with the sources whose labels it will take.

        Raises
        ------
        StoreError
            If the file is there already, or cannot be made.
        InvalidInput
            If a source is named twice.
        """
        path = Path(path)
        if path.exists():
            raise StoreError(f"expected a new file for labels, but {path} is there; open it")
        names = [source.name for source in sources]
        if len(set(names)) != len(names):
            raise InvalidInput(f"expected each source once, got {', '.join(sorted(names))}")
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = _connected(path)
        with _errors(path):
            connection.executescript(_TABLES)
        labels = cls(path, connection)
        labels._declare([(APPEALS, 0), *((source.name, source.rank) for source in sources)])
        return labels

    @classmethod
    def open(cls, path: str | PathLike[str]) -> Self:
        """The labels of a file.

        Raises
        ------
        StoreError
            If there is none, or it is another's, of a later version, or damaged.
        """
        path = Path(path)
        if not path.is_file():
            raise StoreError(f"expected a file of labels at {path}; make it with `create`")
        connection = _connected(path)
        with _errors(path):
            found = connection.execute("PRAGMA application_id").fetchone()[0]
            version = connection.execute("PRAGMA user_version").fetchone()[0]
            sound = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        if (found, version) != (_APPLICATION_ID, _LAYOUT_VERSION) or sound != "ok":
            connection.close()
            raise StoreError(
                f"expected sound labels of version {_LAYOUT_VERSION} in {path}, got application "
                f"{found:#x}, version {version}, check `{sound}`; give another path, update "
                "chopmark, or restore a copy"
            )
        return cls(path, connection)

    def close(self) -> None:
        """Close the file; all that was written is durable already."""
        self._connection.close()

    def declare(self, source: Source) -> None:
        """Take labels of one more source from now on; its rank cannot be changed later.

        Raises
        ------
        InvalidInput
            If it is declared with another rank.
        """
        known = self.sources.get(source.name)
        if known is not None and known != source.rank:
            raise InvalidInput(
                f"expected source `{source.name}` of rank {known} as it was declared, got rank "
                f"{source.rank}; give it another name, for past decisions rest on the old rank"
            )
        if known is None:
            self._declare([(source.name, source.rank)])

    @property
    def sources(self) -> dict[str, int]:
        """The rank of each source, that of appeals too."""
        return dict(self._rows("SELECT name, rank FROM sources ORDER BY rank, name"))

    def add(self, frame: pl.DataFrame) -> int:
        """Record labels; how many of them were new.

        Parameters
        ----------
        frame : pl.DataFrame
            address, label ("illicit" or "licit"), category (such as "mixer"), source, known_at
            (with a time zone), and optionally confidence in (0, 1] (1) and until (null: for
            ever). The same label of the same source and instant again is nothing new.

        Raises
        ------
        InvalidTable
            If a column lacks, or a value is missing or not allowed; nothing is recorded then.
        """
        rows = self._checked(frame)
        with self._transaction():
            before = self._connection.total_changes
            self._write(
                [("label", *row, None, None, None) for row in rows.iter_rows()],
                ending=" ON CONFLICT DO NOTHING",
            )
            return self._connection.total_changes - before

    def retract(self, address: str, *, source: str, by: str, reason: str, at: datetime) -> None:
        """Record that a source takes back what it said of an address up to an instant.

        Raises
        ------
        InvalidInput
            If the source has no label of that address at that instant.
        """
        address, when = _address(address), int(instant(at))
        with self._transaction():
            given = self._frame("WHERE address = ?", address)
            if _opinions(given, when).filter(pl.col("source") == source).is_empty():
                raise InvalidInput(
                    f"expected a label of `{source}` for {address} at {at.isoformat()}, got none; "
                    "see `history`"
                )
            self._write(
                [("retraction", address, None, None, source, None, when, None, by, reason, None)]
            )

    def appeal(self, address: str, *, by: str, reason: str, at: datetime) -> int:
        """Record that somebody objects to an address being called illicit; the appeal's number.

        The label holds until the appeal is ruled on.

        Raises
        ------
        InvalidInput
            If the address is not held for illicit at that instant, or an appeal is open.
        """
        address, when = _address(address), int(instant(at))
        with self._transaction():
            records = self._frame("WHERE address = ?", address)
            held = _held(records, when, self.sources)
            if held.is_empty() or held["label"][0] != ILLICIT:
                raise InvalidInput(
                    f"expected an address that is labelled illicit at {at.isoformat()}, got "
                    f"{address}, which is not; there is nothing to appeal against"
                )
            if not _open_appeals(records, when).is_empty():
                raise InvalidInput(f"expected one appeal at a time, but one for {address} is open")
            return self._write(
                [("appeal", address, None, None, APPEALS, None, when, None, by, reason, None)]
            )

    def rule(self, appeal: int, *, upheld: bool, by: str, reason: str, at: datetime) -> None:
        """Record the ruling on an appeal; upheld, the address is licit from that instant on.

        Raises
        ------
        InvalidInput
            If there is no such appeal, it is ruled on already, or it came later.
        """
        when = int(instant(at))
        with self._transaction():
            found = self._frame("WHERE number = ? AND kind = 'appeal'", appeal)
            ruled = self._frame("WHERE appeal = ? AND kind = 'ruling'", appeal)
            if found.is_empty() or not ruled.is_empty() or found["known_at"][0] > when:
                raise InvalidInput(
                    f"expected an open appeal that came before {at.isoformat()}, got number "
                    f"{appeal}; see `appeals`"
                )
            address, label = found["address"][0], LICIT if upheld else ILLICIT
            rows: list[tuple[Any, ...]] = [
                ("ruling", address, label, None, APPEALS, None, when, None, by, reason, appeal)
            ]
            if upheld:
                rows.append(
                    ("label", address, LICIT, "appeal upheld", APPEALS, 1.0, when, None, by,
                     reason, appeal)
                )  # fmt: skip
            self._write(rows)

    def as_of(self, moment: datetime | str) -> pl.DataFrame:
        """What holds at an instant: one row per address, in the order of the addresses.

        Returns
        -------
        pl.DataFrame
            address, label, category, source, confidence, known_at, until, num_sources (whose
            labels hold), is_disputed (they do not agree).
        """
        held = _held(self._frame("WHERE kind IN ('label', 'retraction')"), int(instant(moment)),
                     self.sources)  # fmt: skip
        return held.with_columns(
            pl.col("known_at").cast(_MOMENT), pl.col("until").cast(_MOMENT)
        )  # epoch microseconds in UTC

    def history(self, address: str) -> pl.DataFrame:
        """All records of an address in the order in which they were written."""
        return _dated(self._frame("WHERE address = ?", _address(address)))

    def appeals(self, moment: datetime | str) -> pl.DataFrame:
        """All appeals up to an instant: number, address, by, reason, known_at, upheld (or null)."""
        when = int(instant(moment))
        records = self._frame("WHERE kind IN ('appeal', 'ruling') AND known_at <= ?", when)
        rulings = records.filter(pl.col("kind") == "ruling").select(
            number="appeal", upheld=pl.col("label") == LICIT
        )
        asked = records.filter(pl.col("kind") == "appeal")
        found = asked.join(rulings, on="number", how="left", maintain_order="left")
        return _dated(found).select("number", "address", "by", "reason", "known_at", "upheld")

    def false_positives(self, moment: datetime | str) -> pl.DataFrame:
        """How often each source called an address illicit that was not, as far as it is known.

        An address counts as wrong if an appeal was upheld after the source had labelled it, or
        if the source took its label back. Who never appeals is not seen: the share is a lower
        bound of the true one.

        Returns
        -------
        pl.DataFrame
            One row per source with illicit labels: source, num_illicit, num_retracted,
            num_appealed, num_ruled, num_upheld, wrong_share (of num_illicit), low and high (its
            Wilson interval, 95 %).
        """
        when = int(instant(moment))
        records = self._frame("WHERE known_at <= ?", when)
        by_kind = {str(kind[0]): part for kind, part in records.group_by("kind")}
        none = records.clear()
        first = (
            by_kind.get("label", none)
            .filter(pl.col("label") == ILLICIT)
            .group_by("source", "address")
            .agg(pl.col("known_at").min())
        )

        def later(part: pl.DataFrame, on: list[str], name: str) -> pl.DataFrame:
            hits = first.join(part.select(*on, at="known_at"), on=on, how="inner")
            hits = hits.filter(pl.col("at") >= pl.col("known_at"))
            return hits.select("source", "address").unique().with_columns(pl.lit(True).alias(name))

        rulings = by_kind.get("ruling", none)
        marks = {
            "num_retracted": later(by_kind.get("retraction", none), ["source", "address"], "x"),
            "num_appealed": later(by_kind.get("appeal", none), ["address"], "x"),
            "num_ruled": later(rulings, ["address"], "x"),
            "num_upheld": later(rulings.filter(pl.col("label") == LICIT), ["address"], "x"),
        }
        table = first
        for name, part in marks.items():
            table = table.join(part.rename({"x": name}), on=["source", "address"], how="left")
        table = table.with_columns(pl.col(*marks).fill_null(value=False))
        wrong = pl.col("num_upheld") | pl.col("num_retracted")
        found = (
            table.group_by("source")
            .agg(pl.len().alias("num_illicit"), pl.col(*marks).sum(), wrong.sum().alias("wrong"))
            .sort("source")
        )
        share, low, high = _wilson(found["wrong"].to_numpy(), found["num_illicit"].to_numpy())
        return found.drop("wrong").with_columns(
            pl.Series("wrong_share", share), pl.Series("low", low), pl.Series("high", high)
        )

    def _checked(self, frame: pl.DataFrame) -> pl.DataFrame:
        """The columns of labels, in their types; times as microseconds."""
        needed = ("address", "label", "category", "source", "known_at")
        missing = [name for name in needed if name not in frame.columns]
        if missing:
            raise InvalidTable(
                f"expected labels with columns {', '.join(needed)}, got no `{missing[0]}`"
                f"{did_you_mean(missing[0], frame.columns)}"
            )
        if "confidence" not in frame.columns:
            frame = frame.with_columns(confidence=pl.lit(1.0))
        if "until" not in frame.columns:
            frame = frame.with_columns(until=pl.lit(None, dtype=_MOMENT))
        for name in ("known_at", "until"):
            dtype = frame.schema[name]
            empty = name == "until" and dtype == pl.Null
            if not empty and not (isinstance(dtype, pl.Datetime) and dtype.time_zone is not None):
                raise InvalidTable(f"expected `{name}` as datetimes with a time zone, got {dtype}")
        try:
            rows = frame.select(
                pl.col("address", "label", "category", "source").cast(pl.String),
                pl.col("confidence").cast(pl.Float64),
                pl.col("known_at", "until").cast(_MOMENT).cast(pl.Int64),
            )
        except pl.exceptions.PolarsError as error:
            raise InvalidTable(f"expected labels as texts and numbers, got: {error}") from error
        rows = rows.with_columns(_plain_address(pl.col("address")))
        sources = sorted(set(self.sources) - {APPEALS})
        for says, fits in (
            ("an address", pl.col("address").str.len_bytes() > 0),
            (f"label `{ILLICIT}` or `{LICIT}`", pl.col("label").is_in([ILLICIT, LICIT])),
            ("a category", pl.col("category").str.len_bytes() > 0),
            (f"a declared source ({', '.join(sources)})", pl.col("source").is_in(sources)),
            ("a confidence in (0, 1]", (pl.col("confidence") > 0) & (pl.col("confidence") <= 1)),
            ("an instant at which it was known", pl.col("known_at").is_not_null()),
            ("`until` after `known_at`",
             pl.col("until").is_null() | (pl.col("until") > pl.col("known_at"))),
        ):  # fmt: skip
            wrong = rows.select((~fits.fill_null(value=False)).arg_true()).to_series()
            if len(wrong):
                raise InvalidTable(
                    f"expected {says} in each row, got in row {wrong[0]:,}: {frame.row(wrong[0])}"
                )
        return rows

    def _declare(self, sources: list[tuple[str, int]]) -> None:
        with self._transaction():
            self._connection.executemany("INSERT INTO sources VALUES (?, ?)", sources)

    def _write(self, rows: list[tuple[Any, ...]], *, ending: str = "") -> int:
        """Append records; the number of the last."""
        at = int(now())
        self._connection.executemany(_INSERT + ending, [(*row, at) for row in rows])
        last = self._connection.execute("SELECT max(number) FROM records").fetchone()[0]
        return int(last or 0)

    def _frame(self, where: str, *values: Any) -> pl.DataFrame:
        rows = self._rows(
            f"SELECT {', '.join(_RECORDS)} FROM records {where} ORDER BY number", *values
        )
        return pl.DataFrame(rows, schema=_RECORDS, orient="row")

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with _errors(self.path):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with _errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def _opinions(records: pl.DataFrame, when: int) -> pl.DataFrame:
    """Of each source and address the newest label, if it holds at an instant."""
    known = records.filter(pl.col("known_at") <= when)
    newest = (
        known.filter(pl.col("kind") == "label")
        .sort("known_at", "number")
        .unique(["source", "address"], keep="last", maintain_order=True)
    )
    taken_back = (
        known.filter(pl.col("kind") == "retraction")
        .group_by("source", "address")
        .agg(pl.col("known_at").max().alias("retracted_at"))
    )
    return newest.join(
        taken_back, on=["source", "address"], how="left", maintain_order="left"
    ).filter(
        (pl.col("until").is_null() | (pl.col("until") > when))
        & (pl.col("retracted_at").is_null() | (pl.col("retracted_at") < pl.col("known_at")))
    )


def _held(records: pl.DataFrame, when: int, ranks: dict[str, int]) -> pl.DataFrame:
    """Of each address the label of the best source."""
    opinions = _opinions(records, when).with_columns(
        rank=pl.col("source").replace_strict(ranks, return_dtype=pl.Int64)
    )
    agreed = opinions.group_by("address").agg(
        pl.len().alias("num_sources"), (pl.col("label").n_unique() > 1).alias("is_disputed")
    )
    return (
        opinions.sort(
            "address", "rank", "confidence", "known_at", "source",
            descending=[False, False, True, True, False],
        )
        .unique("address", keep="first", maintain_order=True)
        .join(agreed, on="address", how="left", maintain_order="left")
        .select("address", "label", "category", "source", "confidence", "known_at", "until",
                "num_sources", "is_disputed")
    )  # fmt: skip


def _open_appeals(records: pl.DataFrame, when: int) -> pl.DataFrame:
    known = records.filter(pl.col("known_at") <= when)
    ruled = known.filter(pl.col("kind") == "ruling")["appeal"].to_list()
    return known.filter((pl.col("kind") == "appeal") & ~pl.col("number").is_in(ruled))


def _dated(records: pl.DataFrame) -> pl.DataFrame:
    return records.with_columns(pl.col("known_at", "until").cast(_MOMENT))


def _plain_address(address: pl.Expr) -> pl.Expr:
    """0x and 40 hex digits in lower case, as they are one address in any case; others as given."""
    is_hex = address.str.contains(r"^0[xX][0-9a-fA-F]{40}$")
    return pl.when(is_hex).then(address.str.to_lowercase()).otherwise(address)


def _address(address: str) -> str:
    return str(
        pl.DataFrame({"address": [address]}).select(_plain_address(pl.col("address"))).item()
    )


def _wilson(
    hits: NDArray[Any], of: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Shares with the ends of their Wilson intervals (Wilson 1927)."""
    n = of.astype(np.float64)
    p = hits / n
    middle = (p + _Z**2 / (2 * n)) / (1 + _Z**2 / n)
    half = _Z / (1 + _Z**2 / n) * np.sqrt(p * (1 - p) / n + _Z**2 / (4 * n**2))
    return p, np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def _connected(path: Path) -> sqlite3.Connection:
    with _errors(path):
        connection = sqlite3.connect(path, isolation_level=None, timeout=10)
        try:
            with closing(connection.execute("PRAGMA journal_mode = WAL")) as cursor:
                cursor.fetchone()
            connection.execute("PRAGMA synchronous = FULL")
        except BaseException:
            connection.close()
            raise
    return connection


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StoreError(
            f"expected to use the labels in {path}, got: {error}; nothing was recorded; check "
            "the path and the disk, or restore a copy"
        ) from error

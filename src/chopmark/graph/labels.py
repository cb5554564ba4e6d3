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
every source: no list that repeats itself can undo it.

An address that a score flags is labelled as well, by the source `SCORES`, which every other
source outranks: so whom a score flags may appeal, and its errors are counted as those of any
list. What a model learns from leaves this source out. Serves rows H8 and H15.
"""

import json
import os
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from os import PathLike
from pathlib import Path
from threading import RLock
from typing import Any, Self
from uuid import uuid4

import polars as pl

from chopmark.errors import InvalidInput, InvalidTable, StoreError, did_you_mean
from chopmark.graph.addresses import folded, folded_column
from chopmark.histories.storage import sync
from chopmark.times import instant, moment, now

APPEALS = "appeals"
"""The source of labels that come from upheld appeals; its rank is 0."""
SCORES, SCORES_RANK = "scores", 1000
"""The source of labels that say whom a score flags, and its rank: every other is believed more."""
ILLICIT, LICIT = "illicit", "licit"

_APPLICATION_ID = 0x63686F6C  # "chol"
_LAYOUT_VERSION = 1
_MOMENT = pl.Datetime("us", "UTC")
_OWN = (APPEALS, SCORES)
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
_HOLDS: dict[str, pl.DataType | type[pl.DataType]] = {
    "address": pl.String, "label": pl.String, "category": pl.String, "source": pl.String,
    "confidence": pl.Float64, "known_at": pl.Int64, "until": pl.Int64, "num_sources": pl.Int64,
    "is_disputed": pl.Boolean,
}  # fmt: skip
_GIVEN = """
    SELECT kind, address, label, category, source, confidence, known_at, until FROM records
    WHERE kind IN ('label', 'retraction') AND known_at <= :moment
        AND source NOT IN (SELECT value FROM json_each(:without)) {of}
    ORDER BY known_at, kind, number
"""  # at one instant 'label' comes before 'retraction', which takes it back
_OF_ADDRESSES = "AND address IN (SELECT value FROM json_each(:addresses))"
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
    rank : int, 1 to 999
        1 is believed most; an upheld appeal has 0, a score 1000.
    """

    name: str
    rank: int

    def __post_init__(self) -> None:
        if self.name in _OWN or not self.name or not 1 <= self.rank < SCORES_RANK:
            raise InvalidInput(
                f"expected a source with a name (not `{APPEALS}` or `{SCORES}`) and a rank of 1 "
                f"to {SCORES_RANK - 1}, got `{self.name}` of rank {self.rank}"
            )


@dataclass(frozen=True, slots=True)
class Holding:
    """What holds of an address: its label, of what category, and who says it."""

    label: str
    category: str
    source: str


class AddressLabels:
    """All records of labels in one SQLite file; each call is applied whole or not at all.

    Threads may share one, in turns. Processes may share the file: there who reads does not wait
    for who writes.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path, self._connection = path, connection
        self._lock = RLock()

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
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"labels cannot be written to {path}: {error}") from error
        made = path.with_name(f".{path.name}.{uuid4().hex}")  # a kill leaves no half of a file
        try:
            with closing(_connected(made)) as connection, _errors(path):
                connection.executescript(_TABLES)
                connection.executemany(
                    "INSERT INTO sources VALUES (?, ?)",
                    [(APPEALS, 0), *((source.name, source.rank) for source in sources)],
                )
            os.link(made, path)  # and, unlike a move, replaces none
            sync(path.parent)
        except FileExistsError as error:
            raise StoreError(
                f"expected a new file for labels, but {path} is there; open it"
            ) from error
        except OSError as error:
            raise StoreError(f"labels cannot be written to {path}: {error}") from error
        finally:
            made.unlink(missing_ok=True)
        return cls(path, _connected(path))

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
        try:
            with _errors(path):
                found = connection.execute("PRAGMA application_id").fetchone()[0]
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                sound = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
        except StoreError:
            connection.close()
            raise
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
        with self._transaction():
            self._declare(source)

    @property
    def sources(self) -> dict[str, int]:
        """The rank of each source, that of appeals too."""
        return dict(self._rows("SELECT name, rank FROM sources ORDER BY rank, name"))

    def add(self, frame: pl.DataFrame, *, declaring: Collection[Source] = ()) -> int:
        """Record labels; how many of them were new.

        Parameters
        ----------
        frame : pl.DataFrame
            address, label ("illicit" or "licit"), category (such as "mixer"), source, known_at
            (with a time zone), and optionally confidence in (0, 1] (1) and until (null: for
            ever). The same label of the same source and instant again is nothing new.
        declaring
            Sources to declare with them, both or neither.

        Raises
        ------
        InvalidTable
            If a column lacks, or a value is missing or not allowed; nothing is recorded then.
        InvalidInput
            If a source is declared with another rank.
        """
        with self._transaction():
            for source in declaring:
                self._declare(source)
            # By address the index is written in its order; of one the order stays.
            rows = label_rows(frame, self.sources).sort("address", maintain_order=True)
            before = self._connection.total_changes
            self._write(
                [("label", *row, None, None, None) for row in rows.iter_rows()],
                ending=" ON CONFLICT DO NOTHING",
            )
            return self._connection.total_changes - before

    def flag(self, flagged: pl.DataFrame, *, by: str, at: datetime) -> tuple[int, int]:
        """Record whom a score flags from an instant on: how many are new, how many no more.

        Who is new gets an illicit label of the source `SCORES`; of who is flagged no more it is
        taken back. The others keep their flag and its instant. In one piece, whatever the number.

        Parameters
        ----------
        flagged : pl.DataFrame
            address and score in (0, 1]: all that are flagged, each once.
        by
            The run that made the scores.

        Raises
        ------
        InvalidTable
            If a column lacks, a value is missing or not allowed, or an address is there twice.
        InvalidInput
            If something changes, but not after the last change of flags.
        """
        when, rows = int(instant(at)), _flag_rows(flagged)
        with self._transaction():
            self._connection.execute(
                "INSERT INTO sources VALUES (?, ?) ON CONFLICT DO NOTHING", (SCORES, SCORES_RANK)
            )
            told = self._rows(
                "SELECT kind, address, label, category, source, confidence, known_at, until "
                "FROM records WHERE source = ? ORDER BY known_at, kind, number", SCORES
            )  # fmt: skip
            before = {row[1] for row in _newest(told)}
            new = rows.filter(~pl.col("address").is_in(list(before)))
            gone = sorted(before.difference(rows["address"]))
            if told and (new.height or gone) and when <= told[-1][6]:
                raise InvalidInput(
                    f"expected flags after {moment(told[-1][6]).isoformat()}, when they changed "
                    f"last, got {at.isoformat()}; flags follow one run after the other"
                )
            self._write(
                [
                    ("label", address, ILLICIT, "score", SCORES, score, when, None, by, None, None)
                    for address, score in new.sort("address").iter_rows()
                ]
                + [
                    ("retraction", address, None, None, SCORES, None, when, None, by,
                     "flagged no more", None)
                    for address in gone
                ]
            )  # fmt: skip
        return new.height, len(gone)

    def retract(self, address: str, *, source: str, by: str, reason: str, at: datetime) -> None:
        """Record that a source takes back what it said of an address up to an instant.

        Raises
        ------
        InvalidInput
            If the source has no label of that address at that instant, or is `SCORES`.
        """
        address, when = _address(address), int(instant(at))
        _check_words(by, reason)
        if source == SCORES:
            raise InvalidInput(
                f"expected another source than `{SCORES}`, whose labels follow the scores; appeal "
                "against one, and rule on it"
            )
        with self._transaction():
            if source not in {row[4] for row in self.opinions(when, of=[address])}:
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
        _check_words(by, reason)
        with self._transaction():
            held = _held(self.opinions(when, of=[address]), self.sources)
            if address not in held or held[address][0][2] != ILLICIT:
                raise InvalidInput(
                    f"expected an address that is labelled illicit at {at.isoformat()}, got "
                    f"{address}, which is not; there is nothing to appeal against"
                )
            if self._rows(
                "SELECT 1 FROM records AS asked WHERE kind = 'appeal' AND address = ? AND NOT "
                "EXISTS (SELECT 1 FROM records WHERE appeal = asked.number AND kind = 'ruling' "
                "AND known_at <= ?)", address, when
            ):  # fmt: skip
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
        _check_words(by, reason)
        with self._transaction():
            found = self.records("WHERE number = ? AND kind = 'appeal'", appeal)
            ruled = self.records("WHERE appeal = ? AND kind = 'ruling'", appeal)
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

    def as_of(
        self, moment: datetime | str, *, without: Collection[str] = (),
        addresses: Sequence[str] | None = None,
    ) -> pl.DataFrame:  # fmt: skip
        """What holds at an instant: one row per address, in the order of the addresses.

        Parameters
        ----------
        without
            Sources to leave out.
        addresses
            Of these only; None: of all.

        Returns
        -------
        pl.DataFrame
            address, label, category, source, confidence, known_at, until, num_sources (whose
            labels hold), is_disputed (they do not agree).
        """
        of = None if addresses is None else list(map(folded, addresses))
        held = _held(self.opinions(int(instant(moment)), without=without, of=of), self.sources)
        rows = [(*row[1:], num, disputed) for row, num, disputed in held.values()]
        found = pl.DataFrame(rows, schema=_HOLDS, orient="row").sort("address")
        return _dated(found)

    def holding(
        self, addresses: Sequence[str], moment: datetime | str | None = None
    ) -> dict[str, Holding]:
        """What sources other than `SCORES` say of some addresses; who has no label is absent.

        For a service, which asks of an address before it answers: O(records of the addresses).

        Parameters
        ----------
        addresses
            As they are spelled here they are the keys of the answer.
        moment
            As of when; None: now.
        """
        when = int(now()) if moment is None else int(instant(moment))
        plain = {address: folded(address) for address in addresses}
        opinions = self.opinions(when, without=(SCORES,), of=list(plain.values()))
        held = _held(opinions, self.sources)
        return {
            address: Holding(*held[name][0][2:5]) for address, name in plain.items() if name in held
        }

    def history(self, address: str) -> pl.DataFrame:
        """All records of an address in the order in which they were written."""
        return _dated(self.records("WHERE address = ?", _address(address)))

    def appeals(self, moment: datetime | str) -> pl.DataFrame:
        """All appeals up to an instant: number, address, by, reason, known_at, upheld (or null)."""
        when = int(instant(moment))
        records = self.records("WHERE kind IN ('appeal', 'ruling') AND known_at <= ?", when)
        rulings = records.filter(pl.col("kind") == "ruling").select(
            number="appeal", upheld=pl.col("label") == LICIT
        )
        asked = records.filter(pl.col("kind") == "appeal")
        found = asked.join(rulings, on="number", how="left", maintain_order="left")
        return _dated(found).select("number", "address", "by", "reason", "known_at", "upheld")

    def _declare(self, source: Source) -> None:
        known = self.sources.get(source.name)
        if known is not None and known != source.rank:
            raise InvalidInput(
                f"expected source `{source.name}` of rank {known} as it was declared, got rank "
                f"{source.rank}; give it another name, for past decisions rest on the old rank"
            )
        if known is None:
            self._connection.execute(
                "INSERT INTO sources VALUES (?, ?)", (source.name, source.rank)
            )

    def opinions(
        self, when: int, *, without: Collection[str] = (), of: Sequence[str] | None = None
    ) -> list[tuple[Any, ...]]:
        """Of each source and address the newest label, if it holds at an instant.

        Parameters
        ----------
        when : int
            Microseconds since 1970.
        without
            Sources that are not asked.
        of
            Addresses, all if not given.

        Returns
        -------
        list of tuple
            In the order of the columns of `records`.
        """
        values = {"moment": when, "without": json.dumps(list(without))}
        if of is not None:
            values["addresses"] = json.dumps(of)
        with self._lock, _errors(self.path):
            rows = self._connection.execute(
                _GIVEN.format(of="" if of is None else _OF_ADDRESSES), values
            )
            return [row for row in _newest(rows) if row[7] is None or row[7] > when]

    def _write(self, rows: list[tuple[Any, ...]], *, ending: str = "") -> int:
        """Append records; the number of the last."""
        at = int(now())
        self._connection.executemany(_INSERT + ending, [(*row, at) for row in rows])
        last = self._connection.execute("SELECT max(number) FROM records").fetchone()[0]
        return int(last or 0)

    def records(
        self, where: str, *values: Any, columns: Collection[str] = tuple(_RECORDS)
    ) -> pl.DataFrame:
        """Records as they were written, times as microseconds, for the conditions of a query.

        Parameters
        ----------
        where
            SQL behind the table's name, with a question mark for each of `values`.
        """
        rows = self._rows(
            f"SELECT {', '.join(columns)} FROM records {where} ORDER BY number", *values
        )
        schema = {name: _RECORDS[name] for name in columns}
        return pl.DataFrame(rows, schema=schema, orient="row")

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        with self._lock, _errors(self.path):
            return self._connection.execute(query, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock, _errors(self.path):
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._connection.execute("COMMIT")
            except BaseException:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise


def label_rows(frame: pl.DataFrame, sources: Collection[str]) -> pl.DataFrame:
    """The columns of labels in their types, times as microseconds, if each row may be recorded.

    Raises
    ------
    InvalidTable
        If a column lacks, or a value is missing or not allowed.
    """
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
    rows = rows.with_columns(folded_column(pl.col("address")))
    names = sorted(set(sources).difference(_OWN))
    _check_rows(
        frame,
        rows,
        ("an address", pl.col("address").str.len_bytes() > 0),
        (f"label `{ILLICIT}` or `{LICIT}`", pl.col("label").is_in([ILLICIT, LICIT])),
        ("a category", pl.col("category").str.len_bytes() > 0),
        (f"a declared source ({', '.join(names) or 'none is'})", pl.col("source").is_in(names)),
        ("a confidence in (0, 1]", (pl.col("confidence") > 0) & (pl.col("confidence") <= 1)),
        ("an instant at which it was known", pl.col("known_at").is_not_null()),
        (
            "`until` after `known_at`",
            pl.col("until").is_null() | (pl.col("until") > pl.col("known_at")),
        ),
    )
    return rows


def _flag_rows(flagged: pl.DataFrame) -> pl.DataFrame:
    """Address and score of flags, each address once."""
    for name in ("address", "score"):
        if name not in flagged.columns:
            raise InvalidTable(
                f"expected flags with columns `address` and `score`, got no `{name}`"
                f"{did_you_mean(name, flagged.columns)}"
            )
    try:
        rows = flagged.select(
            folded_column(pl.col("address").cast(pl.String)), pl.col("score").cast(pl.Float64)
        )
    except pl.exceptions.PolarsError as error:
        raise InvalidTable(f"expected flags as texts and numbers, got: {error}") from error
    _check_rows(
        flagged,
        rows,
        ("an address", pl.col("address").str.len_bytes() > 0),
        ("a score in (0, 1]", (pl.col("score") > 0) & (pl.col("score") <= 1)),
        ("an address that is there once", pl.col("address").is_unique()),
    )
    return rows


def _check_rows(given: pl.DataFrame, rows: pl.DataFrame, *needed: tuple[str, pl.Expr]) -> None:
    for says, fits in needed:
        wrong = rows.select((~fits.fill_null(value=False)).arg_true()).to_series()
        if len(wrong):
            raise InvalidTable(
                f"expected {says} in each row, got in row {wrong[0]:,}: {given.row(wrong[0])}"
            )


def _newest(rows: Iterable[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Of each source and address the newest label that was not taken back.

    Rows of kind, address, label, category, source, confidence, known_at and until come as time
    goes, so that a later label replaces an earlier one and a retraction removes it.
    """
    newest: dict[tuple[str, str], tuple[Any, ...]] = {}
    for row in rows:
        if row[0] == "label":
            newest[row[1], row[4]] = row
        else:
            newest.pop((row[1], row[4]), None)
    return list(newest.values())


def _held(
    opinions: Iterable[tuple[Any, ...]], ranks: dict[str, int]
) -> dict[str, tuple[tuple[Any, ...], int, bool]]:
    """Of each address the row of the best source, how many opine, and whether they disagree."""
    best: dict[str, tuple[tuple[Any, ...], tuple[Any, ...], int, bool]] = {}
    for row in opinions:
        merit = (ranks[row[4]], -row[5], -row[6], row[4])  # best rank, surest, newest
        if row[1] not in best:
            best[row[1]] = merit, row, 1, False
            continue
        least, chosen, num, disputed = best[row[1]]
        disputed = disputed or row[2] != chosen[2]
        if merit < least:
            least, chosen = merit, row
        best[row[1]] = least, chosen, num + 1, disputed
    return {address: told[1:] for address, told in best.items()}


def _check_words(by: str, reason: str) -> None:
    if not by.strip() or not reason.strip():
        raise InvalidInput(f"expected who says it and why, got `{by}` and `{reason}`")


def _dated(records: pl.DataFrame) -> pl.DataFrame:
    return records.with_columns(pl.col("known_at", "until").cast(_MOMENT))


def _address(address: str) -> str:
    try:
        address.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(f"expected an address as text, got {address!a}") from error
    return folded(address)


def _connected(path: Path) -> sqlite3.Connection:
    with _errors(path):
        connection = sqlite3.connect(
            path, isolation_level=None, timeout=10, check_same_thread=False
        )
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

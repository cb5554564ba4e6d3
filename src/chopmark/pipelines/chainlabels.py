"""Labels of a chain's folder: taken from tables, kept with who said them, and learned from.

    record("ethereum", table, source="court", rank=1)     # ethereum/labels.db
    labels = open_labels("ethereum")
    known(labels, moment)                                 # what a model may learn from then
    flag(labels, flagged, run="000007", at=moment)        # whom its scores flag

`chopmark.graph.labels` says how labels are kept and which of them holds. Serves rows H8 and H15
of the requirements.
"""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import polars as pl

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.graph.labels import (
    APPEALS,
    ILLICIT,
    LICIT,
    SCORES,
    AddressLabels,
    Source,
    label_rows,
)
from chopmark.graph.transfers import instants
from chopmark.times import instant, moment, now

LABELS = "labels.db"
"""The file of labels in a chain's folder."""
TARGET = "is_illicit"

_INSTANT = pl.Datetime("us", "UTC")


@dataclass(frozen=True, slots=True)
class Recorded:
    """What was recorded of a table.

    Attributes
    ----------
    labels
        Its rows as they were recorded: address, label, category, source, known_at and the rest.
    num_new
        How many of them had not been there.
    declared
        The sources that were declared with them.
    """

    labels: pl.DataFrame
    num_new: int
    declared: tuple[str, ...]


def open_labels(folder: str | Path, *, create: bool = False) -> AddressLabels | None:
    """The labels of a chain's folder; None if there are none and none are to be made.

    Raises
    ------
    StoreError
        If the file is damaged or another's, or cannot be made.
    """
    path = Path(folder) / LABELS
    if path.exists():
        return AddressLabels.open(path)
    return AddressLabels.create(path, []) if create else None


def known(labels: AddressLabels, at: datetime | str | None = None) -> pl.DataFrame:
    """What a model may learn from: what all sources but the scores' own flags say of an address.

    Parameters
    ----------
    at
        As of when, such as the instant of the last block, for a model that is to know no more
        than one could have known then; None: now.

    Returns
    -------
    pl.DataFrame
        address, is_illicit and known_at, as `checked_labels` takes them, one row per address.
    """
    held = labels.as_of(moment(now()) if at is None else at, without=(SCORES,))
    return held.select("address", (pl.col("label") == ILLICIT).alias(TARGET), "known_at")


def flag(
    labels: AddressLabels, flagged: pl.DataFrame, *, run: str, at: datetime
) -> tuple[int, int]:
    """Record whom the scores of a run flag: how many are new, how many are flagged no more.

    See `AddressLabels.flag`. Who is flagged may appeal as against any label.

    Parameters
    ----------
    flagged
        ``address`` and ``score`` of all whom they flag.

    Raises
    ------
    InvalidTable
        If `flagged` is no such table; nothing is recorded then.
    InvalidInput
        If flags changed at that instant or later already.
    """
    return labels.flag(flagged, by=run, at=at)


def record(
    folder: str | Path,
    table: pl.DataFrame,
    *,
    source: str | None = None,
    rank: int | None = None,
    category: str | None = None,
    known_at: datetime | str | None = None,
) -> Recorded:
    """Record the labels of a table in a chain's folder, all of them or none.

    Parameters
    ----------
    table
        ``address``; ``is_illicit`` (true and false, or 1 and 0) or ``label`` (illicit, licit),
        which is read as the category where ``is_illicit`` is there too; and optionally
        ``category``, ``source``, ``known_at``, ``confidence`` and ``until``.
    source
        Who says it, if the table does not.
    rank
        Of the sources that this folder has not heard of, 1 (believed most) to 999.
    category
        Where the table has none; "unspecified" unless given.
    known_at
        Since when, where the table does not say; now unless given.

    Raises
    ------
    InvalidTable
        If a column lacks, or a row may not be recorded.
    InvalidInput
        If a source is not declared and there is no rank, or it is declared with another.
    StoreError
        If the file is damaged, or cannot be made.
    """
    rows = _told(table, source, category, known_at)
    named = rows["source"].drop_nulls().unique().sort().to_list()
    labels = open_labels(folder)
    try:
        declared = {} if labels is None else labels.sources
        new = [name for name in named if name not in declared]
        if new and rank is None:
            others = ", ".join(sorted(set(declared) - {APPEALS, SCORES}))
            raise InvalidInput(
                f"expected labels of sources that are declared in `{folder}` "
                f"({others or 'there are none yet'}), got `{new[0]}`; give "
                "the rank it is to have (1 is believed most)"
            )
        sources = [] if rank is None else [Source(name, rank) for name in new or named]
        if labels is None:
            label_rows(rows, new)  # before a file is made
            labels = open_labels(folder, create=True)
            assert labels is not None
        return Recorded(rows, labels.add(rows, declaring=sources), tuple(new))
    finally:
        if labels is not None:
            labels.close()


def _told(
    table: pl.DataFrame, source: str | None, category: str | None, known_at: datetime | str | None
) -> pl.DataFrame:
    """A table's labels as `AddressLabels.add` takes them; its rows are checked there."""
    _check_columns(table, ("address",))
    if TARGET not in table.columns and "label" not in table.columns:
        raise InvalidTable(
            f"expected labels with a column `{TARGET}` or `label`, got {', '.join(table.columns)}"
        )
    if source is None and "source" not in table.columns:
        raise InvalidInput("expected a column `source` in the table, or the name of its source")
    if source is not None and "source" in table.columns:
        raise InvalidInput(
            f"expected one way to say whose labels these are, got source `{source}` and a column "
            "`source` in the table; leave one out"
        )
    words = table
    if TARGET in table.columns:
        _check_target(table[TARGET])
        if "label" in table.columns and "category" not in table.columns:
            words = words.rename({"label": "category"})
        label = pl.when(pl.col(TARGET).cast(pl.Boolean)).then(pl.lit(ILLICIT))
        words = words.with_columns(
            label=label.when(pl.col(TARGET).is_not_null()).then(pl.lit(LICIT))
        )
    else:
        _check_columns(table, ("label",))
        words = words.with_columns(pl.col("label").cast(pl.String).str.to_lowercase())
    if source is not None:
        words = words.with_columns(source=pl.lit(source))
    for name in ("category", "known_at"):
        if name not in words.columns:
            words = words.with_columns(pl.lit(None).alias(name))
    since = now() if known_at is None else instant(known_at)
    words = words.with_columns(
        _known(words[name], name).alias(name)
        for name in ("known_at", "until")
        if name in words.columns
    ).select(
        pl.col("address", "label").cast(pl.String).str.strip_chars(),
        pl.col("category").cast(pl.String).str.strip_chars().replace("", None)
        .fill_null(category or "unspecified"),
        pl.col("source").cast(pl.String).str.strip_chars(),
        pl.col("known_at").cast(_INSTANT).fill_null(pl.lit(moment(since))),
        *(name for name in ("confidence", "until") if name in table.columns),
    )  # fmt: skip
    later = words.filter(pl.col("known_at") > moment(now()))
    if later.height:
        raise InvalidTable(
            f"expected labels that are known by now, got `known_at` {later['known_at'][0]} of "
            f"{later['address'][0]}"
        )
    return words


def checked_labels(labels: pl.DataFrame) -> pl.DataFrame:
    """``address`` and ``is_illicit`` (1 and 0) of labels, older ones first, without nulls.

    Raises
    ------
    InvalidTable
        If a column is missing, a label is neither true nor false, 1 nor 0, or a `known_at` is no
        instant.
    """
    _check_columns(labels, ("address", TARGET))
    _check_target(labels[TARGET])
    if "known_at" in labels.columns:
        labels = labels.with_columns(known_at=_known(labels["known_at"], "known_at")).sort(
            "known_at", maintain_order=True
        )
    return labels.select(
        pl.col("address").cast(pl.String).str.strip_chars(), pl.col(TARGET).cast(pl.Int8)
    ).drop_nulls()


def _check_columns(table: pl.DataFrame, columns: Collection[str]) -> None:
    for column in columns:
        if column not in table.columns:
            raise InvalidTable(
                f"expected labels with columns {' and '.join(f'`{name}`' for name in columns)}, "
                f"got {', '.join(table.columns) or 'none'}"
            )
    for column in columns:
        if table[column].dtype.is_nested():
            raise InvalidTable(f"expected one value a row in `{column}`, got lists")


def _check_target(label: pl.Series) -> None:
    if not (label.dtype.is_numeric() or label.dtype in (pl.Boolean, pl.Null)):
        such = next(iter(label.drop_nulls()), None)
        raise InvalidTable(
            f"expected `{TARGET}` as true and false or 1 and 0, got "
            f"{'text' if label.dtype == pl.String else label.dtype} such as `{such}`"
        )
    strange = label.cast(pl.Float64).drop_nulls()
    strange = strange.filter(~strange.is_in([0.0, 1.0]))
    if len(strange):
        raise InvalidTable(
            f"expected `{TARGET}` as true and false or 1 and 0, got {strange[0]:g}; leave out "
            "rows whose label is not known"
        )


def _known(told: pl.Series, name: str) -> pl.Series:
    """When labels became known, or run out: text must not be sorted as text."""
    if told.dtype == pl.Null:
        return told
    if told.dtype == pl.Date:
        return told.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    try:
        found = instants(told)
    except InvalidInput as error:
        raise InvalidTable(f"`{name}` of labels: {error}") from error
    if told.dtype == pl.String:
        days = told.str.strip_chars().str.to_datetime(
            "%Y-%m-%d", strict=False, time_unit="us", time_zone="UTC"
        )
        found = found.zip_with(found.is_not_null(), days)
    wrong = told.filter(found.is_null() & told.is_not_null())
    if len(wrong):
        raise InvalidTable(
            f"expected `{name}` of labels as instants such as 2026-11-22T10:00:00Z, got "
            f"`{wrong[0]}`"
        )
    return found

"""Event sequences with labels: five public sets, and what the simulator makes, in one shape.

    data = load("cdnow")                    # from the folder that CHOPMARK_DATA names
    data = load("cdnow", "path/to/data")    # or from the folder that is given

The files lie as `chopmark.datasets.tables` says and do not ship. Whatever the set, out comes
the same: events with the columns ``user``, ``happened_at`` and ``type``, and labels with the
instant ``as_of`` up to which (that instant included) a model may read. Fields that name one
event only (``basket_id``, ``tx_id``) are left behind. Fields that name somebody or some place
(``store_id``, ``counterparty``, ``terminal``) are kept as texts, so that no model takes them
for a quantity; it is for a tokenizer to see that they come near to an identity.

Serves rows B1, G18 and G19 of the requirements.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

import polars as pl

from chopmark.datasets.tables import load_events
from chopmark.errors import InvalidInput, InvalidTable, did_you_mean

Kind = Literal["binary", "classes"]
SPLITS = ("train", "valid", "test")
"""Values of the column ``split`` of labels."""

INSTANT = pl.Datetime("us", "UTC")


@dataclass(frozen=True, slots=True)
class Task:
    """What is to be foretold: its name, the column of the labels, and of which kind it is.

    Attributes
    ----------
    kind : {"binary", "classes"}
        ``binary``: the column holds 0 and 1. ``classes``: it holds texts.
    """

    name: str
    column: str
    kind: Kind = "binary"


@dataclass(frozen=True, slots=True, eq=False)
class SequenceData:
    """Events of users, and labels of users at instants.

    Attributes
    ----------
    name : str
    events : polars.DataFrame
        ``user``, ``happened_at`` (Datetime us, UTC), ``type`` (text), then the fields: numbers
        and texts. Ordered by user, then by time.
    labels : polars.DataFrame
        ``user``, ``as_of`` (Datetime us, UTC), the label columns, ``split`` (train, valid or
        test). A label tells of what was after ``as_of``, or of the event at ``as_of`` itself;
        a model may read the user's events with ``happened_at <= as_of``. A user may have
        several rows. A label that is not known is null.
    tasks : tuple of Task
        What is worth foretelling; labels may hold further columns that are not.
    profile : polars.DataFrame or None
        What is known of a user beside the events and does not change (``user``, columns).
    """

    name: str
    events: pl.DataFrame
    labels: pl.DataFrame
    tasks: tuple[Task, ...]
    profile: pl.DataFrame | None = None

    def task(self, name: str) -> Task:
        """The task of this name.

        Raises
        ------
        InvalidInput
            If there is none.
        """
        for task in self.tasks:
            if task.name == name:
                return task
        known = [task.name for task in self.tasks]
        raise InvalidInput(
            f"expected a task of `{self.name}` ({', '.join(known)}), got `{name}`"
            + did_you_mean(name, known)
        )

    def rows(self, task: Task | str, split: str | None = None) -> pl.DataFrame:
        """The labels of one task that are known: columns ``user``, ``as_of``, ``label``, ``split``.

        Parameters
        ----------
        split : {"train", "valid", "test"}, optional
            All three if not given.

        Raises
        ------
        InvalidInput
            If there is no such task or split.
        """
        column = (self.task(task) if isinstance(task, str) else task).column
        if split is not None and split not in SPLITS:
            raise InvalidInput(f"expected a split of {', '.join(SPLITS)}, got `{split}`")
        known = self.labels.filter(pl.col(column).is_not_null())
        if split is not None:
            known = known.filter(pl.col("split") == split)
        return known.select("user", "as_of", label=pl.col(column), split=pl.col("split"))


def available_sequences() -> tuple[str, ...]:
    """Names that `load` takes."""
    return tuple(_SETS)


def load(name: str, folder: str | Path | None = None) -> SequenceData:
    """A public set of event sequences by name; `available_sequences` lists the names.

    Parameters
    ----------
    folder : str or Path, optional
        Folder of data sets, which has a folder ``sequence``. By default the one that the
        environment variable ``CHOPMARK_DATA`` names.

    Raises
    ------
    InvalidInput
        If no set has this name, or the folder lacks it.
    InvalidTable
        If a file cannot be read or lacks a column.
    """
    if name not in _SETS:
        raise InvalidInput(
            f"expected the name of a set of sequences ({', '.join(_SETS)}), got `{name}`"
            + did_you_mean(name, _SETS)
        )
    found = load_events(name, folder=folder)
    try:
        return _SETS[name](found.events, found.labels)
    except pl.exceptions.PolarsError as error:
        raise InvalidTable(
            f"the files of `{name}` are not as they are published: {error}; fetch them again"
        ) from error


def _cdnow(events: pl.DataFrame, labels: pl.DataFrame) -> SequenceData:
    return SequenceData(
        "cdnow",
        _events(events, numbers=("amount", "quantity")),
        _labels(labels, events, as_of=pl.lit(datetime(1997, 10, 1)), columns=("y_repeat",)),
        (Task("repeat", "y_repeat"),),
    )


def _physionet(events: pl.DataFrame, labels: pl.DataFrame) -> SequenceData:
    # -1 stands for "not measured" in the files; a patient's 48 hours begin in the year 2000.
    missing = pl.col("age", "gender", "height", "weight", "icu_type")
    profile = labels.with_columns(pl.when(missing >= 0).then(missing)).select(
        pl.col("user_id").alias("user"),
        "age",
        "gender",
        "height",
        "weight",
        icu_type=pl.col("icu_type").cast(pl.Int64).cast(pl.String),
    )
    known = _labels(
        labels,
        events,
        as_of=pl.lit(datetime(2000, 1, 3)),
        columns=("y_death", "y_los_days", "official_set"),
    )
    return SequenceData(
        "physionet2012",
        _events(events, numbers=("amount",)),
        known,
        (Task("death", "y_death"),),
        profile.join(known.select("user"), on="user", how="semi", maintain_order="left"),
    )


def _dunnhumby(events: pl.DataFrame, labels: pl.DataFrame) -> SequenceData:
    columns = ("y_redeem_q4", "y_income_ge50k", "y_has_kids", "y_age_group", "y_defect")
    return SequenceData(
        "dunnhumby_cj",
        _events(
            events,
            numbers=("amount", "quantity", "discount"),
            texts=("department", "brand", "store_id"),
        ),
        _labels(labels, events, as_of=pl.lit(datetime(2017, 10, 1)), columns=columns),
        (
            Task("redeem_q4", "y_redeem_q4"),
            Task("income_ge50k", "y_income_ge50k"),
            Task("has_kids", "y_has_kids"),
            Task("age_group", "y_age_group", "classes"),
        ),
    )


def _bitcoin(events: pl.DataFrame, labels: pl.DataFrame) -> SequenceData:
    # The files hold each user's first 30 days; the label tells of what came later.
    first = events.group_by("user_id").agg(first=pl.col("ts").min())
    return SequenceData(
        "bitcoin_otc",
        _events(events, numbers=("amount",), texts=("counterparty",)),
        _labels(
            labels.join(first, on="user_id", how="left", maintain_order="left"),
            events,
            as_of=pl.col("first") + timedelta(days=30),
            columns=("y_scam_later", "y_mean_later"),
        ),
        (Task("scam_later", "y_scam_later"),),
    )


def _fraud_handbook(events: pl.DataFrame, labels: pl.DataFrame) -> SequenceData:
    # The files give the terminal as the type of event; 10,000 types are no types. Between
    # train and valid lies a week without labels, as frauds become known a week later.
    told = events.with_columns(event_type=pl.lit("transaction"), terminal="event_type")
    split = labels.filter(pl.col("split") != "gap")
    return SequenceData(
        "fraud_handbook_sim",
        _events(told, numbers=("amount",), texts=("terminal",)),
        _labels(split, events, as_of=pl.col("ts"), columns=("y_fraud", "fraud_scenario")),
        (Task("fraud", "y_fraud"),),
    )


def _events(
    events: pl.DataFrame, *, numbers: tuple[str, ...], texts: tuple[str, ...] = ()
) -> pl.DataFrame:
    return (
        events.lazy()
        .select(
            pl.col("user_id").alias("user"),
            pl.col("ts").dt.replace_time_zone("UTC").alias("happened_at"),
            pl.col("event_type").alias("type"),
            *(pl.col(name).cast(pl.Float64) for name in numbers),
            *(pl.col(name).cast(pl.String) for name in texts),
        )
        .sort("user", "happened_at", maintain_order=True)
        .collect()
    )


def _labels(
    labels: pl.DataFrame, events: pl.DataFrame, *, as_of: pl.Expr, columns: tuple[str, ...]
) -> pl.DataFrame:
    return labels.join(
        events.select("user_id").unique(), on="user_id", how="semi", maintain_order="left"
    ).select(
        pl.col("user_id").alias("user"),
        as_of.cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("as_of"),
        *columns,
        "split",
    )


_SETS: dict[str, Callable[[pl.DataFrame, pl.DataFrame], SequenceData]] = {
    "cdnow": _cdnow,
    "physionet2012": _physionet,
    "dunnhumby_cj": _dunnhumby,
    "bitcoin_otc": _bitcoin,
    "fraud_handbook_sim": _fraud_handbook,
}

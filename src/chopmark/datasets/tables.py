"""Public data: tables and event streams with a label, shipped or from a folder of yours.

What a licence allows and is small ships in the package (origin and terms:
``files/LICENCES.md``). All else is read from the folder that the environment variable
``CHOPMARK_DATA`` names:

    $CHOPMARK_DATA/tabular/<name>.parquet
    $CHOPMARK_DATA/events/<name>/events.parquet, labels.parquet
    $CHOPMARK_DATA/sequence/<name>/events.parquet, labels.parquet

Nothing is downloaded. Serves rows A2, A15 and A16.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import polars as pl

from chopmark.errors import InvalidInput, InvalidTable, did_you_mean

DATA_VARIABLE = "CHOPMARK_DATA"
"""Environment variable with the folder of data sets that do not ship."""

_FILES = Path(__file__).parent / "files"
Family = Literal["tabular", "events", "sequence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTables:
    """A stream of events and the labels of its users or transactions.

    Attributes
    ----------
    events : polars.DataFrame
        ``user_id``, the time (``ts`` or ``happened_at``), ``event_type`` and further fields.
    labels : polars.DataFrame
        ``user_id`` or ``tx_id``, columns ``y_*`` and perhaps ``split``.
    """

    events: pl.DataFrame
    labels: pl.DataFrame


@dataclass(frozen=True, slots=True)
class _Set:
    name: str
    family: Family
    rows: int
    licence: str
    shipped: str = ""


_SETS = {
    entry.name: entry
    for entry in (
        _Set("titanic", "tabular", 891, "public historical record", "titanic.csv"),
        _Set("adult", "tabular", 48_842, "CC BY 4.0", "adult.parquet"),
        _Set("bank_marketing", "tabular", 41_188, "CC BY 4.0", "bank_marketing.parquet"),
        _Set("german_credit", "tabular", 1_000, "CC BY 4.0", "german_credit.parquet"),
        _Set("online_shoppers", "tabular", 12_330, "CC BY 4.0", "online_shoppers.parquet"),
        _Set("taiwan_default", "tabular", 30_000, "CC BY 4.0"),
        _Set("eth_fraud", "tabular", 9_841, "ODbL as Kaggle states"),
        _Set("vehicle_claims_fraud", "tabular", 15_422, "CC0 as Kaggle states"),
        _Set("compas_recid", "tabular", 7_214, "public records, no licence stated"),
        _Set("credit_data", "tabular", 4_454, "MIT (R package modeldata)"),
        _Set("lending_club", "tabular", 9_857, "MIT (R package modeldata)"),
        _Set("email_spam", "tabular", 3_921, "GPL-3 (R package openintro)"),
        _Set("telco_churn", "tabular", 7_043, "Apache-2.0, fictional company"),
        _Set("ecommerce_fraud", "events", 103_378, "none stated"),
        _Set("bitcoin_otc", "sequence", 28_333, "SNAP, free for research"),
        _Set("cdnow", "sequence", 49_086, "published for research"),
        _Set("dunnhumby_cj", "sequence", 1_095_181, "free for research and teaching"),
        _Set("fraud_handbook_sim", "sequence", 872_795, "none stated; code GPL-3"),
        _Set("physionet2012", "sequence", 3_245_708, "ODC-BY"),
    )
}


def load_titanic() -> pl.DataFrame:
    """The 891 passengers of the Titanic training file; ``target`` is 1 for survivors.

    Examples
    --------
    >>> load_titanic().height
    891
    """
    return load_table("titanic")


def load_table(name: str) -> pl.DataFrame:
    """A table whose column ``target`` (0 or 1) is the label; `available` lists the names.

    Raises
    ------
    InvalidInput
        If no table has this name, or it does not ship and the data folder lacks it.
    InvalidTable
        If the file cannot be read.
    """
    return _read(_find(name, families=("tabular",))[0])


def load_events(name: str, *, folder: str | Path | None = None) -> EventTables:
    """A stream of events with labels; `available` lists the names.

    Parameters
    ----------
    folder : str or Path, optional
        Folder of data sets; by default the one that ``CHOPMARK_DATA`` names.

    Raises
    ------
    InvalidInput
        If no stream has this name, or the data folder lacks it.
    InvalidTable
        If a file cannot be read.
    """
    events, labels = _find(name, families=("events", "sequence"), folder=folder)
    return EventTables(events=_read(events), labels=_read(labels))


def available() -> pl.DataFrame:
    """All data sets: name, family, rows, licence, shipped, found (on this machine now)."""
    rows = [
        {
            "name": entry.name,
            "family": entry.family,
            "rows": entry.rows,
            "licence": entry.licence,
            "shipped": bool(entry.shipped),
            "found": all(path.is_file() for path in _paths(entry)) and bool(_paths(entry)),
        }
        for entry in _SETS.values()
    ]
    return pl.DataFrame(rows)


def _find(
    name: str, *, families: tuple[Family, ...], folder: str | Path | None = None
) -> list[Path]:
    known = [entry.name for entry in _SETS.values() if entry.family in families]
    if name not in known:
        kind = "a table" if "tabular" in families else "an event stream"
        raise InvalidInput(f"expected the name of {kind}, got `{name}`" + did_you_mean(name, known))
    entry = _SETS[name]
    paths = _paths(entry, folder)
    if not paths:
        wanted = " and ".join(f"`{part}`" for part in _relative(entry))
        raise InvalidInput(
            f"data set `{name}` does not ship with chopmark (licence: {entry.licence}); put it "
            f"at {wanted} in a folder of yours and set {DATA_VARIABLE} to that folder"
        )
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise InvalidInput(
            f"data set `{name}` was expected at `{missing[0]}`, which does not exist; put the "
            f"file there or let {DATA_VARIABLE} name another folder (`available()` lists what "
            "is found)"
        )
    return paths


def _paths(entry: _Set, folder: str | Path | None = None) -> list[Path]:
    """Where its files are or should be; empty if only an unset variable could tell."""
    if entry.shipped:
        return [_FILES / entry.shipped]
    folder = folder or os.environ.get(DATA_VARIABLE)
    return [Path(folder) / part for part in _relative(entry)] if folder else []


def _relative(entry: _Set) -> list[str]:
    if entry.family == "tabular":
        return [f"tabular/{entry.name}.parquet"]
    return [f"{entry.family}/{entry.name}/{part}.parquet" for part in ("events", "labels")]


def _read(path: Path) -> pl.DataFrame:
    try:
        if path.suffix == ".csv":
            return pl.read_csv(path, infer_schema_length=None)
        return pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InvalidTable(f"expected a readable table at `{path}`: {error}") from error

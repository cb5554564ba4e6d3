import os
from pathlib import Path

import polars as pl
import pytest

from chopmark.datasets import (
    DATA_VARIABLE,
    available,
    load_events,
    load_table,
    load_titanic,
    tables,
)
from chopmark.errors import InvalidInput, InvalidTable

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
CATALOG = list(available().iter_rows(named=True))
SHIPPED = [row["name"] for row in CATALOG if row["shipped"]]
FOUND_ELSEWHERE = [row for row in CATALOG if not row["shipped"]]


@pytest.fixture
def data_folder(monkeypatch):
    folder = Path(os.environ.get(DATA_VARIABLE, SHARED))
    if not folder.is_dir():
        pytest.skip(f"no data folder: {DATA_VARIABLE} is not set and {SHARED} does not exist")
    monkeypatch.setenv(DATA_VARIABLE, str(folder))
    return folder


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_tables_need_no_folder(name, monkeypatch):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    table = load_table(name)
    rows = next(row["rows"] for row in CATALOG if row["name"] == name)
    assert table.height == rows
    assert set(table["target"].unique()) == {0, 1}


def test_what_ships_is_small_and_named_in_the_licences():
    folder = Path(tables.__file__).parent / "files"
    files = [path for path in folder.iterdir() if path.suffix in (".csv", ".parquet")]
    assert len(files) == len(SHIPPED)
    assert all(path.stat().st_size <= 400_000 for path in files)
    assert sum(path.stat().st_size for path in files) <= 1_000_000
    licences = (folder / "LICENCES.md").read_text(encoding="utf-8")
    assert all(path.name in licences for path in files)


def test_titanic_is_the_known_table():
    table = load_titanic()
    assert table["target"].sum() == 342
    assert table["Age"].null_count() == 177
    assert table["Fare"].sum() == pytest.approx(28693.9493)


@pytest.mark.parametrize("entry", FOUND_ELSEWHERE, ids=lambda entry: entry["name"])
def test_the_other_sets_load_from_the_folder(entry, data_folder):
    if not next(row["found"] for row in available().to_dicts() if row["name"] == entry["name"]):
        pytest.skip(f"{entry['name']} is not in {data_folder}")
    if entry["family"] == "tabular":
        table = load_table(entry["name"])
        assert set(table["target"].unique()) == {0, 1}
        assert table.height == entry["rows"]
    else:
        loaded = load_events(entry["name"])
        assert loaded.events.height == entry["rows"]
        assert any(column.startswith("y_") for column in loaded.labels.columns)


def test_shipped_copies_equal_their_origin(data_folder):
    for name in SHIPPED:
        origin = data_folder / "tabular" / f"{name}.parquet"
        if origin.is_file():
            columns = pl.read_parquet(origin)
            copied = load_table(name).cast({"target": columns.schema["target"]})
            assert copied.equals(columns), name


def test_a_missing_set_says_what_is_expected_where(monkeypatch, tmp_path):
    monkeypatch.delenv(DATA_VARIABLE, raising=False)
    with pytest.raises(
        InvalidInput, match=r"put it at `tabular/taiwan_default\.parquet`.*set CHOPMARK_DATA"
    ):
        load_table("taiwan_default")
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    with pytest.raises(
        InvalidInput, match=r"events/ecommerce_fraud/events\.parquet`, which does not exist"
    ):
        load_events("ecommerce_fraud")
    with pytest.raises(InvalidInput, match="did you mean `titanic`"):
        load_table("titanik")
    with pytest.raises(InvalidInput, match="expected the name of an event stream"):
        load_events("titanic")


def test_a_damaged_file_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv(DATA_VARIABLE, str(tmp_path))
    (tmp_path / "tabular").mkdir()
    (tmp_path / "tabular" / "telco_churn.parquet").write_bytes(b"not parquet")
    with pytest.raises(InvalidTable, match=r"telco_churn\.parquet"):
        load_table("telco_churn")

"""Every sort of table becomes the same frame, and what is no table is said in one line."""

import gzip
import sqlite3
import uuid
from datetime import date, datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

from chopmark.errors import InvalidTable
from chopmark.tabular.tables import Query, frame_of

ROWS = [
    {"amount": 1.5, "country": "de", "n": 1},
    {"amount": None, "country": None, "n": 2},
    {"amount": 2.0, "country": "fr, west", "n": 3},
]
FRAME = pl.DataFrame(ROWS)
DAY, NOON = date(2024, 1, 2), datetime(2024, 1, 2, 12)


def columns(frame):
    return frame.to_dict(as_series=False)


def database(path):
    with sqlite3.connect(path) as connection:
        connection.execute("create table payments (amount real, country text, n integer)")
        connection.executemany("insert into payments values (:amount, :country, :n)", ROWS)
    connection.close()
    return f"sqlite:///{path}"


def test_every_sort_of_table_is_the_same(tmp_path):
    FRAME.write_csv(tmp_path / "a.csv")
    FRAME.write_csv(tmp_path / "a.tsv", separator="\t")
    FRAME.write_parquet(tmp_path / "a.parquet")
    FRAME.write_ndjson(tmp_path / "a.jsonl")
    (tmp_path / "A.CSV.GZ").write_bytes(gzip.compress(FRAME.write_csv().encode()))
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(FRAME.write_ndjson().encode()))
    tables = {
        "polars": FRAME,
        "lazy": FRAME.lazy(),
        "pandas": FRAME.to_pandas(),
        "pandas, objects": pd.DataFrame(ROWS, dtype=object),
        "pandas, nullable": pd.DataFrame(ROWS).convert_dtypes(),
        "arrow": FRAME.to_arrow(),
        "batch": FRAME.to_arrow().to_batches()[0],
        "rows": ROWS,
        "tuple of rows": tuple(ROWS),
        "lists": columns(FRAME),
        "series": FRAME.to_dict(),
        "arrays": {**columns(FRAME), "n": np.array([1, 2, 3])},
        "query": Query(database(tmp_path / "a.db"), "select * from payments order by n"),
        **{path.name: path for path in tmp_path.glob("[aA].*") if path.suffix != ".db"},
        "str": str(tmp_path / "a.csv"),
    }
    assert len(tables) == 20
    for name, table in tables.items():
        assert columns(frame_of(table)) == columns(FRAME), name


def test_a_frame_is_not_copied():
    assert frame_of(FRAME) is FRAME


def test_an_array_gets_names():
    x = np.array([[1.0, 2.0], [3.0, np.inf]])
    assert columns(frame_of(x)) == {"x0": [1.0, 3.0], "x1": [2.0, np.inf]}
    assert columns(frame_of(x.T)) == {"x0": [1.0, 2.0], "x1": [3.0, np.inf]}
    mixed = np.array([[1, "a"], [None, "b"]], dtype=object)
    assert columns(frame_of(mixed)) == {"x0": [1, None], "x1": ["a", "b"]}


def test_rows_name_columns_as_they_come():
    assert columns(frame_of([{"b": 1}, {"a": "x", "b": 2}])) == {"b": [1, 2], "a": [None, "x"]}


@pytest.mark.parametrize(
    ("values", "read"),
    [
        ([1, 2.5, None], [1.0, 2.5, None]),
        ([1, "two", None], ["1", "two", None]),
        ([True, 2], [1, 2]),
        ([2**200, 1], [str(2**200), "1"]),
        ([{"a": 1}, 3], ["{'a': 1}", "3"]),
        ([Decimal("1.50"), 2.5], [1.5, 2.5]),
        ([uuid.UUID(int=5), None], [str(uuid.UUID(int=5)), None]),
        ([DAY, NOON], [datetime(2024, 1, 2), NOON]),
        ([NOON, "soon"], ["2024-01-02 12:00:00", "soon"]),
    ],
)  # fmt: skip
def test_mixed_values_stay_one_column(values, read):
    assert frame_of({"x": values})["x"].to_list() == read
    assert frame_of([{"x": value} for value in values])["x"].to_list() == read
    assert frame_of(pd.DataFrame({"x": pd.Series(values, dtype=object)}))["x"].to_list() == read


def test_pandas_has_types_of_its_own():
    table = pd.DataFrame(
        {
            3: pd.Categorical(["a", None]),
            "odd": [1 + 2j, 3j],
            "when": pd.to_datetime(["2024-01-02", None]),
            "whole": pd.array([1, None], dtype="Int64"),
        },
        index=[7, 7],
    )
    assert columns(frame_of(table)) == {
        "3": ["a", None],
        "odd": ["(1+2j)", "3j"],
        "when": [datetime(2024, 1, 2), None],
        "whole": [1, None],
    }


def test_numpy_times_stay_times():
    days = np.array(["2024-01-02", "NaT"], dtype="datetime64[D]")
    assert frame_of({"x": days})["x"].to_list() == [date(2024, 1, 2), None]


def refused(table, *words):
    """The message that says why this is no table."""
    with pytest.raises(InvalidTable) as raised:
        frame_of(table)
    message = str(raised.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (3, ["expected a polars or pandas DataFrame", "builtins.int"]),
        ([1, 2], ["builtins.list"]),
        (FRAME["n"], ["polars.series.series.Series"]),
        (np.arange(3), ["rows and columns", "shape (3,)"]),
        ({"a": [1, 2], "b": [1]}, ["one length", "2 values in `a`", "1 in `b`"]),
        ({"a": "text"}, ["column `a`", "got str"]),
        ({"a": 3}, ["column `a`", "got int"]),
        ({1: [1], "1": [2]}, ["`1` repeated"]),
        (pd.DataFrame([[1, 2]], columns=["a", "a"]), ["pandas DataFrame", "`a` repeated"]),
        (pa.table([[1], [2]], names=["a", "a"]), ["pyarrow table", "`a` repeated"]),
        (FRAME.lazy().select("nope"), ["cannot collect the LazyFrame", "nope"]),
        ("table.xlsx", ["expected a file that ends in .csv", "table.xlsx"]),
        ("table.csb", ["did you mean `.csv`"]),
        ("table", ["expected a file that ends in", "got `table`"]),
        ("nothing.csv", ["expected a file at `nothing.csv`, got none"]),
        ("", ["expected a file that ends in"]),
    ],
)
def test_what_is_no_table_is_said(table, words):
    refused(table, *words)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.parquet", b"PAR", ["expected Parquet in"]),
        ("a.jsonl", b'{"a":1}\n\n[1]\n', ["one JSON object in line 3", "got `array`"]),
        ("a.jsonl", b'{"a":1}\n{"a":\n', ["line 2", "truncated"]),
        ("a.jsonl", b'{"a":"\xe9"}\n', ["line 1"]),
        ("a.ndjson", b"\n", ["got an empty file"]),
        ("a.jsonl.gz", b"no", ["cannot read the table"]),
    ],
)
def test_a_damaged_file_is_said(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, *words, name)


def test_a_folder_is_no_file(tmp_path):
    (tmp_path / "a.csv").mkdir()
    refused(tmp_path / "a.csv", "expected a file at", "got none")


def test_a_query_is_one_argument_and_shows_no_address(tmp_path):
    query = Query(database(tmp_path / "a.db"), "select n, ':x %s' as odd from payments")
    assert columns(frame_of(query)) == {"n": [1, 2, 3], "odd": [":x %s"] * 3}
    assert "sqlite" not in repr(query)


def test_a_query_without_rows_keeps_its_columns(tmp_path):
    frame = frame_of(Query(database(tmp_path / "a.db"), "select * from payments where n > 9"))
    assert (frame.columns, frame.height) == (["amount", "country", "n"], 0)


def test_a_column_of_a_database_may_mix_types(tmp_path):
    url = database(tmp_path / "a.db")
    frame = frame_of(Query(url, "select 1 as x union all select 'two' union all select null"))
    assert sorted(frame["x"].to_list(), key=str) == ["1", None, "two"]


def test_a_database_is_only_read(tmp_path):
    url = database(tmp_path / "a.db")
    before = (tmp_path / "a.db").read_bytes()
    for statement in ("delete from payments returning n", "drop table payments", "vacuum"):
        refused(Query(url, statement), "readonly")
    assert (tmp_path / "a.db").read_bytes() == before
    refused(Query(url, "pragma query_only = on"), "expected a SELECT", "gives no rows")
    refused(Query(f"sqlite:///{tmp_path}/new.db", "select 1"), "expected a SQLite file at", "none")
    assert not (tmp_path / "new.db").exists()


def test_what_a_database_refuses_is_said(tmp_path):
    url = database(tmp_path / "a.db")
    refused(Query(url, "select nope from payments"), "no such column: nope", "from sqlite")
    refused(Query(url, "select 1; select 2"), "one statement")
    refused(Query(url, "select n, n from payments"), "`n` repeated")
    (tmp_path / "b.db").write_bytes(b"no database" * 999)
    refused(Query(f"sqlite:///{tmp_path}/b.db", "select 1 from x"), "not a database")


@pytest.mark.parametrize(
    "url",
    [
        "no address of s3cret",
        "nodialect://me:s3cret@host/db",
        "postgresql+nodriver://me:s3cret@host/db",
        "postgresql://me:s3cret@host:port/db",
        "postgresql://me:s3cret@localhost:1/db",
    ],
)
def test_no_message_shows_a_password(url):
    assert "s3cret" not in refused(Query(url, "select 1"), "expected")
    if "://" in url:
        assert "s3cret" not in refused(url, "Query(address")

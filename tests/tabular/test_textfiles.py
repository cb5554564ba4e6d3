"""CSV as people write it: what is read, and the one line that says why something is not."""

import csv
import gzip
import io

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.errors import InvalidTable
from chopmark.tabular.tables import frame_of
from chopmark.tabular.textfiles import MISSING


@pytest.fixture
def read(tmp_path):
    """The table of a file with these contents."""

    def of(content, name="table.csv"):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return frame_of(path)

    return of


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("quoted", [False, True])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_delimiters_and_line_ends(read, delimiter, quoted, end):
    rows = [["name", "amount", "n"], ["ann", "1.5", "1"], ["bo", "2", "2"]]
    mark = '"' if quoted else ""
    text = end.join(delimiter.join(f"{mark}{cell}{mark}" for cell in row) for row in rows)
    for content in (text, text + end):
        assert read(content).to_dict(as_series=False) == {
            "name": ["ann", "bo"],
            "amount": [1.5, 2.0],
            "n": [1, 2],
        }


def test_a_delimiter_within_cells_is_not_the_delimiter(read):
    assert read("a;b\n1,5;x\n2,25;y\n").rows() == [("1,5", "x"), ("2,25", "y")]
    assert read("a,b\nx;y|z,1\nu;v|w,2\n").columns == ["a", "b"]
    assert read('note\n"one, two"\n"three"\n').rows() == [("one, two",), ("three",)]


def test_a_tsv_is_cut_at_tabs_alone(read):
    assert read("a\n1,2\n3,4\n", "table.tsv").columns == ["a"]


@pytest.mark.parametrize(
    ("cells", "dtype", "values"),
    [
        (["1", "", "-3"], pl.Int64, [1, None, -3]),
        (["1", "2.5", "1e3"], pl.Float64, [1.0, 2.5, 1000.0]),
        (["inf", "-inf", "1"], pl.Float64, [np.inf, -np.inf, 1.0]),
        (["true", "FALSE", "NA"], pl.Boolean, [True, False, None]),
        (["1", "two", "3"], pl.String, ["1", "two", "3"]),
        (["1,5", "2,5", "3,5"], pl.String, ["1,5", "2,5", "3,5"]),
        (["12345678901234567890", "1", "2"], pl.Float64, [12345678901234567890.0, 1.0, 2.0]),
        (["none", "na", "Null"], pl.String, ["none", "na", "Null"]),
    ],
)
def test_a_column_has_one_type(read, cells, dtype, values):
    column = read("x;y\n" + "".join(f"{cell};0\n" for cell in cells))["x"]
    assert column.dtype == dtype
    assert column.to_list() == values


@pytest.mark.parametrize("spelling", MISSING)
@pytest.mark.parametrize("mark", ["", '"'])
def test_spellings_of_missing(read, spelling, mark):
    frame = read(f"x,y\n1,a\n{mark}{spelling}{mark},{mark}{spelling}{mark}\n")
    assert frame.rows() == [(1, "a"), (None, None)]


def test_quotes_hold_delimiters_quotes_and_lines(read):
    frame = read('a,b\n"1,000","she said ""no"""\n"2\n3","x"\n5" pipe,y\n')
    assert frame.rows() == [("1,000", 'she said "no"'), ("2\n3", "x"), ('5" pipe', "y")]


def test_blank_lines_are_skipped(read):
    assert read("\n\na,b\n\n1,2\n\n3,4\n\n").rows() == [(1, 2), (3, 4)]


def test_marks_of_encodings(read):
    assert read("\ufeffé,b\n1,2\n").columns == ["é", "b"]
    assert read('\ufeff"é",b\n1,2\n').columns == ["é", "b"]
    assert read("é\tb\n1\t2\n".encode("utf-16")).rows() == [(1, 2)]


def test_gzip(read):
    packed = gzip.compress(b"a,b\n1,2\n")
    assert read(packed, "table.csv.gz").rows() == [(1, 2)]
    assert read(gzip.compress(b"a\n1,2\n"), "table.tsv.gz").rows() == [("1,2",)]
    with pytest.raises(InvalidTable, match=r"cannot read the table `.*table\.csv\.gz`"):
        read(packed[:-9], "table.csv.gz")
    with pytest.raises(InvalidTable, match="gzip"):
        read(b"a,b\n1,2\n", "table.csv.gz")


def test_a_header_alone_is_a_table_without_rows(read):
    for content in ("a,b", "a,b\r\n", '"a","b"\n'):
        frame = read(content)
        assert (frame.columns, frame.height) == (["a", "b"], 0)


def test_an_unnamed_column_is_named_by_its_place(read):
    assert read(",a\n0,5\n1,6\n").columns == ["column 1", "a"]


def test_ten_thousand_columns(read):
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({f"c{j}": rng.integers(0, 99, 5) for j in range(10_000)})
    assert read(frame.write_csv()).equals(frame)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", ["expected a line of column names", "got an empty file"]),
        ("\n\n", ["got an empty file"]),
        ("\ufeff", ["got an empty file"]),
        ("a,b,a,c,b\n1,2,3,4,5\n", ["different column names", "line 1", "`a`, `b` repeated"]),
        ("a,b\n1,2\n1,2,3\n", ["expected 2 cells in line 3", "got 3", "delimiter `,` need quotes"]),
        ("a\tb\n1\t2\n3\n", ["expected 2 cells in line 3", "got 1", "`tab`"]),
        ('a,b\n"x\ny",2\n1\n', ["expected 2 cells in line 4", "got 1"]),
        ("a,b\n\n1,2\n1\n", ["expected 2 cells in line 4", "got 1"]),
        ("a\n1\n2,3\n", ["expected 1 cells in line 3", "got 2"]),
        ('a,b\n"1,2\n3,4\n', ["unexpected end of data", "line 3"]),
        ('a,b\n"1"x,2\n', ["expected after", "line 2"]),
        ("a,b\ncafé,1\n".encode("latin-1"), [
            "expected UTF-8", "byte 0xe9 at position 7, line 2", "iconv -f WINDOWS-1252"]),
        (b"\xff\xfea", ["UTF-16"]),
        (b"PK\x03\x04\x14\x00\x06\x00\x08\x00\x00\x00!\x00\xb5", ["expected UTF-8", "0xb5"]),
        (f'a,b\n"{"x" * 200_000}",1\n', ["field larger than field limit", "line 2"]),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_said(read, content, words):
    with pytest.raises(InvalidTable) as raised:
        read(content)
    message = str(raised.value)
    assert "\n" not in message
    assert "table.csv" in message
    for word in words:
        assert word in message


# Texts that are no number, no boolean and not missing: a letter stands in front of anything.
# No carriage return, which the csv module leaves without quotes where lines end in \n.
CELLS = st.text(st.sampled_from("ab \",;|\t\n'é#0."), max_size=8).map("x".__add__)
TABLES = st.integers(2, 4).flatmap(
    lambda width: st.lists(st.lists(CELLS, min_size=width, max_size=width), min_size=1, max_size=12)
)


@given(
    rows=TABLES,
    delimiter=st.sampled_from(",;\t|"),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_what_the_csv_module_writes_comes_back(read, rows, delimiter, quoting, end):
    names = [f"column {place}" for place in range(len(rows[0]))]
    file = io.StringIO()
    writer = csv.writer(file, delimiter=delimiter, quoting=quoting, lineterminator=end)
    writer.writerows([names, *rows])
    # The header alone must tell the delimiter where cells hold others, so the name is a TSV's.
    name = "table.tsv" if delimiter == "\t" else "table.csv"
    frame = read(file.getvalue(), name)
    assert frame.columns == names
    assert frame.rows() == [tuple(row) for row in rows]


@given(
    numbers=st.lists(st.none() | st.floats(allow_nan=False), min_size=1, max_size=9),
    whole=st.integers(-(2**63), 2**63 - 1),
    text=CELLS,
    style=st.sampled_from(["necessary", "always", "non_numeric"]),
)
def test_what_polars_writes_comes_back(read, numbers, whole, text, style):
    frame = pl.DataFrame(
        {
            "number": pl.Series(numbers, dtype=pl.Float64),
            "whole": [whole] * len(numbers),
            "flag": [True] * len(numbers),
            "text": [text] * len(numbers),
        }
    )
    again = read(frame.write_csv(quote_style=style))
    assert again.with_columns(pl.col("number").cast(pl.Float64)).equals(frame)

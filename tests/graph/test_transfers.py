"""Readers of transfers, each beside plain Python that reads the same file row by row."""

import csv
import gzip
import json
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.graph.bitcoin import read_bitcoin
from chopmark.graph.ethereum import read_ethereum
from chopmark.graph.transfers import (
    TRANSFERS,
    Read,
    check_transfers,
    instants,
    read_transfers,
    scaled,
    whole_numbers,
)

A, B, C, TOKEN = ("0x" + letter * 40 for letter in "abcd")
TIME = "2023-05-06 07:08:09 UTC"
AT = datetime(2023, 5, 6, 7, 8, 9, tzinfo=UTC)


def transaction(number, **changes):
    return {
        "hash": f"0x{number:064x}",
        "nonce": "1",
        "from_address": A,
        "to_address": B,
        "value": "1500000000000000000",
        "input": "0x",
        "block_number": "17",
        "block_timestamp": TIME,
        "transaction_index": "0",
    } | changes


def write_csv(path, rows, columns=None):
    opener = gzip.open if path.name.endswith(".gz") else open
    with opener(path, "wt", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns or list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return path


@settings(max_examples=100)
@given(
    st.lists(st.tuples(st.integers(0, 2**256 - 1), st.integers(0, 30), st.booleans()), min_size=1)
)
def test_amounts_are_the_nearest_floats_of_the_exact_quotients(pairs):
    values = pl.Series([("-" if minus else "") + str(value) for value, _, minus in pairs])
    got = scaled(values, pl.Series([places for _, places, _ in pairs]))
    for amount, (value, places, minus) in zip(got, pairs, strict=True):
        exact = float(Fraction(value, 10**places))
        assert amount == (-exact if minus else exact)


def test_values_may_be_written_as_powers_and_whole_decimals_but_not_as_fractions():
    texts = ["1e18", "2.5E+20", "7.000", "0.5", "1e-3", "", "nan", "inf", "0x10", " 3 ", "1,000"]
    got = scaled(pl.Series(texts), pl.repeat(18, len(texts), eager=True))
    assert got.to_list() == [1.0, 250.0, 7e-18, None, None, None, None, None, None, 3e-18, None]
    odd = scaled(pl.Series(["٣", "9" * 500, None]), pl.Series([0, 0, 0]))
    assert odd[0] is None
    assert odd[2] is None
    assert odd[1] is None or odd[1] == float("inf")
    assert scaled(pl.Series(["9" * 500]), pl.Series([0]))[0] in (None, float("inf"))


@pytest.mark.parametrize("ending", [".csv", ".csv.gz", ".parquet"])
def test_transactions_are_read_and_each_bad_row_has_its_number_and_reason(tmp_path, ending):
    rows = [
        transaction(1),
        transaction(2, to_address=""),
        transaction(3, value="-5"),
        transaction(4, value="NaN"),
        transaction(5, value=str(2**256 * 10)),
        transaction(6, from_address="0x12"),
        transaction(7, block_timestamp="soon"),
        transaction(8, block_number="x"),
        transaction(9, from_address=A.upper().replace("0X", "0x"), to_address=A, value="1"),
        transaction(10, hash=""),
        transaction(11, block_number="5", value=str(2**256 - 1)),
    ]
    path = tmp_path / f"transactions{ending}"
    if ending == ".parquet":
        pl.DataFrame(rows).write_parquet(path)
    else:
        write_csv(path, rows)
    read = Read.of(read_ethereum(path, rows=4))
    assert dict(read.transfers.schema) == dict(TRANSFERS)
    assert read.transfers.rows() == [
        (A, B, float(Decimal(2**256 - 1).scaleb(-18)), AT, 5, f"0x{11:064x}", 0, ""),
        (A, B, 1.5, AT, 17, f"0x{1:064x}", 0, ""),
        (A, A, 1e-18, AT, 17, f"0x{9:064x}", 0, ""),
    ]
    assert read.rejected.rows() == [
        (str(path), 2, "no receiver"),
        (str(path), 3, "value is negative"),
        (str(path), 4, "value is no whole number"),
        (str(path), 5, "value is above 2^256"),
        (str(path), 6, "from_address is no address"),
        (str(path), 7, "no time is known of its block"),
        (str(path), 8, "block_number is no whole number"),
        (str(path), 10, "transaction has no hash"),
    ]


def test_rows_with_too_few_fields_or_broken_bytes_are_rejected_and_numbers_stay_right(tmp_path):
    path = write_csv(tmp_path / "transactions.csv", [transaction(i) for i in range(1, 8)])
    rows = path.read_bytes().splitlines(keepends=True)
    rows[2] = b"0x1,too,few\r\n"
    rows[4] = rows[4].replace(A.encode(), b"\xff\xfe")
    rows[6] = rows[6].strip() + b",one,more\r\n"
    rows.insert(4, b"\r\n")
    path.write_bytes(b"\xef\xbb\xbf" + b"".join(rows))
    for size in (1, 3, 100):
        read = Read.of(read_ethereum(path, rows=size))
        found = read.transfers["tx"].to_list()
        assert found == [f"0x{number:064x}" for number in (1, 3, 5, 7)]
        assert read.rejected.sort("row").select("row", "reason").rows() == [
            (2, "expected 9 fields, got 3"),
            (4, "from_address is no address"),
            (6, "expected 9 fields, got 11"),
        ]


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(["good", "short", "no receiver", "negative"]), max_size=30),
    st.integers(1, 12),
)
def test_every_row_is_either_taken_or_rejected_however_the_file_is_cut(
    tmp_path_factory, kinds, size
):
    path = tmp_path_factory.mktemp("cut") / "transactions.csv"
    made = {
        "good": {},
        "short": {},
        "no receiver": {"to_address": ""},
        "negative": {"value": "-1"},
    }
    write_csv(
        path,
        [transaction(i, **made[kind]) for i, kind in enumerate(kinds, 1)],
        columns=list(transaction(0)),
    )
    text = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(
        text[0]
        + b"".join(
            b"a,b\n" if kind == "short" else line
            for kind, line in zip(kinds, text[1:], strict=True)
        )
    )
    reads = list(read_ethereum(path, rows=size))
    assert all(len(one.transfers) <= size for one in reads)
    read = Read.of(reads)
    taken = {int(tx, 16) for tx in read.transfers["tx"]}
    assert taken == {row for row, kind in enumerate(kinds, 1) if kind == "good"}
    assert sorted(read.rejected["row"]) == [
        row for row, kind in enumerate(kinds, 1) if kind != "good"
    ]


def test_token_transfers_take_their_time_from_the_block_and_their_decimals_from_the_caller(
    tmp_path,
):
    write_csv(tmp_path / "transactions.csv", [transaction(1), transaction(2, block_number="18")])

    def token(**changes):
        return {
            "token_address": TOKEN.upper().replace("0X", "0x"),
            "from_address": A,
            "to_address": C,
            "value": "2500000",
            "transaction_hash": f"0x{1:064x}",
            "log_index": "3",
            "block_number": "17",
        } | changes

    tokens = write_csv(
        tmp_path / "token_transfers.csv",
        [
            token(),
            token(token_address=B, log_index="4"),
            token(block_number="99"),
            token(log_index=""),
            token(token_address="0x"),
            token(value=""),
        ],
    )
    both = Read.of(
        read_ethereum(tmp_path / "transactions.csv", tokens, decimals={TOKEN: 6}, rows=2)
    )
    assert both.transfers.filter(pl.col("asset") != "").rows() == [
        (A, C, 2.5, AT, 17, f"0x{1:064x}", 3, TOKEN),
        (A, C, 2.5e-12, AT, 17, f"0x{1:064x}", 4, B),
    ]
    assert both.rejected.select("row", "reason").rows() == [
        (3, "no time is known of its block"),
        (4, "log_index is no whole number"),
        (5, "token_address is no address"),
        (6, "value is no whole number"),
    ]
    blocks = write_csv(tmp_path / "blocks.csv", [{"number": "17", "timestamp": "1683356889"}])
    alone = Read.of(read_ethereum(token_transfers=tokens, blocks=blocks))
    assert alone.transfers["happened_at"].to_list() == [AT, AT]
    undated = write_csv(
        tmp_path / "undated.csv",
        [transaction(1)],
    )
    undated.write_text(undated.read_text().replace("block_timestamp", "unused"))
    assert len(Read.of(read_ethereum(undated, blocks=blocks)).transfers) == 1
    with pytest.raises(InvalidTable, match="expected a column `block_timestamp`"):
        list(read_ethereum(undated))


def test_parquet_of_numbers_decimals_and_bytes_is_read_without_rounding(tmp_path):
    big = 123456789012345678901234567890
    columns = {
        "transaction_hash": pa.array([bytes([i] * 32) for i in range(3)]),
        "from_address": pa.array([bytes([170] * 20)] * 3),
        "to_address": pa.array([bytes([187] * 20)] * 3),
        "value": pa.array([Decimal(big), Decimal(1), None], pa.decimal256(76, 0)),
        "block_number": pa.array([5, 6, 7], pa.uint32()),
        "block_timestamp": pa.array([AT] * 3, pa.timestamp("ns", "UTC")),
        "receipt_status": pa.array([1, 0, 1]),
    }
    pq.write_table(pa.table(columns), tmp_path / "transactions.parquet")
    read = Read.of(read_ethereum(tmp_path))
    assert read.transfers.rows() == [
        (A, B, float(Fraction(big, 10**18)), AT, 5, "0x" + "00" * 32, 0, "")
    ]
    assert read.rejected["reason"].to_list() == ["failed", "value is no whole number"]


def test_a_missing_column_an_absent_file_and_a_file_cut_short_are_errors_that_name_it(tmp_path):
    path = write_csv(tmp_path / "transactions.csv", [transaction(1)])
    path.write_text(path.read_text().replace("to_address", "to_adress"))
    with pytest.raises(InvalidTable, match=r"`to_address` in .*did you mean `to_adress`"):
        list(read_ethereum(path))
    with pytest.raises(InvalidInput, match="there is none"):
        list(read_ethereum(tmp_path / "absent.csv"))
    (tmp_path / "notes.txt").touch()
    with pytest.raises(InvalidInput, match=r"expected a file named .*\.csv"):
        list(read_ethereum(tmp_path / "notes.txt"))
    with pytest.raises(InvalidInput, match="got neither"):
        list(read_ethereum())
    with pytest.raises(InvalidInput, match="0 to 77 decimals"):
        list(read_ethereum(path, decimals={TOKEN: 200}))
    with pytest.raises(InvalidInput, match="at least 1 row"):
        list(read_transfers(path, rows=0))
    (tmp_path / "empty.csv").touch()
    with pytest.raises(InvalidTable, match="lacks it"):
        list(read_ethereum(tmp_path / "empty.csv"))
    whole = write_csv(tmp_path / "whole.csv.gz", [transaction(i) for i in range(5000)])
    (tmp_path / "cut.csv.gz").write_bytes(whole.read_bytes()[:-500])
    with pytest.raises(InvalidInput, match="cut short"):
        list(read_ethereum(tmp_path / "cut.csv.gz"))
    pl.DataFrame([transaction(1)]).write_parquet(tmp_path / "cut.parquet")
    (tmp_path / "cut.parquet").write_bytes((tmp_path / "cut.parquet").read_bytes()[:-20])
    with pytest.raises(InvalidInput, match="cut short"):
        list(read_ethereum(tmp_path / "cut.parquet"))


def test_a_folder_is_read_in_the_order_of_names_and_tells_its_progress(tmp_path):
    for place, name in enumerate(["b.csv", "a.csv.gz", "c.parquet"]):
        rows = [transaction(10 * place + i, block_number="1") for i in range(5)]
        if name.endswith("parquet"):
            pl.DataFrame(rows).write_parquet(tmp_path / name)
        else:
            write_csv(tmp_path / name, rows)
    told = []
    reads = list(read_ethereum(tmp_path, rows=2, progress=told.append))
    found = [int(tx, 16) for one in reads for tx in one.transfers["tx"]]
    assert found == [*range(10, 15), *range(5), *range(20, 25)]
    assert told == sorted(told)
    assert told[-1] == 1.0
    assert 0 < told[0] < 1


def test_plain_columns_are_read_with_what_is_absent_filled(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text(
        "sender,receiver,amount,happened_at\n"
        " alice ,bob,2.5,2023-05-06T07:08:09Z\n"
        "bob,,1,2023-05-06T07:08:09\n"
        "bob,carol,-1,1683356889\n"
        "bob,carol,inf,1683356889\n"
        "bob,carol,nan,1683356889\n"
        "bob,carol,0,1683356889\n"
        "bob,carol,3,2023-05-06T09:08:09+02:00\n"
        "bob,carol,3,yesterday\n"
    )
    read = Read.of(read_transfers(path))
    assert read.transfers.rows() == [
        ("alice", "bob", 2.5, AT, 0, "", 0, ""),
        ("bob", "carol", 0.0, AT, 0, "", 0, ""),
        ("bob", "carol", 3.0, AT, 0, "", 0, ""),
    ]
    assert read.rejected.select("row", "reason").rows() == [
        (2, "no receiver"),
        (3, "amount is negative"),
        (4, "amount is above 2^256"),
        (5, "amount is no number"),
        (8, "happened_at is no instant"),
    ]
    read.transfers.write_parquet(tmp_path / "again.parquet")
    assert Read.of(read_transfers(tmp_path / "again.parquet")).transfers.equals(read.transfers)


def test_instants_come_in_many_kinds():
    seconds = int(AT.timestamp())
    for given_ in (
        pl.Series([seconds]),
        pl.Series([seconds * 1000]),
        pl.Series([seconds * 1_000_000]),
        pl.Series([float(seconds)]),
        pl.Series([str(seconds)]),
        pl.Series([AT]),
        pl.Series([AT.replace(tzinfo=None)]),
        pl.Series([AT]).dt.convert_time_zone("Asia/Tokyo").cast(pl.Datetime("ns", "Asia/Tokyo")),
        pl.Series(["2023-05-06 07:08:09.000 UTC"]),
        pl.Series(["2023-05-06T07:08:09+00:00"]),
        pl.Series(["2023-05-06T16:08:09+0900"]),
    ):
        got = instants(given_)
        assert got.to_list() == [AT], given_
        assert got.dtype == pl.Datetime("us", "UTC")
    assert instants(pl.Series(["", None, "-5", "x", "9" * 30])).null_count() == 5
    with pytest.raises(InvalidInput, match="expected instants"):
        instants(pl.Series([[1]]))


def test_whole_numbers_are_whole_and_in_range():
    texts = pl.Series(["5", " 7 ", "1.0", "1.5", "-1", "", None, "9" * 30])
    assert whole_numbers(texts).to_list() == [5, 7, 1, None, None, None, None, None]
    assert whole_numbers(pl.Series([1.0, 1.5, -1.0, float("nan")])).to_list() == [1] + [None] * 3
    assert whole_numbers(pl.Series([2**63], dtype=pl.UInt64)).to_list() == [None]


def test_transfers_that_are_not_sound_are_refused_with_the_row():
    good = pl.DataFrame([("a", "b", 1.0, AT, 1, "t", 0, "")], schema=TRANSFERS, orient="row")
    assert check_transfers(good.with_columns(more=1)).equals(good)
    with pytest.raises(InvalidTable, match="column `amount`, which is missing"):
        check_transfers(good.drop("amount"))
    with pytest.raises(InvalidTable, match="`block` of transfers as Int64, got String"):
        check_transfers(good.with_columns(block=pl.lit("1")))
    for change, words in (
        ({"amount": pl.lit(float("nan"))}, "`amount` is not within"),
        ({"amount": pl.lit(-1.0)}, "`amount` is not within"),
        ({"sender": pl.lit("")}, "`sender` is empty"),
        ({"tx": pl.lit(None, pl.String)}, "`tx` is null"),
        ({"place": pl.lit(2**31)}, "`place` is not within"),
        ({"block": pl.lit(-1, pl.Int64)}, "`block` is not within"),
    ):
        with pytest.raises(InvalidTable, match=f"{words}.* in row 1"):
            check_transfers(pl.concat([good, good.with_columns(**change)]))


def bitcoin(number, inputs, outputs, **changes):
    return {
        "hash": f"{number:064x}",
        "block_number": 9,
        "block_timestamp": int(AT.timestamp()),
        "is_coinbase": False,
        "inputs": [{"addresses": names, "value": value} for names, value in inputs],
        "outputs": [{"addresses": names, "value": value} for names, value in outputs],
    } | changes


def write_bitcoin(path, transactions):
    if path.name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(transactions), path)
    else:
        opener = gzip.open if path.name.endswith(".gz") else open
        with opener(path, "wt", encoding="utf-8") as file:
            file.writelines(json.dumps(one) + "\n" for one in transactions)
    return path


sides = st.lists(
    st.tuples(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=2), st.integers(0, 10**15)),
    min_size=1,
    max_size=6,
)


@settings(max_examples=40)
@given(st.lists(st.tuples(sides, sides), min_size=1, max_size=5))
def test_outputs_are_split_over_inputs_in_proportion_and_sums_are_kept(tmp_path_factory, pairs):
    path = tmp_path_factory.mktemp("btc") / "transactions.json"
    write_bitcoin(path, [bitcoin(i, *pair) for i, pair in enumerate(pairs)])
    read = Read.of(read_bitcoin(path, rows=2))
    expected = {}
    for number, (inputs, outputs) in enumerate(pairs):
        total = sum(value for _, value in inputs)
        for givers, given_ in inputs:
            for giver in givers:
                for takers, taken in outputs:
                    for taker in takers:
                        if giver != taker and given_ and taken:
                            key = (f"{number:064x}", giver, taker)
                            share = Fraction(given_ * taken, total * len(givers) * len(takers))
                            expected[key] = expected.get(key, 0) + share
    got = {(row["tx"], row["sender"], row["receiver"]): row for row in read.transfers.to_dicts()}
    assert {key: float(value / 10**8) for key, value in expected.items()} == {
        key: row["amount"] for key, row in got.items()
    }
    assert len(got) == len(read.transfers)
    assert read.transfers.select("tx", "place").is_unique().all()


@pytest.mark.parametrize("ending", [".json", ".jsonl.gz", ".parquet"])
def test_bitcoin_transactions_that_say_no_sender_or_no_value_have_their_reason(tmp_path, ending):
    path = write_bitcoin(
        tmp_path / f"transactions{ending}",
        [
            bitcoin(1, [(["a"], 300)], [(["b"], 100), (["a"], 150), ([], 20), ([], 0)]),
            bitcoin(2, [], [(["miner"], 5)], is_coinbase=True),
            bitcoin(3, [(["a"], None)], [(["b"], 1)]),
            bitcoin(4, [([], 7)], [(["b"], 1)]),
            bitcoin(5, [(["a"], -7)], [(["b"], 1)]),
            bitcoin(6, [(["a"], 10**17)], [(["b"], 1)]),
            bitcoin(7, [(["a"], 0)], [(["b"], 0)]),
            bitcoin(8, [(["a"], 2), (["c"], 1)], [(["b"], 3)], block_number=4),
        ],
    )
    read = Read.of(read_bitcoin(path, rows=3))
    assert read.transfers.rows() == [
        ("a", "b", 2e-8, AT, 4, f"{8:064x}", 0, ""),
        ("c", "b", 1e-8, AT, 4, f"{8:064x}", 1, ""),
        ("a", "b", 1e-6, AT, 9, f"{1:064x}", 0, ""),
    ]
    assert read.rejected.rows() == [
        (str(path), 1, "an output of 20 satoshi names no address"),
        (str(path), 1, "change back to a sender"),
        (str(path), 2, "coinbase has no sender"),
        (str(path), 3, "an input or output has no value; export them enriched"),
        (str(path), 4, "an input names no address"),
        (str(path), 5, "a value is not within 0 to 21 million coins"),
        (str(path), 6, "a value is not within 0 to 21 million coins"),
        (str(path), 7, "its inputs are worth nothing"),
    ]


def test_lines_that_are_no_transaction_are_rejected_and_blank_ones_passed_over(tmp_path):
    good = json.dumps(bitcoin(1, [(["a"], 3)], [(["b"], 3)]))
    odd = json.dumps(bitcoin(2, [(["a"], 3)], [(["b"], 3)], block_timestamp="soon"))
    path = tmp_path / "transactions.json"
    path.write_bytes(b"\n".join([b"{", good.encode(), b"", b'{"hash": 5}', odd.encode(), b"\xff"]))
    read = Read.of(read_bitcoin(path, rows=2))
    assert read.transfers["tx"].to_list() == [f"{1:064x}"]
    assert read.rejected["row"].to_list() == [1, 4, 5, 6]
    assert read.rejected["reason"].str.slice(0, 14).to_list() == [
        "no transaction",
        "no transaction",
        "block_timestam",
        "no transaction",
    ]
    with pytest.raises(InvalidInput, match="expected rows and widest"):
        list(read_bitcoin(path, rows=0))
    pl.DataFrame({"hash": ["a"]}).write_parquet(tmp_path / "lacks.parquet")
    with pytest.raises(InvalidTable, match="expected a column `block_number`"):
        list(read_bitcoin(tmp_path / "lacks.parquet"))


def test_a_wide_transaction_becomes_a_node_that_takes_all_and_gives_all(tmp_path):
    many = [([f"in{i}"], 200 + i) for i in range(51)]
    wide = [([f"out{i}"], 100 + i) for i in range(50)]
    path = write_bitcoin(tmp_path / "wide.json", [bitcoin(7, many, wide)])
    read = Read.of(read_bitcoin(path))
    node = f"tx:{7:064x}"
    into = read.transfers.filter(pl.col("receiver") == node)
    out = read.transfers.filter(pl.col("sender") == node)
    assert dict(into.select("sender", "amount").rows()) == {
        names[0]: value / 10**8 for names, value in many
    }
    assert dict(out.select("receiver", "amount").rows()) == {
        names[0]: value / 10**8 for names, value in wide
    }
    assert len(read.transfers) == 101
    assert np.array_equal(np.sort(read.transfers["place"]), np.arange(101))
    narrow = Read.of(read_bitcoin(write_bitcoin(path, [bitcoin(7, many[:50], wide)])))
    assert len(narrow.transfers) == 2500
    assert narrow.transfers["amount"].sum() == pytest.approx(sum(v for _, v in wide) / 10**8)

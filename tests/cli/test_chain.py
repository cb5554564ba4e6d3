"""``chopmark chain``: from files of Ethereum ETL to scores, and on after newer blocks."""

import json
from contextlib import closing

import polars as pl
import pytest

from chopmark.graph.labels import SCORES, AddressLabels

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")

QUICK = ("--walks", 2, "--length", 10, "--dim", 8, "--model", "linear")


@pytest.fixture
def files(chopmark, tmp_path):
    code, out, errors = chopmark(
        "chain", "simulate", tmp_path / "files", "--addresses", 3000, "--days", 40
    )
    assert (code, errors) == (0, "")
    assert "transactions and" in out
    return tmp_path / "files"


def read(files, part):
    return ("--transactions", files / part / "transactions.csv",
            "--token-transfers", files / part / "token_transfers.csv")  # fmt: skip


def test_one_command_scores_all_and_another_goes_on(chopmark, files, tmp_path):
    labels = tmp_path / "labels.csv"
    truth = pl.read_csv(files / "truth.csv")
    truth.filter(pl.col("is_illicit") | (pl.int_range(pl.len()) % 9 == 0)).select(
        "address", "is_illicit"
    ).write_csv(labels)
    folder = tmp_path / "ethereum"
    code, out, errors = chopmark("chain", "run", folder, labels, *read(files, "first"), *QUICK)
    assert (code, errors) == (0, "")
    assert "score all addresses" in out
    assert "on rows held out ROC-AUC" in out
    later = pl.read_csv(files / "later" / "transactions.csv", schema_overrides={"value": pl.String})
    rejected = tmp_path / "bad.csv"
    broken = tmp_path / "broken.csv"
    values = pl.when(pl.int_range(pl.len()) == 0).then(pl.lit("-5")).otherwise(pl.col("value"))
    later.with_columns(value=values).write_csv(broken)
    code, out, errors = chopmark(
        "chain", "update", folder, "--transactions", broken, "--rejected", rejected
    )
    assert (code, errors) == (0, "")
    assert "left out: 1 rows" in out
    assert pl.read_csv(rejected).height == 1
    assert "repair walks and train on" in out
    code, out, _ = chopmark("chain", "update", folder, *read(files, "first"))
    assert code == 0
    assert "nothing has come since run 000002" in out
    code, out, _ = chopmark("chain", "update", folder, "--all")
    assert code == 0
    assert "Run 000003" in out
    address = pl.read_csv(labels)["address"][0]
    code, out, _ = chopmark("chain", "risk", folder, address, "nobody", "--as-json")
    told = [json.loads(line) for line in out.splitlines()]
    assert 0 <= told[0]["score"] <= 1
    assert told[1] == {"address": "nobody", "score": None, "run": "000003"}
    code, out, _ = chopmark("chain", "risk", folder, "nobody")
    assert "not on the chain" in out
    code, out, _ = chopmark("chain", "why", folder, address)
    assert code == 0
    assert "its place in the graph" in out
    code, out, _ = chopmark("chain", "export", folder, tmp_path / "scores.parquet")
    scores = pl.read_parquet(tmp_path / "scores.parquet")
    assert code == 0
    assert scores["score"].is_between(0, 1).all()
    assert f"{scores.height:,} scores" in out
    code, out, _ = chopmark("chain", "export", folder, tmp_path / "scores.csv")
    assert code == 0
    assert pl.read_csv(tmp_path / "scores.csv")["address"].to_list() == scores["address"].to_list()
    assert not list(tmp_path.glob(".scores*"))


def test_labels_that_the_folder_keeps_are_learned_from_and_appeals_count(chopmark, files, tmp_path):
    folder, given = tmp_path / "ethereum", read(files, "first")
    code, _, errors = chopmark("chain", "run", folder, *given, *QUICK)
    assert code == 1
    assert "labels add" in errors
    assert not folder.exists()
    truth = pl.read_csv(files / "truth.csv").filter(
        pl.col("is_illicit") | (pl.int_range(pl.len()) % 9 == 0)
    )
    truth.select("address", "is_illicit").write_csv(tmp_path / "labels.csv")
    code, out, errors = chopmark(
        "chain", "labels", "add", folder, tmp_path / "labels.csv", "--source", "court", "--rank", 1
    )
    assert (code, errors) == (0, "")
    code, out, errors = chopmark("chain", "run", folder, *given, *QUICK)
    assert (code, errors) == (0, "")
    assert "of honest ones flagged" in " ".join(out.split())
    with closing(AddressLabels.open(folder / "labels.db")) as labels:
        held = labels.as_of("2100-01-01T00:00:00Z")
    flagged = held.filter(pl.col("source") == SCORES)["address"]
    bad = truth.filter("is_illicit")["address"]
    address = next(iter([*flagged, *bad]))
    code, out, errors = chopmark(
        "chain", "labels", "appeal", folder, address, "--by", "owner", "--reason", "sold"
    )
    assert (code, errors) == (0, "")


def test_what_is_missing_or_wrong_is_said(chopmark, files, tmp_path):
    labels = files / "labels.csv"
    folder = tmp_path / "ethereum"
    for line, words in (
        (("run", folder, labels), "expected files of one chain"),
        (("run", folder, labels, *read(files, "first"), "--bitcoin", labels), "files of one chain"),
        (("update", tmp_path / "none"), "none"),
        (("risk", tmp_path / "none", "0x1"), "none"),
        (("export", folder, tmp_path / "scores.json"), "ends in .parquet or .csv"),
        (("simulate", files), "expected a new folder"),
    ):
        code, _, errors = chopmark("chain", *line)
        assert code == 1
        assert words in errors
        assert "Traceback" not in errors


def test_what_is_wrong_is_said_before_anything_is_written(chopmark, files, tmp_path):
    folder, labels = tmp_path / "ethereum", files / "labels.csv"
    prices, bad = tmp_path / "prices.csv", tmp_path / "bad.csv"
    bad.write_text("address,is_illicit\na,2\n")
    empty, header = tmp_path / "empty.csv", tmp_path / "header.csv"
    empty.write_text("")
    header.write_text("sender,receiver,amount,happened_at\n")
    given = read(files, "first")
    for text, words in (
        ("asset,price\n,abc\n", "as a number of 0 or more"),
        ("asset,price\n,-1\n", "as a number of 0 or more"),
        ("asset,price\n,1\n,2\n", "got one twice"),
        ("asset,cost\n,1\n", "expected a column `price`"),
    ):
        prices.write_text(text)
        code, _, errors = chopmark("chain", "run", folder, labels, *given, "--prices", prices)
        assert code == 1
        assert words in errors
    for line, words in (
        ((bad, *given), "got 2"),
        ((labels,), "files of one chain"),
        ((labels, "--transactions", tmp_path / "none.csv"), "there is no"),
        ((labels, "--transactions", empty), "expected a column"),
        ((labels, "--transfers", header), "none could be read"),
        ((labels, "--bitcoin", empty, "--blocks", empty), "--blocks beside --transactions"),
        ((labels, *given, "--walks", 0), "expected 1, 2, ...; got 0"),
        ((labels, *given, "--known-share", 2), "expected `known_share` in (0, 1], got 2"),
    ):
        code, _, errors = chopmark("chain", "run", folder, *line)
        assert code == 1
        assert words in errors
    assert not (folder / "ledger").exists()

"""Labels, retractions, appeals and rulings, beside a plain Python reading of the same records."""

import sqlite3
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.graph.labels import AddressLabels, Source
from chopmark.times import EPOCH

SOURCES = [Source("court", 1), Source("analyst", 2), Source("forum", 5), Source("list", 5)]
A, B = "0x" + "ab" * 20, "0x" + "cd" * 20


def day(number):
    return EPOCH + timedelta(days=number)


def frame(*rows):
    """Rows of address, label, source, known day, and optionally the last day and confidence."""
    full = [(*row, *(None, 1.0)[len(row) - 4 :]) for row in rows]
    return pl.DataFrame(
        [(a, lab, "scam", s, day(k), None if u is None else day(u), c)
         for a, lab, s, k, u, c in full],
        schema={"address": pl.String, "label": pl.String, "category": pl.String,
                "source": pl.String, "known_at": pl.Datetime("us", "UTC"),
                "until": pl.Datetime("us", "UTC"), "confidence": pl.Float64},
        orient="row",
    )  # fmt: skip


@pytest.fixture
def labels(tmp_path):
    made = AddressLabels.create(tmp_path / "labels.db", SOURCES)
    yield made
    made.close()


def _plain(rows, retractions, when):
    """What holds, address by address, in loops."""
    held = {}
    for address in {row[0] for row in rows}:
        opinions = []
        for source in SOURCES:
            of_source = [
                r for r in rows if r[0] == address and r[2] == source.name and r[3] <= when
            ]
            if not of_source:
                continue
            newest = max(of_source, key=lambda row: row[3])
            taken = [r[2] for r in retractions
                     if r[0] == address and r[1] == source.name and r[2] <= when]  # fmt: skip
            runs = newest[4] is None or newest[4] > when
            if runs and all(back < newest[3] for back in taken):
                opinions.append((source.rank, -newest[5], -newest[3], source.name, newest[1]))
        if opinions:
            held[address] = (min(opinions)[4], len(opinions), len({o[4] for o in opinions}) > 1)
    return held


@settings(max_examples=12, deadline=None)
@given(
    given_rows=st.lists(
        st.tuples(
            st.sampled_from(["a", "b", A]), st.sampled_from(["illicit", "licit"]),
            st.sampled_from([source.name for source in SOURCES]), st.integers(0, 9),
            st.sampled_from([None, 10, 12]), st.sampled_from([0.5, 1.0]),
        ),
        min_size=1, max_size=14, unique_by=lambda row: (row[0], row[2], row[3]),
    ),
    back=st.lists(st.tuples(st.sampled_from(["a", "b", A]), st.sampled_from(["court", "forum"]),
                            st.integers(0, 12)), max_size=3),
)  # fmt: skip
def test_what_holds_is_what_a_plain_reading_of_the_records_says(given_rows, back):
    with TemporaryDirectory() as folder:
        labels = AddressLabels.create(Path(folder) / "labels.db", SOURCES)
        assert labels.add(frame(*given_rows)) == len(given_rows)
        done = []
        for address, source, when in back:
            try:
                labels.retract(address, source=source, by="x", reason="y", at=day(when))
            except InvalidInput:
                assert address not in _plain([r for r in given_rows if r[2] == source], done, when)
            else:
                done.append((address, source, when))
        for when in (0, 4, 9, 11, 13):
            found = labels.as_of(day(when))
            assert found["address"].to_list() == sorted(found["address"])
            assert {
                row["address"]: (row["label"], row["num_sources"], row["is_disputed"])
                for row in found.iter_rows(named=True)
            } == _plain(given_rows, done, when)
        labels.close()


def test_nobody_knows_a_label_before_it_was_known(labels):
    labels.add(frame((A, "illicit", "forum", 5)))
    assert labels.as_of(day(4)).is_empty()
    assert labels.as_of(day(5))["label"].to_list() == ["illicit"]
    assert labels.as_of(day(5))["known_at"][0] == day(5)


def test_an_upheld_appeal_is_a_negative_label_that_no_list_undoes(labels):
    labels.add(
        frame((A, "illicit", "forum", 1), (A, "illicit", "court", 2), (B, "licit", "list", 1))
    )
    number = labels.appeal(A.upper().replace("0X", "0x"), by="owner", reason="sold", at=day(3))
    assert labels.as_of(day(3))["label"].to_list() == ["illicit", "licit"]
    assert labels.appeals(day(3))["upheld"].to_list() == [None]
    with pytest.raises(InvalidInput, match="one appeal at a time"):
        labels.appeal(A, by="owner", reason="again", at=day(4))
    labels.rule(number, upheld=True, by="analyst", reason="proof", at=day(5))
    labels.add(frame((A, "illicit", "court", 6)))
    after = labels.as_of(day(7)).row(0, named=True)
    assert (after["label"], after["source"], after["is_disputed"]) == ("licit", "appeals", True)
    assert labels.as_of(day(4))["label"][0] == "illicit"
    assert labels.appeals(day(7))["upheld"].to_list() == [True]
    with pytest.raises(InvalidInput, match="labelled illicit"):
        labels.appeal(A, by="owner", reason="bored", at=day(8))
    with pytest.raises(InvalidInput, match="an open appeal"):
        labels.rule(number, upheld=False, by="analyst", reason="no", at=day(9))
    kinds = ["label", "label", "appeal", "ruling", "label", "label"]
    assert labels.history(A)["kind"].to_list() == kinds


def test_a_refused_appeal_changes_nothing_and_another_may_follow(labels):
    labels.add(frame((A, "illicit", "forum", 1)))
    number = labels.appeal(A, by="owner", reason="not me", at=day(2))
    with pytest.raises(InvalidInput, match="came before"):
        labels.rule(number, upheld=True, by="analyst", reason="early", at=day(1))
    labels.rule(number, upheld=False, by="analyst", reason="it is", at=day(3))
    assert labels.as_of(day(4))["label"].to_list() == ["illicit"]
    assert labels.appeal(A, by="owner", reason="new proof", at=day(5)) > number


def test_false_positives_are_counted_for_each_source(labels):
    names = [f"addr{i}" for i in range(10)]
    labels.add(frame(*[(name, "illicit", "forum", 1) for name in names]))
    labels.add(frame(("addr0", "illicit", "court", 1), ("addr9", "licit", "list", 1)))
    for i, upheld in ((0, True), (1, True), (2, False)):
        number = labels.appeal(f"addr{i}", by="o", reason="r", at=day(2))
        labels.rule(number, upheld=upheld, by="a", reason="r", at=day(3))
    labels.appeal("addr3", by="o", reason="r", at=day(4))
    labels.retract("addr4", source="forum", by="forum", reason="typing error", at=day(4))
    found = {row["source"]: row for row in labels.false_positives(day(5)).iter_rows(named=True)}
    assert set(found) == {"court", "forum"}
    forum = found["forum"]
    counts = [forum[f"num_{x}"] for x in ("illicit", "retracted", "appealed", "ruled", "upheld")]
    assert counts == [10, 1, 4, 3, 2]
    assert forum["wrong_share"] == pytest.approx(0.3)
    # Wilson's interval of 3 in 10, from Brown, Cai and DasGupta's formula by hand.
    assert (forum["low"], forum["high"]) == pytest.approx((0.1078, 0.6032), abs=1e-3)
    assert found["court"]["wrong_share"] == 1.0
    early = labels.false_positives(day(2))
    assert early["num_upheld"].to_list() == [0, 0]


def test_a_label_told_twice_is_one_and_a_bad_row_leaves_nothing(labels):
    good = frame((A, "illicit", "forum", 1))
    assert labels.add(pl.concat([good, good])) == 1
    assert labels.add(good.with_columns(address=pl.lit(A.upper().replace("0X", "0x")))) == 0
    for wrong, message in (
        ((B, "bad", "forum", 1), "label `illicit` or `licit`"),
        ((B, "licit", "friend", 1), "a declared source"),
        ((B, "licit", "appeals", 1), "a declared source"),
        ((B, "licit", "forum", 5, 5), "`until` after"),
        ((B, "licit", "forum", 5, None, 1.5), "confidence"),
        (("", "licit", "forum", 5), "an address"),
        ((None, "licit", "forum", 5), "an address"),
    ):
        with pytest.raises(InvalidTable, match=message):
            labels.add(pl.concat([frame((B, "licit", "court", 1)), frame(wrong)]))
    assert labels.as_of(day(9)).height == 1
    with pytest.raises(InvalidTable, match="no `category`"):
        labels.add(good.drop("category"))
    with pytest.raises(InvalidTable, match="time zone"):
        labels.add(good.with_columns(pl.col("known_at").dt.replace_time_zone(None)))
    assert labels.add(good.clear()) == 0
    assert labels.add(frame((B, "licit", "forum", 1)).drop("confidence", "until")) == 1


def test_a_file_is_opened_again_and_never_changed_from_outside(tmp_path):
    path = tmp_path / "labels.db"
    labels = AddressLabels.create(path, SOURCES)
    labels.add(frame((A, "illicit", "forum", 1)))
    labels.declare(Source("new", 3))
    labels.declare(Source("new", 3))
    with pytest.raises(InvalidInput, match="of rank 3"):
        labels.declare(Source("new", 4))
    labels.close()
    again = AddressLabels.open(path)
    assert again.sources == {
        "appeals": 0,
        "court": 1,
        "analyst": 2,
        "new": 3,
        "forum": 5,
        "list": 5,
    }
    assert again.as_of(day(1))["address"].to_list() == [A]
    again.close()
    connection = sqlite3.connect(path)
    for statement in ("DELETE FROM records", "UPDATE records SET label = 'licit'"):
        with pytest.raises(sqlite3.IntegrityError, match="append only"):
            connection.execute(statement)
    connection.close()
    with pytest.raises(StoreError, match="open it"):
        AddressLabels.create(path, SOURCES)


def test_a_file_that_is_none_is_refused(tmp_path):
    with pytest.raises(StoreError, match="make it with"):
        AddressLabels.open(tmp_path / "nothing.db")
    (tmp_path / "text.db").write_text("address,label\n" * 100)
    with pytest.raises(StoreError, match="expected to use the labels"):
        AddressLabels.open(tmp_path / "text.db")
    sqlite3.connect(tmp_path / "other.db").execute("CREATE TABLE t (x)").connection.close()
    with pytest.raises(StoreError, match="expected sound labels"):
        AddressLabels.open(tmp_path / "other.db")
    with pytest.raises(InvalidInput, match="rank >= 1"):
        Source("god", 0)
    with pytest.raises(InvalidInput, match="each source once"):
        AddressLabels.create(tmp_path / "twice.db", [Source("a", 1), Source("a", 2)])


def test_retracting_what_was_never_said_is_refused(labels):
    labels.add(frame((A, "illicit", "forum", 2)))
    for source, at in (("court", 3), ("forum", 1)):
        with pytest.raises(InvalidInput, match="got none"):
            labels.retract(A, source=source, by="x", reason="y", at=day(at))
    labels.retract(A, source="forum", by="x", reason="y", at=day(3))
    assert labels.as_of(day(3)).is_empty()
    labels.add(frame((A, "illicit", "forum", 4)))
    assert labels.as_of(day(4)).height == 1

"""Labels of a chain's folder: tables in, what a model may learn from out."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import polars as pl
import pytest

from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.graph.labels import AddressLabels, Source
from chopmark.pipelines.chainlabels import checked_labels, flag, known, open_labels, record

A = "0x" + "ab" * 20
JUNE = datetime(2026, 6, 1, tzinfo=UTC)


def day(number):
    return JUNE + timedelta(days=number)


def table(*rows, **columns):
    frame = pl.DataFrame(rows, schema=["address", "is_illicit"], orient="row")
    return frame.with_columns(**{name: pl.lit(value) for name, value in columns.items()})


def held(folder, moment="2030-01-01T00:00:00Z"):
    labels = open_labels(folder)
    found = labels.as_of(moment)
    labels.close()
    return found


def test_a_folder_has_labels_once_a_table_was_recorded(tmp_path):
    folder = tmp_path / "ethereum"
    assert open_labels(folder) is None
    done = record(folder, table((A.upper(), True), ("b ", False)), source="court", rank=1)
    assert (done.num_new, done.declared, done.labels.height) == (2, ("court",), 2)
    assert held(folder)["label"].to_list() == ["illicit", "licit"]
    assert held(folder)["address"].to_list() == [A, "b"]
    assert held(folder)["category"].to_list() == ["unspecified"] * 2
    since = held(folder)["known_at"][0]
    assert datetime.now(UTC) - timedelta(minutes=5) < since <= datetime.now(UTC)
    labels = open_labels(folder, create=True)
    assert labels.sources == {"appeals": 0, "court": 1}
    labels.close()


def test_every_way_to_say_a_label_is_read(tmp_path):
    rows = (
        pl.DataFrame({"address": ["a"], "is_illicit": [1], "label": ["mixer"],
                      "known_at": ["2026-06-01"]}),
        pl.DataFrame({"address": ["b"], "label": [" Licit"], "category": ["exchange"],
                      "known_at": [date(2026, 6, 1)]}),
        pl.DataFrame({"address": ["c"], "label": ["illicit"], "known_at": [1780272000],
                      "until": ["2026-07-01 00:00:00 UTC"], "confidence": [0.5]}),
        pl.DataFrame({"address": ["d", "e"], "is_illicit": [True, False],
                      "category": ["scam", None], "known_at": [None, "2026-06-01T00:00:00Z"]}),
    )  # fmt: skip
    for one in rows:
        record(tmp_path, one, source="court", rank=1, known_at=JUNE)
    found = held(tmp_path, day(1))
    assert found["label"].to_list() == ["illicit", "licit", "illicit", "illicit", "licit"]
    assert found["category"].to_list() == ["mixer", "exchange", "unspecified", "scam",
                                           "unspecified"]  # fmt: skip
    assert found["known_at"].to_list() == [JUNE] * 5
    assert found["until"].to_list() == [None, None, day(30), None, None]
    assert found["confidence"].to_list() == [1.0, 1.0, 0.5, 1.0, 1.0]
    assert held(tmp_path)["address"].to_list() == ["a", "b", "d", "e"]
    record(tmp_path, table(("f", True)), source="court", category="theft", known_at=JUNE)
    assert held(tmp_path)["category"].to_list()[-1] == "theft"


def test_sources_come_with_the_table_and_new_ones_with_their_rank(tmp_path):
    named = table(("a", True), ("b", True)).with_columns(source=pl.Series(["forum", "court"]))
    with pytest.raises(InvalidInput, match=r"there are none yet.*`court`; give the rank"):
        record(tmp_path, named)
    assert not (tmp_path / "labels.db").exists()
    assert record(tmp_path, named.tail(1), rank=1).declared == ("court",)
    with pytest.raises(InvalidInput, match=r"\(court\), got `forum`"):
        record(tmp_path, named)
    assert record(tmp_path, named, rank=5).declared == ("forum",)
    assert record(tmp_path, named).declared == ()
    assert record(tmp_path, named.tail(1), rank=1).declared == ()
    labels = open_labels(tmp_path)
    assert labels.sources == {"appeals": 0, "court": 1, "forum": 5}
    labels.close()
    with pytest.raises(InvalidInput, match="of rank 5"):
        record(tmp_path, named.head(1), rank=4)


def test_a_table_that_cannot_be_recorded_leaves_no_file_and_no_label(tmp_path):
    good = table(("a", True))
    soon = datetime.now(UTC) + timedelta(days=1)
    cases = (
        (good.drop("address"), {}, "columns `address`"),
        (good.drop("is_illicit"), {}, "`is_illicit` or `label`"),
        (table(("a", 2)), {}, "1 and 0, got 2"),
        (table(("a", "yes")), {}, "got text such as `yes`"),
        (table(("a", True), ("b", None)), {}, "label `illicit` or `licit`"),
        (table(("a", True), (None, True)), {}, "an address in each row, got in row 1"),
        (table(("a", True), ("  ", True)), {}, "an address"),
        (good.drop("is_illicit").with_columns(label=pl.lit("bad")), {}, "`illicit` or `licit`"),
        (good.drop("is_illicit").with_columns(label=pl.lit(["bad"])), {}, "got lists"),
        (good.with_columns(confidence=pl.lit(1.5)), {}, "a confidence"),
        (good.with_columns(confidence=pl.lit("sure")), {}, "texts and numbers"),
        (good.with_columns(known_at=pl.lit("soon")), {}, "`known_at` of labels as instants"),
        (good.with_columns(until=pl.lit("never")), {}, "`until` of labels as instants"),
        (good.with_columns(until=pl.lit("2020-01-01")), {}, "`until` after"),
        (good.with_columns(known_at=pl.lit(soon)), {}, "known by now"),
        (good, {"known_at": soon}, "known by now"),
        (good, {"source": None}, "a column `source`"),
        (good.with_columns(source=pl.lit("court")), {}, "one way to say"),
        (good, {"source": "scores"}, "not `appeals` or `scores`"),
        (good, {"source": "appeals"}, "not `appeals` or `scores`"),
        (good, {"rank": 0}, "a rank of 1 to 999"),
        (good, {"rank": 1000}, "a rank of 1 to 999"),
    )
    for there in (False, True):
        for frame, more, message in cases:
            with pytest.raises(InvalidInput, match=message):
                record(tmp_path, frame, **{"source": "court", "rank": 1} | more)
            assert (tmp_path / "labels.db").exists() == there
        if not there:
            record(tmp_path, table(("z", False)), source="court", rank=1, known_at=JUNE)
    assert held(tmp_path)["address"].to_list() == ["z"]
    assert [path.name for path in tmp_path.iterdir()] == ["labels.db"]


def test_what_is_known_is_what_a_model_could_have_learned_then(tmp_path):
    record(tmp_path, table(("a", True), ("b", False)), source="court", rank=1, known_at=day(1))
    record(tmp_path, table(("a", False), ("c", True)), source="forum", rank=5, known_at=day(2))
    labels = open_labels(tmp_path)
    assert flag(labels, pl.DataFrame({"address": ["c", "d"], "score": [0.9, 0.8]}),
                run="000001", at=day(3)) == (2, 0)  # fmt: skip
    assert known(labels, day(0)).is_empty()
    assert known(labels, day(1)).rows() == [("a", True, day(1)), ("b", False, day(1))]
    now = known(labels)
    assert now.rows() == [("a", True, day(1)), ("b", False, day(1)), ("c", True, day(2))]
    learned = checked_labels(now)
    assert learned.rows() == [("a", 1), ("b", 0), ("c", 1)]
    number = labels.appeal("d", by="owner", reason="an exchange", at=day(4))
    labels.rule(number, upheld=True, by="ann", reason="it is", at=day(5))
    assert known(labels).rows()[-1] == ("d", False, day(5))
    assert checked_labels(known(labels, day(0))).is_empty()
    labels.close()


def test_the_newer_of_two_labels_counts_whatever_its_date_is_written_in():
    for moments in (
        ["2026-03-01", "2026-02-01T00:00:00Z"],
        [date(2026, 3, 1), date(2026, 2, 1)],
        ["1772323200", "1769904000"],
    ):
        frame = pl.DataFrame({"address": ["a", "a"], "is_illicit": [True, False],
                              "known_at": moments})  # fmt: skip
        assert checked_labels(frame).rows() == [("a", 0), ("a", 1)]


def test_a_file_that_is_no_labels_is_refused_and_stays(tmp_path):
    path = tmp_path / "labels.db"
    path.write_bytes(b"address,is_illicit\n" * 50)
    with pytest.raises(StoreError, match="expected to use the labels"):
        open_labels(tmp_path, create=True)
    with pytest.raises(StoreError):
        record(tmp_path, table(("a", True)), source="court", rank=1)
    assert path.read_bytes() == b"address,is_illicit\n" * 50


def test_two_who_make_the_file_at_once_do_not_replace_each_other(tmp_path):
    path = tmp_path / "labels.db"
    with ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(AddressLabels.create, path, [Source(f"s{i}", 1)]) for i in range(8)]
    refused = [made.exception() for made in tries if made.exception() is not None]
    (first,) = [made.result() for made in tries if made.exception() is None]
    assert len(refused) == 7
    assert all(isinstance(error, StoreError) and "open it" in str(error) for error in refused)
    again = AddressLabels.open(path)
    assert again.sources == first.sources
    again.close()
    first.close()
    assert [one.name for one in tmp_path.iterdir()] == ["labels.db"]
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be written"):
        open_labels(tmp_path / "file" / "folder", create=True)


@pytest.mark.parametrize("column", ["known_at", "until"])
def test_an_instant_of_another_kind_is_refused(tmp_path, column):
    odd = table(("a", True)).with_columns(pl.lit(True).alias(column))
    with pytest.raises(InvalidTable, match=f"`{column}` of labels"):
        record(tmp_path, odd, source="court", rank=1)

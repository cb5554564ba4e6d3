"""Labels, retractions, appeals and rulings, beside a plain Python reading of the same records."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from tempfile import TemporaryDirectory

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.graph.labelaccounts import false_positives, flag_outcomes
from chopmark.graph.labels import AddressLabels, Holding, Source
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


class Plain:
    """The same records as a list of facts, read in loops; it knows nothing of SQL or frames."""

    ranks = {"appeals": 0, "scores": 1000} | {source.name: source.rank for source in SOURCES}

    def __init__(self):
        self.facts = []
        self.appeals = []  # address, asked, ruled, upheld

    def says(self, address, source, when):
        """The fact that a source holds to, or None."""
        told = [f for f in self.facts if f["kind"] == "label" and f["address"] == address
                and f["source"] == source and f["known"] <= when]  # fmt: skip
        if not told:
            return None
        newest = told[0]
        for fact in told[1:]:
            if fact["known"] >= newest["known"]:
                newest = fact
        if newest["until"] is not None and newest["until"] <= when:
            return None
        taken_back = any(
            (f["kind"], f["address"], f["source"]) == ("retraction", address, source)
            and newest["known"] <= f["known"] <= when
            for f in self.facts
        )
        return None if taken_back else newest

    def all_say(self, address, when, without=()):
        told = [self.says(address, source, when) for source in self.ranks if source not in without]
        return [fact for fact in told if fact is not None]

    def holds(self, address, when, without=()):
        told = self.all_say(address, when, without)
        return min(
            told, default=None,
            key=lambda f: (self.ranks[f["source"]], -f["confidence"], -f["known"], f["source"]),
        )  # fmt: skip

    def table(self, when, without=()):
        held = {}
        for address in NAMES:
            best = self.holds(address, when, without)
            if best is not None:
                told = self.all_say(address, when, without)
                held[address] = (
                    *(best[name] for name in ("label", "category", "source", "confidence")),
                    day(best["known"]), None if best["until"] is None else day(best["until"]),
                    len(told), len({fact["label"] for fact in told}) == 2,
                )  # fmt: skip
        return held

    def write(self, kind, address, source, known, **more):
        self.facts.append({"kind": kind, "address": address, "source": source, "known": known,
                           "until": None, **more})  # fmt: skip

    def label(self, address, label, source, known, until, confidence):
        category = "scam"
        until = None if until is None else known + until
        fact = {"label": label, "category": category, "confidence": confidence, "until": until}
        same = {"kind": "label", "address": address, "source": source, "known": known, **fact}
        if same in self.facts:
            return 0
        self.write("label", address, source, known, **fact)
        return 1

    def retract(self, address, source, at):
        if self.says(address, source, at) is None:
            return False
        self.write("retraction", address, source, at)
        return True

    def appeal(self, address, at):
        held = self.holds(address, at)
        open_ones = [a for a in self.appeals if a["address"] == address
                     and (a["ruled"] is None or a["ruled"] > at)]  # fmt: skip
        if held is None or held["label"] != "illicit" or open_ones:
            return False
        self.appeals.append({"address": address, "asked": at, "ruled": None, "upheld": None})
        return True

    def rule(self, place, upheld, at):
        appeal = self.appeals[place]
        if appeal["ruled"] is not None or appeal["asked"] > at:
            return False
        appeal |= {"ruled": at, "upheld": upheld}
        if upheld:
            self.write("label", appeal["address"], "appeals", at, label="licit",
                       category="appeal upheld", confidence=1.0)  # fmt: skip
        return True

    def flag(self, addresses, at):
        before = {a for a in NAMES if self.says(a, "scores", 99)}
        new, gone = set(addresses) - before, before - set(addresses)
        last = max((f["known"] for f in self.facts if f["source"] == "scores"), default=-1)
        if (new or gone) and at <= last:
            return None
        for address in new:
            self.write("label", address, "scores", at, label="illicit", category="score",
                       confidence=0.75)  # fmt: skip
        for address in gone:
            self.write("retraction", address, "scores", at)
        return len(new), len(gone)

    def first_flags(self, source, when):
        found = {}
        for fact in self.facts:
            is_its = (fact["kind"], fact["source"], fact.get("label")) == (
                "label", source, "illicit"
            )  # fmt: skip
            if is_its and fact["known"] <= when:
                found[fact["address"]] = min(found.get(fact["address"], 99), fact["known"])
        return found

    def errors(self, when):
        """Source to counts, as `false_positives` counts them."""
        table = {}
        for source, rank in self.ranks.items():
            counts = [0] * 7
            for address, since in self.first_flags(source, when).items():
                back = any(f["kind"] == "retraction" and f["address"] == address
                           and f["source"] == source and since <= f["known"] <= when
                           for f in self.facts)  # fmt: skip
                asked = [a for a in self.appeals if a["address"] == address]
                appealed = any(since <= a["asked"] <= when for a in asked)
                ruled = [a for a in asked if a["ruled"] is not None and since <= a["ruled"] <= when]
                upheld = any(a["upheld"] for a in ruled)
                better = [self.says(address, other, when) for other in self.ranks
                          if 0 < self.ranks[other] < rank]  # fmt: skip
                over = any(f is not None and f["label"] == "licit" and f["known"] > since
                           for f in better)  # fmt: skip
                wrong = upheld or over or (back and source != "scores")
                told = (True, back, appealed, bool(ruled), upheld, over, wrong)
                counts = [count + one for count, one in zip(counts, told, strict=True)]
            if counts[0]:
                table[source] = tuple(counts)
        return table

    def outcomes(self, when):
        """Of the flagged: known before, new, of these illicit, licit; as `flag_outcomes`."""
        flagged = known = illicit = licit = 0
        for address, since in self.first_flags("scores", when).items():
            flagged += 1
            if any(f["kind"] == "label" and f["address"] == address and f["source"] != "scores"
                   and f["known"] <= since for f in self.facts):  # fmt: skip
                known += 1
                continue
            held = self.holds(address, when, without=("scores",))
            illicit += held is not None and held["label"] == "illicit"
            licit += held is not None and held["label"] == "licit"
        return (flagged, known, flagged - known, illicit, licit) if flagged else None


NAMES = ("b", A)
HUMAN = ["court", "forum", "list"]
ADDRESS = st.sampled_from(NAMES)
DAYS = st.integers(0, 4)  # few, so that much falls on one day
LABEL = st.tuples(
    st.just("label"), ADDRESS, st.sampled_from(["illicit", "illicit", "licit"]),
    st.sampled_from(HUMAN), DAYS, st.sampled_from([None, None, 1, 2]), st.sampled_from([0.5, 1.0]),
)  # fmt: skip
STEP = st.one_of(
    LABEL,
    LABEL,
    st.tuples(st.just("retract"), ADDRESS, st.sampled_from(["appeals", *HUMAN]), DAYS),
    st.tuples(st.just("appeal"), ADDRESS, DAYS),
    st.tuples(st.just("rule"), st.integers(0, 2), st.booleans(), DAYS),
    st.tuples(st.just("flag"), st.sets(ADDRESS), DAYS),
)


def take(labels, plain, numbers, step):
    """One step by both; whether both do or both refuse it."""
    kind, *rest = step
    words = {"by": "x", "reason": "y"}
    shouted = [a.upper().replace("0X", "0x") if a == A else a for a in rest if isinstance(a, str)]
    if kind == "label":
        known, until = rest[3], rest[4]
        row = (shouted[0], *rest[1:4], None if until is None else known + until, rest[5])
        assert labels.add(frame(row)) == plain.label(*rest)
    elif kind == "flag":
        flagged = pl.DataFrame({"address": sorted(rest[0]), "score": [0.75] * len(rest[0])},
                               schema={"address": pl.String, "score": pl.Float64})  # fmt: skip
        expected = plain.flag(*rest)
        if expected is None:
            with pytest.raises(InvalidInput, match="expected flags after"):
                labels.flag(flagged, by="run", at=day(rest[1]))
        else:
            assert labels.flag(flagged, by="run", at=day(rest[1])) == expected
    elif kind == "rule":
        place, upheld, at = rest
        if place < len(numbers):
            expected = plain.rule(place, upheld, at)
            with nullcontext() if expected else pytest.raises(InvalidInput, match="an open appeal"):
                labels.rule(numbers[place], upheld=upheld, at=day(at), **words)
    elif kind == "retract":
        expected = plain.retract(*rest)
        with nullcontext() if expected else pytest.raises(InvalidInput, match="got none"):
            labels.retract(shouted[0], source=rest[1], at=day(rest[2]), **words)
    else:
        expected = plain.appeal(*rest)
        with nullcontext() if expected else pytest.raises(InvalidInput, match="appeal"):
            numbers.append(labels.appeal(shouted[0], at=day(rest[1]), **words))


@settings(max_examples=20, deadline=None)
@given(
    steps=st.lists(STEP, min_size=10, max_size=30),
    moments=st.sets(st.integers(0, 6), min_size=2, max_size=2),
)
def test_what_holds_and_who_was_wrong_is_what_a_plain_reading_of_the_records_says(steps, moments):
    with TemporaryDirectory() as folder:
        labels, plain, numbers = AddressLabels.create(f"{folder}/l.db", SOURCES), Plain(), []
        for step in steps:
            take(labels, plain, numbers, step)
        for when in moments:
            for without in ((), ("scores", "court")):
                found = labels.as_of(day(when), without=without)
                assert found["address"].to_list() == sorted(found["address"])
                assert {row[0]: row[1:] for row in found.iter_rows()} == plain.table(when, without)
            asked = ["nobody", "b", A.upper()]
            expected = plain.table(when, ("scores",))
            assert labels.holding(asked, day(when)) == {
                name: Holding(*expected[key][:3])
                for name, key in zip(asked, ("nobody", "b", A), strict=True)
                if key in expected
            }
            some = labels.as_of(day(when), addresses=asked)
            assert {r[0]: r[1:] for r in some.iter_rows()} == {
                key: row for key, row in plain.table(when).items() if key != "c"
            }
            wrong = false_positives(labels, day(when))
            assert {row[0]: row[1:8] for row in wrong.iter_rows()} == plain.errors(when)
            outcomes = flag_outcomes(labels, day(when))
            told = plain.outcomes(when)
            assert [row[1:6] for row in outcomes.iter_rows()] == ([] if told is None else [told])
            asked_for = {
                (a["address"], a["asked"]): a["upheld"]
                if a["ruled"] is not None and a["ruled"] <= when
                else None
                for a in plain.appeals
                if a["asked"] <= when
            }
            listed = labels.appeals(day(when))
            assert {
                (row["address"], (row["known_at"] - EPOCH).days): row["upheld"]
                for row in listed.iter_rows(named=True)
            } == asked_for
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
    found = {row["source"]: row for row in false_positives(labels, day(5)).iter_rows(named=True)}
    assert set(found) == {"court", "forum"}
    forum = found["forum"]
    counts = [forum[f"num_{x}"] for x in ("illicit", "retracted", "appealed", "ruled", "upheld")]
    assert counts == [10, 1, 4, 3, 2]
    assert forum["wrong_share"] == pytest.approx(0.3)
    # Wilson's interval of 3 in 10, from Brown, Cai and DasGupta's formula by hand.
    assert (forum["low"], forum["high"]) == pytest.approx((0.1078, 0.6032), abs=1e-3)
    assert found["court"]["wrong_share"] == 1.0
    early = false_positives(labels, day(2))
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
        ((B, "licit", "forum", 5, None, 0.0), "confidence"),
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
    with pytest.raises(InvalidInput, match="a rank of 1 to 999"):
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


def flagged(*rows):
    schema = {"address": pl.String, "score": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


def test_whom_a_score_flags_may_appeal_and_counts_as_its_error_when_upheld(labels):
    assert labels.flag(flagged((A, 0.9), ("b", 0.5), ("c", 1.0)), by="000001", at=day(1)) == (3, 0)
    told = labels.as_of(day(1)).row(0, named=True)
    assert (told["label"], told["category"], told["source"]) == ("illicit", "score", "scores")
    assert told["confidence"] == 0.9
    assert labels.history(A)["by"].to_list() == ["000001"]
    assert labels.holding([A, "b"], day(2)) == {}
    number = labels.appeal(A, by="owner", reason="an exchange", at=day(2))
    labels.rule(number, upheld=True, by="ann", reason="it is", at=day(3))
    assert labels.holding([A, "b"], day(3)) == {A: Holding("licit", "appeal upheld", "appeals")}
    labels.add(frame(("b", "licit", "forum", 4)))
    assert labels.flag(flagged((A, 0.9)), by="000002", at=day(5)) == (0, 2)
    assert labels.history("c")["reason"].to_list() == [None, "flagged no more"]
    (scores,) = false_positives(labels, day(5)).iter_rows(named=True)
    assert scores["source"] == "scores"
    assert [scores[f"num_{x}"] for x in ("illicit", "retracted", "upheld", "overruled")] == [
        3, 2, 1, 1
    ]  # fmt: skip
    assert scores["num_wrong"] == 2  # a flag that falls with the score is none


def test_a_flag_that_is_told_again_keeps_its_instant_and_flags_follow_each_other(labels):
    assert labels.flag(flagged(("a", 0.9)), by="1", at=day(3)) == (1, 0)
    assert labels.flag(flagged(("a", 0.8)), by="2", at=day(3)) == (0, 0)
    assert labels.flag(flagged(("a", 0.7)), by="3", at=day(4)) == (0, 0)
    assert labels.as_of(day(9))["known_at"].to_list() == [day(3)]
    for at in (2, 3):
        for rows in ([("b", 0.9)], [("a", 0.9), ("b", 0.9)], []):
            with pytest.raises(InvalidInput, match="expected flags after 1970-01-04"):
                labels.flag(flagged(*rows), by="4", at=day(at))
    assert labels.flag(flagged(), by="5", at=day(5)) == (0, 1)
    assert labels.flag(flagged(), by="6", at=day(5)) == (0, 0)
    assert labels.flag(flagged(("a", 0.9)), by="7", at=day(6)) == (1, 0)
    assert labels.as_of(day(5)).is_empty()
    assert labels.as_of(day(6))["known_at"].to_list() == [day(6)]
    assert labels.flag(flagged(("a", 0.9)), by="8", at=day(7)) == (0, 0)


def test_flags_that_cannot_be_leave_nothing(labels):
    labels.flag(flagged(("a", 0.9)), by="1", at=day(1))
    for rows, message in (
        ([("b", 0.9), ("c", 0.0)], "a score in"),
        ([("b", 0.9), ("c", 1.01)], "a score in"),
        ([("b", 0.9), ("c", float("nan"))], "a score in"),
        ([("b", 0.9), ("c", None)], "a score in"),
        ([("b", 0.9), ("", 0.5)], "an address"),
        ([("b", 0.9), (None, 0.5)], "an address"),
        ([(A, 0.9), (A.upper(), 0.5)], "there once"),
    ):
        with pytest.raises(InvalidTable, match=message):
            labels.flag(flagged(*rows), by="2", at=day(2))
    with pytest.raises(InvalidTable, match="no `score`"):
        labels.flag(flagged().drop("score"), by="2", at=day(2))
    with pytest.raises(InvalidTable, match="texts and numbers"):
        labels.flag(pl.DataFrame({"address": ["b"], "score": ["high"]}), by="2", at=day(2))
    assert labels.as_of(day(9))["address"].to_list() == ["a"]
    for call in (
        lambda: Source("scores", 3),
        lambda: Source("far", 1000),
        lambda: labels.retract("a", source="scores", by="x", reason="y", at=day(3)),
        lambda: labels.appeal("a", by=" ", reason="y", at=day(3)),
        lambda: labels.appeal("a", by="x", reason="", at=day(3)),
        lambda: labels.rule(1, upheld=True, by="", reason="y", at=day(3)),
    ):
        with pytest.raises(InvalidInput):
            call()
    with pytest.raises(InvalidTable, match="a declared source"):
        labels.add(frame(("b", "illicit", "scores", 3)))
    assert labels.history("a").height == 1


def test_a_score_is_judged_by_labels_that_came_after_its_flags(labels):
    names = [f"n{i}" for i in range(6)]
    labels.add(frame(("n0", "illicit", "forum", 3), ("n1", "illicit", "forum", 5)))
    labels.flag(flagged(*[(name, 0.9) for name in names]), by="1", at=day(5))
    labels.flag(flagged(*[(name, 0.9) for name in [*names, "late"]]), by="2", at=day(40))
    assert flag_outcomes(labels, day(4)).is_empty()
    labels.add(
        frame(("n2", "illicit", "court", 6), ("n3", "licit", "forum", 7),
              ("n2", "licit", "list", 8), ("late", "illicit", "forum", 41))
    )  # fmt: skip
    (row,) = flag_outcomes(labels, day(9)).iter_rows(named=True)
    assert [row[f"num_{x}"] for x in ("flagged", "known", "new", "illicit", "licit")] == [
        6, 2, 4, 1, 1
    ]  # fmt: skip
    # Wilson's interval of 1 in 4, by hand.
    assert (row["precision"], row["low"], row["high"]) == pytest.approx((0.25, 0.0456, 0.6994),
                                                                        abs=1e-4)  # fmt: skip
    months = flag_outcomes(labels, day(50), by_month=True)
    assert months["month"].to_list() == [day(0), day(31)]
    assert months["num_illicit"].to_list() == [1, 1]
    assert months["num_flagged"].to_list() == [6, 1]
    labels.flag(flagged(("n0", 0.9)), by="3", at=day(60))
    labels.add(frame(*[("x", "licit", "forum", 70)]))
    labels.flag(flagged(("n0", 0.9), ("x", 0.9)), by="4", at=day(100))
    nobody_new = flag_outcomes(labels, day(101), by_month=True).row(-1, named=True)
    assert (nobody_new["num_new"], nobody_new["precision"], nobody_new["low"]) == (0, None, None)


def test_an_address_of_any_text_is_asked_and_held_by_nobody(labels):
    labels.add(frame(("a", "illicit", "forum", 1)))
    strange = ["", "a\0b", "\ud800", "é" * 100_000, "' OR 1=1 --", "%", A, "a"]
    assert list(labels.holding(strange, day(2))) == ["a"]
    assert labels.holding([], day(2)) == {}
    assert list(labels.holding(["a"])) == ["a"]  # now
    assert labels.as_of(day(2), addresses=strange)["address"].to_list() == ["a"]
    with pytest.raises(InvalidInput, match="as text"):
        labels.history("\ud800")


@pytest.mark.parametrize("plain", [A, "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"])
def test_an_address_in_capitals_is_the_same_address(labels, plain):
    capitals = plain.upper()
    labels.add(frame((capitals, "illicit", "forum", 1)))
    assert labels.as_of(day(2))["address"].to_list() == [plain]
    assert list(labels.holding([plain, capitals], day(2))) == [plain, capitals]
    number = labels.appeal(plain, by="owner", reason="sold", at=day(2))
    labels.rule(number, upheld=True, by="ann", reason="yes", at=day(3))
    assert labels.as_of(day(4), addresses=[capitals])["label"].to_list() == ["licit"]


def test_sources_are_declared_with_their_labels_or_not_at_all(labels):
    news = [Source("new", 7)]
    with pytest.raises(InvalidTable, match="label `illicit`"):
        labels.add(frame((B, "odd", "new", 1)), declaring=news)
    assert "new" not in labels.sources
    with pytest.raises(InvalidInput, match="of rank 1"):
        labels.add(frame((B, "licit", "new", 1)), declaring=[*news, Source("court", 2)])
    assert "new" not in labels.sources
    assert labels.add(frame((B, "licit", "new", 1)), declaring=news) == 1
    assert labels.sources["new"] == 7


def test_threads_share_labels_while_others_write(labels, tmp_path):
    other = AddressLabels.open(tmp_path / "labels.db")
    with ThreadPoolExecutor(8) as pool:
        writes = [
            pool.submit(labels.add, frame((f"n{i}", "illicit", "forum", i))) for i in range(20)
        ]
        reads = [pool.submit(labels.holding, [f"n{i}"], day(99)) for i in range(20)]
        away = [pool.submit(other.flag, flagged(("f", 0.9)), by=f"{i}", at=day(i)) for i in (1, 2)]
        assert sum(write.result() for write in writes) == 20
        assert all(len(read.result()) <= 1 for read in reads)
        assert sum(flag.result()[0] for flag in away) == 1
    assert other.as_of(day(99)).height == 21
    other.close()


def test_what_is_newest_is_a_matter_of_when_it_was_known_and_then_of_the_order(labels):
    labels.add(frame((A, "licit", "forum", 5), (A, "illicit", "forum", 3)))
    assert labels.as_of(day(5))["label"].to_list() == ["licit"]
    labels.add(frame((A, "illicit", "forum", 5)))
    assert labels.as_of(day(5))["label"].to_list() == ["illicit"]
    labels.add(frame((B, "illicit", "forum", 5), (B, "licit", "forum", 5)))
    assert labels.holding([B], day(5))[B].label == "licit"
    labels.retract(A, source="forum", by="x", reason="y", at=day(5))
    assert labels.as_of(day(5))["address"].to_list() == [B]  # what came at its instant goes too
    assert labels.as_of(day(4))["address"].to_list() == [A]
    labels.add(frame(("c", "licit", "court", 1), ("c", "illicit", "court", 2, 4)))
    assert labels.holding(["c"], day(3))["c"].label == "illicit"
    assert labels.holding(["c"], day(4)) == {}  # it ran out, and the one before it does not revive


def test_of_equal_ranks_the_surest_holds_then_the_newest_then_the_first_name(labels):
    for number, (forum, other, expected) in enumerate((
        ((2, None, 0.9), (3, None, 0.8), "forum"),
        ((2, None, 0.9), (3, None, 0.9), "list"),
        ((3, None, 0.9), (3, None, 0.9), "forum"),
    )):  # fmt: skip
        name = f"n{number}"
        labels.add(frame((name, "licit", "list", *other), (name, "illicit", "forum", *forum)))
        assert labels.holding([name], day(4))[name].source == expected
    labels.add(frame(("n0", "illicit", "court", 1, None, 0.1), ("n0", "illicit", "analyst", 4)))
    (first,) = labels.as_of(day(4), addresses=["n0"]).iter_rows(named=True)
    assert (first["source"], first["num_sources"], first["is_disputed"]) == ("court", 4, True)


def test_an_appeal_is_open_until_the_instant_of_its_ruling_and_for_its_address_alone(labels):
    labels.add(frame((A, "illicit", "court", 1), (B, "illicit", "court", 1)))
    number = labels.appeal(A, by="o", reason="r", at=day(2))
    labels.appeal(B, by="o", reason="r", at=day(2))
    with pytest.raises(InvalidInput, match="one appeal at a time"):
        labels.appeal(A, by="o", reason="r", at=day(1))
    labels.rule(number, upheld=False, by="a", reason="r", at=day(2))
    assert labels.appeals(day(1)).is_empty()
    assert labels.appeals(day(2))["upheld"].to_list() == [False, None]
    with pytest.raises(InvalidInput, match="an open appeal"):
        labels.rule(1, upheld=True, by="a", reason="a label is no appeal", at=day(9))
    assert labels.appeal(A, by="o", reason="r", at=day(2)) > number
    labels.add(frame(("c", "licit", "court", 1)))
    for name in ("c", "nobody"):
        with pytest.raises(InvalidInput, match="nothing to appeal"):
            labels.appeal(name, by="o", reason="r", at=day(2))


def test_a_source_is_overruled_by_a_better_one_that_spoke_later(labels):
    rows = [
        ("later", "forum", 3, "court", 4), ("same day", "forum", 3, "court", 3),
        ("before", "forum", 3, "court", 2), ("equal", "forum", 3, "list", 4),
        ("worse", "analyst", 3, "forum", 4),
    ]  # fmt: skip
    for name, source, since, other, at in rows:
        labels.add(frame((name, "illicit", source, since), (name, "licit", other, at)))
    labels.add(frame(("both", "illicit", "forum", 3), ("both", "illicit", "court", 4)))
    labels.add(frame(("again", "illicit", "forum", 3), ("again", "licit", "court", 4),
                     ("again", "illicit", "court", 5)))  # fmt: skip
    found = {row["source"]: row for row in false_positives(labels, day(9)).iter_rows(named=True)}
    assert (found["forum"]["num_illicit"], found["forum"]["num_overruled"]) == (6, 1)
    assert found["analyst"]["num_overruled"] == 0
    assert found["forum"]["num_wrong"] == 1

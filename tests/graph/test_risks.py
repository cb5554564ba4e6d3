"""What a chain says of addresses, while others write to its folder, or break it."""

import json
import os
import shutil
import sqlite3
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from time import monotonic, sleep

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput, StoreError
from chopmark.graph.addresses import AddressBook
from chopmark.graph.risks import LOOK_AGAIN_S, AddressRisks
from chopmark.histories.storage import write_array

from .chains import BANDS, LISTED, RISKY, SAFE, START, STRANGER, add_labels, add_run, make_chain

BECH32 = "bc1qar0srrr7xfkvy5l643lydnw9re59gtzzwf5mdq"


@pytest.fixture
def folder(tmp_path):
    return make_chain(tmp_path / "ethereum", {SAFE: 0.01, LISTED: 0.3, RISKY: 0.75})


def told(risks, address):
    (one,) = risks.of([address])
    return one


def test_an_address_has_the_score_of_the_run_and_its_band(folder):
    risks = AddressRisks(folder)
    safe, listed, risky, stranger = risks.of([SAFE, LISTED, RISKY, STRANGER])
    assert (risky.score, risky.band, risky.run, risky.chain) == (0.75, "high", "000001", "ethereum")
    assert listed.band == "raised"
    assert (safe.band, safe.label, safe.warning) == ("usual", None, None)
    assert (stranger.score, stranger.band, stranger.warning) == (None, None, None)
    assert "ask its owner" in risky.warning
    assert "unusual" in listed.warning
    assert len(risks) == 3
    assert risks.of([]) == []


@pytest.mark.parametrize(
    ("score", "band"),
    [
        (0.0, "usual"), (np.nextafter(np.float32(0.25), 0), "usual"), (0.25, "raised"),
        (np.nextafter(np.float32(0.5), 0), "raised"), (0.5, "high"), (1.0, "high"),
    ],
)  # fmt: skip
def test_a_bound_belongs_to_the_band_above_it(tmp_path, score, band):
    assert told(AddressRisks(make_chain(tmp_path / "c", {SAFE: score})), SAFE).band == band


def test_a_run_without_bounds_has_no_bands(tmp_path):
    risk = told(AddressRisks(make_chain(tmp_path / "c", {RISKY: 0.9}, bands=None)), RISKY)
    assert (risk.score, risk.band, risk.warning) == (pytest.approx(0.9), None, None)


@pytest.mark.parametrize("score", [np.nan, -0.1, 1.1, np.inf])
def test_what_is_no_chance_is_no_score(tmp_path, score):
    risk = told(AddressRisks(make_chain(tmp_path / "c", {RISKY: score})), RISKY)
    assert (risk.score, risk.band) == (None, None)


def test_one_wallet_is_one_address_however_it_is_written(tmp_path):
    folder = make_chain(
        tmp_path / "c", {RISKY: 0.75, BECH32: 0.3, "1BoatSLRHtKNngkdXEeobR76b": 0.1}
    )
    add_labels(folder, {RISKY: "illicit", BECH32: "illicit"})
    risks = AddressRisks(folder)
    for spelled in (RISKY.upper(), RISKY[2:], RISKY[2:].upper(), f"\t{RISKY}\n",
                    "0x" + RISKY[2:].upper(), BECH32.upper(), f" {BECH32}"):  # fmt: skip
        risk = told(risks, spelled)
        assert (risk.address, risk.label) == (spelled, "illicit"), spelled
        assert risk.score is not None, spelled
    # Base58 is another address in another case.
    assert told(risks, "1BOATSLRHTKNNGKDXEEOBR76B").score is None


def test_a_list_in_capitals_is_a_list(folder):
    add_labels(folder, {BECH32.upper(): "illicit", LISTED.upper(): "illicit"})
    risks = AddressRisks(folder)
    asked = (BECH32.upper(), BECH32, LISTED)
    assert [told(risks, one).label for one in asked] == ["illicit"] * 3


def test_a_label_has_the_last_word_on_the_warning(folder):
    labels = add_labels(folder, {LISTED: "illicit", RISKY: "licit", STRANGER: "illicit"})
    risks = AddressRisks(folder)
    listed, risky, stranger = risks.of([LISTED, RISKY, STRANGER])
    assert (listed.label, listed.category, listed.source) == ("illicit", "mixer", "court")
    assert "(mixer): do not send" in listed.warning
    assert (risky.band, risky.label, risky.warning) == ("high", "licit", None)
    # A list may know an address that never moved anything.
    assert (stranger.score, stranger.label) == (None, "illicit")
    number = labels.appeal(LISTED, by="owner", reason="sold", at=START + timedelta(days=1))
    assert told(risks, LISTED).label == "illicit"
    labels.rule(number, upheld=True, by="ann", reason="yes", at=START + timedelta(days=2))
    after = told(risks, LISTED)
    assert (after.label, after.source, after.warning) == ("licit", "appeals", None)


@settings(max_examples=10, deadline=None)
@given(
    scores=st.dictionaries(st.text(min_size=1, max_size=30), st.floats(0, 1, width=32), max_size=8),
    asked=st.lists(st.text(max_size=30), max_size=8),
    repeat=st.integers(1, 3),
)
def test_any_texts_are_answered_as_a_plain_dict_would(scores, asked, repeat):
    kept = {name: score for name, score in scores.items() if name == name.strip()}
    with TemporaryDirectory() as home:
        risks = AddressRisks(make_chain(Path(home) / "c", {**kept, SAFE: 0.125}))
        wanted = [*asked, *kept, SAFE] * repeat
        found = risks.of(wanted)
        assert [one.address for one in found] == wanted
        for one in found:
            score = {**kept, SAFE: 0.125}.get(one.address.strip())
            assert one.score == score
            assert (one.band == "high") == (score is not None and score >= BANDS["high"])
        risks.close()


@pytest.mark.parametrize(
    "strange",
    ["", " ", "\x00", "0x" + "\x00" * 40, "0x" + "g" * 40, "0x" + "1a" * 21, "../../etc/passwd",
     "\uff41" * 42, "0x" + "\u0661" * 40, "x" * 1_000_000, "\u202e" + SAFE, SAFE + "\x00"],
)  # fmt: skip
def test_a_strange_text_is_an_address_that_nobody_knows(folder, strange):
    risk = told(AddressRisks(folder), strange)
    assert (risk.address, risk.score, risk.label) == (strange, None, None)


def test_half_a_letter_is_refused(folder):
    with pytest.raises(InvalidInput, match="UTF-8"):
        AddressRisks(folder).of(["\ud800"])


def test_a_new_run_answers_without_a_restart_and_knows_new_addresses(folder):
    began = monotonic()
    risks = AddressRisks(folder)
    add_run(folder, {SAFE: 0.6, STRANGER: 0.7})
    found = told(risks, STRANGER).score
    if monotonic() - began < LOOK_AGAIN_S:  # else the machine is slow
        assert found is None, "within the second the old one answers"
    until = monotonic() + 3 * LOOK_AGAIN_S
    while told(risks, STRANGER).score is None and monotonic() < until:
        sleep(0.05)
    risk = told(risks, STRANGER)
    assert (risk.score, risk.run) == (pytest.approx(0.7), "000002")
    assert told(risks, SAFE).band == "high"
    assert risks.trouble == ""


def spoil_json(text):
    return lambda folder, home: (home / "about.json").write_text(text)


def cut_scores(folder, home):
    path = home / "scores.npy"
    path.write_bytes(path.read_bytes()[:-3])


def other_scores(array):
    return lambda folder, home: write_array(home / "scores.npy", array)


def name_run(text):
    def spoil(folder, home):
        (folder / "new").write_text(text)
        os.replace(folder / "new", folder / "current.json")

    return spoil


def cut_book(folder, home):
    path = folder / "ledger" / "addresses" / "head.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"slots": None}))


SPOILED = {
    "no scores": lambda folder, home: (home / "scores.npy").unlink(),
    "scores cut short": cut_scores,
    "scores of another kind": other_scores(np.zeros(4)),
    "more scores than addresses": other_scores(np.zeros(5, np.float32)),
    "no description": lambda folder, home: (home / "about.json").unlink(),
    "half a description": spoil_json('{"bands": {"rai'),
    "a description that is a list": spoil_json("[]"),
    "bounds the wrong way round": spoil_json('{"bands": {"raised": 0.5, "high": 0.2}}'),
    "bounds that are none": spoil_json('{"bands": {"raised": NaN, "high": "x"}}'),
    "a run that is gone": lambda folder, home: shutil.rmtree(home),
    "a name that leads out": name_run('{"run": "../../../etc"}'),
    "no name": name_run("{}"),
    "no JSON": name_run('{"run": "00'),
    "deep JSON": name_run("[" * 100_000),
    "no current run": lambda folder, home: (folder / "current.json").unlink(),
    "no ledger": lambda folder, home: (folder / "ledger" / "ledger.json").unlink(),
    "addresses that are being written": cut_book,
    "no folder": lambda folder, home: shutil.rmtree(folder),
}


@pytest.mark.parametrize("what", SPOILED)
def test_what_is_damaged_leaves_the_old_run_in_place_until_it_is_mended(folder, what, tmp_path):
    risks = AddressRisks(folder)
    add_run(folder, {SAFE: 0.5, STRANGER: 0.5})
    shutil.copytree(folder, tmp_path / "sound")
    SPOILED[what](folder, folder / "runs" / "000002")
    risks.follow(at_once=True)
    assert risks.trouble
    assert (told(risks, SAFE).run, told(risks, SAFE).score) == ("000001", pytest.approx(0.01))
    shutil.rmtree(folder, ignore_errors=True)
    os.rename(tmp_path / "sound", folder)
    risks.follow(at_once=True)
    assert (risks.trouble, risks.run) == ("", "000002")
    assert told(risks, STRANGER).score == 0.5


def test_a_run_that_is_removed_goes_on_and_is_opened_anew_when_it_is_back(folder, tmp_path):
    risks = AddressRisks(folder)
    home = folder / "runs" / "000001"
    shutil.copytree(home, tmp_path / "copy")
    shutil.rmtree(home)
    risks.follow(at_once=True)
    assert risks.trouble
    assert told(risks, RISKY).score == 0.75
    write_array(tmp_path / "copy" / "scores.npy", np.full(3, 0.125, np.float32))
    os.rename(tmp_path / "copy", home)
    risks.follow(at_once=True)
    assert (risks.trouble, told(risks, RISKY).score) == ("", 0.125)


def test_another_folder_may_take_the_place_of_one(folder, tmp_path):
    risks = AddressRisks(folder)
    other = make_chain(tmp_path / "other", {STRANGER: 0.9, RISKY: 0.1})
    os.rename(folder, tmp_path / "gone")
    os.rename(other, folder)
    risks.follow(at_once=True)
    assert told(risks, SAFE).score is None
    assert told(risks, RISKY).score == pytest.approx(0.1)


def test_labels_may_come_go_and_be_replaced_while_it_runs(folder, tmp_path):
    risks = AddressRisks(folder)
    assert told(risks, LISTED).label is None
    add_labels(folder, {LISTED: "illicit"}).close()
    risks.follow(at_once=True)
    assert told(risks, LISTED).label == "illicit"
    add_labels(folder, {SAFE: "illicit"}).close()
    assert told(risks, SAFE).label == "illicit", "what is added holds at once"
    for left in folder.glob("labels.db*"):
        left.unlink()
    risks.follow(at_once=True)
    assert "gone" in risks.trouble
    assert told(risks, LISTED).label == "illicit"
    (folder / "labels.db").write_bytes(b"no labels at all, but more than a header" * 50)
    risks.follow(at_once=True)
    assert risks.trouble
    assert told(risks, LISTED).label == "illicit"
    (folder / "labels.db").unlink()
    add_labels(folder, {LISTED: "licit"}).close()
    risks.follow(at_once=True)
    assert (risks.trouble, told(risks, LISTED).label) == ("", "licit")


def test_labels_are_read_while_another_process_writes_them(folder):
    add_labels(folder, {LISTED: "illicit"}).close()
    risks = AddressRisks(folder)
    writer = sqlite3.connect(folder / "labels.db", isolation_level=None)
    writer.execute("BEGIN EXCLUSIVE")
    writer.execute("INSERT INTO sources VALUES ('late', 9)")
    began = monotonic()
    assert told(risks, LISTED).label == "illicit"
    assert monotonic() - began < 1.0
    writer.execute("ROLLBACK")
    writer.close()


def test_no_score_is_told_without_its_label(folder):
    add_labels(folder, {LISTED: "illicit"}).close()
    risks = AddressRisks(folder)
    breaker = sqlite3.connect(folder / "labels.db", isolation_level=None)
    breaker.execute("ALTER TABLE records RENAME TO lost")
    with pytest.raises(StoreError, match="labels"):
        risks.of([LISTED])
    breaker.execute("ALTER TABLE lost RENAME TO records")
    breaker.close()
    assert told(risks, LISTED).label == "illicit"


def test_a_reader_keeps_the_index_that_a_writer_lays_anew(folder):
    risks = AddressRisks(folder)
    cut_book(folder, None)  # a flush that was cut off
    path = folder / "ledger" / "addresses"
    (index,) = path.glob("slots-*")
    before = index.stat().st_ino
    book = AddressBook.open(path)
    book.add(pl.Series([STRANGER]))
    book.flush()
    # Cut short in place, it would take the pages from under this process.
    assert index.stat().st_ino != before
    assert {one.name for one in path.iterdir()} == {"head.json", "names.bin", "texts.bin",
                                                    index.name}  # fmt: skip
    assert [told(risks, one).score for one in (RISKY, STRANGER)] == [0.75, None]


def test_what_cannot_be_opened_says_what_to_do(tmp_path, folder):
    with pytest.raises(StoreError, match="chopmark chain run"):
        AddressRisks(tmp_path / "nothing")
    (folder / "current.json").unlink()
    with pytest.raises(StoreError, match="expected a run"):
        AddressRisks(folder)

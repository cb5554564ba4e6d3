"""The ledger beside a plain set of rows, through repeats, re-organised blocks, kills, no room."""

import errno
import os
import shutil
import signal
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput, InvalidTable, StoreError
from chopmark.graph.ledger import COLUMNS, Ledger
from chopmark.graph.transfers import TRANSFERS

START = datetime(2024, 1, 1, tzinfo=UTC)


def frame(rows):
    """Transfers of (sender, receiver, amount, block, tx, place, asset)."""
    return pl.DataFrame(
        [
            (
                sender,
                receiver,
                amount,
                START + timedelta(seconds=12 * block),
                block,
                tx,
                place,
                asset,
            )
            for sender, receiver, amount, block, tx, place, asset in rows
        ],
        schema=TRANSFERS,
        orient="row",
    )


def block_rows(*blocks, tag=""):
    return frame(
        [
            (f"s{i}", f"r{block}{tag}", float(i), block, f"tx{block}-{i}{tag}", 0, "")
            for block in blocks
            for i in range(3)
        ]
    )


def spelled(ledger, columns):
    """Rows as they were said, without their tx, sorted."""
    return sorted(
        zip(
            ledger.addresses.names(columns["src"]),
            ledger.addresses.names(columns["dst"]),
            columns["amount"].tolist(),
            columns["time"].tolist(),
            columns["block"].tolist(),
            ledger.assets.names(columns["asset"]),
            columns["place"].tolist(),
            strict=True,
        )
    )


def said(transfers):
    names = ("sender", "receiver", "amount", "happened_at", "block", "asset", "place")
    times = transfers.with_columns(pl.col("happened_at").to_physical())
    return sorted(times.select(names).rows())


def test_rows_come_back_as_they_were_said(tmp_path):
    ledger = Ledger.create(tmp_path / "eth", chain="ethereum")
    rows = frame(
        [
            ("b", "a", 2.0, 7, "t2", 4, "0xtoken"),
            ("a", "b", 1.0, 7, "t1", 0, ""),
            ("c", "c", 0.0, 3, "t0", 0, ""),
        ]
    )
    delta = ledger.append(rows)
    assert (len(delta), delta.duplicates) == (3, 0)
    assert spelled(ledger, delta.columns) == said(rows)
    assert delta.touched.tolist() == [0, 1, 2]
    again = Ledger.open(tmp_path / "eth", thorough=True)
    assert (again.chain, len(again), again.mark, again.last_block) == ("ethereum", 3, 1, 7)
    columns = again.columns()
    assert {name: values.dtype for name, values in columns.items()} == dict(COLUMNS)
    assert columns["block"].tolist() == [3, 7, 7]
    assert columns["asset"].tolist() == [0, 0, 1]
    assert columns["time"].tolist() == [
        int((START + timedelta(seconds=12 * block)).timestamp() * 1e6) for block in (3, 7, 7)
    ]
    assert spelled(again, columns) == said(rows)


def test_a_delta_twice_is_once_and_an_empty_one_is_nothing(tmp_path):
    ledger = Ledger.create(tmp_path / "eth")
    first = block_rows(1, 2)
    ledger.append(first)
    for book in (ledger, Ledger.open(tmp_path / "eth")):
        twice = book.append(first)
        assert (len(twice), twice.duplicates, book.mark, len(book)) == (0, 6, 1, 6)
        assert len(twice.touched) == 0
        empty = book.append(first.clear())
        assert (len(empty), empty.duplicates, book.mark) == (0, 0, 1)
    both = Ledger.open(tmp_path / "eth").append(pl.concat([block_rows(2, 3), block_rows(3)]))
    assert (len(both), both.duplicates) == (3, 6)
    # The same tx may move several tokens, and be of several places.
    more = frame(
        [("a", "b", 1.0, 3, "t", place, asset) for place in (0, 1) for asset in ("", "x", "y")]
    )
    assert len(Ledger.open(tmp_path / "eth").append(more)) == 6


def test_rows_without_a_tx_are_known_by_what_they_say_and_how_often(tmp_path):
    ledger = Ledger.create(tmp_path / "plain")
    rows = frame([("a", "b", 5.0, 0, "", 0, "")] * 2 + [("a", "b", 6.0, 0, "", 0, "")])
    assert len(ledger.append(rows)) == 3
    assert ledger.append(rows).duplicates == 3
    one_more = ledger.append(pl.concat([rows[:1]] * 3))
    assert (len(one_more), one_more.duplicates) == (1, 2)
    other_time = rows.with_columns(pl.col("happened_at") + timedelta(days=1))
    assert len(ledger.append(other_time)) == 3


steps = st.lists(
    st.one_of(
        st.tuples(
            st.just("append"),
            st.lists(
                st.tuples(
                    st.integers(0, 5),
                    st.integers(0, 5),
                    st.integers(0, 3),
                    st.integers(0, 8),
                    st.integers(0, 2),
                ),
                max_size=12,
            ),
        ),
        st.tuples(st.just("rewind"), st.integers(0, 8)),
        st.tuples(st.just("open"), st.just(0)),
    ),
    max_size=8,
)


@settings(max_examples=30)
@given(steps)
def test_the_ledger_is_a_set_of_rows_and_since_tells_the_difference(
    tmp_path_factory, monkeypatch, steps
):
    monkeypatch.setattr(os, "fsync", lambda handle: None)  # no kill here
    folder = tmp_path_factory.mktemp("ledger") / "eth"
    ledger, reference = Ledger.create(folder), {}
    states = {0: {}}
    for what, details in steps:
        if what == "append":
            rows = frame(
                [
                    (f"a{s}", f"a{r}", float(s), block, f"tx{t}", place, "")
                    for s, r, place, block, t in details
                ]
            )
            # The ledger sorts first: of equal rows the first in that order stays.
            fresh = {}
            for row in rows.sort("block", "happened_at", "tx", "place", maintain_order=True).rows():
                key = (row[4], row[5], row[6])
                if key not in reference:
                    fresh.setdefault(key, row)
            delta = ledger.append(rows)
            assert len(delta) == len(fresh)
            assert delta.duplicates == len(rows) - len(fresh)
            reference = reference | fresh
        elif what == "rewind":
            gone = ledger.rewind(details)
            left = {key: row for key, row in reference.items() if key[0] <= details}
            assert len(gone) == len(reference) - len(left)
            reference = left
        else:
            ledger = Ledger.open(folder, thorough=True)
        states[ledger.mark] = reference
        expected = pl.DataFrame(list(reference.values()), schema=TRANSFERS, orient="row")
        assert spelled(ledger, ledger.columns()) == said(expected)
        for mark, then in states.items():
            came, went = ledger.since(mark)
            before = pl.DataFrame(list(then.values()), schema=TRANSFERS, orient="row")
            rebuilt = sorted([*said(before), *spelled(ledger, came.columns)], key=str)
            assert rebuilt == sorted([*said(expected), *spelled(ledger, went.columns)], key=str)


def test_reorganised_blocks_are_taken_back_and_their_addresses_keep_their_ids(tmp_path):
    ledger = Ledger.create(tmp_path / "eth")
    ledger.append(block_rows(1, 2))
    mark = ledger.mark
    ledger.append(block_rows(3, 4))
    old = ledger.addresses.ids(pl.Series(["r3", "r4"])).tolist()
    gone = ledger.rewind(2)
    assert spelled(ledger, gone.columns) == said(block_rows(3, 4))
    assert (len(ledger.rewind(2)), ledger.mark) == (0, 3)
    other = ledger.append(block_rows(3, 4, tag="'"))
    assert len(other) == 6
    back = ledger.append(block_rows(4))  # a tx that went may come again
    assert len(back) == 3
    ledger = Ledger.open(tmp_path / "eth", thorough=True)
    assert ledger.addresses.ids(pl.Series(["r3", "r4"])).tolist() == old
    came, went = ledger.since(mark)
    assert spelled(ledger, came.columns) == sorted(
        said(block_rows(3, 4, tag="'")) + said(block_rows(4))
    )
    assert len(went) == 0
    assert len(ledger.since(2)[1]) == 6
    with pytest.raises(InvalidInput, match="mark of 0 to 5"):
        ledger.since(6)
    with pytest.raises(InvalidInput, match="block of 0 or more"):
        ledger.rewind(-1)


def test_ids_do_not_depend_on_how_a_table_was_cut(tmp_path):
    rows = block_rows(*range(1, 20))
    whole, cut = Ledger.create(tmp_path / "whole"), Ledger.create(tmp_path / "cut")
    whole.append(rows)
    for start in range(0, len(rows), 7):
        cut.append(rows[start : start + 7])
    for name, values in whole.columns().items():
        assert np.array_equal(values, cut.columns()[name])


def same(ledger, *deltas):
    return spelled(ledger, ledger.columns()) == said(pl.concat([TRANSFERS.to_frame(), *deltas]))


def test_an_append_or_rewind_killed_anywhere_is_whole_or_not_at_all(tmp_path, monkeypatch):
    folder = tmp_path / "eth"
    first, second = block_rows(1, 2), block_rows(2, 3, tag="'")
    ledger = Ledger.create(folder)
    ledger.append(first)
    kept = []

    def keep():
        kept.append(shutil.copytree(folder, tmp_path / str(len(kept))))

    for name in ("fsync", "replace"):
        real = getattr(os, name)

        def wrapped(*arguments, real=real):
            keep()
            return real(*arguments)

        monkeypatch.setattr(os, name, wrapped)
    ledger.append(second)
    appended = len(kept)
    ledger.rewind(1)
    keep()
    monkeypatch.undo()
    seen = []
    for copy in kept:
        left = Ledger.open(copy)
        states = ((), (second,)) if kept.index(copy) < appended else ((second,),)
        stands = [state for state in states if same(left, first, *state)]
        if not stands:
            assert same(left, block_rows(1))
            seen.append("rewound")
            continue
        assert len(stands) == 1
        seen.append(len(stands[0]))
        # The half-written ids and files are as if they never were.
        known = left.addresses.names(np.arange(len(left.addresses))).to_list()
        assert ("r3'" in known) == bool(stands[0])
        again = left.append(second)
        assert len(again) == (0 if stands[0] else len(second))
        assert same(Ledger.open(copy), first, second)
    assert set(seen) == {0, 1, "rewound"}
    assert seen[:appended].count(0) > 15


KILLED = """
import os, signal, sys
import polars as pl
from chopmark.graph.ledger import Ledger
ledger = Ledger.open(sys.argv[1])
rows = pl.read_parquet(sys.argv[2])
replace = os.replace
def killed(made, path):
    if str(path).endswith("ledger.json"):
        os.kill(os.getpid(), signal.SIGKILL)
    replace(made, path)
os.replace = killed
ledger.append(rows)
"""


def test_after_a_kill_minus_nine_the_same_delta_is_taken_in_whole(tmp_path):
    ledger = Ledger.create(tmp_path / "eth")
    ledger.append(block_rows(1))
    block_rows(1, 2, tag="'").write_parquet(tmp_path / "rows.parquet")
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "eth"), str(tmp_path / "rows.parquet")],
        check=False,
        timeout=60,
    )
    assert ended.returncode == -signal.SIGKILL
    left = Ledger.open(tmp_path / "eth")
    assert same(left, block_rows(1))
    assert len(left.append(block_rows(1, 2, tag="'"))) == 6
    assert same(
        Ledger.open(tmp_path / "eth", thorough=True), block_rows(1), block_rows(1, 2, tag="'")
    )


def test_a_disk_that_is_full_at_any_write_applies_nothing_and_says_so(tmp_path, monkeypatch):
    rows = block_rows(2, tag="'")

    def real(handle):
        """No kill comes here, so nothing need be waited for."""

    monkeypatch.setattr(os, "fsync", real)
    for at in range(1, 40):
        folder = tmp_path / str(at)
        ledger = Ledger.create(folder)
        ledger.append(block_rows(1))
        calls = [0]

        def full(handle, calls=calls, at=at):
            calls[0] += 1
            if calls[0] == at:
                raise OSError(errno.ENOSPC, "No space left on device")
            real(handle)

        monkeypatch.setattr(os, "fsync", full)
        said_so = ""
        try:
            ledger.append(rows)
        except StoreError as error:
            said_so = str(error)
        monkeypatch.setattr(os, "fsync", real)
        left = Ledger.open(folder, thorough=True)
        if not said_so:
            assert same(left, block_rows(1), rows)
            break
        assert "No space left on device" in said_so
        if "does not confirm" in said_so:  # the last one: the name of the ledger's new head
            assert same(left, block_rows(1), rows)
            with pytest.raises(StoreError, match="open it again"):
                ledger.append(rows)
            continue
        assert same(left, block_rows(1))
        assert same(ledger, block_rows(1))
        assert (ledger.addresses.ids(pl.Series(["r2'"])) == -1).all()
        assert len(ledger.append(rows)) == 3
        assert same(Ledger.open(folder, thorough=True), block_rows(1), rows)
    assert at > 15  # as many writes as that, each failed once


def test_a_bad_row_in_a_delta_refuses_the_delta_whole(tmp_path):
    ledger = Ledger.create(tmp_path / "eth")
    rows = block_rows(1).with_columns(
        amount=pl.when(pl.int_range(pl.len()) == 2).then(float("nan")).otherwise("amount")
    )
    with pytest.raises(InvalidTable, match=r"`amount` is not within .* in row 2"):
        ledger.append(rows)
    assert (len(ledger), len(ledger.addresses)) == (0, 0)


def test_of_two_writers_the_second_is_told(tmp_path):
    first = Ledger.create(tmp_path / "eth")
    second = Ledger.open(tmp_path / "eth")
    first.append(block_rows(1))
    with pytest.raises(StoreError, match="changed by another process"):
        second.append(block_rows(2))
    with first._alone(), pytest.raises(StoreError, match="another process is writing"):
        second.rewind(0)
    assert len(Ledger.open(tmp_path / "eth").append(block_rows(2))) == 3


def test_damage_is_told(tmp_path):
    folder = tmp_path / "eth"
    with pytest.raises(StoreError, match=r"has no `ledger\.json`"):
        Ledger.open(folder)
    Ledger.create(folder).append(block_rows(1))
    with pytest.raises(StoreError, match="expected a new folder"):
        Ledger.create(folder)
    path = folder / "segments" / "000001" / "amount.npy"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"\x01")
    assert len(Ledger.open(folder)) == 3
    with pytest.raises(StoreError, match=r"`amount\.npy` of segment 000001 has other bytes"):
        Ledger.open(folder, thorough=True)
    path.write_bytes(whole[:-4])
    with pytest.raises(StoreError, match=r"damaged: `amount\.npy`"):
        Ledger.open(folder)
    path.write_bytes(whole)
    good = (folder / "ledger.json").read_text()
    for text, words in (
        ("{", "cannot be read"),
        ("[]", "of format"),
        (good.replace('"version": 1', '"version": 2'), "of version 1"),
        (good.replace('"000001"', '"../x"'), "odd ones"),
        (good.replace('"total": 3', '"total": 2'), "odd ones"),
        (good.replace('"addresses": ', '"addresses": 9'), "expected at least 9"),
    ):
        (folder / "ledger.json").write_text(text)
        with pytest.raises(StoreError, match=words):
            Ledger.open(folder)


def test_chains_stand_side_by_side_in_folders_of_their_own(tmp_path):
    ledgers = [Ledger.create(tmp_path / name, chain=name) for name in ("ethereum", "base")]
    for place, ledger in enumerate(ledgers):
        ledger.append(block_rows(place))
    assert [ledger.chain for ledger in ledgers] == ["ethereum", "base"]
    assert ledgers[1].addresses.ids(pl.Series(["r0"])).tolist() == [-1]

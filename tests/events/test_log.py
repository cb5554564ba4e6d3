"""The log: its contract, its round-trips, two writers, foreign and damaged files."""

import os
import shutil
import sqlite3
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chopmark.errors import LogUnavailable, StoreError
from chopmark.events import Schema, SqliteLog, offsets
from chopmark.testing.stores import check_store
from chopmark.times import moment
from tests.events.worlds import SCHEMA, START, Purchase, Tick, pair, texts


def test_sqlite_log_keeps_the_contract(tmp_path: Path) -> None:
    check_store(lambda schema: SqliteLog(tmp_path / "log.db", schema))


def test_sqlite_log_keeps_the_contract_while_compacting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chopmark.events.sqlitelog.RUN_EVENTS", 64)
    monkeypatch.setattr("chopmark.events.sqlitelog.CHECKPOINT_BYTES", 10_000)
    monkeypatch.setattr("chopmark.events.sqlitelog.MAX_WAL_PAGES", 20)
    monkeypatch.setattr("chopmark.events.sqlitelog.MAX_ABSENT", 50)
    check_store(lambda schema: SqliteLog(tmp_path / "log.db", schema), num_events=4_000)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.lists(
        st.lists(
            st.tuples(
                st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20),
                texts,
                st.integers(-5, 5),
            ),
            max_size=4,
        ),
        max_size=12,
    ),
    st.integers(1, 7),
)
def test_what_is_appended_is_read_exactly_once(
    tmp_path_factory: pytest.TempPathFactory,
    groups: list[list[tuple[str, str, int]]],
    batch_size: int,
) -> None:
    path = tmp_path_factory.mktemp("log") / "log.db"
    kept: list[Purchase] = []
    with SqliteLog(path, SCHEMA) as log:
        for number, group in enumerate(groups):
            events = []
            for name, user, step in group:
                at = moment(log.known_at(START + step))  # the clock goes to and fro
                events.append(Purchase(id=name, happened_at=at, known_at=at, user=user))
            names = [event.id for event in events]
            new = len(set(names)) == len(names) and not {e.id for e in kept} & set(names)
            known = [event.known_at for event in events]
            if new and known == sorted(known):
                log.append(*events)
                kept += events
            elif events:
                with pytest.raises(StoreError):
                    log.append(*events)
            if number % 3 == 0:
                log.sync()
            assert all(log.find(event.id) == event for event in kept)
    with SqliteLog(path, SCHEMA) as log:
        batches = list(log.read(batch_size=batch_size))
        assert [event for batch in batches for _, event in batch] == kept
        assert len(log) == len(kept)
        newest = {event.user: event for event in kept}
        assert all(log.latest("purchase", user) == event for user, event in newest.items())


def test_a_clock_that_goes_backwards_stops_the_log_and_does_not_turn_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([START, START - 3_600_000_000, START + 1])
    monkeypatch.setattr("chopmark.events.sqlitelog.now", lambda: next(clock))
    with SqliteLog(tmp_path / "log.db", SCHEMA) as log:
        seen = []
        for name in "abc":
            at = log.known_at()
            seen.append(at)
            log.append(*pair(name, at=at))
        assert seen == [START, START, START + 1]


def test_a_second_writer_is_refused_and_a_reader_reads_along(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with SqliteLog(path, SCHEMA) as log:
        log.append(*pair("a"))
        log.sync()
        with pytest.raises(LogUnavailable, match=f"process {os.getpid()} .*writes to it"):
            SqliteLog(path, SCHEMA)
        reader = SqliteLog(path, SCHEMA, read_only=True)
        assert len(reader) == 2
        log.append(*pair("b", user="bob"))
        assert reader.find("b") is None
        log.sync()
        assert reader.find("b") == pair("b", user="bob")[0]
        assert reader.latest("decision", "bob") == pair("b", user="bob")[1]
        assert reader.last_known_at == START
        with pytest.raises(LogUnavailable, match="for reading only"):
            reader.append(*pair("c"))
        with pytest.raises(LogUnavailable):
            reader.recover()
        reader.close()
        assert log.last_offset == 4
    with SqliteLog(path, SCHEMA) as log:
        assert len(log) == 4


def test_reading_along_a_log_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(LogUnavailable, match="unable to open"):
        SqliteLog(tmp_path / "none.db", SCHEMA, read_only=True)


@pytest.mark.parametrize("content", [b"no database at all" * 300, b"SQLite format 3\0" * 400])
def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "log.db"
    path.write_bytes(content)
    with pytest.raises(StoreError, match=r"log\.db.*(another format|restore it)"):
        SqliteLog(path, SCHEMA)
    assert path.read_bytes() == content


def test_another_applications_database_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE theirs (x)")
    connection.close()
    with pytest.raises(StoreError, match="another application"):
        SqliteLog(path, SCHEMA)


def test_a_newer_layout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    SqliteLog(path, SCHEMA).close()
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(StoreError, match=r"layout version 2 .* got 99"):
        SqliteLog(path, SCHEMA)


def filled(path: Path, num_pairs: int = 300) -> Path:
    with SqliteLog(path, SCHEMA) as log:
        for number in range(num_pairs):
            log.append(*pair(f"event-{number}", at=START + number))
    return path


def test_a_truncated_file_is_named(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.db")
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(StoreError, match=r"sound event log in .*log\.db.*backup"):
        SqliteLog(path, SCHEMA)


def test_garbled_pages_are_named(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.db")
    with path.open("r+b") as file:
        file.seek(8192)
        file.write(b"\xa5" * 40_000)
    (tmp_path / "log.db.lock").write_text("1")  # as after a crash: the file is checked
    with pytest.raises(StoreError, match=r"log\.db.*backup"):
        SqliteLog(path, SCHEMA)


def test_missing_events_are_named(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.db")
    connection = sqlite3.connect(path)
    connection.execute("DELETE FROM events WHERE offset = 77")
    connection.commit()
    connection.close()
    with pytest.raises(StoreError, match="acknowledged events are missing"):
        SqliteLog(path, SCHEMA)


def test_an_event_that_no_longer_fits_the_schema_is_named(tmp_path: Path) -> None:
    path = filled(tmp_path / "log.db", num_pairs=2)
    with (
        SqliteLog(path, Schema(Purchase)) as log,
        pytest.raises(StoreError, match=r"offset 2 of .*log.db.*decision"),
    ):
        list(log.read())


def test_a_damaged_foreign_or_missing_index_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chopmark.events.sqlitelog.RUN_EVENTS", 50)
    path = filled(tmp_path / "log.db", num_pairs=100)
    other = filled(tmp_path / "other.db", num_pairs=400)
    folder = tmp_path / "log.db.index"

    def works() -> None:
        with SqliteLog(path, SCHEMA) as log:
            for number in (0, 57, 99):
                assert log.find(f"event-{number}") == pair("event-0", at=START)[0] or number
                with pytest.raises(StoreError):
                    log.append(*pair(f"event-{number}", at=START + 1000))
            assert log.find("event-100") is None
        with SqliteLog(path, SCHEMA) as log:
            for _ in range(60):
                log.sync()
            assert log.latest("decision", "ann") == pair("event-99", at=START + 99)[1]

    works()
    runs = sorted(folder.glob("*.run"))
    assert runs
    runs[0].write_bytes(runs[0].read_bytes()[:-8] + b"damaged!")
    works()
    runs = sorted(folder.glob("*.run"))
    runs[0].write_bytes(b"short")
    works()
    shutil.rmtree(folder)
    works()
    shutil.rmtree(folder)
    shutil.copytree(other.with_name("other.db.index"), folder)
    works()


def test_the_index_finds_all_and_only_what_was_added(tmp_path: Path) -> None:
    index = offsets.OffsetIndex(tmp_path / "index")
    num_events = 3000
    for offset in range(1, num_events + 1):
        index.add(offset, f"id-{offset}", "tick", f"user-{offset % 10}" if offset % 3 else None)
        if offset % 250 == 0:
            index.compact()
    assert all(offset in index.of_id(f"id-{offset}") for offset in range(1, num_events + 1))
    assert not any(index.of_id(f"no-{offset}") for offset in range(1000))
    assert len(list((tmp_path / "index").glob("*.run"))) <= 5
    newest = {f"user-{n % 10}": n for n in range(1, num_events + 1) if n % 3}
    for user, offset in newest.items():
        assert index.of_subject("tick", user)[0] == offset
    again = offsets.OffsetIndex(tmp_path / "index")
    again.load(lambda offset: f"id-{offset}")
    assert again.covered == num_events
    assert again.of_id("id-1") == (1,)
    foreign = offsets.OffsetIndex(tmp_path / "index")
    foreign.load(lambda offset: f"other-{offset}")
    assert foreign.covered == 0


def test_two_ids_of_one_hash_are_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(offsets, "_key", lambda text: len(text))
    monkeypatch.setattr("chopmark.events.sqlitelog.RUN_EVENTS", 8)
    with SqliteLog(tmp_path / "log.db", SCHEMA) as log:
        for number in range(100, 200):
            log.append(*pair(f"e{number}", user=f"u{number}"))
            log.sync()
            assert log.find(f"e{number + 1}") is None
        for number in range(100, 200):
            event, decision = pair(f"e{number}", user=f"u{number}")
            assert log.find(event.id) == event
            assert log.find(decision.id) == decision


def test_events_without_a_subject_and_without_known_at(tmp_path: Path) -> None:
    with SqliteLog(tmp_path / "log.db", SCHEMA) as log:
        at = moment(START)
        log.append(Tick(id="t", happened_at=at, known_at=at))
        with pytest.raises(StoreError, match="`u` with known_at set, got none"):
            log.append(Tick(id="u", happened_at=at))
        assert log.append() == 2  # an empty group is nothing
        assert log.sync() == 1
    assert (tmp_path / "log.db").stat().st_mode & 0o077 == 0

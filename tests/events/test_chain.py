"""The chain: what it is, that it is durable with the records, and that no tampering passes.

The oracle of the hashes is written from the words of the module's docstring; that of the
signatures is the openssl program. Tampering is done with SQL or on the bytes of the file.
"""

import hashlib
import json
import shutil
import sqlite3
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from chopmark.errors import InvalidInput, StoreError
from chopmark.events import MemoryLog, SqliteLog
from chopmark.events.chain import GENESIS, Audit, Fault, link, verify
from chopmark.events.checkpoints import (
    PublicKey,
    SigningKey,
    append_checkpoint,
    read_checkpoints,
)
from chopmark.events.sqlitelog import read_records
from chopmark.times import instant, moment
from tests.events.worlds import SCHEMA, START, Purchase, Tick, pair

NUM_PAIRS = 30
NUM_RECORDS = 2 * NUM_PAIRS + 1


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A log of 61 records, one of them longer than a page of the file."""
    path = tmp_path_factory.mktemp("chain") / "log.db"
    with SqliteLog(path, SCHEMA) as log:
        for number in range(NUM_PAIRS):
            log.append(*pair(f"event-{number}", at=START + number, user=f"user-{number % 5}"))
            if number == 17:
                at = moment(START + number)
                log.append(
                    Purchase(id="long", happened_at=at, known_at=at, user="x", country="é" * 500)
                )
            if number % 4 == 0:
                log.sync()
    return path


@pytest.fixture
def log(original, tmp_path):
    """A copy to spoil."""
    return Path(shutil.copy(original, tmp_path / "log.db"))


def spoil(path: Path, *statements: str) -> Fault | None:
    """Run SQL on a log; what `verify` then finds."""
    with closing(sqlite3.connect(path)) as connection:
        for statement in statements:
            connection.execute(statement)
        connection.commit()
    return audited(path).fault


def audited(path: Path, **options: object) -> Audit:
    return verify(partial(read_records, path), **options)


def rows(path: Path) -> list[tuple]:
    with closing(sqlite3.connect(path)) as connection:
        return connection.execute("SELECT * FROM events ORDER BY offset").fetchall()


def rechained(path: Path, *, first: int = 1) -> None:
    """Give all records from ``first`` on new offsets and hashes, as who owns the file can."""
    kept = rows(path)
    head = kept[first - 2][6] if first > 1 else GENESIS
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("DELETE FROM events WHERE offset >= ?", (first,))
        for offset, row in enumerate(kept[first - 1 :], start=first):
            name, kind, subject, known_at, body = row[1:6]
            head = link(
                head, offset, name.encode(), kind.encode(),
                None if subject is None else subject.encode(), known_at, body,
            )  # fmt: skip
            connection.execute(
                "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", (offset, *row[1:6], head)
            )
        connection.commit()


def test_the_hashes_are_those_of_the_docstring(original):
    head = hashlib.sha256(b"chopmark log 1").digest()
    with SqliteLog(original, SCHEMA, read_only=True) as log:
        events = [event for batch in log.read() for _, event in batch]
        for offset, event in enumerate(events, start=1):
            texts = [event.id.encode(), event.__struct_config__.tag.encode()]
            subject = None if isinstance(event, Tick) else event.user.encode()
            body = SCHEMA.encode(event)
            head = hashlib.sha256(
                head
                + offset.to_bytes(8, "big")
                + instant(event.known_at).to_bytes(8, "big")
                + b"".join(len(text).to_bytes(4, "big") for text in texts)
                + (b"\xff\xff\xff\xff" if subject is None else len(subject).to_bytes(4, "big"))
                + len(body).to_bytes(8, "big")
                + b"".join(texts) + (subject or b"") + body
            ).digest()  # fmt: skip
        assert log.head == head
        assert audited(original) == Audit(NUM_RECORDS, head)
        in_memory = MemoryLog(SCHEMA)
        in_memory.append(*events)
        in_memory.sync()
        assert in_memory.head == head


def test_fields_that_run_into_each_other_hash_differently():
    assert link(GENESIS, 1, b"ab", b"c", None, 0, b"") != link(
        GENESIS, 1, b"a", b"bc", None, 0, b""
    )
    assert link(GENESIS, 1, b"a", b"b", b"", 0, b"") != link(GENESIS, 1, b"a", b"b", None, 0, b"")


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    offset=st.integers(1, NUM_RECORDS),
    column=st.sampled_from(["id", "type", "subject", "known_at", "body", "hash"]),
    place=st.integers(0, 2_000),
    flip=st.integers(1, 255),
)
@example(offset=NUM_RECORDS, column="body", place=0, flip=1)
def test_one_byte_changed_in_any_record_is_found_and_named(
    original, tmp_path_factory, offset, column, place, flip
):
    path = Path(shutil.copy(original, tmp_path_factory.mktemp("one") / "log.db"))
    value = rows(path)[offset - 1][["offset", "id", "type", "subject", "known_at", "body", "hash"]
                                   .index(column)]  # fmt: skip
    if isinstance(value, int):
        changed: object = value ^ flip
        cast = "?"
    else:
        content = bytearray(value.encode() if isinstance(value, str) else value)
        content[place % len(content)] ^= flip
        changed = bytes(content)
        cast = "CAST(? AS TEXT)" if isinstance(value, str) else "?"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(
            f"UPDATE events SET {column} = {cast} WHERE offset = ?", (changed, offset)
        )
        connection.commit()
    audit = audited(path)
    assert audit.num_records == offset - 1
    assert audit.fault is not None
    assert (audit.fault.kind, audit.fault.offset) == ("changed", offset)
    if column != "id":
        assert audit.fault.id == rows_id(original, offset)


def rows_id(path: Path, offset: int) -> str:
    return rows(path)[offset - 1][1]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(offset=st.integers(1, NUM_RECORDS), place=st.integers(0, 2_000), flip=st.integers(1, 255))
def test_one_byte_changed_in_the_file_is_found(original, tmp_path_factory, offset, place, flip):
    path = Path(shutil.copy(original, tmp_path_factory.mktemp("byte") / "log.db"))
    content = bytearray(path.read_bytes())
    body = rows(path)[offset - 1][5][:200]  # the rest may stand in another page
    assume(content.count(body) == 1)
    content[content.index(body) + place % len(body)] ^= flip
    path.write_bytes(content)
    fault = audited(path).fault
    assert fault is not None
    assert (fault.kind, fault.offset) == ("changed", offset)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data(), flip=st.integers(1, 255))
def test_a_byte_changed_anywhere_in_the_file_is_found_or_changes_no_record(
    original, tmp_path_factory, data, flip
):
    path = Path(shutil.copy(original, tmp_path_factory.mktemp("any") / "log.db"))
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= flip
    path.write_bytes(content)
    try:
        audit = audited(path)
    except StoreError:
        return  # SQLite itself saw it
    if audit.fault is None:
        assert audit == audited(original)
        assert rows(path) == rows(original)


@pytest.mark.parametrize("column", ["id", "type", "subject", "known_at", "body", "hash"])
@pytest.mark.parametrize("value", ["NULL", "5", "1.5", "'text'", "x'00ff'", "CAST(x'ff' AS TEXT)"])
def test_a_value_of_another_kind_is_a_changed_record(log, column, value):
    with closing(sqlite3.connect(log)) as connection:
        connection.execute("CREATE TABLE loose AS SELECT * FROM events")
        connection.execute("DROP TABLE events")
        connection.execute(
            "CREATE TABLE events (offset INTEGER PRIMARY KEY, id, type, subject, known_at, body, "
            "hash)"
        )
        connection.execute("INSERT INTO events SELECT * FROM loose")
        connection.commit()
    assert audited(log).fault is None
    fault = spoil(log, f"UPDATE events SET {column} = {value} WHERE offset = 7")
    assert fault is not None
    assert (fault.kind, fault.offset) == ("changed", 7)


@pytest.mark.parametrize("column", ["body", "id"])
def test_the_same_bytes_as_another_kind_are_a_changed_record(log, column):
    kind = {"body": "TEXT", "id": "BLOB"}[column]
    fault = spoil(log, f"UPDATE events SET {column} = CAST({column} AS {kind}) WHERE offset = 7")
    assert fault is not None
    assert (fault.kind, fault.offset) == ("changed", 7)


def test_a_removed_record_is_named(log):
    fault = spoil(log, "DELETE FROM events WHERE offset IN (20, 21)")
    assert fault == Fault(
        "missing", 20, None,
        f"record 20 is missing (2 of them are): offset 22 (`{rows_id(log, 20)}`) follows",
    )  # fmt: skip


SHIFT_DOWN = (
    "UPDATE events SET offset = -offset WHERE offset > {0}",
    "UPDATE events SET offset = -offset - {1} WHERE offset < 0",
)
SHIFT_UP = (
    "UPDATE events SET offset = -offset WHERE offset >= {0}",
    "UPDATE events SET offset = -offset + {1} WHERE offset < 0",
)


@pytest.mark.parametrize("count", [1, 3])
def test_a_removed_record_is_named_though_the_later_ones_are_numbered_anew(log, count):
    shift = [text.format(20 + count - 1, count) for text in SHIFT_DOWN]
    removed = f"DELETE FROM events WHERE offset BETWEEN 20 AND {20 + count - 1}"
    fault = spoil(log, removed, *shift)
    assert fault is not None
    assert (fault.kind, fault.offset) == ("missing", 20)
    assert f"({count} of them are)" in fault.text


@pytest.mark.parametrize("offset", [1, 20, NUM_RECORDS])
@pytest.mark.parametrize("with_hash", [False, True], ids=["any hash", "a hash that fits"])
def test_an_inserted_record_is_named(log, offset, with_hash):
    before = rows(log)
    head = before[offset - 2][6] if offset > 1 else GENESIS
    body = b'{"forged":true}'
    found = link(head, offset, b"forged", b"tick", None, START, body) if with_hash else b"?" * 32
    insert = (
        f"INSERT INTO events VALUES ({offset}, 'forged', 'tick', NULL, {START}, "
        f"x'{body.hex()}', x'{found.hex()}')"
    )
    fault = spoil(log, *(text.format(offset, 1) for text in SHIFT_UP), insert)
    assert fault is not None
    assert (fault.kind, fault.offset, fault.id) == ("inserted", offset, "forged")


def test_a_record_before_the_first_is_named(log):
    fault = spoil(log, f"INSERT INTO events VALUES (0, 'forged', 'tick', NULL, {START}, x'', x'')")
    assert fault is not None
    assert (fault.kind, fault.offset, fault.id) == ("inserted", 0, "forged")


def test_a_record_appended_without_its_hash_is_named(log):
    fault = spoil(
        log, f"INSERT INTO events VALUES (62, 'forged', 'tick', NULL, {START}, x'', x'00')"
    )
    assert fault is not None
    assert (fault.kind, fault.offset, fault.id) == ("changed", 62, "forged")


@pytest.mark.parametrize(("one", "other"), [(20, 21), (20, 40), (1, 61), (60, 61)])
def test_two_records_that_changed_places_are_named(log, one, other):
    name = rows_id(log, one)
    fault = spoil(
        log,
        f"UPDATE events SET offset = -1 WHERE offset = {one}",
        f"UPDATE events SET offset = {one} WHERE offset = {other}",
        f"UPDATE events SET offset = {other} WHERE offset = -1",
    )
    assert fault is not None
    assert (fault.kind, fault.offset, fault.id) == ("reordered", one, name)
    assert f"stands at offset {other}" in fault.text


def test_contents_that_changed_places_under_their_hashes_are_named(log):
    kept = {row[0]: row for row in rows(log)}
    with closing(sqlite3.connect(log)) as connection:
        for at, source in ((20, 40), (40, 20)):
            connection.execute(
                "UPDATE events SET id = ?, type = ?, subject = ?, known_at = ?, body = ? "
                "WHERE offset = ?",
                (*kept[source][1:6], at),
            )
        connection.commit()
    fault = audited(log).fault
    assert fault is not None
    assert (fault.kind, fault.offset, fault.id) == ("reordered", 20, kept[20][1])


def test_a_changed_record_with_a_new_hash_breaks_at_the_next(log):
    row = rows(log)[19]
    found = link(rows(log)[18][6], 20, *[text.encode() for text in row[1:4]], row[4], b"{}")
    fault = spoil(
        log, f"UPDATE events SET body = x'7b7d', hash = x'{found.hex()}' WHERE offset = 20"
    )
    assert fault is not None
    assert (fault.kind, fault.offset) == ("changed", 21)


@pytest.fixture
def signer(tmp_path):
    return SigningKey.create(tmp_path / "audit.pem")


def vouched(path: Path, signer: SigningKey, *offsets: int) -> list:
    hashes = {row[0]: row[6] for row in rows(path)}
    return [signer.sign(offset, hashes.get(offset, GENESIS)) for offset in offsets]


def test_a_cut_end_is_named_with_a_checkpoint_and_not_without(log, signer):
    points = vouched(log, signer, 0, 30, 55)
    assert spoil(log, "DELETE FROM events WHERE offset > 50") is None
    audit = audited(log, checkpoints=points)
    assert audit.fault is not None
    assert (audit.fault.kind, audit.fault.offset) == ("truncated", 51)
    assert "5 of which were cut off" in audit.fault.text
    assert audited(log, checkpoints=points[:2]).fault is None


def test_a_log_made_anew_is_named_with_a_checkpoint(log, signer, tmp_path):
    points = vouched(log, signer, 30)
    SqliteLog(tmp_path / "other.db", SCHEMA).close()
    fault = audited(tmp_path / "other.db", checkpoints=points).fault
    assert fault is not None
    assert (fault.kind, fault.offset) == ("truncated", 1)


@pytest.mark.parametrize("change", ["changed", "removed", "inserted", "swapped"])
def test_a_chain_written_anew_is_named_with_a_checkpoint_and_not_without(log, signer, change):
    points = vouched(log, signer, 10, 30, 55)
    body = b'{"forged":true}'
    spoil(
        log,
        *{
            "changed": [f"UPDATE events SET body = x'{body.hex()}' WHERE offset = 20"],
            "removed": ["DELETE FROM events WHERE offset = 20"],
            "inserted": [
                *(text.format(20, 1) for text in SHIFT_UP),
                f"INSERT INTO events VALUES (20, 'forged', 'tick', NULL, {START}, x'', x'')",
            ],
            "swapped": [
                "UPDATE events SET offset = -1 WHERE offset = 20",
                "UPDATE events SET offset = 20 WHERE offset = 25",
                "UPDATE events SET offset = 25 WHERE offset = -1",
            ],
        }[change],
    )
    rechained(log, first=20)
    assert audited(log).fault is None
    audit = audited(log, checkpoints=points)
    assert audit.fault is not None
    assert (audit.fault.kind, audit.fault.offset) == ("rewritten", 30)
    assert "records 11 to 30" in audit.fault.text
    since = audited(log, checkpoints=points, since=points[1])
    assert since.fault is not None
    assert since.fault.kind == "rewritten"


def test_since_a_checkpoint_only_the_new_records_are_read(log, signer):
    points = vouched(log, signer, 30)
    assert audited(log, since=points[0]) == audited(log)
    assert spoil(log, "UPDATE events SET body = x'00' WHERE offset = 10") is not None
    assert audited(log, since=points[0]).fault is None
    assert spoil(log, "DELETE FROM events WHERE offset >= 30") is not None
    fault = audited(log, since=points[0]).fault
    assert fault is not None
    assert (fault.kind, fault.offset) == ("truncated", 30)


def test_progress_is_told(original):
    seen: list[int] = []
    verify(
        lambda **options: read_records(original, **(options | {"batch_size": 20})),
        on_progress=seen.append,
    )
    assert seen == [20, 40, 60, 61]


def test_a_key_is_closed_to_others_and_never_overwritten(tmp_path, signer):
    file = tmp_path / "audit.pem"
    assert file.stat().st_mode & 0o777 == 0o600
    assert SigningKey.load(file).public.id == PublicKey.load(tmp_path / "audit.pem.pub").id
    with pytest.raises(InvalidInput, match="exists"):
        SigningKey.create(file)
    file.chmod(0o640)
    with pytest.raises(InvalidInput, match="mode 0640"):
        SigningKey.load(file)
    file.chmod(0o600)
    for content in (b"no key", (tmp_path / "audit.pem.pub").read_bytes()):
        file.write_bytes(content)
        with pytest.raises(InvalidInput, match=r"private key \(PEM\)"):
            SigningKey.load(file)
        (tmp_path / "bad.pub").write_bytes(b"no key")
    with pytest.raises(InvalidInput, match=r"public key \(PEM\)"):
        PublicKey.load(tmp_path / "bad.pub")


def test_checkpoints_are_read_as_they_were_written(log, signer, tmp_path):
    points = vouched(log, signer, 10, 30, 30, 55)
    for point in points:
        append_checkpoint(tmp_path / "points.jsonl", point)
    assert read_checkpoints(tmp_path / "points.jsonl", [signer.public]) == points
    assert audited(log, checkpoints=points).fault is None


@pytest.mark.parametrize("field", ["offset", "hash", "count", "made_at", "key", "signature"])
def test_a_changed_checkpoint_is_named_by_its_line(log, signer, tmp_path, field):
    file = tmp_path / "points.jsonl"
    for point in vouched(log, signer, 10, 30):
        append_checkpoint(file, point)
    first, second = file.read_text().splitlines()
    told = json.loads(second)
    told[field] = told[field] + 1 if isinstance(told[field], int) else told[field][::-1]
    file.write_text(f"{first}\n{json.dumps(told)}\n")
    with pytest.raises(StoreError, match=r"line 2 of .*(invalid|foreign) signature"):
        read_checkpoints(file, [signer.public])


def test_a_foreign_torn_or_reordered_checkpoint_is_named(log, signer, tmp_path):
    file = tmp_path / "points.jsonl"
    stranger = SigningKey.create(tmp_path / "other.pem")
    append_checkpoint(file, stranger.sign(10, GENESIS))
    with pytest.raises(StoreError, match=r"line 1 .* foreign signature"):
        read_checkpoints(file, [signer.public])
    assert len(read_checkpoints(file, [signer.public, stranger.public])) == 1
    lines = file.read_bytes()
    file.write_bytes(lines[:-40])
    with pytest.raises(StoreError, match=r"expected a checkpoint in line 1"):
        read_checkpoints(file, [stranger.public])
    file.unlink()
    for point in vouched(log, signer, 30, 10):
        append_checkpoint(file, point)
    with pytest.raises(StoreError, match=r"line 2 .* reordered"):
        read_checkpoints(file, [signer.public])


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl to compare with")
def test_openssl_accepts_the_signature(signer, tmp_path):
    append_checkpoint(tmp_path / "points.jsonl", signer.sign(10, GENESIS))
    line = (tmp_path / "points.jsonl").read_text().rstrip("\n")
    signed, _, rest = line.partition(',"signature":"')
    (tmp_path / "signed").write_text(f"chopmark checkpoint 1\n{signed}}}")
    (tmp_path / "signature").write_bytes(bytes.fromhex(rest.removesuffix('"}')))
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", "audit.pem.pub",
               "-in", "signed", "-sigfile", "signature"]  # fmt: skip
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    (tmp_path / "signed").write_text(f"chopmark checkpoint 1\n{signed.replace('10', '11')}}}")
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode != 0


def as_version_1(path: Path) -> None:
    """Take the hashes away, as a log has none that an earlier version wrote."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("ALTER TABLE events DROP COLUMN hash")
        connection.execute("PRAGMA user_version = 1")


def test_an_earlier_log_gets_its_hashes_when_it_is_opened(log, original):
    as_version_1(log)
    with pytest.raises(StoreError, match="no hashes yet; open it once for writing"):
        SqliteLog(log, SCHEMA, read_only=True)
    with pytest.raises(StoreError, match="no hashes yet"):
        audited(log)
    with SqliteLog(log, SCHEMA) as opened:
        assert opened.head == rows(original)[-1][6]
        opened.append(*pair("new", at=START + 100))
    assert rows(log)[:NUM_RECORDS] == rows(original)
    assert audited(log).num_records == NUM_RECORDS + 2
    SqliteLog(log, SCHEMA, read_only=True).close()


def test_an_earlier_log_with_a_hole_is_refused_and_left_alone(log):
    as_version_1(log)
    with closing(sqlite3.connect(log)) as connection:
        connection.execute("DELETE FROM events WHERE offset = 20")
        connection.commit()
    with pytest.raises(StoreError, match="events are missing"):
        SqliteLog(log, SCHEMA)
    with closing(sqlite3.connect(log)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (1,)


def test_an_upgrade_that_is_broken_off_starts_over(log, original, monkeypatch):
    as_version_1(log)
    calls = iter(range(10_000))
    real = link

    def fails(*record):
        if next(calls) == 40:
            raise ValueError
        head, offset, *texts, known_at, body = record
        texts = [None if text is None else text.encode() for text in texts]
        return real(head, offset, *texts, known_at, body)

    with monkeypatch.context() as patch:
        patch.setattr("chopmark.events.sqlitelog.link_text", fails)
        with pytest.raises(StoreError):
            SqliteLog(log, SCHEMA)
    with SqliteLog(log, SCHEMA) as opened:
        assert opened.head == rows(original)[-1][6]


def test_the_chain_goes_on_after_a_failed_sync(tmp_path):
    path = tmp_path / "log.db"
    with SqliteLog(path, SCHEMA) as log:
        log.append(*pair("a"))
        log.sync()
        head = log.head
        log._writer.close()  # the disk fails
        log.append(*pair("lost"))
        with pytest.raises(StoreError):
            log.sync()
        assert log.head == head
        assert log.recover() == 2
        log.append(*pair("b"))
        log.sync()
        assert log.head != head
    assert audited(path).num_records == 4

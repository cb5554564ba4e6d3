"""The log under kill -9, full disks, failing syncs and torn write-ahead logs.

A child process appends pairs in groups and prints the last offset after each sync: what it
printed is acknowledged. The oracle: every acknowledged event is there exactly once, and an
event is there if and only if its decision is.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from chopmark.errors import LogUnavailable
from chopmark.events import SqliteLog, sqlitefile, sqlitelog
from chopmark.events.chain import verify
from tests.events.worlds import SCHEMA, START, pair

ROOT = Path(__file__).parents[2]
CHILD = """
import os, signal, sys
sys.path.insert(0, {root!r})
from chopmark.events import SqliteLog, sqlitelog
from tests.events.worlds import SCHEMA, START, pair

sqlitelog.RUN_EVENTS = 128
sqlitelog.CHECKPOINT_BYTES = 20_000
log = SqliteLog(sys.argv[1], SCHEMA)
{patch}
number = len(log) // 2
while True:
    for _ in range(1 + number % 7):
        log.append(*pair(f"event-{{number}}", at=START + number, user=f"user-{{number % 5}}"))
        number += 1
    print(log.sync(), flush=True)
"""
BEFORE_COMMIT = """
real = log._commit
def commit(rows):
    if len(log) >= 200:
        os.kill(os.getpid(), signal.SIGKILL)
    real(rows)
log._commit = commit
"""
INSIDE_TRANSACTION = """
def commit(rows):
    log._writer.execute("BEGIN IMMEDIATE")
    log._writer.execute(*sqlitelog._insert(rows[:3]))
    if len(log) >= 200:
        os.kill(os.getpid(), signal.SIGKILL)
    if rows[3:]:
        log._writer.execute(*sqlitelog._insert(rows[3:]))
    log._writer.execute("COMMIT")
log._commit = commit
"""
AFTER_COMMIT = """
real = log._commit
def commit(rows):
    real(rows)
    if len(log) >= 200:
        os.kill(os.getpid(), signal.SIGKILL)
log._commit = commit
"""
INSIDE_COMPACTION = """
real = log._index.compact
def compact():
    if len(log) >= 500:
        log._index._folder.joinpath("half.draft").write_bytes(b"half")
        os.kill(os.getpid(), signal.SIGKILL)
    real()
log._index.compact = compact
"""


def child(path: Path, patch: str = "") -> "subprocess.Popen[str]":
    script = CHILD.format(root=str(ROOT), patch=patch)
    return subprocess.Popen(
        [sys.executable, "-c", script, str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )


def acknowledged(output: str) -> int:
    """The last offset that the child printed in full."""
    lines = output.split("\n")[:-1]
    return int(lines[-1]) if lines else 0


def check_whole(path: Path, num_acknowledged: int) -> int:
    with SqliteLog(path, SCHEMA) as log:
        ids = [event.id for batch in log.read() for _, event in batch]
        assert len(log) == len(ids) >= num_acknowledged
        assert verify(log.read_records).fault is None
        # Pairs in order, once, and none cut in two.
        assert ids == [
            name for n in range(len(ids) // 2) for name in (f"event-{n}", f"decision:event-{n}")
        ]
        for number in range(0, len(ids) // 2, 17):
            assert log.find(f"event-{number}") is not None
        assert log.find(f"event-{len(ids) // 2}") is None
        return len(ids)


@pytest.mark.parametrize(
    "patch", [BEFORE_COMMIT, INSIDE_TRANSACTION, AFTER_COMMIT, INSIDE_COMPACTION]
)
def test_killed_at_a_named_point(tmp_path: Path, patch: str) -> None:
    path = tmp_path / "log.db"
    with child(path, patch) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    length = check_whole(path, acknowledged(output))
    group = 0 if patch in (BEFORE_COMMIT, INSIDE_TRANSACTION) else 2 * 7
    assert length <= acknowledged(output) + group


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_at_seeded_moments_again_and_again(tmp_path: Path, seed: int) -> None:
    path = tmp_path / "log.db"
    rng = random.Random(seed)
    length = 0
    for _ in range(2):
        wanted = length + rng.randrange(20, 2_000)
        with child(path) as process:
            assert process.stdout is not None
            seen = ""
            for line in process.stdout:
                seen += line
                if int(line) >= wanted:
                    break
            process.send_signal(signal.SIGKILL)
            seen += process.stdout.read()
        length = check_whole(path, acknowledged(seen))
        assert length >= wanted


@pytest.mark.parametrize("damage", ["cut", "garble"])
def test_a_torn_write_ahead_log_keeps_what_came_before(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "log.db"
    with child(path, "sqlitelog.CHECKPOINT_BYTES = 1 << 30") as process:
        assert process.stdout is not None
        # The size of the write-ahead log after each acknowledgement, measured by the reader.
        for line in process.stdout:
            if int(line) >= 300:
                break
        process.send_signal(signal.SIGKILL)
        seen = line + process.stdout.read()
    wal = path.with_name("log.db-wal")
    last = acknowledged(seen)
    torn = 10_000  # bytes: a frame is 4,120, so this tears the last groups only
    with wal.open("r+b") as file:
        size = wal.stat().st_size
        if damage == "cut":
            file.truncate(size - torn)
        else:
            file.seek(size - torn)
            file.write(random.Random(0).randbytes(torn))
    path.with_name("log.db-shm").unlink(missing_ok=True)
    length = check_whole(path, 0)
    assert last - 3 * 14 <= length
    assert length > 0


FULL_DISK = """
import resource
# Python ignores SIGXFSZ, so that writing beyond the limit fails as on a full disk.
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
from chopmark.errors import LogUnavailable
number = 0
last = 0
try:
    while True:
        log.append(*pair(f"event-{number}", at=START + number))
        number += 1
        if number % 5 == 0:
            last = log.sync()
except LogUnavailable as error:
    assert "none was acknowledged" in str(error), error
    refused = 0
    for call in (log.sync, lambda: log.append(*pair("later", at=START + number))):
        try:
            call()
        except LogUnavailable:
            refused += 1
    assert refused == 2
    assert log.find("event-0") is not None, "reads go on"
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    durable = log.recover()
    assert durable >= last, (durable, last)
    number = durable // 2
    log.append(*pair(f"event-{number}", at=START + number))
    assert log.sync() == durable + 2
    log.close()
    print(durable + 2, flush=True)
    sys.exit(0)
"""


def test_a_full_disk_for_real(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with child(path, FULL_DISK) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == 0, errors
    assert check_whole(path, acknowledged(output)) == acknowledged(output) > 20


class FailingConnection:
    """A connection that fails at COMMIT as SQLite does when fsync fails."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection
        self.num_calls = 0

    def execute(self, *arguments: object) -> object:
        self.num_calls += 1
        raise sqlite3.OperationalError("disk I/O error")

    def close(self) -> None:
        self.connection.close()


def test_a_failed_sync_is_not_tried_again(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", SCHEMA)
    log.append(*pair("a"))
    assert log.sync() == 2
    failing = FailingConnection(log._writer)  # type: ignore[arg-type]
    log._writer = failing  # type: ignore[assignment]
    log.append(*pair("b"))
    log.append(*pair("c"))
    with pytest.raises(LogUnavailable, match=r"take 4 events, got: disk I/O error; none was ack"):
        log.sync()
    for _ in range(3):
        with pytest.raises(LogUnavailable, match=r"waits for recover"):
            log.sync()
        with pytest.raises(LogUnavailable, match=r"waits for recover"):
            log.append(*pair("d"))
    assert failing.num_calls == 1
    assert log.find("a") == pair("a")[0]
    assert log.find("b") is None, "what was staged is dropped"
    assert log.latest("decision", "ann") == pair("a")[1]
    assert log.recover() == 2
    assert log.append(*pair("b")) == 3
    assert log.sync() == 4
    log.close()


def test_recover_of_a_file_that_is_gone(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", SCHEMA)
    log.append(*pair("a"))
    log._writer = FailingConnection(log._writer)  # type: ignore[assignment,arg-type]
    with pytest.raises(LogUnavailable):
        log.sync()
    os.rename(tmp_path / "log.db", tmp_path / "away.db")
    with pytest.raises(LogUnavailable):
        log.recover()
    os.rename(tmp_path / "away.db", tmp_path / "log.db")
    assert log.recover() == 0
    log.close()


def test_an_interrupt_inside_a_commit_leaves_a_log_that_recovers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = SqliteLog(tmp_path / "log.db", SCHEMA)

    def interrupted(rows: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(log, "_commit", interrupted)
    log.append(*pair("a"))
    with pytest.raises(KeyboardInterrupt):
        log.sync()
    monkeypatch.undo()
    assert log.recover() == 0
    log.append(*pair("a", at=START))
    assert log.sync() == 2
    log.close()


def test_an_index_that_cannot_be_written_harms_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlitelog, "RUN_EVENTS", 20)
    (tmp_path / "log.db.index").write_text("a file where the folder should be")
    with SqliteLog(tmp_path / "log.db", SCHEMA) as log:
        for number in range(200):
            log.append(*pair(f"event-{number}", at=START + number))
            log.sync()
    assert check_whole(tmp_path / "log.db", 400) == 400


def wal_bytes(path: Path) -> int:
    wal = path.with_name(path.name + "-wal")
    return wal.stat().st_size if wal.exists() else 0


def without_wal(path: Path, copy: Path) -> int:
    """Length of the log if only the file itself had reached the disk."""
    copy.write_bytes(path.read_bytes())
    connection = sqlite3.connect(copy)
    try:
        return int(connection.execute("SELECT count(*) FROM events").fetchone()[0])
    finally:
        connection.close()


def test_recover_trusts_only_what_it_has_moved_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    log = SqliteLog(path, SCHEMA)
    other = SqliteLog(path, SCHEMA, read_only=True)  # keeps the write-ahead log when one closes
    log.append(*pair("a"))
    log.sync()
    assert wal_bytes(path) > 0
    log._writer = FailingConnection(log._writer)  # type: ignore[assignment,arg-type]
    log.append(*pair("b"))
    with pytest.raises(LogUnavailable):
        log.sync()
    assert log.recover() == 2
    assert wal_bytes(path) == 0
    assert without_wal(path, tmp_path / "copy.db") == 2
    other.close()
    log.close()


def test_an_unclean_end_is_moved_into_the_file(tmp_path: Path) -> None:
    path = tmp_path / "log.db"
    with child(path, BEFORE_COMMIT) as process:
        output, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors
    assert wal_bytes(path) > 0
    with SqliteLog(path, SCHEMA) as log:
        assert wal_bytes(path) == 0
        assert without_wal(path, tmp_path / "copy.db") == len(log) >= acknowledged(output)


def test_a_reader_that_holds_the_write_ahead_log_keeps_recover_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.db"
    log = SqliteLog(path, SCHEMA)
    log.append(*pair("a"))
    log.sync()
    reader = sqlite3.connect(path, isolation_level=None)
    reader.execute("BEGIN")
    reader.execute("SELECT count(*) FROM events").fetchone()
    log._writer = FailingConnection(log._writer)  # type: ignore[assignment,arg-type]
    log.append(*pair("b"))
    with pytest.raises(LogUnavailable):
        log.sync()
    connect = sqlitefile.connect

    def impatient(path: Path, *, writes: bool) -> sqlite3.Connection:
        connection = connect(path, writes=writes)
        connection.execute("PRAGMA busy_timeout = 0")
        return connection

    monkeypatch.setattr(sqlitefile, "connect", impatient)
    with pytest.raises(LogUnavailable, match="a reader of another process holds it"):
        log.recover()
    with pytest.raises(LogUnavailable, match=r"waits for recover"):
        log.append(*pair("c"))
    reader.close()
    assert log.recover() == 2
    log.append(*pair("c"))
    assert log.sync() == 4
    log.close()


def test_recover_of_a_healthy_log_that_fails_meanwhile_says_so(tmp_path: Path) -> None:
    log = SqliteLog(tmp_path / "log.db", SCHEMA)
    log.append(*pair("a"))
    log._writer = FailingConnection(log._writer)  # type: ignore[assignment,arg-type]
    with pytest.raises(LogUnavailable, match="none was acknowledged"):
        log.recover()
    assert log.recover() == 0
    log.close()

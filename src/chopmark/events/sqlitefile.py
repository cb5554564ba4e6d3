"""One SQLite file with one writer: its lock, its identity, its soundness.

SQLite itself brings a crash back to the last commit, also from a torn write-ahead log. Added
here: a second writer is refused at once instead of waiting, a file of something else is
refused instead of written to, and a damaged file is named instead of half read.
"""

import fcntl
import os
import sqlite3
from pathlib import Path

from chopmark.errors import LogUnavailable, StoreError

CHECKED_BYTES = 1 << 30
"""After an unclean end a file up to this size is checked in full: 1 GiB takes seconds."""

_HEADER = b"SQLite format 3\0"
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


class WriterLock:
    """The right to write to a file, held by one process (and one object) at a time.

    The lock is the kernel's and ends with the process, however that ends. The ``.lock``
    file beside the file holds the process id while it is held and nothing after a clean end.

    Raises
    ------
    LogUnavailable
        If another process holds it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.with_name(path.name + ".lock")
        self._descriptor: int | None = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(self._descriptor, 20).decode("ascii", "replace")
            os.close(self._descriptor)
            raise LogUnavailable(
                f"expected to be the only writer of {path}, but process "
                f"{holder.strip() or '?'} writes to it; try again when it has ended, or send it "
                "what is to be written"
            ) from error
        self.was_clean = not os.read(self._descriptor, 1)
        os.pwrite(self._descriptor, f"{os.getpid():<20}".encode(), 0)

    def release(self, *, clean: bool) -> None:
        """Give the right back; not clean: the next one who takes it is told so."""
        if self._descriptor is not None:
            if clean:
                os.ftruncate(self._descriptor, 0)
            os.close(self._descriptor)
            self._descriptor = None


def create(path: Path) -> None:
    """Make the file, empty and closed to others, if it is missing; its entry is durable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        return
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600))
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def connect(path: Path, *, writes: bool) -> sqlite3.Connection:
    """A connection whose transactions are durable when they end.

    ``isolation_level=None``: no transaction but those that the caller begins. The caller
    keeps two threads from using it at once.
    """
    mode = "rw" if writes else "ro"
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=10,
    )
    try:
        if writes:
            connection.execute("PRAGMA journal_mode = WAL").fetchone()
            connection.execute("PRAGMA synchronous = FULL")
            # Checkpoints are the caller's: in the middle of a commit one costs 10 ms.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
        else:
            connection.execute("PRAGMA query_only = ON")
            connection.execute("PRAGMA cache_size = -4000")
    except BaseException:
        connection.close()
        raise
    return connection


def check_header(path: Path) -> None:
    """Raise `StoreError` if the file is no SQLite file, before SQLite touches it."""
    with path.open("rb") as file:
        header = file.read(len(_HEADER))
    if header and header != _HEADER:
        raise StoreError(
            f"expected an event log in {path}, got a file of another format; it was left "
            "untouched; give another path, or restore the log from a backup"
        )


def check_identity(
    connection: sqlite3.Connection, path: Path, *, application_id: int, layout_version: int
) -> int:
    """The version of our layout in the file, up to ``layout_version``; 0 if it is empty.

    Raises
    ------
    StoreError
        If it is another application's, or of a newer version of the layout.
    """
    found = int(connection.execute("PRAGMA application_id").fetchone()[0])
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    tables = int(connection.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0])
    if found == 0 and tables == 0:
        return 0
    if found != application_id:
        raise StoreError(
            f"expected an event log in {path} (application id {application_id:#x}), got a "
            f"SQLite file of another application ({found:#x}); give another path"
        )
    if not 1 <= version <= layout_version:
        raise StoreError(
            f"expected layout version {layout_version} in {path}, got {version}; "
            "open it with the version of chopmark that wrote it"
        )
    return version


def move_into_file(connection: sqlite3.Connection, path: Path) -> None:
    """Empty the write-ahead log into the file, so that what can be read is durable.

    After a failed fsync the kernel may call pages clean that it never wrote: the frames of
    the write-ahead log are then whole in its cache and lacking on the disk, and a second
    fsync reports success. Commits appended behind such a frame would be lost with it in a
    power cut, though they were synced themselves. A checkpoint writes the pages anew, into
    the file, and fsyncs that; only then what is in them counts as durable.

    Raises
    ------
    LogUnavailable
        If a reader keeps it from coming to its end.
    """
    busy = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
    if busy:
        raise LogUnavailable(
            f"expected to move the write-ahead log into {path}, but a reader of another process "
            "holds it; end that reader and try again"
        )


def check_soundness(connection: sqlite3.Connection, path: Path) -> None:
    """Raise `StoreError` if SQLite finds damage; a file above `CHECKED_BYTES` is not read."""
    if path.stat().st_size > CHECKED_BYTES:
        return
    result = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if result != "ok":
        raise StoreError(_damage(path, " ".join(str(result).split())))


def store_error(error: sqlite3.Error, path: Path) -> StoreError:
    """What to raise for an error of SQLite: damage, or a disk that does not serve now."""
    code = getattr(error, "sqlite_errorcode", None)
    if code is not None and code & 0xFF in _DAMAGED:
        return StoreError(_damage(path, str(error)))
    return LogUnavailable(f"expected to use {path}, got: {error}; check the disk and try again")


def _damage(path: Path, finding: str) -> str:
    return (
        f"expected a sound event log in {path}, got: {finding}; restore it from a backup, or "
        f'save what can be read: sqlite3 {path} ".recover" | sqlite3 saved.db'
    )

"""``chopmark audit``: make a key, vouch for a log, and find what was changed in it."""

from functools import partial
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from chopmark.cli.show import console, progress
from chopmark.errors import InvalidInput, StoreError
from chopmark.events.chain import Audit, Checkpoint, verify
from chopmark.events.checkpoints import (
    PublicKey,
    SigningKey,
    append_checkpoint,
    read_checkpoints,
)
from chopmark.events.sqlitelog import last_offset, read_records

LOG = "log.sqlite"


def key(file: Path) -> None:
    """Make a key that signs checkpoints, and its public half beside it with the ending .pub.

    Parameters
    ----------
    file
        Where to; must not exist yet. Keep it away from the log: not in its folder.
    """
    _refuse_in_data(file, file.parent)
    made = SigningKey.create(file)
    console.print(
        f"key {made.public.id}: {file} signs, keep it secret; {file}.pub verifies, hand it to "
        "whoever audits",
        highlight=False,
        soft_wrap=True,
    )


def checkpoint(data: Path, *, key: Path, to: Path) -> None:
    """Verify what is new in a log, then sign its head and append that to a file kept elsewhere.

    Parameters
    ----------
    data
        Folder with the log, or the log itself; may be in use.
    key
        File of the signing key.
    to
        File of checkpoints; made if it does not exist.
    """
    log = _log_of(data)
    for file in (key, to):
        _refuse_in_data(file, log.parent)
    signer = SigningKey.load(key)
    earlier = read_checkpoints(to, [signer.public]) if to.exists() else []
    audit = _verified(log, earlier, since=earlier[-1] if earlier else None)
    made = signer.sign(audit.num_records, audit.head)
    append_checkpoint(to, made)
    console.print(
        f"{made.count:,} records vouched for, hash {made.hash[:16]}, by key {made.key} in {to}",
        highlight=False,
        soft_wrap=True,
    )


def verify_log(
    data: Path,
    *,
    checkpoints: Path | None = None,
    key: Annotated[list[Path] | None, Parameter(help="Public keys, --key for each.")] = None,
) -> None:
    """Compute the chain of a log anew; exit code 1 names the first record that is broken.

    Parameters
    ----------
    data
        Folder with the log, or the log itself; may be in use.
    checkpoints
        File of signed checkpoints; without it nobody sees a chain that was written anew as a
        whole, or an end that was cut off.
    key
        Files of the public keys that may have signed them.
    """
    if (checkpoints is None) != (not key):
        raise InvalidInput("expected --checkpoints and --key together, got one of them")
    log = _log_of(data)
    points: list[Checkpoint] = []
    if checkpoints is not None and key:
        points = read_checkpoints(checkpoints, [PublicKey.load(file) for file in key])
        if not points:
            raise StoreError(f"expected signed checkpoints in {checkpoints}, got an empty file")
    audit = _verified(log, points)
    console.print(
        f"{audit.num_records:,} records, none changed, missing, inserted or moved; head "
        f"{audit.head.hex()[:16]}",
        highlight=False,
        soft_wrap=True,
    )
    if points:
        last = points[-1]
        console.print(
            f"{len(points)} checkpoints hold, the last at offset {last.offset:,} of "
            f"{last.made_at}; {audit.num_records - last.offset:,} records came after it",
            highlight=False,
            soft_wrap=True,
        )
    else:
        console.print(
            "no checkpoints given: an end that was cut off, or a chain written anew as a whole, "
            "would not be seen",
            soft_wrap=True,
        )


def _verified(log: Path, points: list[Checkpoint], *, since: Checkpoint | None = None) -> Audit:
    read = partial(read_records, log)
    with progress("verify", last_offset(log)) as done:
        audit = verify(read, checkpoints=points, since=since, on_progress=done)
    if audit.fault is not None:
        raise StoreError(f"{log}: {audit.fault.kind}: {audit.fault.text}")
    return audit


def _log_of(data: Path) -> Path:
    log = data if data.is_file() else data / LOG
    if not log.is_file():
        raise InvalidInput(f"expected a log in {data}, got no file {log}; name its folder")
    return log


def _refuse_in_data(file: Path, folder: Path) -> None:
    """Whoever can write to the log could also write to what stands beside it."""
    if (folder / LOG).exists() and file.resolve().is_relative_to(folder.resolve()):
        raise InvalidInput(
            f"expected keys and checkpoints away from the log, got {file} in its folder; whoever "
            "changes the log could change them too"
        )

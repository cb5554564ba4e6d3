"""What was read from a table, kept in a folder: the next fit of it begins with learning.

Encoding a table, learning target means fold by fold and asking the gate take a third of a fit,
and say the same as long as the table, the columns and the way of holding rows out stay. A
memory keeps their outcome under a hash of all that they depend on, the code included; what is
not found, or is damaged, is made anew. Serves A21 of the requirements.
"""

import hashlib
import io
import json
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import lightgbm as lgb
import numpy as np
import polars as pl
import pyarrow as pa
from numpy.typing import NDArray

from chopmark.errors import ArtifactError, ChopmarkError, InvalidInput
from chopmark.models import Encoder
from chopmark.models.artifact import write_whole

Readings: TypeAlias = tuple[Encoder, NDArray[np.float64]]
"""An encoder, and the (n, m) columns that it makes of a table."""

_ENDING = ".readings.npz"
_DAMAGED = (ChopmarkError, OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile)


class Memory:
    """A folder of readings; it may be emptied at any time.

    Parameters
    ----------
    folder
        Made if it is missing. Nothing is ever removed from it.

    Raises
    ------
    InvalidInput
        If the folder cannot be made.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InvalidInput(
                f"expected a folder to remember readings in, got `{folder}`: {error.strerror}"
            ) from error

    def readings(self, key: str, make: Callable[[], Readings]) -> Readings:
        """The readings of a key (`key_of`): as they were kept, or made and kept."""
        path = self.folder / f"{key}{_ENDING}"
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as kept:
                encoder = Encoder.from_json(json.loads(kept["encoder"].tobytes()))
                return encoder, _columns(kept["x"], encoder)
        except _DAMAGED:
            encoder, x = make()
        text = np.frombuffer(json.dumps(encoder.to_json()).encode(), dtype=np.uint8)
        buffer = io.BytesIO()
        np.savez(buffer, encoder=text, x=x)
        try:
            write_whole(path, buffer.getvalue())
        except ArtifactError as error:
            raise InvalidInput(f"cannot remember readings: {error}") from error
        return encoder, x


def key_of(frame: pl.DataFrame, arrays: list[NDArray[np.generic]], *settings: Any) -> str:
    """64 hexadecimal digits that say a table, arrays, settings and the code that reads them.

    Parameters
    ----------
    settings
        Values whose `repr` says all about them.
    """
    digest = _Digest()
    table = frame.rechunk().to_arrow()
    with pa.ipc.new_stream(pa.PythonFile(digest, mode="w"), table.schema) as stream:
        stream.write_table(table)
    for array in arrays:
        digest.write(f"{array.dtype} {array.shape} ".encode())
        digest.write(np.ascontiguousarray(array).data)
    digest.write(repr((settings, _code(), lgb.__version__, pl.__version__)).encode())
    return digest.hash.hexdigest()


def _columns(x: NDArray[Any], encoder: Encoder) -> NDArray[np.float64]:
    if x.dtype != np.float64 or x.ndim != 2 or x.shape[1] != len(encoder.encoded):
        raise ValueError(f"{x.dtype} of shape {x.shape} for {len(encoder.encoded)} columns")
    return x


class _Digest(io.RawIOBase):
    """A file that remembers only the hash of what was written."""

    def __init__(self) -> None:
        self.hash = hashlib.sha256()

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.hash.update(data)
        return memoryview(data).nbytes


@cache
def _code() -> str:
    """A hash of the code that reads tables: another version remembers nothing."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256()
    for folder in ("models", "tabular"):
        for path in sorted((package / folder).glob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()

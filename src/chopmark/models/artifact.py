"""One file that holds a fitted model: numbers and JSON, never code.

    model.chopmark = zip of manifest.json        format, version, sha256 and size of each member
                            header.json          family, encoder, feature hashes, training
                            arrays/<name>.npy    plain numeric arrays
                            parts/<name>/...     whole models inside: header, arrays, parts
                     + its last 64 bytes: sha256 of all bytes before them

The last bytes are the zip's own comment, so any unzip tool opens the file, and no byte of it
can change unseen. `artifact.hash` is `sha256sum model.chopmark`. Equal contents give equal
bytes: the zip carries no clock. A model made of models (a blend, one model per class) holds
each as a part, which is a whole artifact again. Serves A12 and B14 of the requirements.
"""

import hashlib
import io
import json
import math
import os
import re
import struct
import tokenize
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import ArtifactError

FORMAT = "chopmark-model"
VERSION = 2
SUFFIX = ".chopmark"
LIMIT_BYTES = 512 * 1024 * 1024
"""Neither the file nor what it unpacks to may be larger."""
LIMIT_DEPTH = 3
"""Models in models in models: a part of the file's own model has depth 1."""

_DIGEST = 64
_MANIFEST = "manifest.json"
_HEADER = "header.json"
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What Python's zipfile raises for bytes that were changed by someone who knows the format.
# What numpy raises on headers that are not of its making.
_BROKEN_NPY = (
    ValueError, TypeError, SyntaxError, LookupError, ArithmeticError, RecursionError, MemoryError,
    tokenize.TokenError,
)  # fmt: skip
_BROKEN_ZIP = (
    zipfile.BadZipFile,
    zlib.error,
    struct.error,
    ArithmeticError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    ValueError,
)
_LIMIT_MEMBERS = 4_096
_CLOCKLESS = (1980, 1, 1, 0, 0, 0)
_NAME = "[A-Za-z0-9_-]{1,64}"
_MEMBER = re.compile(
    rf"((?:parts/{_NAME}/)*)(?:header\.json|arrays/{_NAME}(?:\.{_NAME}){{0,7}}\.npy)"
)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Artifact:
    """The contents of an artifact.

    Attributes
    ----------
    family
        Which scorer reads it.
    header
        JSON object: "encoder", "feature_hashes", "training" and what the family needs.
    arrays
        Numeric arrays by name: words of letters, digits, `_` and `-`, joined by points.
    parts
        Whole artifacts by name, one such word; at most `LIMIT_DEPTH` deep.
    hash
        sha256 of the file, 64 hexadecimal digits; of a part, sha256 of the list of its members.
        Empty until the artifact is packed and read again.
    """

    family: str
    header: Mapping[str, Any]
    arrays: Mapping[str, NDArray[np.generic]]
    parts: Mapping[str, "Artifact"] = field(default_factory=dict)
    hash: str = field(default="")

    def pack(self) -> bytes:
        """The bytes of the file. Equal contents give equal bytes.

        Raises
        ------
        ArtifactError
            If it could not be read again: for a name, the depth of parts or their number.
        """
        members = dict(_written(self, ""))
        _check_names(members, "the artifact")
        manifest = {
            "format": FORMAT,
            "version": VERSION,
            "members": {
                name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
                for name, data in members.items()
            },
        }
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for name, data in {_MANIFEST: _json(manifest), **members}.items():
                info = zipfile.ZipInfo(name, date_time=_CLOCKLESS)
                info.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(info, data, compresslevel=6)
            archive.comment = b"0" * _DIGEST
        body = buffer.getvalue()[:-_DIGEST]
        return body + hashlib.sha256(body).hexdigest().encode()

    def save(self, path: str | Path) -> str:
        """Write the file whole or not at all, and give its hash.

        Raises
        ------
        ArtifactError
            If the folder does not exist or cannot be written.
        """
        data = self.pack()
        write_whole(Path(path), data)
        return hashlib.sha256(data).hexdigest()


def read(path: str | Path) -> Artifact:
    """The contents of an artifact file, after every check.

    Raises
    ------
    ArtifactError
        If the file is missing, too large, truncated, damaged, of another format or version.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > LIMIT_BYTES:
            raise ArtifactError(f"`{path}` has {size} bytes; expected at most {LIMIT_BYTES}")
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"cannot read the artifact `{path}`: {error.strerror}") from error
    return unpack(data, where=str(path))


def unpack(data: bytes, *, where: str = "the artifact") -> Artifact:
    """The contents of an artifact's bytes; `where` names them in errors. Raises as `read`."""
    if data[:4] != b"PK\x03\x04":
        raise ArtifactError(f"`{where}` is no chopmark artifact: it does not begin as a zip file")
    body, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(body).hexdigest().encode() != digest:
        raise ArtifactError(
            f"`{where}` is damaged, truncated or no chopmark artifact: its last {_DIGEST} bytes "
            "are not the sha256 of the others; copy it again from its source"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = _members(archive, where)
    except _BROKEN_ZIP as error:
        raise ArtifactError(f"`{where}` is a broken zip file: {error}") from error
    return _built(members, where, hashlib.sha256(data).hexdigest())


def write_whole(path: Path, data: bytes) -> None:
    """Write a file under a temporary name, force it to disk, then rename it.

    Raises
    ------
    ArtifactError
        If the folder does not exist or cannot be written.
    """
    try:
        with NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            try:
                file.write(data)
                file.flush()
                # A temporary file is its owner's alone; a model or a report is not.
                os.chmod(temporary, 0o666 & ~_umask())
                os.fsync(file.fileno())
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise ArtifactError(f"cannot write the artifact `{path}`: {error.strerror}") from error


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _written(artifact: Artifact, prefix: str) -> Iterator[tuple[str, bytes]]:
    """Names and contents of an artifact's members and of its parts', in one order."""
    yield prefix + _HEADER, _json({"family": artifact.family, **artifact.header})
    for name, array in sorted(artifact.arrays.items()):
        yield f"{prefix}arrays/{name}.npy", _npy(array)
    for name, part in sorted(artifact.parts.items()):
        yield from _written(part, f"{prefix}parts/{name}/")


def _built(members: Mapping[str, bytes], where: str, digest: str) -> Artifact:
    """The artifact of checked members, and with it its parts."""
    arrays: dict[str, NDArray[np.generic]] = {}
    parts: dict[str, dict[str, bytes]] = {}
    for name, content in members.items():
        if name.startswith("parts/"):
            _, part, inner = name.split("/", 2)
            parts.setdefault(part, {})[inner] = content
        elif name != _HEADER:
            array_name = name.removeprefix("arrays/").removesuffix(".npy")
            arrays[array_name] = _array(content, name, where)
    if _HEADER not in members:
        raise ArtifactError(f"`{where}` has no {_HEADER}")
    header = _parsed(members[_HEADER], where)
    family = header.pop("family", None)
    if not isinstance(family, str):
        raise ArtifactError(f"`{where}` does not say the family of its model")
    return Artifact(
        family=family,
        header=header,
        arrays=arrays,
        parts={
            name: _built(inner, f"{where}, part {name}", _listing(inner))
            for name, inner in parts.items()
        },
        hash=digest,
    )


def _listing(members: Mapping[str, bytes]) -> str:
    named = {name: hashlib.sha256(content).hexdigest() for name, content in members.items()}
    return hashlib.sha256(_json(named)).hexdigest()


def _check_names(names: Collection[str], where: str) -> None:
    if len(names) >= _LIMIT_MEMBERS:
        raise ArtifactError(
            f"`{where}` has {len(names)} members; expected less than {_LIMIT_MEMBERS}"
        )
    for name in names:
        found = _MEMBER.fullmatch(name)
        if not found:
            raise ArtifactError(
                f"`{where}` has a member `{name:.200}`; expected {_HEADER}, arrays/<name>.npy or "
                "parts/<name>/ before them, names of letters, digits, `_` and `-`"
            )
        depth = found[1].count("/") // 2
        if depth > LIMIT_DEPTH:
            raise ArtifactError(
                f"`{where}` holds models {depth} deep; expected at most {LIMIT_DEPTH}"
            )


def _members(archive: zipfile.ZipFile, where: str) -> dict[str, bytes]:
    """All members but the manifest, each checked against it."""
    infos = {info.filename: info for info in archive.infolist()}
    total = sum(info.file_size for info in infos.values())
    if len(archive.infolist()) > _LIMIT_MEMBERS or total > LIMIT_BYTES:
        raise ArtifactError(
            f"`{where}` unpacks to {len(archive.infolist())} members of {total} bytes; expected "
            f"at most {_LIMIT_MEMBERS} members of {LIMIT_BYTES} bytes"
        )
    if len(infos) != len(archive.infolist()):
        raise ArtifactError(f"`{where}` holds two members of one name")
    if any(info.compress_type not in _COMPRESSIONS for info in infos.values()):
        raise ArtifactError(f"`{where}` is packed in a way that chopmark does not use")
    if _MANIFEST not in infos:
        raise ArtifactError(f"`{where}` is no chopmark artifact: it has no {_MANIFEST}")
    manifest = _parsed(_content(archive, infos[_MANIFEST]), where)
    if manifest.get("format") != FORMAT:
        raise ArtifactError(f"`{where}` has format `{manifest.get('format')}`; expected `{FORMAT}`")
    if manifest.get("version") != VERSION:
        raise ArtifactError(
            f"`{where}` has format version {manifest.get('version')}; this chopmark reads "
            f"version {VERSION}; save the model again with it"
        )
    named = manifest.get("members")
    if (
        not isinstance(named, dict)
        or set(named) != set(infos) - {_MANIFEST}
        or _HEADER not in named
    ):
        raise ArtifactError(f"`{where}` holds other members than its manifest names")
    _check_names(named, where)
    contents = {}
    for name, entry in named.items():
        content = _content(archive, infos[name])
        if not isinstance(entry, dict) or hashlib.sha256(content).hexdigest() != entry.get(
            "sha256"
        ):
            raise ArtifactError(f"`{where}`: member `{name}` does not match its sha256")
        contents[name] = content
    return contents


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    # One byte more than declared would show a header that lies about the size.
    with archive.open(info) as member:
        content = member.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise zipfile.BadZipFile(f"member `{info.filename}` has another size than declared")
    return content


def _array(content: bytes, name: str, where: str) -> NDArray[np.generic]:
    """An array of .npy bytes, with a header that promises exactly these bytes."""
    file = io.BytesIO(content)
    try:
        if np.lib.format.read_magic(file) != (1, 0):
            raise ValueError("not a .npy file of version 1.0")
        shape, fortran_order, dtype = np.lib.format.read_array_header_1_0(file)
        if dtype.kind not in "fiub" or dtype.itemsize > 8 or fortran_order:
            raise ValueError(f"dtype {dtype} in {'Fortran' if fortran_order else 'C'} order")
        if len(content) - file.tell() != math.prod(shape) * dtype.itemsize:
            raise ValueError(f"shape {shape} does not fit its {len(content)} bytes")
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)
    except _BROKEN_NPY as error:
        raise ArtifactError(f"`{where}`: member `{name}` is no plain array: {error}") from error


def _npy(array: NDArray[np.generic]) -> bytes:
    file = io.BytesIO()
    contiguous = np.ascontiguousarray(array)
    np.lib.format.write_array(file, contiguous, version=(1, 0), allow_pickle=False)
    return file.getvalue()


def _json(data: Mapping[str, Any]) -> bytes:
    return json.dumps(data, sort_keys=True, ensure_ascii=False, allow_nan=False).encode()


def _parsed(content: bytes, where: str) -> dict[str, Any]:
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"`{where}` holds JSON that cannot be read: {error}") from error
    if not isinstance(parsed, dict):
        raise ArtifactError(f"`{where}` holds JSON that is no object")
    try:
        _json(parsed)
    except ValueError as error:  # half of a surrogate pair, NaN, infinity
        raise ArtifactError(f"`{where}` holds JSON that cannot be written: {error}") from error
    return parsed

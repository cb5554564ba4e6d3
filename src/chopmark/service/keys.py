"""API keys: made here, shown once, kept as hashes.

A key is 256 random bits, so one keyed hash is enough to keep it (a slow hash is for
passwords, which people can guess); it costs a request about a microsecond. The file is
watched: a key that another process adds or revokes counts within seconds.
"""

import hmac
import json
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from chopmark.errors import StoreError
from chopmark.service.answers import Header, Refusal

logger = logging.getLogger(__name__)

PREFIX = "chop_"
LOOK_AGAIN_S = 2.0
_FORMAT = 1
FIRST = "first"
"""Name of the key that is made with the file: its holder runs the service, and may do all."""
_BEARER = b"bearer "


class KeyRing:
    """The keys that open the service.

    Parameters
    ----------
    path : path
        A JSON file of mode 0600; made with no key in it where there is none.

    Raises
    ------
    StoreError
        If the file cannot be read or made, is damaged, or is open to others.

    Examples
    --------
    >>> import tempfile
    >>> ring = KeyRing(Path(tempfile.mkdtemp()) / "keys.json")
    >>> key = ring.make("first")
    >>> ring.admits(f"Bearer {key}".encode()), ring.admits(b"Bearer chop_wrong")
    (True, False)
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._salt = secrets.token_bytes(32)
        self._hashes: dict[str, bytes] = {}
        self._orderers: frozenset[str] = frozenset()
        self._stamp: tuple[int, int] | None = None
        self._look_again = 0.0
        if self.path.exists():
            self._read()
        else:
            self._write()

    @property
    def names(self) -> tuple[str, ...]:
        """The names under which keys were made."""
        return tuple(self._hashes)

    def make(self, name: str, *, orders: bool = False) -> str:
        """A new key, to be shown once: only its hash is kept.

        Parameters
        ----------
        name : str
            Whose key it is: an order that comes with it must name this author.
        orders : bool
            Whether it may give orders (locks, bans, rules, ...) besides events.

        Raises
        ------
        StoreError
            If there is a key of this name, or the file cannot be written.
        """
        if self.path.exists():
            self._read()
        if name in self._hashes:
            raise StoreError(
                f"expected a new name, got `{name}`; revoke the key of this name first"
            )
        key = PREFIX + secrets.token_urlsafe(32)
        self._hashes[name] = self._hash(key.encode())
        if orders:
            self._orderers |= {name}
        self._write()
        return key

    def may_order(self, name: str, author: str | None) -> bool:
        """Whether the holder of a key may give an order in the name of an author.

        The first key speaks for anybody; an order without an author needs only the right.
        """
        return name == FIRST or (name in self._orderers and author in (None, name))

    def revoke(self, name: str) -> None:
        """Let this key open nothing any more; `StoreError` if there is none of this name."""
        self._read()
        if name not in self._hashes:
            raise StoreError(f"expected the name of a key, got `{name}`; known: {self.names}")
        del self._hashes[name]
        self._orderers -= {name}
        self._write()

    def admits(self, header: bytes | None) -> bool:
        """Whether the value of the header ``Authorization`` carries one of the keys."""
        return self.holder(header) is not None

    def holder(self, header: bytes | None) -> str | None:
        """The name of the key that the value of the header ``Authorization`` carries."""
        now = time.monotonic()
        if now >= self._look_again:
            self._look_again = now + LOOK_AGAIN_S
            self._refresh()
        if header is None or header[:7].lower() != _BEARER:
            return None
        digest = self._hash(header[7:].strip())
        # Each is compared in full, so that the time tells nothing.
        found = [name for name, known in self._hashes.items() if hmac.compare_digest(digest, known)]
        return found[0] if found else None

    def admit(self, headers: Iterable[Header]) -> str:
        """The name of the key in a request's headers.

        Raises
        ------
        Refusal
            If they carry none of the keys.
        """
        key = next((value for name, value in headers if name == b"authorization"), None)
        holder = self.holder(key)
        if holder is None:
            raise Refusal(
                401,
                "unauthorized",
                "expected the header `Authorization: Bearer <key>` with a key of this service, "
                + ("got none" if key is None else "got another one"),
                headers=((b"www-authenticate", b"Bearer"),),
            )
        return holder

    def _hash(self, key: bytes) -> bytes:
        return hmac.digest(self._salt, key, "sha256")

    def _refresh(self) -> None:
        """Read the file if it changed; one that cannot be read changes nothing."""
        try:
            found = self.path.stat()
            if (found.st_mtime_ns, found.st_ino) != self._stamp:
                self._read()
        except (OSError, StoreError) as error:
            logger.warning("the API keys stay as they were: %s", error)

    def _read(self) -> None:
        try:
            with self.path.open("rb") as file:
                found = os.fstat(file.fileno())
                body = file.read(1 << 20)
        except OSError as error:
            raise StoreError(
                f"expected a key file at {self.path}, got: {error.strerror}; "
                "check the folder and its permissions"
            ) from error
        if found.st_mode & 0o027:
            raise StoreError(
                f"expected the key file {self.path} to be closed to others, got mode "
                f"{stat.S_IMODE(found.st_mode):04o}; run: chmod 600 {self.path}"
            )
        try:
            content = json.loads(body)
            if content["format"] != _FORMAT:
                raise ValueError(f"format {content['format']!r}")
            salt = bytes.fromhex(content["salt"])
            hashes = {name: bytes.fromhex(text) for name, text in content["keys"].items()}
            orderers = frozenset(map(str, content.get("orders", ())))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StoreError(
                f"expected API keys in {self.path}, got a damaged file ({error}); delete it, "
                "and a new key is made at the next start"
            ) from error
        self._salt, self._hashes, self._orderers = salt, hashes, orderers
        self._stamp = (found.st_mtime_ns, found.st_ino)

    def _write(self) -> None:
        keys: Mapping[str, str] = {name: digest.hex() for name, digest in self._hashes.items()}
        content = {
            "format": _FORMAT,
            "salt": self._salt.hex(),
            "keys": keys,
            "orders": sorted(self._orderers),
        }
        draft = self.path.with_name(f".{self.path.name}.{secrets.token_hex(8)}")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                json.dump(content, file, indent=1)
                file.flush()
                os.fsync(file.fileno())
            os.replace(draft, self.path)
            found = self.path.stat()
        except OSError as error:
            raise StoreError(
                f"expected to write the key file {self.path}, got: {error.strerror}; "
                "check the folder and its permissions"
            ) from error
        self._stamp = (found.st_mtime_ns, found.st_ino)


def open_keys(path: str | os.PathLike[str]) -> tuple[KeyRing, str | None]:
    """The ring of a file, and its first key if that was made just now: show it once."""
    ring = KeyRing(path)
    return ring, None if ring.names else ring.make(FIRST, orders=True)

"""Personal identifiers become keyed tokens before anything is stored.

A field marked `Identifier` (a social security, account or card number) leaves the edge as
``tok_`` and 32 hexadecimal digits of HMAC-SHA-256 under a secret key: equal identifiers
have equal tokens, so that "who shares this card?" still works (row F6), and without the key
the few billion possible numbers cannot be tried out. The token is of 128 bits: two of a
trillion identifiers coincide with a chance below one in 10 ** 14.

No message of this module, and no ``repr``, shows a raw identifier or the key.
"""

import hmac
import os
import re
import secrets
import stat
import unicodedata
from pathlib import Path

from msgspec.structs import replace

from chopmark.errors import InvalidEvent, SchemaError, StoreError
from chopmark.events.event import Event
from chopmark.events.schema import Schema

KEY_BYTES = 32
_TOKEN = re.compile(r"tok_[0-9a-f]{32}")


class Vault:
    """Turns raw identifiers into tokens; holds the key and nothing else.

    Losing the key loses the link between old and new tokens, nothing else: keep a copy of
    the key file where you keep other secrets, apart from the log.

    Parameters
    ----------
    key : bytes
        32 random bytes.

    Examples
    --------
    >>> vault = Vault(b"an example key of 32 bytes, no ..")
    Traceback (most recent call last):
    ValueError: expected a key of 32 bytes, got 33
    >>> vault = Vault(bytes(32))
    >>> vault.token("card", "4111-1111 1111.1111") == vault.token("card", "4111111111111111")
    True
    """

    __slots__ = ("_keyed", "_plans")

    def __init__(self, key: bytes) -> None:
        if len(key) != KEY_BYTES:
            raise ValueError(f"expected a key of {KEY_BYTES} bytes, got {len(key)}")
        self._keyed = hmac.new(key, digestmod="sha256")  # copied for each token: 2x as fast
        self._plans: dict[Schema, dict[type[Event], tuple[tuple[str, bytes], ...]]] = {}

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> "Vault":
        """The vault of a key file, which is made (random, mode 0600) where there is none.

        Two processes that start at once get the same key: the file appears whole or not
        at all, and the second finds the first one's.

        Raises
        ------
        StoreError
            If the file cannot be read or made, is not of 32 bytes, or is open to others
            than its owner (and readers of its group).
        """
        path = Path(path)
        try:
            if not path.exists():
                _create(path)
            with path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                key = file.read(KEY_BYTES + 1) if stat.S_ISREG(mode) else b""
        except OSError as error:
            raise StoreError(
                f"expected a key file at {path}, got: {error.strerror}; "
                "check the folder and its permissions"
            ) from error
        # Readers of the group are let in, as container platforms mount secrets that way.
        if mode & 0o027:
            raise StoreError(
                f"expected the key file {path} to be closed to others, "
                f"got mode {stat.S_IMODE(mode):04o}; "
                f"run: chmod 600 {path} (and make a new key if others may have read it)"
            )
        if len(key) != KEY_BYTES:
            came = "more" if len(key) > KEY_BYTES else str(len(key))
            raise StoreError(
                f"expected {KEY_BYTES} bytes in the key file {path}, got {came}; restore it "
                "from your copy (a new key would cut all links to the tokens made so far)"
            )
        return cls(key)

    def seal(self, event: Event, schema: Schema) -> Event:
        """The event with a token in place of each identifier; tokens stay as they are.

        An identifier that looks like a token already is taken for one, so sealing twice
        changes nothing. Tokens are separated by the kind of entity that the field names
        (by the field where it names none): the digits of a card and of an account never
        meet, and the two card fields of two event types do.

        Raises
        ------
        InvalidEvent
            If an identifier is blank, as all blank ones would become one false link.
        """
        plan = self._plans.get(schema)
        if plan is None:
            plan = self._plans[schema] = _plan(schema)
        try:
            identifiers = plan[type(event)]
        except KeyError:
            raise SchemaError(
                f"expected an event of the schema, got `{type(event).__name__}`"
            ) from None
        if not identifiers:
            return event
        changes = {}
        for field, prefix in identifiers:
            raw = getattr(event, field)
            if raw is None or (raw[:4] == "tok_" and _TOKEN.fullmatch(raw)):
                continue
            normal = _normalise(raw)
            if not normal:
                raise InvalidEvent(
                    f"expected an identifier, got only blanks and dashes - at `$.{field}`; "
                    "leave the field out where there is none"
                )
            changes[field] = self._token(prefix, normal)
        return replace(event, **changes) if changes else event

    def token(self, kind: str, raw: str) -> str:
        """The token of one identifier, to look up by number what the log knows by token.

        Parameters
        ----------
        kind : str
            Kind of the entity (``"card"``), or the field's name where it names no entity.
        raw : str
            As typed: blanks, dashes, dots and case do not matter. A token is given back.
        """
        if _TOKEN.fullmatch(raw):
            return raw
        normal = _normalise(raw)
        if not normal:
            raise InvalidEvent(f"expected an identifier of kind `{kind}`, got only blanks")
        return self._token(_prefix(kind), normal)

    def _token(self, prefix: bytes, normal: str) -> str:
        # surrogatepass: a lone surrogate has no UTF-8, but is as much an identifier as any.
        message = prefix + normal.encode("utf-8", "surrogatepass")
        keyed = self._keyed.copy()
        keyed.update(message)
        return "tok_" + keyed.hexdigest()[:32]

    def __repr__(self) -> str:
        return "Vault(key=<hidden>)"

    def __reduce__(self) -> str:
        raise TypeError("a vault is not pickled, as its key would be; open it from its file")


def _create(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(secrets.token_bytes(KEY_BYTES))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # unlike rename, never replaces another process's key
        except FileExistsError:
            return
    finally:
        draft.unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _plan(schema: Schema) -> dict[type[Event], tuple[tuple[str, bytes], ...]]:
    """For each event type its identifier fields, each with the prefix of its domain."""
    for field in schema.fields.values():
        if field.identifier and field.kind != "text":
            raise SchemaError(f"identifier field `{field.name}` must be str, as its token is")
    return {
        event_type: tuple(
            (name, _prefix(schema.fields[name].entity or name))
            for name in schema.fields_of[type_name]
            if schema.fields[name].identifier
        )
        for type_name, event_type in schema.types.items()
    }


def _prefix(kind: str) -> bytes:
    return kind.encode() + b"\0"


def _normalise(raw: str) -> str:
    """Upper case without blanks, dashes and dots."""
    if raw.isascii():
        # Chained replaces: 4 times as fast as str.translate for texts this short.
        normal = raw.replace(" ", "").replace("-", "").replace(".", "").upper()
        return normal if normal.isalnum() else "".join(normal.split())
    wide = unicodedata.normalize("NFKC", raw).upper()
    return "".join(
        letter
        for letter in wide
        if not letter.isspace() and letter != "." and unicodedata.category(letter) != "Pd"
    )

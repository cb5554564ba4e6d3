"""Signed checkpoints: what a log held at an instant, vouched for outside of the log.

A checkpoint is one line of JSON in a file that is kept elsewhere than the log (another
machine, a write-once bucket, a mailbox): offset, hash of the chain there, count, instant, id
of the key, and an Ed25519 signature. Signed are the bytes ``chopmark checkpoint 1``, a line
feed, and the line's JSON text without its last member, the signature.

The private key is a PEM file of mode 0600 that never enters the log or its folder; the public
one, beside it with the ending ``.pub``, is all that `read_checkpoints` needs. The chain is in
`chopmark.events.chain`. Serves row I7.
"""

import os
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from chopmark.errors import InvalidInput, StoreError
from chopmark.events.chain import Checkpoint
from chopmark.times import Instant, moment, now

_CONTEXT = b"chopmark checkpoint 1\n"


class PublicKey:
    """Checks signatures.

    Attributes
    ----------
    id : str
        The first 16 hexadecimal digits of the SHA-256 of the key's 32 bytes.
    """

    def __init__(self, key: Ed25519PublicKey) -> None:
        self._key = key
        self.id = sha256(key.public_bytes(Encoding.Raw, PublicFormat.Raw)).hexdigest()[:16]

    @classmethod
    def load(cls, path: Path) -> "PublicKey":
        """The key of a PEM file; `InvalidInput` if there is none in it."""
        try:
            key = load_pem_public_key(path.read_bytes())
        except (ValueError, UnsupportedAlgorithm) as error:
            raise InvalidInput(f"expected a public key (PEM) in {path}, got: {error}") from error
        if not isinstance(key, Ed25519PublicKey):
            raise InvalidInput(f"expected an Ed25519 key in {path}, got {type(key).__name__}")
        return cls(key)

    def signed(self, checkpoint: Checkpoint) -> bool:
        """Whether the signature of a checkpoint is this key's, over just these values."""
        try:
            self._key.verify(bytes.fromhex(checkpoint.signature), _signed_bytes(checkpoint))
        except (InvalidSignature, ValueError):
            return False
        return checkpoint.key == self.id


class SigningKey:
    """Signs checkpoints."""

    def __init__(self, key: Ed25519PrivateKey) -> None:
        self._key = key
        self.public = PublicKey(key.public_key())

    @classmethod
    def create(cls, path: Path) -> "SigningKey":
        """A new key, in ``path`` (mode 0600), and its public half in ``path`` + ``.pub``.

        Raises
        ------
        InvalidInput
            If one of the files exists: a key is never overwritten.
        """
        beside = path.with_name(path.name + ".pub")
        for file in (path, beside):
            if file.exists():
                raise InvalidInput(f"expected a new file, but {file} exists; name another")
        key = Ed25519PrivateKey.generate()
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        for file, content, mode in ((path, private, 0o600), (beside, public, 0o644)):
            with os.fdopen(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as out:
                out.write(content)
        return cls(key)

    @classmethod
    def load(cls, path: Path) -> "SigningKey":
        """The key of a PEM file.

        Raises
        ------
        InvalidInput
            If there is none in it, or others than its owner may read the file.
        """
        mode = path.stat().st_mode & 0o777
        if mode & 0o077:
            raise InvalidInput(
                f"expected {path} to be closed to others, got mode {mode:04o}; whoever can read "
                "it can sign: chmod 600, or make a new key"
            )
        try:
            key = load_pem_private_key(path.read_bytes(), password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise InvalidInput(f"expected a private key (PEM) in {path}, got: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise InvalidInput(f"expected an Ed25519 key in {path}, got {type(key).__name__}")
        return cls(key)

    def sign(self, offset: int, head: bytes, *, at: Instant | None = None) -> Checkpoint:
        """A checkpoint of a log whose last record has this offset and hash."""
        unsigned = Checkpoint(
            offset=offset,
            hash=head.hex(),
            count=offset,
            made_at=moment(now() if at is None else at).isoformat(),
            key=self.public.id,
        )
        signature = self._key.sign(_signed_bytes(unsigned)).hex()
        return msgspec.structs.replace(unsigned, signature=signature)


def append_checkpoint(path: Path, checkpoint: Checkpoint) -> None:
    """Add a checkpoint to a file, made if missing; it is on the disk when this returns."""
    line = msgspec.json.encode(checkpoint) + b"\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(descriptor, line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_checkpoints(path: Path, keys: Sequence[PublicKey]) -> list[Checkpoint]:
    """The checkpoints of a file, oldest first, each signed by one of the keys.

    Raises
    ------
    StoreError
        Naming the first line that is no checkpoint, whose key is not among ``keys``, whose
        signature is not that key's, or that vouches for less than the line before it.
    """
    by_id = {key.id: key for key in keys}
    found: list[Checkpoint] = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        place = f"line {number} of {path}"
        try:
            checkpoint = msgspec.json.decode(line, type=Checkpoint)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise StoreError(f"expected a checkpoint in {place}, got: {error}") from error
        key = by_id.get(checkpoint.key)
        if key is None:
            raise StoreError(
                f"expected a checkpoint of key {', '.join(sorted(by_id))} in {place}, got a "
                f"foreign signature, of key {checkpoint.key!r}"
            )
        if not key.signed(checkpoint):
            raise StoreError(
                f"expected a checkpoint in {place}, got an invalid signature: key "
                f"{checkpoint.key} has not signed offset {checkpoint.offset} with these values"
            )
        if found and checkpoint.offset < found[-1].offset:
            raise StoreError(
                f"expected at least offset {found[-1].offset} in {place}, got "
                f"{checkpoint.offset}: the lines were reordered, or the log became shorter"
            )
        found.append(checkpoint)
    return found


def _signed_bytes(checkpoint: Checkpoint) -> bytes:
    unsigned = msgspec.structs.asdict(checkpoint)
    del unsigned["signature"]
    return _CONTEXT + msgspec.json.encode(unsigned)

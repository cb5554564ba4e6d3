"""Endpoints of webhooks: where events are posted to, which ones, and the secrets that sign them.

They stand in one JSON file of mode 0600. A secret is shown once, when it is made; it has to
be kept as it is, since a signature cannot be made from its hash. Rotation gives a second
secret: until the old one ends, each request carries a signature of both.
"""

import base64
import fcntl
import hmac
import os
import secrets
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from chopmark.decisions.decision import Action
from chopmark.errors import InvalidInput, StoreError, did_you_mean
from chopmark.service.safehttp import Reach, parse_url
from chopmark.times import DAY, Duration, Instant, duration, now

SECRET_PREFIX = "whsec_"
SECRET_BYTES = 32
OVERLAP = Duration(DAY)
_FORMAT = 1

Name = Annotated[str, Meta(pattern=r"^[a-z][a-z0-9_-]{0,63}$")]


class Secret(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One secret of an endpoint.

    Attributes
    ----------
    text : str
        ``whsec_`` and 32 random bytes in base64.
    ends_at : int, optional
        Instant from which it signs no more; None is never.
    """

    text: Annotated[str, Meta(pattern=r"^whsec_[A-Za-z0-9+/]{43}=$")]
    ends_at: int | None = None

    def __repr__(self) -> str:
        return "Secret(<hidden>)"

    def __rich_repr__(self) -> list[tuple[str, Any]]:
        """The same for the rich library, which would not ask `__repr__`."""
        return [("text", "<hidden>")]

    def signature(self, signed: bytes) -> str:
        """``v1,`` and the HMAC-SHA-256 in base64."""
        key = base64.b64decode(self.text.removeprefix(SECRET_PREFIX))
        return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode()


class Endpoint(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Where to, what, and how.

    Attributes
    ----------
    name : str
    url : str
    types : tuple of str
        Event types that are sent.
    with_friction : bool
        Of decisions only those that ask for a friction.
    actions, queues : tuple of str
        Of decisions only those with one of these; empty is all.
    full : bool
        The whole event, with feature values and personal fields.
    allow_private, insecure_http : bool
        See `safehttp.Reach`.
    give_up_after : str
        A duration: so long failures are tried again before they become dead letters.
    starts_after : int
        Offset in the log after which its events begin.
    key : str
        Random, a part of the names of this endpoint's files: another endpoint of the same
        name starts with none of them.
    secrets : tuple of Secret
        The newest first.
    """

    name: Name
    url: str
    types: tuple[str, ...]
    with_friction: bool = False
    actions: tuple[Action, ...] = ()
    queues: tuple[str, ...] = ()
    full: bool = False
    allow_private: bool = False
    insecure_http: bool = False
    give_up_after: str = "1d"
    starts_after: Annotated[int, Meta(ge=0)] = 0
    key: Annotated[str, Meta(pattern=r"^[0-9a-f]{8}$")]
    secrets: tuple[Secret, ...]

    @property
    def reach(self) -> Reach:
        """How far its connections may go."""
        return Reach(allow_private=self.allow_private, insecure_http=self.insecure_http)

    def sign(self, message_id: str, timestamp: int, body: bytes, *, at: Instant) -> str:
        """The header ``webhook-signature``: one signature of each secret in force."""
        signed = f"{message_id}.{timestamp}.".encode() + body
        return " ".join(
            secret.signature(signed)
            for secret in self.secrets
            if secret.ends_at is None or secret.ends_at > at
        )


class _Content(Struct, frozen=True):
    format: int
    endpoints: tuple[Endpoint, ...]


class EndpointBook:
    """The endpoints of an installation.

    Parameters
    ----------
    path : path
        A JSON file of mode 0600; made at the first `add`.

    Raises
    ------
    StoreError
        By every method, if the file cannot be read or written, is damaged, or open to others.

    Examples
    --------
    >>> import tempfile
    >>> book = EndpointBook(Path(tempfile.mkdtemp()) / "webhooks.json")
    >>> endpoint = book.add(
    ...     "desk", "https://desk.example/hooks", ["decision"], known=["decision", "banned"]
    ... )
    >>> endpoint.secrets[0].text[:6], [found.name for found in book.read()]
    ('whsec_', ['desk'])
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)

    def read(self) -> tuple[Endpoint, ...]:
        """All endpoints, in the order in which they were added; none where there is no file."""
        try:
            with self.path.open("rb") as file:
                mode = os.fstat(file.fileno()).st_mode
                body = file.read()
        except FileNotFoundError:
            return ()
        except OSError as error:
            raise StoreError(
                f"expected webhooks in {self.path}, got: {error.strerror}; check the folder and "
                "its permissions"
            ) from error
        if mode & 0o077:
            raise StoreError(
                f"expected {self.path} to be closed to others, got mode "
                f"{stat.S_IMODE(mode):04o}; run: chmod 600 {self.path} (and rotate the secrets "
                "if others may have read them)"
            )
        try:
            content = msgspec.json.decode(body, type=_Content)
            if content.format != _FORMAT:
                raise ValueError(f"format {content.format}")
            for endpoint in content.endpoints:
                parse_url(endpoint.url, endpoint.reach)
                duration(endpoint.give_up_after)
        except (msgspec.MsgspecError, ValueError, InvalidInput) as error:
            raise StoreError(
                f"expected webhooks in {self.path}, got a damaged file ({error}); restore it, or "
                "delete it and add the endpoints again"
            ) from error
        return content.endpoints

    def find(self, name: str) -> Endpoint:
        """The endpoint of a name; `InvalidInput` if there is none."""
        return _of_name(self.read(), name)

    def add(
        self,
        name: str,
        url: str,
        types: Sequence[str],
        *,
        known: Sequence[str],
        with_friction: bool = False,
        actions: Sequence[str] = (),
        queues: Sequence[str] = (),
        full: bool = False,
        allow_private: bool = False,
        insecure_http: bool = False,
        give_up_after: str = "1d",
        starts_after: int = 0,
    ) -> Endpoint:
        """A new endpoint with a new secret, to be shown once.

        Parameters
        ----------
        known : sequence of str
            The event types of the log's schema, of which ``types`` must be.

        Raises
        ------
        InvalidInput
            If the name is taken, a type is unknown, the URL is refused, or an option is of
            no use.
        """
        if insecure_http and not allow_private:
            raise InvalidInput(
                "expected --allow-private with --insecure-http: plain http goes to this machine "
                "alone"
            )
        for kind in types:
            if kind not in known:
                raise InvalidInput(
                    f"expected event types of the schema, got `{kind}`{did_you_mean(kind, known)}"
                )
        if not types:
            raise InvalidInput("expected at least one event type, got none")
        if (with_friction or actions or queues) and "decision" not in types:
            raise InvalidInput(
                "expected `decision` among the event types, as frictions, actions and queues "
                "choose among decisions"
            )
        fields = {
            "name": name,
            "url": url,
            "types": tuple(dict.fromkeys(types)),
            "with_friction": with_friction,
            "actions": tuple(actions),
            "queues": tuple(queues),
            "full": full,
            "allow_private": allow_private,
            "insecure_http": insecure_http,
            "give_up_after": give_up_after,
            "starts_after": starts_after,
            "key": secrets.token_hex(4),
            "secrets": (_new_secret(),),
        }
        try:
            made = msgspec.convert(fields, Endpoint)
        except msgspec.ValidationError as error:
            raise InvalidInput(f"expected an endpoint: {error}") from error
        parse_url(url, made.reach)
        duration(give_up_after)
        with locked(self.path):
            endpoints = self.read()
            if any(endpoint.name == name for endpoint in endpoints):
                raise InvalidInput(f"expected a new name, got `{name}`; remove that one first")
            self._write((*endpoints, made))
        return made

    def remove(self, name: str) -> Endpoint:
        """Take an endpoint out; it is sent nothing more."""
        self.find(name)  # before a lock file is made where there is nothing
        with locked(self.path):
            endpoints = self.read()
            gone = _of_name(endpoints, name)
            self._write(tuple(endpoint for endpoint in endpoints if endpoint is not gone))
        return gone

    def rotate(self, name: str, *, overlap: Duration = OVERLAP) -> Endpoint:
        """A second secret, to be shown once; the first ends after ``overlap``.

        A third is not made: one that was to end before is forgotten now.
        """
        self.find(name)
        ends_at = now() + overlap
        with locked(self.path):
            endpoints = self.read()
            old = _of_name(endpoints, name)
            ending = msgspec.structs.replace(old.secrets[0], ends_at=ends_at)
            made = msgspec.structs.replace(old, secrets=(_new_secret(), ending))
            self._write(tuple(made if found is old else found for found in endpoints))
        return made

    def _write(self, endpoints: tuple[Endpoint, ...]) -> None:
        content = msgspec.json.encode(_Content(format=_FORMAT, endpoints=endpoints))
        replace_file(self.path, msgspec.json.format(content, indent=1) + b"\n")


def replace_file(path: Path, content: bytes) -> None:
    """Write a file of mode 0600 as a whole or not at all; it is on the disk on return."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise StoreError(
            f"expected to write {path}, got: {error.strerror}; check the folder and the disk"
        ) from error


@contextmanager
def locked(path: Path, *, wait: bool = True) -> Iterator[None]:
    """Keep other processes from changing a file while a block reads and writes it.

    Raises
    ------
    StoreError
        If not to wait and another process holds it.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError as error:
            raise StoreError(
                f"expected to be alone at {path}, but another process has it locked; end that "
                "one first"
            ) from error
        yield
    finally:
        os.close(descriptor)


def _of_name(endpoints: Sequence[Endpoint], name: str) -> Endpoint:
    for endpoint in endpoints:
        if endpoint.name == name:
            return endpoint
    known = [endpoint.name for endpoint in endpoints]
    raise InvalidInput(f"expected the name of an endpoint, got `{name}`{did_you_mean(name, known)}")


def _new_secret() -> Secret:
    return Secret(text=SECRET_PREFIX + base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode())

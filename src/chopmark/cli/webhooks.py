"""``chopmark webhooks``: endpoints, their secrets, and the process that sends to them."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from rich.markup import escape

from chopmark.cli.application import load_application
from chopmark.cli.show import console, table
from chopmark.errors import InvalidInput, StoreError
from chopmark.events import SqliteLog
from chopmark.pipelines.folder import DataFolder
from chopmark.service.endpoints import Endpoint
from chopmark.service.webhooks import (
    Outbox,
    Sender,
    book_of,
    outboxes_of,
    retry_dead,
    send_test,
)
from chopmark.times import duration, moment, now


def add(
    data: Path, name: str, url: str, *, types: list[str], with_friction: bool = False,
    actions: list[str] | None = None, queues: list[str] | None = None, full: bool = False,
    from_start: bool = False, give_up_after: str = "1d", insecure_http: bool = False,
    allow_private: bool = False, app: str | None = None,
) -> None:  # fmt: skip
    """Add an endpoint, and show its secret, once.

    Parameters
    ----------
    data
        Folder with the log.
    name
        Of the endpoint: small letters, digits, - and _.
    url
        Where to: https, port 443 or 8443, at a public address.
    types
        Event types to send, --types for each: decision, friction_asked, lock_set, banned ...
    with_friction
        Of decisions only those that ask for a friction.
    actions
        Of decisions only those with this action, --actions for each.
    queues
        Of decisions only those with this queue, --queues for each.
    full
        Send whole events, with feature values and personal fields.
    from_start
        Send all that is in the log already; else only what comes from now on.
    give_up_after
        So long failures are tried again; then they are dead letters.
    insecure_http
        Plain http to a port of this machine (a sidecar): nothing is encrypted, nobody proves
        who they are. Needs --allow-private.
    allow_private
        Private addresses and loopback too: whoever controls the name can make this machine
        knock at its neighbours.
    app
        Python file with `application` and `label`; the simulated exchange by default.
    """
    application, _ = load_application(app)
    with _log(data, app) as log:
        starts_after = 0 if from_start else log.last_offset
    made = book_of(data).add(
        name, url, types, known=list(application.catalog.schema.types),
        with_friction=with_friction, actions=actions or (), queues=queues or (), full=full,
        allow_private=allow_private, insecure_http=insecure_http, give_up_after=give_up_after,
        starts_after=starts_after,
    )  # fmt: skip
    _say(f"`{name}` gets what is in the log after offset {starts_after:,}")
    if insecure_http:
        _say("WARNING: http to this machine is not encrypted and proves nothing of the receiver")
    if allow_private:
        _say("WARNING: private addresses are allowed for this endpoint")
    _show_secret(made)


def endpoints(data: Path, *, app: str | None = None) -> None:
    """List the endpoints, how far each has come, and what could not be delivered.

    Parameters
    ----------
    data
        Folder with the log.
    """
    rows = []
    with _log(data, app) as log:
        end = log.last_offset
        for endpoint in book_of(data).read():
            outbox = Outbox(outboxes_of(data), endpoint)
            progress = outbox.progress()
            since = progress.failing_since
            rows.append(
                (
                    endpoint.name,
                    escape(endpoint.url),
                    ", ".join(endpoint.types),
                    f"{progress.offset:,} of {end:,}",
                    "-" if since is None else f"{moment(since):%Y-%m-%d %H:%M}",
                    str(len(outbox.letters())),
                    str(sum(s.ends_at is None or s.ends_at > now() for s in endpoint.secrets)),
                )
            )
    header = ("endpoint", "url", "types", "offset", "failing since", "dead", "secrets")
    table("Webhooks", header, rows)


def rotate(data: Path, name: str, *, overlap: str = "1d") -> None:
    """Give an endpoint a new secret; the old one signs too until the overlap is over.

    Parameters
    ----------
    data
        Folder with the log.
    name
        Of the endpoint.
    overlap
        How long both sign.
    """
    made = book_of(data).rotate(name, overlap=duration(overlap))
    ends_at = made.secrets[1].ends_at
    assert ends_at is not None
    _say(f"the old secret of `{name}` signs until {moment(ends_at):%Y-%m-%d %H:%M} UTC")
    _show_secret(made)


def remove(data: Path, name: str) -> None:
    """Take an endpoint out, with its cursor and its dead letters.

    Parameters
    ----------
    data
        Folder with the log.
    """
    gone = book_of(data).remove(name)
    Outbox(outboxes_of(data), gone).remove()
    _say(f"`{name}` is sent nothing more")


def run(data: Path, *, once: bool = False, app: str | None = None) -> None:
    """Send what is in the log and what comes, beside a running service, until interrupted.

    Parameters
    ----------
    data
        Folder with the log.
    once
        Stop at the end of the log; exit code 1 if an endpoint stands still before it.
    app
        Python file with `application` and `label`; the simulated exchange by default.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        stop.set()

    kept = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        with _log(data, app) as log:
            sender = Sender(data, log)
            _say(f"{datetime.now(UTC):%H:%M:%S} sending to {len(sender.book.read())} endpoints")
            tallies = sender.run(stop, once=once)
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    for name, tally in tallies.items():
        _say(f"`{name}`: {tally.num_sent:,} sent, {tally.num_dead:,} dead letters")
    still = {name: tally.failure for name, tally in tallies.items() if tally.failure}
    if once and still:
        raise StoreError("; ".join(f"`{name}` stands still: {why}" for name, why in still.items()))


def knock(data: Path, name: str, *, app: str | None = None) -> None:
    """Send an endpoint a signed message of type webhook.test.

    Parameters
    ----------
    data
        Folder with the log.
    """
    endpoint = book_of(data).find(name)
    with _log(data, app) as log:
        send_test(endpoint, log, data)
    _say(f"`{name}` acknowledged a test")


def retry(data: Path, name: str, *, app: str | None = None) -> None:
    """Send each dead letter of an endpoint once more; exit code 1 if some are left.

    Parameters
    ----------
    data
        Folder with the log.
    """
    endpoint = book_of(data).find(name)
    with _log(data, app) as log:
        num_sent, num_left = retry_dead(endpoint, log, data)
    _say(f"{num_sent:,} delivered, {num_left:,} left")
    if num_left:
        raise StoreError(f"expected `{name}` to take its dead letters, {num_left:,} are left")


@contextmanager
def _log(data: Path, app: str | None) -> Iterator[SqliteLog]:
    """The log of a data folder, beside whoever writes to it."""
    if not data.is_dir() or not (folder := DataFolder(data)).log.is_file():
        raise InvalidInput(f"expected a log in {data}, got none; name the folder of a service")
    with folder.open_log(load_application(app)[0], read_only=True) as log:
        yield log


def _show_secret(endpoint: Endpoint) -> None:
    _say(f"secret, shown only now: {endpoint.secrets[0].text}")


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True, markup=False)

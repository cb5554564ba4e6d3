"""Orders from the command line: into the log of a data folder, or as JSON for a service."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

from chopmark.cli.application import load_application
from chopmark.cli.show import console
from chopmark.decisions.orders import (
    BanLifted,
    Banned,
    LockReleased,
    LockSet,
    OverrideReleased,
    OverrideSet,
    VipMarked,
)
from chopmark.engine import Engine
from chopmark.errors import InvalidInput, LogUnavailable, SchemaError
from chopmark.events import Event
from chopmark.events.schema import type_name
from chopmark.pipelines.folder import DataFolder


@contextmanager
def opened(data: Path, app: str | None) -> Iterator[Engine]:
    """The engine of a data folder that nothing else has open for writing."""
    application, _ = load_application(app)
    folder = DataFolder(data)
    if not folder.log.is_file():
        raise InvalidInput(f"expected a log in {data}, got none; name the folder of an ingest")
    try:
        engine = folder.open_engine(application)
    except LogUnavailable as error:
        raise LogUnavailable(
            f"{error}; where a service has the log open, write the order with --as-json and send "
            "it to the service's /v1/events"
        ) from error
    try:
        yield engine
        engine.log.sync()
    finally:
        engine.log.close()


def made(kind: type[Event], **fields: Any) -> Event:
    """An order of now."""
    return kind(id=f"order:{uuid4().hex}", happened_at=datetime.now(UTC), **fields)


def give(data: Path, app: str | None, order: Event, *, as_json: bool) -> None:
    """Put an order into the log, or only print it.

    Raises
    ------
    SchemaError
        If the application's schema has no orders.
    """
    application, _ = load_application(app)
    schema = application.catalog.schema
    if type_name(order) not in schema.types:
        raise SchemaError(
            f"the schema of the application lacks `{type_name(order)}`; add "
            "`*chopmark.decisions.ORDERS` to its event types"
        )
    if as_json:
        print(schema.encode(order).decode())
        return
    with opened(data, app) as engine:
        engine.observe(order)
    console.print(f"{type_name(order)} is in the log of {data}", soft_wrap=True)


def lock(
    data: Path, user: str, *, score: float, reason: str, author: str, days: int = 90,
    approver: str | None = None, app: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Hold a user's score at a value, whatever a model says, for some days.

    Parameters
    ----------
    data
        Folder with the log.
    user
        Whose score.
    score
        From 0 to 1: 0.8 for 80 of 100.
    reason
        Why, for whoever reads it later.
    author
        Who says so.
    days
        Until it ends by itself.
    approver
        A second person.
    app
        Python file with `application` and `label`; the simulated exchange by default.
    as_json
        Print the order instead, for `curl` to a service that has the log open.
    """
    until = datetime.now(UTC) + timedelta(days=days)
    if not 0.0 <= score <= 1.0:
        hint = f"; write {score / 100:g} for {score:g} of 100" if 1 < score <= 100 else ""
        raise InvalidInput(f"expected a score from 0 to 1, got {score:g}{hint}")
    if days < 1:
        raise InvalidInput(f"expected at least one day, got {days}")
    order = made(LockSet, user=user, score=score, expires_at=until, reason=reason, author=author,
                 approver=approver)  # fmt: skip
    give(data, app, order, as_json=as_json)


def release(
    data: Path, user: str, *, reason: str, author: str, app: str | None = None,
    as_json: bool = False,
) -> None:  # fmt: skip
    """End a lock and an override of a user before their time.

    Parameters
    ----------
    data
        Folder with the log.
    """
    for kind in (LockReleased, OverrideReleased):
        give(data, app, made(kind, user=user, reason=reason, author=author), as_json=as_json)


def override(
    data: Path, user: str, *, limit_usd: float, reason: str, author: str, days: int = 30,
    approver: str | None = None, app: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Set a user's weekly limit by hand for some days.

    Parameters
    ----------
    data
        Folder with the log.
    limit_usd
        In USD a week.
    """
    if limit_usd < 0 or days < 1:
        raise InvalidInput(
            f"expected a limit of 0 or more and a day or more, got {limit_usd} and {days}"
        )
    until = datetime.now(UTC) + timedelta(days=days)
    order = made(OverrideSet, user=user, limit_usd=limit_usd, expires_at=until, reason=reason,
                 author=author, approver=approver)  # fmt: skip
    give(data, app, order, as_json=as_json)


def ban(
    data: Path, user: str, *, reason: str, author: str, lift: bool = False,
    app: str | None = None, as_json: bool = False,
) -> None:  # fmt: skip
    """Ban a user, or lift the ban.

    Parameters
    ----------
    data
        Folder with the log.
    lift
        The ban ends.
    """
    kind = BanLifted if lift else Banned
    give(data, app, made(kind, user=user, reason=reason, author=author), as_json=as_json)


def vip(
    data: Path, user: str, *, author: str, no_longer: bool = False, app: str | None = None,
    as_json: bool = False,
) -> None:  # fmt: skip
    """Mark a user whose restrictions people want to see.

    Parameters
    ----------
    data
        Folder with the log.
    """
    give(data, app, made(VipMarked, user=user, vip=not no_longer, author=author), as_json=as_json)

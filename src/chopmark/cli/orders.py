"""Orders from the command line: into the log of a data folder, or as JSON for a service."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from cyclopts import Parameter

from chopmark.cli.application import load_application
from chopmark.cli.options import (
    App,
    Approver,
    AsJson,
    Author,
    Data,
    Reason,
    User,
    check_days,
    check_share,
    check_words,
)
from chopmark.cli.show import console, warnings
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
from chopmark.events import Event, EventLog
from chopmark.events.schema import Schema, type_name
from chopmark.pipelines.folder import DataFolder


@contextmanager
def read_along(data: Path, app: str | None) -> Iterator[Engine]:
    """An engine that looks at a data folder (`DataFolder.open_to_read`), which may be in use."""
    application, _ = load_application(app)
    engine = _folder(data).open_to_read(application)
    try:
        yield engine
    finally:
        engine.log.close()


def made(kind: type[Event], **fields: Any) -> Event:
    """An order of now."""
    return kind(id=f"order:{uuid4().hex}", happened_at=datetime.now(UTC), **fields)


def give(data: Path, app: str | None, *orders: Event, as_json: bool) -> None:
    """Put orders into the log, or only print them.

    Raises
    ------
    SchemaError
        If the application's schema has no orders.
    LogUnavailable
        If a service has the log open.
    """
    application, _ = load_application(app)
    schema = application.catalog.schema
    for order in orders:
        if type_name(order) not in schema.types:
            raise SchemaError(
                f"the schema of the application lacks `{type_name(order)}`; add "
                "`*chopmark.decisions.ORDERS` to its event types"
            )
    if as_json:
        if _has_log(data):
            with read_along(data, app) as engine:
                for order in orders:
                    _check(engine, order)
        for order in orders:
            print(schema.encode(order).decode())
        return
    with _opened_to_write(data, app) as engine:
        for order in orders:
            _warn_of_stranger(engine.log, schema, order)
            engine.observe(order)
    for order in orders:
        console.print(f"{type_name(order)} is in the log of {data}", soft_wrap=True)


def has_events(log: EventLog, schema: Schema, user: str) -> bool:
    """Whether a log has any event of a user."""
    return any(log.latest(kind, user) is not None for kind in schema.types)


def lock(
    data: Data,
    user: User,
    *,
    score: Annotated[float, Parameter(help="From 0 to 1: 0.8 for 80 of 100.")],
    reason: Reason,
    author: Author,
    days: Annotated[int, Parameter(help="Until it ends by itself.")] = 90,
    approver: Approver = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Hold a user's score at a value, whatever a model says, for some days."""
    check_share("score", score, unit="of 100")
    check_days(days)
    _check_people(author, approver)
    check_words(reason=reason)
    order = made(LockSet, user=user, score=score, expires_at=_until(days), reason=reason,
                 author=author, approver=approver)  # fmt: skip
    give(data, app, order, as_json=as_json)


def release(
    data: Data,
    user: User,
    *,
    reason: Reason,
    author: Author,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """End a lock and an override of a user before their time."""
    check_words(reason=reason, author=author)
    orders = [
        made(kind, user=user, reason=reason, author=author)
        for kind in (LockReleased, OverrideReleased)
    ]
    give(data, app, *orders, as_json=as_json)


def override(
    data: Data,
    user: User,
    *,
    limit_usd: Annotated[float, Parameter(help="In USD a week.")],
    reason: Reason,
    author: Author,
    days: Annotated[int, Parameter(help="Until it ends by itself.")] = 30,
    approver: Approver = None,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Set a user's weekly limit by hand for some days."""
    if limit_usd < 0:
        raise InvalidInput(f"expected --limit-usd of 0 or more, got {limit_usd:g}")
    check_days(days)
    _check_people(author, approver)
    check_words(reason=reason)
    order = made(OverrideSet, user=user, limit_usd=limit_usd, expires_at=_until(days),
                 reason=reason, author=author, approver=approver)  # fmt: skip
    give(data, app, order, as_json=as_json)


def ban(
    data: Data,
    user: User,
    *,
    reason: Reason,
    author: Author,
    lift: Annotated[bool, Parameter(help="The ban ends.", negative="", show_default=False)] = False,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Ban a user, or lift the ban."""
    check_words(reason=reason, author=author)
    kind = BanLifted if lift else Banned
    give(data, app, made(kind, user=user, reason=reason, author=author), as_json=as_json)


def vip(
    data: Data,
    user: User,
    *,
    author: Author,
    no_longer: Annotated[
        bool, Parameter(help="The mark ends.", negative="", show_default=False)
    ] = False,
    app: App = None,
    as_json: AsJson = False,
) -> None:
    """Mark a user whose restrictions people want to see."""
    check_words(author=author)
    give(data, app, made(VipMarked, user=user, vip=not no_longer, author=author), as_json=as_json)


@contextmanager
def _opened_to_write(data: Path, app: str | None) -> Iterator[Engine]:
    """The engine of a data folder that nothing else has open for writing."""
    application, _ = load_application(app)
    try:
        engine = _folder(data).open_engine(application)
    except LogUnavailable as error:
        raise LogUnavailable(
            f"{error}: for a service, add --as-json and POST the line to its /v1/events"
        ) from error
    try:
        yield engine
        engine.log.sync()
    finally:
        engine.log.close()


def _folder(data: Path) -> DataFolder:
    if not _has_log(data):  # asked first: a DataFolder makes its folder
        raise InvalidInput(f"expected a log in {data}, got none; name the folder of an ingest")
    return DataFolder(data)


def _has_log(data: Path) -> bool:
    return (data / "log.sqlite").is_file()


def _check(engine: Engine, order: Event) -> None:
    """What the service will say of an order, as far as the log tells."""
    engine.book.check(order)
    engine.policy.check(order)
    engine.schema.decode(engine.schema.encode(order))
    _warn_of_stranger(engine.log, engine.schema, order)


def _warn_of_stranger(log: EventLog, schema: Schema, order: Event) -> None:
    user = getattr(order, "user", None)
    if user is not None and not has_events(log, schema, user):
        warnings.print(f"warning: no event of user `{user}` yet", highlight=False, markup=False)


def _check_people(author: str, approver: str | None) -> None:
    check_words(author=author, approver=approver)
    if approver is not None and approver.strip().casefold() == author.strip().casefold():
        raise InvalidInput(f"expected an approver other than the author, got `{author}` twice")


def _until(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)

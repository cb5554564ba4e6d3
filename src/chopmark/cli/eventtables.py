"""Events for commands: a table or a folder of histories, and the options that name its columns."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import polars as pl
from cyclopts import Parameter

from chopmark.cli.show import table
from chopmark.errors import InvalidInput, InvalidTable, did_you_mean

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from chopmark.histories import Histories

UserColumn = Annotated[
    str | None, Parameter(name="--user", help="Column of the users; `user` if not given.")
]
TimeColumn = Annotated[
    str | None,
    Parameter(name="--time", help="Column of the times; `happened_at` if not given. No zone: UTC."),
]
TypeColumn = Annotated[
    str | None, Parameter(name="--type", help="Column of the types of events; `type` by default.")
]
Fields = Annotated[
    str | None,
    Parameter(help="Columns to read as categories, with commas; all texts if not given."),
]
Numbers = Annotated[
    str | None,
    Parameter(help="Columns to read as numbers, with commas; all numbers if not given."),
]
AsOf = Annotated[
    str | None,
    Parameter(help="Instant to look from, such as 2026-01-31T12:00:00Z; the last event's if none."),
]


def read_histories(
    events: Path,
    user: str | None,
    time: str | None,
    type: str | None,
    fields: str | None,
    numbers: str | None,
    *,
    until: str | None = None,
) -> "Histories":
    """The histories of a file or of a folder, with the columns that options name.

    Of a file, events later than `until` are left out.
    """
    from chopmark.histories import Histories
    from chopmark.tabular.tables import SUFFIXES, frame_of

    chosen, counted = names_of(fields), names_of(numbers)
    if events.is_dir():
        for option, given in (("--user", user), ("--time", time), ("--type", type)):
            if given is not None:
                raise InvalidInput(
                    f"expected {option} with a table of events only; the folder `{events}` has "
                    "users, times and types already"
                )
        if until is not None:
            raise InvalidInput(
                f"expected --until with a table of events only; the folder `{events}` has all "
                "that it has: build another one with `until`"
            )
        found = _selected(Histories.open(events), chosen, counted)
    elif not events.exists():
        raise InvalidTable(
            f"expected a table of events ({', '.join(SUFFIXES)}) or a folder of histories at "
            f"`{events}`, got nothing there"
        )
    else:
        found = Histories.from_frame(
            frame_of(events),
            user=user or "user",
            time=time or "happened_at",
            type=type or "type",
            categories=chosen,
            numbers=counted,
            until=None if until is None else instant_of(until, "--until"),
        )
    if not found.num_events:
        late = "" if until is None else f" up to {until}"
        raise InvalidTable(f"expected events in `{events}`, got a table without rows{late}")
    return found


def instant_of(text: str, option: str = "--as-of") -> int:
    """Microseconds since 1970 of an ISO text; without a zone it is UTC."""
    from chopmark.histories.histories import instants

    try:
        return int(instants(text)[0])
    except InvalidTable:
        raise InvalidInput(
            f"expected {option} as an ISO 8601 time like `2026-01-31T12:00:00Z`, got `{text}`"
        ) from None


def names_of(text: str | None) -> list[str] | None:
    """Names between commas; None stays None, and an empty text is no name."""
    if text is None:
        return None
    return [name for part in text.split(",") if (name := part.strip())]


def places_of(histories: "Histories", text: str | None, option: str) -> "NDArray[np.int64]":
    """Places of users that an option names."""
    names = names_of(text) or []
    try:
        asked = pl.Series("user", names, dtype=pl.String).cast(histories.users.dtype)
    except pl.exceptions.PolarsError as error:
        raise InvalidInput(
            f"expected whole numbers with {option}, as the events have for users, got `{text}`"
        ) from error
    places = histories.places(asked)
    if (places < 0).any():
        name = names[int(np.argmin(places))]
        raise InvalidInput(f"expected users of the events with {option}, got `{name}`")
    return places


def show_histories(histories: "Histories") -> None:
    """Figures of the events as a table."""
    lengths = np.diff(histories.offsets)
    ends = pl.Series([int(histories.times.min()), int(histories.times.max())])
    first, last = ends.cast(pl.Datetime("us")).dt.strftime("%Y-%m-%d %H:%M UTC")
    median, most = np.quantile(lengths, (0.5, 0.95))
    rows = [
        ("users", f"{len(histories):,}"),
        ("events", f"{histories.num_events:,}"),
        ("events of a user, median", f"{median:,.0f}"),
        ("events of a user, 95 %", f"{most:,.0f}"),
        ("users with one event", f"{int((lengths == 1).sum()):,}"),
        ("types of events", f"{len(histories.words['type']):,}"),
        ("first event", first),
        ("last event", last),
    ]
    table("Events", ("figure", "value"), rows)


def _selected(
    histories: "Histories", fields: Sequence[str] | None, numbers: Sequence[str] | None
) -> "Histories":
    """The histories with some of their fields."""
    changes: dict[str, Any] = {}
    for what, asked, there in (
        ("categories", fields, histories.categories),
        ("numbers", numbers, histories.numbers),
    ):
        if asked is None:
            continue
        for name in asked:
            if name not in there:
                raise InvalidTable(
                    f"expected a field `{name}` among the {what} of the histories"
                    + did_you_mean(name, there)
                )
        kept = [*(["type"] if what == "categories" else []), *asked]
        changes[what] = {name: there[name] for name in dict.fromkeys(kept)}
    if "categories" in changes:
        changes["words"] = {name: histories.words[name] for name in changes["categories"]}
    return replace(histories, **changes)

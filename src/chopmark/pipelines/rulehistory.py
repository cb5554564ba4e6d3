"""The past of a log as a table that rules can be asked about: features, fields, score, label.

One row per event that the policy decides about, with what a rule would have read then. A rule
that is judged here reads the very values that it would have read live.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.engine import Application
from chopmark.events import Event, EventLog, type_name
from chopmark.features import Label, training_table
from chopmark.rules.judging import History, history_of_table
from chopmark.times import duration, moment


def rule_history(
    application: Application,
    log: EventLog,
    *,
    label: Label,
    rows: Sequence[str] = (),
    score: Callable[[pl.DataFrame], NDArray[np.float64]] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> tuple[pl.DataFrame, History]:
    """The rows of a log, and what was learned about them, ripe and young ones apart.

    Parameters
    ----------
    label : Label
        What makes a row bad, and how long that takes to be known.
    rows : sequence of str
        Event types; all that the policy decides about by default.
    score : callable, optional
        From rows to the column ``score``, such as a scorer's; without it that is missing.

    Returns
    -------
    DataFrame
        ``event_id``, ``event_type``, ``as_of``, features, fields of the event, ``score``,
        ``label``.
    History
        Of the same rows.
    """
    catalog, policy = application.catalog, application.policy
    kinds = tuple(rows) or tuple(sorted(policy.assessed))
    names = [name for name in catalog.schema.fields if name not in catalog.names]
    taken = {name for kind in kinds for name in catalog.schema.fields_of[kind]}
    names = [name for name in names if name in taken]
    seen: dict[str, list[Any]] = {
        name: [] for name in ("event_id", "event_type", "happened_at", *names)
    }

    def batches() -> Iterator[list[Event]]:
        for batch in log.read():
            events = [event for _, event in batch]
            for event in events:
                if type_name(event) in kinds:
                    seen["event_id"].append(event.id)
                    seen["event_type"].append(type_name(event))
                    seen["happened_at"].append(event.happened_at)
                    for name in names:
                        seen[name].append(getattr(event, name, None))
            yield events

    table = training_table(
        catalog, batches(), rows=kinds, label=label, immature=True, on_progress=on_progress
    )
    fields = pl.DataFrame(seen, strict=False)
    table = table.join(fields, on="event_id", how="left", maintain_order="left")
    if score is not None:
        table = table.with_columns(score=pl.Series(score(table), dtype=pl.Float64))
    last = table["as_of"].max() if log.last_known_at is None else moment(log.last_known_at)
    ripe = pl.col("as_of") <= pl.lit(last) - pl.duration(microseconds=duration(label.matures))
    matured = table.select(ripe).to_series().to_numpy()
    users = "user" if "user" in table.columns else label.by
    return table, history_of_table(table, users=users, amount=policy.amount, matured=matured)


def share_moved(hits: pl.Series, table: pl.DataFrame, *, users: str = "user") -> float | None:
    """Share of users that a rule would have moved: those that it hit at least once.

    None where there is no past to ask.
    """
    found = table.select(users).with_columns(hit=hits.cast(pl.Boolean))
    by_user = found.group_by(users).agg(pl.col("hit").any())
    mean = by_user["hit"].mean()
    return float(mean) if isinstance(mean, float) else None

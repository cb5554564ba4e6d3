"""Train: the log replayed to a table, a model fitted to its past, judged on its future."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import TYPE_CHECKING

import polars as pl

from chopmark.engine import Application
from chopmark.events import Event, EventLog
from chopmark.features import Label, training_table
from chopmark.models.metrics import summary
from chopmark.pipelines.sequences import (
    TIME,
    Diary,
    SequenceBlend,
    check_torch,
    needed_sequence,
)
from chopmark.tabular import EasyML
from chopmark.times import Instant

if TYPE_CHECKING:
    from chopmark.blend import EasyBlend

BESIDE_FEATURES = ("event_id", "as_of", "label", "label_known_at")
"""Columns of a training table that are no features."""


@dataclass(frozen=True, slots=True)
class Trained:
    """A fitted model, and how it was judged.

    Attributes
    ----------
    model : EasyML or EasyBlend
    num_rows, num_bad : int
        Of the whole table.
    metrics : dict
        On the last part of the table in time, of a model that had not seen it, with the labels
        as known at the end; empty where either part has too few rows of a class.
    parts : dict of str to dict
        The same of each part of a blend.
    table_seconds, fit_seconds : float
        To replay the log, and to fit and judge.
    """

    model: "EasyML | EasyBlend"
    num_rows: int
    num_bad: int
    metrics: dict[str, float | None]
    table_seconds: float
    fit_seconds: float
    parts: Mapping[str, Mapping[str, float | None]] = field(default_factory=dict)


def train(
    application: Application,
    log: EventLog,
    *,
    label: Label,
    rows: Sequence[str] = (),
    model: EasyML | SequenceBlend | None = None,
    until: Instant | None = None,
    test_share: float = 0.25,
    on_progress: Callable[[int], None] | None = None,
) -> Trained:
    """A model fitted to all labelled rows of the log, judged out of time on the way.

    Parameters
    ----------
    label : Label
        What makes a row bad.
    rows : sequence of str
        Event types to learn from; those that the policy gates by default.
    model : EasyML or SequenceBlend, optional
        Unfitted; EasyML by default. A blend is judged on the rows that its weights are learned
        from, by weights learned from the others of them: the last 60 % in time.
    until : Instant, optional
        Learn as if it were this instant.
    test_share : float
        Share of the rows, the last in time, on which a first fit is judged before the
        final fit to all rows; 0 skips that. A blend has its own.

    Raises
    ------
    FeatureError
        If a blend is to read histories, and no feature is a sequence.
    MissingExtra
        If it needs torch, which is not installed.
    """
    catalog = application.catalog
    started = perf_counter()
    batches: Iterable[list[Event]] = ([event for _, event in batch] for batch in log.read())
    diary: Diary | None = None
    if isinstance(model, SequenceBlend):
        check_torch()
        diary = Diary(needed_sequence(application), catalog.schema)
        batches = diary.along(batches)
    rows = rows or application.policy.gated
    table = training_table(
        catalog, batches, rows=rows, label=label, until=until, on_progress=on_progress
    )
    # What the policy has allowed so far is its own doing: a model that read it would learn
    # the policy instead of the risk.
    table = table.drop(application.own)
    tabulated = perf_counter()
    names = [name for name in table.columns if name not in BESIDE_FEATURES]
    hashes = {name: catalog.hashes[name] for name in names}
    if isinstance(model, SequenceBlend):
        assert diary is not None
        blend = model.unfitted(diary.sequence, diary.events(until=until), table[TIME])
        blend.fit(table.select(*names, TIME, "label"), target="label", feature_hashes=hashes)
        return Trained(
            model=blend,
            num_rows=table.height,
            num_bad=int(table["label"].sum()),
            metrics=dict(blend.held_out["blend"]),
            table_seconds=tabulated - started,
            fit_seconds=perf_counter() - tabulated,
            parts={name: found for name, found in blend.held_out.items() if name != "blend"},
        )
    model = model if model is not None else EasyML()
    metrics: dict[str, float | None] = {}
    split = round(table.height * (1 - test_share))
    past = table[:split].select(*names, "label")
    future = table[split:].select(*names, "label")
    if _is_learnable(past) and _is_learnable(future):
        model.fit(past, target="label")
        metrics = summary(future["label"].to_numpy(), model.score(future))
    learnable = table.select(*names, "label")
    model.fit(learnable, target="label", feature_hashes=hashes)
    return Trained(
        model=model,
        num_rows=table.height,
        num_bad=int(table["label"].sum()),
        metrics=metrics,
        table_seconds=tabulated - started,
        fit_seconds=perf_counter() - tabulated,
    )


def _is_learnable(table: pl.DataFrame) -> bool:
    """Whether there are enough rows of both classes to fit and to judge."""
    num_bad = int(table["label"].sum())
    return table.height >= 20 and 2 <= num_bad <= table.height - 2

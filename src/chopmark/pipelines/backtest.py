"""A backtest on real events: files to the log, the log to a model, the model to live traffic.

It answers three questions at once: what each group of features adds, whether the model holds
up later in time, and whether live traffic gets the very scores that training promised.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl

from chopmark.engine import Application
from chopmark.errors import InvalidTable
from chopmark.events import Event, EventLog, type_name
from chopmark.events.ingest import Source, ingest
from chopmark.features import Feature, Label, training_table
from chopmark.models.metrics import summary
from chopmark.models.splits import stratified
from chopmark.pipelines.folder import DataFolder
from chopmark.tabular import EasyML


@dataclass(frozen=True, slots=True)
class Step:
    """Metrics with one more group of features.

    Attributes
    ----------
    random : dict
        Means over random splits, 70 % to learn from.
    later : dict
        Of the last 30 % in time, learned from the first 70 %.
    """

    name: str
    random: dict[str, float]
    later: dict[str, float]


@dataclass(frozen=True, slots=True)
class Live:
    """The last 30 % in time as live traffic.

    Attributes
    ----------
    metrics : dict
    num_decisions, num_differing : int
        Decisions made, and how many scores differ by a bit from those of the training table.
    latency_us : tuple of float
        Median and 99th percentile of `Engine.assess`.
    """

    metrics: dict[str, float]
    num_decisions: int
    num_differing: int
    latency_us: tuple[float, float]


def backtest(
    application: Application,
    label: Label,
    sources: Sequence[Source],
    *,
    rows: str = "purchase",
    steps: Mapping[str, Sequence[Feature]],
    num_splits: int = 3,
) -> Iterator[Step | Live]:
    """Judge groups of features on one log, then replay its last part live.

    Parameters
    ----------
    sources : sequence of Source
        Events and label events; merged in the order in which they were known.
    rows : str
        Event type to score.
    steps : mapping of str to features
        Each step adds its features to those of the steps before.
    num_splits : int
        Random splits, with seeds from 0 on.

    Yields
    ------
    Step for each step, then Live.
    """
    catalog = application.catalog
    with TemporaryDirectory() as path:
        folder = DataFolder(Path(path))
        with folder.open_log(application) as log:
            ingest(log, catalog.schema, folder.vault(), sources)
            table = training_table(catalog, _batches(log), rows=[rows], label=label)
        columns: list[str] = []
        for name, features in steps.items():
            columns += [feature.name for feature in features]
            yield _judge(name, table.select(*columns, "label"), num_splits=num_splits)
        hashes = {name: catalog.hashes[name] for name in columns}
        split = _split(table)
        model = EasyML().fit(table[:split].select(*columns, "label"), target="label",
                             feature_hashes=hashes)  # fmt: skip
        yield _live(application, folder, model, table[split:], rows=rows)


def _judge(name: str, table: pl.DataFrame, *, num_splits: int) -> Step:
    target = table["label"].to_numpy()
    results = []
    for seed in range(num_splits):
        split = stratified(target, test_share=0.3, seed=seed)
        model = EasyML().fit(table[split.train], target="label")
        results.append(summary(target[split.test], model.score(table[split.test])))
    past, future = table[: _split(table)], table[_split(table) :]
    later = EasyML().fit(past, target="label").score(future)
    return Step(
        name=name,
        random={key: float(np.mean([result[key] for result in results])) for key in results[0]},
        later=_known(summary(future["label"].to_numpy(), later)),
    )


def _live(
    application: Application, past: DataFolder, model: EasyML, future: pl.DataFrame, *, rows: str
) -> Live:
    """Every event of the log again, as live traffic over a log of its own."""
    promised = dict(zip(future["event_id"], model.score(future).tolist(), strict=True))
    labels = dict(future.select("event_id", "label").iter_rows())
    live = DataFolder(past.path / "live")
    model.save(live.model)
    engine = live.open_engine(application, trust_known_at=True)
    engine.warm()
    decisions = []
    with past.open_log(application) as log:
        for batch in _batches(log):
            for event in batch:
                if type_name(event) == rows and event.id in promised:
                    decisions.append(engine.assess(event).decision)
                else:
                    engine.observe(event)
            engine.log.sync()
    engine.log.close()
    scores = [decision.score for decision in decisions]
    p50, p99 = np.percentile([decision.latency_us for decision in decisions], [50, 99]).tolist()
    target = np.array([labels[decision.about] for decision in decisions], dtype=np.float64)
    return Live(
        metrics=_known(summary(target, np.array(scores, dtype=np.float64))),
        num_decisions=len(decisions),
        num_differing=sum(decision.score != promised[decision.about] for decision in decisions),
        latency_us=(p50, p99),
    )


def _batches(log: EventLog) -> Iterator[list[Event]]:
    for batch in log.read():
        yield [event for _, event in batch]


def _split(table: pl.DataFrame) -> int:
    if table.height < 100:
        raise InvalidTable(f"expected at least 100 labelled rows to judge, got {table.height}")
    return round(table.height * 0.7)


def _known(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: float("nan") if value is None else value for name, value in metrics.items()}

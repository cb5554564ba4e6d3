"""The whole loop on simulated data: simulate, learn from the past, live through the rest.

The log holds what an exchange would know on the day of the model; from then on every event
goes through `Engine.assess` or `Engine.observe` exactly as live traffic would, and the
truth that only the simulator knows judges the decisions.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice

import numpy as np
import polars as pl

from chopmark.datasets import Simulation, simulate
from chopmark.decisions import Decision
from chopmark.engine import Application
from chopmark.events import Event
from chopmark.events.log import EventLog
from chopmark.events.personal import Vault
from chopmark.features import training_table
from chopmark.features.columns import known_instant
from chopmark.features.eventlists import as_served
from chopmark.models.metrics import fraud_rate, summary
from chopmark.pipelines.exchange import LABEL
from chopmark.times import DAY

DECIDED = frozenset({"purchase"})
"""Event types whose decisions the demo judges by the truth."""

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Scale:
    """How much to simulate.

    Attributes
    ----------
    live_days : int
        The last days, which the model has not seen.
    fraud_scale : float
        More fraud than a real exchange has, so that a small demo holds enough of it.
    """

    num_users: int = 3000
    days: int = 210
    live_days: int = 60
    fraud_scale: float = 3.0


QUICK = Scale(num_users=700, days=180, live_days=40, fraud_scale=4.0)
"""For a smoke test of the whole loop in seconds."""


@dataclass(frozen=True, slots=True)
class Past:
    """A simulation cut in two at the day of the model."""

    simulation: Simulation
    num_past: int
    events: Iterator[Event]


def simulated(scale: Scale, *, seed: int = 0, end: datetime | None = None) -> Past:
    """A simulation up to now, and its events, of which the first are the past.

    Parameters
    ----------
    end : datetime, optional
        When it ends instead, with a time zone: the week's rhythm makes other events of
        another end.
    """
    end = end if end is not None else datetime.now(UTC).replace(minute=0, second=0, microsecond=0)
    start = end - timedelta(days=scale.days)
    simulation = simulate(
        num_users=scale.num_users,
        days=scale.days,
        seed=seed,
        start=start,
        fraud_scale=scale.fraud_scale,
        settle=False,
    )
    cut = simulation.end - scale.live_days * DAY
    num_past = sum(known_instant(event) <= cut for event in simulation.events())
    return Past(simulation, num_past, simulation.events())


def fill(
    log: EventLog, vault: Vault, events: Iterator[Event], *, count: int, on_progress: Progress
) -> None:
    """Append the first events to the log, in groups with one commit each."""
    done = 0
    while batch := list(islice(events, min(5_000, count - done))):
        for event in batch:
            log.append(vault.seal(event, log.schema))
        log.sync()
        done += len(batch)
        on_progress(done)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model and the limits did in the days that the model had not seen.

    Attributes
    ----------
    metrics : dict
        Of the scores against the truth of each purchase.
    volume_usd, losses_usd : tuple of float
        Without and with limits: money bought for, and the fraudulent part of it.
    honest_share : float
        Share of the honest volume that was allowed.
    latency_us : tuple of float
        Median and 99th percentile of `Engine.assess`, without the commit.
    differing_values : int
        Feature values that a training table made from the log afterwards has otherwise.
    num_values : int
        Feature values compared.
    """

    num_purchases: int
    num_fraudulent: int
    metrics: dict[str, float | None]
    volume_usd: tuple[float, float]
    losses_usd: tuple[float, float]
    honest_share: float
    latency_us: tuple[float, float]
    differing_values: int
    num_values: int

    def fraud_rates(self) -> tuple[float, float]:
        """Losses over volume, without and with limits (row E7)."""
        without = fraud_rate([self.losses_usd[0]], [self.volume_usd[0]])
        return without, fraud_rate([self.losses_usd[1]], [self.volume_usd[1]])


def judge(
    application: Application, log: EventLog, simulation: Simulation, decisions: Sequence[Decision]
) -> Outcome:
    """Compare decisions with the truth, and their feature values with a training table."""
    truth = dict(simulation.purchase_truth.select("id", "is_fraud").iter_rows())
    amounts = dict(simulation.frame("purchase").select("id", "amount_usd").iter_rows())
    fraud = np.array([truth[decision.about] for decision in decisions])
    asked = np.array([amounts[decision.about] for decision in decisions])
    allowed = np.array([decision.allowed_usd for decision in decisions])
    latencies = np.array([decision.latency_us for decision in decisions])
    scores = np.array([np.nan if one.score is None else one.score for one in decisions])
    differing, num_values = _compare_with_training(application, log, decisions)
    p50, p99 = np.percentile(latencies, [50, 99]).tolist()
    return Outcome(
        num_purchases=len(decisions),
        num_fraudulent=int(fraud.sum()),
        metrics=summary(fraud.astype(float), scores),
        volume_usd=(float(asked.sum()), float(allowed.sum())),
        losses_usd=(float(asked[fraud].sum()), float(allowed[fraud].sum())),
        honest_share=float(allowed[~fraud].sum() / asked[~fraud].sum()),
        latency_us=(p50, p99),
        differing_values=differing,
        num_values=num_values,
    )


def _compare_with_training(
    application: Application, log: EventLog, decisions: Sequence[Decision]
) -> tuple[int, int]:
    """Count the values of served rows that differ from the rows of a training table."""
    catalog = application.catalog
    batches = ([event for _, event in batch] for batch in log.read())
    table = training_table(catalog, batches, rows=sorted(DECIDED), label=LABEL, immature=True)
    served = pl.DataFrame({"event_id": [decision.about for decision in decisions]})
    table = served.join(table, on="event_id", how="left", maintain_order="left")
    differing = 0
    for place, output in enumerate(catalog.outputs):
        trained = table[output.name].to_list()
        if output.kind == "sequence":
            trained = [as_served(value) for value in trained]
        given = [decision.values[place] for decision in decisions]
        differing += sum(a != b for a, b in zip(given, trained, strict=True))
    return differing, len(decisions) * len(catalog.outputs)

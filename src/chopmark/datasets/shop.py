"""The e-commerce fraud data as events: sign-ups, purchases, and reports of what was fraud.

Its files (`load_events("ecommerce_fraud")`) do not ship; see `chopmark.datasets.tables` for
the folder. An account signs up once and buys once. Serves rows A1, B1 and A17.
"""

from datetime import timedelta
from typing import Annotated

import polars as pl

from chopmark.datasets.tables import load_events
from chopmark.events.event import Entity, Event, Usd
from chopmark.events.ingest import Source


class SignUp(Event):
    """An account is opened."""

    user: Annotated[str, Entity("user")]
    device: Annotated[str, Entity("device")]
    source: str
    browser: str
    sex: str
    age: int


class Purchase(SignUp):
    """The account's one purchase."""

    amount_usd: Usd


class FraudReport(Event):
    """The purchase was fraud; the data do not say when that was known, so: after their end."""

    user: Annotated[str, Entity("user")]


EVENT_TYPES = (SignUp, Purchase, FraudReport)
"""All event types of the shop."""


def sources() -> list[Source]:
    """What to ingest: the events, and a report of each fraudulent user a day after the end.

    Raises
    ------
    InvalidInput
        If the data folder lacks the files.
    """
    found = load_events("ecommerce_fraud")
    end = found.events.select(pl.col("happened_at").max() + timedelta(days=1)).item()
    bad = found.labels.filter(pl.col("y_fraud") == 1).select("user_id", happened_at=pl.lit(end))
    names = {"event_type": "type", "user_id": "user", "device_id": "device"}
    reports = Source(data=bad, event_type="fraud_report", mapping={"user_id": "user"})
    return [Source(data=found.events, mapping=names), reports]

"""Payment fraud on real events: what a model of single rows cannot see, the log can.

51,689 people of an online shop sign up once and buy once; 9 % turn out to be fraud. Most of
them share a device with others, which no row says and every window over the device does.

    CHOPMARK_DATA=path/to/data chopmark backtest recipes/payment_fraud.py
"""

from datetime import timedelta
from itertools import chain
from typing import Annotated

import polars as pl

from chopmark import (
    Aggregate,
    Application,
    Catalog,
    Decision,
    Derived,
    Entity,
    Event,
    Label,
    Schema,
    Usd,
    aggregates,
)
from chopmark.datasets import load_events
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


steps = {
    "the row alone": [Derived(name) for name in ("amount_usd", "source", "browser", "sex", "age")],
    "and the account's age": [Aggregate("sign_up", "seconds_since_first")],
    "and the device's past": [
        *aggregates(("sign_up", "purchase"), by=["device"], windows=["10m", "1h", "1d", "90d"]),
        *aggregates("sign_up", by=["device"], ops=["distinct"], of="user", windows=["90d"]),
        *aggregates("sign_up", by=["device"], ops=["seconds_since_first", "seconds_since_last"]),
    ],
}
spent = Aggregate("decision", "sum", of="allowed_usd", window="7d")
schema = Schema(SignUp, Purchase, FraudReport, Decision)
application = Application(Catalog(schema, *chain(*steps.values()), spent))
label = Label(events=("fraud_report",), matures="1d")


def sources() -> list[Source]:
    """The events, and a report of each fraudulent user one day after the end."""
    found = load_events("ecommerce_fraud")
    end = found.events["happened_at"].max() + timedelta(days=1)
    bad = found.labels.filter(pl.col("y_fraud") == 1).select("user_id", happened_at=pl.lit(end))
    names = {"event_type": "type", "user_id": "user", "device_id": "device"}
    reports = Source(data=bad, event_type="fraud_report", mapping={"user_id": "user"})
    return [Source(data=found.events, mapping=names), reports]

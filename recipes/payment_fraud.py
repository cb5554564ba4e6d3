"""Payment fraud on real events: what a model of single rows cannot see, the log can.

51,689 people of an online shop sign up once and buy once; 9 % turn out to be fraud. Most of
them share a device with others, which no row says and every window over the device does.

    CHOPMARK_DATA=path/to/data chopmark backtest recipes/payment_fraud.py
"""

from itertools import chain

from chopmark import Aggregate, Application, Catalog, Decision, Derived, Label, Schema, aggregates
from chopmark.datasets import shop
from chopmark.events.ingest import Source

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
schema = Schema(*shop.EVENT_TYPES, Decision)
application = Application(Catalog(schema, *chain(*steps.values()), spent))
label = Label(events=("fraud_report",), matures="1d")


def sources() -> list[Source]:
    """The events, and a report of each fraudulent user one day after the end."""
    return shop.sources()

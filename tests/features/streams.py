"""Streams of events to be hard on the fold: drawn by hypothesis, or shaped against one part."""

from datetime import timedelta

import numpy as np
from hypothesis import strategies as st

from chopmark.features import Aggregate, Catalog, Lookup, aggregates
from chopmark.times import EPOCH

from .exchange import SCHEMA, Chargeback, Purchase, Signup

START = EPOCH + timedelta(days=10_000)
STEPS = [0, 1, 59, 599, 600, 601, 3_599, 3_600, 3_601, 86_400, 7_775_999, 7_776_000, 20_000_000]
"""Seconds between events: equal times, exactly one window, one second beside, long gaps."""
LATE = [0, 1, 599, 600, 601, 3_600, 86_400, 7_776_000, -30]
AMOUNTS = [0.0, 0.01, 10.0, 49.99, 50.0, 99.99, 1e6, 1e10]
OPERATIONS = ("count", "sum", "mean", "min", "max", "distinct", "last")

SMALL = Catalog(
    SCHEMA,
    *aggregates("purchase", ops=OPERATIONS, of="temperature", windows=("10m", "1h", "1d", None)),
    Aggregate("purchase", "std", of="temperature", window="1h"),
    Aggregate("purchase", "distinct", of="device", window="1h"),
    Aggregate("purchase", "distinct", of="device", window="1d"),
    Aggregate("purchase", "seconds_since_last"),
    Lookup("purchase", "rail"),
)
"""All operations over one number that may be missing and below zero, and over a text."""


def made(entries):
    """Events of drawn entries: steps in time, lateness, kind, who, and values."""
    known, events = START, []
    for position, (step, late, kind, user, device, amount, temperature, name) in enumerate(entries):
        known += timedelta(seconds=step)
        about = {
            "id": f"e{position}",
            "happened_at": known - timedelta(seconds=late),
            "known_at": known,
            "user": user,
        }
        if kind == "signup":
            events.append(Signup(**about, device=device, name=name, country=device))
        elif kind == "purchase":
            rail = {None: None, "d0": "card"}.get(device, "bank")
            events.append(
                Purchase(**about, device=device, amount_usd=amount, temperature=temperature,
                         rail=rail, name=name, guest=step % 2 == 1)
            )  # fmt: skip
        else:
            events.append(Chargeback(**about, amount_usd=amount, kind="fraud" if late else "other"))
    return events


drawn_streams = st.lists(
    st.tuples(
        st.sampled_from(STEPS),
        st.sampled_from(LATE),
        st.sampled_from(["signup", "purchase", "purchase", "purchase", "chargeback"]),
        st.sampled_from(["u0", "u1", "é"]),
        st.sampled_from([None, "d0", "d1"]),
        st.sampled_from(AMOUNTS),
        st.sampled_from([None, -1e6, -273.15, -0.001, 0.0, 0.001, 36.6, 1e6]),
        st.sampled_from([None, "", "Ann Lee", "ann  lee!", "Bo"]),
    ),
    min_size=1,
    max_size=35,
).map(made)


def of_values(values, *, step=20.0, late=None, user="hot", devices=None):
    """Purchases of one user with these temperatures, some seconds apart."""
    known, events = START, []
    for position, value in enumerate(values):
        known += timedelta(seconds=step)
        behind = 0.0 if late is None else float(late[position])
        events.append(
            Purchase(
                id=f"e{position}",
                happened_at=known - timedelta(seconds=behind),
                known_at=known,
                user=user,
                amount_usd=1.0,
                temperature=None if value is None else round(float(value), 3),
                device=None if devices is None else devices[position],
                rail="card" if position % 2 else "bank",
            )
        )
    return events


def shapes(num_events):
    """Sequences against monotone lists: name to values."""
    random = np.random.default_rng(3)
    steady = np.arange(num_events)
    return {
        "rising": steady,
        "falling": -steady,
        "zigzag": np.where(steady % 2, steady, -steady),
        "narrowing": np.where(steady % 2, num_events - steady, steady - num_events),
        "equal": np.zeros(num_events),
        "plateaus": steady // 7,
        "waves": np.round(100 * np.sin(steady / 5), 1),
        "few": random.integers(0, 4, num_events),
        "with holes": [None if i % 3 == 0 else float(i % 11) for i in range(num_events)],
    }

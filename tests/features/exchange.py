"""A small made-up exchange whose events are awkward on purpose."""

from datetime import timedelta
from typing import Annotated, Literal

import numpy as np

from chopmark.events import Entity, Event, Moment, Number, Schema, Usd
from chopmark.features import (
    Aggregate,
    Catalog,
    Derived,
    LabelRate,
    Lookup,
    Similarity,
    aggregates,
    share,
)
from chopmark.times import EPOCH


class Signup(Event):
    """A new user."""

    user: Annotated[str, Entity("user")]
    device: Annotated[str, Entity("device")] | None = None
    country: str | None = None
    name: str | None = None
    born_at: Moment | None = None


class Purchase(Event):
    """A purchase."""

    user: Annotated[str, Entity("user")]
    device: Annotated[str, Entity("device")] | None = None
    amount_usd: Usd
    temperature: Annotated[float, Number(3)] | None = None
    rail: Literal["card", "bank"] | None = None
    name: str | None = None
    guest: bool = False


class Chargeback(Event):
    """A reversal."""

    user: Annotated[str, Entity("user")]
    amount_usd: Usd
    kind: str = "fraud"


SCHEMA = Schema(Signup, Purchase, Chargeback)
WINDOWS = ("10m", "1h", "1d", "90d")
STATEFUL = [
    *aggregates(
        "purchase",
        by=("user", "device", "everyone"),
        ops=("count", "sum", "mean", "min", "max", "std", "distinct", "last",
             "seconds_since_last", "seconds_since_first"),
        of="amount_usd",
        windows=(*WINDOWS, None),
    ),
    *aggregates(
        "purchase",
        ops=("sum", "mean", "min", "max", "std", "last"),
        of="temperature",
        windows=("1h", None),
    ),
    *aggregates(
        ("signup", "purchase"), by=("device",), ops=("distinct", "last"), of="user", windows=WINDOWS
    ),
    Aggregate("purchase", "sum", of="guest", window="1d"),
    Aggregate("purchase", "distinct", of="rail"),
    Aggregate("purchase", "distinct", by="device", of="rail", window="1h"),
    Aggregate(
        "purchase", "sum", of="amount_usd", window="1d",
        where="rail == 'card' and amount_usd >= 50",
    ),
    Aggregate("purchase", "count", by="device", where="not guest or temperature > 0"),
    Lookup("signup", "country"),
    Lookup("signup", "name"),
    Lookup("signup", "born_at"),
    Lookup("purchase", "amount_usd", by="device"),
    LabelRate("chargeback", of="device", event=("signup", "purchase"), delay="1h"),
    LabelRate(
        "chargeback", of="device", event="purchase", delay="10m", where="kind == 'fraud'"
    ),
]  # fmt: skip
DERIVED = [
    Derived("amount_usd"),
    Derived("rail"),
    Derived("name", "given_name"),
    Derived("signup_country", "home"),
    Derived("amount_usd / purchase_amount_usd_mean_1d", "ratio"),
    Derived("ratio > 2 and not missing(signup_country)", "unusual"),
    Derived("(as_of - signup_born_at) / 86400", "age_days"),
    Derived("hour(happened_at)"),
    Derived("0 if missing(purchase_amount_usd_last_1h) else log1p(amount_usd)", "logged"),
    share("purchase", of="device", window="1h", baseline="1d"),
    Similarity("name", "signup_name"),
    Similarity("name", "signup_name", "levenshtein"),
    Similarity("name", "signup_name", "jaro_winkler"),
    Derived("1 - name_vs_signup_name_jaccard", "mismatch"),
]
CATALOG = Catalog(SCHEMA, *STATEFUL, *DERIVED)


def awkward_events(num_events: int, seed: int, *, num_users: int = 3) -> list[Event]:
    """Events of few users that are late, equal in time, exactly a window old, or missing."""
    random = np.random.default_rng(seed)
    steps = [0, 0, 1, 59, 599, 600, 601, 3600, 3599, 40_000, 86_400, 2_000_000]
    late = [0, 0, 0, 0, 1, 300, 600, 3600, 90_000, 8_000_000]
    known = EPOCH + timedelta(days=10_000)
    events: list[Event] = []
    for position in range(num_events):
        known += timedelta(seconds=int(random.choice(steps)))
        happened = known - timedelta(seconds=int(random.choice(late)))
        if random.random() < 0.05:  # a clock ahead of ours
            happened = known + timedelta(seconds=30)
        about = {
            "id": f"e{position}",
            "happened_at": happened,
            "known_at": known,
            "user": f"u{random.integers(num_users)}",
        }
        kind = random.random()
        device = None if random.random() < 0.2 else f"d{random.integers(2)}"
        name = random.choice(["Ann Lee", "ann  lee!", "Bo", "Marie Ann Lee", ""])
        amount = float(random.choice([0, 0.01, 10, 50, 99.99, 1e6, 49.995 + 0.005]))
        if kind < 0.2:
            events.append(
                Signup(**about, device=device, name=name, country=random.choice(["DE", "FR"]),
                       born_at=None if random.random() < 0.3 else EPOCH + timedelta(days=9000))
            )  # fmt: skip
        elif kind < 0.9:
            temperature = None if random.random() < 0.5 else float(random.integers(-3000, 3000)) / 8
            rail = None if random.random() < 0.2 else str(random.choice(["card", "bank"]))
            events.append(
                Purchase(**about, device=device, amount_usd=amount, temperature=temperature,
                         rail=rail, name=None if random.random() < 0.2 else name,
                         guest=bool(random.random() < 0.5))
            )  # fmt: skip
        else:
            events.append(
                Chargeback(
                    **about, amount_usd=amount, kind=str(random.choice(["fraud", "quality"]))
                )
            )
    return events

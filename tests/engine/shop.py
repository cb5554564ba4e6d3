"""A small application, its events, a scorer made by hand, and a log that fails when told."""

from datetime import timedelta
from pathlib import Path
from typing import Annotated

import numpy as np

from chopmark.decisions import Decision, LimitCurve, Policy
from chopmark.engine import Application, Engine
from chopmark.errors import LogUnavailable
from chopmark.events import (
    Entity,
    Event,
    Identifier,
    MemoryLog,
    Personal,
    Schema,
    SqliteLog,
    Usd,
    Vault,
)
from chopmark.features import Aggregate, Catalog, Derived, LabelRate, Lookup, Similarity, aggregates
from chopmark.times import EPOCH


class Signup(Event):
    user: Annotated[str, Entity("user")]
    device: Annotated[str, Entity("device")] | None = None
    name: Annotated[str, Personal()] | None = None
    country: str | None = None


class Purchase(Event):
    user: Annotated[str, Entity("user")] | None = None
    device: Annotated[str, Entity("device")] | None = None
    card: Annotated[str, Entity("card"), Identifier()] | None = None
    holder: Annotated[str, Personal()] | None = None
    amount_usd: Usd


class Chargeback(Event):
    user: Annotated[str, Entity("user")]


class Heartbeat(Event):
    load: float = 0.0


SCHEMA = Schema(Signup, Purchase, Chargeback, Heartbeat, Decision)
FEATURES = [
    Derived("amount_usd"),
    *aggregates("purchase", ops=("count", "sum", "mean", "max"), of="amount_usd",
                windows=("1h", "7d", None)),
    Aggregate("purchase", "distinct", by="card", of="user", window="30d"),
    Aggregate("purchase", "count", by="device", window="1d"),
    LabelRate("chargeback", of="device", event=("signup", "purchase"), delay="1d"),
    Lookup("signup", "country"),
    Lookup("signup", "name"),
    Similarity("holder", "signup_name"),
    Aggregate("decision", "sum", of="allowed_usd", window="7d"),
    Aggregate("decision", "count", window="1h"),
]  # fmt: skip
POLICY = Policy(curve=LimitCurve(((0.0, 500.0), (0.5, 50.0), (1.0, 5.0))))
APPLICATION = Application(Catalog(SCHEMA, *FEATURES), POLICY)
VAULT = Vault(bytes(range(32)))
DECIDED = frozenset({"purchase"})


class HandScorer:
    """A logistic function of two features; `breaks` makes it fail in some way."""

    hash = "hand-made"
    bias = -1.0

    def __init__(self, catalog=APPLICATION.catalog, *, breaks=None):
        self.reads = ("amount_usd", "purchase_count_1h")
        self.feature_hashes = {name: catalog.hashes[name] for name in self.reads}
        self.breaks = breaks

    def explain_row(self, values):
        if self.breaks is not None:
            return self.breaks()
        amount, count = (0.0 if value is None else float(value) for value in values)
        parts = np.array([amount / 100.0 - 1.0, count / 2.0])
        return 1.0 / (1.0 + np.exp(-(self.bias + parts.sum()))).item(), parts

    def score_row(self, values):
        return self.explain_row(values)[0]

    def warm(self):
        self.score_row([None, None])


class FlakyLog:
    """A log in memory that fails as a disk does: what was staged is gone until `recover`."""

    def __init__(self, schema):
        self.schema = schema
        self.inner = MemoryLog(schema)
        self.fails = ""
        self.refuses = False

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def __len__(self):
        return len(self.inner)

    def append(self, *events):
        self._fail_at("append")
        return self.inner.append(*events)

    def append_encoded(self, group):
        self._fail_at("append")
        return self.inner.append_encoded(group)

    def sync(self):
        self._fail_at("sync")
        return self.inner.sync()

    def recover(self):
        self.refuses = False
        return self.inner.recover()

    def _fail_at(self, place):
        if self.refuses or self.fails == place:
            self.fails, self.refuses = "", True
            durable = [event for batch in self.inner.read() for _, event in batch]
            self.inner = MemoryLog(self.schema)
            for event in durable:
                self.inner.append(event)
            self.inner.sync()
            raise LogUnavailable(f"the disk failed at {place}")


def engine(*, log=None, scorer=None, application=APPLICATION, trust_known_at=True):
    log = log if log is not None else MemoryLog(application.catalog.schema)
    return Engine(application, log=log, vault=VAULT, scorer=scorer, trust_known_at=trust_known_at)


def opened(folder):
    """The engine of a folder, as an installation opens it."""
    folder = Path(folder)
    one = engine(log=SqliteLog(folder / "log.sqlite", SCHEMA), scorer=HandScorer())
    one.recover(folder / "state.npz")
    return one


def at(seconds):
    return EPOCH + timedelta(days=10_000, seconds=seconds)


def purchase(name, seconds, *, user="ann", amount=10.0, known=True, **fields):
    when = at(seconds)
    return Purchase(
        id=name, happened_at=when, known_at=when if known else None, user=user,
        amount_usd=amount, **fields,
    )  # fmt: skip


def traffic(num_events, seed=0):
    """Events of a few users, in order."""
    random = np.random.default_rng(seed)
    seconds, events = 0, []
    for number in range(num_events):
        seconds += int(random.choice([0, 1, 60, 3_600, 40_000]))
        user, device = f"u{random.integers(6)}", f"d{random.integers(3)}"
        kind = random.random()
        about = {"id": f"e{number}", "happened_at": at(seconds), "known_at": at(seconds)}
        if kind < 0.15:
            events.append(
                Signup(**about, user=user, device=device, name=f"Ann {user}", country="DE")
            )
        elif kind < 0.9:
            amount = round(float(random.lognormal(3, 1)), 2)
            card = f"4111 {number % 4}"
            events.append(
                Purchase(**about, user=user, device=device, card=card, holder=f"Ann {user}",
                         amount_usd=amount)
            )  # fmt: skip
        elif kind < 0.95:
            events.append(Chargeback(**about, user=user))
        else:
            events.append(Heartbeat(**about, load=0.5))
    return events


def run(one, events, *, sync_every=16):
    """Assess purchases and observe the rest; the decisions."""
    decisions = []
    for number, event in enumerate(events, start=1):
        if isinstance(event, Purchase):
            decisions.append(one.assess(event).decision)
        else:
            one.observe(event)
        if number % sync_every == 0:
            one.log.sync()
    one.log.sync()
    return decisions


def timeless(decisions):
    """Decisions without the one field that a replay does not repeat."""
    return [
        {name: value for name, value in _fields(decision).items() if name != "latency_us"}
        for decision in decisions
    ]


def _fields(decision):
    return {name: getattr(decision, name) for name in decision.__struct_fields__}

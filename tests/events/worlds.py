"""Event types and strategies that the tests of this folder share."""

from typing import Annotated

from hypothesis import strategies as st

from chopmark.events import Entity, Event, Identifier, Schema, Usd
from chopmark.times import moment

START = 1_700_000_000_000_000


class Purchase(Event):
    user: Annotated[str, Entity("user")]
    card: Annotated[str, Entity("card"), Identifier()] | None = None
    amount_usd: Usd = 0.0
    country: str | None = None


class Withdrawal(Event):
    user: Annotated[str, Entity("user")]
    account: Annotated[str, Entity("account"), Identifier()] | None = None
    ssn: Annotated[str, Identifier()] | None = None
    paid_card: Annotated[str, Entity("card"), Identifier()] | None = None


class Decision(Event):
    user: Annotated[str, Entity("user")]
    score: float = 0.0


class Tick(Event):
    count: int = 0


SCHEMA = Schema(Purchase, Withdrawal, Decision, Tick)

# JSON in UTF-8 has no lone surrogates.
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)


def pair(name: str, *, at: int = START, user: str = "ann") -> tuple[Purchase, Decision]:
    """An event and the decision that answers it."""
    when = moment(at)
    return (
        Purchase(id=name, happened_at=when, known_at=when, user=user, amount_usd=1.25),
        Decision(id=f"decision:{name}", happened_at=when, known_at=when, user=user, score=0.5),
    )

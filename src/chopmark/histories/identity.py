"""Which fields may be tokens: those that say what was done, not who did it.

A network that learns to tell whether two windows are of one user takes the easiest way. Where
a token is the user's own (an account, a device, a home shop), it learns that token, is right
nearly always, and has learned nothing that helps elsewhere. So two things are estimated per
field, over the sampled users of a sketch, each user with equal weight:

    within    two events of one user share their value
    between   two events of two users share their value

With n_u events of user u and s_u the sum of the random signs of its values, E s_u^2 is the
number of pairs that share a value:

    within  = mean over users of (s_u^2 - n_u) / (n_u (n_u - 1))
    between = ((sum_u s_u / n_u)^2 - sum_u (s_u / n_u)^2) / (U (U - 1))

A field is refused where it has more than 50 values and

    personal       the schema says that it is personal, or that it names an entity
    near unique    at least half of the events have a value of their own (of a number: whole
                   numbers, nine in ten of their own, which is a serial number)
    user-constant  within >= 0.5 and between <= 0.02: of a hundred users at most two look alike
    owned          within >= 500 between: in a crowd of 500 users a shared value points to the
                   same user rather than to any other (sessions, baskets, counterparties)

The type is never refused, nor is a field with up to 50 values: a country is constant within a
user, and tells little of who it is. Below 20 users with two events nothing is said of the last
two. A user-constant field of few values still makes the pre-training task a little easier;
`Identity` shows by how much. Serves row G6 of the requirements.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from chopmark.events.schema import Schema
    from chopmark.histories.sketch import Pulls, Sketch

FEW_VALUES = 50
FEW_USERS = 20
CONSTANT = 0.5
COINCIDENCE = 0.02
CROWD = 500
UNIQUE = 0.5
SERIAL = 0.9


@dataclass(frozen=True, slots=True)
class Identity:
    """How much a field says of who the user is.

    Attributes
    ----------
    distinct : int
        Number of values: exact up to 2,048, beyond within a few per cent.
    present : int
        Events with a value.
    users : int
        Sampled users with at least two values, on whom the rest stands.
    within, between : float
        Probability that two events share their value: of one user, of two users. NaN where
        there are too few users.
    """

    distinct: int
    present: int
    users: int
    within: float
    between: float
    error: float


def identity(sketch: "Sketch", field: str) -> Identity:
    """What a sketch says of a field's nearness to an identity.

    Raises
    ------
    KeyError
        If the sketch has no such field.
    """
    one = sketch.categories.get(field) or sketch.numbers[field]
    return Identity(one.distinct.number, one.present, *_shares(sketch.pulls[field]))


def refusal(sketch: "Sketch", field: str) -> str | None:
    """Why a field may not be a token, by its values; None if it may."""
    if field == "type":
        return None
    told = identity(sketch, field)
    if told.distinct <= FEW_VALUES:
        return None
    own = told.distinct / told.present
    if field in sketch.categories and own >= UNIQUE:
        return (
            f"near unique: {told.distinct:,} values in {told.present:,} events, so that a token "
            "would hardly ever come back"
        )
    if field in sketch.numbers and own >= SERIAL and not sketch.numbers[field].fractions:
        return (
            f"near unique: whole numbers, {told.distinct:,} values in {told.present:,} events, "
            "as a serial number has"
        )
    if told.users < FEW_USERS:
        return None
    if told.within >= CONSTANT and told.between <= COINCIDENCE:
        return (
            f"user-constant: two events of one user share their value in {told.within:.0%} of "
            f"cases, of two users in {max(told.between, 0.0):.1%} ({told.distinct:,} values)"
        )
    if told.within > 4.0 * told.error and told.within >= CROWD * told.between:
        return (
            "owned: where two events share their value, they are of the same user rather than "
            f"of any other of {CROWD} ({told.distinct:,} values)"
        )
    return None


def personal(schema: "Schema", field: str) -> str | None:
    """Why a field may not be a token, by its declaration; None if it may."""
    declared = schema.fields.get(field)
    if declared is None:
        return None
    if declared.personal or declared.identifier:
        return "personal: the schema declares it as personal data"
    if declared.entity is not None:
        return f"an identity: the schema says that it names a {declared.entity}"
    return None


def _shares(pulls: "Pulls") -> tuple[int, float, float, float]:
    """Users with two events, within, between, standard error of within."""
    counts = pulls.counts.astype(np.float64)
    squares = np.square(pulls.sums.astype(np.float64)).mean(axis=1)
    several = counts >= 2.0
    n = counts[several]
    users = len(n)
    if users < 2:
        return users, float("nan"), float("nan"), float("nan")
    repeats = (squares[several] - n) / (n * (n - 1.0))
    some = counts > 0.0
    num = int(some.sum())
    share = pulls.sums[some] / counts[some, None]
    pairs = np.square(share.sum(axis=0)) - np.square(share).sum(axis=0)
    between = float(pairs.mean() / (num * (num - 1.0)))
    return users, float(repeats.mean()), between, float(repeats.std() / users**0.5)

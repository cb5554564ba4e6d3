"""A set where only time matters: types, counts and order tell nothing, gaps tell all.

Users do the same kinds of things equally often and in the same order, whatever their label;
the label is drawn first, as a fair coin, and decides nothing but lengths of time. So a bag of
types, and the order of types, have an ROC-AUC of exactly 0.5 in expectation. Three rules:

``age``
    1 if the last purchase lies more than three days before now. All events, with all the gaps
    between them, are drawn before the coin is thrown; only how long ago they all were depends
    on it. So whatever reads types and consecutive gaps alone, in buckets however fine, has
    0.5: the age to now has to be read. The time since the last event of any type tells a part
    (about 0.89), as the last event is never the purchase.
``returns``
    1 if the last two purchases lie more than three days apart. Elsewhere in the history lies
    a piece with as many events; one of the two takes more than three days and the other less,
    and the label says which. So the gaps alone, in whatever order and however fine, have 0.5,
    and so have the types: the gap since the same type is needed, or sums over the neighbours
    between two events of a type.
``bursts``
    1 if events come in bursts, 0 if they come regularly, over the same span. Easy for all
    that see gaps at all, 0.5 for the others.

A share ``noise`` of the labels is turned round, so no score can have an expected ROC-AUC above
``1 - noise``, and the rule itself has exactly that. Serves row G32 of the requirements.
"""

from typing import Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.datasets.sequences import INSTANT, SPLITS, SequenceData, Task
from chopmark.errors import InvalidInput
from chopmark.times import DAY, HOUR

Rule = Literal["age", "returns", "bursts"]
THRESHOLD = 3 * DAY
"""The length of time, in microseconds, that the rules ``age`` and ``returns`` ask for."""

_TYPES = ("purchase", "page_view", "price_alert", "sale", "login")
_SHARES = (0.14, 0.4, 0.16, 0.1, 0.2)
_FIRST = 1_767_225_600_000_000  # 2026-01-01
_MARGIN = (0.05, 0.35)  # how far from the threshold, in natural logarithms


def rhythm(
    num_users: int = 4000, *, rule: Rule = "age", noise: float = 0.01, seed: int = 0
) -> SequenceData:
    """Users with 24 to 64 events each, and the label of the rule; the same seed, the same set.

    Parameters
    ----------
    num_users : int, >= 10
        Split 60/15/25 into train, valid and test.
    rule : {"age", "returns", "bursts"}
        What the label depends on, as this module's head says.
    noise : float in [0, 0.5)
        Share of labels turned round; the best ROC-AUC there is, is ``1 - noise``.

    Returns
    -------
    SequenceData
        Events with the fields ``amount`` (noise). Labels with ``as_of`` (each user has an own
        now), ``y_rhythm``, ``split``. Task ``rhythm``.

    Raises
    ------
    InvalidInput
        If a number is out of range or there is no such rule.

    Examples
    --------
    >>> rhythm(100).labels["y_rhythm"].n_unique()
    2
    """
    if num_users < 10:
        raise InvalidInput(f"expected num_users of at least 10, got {num_users}")
    if not 0 <= noise < 0.5:
        raise InvalidInput(f"expected noise from 0 up to below 0.5, got {noise}")
    if rule not in get_args(Rule):
        raise InvalidInput(f"expected a rule of {', '.join(get_args(Rule))}, got `{rule}`")
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(31,)))
    draw = {"age": _age, "returns": _returns, "bursts": _bursts}[rule]
    truth = rng.random(num_users) < 0.5
    lengths = rng.integers(24, 65, num_users)
    now = _FIRST + (60 * DAY + rng.random(num_users) * 60 * DAY).astype(np.int64)
    types, times = [], []
    for user in range(num_users):
        kinds = rng.choice(len(_TYPES), p=_SHARES, size=lengths[user])
        # (n,) seconds of the gaps before each event but the first, and of the tail to now.
        gaps = draw(rng, kinds, bool(truth[user]))
        before_now = np.cumsum(gaps[::-1])[::-1]
        types.append(kinds)
        times.append(now[user] - np.round(before_now).astype(np.int64))
    kinds = np.concatenate(types)
    events = pl.DataFrame(
        {
            "user": np.repeat(np.arange(num_users), lengths),
            "happened_at": pl.Series(np.concatenate(times)).cast(INSTANT),
            "type": pl.Series(_TYPES).gather(kinds),
            "amount": np.round(rng.lognormal(3.0, 1.0, len(kinds)), 2),
        }
    )
    labels = pl.DataFrame(
        {
            "user": np.arange(num_users),
            "as_of": pl.Series(now).cast(INSTANT),
            "y_rhythm": (truth ^ (rng.random(num_users) < noise)).astype(np.int8),
            "split": pl.Series(rng.choice(SPLITS, p=(0.6, 0.15, 0.25), size=num_users)),
        }
    )
    return SequenceData(f"rhythm_{rule}", events, labels, (Task("rhythm", "y_rhythm"),))


Gaps = NDArray[np.float64]


def _age(rng: np.random.Generator, kinds: NDArray[np.int64], is_long: bool) -> Gaps:
    after = int(rng.integers(2, 11))
    gaps = _usual(rng, len(kinds))
    _last_purchase(rng, kinds, len(kinds) - 1 - after)
    # From the purchase to the last event, whatever the label.
    elapsed = THRESHOLD * rng.uniform(0.02, 0.68)
    gaps[-1 - after : -1] *= elapsed / gaps[-1 - after : -1].sum()
    gaps[-1] = _beyond(rng, is_long=is_long) - elapsed
    return gaps


def _returns(rng: np.random.Generator, kinds: NDArray[np.int64], is_long: bool) -> Gaps:
    between = int(rng.integers(3, 8))
    gaps = _usual(rng, len(kinds))
    # Two pieces of equal length; `gaps[i]` is the gap after event i, the last one the tail.
    early = int(rng.integers(0, len(kinds) - 2 * between))
    late = int(rng.integers(early + between, len(kinds) - between))
    first, other = (early, late) if rng.random() < 0.5 else (late, early)
    _last_purchase(rng, kinds, first + between)
    _last_purchase(rng, kinds[: first + between], first)
    inside, outside = slice(first, first + between), slice(other, other + between)
    gaps[inside] *= _beyond(rng, is_long=is_long) / gaps[inside].sum()
    gaps[outside] *= _beyond(rng, is_long=not is_long) / gaps[outside].sum()
    return gaps


def _bursts(rng: np.random.Generator, kinds: NDArray[np.int64], is_long: bool) -> Gaps:
    shares = rng.dirichlet(np.full(len(kinds) - 1, 0.3 if is_long else 4.0))
    return np.append(shares * rng.uniform(20, 40) * DAY, rng.exponential(DAY))


def _usual(rng: np.random.Generator, count: int) -> Gaps:
    return rng.lognormal(np.log(12 * HOUR), 0.9, count)


def _beyond(rng: np.random.Generator, *, is_long: bool) -> float:
    """A length of time above or below the threshold by a margin."""
    margin = rng.uniform(*_MARGIN)
    return float(THRESHOLD * np.exp(margin if is_long else -margin))


def _last_purchase(rng: np.random.Generator, kinds: NDArray[np.int64], place: int) -> None:
    """Let the last purchase stand at a place."""
    others = np.array(_SHARES[1:]) / sum(_SHARES[1:])
    later = kinds[place + 1 :]
    bought = later == 0
    later[bought] = rng.choice(np.arange(1, len(_TYPES)), p=others, size=int(bought.sum()))
    kinds[place] = 0

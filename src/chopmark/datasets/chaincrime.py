"""Shapes of crime on the simulated chain, and the licit things that have the same shapes.

Each shape is one function; ``illicit`` changes the rhythm, the amounts a little, and where the
money leaves the chain: through a mixer or a cash-out that several gangs share, against a deposit
at an exchange. Counts alone do not tell the two apart; whom they deal with does.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from chopmark.datasets.chainworld import DAY, HOUR, Floats, Ids, Stage

Shape = Callable[[np.random.Generator, Stage, Ids, bool], None]


def fan_in(rng: np.random.Generator, stage: Stage, members: Ids, illicit: bool) -> None:
    """A scam's victims within days, or a fund raiser; through runners to one end."""
    collector, runners, end = members[0], members[1:-1], members[-1]
    count = int(rng.integers(10, 50))
    begin = _begin(rng, stage)
    at = begin + rng.exponential((1.2 if illicit else 2.5) * DAY, count)
    amounts = rng.lognormal(np.log(0.5), 1.0, count)
    stage.paid.pay(stage.some_people(rng, count), collector, amounts, at)
    leaves = at.max() + _pause(rng, illicit, 1)[0]
    parts = rng.dirichlet(np.full(len(runners), 3.0)) * amounts.sum() * 0.99
    sent = leaves + np.cumsum(_pause(rng, illicit, len(runners)) / 4)
    stage.paid.pay(collector, runners, parts, sent)
    arrives = sent + _pause(rng, illicit, len(runners))
    stage.paid.pay(runners, end, parts * 0.99, arrives)
    _leave(rng, stage, int(end), parts.sum() * 0.97, arrives.max(), illicit)


def chain(rng: np.random.Generator, stage: Stage, members: Ids, illicit: bool) -> None:
    """Stolen coins, or somebody's move to new wallets: hop by hop, a little peeled off each."""
    begin = _begin(rng, stage)
    sources = stage.some_people(rng, 2) if illicit else rng.choice(stage.hot, size=2)
    amounts = rng.lognormal(np.log(15.0), 0.8, 2)
    stage.paid.pay(sources, members[0], amounts, begin + rng.uniform(0, HOUR, 2))
    held, at = amounts.sum(), begin + HOUR
    for here, there in pairwise(members):
        at += _pause(rng, illicit, 1)[0]
        peeled = held * rng.uniform(0.01, 0.08)
        stage.paid.pay(here, there, held - peeled - 0.001, at)
        if rng.random() < 0.6:
            stage.deposit(rng, here, peeled, at + rng.uniform(60, HOUR))
        held -= peeled + 0.001
    _leave(rng, stage, int(members[-1]), held * 0.99, at, illicit)


def collect(rng: np.random.Generator, stage: Stage, members: Ids, illicit: bool) -> None:
    """Ransoms, or yearly fees of a club: a dozen equal sums over weeks, then one way out."""
    count = int(rng.integers(5, 16))
    begin = _begin(rng, stage) * 0.8
    at = begin + np.sort(rng.uniform(0, (20 if illicit else 30) * DAY, count))
    price = rng.lognormal(np.log(3.0 if illicit else 1.5), 0.6)
    amounts = price * rng.choice([1.0, 1.0, 0.5], size=count)
    stage.paid.pay(stage.some_people(rng, count), members[0], amounts, at)
    held, now = amounts.sum(), at[-1]
    for here, there in pairwise(members):
        now += DAY * rng.uniform(0.2, 3) if here == members[0] else _pause(rng, illicit, 1)[0]
        held *= 0.995
        stage.paid.pay(here, there, held, now)
    _leave(rng, stage, int(members[-1]), held * 0.99, now, illicit)


def ring(rng: np.random.Generator, stage: Stage, members: Ids, illicit: bool) -> None:
    """Money in a circle to hide its way, or a firm that moves funds among its own wallets."""
    begin = _begin(rng, stage)
    held = float(rng.lognormal(np.log(8.0), 0.7))
    source = stage.some_people(rng, 1) if illicit else rng.choice(stage.hot, size=1)
    stage.paid.pay(source, members[0], held, begin)
    at = begin
    for lap in range(int(rng.integers(2, 5))):
        for here, there in zip(members, np.roll(members, -1), strict=True):
            at += _pause(rng, illicit, 1)[0] * (1 + 0.3 * lap)
            held *= rng.uniform(0.96, 0.995)
            stage.paid.pay(here, there, held, at)
    _leave(rng, stage, int(members[0]), held * 0.98, at, illicit)


def dust(rng: np.random.Generator, stage: Stage, members: Ids, illicit: bool) -> None:
    """Address poisoning or a faucet: next to nothing to hundreds.

    A poisoner's addresses look like ones that the target has paid, so that the next payment is
    copied to the wrong one; now and then it is.
    """
    begin = _begin(rng, stage)
    for member in members.tolist():
        count = int(rng.integers(40, 160))
        targets = stage.some_people(rng, count)
        at = begin + rng.uniform(0, (2 if illicit else 12) * DAY, count)
        stage.paid.pay(rng.choice(stage.hot), member, 0.02 * count**0.5, begin - HOUR)
        stage.paid.pay(member, targets, rng.choice([0.0, 1e-6, 1e-5], size=count), at)
        if illicit:
            stage.cast.alike[member] = int(stage.some_people(rng, 1)[0])
            wrong = rng.choice(targets, size=int(rng.integers(1, 4)))
            lost = rng.lognormal(np.log(2.0), 1.0, len(wrong))
            when = at.max() + rng.uniform(0, 3 * DAY, len(wrong))
            stage.paid.pay(wrong, member, lost, when)
            gone = when.max() + _pause(rng, illicit, 1)[0]
            _leave(rng, stage, member, lost.sum() * 0.98, gone, illicit)


SHAPES: dict[str, tuple[str, str, int, Shape]] = {
    "fan_in": ("scam", "fundraiser", 5, fan_in),
    "chain": ("theft", "migration", 7, chain),
    "collect": ("ransom", "club", 4, collect),
    "ring": ("cycle", "treasury", 6, ring),
    "dust": ("poisoning", "faucet", 2, dust),
}
"""By shape: the illicit role, the licit one, the number of addresses, how it goes."""


def share_out(rng: np.random.Generator, stage: Stage) -> None:
    """Shared cash-outs get rid of what all gangs brought them, at exchanges, day by day."""
    for place in stage.cashouts.tolist():
        for at in np.sort(rng.uniform(0.1, 1.0, 12)) * stage.span:
            stage.deposit(rng, place, rng.lognormal(np.log(4.0), 0.8), at)


def _begin(rng: np.random.Generator, stage: Stage) -> float:
    return float(rng.uniform(0.05, 0.85)) * stage.span


def _pause(rng: np.random.Generator, illicit: bool, count: int) -> Floats:
    """Seconds until one moves on: criminals hurry, yet some wait and some honest people hurry."""
    median = 1.0 * HOUR if illicit else 2.0 * HOUR
    seconds: Floats = rng.lognormal(np.log(median), 1.3, count)
    return seconds


def _leave(
    rng: np.random.Generator, stage: Stage, sender: int, amount: float, at: float, illicit: bool
) -> None:
    """The way out of the chain."""
    at += float(_pause(rng, illicit, 1)[0])
    draw = rng.random()
    if illicit and draw < 0.5:
        stage.mix(rng, sender, amount, at, rng.choice(stage.cashouts, size=2))
    elif illicit and draw < 0.85:
        stage.paid.pay(sender, rng.choice(stage.cashouts), amount, at)
    elif draw < 0.92:
        stage.deposit(rng, sender, amount, at)
    elif draw < 0.96:
        stage.mix(rng, sender, amount, at, stage.some_people(rng, 2))
    else:
        stage.paid.pay(sender, stage.some_people(rng, 1), amount, at)

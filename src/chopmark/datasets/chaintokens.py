"""Tokens on the simulated chain: honest ones, give-aways, and three ways to cheat with one.

A *honeypot* can be bought by everybody and sold by its makers alone. A token with an *internal
fee* takes a part of every transfer for its makers: less arrives than was sent. In a *rug pull*
trade goes well until the makers sell all they hold and empty the pool.
"""

from dataclasses import dataclass

import numpy as np

from chopmark.datasets.chainworld import DAY, HOUR, Floats, Ids, Payments, Stage

KINDS = ("licit", "airdrop", "honeypot", "internal_fee", "rug_pull")
SCAMS = frozenset({"honeypot", "internal_fee", "rug_pull"})


@dataclass(slots=True, kw_only=True)
class Token:
    """One token: its number, what it is, and the addresses of contract, pool and makers."""

    number: int
    kind: str
    contract: int
    pool: int
    insiders: Ids
    deployed: float
    fee: float = 0.0


def play(rng: np.random.Generator, stage: Stage, token: Token) -> None:
    """Let a token be traded from the day it was deployed until the end, or until it dies."""
    paid = stage.paid
    maker = int(token.insiders[0])
    supply = 1e6
    born = token.deployed
    made = paid.pay(maker, token.contract, 0.0, born)
    paid.log(made, stage.zero, maker, supply, token.number)
    filled = paid.pay(maker, token.pool, rng.uniform(5, 20), born + 600)
    paid.log(filled, maker, token.pool, supply * 0.6, token.number)
    for other in token.insiders[1:].tolist():
        _send(paid, token, maker, other, supply * 0.05, born + 900)
    if token.kind == "airdrop":
        _give_away(rng, stage, token, maker)
    life = stage.span - born - DAY
    if token.kind in SCAMS:
        life = min(life, rng.uniform(3, 20) * DAY)
    count = int(rng.integers(25, 90))
    buyers = stage.some_people(rng, count)
    bought_at = born + HOUR + np.sort(rng.beta(1, 2, count)) * life
    coins = rng.lognormal(np.log(0.3), 0.8, count)
    units = coins * rng.uniform(900, 1100, count)
    buys = paid.pay(buyers, token.pool, coins, bought_at)
    _move(paid, token, buys, token.pool, buyers, units)
    kept = units * (1 - token.fee)
    if token.kind != "honeypot":
        _sell_some(rng, stage, token, buyers, kept, bought_at)
        _pass_on(rng, stage, token, buyers, kept, bought_at)
    if token.kind in SCAMS:
        _take(rng, stage, token, coins.sum(), born + HOUR + life)


def _move(
    paid: Payments, token: Token, payments: Ids, src: Ids | int, dst: Ids | int, units: Floats
) -> None:
    """Token transfers; of a token with a fee, a second one brings the fee to the makers."""
    paid.log(payments, src, dst, units * (1 - token.fee), token.number)
    if token.fee:
        paid.log(payments, src, token.insiders[0], units * token.fee, token.number)


def _send(
    paid: Payments, token: Token, src: Ids | int, dst: Ids | int, units: Floats | float,
    at: Floats | float,
) -> None:  # fmt: skip
    calls = paid.pay(src, token.contract, 0.0, at)
    _move(paid, token, calls, src, dst, np.asarray(units))


def _sell(
    paid: Payments, token: Token, sellers: Ids | int, units: Floats, coins: Floats, at: Floats
) -> None:
    calls = paid.pay(sellers, token.pool, 0.0, at)
    _move(paid, token, calls, sellers, token.pool, units)
    paid.pay(token.pool, sellers, coins, at + 12)


def _sell_some(
    rng: np.random.Generator, stage: Stage, token: Token, holders: Ids, held: Floats, since: Floats
) -> None:
    sells = rng.random(len(holders)) < 0.45
    units = held[sells] * rng.uniform(0.3, 0.7, int(sells.sum()))
    at = since[sells] + rng.lognormal(np.log(1.5 * DAY), 1.0, int(sells.sum()))
    _sell(stage.paid, token, holders[sells], units, units / 1000 * 0.99, at)


def _pass_on(
    rng: np.random.Generator, stage: Stage, token: Token, holders: Ids, held: Floats, since: Floats
) -> None:
    sends = rng.random(len(holders)) < 0.3
    count = int(sends.sum())
    at = since[sends] + rng.lognormal(np.log(DAY), 1.0, count)
    friends = stage.some_people(rng, count)
    _send(stage.paid, token, holders[sends], friends, held[sends] * 0.2, at)


def _give_away(rng: np.random.Generator, stage: Stage, token: Token, maker: int) -> None:
    """Hundreds get the token in a few transactions, a hundred in each."""
    for part in range(int(rng.integers(2, 5))):
        call = stage.paid.pay(maker, token.contract, 0.0, token.deployed + HOUR + 60.0 * part)
        lucky = stage.some_people(rng, 100)
        stage.paid.log(call, maker, lucky, 50.0, token.number)


def _take(rng: np.random.Generator, stage: Stage, token: Token, coins: float, at: float) -> None:
    """The makers' harvest, in a few sales, and their way out."""
    shares = rng.dirichlet(np.full(len(token.insiders), 5.0)) * coins
    if token.kind == "rug_pull":
        units = np.full(len(token.insiders), 4e4)
        when = at + rng.uniform(0, HOUR, len(units))
        _sell(stage.paid, token, token.insiders, units, shares, when)
        stage.paid.pay(token.pool, token.insiders[0], 5.0, at + 2 * HOUR)
    else:
        for part in np.sort(rng.uniform(0.3, 1.0, 3)):
            when = token.deployed + (at - token.deployed) * part + rng.uniform(0, HOUR, len(shares))
            units = np.full(len(shares), 1e4)
            _sell(stage.paid, token, token.insiders, units, shares / 3, when)
    for insider, share in zip(token.insiders.tolist(), shares.tolist(), strict=True):
        away = at + 3 * HOUR + rng.lognormal(np.log(2 * HOUR), 1.0)
        if rng.random() < 0.6:
            stage.paid.pay(insider, rng.choice(stage.cashouts), share * 0.95, away)
        else:
            stage.mix(rng, insider, share * 0.95, away, rng.choice(stage.cashouts, size=2))

"""Life on the simulated chain that harms nobody: people, exchanges, firms, miners, mixers.

Much of it looks like crime from afar: a deposit address passes on all it gets within the hour, a
pay day fans out, a shop fans in, and some people have reasons of their own to use a mixer.
"""

import numpy as np

from chopmark.datasets.chainworld import DAY, HOUR, Ids, Stage


def live(rng: np.random.Generator, stage: Stage, *, days: int, per_person: float = 0.05) -> None:
    """People pay each other, withdraw from exchanges and deposit with them.

    Parameters
    ----------
    per_person : float
        Payments between people, per person and day, on average.
    """
    people = stage.people
    homes = rng.choice([4.0, 12.0, 18.0], size=len(people)) + rng.normal(0, 2, len(people))
    wealth = rng.normal(np.log(0.25), 1.2, len(people))
    zeal = rng.pareto(1.4, len(people)) + 0.1
    zeal /= zeal.sum()
    count = int(len(people) * days * per_person)
    payer = rng.choice(len(people), size=count, p=zeal)
    # Half of all payments go to the few whom one pays again and again.
    contacts = rng.choice(people, size=(len(people), 4), p=stage.fame)
    friend = contacts[payer, rng.integers(0, 4, count)]
    payee = np.where(rng.random(count) < 0.5, friend, stage.some_people(rng, count))
    amounts = np.exp(rng.normal(wealth[payer], 1.0))
    at = stage.clock(rng, homes[payer])
    stage.paid.pay(people[payer], payee, amounts, at)
    back = rng.random(count) < 0.06
    wait = rng.lognormal(np.log(DAY), 1.5, int(back.sum()))
    share = rng.uniform(0.2, 1.0, int(back.sum()))
    stage.paid.pay(payee[back], people[payer][back], amounts[back] * share, at[back] + wait)

    count = int(len(people) * days * per_person * 0.25)
    taker = rng.choice(len(people), size=count, p=zeal)
    hot = rng.choice(stage.hot, size=count)
    bought = np.exp(rng.normal(wealth[taker] + 0.5, 1.0))
    stage.paid.pay(hot, people[taker], bought, stage.clock(rng, homes[taker]))
    giver = rng.choice(len(people), size=count, p=zeal)
    sold = np.exp(rng.normal(wealth[giver] + 0.5, 1.0))
    stage.deposit(rng, people[giver], sold, stage.clock(rng, homes[giver]))
    _discreet(rng, stage)


def _discreet(rng: np.random.Generator, stage: Stage) -> None:
    """Honest people who use a mixer: more of its users than criminals are."""
    users = rng.choice(stage.people, size=max(6, len(stage.people) // 150), replace=False)
    for user in users.tolist():
        exits = stage.some_people(rng, 2)
        at = rng.uniform(0.02, 0.95) * stage.span
        stage.mix(rng, user, float(rng.lognormal(np.log(2.0), 1.0)), at, exits)


def employ(rng: np.random.Generator, stage: Stage, firms: Ids) -> None:
    """Pay days: funded by an exchange, then dozens of wages in one hour, every two weeks."""
    for firm in firms.tolist():
        staff = stage.some_people(rng, int(rng.integers(12, 60)))
        wages = rng.lognormal(np.log(1.2), 0.4, len(staff))
        first = rng.uniform(0, 14) * DAY
        for day in np.arange(first, stage.span, 14 * DAY):
            stage.paid.pay(rng.choice(stage.hot), firm, wages.sum() * 1.01, day - 5 * HOUR)
            stage.paid.pay(firm, staff, wages, day + rng.uniform(0, HOUR, len(staff)))


def mine(rng: np.random.Generator, stage: Stage, pools: Ids, rewards: Ids) -> None:
    """Mining pools: rewards all day, pay-outs to the same miners every day at one hour."""
    for pool, source in zip(pools.tolist(), rewards.tolist(), strict=True):
        miners = stage.some_people(rng, int(rng.integers(30, 120)))
        power = rng.dirichlet(np.full(len(miners), 0.6))
        hour = rng.uniform(0, 24) * HOUR
        for day in np.arange(0, stage.span, DAY):
            blocks = int(rng.poisson(4))
            stage.paid.pay(source, pool, np.full(blocks, 2.0), day + rng.uniform(0, DAY, blocks))
            due = rng.random(len(miners)) < 0.3
            at = day + hour + rng.uniform(0, 600, int(due.sum()))
            stage.paid.pay(pool, miners[due], power[due] * 8 + 0.01, at)


def trade(rng: np.random.Generator, stage: Stage, shops: Ids) -> None:
    """Shops: customers come all the time, takings go to an exchange once a week."""
    for shop in shops.tolist():
        count = int(rng.lognormal(np.log(1.5 * stage.span / DAY), 0.6))
        at = stage.clock(rng, np.full(count, 15.0))
        prices = rng.lognormal(np.log(0.06), 0.8, count)
        stage.paid.pay(stage.some_people(rng, count), shop, prices, at)
        for end in np.arange(7 * DAY, stage.span, 7 * DAY):
            taken = prices[(at > end - 7 * DAY) & (at <= end)].sum()
            if taken > 0:
                stage.deposit(rng, shop, taken * 0.95, end + rng.uniform(0, 8 * HOUR))

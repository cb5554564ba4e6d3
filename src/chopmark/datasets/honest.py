"""What honest users do with their money, session by session, and what befalls them.

Each user has an own rate of sessions (heavy-tailed), hours of the day, weekdays, devices,
addresses, amounts, tastes and habits of buying and of withdrawing.
"""

import numpy as np
from numpy.typing import NDArray

from chopmark.datasets import vocabulary as words
from chopmark.datasets.aftermath import dispute, judge
from chopmark.datasets.book import Book, Instants
from chopmark.datasets.browsing import Tastes, ask_for_alerts, browse, notify
from chopmark.datasets.exchange import Login, PasswordReset, Purchase, Sale, SimChanged, Withdrawal
from chopmark.datasets.people import People, dollars, payment_fields
from chopmark.datasets.sessions import Sessions, Surroundings, draw_sessions
from chopmark.times import DAY, MINUTE, SECOND


def live(
    rng: np.random.Generator,
    book: Book,
    people: People,
    surroundings: Surroundings,
    *,
    buying: float = 0.3,
) -> None:
    """Write the lives of people whose accounts are open, until they lose interest or the end.

    Parameters
    ----------
    buying : float in [0, 1]
        Mean chance that a session ends in a purchase.
    """
    sessions = draw_sessions(rng, people, surroundings)
    users = people.users[sessions.rows]
    book.add(
        Login,
        {"user": users, **sessions.place(), "screen_resolution": sessions.screens},
        happened_at=sessions.starts,
    )
    tastes = Tastes(people.taste, surroundings.loadings)
    done = browse(rng, book, people, sessions, tastes)
    bought, amounts = _buy(rng, book, people, sessions, tastes, at=done, buying=buying)
    _sell(rng, book, people, sessions, tastes, at=done)
    _withdraw(
        rng, book, people, sessions, tastes, surroundings, at=done, bought=bought, amounts=amounts
    )
    ask_for_alerts(rng, book, people, sessions, tastes)
    notify(rng, book, people, tastes, end=surroundings.end)
    _accidents(rng, book, people, end=surroundings.end)


def _buy(
    rng: np.random.Generator,
    book: Book,
    people: People,
    sessions: Sessions,
    tastes: Tastes,
    *,
    at: Instants,
    buying: float,
) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
    rows = sessions.rows
    chance = np.clip(rng.beta(1.2, 1.2 / buying - 1.2, len(people)), 0, 0.95)[rows]
    able = people.has_phone[rows] & (people.method_at[rows, 0] < at)
    bought = able & (rng.random(len(rows)) < chance)
    chosen = np.flatnonzero(bought)
    second = (people.method_at[rows[chosen], 1] < at[chosen]) & (rng.random(len(chosen)) < 0.4)
    amounts = np.zeros(len(rows))
    amounts[chosen] = dollars(rng, people.log_spend[rows[chosen]])
    some = sessions.take(chosen)
    paid = payment_fields(people, some.rows, second.astype(np.int64))
    codes = book.add(
        Purchase,
        {
            "user": people.users[some.rows],
            **some.place(),
            "screen_resolution": some.screens,
            **paid,
            "asset": tastes.names(rng, some.rows),
            "amount_usd": amounts[chosen],
        },
        happened_at=at[chosen],
    )
    # Cards disputed by mistake, or by customers who regret: chargebacks that are no fraud.
    regret = np.flatnonzero((rng.random(len(chosen)) < 0.0008) & (at[chosen] < book.end))
    dispute(
        rng,
        book,
        users=people.users[some.rows[regret]],
        purchases=codes[regret],
        rails=paid["rail"][regret],
        amounts=amounts[chosen][regret],
        at=at[chosen][regret],
    )
    return bought, amounts


def _sell(
    rng: np.random.Generator,
    book: Book,
    people: People,
    sessions: Sessions,
    tastes: Tastes,
    *,
    at: Instants,
) -> None:
    old = at > people.method_at[sessions.rows, 0] + 2 * DAY
    some = np.flatnonzero(old & (rng.random(len(at)) < 0.12))
    chosen = sessions.take(some)
    book.add(
        Sale,
        {
            "user": people.users[chosen.rows],
            **chosen.place(),
            "asset": tastes.names(rng, chosen.rows),
            "amount_usd": dollars(rng, people.log_spend[chosen.rows] + 0.2, spread=1.0),
        },
        happened_at=at[some] + rng.integers(10 * SECOND, 4 * MINUTE, len(some)),
    )


def _withdraw(
    rng: np.random.Generator,
    book: Book,
    people: People,
    sessions: Sessions,
    tastes: Tastes,
    surroundings: Surroundings,
    *,
    at: Instants,
    bought: NDArray[np.bool_],
    amounts: NDArray[np.float64],
) -> None:
    # Some people keep their own keys: they withdraw what they bought within the hour.
    own_keys = rng.random(len(people)) < 0.15
    now = bought & own_keys[sessions.rows] & (rng.random(len(at)) < 0.7)
    later = (at > people.method_at[sessions.rows, 0] + DAY) & (rng.random(len(at)) < 0.035)
    some = np.flatnonzero(now | later)
    chosen = sessions.take(some)
    kept = np.round(amounts[some] * rng.uniform(0.9, 0.995, len(some)), 2)
    saved = dollars(rng, people.log_spend[chosen.rows] + 0.6, spread=1.0)
    kind = rng.random(len(some))
    addresses = people.wallets[chosen.rows]
    service = kind < 0.2
    addresses[service] = rng.choice(surroundings.popular_wallets, size=int(service.sum()))
    fresh = kind > 0.85
    addresses[fresh] = book.new("address", int(fresh.sum()))
    book.add(
        Withdrawal,
        {
            "user": people.users[chosen.rows],
            **chosen.place(),
            "screen_resolution": chosen.screens,
            "address": addresses,
            "asset": tastes.names(rng, chosen.rows),
            "amount_usd": np.where(now[some], np.maximum(kept, 1.0), saved),
            "on_call": rng.random(len(some)) < 0.02,
        },
        happened_at=at[some] + rng.integers(MINUTE, 50 * MINUTE, len(some)),
    )


def _accidents(rng: np.random.Generator, book: Book, people: People, *, end: int) -> None:
    """New phones, forgotten passwords, and analysts who look at honest users too."""
    span = np.maximum(end - people.joined, 0)

    def some(per_year: float) -> tuple[NDArray[np.int64], Instants]:
        rows = np.flatnonzero(rng.random(len(people)) < span / (365 * DAY) * per_year)
        return rows, people.joined[rows] + (rng.random(len(rows)) * span[rows]).astype(np.int64)

    rows, at = some(0.12)
    book.add(
        SimChanged,
        {"user": people.users[rows], "carrier": words.draw(rng, words.CARRIERS, len(rows))},
        happened_at=at,
    )
    rows, at = some(0.5)
    book.add(
        PasswordReset,
        {
            "user": people.users[rows],
            "device": people.devices[rows, 0],
            "ip": people.leases[rows, 0],
        },
        happened_at=at,
    )
    rows, at = some(0.08)
    mistaken = rng.random(len(rows)) < 0.05
    judge(rng, book, users=people.users[rows[~mistaken]], at=at[~mistaken], verdict="good")
    judge(rng, book, users=people.users[rows[mistaken]], at=at[mistaken], verdict="bad")

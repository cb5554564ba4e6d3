"""How stolen money is turned into coins: buy, withdraw at once, and leave the bill.

The steps are the same for a single thief, a ring or a wave; the scenarios differ in who
shares what. Thieves are not all alike: some are patient and let the account grow old, some
type the victim's name everywhere, some buy small amounts first.
"""

import numpy as np
from numpy.typing import NDArray

from chopmark.datasets import vocabulary as words
from chopmark.datasets.aftermath import dispute, judge
from chopmark.datasets.book import Book, Column, Instants
from chopmark.datasets.browsing import Tastes, notify
from chopmark.datasets.exchange import Login, PageView, Purchase, Withdrawal
from chopmark.datasets.people import (
    NEVER,
    People,
    dollars,
    draw_people,
    open_accounts,
    payment_fields,
)
from chopmark.datasets.sessions import Surroundings
from chopmark.times import DAY, HOUR, MINUTE, SECOND


def draw_thieves(
    rng: np.random.Generator, book: Book, *, joined: Instants, card_share: float = 0.6
) -> People:
    """People who sign up with identities of three others: the payer, the ID, the phone.

    A quarter of them uses the payer's name everywhere, so that a mismatch does not tell all.
    """
    people = draw_people(rng, book, joined=joined, card_share=card_share)
    count = len(people)
    careful = rng.random(count) < 0.25
    stranger = words.full_names(rng, count)
    people.holder_names = np.where(careful, people.names, stranger)
    people.registrant_names = np.where(careful, people.names, words.full_names(rng, count))
    public = rng.random(count) < 0.3
    people.profile_names = words.where(public, words.full_names(rng, count))
    homes = words.postal_addresses(rng, count)
    people.billing_addresses = np.where(rng.random(count) < 0.4, people.home_addresses, homes)
    # Numbers without a phone and throw-away mailboxes: more common, not a proof.
    virtual = rng.random(count) < 0.18
    people.carriers[virtual] = "virtual"
    mailbox = rng.random(count) < 0.08
    people.email_domains[mailbox] = "mailbox.example"
    people.method_at[:, 1] = NEVER
    people.has_phone[:] = True
    people.log_spend = rng.normal(np.log(130), 0.7, count)
    people.activity = np.full(count, 0.02)
    return people


def cash_out(
    rng: np.random.Generator,
    book: Book,
    people: People,
    surroundings: Surroundings,
    *,
    rings: Column | None = None,
    patient: float = 0.35,
    banned: float = 0.4,
) -> None:
    """Write accounts from sign-up to empty, then what banks and analysts say about them.

    Parameters
    ----------
    rings : (n,) object, optional
        Name of each one's group.
    patient : float in [0, 1]
        Part that waits two to twenty-five days before the first purchase.
    banned : float in [0, 1]
        Part that an analyst bans, mostly within days after the first fraud.
    """
    count = len(people)
    ips = _ips(rng, people, surroundings)
    tastes = Tastes(people.taste, surroundings.loadings)
    open_accounts(rng, book, people, ips=ips)
    wait = 4 * MINUTE + rng.lognormal(np.log(40 * MINUTE), 1.3, count)
    slow = rng.random(count) < patient
    wait[slow] = rng.uniform(2 * DAY, 25 * DAY, slow.sum())
    first_at = people.method_at[:, 0] + wait.astype(np.int64)
    _pretend(rng, book, people, ips, tastes, slow, first_at)
    # Messages reach thieves too; they seldom open them.
    notify(rng, book, people, tastes, end=book.end)

    owner = np.repeat(np.arange(count), rng.geometric(0.4, count).clip(max=8))
    gaps = rng.lognormal(np.log(2 * HOUR), 1.2, len(owner)).astype(np.int64)
    starts_new = np.diff(owner, prepend=-1) != 0
    gaps[starts_new] = 0
    total = np.cumsum(gaps)
    bought_at = first_at[owner] + total - total[starts_new][owner]

    caught = rng.random(count) < banned
    banned_at = first_at + rng.lognormal(np.log(2 * DAY), 0.9, count).astype(np.int64)
    open_still = ~caught[owner] | (bought_at < banned_at[owner])
    owner, bought_at = owner[open_still], bought_at[open_still]
    _buy_and_withdraw(rng, book, people, ips, tastes, owner, bought_at)
    acted = first_at < book.end
    judge(
        rng,
        book,
        users=people.users[caught & acted],
        at=banned_at[caught & acted],
        verdict="bad",
    )
    book.tell(
        people.users,
        role="fraudster",
        rings=rings,
        first_fraud_at=np.where(acted, first_at, -1),
    )


def _ips(rng: np.random.Generator, people: People, surroundings: Surroundings) -> NDArray[np.int64]:
    """Half of them behind addresses that honest users use as well."""
    shared = rng.choice(surroundings.shared_ips, size=len(people))
    chosen: NDArray[np.int64] = np.where(rng.random(len(people)) < 0.5, shared, people.leases[:, 0])
    return chosen


def _pretend(
    rng: np.random.Generator,
    book: Book,
    people: People,
    ips: NDArray[np.int64],
    tastes: Tastes,
    slow: NDArray[np.bool_],
    first_at: Instants,
) -> None:
    """Log-ins and page views of the patient ones while the account grows old."""
    owner = np.repeat(np.flatnonzero(slow), rng.integers(1, 6, int(slow.sum())))
    span = first_at[owner] - people.joined[owner]
    at = people.joined[owner] + (rng.random(len(owner)) * span).astype(np.int64)
    _log_in(rng, book, people, ips, tastes, owner, at)


def _log_in(
    rng: np.random.Generator,
    book: Book,
    people: People,
    ips: NDArray[np.int64],
    tastes: Tastes,
    owner: NDArray[np.int64],
    at: Instants,
) -> None:
    book.add(
        Login,
        {
            "user": people.users[owner],
            "device": people.devices[owner, 0],
            "ip": ips[owner],
            "screen_resolution": people.screens[owner, 0],
        },
        happened_at=at,
    )
    views = np.repeat(np.arange(len(owner)), rng.integers(1, 5, len(owner)))
    pages = words.draw(rng, {**words.PAGES, "buy": 20, "withdraw": 8}, len(views))
    about_asset = np.isin(pages, ["asset", "buy", "news"])
    assets = tastes.names(rng, owner[views])
    book.add(
        PageView,
        {
            "user": people.users[owner[views]],
            "page": pages,
            "asset": words.where(about_asset, assets),
            "view_seconds": np.clip(rng.lognormal(np.log(12), 1.0, len(views)), 1, 900).astype(
                np.int64
            ),
        },
        happened_at=at[views] + rng.integers(2 * SECOND, 110 * SECOND, len(views)),
        rng=rng,
    )


def _buy_and_withdraw(
    rng: np.random.Generator,
    book: Book,
    people: People,
    ips: NDArray[np.int64],
    tastes: Tastes,
    owner: NDArray[np.int64],
    bought_at: Instants,
) -> None:
    count = len(owner)
    _log_in(rng, book, people, ips, tastes, owner, bought_at - 2 * MINUTE)
    paid = payment_fields(people, owner, np.zeros(count, dtype=np.int64))
    amounts = dollars(rng, people.log_spend[owner])
    # A third wants what is sold again at once; the others pretend to a taste.
    liquid = words.pick(rng, ("BTC", "ETH", "USDC"), count)
    assets = np.where(rng.random(count) < 0.33, liquid, tastes.names(rng, owner))
    place = {
        "user": people.users[owner],
        "device": people.devices[owner, 0],
        "ip": ips[owner],
        "screen_resolution": people.screens[owner, 0],
        "asset": assets,
    }
    codes = book.add(
        Purchase,
        {**place, **paid, "amount_usd": amounts},
        happened_at=bought_at,
        is_fraud=True,
    )
    leaves = np.flatnonzero((rng.random(count) < 0.88) & (bought_at < book.end))
    book.add(
        Withdrawal,
        {
            **{name: column[leaves] for name, column in place.items()},
            "address": people.wallets[owner[leaves]],
            "amount_usd": np.round(amounts[leaves] * rng.uniform(0.9, 0.995, len(leaves)), 2),
            "on_call": rng.random(len(leaves)) < 0.02,
        },
        happened_at=bought_at[leaves] + rng.integers(2 * MINUTE, 70 * MINUTE, len(leaves)),
        is_fraud=True,
    )
    # Some owners never look at their statements.
    noticed = np.flatnonzero((rng.random(count) < 0.92) & (bought_at < book.end))
    dispute(
        rng,
        book,
        users=people.users[owner[noticed]],
        purchases=codes[noticed],
        rails=paid["rail"][noticed],
        amounts=amounts[noticed],
        at=bought_at[noticed],
    )

"""What is learned later: chargebacks of the payers' banks, verdicts of the analysts."""

import numpy as np
from numpy.typing import NDArray

from chopmark.datasets import vocabulary as words
from chopmark.datasets.book import Book, Codes, Column, Instants
from chopmark.datasets.exchange import Chargeback, Verdict
from chopmark.times import DAY


def dispute(
    rng: np.random.Generator,
    book: Book,
    *,
    users: Codes,
    purchases: Codes,
    rails: Column,
    amounts: NDArray[np.float64],
    at: Instants,
) -> None:
    """Write chargebacks of purchases made at `at`: median 40 days by card, 14 by bank.

    They are known at most 180 days (card) or 60 days (bank) after the purchase.
    """
    by_card = rails == "card"
    days = rng.lognormal(np.where(by_card, np.log(38), np.log(11)), 0.75, len(users))
    days = np.clip(days, 1, np.where(by_card, 172, 54))
    told = days + rng.uniform(0.5, 6, len(users))
    book.add(
        Chargeback,
        {"user": users, "about": purchases, "rail": rails, "amount_usd": amounts},
        happened_at=at + (days * DAY).astype(np.int64),
        known_at=at + (told * DAY).astype(np.int64),
    )


def judge(
    rng: np.random.Generator, book: Book, *, users: Codes, at: Instants, verdict: str
) -> None:
    """Write verdicts of analysts at the given instants."""
    book.add(
        Verdict,
        {
            "user": users,
            "verdict": verdict,
            "analyst": words.pick(rng, ("ada", "grace", "edsger", "barbara"), len(users)),
        },
        happened_at=at,
    )

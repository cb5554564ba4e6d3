"""Identity matching on a simulated exchange: is the holder of a payment method the one on the ID?

Banks print names their way: initials, capitals, maiden names. Families share an address and
strangers a name. One string distance with a threshold fails on these; a model over several
does not.

    model = SamePerson().fit(pairs(seed=0))
"""

from typing import ClassVar

import polars as pl

from chopmark import Similarity
from chopmark.datasets import ShortNames, candidate_pairs, simulate
from chopmark.tabular import EasyML

names, addresses = ("name", "holder_name"), ("home_address", "billing_address")
measures = ("jaccard", "levenshtein", "jaro_winkler")
likenesses = [Similarity(*texts, measure) for texts in (names, addresses) for measure in measures]


class SamePerson(EasyML):
    """Do these two records belong to one person?"""

    target = "same_person"
    columns: ClassVar = {"user": "drop", "holder": "drop"}


def pairs(*, seed: int, num_users: int = 600) -> pl.DataFrame:
    """Pairs of an ID and a payment method with a word of the name, or the address, in common.

    Another seed is another city: no person lives in both.
    """
    simulation = simulate(num_users=num_users, days=30, seed=seed, scenarios=(ShortNames(),))
    ids = simulation.frame("id_verified").select("user", "name", "home_address")
    methods = simulation.frame("payment_method_added")
    holders = methods.select("holder_name", "billing_address", holder="user")
    found = candidate_pairs(ids, holders, words=[names], whole=[addresses])
    compared = [
        pl.Series(likeness.name, map(likeness, found[likeness.left], found[likeness.right]))
        for likeness in likenesses
    ]
    same = (pl.col("user") == pl.col("holder")).cast(pl.Int8)
    return found.select("user", "holder", *compared, same_person=same)

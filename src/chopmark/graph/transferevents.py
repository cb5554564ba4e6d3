"""Behaviour of addresses for the catalog: the plain numbers of `behaviour`, declared as features.

A decision at withdrawal reads them from the same fold as everything else. Serves row H6.
"""

from collections.abc import Iterable
from typing import Annotated

import polars as pl
from msgspec import Meta

from chopmark.errors import InvalidTable, did_you_mean
from chopmark.events.event import Entity, Event
from chopmark.features import Aggregate, aggregates
from chopmark.features.aggregate import Operation

MAX_AMOUNT = 1e8
"""Coins in one `Transfer` event; more than the chain's whole supply is a token or an error."""

_AGES: tuple[Operation, ...] = ("seconds_since_first", "seconds_since_last")


class Transfer(Event):
    """Coins moved on a chain from one address to another.

    Attributes
    ----------
    amount : float
        Whole coins, at most `MAX_AMOUNT`; aggregated in steps of 1e-4.
    """

    sender: Annotated[str, Entity("address")]
    receiver: Annotated[str, Entity("address")]
    amount: Annotated[float, Meta(ge=0, le=MAX_AMOUNT)]


def address_features(windows: Iterable[str | None] = (None, "1d", "7d", "30d")) -> list[Aggregate]:
    """The plain features of an address, for the catalog of any application with `Transfer`.

    They are read by any event that names an address: a withdrawal, say. By sender is what the
    address paid, by receiver what it received. Over the whole life they equal those of
    `Behaviour` that have the same meaning, as `catalog_names` lists them.

    Parameters
    ----------
    windows : iterable of str or None
        None is the address's whole life.

    Examples
    --------
    >>> [feature.name for feature in address_features([None])][0]
    'transfer_count_by_sender'
    """
    windows = tuple(windows)
    ops: tuple[Operation, ...] = ("count", "sum", "mean", "min", "max", "std")
    features: list[Aggregate] = []
    for by, other in (("sender", "receiver"), ("receiver", "sender")):
        features += aggregates("transfer", by=(by,), ops=ops, of="amount", windows=windows)
        features += aggregates("transfer", by=(by,), ops=("distinct",), of=other, windows=windows)
        features.append(Aggregate("transfer", "last", by=by, of="amount"))
        features += [Aggregate("transfer", op, by=by) for op in _AGES]
    return features


def catalog_names() -> dict[str, str]:
    """By the name of one of `address_features`: the `Behaviour` column that has the same value."""
    same: dict[str, str] = {}
    for side, by, other in (("out", "sender", "receiver"), ("in", "receiver", "sender")):
        same[f"transfer_count_by_{by}"] = f"{side}_count"
        for op in ("sum", "mean", "min", "max", "std", "last"):
            same[f"transfer_amount_{op}_by_{by}"] = f"{side}_{op}"
        same[f"transfer_{other}_distinct_by_{by}"] = f"{side}_distinct"
        for age in _AGES:
            same[f"transfer_{age}_by_{by}"] = f"{side}_{age}"
    return same


def transfer_events(transfers: pl.DataFrame) -> pl.DataFrame:
    """Transfers of the chain's own coin as rows for `chopmark.features.from_frame`.

    Parameters
    ----------
    transfers : pl.DataFrame
        With sender, receiver, amount, happened_at and, if tokens are among them, asset: those
        of tokens are left out, their units have no common measure.

    Raises
    ------
    InvalidTable
        If a column is missing, or an amount is no number from 0 to `MAX_AMOUNT`.
    """
    for name in ("sender", "receiver", "amount", "happened_at"):
        if name not in transfers.columns:
            raise InvalidTable(
                f"expected a column `{name}` in the transfers"
                + did_you_mean(name, transfers.columns)
            )
    coins = transfers.filter(pl.col("asset") == "") if "asset" in transfers.columns else transfers
    wrong = coins.filter(~pl.col("amount").is_between(0, MAX_AMOUNT).fill_null(False))
    if len(wrong):
        raise InvalidTable(
            f"expected amounts from 0 to {MAX_AMOUNT:.0f} coins, got {wrong['amount'][0]} from "
            f"`{wrong['sender'][0]}`; leave such rows out"
        )
    return coins.sort("happened_at", maintain_order=True).select(
        pl.lit("transfer").alias("type"), "happened_at", pl.col("happened_at").alias("known_at"),
        "sender", "receiver", "amount",
    )  # fmt: skip

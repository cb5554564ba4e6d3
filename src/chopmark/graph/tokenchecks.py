"""In which ways a token can be bad: checks of its evidence, in a catalogue that grows.

Each check says how strongly it speaks against a token, in [0, 1]; one that knows nothing of a
token is silent. Scams of a kind not known yet are for `tokendays.anomaly`, and for a learner on
`tokens.Verdicts.figures`; what is learned of them becomes a check. Serves row H14.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import polars as pl

from chopmark.errors import DeclarationError
from chopmark.graph.tokenevidence import Evidence


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One way in which a token can be bad.

    Attributes
    ----------
    name : str
    says : str
        The reason in plain words, with what to expect of such a token.
    weight : float in (0, 1]
        The score of a token of which only this is known, at full strength.
    strength : polars expression over `Evidence.tokens`, or a function of `Evidence`
        One number in [0, 1] per token in its order; null where nothing is known. True and
        False count as 1 and 0.
    """

    name: str
    says: str
    weight: float
    strength: pl.Expr | Callable[[Evidence], pl.Series]

    def __post_init__(self) -> None:
        if not self.name.isidentifier() or not self.says or not 0 < self.weight <= 1:
            raise DeclarationError(
                "expected a check with a name like `honeypot`, a text and a weight in (0, 1], got "
                f"`{self.name}`, `{self.says}` and {self.weight}"
            )


def _trapped(held: str, moved: str) -> pl.Expr:
    """How likely it is that holders cannot sell: 2 % moved theirs, against 30 % who could.

    The posterior of the two with 1 to 7 for the trap before anything was seen.
    """
    n, k = pl.col(held).cast(pl.Float64), pl.col(moved).cast(pl.Float64)
    log_odds = k * float(np.log(0.02 / 0.3)) + (n - k) * float(np.log(0.98 / 0.7)) - 2.0
    return pl.when(n >= 5).then(1 / (1 + (-log_odds).exp()))


STANDARD: tuple[Check, ...] = (
    Check(
        name="honeypot",
        says="many bought it and hardly anybody could move it since",
        weight=0.9,
        strength=_trapped("num_ripe_buyers", "num_ripe_buyers_moved"),
    ),
    Check(
        name="internal_fee",
        says="less arrives than is sent: a part of nearly every transfer goes to one account",
        weight=0.9,
        strength=pl.when(pl.col("num_calls") >= 10).then(
            ((pl.col("fee_share") - 0.3) / 0.4).clip(0, 1) * (pl.col("fee_rate") / 0.02).clip(0, 1)
        ),
    ),
    Check(
        name="insiders_cash_out",
        says="what is sold comes from those who had it before trade began",
        weight=0.8,
        strength=pl.when(pl.col("sold") > 0).then(
            ((pl.col("insider_sales") - 0.3) / 0.5).clip(0, 1)
        ),
    ),
    Check(
        name="minted_unseen",
        says="accounts send more than they ever got: tokens are made without a trace",
        weight=0.5,
        strength=(pl.col("unseen_share") / 0.1).clip(0, 1),
    ),
    Check(
        name="minted_to_insiders",
        says="nearly all of the supply never went to market and is held by few",
        weight=0.2,
        strength=((pl.col("insider_supply") - 0.5) / 0.4).clip(0, 1),
    ),
    Check(
        name="never_sold",
        says="of all its holders hardly anybody ever moved it",
        weight=0.15,
        strength=_trapped("num_ripe_holders", "num_ripe_holders_moved"),
    ),
    Check(
        name="airdropped",
        says="most holders were given it without asking",
        weight=0.1,
        strength=pl.when(pl.col("num_holders") >= 20).then(
            ((pl.col("gifted_share") - 0.5) / 0.4).clip(0, 1)
        ),
    ),
    Check(
        name="look_alike",
        says="its symbol imitates that of a well-known token",
        weight=0.6,
        strength=pl.col("alike"),
    ),
    Check(
        name="owner_mint", says="the owner can make new tokens at will", weight=0.15,
        strength=pl.col("has_owner_mint"),
    ),
    Check(
        name="blacklist", says="the owner can forbid addresses to sell", weight=0.2,
        strength=pl.col("has_blacklist"),
    ),
    Check(
        name="fee_setter", says="the owner can set the fee of a transfer", weight=0.2,
        strength=pl.col("has_fee_setter"),
    ),
    Check(
        name="selfdestruct", says="the contract can be destroyed", weight=0.3,
        strength=pl.col("has_selfdestruct"),
    ),
    Check(
        name="proxy", says="the code behind the contract can be exchanged", weight=0.05,
        strength=pl.col("is_proxy"),
    ),
    Check(
        name="source_hidden", says="the source of the contract was not published", weight=0.15,
        strength=~pl.col("is_source_verified"),
    ),
    Check(
        name="owner_kept", says="ownership of the contract was not renounced", weight=0.05,
        strength=~pl.col("is_ownership_renounced"),
    ),
)  # fmt: skip


class Catalogue:
    """The checks of stage one, in their order; it grows by `register`.

    Examples
    --------
    >>> catalogue = Catalogue()
    >>> catalogue.register(Check(name="tiny", says="nobody has it", weight=0.1,
    ...                          strength=pl.col("num_holders") < 3))
    >>> catalogue.names[-1]
    'tiny'
    """

    def __init__(self, checks: Iterable[Check] = STANDARD) -> None:
        self._checks: dict[str, Check] = {}
        for check in checks:
            self.register(check)

    def register(self, check: Check) -> None:
        """Add a check.

        Raises
        ------
        DeclarationError
            If one of that name is there.
        """
        if check.name in self._checks:
            raise DeclarationError(f"expected a new name, but check `{check.name}` is there")
        self._checks[check.name] = check

    @property
    def names(self) -> tuple[str, ...]:
        """Of all checks."""
        return tuple(self._checks)

    def strengths(self, evidence: Evidence) -> pl.DataFrame:
        """One column per check, one row per token: in [0, 1], null where it knows nothing.

        Raises
        ------
        DeclarationError
            If a check fails, or answers with other rows or numbers.
        """
        columns = []
        for check in self._checks.values():
            try:
                if isinstance(check.strength, pl.Expr):
                    found = evidence.tokens.select(check.strength.alias(check.name)).to_series()
                else:
                    found = check.strength(evidence)
                found = found.cast(pl.Float64).fill_nan(None).alias(check.name)
            except (pl.exceptions.PolarsError, AttributeError) as error:
                raise DeclarationError(f"check `{check.name}` failed: {error}") from error
            known = found.drop_nulls()
            if len(found) != evidence.tokens.height or not known.is_between(0, 1).all():
                raise DeclarationError(
                    f"expected check `{check.name}` to give {evidence.tokens.height:,} numbers in "
                    f"[0, 1], got {len(found):,} such as {known.to_list()[:3]}"
                )
            columns.append(found)
        return pl.DataFrame(columns)

    def __getitem__(self, name: str) -> Check:
        return self._checks[name]

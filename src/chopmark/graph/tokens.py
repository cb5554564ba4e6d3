"""Scam tokens: a growing catalogue of checks, then the concentration of trade in few accounts.

    found = detect(transfers, facts=facts, familiar={"USDC": "0xa0b8.."})
    found.tokens                                   # token, score, verdict, reasons, figures
    found.days                                     # token, day, holders, top share, Gini, HHI, ..

Stage one asks each check of a `Catalogue` how strongly it speaks against a token, in [0, 1]; a
check that knows nothing of a token is silent. Stage two reads the token's days: sales in the
hands of few, in bursts, after which trade dies. With weight w and strength s of each

    score = 1 - product over checks and the anomaly of (1 - w s)

Trade is seen from transfers alone: the *pool* is the address that most different others get the
token from and bring it to (or what `facts` says), to buy is to get from it, to sell is to bring
once somebody has bought (what fills it before is no sale).
*Insiders* got tokens before trade began. A transaction that pays many at once is an air-drop.
Scams of a kind not known yet are for stage two, and for a learner on `figures`; what is
learned of them becomes a check. Serves row H14.
"""

# mypy: disable-error-code="no-untyped-def, no-untyped-call"

import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import polars as pl
from numba import njit
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from chopmark.errors import DeclarationError, InvalidTable, did_you_mean
from chopmark.times import DAY, instant

NEEDED = ("sender", "receiver", "amount", "happened_at", "tx", "asset")
FACTS: Mapping[str, pl.DataType | type[pl.DataType]] = {
    "symbol": pl.String,
    "pool": pl.String,
    "has_owner_mint": pl.Boolean,
    "has_blacklist": pl.Boolean,
    "has_fee_setter": pl.Boolean,
    "has_selfdestruct": pl.Boolean,
    "is_proxy": pl.Boolean,
    "is_source_verified": pl.Boolean,
    "is_ownership_renounced": pl.Boolean,
}
"""What may be known of a contract; each may be missing, in the frame or in a row."""

NOBODY = "0x" + "0" * 40
SCAM, SUSPECT = 0.7, 0.3
"""Scores from which on a token is called a scam, or suspect."""
ANOMALY_WEIGHT = 0.6
_BATCH = 20
_MIN_TRANSFERS = 10
_RIPE = 2 * DAY
_MOMENT = pl.Datetime("us", "UTC")
_ALIKE = str.maketrans("0135$аеорсхтукмнв", "oless" + "aeopcxtykmhb")


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Evidence:
    """What checks read.

    Attributes
    ----------
    tokens : pl.DataFrame
        One row per token in the order of the addresses: ``token``, all of `FACTS`, and figures
        (`Verdicts.figures` has them).
    accounts : pl.DataFrame
        One row per token and address: of (row of the token), account, received, sent, bought,
        sold, first_buy, first_sale, is_pool, is_source, is_insider, is_gifted.
    transfers : pl.DataFrame
        As they came, with ``of`` (row of the token) and ``is_batch``.
    """

    tokens: pl.DataFrame
    accounts: pl.DataFrame
    transfers: pl.DataFrame


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


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Verdicts:
    """What `detect` found.

    Attributes
    ----------
    tokens : pl.DataFrame
        One row per token in the order of the addresses: token, score in [0, 1], verdict
        ("scam", "suspect", "pass", or "unknown" where too little is known to let it pass),
        audit and anomaly (the scores of the two stages), reasons (list of name, says, weight:
        how much of the score each alone would give, the greatest first).
    days : pl.DataFrame
        As `concentration` gives them.
    strengths : pl.DataFrame
        token and one column per check.
    figures : pl.DataFrame
        token and the figures of `Evidence.tokens`: a table to learn from.
    """

    tokens: pl.DataFrame
    days: pl.DataFrame
    strengths: pl.DataFrame
    figures: pl.DataFrame

    @property
    def allowed(self) -> list[str]:
        """The tokens that passed: an allow-list."""
        return self.tokens.filter(pl.col("verdict") == "pass")["token"].to_list()


def detect(
    transfers: pl.DataFrame,
    *,
    facts: pl.DataFrame | None = None,
    familiar: Mapping[str, str] | None = None,
    catalogue: Catalogue | None = None,
    as_of: datetime | str | None = None,
) -> Verdicts:
    """The verdict on every token among some transfers. O(m log m), all tokens at once.

    Parameters
    ----------
    transfers : pl.DataFrame
        sender, receiver, amount (>= 0), happened_at, tx and asset; rows of asset "" (the
        chain's own coin) are passed over.
    facts : pl.DataFrame, optional
        ``token`` and any of `FACTS`. Tokens without transfers are judged by facts alone.
    familiar : mapping of symbol to token, optional
        Well-known tokens, which others may imitate.
    catalogue : Catalogue, optional
        Of `STANDARD` checks if not given.
    as_of : instant, optional
        Only what had happened by then counts; "now" for what is fresh. Else the last transfer.

    Raises
    ------
    InvalidTable
        If a column lacks or a value cannot be.
    """
    catalogue = catalogue or Catalogue()
    evidence = gather(transfers, facts=facts, familiar=familiar, as_of=as_of)
    days = concentration(evidence)
    strengths = catalogue.strengths(evidence)
    weights = pl.DataFrame([strengths[n] * catalogue[n].weight for n in catalogue.names])
    audit = np.zeros(evidence.tokens.height)
    for name in weights.columns:
        audit = 1 - (1 - audit) * (1 - weights[name].fill_null(0.0).to_numpy())
    anomaly = _anomaly(evidence, days)
    score = 1 - (1 - audit) * (1 - ANOMALY_WEIGHT * anomaly)
    known = (evidence.tokens["num_transfers"] >= _MIN_TRANSFERS).to_numpy()
    verdict = np.select(
        [score >= SCAM, score >= SUSPECT, known], ["scam", "suspect", "pass"], "unknown"
    )
    tokens = evidence.tokens.select("token").with_columns(
        pl.Series("score", score), pl.Series("verdict", verdict), pl.Series("audit", audit),
        pl.Series("anomaly", anomaly),
        _reasons(weights, anomaly, catalogue),
    )  # fmt: skip
    token = evidence.tokens.select("token")
    return Verdicts(
        tokens=tokens, days=days, strengths=pl.concat([token, strengths], how="horizontal"),
        figures=evidence.tokens.drop(*FACTS),
    )  # fmt: skip


def gather(
    transfers: pl.DataFrame,
    *,
    facts: pl.DataFrame | None = None,
    familiar: Mapping[str, str] | None = None,
    as_of: datetime | str | None = None,
) -> Evidence:
    """The evidence on all tokens; arguments and errors as of `detect`."""
    rows = _checked(transfers)
    if as_of is not None:
        rows = rows.filter(pl.col("at") <= int(instant(as_of)))
    known = _facts(facts)
    tokens = (
        pl.concat([rows.select(token="asset"), known.select("token")]).unique().sort("token")
        .with_row_index("of").join(known, on="token", how="left", maintain_order="left")
    )  # fmt: skip
    end = int(instant(as_of)) if as_of is not None else _last(rows["at"])
    rows, names = _numbered(rows, tokens)
    pools = _pools(rows, tokens, names)
    first_sender = rows.group_by("of").agg(pl.col("sender").first(), pl.col("asset").first())
    sources = pl.concat(
        [
            first_sender.select("of", account="sender"),
            _known_accounts(first_sender.select("of", name="asset"), names),
            _known_accounts(first_sender.select("of", name=pl.lit(NOBODY)), names),
        ]
    ).unique()
    rows = rows.join(pools, on="of", how="left", maintain_order="left")
    opened = rows.filter(_is_buy()).group_by("of").agg(pl.col("at").min().alias("opened_at"))
    rows = rows.join(opened, on="of", how="left", maintain_order="left")
    accounts = _accounts(rows, pools, sources)
    figures = _figures(rows, accounts, pools, opened, end=end)
    fees = _fees(rows, sources)
    tokens = (
        tokens.drop("pool")
        .join(figures, on="of", how="left", maintain_order="left")
        .join(fees, on="of", how="left", maintain_order="left")
        .join(
            pools.join(names, left_on="pool", right_on="account", how="left")
            .select("of", pool="name"), on="of", how="left", maintain_order="left",
        )
        .with_columns(pl.col("num_transfers").fill_null(0), pl.col("num_holders").fill_null(0))
    )  # fmt: skip
    alike = [
        _alike(token, symbol, familiar or {})
        for token, symbol in tokens.select("token", "symbol").iter_rows()
    ]
    tokens = tokens.with_columns(pl.Series("alike", alike, dtype=pl.Float64))
    return Evidence(tokens=tokens.drop("of"), accounts=accounts, transfers=rows)


def concentration(evidence: Evidence, *, top: int = 10) -> pl.DataFrame:
    """Per token and day with a transfer (UTC): who holds it at its end, and who trades on it.

    Pool, mint and burn addresses are no holders. Complexity O(holders log holders) a day.

    Returns
    -------
    pl.DataFrame
        token, day, num_holders, top_share (of the `top` greatest in what all hold), gini, hhi
        (sum of squared shares), pool_balance, bought, sold, top_sales (share of the day's three
        greatest sellers in what was sold), num_buyers and num_sellers (up to that day),
        seller_share (of buyers who sold, up to that day). Shares are null where nothing is.
    """
    rows = evidence.transfers.with_columns(day=pl.col("at") // DAY)
    accounts = evidence.accounts.with_row_index("row")
    place = accounts.select("of", "account", "row")
    moves = (
        rows.select("of", "day", "at", "amount", "sender", "receiver")
        .join(place.rename({"account": "sender", "row": "src"}), on=["of", "sender"], how="left",
              maintain_order="left")
        .join(place.rename({"account": "receiver", "row": "dst"}), on=["of", "receiver"],
              how="left", maintain_order="left")
        .sort("of", "day", maintain_order=True)
    )  # fmt: skip
    days = moves.select("of", "day").unique(maintain_order=True).with_row_index("place")
    moves = moves.join(days, on=["of", "day"], how="left", maintain_order="left")
    outside = accounts["is_pool"] | accounts["is_source"]
    of = accounts["of"].to_numpy()
    found = _concentrations(
        moves["place"].to_numpy().astype(np.int64),
        moves["src"].to_numpy().astype(np.int64),
        moves["dst"].to_numpy().astype(np.int64),
        moves["amount"].to_numpy().astype(np.float64),
        np.searchsorted(of, days["of"].to_numpy(), "left").astype(np.int64),
        np.searchsorted(of, days["of"].to_numpy(), "right").astype(np.int64),
        np.array(outside.to_numpy(), dtype=np.bool_),
        np.array(accounts["is_pool"].to_numpy(), dtype=np.bool_),
        top,
    )
    names = ("num_holders", "top_share", "gini", "hhi", "pool_balance")
    held = pl.DataFrame({name: found[:, i] for i, name in enumerate(names)}).with_columns(
        pl.col("num_holders").cast(pl.Int64), pl.col("top_share", "gini", "hhi").fill_nan(None)
    )
    return _with_trade(pl.concat([days.drop("place"), held], how="horizontal"), rows, evidence)


def _with_trade(days: pl.DataFrame, rows: pl.DataFrame, evidence: Evidence) -> pl.DataFrame:
    """The days with what was bought and sold on them, and by how many until then."""
    on = ["of", "day"]
    bought = rows.filter(_is_buy()).group_by(on).agg(
        pl.col("amount").sum().alias("bought")
    )  # fmt: skip
    by_seller = rows.filter(_is_sale()).group_by(*on, "sender").agg(
        pl.col("amount").sum()
    )  # fmt: skip
    sold = by_seller.group_by(on).agg(
        pl.col("amount").sum().alias("sold"), pl.col("amount").top_k(3).sum().alias("top_sales")
    )
    buyers = evidence.accounts.filter(pl.col("first_buy").is_not_null())
    steps = [
        buyers.group_by("of", day=pl.col(when) // DAY).agg(pl.len().alias(name))
        for when, name in (("first_buy", "num_buyers"), ("first_sale", "num_sellers"))
    ]
    for part in (bought, sold, *steps):
        days = days.join(part, on=on, how="left", maintain_order="left")
    token = pl.Series("token", evidence.tokens["token"])
    return (
        days.with_columns(pl.col("bought", "sold").fill_null(0.0))
        .with_columns(
            pl.col("num_buyers", "num_sellers").fill_null(0).cum_sum().over("of").cast(pl.Int64),
            pl.when(pl.col("sold") > 0).then(pl.col("top_sales") / pl.col("sold"))
            .alias("top_sales"),
        )
        .with_columns(
            pl.when(pl.col("num_buyers") > 0).then(pl.col("num_sellers") / pl.col("num_buyers"))
            .alias("seller_share"),
            token=token.gather(days["of"]), day=pl.from_epoch("day", "d"),
        )
        .select("token", pl.exclude("token", "of"))
    )  # fmt: skip


def _checked(transfers: pl.DataFrame) -> pl.DataFrame:
    for name in NEEDED:
        if name not in transfers.columns:
            raise InvalidTable(
                f"expected transfers with columns {', '.join(NEEDED)}, got no `{name}`"
                f"{did_you_mean(name, transfers.columns)}"
            )
    if transfers.schema["happened_at"] != _MOMENT:
        raise InvalidTable(
            f"expected `happened_at` as {_MOMENT}, got {transfers.schema['happened_at']}"
        )
    rows = transfers.select(*NEEDED).filter(pl.col("asset") != "")
    wrong = rows.select(
        (
            pl.any_horizontal(pl.all().is_null())
            | ~pl.col("amount").cast(pl.Float64).is_finite() | (pl.col("amount") < 0)
        ).arg_true()
    ).to_series()  # fmt: skip
    if len(wrong):
        raise InvalidTable(
            f"expected token transfers without gaps and amounts >= 0, got {rows.row(wrong[0])}"
        )
    return rows.with_columns(
        pl.col("amount").cast(pl.Float64), at=pl.col("happened_at").cast(pl.Int64)
    ).sort("at", maintain_order=True)


def _facts(facts: pl.DataFrame | None) -> pl.DataFrame:
    """One row per token with all of `FACTS`, missing ones null."""
    if facts is None:
        return pl.DataFrame(schema={"token": pl.String, **FACTS})
    for name in facts.columns:
        if name not in ("token", *FACTS):
            raise InvalidTable(f"expected facts of {', '.join(FACTS)}, got `{name}`"
                               f"{did_you_mean(name, FACTS)}")  # fmt: skip
    if "token" not in facts.columns or facts["token"].n_unique() != facts.height:
        raise InvalidTable("expected facts with a column `token` that has each token once")
    if facts["token"].null_count():
        raise InvalidTable("expected facts with a token in each row, got null")
    try:
        return facts.select(
            pl.col("token").cast(pl.String),
            *(pl.col(name).cast(dtype) if name in facts.columns
              else pl.lit(None, dtype=dtype).alias(name) for name, dtype in FACTS.items()),
        )  # fmt: skip
    except pl.exceptions.PolarsError as error:
        raise InvalidTable(f"expected facts as texts and truth values, got: {error}") from error


def _numbered(rows: pl.DataFrame, tokens: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Rows with numbers for names, whether they are part of an air-drop, and the names."""
    names = (
        pl.concat([rows["sender"], rows["receiver"], rows["asset"].unique()])
        .unique(maintain_order=True).alias("name").to_frame().with_row_index("account")
    )  # fmt: skip
    for side in ("sender", "receiver"):
        number = names.rename({"name": side, "account": f"{side}_id"})
        rows = rows.join(number, on=side, how="left", maintain_order="left")
    rows = rows.join(
        tokens.select("of", asset="token"), on="asset", how="left", maintain_order="left"
    )
    # Without the name of its transaction a transfer stands alone.
    call = pl.when(pl.col("tx") != "").then(pl.col("tx").hash()).otherwise(
        pl.int_range(pl.len(), dtype=pl.UInt64)
    )  # fmt: skip
    rows = rows.select(
        "of", "at", "amount", "asset", sender="sender_id", receiver="receiver_id", call=call
    )
    batches = (
        rows.group_by("of", "call", "sender").agg(pl.len().alias("num_legs"))
        .filter(pl.col("num_legs") > 1)
    )  # fmt: skip
    rows = rows.join(batches, on=["of", "call", "sender"], how="left", maintain_order="left")
    return rows.with_columns(
        pl.col("num_legs").fill_null(1), is_batch=pl.col("num_legs").fill_null(1) >= _BATCH
    ), names


def _last(times: pl.Series) -> int:
    return int(times.to_numpy().max()) if len(times) else 0


def _known_accounts(named: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    return named.join(names, on="name", how="inner").select("of", "account")


def _pools(rows: pl.DataFrame, tokens: pl.DataFrame, names: pl.DataFrame) -> pl.DataFrame:
    """Of each token that has one the address where it is traded."""
    told = _known_accounts(
        tokens.filter(pl.col("pool").is_not_null()).select("of", name="pool"), names
    )
    single = rows.filter(~pl.col("is_batch") & (pl.col("sender") != pl.col("receiver")))
    gives = single.group_by("of", account="sender").agg(pl.col("receiver").n_unique().alias("to"))
    gets = single.group_by("of", account="receiver").agg(pl.col("sender").n_unique().alias("by"))
    guessed = (
        gives.join(gets, on=["of", "account"])  # who only hands out is no market
        .filter(pl.col("to") >= 3)
        .sort("of", pl.col("to") + pl.col("by"), "account", descending=[False, True, False])
        .unique("of", keep="first", maintain_order=True)
        .select("of", "account")
    )
    both = pl.concat([told, guessed.join(told, on="of", how="anti")])
    return both.select("of", pool="account").sort("of")


def _is_buy() -> pl.Expr:
    return pl.col("sender") == pl.col("pool")


def _is_sale() -> pl.Expr:
    return (pl.col("receiver") == pl.col("pool")) & (pl.col("at") >= pl.col("opened_at"))


def _accounts(rows: pl.DataFrame, pools: pl.DataFrame, sources: pl.DataFrame) -> pl.DataFrame:
    early = ~pl.col("is_batch") & (pl.col("at") < pl.col("opened_at"))
    bought, sold = _is_buy(), _is_sale()
    got = rows.group_by("of", account="receiver").agg(
        pl.col("amount").sum().alias("received"),
        pl.col("amount").filter(bought).sum().alias("bought"),
        pl.col("at").filter(bought).min().alias("first_buy"),
        pl.col("at").min().alias("first_at"),
        early.any().alias("is_early"),
        pl.col("is_batch").any().alias("is_gifted"),
    )
    gave = rows.group_by("of", account="sender").agg(
        pl.col("amount").sum().alias("sent"),
        pl.col("amount").filter(sold).sum().alias("sold"),
        pl.col("at").filter(sold).min().alias("first_sale"),
    )
    yes = pl.lit(value=True)
    return (
        got.join(gave, on=["of", "account"], how="full", coalesce=True)
        .join(pools.select("of", account="pool", is_pool=yes), on=["of", "account"], how="left")
        .join(sources.with_columns(is_source=yes), on=["of", "account"], how="left")
        .with_columns(
            pl.col("received", "sent", "bought", "sold").fill_null(0.0),
            pl.col("is_early", "is_gifted", "is_pool", "is_source").fill_null(value=False),
        )
        .with_columns(is_insider=pl.col("is_early") & ~pl.col("is_pool") & ~pl.col("is_source"))
        .drop("is_early").sort("of", "account")
    )  # fmt: skip


def _figures(
    rows: pl.DataFrame, accounts: pl.DataFrame, pools: pl.DataFrame, opened: pl.DataFrame, *,
    end: int,
) -> pl.DataFrame:  # fmt: skip
    people = ~pl.col("is_pool") & ~pl.col("is_source")
    held = pl.max_horizontal(pl.col("received") - pl.col("sent"), 0.0)
    buyers = people & pl.col("first_buy").is_not_null() & ~pl.col("is_insider")
    holders = people & (pl.col("received") > 0) & ~pl.col("is_insider")
    ripe_buyers = buyers & (pl.col("first_buy") <= end - _RIPE)
    ripe_holders = holders & (pl.col("first_at") <= end - _RIPE)
    moved = pl.col("sent") > 0
    sales = pl.col("sold").filter(people)
    supply = held.filter(people).sum() + held.filter(pl.col("is_pool")).sum()
    lacking = (pl.col("sent") - pl.col("received")).clip(lower_bound=0)
    by_account = accounts.group_by("of").agg(
        (people & (held > 0)).sum().alias("num_holders"),
        buyers.sum().alias("num_buyers"),
        ripe_buyers.sum().alias("num_ripe_buyers"),
        (ripe_buyers & moved).sum().alias("num_ripe_buyers_moved"),
        ripe_holders.sum().alias("num_ripe_holders"),
        (ripe_holders & moved).sum().alias("num_ripe_holders_moved"),
        pl.col("is_insider").sum().alias("num_insiders"),
        sales.sum().alias("sold"),
        (sales > 0).sum().alias("num_sellers"),
        (sales.top_k(3).sum() / sales.sum()).alias("top_sellers"),
        (pl.col("sold").filter("is_insider").sum() / sales.sum()).alias("insider_sales"),
        (held.filter(people & (pl.col("bought") == 0)).top_k(5).sum() / supply)
        .alias("insider_supply"),
        (lacking.filter(people & (lacking > 1e-6 * pl.col("received"))).sum()
         / pl.col("received").sum()).alias("unseen_share"),
        (people & pl.col("is_gifted") & (pl.col("bought") == 0)).sum().alias("num_gifted"),
    )  # fmt: skip
    by_row = rows.group_by("of").agg(
        pl.len().alias("num_transfers"), pl.col("at").min().alias("first_at"),
        pl.col("at").filter(_is_buy()).max().alias("last_buy"),
    )  # fmt: skip
    return (
        by_row.join(by_account, on="of").join(opened, on="of", how="left").join(
            pools.select("of", has_pool=pl.lit(value=True)), on="of", how="left"
        )
        .with_columns(
            pl.col("top_sellers", "insider_sales", "insider_supply", "unseen_share")
            .fill_nan(None),
            gifted_share=pl.col("num_gifted") / pl.col("num_holders").clip(lower_bound=1),
            idle_share=((end - pl.col("last_buy")) / (end - pl.col("opened_at"))).fill_nan(None),
            age_days=(end - pl.col("first_at")) / DAY,
            has_pool=pl.col("has_pool").fill_null(value=False),
        )
        .with_columns(pl.col("gifted_share").clip(upper_bound=1))
        .drop("first_at", "last_buy", "opened_at", "num_gifted")
    )  # fmt: skip


def _fees(rows: pl.DataFrame, sources: pl.DataFrame) -> pl.DataFrame:
    """In how many calls a smaller leg goes to one and the same account, and how small it is."""
    calls = ["of", "call", "sender"]
    own = rows.filter(~pl.col("is_batch")).join(
        sources.rename({"account": "sender"}), on=["of", "sender"], how="anti"
    )
    num_calls = own.select(calls).unique().group_by("of").agg(pl.len().alias("num_calls"))
    split = (
        own.filter(pl.col("num_legs").is_between(2, 4)).sort("amount", maintain_order=True)
        .group_by(calls, maintain_order=True)
        .agg(pl.col("receiver").first(), pl.col("amount").first(), total=pl.col("amount").sum())
    )  # fmt: skip
    takers = (
        split.group_by("of", "receiver")
        .agg(
            pl.len().alias("num_fees"),
            (pl.col("amount") / pl.col("total")).median().fill_nan(0.0).alias("fee_rate"),
        )
        .sort("of", "num_fees", "receiver", descending=[False, True, False])
        .unique("of", keep="first", maintain_order=True)
    )
    return num_calls.join(takers, on="of", how="left").select(
        "of", "num_calls", "fee_rate",
        fee_share=(pl.col("num_fees") / pl.col("num_calls")).fill_null(0.0),
    ).with_columns(pl.col("fee_rate").fill_null(0.0))  # fmt: skip


def _alike(token: str, symbol: str | None, familiar: Mapping[str, str]) -> float | None:
    """1 if a symbol looks just like that of another token, 0.7 if one letter is off."""
    if symbol is None or not familiar:
        return None
    if token.lower() in {address.lower() for address in familiar.values()}:
        return 0.0
    own = _folded(symbol)
    best = 0.0
    for other in map(_folded, familiar):
        if own == other:
            best = 1.0
        elif min(len(own), len(other)) >= 4 and Levenshtein.distance(own, other) == 1:
            best = max(best, 0.7)
    return best


def _folded(symbol: str) -> str:
    """A symbol as the eye reads it: no case, accents, signs or letters of other scripts."""
    plain = unicodedata.normalize("NFKD", symbol).casefold().translate(_ALIKE)
    return "".join(letter for letter in plain if letter.isalnum())


def _anomaly(evidence: Evidence, days: pl.DataFrame) -> NDArray[np.float64]:
    """How unlike a market trade is, in [0, 1]: sales of few, in a burst, and then silence.

    (n,) float64; 0 where fewer than 10 bought, as three sellers of few are nothing unusual.
    """
    bursts = days.group_by("token").agg(
        (pl.col("top_sales").fill_null(0.0) * pl.col("sold")).max().alias("burst")
    )
    figures = evidence.tokens.join(bursts, on="token", how="left", maintain_order="left")
    few = ((pl.col("top_sellers") - 0.6) / 0.3).clip(0, 1)
    burst = (pl.col("burst") / pl.col("sold")).clip(0, 1)
    silent = ((pl.col("idle_share") - 0.2) / 0.4).clip(0, 1)
    found = figures.select(
        pl.when((pl.col("num_buyers") >= 10) & (pl.col("sold") > 0))
        .then(few * (0.4 + 0.3 * burst + 0.3 * silent))
        .fill_null(0.0)
        .fill_nan(0.0)
    )
    return found.to_series().fill_null(0.0).to_numpy().astype(np.float64)


def _reasons(
    weights: pl.DataFrame, anomaly: NDArray[np.float64], catalogue: Catalogue
) -> pl.Series:
    """Of each token what speaks against it, the strongest first."""
    columns = [
        (n, catalogue[n].says, weights[n].fill_null(0.0).to_numpy()) for n in weights.columns
    ]
    columns.append(("few_accounts", "few accounts sell nearly all of it", ANOMALY_WEIGHT * anomaly))
    told: list[list[dict[str, object]]] = [[] for _ in range(len(anomaly))]
    for name, says, weight in columns:
        for row in np.flatnonzero(weight >= 0.01).tolist():
            told[row].append({"name": name, "says": says, "weight": float(weight[row])})
    for reasons in told:
        reasons.sort(key=lambda reason: -float(str(reason["weight"])))
    kind = pl.List(pl.Struct({"name": pl.String, "says": pl.String, "weight": pl.Float64}))
    return pl.Series("reasons", told, dtype=kind)


@njit(cache=True, error_model="numpy")
def _concentrations(place, src, dst, amount, first, end, outside, is_pool, top):
    """At the end of each day: number of holders, share of the greatest, Gini, HHI, pool.

    place : (m,) the day of each transfer, in order; first, end : (days,) where its token's
    accounts are; outside, is_pool : (accounts,).
    """
    balances = np.zeros(outside.shape[0])
    found = np.full((first.shape[0], 5), np.nan)
    i = 0
    for day in range(first.shape[0]):
        while i < place.shape[0] and place[i] == day:
            balances[src[i]] -= amount[i]
            balances[dst[i]] += amount[i]
            i += 1
        held = np.empty(end[day] - first[day])
        count, pool = 0, 0.0
        for account in range(first[day], end[day]):
            if is_pool[account]:
                pool = balances[account]
            # What rounding leaves of an emptied account is nothing.
            elif not outside[account] and balances[account] > 1e-12:
                held[count] = balances[account]
                count += 1
        found[day, 0], found[day, 4] = count, pool
        if count == 0:
            continue
        ordered = np.sort(held[:count])
        total, ranked, squares, greatest = 0.0, 0.0, 0.0, 0.0
        for rank in range(count):
            total += ordered[rank]
            ranked += (rank + 1) * ordered[rank]
            squares += ordered[rank] * ordered[rank]
            if rank >= count - top:
                greatest += ordered[rank]
        found[day, 1] = greatest / total
        found[day, 2] = 2.0 * ranked / (count * total) - (count + 1.0) / count
        found[day, 3] = squares / (total * total)
    return found

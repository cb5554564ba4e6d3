"""What is known of tokens: facts of their contracts, and figures of who got and moved them.

    evidence = gather(transfers, facts=facts, familiar={"USDC": "0xa0b8.."})
    evidence.tokens                                # a row of facts and figures per token
    evidence.accounts, evidence.transfers          # who bought, sold, was there before trade

Trade is seen from transfers alone: the *pool* is the address that most different others get the
token from and bring it to (or what `facts` says), to buy is to get from it, to sell is to bring
once somebody has bought (what fills it before is no sale).
*Insiders* got tokens before trade began. A transaction that pays many at once is an air-drop.
A symbol is compared as the eye reads it with those of `familiar` tokens. Serves row H14.
"""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

import polars as pl
from rapidfuzz.distance import Levenshtein

from chopmark.errors import InvalidTable, did_you_mean
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
_BATCH = 20
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
        (`tokens.Verdicts.figures` has them).
    accounts : pl.DataFrame
        One row per token and address: of (row of the token), account, received, sent, bought,
        sold, first_buy, first_sale, is_pool, is_source, is_insider, is_gifted.
    transfers : pl.DataFrame
        As they came, with ``of`` (row of the token) and ``is_batch``.
    """

    tokens: pl.DataFrame
    accounts: pl.DataFrame
    transfers: pl.DataFrame


def gather(
    transfers: pl.DataFrame,
    *,
    facts: pl.DataFrame | None = None,
    familiar: Mapping[str, str] | None = None,
    as_of: datetime | str | None = None,
) -> Evidence:
    """The evidence on all tokens; arguments and errors as of `tokens.detect`."""
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
    opened = rows.filter(is_buy()).group_by("of").agg(pl.col("at").min().alias("opened_at"))
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


def is_buy() -> pl.Expr:
    """Whether a row of `Evidence.transfers` is bought from the pool."""
    return pl.col("sender") == pl.col("pool")


def is_sale() -> pl.Expr:
    """Whether a row of `Evidence.transfers` is sold to the pool, after somebody has bought."""
    return (pl.col("receiver") == pl.col("pool")) & (pl.col("at") >= pl.col("opened_at"))


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


def _accounts(rows: pl.DataFrame, pools: pl.DataFrame, sources: pl.DataFrame) -> pl.DataFrame:
    early = ~pl.col("is_batch") & (pl.col("at") < pl.col("opened_at"))
    bought, sold = is_buy(), is_sale()
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
        pl.col("at").filter(is_buy()).max().alias("last_buy"),
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

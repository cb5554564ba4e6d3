"""A simulated chain like Ethereum, with planted truth, on which the exchange's users live.

    chain = simulate_chain(num_addresses=20_000, days=90, seed=0)
    chain.transfers             # who paid whom, as any reader of a chain gives it
    chain.labels                # what the world has found out about addresses, and when
    chain.truth                 # what each address is, which nobody knows

In go a number of addresses, a seed and, if wanted, the withdrawals of `simulate`; out come
transfers of the coin and of tokens, late and partly wrong labels, and the truth. Every player
draws from a random stream of its own, and the same seed gives the same bytes.
`write_ethereum_etl` writes it as the files of Ethereum ETL. Serves rows H1, H5 and H14.
"""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.datasets import chaincrime, chainlife, chaintokens
from chopmark.datasets.chaintokens import KINDS, SCAMS, Token
from chopmark.datasets.chainworld import DAY, HOUR, Cast, Floats, Ids, Payments, Stage
from chopmark.datasets.simulator import START
from chopmark.errors import InvalidInput, InvalidTable, did_you_mean
from chopmark.times import SECOND, instant, moment

BLOCK_SECONDS = 12
FIRST_BLOCK = 24_000_000
COIN_USD = 2_000.0
"""What a coin costs, all the time: withdrawals are in dollars and the chain is in coins."""

_UNITS_PER_COIN = 10**9
_MOMENT = pl.Datetime("us", "UTC")
_MIN_ADDRESSES = 500
_ILLICIT_GROUPS = ("chain", "fan_in", "collect", "ring", "dust")
_LABELLED = 0.45
_FALSE_REPORTS = 0.05


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Chain:
    """A simulated chain.

    Attributes
    ----------
    transfers : pl.DataFrame
        Of the coin, one row per transaction: sender, receiver, amount (whole coins, in steps of
        1e-9; 0 for a call of a token), happened_at, block, tx, place (0), asset ("").
    token_transfers : pl.DataFrame
        The same columns; ``asset`` is the token's address, ``place`` the index of the log in
        its block; ``tx`` is always one of `transfers`.
    labels : pl.DataFrame
        What is known, one row per report: address, label (exchange, mixer, scam, theft, ...),
        is_illicit (what the report says; a few are wrong), source, known_at. Many illicit
        addresses have none, and those that have one got it late, perhaps after the last day.
    truth : pl.DataFrame
        One row per address: address, role, is_illicit, group (the structure that it acts in, or
        null), first_seen_at (null if never). A mixer is not illicit, it is a mixer.
    tokens : pl.DataFrame
        One row per token: token, kind (licit, airdrop, honeypot, internal_fee, rug_pull),
        is_scam, pool, insiders (list of addresses), deployed_at.
    """

    transfers: pl.DataFrame
    token_transfers: pl.DataFrame
    labels: pl.DataFrame
    truth: pl.DataFrame
    tokens: pl.DataFrame


def simulate_chain(
    *,
    num_addresses: int = 20_000,
    days: int = 90,
    seed: int = 0,
    illicit: float = 0.002,
    withdrawals: pl.DataFrame | None = None,
    start: datetime = START,
) -> Chain:
    """Let people, firms and criminals pay each other for some days; same seed, same bytes.

    Parameters
    ----------
    num_addresses : int, >= 500
        Addresses of the chain itself; those of `withdrawals` come on top.
    days : int, >= 30
    illicit : float in [0, 0.05]
        Share of the addresses that are illicit, about. Above 0 each shape of crime and each
        kind of scam token is there at least once, which is more on a small chain. Licit
        structures of the same shapes are twice as many.
    withdrawals : pl.DataFrame, optional
        Withdrawals of the exchange: address, amount_usd, happened_at and, if known, is_fraud
        (all columns of `Simulation.frame("withdrawal")` joined with `event_truth`; others are
        ignored). Each becomes a payment of the exchange's hot wallet, and its address has a
        life that fits: a thief's passes on within the hour, an honest one's keeps or deposits.
    start : datetime
        The first day, with a time zone. Give the exchange's, so that its withdrawals fall into
        the span; those outside are left out.

    Raises
    ------
    InvalidInput
        If a number is out of range.
    InvalidTable
        If `withdrawals` lacks a column, a value, or has another type.

    Examples
    --------
    >>> chain = simulate_chain(num_addresses=500, days=30)
    >>> chain.transfers.columns[:3]
    ['sender', 'receiver', 'amount']
    """
    if num_addresses < _MIN_ADDRESSES:
        raise InvalidInput(f"expected num_addresses >= {_MIN_ADDRESSES}, got {num_addresses}")
    if days < 30:
        raise InvalidInput(f"expected at least 30 days, got {days}; crime needs time to play out")
    if not 0 <= illicit <= 0.05:
        raise InvalidInput(f"expected illicit from 0 to 0.05, got {illicit}")
    begin = instant(start)
    leaving = None if withdrawals is None else _checked(withdrawals, begin=begin, days=days)

    stage, parts = _set_stage(
        _rng(seed, 0), num_addresses, days=days, illicit=illicit, weekday=moment(begin).weekday()
    )
    chainlife.live(_rng(seed, 1), stage, days=days)
    chainlife.employ(_rng(seed, 2), stage, parts.firms)
    chainlife.mine(_rng(seed, 3), stage, parts.pools, parts.rewards)
    chainlife.trade(_rng(seed, 4), stage, parts.shops)
    crime = _rng(seed, 5)
    for shape, members, is_illicit in parts.structures:
        shape(crime, stage, members, is_illicit)
    if illicit:
        chaincrime.share_out(crime, stage)
    for token in parts.tokens:
        chaintokens.play(_rng(seed, 6, token.number), stage, token)
    if leaving is not None:
        _let_users_withdraw(_rng(seed, 7), stage, leaving)
    return _told(_rng(seed, 8), stage, parts.tokens, begin=begin, scarce=illicit > 0)


def write_ethereum_etl(chain: Chain, folder: Path) -> None:
    """Write ``transactions.csv`` and ``token_transfers.csv`` as Ethereum ETL does.

    Values are whole numbers of wei (and of 1e-18 tokens) in decimal, up to 28 digits; token
    transfers have no time of their own, their block has it in the other file.

    Raises
    ------
    InvalidInput
        If there is a file of that name in the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("transactions.csv", "token_transfers.csv"):
        if (folder / name).exists():
            raise InvalidInput(
                f"expected no `{name}` in {folder}; remove it or name another folder"
            )
    coins = chain.transfers
    blocks, txs = coins["block"], coins["tx"]
    place = coins.select(pl.int_range(pl.len()).over("block").alias("i"))["i"]
    nonce = coins.select(pl.int_range(pl.len()).over("sender").alias("i"))["i"]
    none = pl.Series([None] * len(coins), dtype=pl.Int64)
    pl.DataFrame(
        {
            "hash": txs,
            "nonce": nonce,
            "block_hash": _block_hashes(blocks),
            "block_number": blocks,
            "transaction_index": place,
            "from_address": coins["sender"],
            "to_address": coins["receiver"],
            "value": _wei(coins["amount"]),
            "gas": pl.repeat(21_000, len(coins), eager=True),
            "gas_price": pl.repeat(20_000_000_000, len(coins), eager=True),
            "input": pl.repeat("0x", len(coins), eager=True),
            "block_timestamp": coins["happened_at"].dt.epoch("s"),
            "max_fee_per_gas": none,
            "max_priority_fee_per_gas": none,
            "transaction_type": pl.repeat(0, len(coins), eager=True),
        }
    ).write_csv(folder / "transactions.csv")
    moved = chain.token_transfers
    pl.DataFrame(
        {
            "token_address": moved["asset"],
            "from_address": moved["sender"],
            "to_address": moved["receiver"],
            "value": _wei(moved["amount"]),
            "transaction_hash": moved["tx"],
            "log_index": moved["place"],
            "block_number": moved["block"],
        }
    ).write_csv(folder / "token_transfers.csv")


@dataclass(slots=True, kw_only=True)
class _Parts:
    """Who plays what, beside the people."""

    firms: Ids
    pools: Ids
    rewards: Ids
    shops: Ids
    structures: list[tuple[chaincrime.Shape, Ids, bool]]
    tokens: list[Token]


@dataclass(slots=True, kw_only=True)
class _Leaving:
    """Withdrawals of the exchange in the order of time; seconds since the first day."""

    addresses: list[str]
    owner: Ids
    coins: Floats
    at: Floats
    is_fraud: NDArray[np.bool_]


def _rng(seed: int, *player: int) -> np.random.Generator:
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(977, *player)))


def _set_stage(
    rng: np.random.Generator, num_addresses: int, *, days: int, illicit: float, weekday: int
) -> tuple[Stage, _Parts]:
    cast = Cast()
    size = num_addresses
    hot = cast.new("exchange", max(3, size // 5000))
    mixers = cast.new("mixer", max(1, size // 20_000))
    zero = int(cast.new("zero", 1)[0])
    cast.given[zero] = "0x" + 40 * "0"
    firms = cast.new("payroll", max(2, size // 2000))
    pools = cast.new("pool", max(1, size // 10_000))
    rewards = cast.new("rewards", len(pools))
    shops = cast.new("shop", max(4, size // 700))
    budget = round(size * illicit)
    cashouts = cast.new("cashout", max(2, budget // 12) if illicit else 0, illicit=True)
    tokens = _cast_tokens(rng, cast, max(3, size // 4000), bool(illicit), span=days * DAY)
    left = budget - len(cashouts) - sum(len(t.insiders) for t in tokens if t.kind in SCAMS)
    structures = _cast_structures(cast, left if illicit else None)
    rest = size - len(cast.roles)
    if rest < size // 3:
        raise InvalidInput(
            f"expected num_addresses to leave a third for people, got {size} with {illicit:.2%} "
            "illicit; take more addresses or a smaller share"
        )
    deposits = cast.new("deposit", rest // 6)
    people = cast.new("person", rest - rest // 6)
    fame = rng.pareto(1.2, len(people)) + 0.2
    # Our exchange has a third of the customers.
    chance = np.full(len(hot), (2 / 3) / max(1, len(hot) - 1))
    chance[0] = 1 / 3
    stage = Stage(
        span=days * DAY,
        weekday=weekday,
        cast=cast,
        paid=Payments(),
        people=people,
        fame=fame / fame.sum(),
        hot=hot,
        deposits=deposits,
        swept_to=rng.choice(hot, size=len(deposits), p=chance),
        mixers=mixers,
        zero=zero,
        cashouts=cashouts,
    )
    parts = _Parts(
        firms=firms, pools=pools, rewards=rewards, shops=shops, structures=structures,
        tokens=tokens,
    )  # fmt: skip
    return stage, parts


def _cast_tokens(
    rng: np.random.Generator, cast: Cast, of_each: int, with_scams: bool, *, span: float
) -> list[Token]:
    """Contracts, pools and makers; a scam token of each kind for every three honest ones."""
    tokens: list[Token] = []
    for kind in KINDS:
        if kind in SCAMS and not with_scams:
            continue
        for _ in range(max(1, of_each // 3) if kind in SCAMS else of_each):
            bad = kind in SCAMS
            group = f"token-{len(tokens)}"
            makers = 2 if bad else 1
            tokens.append(
                Token(
                    number=len(tokens),
                    kind=kind,
                    contract=int(cast.new("token", 1, group=group)[0]),
                    pool=int(cast.new("token_pool", 1, group=group)[0]),
                    insiders=cast.new("token_maker", makers, group=group, illicit=bad),
                    deployed=float(rng.uniform(0.02, 0.7)) * span,
                    fee=float(rng.uniform(0.08, 0.3)) if kind == "internal_fee" else 0.0,
                )
            )
    return tokens


def _cast_structures(cast: Cast, budget: int | None) -> list[tuple[chaincrime.Shape, Ids, bool]]:
    """Illicit structures until the budget is used up, and two licit ones of the shape for each."""
    chosen: list[tuple[chaincrime.Shape, Ids, bool]] = []
    used, number = 0, 0
    while number < len(_ILLICIT_GROUPS) or (budget is not None and used < budget):
        bad_role, good_role, size, shape = chaincrime.SHAPES[
            _ILLICIT_GROUPS[number % len(_ILLICIT_GROUPS)]
        ]
        if budget is not None:
            group = f"{bad_role}-{number}"
            chosen.append((shape, cast.new(bad_role, size, group=group, illicit=True), True))
            used += size
        for twin in range(2):
            group = f"{good_role}-{2 * number + twin}"
            chosen.append((shape, cast.new(good_role, size, group=group), False))
        number += 1
    return chosen


def _checked(withdrawals: pl.DataFrame, *, begin: int, days: int) -> _Leaving:
    for name, wanted in (
        ("address", "text"), ("amount_usd", "a number"), ("happened_at", "a datetime"),
    ):  # fmt: skip
        if name not in withdrawals.columns:
            raise InvalidTable(
                f"expected a column `{name}` in `withdrawals`"
                + did_you_mean(name, withdrawals.columns)
            )
        kind = withdrawals.schema[name]
        fits = {
            "text": kind == pl.String,
            "a number": kind.is_numeric(),
            "a datetime": kind == pl.Datetime and getattr(kind, "time_zone", None) is not None,
        }
        if not fits[wanted]:
            zone = " with a time zone" if wanted == "a datetime" else ""
            raise InvalidTable(f"expected {wanted}{zone} in `withdrawals.{name}`, got {kind}")
        if withdrawals[name].null_count():
            raise InvalidTable(f"expected a value in every row of `withdrawals.{name}`, got a null")
    if len(withdrawals) and not (withdrawals["amount_usd"].cast(pl.Float64) >= 0).all():
        raise InvalidTable("expected amounts >= 0 in `withdrawals.amount_usd`, got a smaller one")
    frame = withdrawals.with_columns(
        (pl.col("happened_at").dt.convert_time_zone("UTC").dt.epoch("us") - begin).alias("_at")
    )
    frame = frame.filter((pl.col("_at") >= 0) & (pl.col("_at") < int(days * DAY) * SECOND))
    frame = frame.sort("_at", "address", maintain_order=True)
    if "is_fraud" in frame.columns:
        fraud = frame["is_fraud"].cast(pl.Boolean).fill_null(False).to_numpy()
    else:
        fraud = np.zeros(len(frame), dtype=np.bool_)
    addresses = frame["address"].unique(maintain_order=True)
    number = {address: i for i, address in enumerate(addresses.to_list())}
    owner = frame["address"].replace_strict(number, return_dtype=pl.Int64)
    return _Leaving(
        addresses=addresses.to_list(),
        owner=owner.to_numpy().astype(np.int64),
        coins=frame["amount_usd"].cast(pl.Float64).to_numpy() / COIN_USD,
        at=frame["_at"].to_numpy() / SECOND,
        is_fraud=fraud,
    )


def _let_users_withdraw(rng: np.random.Generator, stage: Stage, leaving: _Leaving) -> None:
    """Wallets of the exchange's users: most withdrawals to it fraud, and it is a thief's."""
    count = len(leaving.addresses)
    seen = np.bincount(leaving.owner, minlength=count)
    bad = np.bincount(leaving.owner, weights=leaving.is_fraud, minlength=count) * 2 > seen
    places = np.zeros(count, dtype=np.int64)
    for i, name in enumerate(leaving.addresses):
        role = "thief_wallet" if bad[i] else "wallet"
        places[i] = stage.cast.new(role, 1, illicit=bool(bad[i]))[0]
        stage.cast.given[int(places[i])] = name
    wallet = places[leaving.owner]
    sent = leaving.at + rng.uniform(60, 600, len(wallet))
    stage.paid.pay(stage.hot[0], wallet, leaving.coins, sent)
    thief = bad[leaving.owner]
    _thieves_move_on(rng, stage, wallet[thief], leaving.coins[thief], sent[thief])
    _old_crimes(rng, stage, leaving, places, bad)
    honest = np.flatnonzero(~thief)
    keeps = rng.random(len(honest))
    back = honest[keeps < 0.3]
    wait = rng.lognormal(np.log(6 * DAY), 1.0, len(back))
    part = rng.uniform(0.3, 1.0, len(back)) * leaving.coins[back]
    stage.deposit(rng, wallet[back], part, sent[back] + wait)
    spends = honest[(keeps >= 0.3) & (keeps < 0.7)]
    wait = rng.lognormal(np.log(3 * DAY), 1.2, len(spends))
    part = rng.uniform(0.1, 0.8, len(spends)) * leaving.coins[spends]
    payees = stage.some_people(rng, len(spends))
    stage.paid.pay(wallet[spends], payees, part, sent[spends] + wait)


def _thieves_move_on(
    rng: np.random.Generator, stage: Stage, wallet: Ids, coins: Floats, sent: Floats
) -> None:
    """What a thief's wallet gets leaves it within the hour, mostly for shared places."""
    away = sent + rng.lognormal(np.log(1200.0), 0.8, len(wallet))
    draw = rng.random(len(wallet))
    shared = (draw < 0.5) & (len(stage.cashouts) > 0)
    if shared.any():
        ends = rng.choice(stage.cashouts, size=int(shared.sum()))
        stage.paid.pay(wallet[shared], ends, coins[shared] * 0.98, away[shared])
    mixed = ~shared & (draw < 0.85)
    exits = stage.cashouts if len(stage.cashouts) else stage.people
    for row in np.flatnonzero(mixed).tolist():
        stage.mix(rng, int(wallet[row]), coins[row] * 0.98, away[row], rng.choice(exits, size=2))
    rest = ~shared & ~mixed
    stage.deposit(rng, wallet[rest], coins[rest] * 0.98, away[rest])


def _old_crimes(
    rng: np.random.Generator, stage: Stage, leaving: _Leaving, places: Ids,
    bad: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Half of the thieves' wallets were used against others in the days before."""
    first = np.full(len(places), np.inf)
    np.minimum.at(first, leaving.owner, leaving.at)
    for i in np.flatnonzero(bad & (rng.random(len(places)) < 0.5)).tolist():
        count = int(rng.integers(2, 12))
        coins = rng.lognormal(np.log(0.3), 1.0, count)
        at = first[i] - rng.uniform(0.05, 10, count) * DAY
        inside = at > 0
        victims = stage.some_people(rng, count)[inside]
        stage.paid.pay(victims, places[i], coins[inside], at[inside])
        wallet = np.full(int(inside.sum()), places[i])
        _thieves_move_on(rng, stage, wallet, coins[inside], at[inside])


def _told(
    rng: np.random.Generator, stage: Stage, tokens: list[Token], *, begin: int, scarce: bool
) -> Chain:
    """Everything as frames: cut at the last day, put into blocks, and named."""
    names = pl.Series("address", stage.cast.names(rng), dtype=pl.String)
    src, dst, amounts, at = stage.paid.rows()
    amounts = np.round(np.maximum(amounts, 0.0) * _UNITS_PER_COIN) / _UNITS_PER_COIN
    inside = (at >= 0) & (at < stage.span)
    block = np.floor(at / BLOCK_SECONDS).astype(np.int64)
    numbers = np.flatnonzero(inside)
    numbers = numbers[np.lexsort((numbers, block[numbers]))]
    digits = rng.bytes(32 * len(numbers)).hex()
    txs = pl.Series(
        "tx", ["0x" + digits[64 * i : 64 * i + 64] for i in range(len(numbers))], dtype=pl.String
    )
    place_of = np.full(len(src), -1, dtype=np.int64)
    place_of[numbers] = np.arange(len(numbers))
    transfers = _frame(
        names, src[numbers], dst[numbers], amounts[numbers], block[numbers], txs,
        np.zeros(len(numbers), dtype=np.int64), pl.repeat("", len(numbers), eager=True), begin,
    )  # fmt: skip
    token_transfers = _token_frame(stage, names, tokens, place_of, block, txs, begin)
    seen = np.full(len(names), np.iinfo(np.int64).max)
    np.minimum.at(seen, src[numbers], block[numbers])
    np.minimum.at(seen, dst[numbers], block[numbers])
    never = seen == np.iinfo(np.int64).max
    first = pl.Series(np.where(never, 0, seen) * BLOCK_SECONDS * SECOND + begin)
    cast = stage.cast
    truth = pl.DataFrame(
        {
            "address": names,
            "role": pl.Series(cast.roles, dtype=pl.String),
            "is_illicit": pl.Series(cast.illicit, dtype=pl.Boolean),
            "group": pl.Series(cast.groups, dtype=pl.String),
            "first_seen_at": first.set(pl.Series(never), None).cast(_MOMENT),
        }
    )
    return Chain(
        transfers=transfers.sort("block", "happened_at", "tx", "place"),
        token_transfers=token_transfers.sort("block", "happened_at", "tx", "place"),
        labels=_labels(rng, truth, begin=begin, span=stage.span, scarce=scarce),
        truth=truth,
        tokens=pl.DataFrame(
            {
                "token": names.gather([token.contract for token in tokens]),
                "kind": pl.Series([token.kind for token in tokens], dtype=pl.String),
                "is_scam": pl.Series([token.kind in SCAMS for token in tokens], dtype=pl.Boolean),
                "pool": names.gather([token.pool for token in tokens]),
                "insiders": pl.Series(
                    [names.gather(token.insiders).to_list() for token in tokens],
                    dtype=pl.List(pl.String),
                ),
                "deployed_at": pl.Series(
                    [int(token.deployed) * SECOND + begin for token in tokens]
                ).cast(_MOMENT),
            }
        ),
    )


def _frame(
    names: pl.Series, src: Ids, dst: Ids, amounts: Floats, block: Ids, txs: pl.Series, place: Ids,
    assets: pl.Series, begin: int,
) -> pl.DataFrame:  # fmt: skip
    return pl.DataFrame(
        {
            "sender": names.gather(src),
            "receiver": names.gather(dst),
            "amount": amounts,
            "happened_at": pl.Series(block * BLOCK_SECONDS * SECOND + begin).cast(_MOMENT),
            "block": block + FIRST_BLOCK,
            "tx": txs,
            "place": place,
            "asset": assets,
        }
    )


def _token_frame(
    stage: Stage, names: pl.Series, tokens: list[Token], place_of: Ids, block: Ids,
    txs: pl.Series, begin: int,
) -> pl.DataFrame:  # fmt: skip
    src, dst, amounts, payments, of = stage.paid.logs()
    kept = np.flatnonzero(place_of[payments] >= 0)
    kept = kept[np.argsort(place_of[payments[kept]], kind="stable")]
    src, dst, payments, of = src[kept], dst[kept], payments[kept], of[kept]
    units = np.round(amounts[kept] * _UNITS_PER_COIN) / _UNITS_PER_COIN
    blocks = block[payments]
    starts = np.flatnonzero(np.diff(blocks, prepend=-1))
    index = np.arange(len(blocks)) - np.repeat(starts, np.diff(np.append(starts, len(blocks))))
    contracts = np.array([token.contract for token in tokens], dtype=np.int64)
    return _frame(
        names, src, dst, units, blocks, txs.gather(place_of[payments]), index,
        names.gather(contracts[of]), begin,
    )  # fmt: skip


def _labels(
    rng: np.random.Generator, truth: pl.DataFrame, *, begin: int, span: float, scarce: bool
) -> pl.DataFrame:
    """Services are known from the first day; of the illicit a part, weeks after they acted."""
    services = truth.filter(pl.col("role").is_in(["exchange", "mixer", "pool"]))
    bad = truth.filter(pl.col("is_illicit") & pl.col("first_seen_at").is_not_null())
    bad = bad.filter(pl.Series(rng.random(len(bad)) < _LABELLED, dtype=pl.Boolean))
    parts = [_report(services, pl.col("role"), False, "public list", _zeros(services), begin)]
    if len(bad):
        late = rng.lognormal(np.log(12 * DAY), 1.0, len(bad)) + rng.uniform(1, 24, len(bad)) * HOUR
        since = bad["first_seen_at"].dt.epoch("us").to_numpy() / SECOND - begin / SECOND
        sources = pl.Series(
            rng.choice(["victim report", "public list", "analyst"], size=len(bad)), dtype=pl.String
        )
        parts.append(_report(bad, pl.col("role"), True, sources, since + late, begin))
    if scarce:
        honest = truth.filter((pl.col("role") == "person") & pl.col("first_seen_at").is_not_null())
        count = min(len(honest), max(1, round(len(bad) * _FALSE_REPORTS)))
        accused = honest[np.sort(rng.choice(len(honest), size=count, replace=False)).tolist()]
        at = rng.uniform(0.3, 1.0, count) * span
        parts.append(_report(accused, pl.lit("scam"), True, "victim report", at, begin))
    return pl.concat(parts).sort("known_at", "address")


def _zeros(frame: pl.DataFrame) -> Floats:
    return np.zeros(len(frame))


def _report(
    frame: pl.DataFrame, label: pl.Expr, is_illicit: bool, source: pl.Series | str, at: Floats,
    begin: int,
) -> pl.DataFrame:  # fmt: skip
    moments = pl.Series(at.astype(np.int64) * SECOND + begin).cast(_MOMENT)
    return frame.select(
        "address",
        label.alias("label"),
        pl.lit(is_illicit).alias("is_illicit"),
        (pl.lit(source) if isinstance(source, str) else source).alias("source"),
        moments.alias("known_at"),
    )


def _wei(amounts: pl.Series) -> pl.Series:
    """Whole wei as text; no float ever holds them."""
    units = (amounts * _UNITS_PER_COIN).round(0).cast(pl.Int64)
    texts = units.cast(pl.String)
    return texts.set(units > 0, None).fill_null(texts + "000000000")


def _block_hashes(blocks: pl.Series) -> pl.Series:
    return "0x" + blocks.cast(pl.String).str.zfill(64)

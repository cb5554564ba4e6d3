"""What is known of tokens: figures are those of loops, and symbols are read as the eye does."""

from datetime import timedelta
from statistics import median

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.graph.tokenevidence import gather
from chopmark.times import EPOCH

HOUR = 3_600
NOBODY = "0x0000000000000000000000000000000000000000"


def frame(rows):
    """Rows of sender, receiver, amount, second, tx of the token t."""
    return pl.DataFrame(
        [(s, r, float(a), EPOCH + timedelta(seconds=t), tx, "t") for s, r, a, t, tx in rows],
        schema={"sender": pl.String, "receiver": pl.String, "amount": pl.Float64,
                "happened_at": pl.Datetime("us", "UTC"), "tx": pl.String, "asset": pl.String},
        orient="row",
    )  # fmt: skip


def over(some, all_of_it):
    return some / all_of_it if all_of_it else None


def figures_of(rows, *, told=None, end=None):
    """The figures of one token, account by account and row by row."""
    rows = sorted(rows, key=lambda row: row[3])
    rows = [(*row[:4], row[4] or f"alone {i}") for i, row in enumerate(rows)]
    end = rows[-1][3] if end is None else end
    legs = {}
    for s, r, a, _, tx in rows:
        legs.setdefault((tx, s), []).append((a, r))
    names = list(dict.fromkeys([row[0] for row in rows] + [row[1] for row in rows]))
    is_batch = [len(legs[row[4], row[0]]) >= 20 for row in rows]

    pool = told
    if pool is None:
        gives, gets = {}, {}
        for row, batch in zip(rows, is_batch, strict=True):
            if not batch and row[0] != row[1]:
                gives.setdefault(row[0], set()).add(row[1])
                gets.setdefault(row[1], set()).add(row[0])
        markets = [name for name in names if len(gives.get(name, ())) >= 3 and name in gets]
        pool = max(markets, key=lambda name: len(gives[name]) + len(gets[name]), default=None)
    buys = [row for row in rows if row[0] == pool]
    opened = buys[0][3] if buys else None
    sales = [row for row in rows if buys and row[1] == pool and row[3] >= opened]
    sources = {rows[0][0], "t", NOBODY}

    received, sent, held, sold, lacking = {}, {}, {}, {}, {}
    for name in names:
        received[name] = sum(row[2] for row in rows if row[1] == name)
        sent[name] = sum(row[2] for row in rows if row[0] == name)
        held[name] = max(received[name] - sent[name], 0)
        lacking[name] = max(sent[name] - received[name], 0)
        sold[name] = sum(row[2] for row in sales if row[0] == name)
    came = {name: [row[3] for row in rows if row[1] == name] for name in names}
    bought = {name: [row for row in buys if row[1] == name] for name in names}
    pairs = list(zip(rows, is_batch, strict=True))
    gifted = {row[1] for row, batch in pairs if batch}
    early = {row[1] for row, batch in pairs if not batch and buys and row[3] < opened}
    people = [name for name in names if name not in sources | {pool}]
    insiders = [name for name in people if name in early]
    others = [name for name in people if name not in early]
    buyers = [name for name in others if bought[name]]
    holders = [name for name in others if received[name] > 0]
    ripe = end - 48 * HOUR
    ripe_buyers = [name for name in buyers if bought[name][0][3] <= ripe]
    ripe_holders = [name for name in holders if came[name][0] <= ripe]
    num_holders = sum(held[name] > 0 for name in people)
    all_sold = sum(sold[name] for name in people)
    supply = sum(held[name] for name in people) + held.get(pool, 0)
    unbought = [name for name in people if not sum(row[2] for row in bought[name])]
    num_gifted = sum(name in gifted for name in unbought)
    found = {
        "num_transfers": len(rows),
        "age_days": (end - rows[0][3]) / 24 / HOUR,
        "has_pool": pool in names,
        "num_holders": num_holders,
        "num_buyers": len(buyers),
        "num_ripe_buyers": len(ripe_buyers),
        "num_ripe_buyers_moved": sum(sent[name] > 0 for name in ripe_buyers),
        "num_ripe_holders": len(ripe_holders),
        "num_ripe_holders_moved": sum(sent[name] > 0 for name in ripe_holders),
        "num_insiders": len(insiders),
        "sold": all_sold,
        "num_sellers": sum(sold[name] > 0 for name in people),
        "top_sellers": over(sum(sorted(sold[name] for name in people)[-3:]), all_sold),
        "insider_sales": over(sum(sold[name] for name in insiders), all_sold),
        "insider_supply": over(sum(sorted(held[name] for name in unbought)[-5:]), supply),
        "unseen_share": over(sum(lacking[name] for name in people), sum(received.values())),
        "gifted_share": min(1.0, num_gifted / max(num_holders, 1)),
        "idle_share": over(end - buys[-1][3], end - opened) if buys else None,
    }
    calls = [c for c in legs if len(legs[c]) < 20 and c[1] not in sources]
    rates = {}
    for parts in (legs[call] for call in calls if 2 <= len(legs[call]) <= 4):
        amount, taker = min(parts, key=lambda part: part[0])
        rates.setdefault(taker, []).append(over(amount, sum(part[0] for part in parts)))
    taker = max(names, key=lambda name: len(rates.get(name, ())))
    if calls:
        found["num_calls"] = len(calls)
        found["fee_share"] = len(rates.get(taker, ())) / len(calls)
        found["fee_rate"] = median(rates[taker]) if taker in rates else 0.0
    else:
        found |= dict.fromkeys(("num_calls", "fee_share", "fee_rate"))
    return found


WHO = st.sampled_from([NOBODY, "t", "m", "a", "b", "c", "d", "e", "f", "g"])
MOVE = st.tuples(st.just("move"), WHO, WHO, st.integers(1, 9), st.integers(0, 24 * 5))
FEE = st.tuples(st.just("fee"), WHO, WHO, st.integers(5, 9), st.integers(0, 24 * 5))
DROP = st.tuples(st.just("drop"), WHO, st.integers(19, 21), st.integers(1, 3), st.integers(0, 120))
TRADE = st.tuples(st.just("trade"), WHO, st.booleans(), st.integers(1, 9), st.integers(0, 120))


def played(moves):
    rows = [("m", "a", 50, 0, "mint")]
    for i, (kind, one, other, amount, hour) in enumerate(moves):
        # No two calls at one moment: what comes first would be chance.
        at = hour * HOUR + i + 1
        if kind == "move":
            rows.append((one, other, amount, at, f"x{i}" if amount % 2 else ""))
        elif kind == "trade":
            rows.append((one, "p", amount, at, f"x{i}") if other else ("p", one, amount, at, ""))
        elif kind == "fee":
            rows += [(one, other, amount, at, f"x{i}"), (one, "b", 1, at, f"x{i}")]
            rows += [(one, "c", k + 2, at, f"x{i}") for k in range(amount - 5)]
        else:
            rows += [(one, f"l{k}", amount, at, f"x{i}") for k in range(other)]
    return rows


@settings(max_examples=80, deadline=None)
@given(
    moves=st.lists(st.one_of(MOVE, FEE, DROP, TRADE, TRADE), max_size=25),
    told=st.sampled_from([None, None, "p", "a"]),
    later=st.sampled_from([None, 0, 24, 100]),
)
def test_figures_are_those_of_loops(moves, told, later):
    rows = played(moves)
    facts = None if told is None else pl.DataFrame({"token": ["t"], "pool": [told]})
    end = None if later is None else max(row[3] for row in rows) + later * HOUR
    if told not in [name for row in rows for name in row[:2]]:
        told, facts = None, None
    when = None if end is None else EPOCH + timedelta(seconds=end)
    found = gather(frame(rows), facts=facts, as_of=when).tokens.to_dicts()[0]
    for name, value in figures_of(rows, told=told, end=end).items():
        assert found[name] == (None if value is None else pytest.approx(value)), name


@pytest.mark.parametrize(
    ("symbol", "expected"),
    [
        ("USDC", 1.0), ("u.s.d c", 1.0), ("U5DC", 1.0), ("USD\u0421", 1.0), ("\u00dcSDC", 1.0),
        ("USDX", 0.7), ("USDCC", 0.7), ("SDC", 0.0), ("UUSDCC", 0.0), ("CAT", 0.0), ("BAT", 1.0),
        (None, None),
    ],
)  # fmt: skip
def test_a_symbol_is_compared_as_the_eye_reads_it(symbol, expected):
    facts = pl.DataFrame({"token": ["t"], "symbol": [symbol]}, schema_overrides={"symbol": str})
    familiar = {"USDC": "0xA", "BAT": "0xB"}
    assert gather(frame([]), facts=facts, familiar=familiar).tokens["alike"].to_list() == [expected]
    assert gather(frame([]), facts=facts).tokens["alike"].to_list() == [None]
    own = gather(frame([]), facts=facts, familiar={**familiar, "X": "T"}).tokens["alike"].to_list()
    assert own == [None if symbol is None else 0.0]

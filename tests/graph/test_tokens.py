"""Scam tokens: planted ones are found, honest ones pass, and the figures are those of loops."""

from datetime import timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.datasets.chain import simulate_chain
from chopmark.errors import DeclarationError, InvalidTable
from chopmark.graph.tokenchecks import Catalogue, Check
from chopmark.graph.tokendays import concentration
from chopmark.graph.tokenevidence import NOBODY, gather
from chopmark.graph.tokens import detect
from chopmark.times import EPOCH

HOURS = 3_600


def frame(rows):
    """Rows of sender, receiver, amount, second, tx, asset."""
    return pl.DataFrame(
        [(s, r, float(a), EPOCH + timedelta(seconds=t), 0, tx, 0, asset)
         for s, r, a, t, tx, asset in rows],
        schema={"sender": pl.String, "receiver": pl.String, "amount": pl.Float64,
                "happened_at": pl.Datetime("us", "UTC"), "block": pl.Int64, "tx": pl.String,
                "place": pl.Int64, "asset": pl.String},
        orient="row",
    )  # fmt: skip


def market(token, *, buyers=30, sellers=15, fee=0.0, dump=False):
    """A token from its mint on: filled, bought day by day, sold by some, or by its makers."""
    rows = [(NOBODY, "maker", 1000, 0, f"{token}m", token),
            ("maker", "friend", 100, 10, f"{token}g", token),
            ("maker", "pool", 600, 20, f"{token}f", token)]  # fmt: skip

    def move(src, dst, amount, at):
        tx = f"{token}{src}{dst}{at}"
        rows.append((src, dst, amount * (1 - fee), at, tx, token))
        if fee:
            rows.append((src, "maker", amount * fee, at, tx, token))

    for i in range(buyers):
        move("pool", f"buyer{i}", 4 + i % 3, (i + 1) * 4 * HOURS)
    for i in range(sellers):
        move(f"buyer{i}", "pool", 2, (i + 30) * 4 * HOURS)
    if dump:
        rows += [(name, "pool", 90, 46 * 4 * HOURS, f"{token}{name}d", token)
                 for name in ("maker", "friend")]  # fmt: skip
    rows.append(("pool", "late", 1, 80 * 4 * HOURS, f"{token}z", token))
    return rows


def found_of(rows, **options):
    verdicts = detect(frame(rows), **options)
    return {
        row["token"]: (row["verdict"], [reason["name"] for reason in row["reasons"]])
        for row in verdicts.tokens.iter_rows(named=True)
    }


def test_each_planted_scam_is_named_by_its_own_check_and_the_honest_one_passes():
    rows = (
        market("honest")
        + market("trap", sellers=0, dump=True)
        + market("fee", fee=0.1)
        + market("rug", dump=True)
    )
    found = found_of(rows)
    assert found["honest"] == ("pass", [])
    assert found["trap"][0] == found["fee"][0] == found["rug"][0] == "scam"
    assert found["trap"][1][0] == "honeypot"
    assert found["fee"][1][0] == "internal_fee"
    assert found["rug"][1][0] == "insiders_cash_out"
    assert "honeypot" not in found["fee"][1] + found["rug"][1]
    assert detect(frame(market("honest"))).allowed == ["honest"]


def test_the_simulated_chain_is_judged_rightly():
    chain = simulate_chain(num_addresses=3_000, days=40, seed=5)
    found = detect(chain.token_transfers).tokens.join(chain.tokens, on="token")
    assert found.height == chain.tokens.height
    scams, honest = found.filter("is_scam"), found.filter(~pl.col("is_scam"))
    assert scams.height >= 3
    assert (scams["verdict"] == "scam").mean() >= 0.9
    assert (honest["verdict"] == "scam").sum() == 0
    assert scams["score"].min() > honest["score"].max()


def test_a_token_is_judged_the_same_alone_or_among_others_in_any_order_of_rows():
    rows = market("honest") + market("trap", sellers=0, dump=True) + market("fee", fee=0.1)
    when = EPOCH + timedelta(days=20)
    together = detect(frame(rows), as_of=when)
    rng = np.random.default_rng(0)
    mixed = detect(frame([rows[i] for i in rng.permutation(len(rows))]), as_of=when)
    assert mixed.tokens.equals(together.tokens)
    for token in ("honest", "trap", "fee"):
        alone = detect(frame([row for row in rows if row[5] == token]), as_of=when)
        assert alone.tokens.equals(together.tokens.filter(pl.col("token") == token))
        assert alone.days.equals(together.days.filter(pl.col("token") == token))


def test_what_happens_later_does_not_change_what_was_known():
    rows = market("rug", dump=True)
    dump = 46 * 4 * HOURS
    early = detect(frame(rows), as_of=EPOCH + timedelta(seconds=dump - 1))
    cut = detect(frame([r for r in rows if r[3] < dump]), as_of=EPOCH + timedelta(seconds=dump - 1))
    assert early.tokens.equals(cut.tokens)
    assert early.tokens["verdict"].to_list() == ["pass"]
    assert detect(frame(rows)).tokens["verdict"].to_list() == ["scam"]


def test_fresh_buyers_who_have_not_sold_yet_make_no_honeypot():
    rows = market("new", sellers=0)
    assert "honeypot" in found_of(rows)["new"][1]
    young = found_of(rows, as_of=EPOCH + timedelta(days=2, hours=4))
    assert "honeypot" not in young["new"][1]


def _held(rows, token, day):
    """Balances at the end of a day by a loop."""
    balances = {}
    for src, dst, amount, at, _, asset in sorted(rows, key=lambda row: row[3]):
        if asset == token and at // 86_400 <= day:
            balances[src] = balances.get(src, 0.0) - amount
            balances[dst] = balances.get(dst, 0.0) + amount
    return balances


@settings(max_examples=20, deadline=None)
@given(
    moves=st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(1, 9), st.integers(0, 4 * 24)),
        max_size=40,
    ),
    top=st.integers(1, 4),
)
def test_concentration_of_each_day_is_that_of_loops(moves, top):
    minted = [(NOBODY, f"a{i}", 50, 0, f"m{i}", "t") for i in range(3)]
    rows = minted + [
        (f"a{s}", f"a{r}", a, HOURS * h, f"x{i}", "t") for i, (s, r, a, h) in enumerate(moves)
    ]
    facts = pl.DataFrame({"token": ["t"], "pool": ["a0"]})
    days = concentration(gather(frame(rows), facts=facts), top=top)
    assert days["day"].n_unique() == days.height == len({row[3] // 86_400 for row in rows})
    for row in days.iter_rows(named=True):
        day = (row["day"] - EPOCH.date()).days
        balances = _held(rows, "t", day)
        held = [b for name, b in balances.items() if name not in (NOBODY, "a0") and b > 0]
        assert row["num_holders"] == len(held)
        assert row["pool_balance"] == pytest.approx(balances.get("a0", 0.0))
        if held:
            total, n = sum(held), len(held)
            assert row["top_share"] == pytest.approx(sum(sorted(held)[-top:]) / total)
            assert row["hhi"] == pytest.approx(sum((b / total) ** 2 for b in held))
            apart = sum(abs(x - y) for x in held for y in held)
            assert row["gini"] == pytest.approx(apart / (2 * n * total), abs=1e-9)
        opened = min((r[3] for r in rows if r[0] == "a0"), default=None)
        today = [r for r in rows if r[3] // 86_400 == day]
        assert row["bought"] == pytest.approx(sum(r[2] for r in today if r[0] == "a0"))
        sales = [r for r in today if r[1] == "a0" and opened is not None and r[3] >= opened]
        assert row["sold"] == pytest.approx(sum(r[2] for r in sales))
        past = [r for r in rows if r[3] // 86_400 <= day]
        buyers = {r[1] for r in past if r[0] == "a0"}
        sellers = {r[0] for r in past if r[1] == "a0" and opened is not None and r[3] >= opened}
        # A seller counts as one only if it ever buys.
        ever = {r[1] for r in rows if r[0] == "a0"}
        assert row["num_buyers"] == len(buyers)
        assert row["num_sellers"] == len(sellers & ever)


def test_who_makes_or_burns_a_token_holds_none_of_it():
    rows = [("maker", f"holder{i}", 1, i, f"x{i}", "t") for i in range(12)]
    rows += [("holder0", NOBODY, 1, 50, "burnt", "t"), ("ghost", "maker", 20, 60, "back", "t")]
    day = concentration(gather(frame(rows))).to_dicts()[0]
    assert day["num_holders"] == 11
    assert day["top_share"] == pytest.approx(10 / 11)


def test_an_air_drop_alone_is_told_but_not_suspect():
    rows = [(NOBODY, "maker", 1000, 0, "m", "drop")]
    rows += [("maker", f"lucky{i}", 5, 100, f"tx{i // 30}", "drop") for i in range(90)]
    found = found_of(rows, as_of=EPOCH + timedelta(days=9))["drop"]
    assert found[0] == "pass"
    assert "airdropped" in found[1]


def test_tokens_made_without_a_trace_are_noticed():
    rows = [*market("ghost"), ("nobody1", "pool", 300, 47 * 4 * HOURS, "g1", "ghost")]
    assert "minted_unseen" in found_of(rows)["ghost"][1]


def test_facts_of_the_contract_and_imitated_names_count_without_any_transfer():
    facts = pl.DataFrame(
        {
            "token": ["0x1", "0x2", "0x3", "0x4", "0x5"],
            "symbol": ["U S D \u0421", "USDC", "UZDC", "CAT", None],
            "has_blacklist": [True, None, None, False, None],
            "is_source_verified": [False, True, None, True, None],
        }
    )
    found = found_of([], facts=facts, familiar={"USDC": "0x2"})
    assert found["0x1"][0] == "suspect" or found["0x1"][0] == "scam"
    assert set(found["0x1"][1]) == {"look_alike", "blacklist", "source_hidden"}
    assert found["0x2"] == ("unknown", [])
    assert found["0x3"][1] == ["look_alike"]
    assert found["0x4"] == found["0x5"] == ("unknown", [])


def test_a_check_of_ones_own_counts_as_the_others_do():
    catalogue = Catalogue()
    catalogue.register(
        Check(name="cursed", says="it is cursed", weight=0.95,
              strength=lambda evidence: evidence.tokens["token"].str.starts_with("bad"))
    )  # fmt: skip
    found = found_of(market("bad") + market("good"), catalogue=catalogue)
    assert found == {"bad": ("scam", ["cursed"]), "good": ("pass", [])}
    assert Catalogue([]).names == ()
    assert found_of(market("good"), catalogue=Catalogue([])) == {"good": ("pass", [])}


def test_checks_that_cannot_be_are_refused():
    catalogue = Catalogue()
    with pytest.raises(DeclarationError, match="is there"):
        catalogue.register(catalogue["honeypot"])
    with pytest.raises(DeclarationError, match="a weight in"):
        Check(name="x", says="y", weight=1.5, strength=pl.lit(1.0))
    rows = frame(market("t"))
    for strength, message in (
        (pl.col("num_holders"), "numbers in"),
        (pl.col("no_such_figure"), "check `odd` failed"),
        (lambda evidence: pl.Series([0.5, 0.5]), "got 2 such"),
    ):
        odd = Catalogue([Check(name="odd", says="it is odd", weight=0.5, strength=strength)])
        with pytest.raises(DeclarationError, match=message):
            detect(rows, catalogue=odd)


def test_bad_tables_are_refused_and_an_empty_one_has_no_verdicts():
    rows = frame(market("t"))
    assert detect(rows.clear()).tokens.is_empty()
    assert detect(rows.with_columns(asset=pl.lit(""))).tokens.is_empty()
    with pytest.raises(InvalidTable, match="no `asset`"):
        detect(rows.drop("asset"))
    with pytest.raises(InvalidTable, match="happened_at"):
        detect(rows.with_columns(pl.col("happened_at").dt.replace_time_zone(None)))
    for amount in (-1.0, np.nan, np.inf, None):
        with pytest.raises(InvalidTable, match="amounts >= 0"):
            detect(rows.with_columns(amount=pl.lit(amount, dtype=pl.Float64)))
    for facts, message in (
        (pl.DataFrame({"token": ["a", "a"]}), "each token once"),
        (pl.DataFrame({"token": ["a"], "has_blaklist": [True]}), "did you mean `has_blacklist`"),
        (pl.DataFrame({"symbol": ["a"]}), "column `token`"),
        (pl.DataFrame({"token": ["a"], "is_proxy": ["maybe"]}), "truth values"),
    ):
        with pytest.raises(InvalidTable, match=message):
            detect(rows, facts=facts)

"""How loud each check speaks, where it is silent, and what the verdict makes of it."""

from datetime import timedelta
from math import exp

import polars as pl
import pytest

from chopmark.graph.tokenchecks import Catalogue, Check
from chopmark.graph.tokendays import anomaly
from chopmark.graph.tokenevidence import FACTS, Evidence
from chopmark.graph.tokens import detect
from chopmark.times import EPOCH

COUNTS = (
    "num_transfers", "num_holders", "num_buyers", "num_calls", "num_ripe_buyers",
    "num_ripe_buyers_moved", "num_ripe_holders", "num_ripe_holders_moved",
)  # fmt: skip
SHARES = (
    "fee_share", "fee_rate", "sold", "insider_sales", "unseen_share", "insider_supply",
    "gifted_share", "alike", "top_sellers", "idle_share",
)  # fmt: skip


def evidence(**figures):
    """Of one token of which only these are known."""
    kinds = {"token": pl.String, **FACTS}
    kinds |= dict.fromkeys(COUNTS, pl.Int64) | dict.fromkeys(SHARES, pl.Float64)
    row = pl.DataFrame([{"token": "t", **figures}], schema=kinds)
    return Evidence(tokens=row, accounts=pl.DataFrame(), transfers=pl.DataFrame())


def trap(held, moved):
    """Bayes: of 8.39 tokens one is a trap; 2 % of its holders moved theirs, 30 % of the others."""
    bad = 0.02**moved * 0.98 ** (held - moved)
    good = 0.3**moved * 0.7 ** (held - moved) * exp(2)
    return bad / (bad + good)


BUYERS = ("num_ripe_buyers", "num_ripe_buyers_moved")
HOLDERS = ("num_ripe_holders", "num_ripe_holders_moved")


def pair(names, held, moved):
    return dict(zip(names, (held, moved), strict=True))


@pytest.mark.parametrize(
    ("name", "weight", "figures", "strength"),
    [
        ("honeypot", 0.9, pair(BUYERS, 4, 0), None),
        ("honeypot", 0.9, pair(BUYERS, 5, 0), trap(5, 0)),
        ("honeypot", 0.9, pair(BUYERS, 30, 2), trap(30, 2)),
        ("never_sold", 0.15, pair(HOLDERS, 4, 0), None),
        ("never_sold", 0.15, pair(HOLDERS, 12, 1), trap(12, 1)),
        ("internal_fee", 0.9, {"num_calls": 9, "fee_share": 1, "fee_rate": 1}, None),
        ("internal_fee", 0.9, {"num_calls": 10, "fee_share": 0.5, "fee_rate": 0.01}, 0.25),
        ("internal_fee", 0.9, {"num_calls": 10, "fee_share": 0.3, "fee_rate": 0.01}, 0),
        ("internal_fee", 0.9, {"num_calls": 10, "fee_share": 0.2, "fee_rate": 0.01}, 0),
        ("internal_fee", 0.9, {"num_calls": 10, "fee_share": 0.9, "fee_rate": 0.1}, 1),
        ("insiders_cash_out", 0.8, {"sold": 0, "insider_sales": 0.9}, None),
        ("insiders_cash_out", 0.8, {"sold": 0.1, "insider_sales": 0.4}, 0.2),
        ("insiders_cash_out", 0.8, {"sold": 1, "insider_sales": 0.2}, 0),
        ("insiders_cash_out", 0.8, {"sold": 1, "insider_sales": 0.9}, 1),
        ("minted_unseen", 0.5, {"unseen_share": 0.04}, 0.4),
        ("minted_unseen", 0.5, {"unseen_share": 0.2}, 1),
        ("minted_to_insiders", 0.2, {"insider_supply": 0.6}, 0.25),
        ("minted_to_insiders", 0.2, {"insider_supply": 0.4}, 0),
        ("minted_to_insiders", 0.2, {"insider_supply": 1.0}, 1),
        ("airdropped", 0.1, {"num_holders": 19, "gifted_share": 0.9}, None),
        ("airdropped", 0.1, {"num_holders": 20, "gifted_share": 0.7}, 0.5),
        ("airdropped", 0.1, {"num_holders": 20, "gifted_share": 0.4}, 0),
        ("airdropped", 0.1, {"num_holders": 20, "gifted_share": 1.0}, 1),
        ("look_alike", 0.6, {"alike": 0.7}, 0.7),
        ("owner_mint", 0.15, {"has_owner_mint": True}, 1),
        ("blacklist", 0.2, {"has_blacklist": True}, 1),
        ("fee_setter", 0.2, {"has_fee_setter": True}, 1),
        ("selfdestruct", 0.3, {"has_selfdestruct": True}, 1),
        ("proxy", 0.05, {"is_proxy": True}, 1),
        ("source_hidden", 0.15, {"is_source_verified": False}, 1),
        ("owner_kept", 0.05, {"is_ownership_renounced": False}, 1),
        ("owner_kept", 0.05, {"is_ownership_renounced": True}, 0),
    ],
)
def test_a_check_speaks_as_loud_as_its_figures_say(name, weight, figures, strength):
    catalogue = Catalogue()
    assert catalogue[name].weight == weight
    found = catalogue.strengths(evidence(**figures)).to_dicts()[0]
    assert found.pop(name) == (None if strength is None else pytest.approx(strength))
    # Of the others none knows anything.
    assert not {other for other, heard in found.items() if heard is not None}


@pytest.mark.parametrize(
    ("top", "burst", "idle", "expected"),
    [
        (0.6, 1, 1, 0), (0.75, 0, 0, 0.2), (0.9, 0, 0.2, 0.4), (0.99, 0.5, 0.4, 0.7),
        (0.9, 1, 0.9, 1), (0.9, 0.5, 0.0, 0.55), (None, 1, 1, 0), (0.9, 0.5, None, 0),
    ],
)  # fmt: skip
def test_the_anomaly_is_few_sellers_in_a_burst_and_silence(top, burst, idle, expected):
    figures = {"sold": 10.0, "top_sellers": top, "idle_share": idle}
    days = pl.DataFrame(
        {"token": ["t", "t", "t"], "top_sales": [0.5, burst, None], "sold": [0.1, 10.0, 0.0]},
        schema_overrides={"top_sales": pl.Float64},
    )
    found = anomaly(evidence(num_buyers=10, **figures), days)
    assert found.tolist() == pytest.approx([expected], abs=0.002)
    for few in ({"num_buyers": 9}, {"num_buyers": 10, "sold": 0.0}):
        assert anomaly(evidence(**(figures | few)), days).tolist() == [0.0]


def rows(num_rows):
    """A token that is handed on, so that no check knows anything of it."""
    return pl.DataFrame(
        {
            "sender": [f"a{k}" for k in range(num_rows)],
            "receiver": [f"a{k + 1}" for k in range(num_rows)],
            "amount": 1.0,
            "happened_at": [EPOCH + timedelta(hours=k) for k in range(num_rows)],
            "tx": [f"x{k}" for k in range(num_rows)],
            "asset": "t",
        },
        schema_overrides={"happened_at": pl.Datetime("us", "UTC")},
    )


@pytest.mark.parametrize(
    ("strength", "num_rows", "verdict"),
    [
        (0.7, 3, "scam"), (0.699, 20, "suspect"), (0.3, 3, "suspect"), (0.299, 10, "pass"),
        (0.299, 9, "unknown"), (None, 10, "pass"),
    ],
)  # fmt: skip
def test_the_verdict_is_by_the_score_and_by_how_much_is_known(strength, num_rows, verdict):
    says = pl.lit(strength, dtype=pl.Float64).repeat_by(1).explode()
    catalogue = Catalogue([Check(name="odd", says="it is odd", weight=1.0, strength=says)])
    found = detect(rows(num_rows), catalogue=catalogue).tokens.to_dicts()[0]
    assert found["verdict"] == verdict
    assert found["score"] == pytest.approx(strength or 0.0, abs=1e-12)


def test_reasons_are_the_weights_that_count_the_greatest_first():
    checks = [
        Check(name=name, says=name, weight=0.5, strength=pl.col("num_transfers") * 0.0 + strength)
        for name, strength in (("small", 0.03), ("none", 0.018), ("least", 0.02), ("big", 0.8))
    ]
    found = detect(rows(3), catalogue=Catalogue(checks)).tokens.to_dicts()[0]
    assert [(r["name"], r["weight"]) for r in found["reasons"]] == [
        ("big", 0.4), ("small", 0.015), ("least", 0.01),
    ]  # fmt: skip
    assert found["score"] == pytest.approx(1 - 0.985 * 0.991 * 0.99 * 0.6)


def test_the_score_is_of_both_stages():
    """Ten buy on ten days; one of them sells nearly all, at once, and then nothing happens."""
    moves = [("m", "pool", 500, 0), ("m", "m", 1, 1)]
    moves += [("pool", f"b{k}", 10, 10 + k) for k in range(10)]
    moves += [(f"b{k}", "pool", 10 if k == 0 else 1, 30) for k in range(2)]
    moves += [("pool", "b0", 1, 31), ("b8", "b9", 1, 100)]
    table = pl.DataFrame(
        [(s, r, float(a), EPOCH + timedelta(hours=h), f"x{i}", "t")
         for i, (s, r, a, h) in enumerate(moves)],
        schema={"sender": pl.String, "receiver": pl.String, "amount": pl.Float64,
                "happened_at": pl.Datetime("us", "UTC"), "tx": pl.String, "asset": pl.String},
        orient="row",
    )  # fmt: skip
    odd = Check(name="odd", says="it is odd", weight=0.5, strength=pl.col("num_holders") * 0.0 + 1)
    found = detect(table, catalogue=Catalogue([odd])).tokens.to_dicts()[0]
    assert found["audit"] == pytest.approx(0.5)
    assert found["anomaly"] == pytest.approx(1.0)
    assert found["score"] == pytest.approx(1 - 0.5 * (1 - 0.6))
    assert [(r["name"], r["weight"]) for r in found["reasons"]] == [
        ("few_accounts", 0.6), ("odd", 0.5)
    ]  # fmt: skip

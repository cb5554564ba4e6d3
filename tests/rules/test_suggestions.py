"""Suggested rules: planted patterns are found, noise gives none, and texts mean what they hit."""

import numpy as np
import polars as pl
import pytest
from scipy.stats import hypergeom

from chopmark.codes import Codes
from chopmark.datasets import simulate
from chopmark.datasets.exchange import SCHEMA as EXCHANGE
from chopmark.errors import FeatureError, InvalidExpression, InvalidInput, InvalidTable
from chopmark.expressions import compile_program, parse, run
from chopmark.features import (
    Aggregate,
    Catalog,
    Derived,
    Fold,
    Label,
    Lookup,
    Similarity,
    aggregates,
    training_table,
)
from chopmark.rules.judging import BAD, history, history_of_table, judge
from chopmark.rules.suggestions import (
    as_derived,
    fisher,
    suggest_rules,
    suggest_threshold,
)
from chopmark.testing import check_feature

from ..features.exchange import SCHEMA as AWKWARD
from ..features.exchange import awkward_events

SEEN = ("signup", "login", "purchase", "payment_method_added")
LABEL = Label(events=("chargeback", "verdict"), where="missing(verdict) or verdict == 'bad'")
FEATURES = (
    Derived("amount_usd"),
    Derived("rail"),
    Derived("asset"),
    Derived("issuer"),
    *aggregates("purchase", ops=("count", "sum", "seconds_since_first"), of="amount_usd"),
    *aggregates("withdrawal", ops=("count",), windows=("1d",)),
    Aggregate("payment_method_added", "seconds_since_last"),
    Aggregate("signup", "seconds_since_first"),
    Lookup("signup", "country"),
    Lookup("signup", "carrier"),
    Lookup("id_verified", "country"),
    Derived("signup_country != id_verified_country", "country_mismatch"),
    Aggregate(SEEN, "distinct", of="device", window="30d"),
    Aggregate(SEEN, "distinct", by="device", of="user", window="90d"),
    *aggregates("purchase", by=("device", "ip", "card", "bank_account"), windows=("30d",)),
    Aggregate("purchase", "distinct", by="card", of="user", window="90d"),
    Aggregate("purchase", "distinct", by="bank_account", of="user", window="90d"),
    Aggregate("purchase", "count", by="merchant", window="7d"),
    Lookup("signup", "name"),
    Lookup("payment_method_added", "holder_name"),
    Similarity("signup_name", "payment_method_added_holder_name"),
)
QUOTED = ('Bank "A"', "Bänk\\B\n")


def hits_of(text, table, kinds):
    """Rows that a rule's text hits, by the language's own kernel."""
    expression = parse(text, kinds)
    codes = Codes(b"test")
    rows = {name: place for place, name in enumerate(expression.reads)}
    program = compile_program([(expression, len(rows))], rows, codes)
    matrix = np.full((len(rows) + 1, table.height), np.nan)
    for name, place in rows.items():
        for row, value in enumerate(table[name].to_list()):
            if value is not None:
                matrix[place, row] = codes.value(value) if isinstance(value, str) else value
    scratch = np.zeros((max(program.num_temporaries, 1), table.height))
    run(program.code, program.constants, matrix, scratch, table.height)
    return matrix[-1] == 1.0


def people(seed, num_users=1_500, num_features=4):
    """Rows of users, whose features are alike from row to row, without any label."""
    rng = np.random.default_rng(seed)
    num_rows = rng.geometric(0.25, num_users)
    users = np.repeat(np.arange(num_users), num_rows)
    size = len(users)
    columns = {
        f"x{k}": (rng.normal(size=num_users)[users] + 0.3 * rng.normal(size=size)).tolist()
        for k in range(num_features)
    }
    issuers = rng.choice([*QUOTED, "C", "D", "E", "F"], num_users)[users]
    table = pl.DataFrame(
        columns
        | {
            "issuer": issuers.tolist(),
            "num_rows": num_rows[users].astype(float),
            "is_new": (rng.random(num_users) < 0.3)[users],
            "age_days": [None if rng.random() < 0.2 else float(rng.integers(99)) for _ in users],
        }
    )
    return table, users, rng


def history_by(labels, users, *, usd=50.0):
    size = len(users)
    return history(labels, np.ones(size), np.full(size, usd), users, np.zeros(size, dtype=int))


@pytest.fixture(scope="module")
def exchange():
    """Purchases of an exchange with planted fraud: table, history, scenarios, kinds."""
    simulation = simulate(num_users=1_500, days=90, seed=0, fraud_scale=8.0)
    catalog = Catalog(EXCHANGE, *FEATURES)
    table = training_table(catalog, [list(simulation.events())], rows=("purchase",), label=LABEL)
    about = simulation.frame("purchase").select(pl.col("id").alias("event_id"), "user")
    truth = simulation.purchase_truth.rename({"id": "event_id"})
    for frame in (about, truth):
        table = table.join(frame, on="event_id", how="left", maintain_order="left")
    return table, history_of_table(table), catalog.names, catalog.kinds


def scenarios_caught(rule, table, past):
    """Shares of the planted scenarios among the bad rows that a rule hits."""
    caught = table.filter(pl.Series(rule.hits & (past.status == BAD)))["scenario"]
    return {name: float((caught == name).mean()) for name in caught.unique()}


def test_what_thieves_have_in_common_is_found_first(exchange):
    table, past, names, kinds = exchange
    found = suggest_rules(table, past, features=names, kinds=kinds)
    # Thieves are planted with the payer's name on the card and another one on the account.
    assert "holder_name" in found[0].text
    assert found[0].held_out.precision.low > 0.9
    assert found[0].held_out.recall.value > 0.3
    # Fake merchants' guests are planted on few devices behind addresses that many use.
    caught = [scenarios_caught(rule, table, past).get("merchant_collusion", 0) for rule in found]
    assert max(caught) > 0.95
    for rule in found:
        assert rule.held_out.precision.value >= 0.2
        assert rule.lift > 2
        assert rule.p_value <= 0.01
        assert len(rule.reads) <= 3


def test_a_planted_ring_is_found_by_the_devices_that_it_shares(exchange):
    table, past, names, kinds = exchange
    shared = [name for name in names if "_by_" in name]
    found = suggest_rules(table, past, features=[*shared, "issuer"], kinds=kinds)
    ring = max(found, key=lambda rule: scenarios_caught(rule, table, past).get("rings", 0))
    assert "user_distinct_90d_by_device" in ring.text or "by_bank_account" in ring.text
    assert scenarios_caught(ring, table, past)["rings"] > 0.8
    assert ring.held_out.true_positives >= 10
    assert ring.held_out.precision.low > 0.8
    assert ring.p_value < 1e-4
    # So are the cards of the breached issuer.
    assert any('issuer == "Granite Trust"' in rule.text for rule in found)


def test_suggestions_are_texts_that_hit_what_they_say(exchange):
    table, past, names, kinds = exchange
    for rule in suggest_rules(table, past, features=names, kinds=kinds, seed=1):
        assert (hits_of(rule.text, table, kinds) == rule.hits).all(), rule.text
        assert rule.reads == parse(rule.text, kinds).reads
        for name in rule.reads:
            assert name in rule.sentence


def test_what_is_suggested_is_told_of_users_that_were_held_out(exchange):
    table, past, names, kinds = exchange
    for rule in suggest_rules(table, past, features=names, kinds=kinds):
        whole = judge(rule.hits, past).rules[0]
        parts = (rule.searched, rule.held_out)
        assert sum(part.num_hits for part in parts) == whole.num_hits
        assert sum(part.bad_users for part in parts) == whole.bad_users


def test_what_existing_rules_catch_is_not_found_again(exchange):
    table, past, names, kinds = exchange
    first = suggest_rules(table, past, features=names, kinds=kinds)
    again = suggest_rules(table, past, features=names, kinds=kinds,
                          existing=np.column_stack([rule.hits for rule in first]))  # fmt: skip
    for rule in again:
        for old in first:
            both, either = (rule.hits & old.hits).sum(), (rule.hits | old.hits).sum()
            assert both <= 0.6 * either
    for place, rule in enumerate(first):
        for other in first[place + 1 :]:
            assert (rule.hits & other.hits).sum() <= 0.6 * (rule.hits | other.hits).sum()


@pytest.mark.parametrize("owner", ["users", "rows"])
def test_noise_suggests_nothing(owner):
    """Whether whole users are bad by chance or single rows, and however imprecise a rule may be."""
    false = 0
    for seed in range(8):
        table, users, rng = people(seed, num_features=20)
        size = users.max() + 1 if owner == "users" else len(users)
        labels = (rng.random(size) < 0.05).astype(int)
        past = history_by(labels[users] if owner == "users" else labels, users)
        false += len(suggest_rules(table, past, least_precision=0.0, seed=seed))
    assert false == 0


@pytest.mark.parametrize(
    ("planted", "reads"),
    [
        (lambda t: (t["x0"] > 1.2) & (t["issuer"] == 'Bank "A"'), {"x0", "issuer"}),
        (lambda t: t["issuer"].is_in(QUOTED) & t["is_new"], {"issuer", "is_new"}),
        (lambda t: t["age_days"].is_null() & (t["x1"] < -0.8), {"age_days", "x1"}),
        (lambda t: (t["age_days"] > 40) & (t["age_days"] < 60), {"age_days"}),
    ],
)  # fmt: skip
def test_a_planted_rule_is_found_with_its_texts(planted, reads):
    table, users, rng = people(77, num_users=3_000)
    mask = planted(table).fill_null(False).to_numpy()
    labels = np.where(mask, rng.random(len(users)) < 0.8, rng.random(len(users)) < 0.01).astype(int)
    past = history_by(labels, users)
    rule = suggest_rules(table, past)[0]
    assert reads <= set(rule.reads)
    assert (rule.hits & mask).sum() >= 0.7 * (rule.hits | mask).sum(), rule.text
    kinds = dict.fromkeys(table.columns, "number") | {"issuer": "text", "is_new": "boolean"}
    assert (hits_of(rule.text, table, kinds) == rule.hits).all()


def test_a_sample_of_the_good_users_finds_the_same_and_keeps_its_precision():
    table, users, rng = people(5, num_users=6_000)
    mask = (table["x0"] > 1.5).to_numpy()
    labels = np.where(mask, rng.random(len(users)) < 0.4, rng.random(len(users)) < 0.005)
    past = history_by(labels.astype(int), users)
    assert suggest_rules(table, past, max_rows=3_000)[0].reads == ("x0",)
    # Among sampled rows alone the precision would seem to be above a half.
    assert suggest_rules(table, past, max_rows=3_000, least_precision=0.6) == []


def test_the_same_seed_suggests_the_same(exchange):
    table, past, names, kinds = exchange
    texts = [
        [rule.text for rule in suggest_rules(table, past, features=names, kinds=kinds, seed=3)]
        for _ in range(2)
    ]
    assert texts[0] == texts[1]


def test_infinite_and_huge_values_leave_readable_thresholds():
    table, users, rng = people(3)
    bad = rng.random(users.max() + 1) < 0.1
    size = len(users)
    huge = np.where(bad[users], rng.choice([np.inf, 1e305, 9e4], size), rng.random(size))
    table = table.with_columns(pl.Series("huge", huge), pl.Series("class", huge))
    past = history_by(bad[users].astype(int), users)
    rule = suggest_rules(table, past)[0]
    assert rule.reads == ("huge",), "a column named as a word of Python cannot be read"
    assert (hits_of(rule.text, table, {"huge": "number"}) == rule.hits).all()
    assert rule.held_out.precision.value == 1.0
    found = suggest_threshold(huge, past, feature="huge", direction="above")
    assert 1 <= found.value < 1e300
    assert found.holds


def test_without_enough_fraud_there_is_nothing_to_suggest():
    table, users, _ = people(0)
    labels = np.zeros(len(users), dtype=int)
    assert suggest_rules(table, history_by(labels, users)) == []
    labels[:3] = 1
    assert suggest_rules(table, history_by(labels, users)) == []
    assert suggest_rules(table[:0], history_by(labels[:0], users[:0])) == []


@pytest.mark.parametrize(
    ("both", "hit", "bad", "size"),
    [(3, 10, 5, 100), (0, 4, 4, 9), (5, 5, 5, 5), (40, 50, 60, 2_000)],
)  # fmt: skip
def test_the_test_of_chance_is_that_of_scipy(both, hit, bad, size):
    assert fisher(both, hit, bad, size) == pytest.approx(
        hypergeom.sf(both - 1, size, bad, hit), rel=1e-9
    )


def bands(seed=0, size=4_000):
    """Values from 0 to 1 whose bad rows lie above 0.8, one row per user."""
    rng = np.random.default_rng(seed)
    values = rng.random(size)
    labels = (rng.random(size) < np.where(values > 0.8, 0.6, 0.01)).astype(int)
    return values, history_by(labels, np.arange(size), usd=100.0), rng


@pytest.mark.parametrize("above", [True, False])
def test_the_threshold_that_pays_most_is_found_in_both_directions(above):
    values, past, _ = bands()
    column = values if above else 1.0 - values
    found = suggest_threshold(column, past, feature="risk", good_user_usd=20.0)
    assert found.above == above
    assert found.value == pytest.approx(0.8 if above else 0.2, abs=0.02)
    assert found.text == f"risk {'>' if above else '<'} {found.value}"
    assert found.holds
    assert found.low_usd < found.held_out_net_usd < found.high_usd
    assert found.held_out.precision.value == pytest.approx(0.6, abs=0.06)


def test_the_gain_of_a_threshold_is_that_of_plain_loops():
    values, past, _ = bands(1)
    found = suggest_threshold(values, past, feature="risk", seed=4)
    hits = values > found.value
    net = sum(
        100.0 if status == BAD else -20.0
        for status, hit in zip(past.status.tolist(), hits.tolist(), strict=True)
        if hit
    )
    assert found.chosen_net_usd + found.held_out_net_usd == pytest.approx(net)


def test_a_user_is_hurt_once_however_often_it_is_hit():
    values = np.array([0.9] * 30 + [0.9] * 20 + [0.1] * 50)
    labels = np.array([0] * 30 + [1] * 20 + [0] * 50)
    users = np.array([0] * 30 + list(range(1, 21)) + list(range(30, 80)))
    found = suggest_threshold(
        values, history_by(labels, users), feature="x", good_user_usd=200.0, seed=1
    )
    assert found.chosen_net_usd + found.held_out_net_usd == 20 * 50.0 - 200.0


def test_precision_and_cost_hold_a_threshold_back():
    values, past, _ = bands(2)
    assert suggest_threshold(values, past, feature="x", least_precision=0.9) is None
    assert suggest_threshold(values, past, feature="x", good_user_usd=1e6) is None
    cheap = suggest_threshold(values, past, feature="x", good_user_usd=0.5, least_precision=0.0)
    precise = suggest_threshold(values, past, feature="x", good_user_usd=0.5, least_precision=0.5)
    assert cheap.value < 0.1 < 0.7 < precise.value


def test_a_threshold_inside_a_rule_reads_on_as_one_rule():
    values, past, rng = bands(3)
    inside = rng.random(len(values)) < 0.5
    found = suggest_threshold(
        values, past, feature="risk", inside=inside, rule="is_new or is_guest", direction="above"
    )
    assert found.text == f"(is_new or is_guest) and risk > {found.value}"
    assert found.held_out.num_hits <= inside.sum()
    nothing = suggest_threshold(values, past, feature="risk", inside=inside & (values < 0.5))
    assert nothing is None


def test_thresholds_of_noise_seldom_hold():
    held = 0
    for seed in range(40):
        values, past, rng = bands(seed, size=2_000)
        noise = rng.permutation(values)
        found = suggest_threshold(noise, past, feature="x", good_user_usd=17.0, least_precision=0.0)
        held += found is not None and found.holds
    assert held <= 4


def test_options_out_of_range_are_refused():
    table, users, _ = people(0)
    past = history_by(np.zeros(len(users)), users)
    with pytest.raises(InvalidInput, match="max_predicates from 1 to 3"):
        suggest_rules(table, past, max_predicates=4)
    with pytest.raises(InvalidTable, match="rows, as in the history"):
        suggest_rules(table[:5], past)
    with pytest.raises(InvalidTable, match=r"`isuer`.*`issuer`"):
        suggest_rules(table, past, features=["isuer"])
    with pytest.raises(InvalidInput, match="rows of existing rules"):
        suggest_rules(table, past, existing=np.zeros((5, 1)))
    with pytest.raises(InvalidInput, match=r"direction.*`up`"):
        suggest_threshold(np.zeros(len(users)), past, feature="x", direction="up")
    with pytest.raises(InvalidInput, match="as long as the history"):
        suggest_threshold(np.zeros(3), past, feature="x")
    with pytest.raises(InvalidInput, match="precision from 0 to 1"):
        suggest_threshold(np.zeros(len(users)), past, feature="x", least_precision=20)


RULE = "amount_usd > 20 and rail in ('card', \"bank\") and so_far >= 1  # (of analysts"


def test_a_rule_is_a_feature_that_is_served_as_it_was_trained():
    rule = as_derived("Cards, again", RULE)
    catalog = Catalog(
        AWKWARD,
        Aggregate("purchase", "count"),
        Derived("purchase_count", "so_far"),
        Derived("amount_usd"),
        Derived("rail"),
        rule,
    )
    events = awkward_events(400, seed=0)
    check_feature(rule, catalog, events)
    table = training_table(catalog, [events], rows=("purchase",))
    fold = Fold(catalog)
    place = catalog.names.index(rule.name)
    served = {event.id: fold.step(event)[place] for event in events}
    trained = table["rule_cards_again"].to_list()
    assert [served[name] for name in table["event_id"]] == trained
    plain = zip(*(table[name] for name in ("amount_usd", "rail", "so_far")), strict=True)
    assert trained == [
        float(usd is not None and usd > 20 and rail is not None and count >= 1)
        for usd, rail, count in plain
    ]
    assert set(trained) == {0.0, 1.0}, "a rule is true or false, never missing"
    assert table["rail"].null_count() > 0


def test_the_feature_of_a_rule_is_named_after_it_and_checked():
    assert as_derived("amount-5", "amount_usd > 5").name == "rule_amount_5"
    assert Catalog(AWKWARD, as_derived("a", "amount_usd > 5")).kinds["rule_a"] == "boolean"
    for text in ("amount_usd >", "True) or (True", "a\nb", "(" * 5_000, "x" * 5_000):
        with pytest.raises(InvalidExpression):
            as_derived("a", text)
    for text in ("amount_usd + 1", "score > 0.8", "[].append(1)"):
        with pytest.raises(FeatureError):
            Catalog(AWKWARD, as_derived("a", text))

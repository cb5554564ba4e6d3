"""Frictions: the registry, the allow-list, the table, the learned table, the fraudster's return."""

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.decisions.friction import FRICTIONS, RISKS, AllowList, Friction, Frictions, Permit
from chopmark.decisions.frictiontable import DEFAULT_TABLE, FrictionRow, FrictionTable
from chopmark.decisions.learnedfriction import Buckets, CostTerm, LearnedFriction, uniform
from chopmark.decisions.roi import (
    Attack,
    Economics,
    exchange_profit_usd,
    returns,
    simulate,
)
from chopmark.errors import PolicyError

KEY = b"secret"
CALM = {**dict.fromkeys(RISKS, 0.01), "amount_usd": 300.0}
GERMAN = AllowList(permits=(Permit("country", "DE", ("none", "id_photo", "human_review")),))

scores = st.none() | st.sampled_from([0.0, 0.05, 0.1, 0.3, 1.0]) | st.floats(0.0, 1.0)
amounts = st.none() | st.sampled_from([0.0, 19.99, 20.0]) | st.floats(0.0, 1e6)
values = st.fixed_dictionaries(
    {**dict.fromkeys(RISKS, scores), "amount_usd": amounts},
    optional={"country": st.sampled_from(["DE", "US"]) | st.none()},
)


def row(*frictions, amount=(0.0, math.inf), overrides=False, **ranges):
    return FrictionRow(
        frictions=frictions,
        scores=tuple((risk, *bounds) for risk, bounds in ranges.items()),
        amount_usd=amount,
        overrides=overrides,
    )


def learned(**changes):
    """Two columns, one pair; costs that anybody can add up."""
    policy = LearnedFriction(
        frictions=("none", "quiz", "human_review"),
        columns=(
            Buckets(name="scam_victim", edges=(0.1, 0.5)),
            Buckets(name="rail", texts=("ach", "card")),
        ),
        base_micro_usd=(0, 1_000_000, 8_000_000),
        terms=(
            CostTerm(columns=(0,), micro_usd=((0, 0, 0), (0, 0, 0), (3, 2, 1), (9, 5, 1))),
            CostTerm(
                columns=(0, 1),
                micro_usd=tuple((i * 10**6, -i * 10**5, -i * 10**6) for i in range(12)),
            ),
        ),
        epsilon=0.3,
    )
    return replace(policy, **changes)


def test_every_friction_is_declared():
    assert set(FRICTIONS.names) == {
        "none", "quiz", "id_photo", "id_selfie", "delay", "call_back", "human_review", "agent"
    }  # fmt: skip
    assert "selfie holding the ID" in FRICTIONS["id_selfie"].text


def test_a_selfie_stops_a_stolen_card_and_not_a_coached_victim():
    selfie = FRICTIONS["id_selfie"]
    assert selfie.stopped("stolen_payment") > 0.8 > 0.1 > selfie.stopped("scam_victim")
    assert FRICTIONS["agent"].stopped("scam_victim") > selfie.stopped("scam_victim")


def test_the_agent_never_decides():
    assert "failed" not in FRICTIONS["agent"].outcomes
    assert FRICTIONS["human_review"].outcomes == ("passed", "failed", "abandoned")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"cost_usd": -1.0}, "cost_usd >= 0"),
        ({"cost_usd": math.nan}, "cost_usd >= 0"),
        ({"fraudster_cost_usd": math.inf}, "fraudster_cost_usd >= 0"),
        ({"abandonment": 1.1}, "abandonment"),
        ({"stops": (("scam_victims", 0.5),)}, "did you mean `scam_victim`"),
        ({"stops": (("scam_victim", 1.5),)}, r"in \[0, 1\]"),
        ({"stops": (("scam_victim", 0.5), ("scam_victim", 0.4))}, "each risk once"),
    ],
)
def test_a_friction_that_cannot_be_is_refused(changes, message):
    with pytest.raises(PolicyError, match=message):
        replace(FRICTIONS["quiz"], **changes)


def test_a_registry_has_one_friction_of_a_name_and_none():
    quiz = Friction(name="quiz", text="", cost_usd=0.0, abandonment=0.0)
    with pytest.raises(PolicyError, match="different names"):
        Frictions((quiz, quiz))
    with pytest.raises(PolicyError, match="`none`"):
        Frictions((quiz,))
    with pytest.raises(PolicyError, match="did you mean `id_selfie`"):
        FRICTIONS["id_selfy"]


def test_where_several_permits_fit_a_friction_is_in_all_of_them():
    allow = AllowList(
        frictions=("none", "quiz", "delay", "human_review"),
        permits=(
            Permit("country", "DE", ("none", "id_selfie", "delay")),
            Permit("country", "FR", ("none", "quiz")),
            Permit("event_type", "withdrawal", ("none", "delay", "quiz")),
        ),
    )
    assert allow.permitted({"country": "US", "event_type": "purchase"}) == set(allow.frictions)
    assert allow.permitted({"country": "DE", "event_type": "withdrawal"}) == {"none", "delay"}
    assert allow.permitted({"event_type": "withdrawal"}) == {"none"}, "the country is missing"


def test_an_allow_list_that_leaves_nothing_is_refused():
    with pytest.raises(PolicyError, match="leave at least one friction"):
        AllowList(permits=(Permit("country", "DE", ("quiz",)), Permit("rail", "ach", ("delay",))))
    with pytest.raises(PolicyError, match="leave at least one friction"):
        AllowList(permits=(Permit("country", "DE", ("quiz",)), Permit("country", "FR", ("delay",))))
    with pytest.raises(PolicyError, match="did you mean `quiz`"):
        AllowList(permits=(Permit("country", "DE", ("quizz",)),))
    with pytest.raises(PolicyError, match="one permit for country"):
        AllowList(permits=(Permit("country", "DE", ("none",)),) * 2)


def by_paper(table, values):
    """Reads the rows as a person would."""
    for number, one in enumerate(table.rows, start=1):
        fits = []
        for name, low, high in (*one.scores, ("amount_usd", *one.amount_usd)):
            if (name == "amount_usd" and (low, high) == (0.0, math.inf)) or (low, high) == (0, 1):
                continue
            value = values.get(name)
            inside = value is None or (low <= value and (value < high or high == 1.0 == value))
            fits.append(None if value is None else inside)
        if False in fits:
            continue
        names = table.unknown if None in fits else one.frictions
        return number, next(n for n in names if n in table.allow.permitted(values))
    return None, next(n for n in table.default if n in table.allow.permitted(values))


@settings(max_examples=400)
@given(values, st.sampled_from([DEFAULT_TABLE, replace(DEFAULT_TABLE, unknown=("delay",))]))
def test_the_table_says_what_its_rows_say_on_paper(values, table):
    choice = table.choose(values)
    number, friction = by_paper(table, values)
    assert choice.friction == friction
    assert choice.propensity == 1.0
    assert number is None or f"row {number} of the friction table" in choice.reason.text


@given(values)
def test_a_table_chooses_only_what_is_permitted(values):
    table = FrictionTable(
        rows=(
            row("quiz", "human_review", scam_victim=(0.3, 1.0)),
            row("id_photo", stolen_payment=(0.3, 1.0), scam_victim=(0.0, 0.3)),
        ),
        allow=GERMAN,
    )
    assert table.choose(values).friction in GERMAN.permitted(values)


def test_a_missing_score_is_told_and_not_passed_over():
    table = FrictionTable(rows=(row("quiz", scam_victim=(0.3, 1.0)),), unknown=("delay",))
    choice = table.choose({"amount_usd": 5.0})
    assert (choice.friction, choice.reason.code) == ("delay", "no_score")
    assert "scam_victim is missing" in choice.reason.text
    assert table.choose({"scam_victim": 0.1}).reason.code == "friction"


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan, "high"])
def test_a_score_that_is_none_is_refused(score):
    with pytest.raises(PolicyError, match="expected a"):
        DEFAULT_TABLE.choose({**CALM, "scam_victim": score})


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([row("quizz")], "did you mean `quiz`"),
        ([row("quiz", scam_victims=(0.3, 1.0))], "did you mean `scam_victim`"),
        ([row("quiz", scam_victim=(0.3, 0.3))], "range of `scam_victim`"),
        ([row("quiz", scam_victim=(0.3, 1.5))], "range of `scam_victim`"),
        ([row("quiz", amount=(9.0, 3.0))], "range of amounts"),
        ([row()], "offers nothing"),
        ([row("quiz"), row("delay", scam_victim=(0.3, 1.0))], "reach row 2 .*: row 1"),
        (
            [
                row("quiz", scam_victim=(0.0, 0.5)),
                row("quiz", scam_victim=(0.4, 1.0)),
                row("quiz", scam_victim=(0.3, 0.9), amount=(10.0, 90.0)),
            ],
            "reach row 3 .*: rows 1, 2",
        ),
        (
            [row("quiz", scam_victim=(0.3, 1.0)), row("id_photo", stolen_payment=(0.3, 1.0))],
            "rows 1 and 2 .* overlap and ask for quiz and id_photo",
        ),
        (
            [row("quiz", scam_victim=(0.3, 0.6)), row("delay", scam_victim=(0.5, 1.0))],
            "rows 1 and 2 .* overlap",
        ),
    ],
)
def test_a_table_that_cannot_be_meant_is_refused(rows, message):
    with pytest.raises(PolicyError, match=message):
        FrictionTable(rows=tuple(rows))


def test_special_cases_and_declared_overrides_are_no_overlaps():
    both = row("human_review", scam_victim=(0.3, 1.0), stolen_payment=(0.3, 1.0))
    scam = row("quiz", scam_victim=(0.3, 1.0), overrides=True)
    stolen = row("id_photo", stolen_payment=(0.3, 1.0))
    table = FrictionTable(rows=(both, scam, stolen, row("none")))
    assert table.choose({**CALM, "scam_victim": 0.4, "stolen_payment": 0.9}).friction == (
        "human_review"
    )
    assert table.choose({**CALM, "stolen_payment": 1.0}).friction == "id_photo"


def test_a_row_that_the_allow_list_may_empty_is_refused():
    with pytest.raises(PolicyError, match="row 1 of the friction table offers quiz"):
        FrictionTable(rows=(row("quiz", scam_victim=(0.3, 1.0)),), allow=GERMAN)


def test_the_hash_changes_with_every_parameter_of_a_table():
    changed = [
        DEFAULT_TABLE,
        replace(DEFAULT_TABLE, rows=DEFAULT_TABLE.rows[:-1]),
        replace(DEFAULT_TABLE, default=("quiz",)),
        replace(DEFAULT_TABLE, unknown=("quiz",)),
        replace(DEFAULT_TABLE, allow=AllowList(frictions=FRICTIONS.names[:-1])),
    ]
    assert len({table.hash for table in changed}) == len(changed)
    assert replace(DEFAULT_TABLE).hash == DEFAULT_TABLE.hash


def test_predicted_costs_are_the_sum_of_the_cells():
    policy = learned()
    # 0.2 has place 2, "card" place 2, so the pair is cell 2 * 3 + 2 = 8.
    assert policy.costs_usd({"scam_victim": 0.2, "rail": "card"}) == pytest.approx(
        (8.000003, 0.200002, 0.000001)
    )
    assert policy.costs_usd({}) == (0.0, 1.0, 8.0)
    assert policy.costs_usd({"scam_victim": math.nan, "rail": "wire"}) == (0.0, 1.0, 8.0)


def test_costs_per_dollar_grow_with_the_amount_and_leave_the_choice():
    policy = learned(per="amount_usd", per_least=20.0, epsilon=0.0)
    context = {"scam_victim": 0.2, "rail": "card"}
    small, large = (policy.costs_usd({**context, "amount_usd": usd}) for usd in (3.0, 600.0))
    assert large == pytest.approx([30 * cost for cost in small])
    assert small == policy.costs_usd(context)
    chosen = {
        policy.choose({**context, "amount_usd": usd}, event_id="e", key=KEY).friction
        for usd in (3.0, 600.0)
    }
    assert chosen == {"human_review"}


@given(st.integers(), st.sampled_from(["ach", "card", None]), st.floats(0.0, 1.0))
def test_the_same_event_draws_the_same_friction(number, rail, score):
    context, event_id = {"scam_victim": score, "rail": rail}, f"p-{number}"
    one = learned().choose(context, event_id=event_id, key=KEY)
    again = LearnedFriction.from_json(learned().to_json()).choose(
        context, event_id=event_id, key=KEY
    )
    assert one == again
    assert one.propensity == learned().probabilities(context)[one.friction]


@pytest.mark.parametrize("epsilon", [0.0, 0.05, 0.3, 1.0])
def test_frictions_are_drawn_as_often_as_their_propensities_say(epsilon):
    policy, n = learned(epsilon=epsilon), 20_000
    context = {"scam_victim": 0.05, "rail": "ach"}
    drawn = [policy.choose(context, event_id=f"p-{i}", key=KEY).friction for i in range(n)]
    probabilities = policy.probabilities(context)
    assert sum(probabilities.values()) == pytest.approx(1.0)
    for name, probability in probabilities.items():
        spread = math.sqrt(probability * (1.0 - probability) / n)
        assert drawn.count(name) / n == pytest.approx(probability, abs=4 * spread)


def test_who_does_not_know_the_key_cannot_tell_the_draw():
    ids = [f"p-{i}" for i in range(4_000)]
    one, other = (np.array([uniform(i, key=key) for i in ids]) for key in (b"one", b"other"))
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.06
    assert np.abs(np.sort(one) - (np.arange(len(ids)) + 0.5) / len(ids)).max() < 0.026


@given(st.none() | st.sampled_from(["DE", "US"]), st.integers())
def test_a_learned_policy_chooses_and_explores_only_what_is_permitted(country, number):
    policy = learned(allow=GERMAN, epsilon=1.0)
    context = {"scam_victim": 0.05, "country": country}
    permitted = GERMAN.permitted(context) & set(policy.frictions)
    assert policy.probabilities(context).keys() == permitted
    assert policy.choose(context, event_id=str(number), key=KEY).friction in permitted


def test_a_learned_policy_survives_json_to_the_hash():
    policy = learned(allow=GERMAN, per="amount_usd")
    again = LearnedFriction.from_json(policy.to_json())
    assert again == policy
    assert again.hash == policy.hash != learned().hash
    assert again.allow.permitted({"country": "DE"}) == {"none", "id_photo", "human_review"}


@pytest.mark.parametrize("data", [b"", b"[]", b"{}", b'{"frictions":["none"]}'])
def test_foreign_json_is_refused(data):
    with pytest.raises(PolicyError, match="as JSON"):
        LearnedFriction.from_json(data)


@pytest.mark.parametrize(
    "changes",
    [
        {"frictions": ("none", "quiz", "quizz")},
        {"frictions": ("none", "quiz", "quiz")},
        {"epsilon": 1.1},
        {"epsilon": math.nan},
        {"per_least": 0.0},
        {"base_micro_usd": (0, 0)},
        {"terms": (CostTerm(columns=(2,), micro_usd=()),)},
        {"terms": (CostTerm(columns=(0,), micro_usd=((0, 0, 0),) * 3),)},
        {"terms": (CostTerm(columns=(0,), micro_usd=((0, 0),) * 4),)},
        {"frictions": ("quiz", "delay", "agent"), "allow": GERMAN},
    ],
)
def test_a_learned_policy_whose_parts_do_not_fit_is_refused(changes):
    with pytest.raises(PolicyError):
        learned(**changes)


@pytest.mark.parametrize(
    "changes",
    [{}, {"edges": (1.0,), "texts": ("a",)}, {"edges": (2.0, 1.0)}, {"texts": ("a", "a")}],
)
def test_buckets_that_cannot_be_are_refused(changes):
    with pytest.raises(PolicyError):
        Buckets(name="rail", **changes)


@given(
    st.sampled_from(RISKS),
    st.floats(1.0, 1e5),
    st.floats(0.01, 1e4),
    st.floats(0.0, 1.0),
)
def test_no_friction_raises_a_fraudsters_return(risk, amount, cost, keeps):
    attack = Attack(risk=risk, amount_usd=amount, cost_usd=cost, keeps=keeps)
    none, *others = returns(attack, chance=0.1)
    assert none.friction == "none"
    for other in others:
        assert other.fraudster_roi <= none.fraudster_roi
        assert other.fraudster_profit_usd <= none.fraudster_profit_usd


def test_a_selfie_turns_stolen_cards_into_a_loss_and_leaves_scams_a_business():
    card = Attack(risk="stolen_payment", amount_usd=500.0, cost_usd=30.0)
    scam = Attack(risk="scam_victim", amount_usd=3_000.0, cost_usd=400.0)
    of_card, of_scam = (
        {one.friction: one for one in returns(attack, chance=0.05)} for attack in (card, scam)
    )
    assert of_card["none"].fraudster_roi == pytest.approx(220 / 30)
    assert of_card["id_selfie"].fraudster_roi < 0.0 < 2.0 < of_scam["id_selfie"].fraudster_roi
    assert of_scam["agent"].fraudster_roi < of_scam["id_selfie"].fraudster_roi / 2
    assert of_card["id_selfie"].exchange_profit_usd > 0.0 > of_card["none"].exchange_profit_usd


@pytest.mark.parametrize("risk", RISKS)
def test_drawn_returns_are_the_expected_ones(risk):
    attack = Attack(risk=risk, amount_usd=800.0, cost_usd=50.0)
    exact = returns(attack, chance=0.2)
    drawn = simulate(attack, chance=0.2, num_decisions=40_000, seed=5)
    for one, other in zip(exact, drawn, strict=True):
        assert other.friction == one.friction
        # Four standard errors: a gain of at most keeps * amount, over 8,000 attacks.
        assert other.fraudster_profit_usd == pytest.approx(one.fraudster_profit_usd, abs=9.0)
        assert other.exchange_profit_usd == pytest.approx(one.exchange_profit_usd, abs=7.0)


def test_the_exchanges_profit_adds_up_over_risks():
    chances = {"stolen_payment": 0.1, "scam_victim": 0.2}
    selfie = FRICTIONS["id_selfie"]
    economics = Economics(margin=0.01, loses=(("scam_victim", 0.5),))
    by_hand = 0.7 * 0.88 * 0.01 * 1000 - 0.1 * 0.1 * 1000 - 0.2 * 0.97 * 0.5 * 1000 - 1.2
    found = exchange_profit_usd(selfie, amount_usd=1000.0, chances=chances, economics=economics)
    assert found == pytest.approx(by_hand)
    with pytest.raises(PolicyError, match="sum to at most 1"):
        exchange_profit_usd(selfie, amount_usd=1.0, chances={"scam_victim": 1.1})


def test_impossible_attacks_and_economics_are_refused():
    with pytest.raises(PolicyError, match="cost_usd of an attack"):
        Attack(risk="scam_victim", amount_usd=1.0, cost_usd=0.0)
    with pytest.raises(PolicyError, match="`keeps`"):
        Attack(risk="scam_victim", amount_usd=1.0, cost_usd=1.0, keeps=1.5)
    with pytest.raises(PolicyError, match="margin"):
        Economics(margin=-0.1)
    with pytest.raises(PolicyError, match="got none"):
        simulate(
            Attack(risk="scam_victim", amount_usd=1.0, cost_usd=1.0),
            chance=0.0,
            num_decisions=10,
            seed=0,
        )


def test_choosing_loads_no_learner():
    code = (
        "import sys, chopmark.decisions.frictiontable, chopmark.decisions.learnedfriction;"
        "print(sorted(set(sys.modules) & {'vowpalwabbit', 'sklearn', 'pandas', 'torch',"
        "'lightgbm', 'chopmark.lifecycle'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

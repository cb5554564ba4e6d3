"""The states of an account: nothing that was reached is lost, and what is missing is said."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.decisions import Account, State
from chopmark.errors import PolicyError
from chopmark.pipelines.exchange import ACCOUNT

verifications = st.sets(st.sampled_from(["phone", "id", "address"]))
events = st.sampled_from(["purchase", "sale", "withdrawal", "login"])


@given(verifications, verifications, events)
def test_one_more_verification_never_takes_anything_away(first, more, event):
    states = ACCOUNT.states
    before, after = ACCOUNT.state_of(first), ACCOUNT.state_of(first | more)
    assert states.index(before) <= states.index(after)
    assert set(before.permits) <= set(after.permits)
    assert set(ACCOUNT.missing(event, first | more)) <= set(ACCOUNT.missing(event, first))


@given(verifications, events)
def test_whoever_verifies_what_is_missing_may_go_on(verified, event):
    missing = ACCOUNT.missing(event, verified)
    assert not set(missing) & verified
    assert ACCOUNT.missing(event, verified | set(missing)) == ()


def test_a_phone_before_any_purchase_and_an_id_before_money_leaves():
    assert ACCOUNT.missing("purchase", ()) == ("phone",)
    assert ACCOUNT.missing("withdrawal", ()) == ("phone", "id")
    assert ACCOUNT.missing("withdrawal", ("phone",)) == ("id",)
    assert ACCOUNT.missing("withdrawal", ("phone", "id")) == ()
    assert ACCOUNT.missing("login", ()) == ()
    # An ID alone opens nothing: the phone comes first.
    assert ACCOUNT.state_of(("id",)).name == "new"


@pytest.mark.parametrize(
    ("states", "message"),
    [
        ((), "a first state of an account that needs nothing"),
        ((State("a", needs=("id",)),), "needs nothing"),
        ((State("a"), State("a", needs=("id",))), "different names"),
        (
            (State("a"), State("b", ("phone",), ("buy",)), State("c", ("id",), ("buy",))),
            "lacks `phone` in `needs`",
        ),
        ((State("a", permits=("buy",)), State("b", ("id",))), "lacks `buy` in `permits`"),
    ],
)
def test_states_that_would_lose_something_are_refused(states, message):
    with pytest.raises(PolicyError, match=message):
        Account(*states)

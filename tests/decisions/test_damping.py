"""Damping: danger is believed at once, safety only when it repeats itself, noise never."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.decisions.damping import LOGIT_LIMIT, Damping, logit, probability
from chopmark.errors import PolicyError

logits = st.floats(-LOGIT_LIMIT, LOGIT_LIMIT)
# A grid makes distances of exactly a threshold and repeated values frequent.
steps = st.integers(-20, 20).map(lambda n: n / 10)
walks = st.lists(logits | steps, min_size=1, max_size=40)
DAMPING = Damping()


@st.composite
def dampings(draw):
    loosen = draw(st.sampled_from([0.3, 0.8, 1.5]))
    return Damping(
        tighten=draw(st.sampled_from([0.1, 0.3, 1.0])),
        loosen=loosen,
        dwell=draw(st.integers(1, 6)),
        cushion=draw(st.sampled_from([0.0, 0.2])),
    )


def run(damping, raw):
    """The log-odds that hold after each rescoring."""
    held, dwell, path = None, 0, []
    for value in raw:
        held, dwell = damping.damp(held, value, dwell)
        path.append(held)
    return path


def told_from_the_whole_past(damping, raw):
    """The rule once more, from all raw scores and the last change, without a counter."""
    path, since = [raw[0]], 0
    for place in range(1, len(raw)):
        held = path[-1]
        window = raw[max(since + 1, place - damping.dwell + 1) : place + 1]
        if raw[place] - held >= damping.tighten:
            held, since = raw[place], place
        elif len(window) == damping.dwell and all(held - x >= damping.loosen for x in window):
            held, since = raw[place] + damping.cushion, place
        path.append(held)
    return path


@given(dampings(), walks)
def test_the_counter_says_what_the_whole_past_says(damping, raw):
    assert run(damping, raw) == told_from_the_whole_past(damping, raw)


@given(dampings(), walks)
def test_what_holds_is_never_safer_than_the_raw_score_by_more_than_the_band(damping, raw):
    for held, value in zip(run(damping, raw), raw, strict=True):
        assert value - held < damping.tighten


@given(dampings(), walks)
def test_it_loosens_only_after_as_many_safe_scores_in_a_row(damping, raw):
    path = run(damping, raw)
    for place in range(1, len(path)):
        if path[place] < path[place - 1]:
            run_of_safe = raw[place - damping.dwell + 1 : place + 1]
            assert len(run_of_safe) == damping.dwell
            assert all(path[place - 1] - value >= damping.loosen for value in run_of_safe)


@given(dampings(), logits, st.lists(st.floats(-1.0, 1.0, exclude_min=True, exclude_max=True)))
def test_noise_within_the_band_changes_nothing(damping, start, noise):
    band = [x * (damping.tighten if x > 0 else damping.loosen) * (1 - 1e-9) for x in noise]
    raw = [start, *(start + x for x in band)]
    inside = all(-damping.loosen < x - start < damping.tighten for x in raw)
    assert set(run(damping, raw)) == {start} or not inside


@given(dampings(), logits, logits)
def test_a_lasting_score_is_taken_over_whether_it_rose_or_fell(damping, before, after):
    held = run(damping, [before] + [after] * damping.dwell)[-1]
    if after - before >= damping.tighten:
        assert held == after
    elif before - after >= damping.loosen:
        assert held == after + damping.cushion
    else:
        assert held == before


@given(dampings(), logits, st.integers(1, 50))
def test_a_score_that_does_not_move_does_not_drift(damping, value, times):
    assert run(damping, [value] * times) == [value] * times


@given(dampings(), walks, walks)
def test_what_is_told_is_enough_to_go_on(damping, first, second):
    held, dwell = None, 0
    for value in first:
        held, dwell = damping.damp(held, value, dwell)
    path = []
    for value in second:
        held, dwell = damping.damp(held, value, dwell)
        path.append(held)
    assert run(damping, first + second)[len(first) :] == path
    assert 0 <= dwell < damping.dwell


def test_a_purchase_of_each_kind():
    assert DAMPING.damp(None, -4.0) == (-4.0, 0)
    assert DAMPING.damp(-4.0, -3.71) == (-4.0, 0)
    assert DAMPING.damp(-4.0, -3.5, 4) == (-3.5, 0)
    assert DAMPING.damp(-4.0, -4.7, 4) == (-4.0, 0)
    assert DAMPING.damp(-4.0, -5.0, 3) == (-4.0, 4)
    assert DAMPING.damp(-4.0, -5.0, 4) == (-4.5, 0)
    assert Damping(cushion=0.0).damp(-4.0, -5.0, 4) == (-5.0, 0)


def test_a_ratchet_only_rises():
    ratchet = Damping(mode="ratchet", threshold=0.05)
    assert run(ratchet, [logit(p) for p in (0.2, 0.24, 0.26, 0.1, 0.01, 0.01, 0.30, 0.32)]) == [
        logit(p) for p in (0.2, 0.2, 0.26, 0.26, 0.26, 0.26, 0.26, 0.32)
    ]


@given(walks)
def test_without_damping_every_score_holds(raw):
    assert run(Damping(mode="none"), raw) == raw


def test_it_changes_seldom_under_noise_and_finds_a_jump():
    rng = np.random.default_rng(3)
    quiet = rng.normal(-4.0, 0.3, (300, 40))
    loud = quiet + 2.5 * (np.arange(40) >= 20)
    changes = np.mean([len(set(run(DAMPING, row.tolist()))) - 1 for row in quiet])
    assert changes < 2.0 < 38.0 < np.mean([len(set(row.tolist())) - 1 for row in quiet])
    assert all(run(DAMPING, row.tolist())[20] > row[20] - 0.3 for row in loud)


@given(st.floats(0.0, 1.0))
def test_log_odds_and_scores_are_each_others_inverse(score):
    assert probability(logit(score)) == pytest.approx(score, abs=1e-15, rel=1e-12)


@given(st.floats(), st.floats())
def test_a_higher_log_odds_is_never_a_lower_score(one, other):
    if not (math.isnan(one) or math.isnan(other)):
        assert probability(min(one, other)) <= probability(max(one, other))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"mode": "rachet"}, "did you mean `ratchet`"),
        ({"tighten": 0.0}, "expected `tighten` above 0"),
        ({"loosen": math.nan}, "expected `loosen` above 0"),
        ({"loosen": math.inf}, "expected `loosen` above 0"),
        ({"dwell": 0}, "whole `dwell` of at least 1"),
        ({"dwell": 2.5}, "whole `dwell` of at least 1"),
        ({"dwell": True}, "whole `dwell` of at least 1"),
        ({"cushion": 0.8}, "it would not loosen"),
        ({"cushion": -0.1}, "it would not loosen"),
        ({"threshold": 1.0}, "`threshold` from 0 to 1"),
    ],
)
def test_a_damping_that_cannot_be_is_refused(fields, message):
    with pytest.raises(PolicyError, match=message):
        Damping(**fields)


@pytest.mark.parametrize("pair", [(None, math.nan), (0.0, math.inf), (math.nan, 0.0)])
def test_log_odds_that_are_not_finite_are_refused(pair):
    with pytest.raises(PolicyError, match="expected finite log-odds"):
        DAMPING.damp(*pair)


@pytest.mark.parametrize("score", [-0.1, 1.1, math.nan])
def test_log_odds_of_what_is_no_score_are_refused(score):
    with pytest.raises(PolicyError, match="expected a score from 0 to 1"):
        logit(score)

"""Sketches add up like the events that they are of, and estimate what a full count finds."""

import json
from collections import Counter
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import ArtifactError, InvalidTable
from chopmark.histories import Histories, Sketch
from chopmark.histories import sketch as sketch_module
from chopmark.histories.identity import identity

EVENT = st.tuples(
    st.integers(0, 6),
    st.integers(0, 50),
    st.sampled_from(["visit", "buy", None]),
    st.sampled_from(["BTC", "ETH", "é", "", None]),
    st.sampled_from([None, 0.0, -0.0, 1.0, -1.0, 2.5, 1e-40, 3e38, -7e5]),
)


def histories(events):
    columns = list(zip(*events, strict=True)) or [[]] * 5
    frame = pl.DataFrame(
        {
            "user": pl.Series(columns[0], dtype=pl.Int64),
            "happened_at": pl.Series(columns[1], dtype=pl.Int64),
            "type": pl.Series(columns[2], dtype=pl.String),
            "asset": pl.Series(columns[3], dtype=pl.String),
            "usd": pl.Series(columns[4], dtype=pl.Float64),
        }
    )
    return Histories.from_frame(frame)


@given(st.lists(st.tuples(EVENT, st.integers(0, 2)), max_size=30))
def test_shards_add_up_to_the_sketch_of_all_in_any_order_and_grouping(told):
    whole = Sketch.of(histories([event for event, _ in told]))
    a, b, c = (
        Sketch.of(histories([event for event, shard in told if shard == i])) for i in range(3)
    )
    assert (a + b) + c == whole
    assert a + (b + c) == whole
    assert c + a + b == whole
    assert Sketch.sum([b, c, a]) == whole


@given(st.lists(EVENT, max_size=30))
def test_counts_are_those_of_a_plain_count(events):
    sketch = Sketch.of(histories(events))
    assert sketch.num_events == len(events)
    assert sketch.num_users == len({event[0] for event in events})
    assert sketch.categories["asset"].counts == Counter(
        event[3] for event in events if event[3] is not None
    )
    numbers = [event[4] for event in events if event[4] is not None]
    usd = sketch.numbers["usd"]
    assert (usd.present, usd.zeros) == (len(numbers), sum(n == 0 for n in numbers))
    middles, counts = usd.steps()
    near = np.repeat(middles, counts)
    assert near == pytest.approx(sorted(n for n in numbers if n != 0), rel=0.0101)
    assert usd.distinct.number == len({np.float32(n) for n in numbers})
    assert sum(n for n, _, _ in usd.by_type.values()) == sum(
        event[4] is not None and event[2] is not None for event in events
    )


def test_thousands_of_users_and_values_add_up_too():
    rng = np.random.default_rng(1)
    n = 60_000
    frame = pl.DataFrame(
        {
            "user": rng.integers(0, 5_000, n),
            "happened_at": rng.integers(0, 10**9, n),
            "type": np.array(["a", "b", "c"])[rng.integers(0, 3, n)],
            "item": rng.integers(0, 20_000, n).astype(str),
            "usd": rng.lognormal(3, 1, n),
        }
    )
    whole = Sketch.of(Histories.from_frame(frame))
    parts = [Sketch.of(Histories.from_frame(part)) for part in frame.iter_slices(n // 7)]
    assert Sketch.sum(parts) == whole == Sketch.sum(parts[::-1])
    assert len(whole.users.hashes) <= sketch_module.MOST_USERS
    assert whole.num_users == pytest.approx(5_000, rel=0.15)
    assert whole.categories["item"].distinct.number == pytest.approx(19_000, rel=0.07)
    assert whole.numbers["usd"].distinct.number == pytest.approx(59_900, rel=0.07)


def test_beyond_the_bound_counts_are_too_low_by_no_more_than_the_stated_error(monkeypatch):
    monkeypatch.setattr(sketch_module, "MOST_VALUES", 40)
    rng = np.random.default_rng(2)
    texts = (rng.pareto(0.6, 9_000).astype(int) % 3_000).astype(str)
    truth = Counter(texts.tolist())
    parts = []
    for shard in np.array_split(texts, 5):
        n = len(shard)
        columns = {"user": np.arange(n), "happened_at": np.arange(n), "type": ["t"] * n}
        parts.append(Sketch.of(Histories.from_frame(pl.DataFrame(columns | {"item": shard}))))
    for order in (parts, parts[::-1]):
        item = Sketch.sum(order).categories["item"]
        assert len(item.counts) <= 40
        assert 0 < item.error <= 9_000 / 40
        for text, count in truth.items():
            assert count - item.error <= item.counts.get(text, 0) <= count
        top = [text for text, count in truth.most_common(5) if count > item.error]
        assert top
        assert set(top) <= item.counts.keys()


def test_more_types_than_the_bound_leave_no_means_by_type_whatever_the_order(monkeypatch):
    monkeypatch.setattr(sketch_module, "MOST_TYPES", 3)
    few = Sketch.of(histories([(1, i, "buy", None, 1.0) for i in range(3)]))
    frame = pl.DataFrame({"user": [1] * 4, "happened_at": range(4), "type": list("abcd")})
    many = Sketch.of(Histories.from_frame(frame.with_columns(usd=pl.lit(2.0))))
    assert few.numbers["usd"].by_type
    assert many.numbers["usd"].by_type is None
    assert (few + many).numbers["usd"].by_type is None
    assert (many + few).numbers["usd"].by_type is None


def test_within_and_between_agree_with_a_count_of_all_pairs():
    rng = np.random.default_rng(3)
    rows = []
    for user in range(200):
        home = rng.integers(0, 30)
        for i in range(rng.integers(1, 30)):
            value = home if rng.random() < 0.6 else rng.integers(0, 30)
            rows.append((user, i, "t", str(value), float(value)))
    told = {}
    for user, _, _, text, _ in rows:
        told.setdefault(user, []).append(text)
    within = np.mean(
        [np.mean([a == b for a, b in combinations(v, 2)]) for v in told.values() if len(v) > 1]
    )
    shares = [{t: n / len(v) for t, n in Counter(v).items()} for v in told.values()]
    between = np.mean(
        [sum(p * two.get(t, 0.0) for t, p in one.items()) for one, two in combinations(shares, 2)]
    )
    sketch = Sketch.of(histories(rows))
    for field in ("asset", "usd"):
        found = identity(sketch, field)
        assert found.within == pytest.approx(within, abs=0.05)
        assert found.between == pytest.approx(between, rel=0.5)
        assert (found.distinct, found.present) == (30, len(rows))


def test_a_field_that_turns_from_number_to_text_is_named():
    frame = pl.DataFrame({"user": [1], "happened_at": [1], "type": ["buy"], "usd": [1.0]})
    number = Sketch.of(Histories.from_frame(frame))
    text = Sketch.of(Histories.from_frame(frame.with_columns(pl.col("usd").cast(pl.String))))
    for one, two in ((number, text), (text, number)):
        with pytest.raises(InvalidTable, match="`usd` is a number in one of the parts and text"):
            one + two


def test_a_field_of_one_shard_is_missing_in_the_other():
    frame = pl.DataFrame({"user": [1, 2], "happened_at": [1, 2], "type": ["buy", "buy"]})
    without = Sketch.of(Histories.from_frame(frame))
    both = without + Sketch.of(Histories.from_frame(frame.with_columns(rail=pl.lit("card"))))
    assert both.categories["rail"].present == 2
    assert both.categories["type"].present == both.num_events == 4
    assert both.num_users == 2


@given(st.lists(EVENT, max_size=20))
def test_a_sketch_goes_through_json_and_back(events):
    sketch = Sketch.of(histories(events))
    assert Sketch.from_dict(json.loads(json.dumps(sketch.to_dict()))) == sketch


JUNK = st.sampled_from([None, -1, 1.5, "x", [], {}, [1], True, 2**70, [[1, 2]], {"a": -1}])


@given(st.data())
@settings(max_examples=200)
def test_what_is_no_sketch_is_refused(data):
    events = [(1, 1, "buy", "BTC", 1.0), (1, 2, "buy", "ETH", -2.0), (2, 1, "visit", None, 0.0)]
    told = Sketch.of(histories(events)).to_dict()
    at = told
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    at[key] = data.draw(JUNK)
    try:
        again = Sketch.from_dict(told)
    except ArtifactError:
        return
    again + again


@pytest.mark.parametrize("told", [None, [], {}, {"format": 2}, "sketch", {"format": 1}])
def test_what_is_nothing_like_a_sketch_is_refused(told):
    with pytest.raises(ArtifactError, match="expected a sketch of histories"):
        Sketch.from_dict(told)

"""Tokenizers keep their ids, refuse what says who the user is, and survive JSON."""

import json
import subprocess
import sys
from typing import Annotated

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.errors import ArtifactError, FeatureError, InvalidInput
from chopmark.events import Entity, Event, Personal, Schema
from chopmark.histories import Histories, Sketch, Tokenizer
from chopmark.histories.identity import identity


def shop(*, users=150, events=24, seed=0):
    """Users with a device of their own and a country; what they do depends on their taste."""
    rng = np.random.default_rng(seed)
    n = users * events
    user = np.repeat(np.arange(users), events)
    taste = np.repeat(rng.integers(0, 2, users), events)
    country = np.repeat(rng.zipf(1.5, users) % 40, events)
    asset = np.where(rng.random(n) < 0.12, taste, rng.integers(0, 12, n))
    frame = pl.DataFrame(
        {
            "user": user,
            "happened_at": rng.integers(0, 10**12, n),
            "type": np.array(["visit", "buy", "sell"])[rng.integers(0, 3, n)],
            "asset": np.char.add("asset ", asset.astype(str)),
            "country": np.char.add("country ", country.astype(str)),
            "device": np.char.add("device ", user.astype(str)),
            "tx": np.arange(n).astype(str),
            "card_number": user * 1_000 + 17,
            "serial": np.arange(n),
            "usd": rng.lognormal(3, 2, n).round(2),
        }
    )
    return frame, taste[::events]


FRAME, TASTE = shop()
SKETCH = Sketch.of(Histories.from_frame(FRAME))


def sketch_of(texts, **columns):
    n = len(texts)
    frame = pl.DataFrame({"user": range(n), "happened_at": range(n), "type": texts, **columns})
    return Sketch.of(Histories.from_frame(frame))


def test_ids_are_missing_then_buckets_then_values_by_frequency():
    sketch = sketch_of(["buy"] * 3 + ["visit"] * 5 + ["rare"] * 1 + [None])
    tokenizer = Tokenizer.fit(sketch, least_count=2, hash_buckets=7)
    assert tokenizer.words == (("visit", "buy"),)
    assert tokenizer.sizes == (10,)
    ids = tokenizer.ids_of(0, [None, "visit", "buy", "rare", "never seen"])
    assert ids[:3] == [0, 8, 9]
    assert all(1 <= i <= 7 for i in ids[3:])


def test_unknown_values_have_the_same_bucket_in_every_process():
    script = (
        "from chopmark.histories import Tokenizer; import json, sys;"
        "t = Tokenizer.from_dict(json.load(sys.stdin));"
        "print(t.hash, t.ids_of(0, ['a', 'é', '\\ud800', 7]), 'polars' in sys.modules)"
    )
    tokenizer = Tokenizer.fit(sketch_of(["buy"] * 9), hash_buckets=1_000)
    told = json.dumps(tokenizer.to_dict())
    run = subprocess.run(
        [sys.executable, "-c", script], input=told, capture_output=True, text=True, check=True
    )
    here = tokenizer.ids_of(0, ["a", "é", "\ud800", 7])
    assert run.stdout.strip() == f"{tokenizer.hash} {here} False"
    assert here[0] == 1 + 0xE8B7BE43 % 1_000  # CRC-32 of "a"


def test_growing_keeps_old_ids_and_puts_new_values_at_the_end():
    first = Tokenizer.fit(sketch_of(["a"] * 9 + ["b"] * 5), hash_buckets=3)
    second = first.grown(sketch_of(["c"] * 50 + ["b"] * 9 + ["d"] * 4))
    assert (first.version, second.version) == (1, 2)
    assert first.words == (("a", "b"),)
    assert second.words == (("a", "b", "c"),)
    assert second.ids_of(0, ["a", "b"]) == first.ids_of(0, ["a", "b"])
    assert second.ids_of(0, ["d"]) == first.ids_of(0, ["d"])
    assert second.hash != first.hash
    assert second.grown(sketch_of(["d"] * 9 + ["e"] * 8), most=4).words == (("a", "b", "c", "d"),)


def test_a_full_vocabulary_grows_only_when_asked():
    full = Tokenizer.fit(sketch_of(["a"] * 9 + ["b"] * 8 + ["c"] * 7), most=2)
    more = sketch_of(["c"] * 99)
    assert full.grown(more).words == (("a", "b"),)
    assert full.grown(more, most=3).words == (("a", "b", "c"),)


@given(
    st.lists(st.lists(st.sampled_from("abcdefgh"), min_size=1, max_size=30), min_size=1, max_size=5)
)
def test_ids_never_change_over_any_number_of_days(days):
    tokenizer = Tokenizer.fit(sketch_of(days[0]), least_count=2)
    so_far = sketch_of(days[0])
    for day in days[1:]:
        so_far += sketch_of(day)
        older, tokenizer = tokenizer, tokenizer.grown(so_far)
        for text in older.words[0]:
            assert tokenizer.ids_of(0, [text]) == older.ids_of(0, [text])
        assert len(set(tokenizer.words[0])) == len(tokenizer.words[0])
        assert Tokenizer.from_dict(tokenizer.to_dict()).hash == tokenizer.hash


def test_bins_of_a_number_hold_about_as_many_events_each():
    rng = np.random.default_rng(0)
    usd = np.where(rng.random(32_000) < 0.2, 0.0, rng.normal(0, 1, 32_000) * 1e3)
    tokenizer = Tokenizer.fit(sketch_of(["t"] * len(usd), usd=usd))
    rows = [[{"type": "t", "age": 0, "usd": value} for value in usd.tolist()]]
    batch = tokenizer.batch_of_rows(rows)
    counts = np.bincount(batch.ids[:, 1], minlength=tokenizer.sizes[1])
    assert tokenizer.sizes[1] == 34
    assert counts[0] == 0
    assert counts[1] == (usd == 0).sum()
    assert counts[2:].min() > 500
    assert counts[2:].max() < 1_100
    assert abs(batch.numbers.mean()) < 1e-3
    assert abs(batch.numbers.std() - 1) < 1e-2


def test_a_frequent_value_has_a_bin_of_its_own_and_leaves_bins_to_the_others():
    rng = np.random.default_rng(1)
    usd = np.where(rng.random(8_000) < 0.9, 10.0, rng.lognormal(6, 1, 8_000))
    tokenizer = Tokenizer.fit(sketch_of(["t"] * len(usd), usd=usd))
    rows = [[{"type": "t", "usd": value} for value in usd.tolist()]]
    bins = tokenizer.batch_of_rows(rows).ids[:, 1]
    own = np.unique(bins[usd == 10.0])
    assert len(own) == 1
    assert len(np.unique(bins)) > 25
    assert (usd[bins == own[0]] == 10.0).mean() > 0.99


def test_whole_numbers_of_few_values_have_a_bin_each():
    values = [1, 1, 1, 2, 2, 3, -1, -1, 8] * 20
    tokenizer = Tokenizer.fit(sketch_of(["t"] * len(values), size=values))
    rows = [[{"type": "t", "size": value} for value in (-1, 1, 2, 3, 8)]]
    assert len(set(tokenizer.batch_of_rows(rows).ids[:, 1].tolist())) == 5
    assert tokenizer.sizes[1] == 2 + 5


def test_a_number_with_a_scale_per_type_is_measured_against_its_type_too():
    rng = np.random.default_rng(2)
    kinds = rng.integers(0, 2, 4_000)
    values = np.where(kinds == 0, rng.normal(37, 0.6, 4_000), rng.normal(80, 12, 4_000))
    sketch = sketch_of(np.array(["temperature", "pulse"])[kinds], value=values)
    tokenizer = Tokenizer.fit(sketch)
    assert tokenizer.numbers == ("value", "value by type")
    assert tokenizer.sources == ("value", "value")
    fever = {"type": "temperature", "value": 39.0}
    calm = {"type": "pulse", "value": 82.0}
    strange = {"type": "never seen", "value": 39.0}
    batch = tokenizer.batch_of_rows([[fever, calm, strange, {"type": "pulse"}]])
    assert batch.numbers[0, 1] > 2.5
    assert abs(batch.numbers[1, 1]) < 0.5
    assert batch.ids[0, 2] >= 32
    assert 12 <= batch.ids[1, 2] <= 24
    assert batch.numbers[2, 1] == pytest.approx(batch.numbers[2, 0], abs=1e-3)
    assert batch.numbers[3].tolist() == [0, 0]
    assert batch.ids[3, 1:].tolist() == [0, 0]
    grown = tokenizer.grown(sketch + sketch_of(["lactate"] * 100, value=rng.normal(2, 0.5, 100)))
    rows = [[fever, calm, {"type": "lactate", "value": 2.0}]]
    assert np.array_equal(grown.batch_of_rows(rows).numbers[:2], batch.numbers[:2])
    assert abs(grown.batch_of_rows(rows).numbers[2, 1]) < 0.3
    assert Tokenizer.from_dict(grown.to_dict()).hash == grown.hash
    assert Tokenizer.fit(sketch, by_type=[]).numbers == ("value",)


def test_what_says_who_the_user_is_becomes_no_token_and_the_reason_is_told():
    tokenizer = Tokenizer.fit(SKETCH)
    assert tokenizer.fields == ("type", "asset", "country")
    assert tokenizer.numbers == ("usd",)
    assert tokenizer.refused["device"].startswith("user-constant: two events of one user share")
    assert tokenizer.refused["card_number"].startswith("user-constant")
    assert tokenizer.refused["tx"].startswith("near unique: 3,")
    assert tokenizer.refused["serial"].startswith("near unique: whole numbers")


def test_a_session_belongs_to_its_user_although_users_have_many():
    rng = np.random.default_rng(4)
    user = np.repeat(np.arange(200), 60)
    session = user * 20 + rng.integers(0, 20, len(user))
    frame = pl.DataFrame(
        {
            "user": user,
            "happened_at": range(len(user)),
            "type": ["visit"] * len(user),
            "session": session.astype(str),
            "item": rng.integers(0, 4_000, len(user)).astype(str),
        }
    )
    tokenizer = Tokenizer.fit(Sketch.of(Histories.from_frame(frame)))
    assert tokenizer.refused["session"].startswith("owned")
    assert tokenizer.fields == ("type", "item")


def test_one_type_alone_is_a_token_and_so_is_a_type_that_is_constant_within_users():
    lone = Sketch.of(Histories.from_frame(FRAME.with_columns(type=pl.lit("buy"))))
    assert Tokenizer.fit(lone).words[0] == ("buy",)
    own = FRAME.with_columns(pl.format("type of {}", "user").alias("type"))
    assert "type" not in Tokenizer.fit(Sketch.of(Histories.from_frame(own))).refused


def test_one_user_with_most_of_the_events_changes_no_verdict():
    rng = np.random.default_rng(5)
    n = 50_000
    heavy = FRAME.head(n).select("user", "happened_at", "type", "asset", "device")
    bot = pl.DataFrame(
        {
            "user": [999] * n,
            "happened_at": range(n),
            "type": ["buy"] * n,
            "asset": np.char.add("asset ", rng.integers(0, 12, n).astype(str)),
            "device": ["device of a bot"] * n,
        }
    )
    tokenizer = Tokenizer.fit(Sketch.of(Histories.from_frame(pl.concat([heavy, bot]))))
    assert tokenizer.fields == ("type", "asset")
    assert tokenizer.refused["device"].startswith("user-constant")


def test_the_verdict_is_that_of_the_shards_together():
    parts = FRAME.sample(fraction=1.0, shuffle=True, seed=1).iter_slices(700)
    sketch = Sketch.sum(Sketch.of(Histories.from_frame(part)) for part in parts)
    assert Tokenizer.fit(sketch).hash == Tokenizer.fit(SKETCH).hash


def test_a_refused_field_that_is_asked_for_by_name_is_an_error_unless_it_is_to_be_kept():
    with pytest.raises(FeatureError, match="`device` may not be a token; it is user-constant"):
        Tokenizer.fit(SKETCH, fields=["asset", "device"])
    with pytest.raises(FeatureError, match="`serial` may not be a token; it is near unique"):
        Tokenizer.fit(SKETCH, numbers=["serial"])
    tokenizer = Tokenizer.fit(SKETCH, fields=["device"], numbers=[], keep=["device"])
    assert (tokenizer.fields, tokenizer.kept) == (("type", "device"), ("device",))


class Buy(Event):
    user: Annotated[str, Entity("user")]
    asset: str
    device: Annotated[str, Entity("device")]
    country: Annotated[str, Personal()]


def test_what_the_schema_calls_personal_or_an_entity_is_refused_and_cannot_be_kept():
    tokenizer = Tokenizer.fit(SKETCH, schema=Schema(Buy))
    assert tokenizer.refused["country"] == "personal: the schema declares it as personal data"
    assert tokenizer.refused["device"] == "an identity: the schema says that it names a device"
    assert tokenizer.fields == ("type", "asset")
    with pytest.raises(FeatureError, match="`country` cannot be kept"):
        Tokenizer.fit(SKETCH, schema=Schema(Buy), keep=["country"])


def _bags(histories, tokenizer, *, first):
    """Shares of the ids in one half of each user's events: the plainest of embeddings."""
    pieces = histories.every()
    middle = (pieces.starts + pieces.ends) // 2
    starts, ends = (pieces.starts, middle) if first else (middle, pieces.ends)
    half = type(pieces)(histories, starts, ends, pieces.now)
    batch = tokenizer.reader(histories).batch(half)
    owner = np.repeat(np.arange(len(batch)), batch.lengths)
    bags = []
    for column in range(len(tokenizer.fields)):
        bag = np.zeros((len(batch), tokenizer.sizes[column]))
        np.add.at(bag, (owner, batch.ids[:, column]), 1.0)
        bags.append(bag / np.linalg.norm(bag, axis=1, keepdims=True))
    return np.hstack(bags)


def _nearest(left, right):
    return np.argmax(left @ right.T, axis=1)


def test_with_an_identity_kept_same_user_matching_is_won_and_nothing_is_learned():
    """The pretext task goes to 100 %; the users' taste is not predicted any better."""
    histories = Histories.from_frame(FRAME)
    options = {"numbers": [], "keep": ["device"], "least_count": 1}
    matched, predicted = {}, {}
    for name, fields in (
        ("honest", ["asset"]),
        ("cheat", ["asset", "device"]),
        ("who", ["device"]),
    ):
        tokenizer = Tokenizer.fit(SKETCH, fields=fields, **options)
        one = _bags(histories, tokenizer, first=True)
        two = _bags(histories, tokenizer, first=False)
        matched[name] = (_nearest(one, two) == np.arange(len(one))).mean()
        whole = one + two
        similar = whole @ whole.T
        np.fill_diagonal(similar, -np.inf)
        neighbours = np.argsort(-similar, axis=1, kind="stable")[:, :15]
        predicted[name] = ((TASTE[neighbours].mean(axis=1) > 0.5) == TASTE).mean()
    # One in 150 by chance; of taste one in two.
    assert matched["honest"] < 0.1
    assert matched["cheat"] > 0.97
    assert matched["who"] > 0.97
    assert 0.7 < predicted["honest"] < 0.99
    assert predicted["cheat"] <= predicted["honest"] + 0.02
    assert predicted["who"] < 0.65


def test_a_country_is_kept_although_it_is_constant_within_a_user():
    told = identity(SKETCH, "country")
    assert told.within == 1.0
    assert told.distinct <= 50
    assert "country" in Tokenizer.fit(SKETCH).fields


def test_what_cannot_be_fitted_is_said():
    with pytest.raises(InvalidInput, match="at least one event"):
        Tokenizer.fit(Sketch.empty())
    with pytest.raises(InvalidInput, match=r"a text field of the sketch, got `aset`.*`asset`"):
        Tokenizer.fit(SKETCH, fields=["aset"])
    with pytest.raises(FeatureError, match="`usd` was asked for as text"):
        Tokenizer.fit(SKETCH, fields=["usd"])
    with pytest.raises(InvalidInput, match="hash_buckets from 1"):
        Tokenizer.fit(SKETCH, hash_buckets=0)
    with pytest.raises(InvalidInput, match="by_type= expected numbers that are tokens"):
        Tokenizer.fit(SKETCH, by_type=["serial"])
    with pytest.raises(InvalidInput, match="`asset` was text"):
        Tokenizer.fit(SKETCH).grown(sketch_of(["buy"], asset=[1.0]))


def test_a_tokenizer_goes_through_json_and_back():
    tokenizer = Tokenizer.fit(SKETCH)
    again = Tokenizer.from_dict(json.loads(json.dumps(tokenizer.to_dict())))
    assert again.to_dict() == tokenizer.to_dict()
    assert (again.hash, again.sizes) == (tokenizer.hash, tokenizer.sizes)
    assert again.refused == tokenizer.refused


JUNK = st.sampled_from(
    [None, -1, 0, 1.5, "x", "", [], {}, [1], True, 2**70, float("nan"), float("inf"), {"a": -1}]
)
SMALL = Tokenizer.fit(
    sketch_of(["a", "b"] * 30, usd=[1.0, 900.0] * 30, rail=["x", "y"] * 30), hash_buckets=2
)


@given(st.data())
@settings(max_examples=300)
def test_what_is_no_tokenizer_is_refused_and_what_is_taken_works(data):
    told = json.loads(json.dumps(SMALL.to_dict()))
    at = told
    while True:
        key = data.draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
        if not isinstance(at[key], (dict, list)) or not at[key] or data.draw(st.booleans()):
            break
        at = at[key]
    if isinstance(at, list) or data.draw(st.booleans()):
        at[key] = data.draw(JUNK)
    else:
        del at[key]
    try:
        tokenizer = Tokenizer.from_dict(told)
    except ArtifactError:
        return
    batch = tokenizer.batch_of_rows([[{"type": "b", "usd": 900.0, "rail": "z"}]])
    assert np.all(batch.ids >= 0)
    assert np.all(batch.ids < np.array(tokenizer.sizes))
    assert np.all(np.isfinite(batch.numbers))


@pytest.mark.parametrize("told", [None, [], {}, {"format": 2}, "tokenizer", {"format": 1}])
def test_what_is_nothing_like_a_tokenizer_is_refused(told):
    with pytest.raises(ArtifactError, match=r"expected a tokenizer as Tokenizer\.to_dict"):
        Tokenizer.from_dict(told)

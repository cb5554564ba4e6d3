"""A reference knows what moved, how far chance alone goes, and nothing of any single row."""

import json

import numpy as np
import polars as pl
import pytest
from scipy import stats

from chopmark.errors import ArtifactError, InvalidInput, InvalidTable
from chopmark.models import Column, Encoder
from chopmark.models.drift import Reference

ENCODER = Encoder(
    columns=[
        Column(name="amount", kind="number"),
        Column(name="age", kind="number"),
        Column(name="country", kind="category", categories=("de", "fr", "ng", "va")),
        Column(name="is_new", kind="boolean"),
        Column(name="joined", kind="date", format="iso", parts=("epoch_days",)),
    ]
)


def rows(n, seed, *, shift=0.0, countries=(0.5, 0.3, 0.2)):
    rng = np.random.default_rng(seed)
    amount = rng.normal(shift, 1.0, n)
    days = np.datetime64("2024-01-01") + rng.integers(0, 300, n).astype("timedelta64[D]")
    return pl.DataFrame(
        {
            "amount": pl.Series(np.where(rng.random(n) < 0.1, np.nan, amount), nan_to_null=True),
            "age": rng.integers(18, 90, n),
            "country": rng.choice(["de", "fr", "ng"], n, p=countries),
            "is_new": rng.random(n) < 0.4,
            "joined": days.astype(str).tolist(),
        }
    )


def by_column(found):
    return {item.column: item for item in found}


@pytest.fixture(scope="module")
def before():
    return rows(6_000, 0)


@pytest.fixture(scope="module")
def reference(before):
    return Reference.of(before, ENCODER, np.random.default_rng(1).random(before.height))


def test_the_formulas(before, reference):
    later = rows(4_000, 2, shift=0.5, countries=(0.2, 0.3, 0.5))
    found = by_column(reference.drift(later, ENCODER))
    # PSI of the countries, written out.
    first = np.array([before["country"].eq(name).sum() for name in ("de", "fr", "ng")]) + 0.5
    second = np.array([later["country"].eq(name).sum() for name in ("de", "fr", "ng")]) + 0.5
    first, second = first / first.sum(), second / second.sum()
    country = found["country"]
    assert country.psi == pytest.approx(((second - first) * np.log(second / first)).sum())
    assert country.ks is None
    # KS at the edges is below the exact one, by a bucket's share at most.
    exact = stats.ks_2samp(before["amount"].drop_nulls(), later["amount"].drop_nulls()).statistic
    assert exact - 0.05 <= found["amount"].ks <= exact
    assert found["amount"].missing_before == before["amount"].null_count() / 6_000
    assert found["amount"].missing_now == later["amount"].null_count() / 4_000


def test_verdicts(reference):
    scores = np.random.default_rng(3).random(4_000) ** 3
    found = reference.drift(rows(4_000, 2, shift=0.5, countries=(0.1, 0.3, 0.6)), ENCODER, scores)
    verdicts = {item.column: item.verdict for item in found}
    assert verdicts == {
        "country": "drifted",
        "score": "drifted",
        "amount": "moved",
        "age": "stable",
        "is_new": "stable",
        "joined": "stable",
    }
    assert [item.psi for item in found] == sorted((item.psi for item in found), reverse=True)


def test_chance_is_told_from_drift():
    psis, chances, alarms = [], [], 0
    for seed in range(150):
        reference = Reference.of(rows(400, seed), ENCODER)
        for item in reference.drift(rows(120, 1_000 + seed), ENCODER):
            alarms += item.verdict != "stable"
            if item.column == "age":
                psis.append(item.psi)
                chances.append(item.psi > item.chance)
                noise = item.noise
    # Naively, a PSI of 0.1 is an alarm: this table of 120 rows is beyond it by chance alone.
    assert noise > 0.09
    assert np.mean(psis) == pytest.approx(noise, rel=0.2)
    assert np.mean(chances) == pytest.approx(0.05, abs=0.04)
    assert alarms < 0.03 * 750


def test_what_is_kept_of_single_rows():
    amounts = np.append(np.linspace(0, 1, 999), 123_456.0)
    frame = rows(1_000, 0).with_columns(
        amount=pl.Series(amounts), country=pl.Series(["de"] * 996 + ["va"] * 4)
    )
    text = json.dumps(Reference.of(frame, ENCODER).to_json())
    assert "va" not in text  # a country of four rows
    assert "123456" not in text
    assert len(text) < 3_000
    amount = Reference.of(frame, ENCODER).columns[0]
    assert min(amount.counts) >= 10
    assert all(round(edge, 4) == edge for edge in amount.edges)


def test_there_and_back(reference, before):
    same = Reference.from_json(json.loads(json.dumps(reference.to_json())))
    assert same == reference
    moved = same.drift(before, ENCODER)
    assert all(item.psi == pytest.approx(0.0, abs=1e-12) for item in moved)


def test_tables_that_hardly_say_anything():
    few = rows(8, 0).with_columns(amount=pl.lit(None, dtype=pl.Float64))
    reference = Reference.of(few, ENCODER)
    assert all(profile.edges == () for profile in reference.columns if profile.column == "age")
    found = by_column(reference.drift(rows(500, 1), ENCODER))
    assert found["amount"].verdict == "drifted"  # never known before, known now
    assert found["age"].verdict == "stable"
    empty = Reference.of(few.head(0), ENCODER)
    assert all(np.isfinite(item.psi) for item in empty.drift(few, ENCODER))


def test_a_value_beyond_all_training_rows_is_seen(before):
    reference = Reference.of(before, ENCODER)
    later = rows(3_000, 5).with_columns(country=pl.lit("xx"), joined=pl.lit("2031-01-01"))
    found = by_column(reference.drift(later, ENCODER))
    assert found["country"].now.counts[-1] == 3_000
    assert found["joined"].verdict == "drifted"


def test_what_is_refused(reference, before):
    with pytest.raises(InvalidInput, match="at least one row"):
        reference.drift(before.head(0), ENCODER)
    with pytest.raises(InvalidTable, match="reads column `age`"):
        reference.drift(before.drop("age"), ENCODER)
    with pytest.raises(InvalidInput, match="expected the encoder of the same model"):
        reference.drift(before, Encoder(columns=[Column(name="age", kind="number")]))


@pytest.mark.parametrize(
    "change",
    [
        lambda data: data.pop("columns"),
        lambda data: data.pop("scores"),
        lambda data: data["columns"][0].pop("kind"),
        lambda data: data["columns"][0].update(kind="text"),
        lambda data: data["columns"][0].update(column=3),
        lambda data: data["columns"][0].update(edges=[1.0, 1.0]),
        lambda data: data["columns"][0].update(edges=[float("nan")]),
        lambda data: data["columns"][0].update(counts=[1]),
        lambda data: data["columns"][0].update(counts=None),
        lambda data: data["columns"][0]["counts"].__setitem__(0, -1),
        lambda data: data["columns"][0]["counts"].__setitem__(0, 1.5),
        lambda data: data["columns"][0].update(missing=True),
        lambda data: data["columns"][0].update(names=["x"]),
        lambda data: data["columns"][0].update(more=1),
        lambda data: data.update(scores=[]),
    ],
)
def test_a_broken_reference_is_refused(change, reference):
    data = json.loads(json.dumps(reference.to_json()))
    change(data)
    with pytest.raises(ArtifactError, match="reference cannot be read"):
        Reference.from_json(data)

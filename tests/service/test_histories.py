"""Models that read histories behind HTTP: lists of events in a row, honest or not."""

import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chopmark.features.eventlists import as_served
from chopmark.foundation.static import StaticEmbedding
from chopmark.foundation.usermodel import UserModel
from chopmark.histories import Histories
from chopmark.models import Artifact, Model, load_scorer
from chopmark.models import artifact as artifacts
from chopmark.models.families import lists_of
from chopmark.sequence.seq2win import Seq2Win
from chopmark.sequence.shape import Shape
from chopmark.sequence.training import Pace
from chopmark.service.scoring import ScoringService
from chopmark.tabular import EasyML

from ..sequence import examples
from .test_scoring import LEARNERS, Process, loaded_by, sent

SHAPE = Shape(width=4, depth=1, length=16)
TABLE = examples.table(num_users=80).with_columns(
    amount_usd=pl.Series([(7 * i % 31) + 0.25 for i in range(80)])
)
ROWS: list[dict[str, Any]] = [
    {"amount_usd": amount, "history": as_served(history)}
    for amount, history in TABLE.select("amount_usd", "history").iter_rows()
]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Three models of the table: one that reads no history, and two that do."""
    past = Histories.from_lists(TABLE["history"])
    users = UserModel(shape=SHAPE, pace=Pace(steps=3), window=16, budget=512).fit(past)
    models: dict[str, Model] = {
        "easyml": EasyML(model="linear"),
        "seq2win": Seq2Win(shape=SHAPE, epochs=1.0),
        "embedding": StaticEmbedding(users, EasyML(model="linear")),
    }
    folder = tmp_path_factory.mktemp("parts")
    for name, model in models.items():
        model.fit(TABLE, target="label").save(folder / name)
    return {name: folder / name for name in models}


@pytest.fixture(scope="module", params=["seq2win", "embedding", "blend"])
def model(request: pytest.FixtureRequest, parts: dict[str, Path]) -> Path:
    if request.param != "blend":
        return parts[request.param]
    path = parts["easyml"].with_name("blend")
    # By hand, so that each part has a weight.
    Artifact(
        family="blend",
        header={
            "second": "logistic",
            "names": list(parts),
            "feature_hashes": {},
            "training": {"num_rows": TABLE.height},
        },
        arrays={"weights": np.array([0.5, 0.75, 0.25]), "layer": np.array([0.1, 15.0])},
        parts={name: artifacts.read(part) for name, part in parts.items()},
    ).save(path)
    return path


def told(model: Path, row: dict[str, Any]) -> float:
    scorer = load_scorer(model)
    return scorer.score_row([row.get(name) for name in scorer.reads])


def test_a_row_with_a_history_has_the_score_of_the_scorer_and_of_the_table(model: Path) -> None:
    answers = sent(model, body={"rows": ROWS[:40]}).json()["rows"]
    scorer = load_scorer(model)
    assert [answer["score"] for answer in answers] == scorer.score(TABLE[:40]).tolist()
    assert [answer["score"] for answer in answers] == [told(model, row) for row in ROWS[:40]]
    assert len({answer["score"] for answer in answers}) > 20, "histories that say something"
    one = sent(model, body=ROWS[3]).json()
    assert one["score"] == answers[3]["score"]
    assert one.get("missing", []) == []


def test_a_history_is_explained_as_a_column(model: Path) -> None:
    answer = sent(model, "/v1/score?explain=1&top=9", ROWS[0]).json()
    moves = {reason["column"]: reason["contribution"] for reason in answer["reasons"]}
    assert "history" in moves
    assert answer["bias"] + sum(moves.values()) == pytest.approx(answer["log_odds"], abs=1e-6)


def test_the_model_tells_that_a_column_is_a_sequence(model: Path) -> None:
    found = sent(model, path="/v1/model", method="GET").json()
    assert found["kinds"]["history"] == "sequence"
    assert "history" in found["reads"]
    assert "history" not in found["dropped"]
    assert lists_of(load_scorer(model)) == {"history"}


def test_a_lacking_history_is_missing_and_scores_as_an_empty_one(model: Path) -> None:
    row = {"amount_usd": 3}
    lacking, empty = sent(model, body=row).json(), sent(model, body={**row, "history": []}).json()
    assert lacking["missing"] == ["history"]
    assert lacking["score"] == empty["score"] == told(model, {**row, "history": []})


@pytest.mark.parametrize("value", [{"type": "buy"}, {"history": []}])
def test_an_object_is_no_list_of_events(model: Path, value: object) -> None:
    answered = sent(model, body={"history": value})
    error = answered.json()["error"]
    assert (answered.status_code, error["place"]) == (422, "$.history")
    assert "a list of events" in error["message"]


def test_a_list_in_a_column_of_single_values_is_refused() -> None:
    plain = EasyML(model="linear").fit(TABLE.drop("history"), target="label")
    service = ScoringService(plain.scorer, keys=None)
    with pytest.raises(Exception, match="got an array"):
        service.score({"amount_usd": [1]})


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-(10**25), 10**25)
    | st.text(max_size=8)
    | st.floats(allow_nan=False, allow_infinity=False)
)
JSON_VALUES = (
    SCALARS
    | st.lists(SCALARS, max_size=3)
    | st.dictionaries(st.text(max_size=4), SCALARS, max_size=3)
)
EVENTS = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["visit", "buy", "cash_out"]) | JSON_VALUES,
        "age": st.integers(-5, 10**13) | JSON_VALUES,
        "asset": st.sampled_from(["BTC", "ETH"]) | JSON_VALUES,
        "amount": st.floats(-1e30, 1e30) | JSON_VALUES,
        "other": JSON_VALUES,
    },
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(history=st.lists(EVENTS | JSON_VALUES, max_size=20) | st.text(max_size=5) | st.integers())
def test_nonsense_in_a_list_gets_a_score_and_never_an_error(model: Path, history: object) -> None:
    for query in ("", "?explain=1"):
        answered = sent(model, f"/v1/score{query}", json.dumps({"history": history}).encode())
        assert answered.status_code == 200, answered.text
        assert 0.0 <= answered.json()["score"] <= 1.0


def test_a_thousand_rows_with_long_lists_are_answered(model: Path) -> None:
    long = [{"type": "visit", "age": age} for age in range(60, 0, -1)]
    rows = [{"amount_usd": 1, "history": long}] * 300
    answers = sent(model, body={"rows": rows}).json()["rows"]
    assert len(answers) == 300
    assert {answer["score"] for answer in answers} == {told(model, rows[0])}


def test_the_newest_events_decide_and_the_oldest_beyond_the_length_do_not(model: Path) -> None:
    row = max(ROWS, key=lambda row: len(row["history"]))
    assert len(row["history"]) > SHAPE.length
    shorter = {**row, "history": row["history"][-SHAPE.length :]}
    assert sent(model, body=row).json()["score"] == sent(model, body=shorter).json()["score"]
    assert isinstance(TABLE["history"].dtype, pl.List)


def test_the_process_reads_histories_without_a_learner(model: Path, tmp_path: Path) -> None:
    process = Process(model, tmp_path)
    try:
        for body in (ROWS[0], {"rows": ROWS[:5]}, {"history": [3, None, {"age": "x"}]}):
            answered = httpx.post(f"{process.url}/v1/score?explain=1", json=body)
            assert answered.json() == sent(model, "/v1/score?explain=1", body).json()
    finally:
        assert process.stop() == 0, process.told()
    assert not loaded_by(process) & {*LEARNERS, "polars"}

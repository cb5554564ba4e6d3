"""One model behind HTTP: what it answers, what it refuses, and the process that serves it."""

import asyncio
import json
import math
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from chopmark.decisions import Decision
from chopmark.errors import ArtifactError, ServiceError
from chopmark.models import (
    Additive,
    Artifact,
    ClassScorer,
    Column,
    Dropped,
    Encoder,
    Term,
    load_scorer,
)
from chopmark.models import artifact as artifacts
from chopmark.models.families import load_any
from chopmark.service import open_keys
from chopmark.service.bodies import MAX_BODY_BYTES
from chopmark.service.scoring import (
    MAX_EXPLAINED_ROWS,
    MAX_ROWS,
    ScoringService,
    serve_model,
)

from .conftest import JSON, text

TRAINING = {
    "num_rows": 9,
    "held_out": {"roc_auc": 0.75},
    "importance": {"amount": 0.6, "country": 0.4},
}
ROW = {"amount": 0.5, "country": "de"}


def saved(path: Path, **header: Any) -> Path:
    """z = -1 + (0.5 below 1, else -0.5; missing 2) + (de -1, others 1, missing 0)."""
    artifact(-1.0, **header).save(path)
    return path


def artifact(bias: float, **header: Any) -> Artifact:
    encoder = Encoder(
        columns=[
            Column(name="amount", kind="number"),
            Column(name="country", kind="category", categories=("de",)),
        ],
        dropped=[Dropped(name="wallet", kind="identifier", reason="one word each")],
    )
    additive = Additive.of(
        [
            Term(weights=np.array([0.5, -0.5]), edges=np.array([1.0]), missing=2.0),
            Term(weights=np.array([0.0, 1.0, -1.0])),
        ],
        bias=bias,
    )
    return Artifact(
        family="sum",
        header={"encoder": encoder.to_json(), "feature_hashes": {}, **header},
        arrays={
            "calibration": np.empty((0, 2)),
            **{f"linear.{name}": array for name, array in additive.to_arrays().items()},
        },
    )


LABELS = ["low", "mid", 3]


@pytest.fixture(scope="module")
def classes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes, whose own questions differ in the bias: 1, -1 and -3."""
    path = tmp_path_factory.mktemp("classes") / "classes.chopmark"
    Artifact(
        family="classes",
        header={
            "feature_hashes": {},
            "training": {**TRAINING, "task": "multiclass", "classes": LABELS},
        },
        arrays={},
        parts={
            str(place): artifact(1.0 - 2.0 * place, link="logit", training={"class": label})
            for place, label in enumerate(LABELS)
        },
    ).save(path)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.chopmark"
    return saved(path, link="logit", training=TRAINING)


def sent(
    model: Path,
    path: str = "/v1/score",
    body: Any = None,
    *,
    method: str = "POST",
    **options: Any,
) -> httpx.Response:
    """The answer of the application in this process."""

    async def run() -> httpx.Response:
        app = ScoringService(load_any(model), keys=options.pop("keys", None))
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://model") as client:
            content = body if isinstance(body, bytes) else text(body)
            headers = options.pop("headers", JSON)
            content = None if method == "GET" else content
            return await client.request(method, path, content=content, headers=headers)

    return asyncio.run(run())


def sigmoid(z: float) -> float:
    return 1.0 / (1.0 + math.exp(-z))


@pytest.mark.parametrize(
    ("row", "z", "more"),
    [
        (ROW, -1.5, {}),
        ({"amount": " 2 ", "country": "fr"}, -0.5, {}),
        ({"amount": None, "country": None}, 1.0, {}),
        ({"amount": True, "country": 7}, -0.5, {}),
        ({"amount": 10**30, "country": "de"}, -2.5, {}),
        ({"country": "de"}, 0.0, {"missing": ["amount"]}),
        ({}, 1.0, {"missing": ["amount", "country"]}),
        ({**ROW, "wallet": "0x1", "more": [{}]}, -1.5, {"ignored": ["wallet", "more"]}),
        ({"rows": 3}, 1.0, {"missing": ["amount", "country"], "ignored": ["rows"]}),
    ],
)
def test_a_row_is_scored(model: Path, row: Any, z: float, more: dict[str, Any]) -> None:
    answered = sent(model, body=row)
    assert answered.status_code == 200
    assert answered.headers["content-type"] == "application/json"
    found = answered.json()
    assert found.pop("score") == pytest.approx(sigmoid(z), abs=1e-12)
    assert found.pop("log_odds") == pytest.approx(z, abs=1e-9)
    assert found == more


def test_a_score_decides_nothing(model: Path) -> None:
    """It is the engine that decides: here is no limit, no action and nobody to decide about."""
    riskiest = sent(model, "/v1/score?explain=1", {**ROW, "user": "ann", "amount_usd": 1e9}).json()
    assert set(riskiest) == {"score", "log_odds", "bias", "reasons", "ignored"}
    assert set(Decision.__struct_fields__).isdisjoint(set(riskiest) - {"score", "reasons"})
    for path in ("/v1/assess", "/v1/decisions/p-1"):
        assert sent(model, path, ROW).status_code == 404


def test_a_predicted_number_has_no_log_odds(tmp_path: Path) -> None:
    path = saved(tmp_path / "n.chopmark", link="identity", training={"task": "regression"})
    assert sent(path, body=ROW).json() == {"score": -1.5}
    found = sent(path, "/v1/score?explain=1", ROW).json()
    assert found["bias"] + sum(reason["contribution"] for reason in found["reasons"]) == -1.5
    assert sent(path, "/v1/model", method="GET").json()["task"] == "regression"


def test_rows_are_scored_in_their_order(model: Path) -> None:
    rows = [ROW, {"country": "fr"}, {**ROW, "x": 1}]
    answered = sent(model, body={"rows": rows, "more": 1}).json()["rows"]
    assert answered == [sent(model, body=row).json() for row in rows]
    assert sent(model, body={"rows": []}).json() == {"rows": []}


def test_reasons_are_the_strongest_first_and_sum_to_the_log_odds(model: Path) -> None:
    for row, reasons, z in [
        (ROW, [("country", -1.0), ("amount", 0.5)], -1.5),
        ({"country": "de"}, [("amount", 2.0), ("country", -1.0)], 0.0),
    ]:
        found = sent(model, "/v1/score?explain=1", row).json()
        assert [
            (reason["column"], reason["contribution"]) for reason in found["reasons"]
        ] == reasons
        assert found["bias"] + sum(part for _, part in reasons) == z
        assert found["log_odds"] == pytest.approx(z, abs=1e-9)
        assert found["score"] == sent(model, body=row).json()["score"]
    one = sent(model, "/v1/score?explain=true&top=1", {"rows": [ROW]}).json()["rows"][0]
    assert [reason["column"] for reason in one["reasons"]] == ["country"]
    assert "reasons" not in sent(model, "/v1/score?explain=0&top=1", ROW).json()


def test_the_model_tells_what_it_reads(model: Path) -> None:
    found = sent(model, "/v1/model", method="GET").json()
    assert found["hash"] == load_scorer(model).hash
    assert found["reads"] == ["amount", "country"]
    assert found["kinds"] == {"amount": "number", "country": "category"}
    assert found["dropped"] == {"wallet": "one word each"}
    assert found["metrics"] == {"roc_auc": 0.75}
    assert found["importance"] == {"amount": 0.6, "country": 0.4}


@pytest.mark.parametrize(
    ("row", "z", "more"),
    [
        (ROW, -0.5, {}),
        ({"amount": 7, "country": None}, -0.5, {}),
        ({"country": "de"}, 1.0, {"missing": ["amount"]}),
        ({**ROW, "wallet": "0x1"}, -0.5, {"ignored": ["wallet"]}),
    ],
)
def test_a_row_has_a_probability_of_each_class(
    classes: Path, row: Any, z: float, more: dict[str, Any]
) -> None:
    own = [sigmoid(z + bias) for bias in (1.0, -1.0, -3.0)]
    found = sent(classes, body=row).json()
    chances = found.pop("probabilities")
    assert list(chances) == ["low", "mid", "3"]
    assert list(chances.values()) == pytest.approx([p / sum(own) for p in own], abs=1e-11)
    assert found.pop("class") == "low"
    assert found.pop("score") == chances["low"]
    assert found == more


def test_served_probabilities_are_those_of_the_table(classes: Path) -> None:
    scorer = ClassScorer(artifacts.read(classes))
    rows = [{"amount": place / 7, "country": "de" if place % 3 else "fr"} for place in range(40)]
    answered = sent(classes, body={"rows": rows}).json()["rows"]
    assert [list(row["probabilities"].values()) for row in answered] == (
        scorer.score(pl.DataFrame(rows)).tolist()
    )
    assert answered[7] == sent(classes, body=rows[7]).json()


def test_the_likeliest_class_is_explained_or_the_one_asked_for(classes: Path) -> None:
    plain = sent(classes, body=ROW).json()
    for query, label, bias in [("", "low", 1.0), ("&of=mid", "mid", -1.0), ("&of=3", 3, -3.0)]:
        found = sent(classes, f"/v1/score?explain=1{query}", ROW).json()
        assert {name: found[name] for name in plain} == plain
        assert (found["explained"], found["bias"]) == (label, bias)
        assert [(reason["column"], reason["contribution"]) for reason in found["reasons"]] == [
            ("country", -1.0),
            ("amount", 0.5),
        ]
        assert found["log_odds"] == bias - 0.5
    rows = sent(classes, "/v1/score?explain=1&top=1&of=mid", {"rows": [ROW, {}]}).json()["rows"]
    assert [[reason["column"] for reason in row["reasons"]] for row in rows] == [
        ["country"],
        ["amount"],
    ]
    assert "explained" not in sent(classes, "/v1/score?of=mid", ROW).json()


def test_only_a_class_of_the_model_is_explained(classes: Path, model: Path) -> None:
    for path, words in [(classes, "one of the classes low, mid, 3"), (model, "no `of`")]:
        answered = sent(path, "/v1/score?explain=1&of=hgih", ROW)
        error = answered.json()["error"]
        assert (answered.status_code, error["code"]) == (400, "invalid_query")
        assert words in error["message"]


def test_wrong_rows_of_several_classes_are_refused_as_others_are(
    classes: Path, model: Path
) -> None:
    for body in ({"amount": [1]}, {"rows": [ROW, 3]}, [1], {"rows": [{}] * (MAX_ROWS + 1)}):
        answered, expected = sent(classes, body=body), sent(model, body=body)
        assert answered.status_code == expected.status_code == 422
        assert answered.json() == expected.json()
    assert len(sent(classes, body={"rows": [{}] * 600}).json()["rows"]) == 600


def test_a_model_of_several_classes_tells_them(classes: Path) -> None:
    found = sent(classes, "/v1/model", method="GET").json()
    assert (found["task"], found["classes"]) == ("multiclass", LABELS)
    assert found["kinds"] == {"amount": "number", "country": "category"}
    assert found["dropped"] == {"wallet": "one word each"}
    assert found["hash"] == artifacts.read(classes).hash


@pytest.mark.parametrize(
    ("body", "status", "place", "words"),
    [
        (b"{", 400, "$", "JSON"),
        (b'{"amount": 1,}', 400, "$", "JSON"),
        (b'{"amount": NaN}', 400, "$", "JSON"),
        (b'{"country": "\xff"}', 400, "$", "JSON"),
        (b"", 400, None, "JSON"),
        (b"[" * 99 + b"]" * 99, 400, "$", "at most 32 levels"),
        (b"[1]", 422, "$", "got an array"),
        (b'"text"', 422, "$", "got text"),
        (b"null", 422, "$", "got null"),
        ({"amount": [1]}, 422, "$.amount", "got an array"),
        ({"country": {"code": "de"}}, 422, "$.country", "got an object"),
        ({"rows": [ROW, 3]}, 422, "$.rows[1]", "got a number"),
        ({"rows": [ROW, True]}, 422, "$.rows[1]", "got true or false"),
        ({"rows": [ROW, {"amount": [1]}]}, 422, "$.rows[1].amount", "got an array"),
        ({"rows": [{}] * (MAX_ROWS + 1)}, 422, "$.rows", "at most 10,000 rows, got 10,001"),
        (b'{"x":"' + b"a" * MAX_BODY_BYTES + b'"}', 413, None, "at most"),
    ],
)  # fmt: skip
def test_a_wrong_body_is_refused(
    model: Path, body: Any, status: int, place: str | None, words: str
) -> None:
    answered = sent(model, body=body)
    error = answered.json()["error"]
    assert answered.status_code == status, error
    assert error.get("place", "$") == (place or "$")
    assert words in error["message"]


def test_the_most_rows_are_answered(model: Path) -> None:
    assert len(sent(model, body={"rows": [{}] * MAX_ROWS}).json()["rows"]) == MAX_ROWS
    explain = "/v1/score?explain=1"
    assert len(sent(model, explain, {"rows": [{}] * MAX_EXPLAINED_ROWS}).json()["rows"]) == 1_000
    answered = sent(model, explain, {"rows": [{}] * (MAX_EXPLAINED_ROWS + 1)})
    assert "at most 1,000 rows" in answered.json()["error"]["message"]


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/v1/score", 405, "method_not_allowed"),
        ("POST", "/v1/model", 405, "method_not_allowed"),
        ("POST", "/healthz", 405, "method_not_allowed"),
        ("GET", "/v1/nothing", 404, "not_found"),
        ("POST", "/v1/score?explain=maybe", 400, "invalid_query"),
        ("POST", "/v1/score?explain=1&top=0", 400, "invalid_query"),
        ("POST", "/v1/score?explain=1&top=-1", 400, "invalid_query"),
        ("POST", "/v1/score?explain=1&top=x", 400, "invalid_query"),
    ],
)
def test_a_wrong_request_is_refused(
    model: Path, method: str, path: str, status: int, code: str
) -> None:
    answered = sent(model, path, ROW, method=method)
    assert (answered.status_code, answered.json()["error"]["code"]) == (status, code)


def test_json_is_said_to_be_json(model: Path) -> None:
    assert sent(model, body=ROW, headers={"content-type": "text/plain"}).status_code == 415


def test_keys_open_all_but_health(model: Path, tmp_path: Path) -> None:
    keys, first = open_keys(tmp_path / "keys.json")
    for key, status in ((None, 401), ("chop_wrong", 401), (first, 200)):
        headers = JSON | ({} if key is None else {"authorization": f"Bearer {key}"})
        assert sent(model, body=ROW, keys=keys, headers=headers).status_code == status
        asked = sent(model, "/v1/model", method="GET", keys=keys, headers=headers)
        assert asked.status_code == status
        assert sent(model, "/v1/no", keys=keys, headers=headers).status_code == (
            401 if status == 401 else 404
        )
        assert sent(model, "/healthz", method="GET", keys=keys, headers=headers).json() == {
            "alive": True
        }


def test_it_lives_in_any_server(model: Path) -> None:
    told: list[str] = []

    async def run() -> None:
        events = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])

        async def receive() -> Any:
            return next(events)

        async def send(message: Any) -> None:
            told.append(message["type"])

        await ScoringService(load_scorer(model), keys=None)({"type": "lifespan"}, receive, send)

    asyncio.run(run())
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


SERVE = """
import json, sys
from pathlib import Path
from chopmark.service.scoring import serve_model
def announce(line):
    print(line, flush=True)
    print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})), flush=True)
keys = Path(sys.argv[2]) if len(sys.argv) > 2 else None
serve_model(sys.argv[1], port=0, keys_path=keys, announce=announce)
"""


class Process:
    """The model served by a process of its own."""

    def __init__(self, model: Path, folder: Path, *keys: str) -> None:
        self._told = folder / "told"
        with self._told.open("w") as told:
            command = [sys.executable, "-c", SERVE, str(model), *keys]
            self.process = subprocess.Popen(command, stdout=told, stderr=subprocess.STDOUT)
        for _ in range(1200):
            found = re.search(r"serves on (\S+)\n.*\n", self.told())
            if found is not None:
                break
            assert self.process.poll() is None, self.told()
            time.sleep(0.05)
        assert found is not None
        self.url = found[1]
        self.port = int(self.url.rsplit(":", 1)[1])

    def told(self) -> str:
        return self._told.read_text()

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


LEARNERS = {"lightgbm", "sklearn", "torch", "pandas", "xgboost", "catboost"}


def loaded_by(process: Process) -> set[str]:
    """Top-level packages that the process had loaded when it announced itself."""
    return set(json.loads(process.told().splitlines()[-1]))


@pytest.fixture(scope="module")
def served(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Process]:
    folder = tmp_path_factory.mktemp("served")
    process = Process(model, folder, str(folder / "keys.json"))
    yield process
    assert process.stop() == 0, process.told()
    assert "Traceback" not in process.told()


def test_the_process_answers_as_the_application_does(model: Path, served: Process) -> None:
    key = re.search(r"shown this once: (\S+)", served.told())
    assert key is not None
    assert served.url.startswith("http://127.0.0.1:")
    with httpx.Client(base_url=served.url, headers={"authorization": f"Bearer {key[1]}"}) as client:
        for path, body in [
            ("/v1/score", ROW),
            ("/v1/score?explain=1", {"rows": [ROW, {}]}),
            ("/v1/score", {"rows": [3]}),
        ]:
            assert client.post(path, json=body).json() == sent(model, path, body).json()
        assert client.get("/v1/model").json()["reads"] == ["amount", "country"]
    assert httpx.post(f"{served.url}/v1/score", json=ROW).status_code == 401
    assert httpx.get(f"{served.url}/healthz").json() == {"alive": True}


def test_the_process_serves_classes_without_a_learner(classes: Path, tmp_path: Path) -> None:
    process = Process(classes, tmp_path)
    try:
        for path, body in [("/v1/score?explain=1&of=mid", ROW), ("/v1/score", {"rows": [ROW, {}]})]:
            answered = httpx.post(f"{process.url}{path}", json=body)
            assert answered.json() == sent(classes, path, body).json()
    finally:
        assert process.stop() == 0, process.told()
    assert not loaded_by(process) & LEARNERS


def test_a_damaged_model_of_several_classes_does_not_start(classes: Path, tmp_path: Path) -> None:
    whole = artifacts.read(classes)
    parts = {name: part for name, part in whole.parts.items() if name != "1"}
    replace(whole, parts=parts).save(tmp_path / "lacking.chopmark")
    with pytest.raises(ArtifactError, match=r"it lacks \['1'\]"):
        serve_model(tmp_path / "lacking.chopmark", port=0)


def test_a_client_that_hangs_up_harms_nobody(served: Process) -> None:
    head = b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    for _ in range(20):
        with socket.create_connection(("127.0.0.1", served.port), timeout=20) as client:
            client.sendall(head + b"content-length: 99\r\n\r\n{")
    assert httpx.get(f"{served.url}/healthz").status_code == 200
    assert "failed" not in served.told()


def test_no_learner_is_loaded(served: Process) -> None:
    loaded = loaded_by(served)
    assert "numba" in loaded
    assert not loaded & LEARNERS


def test_it_does_not_start_without_a_model_or_a_port(
    model: Path, served: Process, tmp_path: Path
) -> None:
    with pytest.raises(ArtifactError, match="cannot read the artifact"):
        serve_model(tmp_path / "none.chopmark", port=0)
    with pytest.raises(ServiceError, match=f"expected port {served.port} of 127.0.0.1"):
        serve_model(model, port=served.port)

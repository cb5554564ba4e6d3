"""``chopmark easyml`` as a user types it, from a table to a served model."""

import io
import json
import re
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

import httpx
import numpy as np
import polars as pl
import pytest

from chopmark.blend import EasyBlend
from chopmark.models import Additive, Term, load_scorer
from chopmark.tabular import EasyML

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")

COMMANDS = ("train", "evaluate", "explain", "score", "describe", "export", "serve")


@pytest.fixture
def easyml(chopmark):
    """Run a command of the group in this process; exit code, output, errors."""
    return partial(chopmark, "easyml")


def payments(n=600, seed=0):
    """A table whose later rows turn the country's meaning round, with cards of three rows."""
    rng = np.random.default_rng(seed)
    amount = np.round(rng.lognormal(3, 1, n), 2)
    country = rng.choice(["de", "fr", "ng"], n)
    days = np.arange(n) * 86_400_000_000
    late = np.arange(n) >= 0.8 * n
    z = np.log(amount) - 4 + 3 * ((country == "ng") ^ late)
    return pl.DataFrame(
        {
            "id": [f"p{i:05}" for i in range(n)],
            "card": [f"c{i // 3}" for i in range(n)],
            "paid_at": pl.Series(days).cast(pl.Datetime("us")).dt.strftime("%d/%m/%Y"),
            "amount": amount,
            "country": country,
            "is_fraud": (rng.random(n) < 1 / (1 + np.exp(-z))).astype(int),
        }
    )


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    path = tmp_path_factory.mktemp("table") / "payments.csv"
    payments().write_csv(path)
    return path


@pytest.fixture(scope="module")
def model(table):
    """A model that the installed command trained."""
    path = table.with_name("fraud.chopmark")
    arguments = ["easyml", "train", table, "--target", "is_fraud", "--model", "linear"]
    ended = subprocess.run(
        [sys.executable, "-c", "from chopmark.cli import main; main()", *arguments, "--out", path],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert ended.stderr == ""
    for words in ("learn from 600 rows", "held out while", "roc_auc", "Importance"):
        assert words in ended.stdout
    return path


def assert_one_line(result, *words):
    """What is wrong is said in one line on the error stream, without a traceback."""
    ended, _, errors = result
    assert ended == 1
    assert errors.startswith("chopmark: ")
    assert errors.count("\n") == 1
    for word in words:
        assert word in errors, errors


def test_rows_are_scored_as_the_scorer_does(easyml, table, model, tmp_path):
    scorer, frame = load_scorer(model), pl.read_csv(table)
    values = frame.select(scorer.reads).rows()
    expected = [scorer.score_row(row) for row in values]
    for name, read in (
        ("s.csv", pl.read_csv),
        ("s.jsonl", pl.read_ndjson),
        ("s.parquet", pl.read_parquet),
    ):
        code, out, errors = easyml("score", model, table, "--keep", "id", "--out", tmp_path / name)
        assert (code, errors) == (0, "")
        assert "600 rows scored" in out
        scores = read(tmp_path / name)
        assert scores.columns == ["id", "score"]
        assert scores["id"].equals(frame["id"])
        assert scores["score"].to_list() == expected
    code, out, _ = easyml("score", model, table)
    assert code == 0
    assert pl.read_csv(io.StringIO(out))["score"].to_list() == expected


def test_a_table_without_rows_has_no_scores(easyml, model, tmp_path):
    empty = tmp_path / "empty.csv"
    empty.write_text("id,card,paid_at,amount,country\n")
    assert easyml("score", model, empty)[:2] == (0, "score\n")


def test_a_query_is_a_table(easyml, table, model, tmp_path):
    frame = pl.read_csv(table)
    with sqlite3.connect(tmp_path / "p.db") as connection:
        connection.execute(f"create table p ({', '.join(frame.columns)})")
        connection.executemany(
            f"insert into p values ({', '.join('?' * frame.width)})", frame.rows()
        )
    connection.close()
    options = (f"sqlite:///{tmp_path}/p.db", "--query", "select * from p order by id")
    assert easyml("score", model, *options)[1] == easyml("score", model, table)[1]
    out = tmp_path / "sql.chopmark"
    code, _, _ = easyml(
        "train", *options, "--target", "is_fraud", "--model", "linear", "--out", out
    )
    assert code == 0
    assert out.read_bytes() == model.read_bytes(), "the same rows give the same model"
    assert_one_line(easyml("score", model, *options[:2], "select 1 as x"), "which the table lacks")
    assert_one_line(easyml("score", model, options[0]), "Query(address")


def test_reasons_sum_to_the_score(easyml, table, model, tmp_path):
    scorer = load_scorer(model)
    out = tmp_path / "reasons.csv"
    code, _, _ = easyml("explain", model, table, "--top", 99, "--out", out)
    assert code == 0
    lines = pl.read_csv(out)
    assert lines.columns == ["row", "score", "column", "contribution"]
    sums = lines.group_by("row", "score").agg(pl.col("contribution").sum()).sort("row")
    assert sums["row"].to_list() == list(range(600))
    log_odds = scorer.bias + sums["contribution"].to_numpy()
    assert 1 / (1 + np.exp(-log_odds)) == pytest.approx(sums["score"].to_numpy(), abs=1e-9)

    code, shown, _ = easyml("explain", model, table, "--row", 7, "--top", 2)
    row = lines.filter(pl.col("row") == 7)
    assert code == 0
    assert f"row 7: score {row['score'][0]:.4f}" in shown
    assert f"{row['contribution'][0]:+.4f}" in shown
    assert sum("│" in line for line in shown.splitlines()) == 2
    one = tmp_path / "one.jsonl"
    easyml("explain", model, table, "--row", 7, "--top", 1, "--out", one)
    (line,) = map(json.loads, one.read_text().splitlines())
    assert line == row.row(0, named=True)


def test_what_a_model_is(easyml, model):
    code, shown, _ = easyml("describe", model)
    assert code == 0
    assert load_scorer(model).hash in shown
    for words in ("roc_auc", "amount", "number", "country", "category", "id", "identifier"):
        assert words in shown
    told = json.loads(easyml("describe", model, "--json")[1])
    assert told["reads"] == list(load_scorer(model).reads)
    assert told["importance"].keys() == set(told["reads"])
    assert "id" in told["dropped"]


def metric(shown, name):
    """A figure of the table of metrics."""
    found = re.search(rf"{name}\s*│\s*(-?[\d.]+)", shown)
    assert found is not None, shown
    return float(found[1])


def test_holding_out_the_latest_shows_what_chance_hides(easyml, table, tmp_path):
    train = ("train", table, "--target", "is_fraud", "--model", "linear", "--out")
    code, by_chance, _ = easyml(*train, tmp_path / "a.chopmark", "--holdout", 0.25)
    assert code == 0
    assert "150 unseen rows" in by_chance
    assert "learn from 450 rows" in by_chance
    code, by_time, _ = easyml(*train, tmp_path / "b.chopmark", "--time", "paid_at")
    assert code == 0
    assert "120 unseen rows" in by_time
    assert metric(by_chance, "roc_auc") > 0.6 > 0.5 > metric(by_time, "roc_auc")


def test_a_group_is_held_out_whole_and_not_read(easyml, table, tmp_path):
    out = tmp_path / "g.chopmark"
    train = ("train", table, "--target", "is_fraud", "--model", "linear", "--out", out)
    code, shown, _ = easyml(*train, "--group", "card", "--holdout", 0.1, "--drop", "country")
    assert code == 0
    assert "60 unseen rows" in shown, "20 cards of 3 rows"
    assert not {"card", "country"} & set(load_scorer(out).reads)
    assert_one_line(easyml(*train, "--group", "card", "--time", "paid_at"), "one of --time and")


def test_a_first_look_at_a_sample_is_remembered(easyml, table, tmp_path):
    first, second = tmp_path / "first.chopmark", tmp_path / "second.chopmark"
    train = ("train", table, "--target", "is_fraud", "--model", "linear", "--sample", 300)
    for out in (first, second):
        code, shown, _ = easyml(*train, "--memory", tmp_path / "memory", "--out", out)
        assert code == 0
        assert "learn from 300 rows" in shown
    assert first.read_bytes() == second.read_bytes()
    assert len(list((tmp_path / "memory").iterdir())) == 1


def test_judged_again(easyml, table, model):
    code, shown, _ = easyml("evaluate", model, table, "--target", "is_fraud")
    assert code == 0
    assert "600 rows" in shown
    frame = pl.read_csv(table)
    scores, y = load_scorer(model).score(frame), frame["is_fraud"].to_numpy()
    pairs = np.sign(scores[y == 1][:, None] - scores[y == 0][None, :])
    assert metric(shown, "roc_auc") == pytest.approx((pairs.mean() + 1) / 2, abs=5e-5)


def test_a_report_is_written(easyml, table, model, tmp_path):
    page = tmp_path / "report.html"
    code, shown, _ = easyml("evaluate", model, table, "--target", "is_fraud", "--report", page)
    assert code == 0
    assert f"report in {page}" in shown
    assert page.read_text().lower().startswith("<!doctype html>")


def test_an_export_gives_the_same_scores(easyml, table, model, tmp_path):
    pytest.importorskip("onnx")
    out = tmp_path / "fraud.onnx"
    code, _, errors = easyml("export", model, out)
    assert (code, errors) == (0, "")
    assert out.stat().st_size > 100
    assert_one_line(easyml("export", model, tmp_path / "fraud.txt"), "ends in .onnx")


def test_inputs_are_never_replaced(easyml, table, model, tmp_path):
    link = tmp_path / "link.csv"
    link.symlink_to(table)
    before = table.read_bytes(), model.read_bytes()
    for arguments in (
        ("score", model, table, "--out", table),
        ("score", model, table, "--out", link),
        ("explain", model, table, "--out", link),
        ("train", table, "--target", "is_fraud", "--out", table),
        ("train", table, "--target", "is_fraud", "--report", table),
        ("train", table, "--target", "is_fraud", "--out", link, "--report", link),
        ("evaluate", model, table, "--target", "is_fraud", "--report", model),
    ):
        assert_one_line(easyml(*arguments), "which would be replaced")
    assert (table.read_bytes(), model.read_bytes()) == before


def test_a_failed_training_leaves_what_was_there(easyml, table, tmp_path):
    out = tmp_path / "m.chopmark"
    out.write_text("the model before")
    train = ("train", table, "--model", "linear", "--out", out)
    assert_one_line(easyml(*train, "--target", "isfraud"), "did you mean `is_fraud`")
    assert out.read_text() == "the model before"
    assert [path.name for path in tmp_path.iterdir()] == ["m.chopmark"]


def test_errors_are_one_line(easyml, table, model, tmp_path):
    broken = tmp_path / "broken.csv"
    broken.write_text("a,b\n1,2\n3\n")
    train = ("train", table, "--target", "is_fraud", "--model", "linear", "--out")
    train = (*train, tmp_path / "x.chopmark")
    for arguments, words in [
        (("train", tmp_path / "none.csv", "--target", "y"), "expected a file at"),
        (("train", broken, "--target", "b"), "expected 2 cells in line 3"),
        (("train", table, "--target", "is_fraud", "--out", tmp_path), "existing folder"),
        ((*train[:-1], tmp_path / "no" / "x"), "existing folder"),
        ((*train, "--holdout", 1.5), "between 0 and 1"),
        ((*train, "--holdout", 0, "--report", tmp_path / "r.html"), "--holdout above 0"),
        ((*train, "--time", "country"), "time in every row of `country`"),
        ((*train, "--time", "nope"), "--time names column `nope`"),
        ((*train, "--group", "crd"), "did you mean `card`"),
        ((*train, "--drop", "nope"), "names column `nope`"),
        (("score", tmp_path / "no.chopmark", table), "cannot read the artifact"),
        (("score", table, table), "no chopmark artifact"),
        (("score", model, broken), "expected 2 cells in line 3"),
        (("score", model, table, "--out", tmp_path / "x.xlsx"), "ends in .csv, .jsonl, .parquet"),
        (("score", model, table, "--keep", "idd"), "--keep names column `idd`"),
        (("explain", model, table, "--row", 600), "a row from 0 to 599, got 600"),
        (("explain", model, table, "--top", 0), "at least 1, got 0"),
        (("evaluate", model, table, "--target", "country"), "expected"),
        (("evaluate", model, table, "--target", "nope"), "--target names column `nope`"),
        (("serve", table), "no chopmark artifact"),
    ]:
        assert_one_line(easyml(*arguments), words)
    assert [path.name for path in tmp_path.iterdir()] == ["broken.csv"]


def test_more_classes_and_numbers(easyml, table, tmp_path):
    frame = pl.read_csv(table)
    train = ("train", table, "--model", "linear", "--out")
    out, scores = tmp_path / "c.chopmark", tmp_path / "c.csv"
    assert easyml(*train, out, "--target", "country", "--holdout", 0.2)[0] == 0
    assert easyml("score", out, table, "--keep", "country", "--out", scores)[0] == 0
    found = pl.read_csv(scores)
    assert found.columns == ["country", "score de", "score fr", "score ng"]
    assert found.drop("country").sum_horizontal().to_numpy() == pytest.approx(1.0, abs=1e-9)
    code, shown, _ = easyml("explain", out, table, "--of", "ng")
    assert code == 0
    assert f"score {found['score ng'][0]:.4f}" in shown
    assert_one_line(
        easyml("explain", out, table), "choose the one to explain with --of, one of de, fr, ng"
    )

    assert easyml(*train, out, "--target", "amount", "--drop", "id")[0] == 0
    code, shown, _ = easyml("evaluate", out, table, "--target", "amount")
    assert code == 0
    told = easyml("score", out, table)[1]
    error = pl.read_csv(io.StringIO(told))["score"] - frame["amount"]
    assert metric(shown, "mean_absolute_error") == pytest.approx(error.abs().mean(), abs=5e-5)
    assert "number" in easyml("explain", out, table)[1]


@pytest.fixture(scope="module")
def classes(table):
    """A model of three countries, beside the table."""
    path = table.with_name("countries.chopmark")
    fitted = EasyML(model="linear", target="country").fit(pl.read_csv(table))
    fitted.save(path)
    return path


def test_a_model_of_several_classes_is_told_judged_and_exported(easyml, table, classes, tmp_path):
    fitted = EasyML.load(classes)
    code, shown, _ = easyml("describe", classes)
    assert code == 0
    for words in ("multiclass (de, fr, ng)", fitted.scorer.hash, "log_loss", "amount", "number"):
        assert words in shown
    told = json.loads(easyml("describe", classes, "--json")[1])
    assert told["classes"] == ["de", "fr", "ng"]
    assert told["kinds"].keys() == set(told["reads"]) == set(fitted.reads)

    page = tmp_path / "page.html"
    code, shown, _ = easyml("evaluate", classes, table, "--target", "country", "--report", page)
    assert code == 0
    frame = pl.read_csv(table)
    right = (fitted.predict(frame) == frame["country"].to_numpy()).mean()
    assert metric(shown, "accuracy") == pytest.approx(right, abs=5e-5)
    assert page.exists()

    reasons = tmp_path / "reasons.csv"
    code, _, _ = easyml("explain", classes, table, "--of", "fr", "--top", 99, "--out", reasons)
    assert code == 0
    found = pl.read_csv(reasons).group_by("row", "score").agg(pl.col("contribution").sum())
    found = found.sort("row")
    assert found["score"].to_list() == fitted.predict_proba(frame)[:, 1].tolist()
    own = fitted.scorer.questions[1]
    log_odds = own.bias + found["contribution"].to_numpy()
    assert 1 / (1 + np.exp(-log_odds)) == pytest.approx(own.score(frame), abs=1e-9)

    pytest.importorskip("onnx")
    assert easyml("export", classes, tmp_path / "c.onnx")[0] == 0
    assert (tmp_path / "c.onnx").stat().st_size > 100


def test_what_only_one_class_reads_is_told_too(easyml, table, classes, tmp_path):
    whole = EasyML.load(classes).scorer.artifact
    first, encoder = whole.parts["0"], EasyML.load(classes).encoder
    gone = encoder.reads[0]
    less = encoder.without(columns={gone: "of no use here"})
    # Lookup tables of the columns that are left, all of them zero.
    zero = Additive.of([Term(weights=np.zeros(2), edges=np.zeros(1))] * len(less.encoded), bias=0.0)
    arrays = {f"linear.{name}": array for name, array in zero.to_arrays().items()}
    part = replace(
        first,
        header={**first.header, "encoder": less.to_json()},
        arrays={"calibration": first.arrays["calibration"], **arrays},
    )
    path = tmp_path / "less.chopmark"
    replace(whole, parts={**whole.parts, "0": part}).save(path)
    code, shown, errors = easyml("describe", path)
    assert (code, errors) == (0, "")
    assert "of no use here" not in shown
    assert gone in json.loads(easyml("describe", path, "--json")[1])["kinds"]


@pytest.fixture(scope="module")
def blend(table):
    """A blend's file, beside the table."""
    path = table.with_name("blend.chopmark")
    frame = pl.read_csv(table).drop("id", "card", "paid_at")
    parts = {"one": EasyML(model="linear"), "two": EasyML(model="trees")}
    EasyBlend(parts, num_folds=2).fit(frame, target="is_fraud").save(path)
    return path


def test_a_blend_is_scored_told_judged_and_explained(easyml, table, blend, tmp_path):
    fitted, frame = EasyBlend.load(blend), pl.read_csv(table)
    code, out, errors = easyml("score", blend, table, "--keep", "id")
    assert (code, errors) == (0, "")
    scores = pl.read_csv(io.StringIO(out))
    assert scores.columns == ["id", "score"]
    assert scores["score"].to_list() == fitted.score(frame).tolist()

    code, shown, _ = easyml("describe", blend)
    assert code == 0
    for words in ("blend: ", fitted.scorer.hash, "roc_auc", "amount", "number", "country"):
        assert words in shown
    told = json.loads(easyml("describe", blend, "--json")[1])
    assert told["kinds"] == {"amount": "number", "country": "category"}
    assert told["hash"] == fitted.scorer.hash

    code, shown, _ = easyml("evaluate", blend, table, "--target", "is_fraud")
    assert code == 0
    assert 0.5 < metric(shown, "roc_auc") < 1.0
    code, shown, _ = easyml("explain", blend, table, "--row", 3)
    assert code == 0
    assert f"score {scores['score'][3]:.4f}" in shown
    assert_one_line(easyml("export", blend, tmp_path / "b.onnx"), "got a blend of one, two")


def test_a_damaged_model_of_several_classes_is_one_line(easyml, table, classes, tmp_path):
    whole, path = EasyML.load(classes).scorer.artifact, tmp_path / "broken.chopmark"
    twice = {**whole.header["training"], "classes": ["de", "fr", "de"]}
    for changed, words in [
        ({"parts": {}}, "lacks ['0', '1', '2']"),
        ({"parts": {**whole.parts, "1": whole.parts["0"]}}, "it learned the class `de`"),
        ({"header": {**whole.header, "training": twice}}, "the class `de` twice"),
    ]:
        replace(whole, **changed).save(path)
        for arguments in (("score", path, table), ("describe", path), ("serve", path)):
            assert_one_line(easyml(*arguments), words)


def test_several_classes_are_served(classes, table, tmp_path):
    with serving(classes, tmp_path, "--no-keys") as (url, _):
        row = {"amount": 12.5, "is_fraud": 1}
        answered = httpx.post(f"{url}/v1/score", json=row).json()
        scorer = EasyML.load(classes).scorer
        expected = scorer.score_row([row.get(name) for name in scorer.reads]).tolist()
        assert list(answered["probabilities"].values()) == expected
        assert answered["class"] == scorer.classes[int(np.argmax(expected))]


@contextmanager
def serving(model, folder, *options):
    """Address and keys of the command's process."""
    told = folder / "told"
    with told.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-c", "from chopmark.cli import main; main()", "easyml", "serve",
             str(model), "--port", "0", *options],
            stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        for _ in range(1200):
            found = re.search(r"serves on (\S+)\n", told.read_text())
            if found is not None or process.poll() is not None:
                break
            time.sleep(0.05)
        assert found is not None, told.read_text()
        yield found[1], re.search(r"shown this once: (\S+)", told.read_text())
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0


@pytest.mark.parametrize("keys", [True, False])
def test_a_model_is_served(model, tmp_path, keys):
    with serving(model, tmp_path, *([] if keys else ["--no-keys"])) as (url, key):
        headers = {"authorization": f"Bearer {key[1]}"} if key else {}
        row = {"amount": 12.5, "country": "ng"}
        answered = httpx.post(f"{url}/v1/score", json=row, headers=headers)
        expected = load_scorer(model).score_row(
            [row.get(name) for name in load_scorer(model).reads]
        )
        assert answered.json()["score"] == expected
        assert (httpx.post(f"{url}/v1/score", json=row).status_code == 401) == keys
    assert model.with_name("fraud.chopmark.keys.json").exists()


@pytest.mark.parametrize("name", COMMANDS)
def test_help_teaches_by_an_example(easyml, name):
    code, shown, _ = easyml(name, "--help")
    assert code == 0
    assert f"Example: chopmark easyml {name} " in shown
    options = [line for line in shown.splitlines() if line.lstrip("│ *").startswith("--")]
    assert all(len(line.strip("│ ").split("  ")) > 1 for line in options), options


def test_help_loads_no_learner():
    code = (
        "import sys\n"
        "from chopmark.cli import app\n"
        f"for name in {COMMANDS}:\n"
        "    app(['easyml', name, '--help'], exit_on_error=False, result_action='return_value')\n"
        "loaded = {name.partition('.')[0] for name in sys.modules}\n"
        "print(loaded & {'torch', 'lightgbm', 'sklearn', 'pandas', 'xgboost', 'catboost'})\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()"

"""``chopmark foundation`` as a user types it: from events to a space, a model and a campaign."""

import json
import re
import subprocess
import sys
from functools import partial

import numpy as np
import polars as pl
import pytest
import torch

from chopmark.cli.spaces import torch_threads
from chopmark.foundation import Embeddings, UserModel
from chopmark.foundation.adapting import adapt, read_labels
from chopmark.foundation.similarity import Similarity
from chopmark.histories import Histories
from chopmark.models import load_scorer
from chopmark.models.families import load_any
from chopmark.report.campaign import make_campaign
from chopmark.sequence import Shape
from chopmark.service.scoring import ScoringService

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")

TINY = ("--width", 8, "--steps", 6, "--threads", 1)
COMMANDS = ("tokens", "pretrain", "embed", "similar", "adapt", "benchmark")
TARGET = ("plan", "answer", "report", "simulate")


@pytest.fixture
def foundation(chopmark):
    """Run a command of the group in this process; exit code, output, errors."""
    return partial(chopmark, "foundation")


def happenings(users=120, seed=0):
    """Events of users of whom every third buys often; each has a device of their own."""
    rng = np.random.default_rng(seed)
    frames = []
    for user in range(users):
        n = int(rng.integers(6, 20))
        buys = 0.6 if user % 3 == 0 else 0.1
        kinds = rng.choice(["visit", "buy", "login"], n, p=[0.9 - buys, buys, 0.1])
        frames.append(
            pl.DataFrame(
                {
                    "user": f"u{user:03}",
                    "happened_at": np.sort(rng.integers(0, 30 * 86_400_000_000, n)),
                    "type": kinds,
                    "asset": rng.choice(["BTC", "ETH"], n),
                    "device": f"d{user}",
                    "usd": np.where(kinds == "buy", rng.lognormal(3, 1, n).round(2), np.nan),
                }
            )
        )
    events = pl.concat(frames).with_columns(pl.col("usd").fill_nan(None))
    return events.with_columns(
        pl.from_epoch("happened_at", "us").dt.strftime("%Y-%m-%dT%H:%M:%S%.6fZ")
    )


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """A folder with events and labels; not to be written to."""
    folder = tmp_path_factory.mktemp("foundation")
    events = happenings()
    events.write_csv(folder / "events.csv")
    users = events["user"].unique(maintain_order=True)
    buys = [int(name[1:]) % 3 == 0 for name in users]
    labels = pl.DataFrame({"user": users, "label": pl.Series(buys).cast(pl.Int8)})
    labels.write_csv(folder / "labels.csv")
    Histories.from_frame(folder_events(folder)).save(folder / "histories")
    return folder


def folder_events(folder):
    return pl.read_csv(folder / "events.csv")


@pytest.fixture(scope="module")
def space(here):
    """A user model that the installed command trained."""
    path = here / "space.chopmark"
    ended = subprocess.run(
        [sys.executable, "-c", "from chopmark.cli import main; main()", "foundation", "pretrain",
         here / "events.csv", path, *map(str, TINY)],
        capture_output=True, text=True, check=True, timeout=250,
    )  # fmt: skip
    assert ended.stderr == ""
    for words in ("120", "reads type, asset, usd", "user-constant", "pre-train", "loss at first",
                  "steps a second", UserModel.load(path).space):  # fmt: skip
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


@pytest.mark.parametrize("name", [*COMMANDS, *(f"target {name}" for name in TARGET)])
def test_every_command_has_help_that_ends_in_an_example(foundation, name):
    code, out, _ = foundation(*name.split(), "--help")
    assert code == 0
    assert f"chopmark foundation {name} " in " ".join(out.split())


def test_tokens_names_what_is_refused_and_why(foundation, here):
    code, out, errors = foundation("tokens", here / "events.csv")
    assert (code, errors) == (0, "")
    assert re.search(r"device .*refused", out)
    assert re.search(r"device .*user-constant: two events of one user share", out)
    assert re.search(r"asset .*2 known values", out)
    kept = foundation("tokens", here / "events.csv", "--keep", "device")[1]
    assert "kept on request: device" in kept
    assert "Refused as tokens" not in kept


def test_a_folder_gives_the_space_that_the_table_gives(foundation, here, space, tmp_path):
    out = tmp_path / "again.chopmark"
    code, _, errors = foundation("pretrain", here / "histories", out, *TINY)
    assert (code, errors) == (0, "")
    one, two = UserModel.load(space), UserModel.load(out)
    for name, tensor in one.tower.state_dict().items():
        np.testing.assert_array_equal(tensor.numpy(), two.tower.state_dict()[name].numpy())


def test_what_comes_later_is_not_learned_from(foundation, here, tmp_path):
    code, out, _ = foundation(
        "pretrain", here / "events.csv", tmp_path / "s", *TINY, "--until", "1970-01-15"
    )
    known = folder_events(here).filter(pl.col("happened_at") <= "1970-01-15T00:00:00.000000Z")
    assert code == 0
    assert UserModel.load(tmp_path / "s").training["num_events"] == known.height
    assert f" {known.height:,} │" in out


def test_columns_have_names_of_their_own(foundation, here, tmp_path):
    events = folder_events(here).rename({"user": "who", "happened_at": "ts", "type": "what"})
    events.write_parquet(tmp_path / "e.parquet")
    names = ("--user", "who", "--time", "ts", "--type", "what")
    code, out, _ = foundation(
        "tokens", tmp_path / "e.parquet", *names, "--fields=", "--numbers=usd"
    )
    assert code == 0
    assert "usd" in out
    assert "asset" not in out


def test_embed_gives_what_the_model_gives_and_updates_who_acted(foundation, here, space, tmp_path):
    vectors, asked = tmp_path / "vectors", "1970-01-20T00:00:00Z"
    code, out, _ = foundation("embed", space, here / "events.csv", vectors, "--as-of", asked)
    assert code == 0
    assert "120 of 120 users embedded" in out
    histories = Histories.from_frame(folder_events(here))
    before = Embeddings.open(vectors)
    expected = UserModel.load(space).embed(histories, as_of=19 * 86_400_000_000)
    np.testing.assert_array_equal(before.vectors, expected)
    old = np.array(before.vectors)

    newer = folder_events(here).filter(pl.col("user").is_in(["u000", "u001"])).with_columns(
        happened_at=pl.lit("1970-02-01T00:00:00Z")
    )  # fmt: skip
    late = pl.concat([folder_events(here).filter(pl.col("happened_at") < asked), newer])
    late.write_csv(tmp_path / "late.csv")
    code, out, _ = foundation("embed", space, tmp_path / "late.csv", vectors, "--update")
    assert code == 0
    assert "2 of 120 users embedded" in out
    after = Embeddings.open(vectors)
    moved = (np.array(after.vectors) != old).any(axis=1)
    assert after.users.filter(pl.Series(moved)).to_list() == ["u000", "u001"]


def test_a_folder_that_is_there_is_not_replaced(foundation, here, space, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    result = foundation("embed", space, here / "events.csv", tmp_path / "mine")
    assert_one_line(result, "expected a new folder", "--update")
    result = foundation("embed", space, here / "events.csv", tmp_path / "mine", "--update")
    assert_one_line(result, "cannot be read as embeddings")
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_threads_are_tried_and_given_back(here):
    histories = Histories.from_frame(folder_events(here))
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch_threads("auto", histories, Shape(width=8, depth=1)) as told:
            assert re.fullmatch(r"threads: [12] \(the fastest of 1 to 2 on a sample\)", told)
            assert str(torch.get_num_threads()) == told.split()[1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_similar_is_the_nearest_by_cosine_among_the_others(foundation, here, space):
    code, out, _ = foundation(
        "similar", space, here / "events.csv", "--users", "u000,u003", "--unlike", "u001",
        "--top", 4,
    )  # fmt: skip
    assert code == 0
    histories = Histories.from_frame(folder_events(here))
    vectors = UserModel.load(space).embed(histories, as_of=histories.until)
    likeness = Similarity().fit(vectors[[0, 3, 1]], [1, 1, 0])
    others = np.setdiff1d(np.arange(120), [0, 1, 3])
    found = likeness.nearest(vectors[others], histories.users.gather(others), 4)["user"]
    assert re.findall(r"│ (u\d+) ", out) == found.to_list()


@pytest.mark.parametrize(("methods", "family"), [("probe", "embedded"), ("fine-tuned", "sequence")])
def test_labels_become_a_model_that_is_scored_without_torch(
    foundation, here, space, tmp_path, methods, family
):
    out = tmp_path / "buyers.chopmark"
    code, shown, errors = foundation(
        "adapt", space, here / "events.csv", here / "labels.csv", out, "--methods",
        f"{methods},centroids", "--steps", 24, "--threads", 1,
    )  # fmt: skip
    assert (code, errors) == (0, "")
    for words in (f"> {methods}", "centroids", "unseen", f"chopmark easyml serve {out}", "$KEY"):
        assert words in shown
    body = json.loads(re.search(r"--json '(\{.*\})'", shown)[1])
    scorer = load_scorer(out)
    assert scorer.artifact.family == family
    assert scorer.reads == ("history",)
    assert {"type", "age"} <= set(body["history"][0])
    served = ScoringService(load_any(out), keys=None)
    assert served.score(body).score == scorer.score_row([body["history"]])
    script = (
        "import json, sys; from chopmark.models import load_scorer\n"
        "print(load_scorer(sys.argv[1]).score_row([json.loads(sys.argv[2])]))\n"
        "assert not {'torch', 'polars', 'sklearn'} & set(sys.modules)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script, out, json.dumps(body["history"])],
        capture_output=True, text=True, check=True, timeout=120,
    )  # fmt: skip
    assert float(ended.stdout) == scorer.score_row([body["history"]])


def test_the_figures_of_what_is_saved_are_those_of_the_file(here, space, tmp_path):
    histories = Histories.from_frame(folder_events(here))
    frame = pl.read_csv(here / "labels.csv")
    labels = read_labels(frame, histories)
    parts = [set(labels.users.gather(part)) for part in (labels.train, labels.valid, labels.test)]
    assert sum(map(len, parts)) == 120 == len(set.union(*parts))
    adapted = adapt(UserModel.load(space), histories, labels, methods=("probe", "positives only"))
    assert adapted.use == "probe"
    assert adapted.figures["served"].sum() == 1
    adapted.model.save(tmp_path / "m.chopmark")
    scorer = load_scorer(tmp_path / "m.chopmark")
    held = histories.slices(labels.users.gather(labels.test), histories.until).to_lists()
    scores = np.array([scorer.score_row([events]) for events in held.to_list()])
    y = labels.y[labels.test]
    above = (scores[y == 1][:, None] > scores[y == 0]).mean()
    ties = (scores[y == 1][:, None] == scores[y == 0]).mean()
    assert adapted.judged["roc_auc"] == pytest.approx(above + ties / 2, abs=1e-9)
    assert adapted.judged["roc_auc"] > 0.75, "who buys often is told from events alone"
    assert scorer.training["held_out"] == adapted.judged


def test_the_request_that_is_shown_is_nobodys(here, space):
    frame = folder_events(here)
    secret = pl.format("{}@example.com", frame["user"]).alias("email")
    histories = Histories.from_frame(frame.with_columns(secret))
    model = UserModel.load(space)
    labels = read_labels(pl.read_csv(here / "labels.csv"), histories)
    example = adapt(model, histories, labels, methods=("probe",)).example
    words = dict(zip(model.tokenizer.fields, model.tokenizer.words, strict=True))
    assert len(example) == 3
    for event in example:
        assert set(event) <= {"age", *words, *model.tokenizer.sources}
        assert all(event[name] in words[name] for name in words)


def test_a_users_rows_stay_together_and_a_given_split_is_kept(here):
    histories = Histories.from_frame(folder_events(here))
    frame = pl.read_csv(here / "labels.csv")
    twice = pl.concat([frame, frame]).with_columns(as_of=pl.lit("1970-01-20T00:00:00Z"))
    labels = read_labels(twice, histories, seed=3)
    parts = [set(labels.users.gather(part)) for part in (labels.train, labels.valid, labels.test)]
    assert not parts[0] & parts[1]
    assert not parts[2] & (parts[0] | parts[1])
    assert set(labels.as_of.tolist()) == {19 * 86_400_000_000}
    split = pl.Series("split", ["test", "train"] * 60)
    given = read_labels(frame.with_columns(split), histories)
    np.testing.assert_array_equal(given.test, np.arange(0, 120, 2))
    texts = frame.with_columns(label=pl.Series(["a", "b", "c"] * 40))
    many = read_labels(texts, histories, positive="c")
    np.testing.assert_array_equal(many.y, [0, 0, 1] * 40)


def test_the_benchmark_goes_on_where_it_was_and_is_drawn(foundation, tmp_path):
    run = ("benchmark", "tiny", "--small", "--sets", "rhythm_age", "--seeds", 1, "--width", 8,
           "--steps", 4, "--results", tmp_path / "r.jsonl")  # fmt: skip
    code, out, errors = foundation(*run)
    assert (code, errors) == (0, "")
    assert "from scratch" in out
    lines = (tmp_path / "r.jsonl").read_text()
    code, _, _ = foundation(*run, "--report", tmp_path / "suite.html")
    assert code == 0
    assert (tmp_path / "r.jsonl").read_text() == lines, "nothing is run twice"
    assert "<html" in (tmp_path / "suite.html").read_text()
    assert_one_line(foundation(*run[:-3], 9, *run[-2:]), "other settings")


def test_a_campaign_is_planned_answered_and_drawn(foundation, here, tmp_path):
    state, listed = tmp_path / "campaign.parquet", tmp_path / "today.csv"
    plan = ("target", "plan", state, here / "events.csv", "--budget", 20, "--seed", 5)
    for day in (25, 26):
        at = f"1970-01-{day}T12:00:00Z"
        code, out, errors = foundation(*plan, "--as-of", at, "--out", listed)
        assert (code, errors) == (0, "")
        assert f"day {day - 25}: 20 to notify" in out
        rows = pl.read_csv(listed)
        assert rows.columns == ["user", "day", "why", "score"]
        before = listed.read_bytes()
        code, out, _ = foundation(*plan, "--as-of", at, "--out", listed)
        assert "planned before" in out
        assert listed.read_bytes() == before
        engaged = rows.filter(pl.col("user").str.slice(1).cast(pl.Int64) % 3 == 0)
        engaged.write_csv(tmp_path / "engaged.csv")
        code, out, _ = foundation("target", "answer", state, tmp_path / "engaged.csv")
        assert code == 0
        assert f"{engaged.height} of 20 engaged" in out
    sent = pl.read_parquet(state)
    assert sent.height == 40 == sent["user"].n_unique(), "one message to a user"
    assert sent.filter(day=0)["why"].unique().to_list() == ["explore"]
    assert sent.filter(day=1)["why"].value_counts().sort("why")["count"].to_list() == [2, 18]
    # With two of twenty drawn at random, nearly all the others are those who buy often.
    assert sent.filter(day=1)["engaged"].mean() > sent.filter(day=0)["engaged"].mean()
    code, out, _ = foundation("target", "report", state, tmp_path / "campaign.html")
    assert code == 0
    assert make_campaign(sent).headline.split(".")[0] in " ".join(out.split())
    assert "<html" in (tmp_path / "campaign.html").read_text()


def test_a_campaign_asks_a_space_too_and_the_candidates_that_it_is_given(
    foundation, here, space, tmp_path
):
    state = tmp_path / "c.parquet"
    pl.DataFrame({"user": [f"u{i:03}" for i in range(40)]}).write_csv(tmp_path / "may.csv")
    plan = ("target", "plan", state, here / "events.csv", "--space", space, "--budget", 15,
            "--candidates", tmp_path / "may.csv", "--cap", 2)  # fmt: skip
    code, out, _ = foundation(*plan, "--day", 0)
    first = pl.read_csv(out.encode())
    assert code == 0
    assert set(first["user"]) <= {f"u{i:03}" for i in range(40)}
    foundation("target", "answer", state, "--users", ",".join(first["user"][:8]))
    code, out, errors = foundation(*plan, "--day", 1)
    second = pl.read_csv(out.encode())
    assert (code, errors) == (0, "")
    assert second["why"].to_list().count("target") == 13
    assert second["score"].drop_nulls().is_between(0, 1).all()


def test_all_strategies_are_simulated_side_by_side(foundation, tmp_path):
    page = tmp_path / "c.html"
    code, out, errors = foundation(
        "target", "simulate", "--users", 250, "--days", 2, "--budget", 40, "--base", 0.1,
        "--no-space", "--report", page,
    )  # fmt: skip
    assert (code, errors) == (0, "")
    for name in (
        "random",
        "active in 7 days",
        "aggregates",
        "choices and habits",
        "who knows the true chances",
    ):
        assert name in out
    assert re.search(r"random +│ +\d+ │ +\d+ │ +\d+ │ +1\.00 ", out)
    assert page.exists()


def spoiled(here, space, folder):
    """Command lines that cannot be, and what is said."""
    events, labels, out = here / "events.csv", here / "labels.csv", folder / "out"
    (folder / "empty.csv").write_text("user,happened_at,type\n")
    (folder / "cut.chopmark").write_bytes(space.read_bytes()[: space.stat().st_size // 2])
    (folder / "checkpoint").write_bytes(b"half of it")
    (folder / "three.csv").write_text("user,label\nu000,a\nu001,b\nu002,c\n")
    (folder / "few.csv").write_text("user,label\nu000,0\nu001,1\n")
    (folder / "strangers.csv").write_text("user,label\nx,0\ny,1\n")
    (folder / "split.csv").write_text("user,label,split\nu000,0,train\nu001,1,maybe\n")
    (folder / "other.csv").write_text(
        "user,happened_at,type\na,2026-01-01,gulp\na,2026-01-02,gulp\nb,2026-01-02,gulp\n"
    )
    (folder / "numbers.csv").write_text("user,label\n1,0\n2,1\n")
    folder.joinpath("nothing").mkdir()
    cut, tables = folder / "cut.chopmark", folder
    adapt = ("adapt", space, events)
    plan = ("target", "plan", folder / "state.parquet", events)
    return [
        (("tokens", folder / "none.csv"), "got nothing there"),
        (("tokens", folder / "empty.csv"), "table without rows"),
        (("tokens", folder / "nothing"), "about.json"),
        (("tokens", events, "--user", "usr"), "expected a column `usr`", "did you mean `user`"),
        (("tokens", events, "--fields", "asst"), "expected a column `asst`", "`asset`"),
        (("tokens", here / "histories", "--fields", "asst"), "field `asst`", "`asset`"),
        (("tokens", here / "histories", "--user", "u"), "has users, times and types already"),
        (("pretrain", events, events), "would be replaced"),
        (("pretrain", events, out / "deep" / "space"), "existing folder"),
        (("pretrain", events, out, "--steps", 0), "--steps of at least 1"),
        (("pretrain", events, out, "--seconds", "nan"), "--seconds above 0"),
        (("pretrain", events, out, "--until", "later"), "--until as an ISO 8601"),
        (("pretrain", events, out, "--until", "1960-01-01"), "rows up to 1960-01-01"),
        (("pretrain", here / "histories", out, "--until", "1970-01-20"), "table of events only"),
        (("pretrain", events, out, "--threads", "many"), "--threads as a number"),
        (("pretrain", events, out, "--shape", "transformer", "--width", 20), "multiple of 32"),
        (("pretrain", events, out, *TINY, "--checkpoint", folder / "checkpoint"), "begin anew"),
        (("embed", cut, events, out), "cut.chopmark"),
        (("embed", labels, events, out), "labels.csv"),
        (("embed", space, tables / "other.csv", out), "expected events of types", "gulp"),
        (("embed", space, events, out, "--as-of", "soon"), "--as-of as an ISO 8601", "soon"),
        (("embed", space, events, out, "--update"), "folder of embeddings to update"),
        (("similar", space, events, "--users", "u000,nobody"), "--users, got `nobody`"),
        (("similar", space, events, "--users", ","), "--users, got none"),
        (("similar", space, events, "--users", "u1", "--top", 0), "--top of at least 1"),
        (("similar", space, events, "--users", "u000", "--unlike", "u000"), "in both"),
        ((*adapt, tables / "three.csv", out), "got 3 (a, b, c)", "positive"),
        ((*adapt, tables / "three.csv", out, "--positive", "d"), "`d` among them"),
        ((*adapt, tables / "few.csv", out), "at least 4 users with label"),
        ((*adapt, tables / "strangers.csv", out), "the labels name `x`"),
        ((*adapt, tables / "split.csv", out), "got `maybe`"),
        ((*adapt, labels, out, "--label", "lable"), "did you mean `label`"),
        ((*adapt, labels, out, "--methods", "prob"), "did you mean `probe`"),
        ((*adapt, labels, out, "--methods", "centroids"), "that can be served"),
        ((*adapt, labels, labels), "would be replaced"),
        (("benchmark", "x", "--small", "--sets", "mars", "--results", out), "got `mars`"),
        (("benchmark", "x", "--space", space, "--steps", 3, "--results", out), "got both"),
        (("benchmark", "x", "--seeds", 0, "--results", out), "--seeds of at least 1"),
        ((*plan, "--budget", 0), "budget, a whole number of at least 1"),
        ((*plan, "--budget", 5, "--explore", 10), "--explore from 0 to 1", "write 0.1"),
        ((*plan, "--budget", 5, "--out", folder / "list.txt"), ".csv, .jsonl, .parquet"),
        ((*plan, "--budget", 5, "--as-of", "1960-01-01"), "users with an event by the instant"),
        ((*plan, "--budget", 5, "--candidates", tables / "empty.csv", "--user", "who"), "`who`"),
        (("target", "answer", folder / "state.parquet", "--users", "u000"), "begins one"),
        (("target", "answer", labels, "--users", "u000"), "expected a campaign saved at"),
        (("target", "answer", folder / "state.parquet"), "or --users, and not both"),
        (("target", "report", folder / "state.parquet", out), "begins one"),
        (("target", "simulate", "--seeds", 0), "--seeds of at least 1"),
    ]  # fmt: skip


def test_what_cannot_be_is_said_in_one_line_and_nothing_is_written(
    foundation, here, space, tmp_path
):
    cases = spoiled(here, space, tmp_path)
    before = sorted(tmp_path.rglob("*")), space.read_bytes(), (here / "events.csv").read_bytes()
    for arguments, *words in cases:
        assert_one_line(foundation(*arguments), *words)
    after = sorted(tmp_path.rglob("*")), space.read_bytes(), (here / "events.csv").read_bytes()
    assert before == after


def test_without_torch_what_needs_it_names_the_install_line(
    foundation, here, space, tmp_path, monkeypatch
):
    monkeypatch.setitem(sys.modules, "torch", None)
    for command in (
        ("pretrain", here / "events.csv", tmp_path / "s"),
        ("embed", space, here / "events.csv", tmp_path / "v"),
        ("adapt", space, here / "events.csv", here / "labels.csv", tmp_path / "m"),
    ):
        assert_one_line(foundation(*command), "chopmark[deep]")
    assert foundation("tokens", here / "events.csv")[0] == 0
    state = tmp_path / "c.parquet"
    assert foundation("target", "plan", state, here / "events.csv", "--budget", 3)[0] == 0

import json

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chopmark.datasets.rhythm import rhythm
from chopmark.datasets.sequences import SequenceData, Task
from chopmark.errors import InvalidInput, StoreError
from chopmark.foundation.candidates import METHODS, Training
from chopmark.foundation.suite import CHOSEN, _Runner, read_results, run_suite
from chopmark.foundation.suitetasks import SuiteSet, TaskRows, budgeted, rows_of, suite_sets
from chopmark.foundation.usermodel import UserModel
from chopmark.histories import Histories
from chopmark.report.suitepage import write_suite_report
from chopmark.sequence.shape import Shape
from chopmark.sequence.training import Pace

FEW = ("positives only", "centroids")


def candidate(**options):
    shape = Shape(width=8, depth=1, length=64)
    return UserModel(shape=shape, pace=Pace(steps=8, rate=3e-3), budget=1_024, **options)


def timed(num_users=120):
    return [SuiteSet("rhythm_age", lambda: rhythm(num_users, seed=1))]


def run(path, **options):
    options = {"name": "mixed", "sets": timed(), "methods": FEW, "budgets": (40,),
               "seeds": (0,)} | options  # fmt: skip
    return run_suite(candidate(), path, **options)


def test_one_command_takes_a_candidate_through_all_and_draws_it(tmp_path):
    path, told = tmp_path / "results.jsonl", []
    options = {"name": "pairs", "small": True, "seeds": (0,), "budgets": (50,)}
    model = candidate(task="pairs")
    found = run_suite(model, path, **options, on_progress=lambda *now: told.append(now))
    assert [now[0] for now in told] == [
        "exchange_segments, seed 0", "exchange_payments, seed 0", "rhythm_age, seed 0", "",
    ]  # fmt: skip
    cells = found.group_by("task", "budget", "seed").agg(pl.col("method"))
    assert all(set(methods) == {*METHODS, CHOSEN} for methods in cells["method"])
    assert set(found["kind"]) == {"binary", "classes"}
    assert set(found["budget"]) == {"50"}
    figures = found.select("roc_auc", "pr_auc", "calibration_error")
    assert figures.null_count().sum_horizontal().item() == 0
    assert figures.select((pl.all() >= 0) & (pl.all() <= 1)).to_numpy().all()
    assert (found["log_loss"] >= 0).all()
    # Written down, and used for nothing.
    assert set(found["pretext"]) == {"pairs"}
    assert found["pretext_loss"].is_finite().all()
    assert (found["pretrain_seconds"] > 0).all()
    assert (found["peak_mib"] > 10).all()
    before = path.read_bytes()
    assert before.count(b"\n") == found.height
    again = run_suite(model, path, **options)
    assert path.read_bytes() == before
    assert again.equals(found)
    report = write_suite_report(found, tmp_path / "suite.html")
    assert report.candidate == "pairs"
    assert report.comparison is None
    page = (tmp_path / "suite.html").read_text()
    assert page.count("<circle") >= 4 * len(METHODS)


def test_what_was_chosen_has_the_figures_of_its_use(tmp_path):
    found = run(tmp_path / "results.jsonl")
    lines = {row["method"]: row for row in found.to_dicts()}
    use = lines[CHOSEN]["use"]
    assert use in FEW
    assert lines[CHOSEN]["roc_auc"] == lines[use]["roc_auc"]


def test_a_cut_line_is_run_again_and_the_others_are_not(tmp_path):
    path = tmp_path / "results.jsonl"
    found = run(path)
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join(lines[:2]) + b"\n" + lines[2][:40])
    assert read_results(path).height == 2
    again = run(path)
    same = [name for name in found.columns if "seconds" not in name and name != "peak_mib"]
    assert again.select(same).equals(found.select(same))
    assert path.read_bytes().startswith(b"\n".join(lines[:2]) + b"\n")
    assert read_results(path).height == found.height


def test_a_new_seed_is_added_and_again_runs_all(tmp_path):
    path = tmp_path / "results.jsonl"
    run(path)
    two = run(path, seeds=(0, 1))
    assert two["seed"].unique().sort().to_list() == [0, 1]
    assert path.read_text().count("\n") == 6
    once_more = run(path, seeds=(0, 1), again=True)
    assert path.read_text().count("\n") == 12
    assert once_more.height == 6


def test_one_name_stands_for_one_candidate(tmp_path):
    path = tmp_path / "results.jsonl"
    run(path)
    with pytest.raises(InvalidInput, match="other settings"):
        run_suite(candidate(task="pairs"), path, name="mixed", sets=timed(), methods=FEW)
    run_suite(candidate(task="pairs"), path, name="pairs", sets=timed(), methods=FEW,
              budgets=(40,), seeds=(0,))  # fmt: skip
    assert read_results(path)["candidate"].unique().sort().to_list() == ["mixed", "pairs"]


def test_a_saved_model_is_used_as_it_is(tmp_path):
    model = candidate().fit(Histories.from_frame(rhythm(60).events))
    model.save(tmp_path / "model.chopmark")
    path = tmp_path / "results.jsonl"
    found = run_suite(tmp_path / "model.chopmark", path, name="saved", sets=timed(),
                      methods=FEW, budgets=(40,), seeds=(0,))  # fmt: skip
    assert (found["pretrain_seconds"] == 0).all()
    assert json.loads(path.read_text().split("\n")[0])["settings"]["space"] == model.space


def later_events():
    """One user a row; who is in test does what nobody did before."""
    day = 86_400_000_000
    users = np.arange(90)
    split = np.repeat(["train", "valid", "test"], 30)
    at = np.repeat([10, 20, 30], 30) * day
    frames = [
        pl.DataFrame({"user": users, "happened_at": at - step * day,
                      "type": [("new" if part == "test" else "old") + str(step)
                               for part in split]})
        for step in range(3)
    ]  # fmt: skip
    instant = pl.Datetime("us", "UTC")
    labels = pl.DataFrame({"user": users, "as_of": at, "y": users % 2, "split": split})
    return SequenceData(
        "late",
        pl.concat(frames).with_columns(pl.col("happened_at").cast(instant)),
        labels.with_columns(pl.col("as_of").cast(instant)),
        (Task("late", "y"),),
    )


def test_pre_training_sees_nothing_that_came_after_the_rows_of_train(tmp_path):
    data = later_events()
    tasks = {"late": rows_of(data, data.tasks[0])}
    runner = _Runner(candidate(), "a", tmp_path / "r.jsonl", FEW, (None,), Training(), False)
    model, _ = runner._fitted(data.events, tasks, 0)
    known = json.dumps(model.tokenizer.to_dict())
    assert "old2" in known
    assert "new" not in known


def told_of(days_of, labels, tmp_path):
    """Types of events that a candidate saw in pre-training: `d<user>.<day>`."""
    instant = pl.Datetime("us", "UTC")
    day = 86_400_000_000
    events = pl.DataFrame(
        [(user, day * at, f"d{user}.{at}") for user, days in days_of.items() for at in days]
        * 30,  # rare types have no word
        schema=["user", "happened_at", "type"],
        orient="row",
    ).with_columns(pl.col("happened_at").cast(instant))
    rows = pl.DataFrame(
        [(user, day * at, 1, task, split) for user, at, task, split in labels],
        schema=["user", "as_of", "label", "task", "split"],
        orient="row",
    ).with_columns(pl.col("as_of").cast(instant))
    tasks = {
        str(name): TaskRows(Task(str(name), "label"), part, part["label"].to_numpy(), ("0", "1"))
        for (name,), part in rows.group_by("task", maintain_order=True)
    }
    runner = _Runner(candidate(), "a", tmp_path / "r.jsonl", FEW, (None,), Training(), False)
    model, _ = runner._fitted(events, tasks, 0)
    words = json.dumps(model.tokenizer.to_dict())
    return {f"{user}.{at}" for user, days in days_of.items() for at in days
            if f'"d{user}.{at}"' in words}  # fmt: skip


def test_of_users_who_judge_pre_training_sees_nothing_after_their_first_row(tmp_path):
    days_of = {user: range(1, 6) for user in (1, 2, 3, 4)}
    labels = [
        (1, 4, "one", "train"),
        (2, 2, "one", "test"), (2, 4, "one", "test"),
        (3, 3, "one", "valid"),
        # Who is learned from in one task may be judged by in another.
        (4, 1, "one", "train"), (4, 1, "two", "test"), (1, 4, "two", "train"),
    ]  # fmt: skip
    seen = told_of(days_of, labels, tmp_path)
    wanted = {1: range(1, 5), 2: (1, 2), 3: (1, 2, 3), 4: (1,)}
    assert seen == {f"{user}.{at}" for user, days in wanted.items() for at in days}


def test_pre_training_for_several_tasks_ends_where_the_first_of_them_does(tmp_path):
    labels = [(1, 2, "one", "train"), (1, 5, "two", "train"), (2, 6, "one", "test"),
              (2, 3, "none", "valid")]  # fmt: skip
    seen = told_of({1: range(1, 6), 2: range(1, 6)}, labels, tmp_path)
    assert seen == {"1.1", "1.2", "2.1", "2.2"}


def test_a_draw_of_one_class_is_left_out(tmp_path):
    data = later_events()
    same = SequenceData("late", data.events, data.labels.with_columns(y=pl.lit(0)), data.tasks)
    with pytest.raises(InvalidInput, match="two classes"):
        run(tmp_path / "results.jsonl", sets=[SuiteSet("late", lambda: same)])


def many(num_rows, share, seed):
    rng = np.random.default_rng(seed)
    frame = pl.DataFrame({"split": rng.choice(["train", "valid", "test"], num_rows).tolist()})
    codes = (rng.random(num_rows) < share).astype(np.int64)
    return TaskRows(Task("t", "y"), frame, codes, ("0", "1"))


@settings(max_examples=50, deadline=None)
@given(
    st.integers(30, 3_000),
    st.sampled_from([0.002, 0.1, 0.5]),
    st.sampled_from([20, 50, 200, 1_000, None]),
    st.integers(0, 99),
)
def test_a_budget_is_kept_and_rare_ones_are_among_it(num_rows, share, budget, seed):
    rows = many(num_rows, share, seed)
    learn, choose = budgeted(rows, budget, seed=seed)
    train, valid = rows.split("train"), rows.split("valid")
    assert np.isin(learn, train).all()
    assert np.isin(choose, valid).all()
    assert len(np.unique(learn)) == len(learn)
    if budget is None or budget >= len(train) + len(valid):
        assert (len(learn), len(choose)) == (len(train), len(valid))
        return
    assert len(learn) + len(choose) <= budget
    for drawn, pool, least in ((learn, train, 5), (choose, valid, 2)):
        for code in (0, 1):
            there = int((rows.codes[pool] == code).sum())
            assert (rows.codes[drawn] == code).sum() >= min(there, least)
    again = budgeted(rows, budget, seed=seed)
    assert np.array_equal(learn, again[0])


def test_classes_are_codes_and_one_that_train_lacks_is_left_out():
    data = later_events()
    told = data.labels.with_columns(
        y=pl.when(pl.col("user") == 89).then(pl.lit("rare")).when(pl.col("user") % 2 == 0)
        .then(pl.lit("b")).otherwise(pl.lit("a"))
    )  # fmt: skip
    several = SequenceData("late", data.events, told, (Task("late", "y", "classes"),))
    rows = rows_of(several, several.tasks[0])
    assert rows.classes == ("a", "b")
    assert len(rows.codes) == 89
    assert rows.codes[:4].tolist() == [1, 0, 1, 0]
    fewer = rows_of(several, several.tasks[0], most=10)
    assert [len(fewer.split(name)) for name in ("train", "valid", "test")] == [10, 10, 10]


def test_public_sets_are_taken_where_the_folder_has_them(tmp_path, monkeypatch):
    monkeypatch.delenv("CHOPMARK_DATA", raising=False)
    made = [one.name for one in suite_sets()]
    assert "exchange_clicks" in made
    assert "rhythm_returns" in made
    (tmp_path / "sequence" / "cdnow").mkdir(parents=True)
    assert [one.name for one in suite_sets(tmp_path)] == ["cdnow", *made]


def test_a_file_that_holds_no_results_is_said(tmp_path):
    with pytest.raises(StoreError, match="cannot read"):
        read_results(tmp_path / "none.jsonl")
    (tmp_path / "other.jsonl").write_text('{"a": 1}\n')
    with pytest.raises(StoreError, match="line 1"):
        read_results(tmp_path / "other.jsonl")
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(StoreError, match="run the suite first"):
        read_results(tmp_path / "empty.jsonl")

import re

import numpy as np
import polars as pl
import pytest

from chopmark.errors import InvalidInput, InvalidTable
from chopmark.report.suite import best_uses, claims, compare, interval, ranked, runs
from chopmark.report.suitepage import write_suite_report

METHODS = ("positives only", "centroids", "probe", "trees", "fine-tuned", "chosen")
BASE = dict(zip(METHODS, (0.70, 0.74, 0.78, 0.80, 0.79, 0.80), strict=True))


def results(name, *, gains=None, seed=0, tasks=6, noise=0.002, pretext="pairs", version="1.0"):
    """Results of a candidate whose ROC-AUC is that of the base, the gains and some noise."""
    rng = np.random.default_rng(seed)
    gains = gains or {}
    return pl.DataFrame(
        [
            {
                "suite": 1,
                "candidate": name,
                "version": version,
                "set": f"set{task}",
                "task": f"set{task}/y",
                "kind": "binary",
                "budget": budget,
                "seed": draw,
                "method": method,
                "use": "trees" if method == "chosen" else method,
                "roc_auc": BASE[method]
                + 0.01 * task
                + gains.get(method, gains.get((f"set{task}/y", method), 0.0))
                + noise * rng.normal(),
                "pr_auc": 0.3,
                "log_loss": 0.5,
                "calibration_error": 0.02,
                "num_test": 500,
                "positives": 0.25,
                "seconds": 1.0,
                "pretext": pretext,
                "pretext_loss": 2.0 + 0.1 * rng.normal(),
                "pretrain_seconds": 10.0,
                "embed_seconds": 0.5,
                "num_embedded": 1_000,
                "peak_mib": 300.0,
            }
            for task in range(tasks)
            for budget in ("50", "1000", "all")
            for draw in range(3)
            for method in METHODS
        ]
    )


def test_a_drop_is_found_where_it_is_and_nowhere_else():
    drop = {("set3/y", "trees"): -0.02}
    both = pl.concat([results("old"), results("new", gains=drop, seed=1)])
    found = compare(both, baseline="old")
    assert (found.candidate, found.baseline) == ("new", "old")
    assert [(gain.task, gain.method) for gain in found.regressions] == [("set3/y", "trees")]
    worst = found.regressions[0]
    assert worst.num_cells == 9
    assert worst.gain.value == pytest.approx(-0.02, abs=0.004)
    assert worst.after - worst.before == pytest.approx(worst.gain.value)


def test_a_drop_everywhere_is_a_regression_of_the_method():
    both = pl.concat([results("old"), results("new", gains={"probe": -0.01}, seed=1)])
    found = compare(both, baseline="old")
    assert ("", "probe") in [(gain.task, gain.method) for gain in found.regressions]
    assert {gain.method for gain in found.regressions} == {"probe"}
    turned = compare(both, baseline="new", candidate="old")
    assert not turned.regressions
    assert [g.method for g in turned.overall if g.verdict == "better"] == ["probe"]


def test_equal_results_have_no_regression():
    one = results("old")
    two = one.with_columns(candidate=pl.lit("new"))
    found = compare(pl.concat([one, two]), baseline="old")
    assert {gain.verdict for gain in (*found.overall, *found.tasks)} == {"no difference"}


def test_less_loss_is_a_gain():
    two = results("new").with_columns(log_loss=pl.lit(0.6))
    found = compare(pl.concat([results("old"), two]), baseline="old", metric="log_loss")
    assert len(found.regressions) == len(METHODS) * 7
    assert found.regressions[0].gain.value == pytest.approx(-0.1)


def test_only_cells_that_both_have_are_compared():
    old = results("old").filter(pl.col("task") != "set5/y")
    new = results("new").filter(pl.col("seed") == 0)
    found = compare(pl.concat([old, new]), baseline="old")
    assert {gain.num_cells for gain in found.overall} == {5 * 3}
    assert {gain.verdict for gain in found.tasks} == {"too few cells"}


def test_versions_of_a_candidate_are_told_apart():
    both = pl.concat([results("a"), results("a", version="2.0", gains={"trees": -0.05})])
    assert set(runs(both)["run"]) == {"a@1.0", "a@2.0"}
    found = compare(both, baseline="a@1.0")
    assert ("", "trees") in [(gain.task, gain.method) for gain in found.regressions]
    assert set(runs(results("a"))["run"]) == {"a"}


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    for num_tasks in (2, 3, 5, 10):
        held = 0
        for seed in range(400):
            rng = np.random.default_rng((seed, num_tasks))
            groups = [
                0.01 + 0.02 * rng.normal() + 0.01 * rng.normal(size=6) for _ in range(num_tasks)
            ]
            found = interval(groups, level=0.95)
            held += found.low <= 0.01 <= found.high
        assert 0.92 <= held / 400 <= 0.98


def test_methods_are_ranked_on_cells_that_all_have():
    one = results("a", noise=0.0)
    hard = (pl.col("task") == "set0/y") & (pl.col("method") == "centroids")
    ranks = ranked(one.filter(~hard))
    assert set(ranks["cells"]) == {5 * 9}
    by_rank = dict(zip(ranks["method"], ranks["rank"], strict=True))
    assert by_rank == {"trees": 1.5, "chosen": 1.5, "fine-tuned": 3.0, "probe": 4.0,
                       "centroids": 5.0, "positives only": 6.0}  # fmt: skip
    assert ranks["first"].to_list()[:2] == [45, 45]


def judged(frame):
    return {claim.text.split()[0]: claim for claim in claims(frame)}


def test_claims_are_judged_by_the_figures():
    masked = {"centroids": -0.03, "probe": -0.03, "trees": -0.03}
    both = pl.concat([results("p"), results("m", gains=masked, pretext="masked", seed=2)])
    found = judged(both)
    assert found["Pair"].judgement == "reproduced"
    assert "+3.0" in found["Pair"].told
    assert judged(results("p"))["Of"].judgement == "refuted"  # by the trees
    assert found["Zero-shot,"].judgement == "reproduced"
    better = dict.fromkeys(masked, 0.03)
    found = judged(pl.concat([results("p"), results("m", gains=better, pretext="bert")]))
    assert found["Pair"].judgement == "refuted"
    assert found["Of"].judgement == "refuted"
    found = judged(results("p", gains={"fine-tuned": 0.05, "centroids": -0.08}))
    assert found["Pair"].judgement == "not measured"
    assert found["Of"].judgement == "reproduced"
    assert "6 of 6" in found["Of"].told
    assert found["Zero-shot,"].judgement == "refuted"


def test_the_best_of_three_uses_is_named_by_task():
    uses = best_uses(results("p", gains={("set2/y", "fine-tuned"): 0.1}))
    assert uses.filter(pl.col("task") == "set2/y")["best"].item() == "fine-tuned"
    assert set(uses.filter(pl.col("task") != "set2/y")["best"]) == {"static"}


def test_the_page_says_in_words_what_became_worse(tmp_path):
    drop = {("set3/y", "trees"): -0.02}
    both = pl.concat([results("old"), results("<b>new", gains=drop, seed=1)])
    report = write_suite_report(both, tmp_path / "suite.html")
    page = (tmp_path / "suite.html").read_text()
    assert report.candidate == "<b>new"
    assert "worse than old in 1 place." in report.headline
    assert '<strong class="bad">worse</strong>' in page
    assert "<b>new" not in page
    assert "&lt;b&gt;new" in page
    assert "http" not in re.sub(r"http-equiv", "", page)
    assert page.count('<svg class="chart"') == 6
    assert page.count("<polyline") == 6 * (len(METHODS) - 1)
    write_suite_report(both, tmp_path / "again.html")
    assert (tmp_path / "again.html").read_text() == page


def test_of_rare_positives_the_precision_is_drawn_too(tmp_path):
    rare = pl.when(pl.col("task") == "set0/y").then(0.01).otherwise(0.4)
    write_suite_report(results("a").with_columns(positives=rare), tmp_path / "suite.html")
    page = (tmp_path / "suite.html").read_text()
    assert page.count('<svg class="chart"') == 6 + 1
    assert (
        page.count("PR-AUC by number of labels")
        == page.count("PR-AUC by number of labels: set0/y")
        > 0
    )


def test_the_page_of_one_candidate_compares_nothing(tmp_path):
    report = write_suite_report(results("a"), tmp_path / "suite.html")
    assert report.comparison is None
    assert "regression" not in (tmp_path / "suite.html").read_text()


def test_a_task_without_both_classes_has_no_chart(tmp_path):
    none = pl.when(pl.col("task") != "set0/y").then(pl.col("roc_auc"))
    write_suite_report(results("a").with_columns(roc_auc=none), tmp_path / "suite.html")
    page = (tmp_path / "suite.html").read_text()
    assert "No ROC-AUC" in page
    assert page.count('<svg class="chart"') == 5


def test_what_cannot_be_compared_is_said(tmp_path):
    both = pl.concat([results("old"), results("new")])
    with pytest.raises(InvalidInput, match="did you mean"):
        compare(both, baseline="oldd", candidate="new")
    with pytest.raises(InvalidInput, match="expected the candidate"):
        compare(results("old"), baseline="old")
    with pytest.raises(InvalidInput, match="expected a metric"):
        compare(both, baseline="old", metric="f1")
    apart = pl.concat([results("old", tasks=1), results("new").filter(pl.col("set") != "set0")])
    with pytest.raises(InvalidInput, match="a cell in common"):
        compare(apart, baseline="old")
    with pytest.raises(InvalidTable, match="column `seed`"):
        compare(both.drop("seed"), baseline="old")
    with pytest.raises(InvalidTable, match="no row"):
        claims(both.head(0))
    with pytest.raises(InvalidInput, match="with results"):
        write_suite_report(both, tmp_path / "suite.html", candidate="other")

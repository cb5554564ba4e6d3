"""Few labels: every use of a user model with an eighth, 200, 1,000 and all labels of each task.

    python benchmarks/sequence/labels.py                    what is missing (an hour or more)
    python benchmarks/sequence/labels.py --sets cdnow --seeds 0
    python benchmarks/sequence/labels.py --report           the tables alone; nothing is run
    python benchmarks/sequence/labels.py --judge valid      to find a recipe by

On each set one user model of the usual shape is pre-trained on what was known before the first
row that is judged (as in `foundation.suite`) and kept in build/benchmarks. Then, for each task,
number of labels and seed (a draw of labels), `foundation.choose` fits the uses, chooses one, and
all are judged on the rows of test. Labels count those to choose by; with up to 1,000 of them
`choose` is given no rows to choose by, and cross-validates.

What is asked: that the chosen one with an eighth of the labels is as good as aggregates and
LightGBM with all, and that fine-tuning does not lose to the frozen embedding from 200 labels on.

Recipes are found with `--judge valid`: the rows of train are parted then, and rows of valid
judge. Seed 0 was seen while they were made, so seeds 1 and 2 are the usual ones.

Each cell is a line in build/benchmarks/labels.jsonl; what is there already is not run again, and
of two the later one counts. Sets are `sequence/*` in the folder that CHOPMARK_DATA names, or in
../shared/data.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from time import perf_counter
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from machine import BUILD, number, one_core, parser, progress, report, table
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
RESULTS = BUILD / "labels.jsonl"
TASKS = {
    "cdnow": ("repeat",),
    "dunnhumby_cj": ("redeem_q4", "income_ge50k", "has_kids"),
    "physionet2012": ("death",),
    "bitcoin_otc": ("scam_later",),
    "exchange_clicks": ("clicks",),
    "exchange_segments": ("cohort", "taste"),
}
METHODS = ("centroids", "probe", "aggregates", "trees", "trees and aggregates", "fine-tuned")
SHOWN = ("probe", "trees", "trees and aggregates", "fine-tuned", "aggregates", "chosen")
FROZEN = ("probe", "trees")
BUDGETS = ("eighth", "200", "1000", "all")
LEAST = 200
"""Labels from which on fine-tuning must not lose."""
FEW = 1_000
"""Labels up to which `choose` is given no rows to choose by, and cross-validates."""
MOST_ROWS = 6_000
"""Rows of a split at most."""
STEPS = {"pretrain": 300, "fine": 120}

Row = dict[str, Any]
Rows = NDArray[np.int64]


def main() -> None:
    """Run what is missing, and print all."""
    arguments = parser(__doc__)
    arguments.add_argument("--sets", nargs="+", choices=TASKS, default=list(TASKS), metavar="SET")
    arguments.add_argument("--budgets", nargs="+", choices=BUDGETS, default=list(BUDGETS))
    arguments.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    arguments.add_argument("--judge", choices=["test", "valid"], default="test")
    arguments.add_argument("--name", default="", help="of a recipe, to tell its lines apart")
    arguments.add_argument("--methods", nargs="+", default=list(METHODS))
    arguments.add_argument("--report", action="store_true", help="print the tables, run nothing")
    given = arguments.parse_args()
    env = one_core()
    if not env.items() <= os.environ.items():
        # Libraries read it when they are imported, so begin anew.
        os.execve(sys.executable, [sys.executable, *sys.argv], env)
    with report("Few labels"):
        if not given.report:
            for name in given.sets:
                run(name, given)
        show([row for row in read() if row["name"] == given.name and row["judge"] == given.judge])


# --- running


def run(name: str, given: argparse.Namespace) -> None:
    """All missing cells of a set."""
    import torch

    from chopmark.foundation import UserModel
    from chopmark.foundation.candidates import Views
    from chopmark.foundation.suite import _known_then, _numbers
    from chopmark.foundation.suitetasks import rows_of, suite_sets
    from chopmark.histories import Aggregates, Histories
    from chopmark.sequence import Pace

    torch.set_num_threads(1)
    there = {key(row) for row in read()}
    missing = [
        cell
        for task in TASKS[name]
        for seed in given.seeds
        for budget in given.budgets
        if (cell := (given.name, given.judge, f"{name}/{task}", budget, seed)) not in there
    ]
    if not missing:
        return
    folder = os.environ.get("CHOPMARK_DATA", ROOT.parent / "shared" / "data")
    data = next(one for one in suite_sets(folder) if one.name == name).load()
    tasks = {t.name: rows_of(data, t, most=MOST_ROWS) for t in data.tasks if t.name in TASKS[name]}
    path = BUILD / f"labels-{name}-{STEPS['pretrain']}.chopmark"
    if not path.exists():
        began = perf_counter()
        known, until = _known_then(data.events, [rows.frame for rows in tasks.values()])
        pace = Pace(steps=STEPS["pretrain"], rate=3e-3)
        UserModel(pace=pace).fit(Histories.from_frame(known, until=until)).save(path)
        progress(f"{name}: pre-trained in {perf_counter() - began:.0f} s")
    model = UserModel.load(path)
    histories = Histories.from_frame(data.events)
    for task, rows in tasks.items():
        cells = [cell for cell in missing if cell[2] == f"{name}/{task}"]
        if not cells:
            continue
        pieces = histories.slices(rows.frame["user"], rows.frame["as_of"])
        views = Views.of(
            model,
            pieces,
            aggregates=Aggregates().fit(pieces[rows.split("train")]),
            features=_numbers(data.profile, rows.frame),
        )
        for cell in cells:
            began = perf_counter()
            row = judged_cell(model, views, rows, cell, given.methods)
            row["seconds"] = round(perf_counter() - began, 1)
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
            told = {method: round(row["roc_auc"][method], 3) for method in row["roc_auc"]}
            progress(f"{cell[2]} {cell[3]} {cell[4]} ({row['seconds']} s): {told}, {row['use']}")


def judged_cell(model: Any, views: Any, rows: Any, cell: Any, methods: list[str]) -> Row:
    """The line of one task, number of labels and seed."""
    from chopmark.foundation import Training, choose
    from chopmark.foundation.chances import judged
    from chopmark.foundation.suitetasks import budgeted
    from chopmark.models.splits import stratified
    from chopmark.sequence import Pace

    name, judge, task, budget, seed = cell
    parted, test = rows, rows.split("test")
    if judge == "valid":
        # As if there were no rows of test: valid judges, and a fifth of train chooses.
        train, test = rows.split("train"), rows.split("valid")
        apart = train[stratified(rows.codes[train].astype(np.float64), test_share=0.2, seed=9).test]
        parted = _Parted(rows, {"train": np.setdiff1d(train, apart), "valid": apart})
    num_all = len(parted.split("train")) + len(parted.split("valid"))
    count = {"eighth": num_all // 8, "all": num_all}.get(budget) or int(budget)
    train, valid = budgeted(parted, count, seed=seed)
    both = np.concatenate([train, valid])
    held = 0.2 if len(both) <= FEW else np.arange(len(train), len(both))
    uses = choose(
        model,
        views[both],
        rows.codes[both],
        valid=held,
        methods=methods,
        training=Training(fine=Pace(steps=STEPS["fine"], rate=3e-4)),
        seed=seed,
    )
    truth, seen = rows.codes[test], views[test]
    areas = {}
    for method in (*(name for name in uses.figures if name != "blend"), "chosen"):
        scores = uses.score(seen, method=uses.chosen if method == "chosen" else method)
        chances = scores if scores.ndim == 2 else np.column_stack([1.0 - scores, scores])
        areas[method] = judged(truth, chances)["roc_auc"]
    return {
        "name": name,
        "judge": judge,
        "task": task,
        "budget": budget,
        "seed": seed,
        "labels": len(both),
        "all": num_all,
        "use": " + ".join(uses.parts),
        "roc_auc": areas,
        "valid": {method: told["roc_auc"] for method, told in uses.figures.items()},
        "spent": {method: told["seconds"] for method, told in uses.figures.items()},
    }


class _Parted:
    """Rows of a task, otherwise parted."""

    def __init__(self, rows: Any, splits: dict[str, Rows]) -> None:
        self.codes, self._splits = rows.codes, splits

    def split(self, name: str) -> Rows:
        return self._splits[name]


def read() -> list[Row]:
    """The last line of each cell."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    return list({key(row): row for row in map(json.loads, lines)}.values())


def key(row: Row) -> tuple[Any, ...]:
    """What a line is of."""
    return row["name"], row["judge"], row["task"], row["budget"], row["seed"]


# --- showing


def show(rows: list[Row]) -> None:
    """Tables of all lines."""
    if not rows:
        print("nothing was run")
        return
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        for budget in BUDGETS:
            own = [row for row in rows if row["task"] == task and row["budget"] == budget]
            if own:
                means = (np.mean([row["roc_auc"][name] for row in own]) for name in SHOWN)
                uses = ", ".join(dict.fromkeys(row["use"] for row in own))
                figures = [f"{mean:.3f}" for mean in means]
                lines.append([task, budget, own[0]["labels"], len(own), *figures, uses])
    table(["task", "labels", "number", "seeds", *SHOWN, "which was chosen"], lines)
    _show_eighth(rows)
    _show_fine(rows)


def _show_eighth(rows: list[Row]) -> None:
    found = {}
    for task in dict.fromkeys(row["task"] for row in rows):
        few = [r["roc_auc"]["chosen"] for r in rows if (r["task"], r["budget"]) == (task, "eighth")]
        every = [
            r["roc_auc"]["aggregates"] for r in rows if (r["task"], r["budget"]) == (task, "all")
        ]
        if few and every:
            found[task] = 100.0 * float(np.mean(few) - np.mean(every))
    if found:
        print("Chosen with an eighth of the labels, less aggregates with all, ROC-AUC points:\n")
        table(["task", "points"], [[task, f"{gain:+.2f}"] for task, gain in found.items()])
        print(f"mean {_told(found.values())} over {len(found)} tasks\n")


def _show_fine(rows: list[Row]) -> None:
    print(f"Fine-tuned less frozen, from {LEAST} labels on, ROC-AUC points:\n")
    lines = []
    for budget in (*BUDGETS, None):
        own = [r for r in rows if r["labels"] >= LEAST and budget in (None, r["budget"])]
        if own:
            probe = [100.0 * (r["roc_auc"]["fine-tuned"] - r["roc_auc"]["probe"]) for r in own]
            best = [
                100.0 * (r["roc_auc"]["fine-tuned"] - max(r["roc_auc"][name] for name in FROZEN))
                for r in own
            ]
            lost = sum(gain < -0.5 for gain in probe)
            lines.append(
                [
                    budget or "together",
                    len(own),
                    _told(probe),
                    f"{min(probe):+.2f}",
                    lost,
                    _told(best),
                ]
            )
    table(
        [
            "labels",
            "cells",
            "less probe",
            "worst cell",
            "below by over 0.5",
            "less the best of frozen on test",
        ],
        lines,
    )


def _told(values: Iterable[float]) -> str:
    """Mean and deviation."""
    found = np.array(list(values))
    return f"{found.mean():+.2f} ({number(float(found.std()))})"


if __name__ == "__main__":
    main()

"""The benchmark suite: one candidate through all tasks, budgets and seeds, and all is kept.

    run_suite(UserModel(task="pairs"), "results.jsonl", name="pairs")
    run_suite("saved.chopmark", "results.jsonl", name="saved")
    write_suite_report(read_results("results.jsonl"), "suite.html")   # chopmark.report.suitepage

On each set the candidate is pre-trained without labels, on what was known when the last row of
train was asked for, and of the users of other rows nothing that came after these; then every use
of `foundation.uses` is fitted with few and with many labels and judged on the rows of test. A
result is one line of JSON, appended at once and never overwritten; what is there already is not
run again. The loss of the pretext is written down beside the figures and decides nothing (row
G21). Serves G18 to G21 of the requirements.
"""

import json
import os
import resource
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any, TypeAlias

import numpy as np
import polars as pl

from chopmark.errors import InvalidInput, StoreError
from chopmark.foundation.candidates import METHODS, Training, Views
from chopmark.foundation.chances import judged
from chopmark.foundation.suitetasks import SuiteSet, TaskRows, budgeted, rows_of, suite_sets
from chopmark.foundation.usermodel import UserModel
from chopmark.foundation.uses import Uses, choose
from chopmark.histories import Aggregates, Histories
from chopmark.sequence.training import Pace

SUITE = 2
"""Version of the suite: results of different ones do not compare."""

BUDGETS: tuple[int | None, ...] = (50, 200, 1_000, None)
"""Labels, to learn from and to choose by; None: all."""

CHOSEN = "chosen"
"""The method that stands for "what validation chose"."""

_FIRST = " first"  # no column of events is called so
_SMALL_BUDGETS: tuple[int | None, ...] = (50, None)
_SMALL_TRAINING = Training(
    fine=Pace(steps=24, rate=3e-4), scratch=Pace(steps=24, rate=1e-3), epochs=2.0
)

Told: TypeAlias = Callable[[str, int, int], None]
"""Called with what comes, how many cells are done, and how many there are."""

_Key: TypeAlias = tuple[str, str, str]  # of a cell: task, budget, seed


def run_suite(
    candidate: UserModel | str | Path,
    path: str | Path,
    *,
    name: str,
    sets: Sequence[SuiteSet] | None = None,
    folder: str | Path | None = None,
    methods: Sequence[str] = METHODS,
    budgets: Sequence[int | None] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    training: Training | None = None,
    small: bool = False,
    again: bool = False,
    on_progress: Told | None = None,
) -> pl.DataFrame:
    """Run a candidate through the suite, and give its results.

    Parameters
    ----------
    candidate
        An unfitted `UserModel`: its settings are used to pre-train one per set and seed. A
        fitted one, or the path of a saved one: used as it is on every set.
    path
        File of results, one JSON object a line; it is appended to.
    name
        Of the candidate, by which results are told apart.
    sets
        Some of `suite_sets()`, or own ones; all that there are if not given.
    folder
        Of the public sets.
    budgets
        Numbers of labels, None for all; a budget above what a task has is left out.
    seeds
        One pre-training and one draw of labels each.
    training
        How the uses train that train the network.
    small
        Small made sets, two budgets, hardly any training: shows that all works, says nothing.
    again
        Run also what the file has already.

    Returns
    -------
    The candidate's results of this version, as `read_results` gives them.

    Raises
    ------
    InvalidInput
        If the name was used for other settings (choose another name, or run `again`), or there
        is nothing to run.
    StoreError
        If the file cannot be read or written.
    """
    path = Path(path)
    chosen_sets = list(suite_sets(folder, small=small) if sets is None else sets)
    budgets = budgets or (_SMALL_BUDGETS if small else BUDGETS)
    training = training or (_SMALL_TRAINING if small else Training())
    runner = _Runner(candidate, name, path, tuple(methods), tuple(budgets), training, again)
    total = len(chosen_sets) * len(seeds)
    for done, one in enumerate(chosen_sets):
        runner.run(one, tuple(seeds), done * len(seeds), total, on_progress)
    if on_progress is not None:
        on_progress("", total, total)
    if not path.exists():
        raise InvalidInput(
            "expected a task with two classes among the rows to learn from and to choose by, got "
            f"none in {', '.join(one.name for one in chosen_sets) or 'no set'}; nothing was run"
        )
    found = read_results(path)
    own = (pl.col("candidate") == name) & (pl.col("version") == _version())
    return found.filter(own & (pl.col("suite") == SUITE))


def read_results(path: str | Path) -> pl.DataFrame:
    """All results of a file, one row for each; of two for the same thing, the later one.

    Columns: ``suite``, ``candidate``, ``version``, ``set``, ``task`` ("set/task"), ``kind``,
    ``budget`` (text: a number or "all"), ``seed``, ``method``, ``use`` (which one was chosen),
    ``roc_auc``, ``pr_auc``, ``log_loss``, ``calibration_error``, ``valid_roc_auc``, counts of
    rows, ``positives`` (share in test), ``seconds`` of fitting, ``pretrain_seconds``,
    ``embed_seconds``, ``peak_mib`` (of the process so far), ``pretext`` and ``pretext_loss``.

    Raises
    ------
    StoreError
        If the file is missing or empty, or a line is no result. A line that was cut by the end
        of a run is left out.
    """
    lines = _lines(Path(path))
    if not lines:
        raise StoreError(f"expected results in `{path}`, got none; run the suite first")
    latest = {(line["suite"], line["candidate"], line["version"], line["task"], line["budget"],
               line["seed"], line["method"]): line for line in lines}  # fmt: skip
    told = [{k: v for k, v in line.items() if k != "settings"} for line in latest.values()]
    return pl.DataFrame(told, infer_schema_length=None)


class _Runner:
    """One candidate on its way through the sets."""

    def __init__(
        self,
        candidate: UserModel | str | Path,
        name: str,
        path: Path,
        methods: tuple[str, ...],
        budgets: tuple[int | None, ...],
        training: Training,
        again: bool,
    ) -> None:
        self._candidate = (
            candidate if isinstance(candidate, UserModel) else UserModel.load(candidate)
        )
        self._name, self._path, self._methods = name, path, methods
        self._budgets, self._training = budgets, training
        self._settings = _settings(self._candidate, training)
        self._there: set[tuple[_Key, str]] = set()
        for line in _lines(path) if path.exists() else []:
            same = (line["suite"], line["candidate"], line["version"])
            if again or same != (SUITE, name, _version()):
                continue
            if line["settings"] != self._settings:
                raise InvalidInput(
                    f"the results in `{path}` of a candidate `{name}` were made with other "
                    "settings; choose another name, or run all again (again=True)"
                )
            key = (str(line["task"]), str(line["budget"]), str(line["seed"]))
            self._there.add((key, str(line["method"])))

    def run(
        self, one: SuiteSet, seeds: tuple[int, ...], done: int, total: int, told: Told | None
    ) -> None:
        data = one.load()
        tasks = {task.name: rows_of(data, task) for task in data.tasks}
        histories: Histories | None = None
        for place, seed in enumerate(seeds):
            if told is not None:
                told(f"{one.name}, seed {seed}", done + place, total)
            open_cells = [
                (task, budget)
                for task in tasks
                for budget in self._budgets
                if self._is_open(one, tasks[task], budget, seed)
            ]
            if not open_cells:
                continue
            if histories is None:
                histories = Histories.from_frame(data.events)
            model, spent = self._fitted(data.events, tasks, seed)
            for task in dict.fromkeys(task for task, _ in open_cells):
                budgets = [budget for own, budget in open_cells if own == task]
                self._task(one, data.profile, tasks[task], histories, model, spent, budgets, seed)

    def _is_open(self, one: SuiteSet, rows: TaskRows, budget: int | None, seed: int) -> bool:
        labels = len(rows.split("train")) + len(rows.split("valid"))
        if budget is not None and budget >= labels:
            return False
        # Of a set so small that a draw has one class, nothing can be learned or chosen.
        if any(len(np.unique(rows.codes[part])) < 2 for part in budgeted(rows, budget, seed=seed)):
            return False
        key = (f"{one.name}/{rows.task.name}", _budget(budget), str(seed))
        return any((key, method) not in self._there for method in (*self._methods, CHOSEN))

    def _fitted(
        self, events: pl.DataFrame, tasks: dict[str, TaskRows], seed: int
    ) -> tuple[UserModel, float]:
        """The candidate itself, or one with its settings, pre-trained on what was known then."""
        given = self._candidate
        if given.tower is not None:
            return given, 0.0
        known, until = _known_then(events, [rows.frame for rows in tasks.values()])
        begin = perf_counter()
        model = UserModel(
            shape=given.shape,
            task=given.task,
            pace=given.pace,
            window=given.window,
            budget=given.budget,
            seed=seed,
            options=given.options,
        ).fit(Histories.from_frame(known, until=until))
        return model, perf_counter() - begin

    def _task(
        self,
        one: SuiteSet,
        profile: pl.DataFrame | None,
        rows: TaskRows,
        histories: Histories,
        model: UserModel,
        pretrain_seconds: float,
        budgets: list[int | None],
        seed: int,
    ) -> None:
        pieces = histories.slices(rows.frame["user"], rows.frame["as_of"])
        aggregates = Aggregates().fit(pieces[rows.split("train")])
        model.embed(pieces[:1])  # what is compiled once is not counted
        begin = perf_counter()
        views = Views.of(
            model, pieces, aggregates=aggregates, features=_numbers(profile, rows.frame)
        )
        embed_seconds = perf_counter() - begin
        test = rows.split("test")
        for budget in budgets:
            train, valid = budgeted(rows, budget, seed=seed)
            both = np.concatenate([train, valid])
            uses = choose(
                model,
                views[both],
                rows.codes[both],
                valid=np.arange(len(train), len(both)),
                methods=self._methods,
                training=self._training,
                seed=seed,
            )
            common = {
                "suite": SUITE,
                "candidate": self._name,
                "version": _version(),
                "settings": self._settings,
                "set": one.name,
                "task": f"{one.name}/{rows.task.name}",
                "kind": rows.task.kind,
                "budget": _budget(budget),
                "seed": seed,
                "num_train": len(train),
                "num_valid": len(valid),
                "num_test": len(test),
                "positives": float((rows.codes[test] == 1).mean())
                if len(rows.classes) == 2
                else None,
                "pretext": model.training.get("task"),
                "pretext_loss": model.training.get("loss"),
                "pretrain_seconds": round(pretrain_seconds, 2),
                "embed_seconds": round(embed_seconds, 3),
                "num_embedded": len(pieces),
                "peak_mib": _peak_mib(),
            }
            key = (str(common["task"]), str(common["budget"]), str(seed))
            told = [{**common, **line} for line in _judged(uses, views[test], rows.codes[test])]
            _append(self._path, [x for x in told if (key, x["method"]) not in self._there])


def _known_then(
    events: pl.DataFrame, labels: Sequence[pl.DataFrame]
) -> tuple[pl.DataFrame, datetime]:
    """The events that one may pre-train on before any row of valid or test is seen.

    Parameters
    ----------
    events
        ``user``, ``happened_at``, and others.
    labels
        Of each task ``user``, ``as_of``, ``split``.

    Returns
    -------
    Events up to the last row of train, of several tasks up to the earliest of these; of a user
    with rows of valid or test, none later than the first of them in any task: what comes after
    it is what the row asks for. And the end of all.
    """
    ends = [one.filter(pl.col("split") == "train")["as_of"].max() for one in labels]
    until = min(end for end in ends if isinstance(end, datetime))
    every = pl.concat([one.select("user", "as_of", "split") for one in labels])
    others = every.filter(pl.col("split") != "train")
    first = others.group_by("user").agg(pl.col("as_of").min().alias(_FIRST))
    known = (
        events.join(first, on="user", how="left", maintain_order="left")
        .filter(pl.col("happened_at") <= pl.min_horizontal(_FIRST, pl.lit(until)))
        .drop(_FIRST)
    )
    return known, until


def _judged(uses: Uses, views: Views, codes: Any) -> Iterator[dict[str, Any]]:
    """A line for each use and one for the chosen one, judged on rows of test."""
    for method in (*(name for name in uses.figures if name in METHODS), CHOSEN):
        use = uses.chosen if method == CHOSEN else method
        begin = perf_counter()
        scores = uses.score(views, method=use)
        seconds = perf_counter() - begin
        chances = scores if scores.ndim == 2 else np.column_stack([1.0 - scores, scores])
        yield {
            "method": method,
            "use": " + ".join(uses.parts) if method == CHOSEN else method,
            **judged(codes, chances),
            "valid_roc_auc": uses.figures[use]["roc_auc"],
            "seconds": uses.figures[use]["seconds"],
            "score_seconds": round(seconds, 4),
        }


def _numbers(profile: pl.DataFrame | None, frame: pl.DataFrame) -> Any:
    """What is known of users beside events, as numbers: texts as one column per value."""
    if profile is None:
        return None
    joined = frame.select("user").join(profile, on="user", how="left", maintain_order="left")
    told = joined.drop("user")
    texts = [name for name, kind in told.schema.items() if kind == pl.String]
    wide = told.to_dummies(texts) if texts else told
    return wide.cast(pl.Float32).to_numpy()


def _settings(model: UserModel, training: Training) -> dict[str, Any]:
    """All that makes a candidate, as JSON gives it back."""
    told = {
        "shape": model.shape.to_dict(),
        "task": model.task,
        "pace": asdict(model.pace),
        "window": model.window,
        "budget": model.budget,
        "options": model.options,
        "training": asdict(training),
        "space": None if model.tower is None else model.space,
    }
    found: dict[str, Any] = json.loads(json.dumps(told))
    return found


def _budget(budget: int | None) -> str:
    return "all" if budget is None else str(budget)


def _version() -> str:
    return version("chopmark")


def _peak_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(peak / (2**20 if sys.platform == "darwin" else 2**10), 1)


def _append(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write lines behind the others, all at once and forced to disk."""
    if not lines:
        return
    text = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines)
    try:
        with path.open("a+b") as file:
            end = file.seek(0, os.SEEK_END)
            if end:
                file.seek(end - 1)
                # A line that was cut stays alone, and is skipped by who reads.
                text = text if file.read(1) == b"\n" else "\n" + text
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise StoreError(f"cannot write results to `{path}`: {error.strerror}") from error


_NEEDED = ("suite", "candidate", "version", "settings", "task", "budget", "seed", "method")


def _lines(path: Path) -> list[dict[str, Any]]:
    """The results of a file; a line that was cut by the end of a run is left out."""
    try:
        texts = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read results from `{path}`: {error}") from error
    found = []
    for number, text in enumerate(texts, start=1):
        if not text.strip():
            continue
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if not isinstance(line, dict) or any(name not in line for name in _NEEDED):
            raise StoreError(
                f"line {number} of `{path}` is no result of the suite: expected an object with "
                f"{', '.join(_NEEDED)}"
            )
        found.append(line)
    return found

"""The goals of EasyML in seconds and memory: a first model, a middling table, a scorer's process.

titanic   CSV file -> fitted -> report written, judged on the 30 % that were held out
wide      `EasyML().fit` of 10,000 rows x 50 made-up columns, on one core and on two, in turns
scorer    a process that imports, loads an artifact and scores one row: seconds and memory,
          beside the bare imports of what it stands on
stages    where the processor's seconds of a fit go, one thread, under Python's profiler

Every run of the first three is a process of its own, imports included and compiled code on disk;
seconds are of the clock and, since others may use the machine too, of the processor. `titanic`
and `stages` read `tabular/*.parquet` in the folder that CHOPMARK_DATA names, split 70/30 by
scikit-learn with seed 0; without such a folder these tables are left out.

Run: .venv/bin/python benchmarks/easyml.py [PART ...] [--cores 0,1]
"""

import argparse
import json
import os
import pstats
import subprocess
import sys
import tempfile
from cProfile import Profile
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numpy as np
import polars as pl
from machine import BUILD, Runs, goal, number, one_core, parser, progress, report, runs, table

PARTS = ("titanic", "wide", "scorer", "stages")
STAGED = ("titanic", "german_credit", "credit_data")
WIDE = (10_000, 50)
WIDE_CATEGORIES = 12
GOAL_TITANIC_S, GOAL_LOSS = 5.0, 0.43
GOAL_WIDE_S = 10.0
GOAL_SCORER_S, GOAL_SCORER_MB = 0.3, 60.0

IMPORTS = {
    "Python alone": "pass",
    "numpy": "import numpy",
    "llvmlite, which brings LLVM": "import llvmlite.binding",
    "numba": "import numba",
    "chopmark.models": "import chopmark.models",
}
SCORING = """\
from chopmark.models import load_scorer
scorer = load_scorer(sys.argv[1])
scorer.score_row([None] * len(scorer.reads))"""
TOLD = """\
import sys
from time import perf_counter, process_time
began = perf_counter()
{statement}
seconds = perf_counter() - began, process_time()
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
kb = [int(status[name].split()[0]) for name in ("VmHWM", "VmRSS", "RssAnon")]
print(*seconds, *(n * 1.024 / 1000 for n in kb))"""
"""A program that imports nothing but what it measures; tells s, processor s and three MB."""

STAGES = {
    "reading the labels": [("targets", "target_of")],
    "kinds": [("transforms", "make_encoder")],
    "encoding": [("target_means", "fit_encoder")],
    "gates": [("gates", "gated")],
    "weights and joined trees": [("blending", "fit_weights"), ("portfolio", "_joined")],
    "metrics": [("fitting", "_held_out")],
    "leaks": [("leaks", "find_leaks")],
    "packing, twice": [("artifact", "pack"), ("artifact", "unpack"), ("scorers", "__init__")],
    "importance": [("scorers", "explain")],
    "reference": [("drift", "of")],
}
"""Functions (file and name) whose time is a stage; none is called by another."""


def main() -> None:
    """Print the tables, or measure once if called as a worker."""
    arguments = parser(__doc__)
    arguments.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    arguments.add_argument("--repeats", type=int, default=5)
    arguments.add_argument("--cores", default="0,1", help="cores of the machine to use")
    arguments.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.measure:
        print(json.dumps(WORKERS[given.measure[0]](*given.measure[1:])))
        return
    parts = given.parts or PARTS
    if set(parts) - set(PARTS):
        arguments.error(f"expected parts of {', '.join(PARTS)}, got {', '.join(parts)}")
    cores = given.cores.split(",")
    with report("EasyML"), tempfile.TemporaryDirectory(dir=BUILD) as folder:
        if "titanic" in parts:
            measure_titanic(Path(folder), given.repeats, cores)
        if "wide" in parts:
            measure_wide(Path(folder), given.repeats, cores)
        if "scorer" in parts:
            measure_scorer(Path(folder), given.repeats, cores[0])
        if "stages" in parts:
            measure_stages(cores[0])


def measure_titanic(folder: Path, repeats: int, cores: list[str]) -> None:
    """Print the seconds from the file to the report, and the log loss."""
    frame = _real("titanic")
    if frame is None:
        return
    train, test = _split(frame)
    train.write_csv(folder / "train.csv")
    test.write_csv(folder / "test.csv")
    found = _repeated("titanic", repeats, ",".join(cores), ["titanic", str(folder)])
    print("**titanic**: CSV file to report, imports included.\n")
    whole, loss = _column(found, "clock"), found[-1]["loss"]
    lines = [
        [stage, _column(found, stage).text(), _column(found, f"{stage}, processor").text(), ""]
        for stage in ("imports", "fit", "report")
    ]
    lines.append(
        ["whole process", whole.text(), _column(found, "processor").text(),
         f"< {GOAL_TITANIC_S:g} s: {goal(whole.median, GOAL_TITANIC_S)}"]
    )  # fmt: skip
    table(["what", "s", "processor s", "goal"], lines)
    print(f"Log loss {loss:.4f}; goal <= {GOAL_LOSS}: {goal(loss, GOAL_LOSS)}.\n")


def measure_wide(folder: Path, repeats: int, cores: list[str]) -> None:
    """Print the seconds of a fit on one core and on all."""
    path = folder / "wide.parquet"
    wide_table(*WIDE).write_parquet(path)
    chosen = dict.fromkeys([cores[0], ",".join(cores)])
    found: dict[str, list[dict[str, float]]] = {some: [] for some in chosen}
    _worker(",".join(cores), ["wide", str(path)])
    for turn in range(repeats):
        for some, answers in found.items():
            progress(f"wide: cores {some}, {turn + 1} of {repeats}")
            answers.append(_worker(some, ["wide", str(path)]))
    print(f"**wide**: {WIDE[0]:,} rows x {WIDE[1]} columns, `EasyML().fit`.\n")
    lines = []
    for some, answers in found.items():
        fit = _column(answers, "fit")
        on_all = some == ",".join(cores) and len(cores) > 1
        verdict = f"<= {GOAL_WIDE_S:g} s: {goal(fit.median, GOAL_WIDE_S)}" if on_all else ""
        least = number(min(fit.values))
        lines.append(
            [some, fit.text(), least, _column(answers, "fit, processor").text(),
             _column(answers, "clock").text(), verdict]
        )  # fmt: skip
    table(["cores", "fit s", "least", "fit, processor s", "process s", "goal"], lines)


def measure_scorer(folder: Path, repeats: int, core: str) -> None:
    """Print seconds and memory of a scorer's process and of the imports below it."""
    from chopmark.tabular import EasyML

    path = folder / "model.chopmark"
    frame = wide_table(2_000, 14)
    EasyML(threads=1).fit(frame, target="target").save(path)
    print(
        "**scorer**: a process of its own on one core, compiled code on disk. Own memory is what "
        "no other process can share.\n"
    )
    lines = []
    for name, statement in {**IMPORTS, "load_scorer and a first score": SCORING}.items():
        _told(statement, path, core)  # compiles, and fills the cache of the file system
        progress(f"scorer: {name}")
        told = np.array([_told(statement, path, core) for _ in range(repeats)])
        seconds, cpu, peak, resident, own = (runs(values) for values in told.T)
        verdict = ""
        if statement == SCORING:
            verdict = (
                f"<= {GOAL_SCORER_S:g} s: {goal(seconds.median, GOAL_SCORER_S)}, "
                f"<= {GOAL_SCORER_MB:g} MB: {goal(resident.median, GOAL_SCORER_MB)}"
            )
        lines.append(
            [name, seconds.text(), cpu.text(), peak.text(), resident.text(), own.text(), verdict]
        )
    head = ["what", "s", "process, processor s", "peak MB", "resident MB", "own MB", "goal"]
    table(head, lines)


def measure_stages(core: str) -> None:
    """Print the processor's seconds of each stage of a fit, by table."""
    frames = {name: _split(frame)[0] for name in STAGED if (frame := _real(name)) is not None}
    frames["wide"] = wide_table(*WIDE)
    found = {}
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        for name, frame in frames.items():
            progress(f"stages: {name}")
            path = Path(folder) / f"{name}.parquet"
            frame.write_parquet(path)
            found[name] = _worker(core, ["stages", str(path)])
    print("**stages** of a fit: processor ms, and share of the fit.\n")
    stages = dict.fromkeys(stage for parts in found.values() for stage in parts)
    stages.pop("clock")
    lines = [
        [stage, *(_share(parts.get(stage, 0.0), parts["whole"]) for parts in found.values())]
        for stage in stages
    ]
    table(["stage", *found], lines)


def work_titanic(folder: str) -> dict[str, float]:
    """Seconds of a first model: imports, fit, report."""
    marks = [(perf_counter(), 0.0)]

    def mark() -> None:
        marks.append((perf_counter(), process_time()))

    from chopmark.models.metrics import log_loss
    from chopmark.report import write_report
    from chopmark.tabular import EasyML

    mark()
    model = EasyML().fit(f"{folder}/train.csv", target="target")
    mark()
    test = pl.read_csv(f"{folder}/test.csv")
    write_report(model, test, target="target", path=Path(folder) / "report.html")
    mark()
    loss = log_loss(test["target"].to_numpy(), model.score(test))
    steps = np.diff(np.array(marks), axis=0)
    found = {"loss": float(loss), "processor": process_time()}
    for stage, (clock, cpu) in zip(("imports", "fit", "report"), steps.tolist(), strict=True):
        found |= {stage: clock, f"{stage}, processor": cpu}
    return found


def work_wide(path: str) -> dict[str, float]:
    """Seconds of one fit, imports done before."""
    from chopmark.tabular import EasyML

    frame = pl.read_parquet(path)
    began, cpu = perf_counter(), process_time()
    EasyML().fit(frame, target="target")
    return {"fit": perf_counter() - began, "fit, processor": process_time() - cpu}


def work_stages(path: str) -> dict[str, float]:
    """Processor's seconds of each stage and each learner of a fit, after a fit to warm up."""
    from chopmark.tabular import EasyML

    frame = pl.read_parquet(path)
    EasyML(threads=1).fit(frame, target="target")
    learners: dict[str, float] = {}
    profile, began = Profile(process_time), process_time()

    def told(name: str, _done: int, _total: int) -> None:
        learners[f"learner: {name}"] = process_time()

    profile.enable()
    EasyML(threads=1).fit(frame, target="target", on_progress=told)
    profile.disable()
    whole = process_time() - began
    spent: dict[tuple[str, str], float] = {}
    for (file, _, name), (_, _, _, total, _) in pstats.Stats(profile).stats.items():  # type: ignore[attr-defined]
        spent[Path(file).stem, name] = spent.get((Path(file).stem, name), 0.0) + total
    found = {
        stage: sum(spent.get(function, 0.0) for function in functions)
        for stage, functions in STAGES.items()
    }
    begins = [max(learners.values()) - spent["portfolio", "_run"], *learners.values()]
    found |= dict(zip(learners, np.diff(begins).tolist(), strict=True))
    return {**found, "the rest": whole - sum(found.values()), "whole": whole}


WORKERS: dict[str, Any] = {"titanic": work_titanic, "wide": work_wide, "stages": work_stages}


def wide_table(num_rows: int, num_columns: int) -> pl.DataFrame:
    """(n, m + 1) numbers and a few categories, 5 % of them missing, and a label in `target`."""
    rng = np.random.default_rng(0)
    num_categories = num_columns * WIDE_CATEGORIES // WIDE[1]
    numbers = rng.normal(size=(num_rows, num_columns - num_categories))
    numbers[:, ::3] = np.exp(numbers[:, ::3]).round(2)
    codes = rng.zipf(1.6, size=(num_rows, num_categories)) % 25
    z = numbers[:, 1] * numbers[:, 2] + numbers[:, 0] + (codes[:, 0] % 3) - 3.0
    target = (rng.random(num_rows) < 1.0 / (1.0 + np.exp(-z))).astype(int)
    numbers[rng.random(numbers.shape) < 0.05] = np.nan
    texts = np.char.add("value ", codes.astype(str)).astype(object)
    texts[rng.random(texts.shape) < 0.05] = None
    columns = {f"number {j}": pl.Series(v, nan_to_null=True) for j, v in enumerate(numbers.T)}
    columns |= {f"category {j}": pl.Series(v.tolist()) for j, v in enumerate(texts.T)}
    return pl.DataFrame({**columns, "target": target})


def _real(name: str) -> pl.DataFrame | None:
    path = Path(os.environ.get("CHOPMARK_DATA", "")) / "tabular" / f"{name}.parquet"
    if "CHOPMARK_DATA" not in os.environ or not path.exists():
        progress(f"{name}: left out; CHOPMARK_DATA names no folder with tabular/{name}.parquet")
        return None
    return pl.read_parquet(path)


def _split(frame: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    from sklearn.model_selection import train_test_split

    rows, labels = np.arange(frame.height), frame["target"].to_numpy()
    train, test = train_test_split(rows, test_size=0.3, random_state=0, stratify=labels)
    return frame[train], frame[test]


def _repeated(name: str, repeats: int, cores: str, arguments: list[str]) -> list[dict[str, float]]:
    """Answers of so many workers, after one that fills the caches."""
    _worker(cores, arguments)
    found = []
    for turn in range(repeats):
        progress(f"{name}: {turn + 1} of {repeats}")
        found.append(_worker(cores, arguments))
    return found


def _worker(cores: str, arguments: list[str]) -> dict[str, float]:
    """What a process pinned to these cores tells, and its seconds from start to end."""
    began = perf_counter()
    told = _pinned(cores, [__file__, "--measure", *arguments])
    return {"clock": perf_counter() - began, **json.loads(told)}


def _told(statement: str, path: Path, core: str) -> list[float]:
    told = _pinned(core, ["-c", TOLD.format(statement=statement), str(path)])
    return [float(value) for value in told.split()]


def _pinned(cores: str, arguments: list[str]) -> str:
    command = ["taskset", "-c", cores, sys.executable, *arguments]
    environment = one_core(threads=len(cores.split(",")))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments[:4])} failed:\n{done.stderr[-2000:]}")
    return done.stdout


def _column(found: list[dict[str, float]], name: str) -> Runs:
    return runs([answer[name] for answer in found])


def _share(seconds: float, whole: float) -> str:
    return f"{seconds * 1e3:,.0f} ({seconds / whole:.0%})"


if __name__ == "__main__":
    main()

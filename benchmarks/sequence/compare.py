"""Embeddings of users side by side: chopmark's and pytorch-lifestream's, each with LightGBM on it.

    compare.py                        what is missing of the whole grid (hours)
    compare.py --sets cdnow --seeds 0 --seconds 20
    compare.py --ways aggregates coles
    compare.py --report               Markdown of the results; nothing is run

    coles              CoLES of the peer (see lifestream.py), a GRU of width 128
    coles+age          the same, and every event also tells the peer how long ago it was
    ours               chopmark.foundation.UserModel
    aggregates         chopmark.histories.Aggregates: made by hand, nothing pre-trained
    aggregates+coles, aggregates+coles+age, aggregates+ours: columns side by side

Every way gets the same events of a set (chopmark.datasets.sequences: no label in them, those of
all splits), so many seconds of the clock to pre-train, and one core. Its embeddings of the labelled
users are the columns of a LightGBM with the same settings for everyone, which learns from the
split train, stops early on valid, and is judged on test. Every embedding is made by a process of
its own. Those that are pre-trained, and the predictions, are kept in build/benchmarks/sequence and
used again by the ways that join them; --again makes them anew, as changed code wants it.

Lines of JSON are appended to the results; what is there already is skipped, but for failures, and
the last line counts. The report pairs ways by set and seed. Its first interval is over sets and
seeds (sets are drawn, then seeds of each), the second over test users (the same for all seeds),
which needs the predictions. Sets are `sequence/*` in the folder that CHOPMARK_DATA names, or in
../shared/data.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from machine import BUILD, one_core, parser, peak_mb, progress, table
from tabular.run import Environment, kill_group, prepare, seeds_of

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
PEER = Environment(ROOT / ".venv-sequence", HERE / "peers.txt")
RESULTS = HERE / "results.jsonl"
KEPT = BUILD / "sequence"

SETS = ("cdnow", "physionet2012", "dunnhumby_cj", "bitcoin_otc")
TASKS = {
    "cdnow": ("y_repeat",),
    "physionet2012": ("y_death",),
    "dunnhumby_cj": ("y_redeem_q4", "y_income_ge50k", "y_has_kids"),
    "bitcoin_otc": ("y_scam_later",),
}
WAYS = {
    "aggregates": ("aggregates",),
    "coles": ("coles",),
    "coles+age": ("coles+age",),
    "ours": ("ours",),
    "aggregates+coles": ("aggregates", "coles"),
    "aggregates+coles+age": ("aggregates", "coles+age"),
    "aggregates+ours": ("aggregates", "ours"),
}
"""Ways, and the embeddings whose columns they have."""

PAIRS = (
    ("ours", "coles"),
    ("ours", "coles+age"),
    ("ours", "aggregates"),
    ("coles", "aggregates"),
    ("coles+age", "coles"),
    ("aggregates+ours", "aggregates"),
    ("aggregates+coles", "aggregates"),
    ("aggregates+ours", "aggregates+coles"),
    ("aggregates+ours", "aggregates+coles+age"),
)
MEASURES = {"roc_auc": "ROC-AUC", "pr_auc": "PR-AUC", "log_loss": "log loss"}
NUM_DRAWS = 2_000
PATIENCE_S = 900
"""Seconds beyond the budget, for data and embedding, until a process is killed."""

HEAD = {
    "objective": "binary",
    "learning_rate": 0.03,
    "num_leaves": 15,
    "min_data_in_leaf": 20,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "deterministic": True,
    "force_row_wise": True,
    "verbosity": -1,
}
NUM_TREES, NUM_PATIENT = 1_500, 100

Floats = NDArray[np.float32]
Row = dict[str, Any]


# --- embeddings of our own


def ours(
    events: pl.DataFrame, users: pl.DataFrame, seconds: float, seed: int
) -> tuple[Floats, Row]:
    """(n, d) float32 of users, pre-trained on the events for so many seconds, and facts of it.

    Parameters
    ----------
    events
        Columns ``user``, ``happened_at``, ``type`` and fields, user by user.
    users : (n,)
        Columns ``user`` and ``as_of``, the instant from which the user is seen.
    seconds
        Of training; as for the peer, data and embedding are not among them.
    """
    from chopmark.foundation import UserModel
    from chopmark.histories import Histories
    from chopmark.sequence.training import Pace

    histories = Histories.from_frame(events)
    model = UserModel(pace=Pace(steps=ENDLESS, seconds=seconds), seed=seed).fit(histories)
    pieces = histories.slices(users["user"], users["as_of"], last=model.shape.length)
    began = perf_counter()
    found = model.embed(pieces)
    embed_seconds = perf_counter() - began
    return found, {
        "train_seconds": model.training["seconds"],
        "num_steps": model.training["steps"],
        "embed_seconds": round(embed_seconds, 3),
        "users_per_s": round(len(pieces) / embed_seconds, 1),
    }


def aggregates(
    events: pl.DataFrame, users: pl.DataFrame, seconds: float, seed: int
) -> tuple[Floats, Row]:
    """(n, d) float32, NaN where there is none; nothing is pre-trained."""
    from chopmark.histories import Aggregates, Histories

    pieces = Histories.from_frame(events).slices(users["user"], users["as_of"])
    return Aggregates().fit(pieces).table(pieces).to_numpy().astype(np.float32), {}


ENDLESS = 10**9
"""Steps; the seconds end the training."""

OWN: dict[str, Callable[[pl.DataFrame, pl.DataFrame, float, int], tuple[Floats, Row]]] = {
    "ours": ours,
    "aggregates": aggregates,
}


def main() -> None:
    """Run what is missing, or report."""
    arguments = parser(__doc__)
    arguments.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET")
    arguments.add_argument("--ways", nargs="+", choices=WAYS, metavar="WAY", help="all by default")
    arguments.add_argument("--seeds", type=seeds_of, default=(0, 1, 2, 3, 4), help="0-4 by default")
    arguments.add_argument(
        "--seconds", type=float, default=120, help="to pre-train; 120 by default"
    )
    arguments.add_argument("--core", type=int, help="that all runs on; 1 by default")
    arguments.add_argument("--threads", type=int, default=1, help="with 2, no core is pinned")
    arguments.add_argument("--data", type=Path, help="folder that has the folder `sequence`")
    arguments.add_argument("--again", action="store_true", help="also what has a result")
    arguments.add_argument("--report", action="store_true", help="print Markdown, run nothing")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="file of the lines")
    arguments.add_argument("--embed", choices=OWN, help=argparse.SUPPRESS)
    arguments.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    given = arguments.parse_args()
    if given.report:
        report(given)
        return
    env = one_core(threads=given.threads)
    if not env.items() <= os.environ.items():
        # Libraries read it when they are imported, so begin anew.
        os.execve(sys.executable, [sys.executable, *sys.argv], env)
    if given.threads == 1:
        os.sched_setaffinity(0, {1 if given.core is None else given.core})
    if given.embed:
        embed_own(given)
        return
    raise SystemExit(grid(given))


# --- running


@dataclass(frozen=True, slots=True)
class Data:
    """A set: its events, its labelled users with their instants, and their labels."""

    name: str
    events: pl.DataFrame
    users: pl.DataFrame
    labels: pl.DataFrame


@cache
def load(name: str, folder: Path) -> Data:
    """A set from the folder of data."""
    from chopmark.datasets import sequences

    found = sequences.load(name, folder)
    return Data(name, found.events, found.labels.select("user", "as_of"), found.labels)


def folder_of(given: argparse.Namespace) -> Path:
    """Where the sets are."""
    return given.data or Path(os.environ.get("CHOPMARK_DATA", ROOT.parent / "shared" / "data"))


def grid(given: argparse.Namespace) -> int:
    """Run seed by seed, set by set; 1 if something failed."""
    ways = given.ways or list(WAYS)
    known = {} if given.again else read(given.results)
    known = {key for key, row in known.items() if "error" not in row}
    fresh: set[Path] = set()
    if any(part not in OWN for way in ways for part in WAYS[way]):
        prepare(PEER)
    num_run = num_failed = 0
    began = perf_counter()
    for seed in given.seeds:
        for name in given.sets:
            for way in ways:
                tasks = [
                    task
                    for task in TASKS[name]
                    if (name, task, way, seed, given.seconds, given.threads) not in known
                ]
                for row in run(way, name, tasks, seed, given, fresh) if tasks else ():
                    with open(given.results, "a", encoding="utf-8") as file:
                        file.write(json.dumps(row) + "\n")
                    num_run, num_failed = num_run + 1, num_failed + ("error" in row)
                    told = row.get("error") or (
                        f"AUC {row['roc_auc']:.4f}, log loss {row['log_loss']:.4f}"
                    )
                    minutes = (perf_counter() - began) / 60
                    progress(f"[{minutes:.1f} min] {name} {row['task']} {way} {seed}: {told}")
    progress(f"{num_run} run, {num_failed} failed; results in {given.results.name}")
    return int(num_failed > 0)


def run(
    way: str,
    name: str,
    tasks: Sequence[str],
    seed: int,
    given: argparse.Namespace,
    fresh: set[Path],
) -> list[Row]:
    """The lines of one way on one set, one for each task."""
    key = {"set": name, "way": way, "seed": seed}
    key |= {"seconds": given.seconds, "threads": given.threads}
    data = load(name, folder_of(given))
    try:
        parts = [embeddings(part, data, seed, given, fresh) for part in WAYS[way]]
    except RuntimeError as error:
        return [{**key, "task": task, "error": str(error)} for task in tasks]
    columns = np.hstack([found for found, _ in parts])
    facts = {part: told for part, (_, told) in zip(WAYS[way], parts, strict=True)}
    rows = []
    for task in tasks:
        measured = judge(columns, data, task, way, seed, given)
        rows.append({**key, "task": task, **measured, "embeddings": facts})
    return rows


def embeddings(
    part: str, data: Data, seed: int, given: argparse.Namespace, fresh: set[Path]
) -> tuple[Floats, Row]:
    """(n, d) of the labelled users by a process of its own, and what it tells of itself.

    Raises
    ------
    RuntimeError
        With the process's last line, if it fails.
    """
    # Aggregates learn nothing, and have no seed.
    told = "" if part == "aggregates" else f"-{given.seconds:g}s-{seed}"
    threads = "" if given.threads == 1 else f"-{given.threads}threads"
    stem = KEPT / f"{data.name}-{part}{told}{threads}"
    array, facts = stem.with_name(stem.name + ".npy"), stem.with_name(stem.name + ".json")
    # Aggregates take seconds: they are never those of an older run, and of older code.
    anew = (given.again or part == "aggregates") and array not in fresh
    if anew or not (array.exists() and facts.exists()):
        KEPT.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="sequence-") as name:
            folder = Path(name)
            write_inputs(part, data, folder)
            call(part, folder, seed, given)
            # The facts last: whole or not at all.
            array.write_bytes((folder / "embeddings.npy").read_bytes())
            facts.write_bytes((folder / "result.json").read_bytes())
    fresh.add(array)
    found = np.load(array)
    if found.shape[0] != data.users.height or found.dtype != np.float32:
        raise RuntimeError(
            f"expected {data.users.height} float32 rows in {array.name}; got {found.shape} of "
            f"{found.dtype}: run it --again"
        )
    return found, json.loads(facts.read_text("utf-8"))


def write_inputs(part: str, data: Data, folder: Path) -> None:
    """Events and users as files, the same for all."""
    events = data.events
    if part == "coles+age":
        # The peer has no notion of now: age is one more number of an event. It takes the logarithm.
        # A user without a label is seen from the last event.
        last = events.group_by("user").agg(last=pl.col("happened_at").max())
        seen = last.join(data.users, on="user", how="left").select(
            "user", now=pl.coalesce("as_of", "last")
        )
        age = (pl.col("now") - pl.col("happened_at")).dt.total_seconds()
        events = (
            events.join(seen, on="user", how="left", maintain_order="left")
            .with_columns(age_s=age.cast(pl.Float64).clip(0))
            .drop("now")
        )
    events.write_parquet(folder / "events.parquet")
    data.users.write_parquet(folder / "users.parquet")


def call(part: str, folder: Path, seed: int, given: argparse.Namespace) -> None:
    """Have a process write embeddings.npy and result.json into the folder."""
    shared = ["--seconds", str(given.seconds), "--seed", str(seed), "--threads", str(given.threads)]
    if part in OWN:
        command = [sys.executable, str(HERE / "compare.py"), "--embed", part]
        command += ["--seconds", str(given.seconds), "--seeds", str(seed)]
        command += ["--threads", str(given.threads), "--folder", str(folder)]
        if given.core is not None:
            command += ["--core", str(given.core)]
    else:
        command = [str(PEER.python), str(HERE / "lifestream.py"), "coles", *shared]
        for name in ("events", "users"):
            command += [f"--{name}", str(folder / f"{name}.parquet")]
        command += ["--embeddings", str(folder / "embeddings.npy")]
        command += ["--result", str(folder / "result.json")]
    with open(folder / "told.txt", "w+", encoding="utf-8") as told:
        process = subprocess.Popen(
            command, stdout=told, stderr=told, cwd=folder, start_new_session=True
        )
        try:
            status = process.wait(given.seconds + PATIENCE_S)
        except subprocess.TimeoutExpired:
            raise RuntimeError(f"killed {PATIENCE_S} s after its time") from None
        finally:
            kill_group(process)
        if status:
            told.seek(0)
            last = (told.read().strip().splitlines() or ["no message"])[-1]
            # No place of this machine goes into the results.
            last = last.replace(str(folder), "FOLDER").replace(str(ROOT), ".")
            raise RuntimeError(f"status {status}: {last[:200]}")


def embed_own(given: argparse.Namespace) -> None:
    """Be that process for an embedding of our own."""
    events = pl.read_parquet(given.folder / "events.parquet")
    users = pl.read_parquet(given.folder / "users.parquet")
    began = perf_counter()
    found, told = OWN[given.embed](events, users, given.seconds, given.seeds[0])
    seconds = perf_counter() - began
    np.save(given.folder / "embeddings.npy", found.astype(np.float32))
    facts = {
        "task": given.embed,
        "seed": given.seeds[0],
        "threads": given.threads,
        "seconds": round(seconds, 3),
        "num_users": events["user"].n_unique(),
        "num_events": events.height,
        "embedded": users.height,
        "width": found.shape[1],
        **told,
        "peak_mb": round(peak_mb(), 1),
        "versions": {"commit": commit()}
        | {name: version(name) for name in ("chopmark", "numpy", "polars", "torch")},
    }
    (given.folder / "result.json").write_text(json.dumps(facts) + "\n", "utf-8")


def commit() -> str:
    """Of the code, "-dirty" if there is more in the folder."""
    git = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    return subprocess.run(git, capture_output=True, text=True, check=False).stdout.strip()


# --- judging


def judge(
    columns: Floats, data: Data, task: str, way: str, seed: int, given: argparse.Namespace
) -> Row:
    """Fit the head on train, stop on valid, and measure on test; keep the predictions."""
    import lightgbm
    from sklearn.metrics import average_precision_score, log_loss, roc_auc_score

    labels = data.labels[task]
    parts = {}
    for split in ("train", "valid", "test"):
        rows = ((data.labels["split"] == split) & labels.is_not_null()).arg_true().to_numpy()
        parts[split] = (columns[rows], labels.to_numpy()[rows].astype(np.int8))
    began = perf_counter()
    train = lightgbm.Dataset(*parts["train"])
    model = lightgbm.train(
        {**HEAD, "seed": seed, "num_threads": given.threads},
        train,
        NUM_TREES,
        valid_sets=[lightgbm.Dataset(*parts["valid"], reference=train)],
        callbacks=[lightgbm.early_stopping(NUM_PATIENT, verbose=False)],
    )
    seconds = perf_counter() - began
    x, y = parts["test"]
    predicted = model.predict(x, num_iteration=model.best_iteration)
    np.savez(predictions_of(data.name, task, way, seed, given), y=y, predicted=predicted)
    return {
        "num_train": len(parts["train"][1]),
        "num_test": len(y),
        "num_test_bad": int(y.sum()),
        "num_columns": columns.shape[1],
        "roc_auc": round(roc_auc_score(y, predicted), 6),
        "pr_auc": round(average_precision_score(y, predicted), 6),
        "log_loss": round(log_loss(y, predicted), 6),
        "num_trees": model.best_iteration,
        "head_seconds": round(seconds, 2),
        "load": round(os.getloadavg()[0], 1),
        "versions": {name: version(name) for name in ("chopmark", "lightgbm")},
    }


def predictions_of(name: str, task: str, way: str, seed: int, given: argparse.Namespace) -> Path:
    """Where the predictions of the test users are kept."""
    threads = "" if given.threads == 1 else f"-{given.threads}threads"
    return KEPT / f"{name}-{task}-{way}-{given.seconds:g}s-{seed}{threads}.npz"


# --- results


def read(path: Path) -> dict[tuple[Any, ...], Row]:
    """The last line of each set, task, way, seed, budget and number of threads."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    names = ("set", "task", "way", "seed", "seconds", "threads")
    return {tuple(row[name] for name in names): row for row in rows}


class Results:
    """What there is for one budget, by way, then by set, task and seed."""

    def __init__(self, given: argparse.Namespace) -> None:
        rows = [
            row
            for row in read(given.results).values()
            if row["set"] in given.sets
            and row["way"] in (given.ways or WAYS)
            and row["seed"] in given.seeds
            and (row["seconds"], row["threads"]) == (given.seconds, given.threads)
        ]
        self.given = given
        self.failed = [row for row in rows if "error" in row]
        self.of: dict[str, dict[tuple[str, str, int], Row]] = defaultdict(dict)
        for row in rows:
            if "error" not in row:
                self.of[row["way"]][row["set"], row["task"], row["seed"]] = row
        if not self.of:
            raise SystemExit(
                f"no results of {given.seconds:g} s and {given.threads} threads in "
                f"{given.results.name}: run without --report first"
            )
        self.ways = [way for way in WAYS if way in self.of]
        self.tasks = [
            (name, task)
            for name in SETS
            for task in TASKS[name]
            if any((name, task) == key[:2] for rows in self.of.values() for key in rows)
        ]

    def seeds(self, one: str, other: str, name: str, task: str) -> list[int]:
        """Seeds that both ways have of a task."""
        both = self.of[one].keys() & self.of[other].keys()
        return sorted(seed for n, t, seed in both if (n, t) == (name, task))

    def differences(
        self, one: str, other: str, measure: str
    ) -> dict[str, dict[int, dict[str, float]]]:
        """By set, seed and task, what one way has more than the other."""
        found: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
        for name, task in self.tasks:
            for seed in self.seeds(one, other, name, task):
                key = (name, task, seed)
                found[name][seed][task] = self.of[one][key][measure] - self.of[other][key][measure]
        return found


def report(given: argparse.Namespace) -> None:
    """Print Markdown."""
    results = Results(given)
    threads = f"{given.threads} thread{'s' if given.threads > 1 else ''}"
    print(f"## Embeddings of users, {given.seconds:g} s to pre-train, {threads}\n")
    print(f"From `{given.results.name}`: {', '.join(versions(results))}.\n")
    for measure, title in MEASURES.items():
        report_measure(results, measure, title)
    report_pairs(results)
    report_making(results)
    if results.failed:
        print("### Failures\n")
        names = ("set", "task", "way", "seed", "error")
        table(names, [[row[name] for name in names] for row in results.failed])


def report_measure(results: Results, measure: str, title: str) -> None:
    """Means over seeds, by task and way."""
    print(f"### {title}\n\nOn test; mean over the seeds, whose number is in brackets.\n")
    lines = []
    for name, task in results.tasks:
        line = [f"{name} {task}"]
        for way in results.ways:
            rows = results.of[way].items()
            found = [row[measure] for key, row in rows if key[:2] == (name, task)]
            line.append(f"{statistics.fmean(found):.4f} ({len(found)})" if found else "")
        lines.append(line)
    table(["task", *results.ways], lines)


def report_pairs(results: Results) -> None:
    """Paired differences with their intervals."""
    print("### Paired differences\n")
    print(
        "In points (hundredths); intervals of 95 %. A set counts once in `all`, with the mean of "
        "its tasks. The first interval draws sets and, of each, seeds; a line of one task draws "
        "seeds alone. `over users` draws test users; empty where predictions are not kept.\n"
    )
    lines = []
    for one, other in PAIRS:
        if one not in results.of or other not in results.of:
            continue
        found = {name: results.differences(one, other, name) for name in MEASURES}
        if not found["roc_auc"]:
            continue
        drawn = {
            (name, task): drawn_users(results, one, other, name, task)
            for name, task in results.tasks
            if results.seeds(one, other, name, task)
        }
        by_set = defaultdict(list)
        for (name, _), draws in drawn.items():
            by_set[name].append(draws)
        cells = [with_interval(*over_sets(found[measure])) for measure in MEASURES]
        whole = None
        if all(draws is not None for draws in drawn.values()):
            whole = np.mean([np.mean(draws, axis=0) for draws in by_set.values()], axis=0)
        lines.append([f"**{one} - {other}**", "all", *cells, interval(whole)])
        for (name, task), draws in drawn.items():
            of_task = {
                measure: {name: {s: {task: d[task]} for s, d in found[measure][name].items()
                                 if task in d}}
                for measure in MEASURES
            }  # fmt: skip
            cells = [with_interval(*over_sets(of_task[measure])) for measure in MEASURES]
            lines.append(["", f"{name} {task}", *cells, interval(draws)])
    table(["difference", "task", *MEASURES.values(), "ROC-AUC over users"], lines)


def report_making(results: Results) -> None:
    """What the embeddings took: medians over the seeds."""
    print("### Making the embeddings\n\nMedians over the seeds; tokens are events, no padding.\n")
    names = {
        "num_events": "events",
        "prepare_seconds": "data s",
        "train_seconds": "training s",
        "tokens_per_s": "tokens/s of training",
        "num_epochs": "epochs",
        "users_per_s": "users/s embedded",
        "seconds": "all s",
        "peak_mb": "peak MB",
    }
    lines = []
    for part in [way for way in results.ways if WAYS[way] == (way,)]:
        for name in SETS:
            by_seed = {key[2]: row["embeddings"][part] for key, row in results.of[part].items()
                       if key[0] == name}  # fmt: skip
            if not by_seed:
                continue
            line = [part, name]
            for column in names:
                found = [facts[column] for facts in by_seed.values() if column in facts]
                line.append(f"{statistics.median(found):,.4g}" if found else "")
            lines.append(line)
    table(["embedding", "set", *names.values()], lines)


def versions(results: Results) -> list[str]:
    """All that took part."""
    known: dict[str, set[str]] = defaultdict(set)
    for rows in results.of.values():
        for row in rows.values():
            for facts in (row, *row["embeddings"].values()):
                for name, number in facts.get("versions", {}).items():
                    known[name].add(number)
    return [f"{name} {' and '.join(sorted(numbers))}" for name, numbers in sorted(known.items())]


# --- intervals


def over_sets(
    differences: dict[str, dict[int, dict[str, float]]],
) -> tuple[float, NDArray[np.float64]]:
    """Mean over sets of the means over seeds of the means over tasks, and draws of it."""
    by_set = [
        np.array([statistics.fmean(tasks.values()) for tasks in seeds.values()])
        for seeds in differences.values()
    ]
    rng = np.random.default_rng(0)
    draws = np.empty(NUM_DRAWS)
    for place in range(NUM_DRAWS):
        chosen = rng.integers(0, len(by_set), len(by_set))
        draws[place] = np.mean([rng.choice(by_set[i], len(by_set[i])).mean() for i in chosen])
    return float(np.mean([values.mean() for values in by_set])), draws


def drawn_users(
    results: Results, one: str, other: str, name: str, task: str
) -> NDArray[np.float64] | None:
    """(NUM_DRAWS,) differences of ROC-AUC, mean over seeds, of drawn test users."""
    seeds = results.seeds(one, other, name, task)
    paths = [
        [predictions_of(name, task, way, seed, results.given) for seed in seeds]
        for way in (one, other)
    ]
    if not all(path.exists() for found in paths for path in found):
        return None
    total = np.zeros(NUM_DRAWS)
    for sign, found in zip((1, -1), paths, strict=True):
        for path in found:
            with np.load(path) as kept:
                y, predicted = kept["y"], kept["predicted"]
            # The same users for both ways and all seeds.
            total += sign * drawn_aucs(y, predicted, np.random.default_rng(0))
    return total / len(seeds)


def drawn_aucs(
    y: NDArray[np.int8], predicted: NDArray[np.float64], rng: np.random.Generator
) -> NDArray[np.float64]:
    """(NUM_DRAWS,) ROC-AUC of users drawn with replacement; equal scores count a half."""
    _, place = np.unique(predicted, return_inverse=True)
    draws = np.empty(NUM_DRAWS)
    for draw in range(NUM_DRAWS):
        times = np.bincount(rng.integers(0, len(y), len(y)), minlength=len(y))
        bad = np.bincount(place, times * (y == 1))
        good = np.bincount(place, times * (y == 0))
        below = np.cumsum(good) - good / 2
        draws[draw] = (bad * below).sum() / max(bad.sum() * good.sum(), 1)
    return draws


def with_interval(mean: float, draws: NDArray[np.float64]) -> str:
    return f"{100 * mean:+.2f} {interval(draws)}"


def interval(draws: NDArray[np.float64] | None) -> str:
    """The middle 95 % of draws, in points."""
    if draws is None:
        return ""
    low, high = np.percentile(draws, [2.5, 97.5]) * 100
    return f"[{low:+.2f}, {high:+.2f}]"


if __name__ == "__main__":
    main()

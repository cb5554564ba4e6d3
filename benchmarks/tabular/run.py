"""Learners of tables, side by side: chopmark's EasyML and the rivals, one core for each.

    run.py                            what is missing of the whole grid (hours)
    run.py lightgbm --seeds 0-4       one learner, five splits of each table
    run.py chopmark --options '{"model": "linear"}' --label chopmark-linear
                                      EasyML(model="linear"), by that name in the results
    run.py --report                   Markdown of the results; nothing is run
    run.py --report --seeds 0         the same of the split that all learners have

Every learner, table and seed is a fresh process of `contender.py` (see its --help for what a
learner is given and what is timed), pinned to one core. Its line of JSON is appended to the
results; what is there already is skipped, and failures are there too: --again repeats them, and
the last line counts. A learner with a time limit is killed at five times the limit. Rivals run in
environments of their own, which are made when they are missing (2 GB). Tables are
`tabular/*.parquet` in the folder that CHOPMARK_DATA names, or in ../shared/data.
"""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import exp, log
from pathlib import Path
from time import perf_counter
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULTS = HERE / "results.jsonl"

TABLES = (
    "titanic", "german_credit", "email_spam", "credit_data", "telco_churn", "compas_recid",
    "eth_fraud", "lending_club", "online_shoppers", "vehicle_claims_fraud", "taiwan_default",
    "bank_marketing", "adult", "vehicle_claims_fraud+leak",
)  # fmt: skip
LEAKY = "+leak"
"""Tables of this ending are shown, and count in no summary."""

BASE = "lightgbm"
OWN = "chopmark"
LARGE = 10_000
"""Training rows from which on a table is a large one."""

TIE = 0.001
"""Log losses that differ by a smaller share are no win and no loss."""


@dataclass(frozen=True, slots=True)
class Environment:
    """Where a learner's packages are, and what they are."""

    folder: Path
    requirements: Path | None = None
    overrides: Path | None = None

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"


PRODUCT = Environment(ROOT / ".venv")
PEERS = Environment(ROOT / ".venv-tabular", HERE / "peers.txt")
AUTOML = Environment(
    ROOT / ".venv-tabular-automl", HERE / "peers-automl.txt", HERE / "overrides.txt"
)


@dataclass(frozen=True, slots=True)
class Learner:
    """Where it runs, which seeds the whole grid has, and seconds until it is killed."""

    environment: Environment
    seeds: tuple[int, ...]
    patience_s: int = 900


LEARNERS = {
    "prior": Learner(PEERS, (0, 1, 2, 3, 4)),
    "lightgbm": Learner(PEERS, (0, 1, 2, 3, 4)),
    "catboost": Learner(PEERS, (0, 1, 2, 3, 4)),
    "chopmark": Learner(PRODUCT, (0, 1, 2, 3, 4)),
    "autogluon-medium": Learner(PEERS, (0, 1, 2, 3, 4), 5 * 60),
    "autogluon-best": Learner(PEERS, (0,), 5 * 180),
    "flaml": Learner(AUTOML, (0, 1), 5 * 60),
    "mljar": Learner(AUTOML, (0, 1), 5 * 60),
}

Row = dict[str, Any]
Key = tuple[str, str, int]


def main() -> None:
    """Run what is missing, or report."""
    arguments = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    arguments.add_argument(
        "learners", nargs="*", metavar="LEARNER",
        help=f"of {', '.join(LEARNERS)}, all by default; with --report also labels",
    )  # fmt: skip
    arguments.add_argument("--tables", nargs="+", metavar="TABLE", help=f"of {', '.join(TABLES)}")
    arguments.add_argument("--seeds", type=seeds_of, help="such as 0-4 or 0,2; each learner's own")
    arguments.add_argument("--core", type=int, default=1, help="that all runs on; 1 by default")
    arguments.add_argument("--again", action="store_true", help="also what has a result")
    arguments.add_argument("--report", action="store_true", help="print Markdown, run nothing")
    arguments.add_argument("--options", type=json.loads, help="JSON: keyword arguments of EasyML")
    arguments.add_argument("--label", help="name in the results of this way of chopmark")
    arguments.add_argument("--results", type=Path, default=RESULTS, help="file of the lines")
    given = arguments.parse_args()
    tables = given.tables or list(TABLES)
    if unknown := sorted(set(tables) - set(TABLES)):
        arguments.error(f"expected tables of {', '.join(TABLES)}; got {', '.join(unknown)}")
    if given.report:
        report(chosen(given.results, given.learners, tables, given.seeds), given.results)
        return
    learners = given.learners or list(LEARNERS)
    if unknown := sorted(set(learners) - set(LEARNERS)):
        arguments.error(f"expected learners of {', '.join(LEARNERS)}; got {', '.join(unknown)}")
    if (given.options or given.label) and learners != [OWN]:
        arguments.error(f"--options and --label are for `{OWN}` alone")
    if given.options and not (given.label or "").startswith(OWN):
        arguments.error(f"--options needs a --label that begins with `{OWN}`")
    raise SystemExit(grid(learners, tables, given))


def seeds_of(text: str) -> tuple[int, ...]:
    """Seeds from a text such as ``0-2,5``."""
    seeds: list[int] = []
    for part in text.split(","):
        first, _, last = part.partition("-")
        seeds += range(int(first), int(last or first) + 1)
    return tuple(seeds)


# --- running


def grid(learners: Sequence[str], tables: Sequence[str], given: argparse.Namespace) -> int:
    """Run learner by learner, seed by seed, table by table; 1 if one failed."""
    known = {} if given.again else read(given.results)
    jobs = []
    for learner in learners:
        label = given.label or learner
        for seed in given.seeds or LEARNERS[learner].seeds:
            jobs += [(learner, label, name, seed) for name in tables
                     if (label, name, seed) not in known]  # fmt: skip
    for environment in {LEARNERS[learner].environment for learner, *_ in jobs}:
        prepare(environment)
    failures = 0
    began = perf_counter()
    for place, (learner, label, name, seed) in enumerate(jobs, start=1):
        row = run(learner, label, name, seed, core=given.core, options=given.options)
        with open(given.results, "a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        failures += "error" in row
        told = row.get("error") or (
            f"log loss {row['log_loss']:.4f}, AUC {row['roc_auc']:.4f}, fit "
            f"{row['fit_seconds']:.1f} s, a row {row['row_ms']:.3g} ms"
        )
        minutes = (perf_counter() - began) / 60
        progress(f"[{place}/{len(jobs)}, {minutes:.1f} min] {label} {name} {seed}: {told}")
    progress(f"{len(jobs)} run, {failures} failed; results in {given.results}")
    return int(failures > 0)


def run(
    learner: str, label: str, name: str, seed: int, *, core: int, options: dict[str, Any] | None
) -> Row:
    """The line of one fresh process, or one that says what went wrong."""
    settings = LEARNERS[learner]
    command = ["taskset", "-c", str(core), str(settings.environment.python)]
    command += [str(HERE / "contender.py"), learner, name, str(seed), "--label", label]
    if options:
        command += ["--options", json.dumps(options)]
    with (
        tempfile.TemporaryDirectory(prefix="tabular-run-") as folder,
        tempfile.TemporaryFile("w+") as told,
    ):
        process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=told,
            text=True,
            cwd=folder,  # some learners leave files where they run
            env={**os.environ, "TMPDIR": folder},
            start_new_session=True,
        )
        try:
            printed, _ = process.communicate(timeout=settings.patience_s)
        except subprocess.TimeoutExpired:
            error = f"killed after {settings.patience_s} s"
        else:
            lines = [line for line in printed.splitlines() if line.startswith("{")]
            if process.returncode == 0 and lines:
                return json.loads(lines[-1])
            told.seek(0)
            last = (told.read().strip().splitlines() or ["no message"])[-1]
            error = f"status {process.returncode}: {last[:200]}"
        finally:
            kill_group(process)
    return {"contender": label, "table": name, "seed": seed, "error": error}


def kill_group(process: subprocess.Popen[str]) -> None:
    """End a process, and all that it has started and left."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    process.wait()


def prepare(environment: Environment) -> None:
    """Make an environment if it is missing or older than its requirements."""
    if environment.requirements is None:
        if not environment.python.exists():
            raise SystemExit(f"{environment.folder.name} is missing: `make test` makes it")
        return
    sources = [path for path in (environment.requirements, environment.overrides) if path]
    ready = environment.folder / ".ready"
    newest = max(path.stat().st_mtime for path in sources)
    if ready.exists() and ready.stat().st_mtime >= newest:
        return
    own = PRODUCT.folder / "bin"
    install = [str(ROOT / "scripts" / "uv"), "pip", "install", "--compile-bytecode", "--quiet"]
    install += ["--python", str(environment.python), "-r", str(environment.requirements)]
    if environment.overrides:
        install += ["--override", str(environment.overrides)]
    if not environment.python.exists():
        call([str(own / "python"), "-m", "venv", "--without-pip", str(environment.folder)])
    call(install, env={**os.environ, "UV_BIN": str(own)})
    ready.touch()


def call(command: Sequence[str], **keywords: Any) -> None:
    """Run a command that is shown."""
    progress(" ".join(command))
    subprocess.run(command, check=True, **keywords)


def progress(text: str) -> None:
    """Tell a waiting person what goes on, beside the results."""
    print(f"  ... {text}", file=sys.stderr, flush=True)


# --- results


def read(path: Path) -> dict[Key, Row]:
    """The last line of each learner, table and seed."""
    if not path.exists():
        return {}
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    return {(row["contender"], row["table"], row["seed"]): row for row in rows}


def chosen(
    path: Path, learners: Sequence[str], tables: Sequence[str], seeds: Sequence[int] | None
) -> list[Row]:
    """The results that a report is about, in the order of learners and tables."""
    rows = [
        row
        for row in read(path).values()
        if (not learners or row["contender"] in learners)
        and row["table"] in tables
        and (seeds is None or row["seed"] in seeds)
    ]
    if not rows:
        raise SystemExit(f"no such results in {path}: run without --report first")
    order = list(LEARNERS)
    return sorted(
        rows,
        key=lambda row: (
            [place for place, name in enumerate(order) if row["contender"].startswith(name)][-1:],
            row["contender"],
            TABLES.index(row["table"]),
            row["seed"],
        ),
    )


class Results:
    """Rows of learners, paired by table and seed."""

    def __init__(self, rows: Iterable[Row]) -> None:
        self.of: dict[str, dict[tuple[str, int], Row]] = defaultdict(dict)
        self.failed: list[Row] = []
        for row in rows:
            if "error" in row:
                self.failed.append(row)
            else:
                self.of[row["contender"]][row["table"], row["seed"]] = row
        self.learners = list(self.of)
        self.tables = [name for name in TABLES if any(name == t for t, _ in self.keys())]

    def keys(self) -> Iterator[tuple[str, int]]:
        for rows in self.of.values():
            yield from rows

    def pairs(
        self, one: str, other: str, wanted: Callable[[Row], bool] = lambda row: True
    ) -> dict[str, list[tuple[Row, Row]]]:
        """By table without a leak, the rows that both have."""
        found: dict[str, list[tuple[Row, Row]]] = defaultdict(list)
        for key, row in self.of[one].items():
            if key in self.of[other] and not key[0].endswith(LEAKY) and wanted(row):
                found[key[0]].append((row, self.of[other][key]))
        return dict(found)

    def loss_ratio(self, one: str, other: str) -> tuple[float, int, int]:
        """Geometric mean of the ratios of log losses, with the numbers of tables and pairs."""
        pairs = self.pairs(one, other)
        return mean_ratio(pairs), len(pairs), sum(map(len, pairs.values()))


def mean_ratio(pairs: dict[str, list[tuple[Row, Row]]], name: str = "log_loss") -> float:
    """Geometric mean over tables of the geometric means over a table's pairs."""
    by_table = [
        statistics.fmean(log(one[name] / other[name]) for one, other in found)
        for found in pairs.values()
    ]
    return exp(statistics.fmean(by_table)) if by_table else float("nan")


def report(rows: Sequence[Row], path: Path) -> None:
    """Print Markdown."""
    results = Results(rows)
    own = [name for name in results.learners if name.startswith(OWN)]
    print(f"## Learners of tables, one core each\n\nFrom `{path.name}`: {versions(rows)}.\n")
    report_losses(results)
    report_summary(results)
    for name in own:
        report_against(results, name, [peer for peer in results.learners if peer not in own])
    if results.failed:
        print("### Failures\n")
        table(
            ["learner", "table", "seed", "error"],
            [[row[name] for name in ("contender", "table", "seed", "error")]
             for row in results.failed],
        )  # fmt: skip


def report_losses(results: Results) -> None:
    """Mean log loss by table and learner."""
    print("### Log loss\n")
    print(
        "Mean over the splits, whose number is in brackets; the least is bold. Means over "
        "different splits do not compare (`--seeds 0` reports the split that all have); the "
        "summaries below are paired, split by split.\n"
    )
    lines = []
    for name in results.tables:
        losses = {
            learner: [row["log_loss"] for (t, _), row in found.items() if t == name]
            for learner, found in results.of.items()
        }
        means = {learner: statistics.fmean(found) for learner, found in losses.items() if found}
        best = min(means.values())
        size = next(
            row["num_train"] for found in results.of.values()
            for (t, _), row in found.items() if t == name
        )  # fmt: skip
        cells = [
            ""
            if learner not in means
            else f"{bold(f'{means[learner]:.4f}', means[learner] == best)} ({len(losses[learner])})"
            for learner in results.learners
        ]
        lines.append([name, f"{size:,}", *cells])
    table(["table", "rows to learn from", *results.learners], lines)


def report_summary(results: Results) -> None:
    """One line for each learner, over all tables but the leaky."""
    common = set.intersection(*(set(found) for found in results.of.values()))
    common = {key for key in common if not key[0].endswith(LEAKY)}
    ranks: dict[str, list[int]] = defaultdict(list)
    for key in common:
        losses = [results.of[learner][key]["log_loss"] for learner in results.learners]
        for learner, loss in zip(results.learners, losses, strict=True):
            ranks[learner].append(1 + sum(other < loss for other in losses))
    print(
        f"### Summary, without the leaky table\n\nRatios and differences are to `{BASE}`, ", end=""
    )
    print(f"paired by table and split; ranks are over the {len(common)} splits that all have.\n")
    lines = []
    for learner in results.learners:
        found = [r for (name, _), r in results.of[learner].items() if not name.endswith(LEAKY)]
        ratio, tables, pairs = results.loss_ratio(learner, BASE) if BASE in results.of else (0,) * 3
        paired = [pair for p in results.pairs(learner, BASE).values() for pair in p]
        auc = statistics.fmean(a["roc_auc"] - b["roc_auc"] for a, b in paired) if paired else None
        fits = {
            is_large: [r["fit_seconds"] for r in found if (r["num_train"] >= LARGE) == is_large]
            for is_large in (False, True)
        }
        lines.append([
            learner,
            f"{tables} / {pairs}",
            f"{ratio:.4f}" if pairs else "",
            f"{statistics.fmean(ranks[learner]):.2f}" if ranks[learner] else "",
            f"{auc:+.4f}" if auc is not None else "",
            *(f"{statistics.median(f):.3g}" if f else "" for f in fits.values()),
            f"{statistics.fmean(r['fit_seconds'] for r in found):.3g}" if found else "",
            f"{statistics.median(r['row_ms'] for r in found):.3g}" if found else "",
            f"{statistics.median(r['predict_1k_ms'] for r in found):.3g}" if found else "",
        ])  # fmt: skip
    table(
        ["learner", "tables / splits", "log loss ratio", "mean rank", "AUC difference",
         f"median fit s, < {LARGE:,} rows", f"median fit s, >= {LARGE:,}", "mean fit s",
         "one row ms", "1,000 rows ms"],
        lines,
    )  # fmt: skip


def report_against(results: Results, own: str, peers: Sequence[str]) -> None:
    """What a way of chopmark loses and saves against each peer, and where it wins."""
    peers = [peer for peer in peers if results.pairs(own, peer)]
    print(
        f"### {own} against each\n\nPaired by table and split. Below 1, the log loss of {own} is "
    )
    print("the smaller one; a time ratio says how often its fit fits into theirs.\n")
    sizes = (lambda row: row["num_train"] < LARGE, lambda row: row["num_train"] >= LARGE)
    lines = []
    for peer in peers:
        ratio, tables, pairs = results.loss_ratio(own, peer)
        scores = [mean_ratio({name: found}) for name, found in results.pairs(own, peer).items()]
        wins, losses = sum(s < 1 - TIE for s in scores), sum(s > 1 + TIE for s in scores)
        times = []
        for wanted in sizes:
            found = [pair for p in results.pairs(own, peer, wanted).values() for pair in p]
            times += fit_ratios(found)
        rows = [a for p in results.pairs(peer, own).values() for a in p]
        per_row = statistics.median(a["row_ms"] / b["row_ms"] for a, b in rows)
        lines.append(
            [peer, f"{tables} / {pairs}", f"{ratio:.4f}", wins, len(scores) - wins - losses,
             losses, *times, f"{per_row:,.0f}x"]
        )  # fmt: skip
    small, large = f"< {LARGE:,} rows", f">= {LARGE:,}"
    table(
        ["against", "tables / splits", "log loss ratio", "tables won", "even", "lost",
         f"fit, median, {small}", f"fit, total, {small}", f"fit, median, {large}",
         f"fit, total, {large}", "one row"],
        lines,
    )  # fmt: skip
    print(f"Log loss of {own} over theirs by table; bold where it wins by more than {TIE:.1%}.\n")
    by_peer = {peer: results.pairs(own, peer) for peer in peers}
    lines = []
    for name in (name for name in results.tables if any(name in p for p in by_peer.values())):
        cells = []
        for pairs_by_table in by_peer.values():
            ratio = mean_ratio({name: pairs_by_table[name]}) if name in pairs_by_table else None
            cells.append("" if ratio is None else bold(f"{ratio:.4f}", ratio < 1 - TIE))
        lines.append([name, *cells])
    table(["table", *peers], lines)


def fit_ratios(pairs: Sequence[tuple[Row, Row]]) -> list[str]:
    """How often ours fits into theirs: the median over pairs, and of the totals."""
    if not pairs:
        return ["", ""]
    ours, theirs = ([pair[place]["fit_seconds"] for pair in pairs] for place in (0, 1))
    if not all(ours):
        return ["", ""]
    median = statistics.median(b / a for a, b in zip(ours, theirs, strict=True))
    return [f"{median:.3g}x", f"{sum(theirs) / sum(ours):.3g}x"]


def versions(rows: Iterable[Row]) -> str:
    """All versions that took part."""
    known: dict[str, set[str]] = defaultdict(set)
    for row in rows:
        for name, number in row.get("versions", {}).items():
            known[name].add(number)
    return ", ".join(
        f"{name} {' and '.join(sorted(numbers))}" for name, numbers in sorted(known.items())
    )


def bold(text: str, is_bold: bool) -> str:
    return f"**{text}**" if is_bold else text


def table(head: Sequence[str], lines: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table, numbers to the right."""
    number = re.compile(r"\**[-+]?[\d.,]+.*")
    sides = [
        "---:" if lines and all(number.match(str(line[place]) or "0") for line in lines) else "---"
        for place in range(len(head))
    ]
    for line in (head, sides, *lines):
        print("| " + " | ".join(str(cell) for cell in line) + " |")
    print(flush=True)


if __name__ == "__main__":
    main()

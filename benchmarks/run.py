"""Run the benchmarks, all or those named, and put their tables into one page.

Each is a script of its own with options of its own; here they run as they are, one after the
other. The page is printed and kept as `build/benchmarks.md`. One that fails leaves its error
in the page, the others go on, and the exit status is 1.
"""

import os
import subprocess
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter

from machine import BUILD, parser, progress

HERE = Path(__file__).resolve().parent
PAGE = BUILD.parent / "benchmarks.md"


@dataclass(frozen=True, slots=True)
class Script:
    """A benchmark: its file, which prints markdown, and what it measures."""

    file: str
    about: str


SCRIPTS = {
    "assess": Script("assess.py", "Engine.assess in process"),
    "http": Script("http_assess.py", "the service over HTTP, beside a FastAPI twin"),
    "score_row": Script("score_row.py", "one row from dict to score, beside LightGBM"),
    "replay": Script("replay.py", "features for training, beside DuckDB and Polars"),
    "parity": Script("parity.py", "bits in which training and served rows differ"),
    "start": Script("start.py", "start, memory and restart of the service"),
    "easyml": Script("easyml.py", "EasyML: first model, middling table, scorer's process, stages"),
    "encode": Script("encode.py", "typed processing on one core and on two"),
    "shap": Script("shap.py", "Shapley values, beside LightGBM"),
    "rules": Script("rules.py", "rules beside other engines, 2,000 rules, hot swap, backtest"),
    "judging": Script("rule_judging.py", "rules judged on a labelled past, beside Polars"),
    "decisions": Script("decision_parity.py", "decisions live, replayed, audited, backtested"),
    "damping": Script("damping.py", "limit changes and reversals of damped scores"),
    "readouts": Script("readouts.py", "fraud rates read early, beside what came in the end"),
    "audit": Script("audit.py", "the chain of hashes: append and verify"),
    "histories": Script("histories.py", "histories, time features and aggregates; memory"),
    "targeting": Script("targeting.py", "a campaign for a new asset, beside a heuristic"),
    "simulator": Script("simulator.py", "the simulated exchange"),
}


def main() -> None:
    """Run the scripts and write the page."""
    arguments = parser(__doc__)
    names = ", ".join(SCRIPTS)
    arguments.add_argument("names", nargs="*", metavar="NAME", help=f"of {names}; all by default")
    given = arguments.parse_args()
    unknown = sorted(set(given.names) - set(SCRIPTS))
    if unknown:
        arguments.error(f"expected names of {names}; got {', '.join(unknown)}")
    chosen = {name: SCRIPTS[name] for name in given.names or SCRIPTS}
    PAGE.parent.mkdir(parents=True, exist_ok=True)
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M")
    failed = []
    with open(PAGE, "w", encoding="utf-8") as page:
        _tell(page, f"# Benchmarks, {made} UTC\n\n")
        for place, (name, script) in enumerate(chosen.items(), start=1):
            progress(f"[{place}/{len(chosen)}] {name}: {script.about}")
            began = perf_counter()
            status = run(script, page)
            progress(f"[{place}/{len(chosen)}] {name}: {perf_counter() - began:.0f} s")
            if status:
                failed.append(name)
                _tell(page, f"\n**{name} ended with status {status}.**\n\n")
    progress(f"the page is {PAGE}" + (f"; failed: {', '.join(failed)}" if failed else ""))
    raise SystemExit(1 if failed else 0)


def run(script: Script, page) -> int:  # type: ignore[no-untyped-def]
    """Copy what a script prints to the terminal and to the page; its exit status."""
    command = f"python benchmarks/{script.file}"
    _tell(page, f"`{command}`\n\n")
    process = subprocess.Popen(
        [sys.executable, str(HERE / script.file)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=HERE.parent,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    assert process.stdout is not None
    for line in process.stdout:
        _tell(page, line)
    return process.wait()


def _tell(page, text: str) -> None:  # type: ignore[no-untyped-def]
    print(text, end="", flush=True)
    page.write(text)
    page.flush()


if __name__ == "__main__":
    main()

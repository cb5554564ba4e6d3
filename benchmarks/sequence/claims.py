"""The text's claims about pretexts and uses, judged on every task of the suite.

    python benchmarks/sequence/claims.py --folder FOLDER                 pretexts, about an hour
    python benchmarks/sequence/claims.py --folder FOLDER --seeds 0 --fine  and fine-tuning
    python benchmarks/sequence/claims.py --seeds                         prints what is there

One recurrent network of width 64, pre-trained in turn on pairs, on masked tokens, as BERT and on
our own mixture, with the same steps of the same number of events; then `foundation.suite` fits
the uses of each frozen embedding with few and with all labels. Sets in which nothing but time
tells are left out: they judge encoders, not pretexts. Intervals are Student's t over the tasks.
Results go to build/benchmarks/claims.jsonl, and what is there already is not run again.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import polars as pl
from machine import BUILD, parser, progress, report, table

RESULTS = BUILD / "claims.jsonl"
PRETEXTS = ("pairs", "masked", "bert", "mixed")
FROZEN = ("positives only", "centroids", "probe", "trees")


def main() -> None:
    """Run what is missing, then print a line for each claim and each task."""
    arguments = parser(__doc__)
    arguments.add_argument("--folder", help="of the public sets; else as CHOPMARK_DATA says")
    arguments.add_argument("--seeds", type=int, nargs="*", default=[0, 1])
    arguments.add_argument("--steps", type=int, default=150)
    arguments.add_argument("--pretexts", nargs="+", default=list(PRETEXTS), choices=PRETEXTS)
    arguments.add_argument("--fine", action="store_true", help="fine-tune the mixture as well")
    given = arguments.parse_args()
    with report("Claims about models of histories"):
        if given.seeds:
            _run(given.folder, given.seeds, given.steps, given.pretexts, fine=given.fine)
        _print()


def _run(
    folder: str | None, seeds: list[int], steps: int, pretexts: list[str], *, fine: bool
) -> None:
    from chopmark.foundation import UserModel, run_suite
    from chopmark.foundation.suitetasks import suite_sets
    from chopmark.sequence import Pace, Shape

    sets = [one for one in suite_sets(folder) if not one.name.startswith("rhythm")]
    shape = Shape(kind="recurrent", width=64, depth=1)
    for one in sets:
        for pretext in pretexts:
            candidate = UserModel(
                shape=shape, task=pretext, pace=Pace(steps=steps, rate=4e-3), budget=6_144
            )
            run_suite(
                candidate,
                RESULTS,
                name=pretext,
                sets=[one],
                seeds=seeds,
                budgets=(200, 1_000, None),
                methods=(*FROZEN, "fine-tuned") if fine and pretext == "mixed" else FROZEN,
                on_progress=lambda what, _, __, pretext=pretext: progress(f"{pretext}: {what}"),
            )


def _print() -> None:
    from chopmark.foundation import read_results
    from chopmark.report.suite import claims, compare

    results = read_results(RESULTS)
    for claim in claims(results):
        print(f"- **{claim.text}** {claim.judgement}. {claim.told}")
    print()
    there = [name for name in PRETEXTS if name in results["candidate"].unique()]
    lines = []
    for other in there:
        if other != "pairs" and "pairs" in there:
            for gain in compare(results, candidate="pairs", baseline=other).overall:
                low, high = 100 * gain.gain.low, 100 * gain.gain.high
                told = f"{100 * gain.gain.value:+.2f} ({low:+.2f} to {high:+.2f})"
                lines.append((f"pairs less {other}", gain.method, gain.num_tasks, told))
    table(["ROC-AUC, points", "use", "tasks", "mean (95 %)"], lines)
    print()
    frozen = results.filter(pl.col("method").is_in(["probe", "trees"]))
    means = frozen.group_by("task", "candidate", maintain_order=True).agg(pl.col("roc_auc").mean())
    wide = means.pivot("candidate", index="task", values="roc_auc").select("task", *there)
    table(
        ["task, probe and trees", *there],
        [(row[0], *(f"{area:.4f}" for area in row[1:])) for row in wide.drop_nulls().rows()],
    )


if __name__ == "__main__":
    main()

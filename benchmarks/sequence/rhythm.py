"""Histories in which only time tells: the seed's encoder, and ours.

    python benchmarks/sequence/rhythm.py                      the rule "age", a few minutes
    python benchmarks/sequence/rhythm.py --rule returns --epochs 80

4,000 users of `chopmark.datasets.rhythm`, the same for all: 75 % to learn from and stop by, 25 % to
judge. Types, counts and order are the same for both labels; the best possible ROC-AUC is 0.99.
"""

import sys
from pathlib import Path
from time import perf_counter

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import polars as pl
from machine import parser, progress, table

SHAPES = ("recurrent", "transformer", "seed")


def main() -> None:
    """Print a line for each encoder."""
    arguments = parser(__doc__)
    arguments.add_argument("--rule", default="age", choices=["age", "returns", "bursts"])
    arguments.add_argument("--epochs", type=float, default=40.0)
    arguments.add_argument("--users", type=int, default=4_000)
    arguments.add_argument("--encoders", nargs="+", default=["recurrent", "seed"], choices=SHAPES)
    given = arguments.parse_args()
    from chopmark.datasets.rhythm import rhythm
    from chopmark.histories import Histories
    from chopmark.models.metrics import roc_auc
    from chopmark.sequence import Pace, Seq2Win, Shape

    data = rhythm(given.users, rule=given.rule, seed=0)
    histories = Histories.from_frame(data.events)
    rows = data.rows(data.tasks[0])
    pieces = histories.slices(rows["user"], rows["as_of"])
    labelled = rows.select("label", "split").with_columns(pieces.to_lists().alias("history"))
    unseen = pl.col("split") == "test"
    lines = []
    for kind in given.encoders:
        progress(f"{kind} ...")
        began = perf_counter()
        shape = Shape() if kind == "recurrent" else Shape(kind=kind, width=64, depth=2, length=64)
        model = Seq2Win(shape=shape, epochs=given.epochs, pace=Pace(steps=3_000, rate=4e-3))
        model.fit(labelled.filter(~unseen).drop("split"), target="label")
        seconds = perf_counter() - began
        test = labelled.filter(unseen)
        area = roc_auc(test["label"].to_numpy(), model.score(test))
        lines.append((kind, model.training["steps"], f"{seconds:.0f}", f"{area:.3f}"))
    table(["encoder", "steps", "s", "ROC-AUC, unseen"], lines)


if __name__ == "__main__":
    main()

"""Blends against their parts: log loss on rows that nothing has learned from.

Run: .venv/bin/python benchmarks/blend.py --data FOLDER [TABLE ...]

FOLDER holds one Parquet file per table, with the label in `target`. 30 % of the rows, drawn
by label with seed 0, are the test rows. Prints a table in Markdown: each part fitted to all
training rows, the cross-fitted blend, and the blend of a split.
"""

import os
import time
from pathlib import Path

import numpy as np
import polars as pl
from machine import parser

from chopmark.blend import EasyBlend
from chopmark.models import Model
from chopmark.models.metrics import log_loss
from chopmark.models.splits import stratified
from chopmark.tabular import EasyML

TABLES = (
    "titanic",
    "german_credit",
    "compas_recid",
    "credit_data",
    "lending_club",
    "online_shoppers",
)
PARTS = {"trees": EasyML(model="trees"), "linear": EasyML(model="linear")}


def main() -> None:
    """Print log losses, and the seconds of each fit."""
    arguments = parser(__doc__)
    arguments.add_argument("tables", nargs="*", default=TABLES, help="names of Parquet files")
    arguments.add_argument(
        "--data",
        type=Path,
        default=os.environ.get("CHOPMARK_DATA"),
        required="CHOPMARK_DATA" not in os.environ,
        help="folder of the tables; or set CHOPMARK_DATA",
    )
    arguments.add_argument("--seed", type=int, default=0, help="of the split and the folds")
    chosen = arguments.parse_args()
    names = (*PARTS, "cross-fitted", "split", "split, linear")
    print("| table | training rows |", " | ".join(names), "| weights |")
    print("|---|---|" + "---|" * (len(names) + 1))
    ratios = []
    for table in chosen.tables:
        losses = _line(table, pl.read_parquet(chosen.data / f"{table}.parquet"), chosen.seed)
        ratios.append(np.array(losses[len(PARTS) :]) / min(losses[: len(PARTS)]))
    means = np.exp(np.mean(np.log(ratios), axis=0))
    print()
    for name, mean in zip(names[len(PARTS) :], means, strict=True):
        print(f"{name}: {mean:.4f} of the best part's log loss (geometric mean)")


def _line(name: str, table: pl.DataFrame, seed: int) -> list[float]:
    split = stratified(table["target"], test_share=0.3, seed=seed)
    train, test = table[split.train], table[split.test]
    models: list[Model] = [
        *(EasyML(model=family) for family in PARTS),
        EasyBlend(PARTS, seed=seed),
        EasyBlend(PARTS, seed=seed, mode="split"),
        EasyBlend(PARTS, seed=seed, mode="split", second="linear"),
    ]
    losses, cells = [], []
    for model in models:
        # The rows to judge by teach nothing, and a split then holds out no third part for them.
        valid = {"valid": test} if isinstance(model, EasyBlend) and model.mode == "split" else {}
        began = time.perf_counter()
        model.fit(train, target="target", **valid)
        seconds = time.perf_counter() - began
        losses.append(log_loss(test["target"], model.score(test)))
        cells.append(f"{losses[-1]:.4f} ({seconds:.0f} s)")
    blend = models[len(PARTS)]
    weights = ", ".join(f"{part} {weight:.2f}" for part, weight in blend.weights.items())
    print(f"| {name} | {train.height:,} |", " | ".join(cells), f"| {weights} |", flush=True)
    return losses


if __name__ == "__main__":
    main()

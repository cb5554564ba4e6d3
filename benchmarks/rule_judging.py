"""Rules judged on history, and rules mined from it: rows a second, and seconds.

    judge     50 rules over 1 M rows at three densities of hits, from the matrix of hits to all
              figures, overlaps and weeks; and the same by a group-by in Polars per rule, which
              lacks the overlaps
    suggest   rules mined from purchases of the simulated exchange, and what they catch
    noise     tables whose labels are pure noise (seeds 0 to 199, of users and of rows): in how
              many of them a rule is suggested, at the default level and at laxer ones

Run: .venv/bin/python benchmarks/rule_judging.py [judge] [suggest] [noise]
"""

from argparse import Namespace
from time import perf_counter

import numpy as np
import polars as pl
from machine import goal, number, parser, progress, ratio, report, runs, table, timed

from chopmark.datasets import simulate
from chopmark.features import training_table
from chopmark.pipelines.exchange import LABEL, application
from chopmark.rules.judging import BAD, GOOD, History, history, history_of_table, judge
from chopmark.rules.suggestions import suggest_rules, suggest_threshold
from chopmark.times import DAY, instant

GOAL_ROWS = 1.5e6
"""Rows a second of a whole backtest of 50 rules on 2 cores; judging is a part of it."""


def main(options: Namespace) -> None:
    """Print a table for each part."""
    with report("Rules on history"):
        for name, part in PARTS.items():
            if not options.parts or name in options.parts:
                part(options)


def _judging(options: Namespace) -> None:
    size, num_rules = options.rows, options.rules
    rng = np.random.default_rng(0)
    labels = np.where(rng.random(size) < 0.1, -1, rng.random(size) < 0.02)
    times = instant("2026-01-01T00:00:00Z") + rng.integers(180 * DAY, size=size)
    users = rng.integers(size // 5, size=size)
    matured, amounts = rng.random(size) < 0.9, rng.lognormal(4, 1, size)
    made, _ = timed(lambda: history(labels, matured, amounts, users, times))
    past = history(labels, matured, amounts, users, times)
    print(f"A history of {size:,} rows is made once in {made:.2f} s.\n")
    lines = []
    for density in (0.01, 0.14, 0.5):
        progress(f"{num_rules} rules that hit {density:.0%} of the rows")
        hits = rng.random((size, num_rules), dtype=np.float32) < density
        judge(hits[:100], past.take(np.arange(100)))
        walls, cpus, peers = [], [], []
        for _ in range(options.rounds):
            wall, cpu = timed(lambda hits=hits: judge(hits, past))
            walls.append(wall)
            cpus.append(cpu)
            peers.append(timed(lambda hits=hits: _by_polars(hits, past))[0])
        ours = runs(walls)
        lines.append(
            [
                f"{density:.0%}", ours.text(unit=" s"), runs(cpus).text(unit=" s"),
                f"{number(size / ours.median / 1e6)} M", runs(peers).text(unit=" s"),
                ratio(ours, runs(peers)).text(unit="x"),
                goal(size / ours.median, GOAL_ROWS, least=True),
            ]
        )  # fmt: skip
    head = [
        "hit rate",
        "clock",
        "processor",
        "rows/s",
        "Polars",
        "Polars / ours",
        ">= 1.5 M rows/s",
    ]
    table(head, lines)


def _by_polars(hits: np.ndarray, past: History) -> list[pl.DataFrame]:
    """Counts, money and users of each rule by status, and hits by week."""
    frame = pl.DataFrame(
        {
            "status": past.status,
            "usd": past.amounts_usd,
            "user": past.users,
            "week": past.weeks,
            **{f"r{k}": hits[:, k] for k in range(hits.shape[1])},
        }
    ).lazy()
    asked = []
    for k in range(hits.shape[1]):
        hit = frame.filter(pl.col(f"r{k}"))
        money = pl.col("usd").sum()
        asked.append(hit.group_by("status").agg(pl.len(), money, pl.col("user").n_unique()))
        asked.append(hit.group_by("week", "status").agg(pl.len()))
    return pl.collect_all(asked)


def _suggesting(options: Namespace) -> None:
    progress("the exchange")
    simulation = simulate(num_users=options.users, days=120, seed=0, fraud_scale=3.0)
    own = application()
    catalog = own.catalog
    rows = training_table(catalog, [list(simulation.events())], rows=("purchase",), label=LABEL)
    about = simulation.frame("purchase").select(pl.col("id").alias("event_id"), "user")
    truth = simulation.purchase_truth.rename({"id": "event_id"})
    for frame in (about, truth):
        rows = rows.join(frame, on="event_id", how="left", maintain_order="left")
    past = history_of_table(rows)
    # What the policy has done is no pattern of fraud.
    names = [name for name in catalog.names if name not in own.own]
    began = perf_counter()
    found = suggest_rules(rows, past, features=names, kinds=catalog.kinds)
    took = perf_counter() - began
    num_bad, num_good = ((past.status == kind).sum() for kind in (BAD, GOOD))
    tried = found[0].num_tried if found else 0
    print(
        f"{len(found)} rules from {num_good + num_bad:,} purchases, {num_bad:,} of them bad, and "
        f"{len(names)} features: {tried:,} conjunctions in {took:.1f} s.\n"
    )
    lines = []
    for rule in found:
        caught = rows.filter(pl.Series(rule.hits & (past.status == BAD)))["scenario"]
        name, count = caught.value_counts(sort=True).row(0)
        held = rule.held_out
        judged = held.true_positives + held.false_positives
        lines.append(
            [f"`{rule.text}`", f"{held.true_positives} of {judged}", f"{rule.lift:.1f}x",
             f"{held.bad_usd:,.0f} USD", held.good_users, f"{rule.p_value:.0e}",
             f"{name}, {count / len(caught):.0%}"]
        )  # fmt: skip
    table(
        ["rule", "bad among held-out hits", "lift", "stopped", "good users hurt", "p",
         "mostly of scenario"], lines,
    )  # fmt: skip
    numeric = [name for name in names if rows[name].dtype.is_numeric()]
    began = perf_counter()
    for name in numeric:
        values = rows[name].cast(pl.Float64).fill_null(np.nan).to_numpy()
        suggest_threshold(values, past, feature=name)
    print(f"Thresholds of {len(numeric)} features in {perf_counter() - began:.1f} s.")


def _noise(options: Namespace) -> None:
    lines = []
    tables = options.tables
    for level in (0.01, 0.05, 0.5):
        found = {"users": 0, "rows": 0}
        progress(f"noise at level {level}")
        began = perf_counter()
        for seed in range(tables):
            for owner in found:
                rows, past = _of_noise(seed, owner)
                # However imprecise a rule may be: only the test of chance holds it back.
                found[owner] += bool(
                    suggest_rules(rows, past, least_precision=0.0, level=level, seed=seed)
                )
        lines.append(
            [level, f"{found['users']} of {tables}", f"{found['rows']} of {tables}",
             f"{sum(found.values()) / (2 * tables):.1%}", f"{perf_counter() - began:.0f} s"]
        )  # fmt: skip
    table(["level", "users bad by chance", "rows bad by chance", "wrong", "time"], lines)


def _of_noise(seed: int, owner: str) -> tuple[pl.DataFrame, History]:
    """1,500 users with about six thousand rows, alike within a user; one in twenty is bad."""
    rng = np.random.default_rng(seed)
    num_users = 1_500
    num_rows = rng.geometric(0.25, num_users)
    users = np.repeat(np.arange(num_users), num_rows)
    size = len(users)
    columns = {
        f"x{k}": rng.normal(size=num_users)[users] + 0.3 * rng.normal(size=size) for k in range(8)
    }
    columns["issuer"] = rng.integers(30, size=num_users)[users].astype(str)
    columns["num_rows"] = num_rows[users].astype(float)
    bad_users, bad_rows = rng.random(num_users) < 0.05, rng.random(size) < 0.05
    labels = (bad_users[users] if owner == "users" else bad_rows).astype(int)
    past = history(labels, np.ones(size), np.full(size, 50.0), users, np.zeros(size, dtype=int))
    return pl.DataFrame(columns), past


PARTS = {"judge": _judging, "suggest": _suggesting, "noise": _noise}

if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("parts", nargs="*", choices=list(PARTS), help="all by default")
    arguments.add_argument("--tables", type=int, default=200, help="of noise")
    arguments.add_argument("--rows", type=int, default=1_000_000)
    arguments.add_argument("--rules", type=int, default=50)
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--users", type=int, default=6_000, help="of the simulated exchange")
    main(arguments.parse_args())

"""Smart Targeting on a new asset: who engages within five days, against chance and a heuristic.

Each seed is a simulated exchange (`chopmark.datasets.campaigns`) with a newly listed asset of
which nobody has heard. Every strategy has the same users, budget and cap, and a user who is
notified on a day answers all strategies alike, so they are compared in pairs:

random      users drawn by chance
heuristic   active in the last 7 days and holding over 100 dollars, else by chance
aggregates  Smart Targeting: trees on hand-made aggregates, first day and a share all days random
choices     the same with a line through what users choose, learned without labels, and when
best        who knows the true chances: what cannot be reached, for scale

`--learner MODULE:FUNCTION` adds another, named after the function: it is called as
`FUNCTION(events, seed)` with the frame of all events of the campaign (those after a row's
`as_of` must not be read) and gives a learner as `SmartTargeting` takes it. MODULE is imported
with this folder and the current one on the path. Intervals are of a paired bootstrap over seeds.
Each seed is kept in build/benchmarks/targeting.jsonl, and the tables are of all seeds there that
were run with the same settings and strategies; `--seeds 0` prints them and runs nothing.

Run: .venv/bin/python benchmarks/targeting.py [--seeds 20] [--first 0] [--learner MODULE:FUNCTION]
"""

import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from machine import BUILD, goal, number, parser, progress, report, table

from chopmark.datasets.campaigns import Campaign, hand_picked
from chopmark.foundation import (
    LinearLearner,
    SmartTargeting,
    TreeLearner,
    aggregates_of,
    at_random,
    beside,
    by_rule,
    choices_of,
    habits_of,
)
from chopmark.histories import Histories
from chopmark.report.campaign import make_campaign

GOAL = 2.0
"""Engaged over the heuristic's, asked of the foundation learner."""

OWN = ("random", "heuristic", "aggregates", "choices", "best")
"""Strategies that always take part."""

RESULTS = BUILD / "targeting.jsonl"


@dataclass(frozen=True, slots=True)
class Strategy:
    """How a campaign is run."""

    learner: object
    explore: float
    least_engaged: int


def main() -> None:
    """Print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--seeds", type=int, default=20)
    arguments.add_argument("--first", type=int, default=0, help="the first seed")
    arguments.add_argument("--users", type=int, default=20_000)
    arguments.add_argument("--days", type=int, default=5)
    arguments.add_argument("--budget", type=int, default=500, help="messages per day")
    arguments.add_argument("--explore", type=float, default=0.1, help="share of the budget")
    arguments.add_argument("--learner", action="append", default=[], metavar="MODULE:FUNCTION")
    given = arguments.parse_args()
    sys.path[:0] = [str(Path(__file__).parent), str(Path.cwd())]
    makers = {name.partition(":")[2]: _maker(name) for name in given.learner}
    settings = [given.users, given.days, given.budget, given.explore]
    title = f"Smart Targeting, {given.users:,} users, {given.budget} messages a day"
    with report(title):
        for seed in range(given.first, given.first + given.seeds):
            began = perf_counter()
            campaign = Campaign(given.users, days=given.days, seed=seed)
            row = {"seed": seed, "settings": settings, "engaged": {}, "inside": {}}
            for name, strategy in _strategies(campaign, seed, given.explore, makers).items():
                sent = _played(campaign, strategy, budget=given.budget, seed=seed)
                counts = sent.group_by("day").agg(pl.col("engaged").sum()).sort("day")
                row["engaged"][name] = counts["engaged"].to_list()
                if strategy.explore:
                    row["inside"][name] = _covered(campaign, sent)
            told = {name: sum(days) for name, days in row["engaged"].items()}
            progress(f"seed {seed}, {perf_counter() - began:.0f} s: {told}")
            with RESULTS.open("a") as file:
                file.write(json.dumps(row) + "\n")
        _print(_kept(settings, {*OWN, *makers}))


def _kept(settings: list[float], names: set[str]) -> list[dict[str, Any]]:
    """The last run of each seed that had these settings and strategies."""
    lines = RESULTS.read_text().splitlines() if RESULTS.exists() else []
    rows = map(json.loads, lines)
    found = {
        row["seed"]: row
        for row in rows
        if row["settings"] == settings and set(row["engaged"]) == names
    }
    return [found[seed] for seed in sorted(found)]


def _maker(name: str) -> Callable[[pl.DataFrame, int], object]:
    module, _, function = name.partition(":")
    maker: Callable[[pl.DataFrame, int], object] = getattr(
        importlib.import_module(module), function
    )
    return maker


def _strategies(
    campaign: Campaign,
    seed: int,
    explore: float,
    makers: dict[str, Callable[[pl.DataFrame, int], object]],
) -> dict[str, Strategy]:
    def knows(rows: pl.DataFrame) -> np.ndarray:
        day = (rows["as_of"][0] - campaign.as_of(0)).days
        return campaign.chances(day, rows["user"])

    events = Histories.from_frame(campaign.events)
    trees = TreeLearner(aggregates_of(events), seed=seed)
    line = LinearLearner(beside(choices_of(events), habits_of(events)))
    picked = by_rule(lambda rows: hand_picked(campaign.events, rows))
    return {
        "random": Strategy(at_random(), 0.0, 0),
        "heuristic": Strategy(picked, 0.0, 0),
        "aggregates": Strategy(trees, explore, 5),
        "choices": Strategy(line, explore, 5),
        **{
            name: Strategy(make(campaign.events, seed), explore, 5) for name, make in makers.items()
        },
        "best": Strategy(by_rule(knows), 0.0, 0),
    }


def _played(campaign: Campaign, strategy: Strategy, *, budget: int, seed: int) -> pl.DataFrame:
    targeting = SmartTargeting(
        strategy.learner,
        budget=budget,
        explore=strategy.explore,
        least_engaged=strategy.least_engaged,
        seed=seed,
    )
    for day in range(campaign.days):
        plan = targeting.plan(day, campaign.candidates(day))
        targeting.answer(day, campaign.engaged(day, plan["user"]))
    return targeting.sent


def _covered(campaign: Campaign, sent: pl.DataFrame) -> bool:
    """Whether the report's interval of the lift holds the lift of the true chances."""
    targeted = expected = 0.0
    seen: set[str] = set()
    for (day,), part in sent.group_by("day", maintain_order=True):
        best = part.filter(why="target")
        allowed = campaign.candidates(day).filter(~pl.col("user").is_in(list(seen)))
        if best.height:
            targeted += campaign.chances(day, best["user"]).sum()
            expected += best.height * campaign.chances(day, allowed["user"]).mean()
        seen |= set(part["user"])
    lift = make_campaign(sent).lift
    return bool(expected and lift.low <= targeted / expected <= lift.high)


def _print(kept: list[dict[str, Any]]) -> None:
    if not kept:
        print("no seed was run with these settings")
        return
    names = list(kept[0]["engaged"])
    engaged = {name: np.array([row["engaged"][name] for row in kept]) for name in names}
    totals = {name: days.sum(axis=1) for name, days in engaged.items()}
    inside = {name: sum(row["inside"][name] for row in kept) for name in kept[0]["inside"]}
    rows = []
    for name, days in engaged.items():
        rows.append(
            [
                name,
                number(float(totals[name].mean()), 4),
                " ".join(number(mean, 3) for mean in days.mean(axis=0)),
                _times(totals[name], totals["random"]),
                _times(totals[name], totals["heuristic"]),
                f"{int((totals[name] > totals['heuristic']).sum())} of {len(kept)}",
                f"{inside[name]} of {len(kept)}" if name in inside else "",
            ]
        )
    head = ["strategy", "engaged", "by day", "times random", "times heuristic"]
    print(f"{len(kept)} seeds.\n")
    table([*head, "seeds above the heuristic", "true lift in its interval"], rows)
    print()
    num_days = len(engaged[names[0]][0])
    days = [f"day {day + 1}" for day in range(1, num_days)]
    rows = [
        [
            name,
            _times(engaged[name][:, 1:].sum(axis=1), engaged["heuristic"][:, 1:].sum(axis=1)),
            *(
                _times(engaged[name][:, day], engaged["heuristic"][:, day])
                for day in range(1, num_days)
            ),
        ]
        for name in inside
    ]
    table(["times the heuristic, from day 2 on", "all", *days], rows)
    print()
    for name in inside:
        value = totals[name].sum() / totals["heuristic"].sum()
        told = goal(value, GOAL, least=True)
        print(f"{name}: {number(value)} times the heuristic, goal {GOAL:g}: {told}")


def _times(ours: np.ndarray, theirs: np.ndarray) -> str:
    """Ratio of the sums, and its 95 % interval by a bootstrap of the seeds, in pairs."""
    rng = np.random.default_rng(0)
    drawn = rng.integers(len(ours), size=(4_000, len(ours)))
    ratios = ours[drawn].sum(axis=1) / np.maximum(theirs[drawn].sum(axis=1), 1)
    low, high = np.quantile(ratios, [0.025, 0.975])
    return f"{ours.sum() / theirs.sum():.2f} ({low:.2f} to {high:.2f})"


if __name__ == "__main__":
    main()

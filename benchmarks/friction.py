"""Friction: a learned choice against thresholds, its estimates against the truth, and its price.

A world with four kinds of fraud (4 % of decisions in all), noisy scores of each, and amounts with
a long tail. What a decision earns follows from the registry's own effects and costs, so the true
value of every policy is known.

1. Profit per decision of each policy, learned from a uniformly explored log, as medians over
   logs. The thresholds on one score know the truth of the log's every decision (an advantage that
   nobody has), or, as the learned policy, its rewards alone.
2. How often the 95 % intervals of IPS, SNIPS and DR hold the true value over 200 runs, for a log
   that explored uniformly and for one of a learned policy that explored with epsilon 0.3.
3. Microseconds of the processor for a choice.
4. What each friction leaves of a fraudster's return.

Run: .venv/bin/python benchmarks/friction.py
"""

import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations, product
from pathlib import Path
from time import process_time_ns

import numpy as np
from machine import goal, number, parser, progress, report, runs, table
from vowpalwabbit import Workspace

from chopmark.decisions.friction import AMOUNT, FRICTIONS, RISKS, FrictionPolicy
from chopmark.decisions.frictiontable import DEFAULT_TABLE
from chopmark.decisions.learnedfriction import LearnedFriction
from chopmark.decisions.offpolicy import (
    Estimate,
    FrictionLog,
    doubly_robust,
    ips,
    snips,
    target_probabilities,
)
from chopmark.decisions.roi import DEFAULT_ECONOMICS, Attack, returns
from chopmark.lifecycle import learn_friction
from chopmark.lifecycle.bandit import CostDesign

NAMES = FRICTIONS.names
READS = (*RISKS, AMOUNT)
BASE_LOG_ODDS = np.array([-5.6, -6.0, -5.8, -6.3])
SPREAD = np.array([2.0, 1.8, 1.8, 1.6])
EVERY = np.arange(len(NAMES))
CAP_USD = 500.0
METHODS: tuple[Callable[..., Estimate], ...] = (
    lambda log, target, predicted, cap: ips(log, target, cap_usd=cap),
    lambda log, target, predicted, cap: snips(log, target, cap_usd=cap),
    lambda log, target, predicted, cap: doubly_robust(log, target, predicted, cap_usd=cap),
)


@dataclass(frozen=True, slots=True, eq=False)
class World:
    """n decisions: what is true of them, and what a policy sees.

    Attributes
    ----------
    chances : (n, 4) float64
        True probability of each risk.
    scores : (n, 4) float64
        What a model makes of it.
    amounts_usd : (n,) float64
    """

    chances: np.ndarray
    scores: np.ndarray
    amounts_usd: np.ndarray

    @classmethod
    def drawn(cls, n: int, rng: np.random.Generator) -> "World":
        """So many decisions."""
        excess = rng.normal(size=(n, 4)) * SPREAD
        odds = np.exp(BASE_LOG_ODDS + excess)
        noisy = BASE_LOG_ODDS + excess + rng.normal(size=(n, 4)) * 0.7
        logs = 5.0 + rng.normal(size=n) * 1.1 + 0.25 * excess[:, 2] + 0.1 * excess[:, 0]
        return cls(
            chances=odds / (1.0 + odds.sum(axis=1, keepdims=True)),
            scores=1.0 / (1.0 + np.exp(-noisy)),
            amounts_usd=np.clip(np.round(np.exp(logs), 2), 1.0, 20_000.0),
        )

    def rows(self) -> list[Mapping[str, float]]:
        """What a policy sees."""
        seen = np.column_stack([self.scores, self.amounts_usd])
        return [dict(zip(READS, row, strict=True)) for row in seen.tolist()]

    def expected_usd(self, cap_usd: float = np.inf) -> np.ndarray:
        """(n, frictions) true mean of the reward of each friction, capped if asked."""
        stops, gains, costs = effects()
        kinds = np.column_stack([self.chances, 1.0 - self.chances.sum(axis=1)])
        outcomes = (self.amounts_usd[:, None] * gains)[:, None, :] - costs[:, None]
        goes_on = np.clip(outcomes, -cap_usd, cap_usd) * (1.0 - stops)
        return ((goes_on - costs[:, None] * stops) * kinds[:, None, :]).sum(axis=2)

    def rewards_usd(self, actions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(n,) one drawn reward each."""
        stops, gains, costs = effects()
        luck = rng.random(len(actions))[:, None]
        kinds = (luck >= np.cumsum(self.chances, axis=1)).sum(axis=1)
        goes_on = rng.random(len(actions)) >= stops[actions, kinds]
        return goes_on * gains[kinds] * self.amounts_usd - costs[actions]


@cache
def effects() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Shares stopped (frictions, 5), gain per dollar (5,), costs; the fifth kind is good."""
    stops = [[*(friction.stopped(risk) for risk in RISKS), friction.abandonment]
             for friction in FRICTIONS]  # fmt: skip
    gains = [*(-DEFAULT_ECONOMICS.lost(risk) for risk in RISKS), DEFAULT_ECONOMICS.margin]
    return np.array(stops), np.array(gains), np.array([f.cost_usd for f in FRICTIONS])


def main(options: Namespace) -> None:
    """Print the four tables."""
    with report("Friction"):
        learned = _profits(options)
        _coverage(learned, options)
        _microseconds(learned)
        _returns()


def _profits(options: Namespace) -> LearnedFriction:
    """Profit per decision of each policy; returns what was learned from the first log."""
    test = World.drawn(options.test, np.random.default_rng(1_000))
    truth, rows = test.expected_usd(), test.rows()
    found: dict[str, list[float]] = {}
    kept: list[LearnedFriction] = []
    for seed in range(options.logs):
        progress(f"log {seed + 1} of {options.logs}")
        rng = np.random.default_rng(seed)
        world = World.drawn(options.rows, rng)
        log = _uniform_log(world, rng)
        kept.append(learn_friction(log, reads=READS, epsilon=0.0))
        one_pass = _one_pass(log)
        told = _thresholds(world, world.expected_usd())
        weighed = np.zeros((len(log), len(NAMES)))
        weighed[np.arange(len(log)), log.actions] = log.rewards_usd * len(NAMES)
        policies: dict[str, np.ndarray] = {
            **{f"always {name}": np.full(len(rows), place) for place, name in enumerate(NAMES)},
            "table, by hand": _choices(DEFAULT_TABLE, rows),
            "single-score thresholds, of the log's rewards": _ladder(
                test, *_thresholds(world, weighed)
            ),
            "single-score thresholds, told the truth": _ladder(test, *told),
            "VW --cb_adf --cb_type mtr, one pass": _choices(one_pass, rows),
            "learned (VW, L-BFGS)": _choices(kept[-1], rows),
            "best possible, told true risks": truth.argmax(axis=1),
        }
        for name, chosen in policies.items():
            found.setdefault(name, []).append(float(truth[np.arange(len(rows)), chosen].mean()))
    print(
        f"{options.logs} logs of {options.rows:,} decisions, judged on {options.test:,} others.\n"
    )
    table(
        ["policy", "USD per decision", "least", "most"],
        [
            [name, f"{np.median(v):.2f}", f"{min(v):.2f}", f"{max(v):.2f}"]
            for name, v in found.items()
        ],
    )
    gain = np.array(found["learned (VW, L-BFGS)"]) - np.array(
        found["single-score thresholds, told the truth"]
    )
    print(f"Learned over thresholds that were told the truth: {np.median(gain):.2f} USD a decision "
          f"({goal(float(np.median(gain)), 0.0, least=True)}).\n")  # fmt: skip
    return kept[0]


def _coverage(learned: LearnedFriction, options: Namespace) -> None:
    """How often the intervals hold the true value of the learned policy."""
    progress("coverage of intervals")
    pool = World.drawn(options.pool, np.random.default_rng(2_000))
    truth, rows = pool.expected_usd(), pool.rows()
    as_log = FrictionLog(
        values=rows,
        frictions=NAMES,
        actions=np.zeros(len(rows), dtype=np.int64),
        propensities=np.ones(len(rows)),
        rewards_usd=np.zeros(len(rows)),
    )
    target = target_probabilities(replace(learned, epsilon=0.05), as_log)
    explorer = learn_friction(
        _uniform_log(World.drawn(10_000, (rng := np.random.default_rng(3_000))), rng),
        reads=READS,
        num_buckets=4,
        epsilon=0.3,
    )
    predicted = -np.array([learned.costs_usd(row) for row in rows])
    loggers = {
        "uniform": np.full(target.shape, 1.0 / len(NAMES)),
        "epsilon 0.3 over a policy of 10,000 rows": target_probabilities(explorer, as_log),
    }
    value = float((target * truth).sum(axis=1).mean())
    capped = float((target * pool.expected_usd(CAP_USD)).sum(axis=1).mean())
    direct = float((target * predicted).sum(axis=1).mean())
    lines = []
    for name, logging in loggers.items():
        estimates = [
            _estimates(pool, logging, target, predicted, options.sample, run)
            for run in range(options.runs)
        ]
        for place, one in enumerate(zip(*estimates, strict=True)):
            is_capped = place >= len(METHODS)
            true = capped if is_capped else value
            values = np.array([e.value_usd for e in one])
            covered = float(np.mean([e.covers(true) for e in one]))
            judged = goal(covered, 0.93, least=True) if one[0].method != "ips" else ""
            lines.append(
                [name, one[0].method + (f", capped at {CAP_USD:,.0f} USD" if is_capped else ""),
                 f"{values.mean() - true:+.3f}", f"{values.std():.3f}",
                 f"{np.median([(e.high_usd - e.low_usd) / 2 for e in one]):.3f}",
                 number(float(np.median([e.effective_rows for e in one]))),
                 f"{covered:.1%}", judged]
            )  # fmt: skip
    print(f"True value {value:.3f} USD a decision ({capped:.3f} of capped rewards); the direct "
          f"method alone would have said {direct:.3f}. "
          f"{options.runs} runs of {options.sample:,} logged decisions.\n")  # fmt: skip
    table(
        ["log", "method", "bias", "spread", "half interval", "effective rows", "covers", ">= 93 %"],
        lines,
    )


def _estimates(
    pool: World, logging: np.ndarray, target: np.ndarray, predicted: np.ndarray, n: int, seed: int
) -> list[Estimate]:
    rng = np.random.default_rng(10_000 + seed)
    places = rng.integers(0, len(logging), n)
    probabilities = logging[places]
    actions = (rng.random(n)[:, None] >= np.cumsum(probabilities, axis=1)).sum(axis=1)
    actions = np.minimum(actions, len(NAMES) - 1)
    sample = World(pool.chances[places], pool.scores[places], pool.amounts_usd[places])
    log = FrictionLog(
        values=[{}] * n,
        frictions=NAMES,
        actions=actions,
        propensities=probabilities[np.arange(n), actions],
        rewards_usd=sample.rewards_usd(actions, rng),
    )
    return [
        method(log, target[places], predicted[places], cap)
        for cap, method in product((None, CAP_USD), METHODS)
    ]


def _microseconds(learned: LearnedFriction) -> None:
    rows = World.drawn(2_000, np.random.default_rng(4_000)).rows()
    ids = [f"purchase-{place}" for place in range(len(rows))]
    calls: dict[str, Callable[[int], object]] = {
        "table, 14 rows": lambda i: DEFAULT_TABLE.choose(rows[i]),
        "learned": lambda i: learned.choose(rows[i], event_id=ids[i], key=b"key"),
    }
    lines = []
    for name, call in calls.items():
        rounds = []
        for _ in range(15):
            began = process_time_ns()
            for i in range(len(rows)):
                call(i)
            rounds.append((process_time_ns() - began) / len(rows) / 1e3)
        measured = runs(rounds)
        judged = f"<= 5 us: {goal(measured.median, 5.0)}" if name.startswith("table") else ""
        lines.append([name, measured.text(), number(min(rounds)), judged])
    table(["choice", "us of the processor", "best round", "goal"], lines)


def _returns() -> None:
    """The fraudster's return under each friction, for one attack of each kind."""
    attacks = [
        Attack(risk="stolen_payment", amount_usd=500.0, cost_usd=30.0),
        Attack(risk="account_takeover", amount_usd=2_000.0, cost_usd=150.0),
        Attack(risk="scam_victim", amount_usd=3_000.0, cost_usd=400.0),
        Attack(risk="money_mule", amount_usd=1_000.0, cost_usd=120.0, keeps=0.2),
    ]
    found = [returns(attack, chance=0.05) for attack in attacks]
    table(
        ["friction", *(f"{a.risk}: ROI, exchange's USD" for a in attacks)],
        [
            [name, *(f"{r[i].fraudster_roi:+.2f}, {r[i].exchange_profit_usd:+.2f}" for r in found)]
            for i, name in enumerate(NAMES)
        ],
    )


def _uniform_log(world: World, rng: np.random.Generator) -> FrictionLog:
    n = len(world.amounts_usd)
    actions = rng.integers(0, len(NAMES), n)
    return FrictionLog(
        values=world.rows(),
        frictions=NAMES,
        actions=actions,
        propensities=np.full(n, 1.0 / len(NAMES)),
        rewards_usd=world.rewards_usd(actions, rng),
    )


def _choices(policy: FrictionPolicy, rows: list[Mapping[str, float]]) -> np.ndarray:
    chosen = (policy.choose(row, event_id="", key=b"").friction for row in rows)
    return np.array([NAMES.index(name) for name in chosen])


def _thresholds(world: World, values: np.ndarray) -> tuple[float, float, int, int]:
    """The two thresholds and two frictions above them of the most value on these rows."""
    score = _single(world)
    order = np.argsort(score)
    sums = np.vstack([np.zeros(len(NAMES)), np.cumsum(values[order], axis=0)])
    shares = [0.0, *np.arange(0.05, 1.0, 0.05), 0.97, 0.98, 0.99, 0.995]
    places = [int(share * len(order)) for share in shares]
    best = max(
        (sums[a, 0] + sums[b, f] - sums[a, f] + sums[-1, g] - sums[b, g], a, b, f, g)
        for (a, b), f, g in product(combinations(places, 2), EVERY.tolist(), EVERY.tolist())
    )
    _, a, b, f, g = best
    return float(score[order[a]]), float(score[order[b]]), f, g


def _ladder(world: World, low: float, high: float, middle: int, top: int) -> np.ndarray:
    score = _single(world)
    return np.where(score < low, 0, np.where(score < high, middle, top))


def _single(world: World) -> np.ndarray:
    """One score of any fraud."""
    return 1.0 - np.prod(1.0 - world.scores, axis=1)


def _one_pass(log: FrictionLog) -> LearnedFriction:
    """Vowpal Wabbit's own contextual bandit over the same features, as it comes."""
    like = learn_friction(log.rows(np.arange(5_000)), reads=READS, epsilon=0.0)
    design = CostDesign.of(like.columns, (), num_frictions=len(NAMES))
    scales = np.array([max(row[AMOUNT], like.per_least) for row in log.values])
    costs = (-log.rewards_usd / scales).tolist()
    chosen = log.actions.tolist()
    matrices = [design.matrix(log.values, np.full(len(log), place)) for place in EVERY]
    width = matrices[0].indptr[1]
    cells = [m.indices.reshape(-1, width).tolist() for m in matrices]
    ends = matrices[0].data[width - 1]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "rows"
        with open(path, "w", encoding="utf-8") as file:
            for row in range(len(log)):
                for place in EVERY.tolist():
                    *first, last = cells[place][row]
                    label = (
                        f"{place}:{costs[row]!r}:{1 / len(NAMES)} " if place == chosen[row] else ""
                    )
                    file.write(f"{label}| {' '.join(map(str, first))} {last}:{ends}\n")
                file.write("\n")
        bits = max(10, matrices[0].shape[1].bit_length() + 1)
        workspace = Workspace(
            f"--quiet --noconstant --cb_adf --cb_type mtr --bit_precision {bits} --data {path}"
        )
        weights = np.array([workspace.get_weight(i) for i in range(matrices[0].shape[1])])
        workspace.finish()
    return replace(like, terms=design.terms(weights), base_micro_usd=design.base(weights, 0.0))


if __name__ == "__main__":
    arguments = parser(__doc__)
    arguments.add_argument("--rows", type=int, default=100_000, help="decisions of a log")
    arguments.add_argument("--logs", type=int, default=5)
    arguments.add_argument("--test", type=int, default=100_000, help="decisions to judge on")
    arguments.add_argument("--pool", type=int, default=50_000, help="contexts of the coverage")
    arguments.add_argument("--sample", type=int, default=30_000, help="decisions of one run")
    arguments.add_argument("--runs", type=int, default=200)
    main(arguments.parse_args())

"""Damping of scores: limit changes, reversals and lag under noise, beside raw scores and a ratchet.

    python benchmarks/damping.py

20,000 users are scored 40 times. The log-odds of each wander a little, a noise lies upon
every scoring, and 5 % become riskier for good at one moment, by 2.5. Limits come from tiers
of scores, so that a limit that changed is one that the user sees. Every path is made by
`Damping.damp` itself, user by user.

A reversal is a change opposite to the one before: at once (in the next rescoring), within the
dwell, or ever, which counts those that the user's risk asked for too. The last column takes
the mean of the damped error away first, as a curve that is fitted to damped scores does.
"""

import numpy as np
from machine import goal, parser, progress, report, table
from numpy.typing import NDArray

from chopmark.decisions.damping import Damping
from chopmark.decisions.limits import step_curve
from chopmark.decisions.profit import limits_of

TIERS = step_curve(
    (0.0, 10_000.0), (0.005, 5_000.0), (0.01, 2_000.0), (0.02, 1_000.0), (0.05, 500.0),
    (0.1, 100.0), (0.3, 20.0),
)  # fmt: skip
RESCORINGS, JUMP, JUMP_SHARE, WANDER = 40, 2.5, 0.05, 0.05

RULES = {
    "raw": Damping(mode="none"),
    "ratchet: only if new > old + 0.05": Damping(mode="ratchet"),
    "asymmetric, landing on the raw score": Damping(cushion=0.0),
    "asymmetric (default)": Damping(),
}


def main() -> None:
    """Print the tables."""
    arguments = parser(__doc__)
    arguments.add_argument("--users", type=int, default=20_000)
    arguments.add_argument("--noise", type=float, default=0.3, help="of a score, in log-odds")
    given = arguments.parse_args()
    with report(f"Damping, {given.users:,} users, {RESCORINGS} rescorings"):
        print(f"Noise of {given.noise} in log-odds:\n")
        head = ["rule", "limit changes / user", "taken back at once", "within the dwell",
                "ever", "lag after a jump", "abs error of log limit",
                "same, curve refitted"]  # fmt: skip
        figures = {
            name: measured(rule, given.users, given.noise, seed=0) for name, rule in RULES.items()
        }
        table(head, [[name, *shown(row)] for name, row in figures.items()])
        changes, at_once, _, _, lag, _, _ = figures["asymmetric (default)"]
        table(
            ["goal", "measured", ""],
            [
                ["limit changes <= 3 a user", f"{changes:.2f}", goal(changes, 3.0)],
                ["reversals <= 0.05 a user (at once)", f"{at_once:.3f}", goal(at_once, 0.05)],
                ["lag <= 0.5 rescorings", f"{lag:.2f}", goal(lag, 0.5)],
            ],
        )
        print("The default under other noise; every later opposite change counts in `ever`:\n")
        table(
            ["noise", *head[1:]],
            [
                [noise, *shown(measured(RULES["asymmetric (default)"], given.users, noise, seed=1))]
                for noise in (0.1, 0.2, 0.3, 0.4, 0.5)
            ],
        )


def measured(rule: Damping, users: int, noise: float, *, seed: int) -> tuple[float, ...]:
    """Changes, reversals (at once, within the dwell, ever) a user; lag; error of log limits."""
    progress(f"{rule.mode}, noise {noise}")
    rng = np.random.default_rng(seed)
    truth, jumped_at = drawn(users, rng)
    raw = truth + noise * rng.standard_normal(truth.shape)
    held = np.array([path(rule, row) for row in raw.tolist()])
    limits, deserved = limits_at(held), limits_at(truth)
    moves = np.sign(np.diff(limits, axis=1))
    changes = np.count_nonzero(moves) / users
    backs = [taken_back(moves, within) / users for within in (1, rule.dwell, RESCORINGS)]
    lag = lags(limits, deserved, jumped_at).mean()
    refitted = limits_at(held - (held - truth).mean())
    errors = [np.abs(np.log(one / deserved)).mean() for one in (limits, refitted)]
    return (changes, *backs, lag, *errors)


def drawn(users: int, rng: np.random.Generator) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """(users, rescorings) true log-odds; (users,) when they jumped, -1 for never."""
    steps = WANDER * rng.standard_normal((users, RESCORINGS))
    steps[:, 0] = rng.normal(-4.0, 1.2, users)
    jumps = rng.random(users) < JUMP_SHARE
    jumped_at = np.where(jumps, rng.integers(5, RESCORINGS - 10, users), -1)
    steps[jumps, jumped_at[jumps]] += JUMP
    return np.cumsum(steps, axis=1), jumped_at


def path(rule: Damping, raw: list[float]) -> list[float]:
    """The log-odds that hold after each rescoring."""
    held: float | None = None
    dwell, held_at = 0, []
    for value in raw:
        held, dwell = rule.damp(held, value, dwell)
        held_at.append(held)
    return held_at


def limits_at(log_odds: NDArray[np.float64]) -> NDArray[np.float64]:
    """Limits of the tiers."""
    scores = 1.0 / (1.0 + np.exp(-log_odds))
    return limits_of(TIERS, scores.ravel()).reshape(scores.shape)


def taken_back(moves: NDArray[np.float64], within: int) -> int:
    """Changes opposite to the change before, at most so many rescorings after it."""
    last = np.zeros(len(moves))
    last_at = np.full(len(moves), -RESCORINGS)
    count = 0
    for at in range(moves.shape[1]):
        moved = moves[:, at] != 0.0
        opposite = moved & (moves[:, at] == -last) & (at - last_at <= within)
        count += int(opposite.sum())
        last, last_at = np.where(moved, moves[:, at], last), np.where(moved, at, last_at)
    return count


def lags(
    limits: NDArray[np.float64], deserved: NDArray[np.float64], jumped_at: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Rescorings from each jump until the limit is down at what the new risk deserves."""
    waits = []
    for row in np.flatnonzero(jumped_at >= 0):
        at = jumped_at[row]
        down = np.flatnonzero(limits[row, at:] <= deserved[row, at])
        waits.append(int(down[0]) if len(down) else RESCORINGS - at)
    return np.array(waits)


def shown(figures: tuple[float, ...]) -> list[str]:
    """The figures as cells of a table."""
    changes, *rest = figures
    return [f"{changes:.2f}", *(f"{figure:.3f}" for figure in rest)]


if __name__ == "__main__":
    main()

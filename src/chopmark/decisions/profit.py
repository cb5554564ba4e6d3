"""The limit curve that earns most, and what any curve would have done to a history.

A row is a user in one week: a calibrated score p, what a good user would buy (`demand`) and
what a thief would take (`take`) if nothing stopped them. Over a grid of limits L, at least
the floor, the curve maximises the sum over rows of

    (1 - p) * margin * E[min(demand, L)] - p * E[min(take, L)] - (fixed cost if L > floor)

under two constraints. L never rises with p: the exact optimum among all monotone step
curves comes from dynamic programming over bins of scores, O(bins * grid). And the fraud rate

    losses / (good volume + losses) <= cap

is held by a Lagrange multiplier, found by bisection: the excess never rises with it. Where no
multiplier spends the cap, the best curve between its two neighbours is taken.
The riskiest keep the floor even where they cost more than they bring; what they take is
booked as the cost of learning (row E5).

With the goal ``profit`` the cap only binds where the best curve is beyond it. The goal
``volume`` spends the cap: most good volume that it allows, whatever it costs.

References
----------
Hugh Everett, "Generalized Lagrange multiplier method for solving problems of optimum
allocation of resources", 1963.
Werner Dinkelbach, "On nonlinear fractional programming", 1967.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from chopmark.decisions.limits import FLOOR_USD, LimitCurve
from chopmark.errors import PolicyError

Floats = NDArray[np.float64]  # (n,) unless said otherwise
Path = NDArray[np.int64]  # (bins,) places in the grid of limits, never rising
Goal = Literal["profit", "volume"]

_SHRINK = 50.0
_LARGEST_MULTIPLIER = 1e9


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class History:
    """Users in weeks, as they were.

    Parameters
    ----------
    score : (n,) float64
        Calibrated, in [0, 1].
    demand_usd : (n,) float64
        What a good user would buy in the week without a limit; NaN where nobody knows, as
        of thieves.
    take_usd : (n,) float64
        What a thief would take; NaN where nobody knows, as of good users.
    is_fraud : (n,) bool
    weight : (n,) float64, optional
        Of each row, above zero: 1 / propensity where a row came by exploration.

    Notes
    -----
    A history made under limits shows demand up to them. What lies above is known of the
    explored rows alone (`chopmark.decisions.exploration`).
    """

    score: Floats
    demand_usd: Floats
    take_usd: Floats
    is_fraud: NDArray[np.bool_]
    weight: Floats | None = None

    def __post_init__(self) -> None:
        n = len(self.score)
        columns = {"demand_usd": self.demand_usd, "take_usd": self.take_usd}
        lengths = {name: len(column) for name, column in columns.items()}
        lengths["is_fraud"] = len(self.is_fraud)
        if self.weight is not None:
            lengths["weight"] = len(self.weight)
        wrong = [f"`{name}` has {count}" for name, count in lengths.items() if count != n]
        if n == 0 or wrong:
            raise PolicyError(
                f"expected columns of one length, at least 1, in a history; `score` has {n}"
                + "".join(f", {text}" for text in wrong)
            )
        if not bool(np.all((self.score >= 0.0) & (self.score <= 1.0))):
            raise PolicyError("expected scores from 0 to 1 in a history")
        for name, known, whom in (
            ("demand_usd", self.demand_usd[~self.is_fraud], "good user"),
            ("take_usd", self.take_usd[self.is_fraud], "thief"),
        ):
            if not bool(np.all((known >= 0.0) & (known < math.inf))):
                raise PolicyError(f"expected a finite `{name}` of at least 0 for each {whom}")
        if self.weight is not None and not bool(
            np.all((self.weight > 0.0) & (self.weight < math.inf))
        ):
            raise PolicyError("expected weights above 0, finite, in a history")

    def __len__(self) -> int:
        return len(self.score)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """What a curve brings and costs, in USD over all rows.

    Attributes
    ----------
    good_usd, loss_usd : float
        Volume of good users, and what thieves took.
    profit_usd : float
        Margin less losses and fixed costs; the cost of learning is in it.
    fraud_bp : float
        Losses over all volume (row E7), in basis points.
    fraud_bp_error : float
        Its standard error, were the rows drawn anew; 0 for an expectation.
    kept_share : float
        Good volume over what good users would buy without limits.
    learning_usd : float
        Losses at the floor: the cost of learning, known beforehand (row E5).
    floor_share : float
        Of the rows, those whose limit is the floor.
    """

    good_usd: float
    loss_usd: float
    profit_usd: float
    fraud_bp: float
    fraud_bp_error: float
    kept_share: float
    learning_usd: float
    floor_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Optimum:
    """A fitted curve.

    Attributes
    ----------
    curve : LimitCurve
    expected : Figures
        On the history that it was fitted to, by its scores, not by what came.
    multiplier : float
        Price of a dollar of fraud beyond the cap; 0 where the cap does not bind.
    """

    curve: LimitCurve
    expected: Figures
    multiplier: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Change:
    """What changes if one set of limits replaces another.

    Attributes
    ----------
    rises, falls : (k,) int64
        Rows whose limit rises or falls, by what share of it, largest first.
    moved_share : float
        Of the rows, rises and falls.
    good_rises, good_falls, bad_rises, bad_falls : int
        Rows of good users and of thieves among them.
    good_usd, loss_usd, profit_usd : float
        Differences, new less old.
    """

    rises: NDArray[np.int64]
    falls: NDArray[np.int64]
    moved_share: float
    good_rises: int
    good_falls: int
    bad_rises: int
    bad_falls: int
    good_usd: float
    loss_usd: float
    profit_usd: float


def fit_curve(
    history: History,
    *,
    margin: float,
    fixed_cost_usd: float = 0.0,
    cap_bp: float | None = None,
    goal: Goal = "profit",
    most_usd: float = 25_000.0,
    num_bins: int = 200,
    steps_per_decade: int = 20,
) -> Optimum:
    """The curve with the highest expected profit, or good volume, within a fraud rate.

    Parameters
    ----------
    history : History
        `is_fraud` only says whose demand and whose take is known; how risky a row is, its
        score says. Scores that are not calibrated give a wrong curve without a warning.
    margin : float, in (0, 1)
        Of good volume.
    fixed_cost_usd : float, >= 0
        A week, of each user above the floor.
    cap_bp : float, optional
        Highest fraud rate in basis points, learning included; needed for the goal ``volume``.
    most_usd : float
        Highest limit.
    num_bins, steps_per_decade : int
        Resolution in scores and in limits.

    Raises
    ------
    PolicyError
        If a number is out of range, nobody's demand or take is known, or no curve that leaves
        the riskiest their floor can hold the cap.

    Notes
    -----
    O(n * grid + bins * grid); 600,000 rows take about half a second.
    """
    _check_economics(margin, fixed_cost_usd)
    if goal not in ("profit", "volume") or (goal == "volume" and cap_bp is None):
        raise PolicyError(
            f"expected the goal `profit`, or `volume` together with `cap_bp`, got {goal!r} with "
            f"{cap_bp!r}"
        )
    if cap_bp is not None and not 0.0 < cap_bp < 10_000.0:
        raise PolicyError(f"expected a cap between 0 and 10,000 basis points, got {cap_bp!r}")
    if not FLOOR_USD < most_usd < math.inf or num_bins < 1 or steps_per_decade < 1:
        raise PolicyError(
            f"expected a highest limit above {FLOOR_USD} USD and at least one bin and one step, "
            f"got {most_usd!r}, {num_bins!r} and {steps_per_decade!r}"
        )
    book = _binned(history, _grid(most_usd, steps_per_decade), num_bins)
    gains, costs = (margin, 1.0) if goal == "profit" else (1.0, 0.0)
    fixed = book.rows[:, None] * (fixed_cost_usd * costs) * (book.grid > FLOOR_USD)

    def best(multiplier: float) -> Path:
        share = 0.0 if cap_bp is None else cap_bp / 1e4
        values = (gains + multiplier * share) * book.good
        values = values - (costs + multiplier * (1.0 - share)) * book.loss - fixed
        return _falling_path(values)

    multiplier, path = 0.0, best(0.0)
    if cap_bp is not None and _excess(book, path, cap_bp) > 0.0:
        multiplier, too_high, path = _least_multiplier(best, book, cap_bp)
        worth = gains * book.good - costs * book.loss - fixed
        path = _between(path, too_high, worth, book, cap_bp)
    curve = _curve(book, path)
    expected = _expected(curve, history, book, margin=margin, fixed_cost_usd=fixed_cost_usd)
    return Optimum(curve=curve, expected=expected, multiplier=multiplier)


def simulate(
    limits: LimitCurve | Floats, history: History, *, margin: float, fixed_cost_usd: float = 0.0
) -> Figures:
    """What limits would have brought and cost on a history: who was what, is known by now.

    Parameters
    ----------
    limits : LimitCurve or (n,) float64
        Of each row, in USD a week, if they do not come from a score alone.
    margin, fixed_cost_usd : float
        As in `fit_curve`.
    """
    _check_economics(margin, fixed_cost_usd)
    limit = _limits(limits, history)
    good, loss = _moves(limit, history)
    weight = np.ones(len(history)) if history.weight is None else history.weight
    return _figures(
        limit, weight * good, weight * loss, weight, history,
        margin=margin, fixed_cost_usd=fixed_cost_usd,
    )  # fmt: skip


def compare(
    limits: LimitCurve | Floats,
    against: LimitCurve | Floats,
    history: History,
    *,
    margin: float,
    fixed_cost_usd: float = 0.0,
) -> Change:
    """Whose limits would rise and fall, and what that would have brought and cost.

    Parameters
    ----------
    limits, against : LimitCurve or (n,) float64
        The new ones, and those in force.
    margin, fixed_cost_usd : float
        As in `fit_curve`.
    """
    new, old = _limits(limits, history), _limits(against, history)
    ours, theirs = (
        simulate(one, history, margin=margin, fixed_cost_usd=fixed_cost_usd) for one in (new, old)
    )
    ratio = np.log(new / old)
    order = np.argsort(-np.abs(ratio), kind="stable")
    rises, falls = order[ratio[order] > 0.0], order[ratio[order] < 0.0]
    bad = history.is_fraud
    return Change(
        rises=rises,
        falls=falls,
        moved_share=(len(rises) + len(falls)) / len(history),
        good_rises=int((~bad[rises]).sum()),
        good_falls=int((~bad[falls]).sum()),
        bad_rises=int(bad[rises].sum()),
        bad_falls=int(bad[falls].sum()),
        good_usd=ours.good_usd - theirs.good_usd,
        loss_usd=ours.loss_usd - theirs.loss_usd,
        profit_usd=ours.profit_usd - theirs.profit_usd,
    )


def return_of_fraud(
    limits: LimitCurve | Floats,
    history: History,
    *,
    cost_usd: float,
    passes: Floats | float = 1.0,
    friction_usd: float = 0.0,
) -> float:
    """What a dollar that thieves spend brings them beyond itself; below 0 they give up (F11).

    Parameters
    ----------
    limits : LimitCurve or (n,) float64
        What each may take.
    cost_usd : float, > 0
        That a thief pays for an account, a card and the work of a week.
    passes : (n,) float64 or float, in [0, 1]
        Chance that a thief gets past the friction of the row.
    friction_usd : float, >= 0
        That trying to get past it costs the thief.
    """
    chance = np.broadcast_to(np.asarray(passes, dtype=np.float64), (len(history),))
    if not 0.0 < cost_usd < math.inf or not 0.0 <= friction_usd < math.inf:
        raise PolicyError(
            "expected a cost above 0 USD for a thief and friction of at least 0 USD, got "
            f"{cost_usd!r} and {friction_usd!r}"
        )
    if not bool(np.all((chance >= 0.0) & (chance <= 1.0))):
        raise PolicyError("expected chances from 0 to 1 to get past a friction")
    if not history.is_fraud.any():
        raise PolicyError("expected thieves in the history; it has none")
    weight = np.ones(len(history)) if history.weight is None else history.weight
    _, loss = _moves(_limits(limits, history), history)
    thieves = float(weight[history.is_fraud].sum())
    return float((weight * chance * loss).sum()) / (thieves * (cost_usd + friction_usd)) - 1.0


def limits_of(curve: LimitCurve, score: Floats) -> Floats:
    """(n,) limits of scores (n,): `LimitCurve.limit_usd` of a column, to the cent."""
    scores, limits = np.array(curve.points).T
    logs = np.log(limits)
    right = np.minimum(np.searchsorted(scores, score, side="right"), len(scores) - 1)
    left = right - 1
    share = (score - scores[left]) / (scores[right] - scores[left])
    limit = np.exp(np.maximum(logs[left] + share * (logs[right] - logs[left]), logs[right]))
    cents: Floats = np.floor(limit * 100.0 * (1.0 + 1e-14) + 1e-6) / 100.0
    return cents


@dataclass(frozen=True, slots=True, eq=False)
class _Binned:
    """A history in bins of scores, safest first, and its volume at each limit of the grid.

    ``good`` and ``loss`` are (bins, grid): what good users are expected to buy and thieves
    to take there; ``demand`` and ``take`` the same of one user of that kind.
    """

    grid: Floats
    bin_of: NDArray[np.int64]
    scores: Floats
    rows: Floats
    demand: Floats
    take: Floats
    good: Floats
    loss: Floats


def _binned(history: History, grid: Floats, num_bins: int) -> _Binned:
    weight = np.ones(len(history)) if history.weight is None else history.weight
    bin_of = _bins(history.score, weight, num_bins)
    count = int(bin_of.max()) + 1
    rows = np.bincount(bin_of, weight, count)
    bad = np.bincount(bin_of, weight * history.score, count)
    known = {
        "demand_usd": (history.demand_usd, ~history.is_fraud),
        "take_usd": (history.take_usd, history.is_fraud),
    }
    curves = []
    for name, (column, whose) in known.items():
        if not whose.any():
            raise PolicyError(f"nobody's `{name}` is known in the history; nothing can be fitted")
        curves.append(_means(column[whose], weight[whose], bin_of[whose], count, grid))
    demand, take = curves
    return _Binned(
        grid=grid,
        bin_of=bin_of,
        scores=bad / rows,
        rows=rows.astype(np.float64),
        demand=demand,
        take=take,
        good=(rows - bad)[:, None] * demand,
        loss=bad[:, None] * take,
    )


def _bins(score: Floats, weight: Floats, num_bins: int) -> NDArray[np.int64]:
    """Bins of equal parts of people and of expected fraud, so that both ends are resolved."""
    values, inverse = np.unique(score, return_inverse=True)
    people = np.bincount(inverse, weight)
    fraud = people * values
    part = people / people.sum() + (fraud / fraud.sum() if fraud.sum() > 0.0 else 0.0)
    until = np.cumsum(part)
    place = np.minimum((until - part / 2) / until[-1] * num_bins, num_bins - 1).astype(np.int64)
    # Without empty bins.
    return np.unique(place, return_inverse=True)[1][inverse].astype(np.int64)


def _means(
    values: Floats, weight: Floats, bin_of: NDArray[np.int64], count: int, grid: Floats
) -> Floats:
    """(bins, grid) mean of min(value, limit), drawn to the mean of all where a bin has few."""
    rows = np.bincount(bin_of, weight, count)
    means = np.empty((count, len(grid)))
    for place, limit in enumerate(grid.tolist()):
        moved = weight * np.minimum(values, limit)
        means[:, place] = np.bincount(bin_of, moved, count) + _SHRINK * moved.sum() / weight.sum()
    return means / (rows + _SHRINK)[:, None]


def _grid(most_usd: float, steps_per_decade: int) -> Floats:
    steps = max(math.ceil(math.log10(most_usd / FLOOR_USD) * steps_per_decade), 1)
    grid = np.round(np.geomspace(FLOOR_USD, most_usd, steps + 1), 2)
    return np.unique(grid)


def _falling_path(values: Floats) -> Path:
    """The path whose values (bins, grid) sum to the most.

    Among equals the lowest limit, which risks least.
    """
    num_bins, num_limits = values.shape
    from_place = np.empty((num_bins, num_limits), dtype=np.int64)
    total = np.zeros(num_limits)
    for row in range(num_bins):
        backwards = total[::-1]
        most = np.maximum.accumulate(backwards)
        # The last of equals, seen from above, is the lowest limit.
        place = np.maximum.accumulate(np.where(backwards == most, np.arange(num_limits), 0))
        from_place[row] = (num_limits - 1 - place)[::-1]
        total = values[row] + most[::-1]
    path = np.empty(num_bins, dtype=np.int64)
    path[-1] = int(np.argmax(total))
    for row in range(num_bins - 1, 0, -1):
        path[row - 1] = from_place[row, path[row]]
    return path


def _least_multiplier(
    best: Callable[[float], Path], book: _Binned, cap_bp: float
) -> tuple[float, Path, Path]:
    """The lowest price of fraud that keeps the cap, the best paths just below it and at it."""
    least_bp = _least_bp(book)
    if least_bp > cap_bp * (1.0 - 1e-9):
        raise PolicyError(
            f"no curve holds {cap_bp:g} basis points: with the floor of {FLOOR_USD:g} USD a week "
            f"for the riskiest, {least_bp:.3g} is the least that these scores allow; raise the "
            "cap, or let a better model tell thieves from good users"
        )
    low, high = 0.0, 1e-3
    while _excess(book, best(high), cap_bp) > 0.0 and high < _LARGEST_MULTIPLIER:
        low, high = high, high * 4.0
    while high - low > 1e-9 * high:
        middle = (low + high) / 2.0
        if _excess(book, best(middle), cap_bp) > 0.0:
            low = middle
        else:
            high = middle
    return high, best(low), best(high)


def _between(held: Path, too_high: Path, worth: Floats, book: _Binned, cap_bp: float) -> Path:
    """The best path on the way from one that keeps the cap to one that does not.

    At one price of fraud many users may go from little to much at once, and no price gives
    what lies between. Cutting the higher path off at some limit does, and stays falling.
    """
    places = np.arange(len(held))
    cut = [
        np.maximum(held, np.minimum(too_high, limit)) for limit in range(int(too_high.max()) + 1)
    ]
    fits = [path for path in (held, *cut) if _excess(book, path, cap_bp) <= 0.0]
    return max(fits or [held], key=lambda path: float(worth[places, path].sum()))


def _excess(book: _Binned, path: Path, cap_bp: float) -> float:
    """Losses beyond the cap, in USD."""
    good, loss = _volumes(book, path)
    return loss - cap_bp / 1e4 * (good + loss)


def _least_bp(book: _Binned) -> float:
    """The lowest fraud rate of any falling curve (Dinkelbach 1967: a ratio by its differences)."""
    rate = 1.0
    while True:
        good, loss = _volumes(book, _falling_path(rate * book.good - (1.0 - rate) * book.loss))
        lower = loss / (good + loss)
        if lower >= rate * (1.0 - 1e-12):
            return 1e4 * lower
        rate = lower


def _volumes(book: _Binned, path: Path) -> tuple[float, float]:
    places = np.arange(len(path))
    return float(book.good[places, path].sum()), float(book.loss[places, path].sum())


def _curve(book: _Binned, path: Path) -> LimitCurve:
    """The step curve as points at the bins' mean scores, without those inside a flat run."""
    limits = book.grid[path]
    points = [(0.0, float(limits[0]))]
    last = len(limits) - 1
    # Six digits are enough to tell scores apart, and can be read.
    scores = [float(f"{score:.6g}") for score in book.scores.tolist()]
    for place, (score, limit) in enumerate(zip(scores, limits.tolist(), strict=True)):
        flat = 0 < place < last and limits[place - 1] == limit == limits[place + 1]
        if points[-1][0] < score < 1.0 and not flat:
            points.append((score, limit))
    return LimitCurve((*points, (1.0, FLOOR_USD)))


def _expected(
    curve: LimitCurve, history: History, book: _Binned, *, margin: float, fixed_cost_usd: float
) -> Figures:
    """Figures of the curve itself, between the limits of the grid as well, by the scores."""
    limit = limits_of(curve, history.score)
    right = np.clip(np.searchsorted(book.grid, limit), 1, len(book.grid) - 1)
    share = (limit - book.grid[right - 1]) / (book.grid[right] - book.grid[right - 1])
    demand, take = (
        table[book.bin_of, right - 1] * (1.0 - share) + table[book.bin_of, right] * share
        for table in (book.demand, book.take)
    )
    weight = np.ones(len(history)) if history.weight is None else history.weight
    p = weight * history.score
    figures = _figures(
        limit, (weight - p) * demand, p * take, weight, history,
        margin=margin, fixed_cost_usd=fixed_cost_usd,
    )  # fmt: skip
    wanted = float(((weight - p) * book.demand[book.bin_of, -1]).sum())
    kept = figures.good_usd / wanted if wanted else 1.0
    return replace(figures, kept_share=kept, fraud_bp_error=0.0)


def _figures(
    limit: Floats, good: Floats, loss: Floats, weight: Floats, history: History,
    *, margin: float, fixed_cost_usd: float,
) -> Figures:  # fmt: skip
    """Sums of what each row brings and costs, weights included."""
    at_floor = limit <= FLOOR_USD
    volume = good + loss
    total = float(volume.sum())
    rate = float(loss.sum()) / total if total else 0.0
    error = math.sqrt(float(((loss - rate * volume) ** 2).sum())) / total if total else 0.0
    fixed = fixed_cost_usd * float(weight[~at_floor].sum())
    demand = np.where(history.is_fraud, 0.0, history.demand_usd)
    wanted = float((weight * demand).sum())
    return Figures(
        good_usd=float(good.sum()),
        loss_usd=float(loss.sum()),
        profit_usd=margin * float(good.sum()) - float(loss.sum()) - fixed,
        fraud_bp=1e4 * rate,
        fraud_bp_error=1e4 * error,
        kept_share=float(good.sum()) / wanted if wanted else 1.0,
        learning_usd=float(loss[at_floor].sum()),
        floor_share=float(weight[at_floor].sum() / weight.sum()),
    )


def _moves(limit: Floats, history: History) -> tuple[Floats, Floats]:
    """What each row's good user bought and thief took; one of them is 0."""
    bad = history.is_fraud
    good = np.where(bad, 0.0, np.minimum(np.where(bad, 0.0, history.demand_usd), limit))
    loss = np.where(bad, np.minimum(np.where(bad, history.take_usd, 0.0), limit), 0.0)
    return good, loss


def _limits(limits: LimitCurve | Floats, history: History) -> Floats:
    if isinstance(limits, LimitCurve):
        return limits_of(limits, history.score)
    if len(limits) != len(history) or not bool(np.all((limits >= FLOOR_USD) & (limits < math.inf))):
        raise PolicyError(
            f"expected a finite limit of at least {FLOOR_USD} USD for each of the {len(history)} "
            f"rows, got {len(limits)}"
        )
    return limits


def _check_economics(margin: float, fixed_cost_usd: float) -> None:
    if not 0.0 < margin < 1.0:
        raise PolicyError(f"expected a margin between 0 and 1, got {margin!r}")
    if not 0.0 <= fixed_cost_usd < math.inf:
        raise PolicyError(f"expected a fixed cost of at least 0 USD, got {fixed_cost_usd!r}")

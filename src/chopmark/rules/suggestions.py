"""Rules that history suggests: thresholds for a feature, and whole rules mined from labels.

Whatever is chosen is chosen on one half of the users and reported on the other, which took no
part in the choice. `suggest_threshold` finds the t of ``feature > t`` that saves most money
after the cost of the good users hurt. `suggest_rules` takes the best conjunctions of
`chopmark.rules.mining` to the held-out users, where each must pass a test of chance. One
row is drawn per user, so that rows are independent whether labels belong to users or to events;
Fisher's exact test asks whether the rule hits more bad ones than chance would; twice the mean
over draws is a p-value again (Vovk and Wang), and Holm's correction counts every candidate that
was tested. The search itself needs none, as the held-out users never saw it.

`as_derived` turns a rule into a feature for models. Serves rows F12 and F13 of the requirements.

References
----------
Sture Holm: A simple sequentially rejective multiple test procedure, 1979.
Vladimir Vovk, Ruodu Wang: Combining p-values via averaging, 2020.
"""

import ast
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import InvalidExpression, InvalidInput, InvalidTable, did_you_mean
from chopmark.expressions import MAX_LENGTH, Kind, parse
from chopmark.features import Derived
from chopmark.rules.judging import BAD, GOOD, Figures, History, judge
from chopmark.rules.mining import (
    Column,
    Conjunction,
    Floats,
    Mask,
    columns_of,
    literal,
    near,
    search,
)

if TYPE_CHECKING:
    import polars as pl

Direction = Literal["above", "below", "either"]

_DRAWS = 20
_RESAMPLES = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A threshold chosen on one half of the users, reported on the other.

    Attributes
    ----------
    text : str
        As an expression, together with the rule inside which it was sought.
    feature, above, value
        ``feature > value`` if above, else ``feature < value``.
    chosen_net_usd : float
        Money saved minus the cost of good users hurt, on the half on which it was chosen:
        too good, as it is the best of many.
    held_out : Figures
        On the other half.
    held_out_net_usd, low_usd, high_usd : float
        Money saved minus cost there, with a bootstrap interval of 95 % over users.
    holds : bool
        Whether all of that interval is a gain, and the precision there is as was asked.
    """

    text: str
    feature: str
    above: bool
    value: float
    chosen_net_usd: float
    held_out: Figures
    held_out_net_usd: float
    low_usd: float
    high_usd: float
    holds: bool


def suggest_threshold(
    values: ArrayLike,
    past: History,
    *,
    feature: str,
    inside: ArrayLike | None = None,
    rule: str = "",
    direction: Direction = "either",
    good_user_usd: float = 20.0,
    least_precision: float = 0.2,
    least_bad_users: int = 5,
    seed: int = 0,
) -> Threshold | None:
    """The threshold of a feature that saves most, after the cost of good users hurt.

    Parameters
    ----------
    values : (n,) float
        Of the feature, NaN where missing, which is no hit.
    past : History
    feature : str
        Its name.
    inside : (n,) bool, optional
        Hits of the rule inside which to seek; all rows by default.
    rule : str
        That rule's text, for the text of the answer.
    direction : {"above", "below", "either"}
    good_user_usd : float, >= 0
        What it costs to hurt a good user.
    least_precision : float in [0, 1]
        Of the judged rows hit.
    least_bad_users : int, >= 1
        Fewer different bad users hit are no ground for a threshold.

    Returns
    -------
    Threshold or None
        None where no threshold gains anything under these terms.

    Raises
    ------
    InvalidInput
        If lengths differ or an option is out of range.
    """
    column = np.asarray(values, dtype=np.float64)
    mask = np.ones(len(past), dtype=np.bool_) if inside is None else np.asarray(inside) != 0
    if column.shape != (len(past),) or mask.shape != (len(past),):
        raise InvalidInput(
            f"expected {len(past)} values and hits, as long as the history, got shapes "
            f"{column.shape} and {mask.shape}"
        )
    if not good_user_usd >= 0 or not 0 <= least_precision <= 1 or least_bad_users < 1:
        raise InvalidInput(
            "expected a cost of at least 0, a precision from 0 to 1 and at least 1 bad user, got "
            f"{good_user_usd}, {least_precision} and {least_bad_users}"
        )
    if direction not in ("above", "below", "either"):
        raise InvalidInput(
            f"expected a direction above, below or either, got `{direction}`"
            + did_you_mean(direction, ("above", "below", "either"))
        )
    searched = _search_half(past, seed)
    found: list[tuple[float, bool, float]] = []
    for above in (True, False):
        if direction != ("below" if above else "above"):
            rows = searched & mask & ~np.isnan(column)
            best = _best_threshold(
                column if above else -column,
                past,
                rows,
                cost=good_user_usd,
                precision=least_precision,
                support=least_bad_users,
            )
            if best is not None:
                found.append((best[0], above, best[1] if above else -best[1]))
    if not found:
        return None
    net, above, value = max(found)
    hits = mask & (column > value if above else column < value)
    other = past.take(~searched)
    held_out = judge(hits[~searched], other, names=[feature]).rules[0]
    low, high = _net_interval(hits[~searched], other, good_user_usd, seed)
    text = f"{feature} {'>' if above else '<'} {literal(value)}"
    return Threshold(
        text=f"({rule}) and {text}" if rule else text,
        feature=feature,
        above=above,
        value=value,
        chosen_net_usd=net,
        held_out=held_out,
        held_out_net_usd=held_out.bad_usd - good_user_usd * held_out.good_users,
        low_usd=low,
        high_usd=high,
        holds=low > 0 and held_out.precision.value >= least_precision,
    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SuggestedRule:
    """A rule mined from history, for a person to read and judge.

    Attributes
    ----------
    text : str
        A rule of the expression language.
    sentence : str
        What it says and what it would have done, in words.
    reads : tuple of str
    searched, held_out : Figures
        On the users among which it was found, and on those held out. The first flatters.
    lift : float
        Precision over the share of bad rows, among the held-out users.
    p_value : float
        That the held-out users show no connection, corrected for all candidates tested.
    num_tried : int
        Conjunctions looked at in the search.
    hits : (n,) bool
        Rows of the table that it hits.
    """

    text: str
    sentence: str
    reads: tuple[str, ...]
    searched: Figures
    held_out: Figures
    lift: float
    p_value: float
    num_tried: int
    hits: NDArray[np.bool_]


def suggest_rules(
    table: "pl.DataFrame",
    past: History,
    *,
    features: Sequence[str] | None = None,
    kinds: Mapping[str, Kind] | None = None,
    existing: ArrayLike | None = None,
    most: int = 5,
    max_predicates: int = 3,
    beam_width: int = 24,
    least_precision: float = 0.2,
    least_bad_users: int = 5,
    level: float = 0.01,
    max_rows: int = 40_000,
    seed: int = 0,
) -> list[SuggestedRule]:
    """Readable rules that catch fraud, and that users held out of the search confirm.

    Parameters
    ----------
    table : DataFrame
        A row per row of the history (`chopmark.features.training_table`).
    past : History
        Of the same rows (`chopmark.rules.judging.history_of_table`). Give groups for its
        ``users`` to hold out whole groups.
    features : sequence of str, optional
        Columns that a rule may read: all but times, the label and ids of events by default.
        Leave out what the policy itself has done.
    kinds : mapping of str to kind, optional
        ``catalog.kinds``: a training table gives booleans as numbers, and only the catalog
        knows better. By default, from the types of the columns.
    existing : (n, r) bool, optional
        Hits of the rules there are: what they catch is not worth finding again.
    most : int, >= 0
        Rules to suggest.
    max_predicates : int, 1 to 3
        More, nobody reads.
    beam_width : int, >= 1
        Conjunctions kept at each length.
    least_precision : float in [0, 1]
        In the search and among held-out users.
    least_bad_users : int, >= 1
        Different bad users that a rule must hit in the search.
    level : float in (0, 1)
        Chance of any false suggestion, if labels had no connection with any feature.
    max_rows : int
        Rows to search in: all of bad users, and of as many good ones as fit.

    Returns
    -------
    list of SuggestedRule
        The best of the search first; empty where nothing is confirmed.

    Raises
    ------
    InvalidInput, InvalidTable
        If lengths differ, an option is out of range or a column is missing.
    """
    if table.height != len(past):
        raise InvalidTable(f"expected {len(past)} rows, as in the history, got {table.height}")
    in_range = most >= 0 and 1 <= max_predicates <= 3 and beam_width >= 1 and least_bad_users >= 1
    if not (in_range and 0 <= least_precision <= 1 and 0 < level < 1 and max_rows >= 1):
        raise InvalidInput(
            "expected most >= 0, max_predicates from 1 to 3, beam_width, least_bad_users and "
            "max_rows >= 1, least_precision from 0 to 1 and level between 0 and 1"
        )
    known = _hits(existing, len(past))
    columns = columns_of(table, features, kinds or {})
    searched = _search_half(past, seed)
    found = search(
        columns, past, _sample(past, searched, max_rows, seed), known,
        rounds=2 * most, max_predicates=max_predicates, beam_width=beam_width,
        precision=least_precision, support=least_bad_users,
    )  # fmt: skip
    if not found.chosen:
        return []
    names = [" and ".join(part.text for part in parts) for parts in found.chosen]
    matrix = np.column_stack([_all_of(parts, columns) for parts in found.chosen])
    other = past.take(~searched)
    outer = judge(matrix[~searched], other, names=names)
    p_values = _holm([_chance(matrix[~searched, k], other, seed) for k in range(len(names))])
    kept = [
        place
        for place, figures in enumerate(outer.rules)
        if p_values[place] <= level and figures.precision.value >= least_precision
    ][:most]
    if not kept:
        return []
    # Judged again, so that what they share is shared with one another alone.
    texts = [names[place] for place in kept]
    inner = judge(matrix[:, kept][searched], past.take(searched), names=texts)
    outer = judge(matrix[:, kept][~searched], other, names=texts)
    share = outer.num_bad / (outer.num_good + outer.num_bad)
    known_kinds = {name: column.kind for name, column in columns.items()}
    return [
        SuggestedRule(
            text=figures.name,
            sentence=_sentence(found.chosen[place], figures, share, p_values[place], len(names)),
            reads=parse(figures.name, known_kinds).reads,
            searched=searched_figures,
            held_out=figures,
            lift=figures.precision.value / share,
            p_value=p_values[place],
            num_tried=found.num_tried,
            hits=matrix[:, place],
        )
        for place, searched_figures, figures in zip(kept, inner.rules, outer.rules, strict=True)
    ]


def as_derived(rule_name: str, text: str) -> Derived:
    """A rule as a boolean feature for the catalog: what hits it feeds the models (row F13).

    It is never missing: a rule whose truth is missing does not hit.

    Parameters
    ----------
    rule_name : str
        The feature is named ``rule_`` and this, in small letters and underscores.
    text : str
        The rule, over fields and features. A rule that reads a score is refused by the catalog:
        a model cannot read what comes after it.

    Raises
    ------
    InvalidExpression
        If the text cannot be read at all; the rest is checked by the catalog.

    Examples
    --------
    >>> feature = as_derived("Big and new", "amount_usd > 500 and age_days < 7")
    >>> feature.name, feature.text
    ('rule_big_and_new', 'coalesce(amount_usd > 500 and age_days < 7, False)')
    """
    if len(text) > MAX_LENGTH:
        raise InvalidExpression(f"expected at most {MAX_LENGTH} characters, got {len(text)}")
    try:
        # Written anew from its tree, so that no comment or parenthesis reaches out of its place.
        plain = ast.unparse(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InvalidExpression(
            f"expected a readable rule for `{rule_name}`, got one that is not: {error}"
        ) from None
    words = "".join(letter if letter.isalnum() else " " for letter in rule_name).lower().split()
    return Derived(f"coalesce({plain}, False)", "_".join(("rule", *words)))


def _hits(existing: ArrayLike | None, size: int) -> Mask:
    if existing is None:
        return np.zeros((size, 0), dtype=np.bool_)
    matrix: Mask = np.asarray(existing) != 0
    matrix = matrix[:, None] if matrix.ndim == 1 else matrix
    if len(matrix) != size:
        raise InvalidInput(f"expected hits of {size} rows of existing rules, got {len(matrix)}")
    return matrix


def _search_half(past: History, seed: int) -> Mask:
    """Rows of the half of the users to choose on, with as many bad users as the other half."""
    rng = np.random.default_rng(seed)
    num_users = int(past.users.max(initial=-1)) + 1
    is_bad = np.zeros(num_users, dtype=np.bool_)
    is_bad[past.users[past.status == BAD]] = True
    chosen = np.zeros(num_users, dtype=np.bool_)
    for group in (np.flatnonzero(is_bad), np.flatnonzero(~is_bad)):
        order = rng.permutation(group)
        chosen[order[: (len(order) + 1) // 2]] = True
    half: Mask = chosen[past.users]
    return half


def _best_threshold(
    values: Floats, past: History, rows: Mask, *, cost: float, precision: float, support: int
) -> tuple[float, float] | None:
    """The net gain and the t of the best ``value > t`` among some rows."""
    bad, good = (np.flatnonzero(rows & (past.status == kind)) for kind in (BAD, GOOD))
    if len(bad) == 0:
        return None
    judged = values[np.concatenate((bad, good))]
    levels = np.concatenate(
        [
            np.quantile(judged, np.linspace(0, 1, 200), method="inverted_cdf"),
            np.quantile(values[bad], np.linspace(0, 1, 200), method="inverted_cdf"),
        ]
    )
    distinct = np.unique(judged)
    bounds = [bound for level in set(levels.tolist()) for bound in near(level, distinct)]
    tries = np.unique(np.array(bounds, dtype=np.float64))
    tries = tries[tries >= judged.min()]
    if len(tries) == 0:
        return None
    by_value = bad[np.argsort(values[bad], kind="stable")]
    money = np.append(np.cumsum(past.amounts_usd[by_value][::-1])[::-1], 0.0)
    below = np.searchsorted(values[by_value], tries, side="right")
    num_bad = len(bad) - below
    good_users, bad_users = (
        _num_above(_highest(values[group], past.users[group]), tries) for group in (good, bad)
    )
    num_good = _num_above(np.sort(values[good]), tries)
    net = money[below] - cost * good_users
    fits = (bad_users >= support) & (num_bad >= precision * (num_bad + num_good)) & (net > 0)
    if not fits.any():
        return None
    place = int(np.argmax(np.where(fits, net, -np.inf)))
    return float(net[place]), float(tries[place])


def _highest(values: Floats, users: NDArray[np.int64]) -> Floats:
    """The highest value of each user, sorted."""
    if len(values) == 0:
        return values
    order = np.lexsort((values, users))
    last = np.append(np.diff(users[order]) != 0, True)
    highest: Floats = np.sort(values[order][last])
    return highest


def _num_above(ordered: Floats, tries: Floats) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = len(ordered) - np.searchsorted(ordered, tries, side="right")
    return counts


def _net_interval(hits: Mask, past: History, cost: float, seed: int) -> tuple[float, float]:
    """Interval of 95 % of the net gain, by drawing users again with Poisson weights."""
    num_users = int(past.users.max(initial=-1)) + 1
    saved = np.zeros(num_users)
    bad, good = (hits & (past.status == kind) for kind in (BAD, GOOD))
    np.add.at(saved, past.users[bad], past.amounts_usd[bad])
    hurt = np.zeros(num_users)
    hurt[past.users[good]] = cost
    net = saved - hurt
    net = net[net != 0]
    rng = np.random.default_rng(seed)
    sums = [float(rng.poisson(1.0, len(net)) @ net) for _ in range(_RESAMPLES)]
    low, high = np.quantile(sums, [0.025, 0.975]).tolist()
    return low, high


def _sample(past: History, rows: Mask, most: int, seed: int) -> tuple[NDArray[np.int64], Floats]:
    """Judged row numbers, and for how many rows each stands.

    All rows of users with a bad one; other users are drawn until there are rows enough.
    """
    judged = np.flatnonzero(rows & ((past.status == BAD) | (past.status == GOOD)))
    if len(judged) <= most:
        return judged, np.ones(len(judged))
    bad_users = np.unique(past.users[judged[past.status[judged] == BAD]])
    of_bad = np.isin(past.users[judged], bad_users)
    others = np.unique(past.users[judged[~of_bad]])
    share = max(most - int(of_bad.sum()), most // 2) / max(int((~of_bad).sum()), 1)
    kept = others[np.random.default_rng(seed).random(len(others)) < share]
    chosen = of_bad | np.isin(past.users[judged], kept)
    return judged[chosen], np.where(of_bad, 1.0, 1.0 / share)[chosen]


def _all_of(parts: Conjunction, columns: Mapping[str, Column]) -> Mask:
    masks = [part.holds(columns[part.feature].values) for part in parts]
    mask: Mask = np.logical_and.reduce(masks)
    return mask


def _chance(hits: Mask, past: History, seed: int) -> float:
    """The p-value of a rule that was not chosen on these rows; see the top of this module."""
    judged = np.flatnonzero((past.status == BAD) | (past.status == GOOD))
    if len(judged) == 0:
        return 1.0
    rng = np.random.default_rng(seed)
    total = 0.0
    for _ in range(_DRAWS):
        shuffled = rng.permutation(judged)
        one_each = shuffled[np.unique(past.users[shuffled], return_index=True)[1]]
        hit, bad = hits[one_each], past.status[one_each] == BAD
        total += fisher(int((hit & bad).sum()), int(hit.sum()), int(bad.sum()), len(one_each))
    return min(2.0 * total / _DRAWS, 1.0)


def fisher(both: int, hit: int, bad: int, size: int) -> float:
    """Probability that chance alone lets a rule hit at least so many bad ones.

    Parameters
    ----------
    both, hit, bad, size : int
        Bad ones that were hit, all that were hit, all bad ones, all.

    Examples
    --------
    >>> round(fisher(2, 2, 2, 4), 6)  # one of the six ways to hit two of four
    0.166667
    """
    most = min(hit, bad)
    if both <= max(0, hit + bad - size):
        return 1.0
    term = math.exp(
        _log_choose(bad, both) + _log_choose(size - bad, hit - both) - _log_choose(size, hit)
    )
    total = 0.0
    for k in range(both, most + 1):
        total += term
        term *= (bad - k) * (hit - k) / ((k + 1) * (size - bad - hit + k + 1))
    return min(total, 1.0)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number; the chance of any false one is as it says."""
    corrected = [1.0] * len(p_values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = highest
    return corrected


def _sentence(
    parts: Conjunction, figures: Figures, share: float, p_value: float, num_tested: int
) -> str:
    words = [part.words for part in parts]
    condition = words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
    judged = figures.true_positives + figures.false_positives
    precision = figures.precision
    users = "1 good user" if figures.good_users == 1 else f"{figures.good_users:,} good users"
    return (
        f"Where {condition}: {figures.true_positives:,} of {judged:,} rows of users held out were "
        f"bad ({precision.value:.0%}, between {precision.low:.0%} and {precision.high:.0%}), "
        f"{precision.value / share:.1f} times the usual share; it would have stopped "
        f"{figures.bad_usd:,.0f} USD and hurt {users} (p = {p_value:.1g} after correction for "
        f"{num_tested} candidates)."
    )

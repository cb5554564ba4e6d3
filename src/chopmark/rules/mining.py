"""The search for rules: conjunctions of a few predicates that hold for bad users.

Beam search, one conjunction a round, each on the frauds that the earlier ones left (weighted
covering, as CN2-SD does it). The quality of one is

    q = sqrt(share of users hit) * (share of bad among them - share of bad among all)

where each row weighs one over the rows of its user, so that busy users do not shout. What is
found here is not confirmed yet: that is for `chopmark.rules.suggestions`.

References
----------
Nada Lavrač, Branko Kavšek, Peter Flach, Ljupčo Todorovski: Subgroup discovery with CN2-SD, 2004.
Willi Klösgen: Explora: a multipattern and multistrategy discovery assistant, 1996.
"""

import json
import keyword
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from chopmark.errors import InvalidTable, did_you_mean
from chopmark.expressions import Kind
from chopmark.rules.judging import BAD, History

if TYPE_CHECKING:
    import polars as pl

Mask = NDArray[np.bool_]
Floats = NDArray[np.float64]

BESIDE_FEATURES = ("event_id", "as_of", "label", "label_known_at")
"""Columns of a training table that no rule may read."""

_LEVELS = (0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99)
_MOST_PREDICATES = 300
_PER_FEATURE = 8
_WORTH = 1.1  # times its parent's quality that a longer conjunction must have
_LONGEST_VALUE = 80  # characters of a text that a rule may name and still be read
_LARGEST = 1e299  # numbers of the language are below 1e300


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """A column as numbers: NaN is missing, a text its place among the different texts."""

    kind: Kind
    values: Floats
    texts: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Predicate:
    """One condition on one feature, as a test of numbers and as texts."""

    feature: str
    test: Literal["above", "below", "in", "missing", "known"]
    bounds: tuple[float, ...]
    text: str
    words: str

    def holds(self, values: Floats) -> Mask:
        """Whether it is true of each value of its column; of a missing one it is not."""
        mask: Mask
        if self.test == "above":
            mask = values > self.bounds[0]
        elif self.test == "below":
            mask = values < self.bounds[0]
        elif self.test == "in":
            mask = np.isin(values, self.bounds)
        elif self.test == "missing":
            mask = np.isnan(values)
        else:
            mask = ~np.isnan(values)
        return mask


Conjunction = tuple[Predicate, ...]


@dataclass(slots=True)
class Found:
    """Conjunctions in the order in which they were found, and how many were looked at."""

    chosen: list[Conjunction]
    num_tried: int


def columns_of(
    table: "pl.DataFrame", features: Sequence[str] | None, kinds: Mapping[str, Kind]
) -> dict[str, Column]:
    """The columns of a table that a rule may read: see `suggest_rules` for the parameters."""
    names = features if features is not None else table.columns
    columns: dict[str, Column] = {}
    for name in names:
        if name not in table.columns:
            raise InvalidTable(
                f"expected a column `{name}` in the table" + did_you_mean(name, table.columns)
            )
        series = table[name]
        readable = name.isidentifier() and not keyword.iskeyword(name)
        if name in BESIDE_FEATURES or not readable or kinds.get(name) == "time":
            continue
        if series.dtype.is_numeric() or str(series.dtype) == "Boolean":
            kind: Kind = "number" if series.dtype.is_numeric() else "boolean"
            values = series.cast(float).to_numpy().astype(np.float64)
            columns[name] = Column(kinds.get(name, kind), values)
        elif str(series.dtype).split("(")[0] in ("String", "Categorical", "Enum"):
            texts = series.cast(str)
            ranks = texts.rank("dense").to_numpy().astype(np.float64) - 1.0
            columns[name] = Column("text", ranks, tuple(texts.unique().drop_nulls().sort()))
    return columns


def search(
    columns: Mapping[str, Column],
    past: History,
    sample: tuple[NDArray[np.int64], Floats],
    existing: Mask,
    *,
    rounds: int,
    max_predicates: int,
    beam_width: int,
    precision: float,
    support: int,
) -> Found:
    """The best conjunction of each round; what it catches weighs less in the next.

    Parameters
    ----------
    sample : (row numbers, for how many rows each stands)
        Judged rows to search in.
    existing : (n, r) bool
        Hits of rules that there are: what they catch weighs less from the beginning.
    precision, support
        Least precision, and least number of different bad users.
    """
    found = Found([], 0)
    rows, stands_for = sample
    is_bad = past.status[rows] == BAD
    users = past.users[rows]
    if len(np.unique(users[is_bad])) < support or is_bad.all():
        return found
    numbers = np.unique(users, return_inverse=True)[1].reshape(-1)
    weights = stands_for / np.bincount(numbers)[numbers]
    taken_rows = {name: _taken(column, rows) for name, column in columns.items()}
    predicates = _predicates(taken_rows, is_bad, weights)
    if not predicates:
        return found
    masks = [predicate.holds(columns[predicate.feature].values[rows]) for predicate in predicates]
    game = _Beam(predicates, masks, is_bad, numbers, weights, stands_for, precision, support)
    taken = [existing[rows, k] for k in range(existing.shape[1])]
    for mask in taken:
        game.discount(mask)
    for _ in range(rounds):
        best = game.best(max_predicates, beam_width, taken)
        if best is None:
            break
        found.chosen.append(tuple(predicates[place] for place in best))
        mask = np.logical_and.reduce([masks[place] for place in best])
        taken.append(mask)
        game.discount(mask)
    found.num_tried = game.num_tried
    return found


def near(value: float, distinct: Floats) -> list[float]:
    """Thresholds of two digits at a value, and between it and its neighbours.

    ``distinct`` are all values, rising; whole numbers get whole thresholds.
    """
    if (distinct == np.floor(distinct)).all():
        tries = [value + step for step in (-1.0, 0.0, 1.0)]
    else:
        place = int(np.searchsorted(distinct, value))
        tries = [value / 2 + float(o) / 2 for o in distinct[max(place - 1, 0) : place + 2]]
    return [_rounded(number) for number in tries if abs(number) < _LARGEST]


def literal(number: float) -> str:
    """A number as the expression language reads it, without an empty fraction."""
    return str(int(number)) if number == int(number) and abs(number) < 1e15 else repr(number)


class _Beam:
    """The search for one conjunction after another over the same predicates."""

    def __init__(
        self,
        predicates: Sequence[Predicate],
        masks: Sequence[Mask],
        is_bad: Mask,
        users: NDArray[np.int64],
        weights: Floats,
        stands_for: Floats,
        precision: float,
        support: int,
    ) -> None:
        matrix = np.column_stack(masks)
        self.features = [predicate.feature for predicate in predicates]
        self.tests = [predicate.test for predicate in predicates]
        self.bad = matrix[is_bad].astype(np.float32)
        self.good = matrix[~is_bad].astype(np.float32)
        self.bad_users = users[is_bad]
        self.bad_weights = weights[is_bad]
        self.good_weights = weights[~is_bad].astype(np.float32)
        self.good_rows = stands_for[~is_bad]
        self.left = np.ones(len(self.bad_weights))  # 1 where not caught yet
        self.is_bad = is_bad
        self.precision = precision
        self.support = support
        self.num_tried = 0

    def discount(self, mask: Mask) -> None:
        """Let the bad users that a rule hits weigh less."""
        caught = np.isin(self.bad_users, self.bad_users[mask[self.is_bad]])
        self.left[caught] *= 0.25

    def best(
        self, max_predicates: int, width: int, taken: Sequence[Mask]
    ) -> tuple[int, ...] | None:
        """The conjunction of highest quality that is not one of those taken in other words."""
        beam: list[tuple[float, tuple[int, ...]]] = [(0.0, ())]
        best: tuple[float, tuple[int, ...]] | None = None
        for _ in range(max_predicates):
            if beam:
                beam = self._longer(beam, width)
            for quality, places in beam:
                better = best is None or quality > best[0]
                if better and self._is_new(places, taken):
                    best = (quality, places)
        return None if best is None else best[1]

    def _longer(
        self, beam: list[tuple[float, tuple[int, ...]]], width: int
    ) -> list[tuple[float, tuple[int, ...]]]:
        """Conjunctions with one more predicate that each is worth, best first."""
        bads = np.stack([self.bad[:, list(places)].min(axis=1, initial=1.0) for _, places in beam])
        goods = np.stack(
            [self.good[:, list(places)].min(axis=1, initial=1.0) for _, places in beam]
        )
        good = ((goods * self.good_weights) @ self.good).astype(np.float64)
        whole = ((bads * self.bad_weights) @ self.bad).astype(np.float64)
        fresh = ((bads * (self.bad_weights * self.left)) @ self.bad).astype(np.float64)
        self.num_tried += good.size
        hit = np.maximum(whole + good, 1e-12)
        total = self.bad_weights.sum() + float(self.good_weights.sum())
        base = float((self.bad_weights * self.left).sum()) / total
        quality = np.sqrt(hit / total) * (fresh / hit - base)
        parents = np.array([score for score, _ in beam])
        # A predicate that adds little is one more to read; a long rule must be clearly better.
        quality[quality <= _WORTH * parents[:, None]] = -np.inf
        # Whether one is as precise as asked for is seen later: its children may be.
        order = np.argsort(-quality, axis=None, kind="stable")
        longer: list[tuple[float, tuple[int, ...]]] = []
        seen: set[tuple[int, ...]] = set()
        alike: dict[tuple[str, ...], int] = {}
        for flat in order[: 60 * width].tolist():
            member, place = divmod(flat, quality.shape[1])
            if not quality[member, place] > 0 or len(longer) >= width:
                break
            places = beam[member][1]
            if any(self._clash(place, other) for other in places):
                continue
            both = tuple(sorted((*places, place)))
            names = tuple(sorted({self.features[k] for k in both}))
            if both in seen or alike.get(names, 0) >= 3 or self._num_bad_users(both) < self.support:
                continue
            seen.add(both)
            alike[names] = alike.get(names, 0) + 1
            longer.append((float(quality[member, place]), both))
        return longer

    def _clash(self, place: int, other: int) -> bool:
        """Two predicates on one feature only make sense as a lower and an upper bound."""
        tests = {self.tests[place], self.tests[other]}
        return self.features[place] == self.features[other] and tests != {"above", "below"}

    def _num_bad_users(self, places: tuple[int, ...]) -> int:
        return len(np.unique(self.bad_users[self.bad[:, list(places)].min(axis=1) > 0]))

    def _is_new(self, places: tuple[int, ...], taken: Sequence[Mask]) -> bool:
        """Whether it is precise enough, and catches what those taken do not."""
        if not places:
            return False
        chosen = list(places)
        bad, good = self.bad[:, chosen].min(axis=1) > 0, self.good[:, chosen].min(axis=1) > 0
        num_bad, num_good = int(bad.sum()), float(self.good_rows[good].sum())
        if num_bad < self.precision * (num_bad + num_good):
            return False
        known = np.zeros(len(bad), dtype=np.bool_)
        for mask in taken:
            mask_bad, mask_good = mask[self.is_bad], mask[~self.is_bad]
            both = int((bad & mask_bad).sum() + (good & mask_good).sum())
            either = int((bad | mask_bad).sum() + (good | mask_good).sum())
            if 2 * both > either:
                return False
            known |= mask_bad
        users = np.unique(self.bad_users[bad])
        left = np.setdiff1d(users, self.bad_users[known])
        return len(left) >= max(2, 0.2 * len(users))


def _taken(column: Column, rows: NDArray[np.int64]) -> Column:
    return Column(column.kind, column.values[rows], column.texts)


def _predicates(columns: Mapping[str, Column], is_bad: Mask, weight: Floats) -> list[Predicate]:
    """Single conditions that hold more often for bad rows, the best of each feature."""
    total, bad_total = weight.sum(), weight[is_bad].sum()
    scored: list[tuple[float, int, Predicate]] = []
    for name, column in columns.items():
        of_feature: list[tuple[float, int, Predicate]] = []
        for predicate in _candidates(name, column, is_bad):
            mask = predicate.holds(column.values)
            hit, bad = weight[mask].sum(), weight[mask & is_bad].sum()
            if bad <= 0 or bad / hit <= 1.05 * bad_total / total:
                continue
            quality = math.sqrt(hit / total) * (bad / hit - bad_total / total)
            if len(predicate.bounds) > 1 and -quality >= _WORTH * min(
                (worse for worse, _, _ in of_feature), default=0.0
            ):
                continue  # one more value of a set is to be worth it, as one more predicate is
            of_feature.append((-quality, len(scored) + len(of_feature), predicate))
        scored += sorted(of_feature)[:_PER_FEATURE]
    return [predicate for _, _, predicate in sorted(scored)[:_MOST_PREDICATES]]


def _candidates(name: str, column: Column, is_bad: Mask) -> list[Predicate]:
    values = column.values
    missing = np.isnan(values)
    found: list[Predicate] = []
    if 0 < missing.sum() < len(values):
        found.append(Predicate(name, "missing", (), f"missing({name})", f"{name} is missing"))
        found.append(Predicate(name, "known", (), f"not missing({name})", f"{name} is known"))
    known = values[~missing]
    if len(known) == 0:
        return found
    if column.kind == "boolean":
        found.append(Predicate(name, "in", (1.0,), name, f"{name} is true"))
        found.append(Predicate(name, "in", (0.0,), f"not {name}", f"{name} is false"))
    elif column.kind == "text":
        found += _of_texts(name, column, is_bad)
    elif known.min() < known.max():
        found += _of_numbers(name, known, values[~missing & is_bad])
    return found


def _of_texts(name: str, column: Column, is_bad: Mask) -> list[Predicate]:
    """Single values, and small sets of those with the highest shares of bad rows."""
    places = column.values[~np.isnan(column.values)].astype(np.int64)
    size = len(column.texts)
    all_rows = np.bincount(places, minlength=size)
    bad = np.bincount(column.values[is_bad & ~np.isnan(column.values)].astype(int), minlength=size)
    able = [k for k in np.flatnonzero(bad >= 2).tolist() if len(column.texts[k]) <= _LONGEST_VALUE]
    able.sort(key=lambda k: (-bad[k] / all_rows[k], k))
    able = able[:30]
    sets = [(place,) for place in able] + [tuple(able[:size]) for size in (2, 3, 4)]
    found = []
    for members in sets:
        if not members or (len(members) > 1 and len(members) > len(able)):
            continue
        texts = [json.dumps(column.texts[k], ensure_ascii=False) for k in sorted(members)]
        bounds = tuple(float(k) for k in sorted(members))
        if len(texts) == 1:
            text, words = f"{name} == {texts[0]}", f"{name} is {texts[0]}"
        else:
            text = f"{name} in ({', '.join(texts)})"
            words = f"{name} is {', '.join(texts[:-1])} or {texts[-1]}"
        found.append(Predicate(name, "in", bounds, text, words))
    return list(dict.fromkeys(found))


def _of_numbers(name: str, known: Floats, bad: Floats) -> list[Predicate]:
    """Bounds at quantiles of all rows and of the bad ones, of two digits."""
    levels = np.quantile(known, _LEVELS, method="inverted_cdf").tolist()
    if len(bad):
        levels += np.quantile(bad, _LEVELS, method="inverted_cdf").tolist()
    distinct = np.unique(known)
    bounds = sorted({tried for level in set(levels) for tried in near(level, distinct)})
    found = []
    for bound in bounds:
        number = literal(bound)
        found.append(
            Predicate(name, "above", (bound,), f"{name} > {number}", f"{name} is above {number}")
        )
        found.append(
            Predicate(name, "below", (bound,), f"{name} < {number}", f"{name} is below {number}")
        )
    return found


def _rounded(number: float) -> float:
    return float(f"{number:.2g}")

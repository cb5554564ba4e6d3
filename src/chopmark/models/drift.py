"""What the training rows looked like, and how far later rows have moved from them.

    PSI = sum over buckets of (now - before) * ln(now / before)
    KS  = largest distance of the two cumulative shares, at the stored edges

A reference is a histogram of each raw column and of the scores: a few kilobytes that travel
in the artifact. It names no value that fewer than ten training rows had, has no smallest and
no largest value, and its edges are rounded, so no row can be read from it.

PSI is never zero, since both sides are samples: where nothing has moved its mean is about
(buckets - 1) * (1 / before + 1 / now) in rows. Verdicts are given on what is above that.
Serves A11 and A16 of the requirements.

References
----------
Bilal Yurdakul, "Statistical Properties of Population Stability Index", 2018.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import floor, log10, sqrt
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from chopmark.errors import ArtifactError, InvalidInput
from chopmark.models.column import Column
from chopmark.models.encoder import Encoder
from chopmark.models.model import Table
from chopmark.models.parsing import MISSING_CODE

Sort = Literal["number", "boolean", "category", "date"]
"""How the values of a column are told apart."""

Verdict = Literal["stable", "moved", "drifted"]

SCORES = "score"
"""Name under which the drift of the scores is reported."""

_MOST_NAMES = 20
_FEWEST_ROWS = 10
_BUCKETS = 10
_BUCKETS_OF_MANY = 20
_MANY_ROWS = 5_000
_MOVED = 0.1
_DRIFTED = 0.25
_Z95 = 1.645


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """The histogram of one raw column, or of the scores.

    Attributes
    ----------
    column
        The raw column.
    kind
        "number", "boolean", "category" or "date".
    edges
        All but category: rising; a value on an edge belongs to the bucket below. Dates are
        microseconds since 1970.
    names
        Category only: the frequent values, one bucket each.
    counts
        Rows in each bucket: one more than edges, or one for each name and one for all others.
    missing
        Rows without a value.
    """

    column: str
    kind: Sort
    edges: tuple[float, ...]
    names: tuple[str, ...]
    counts: tuple[int, ...]
    missing: int

    @property
    def rows(self) -> int:
        """All rows, those without a value among them."""
        return sum(self.counts) + self.missing


@dataclass(frozen=True, slots=True, kw_only=True)
class ColumnDrift:
    """How one column (or the score) moved.

    Attributes
    ----------
    before, now
        The histograms of the training rows and of the later rows, in the same buckets.
    psi
        Population stability index over the buckets and the missing, with half a row added to
        each, so that an empty bucket does not make it infinite.
    noise
        What the PSI would be on average if nothing had moved.
    chance
        What it would exceed once in twenty times if nothing had moved.
    ks
        Kolmogorov-Smirnov distance of the known values, None for categories. Measured at the
        edges: at most one bucket's share below the true one.
    """

    before: Profile
    now: Profile
    psi: float
    noise: float
    chance: float
    ks: float | None

    @property
    def column(self) -> str:
        """The raw column."""
        return self.before.column

    @property
    def missing_before(self) -> float:
        """Share of training rows without a value."""
        return self.before.missing / max(1, self.before.rows)

    @property
    def missing_now(self) -> float:
        """Share of later rows without a value."""
        return self.now.missing / max(1, self.now.rows)

    @property
    def verdict(self) -> Verdict:
        """By the usual rule of thumb, 0.1 and 0.25, on what sampling noise does not explain."""
        excess = self.psi - self.noise
        if self.psi <= self.chance or excess < _MOVED:
            return "stable"
        return "moved" if excess < _DRIFTED else "drifted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """What the training rows looked like.

    Attributes
    ----------
    columns
        One profile per raw column that the model reads.
    scores
        The profile of the scores; None where they were not given.
    """

    columns: tuple[Profile, ...]
    scores: Profile | None = None

    @classmethod
    def of(cls, frame: Table, encoder: Encoder, scores: ArrayLike | None = None) -> Self:
        """The reference of training rows.

        Parameters
        ----------
        frame
            The training rows, a polars DataFrame with the columns of `encoder.reads`.
        encoder
            How they are read.
        scores
            (n,) scores of rows that the model had not learned from. Scores of its own training
            rows are more extreme than any later ones and would always seem to drift.

        Raises
        ------
        InvalidTable
            If the table lacks a column.
        """
        readings = plain_readings(encoder)
        base = readings.base_table(frame)
        columns = tuple(_profile(base[:, j], column) for j, column in enumerate(readings.columns))
        return cls(columns=columns, scores=None if scores is None else _of_scores(scores))

    def drift(
        self, frame: Table, encoder: Encoder, scores: ArrayLike | None = None
    ) -> list[ColumnDrift]:
        """How far later rows moved from these, farthest first by PSI.

        Parameters
        ----------
        frame
            Later rows, a polars DataFrame.
        encoder
            The one that the reference was made with.
        scores
            (n,) their scores; None leaves the scores out.

        Raises
        ------
        InvalidInput
            If the encoder does not read a column of the reference, or there are no rows.
        InvalidTable
            If the table lacks a column.
        """
        readings = plain_readings(encoder)
        base = readings.base_table(frame)
        if len(base) == 0:
            raise InvalidInput("expected at least one row to compare, got none")
        places = {name: place for place, name in enumerate(readings.reads)}
        found = []
        for before in self.columns:
            if before.column not in places:
                raise InvalidInput(
                    f"the reference knows column `{before.column}`, which the encoder does not "
                    "read: expected the encoder of the same model"
                )
            place = places[before.column]
            found.append(_drift(before, base[:, place], readings.columns[place]))
        if self.scores is not None and scores is not None:
            found.append(_drift(self.scores, np.asarray(scores, dtype=np.float64), _SCORE_COLUMN))
        return sorted(found, key=lambda moved: -moved.psi)

    def to_json(self) -> dict[str, Any]:
        """All of the reference, as JSON takes it."""
        return {
            "columns": [asdict(profile) for profile in self.columns],
            "scores": None if self.scores is None else asdict(self.scores),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """The reference that `to_json` described.

        Raises
        ------
        ArtifactError
            If the description is not of a reference.
        """
        try:
            columns = tuple(_profile_of_json(item) for item in data["columns"])
            scores = data["scores"]
            return cls(columns=columns, scores=None if scores is None else _profile_of_json(scores))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise ArtifactError(f"the artifact's reference cannot be read: {error!r}") from error


_SCORE_COLUMN = Column(name=SCORES, kind="number")


def plain_readings(encoder: Encoder) -> Encoder:
    """An encoder with one reading of each raw column: the one that says most about its values.

    Categories are told apart by code, whatever the model itself learned for each; a text is
    read as the mean weight of its tokens where the model has weights.
    """
    chosen: dict[str, Column] = {}
    for column in encoder.columns:
        if column.name not in chosen or _rank(column) < _rank(chosen[column.name]):
            chosen[column.name] = column
    return Encoder(columns=[_plain(column) for column in chosen.values()])


def _rank(column: Column) -> int:
    if column.kind == "text":
        return 3 if column.parts == ("score",) else 4
    return (2 if column.values else 0) + (1 if column.pattern else 0)


def _plain(column: Column) -> Column:
    if column.kind in ("category", "high_cardinality"):
        return replace(column, kind="category", values=(), fallback=0.0, buckets=0)
    return column


def _of_scores(scores: ArrayLike) -> Profile:
    return _profile(np.asarray(scores, dtype=np.float64), _SCORE_COLUMN)


def _profile(base: NDArray[np.float64], column: Column) -> Profile:
    if column.is_coded:
        return _counted(base, column, names=_frequent(base, column))
    if column.kind == "boolean":
        return _counted(base, column, edges=(0.5,))
    return _counted(base, column, edges=_edges(base[np.isfinite(base)]))


def _frequent(base: NDArray[np.float64], column: Column) -> tuple[str, ...]:
    rows = np.bincount(base.astype(np.int64), minlength=len(column.categories) + 2)[2:]
    order = np.argsort(-rows, kind="stable")[:_MOST_NAMES]
    return tuple(column.categories[code] for code in order if rows[code] >= _FEWEST_ROWS)


def _edges(known: NDArray[np.float64]) -> tuple[float, ...]:
    """Inner quantiles, ten rows or more in each bucket, rounded to 1/1000 of their span."""
    most = _BUCKETS_OF_MANY if len(known) >= _MANY_ROWS else _BUCKETS
    buckets = min(most, len(known) // _FEWEST_ROWS)
    if buckets < 2:
        return ()
    inner = np.quantile(known, np.linspace(0.0, 1.0, buckets + 1)[1:-1])
    span = float(inner[-1] - inner[0])
    if span > 0.0:
        inner = np.round(inner, 3 - floor(log10(span)))
    return tuple(np.unique(inner).tolist())


def _counted(
    base: NDArray[np.float64],
    column: Column,
    *,
    edges: tuple[float, ...] = (),
    names: tuple[str, ...] = (),
) -> Profile:
    """The histogram of base values in given buckets."""
    if column.is_coded:
        others = len(names)
        buckets = {name: bucket for bucket, name in enumerate(names)}
        of_code = [others, others, *(buckets.get(text, others) for text in column.categories)]
        missing = base == MISSING_CODE
        bucket = np.array(of_code)[base[~missing].astype(np.int64)]
        size = others + 1
    else:
        missing = ~np.isfinite(base)
        bucket = np.searchsorted(np.array(edges), base[~missing], side="left")
        size = len(edges) + 1
    return Profile(
        column=column.name,
        kind=_sort(column),
        edges=edges,
        names=names,
        counts=tuple(np.bincount(bucket, minlength=size).tolist()),
        missing=int(missing.sum()),
    )


def _sort(column: Column) -> Sort:
    if column.is_coded:
        return "category"
    return column.kind if column.kind in ("boolean", "date") else "number"


def _drift(before: Profile, base: NDArray[np.float64], column: Column) -> ColumnDrift:
    now = _counted(base, column, edges=before.edges, names=before.names)
    psi, buckets = _stability(
        np.array([*before.counts, before.missing]), np.array([*now.counts, now.missing])
    )
    freedom = max(1, buckets - 1)
    per_degree = 1.0 / max(1, before.rows) + 1.0 / max(1, now.rows)
    return ColumnDrift(
        before=before,
        now=now,
        psi=psi,
        noise=(buckets - 1) * per_degree,
        chance=_chi_squared_95(freedom) * per_degree,
        ks=None if before.kind == "category" else _distance(before.counts, now.counts),
    )


def _stability(before: NDArray[np.int64], now: NDArray[np.int64]) -> tuple[float, int]:
    """PSI of two counts, and the number of buckets that any row is in."""
    used = before + now > 0
    first, second = before[used] + 0.5, now[used] + 0.5
    first, second = first / first.sum(), second / second.sum()
    return float(np.sum((second - first) * np.log(second / first))), int(used.sum())


def _chi_squared_95(freedom: int) -> float:
    """The 95 % point of chi-squared, by Wilson and Hilferty's cube root: within 1 %."""
    spread = 2.0 / (9.0 * freedom)
    return float(freedom * (1.0 - spread + _Z95 * sqrt(spread)) ** 3)


def _distance(before: Sequence[int], now: Sequence[int]) -> float:
    first, second = np.cumsum(before), np.cumsum(now)
    if first[-1] == 0 or second[-1] == 0:
        return 0.0
    return float(np.abs(first / first[-1] - second / second[-1]).max())


def _profile_of_json(item: Mapping[str, Any]) -> Profile:
    edges = tuple(float(edge) for edge in item["edges"])
    profile = Profile(
        column=item["column"],
        kind=item["kind"],
        edges=edges,
        names=tuple(item["names"]),
        counts=tuple(item["counts"]),
        missing=item["missing"],
    )
    texts = (profile.column, *profile.names)
    numbers = (*profile.counts, profile.missing)
    good = (
        set(item) == set(Profile.__dataclass_fields__)
        and profile.kind in ("number", "boolean", "category", "date")
        and all(isinstance(text, str) for text in texts)
        and all(type(number) is int and number >= 0 for number in numbers)
        and bool(np.all(np.isfinite(edges)) and np.all(np.diff(edges) > 0.0))
        and len(profile.counts) == 1 + len(profile.names) + len(edges)
        and not (profile.names if profile.kind != "category" else edges)
    )
    if not good:
        raise ValueError(f"the profile of `{profile.column}` is broken")
    return profile

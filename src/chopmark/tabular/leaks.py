"""Columns that know the label by the way in which the table was collected.

    running number   tells the label together with another column far better than that column
                     does, as where bad rows were sorted by month before rows were numbered;
                     or alone, in a file sorted by label
    blocks           nearly all values differ, yet rows of neighbouring values share the label,
                     while the coarse course of the values tells far less
    too good         the column alone tells nearly all labels

An honest column does none of this: the running number of a file is at most a stand-in for the
time, which the label follows slowly; a measured value tells the label smoothly. All evidence is
out of fold. A running number is dropped anyway (`chopmark.tabular.kinds`); the others may be a
fortunate column or a burst of fraud, so they are kept, and the user is told.
Serves A3 and A16 of the requirements.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.models import Column, Encoder, Kind
from chopmark.models.column import PARTS
from chopmark.tabular.kinds import is_running

_TOO_GOOD = 0.995
_SORTED = 0.9
_LEAST_GAIN = 0.1
_LEAST_DATE_BLOCKS = 0.95
_SURE = 5.0
"""Standard errors by which evidence must exceed chance; some thousand pairs are looked at."""

_CODED = ("category", "high_cardinality")
_NEAR_UNIQUE = 0.95
_FEWEST_ROWS = 50
_FEWEST_OF_A_LABEL = 10
_MOST_PARTNERS = 300
_MOST_ROWS = 200_000
_PSEUDO_ROWS = 1.0
_NUM_FOLDS = 5
_COARSE_BINS = 16
_FINE_BINS = 64
_NEIGHBOURS = 3

Labels = NDArray[np.float64]  # (n,)
Codes = NDArray[np.int64]  # (n,) bins or categories, from 0 on


@dataclass(frozen=True, slots=True, kw_only=True)
class Leak:
    """A column that knows too much.

    Attributes
    ----------
    column
        The raw column.
    reason
        What was found, in words.
    evidence
        ROC-AUC, out of fold, of what the column tells: alone, or with the one named in the
        reason.
    drop
        Whether it must not be learned from; else it is a warning.
    """

    column: str
    reason: str
    evidence: float
    drop: bool


def find_leaks(frame: pl.DataFrame, y: Labels, encoder: Encoder, *, seed: int = 0) -> list[Leak]:
    """Columns whose tie to the label only the collection of the data explains.

    Parameters
    ----------
    frame
        Training rows in the order in which they came.
    y
        (n,) labels, 0.0 or 1.0.
    encoder
        As `make_encoder` gave it, or fitted: its columns and the identifiers among its `dropped`
        are looked at.
    seed
        Of the folds.

    Returns
    -------
    list of Leak
        In the order of the columns, at most one for each; empty below 50 rows or 10 of a label.
        Of more than 200,000 rows only every so many are looked at.

    Notes
    -----
    O(n log n) per column, and per pair of a running number and another column.
    """
    if len(y) < _FEWEST_ROWS or min(y.sum(), len(y) - y.sum()) < _FEWEST_OF_A_LABEL:
        return []
    views = list(_views(frame, encoder))
    y = y[:: _step(len(y))]
    folds = np.random.default_rng(seed).permutation(len(y)) % _NUM_FOLDS
    leaks = []
    for view in views:
        leak = (
            _running_leak(view, views, y, folds)
            if view.is_running
            else _too_good(view, y, folds) or _block_leak(view, y, folds)
        )
        if leak is not None:
            leaks.append(leak)
    return leaks


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _View:
    """A column as the detector sees it: (n,) numbers, or codes of categories."""

    name: str
    kind: Kind
    values: NDArray[np.float64]
    is_running: bool

    def codes(self, num_bins: int) -> Codes:
        """(n,) categories, or bins of about equally many rows; 0 is missing."""
        if self.kind in _CODED:
            return self.values.astype(np.int64)
        return _bins(self.values, num_bins)


def _views(frame: pl.DataFrame, encoder: Encoder) -> Iterator[_View]:
    read = {column.name: column for column in reversed(encoder.columns) if not column.pattern}
    lost = {item.name for item in encoder.dropped if item.kind == "identifier"}
    for name in frame.columns:
        series = frame.get_column(name)
        if name in lost and series.dtype.is_numeric():
            column = Column(name=name, kind="number")
            yield _view(column, series, is_running=bool(is_running(series)))
        elif name in read:
            yield _view(read[name], series, is_running=False)


def _view(column: Column, series: pl.Series, *, is_running: bool) -> _View:
    if column.kind == "date":
        column = Column(name=column.name, kind="date", format=column.format, parts=PARTS[:1])
    elif column.kind in _CODED and column.values:
        # A target mean has seen the label of the very row: its evidence would not be out of fold.
        column = replace(column, values=(), fallback=0.0)
    sample = series.gather_every(_step(len(series))).to_frame()
    values = Encoder(columns=[column]).table(sample, threads=1)[:, 0]
    return _View(name=column.name, kind=column.kind, values=values, is_running=is_running)


def _running_leak(view: _View, views: list[_View], y: Labels, folds: Codes) -> Leak | None:
    number = _bins(view.values, _FINE_BINS)
    coarse, fine = _auc_of(number, y, folds), _neighbour_auc(view.values, y)
    alone = max(coarse, fine)
    least = max(_LEAST_GAIN, _SURE * _error(y))
    if alone > _SORTED or fine - coarse > least:
        reason = "a running number whose neighbours share the label"
        return Leak(column=view.name, reason=reason, evidence=alone, drop=True)
    for other in [item for item in views if not item.is_running][:_MOST_PARTNERS]:
        codes = other.codes(_COARSE_BINS)
        pair = _auc_of(number * (codes.max() + 1) + codes, y, folds)
        known = max(alone, _auc_of(codes, y, folds))
        if pair - known > least:
            reason = f"a running number that tells the label together with `{other.name}`"
            return Leak(column=view.name, reason=reason, evidence=pair, drop=True)
    return None


def _too_good(view: _View, y: Labels, folds: Codes) -> Leak | None:
    if view.kind == "text":
        return None
    auc = _auc_of(view.codes(max(_FINE_BINS, len(y) // 50)), y, folds)
    if auc < _TOO_GOOD:
        return None
    reason = "it alone tells nearly all labels: was it known before the label was?"
    return Leak(column=view.name, reason=reason, evidence=auc, drop=False)


def _block_leak(view: _View, y: Labels, folds: Codes) -> Leak | None:
    known = view.values[np.isfinite(view.values)]
    is_counter = view.kind == "date" or (view.kind == "number" and bool((known % 1 == 0).all()))
    if not is_counter or len(np.unique(known)) < max(_NEAR_UNIQUE * len(known), _FEWEST_ROWS):
        return None
    fine = _neighbour_auc(view.values, y)
    coarse = _auc_of(_bins(view.values, _COARSE_BINS), y, folds)
    least = _LEAST_DATE_BLOCKS if view.kind == "date" else 0.0
    if fine - coarse < max(_LEAST_GAIN, _SURE * _error(y)) or fine < least:
        return None
    reason = "its neighbouring values share the label, as in a file sorted by it in blocks"
    return Leak(column=view.name, reason=reason, evidence=fine, drop=False)


def _step(num_rows: int) -> int:
    return -(-num_rows // _MOST_ROWS)


def _bins(values: NDArray[np.float64], num_bins: int) -> Codes:
    known = np.isfinite(values)
    if not known.any():
        return np.zeros(len(values), dtype=np.int64)
    edges = np.unique(np.quantile(values[known], np.linspace(0, 1, num_bins + 1)[1:-1]))
    # An edge that many rows share, such as zero, is a bin of its own.
    below = np.searchsorted(edges, values, side="left")
    return np.where(known, below + np.searchsorted(edges, values, side="right") + 1, 0)


def _auc_of(codes: Codes, y: Labels, folds: Codes) -> float:
    """ROC-AUC of the rate of bad rows of the same code in the other folds."""
    _, codes = np.unique(codes, return_inverse=True)
    num_codes = int(codes.max()) + 1
    cells = folds * num_codes + codes
    shape = (_NUM_FOLDS, num_codes)
    bad = np.bincount(cells, y, minlength=_NUM_FOLDS * num_codes).reshape(shape)
    count = np.bincount(cells, minlength=_NUM_FOLDS * num_codes).reshape(shape)
    others = bad.sum(axis=0) - bad + _PSEUDO_ROWS * y.mean()
    rates = others / (count.sum(axis=0) - count + _PSEUDO_ROWS)
    return _auc(rates[folds, codes], y)


def _neighbour_auc(values: NDArray[np.float64], y: Labels) -> float:
    """ROC-AUC of the rate of bad rows among the nearest neighbours in the order of the values."""
    known = np.nonzero(np.isfinite(values))[0]
    labels = y[known[np.argsort(values[known], kind="stable")]]
    total = np.concatenate([[0.0], np.cumsum(labels)])
    place = np.arange(len(labels))
    begin = np.maximum(place - _NEIGHBOURS, 0)
    end = np.minimum(place + _NEIGHBOURS + 1, len(labels))
    rates = (total[end] - total[begin] - labels) / (end - begin - 1)
    return _auc(rates, labels)


def _auc(scores: NDArray[np.float64], y: Labels) -> float:
    """Share of pairs of a bad and a good row that the scores put right, ties by half."""
    _, rank, count = np.unique(scores, return_inverse=True, return_counts=True)
    middle = np.cumsum(count) - (count - 1) / 2
    num_bad = float(y.sum())
    pairs = num_bad * (len(y) - num_bad)
    if pairs == 0:
        return 0.5
    return float((middle[rank] @ y - num_bad * (num_bad + 1) / 2) / pairs)


def _error(y: Labels) -> float:
    """Standard error of the ROC-AUC of a column that tells nothing."""
    num_bad = float(y.sum())
    return float(np.sqrt((len(y) + 1) / (12 * num_bad * (len(y) - num_bad))))

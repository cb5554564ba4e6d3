"""The default policy of friction: a table of score and amount ranges, checked as a whole.

Rows are read in order and the first that fits is taken, so a table means what it says on paper.
What cannot be meant is refused when the table is made: rows that contradict each other, rows
that nothing can reach, frictions that compliance may forbid. Serves rows F10, I7 and H4 of the
requirements.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from itertools import combinations
from typing import cast

import numpy as np

from chopmark.decisions.decision import Reason
from chopmark.decisions.friction import (
    AMOUNT,
    EVERYTHING,
    RISKS,
    AllowList,
    FrictionChoice,
    Risk,
    Value,
    check_risk,
)
from chopmark.errors import PolicyError

_MOST_CELLS = 200_000
_Tests = tuple[tuple[str, float, float], ...]
_Box = dict[str, tuple[float, float]]
_ALL = (0.0, math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class FrictionRow:
    """One row of a table: where all ranges hold, the first permitted of these frictions.

    Parameters
    ----------
    frictions : tuple of str
        In order of preference.
    scores : tuple of (risk, low, high)
        Score in [low, high); a ``high`` of 1 includes it.
    amount_usd : (low, high)
        In [low, high).
    overrides : bool
        Whether it is meant to take what later rows would ask for otherwise.
    """

    frictions: tuple[str, ...]
    scores: tuple[tuple[Risk, float, float], ...] = ()
    amount_usd: tuple[float, float] = (0.0, math.inf)
    overrides: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FrictionTable:
    """Frictions by score and amount: the first row that fits.

    Rows of different frictions may meet only where it is plain which is meant: a row that lies
    inside a later one is its special case; any other has to say that it overrides.

    Parameters
    ----------
    rows : tuple of FrictionRow
    allow : AllowList
    default : tuple of str
        Where no row fits, in order of preference.
    unknown : tuple of str
        Where a row would fit if a missing score or amount did. The limit still bounds what can
        be lost, hence nothing is asked unless you say so; the reason says it.

    Raises
    ------
    PolicyError
        For an unknown risk or friction, an empty range, rows that cross, a row that nothing
        can reach, or one whose frictions the allow-list may all refuse.

    Examples
    --------
    >>> table = FrictionTable(
    ...     rows=(FrictionRow(frictions=("quiz",), scores=(("scam_victim", 0.3, 1.0),)),)
    ... )
    >>> table.choose({"scam_victim": 0.4, "amount_usd": 90.0}).friction
    'quiz'
    """

    rows: tuple[FrictionRow, ...]
    allow: AllowList = EVERYTHING
    default: tuple[str, ...] = ("none",)
    unknown: tuple[str, ...] = ("none",)
    _reads: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _tests: tuple[_Tests, ...] = field(init=False, repr=False, compare=False)
    _choices: tuple[dict[str, FrictionChoice], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        boxes = [_box(row, number) for number, row in enumerate(self.rows, start=1)]
        for number, row in enumerate(self.rows, start=1):
            self._check_frictions(row.frictions, f"row {number}")
        self._check_frictions(self.default, "`default`")
        self._check_frictions(self.unknown, "`unknown`")
        _check_meetings(self.rows, boxes)
        tests = tuple(
            tuple((name, low, high) for name, (low, high) in box.items()) for box in boxes
        )
        reads = {name for test in tests for name, _, _ in test}
        reasons = [
            *(_row_reason(number, test) for number, test in enumerate(tests, start=1)),
            Reason(code="friction", text="no row of the friction table fits"),
        ]
        choices = [
            {name: FrictionChoice(name, 1.0, reason) for name in names}
            for names, reason in zip(
                [*(row.frictions for row in self.rows), self.default], reasons, strict=True
            )
        ]
        object.__setattr__(self, "_reads", tuple(n for n in (*RISKS, AMOUNT) if n in reads))
        object.__setattr__(self, "_tests", tests)
        object.__setattr__(self, "_choices", tuple(choices))

    @property
    def hash(self) -> str:
        """Changes with every parameter."""
        return sha256(repr(self).encode()).hexdigest()

    def probabilities(self, values: Mapping[str, Value]) -> dict[str, float]:
        """The one friction that it chooses, with certainty."""
        return {self.choose(values).friction: 1.0}

    def choose(
        self, values: Mapping[str, Value], *, event_id: str = "", key: bytes = b""
    ) -> FrictionChoice:
        """The friction of the first row that fits; nothing is drawn.

        Parameters
        ----------
        values : mapping
            Scores in [0, 1] by risk, ``amount_usd``, and what the allow-list reads. None or
            absent is missing; an amount below zero counts as zero.

        Raises
        ------
        PolicyError
            If a score is no number in [0, 1].
        """
        numbers = {name: _number(name, values.get(name)) for name in self._reads}
        permitted = self.allow.permitted(values)
        for place, tests in enumerate(self._tests):
            missing = None
            for name, low, high in tests:
                number = numbers[name]
                if number is None:
                    missing = name
                elif not low <= number < high:
                    break
            else:
                if missing is not None:
                    return self._unsure(place, missing, permitted)
                return self._first(place, permitted)
        return self._first(len(self._tests), permitted)

    def _first(self, place: int, permitted: frozenset[str]) -> FrictionChoice:
        for name, choice in self._choices[place].items():
            if name in permitted:
                return choice
        raise AssertionError("the declaration was checked against every possible allow-list")

    def _unsure(self, place: int, missing: str, permitted: frozenset[str]) -> FrictionChoice:
        name = next(name for name in self.unknown if name in permitted)
        text = f"{missing} is missing, so row {place + 1} of the friction table cannot be judged"
        return FrictionChoice(name, 1.0, Reason(code="no_score", text=text))

    def _check_frictions(self, names: tuple[str, ...], where: str) -> None:
        for name in names:
            self.allow.registry[name]
        for possible in self.allow.possible():
            if not possible & set(names):
                raise PolicyError(
                    f"{where} of the friction table offers {', '.join(names) or 'nothing'}, and "
                    f"the allow-list may permit no more than {', '.join(sorted(possible))}; add "
                    "one of these to it"
                )


def _number(name: str, value: Value) -> float | None:
    if value is None:
        return None
    if isinstance(value, str) or value != value:
        raise PolicyError(f"expected a number in `{name}`, got {value!r}")
    if name == AMOUNT:
        return max(value, 0.0)
    if not 0.0 <= value <= 1.0:
        raise PolicyError(f"expected a score from 0 to 1 in `{name}`, got {value!r}")
    return value


def _box(row: FrictionRow, number: int) -> _Box:
    """The ranges of a row that say something, by name."""
    box: _Box = {}
    for risk, low, high in row.scores:
        check_risk(risk, f"in row {number}")
        if risk in box:
            raise PolicyError(f"expected one range of `{risk}` in row {number}, got two")
        if not 0.0 <= low < high <= 1.0:
            raise PolicyError(
                f"expected a range of `{risk}` inside [0, 1] in row {number}, got {low} to {high}"
            )
        # A score of exactly 1 belongs to the highest range.
        box[risk] = (low, high if high < 1.0 else math.inf)
    low, high = row.amount_usd
    if not 0.0 <= low < high:
        raise PolicyError(f"expected a range of amounts in row {number}, got {low} to {high} USD")
    box[AMOUNT] = (low, high)
    return {name: bounds for name, bounds in box.items() if bounds != _ALL}


def _check_meetings(rows: Sequence[FrictionRow], boxes: Sequence[_Box]) -> None:
    """Raise for a row that nothing reaches, and for rows that cross with no word on it.

    All bounds together cut the space of scores and amounts into cells; each cell belongs to
    the first row that covers it, so the check is exact and needs no search.
    """
    names = sorted({name for box in boxes for name in box})
    cuts = [sorted({0.0, math.inf, *(c for b in boxes for c in b.get(n, ()))}) for n in names]
    shape = [len(cut) - 1 for cut in cuts]
    if math.prod(shape) > _MOST_CELLS:
        raise PolicyError(
            f"expected a friction table that its bounds cut into at most {_MOST_CELLS:,} cells, "
            f"got {math.prod(shape):,}; let its rows share their bounds"
        )
    owners = np.zeros(shape, dtype=np.int32)
    for number, (row, box) in enumerate(zip(rows, boxes, strict=True), start=1):
        cells = tuple(
            slice(cut.index(low), cut.index(high))
            for cut, (low, high) in zip(cuts, (box.get(name, _ALL) for name in names), strict=True)
        )
        found = cast(list[int], np.unique(owners[cells]).tolist())
        if 0 not in found:
            raise PolicyError(
                f"no value can reach row {number} of the friction table: {_listed(found)} "
                "before it take all; move it up or leave it out"
            )
        for earlier in found:
            if earlier and not _may_precede(rows[earlier - 1], boxes[earlier - 1], row, box):
                raise PolicyError(
                    f"rows {earlier} and {number} of the friction table overlap and ask for "
                    f"{rows[earlier - 1].frictions[0]} and {row.frictions[0]}; part their "
                    f"ranges, or say that row {earlier} overrides"
                )
        part = owners[cells]
        part[part == 0] = number


def _may_precede(row: FrictionRow, box: _Box, later: FrictionRow, later_box: _Box) -> bool:
    same = row.frictions == later.frictions
    return same or row.overrides or _is_special_case(box, later_box)


def _is_special_case(box: _Box, of: _Box) -> bool:
    """Whether it lies inside the other."""
    return all(
        low <= box.get(name, _ALL)[0] and box.get(name, _ALL)[1] <= high
        for name, (low, high) in of.items()
    )


def _listed(numbers: Sequence[int]) -> str:
    word = "row" if len(numbers) == 1 else "rows"
    return f"{word} {', '.join(map(str, numbers))}"


def _row_reason(number: int, tests: _Tests) -> Reason:
    parts = [
        f"{name} from {low:g}" + ("" if high == math.inf else f" to {high:g}")
        for name, low, high in tests
    ]
    fits = " and ".join(parts) or "always"
    return Reason(code="friction", text=f"row {number} of the friction table: {fits}")


def _two(one: Risk, other: Risk) -> FrictionRow:
    return FrictionRow(
        frictions=("human_review",),
        scores=((one, 0.1, 1.0), (other, 0.1, 1.0)),
        amount_usd=_WORTHWHILE,
        overrides=True,
    )


def _one(risk: Risk, low: float, high: float, *frictions: str) -> FrictionRow:
    return FrictionRow(
        frictions=frictions,
        scores=((risk, low, high),),
        amount_usd=_WORTHWHILE,
        overrides=True,
    )


_WORTHWHILE = (20.0, math.inf)
DEFAULT_TABLE = FrictionTable(
    rows=(
        *(_two(one, other) for one, other in combinations(RISKS, 2)),
        _one("stolen_payment", 0.3, 1.0, "id_selfie", "id_photo"),
        _one("account_takeover", 0.3, 1.0, "id_selfie", "call_back"),
        _one("scam_victim", 0.3, 1.0, "agent", "delay"),
        _one("money_mule", 0.3, 1.0, "human_review"),
        _one("stolen_payment", 0.05, 0.3, "id_photo", "id_selfie"),
        _one("account_takeover", 0.05, 0.3, "delay", "call_back"),
        _one("scam_victim", 0.05, 0.3, "quiz", "agent"),
        _one("money_mule", 0.05, 0.3, "agent", "quiz"),
    )
)
"""Hand-made: each risk has its own friction, two at once go to an analyst, and below 20 USD
nothing is asked. A start, until the log says what works."""

"""Why a score is what it is, in words: the features that moved it most."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from chopmark.decisions.decision import Reason
from chopmark.features.sequence import EventList

Value = float | str | EventList | None


def score_reasons(
    reads: Sequence[str],
    values: Sequence[Value],
    contributions: NDArray[np.float64],
    *,
    most: int = 3,
    least_log_odds: float = 0.05,
) -> list[Reason]:
    """The features that moved a score most, up or down, strongest first.

    Parameters
    ----------
    reads, values : sequences of equal length
        Names and values of the model's features.
    contributions : (n,) float64
        In log-odds.
    least_log_odds : float
        Weaker ones are left out.
    """
    # A few dozen numbers: plain Python sorts them in a third of the time of numpy.
    parts: list[float] = contributions.tolist()
    places = sorted(range(len(parts)), key=[-abs(part) for part in parts].__getitem__)[:most]
    return [
        Reason(
            code="feature",
            text=_sentence(reads[place], values[place], parts[place]),
            feature=reads[place],
            value=_told(values[place]),
            log_odds=parts[place],
        )
        for place in places
        if abs(parts[place]) >= least_log_odds
    ]


def _sentence(name: str, value: Value, log_odds: float) -> str:
    told = _told(value)
    if isinstance(value, list):
        shown = f"has {told}"
    elif told is None:
        shown = "is missing"
    else:
        shown = f"= {told}" if isinstance(told, str) else f"= {told:.6g}"
    return f"{name} {shown}: {'riskier' if log_odds > 0 else 'safer'}"


def _told(value: Value) -> float | str | None:
    """A value as a reason tells it: of a sequence only how long it is."""
    if isinstance(value, list):
        return f"{len(value)} event{'' if len(value) == 1 else 's'}"
    return value

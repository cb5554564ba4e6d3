"""Damping: a score moves only when it means it (hysteresis), so that limits do not flap.

A new score comes with every purchase, log-in or new card, and much of its movement is
noise. A limit that follows it goes up and down under the user's hands. So a band lies
around the score that holds, in log-odds, and it is not symmetric (row E19):

    raw >= held + tighten                        the raw score holds at once
    raw <= held - loosen, `dwell` times running  raw + cushion holds
    else                                         nothing changes

Danger is believed at once, safety after it has repeated itself. "Only change the score if
new > old by a threshold" is a ratchet: scores never come down. It is kept as the mode
``ratchet``.

A damped score is riskier than the raw one on average, as noise counts upwards only: fit the
limit curve to damped scores, not to raw ones.

References
----------
Otto Schmitt, "A thermionic trigger", 1938: two thresholds instead of one.
"""

import math
from dataclasses import dataclass
from typing import Literal, get_args

from chopmark.errors import PolicyError, did_you_mean

Mode = Literal["asymmetric", "ratchet", "none"]

LOGIT_LIMIT = 36.0
"""Log-odds of a score are kept within this: beyond it 1 - score is lost in a float."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Damping:
    """When a new score replaces the one that holds.

    Parameters
    ----------
    mode : {"asymmetric", "ratchet", "none"}
        The band above; only upwards (if new > old + `threshold`, as probabilities); or every
        new score at once.
    tighten, loosen : float, > 0
        Distances in log-odds.
    dwell : int, >= 1
        Rescorings in a row that must ask for loosening.
    cushion : float, in [0, loosen)
        How far above the raw score it lands when it loosens, in log-odds: a raw score that
        has just passed as low is often low by chance, and the next one would tighten again.
    threshold : float, in [0, 1)
        Of the mode ``ratchet``, in probability.

    Examples
    --------
    >>> damping = Damping(dwell=2)
    >>> damping.damp(-3.0, -2.9), damping.damp(-3.0, -2.5)
    ((-3.0, 0), (-2.5, 0))
    >>> damping.damp(-3.0, -4.0, 0), damping.damp(-3.0, -4.0, 1)
    ((-3.0, 1), (-3.5, 0))
    """

    mode: Mode = "asymmetric"
    tighten: float = 0.3
    loosen: float = 0.8
    dwell: int = 5
    cushion: float = 0.5
    threshold: float = 0.05

    def __post_init__(self) -> None:
        if self.mode not in get_args(Mode):
            hint = did_you_mean(str(self.mode), get_args(Mode))
            raise PolicyError(f"expected a mode of damping, got {self.mode!r}{hint}")
        for name in ("tighten", "loosen"):
            if not 0.0 < getattr(self, name) < math.inf:
                raise PolicyError(
                    f"expected `{name}` above 0 in log-odds, got {getattr(self, name)!r}"
                )
        if type(self.dwell) is not int or self.dwell < 1:
            raise PolicyError(f"expected a whole `dwell` of at least 1, got {self.dwell!r}")
        if not 0.0 <= self.cushion < self.loosen:
            raise PolicyError(
                f"expected a `cushion` from 0 to below `loosen` ({self.loosen!r}), got "
                f"{self.cushion!r}; it would not loosen otherwise"
            )
        if not 0.0 <= self.threshold < 1.0:
            raise PolicyError(f"expected a `threshold` from 0 to 1, got {self.threshold!r}")

    def damp(self, previous: float | None, raw_logit: float, dwell: int = 0) -> tuple[float, int]:
        """The log-odds that hold now, and how often in a row loosening was asked for.

        Parameters
        ----------
        previous : float or None
            Log-odds that held until now; None if there were none: the raw ones hold.
        raw_logit : float
            Log-odds of the new score, finite.
        dwell : int, >= 0
            What the last call gave back.

        Raises
        ------
        PolicyError
            If a number is not finite.
        """
        if not math.isfinite(raw_logit) or (previous is not None and not math.isfinite(previous)):
            raise PolicyError(
                f"expected finite log-odds, got {raw_logit!r} after {previous!r}; `logit` makes "
                "them of a score"
            )
        if previous is None or self.mode == "none":
            return raw_logit, 0
        if self.mode == "ratchet":
            rises = probability(raw_logit) > probability(previous) + self.threshold
            return (raw_logit if rises else previous), 0
        if raw_logit - previous >= self.tighten:
            return raw_logit, 0
        if previous - raw_logit < self.loosen:
            return previous, 0
        if dwell + 1 < self.dwell:
            return previous, dwell + 1
        return raw_logit + self.cushion, 0


def logit(score: float) -> float:
    """Log-odds of a score in [0, 1], within `LOGIT_LIMIT`.

    Examples
    --------
    >>> logit(0.5), logit(0.0)
    (0.0, -36.0)
    """
    if not 0.0 <= score <= 1.0:
        raise PolicyError(f"expected a score from 0 to 1, got {score!r}")
    if score == 0.0 or score == 1.0:
        return LOGIT_LIMIT if score else -LOGIT_LIMIT
    return min(max(math.log(score) - math.log1p(-score), -LOGIT_LIMIT), LOGIT_LIMIT)


def probability(log_odds: float) -> float:
    """The score of log-odds, in [0, 1]; never falls with them.

    Examples
    --------
    >>> probability(0.0)
    0.5
    """
    if log_odds >= 0.0:
        return 1.0 / (1.0 + math.exp(-log_odds))
    odds = math.exp(max(log_odds, -700.0))
    return odds / (1.0 + odds)

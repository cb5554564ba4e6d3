"""Derived features: functions of other features and of the event at hand.

`Derived` is an expression of the one language (`chopmark.expressions`); `share` makes a
ready-made one; `Similarity` compares two texts. None has a state of its own.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, get_args

from rapidfuzz.distance import JaroWinkler, Levenshtein

from chopmark.errors import FeatureError, did_you_mean
from chopmark.features.aggregate import Aggregate
from chopmark.features.feature import slug

_NO_LETTERS = re.compile(r"[\W_]+")

Measure = Literal["jaccard", "levenshtein", "jaro_winkler"]


@dataclass(frozen=True, slots=True)
class Derived:
    """An expression over fields of the event at hand and features of the catalog.

    Parameters
    ----------
    text : str
        The expression. A bare name takes a field or a feature as it is.
    alias : str, optional
        Its name; without it, one made from the text.

    Examples
    --------
    >>> Derived("amount_usd / purchase_amount_usd_mean_90d", "amount_ratio").name
    'amount_ratio'
    >>> Derived("hour(happened_at)").name
    'hour_happened_at'
    """

    text: str
    alias: str | None = None
    parts: tuple[Aggregate, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """The alias, or one made from the text."""
        return self.alias or slug(self.text)

    def describe(self) -> str:
        """All that the value depends on, save the features that it reads."""
        return repr(("derived", self.text))


def share(
    event: str | tuple[str, ...], *, of: str, window: str = "7d", baseline: str = "90d"
) -> Derived:
    """How common an attribute's value is now against its baseline (rows C11, C12, F2).

    The share of this value (of this very screen resolution, say) among all events in the
    window, over its share in the baseline: 1 is as always, 5 a five-fold wave. Missing
    where the baseline has no such event.

    Parameters
    ----------
    of : str
        Entity field whose value is counted.

    Examples
    --------
    >>> share("signup", of="device").name
    'signup_device_share_7d_over_90d'
    """
    value_now = Aggregate(event, "count", by=of, window=window)
    value_before = Aggregate(event, "count", by=of, window=baseline)
    all_now = Aggregate(event, "count", by="everyone", window=window)
    all_before = Aggregate(event, "count", by="everyone", window=baseline)
    return Derived(
        f"({value_now.name} / {all_now.name}) / ({value_before.name} / {all_before.name})",
        f"{'_or_'.join(value_now.events)}_{of}_share_{window}_over_{baseline}",
        parts=(value_now, all_now, value_before, all_before),
    )


@dataclass(frozen=True, slots=True)
class Similarity:
    """How alike two texts are, from 0 (nothing in common) to 1 (the same) (row C9).

    Parameters
    ----------
    left, right : str
        Fields of the event at hand, or `Lookup` features of kind text.
    measure : {"jaccard", "levenshtein", "jaro_winkler"}
        Of the sets of words; of the letters, normalised by the longer text; of the letters
        with weight on the beginning. Case, punctuation and repeated blanks are ignored.

    Examples
    --------
    >>> Similarity("holder_name", "id_verified_name").name
    'holder_name_vs_id_verified_name_jaccard'
    """

    left: str
    right: str
    measure: Measure = "jaccard"

    def __post_init__(self) -> None:
        if self.measure not in MEASURES:
            raise FeatureError(
                f"unknown measure `{self.measure}`" + did_you_mean(self.measure, MEASURES)
            )

    @property
    def name(self) -> str:
        """The computed name."""
        return f"{self.left}_vs_{self.right}_{self.measure}"

    def describe(self) -> str:
        """All that the value depends on, save the features that it reads."""
        return repr(("similarity", self.left, self.right, self.measure))

    def __call__(self, left: str, right: str) -> float:
        """The similarity of two texts, 0 to 1."""
        return MEASURES[self.measure](_plain(left), _plain(right))


def jaccard(left: str, right: str) -> float:
    """Words in common over all words of both; two empty texts are alike.

    Examples
    --------
    >>> jaccard("ann lee", "lee ann marie")
    0.6666666666666666
    """
    first, second = set(left.split()), set(right.split())
    union = len(first | second)
    return len(first & second) / union if union else 1.0


MEASURES: dict[str, Callable[[str, str], float]] = {
    "jaccard": jaccard,
    "levenshtein": Levenshtein.normalized_similarity,
    "jaro_winkler": JaroWinkler.similarity,
}
assert set(MEASURES) == set(get_args(Measure))


def _plain(text: str) -> str:
    return _NO_LETTERS.sub(" ", text.casefold()).strip()

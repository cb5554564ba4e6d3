"""Rules: a condition in the one expression language, and what follows from it.

    Rule(
        name="fresh_account_far_from_home",
        when='amount_usd > 500 and signup_seconds_since_first < 86400 and country_mismatch == 1',
        then=Effects(limit_at_most_usd=100, friction="id_selfie"),
        because="a large purchase on the first day, from another country than the ID's",
    )

A condition is checked against the event types and the catalog when the rule is written, not
when it runs. It may read every feature and every field of the event at hand by name, the
model's ``score``, the ``event_type``, named lists, and functions of texts
(`chopmark.rules.texts`). What is missing makes it neither true nor false, and a rule
acts only where it is true. Serves F9, F10 and F13 of the requirements.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import msgspec

from chopmark.errors import InvalidExpression, RuleError, did_you_mean
from chopmark.expressions import Condition, Kind, parse, take_apart
from chopmark.features.catalog import Catalog
from chopmark.rules.texts import TEXT_FUNCTIONS

NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
LONGEST_LOCK_DAYS = 366
MOST_OUTSIDE = 8
"""Questions of texts and lists that one rule may ask."""
MOST_TAGS, LONGEST_WORD = 10, 64
_UNKNOWN = re.compile(r"unknown name `(\w+)`[^\n]*")
SPECIAL: Mapping[str, Kind] = {"score": "number", "event_type": "text"}
"""What a rule reads besides features and fields."""


class Effects(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True,
              forbid_unknown_fields=True):  # fmt: skip
    """What follows where a rule is true; at least one of these.

    Attributes
    ----------
    score_at_least, score_at_most : float, optional
        Bounds of the score, 0 to 1 (the 80 of an analyst is 0.8).
    limit_at_least_usd, limit_at_most_usd : float, optional
        Bounds of the weekly limit; never below the floor of 5 USD.
    lock_score : float, optional
        The score is held here for `lock_days`, also after the rule is no longer true.
    lock_days : int
        1 to 366.
    friction : str, optional
        What the user is asked to do first (`chopmark.decisions.friction`).
    queue : str, optional
        Where analysts find the case.
    delay_hours : float
        The event waits so long, above zero.
    deny : bool
        The event is refused, and nothing is said of later ones.
    tags : tuple of str
        Words for the record.
    """

    score_at_least: float | None = None
    score_at_most: float | None = None
    limit_at_least_usd: float | None = None
    limit_at_most_usd: float | None = None
    lock_score: float | None = None
    lock_days: int = 90
    friction: str | None = None
    queue: str | None = None
    delay_hours: float = 0.0
    deny: bool = False
    tags: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Raise `RuleError` for what no rule may do."""
        for name in ("score_at_least", "score_at_most", "lock_score"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value <= 1.0:
                hint = f"; write {value / 100:g} for {value:g} of 100" if 1 < value <= 100 else ""
                raise RuleError(f"expected `{name}` from 0 to 1, got {value!r}{hint}")
        for name in ("limit_at_least_usd", "limit_at_most_usd"):
            value = getattr(self, name)
            if value is not None and not 0.0 <= value < math.inf:
                raise RuleError(f"expected `{name}` of zero or more, got {value!r}")
        for low, high in (
            ("score_at_least", "score_at_most"),
            ("limit_at_least_usd", "limit_at_most_usd"),
        ):
            least, most = getattr(self, low), getattr(self, high)
            if least is not None and most is not None and least > most:
                raise RuleError(f"expected `{low}` not above `{high}`, got {least!r} and {most!r}")
        if not 1 <= self.lock_days <= LONGEST_LOCK_DAYS:
            raise RuleError(
                f"expected `lock_days` from 1 to {LONGEST_LOCK_DAYS}, got {self.lock_days}"
            )
        if not 0.0 <= self.delay_hours <= 24 * 30:
            raise RuleError(f"expected `delay_hours` from 0 to 720, got {self.delay_hours!r}")
        words = (*self.tags, self.queue or "", self.friction or "")
        if len(self.tags) > MOST_TAGS or max(map(len, words)) > LONGEST_WORD:
            raise RuleError(
                f"expected at most {MOST_TAGS} tags, and tags, queue and friction of at most "
                f"{LONGEST_WORD} characters"
            )
        # A lock, a floor or a cap of zero is an effect too.
        bounds = any(getattr(self, name) is not None for name in _NUMBERS)
        if not bounds and not any(getattr(self, name) for name in _ACTING):
            raise RuleError(
                "expected at least one effect, got none; such as `limit_at_most_usd` or `friction`"
            )

    def sentence(self) -> str:
        """In words.

        Examples
        --------
        >>> Effects(limit_at_most_usd=100, friction="quiz").sentence()
        'limit at most 100 USD a week; ask for quiz'
        """
        said = []
        if self.deny:
            said.append("deny")
        if self.lock_score is not None:
            said.append(
                f"lock the score at {100 * self.lock_score:g} of 100 for {self.lock_days} days"
            )
        if self.score_at_least is not None:
            said.append(f"score at least {100 * self.score_at_least:g} of 100")
        if self.score_at_most is not None:
            said.append(f"score at most {100 * self.score_at_most:g} of 100")
        if self.limit_at_least_usd is not None:
            said.append(f"limit at least {self.limit_at_least_usd:g} USD a week")
        if self.limit_at_most_usd is not None:
            said.append(f"limit at most {self.limit_at_most_usd:g} USD a week")
        if self.delay_hours:
            said.append(f"wait {self.delay_hours:g} hours")
        if self.friction is not None:
            said.append(f"ask for {self.friction}")
        if self.queue is not None:
            said.append(f"queue for {self.queue}")
        if self.tags:
            said.append("tag " + ", ".join(self.tags))
        return "; ".join(said)


_NUMBERS = (
    "score_at_least", "score_at_most", "limit_at_least_usd", "limit_at_most_usd", "lock_score",
)  # fmt: skip
_ACTING = ("friction", "queue", "delay_hours", "deny", "tags")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """A condition, and what follows from it.

    Parameters
    ----------
    name : str
        A small letter, then small letters, digits and `_`: at most 64.
    when : str
        A boolean expression.
    then : Effects
    because : str
        Why, for those who read a decision.
    on : tuple of str
        Event types that it is asked about; none are all.
    """

    name: str
    when: str
    then: Effects
    because: str
    on: tuple[str, ...] = field(default=())

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise RuleError(
                "expected a name of a small letter and then small letters, digits and `_`, at "
                f"most 64, got `{self.name:.80}`"
            )
        if not self.because.strip():
            raise RuleError(f"expected words in `because` of rule `{self.name}`, got none")


class Language:
    """What rules may read: made once from a catalog, asked for each rule.

    Parameters
    ----------
    catalog : Catalog
        Its features, and the fields of its schema.
    frictions : collection of str, optional
        Those that a rule may ask for; any, if none are given.
    """

    def __init__(self, catalog: Catalog, *, frictions: Collection[str] = ()) -> None:
        self.catalog = catalog
        self.frictions = frictions
        # A sequence is no value of the language.
        self.features: dict[str, Kind] = {
            output.name: output.kind for output in catalog.outputs if output.kind != "sequence"
        }
        fields = {name: spec.kind for name, spec in catalog.schema.fields.items()}
        self.kinds: dict[str, Kind] = {**fields, **self.features, **SPECIAL}
        self.kinds |= {"as_of": "time", "happened_at": "time"}

    def check(self, rule: Rule, lists: Mapping[str, Kind]) -> Condition:
        """The rule's condition.

        Raises
        ------
        RuleError
            If it cannot be read, reads what does not exist or is no truth; with a caret at the
            place, the reason and the nearest known name.
        """
        for name in rule.on:
            if name not in self.catalog.schema.types:
                raise RuleError(
                    f"rule `{rule.name}` asks about events of type `{name}`, which the schema lacks"
                )
        try:
            expression = parse(rule.when, self.kinds, functions=TEXT_FUNCTIONS, lists=lists)
        except InvalidExpression as error:
            raise RuleError(f"rule `{rule.name}`: {self._hint(str(error))}") from error
        except RecursionError:
            raise RuleError(f"rule `{rule.name}` is nested too deeply to be read here") from None
        if expression.kind != "boolean":
            raise RuleError(
                f"rule `{rule.name}` is a {expression.kind}; expected a condition, true or false"
            )
        if self.frictions and rule.then.friction not in (None, *self.frictions):
            raise RuleError(
                f"rule `{rule.name}`: there is no friction `{rule.then.friction}` to ask for"
                + did_you_mean(str(rule.then.friction), self.frictions)
            )
        condition = take_apart(expression, TEXT_FUNCTIONS)
        if len(condition.outside) > MOST_OUTSIDE:
            raise RuleError(
                f"rule `{rule.name}` asks {len(condition.outside)} questions of texts and lists; "
                f"expected at most {MOST_OUTSIDE}, as each takes its time"
            )
        return condition

    def _hint(self, message: str) -> str:
        """A complaint; one about a name that the catalog knows and hides says what to do."""
        found = _UNKNOWN.match(message)
        if found is not None and found[1] in self.catalog.sequences:
            says = "is a sequence, which no rule reads; read an `Aggregate` of the same events"
            return f"`{found[1]}` {says}{message[found.end() :]}"
        kind = None if found is None else self.catalog.kinds.get(found[1])
        if found is None or kind is None:
            return message
        says = (
            "is a personal text, which no rule reads; declare a `Similarity` and read that"
            if kind == "text"
            else "is only a part of a feature; declare it in the catalog to read it"
        )
        return f"`{found[1]}` {says}{message[found.end() :]}"

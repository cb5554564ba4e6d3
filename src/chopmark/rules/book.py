"""The rule book: versions, reviews, stages, lists and snoozes, folded from orders of the log.

    draft -> review by a second person -> shadow -> a share of users -> active -> off
                                               (an earlier version again: roll back)

`check` refuses what may not be before it enters the log, `apply` takes in what did. Between
two orders the book is a pure function of an event's values, so a replay of the log finds for
every event the rules that were in force. Serves F9 and E13 of the requirements.
"""

import json
import logging
import re
import unicodedata
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Literal

import msgspec

from chopmark.codes import Codes
from chopmark.errors import RuleError, did_you_mean
from chopmark.events.event import Event
from chopmark.expressions import Condition, Kind
from chopmark.rules.code import RuleCode, Value
from chopmark.rules.orders import (
    ListChanged,
    ListDropped,
    RuleDrafted,
    RuleReviewed,
    RuleSnoozed,
    RuleStaged,
    Stage,
)
from chopmark.rules.rule import Effects, Language, Rule
from chopmark.times import Instant, instant

logger = logging.getLogger(__name__)

MOST_MOVED = 0.05
"""Share of users beyond which a rule needs a second person to be activated."""
MOST_RULES = 5_000
MOST_MEMBERS = 1_000_000
MOST_LISTS = 1_000
LONGEST_MEMBER = 200


HitStanding = Literal["acts", "shadow", "not rolled out", "snoozed"]


class RuleHit(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A rule that was true of an event.

    Attributes
    ----------
    rule, version
        Which.
    standing : str
        ``acts``, or why it did not: ``shadow``, ``not rolled out`` (to this user), ``snoozed``.
    because : str
        The words of its author.
    """

    rule: str
    version: int
    standing: HitStanding = "acts"
    because: str = ""


@dataclass(frozen=True, slots=True)
class Ruling:
    """What the book says of one event.

    Attributes
    ----------
    hits : tuple of RuleHit
        Rules that are true, in the order of their names.
    acting : tuple of (RuleHit, Effects)
        Those that act.
    leaves : str
        Truth of each leaf of all staged rules (`RuleCode.leaves`): "1", "0" or "?".
    """

    hits: tuple[RuleHit, ...] = ()
    acting: tuple[tuple[RuleHit, Effects], ...] = ()
    leaves: str = ""


NOTHING = Ruling()


@dataclass(slots=True)
class Version:
    """One version of a rule, and who stands for it.

    Attributes
    ----------
    condition : Condition or None
        None if the catalog no longer has what it reads: it is then never in use.
    reviewed : bool or None
        What the second person said; None is nothing yet.
    """

    rule: Rule
    number: int
    author: str
    condition: Condition | None
    reviewed: bool | None = None
    reviewer: str = ""


@dataclass(frozen=True, slots=True)
class Staged:
    """Which version of a rule is in use, and how far."""

    version: int
    stage: Stage
    share: float


@dataclass(slots=True)
class _Compiled:
    """The rules in use, by name, as one program."""

    names: list[str]
    staged: list[Staged]
    versions: list[Version]
    code: RuleCode
    hash: str


@dataclass(slots=True)
class RuleBook:
    """All rules of an application.

    Parameters
    ----------
    language : Language
        What rules may read.
    codes : Codes
        For texts; those of the engine's fold, so that a text is hashed once.
    """

    language: Language
    codes: Codes
    versions: dict[str, list[Version]] = field(default_factory=dict)
    staged: dict[str, Staged] = field(default_factory=dict)
    lists: dict[str, frozenset[str]] = field(default_factory=dict)
    _list_hashes: dict[str, str] = field(default_factory=dict)
    _snoozed: dict[tuple[str, str], Instant] = field(default_factory=dict)
    _compiled: _Compiled | None = None

    def check(self, order: Event) -> None:
        """Raise `RuleError` for an order that may not be; nothing changes."""
        checks: dict[type[Event], Callable[[Event], None]] = {
            RuleDrafted: self._check_draft,  # type: ignore[dict-item]
            RuleReviewed: self._check_review,  # type: ignore[dict-item]
            RuleStaged: self._check_stage,  # type: ignore[dict-item]
            RuleSnoozed: self._check_snooze,  # type: ignore[dict-item]
            ListChanged: self._check_list,  # type: ignore[dict-item]
            ListDropped: self._check_drop,  # type: ignore[dict-item]
        }
        check = checks.get(type(order))
        if check is not None:
            check(order)

    def apply(self, order: Event) -> None:
        """Take in an order of the log; any other event changes nothing."""
        match order:
            case RuleDrafted():
                self._draft(order)
                return
            case RuleReviewed():
                self._review(order)
            case RuleStaged():
                self.staged[order.rule] = Staged(order.version, order.stage, order.share)
            case RuleSnoozed():
                self._snoozed[order.rule, order.user or ""] = instant(order.until)
            case ListChanged():
                members = self.lists.get(order.list_name, frozenset())
                members = (members | set(order.added)) - set(order.removed)
                self.lists[order.list_name] = members
                said = "\0".join(sorted(members)).encode("utf-8", "surrogatepass")
                self._list_hashes[order.list_name] = sha256(said).hexdigest()
            case ListDropped():
                self.lists.pop(order.list_name, None)
                self._list_hashes.pop(order.list_name, None)
            case _:
                return
        self._compiled = None

    @property
    def hash(self) -> str:
        """Of all that decides: rules in use, their stages, lists, snoozes."""
        return self._use().hash

    @property
    def has_rules(self) -> bool:
        """Whether any rule is in use, shadows too."""
        return bool(self._use().names)

    @property
    def inputs(self) -> tuple[str, ...]:
        """What the rules in use read, in the order in which `rule_on` wants it."""
        return self._use().code.inputs

    @property
    def list_kinds(self) -> dict[str, Kind]:
        """The lists, as the language wants them."""
        return dict.fromkeys(self.lists, "text")

    def rule_on(
        self, values: Sequence[Value], *, event_type: str, user: str, at: Instant
    ) -> Ruling:
        """What the rules in use say of an event.

        Parameters
        ----------
        values : sequence
            Of `inputs`.
        at : Instant
            When the event was known: snoozes end by it.
        """
        use = self._use()
        if not use.names:
            return NOTHING
        found = use.code.row(values)
        hits, acting = [], []
        for place in found.rules:
            version = use.versions[place]
            if version.rule.on and event_type not in version.rule.on:
                continue
            hit = RuleHit(
                rule=use.names[place],
                version=version.number,
                standing=self._standing(use.staged[place], use.names[place], user, at),
                because=version.rule.because,
            )
            hits.append(hit)
            if hit.standing == "acts":
                acting.append((hit, version.rule.then))
        return Ruling(tuple(hits), tuple(acting), found.leaves)

    @property
    def code(self) -> RuleCode:
        """The rules in use as one program; `in_use` names them."""
        return self._use().code

    @property
    def in_use(self) -> dict[str, Version]:
        """Versions of the rules in use, shadows too, by name in the order of the program."""
        use = self._use()
        return dict(zip(use.names, use.versions, strict=True))

    def truths(self, leaves: str, rule: str) -> dict[str, bool | None]:
        """Truth of each leaf of a rule in use, from the letters of a record; None is missing."""
        use = self._use()
        return use.code.truths(leaves, use.names.index(rule))

    def _use(self) -> _Compiled:
        if self._compiled is None:
            self._compiled = self._compile()
        return self._compiled

    def _compile(self) -> _Compiled:
        names, staged, versions, conditions = [], [], [], []
        for name in sorted(self.staged):
            use = self.staged[name]
            version = self._known(name, use.version)
            if use.stage == "off" or version is None or version.condition is None:
                continue
            names.append(name)
            staged.append(use)
            versions.append(version)
            conditions.append(version.condition)
        asked = {name for condition in conditions for name in condition.expression.lists}
        said = (
            [
                (v.rule.name, v.number, repr(v.rule), repr(use))
                for v, use in zip(versions, staged, strict=True)
            ],
            [(name, self._list_hashes.get(name)) for name in sorted(asked)],
            sorted(self._snoozed.items()),
        )
        return _Compiled(
            names=names,
            staged=staged,
            versions=versions,
            code=RuleCode(conditions, self.language.kinds, self.lists, self.codes),
            hash=sha256(repr(said).encode()).hexdigest(),
        )

    def _standing(self, use: Staged, name: str, user: str, at: Instant) -> HitStanding:
        if use.stage == "shadow":
            return "shadow"
        for who in ("", user):
            if self._snoozed.get((name, who), 0) > at:
                return "snoozed"
        return "acts" if _place_of(name, user) < use.share else "not rolled out"

    def _version(self, name: str, number: int) -> Version:
        versions = self.versions.get(name)
        if versions is None:
            raise RuleError(f"there is no rule `{name}`" + did_you_mean(name, self.versions))
        place = bisect_left([version.number for version in versions], number)
        if place == len(versions) or versions[place].number != number:
            raise RuleError(
                f"rule `{name}` has no version {number}; its newest is {versions[-1].number}"
            )
        return versions[place]

    def _known(self, name: str, number: int) -> Version | None:
        """A version, if there is one: a log that somebody wrote by hand may stage another."""
        return next((v for v in self.versions.get(name, ()) if v.number == number), None)

    def _review(self, order: RuleReviewed) -> None:
        version = self._known(order.rule, order.version)
        if version is None:
            return
        version.reviewed, version.reviewer = order.approved, order.author
        use = self.staged.get(order.rule)
        if use and not order.approved and (use.version, use.stage) == (order.version, "active"):
            self.staged[order.rule] = Staged(use.version, "off", use.share)

    def _draft(self, order: RuleDrafted) -> None:
        rule = rule_of(order)
        try:
            condition = self.language.check(rule, self.list_kinds)
        except RuleError:
            # It was right when it was written; the catalog has changed since.
            logger.warning(
                "version %d of rule `%s` is out of use: it reads what the catalog no longer has",
                order.version,
                order.rule,
            )
            condition = None
        self.versions.setdefault(order.rule, []).append(
            Version(rule=rule, number=order.version, author=order.author, condition=condition)
        )

    def _check_draft(self, order: RuleDrafted) -> None:
        known = self.versions.get(order.rule, [])
        if len(self.versions) >= MOST_RULES and not known:
            raise RuleError(f"expected at most {MOST_RULES} rules; turn some off and reuse them")
        wanted = known[-1].number + 1 if known else 1
        if order.version != wanted:
            raise RuleError(
                f"expected version {wanted} of rule `{order.rule}`, got {order.version}: somebody "
                "may have written one meanwhile"
            )
        self.language.check(rule_of(order), self.list_kinds)

    def _check_review(self, order: RuleReviewed) -> None:
        version = self._version(order.rule, order.version)
        if version.reviewed is False:
            raise RuleError(
                f"version {order.version} of rule `{order.rule}` was turned down by "
                f"{version.reviewer}; write another one"
            )
        if is_same(order.author, version.author):
            raise RuleError(
                f"version {order.version} of rule `{order.rule}` is by {version.author}; "
                "somebody else must review it"
            )

    def _check_stage(self, order: RuleStaged) -> None:
        version = self._version(order.rule, order.version)
        what = f"version {order.version} of rule `{order.rule}`"
        if order.stage != "off" and version.condition is None:
            raise RuleError(f"{what} reads what the catalog no longer has; write another version")
        for name in () if version.condition is None else version.condition.expression.lists:
            if order.stage != "off" and name not in self.lists:
                raise RuleError(f"{what} asks list `{name}`, which is no longer there")
        if order.stage != "active":
            return
        if not version.reviewed:
            state = "was turned down" if version.reviewed is False else "has no review"
            raise RuleError(f"{what} {state}; somebody other than {version.author} must approve it")
        if order.moves is not None and order.moves <= MOST_MOVED:
            return
        if order.approver is None or is_same(order.approver, order.author):
            said = (
                "no backtest says how many users it moves"
                if order.moves is None
                else f"it moves {order.moves:.1%} of users, more than {MOST_MOVED:.0%}"
            )
            raise RuleError(f"{what}: {said}; an approver other than {order.author} is needed")

    def _check_snooze(self, order: RuleSnoozed) -> None:
        if order.rule not in self.versions:
            raise RuleError(
                f"there is no rule `{order.rule}`" + did_you_mean(order.rule, self.versions)
            )
        if order.until <= order.happened_at:
            raise RuleError(
                f"expected a snooze of rule `{order.rule}` that ends later than it begins"
            )

    def _check_list(self, order: ListChanged) -> None:
        known = self.lists.get(order.list_name)
        if not order.added and not order.removed:
            raise RuleError(f"expected members to add to or remove from list `{order.list_name}`")
        if known is None and order.removed:
            raise RuleError(
                f"there is no list `{order.list_name}` to remove from"
                + did_you_mean(order.list_name, self.lists)
            )
        if known is not None:
            for member in order.removed:
                if member not in known:
                    raise RuleError(f"list `{order.list_name}` has no member `{member:.100}`")
        if known is None and len(self.lists) >= MOST_LISTS:
            raise RuleError(f"expected at most {MOST_LISTS} lists; drop one that no rule asks")
        for member in order.added:
            if len(member) > LONGEST_MEMBER:
                raise RuleError(
                    f"expected members of at most {LONGEST_MEMBER} characters in list "
                    f"`{order.list_name}`, got one of {len(member)}"
                )
        if len(known or ()) + len(order.added) > MOST_MEMBERS:
            raise RuleError(f"expected at most {MOST_MEMBERS} members in list `{order.list_name}`")

    def _check_drop(self, order: ListDropped) -> None:
        if order.list_name not in self.lists:
            raise RuleError(
                f"there is no list `{order.list_name}`" + did_you_mean(order.list_name, self.lists)
            )
        asks = re.compile(rf"list\(\s*['\"]{order.list_name}['\"]")
        for name, use in sorted(self.staged.items()):
            version = self._known(name, use.version)
            # By the text: a rule that is out of use may come back with its feature.
            if use.stage != "off" and version is not None and asks.search(version.rule.when):
                raise RuleError(
                    f"list `{order.list_name}` is asked by rule `{name}`, which is {use.stage}; "
                    "turn the rule off first"
                )


def rule_of(order: RuleDrafted) -> Rule:
    """The rule that an order wrote.

    Raises
    ------
    RuleError
        If its effects are no JSON of `Effects`, or cannot be.
    """
    try:
        effects = msgspec.json.decode(order.effects, type=Effects)
    except msgspec.MsgspecError as error:
        raise RuleError(f"effects of rule `{order.rule}`: {error}") from error
    return Rule(
        name=order.rule, when=order.when, then=effects, because=order.because, on=tuple(order.on)
    )


def effects_text(effects: Effects) -> str:
    """Effects as the JSON that an order carries."""
    return json.dumps(msgspec.to_builtins(effects), sort_keys=True)


def is_same(one: str, other: str) -> bool:
    """Whether two names are one person's, however they are typed."""
    first, second = (
        " ".join(unicodedata.normalize("NFKC", name).casefold().split()) for name in (one, other)
    )
    return first == second


def _place_of(rule: str, user: str) -> float:
    """Where a user stands in the order of a rule's roll-out, 0 to 1: always the same place."""
    digest = sha256(f"{rule}\0{user}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64

"""One function assesses an event: the only place where the parts are wired together.

    append -> features as of now -> score -> policy -> record -> answer

Live traffic, a backtest, an audit and a simulation are all `Engine.assess` over some log.
What is durable, and when an answer may leave, is the log's affair: `assess` stages the
event and its decision as one group, and whoever answers a client waits for `log.sync` first.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from time import perf_counter_ns
from typing import Any, cast

import msgspec
import numpy as np

from chopmark.decisions.case import Asked
from chopmark.decisions.decision import PREFIX, Decision, Reason, decision_id
from chopmark.decisions.orders import LOCK_PREFIX, ORDERS, LockSet
from chopmark.decisions.policy import Policy
from chopmark.decisions.reasons import score_reasons
from chopmark.decisions.standing import Read, own_features
from chopmark.errors import (
    AlreadyTaken,
    ArtifactError,
    InvalidEvent,
    LogUnavailable,
    PolicyError,
    SchemaError,
    SnapshotError,
    did_you_mean,
)
from chopmark.events.event import Event
from chopmark.events.log import EventLog
from chopmark.events.personal import Vault
from chopmark.events.schema import type_name
from chopmark.features.catalog import Catalog
from chopmark.features.columns import known_instant
from chopmark.features.fold import Fold, Snapshot, Value
from chopmark.models.model import Scorer
from chopmark.rules.book import NOTHING, RuleBook
from chopmark.rules.code import RuleCode
from chopmark.rules.code import Value as RuleValue
from chopmark.rules.orders import ABOUT_RULES
from chopmark.rules.rule import Effects, Language, Rule
from chopmark.times import DAY, instant, moment

logger = logging.getLogger(__name__)

SNAPSHOT_FILE = "state.npz"
_TIMES = ("happened_at", "known_at")


@dataclass(frozen=True, slots=True)
class Application:
    """What someone declares to run chopmark: the events, the features and the policy.

    Attributes
    ----------
    catalog : Catalog
        With its schema, which has `Decision` among its event types.
    policy : Policy
    """

    catalog: Catalog
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        if self.catalog.schema.types.get("decision") is not Decision:
            raise SchemaError(
                "the schema of an application needs the event type `Decision`; add "
                "`chopmark.Decision` to its event types"
            )
        schema = self.catalog.schema
        for name in sorted(self.policy.assessed):
            if name not in schema.types:
                raise PolicyError(
                    f"the policy decides about event `{name}`, which the schema lacks"
                    + did_you_mean(name, schema.types)
                )
        withdrawn = self.policy.withdrawals.gated if self.policy.withdrawals else ()
        for name in (*self.policy.gated, *withdrawn):
            amount = schema.fields.get(self.policy.amount)
            if self.policy.amount not in schema.fields_of[name]:
                raise PolicyError(
                    f"the policy reads field `{self.policy.amount}`, which event `{name}` lacks"
                    + did_you_mean(self.policy.amount, schema.fields_of[name])
                )
            if amount is None or amount.decimals != 2 or not amount.exact:
                raise PolicyError(
                    f"the policy bounds field `{self.policy.amount}`, which must be declared as "
                    "`Usd`: whole cents"
                )
        for name in self.policy.reads:
            if name not in self.catalog.names:
                raise PolicyError(
                    f"the policy reads feature `{name}`, which the catalog lacks"
                    + did_you_mean(name, self.catalog.names)
                )
            if name in self.catalog.sequences:
                raise PolicyError(
                    f"the policy reads feature `{name}`, a sequence; expected one that is a single "
                    "value, such as an `Aggregate` of the same events"
                )

    @property
    def own(self) -> tuple[str, ...]:
        """Features that say what policies and people did; no model reads them."""
        return own_features(self.catalog)


@dataclass(frozen=True, slots=True)
class Assessment:
    """The answer to one event.

    Attributes
    ----------
    decision : Decision
    body : bytes
        Its JSON text, as it stands in the log.
    offset : int
        Of the decision, or the newest one for a repeat; the answer is durable once
        ``log.sync`` has returned this offset or a later one.
    repeated : bool
        Whether the event was known already and this is the answer of then.
    """

    decision: Decision
    body: bytes
    offset: int
    repeated: bool = False


class Engine:
    """Assesses events over a log.

    Parameters
    ----------
    application : Application
    log : EventLog
    vault : Vault
        Makes tokens of personal identifiers before anything else sees them.
    scorer : Scorer, optional
        Without one, or if it fails, the policy's default limit holds and says so.
    trust_known_at : bool
        Whether events may say themselves when they were known, as history does. Live
        traffic may not: the log's clock says so.

    Notes
    -----
    One thread at a time. After `LogUnavailable` the state may be ahead of the log; nothing
    is assessed until `recover` has rebuilt it.
    """

    def __init__(
        self,
        application: Application,
        *,
        log: EventLog,
        vault: Vault,
        scorer: Scorer | None = None,
        trust_known_at: bool = False,
    ) -> None:
        self.application = application
        self.catalog: Catalog = application.catalog
        self.schema = application.catalog.schema
        self.policy: Policy = application.policy
        self.log = log
        self.vault = vault
        self.trust_known_at = trust_known_at
        self.scorer: Scorer | None = None
        self._language = Language(self.catalog, frictions=self.policy.askable)
        self.fold = self._empty_fold()
        self.offset = 0
        self._last_id = ""
        self._in_step = False
        self._places: list[int] = []
        self._place_of = {name: place for place, name in enumerate(self.catalog.names)}
        self._policy_hash = self.policy.hash
        self._draws = bytes.fromhex(self.vault.token("codes", "draws")[4:])
        self.book = self.empty_book()
        if scorer is not None:
            self.use(scorer)

    def use(self, scorer: Scorer | None) -> None:
        """Score with this model from now on; None: with none.

        Raises
        ------
        ArtifactError
            If it was trained on features that this catalog lacks or computes differently.
        """
        if scorer is None:
            self.scorer, self._places = None, []
            return
        for name in scorer.reads:
            if name not in self.catalog.names:
                raise ArtifactError(
                    f"the model reads feature `{name}`, which the catalog lacks"
                    + did_you_mean(name, self.catalog.names)
                    + "; train it again or serve the catalog that it was trained with"
                )
            if scorer.feature_hashes.get(name) != self.catalog.hashes[name]:
                raise ArtifactError(
                    f"the model was trained with another definition of feature `{name}`; train "
                    "it again or serve the catalog that it was trained with"
                )
        self._places = [self.catalog.names.index(name) for name in scorer.reads]
        self._reasons = getattr(scorer, "reasons_row", scorer.explain_row)
        self.scorer = scorer

    def assess(self, event: Event) -> Assessment:
        """The decision about an event; the event and it are then staged in the log.

        A repeated id gets the recorded answer, and changes nothing.

        Raises
        ------
        InvalidEvent
            If the event names no user, is a decision itself, or says when it was known;
            `AlreadyTaken` if it is in the log without a decision.
        LogUnavailable
            If the log takes nothing now, or the state awaits `recover`.
        """
        started = perf_counter_ns()
        _check_no_order(event)
        repeated = self._recorded(event)
        if repeated is not None:
            return repeated
        user = _user_of(event)
        event, event_body = self._admit(event)
        self._in_step = True
        values = self.fold.step(event)
        decided, lock = self._decide(event, event_body, user, values, self.book)
        decision = Decision(**decided, latency_us=(perf_counter_ns() - started) // 1000)
        body = self.schema.encode(decision)
        group: list[tuple[Event, bytes]] = [(event, event_body), (decision, body)]
        if lock is not None:
            group.append((lock, self.schema.encode(lock)))
        for learned, _ in group[1:]:
            if type_name(learned) in self.catalog.event_types:
                self.fold.step(learned, read=False)
        first = self.log.append_encoded(group)
        self.offset, self._last_id = first + len(group) - 1, group[-1][0].id
        self._in_step = False
        return Assessment(decision, body, self.offset)

    def take(self, event: Event) -> bool:
        """Take in an event, and decide about the user anew if its type is rescored.

        False for a repeat. Raises as `assess` and `observe` do.
        """
        if type_name(event) not in self.policy.rescored or getattr(event, "user", None) is None:
            return self.observe(event) is not None
        if self._known(event) is not None:
            return False
        self.assess(event)
        return True

    def observe(self, event: Event) -> int | None:
        """Take in an event without deciding anything; its offset, or None for a repeat.

        Raises
        ------
        InvalidEvent
            If the event is a decision, or says when it was known (see `trust_known_at`).
        LogUnavailable
            As for `assess`.
        """
        if self._known(event) is not None:
            return None
        event, body = self._admit(event)
        self._in_step = True
        self.fold.step(event, read=False)
        self.offset, self._last_id = self.log.append_encoded([(event, body)]), event.id
        self._obey(event, body)
        self._in_step = False
        return self.offset

    def check(self, event: Event, *, decide: bool) -> None:
        """Raise what `assess` (or else `observe`) would, and change nothing.

        For who wants to refuse several events as a whole before taking the first of them.
        """
        if decide:
            _check_no_order(event)
            if self._recorded(event) is not None:
                return
            _user_of(event)
        elif self._known(event) is not None:
            return
        self._admit(event)

    @property
    def needs_recovery(self) -> bool:
        """Whether a step was left half done, so that nothing is assessed until `recover`."""
        return self._in_step

    def latest(self, user: str) -> Decision | None:
        """The newest decision about a user."""
        decision = self.log.latest("decision", user)
        return decision if isinstance(decision, Decision) else None

    def recover(self, snapshot: Path | None = None) -> int:
        """Rebuild the state from the log, the only truth; the offset reached.

        Parameters
        ----------
        snapshot : Path, optional
            A snapshot to start from; if it is missing, damaged, or of another catalog or log, the
            state is rebuilt from the first event.
        """
        self.log.recover()
        fold = self._empty_fold()
        offset, last_id = 0, ""
        if snapshot is not None and snapshot.exists():
            try:
                offset, last_id = fold.load(snapshot)
                if not self._holds(offset, last_id):
                    raise SnapshotError("it was made over another log, or is ahead of this one")
            except SnapshotError as error:
                logger.warning("rebuilding the state from the first event: %s", error)
                fold, offset, last_id = self._empty_fold(), 0, ""
        # Nothing is assessed over a state that is half rebuilt.
        self._in_step = True
        self.fold, self.book = fold, self.empty_book()
        for body in fold.kept:
            self.book.apply(self.schema.decode(body))
        for batch in self.log.read(after=offset):
            events = [event for _, event in batch]
            for _ in fold.replay(
                fold.columns_of(events), wanted=np.zeros(len(events), dtype=np.bool_)
            ):
                pass
            for event in events:
                if isinstance(event, ABOUT_RULES):
                    self._obey(event, self.schema.encode(event))
            offset, last_id = batch[-1][0], batch[-1][1].id
        self.offset, self._last_id, self._in_step = offset, last_id, False
        return offset

    def snapshot(self) -> Snapshot:
        """A copy of the state; write it only once its offset is durable."""
        return self.fold.freeze(offset=self.offset, last_id=self._last_id)

    def warm(self) -> None:
        """Compile and touch all that the first event would otherwise wait for."""
        fold = self._empty_fold()
        batch: list[Event] = []
        for name in self.schema.types:
            event = self.schema.types[name](**_example(self.catalog, name))
            fold.step(event)
            batch.append(event)
        for _ in fold.replay(fold.columns_of(batch)):
            pass
        if self.scorer is not None:
            self.scorer.warm()
        everything = self._language.check(
            Rule(name="warm", when="as_of == as_of", then=Effects(tags=("warm",)), because="-"), {}
        )
        RuleCode([everything], self._language.kinds, {}, self.fold.codes).row([0.0])

    def recompute(self, decision: Decision, *, book: RuleBook | None = None) -> list[str]:
        """Names of the fields that come out differently when a decision is made again.

        From the feature values in the record, with this engine's model and policy; empty if all
        is as recorded, bit for bit.

        Parameters
        ----------
        book : RuleBook, optional
            The rules as they were then (`replayed` knows them); those of now by default.
        """
        book = self.book if book is None else book
        made_by = {
            "catalog": self.catalog.hash,
            "policy": self._policy_hash,
            "model": self.scorer.hash if self.scorer is not None else None,
            "book": book.hash,
        }
        other = [name for name, value in made_by.items() if getattr(decision, name) != value]
        if other:
            return other
        event, body = self.log.find(decision.about), self.log.get_body(decision.about)
        if event is None or body is None:
            return ["about"]
        again, _ = self._decide(event, body, decision.user, decision.values, book)
        return [name for name, value in again.items() if getattr(decision, name) != value]

    def _decide(
        self, event: Event, body: bytes, user: str, values: list[Value], book: RuleBook
    ) -> tuple[dict[str, Any], LockSet | None]:
        """The fields of the decision about an event, and the lock that a rule sets with it."""
        score, reasons = self._score(values)
        kind, at = type_name(event), event.known_at or event.happened_at
        asked = Asked(
            event_type=kind,
            user=user,
            at=instant(at),
            score=score,
            amount_usd=getattr(event, self.policy.amount, None),
            rail=getattr(event, self.policy.rail, None),
        )
        read = dict(zip(self.catalog.names, values, strict=True))
        for name in self.catalog.sequences:
            del read[name]  # policies read single values
        ruling = NOTHING
        try:
            if book.has_rules:
                given = [self._value(name, event, kind, values, score) for name in book.inputs]
                ruling = book.rule_on(given, event_type=kind, user=user, at=asked.at)
            verdict = self.policy.decide(asked, cast(Read, read), ruling, key=self._draws)
        except Exception:
            # The features have taken the event in: whatever a rule or a policy does with it, it
            # must end in a record.
            logger.exception("rules or policy failed on one event; it waits for people")
            verdict = self.policy.held_back(asked)
        lock = None
        if verdict.lock is not None and "lock_set" in self.schema.types:
            locked, days, rule = verdict.lock
            lock = LockSet(
                id=f"{LOCK_PREFIX}{event.id}",
                happened_at=at,
                known_at=event.known_at,
                user=user,
                score=locked,
                expires_at=at + timedelta(days=days),
                reason=f"rule {rule} was true of {event.id}",
                author=f"rule:{rule}",
            )
        made = {
            "id": decision_id(event.id),
            "happened_at": at,
            "known_at": event.known_at,
            "about": event.id,
            "about_type": kind,
            "user": user,
            "score": score,
            "limit_usd": verdict.limit_usd,
            "allowed_usd": verdict.allowed_usd,
            "action": verdict.action,
            "reasons": [*verdict.reasons, *reasons],
            "score_in_force": verdict.score_in_force,
            "authority": verdict.authority,
            "held_logit": verdict.held_logit,
            "dwell": verdict.dwell,
            "state": verdict.state,
            "rules": list(ruling.hits),
            "leaves": ruling.leaves,
            "friction": verdict.friction,
            "friction_propensity": verdict.friction_propensity,
            "multiplier": verdict.multiplier,
            "propensity": verdict.propensity,
            "delay_s": verdict.delay_s,
            "queue": verdict.queue,
            "tags": verdict.tags,
            "catalog": self.catalog.hash,
            "model": self.scorer.hash if self.scorer is not None else None,
            "policy": self._policy_hash,
            "book": book.hash,
            "inputs": sha256(body + msgspec.json.encode(values)).hexdigest(),
            "values": values,
        }
        return made, lock

    def _value(
        self, name: str, event: Event, kind: str, values: Sequence[Value], score: float | None
    ) -> RuleValue:
        """What a rule reads by a name: a feature, the score, or a field of the event."""
        place = self._place_of.get(name)
        if place is not None:
            return cast(RuleValue, values[place])  # no rule reads a sequence
        if name == "score":
            return score
        if name == "event_type":
            return kind
        if name == "as_of":
            return float(instant(event.known_at or event.happened_at))
        value = getattr(event, name, None)
        return float(instant(value)) if isinstance(value, datetime) else value

    def _obey(self, event: Event, body: bytes) -> None:
        """Take in an order about rules, and keep it for the next snapshot."""
        if isinstance(event, ABOUT_RULES):
            self.book.apply(event)
            self.fold.kept.append(body.decode())

    def _score(self, values: Sequence[Value]) -> tuple[float | None, list[Reason]]:
        """Score and reasons; without a working model None, and a reason that says so."""
        scorer = self.scorer
        if scorer is None:
            text = "no model is in use: the default limit holds"
            return None, [Reason(code="no_model", text=text)]
        read: list[Any] = [values[place] for place in self._places]
        try:
            score, contributions = self._reasons(read)
            if not 0.0 <= score <= 1.0:
                raise ArtifactError(f"expected a score from 0 to 1, got {score!r}")
            return score, score_reasons(scorer.reads, read, contributions)
        except Exception:
            logger.exception("the model failed on one event; the default limit holds")
            text = "the model failed on this event: the default limit holds"
            return None, [Reason(code="model_failed", text=text)]

    def _known(self, event: Event) -> Event | None:
        if isinstance(event, Decision):
            raise InvalidEvent("expected a fact, got a `decision`: these are made here")
        for prefix in (PREFIX, LOCK_PREFIX):
            if event.id.startswith(prefix):
                raise InvalidEvent(
                    f"expected an id that does not begin with `{prefix}`: such ids are made here "
                    "- at `$.id`"
                )
        if self._in_step:
            raise LogUnavailable("an earlier event was left half done; recover the engine first")
        recorded = self.log.find(event.id)
        if recorded is not None and not self.is_repeat(event, recorded):
            raise AlreadyTaken(
                f"event `{event.id}` was taken in earlier with other content; expected a new id "
                "for another event - at `$.id`"
            )
        return recorded

    def is_repeat(self, event: Event, recorded: Event) -> bool:
        """Whether an event asks what the one of the same id asked: who, what and how much.

        A client that tries again may well give a new `happened_at`; one that asks about
        another user or amount must not get this one's answer.
        """
        if type(event) is not type(recorded):
            return False
        if isinstance(event, ORDERS):
            names = [name for name in event.__struct_fields__ if name not in _TIMES]
        else:
            names = ["user", self.policy.amount]
        return all(getattr(event, name, None) == getattr(recorded, name, None) for name in names)

    def _holds(self, offset: int, event_id: str) -> bool:
        """Whether the log has this event at this offset."""
        if offset == 0:
            return True
        found = next(iter(self.log.read(after=offset - 1, limit=1)), [])
        return bool(found) and found[0][1].id == event_id

    def _recorded(self, event: Event) -> Assessment | None:
        if self._known(event) is None:
            return None
        body = self.log.get_body(decision_id(event.id))
        if body is None:
            raise AlreadyTaken(
                f"event `{event.id}` was taken in earlier without a decision; expected a new "
                "id to decide about - at `$.id`"
            )
        decision = self.schema.decode(body)
        assert isinstance(decision, Decision)
        return Assessment(decision, body, self.offset, repeated=True)

    def _admit(self, event: Event) -> tuple[Event, bytes]:
        """The event and its text as they enter the log: sealed, and stamped when known.

        What is appended must be readable for ever, so it is read once here: an event that
        was built in process has been checked by nobody yet.
        """
        if event.known_at is not None and not self.trust_known_at:
            raise InvalidEvent(
                "expected no `known_at`: the log says when an event was known - at `$.known_at`"
            )
        proposed = known_instant(event) if self.trust_known_at else None
        self.book.check(event)
        self.policy.check(event)
        event = self.vault.seal(event, self.schema)
        event = msgspec.structs.replace(event, known_at=moment(self.log.known_at(proposed)))
        if isinstance(event, ORDERS):
            # An order holds from when it was given: what was said last is in force.
            event = msgspec.structs.replace(event, happened_at=event.known_at)
        try:
            body = self.schema.encode(event)
        except (TypeError, ValueError) as error:
            raise InvalidEvent(f"expected an event that can be written, got: {error}") from error
        return self.schema.decode(body), body

    def empty_book(self) -> RuleBook:
        """A rule book over this engine's catalog, without rules."""
        return RuleBook(self._language, self.fold.codes)

    def _empty_fold(self) -> Fold:
        return Fold(self.catalog, key=bytes.fromhex(self.vault.token("codes", "fold")[4:]))


def is_made_here(event: Event) -> bool:
    """Whether an engine wrote an event itself: a decision, or a lock that a rule set.

    Who assesses the events of one log over another leaves these out: they are made again.
    """
    return isinstance(event, Decision) or event.id.startswith(LOCK_PREFIX)


def replayed(engine: Engine, log: EventLog) -> Iterator[tuple[Decision, list[str]]]:
    """Every decision of a log, and what comes out differently when it is made again.

    Each with the rules that were in force when it was made. Changes nothing.

    Parameters
    ----------
    engine : Engine
        With the model and the policy that made them; decisions of others differ in ``model``
        or ``policy``.
    """
    book = engine.empty_book()
    for batch in log.read():
        for _, event in batch:
            if isinstance(event, ABOUT_RULES):
                book.apply(event)
            elif isinstance(event, Decision):
                yield event, engine.recompute(event, book=book)


def replay(
    engine: Engine,
    events: Iterable[Event],
    *,
    decide: frozenset[str],
    on_progress: Callable[[int], None] | None = None,
) -> list[Decision]:
    """Assess the events of some types and observe the others, with a commit every 64 events.

    Parameters
    ----------
    engine : Engine
        With ``trust_known_at``.
    decide : set of str
        Event types to decide about.
    on_progress : callable, optional
        Called with the number of events so far.
    """
    decisions = []
    for position, event in enumerate(events, start=1):
        if is_made_here(event):
            continue
        if type_name(event) in decide:
            decisions.append(engine.assess(event).decision)
        else:
            engine.observe(event)
        if position % 64 == 0:
            engine.log.sync()
            if on_progress is not None:
                on_progress(position)
    engine.log.sync()
    return decisions


def _check_no_order(event: Event) -> None:
    if isinstance(event, ORDERS):
        raise InvalidEvent(
            f"expected an event to decide about, got the order `{type_name(event)}`; send it to "
            "be taken in (/v1/events) - at `$.type`"
        )


def _user_of(event: Event) -> str:
    user: str | None = getattr(event, "user", None)
    if user is None:
        raise InvalidEvent(
            f"expected a `user` to decide about, event type `{type_name(event)}` of "
            f"`{event.id}` has none; ingest it without a decision - at `$.user`"
        )
    return user


def _example(catalog: Catalog, name: str) -> dict[str, Any]:
    """Any values of the right types for the required fields of an event type."""
    event_type = catalog.schema.types[name]
    example: dict[str, Any] = {}
    for part in msgspec.structs.fields(event_type):
        if part.required:
            example[part.name] = _example_value(msgspec.inspect.type_info(part.type))
    return example


def _example_value(wanted: msgspec.inspect.Type) -> object:
    if isinstance(wanted, msgspec.inspect.Metadata):
        return _example_value(wanted.type)
    if isinstance(wanted, msgspec.inspect.LiteralType):
        return wanted.values[0]
    if isinstance(wanted, msgspec.inspect.UnionType):
        return None if wanted.includes_none else _example_value(wanted.types[0])
    examples: dict[type, object] = {
        msgspec.inspect.StrType: "example",
        msgspec.inspect.IntType: 1,
        msgspec.inspect.FloatType: 1.0,
        msgspec.inspect.BoolType: True,
        msgspec.inspect.DateTimeType: moment(DAY),
    }
    return examples.get(type(wanted))  # a list or a map is carried along, and never read

"""A log read for the ledger of losses: what was asked, what was decided, what was learned.

Only the few fields that the ledger needs are decoded: a decision's hundred feature values are
skipped, and events that move no money are not looked at. Serves H13 of the requirements.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec
import numpy as np
import polars as pl
from numpy.typing import NDArray

from chopmark.codes import Codes
from chopmark.decisions.case import VERIFY
from chopmark.engine import Application
from chopmark.errors import InvalidExpression, InvalidInput, InvalidTable, did_you_mean
from chopmark.events import Event, EventLog, Schema, type_name
from chopmark.events.event import Moment
from chopmark.expressions import compile_program, parse, run
from chopmark.features import Label
from chopmark.features.catalog import TIMES
from chopmark.features.columns import from_events, known_instant
from chopmark.rules import Effects
from chopmark.rules.orders import RuleDrafted, RuleStaged
from chopmark.times import Instant, instant, moment

_OPENS = b'{"type":"'
_ASKED = {"id": pl.String, "type": pl.String, "at": pl.Int64, "key": pl.String, "cents": pl.Int64}
_DECIDED: dict[str, pl.DataType | type[pl.DataType]] = {
    "about": pl.String,
    "about_type": pl.String,
    "user": pl.String,
    "at": pl.Int64,
    "action": pl.String,
    "allowed": pl.Int64,
    "causes": pl.List(pl.String),
}
_LABELS = {
    "key": pl.String,
    "is_direct": pl.Boolean,
    "is_bad": pl.Boolean,
    "at": pl.Int64,
    "cents": pl.Int64,
}
_NO_CAUSE: list[str] = []
_ROWS = 100_000
_HITS = {"about": pl.String, "rule": pl.String, "version": pl.Int64, "acts": pl.Boolean}


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """What a log says of money, as columns; amounts are whole cents, instants microseconds.

    Attributes
    ----------
    decided : DataFrame
        Decisions that had money to decide about: about, about_type, user, at, action, allowed,
        causes (what stopped it, empty where nothing did), key (what a label may name), cents
        (asked for; null where the event names no amount).
    undecided : DataFrame
        Events that ask for money and that nobody decided about: id, type, at, key, cents.
    labels : DataFrame
        In the order of the log: key, is_direct (whether the key is an event's id), is_bad, at,
        cents (null where the label names no amount).
    hits : DataFrame
        Rules that were true of a decision: about, rule, version, acts. False is a user whom the
        rule was not rolled out to.
    trials : list of (rule, version, share, begin, end)
        When a rule acted on a share of the users only.
    num_records : int
        Decisions that only recorded, since their event asks for no money.
    as_of : Instant
        Nothing known later was read.
    """

    decided: pl.DataFrame
    undecided: pl.DataFrame
    labels: pl.DataFrame
    hits: pl.DataFrame
    trials: list[tuple[str, int, float, int, int]]
    num_records: int
    as_of: Instant


class _Hit(msgspec.Struct, gc=False):
    rule: str
    version: int
    standing: str = "acts"


class _Reason(msgspec.Struct, gc=False):
    code: str


class _Decided(msgspec.Struct, gc=False):
    """The fields of a `Decision` that the ledger reads."""

    happened_at: Moment
    about: str
    about_type: str
    user: str
    known_at: Moment | None = None
    allowed_usd: float = 0.0
    action: str = "record"
    authority: str = "default"
    friction: str = ""
    rules: list[_Hit] = []
    reasons: list[_Reason] = []


def read_record(
    application: Application,
    log: EventLog,
    label: Label,
    *,
    good: str | None = None,
    as_of: Instant | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> Record:
    """What a log says of money up to an instant.

    Parameters
    ----------
    label : Label
        What makes an event, or all of a user's, bad.
    good : str, optional
        Expression over the fields of the label's events that clears, such as
        ``verdict == 'good'``.
    as_of : Instant, optional
        The newest event's by default, which is also the latest that it may be.

    Raises
    ------
    InvalidInput
        If the label or the expression names what the schema lacks.
    InvalidTable
        If nothing was known by then.
    """
    reader = _Reader(application, label)
    reader.check(good)
    newest = log.last_known_at
    if newest is None:
        raise InvalidTable("expected events, got an empty log")
    end = newest if as_of is None else min(newest, as_of)
    for batch in log.read(limit=1):
        first = known_instant(batch[0][1])
        if first > end:
            raise InvalidTable(
                f"expected events known by {moment(end):%Y-%m-%d %H:%M} UTC, got none; the first "
                f"was known on {moment(first):%Y-%m-%d %H:%M}"
            )
    for bodies in log.read_bodies():
        if not reader.take([body for _, body in bodies], end):
            break
        if on_progress is not None:
            on_progress(bodies[-1][0])
    return reader.record(good, Instant(end))


class _Columns:
    """Rows that come one by one, kept as columns: millions of tuples would slow all down."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self.schema = schema
        self.parts: list[pl.DataFrame] = []
        self.columns: list[list[Any]] = [[] for _ in schema]

    def add(self, *row: Any) -> None:
        for column, value in zip(self.columns, row, strict=True):
            column.append(value)
        if len(self.columns[0]) >= _ROWS:
            self.pack()

    def pack(self) -> None:
        named = dict(zip(self.schema, self.columns, strict=True))
        self.parts.append(pl.DataFrame(named, schema=self.schema))
        self.columns = [[] for _ in self.schema]

    def frame(self) -> pl.DataFrame:
        self.pack()
        return pl.concat(self.parts)


@dataclass(slots=True)
class _Reader:
    """Columns while they are read."""

    application: Application
    label: Label
    asked: "_Columns" = field(default_factory=lambda: _Columns(_ASKED))
    decided: "_Columns" = field(default_factory=lambda: _Columns(_DECIDED))
    hits: "_Columns" = field(default_factory=lambda: _Columns(_HITS))
    learned: list[Event] = field(default_factory=list)
    staged: list[RuleStaged] = field(default_factory=list)
    effects: dict[tuple[str, int], Effects] = field(default_factory=dict)
    num_records: int = 0

    def check(self, good: str | None) -> None:
        """Raise `InvalidInput` before anything is read."""
        schema = self.application.catalog.schema
        for name in self.label.events:
            if name not in schema.types:
                raise InvalidInput(
                    f"the label reads event `{name}`, which the schema lacks"
                    + did_you_mean(name, schema.types)
                )
        if self.label.by not in schema.fields:
            raise InvalidInput(
                f"the label joins by field `{self.label.by}`, which the schema lacks"
                + did_you_mean(self.label.by, schema.fields)
            )
        if schema.fields[self.label.by].kind != "text":
            raise InvalidInput(f"expected a label by a field of text, got `{self.label.by}`")
        for text in (self.label.where, good):
            if text is not None:
                _holds(text, [], schema)

    def take(self, bodies: Sequence[bytes], end: Instant) -> bool:
        """Read a batch; False when it went beyond the end."""
        schema, policy = self.application.catalog.schema, self.application.policy
        money = {*policy.gated, *(policy.withdrawals.gated if policy.withdrawals else ())}
        asks = {name.encode(): name for name in schema.types if name in money}
        labels = {name.encode() for name in self.label.events}
        orders = {type_name(kind).encode() for kind in (RuleDrafted, RuleStaged)}
        decode = msgspec.json.Decoder(_Decided).decode
        decode_asked = msgspec.json.Decoder(_asked_type(policy.amount, self.label.by)).decode
        amount, by = operator.attrgetter(policy.amount), operator.attrgetter(self.label.by)
        for body in bodies:
            kind = body[len(_OPENS) : body.index(b'"', len(_OPENS))]
            if kind == b"decision":
                one = decode(body)
                at = instant(one.known_at or one.happened_at)
                if at > end:
                    return False
                self.decide(one, at, money)
            elif kind in asks:
                event: Any = decode_asked(body)
                at = instant(event.known_at or event.happened_at)
                if at > end:
                    return False
                cents = _cents(amount(event))
                self.asked.add(event.id, asks[kind], at, by(event), cents)
            if kind in labels or kind in orders:
                told = schema.decode(body)
                if known_instant(told) > end:
                    return False
                if isinstance(told, RuleDrafted):
                    effects = msgspec.json.decode(told.effects, type=Effects)
                    self.effects[told.rule, told.version] = effects
                elif isinstance(told, RuleStaged):
                    self.staged.append(told)
                if kind in labels:
                    self.learned.append(told)
        return True

    def decide(self, one: _Decided, at: Instant, money: set[str]) -> None:
        """Take in a decision."""
        if one.about_type not in money or one.action == "record":
            self.num_records += 1
            return
        causes = _NO_CAUSE if one.action == "allow" else causes_of(one, self.effects)
        allowed = _cents(one.allowed_usd)
        self.decided.add(
            one.about, one.about_type, one.user, at, one.action, allowed, causes
        )  # fmt: skip
        for hit in one.rules:
            if hit.standing in ("acts", "not rolled out"):
                self.hits.add(one.about, hit.rule, hit.version, hit.standing == "acts")

    def record(self, good: str | None, end: Instant) -> Record:
        """What was read."""
        asked, decided = self.asked.frame(), self.decided.frame()
        if self.label.refers:
            asked = asked.with_columns(key="id")
        return Record(
            decided=decided.join(
                asked.select("id", "key", "cents"),
                left_on="about", right_on="id", how="left", maintain_order="left",
            ),
            undecided=asked.join(
                decided, left_on="id", right_on="about", how="anti", maintain_order="left"
            ),
            labels=self.labels(good),
            hits=self.hits.frame(),
            trials=self.trials(end),
            num_records=self.num_records,
            as_of=end,
        )  # fmt: skip

    def labels(self, good: str | None) -> pl.DataFrame:
        """What was learned: of the events that labels are about, and of who they name."""
        schema, amount = self.application.catalog.schema, self.application.policy.amount
        events = self.learned
        where = self.label.where
        bad = np.ones(len(events), np.bool_) if where is None else _holds(where, events, schema)
        clear = np.zeros(len(events), np.bool_) if good is None else _holds(good, events, schema)
        rows: list[tuple[Any, ...]] = []
        for event, is_bad, is_good in zip(events, bad.tolist(), clear.tolist(), strict=True):
            if not is_bad and not is_good:
                continue
            at, cents = known_instant(event), _cents(getattr(event, amount, None))
            named = getattr(event, self.label.by, None)
            about = named if self.label.refers else getattr(event, "about", None)
            if about is not None:
                rows.append((about, True, is_bad, at, cents))
            if named is not None and not self.label.refers:
                rows.append((named, False, is_bad, at, cents))
        return pl.DataFrame(rows, schema=_LABELS, orient="row")

    def trials(self, end: Instant) -> list[tuple[str, int, float, int, int]]:
        """When rules acted on a share of the users."""
        found: list[tuple[str, int, float, int, int]] = []
        for place, order in enumerate(self.staged):
            if order.stage == "active" and 0.0 < order.share < 1.0:
                later = [one for one in self.staged[place + 1 :] if one.rule == order.rule]
                until = known_instant(later[0]) if later else end + 1
                begin = known_instant(order)
                found.append((order.rule, order.version, order.share, begin, until))
        return found


def causes_of(one: _Decided, effects: dict[tuple[str, int], Effects]) -> list[str]:
    """What kept money back, by name: rules first, then what the policy itself says."""
    codes = {reason.code for reason in one.reasons}
    acting = [(hit.rule, effects.get((hit.rule, hit.version))) for hit in one.rules
              if hit.standing == "acts"]  # fmt: skip

    def rules(does: Callable[[Effects], bool]) -> list[str]:
        # A rule whose draft is not in the log may have done it.
        return sorted(f"rule {name}" for name, then in acting if then is None or does(then))

    if "policy_failed" in codes:
        return ["failure"]
    if one.action == "deny":
        return ["ban"] if one.authority == "ban" else rules(lambda then: then.deny) or ["denied"]
    if one.action == "ask":
        if one.friction.startswith(VERIFY):
            return ["verification"]
        return rules(lambda then: then.friction == one.friction) or ["friction policy"]
    if one.action == "delay":
        waits = rules(lambda then: then.delay_hours > 0.0)
        return waits + ["score band"] * ("delay" in codes or not waits)
    match one.authority:
        case "rule":
            return rules(_bounds) or ["limit by rule"]
        case "lock":  # one that stood before, or that a rule has just set
            sets = [] if "lock" in codes else rules(lambda then: then.lock_score is not None)
            return sets or ["lock"]
        case "override" | "ban":
            return [one.authority]
        case "default":
            return ["limit without a score"]
    return ["limit by score"]


def _bounds(then: Effects) -> bool:
    bounds = (then.score_at_least, then.limit_at_most_usd, then.score_at_most,
              then.limit_at_least_usd)  # fmt: skip
    return any(bound is not None for bound in bounds)


def _asked_type(amount: str, by: str) -> type[msgspec.Struct]:
    optional = dict.fromkeys(("user", by, amount))
    kinds: dict[str, Any] = {amount: float | None}
    return msgspec.defstruct(
        "Asked",
        [
            ("id", str),
            ("happened_at", Moment),
            ("known_at", Moment | None, None),
            *((name, kinds.get(name, str | None), None) for name in optional),
        ],
        gc=False,
    )


def _cents(usd: float | None) -> int | None:
    return None if usd is None else round(usd * 100.0)


def _holds(text: str, events: Sequence[Event], schema: Schema) -> NDArray[np.bool_]:
    """(n,) whether an expression over the fields of events is true; missing is not."""
    kinds = {name: spec.kind for name, spec in schema.fields.items()}
    expression = parse(text, kinds)
    if expression.kind != "boolean":
        raise InvalidExpression(f"expected a condition, got a {expression.kind}: `{text}`")
    if not events:
        return np.zeros(0, dtype=np.bool_)
    codes = Codes(b"labels")
    columns = from_events(events, schema, codes, fields=frozenset(expression.reads))
    places = {name: len(TIMES) + place for place, name in enumerate(schema.fields)}
    target = len(TIMES) + len(places)
    program = compile_program([(expression, target)], places, codes)
    matrix = np.vstack([columns.values, np.full((1, len(events)), np.nan)])
    scratch = np.zeros((max(program.num_temporaries, 1), len(events)))
    run(program.code, program.constants, matrix, scratch, len(events))
    held: NDArray[np.bool_] = matrix[-1] == 1.0
    return held

"""One case decided: the score in force, the limit, and what is done about the event.

    model's score -> damped -> bounded by rules -> or locked      the score in force
    score in force -> limit -> bounded by rules -> or overridden  the limit
    limit, what was used of it, the account's state, frictions    the action

Each step says who had the last word (`Authority`) and adds its reasons.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from chopmark.decisions.damping import logit, probability
from chopmark.decisions.decision import Action, Authority, Reason
from chopmark.decisions.friction import AMOUNT
from chopmark.decisions.limits import FLOOR_USD
from chopmark.decisions.standing import Read, Standing, failed, passed
from chopmark.rules.book import Ruling
from chopmark.times import DAY, Instant

if TYPE_CHECKING:
    from chopmark.decisions.policy import Policy

Value = float | str | None
EPOCH = Instant(0)
VERIFY = "verify_"
"""Before the name of a verification: what is asked for where the account's state wants it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a decision is asked about.

    Attributes
    ----------
    event_type, user : str
    at : Instant
        When it was known.
    score : float or None
        Risk in [0, 1] of the model; None where no model can say.
    amount_usd : float or None
        What the event asks for; below zero, which gives money back, counts as zero.
    rail : str or None
        Way of payment.
    """

    event_type: str
    user: str
    score: float | None
    at: Instant = EPOCH
    amount_usd: float | None = None
    rail: str | None = None


@dataclass(slots=True, kw_only=True)
class Verdict:
    """What a policy says; the attributes are those of `chopmark.decisions.Decision`.

    Attributes
    ----------
    lock : (score, days, rule) or None
        A lock that a rule sets from now on.
    reasons : list of Reason
        Of the policy; those of the score come from `score_reasons`.
    """

    limit_usd: float = 0.0
    allowed_usd: float = 0.0
    action: Action = "record"
    score_in_force: float | None = None
    authority: Authority = "default"
    held_logit: float | None = None
    dwell: int = 0
    state: str = ""
    friction: str = ""
    friction_propensity: float = 1.0
    multiplier: float = 1.0
    propensity: float = 1.0
    delay_s: int = 0
    queue: str = ""
    tags: list[str] = field(default_factory=list)
    lock: tuple[float, int, str] | None = None
    reasons: list[Reason] = field(default_factory=list)


class Case:
    """A policy at work on one event; `verdict` may be called once."""

    def __init__(
        self, policy: "Policy", asked: Asked, read: Read, ruling: Ruling, key: bytes
    ) -> None:
        self.policy = policy
        self.asked = asked
        self.read = read
        self.acting = ruling.acting
        self.key = key
        self.standing = Standing.of(read) if policy.standing else NOBODY
        self.verified = tuple(name for name, feature in policy.verified if self.number(feature))
        stranger = bool(policy.member) and read.get(policy.member) is None
        is_guest = stranger and asked.event_type in policy.guests
        self.account = None if is_guest else policy.account
        self.leaves = (
            policy.withdrawals is not None and asked.event_type in policy.withdrawals.gated
        )
        # One draw for a user's week: who asks again must not draw again.
        self.draw = f"{asked.user}/{asked.at // WEEK}"
        self.hours = 0.0
        self.made = Verdict()

    def verdict(self) -> Verdict:
        """What the policy says."""
        made = self.made
        self.score()
        self.limit()
        if self.account is not None:
            made.state = self.account.state_of(self.verified).name
        for hit, then in self.acting:
            made.tags += [tag for tag in then.tags if tag not in made.tags]
            made.queue = made.queue or then.queue or ""
            text = f"rule {hit.rule}: {hit.because} ({then.sentence()})"
            self.because("rule", text, hit.rule)
        self.act()
        if self.standing.vip and made.action not in ("allow", "record"):
            made.tags.append("vip")
            made.queue = made.queue or "vip"
        return made

    def score(self) -> None:
        """The score in force: the model's, damped, bounded by rules, or locked."""
        made, standing, score = self.made, self.standing, self.asked.score
        made.authority = "default" if score is None else "model"
        made.held_logit, made.dwell = standing.held_logit, standing.dwell
        damping = self.policy.damping
        if score is not None and damping is not None:
            raw = round(logit(score), 4)
            held, made.dwell = damping.damp(standing.held_logit, raw, standing.dwell)
            # As it is looked up next time: in whole steps of 1e-4.
            made.held_logit = round(held, 4)
            score, made.authority = probability(made.held_logit), "damped"
        bounded = score
        for _, then in self.acting:
            if then.score_at_most is not None and bounded is not None:
                bounded = min(then.score_at_most, bounded)
        for hit, then in self.acting:
            # The riskier bound is the stronger one.
            if then.score_at_least is not None:
                bounded = max(then.score_at_least, 0.0 if bounded is None else bounded)
            lock = then.lock_score if standing.override_usd is None else None
            if lock is not None and (made.lock is None or lock > made.lock[0]):
                made.lock = (lock, then.lock_days, hit.rule)
        if bounded != score:
            score, made.authority = bounded, "rule"
        if standing.lock is not None:
            score, made.authority, made.lock = standing.lock, "lock", None
            self.because("lock", f"the score is locked at {100 * score:g} of 100", score)
        elif made.lock is not None:
            score, made.authority = made.lock[0], "lock"
        made.score_in_force = score

    def limit(self) -> None:
        """The limit: of the score in force, explored, bounded by rules, overridden, or zero."""
        made, standing = self.made, self.standing
        if standing.banned:
            made.limit_usd, made.authority = 0.0, "ban"
            self.because("ban", "the user is banned", None)
            return
        limit, most = self.of_score()
        exploration = self.policy.exploration
        if exploration is not None:
            free = made.authority in ("model", "damped", "default") and not self.acting
            limit, made.multiplier, made.propensity = exploration.draw(
                self.draw,
                limit,
                cap_usd=most,
                key=self.key,
                allowed=free and standing.override_usd is None,
            )
        # A lock that stands is above all bounds of rules; one that a rule sets now is its own.
        bounded = limit if standing.lock is not None else self.bounded(limit)
        if made.authority != "lock":
            if standing.override_usd is not None:
                bounded, made.authority = standing.override_usd, "override"
                text = f"the weekly limit was set to {bounded:.2f} USD by hand"
                self.because("override", text, bounded)
            elif bounded != limit:
                made.authority = "rule"
        made.limit_usd = bounded
        if bounded <= FLOOR_USD:
            made.tags.append("learning")

    def bounded(self, limit: float) -> float:
        """The limit within the bounds of the rules that act; a cap is stronger than a floor."""
        for _, then in self.acting:
            if then.limit_at_least_usd is not None:
                limit = max(limit, then.limit_at_least_usd)
        for _, then in self.acting:
            if then.limit_at_most_usd is not None:
                limit = min(limit, max(then.limit_at_most_usd, FLOOR_USD))
        return limit

    def of_score(self) -> tuple[float, float]:
        """The limit that follows from the score in force, and the most that any user has."""
        policy, score = self.policy, self.made.score_in_force
        limits = policy.limits
        if self.leaves and policy.withdrawals is not None:
            limits = policy.withdrawals.limits
        if limits is None:
            limit = policy.default_limit_usd if score is None else policy.curve.limit_usd(score)
            return self.unscored(limit, policy.default_limit_usd), policy.curve.limit_usd(0.0)
        declared = {one.name for one in limits.verifications}
        since = [self.number(name) for name in policy.clean_since]
        known = [seconds for seconds in since if seconds is not None]
        names = [name for name in self.verified if name in declared]
        rail = self.asked.rail if self.asked.event_type in policy.gated else None
        limit = limits.limit_usd(
            score,
            volume_usd=self.number(policy.volume),
            clean_days=min(known) / 86_400.0 if known else None,
            verified=names,
            rail=rail,
        )
        most = limits.most_usd(verified=names, rail=rail)
        return self.unscored(limit, limits.unscored_usd), most

    def unscored(self, limit: float, default_usd: float) -> float:
        """A rule's score does not lift who has no score of a model above the default."""
        free = self.asked.score is not None or self.standing.lock is not None
        return limit if free else min(limit, default_usd)

    def act(self) -> None:
        """What is done about the event at hand."""
        policy, made, asked = self.policy, self.made, self.asked
        if asked.event_type not in policy.gated and not self.leaves:
            return
        self.warn()
        if self.standing.banned:
            made.action = "deny"
            return
        if any(then.deny for _, then in self.acting):
            made.action, made.authority = "deny", "rule"
            return
        if self.account is not None:
            missing = self.account.missing(asked.event_type, self.verified)
            if missing:
                made.action, made.friction = "ask", VERIFY + missing[0]
                text = f"{' and '.join(missing)} must be verified before a {asked.event_type}"
                self.because("account", text, made.state)
                return
        if asked.amount_usd is None:
            return
        used = policy.spent
        if self.leaves and policy.withdrawals is not None:
            used = policy.withdrawals.spent
        amount = max(asked.amount_usd, 0.0)
        left = max(round(made.limit_usd - (self.number(used) or 0.0), 2), 0.0)
        made.allowed_usd, made.action = amount, "allow"
        if amount > left:
            made.allowed_usd, made.action = left, "reduce" if left > 0 else "wait"
            text = (
                f"{amount:.2f} USD asked for, {left:.2f} left of a weekly limit of "
                f"{made.limit_usd:.2f}"
            )
            self.because("limit", text, made.limit_usd)
        if made.action != "wait":
            self.ask()
            self.delay()
        if made.action in ("ask", "delay"):
            made.allowed_usd = 0.0

    def ask(self) -> None:
        """Ask for the first friction that a rule or the policy wants and that is not passed."""
        policy, made = self.policy, self.made
        wanted = [then.friction for _, then in self.acting if then.friction]
        chosen, propensity = "none", 1.0
        if policy.friction is not None:
            values = {name: self.read.get(feature) for name, feature in policy.risks}
            values |= {"stolen_payment": made.score_in_force, AMOUNT: self.asked.amount_usd}
            choice = policy.friction.choose(values, event_id=self.draw, key=self.key)
            chosen, propensity = choice.friction, choice.propensity
            if chosen != "none":
                wanted.append(chosen)
                made.reasons.append(choice.reason)
        asked = ""
        for name in dict.fromkeys(wanted):
            if policy.standing and failed(self.read, name):
                made.queue = made.queue or "failed_friction"
            if not asked and not (policy.standing and passed(self.read, name)):
                made.action = "ask"
                made.friction = asked = name
        # Of a friction that a rule asked for, no probability is known.
        if (asked or "none") == chosen:
            made.friction_propensity = propensity

    def warn(self) -> None:
        """Mark a withdrawal by the band of its score, whatever becomes of it."""
        withdrawals, score = self.policy.withdrawals, self.made.score_in_force
        if not self.leaves or withdrawals is None or not withdrawals.bands:
            return
        if score is None:
            self.because("no_score", "no score says in which band the withdrawal is", None)
            return
        for band in [band for band in withdrawals.bands if score >= band.score][-1:]:
            self.hours = band.delay_hours
            self.made.tags += ["warn"] if band.warn else []
            if band.delay_hours:
                self.made.queue = self.made.queue or "withdrawals"
                text = f"held for review from a score of {100 * band.score:g} of 100"
                self.because("delay", text, score)

    def delay(self) -> None:
        """Let the event wait, where a rule or the band of a withdrawal says so."""
        made = self.made
        hours = max((then.delay_hours for _, then in self.acting), default=0.0)
        hours = max(hours, self.hours)
        if self.policy.standing and passed(self.read, "delay"):
            return  # it has waited, or people have looked
        if hours and made.action in ("allow", "reduce"):
            made.action, made.delay_s = "delay", round(hours * 3600)

    def because(self, code: str, text: str, value: Value) -> None:
        """Add a reason."""
        self.made.reasons.append(Reason(code=code, text=text, value=value))

    def number(self, feature: str) -> float | None:
        """The value of a feature, if it is there and a number."""
        value = self.read.get(feature)
        return float(value) if isinstance(value, int | float) else None


WEEK = 7 * DAY
NOBODY = Standing(banned=False, lock=None, override_usd=None, vip=False, held_logit=None, dwell=0)

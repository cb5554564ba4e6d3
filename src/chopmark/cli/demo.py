"""``chopmark demo``: the whole loop on simulated data, in one go."""

import shutil
from pathlib import Path
from tempfile import mkdtemp
from typing import Annotated

from cyclopts import Parameter

from chopmark.cli.model import LEFT_OUT, blend_table
from chopmark.cli.serve import run_service
from chopmark.cli.show import console, number, progress, table
from chopmark.engine import Application, replay
from chopmark.errors import InvalidInput
from chopmark.features.sequence import RESERVED
from chopmark.models import load_scorer
from chopmark.pipelines import demo as steps
from chopmark.pipelines.demochain import RISKY, Held, Watch, held, hold_risky, watch
from chopmark.pipelines.desk import WHEN, Day, day_at_the_desk
from chopmark.pipelines.exchange import ADDRESS_RISK, LABEL, application
from chopmark.pipelines.folder import DataFolder
from chopmark.pipelines.sequences import SequenceBlend, has_torch
from chopmark.pipelines.training import train
from chopmark.pipelines.why import Why, riskiest, why
from chopmark.tabular import EasyML
from chopmark.times import moment


def demo(
    *,
    once: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    quick: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    seed: int = 0,
    data: Path | None = None,
    port: int = 8080,
) -> None:
    """Simulate an exchange, learn from its past, live through the rest, and serve.

    Parameters
    ----------
    once
        End after the results instead of serving.
    quick
        A small simulation, for a smoke test in seconds.
    seed
        Of the simulation and the training.
    data
        Folder for the log, the model and the state: a new temporary one by default. It must
        not hold a log yet.
    port
        Of the service.
    """
    scale = steps.QUICK if quick else steps.Scale()
    app = application()
    path = data if data is not None else Path(mkdtemp(prefix="chopmark-demo-"))
    folder = DataFolder(path)
    if folder.log.exists():
        raise InvalidInput(f"expected a folder without a log for the demo, got {path}")
    try:
        day = _run(folder, app, scale, _learner(quick=quick, seed=seed), seed=seed)
        if data is not None or not once:  # else the folder goes with the end
            _show_next(path, day)
        if not once:
            run_service(folder, app, port=port)
    finally:
        if data is None:
            shutil.rmtree(path, ignore_errors=True)


def _learner(*, quick: bool, seed: int) -> EasyML | SequenceBlend:
    """A blend that reads histories where torch is installed; else what there is without."""
    if not has_torch():
        return EasyML(seed=seed)
    return SequenceBlend(seed=seed, epochs=3.0, steps=30 if quick else 60)


def _run(
    folder: DataFolder,
    app: Application,
    scale: steps.Scale,
    model: EasyML | SequenceBlend,
    *,
    seed: int,
) -> Day:
    with progress("simulate", scale.num_users) as done:
        past = steps.simulated(scale, seed=seed)
        done(scale.num_users)
    console.print(
        f"  {past.simulation.num_events:,} events of {scale.num_users:,} honest users and some "
        f"fraudsters in {scale.days} days; the last {scale.live_days} are to be lived through"
    )
    num_past = past.num_past
    with folder.open_log(app) as log:
        with progress("log the past", num_past) as done:
            steps.fill(log, folder.vault(), past.events, count=num_past, on_progress=done)
        with progress("replay it and train", num_past) as done:
            trained = train(app, log, label=LABEL, model=model, on_progress=done)
        trained.model.save(folder.model)
    console.print(
        f"  {trained.num_rows:,} purchases old enough to have a label, {trained.num_bad:,} of bad "
        f"users; table in {trained.table_seconds:.1f} s, model in {trained.fit_seconds:.1f} s"
    )
    if trained.parts:
        blend_table(trained)
    else:
        console.print(f"  {LEFT_OUT}", highlight=False, markup=False, soft_wrap=True)
    with progress("learn the chain of withdrawals") as done:
        chain = watch(past.simulation, folder.path / "chain", days=scale.days,
                      live_days=scale.live_days, seed=seed)  # fmt: skip
    engine = folder.open_engine(app, trust_known_at=True)
    scorer = load_scorer(folder.model)
    engine.use(scorer)
    engine.warm()
    begun = engine.log.last_known_at
    assert begun is not None
    hold_risky(engine, moment(begun))
    num_live = past.simulation.num_events - num_past
    with progress("live through the rest", num_live) as done:
        decided = replay(
            engine, chain.beside(past.events), decide=app.policy.assessed, on_progress=done
        )
    decisions = [decision for decision in decided if decision.about_type in steps.DECIDED]
    risk = app.catalog.names.index(ADDRESS_RISK.name)
    stopped = held(past.simulation, decided, risk)
    outcome = steps.judge(app, engine.log, past.simulation, decisions)
    with progress("a day at the desk"):
        day = day_at_the_desk(engine, label=LABEL, score=trained.model.score)
    engine.snapshot().write(folder.snapshot)
    engine.log.close()
    _show(outcome)
    _show_chain(chain, stopped)
    risky = riskiest(app, decisions)
    if risky is not None:
        _show_why(why(app, scorer, risky))
    _show_day(day)
    return day


def _show(outcome: steps.Outcome) -> None:
    without, with_limits = outcome.fraud_rates()
    table(
        f"{outcome.num_purchases:,} purchases that the model had not seen, "
        f"{outcome.num_fraudulent:,} of them fraudulent",
        ("", "no limits", "with limits"),
        [
            ("volume, USD", *(number(usd, 0) for usd in outcome.volume_usd)),
            ("fraud losses, USD", *(number(usd, 0) for usd in outcome.losses_usd)),
            ("fraud rate", f"{without:.2%}", f"{with_limits:.2%}"),
            ("honest volume allowed", "100.0%", f"{outcome.honest_share:.1%}"),
        ],
    )
    p50, p99 = outcome.latency_us
    table(
        "Scores and decisions",
        ("", "value"),
        [
            *((name, number(value)) for name, value in outcome.metrics.items()),
            ("decision, median", f"{p50:.0f} µs"),
            ("decision, 99th percentile", f"{p99:.0f} µs"),
            (
                "served values that training has otherwise",
                f"{outcome.differing_values:,} of {outcome.num_values:,}",
            ),
        ],
    )


def _show_chain(chain: Watch, stopped: Held) -> None:
    """What the chain knew of where withdrawals went, and what was held."""
    first, then = chain.learned, chain.updated
    console.print(
        f"[bold]The chain[/bold]: {first.num_rows:,} transfers of {first.num_addresses:,} "
        f"addresses, {first.num_illicit} of them labelled as illicit; on labels held out ROC-AUC "
        f"{number(first.held_out['roc_auc'])}. Halfway {then.num_rows:,} new transfers, "
        f"{then.num_touched:,} addresses embedded and scored anew in "
        f"{sum(then.seconds.values()):.1f} s",
        highlight=False,
        soft_wrap=True,
    )
    table(
        f"{stopped.num_withdrawals:,} withdrawals, {stopped.num_fraudulent:,} of them fraudulent",
        ("", "value"),
        [
            ("to addresses that the chain knew", f"{stopped.num_known:,}"),
            (f"to risky ones (>= {RISKY:g}), which wait for a review", f"{stopped.num_held:,}"),
            ("  of these fraudulent", f"{stopped.num_held_fraudulent:,}"),
            ("fraudulent USD that wait", number(stopped.held_usd, 0)),
            ("fraudulent USD in all", number(stopped.lost_usd, 0)),
        ],
    )


def _show_why(found: Why) -> None:
    """What made the riskiest purchase so: parts, columns, and single events of the history."""
    one = found.decision
    said = "; ".join(f"{name} {score:.3f}" for name, score in found.parts)
    console.print(
        f"[bold]Why {one.user} has the highest score[/bold], {one.score:.3f}, at {one.about}"
        + (f": {said}" if said else ""),
        highlight=False,
    )
    columns = [(name, _shown(value), f"{move:+.2f}") for name, value, move in found.columns]
    table("What moved it most", ("feature", "value", "log-odds"), columns)
    if found.events:
        events = [
            (
                str(event["type"]),
                f"{int(event['age']) / 3_600_000_000:,.1f}",
                ", ".join(_shown(value) for name, value in event.items() if name not in RESERVED),
                f"{move:+.2f}",
            )
            for event, move in found.events
        ]
        header = ("event", "hours before", "fields", "log-odds")
        table("Events of the history, by what Seq2Win would say without each", header, events)


def _shown(value: object) -> str:
    if value is None:
        return "missing"
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def _show_day(day: Day) -> None:
    """What the desk did, and what came of it for one user."""
    one = day.backtest
    console.print(
        f"[bold]At the desk[/bold]: rule {one.name}: {WHEN}\n"
        f"  it would have hit {one.num_hits:,} purchases, {one.true_positives:,} bad and "
        f"{one.false_positives:,} good, and moved {day.moves:.1%} of users",
        highlight=False,
    )
    rows = [
        (
            what,
            decision.action + (f" {decision.friction}" if decision.friction else ""),
            decision.authority,
            number(decision.limit_usd, 2),
            number(decision.allowed_usd, 2),
            ", ".join(hit.standing for hit in decision.rules if hit.rule == one.name) or "-",
        )
        for what, decision in day.steps
    ]
    table(
        "One user, buying after each step",
        ("", "action", "decided by", "limit, USD", "allowed, USD", "the rule"),
        rows,
    )
    console.print("In words: " + " ".join(day.told), highlight=False)
    console.print(
        f"{day.num_decisions:,} decisions made again from their records: "
        f"{day.num_differing:,} differ",
        highlight=False,
    )


def _show_next(path: Path, day: Day) -> None:
    """Commands that can be tried on this very log, also while it is served."""
    asked = next((one for _, one in day.steps if one.action == "ask"), day.steps[-1][1])
    console.print("[bold]Look closer[/bold], also while it is served, in another terminal:")
    for command in (
        f"chopmark decision explain {path} {asked.about}",
        f"chopmark user show {path} {asked.user}",
        f"chopmark rules list {path}",
        f"chopmark losses {path}",
    ):
        console.print(f"  {command}", highlight=False, markup=False, soft_wrap=True)

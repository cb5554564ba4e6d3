"""``chopmark backtest``: a recipe on real events, from files to live traffic."""

from chopmark.cli.application import application_of, load_recipe
from chopmark.cli.show import console, number, progress, table
from chopmark.errors import InvalidInput
from chopmark.pipelines.backtest import Live, Step
from chopmark.pipelines.backtest import backtest as run

SHOWN = ("roc_auc", "pr_auc", "log_loss")


def backtest(recipe: str) -> None:
    """Judge a recipe's groups of features on its data, then replay the last part live.

    Parameters
    ----------
    recipe
        Python file with `application`, `label`, `steps` (groups of features by name) and
        `sources()` (what to ingest).
    """
    module = load_recipe(recipe)
    application, label = application_of(module, recipe)
    steps, sources = getattr(module, "steps", None), getattr(module, "sources", None)
    if not isinstance(steps, dict) or not callable(sources):
        raise InvalidInput(f"expected `steps = {{...}}` and `def sources()` in {recipe}")
    rows: list[tuple[str, ...]] = []
    live: Live | None = None
    with progress("judge each group of features", len(steps) + 1) as done:
        for count, result in enumerate(run(application, label, sources(), steps=steps), start=1):
            done(count)
            if isinstance(result, Step):
                rows.append(_row(result))
            else:
                live = result
    header = ("", *(f"random {name}" for name in SHOWN), *(f"later {name}" for name in SHOWN))
    table("Features as they were before each event", header, rows)
    assert live is not None
    p50, p99 = live.latency_us
    console.print(
        f"live: {live.num_decisions:,} decisions, ROC-AUC {number(live.metrics['roc_auc'])}, "
        f"PR-AUC {number(live.metrics['pr_auc'])}; {live.num_differing} scores differ from those "
        f"of the training table; {p50:.0f} µs at the median, {p99:.0f} µs at the 99th percentile"
    )


def _row(step: Step) -> tuple[str, ...]:
    return (
        step.name,
        *(number(step.random[name]) for name in SHOWN),
        *(number(step.later[name]) for name in SHOWN),
    )

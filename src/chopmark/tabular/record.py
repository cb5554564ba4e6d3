"""What EasyML needs to find in a file beside arrays: its record of the training, checked.

Serves A12 of the requirements.
"""

import math
from collections.abc import Mapping
from typing import Any

from chopmark.errors import ArtifactError
from chopmark.models import ArtifactScorer, ClassScorer
from chopmark.tabular.targets import TASKS


def check_record(training: Mapping[str, Any], scorer: ArtifactScorer | ClassScorer) -> None:
    """Raise `ArtifactError` if the record of a training is not one that EasyML wrote.

    Parameters
    ----------
    training
        As the artifact has it: whatever JSON can hold.
    scorer
        Of the same artifact; task and classes must fit what it gives.
    """
    task, classes = training.get("task"), training.get("classes")
    costs = training.get("costs", [1.0, 1.0])
    expected = {"binary": 2, "regression": 0}
    several, probable = isinstance(scorer, ClassScorer), getattr(scorer, "is_probability", True)
    checks = {
        f"a task of {', '.join(TASKS)}": task in TASKS,
        "classes that are texts or numbers": isinstance(classes, list)
        and all(type(label) in (str, int, float, bool) for label in classes),
        "as many classes as the task has": isinstance(classes, list)
        and len(classes) == expected.get(str(task), len(classes)),
        "a model that gives what the task asks": several == (task == "multiclass")
        and probable == (task != "regression"),
        "weights and importance of names": _are_shares(training.get("weights"))
        and _are_shares(training.get("importance")),
        "two costs above zero": isinstance(costs, list)
        and len(costs) == 2
        and all(_is_finite(cost) and cost > 0 for cost in costs),
    }
    for expectation, holds in checks.items():
        if not holds:
            raise ArtifactError(
                f"the artifact's record of its training is not EasyML's: expected {expectation}"
            )


def _are_shares(found: Any) -> bool:
    return isinstance(found, dict) and all(map(_is_finite, found.values()))


def _is_finite(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)

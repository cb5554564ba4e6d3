"""Options that several commands share, each with its one line of help."""

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from chopmark.errors import InvalidInput

Data = Annotated[Path, Parameter(help="Folder with the log.")]
App = Annotated[
    str | None,
    Parameter(
        help="Python file with `application` and `label`; the simulated exchange by default."
    ),
]
AsJson = Annotated[
    bool,
    Parameter(
        help="Print the order and write nothing: for `curl` to the /v1/events of a service that "
        "has the log open.",
        negative="",
        show_default=False,
    ),
]
Author = Annotated[str, Parameter(help="Who says so.")]
Reason = Annotated[str, Parameter(help="Why, for whoever reads it later.")]
Approver = Annotated[str | None, Parameter(help="A second person, other than the author.")]
User = Annotated[str, Parameter(help="Id of the user.")]
RuleName = Annotated[str, Parameter(help="Of the rule: small letters, digits and `_`.")]


def check_words(**said: str | None) -> None:
    """Raise `InvalidInput` for an option that was given without words."""
    for name, text in said.items():
        if text is not None and not text.strip():
            raise InvalidInput(f"expected words for --{name}, got none")


def check_share(name: str, share: float, *, unit: str = "%") -> None:
    """Raise `InvalidInput` unless a share is from 0 to 1."""
    if not 0.0 <= share <= 1.0:
        hint = f"; write {share / 100:g} for {share:g} {unit}" if 1.0 < share <= 100.0 else ""
        raise InvalidInput(f"expected --{name} from 0 to 1, got {share:g}{hint}")


def check_days(days: float) -> None:
    """Raise `InvalidInput` unless it ends later than it begins, and within a hundred years."""
    if not 0.0 < days <= 36_500.0:
        raise InvalidInput(f"expected --days above 0 and at most 36,500, got {days:g}")

"""Every error that chopmark raises, one tree.

    ChopmarkError
    ├── InvalidInput          what came from outside cannot be used as it is
    │   ├── InvalidEvent      an event does not fit its declared type
    │   │   └── AlreadyTaken  it was taken in earlier, so no decision can be made about it
    │   ├── InvalidTable      a table lacks a column, a row or a label that is needed
    │   ├── InvalidExpression the text of an expression is wrong (caret and hint)
    │   └── RuleError         a rule, a list or an order about them cannot be
    ├── DeclarationError      our own code declares something that cannot be
    │   ├── SchemaError       an event type or a field
    │   ├── FeatureError      a feature
    │   └── PolicyError       a limit curve or another part of a policy
    ├── StoreError            the durable side failed
    │   ├── LogUnavailable    the log cannot take or confirm an event now; retry later
    │   └── SnapshotError     a state snapshot is damaged or belongs to another catalog
    ├── ArtifactError         a model artifact is missing, damaged, foreign or mismatched
    ├── MissingExtra          an optional package is not installed (with its install line)
    └── ServiceError          the service cannot start as it was asked to

A message says what was expected, what came, where, and what to do. HTTP codes live in
``chopmark.service``; nothing here knows of a transport.
"""

from collections.abc import Iterable
from difflib import get_close_matches


class ChopmarkError(Exception):
    """Root of the tree: catch it to catch all that chopmark raises on purpose."""


class InvalidInput(ChopmarkError):
    """What came from outside cannot be used as it is."""


class InvalidEvent(InvalidInput):
    """An event does not fit its declared type."""


class AlreadyTaken(InvalidEvent):
    """An event was taken in earlier without a decision, so none can be made about it now."""


class InvalidTable(InvalidInput):
    """A table lacks a column, a row or a label that is needed."""


class InvalidExpression(InvalidInput):
    """The text of an expression is wrong; the message carries a caret and a hint."""


class RuleError(InvalidInput):
    """A rule, a list or an order about them cannot be; with the place and the reason."""


class DeclarationError(ChopmarkError):
    """Our own code declares something that cannot be."""


class SchemaError(DeclarationError):
    """An event type or one of its fields is declared wrongly."""


class FeatureError(DeclarationError):
    """A feature is declared wrongly, twice, or reads what does not exist."""


class PolicyError(DeclarationError):
    """A limit curve or another part of a policy is declared wrongly."""


class StoreError(ChopmarkError):
    """The durable side failed."""


class LogUnavailable(StoreError):
    """The log cannot take or confirm an event now: nothing was acknowledged, retry later."""


class SnapshotError(StoreError):
    """A state snapshot is damaged or belongs to another catalog."""


class ArtifactError(ChopmarkError):
    """A model artifact is missing, damaged, foreign or reads other features."""


class MissingExtra(ChopmarkError):
    """An optional package is not installed; the message is its install line."""

    def __init__(self, what: str, extra: str) -> None:
        super().__init__(f"{what} needs an optional package: pip install 'chopmark[{extra}]'")


class ServiceError(ChopmarkError):
    """The service cannot start as it was asked to: the port is taken, say."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """A hint that ends a message: the nearest known name, or the list when it is short.

    Examples
    --------
    >>> did_you_mean("purchse", ["purchase", "signup"])
    '; did you mean `purchase`?'
    """
    names = sorted(known)
    near = get_close_matches(name, names, n=1)
    if near:
        return f"; did you mean `{near[0]}`?"
    if 0 < len(names) <= 12:
        return "; known: " + ", ".join(f"`{known_name}`" for known_name in names)
    return ""

"""chopmark: events in, decisions out.

An Event is a fact about entities at an instant, and never changes.
A Feature is a function from an entity's past to a value.
A Model is a function from a table to scores.
A Decision is a function from scores and features to an action, with its reasons.
A Label is what we learned later, stamped with when we learned it.

All names below are loaded when first used, so that ``import chopmark`` costs nothing and a
service never pays for a learner.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from chopmark.blend import EasyBlend as EasyBlend
    from chopmark.decisions import Decision as Decision
    from chopmark.decisions import LimitCurve as LimitCurve
    from chopmark.decisions import Policy as Policy
    from chopmark.engine import Application as Application
    from chopmark.engine import Engine as Engine
    from chopmark.events import Entity as Entity
    from chopmark.events import Event as Event
    from chopmark.events import Identifier as Identifier
    from chopmark.events import MemoryLog as MemoryLog
    from chopmark.events import Number as Number
    from chopmark.events import Personal as Personal
    from chopmark.events import Schema as Schema
    from chopmark.events import SqliteLog as SqliteLog
    from chopmark.events import Usd as Usd
    from chopmark.events import Vault as Vault
    from chopmark.features import Aggregate as Aggregate
    from chopmark.features import Catalog as Catalog
    from chopmark.features import Derived as Derived
    from chopmark.features import Label as Label
    from chopmark.features import LabelRate as LabelRate
    from chopmark.features import Lookup as Lookup
    from chopmark.features import Sequence as Sequence
    from chopmark.features import Similarity as Similarity
    from chopmark.features import aggregates as aggregates
    from chopmark.features import share as share
    from chopmark.features import training_table as training_table
    from chopmark.foundation import SmartTargeting as SmartTargeting
    from chopmark.foundation import UserModel as UserModel
    from chopmark.histories import Histories as Histories
    from chopmark.models import load_scorer as load_scorer
    from chopmark.report import write_report as write_report
    from chopmark.sequence import Seq2Win as Seq2Win
    from chopmark.tabular import EasyML as EasyML
    from chopmark.tabular import Query as Query

_HOMES = {
    "chopmark.events": (
        "Entity", "Event", "Identifier", "MemoryLog", "Number", "Personal", "Schema", "SqliteLog",
        "Usd", "Vault",
    ),
    "chopmark.features": (
        "Aggregate", "Catalog", "Derived", "Label", "LabelRate", "Lookup", "Sequence",
        "Similarity", "aggregates", "share", "training_table",
    ),
    "chopmark.foundation": ("SmartTargeting", "UserModel"),
    "chopmark.histories": ("Histories",),
    "chopmark.models": ("load_scorer",),
    "chopmark.sequence": ("Seq2Win",),
    "chopmark.tabular": ("EasyML", "Query"),
    "chopmark.blend": ("EasyBlend",),
    "chopmark.report": ("write_report",),
    "chopmark.decisions": ("Decision", "LimitCurve", "Policy"),
    "chopmark.engine": ("Application", "Engine"),
}  # fmt: skip
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = sorted(_HOME_OF)


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module `chopmark` has no attribute `{name}`")
    return getattr(import_module(home), name)


def __dir__() -> list[str]:
    return __all__

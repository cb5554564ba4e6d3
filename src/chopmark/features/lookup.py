"""Lookups: the latest value of a field that was known at the instant of the question.

A profile, a verification, an embedding's or a model's score: whatever was written by an
event and holds until a later one says otherwise. "Latest" is by ``happened_at``, and among
equal instants by the order of the log.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Lookup:
    """The latest known value of a field, of any kind; missing if there was none.

    Parameters
    ----------
    event : str
        Event type that carries the field.
    of : str
        The field.
    by : str
        Field that names the entity.

    Examples
    --------
    >>> Lookup("signup", "country").name
    'signup_country'
    """

    event: str
    of: str
    by: str = "user"

    @property
    def name(self) -> str:
        """The computed name."""
        suffix = "" if self.by == "user" else f"_by_{self.by}"
        return f"{self.event}_{self.of}{suffix}"

    def describe(self) -> str:
        """All that the value depends on."""
        return repr(("lookup", self.event, self.of, self.by))

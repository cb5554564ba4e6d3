"""A label is what we learned later, stamped with when we learned it.

`Label` declares which events say so, how they are joined to the rows of a training table
(`chopmark.features.table`), and when a row that nothing was learned about counts as good.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """How rows are labelled by later events.

    Parameters
    ----------
    events : tuple of str
        Event types that say "bad", such as ``("chargeback",)``.
    by : str
        What joins them to a row: a field of both (``"user"``: all rows of a bad user are
        bad), or, with ``refers=True``, a field of the label that holds the row's event id.
    refers : bool
        See ``by``.
    where : str, optional
        Expression over the fields of the label event; missing counts as false.
    matures : str
        Age from which a row without a label counts as good, such as ``"60d"``.
    """

    events: tuple[str, ...]
    by: str = "user"
    refers: bool = False
    where: str | None = None
    matures: str = "60d"

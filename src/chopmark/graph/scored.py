"""What is told of an address: to who asks, and to the log, for features and rules to look up."""

from typing import Annotated, Literal

from msgspec import Meta, Struct

from chopmark.events.event import Entity, Event

Band = Literal["usual", "raised", "high"]
Label = Literal["illicit", "licit"]


class AddressScored(Event):
    """A run of the chain gave an address this score, or a list this label.

    Attributes
    ----------
    address : str
        As the event writes it that is decided about, whatever its case.
    score : float, optional
        Chance that the address is illicit, 0 to 1; None where the chain does not know it.
    run : str
        Which run said so.
    label : str
        What the labels of the chain hold it for; empty where they say nothing.
    band : str
        Where the score lies among those of the chain; empty where it is not known.
    """

    address: Annotated[str, Entity("address")]
    score: Annotated[float, Meta(ge=0, le=1)] | None = None
    run: str
    label: Literal["", "illicit", "licit"] = ""
    band: Literal["", "usual", "raised", "high"] = ""


class AddressRisk(Struct, frozen=True, kw_only=True):
    """What a chain says of one address.

    Attributes
    ----------
    address : str
        As it was asked for.
    chain, run : str
        Who says so.
    score : float or None
        Chance that it is illicit, 0 to 1; None where no transfer of the chain names it.
    band : "usual", "raised", "high" or None
        Where the score lies; None without a score, or if the run has no bounds.
    label : "illicit", "licit" or None
        What holds of the labels now, whatever the score.
    category, source : str or None
        Of the label.
    warning : str or None
        A sentence for who is about to send money there, if there is something to warn of.
    """

    address: str
    chain: str
    run: str
    score: float | None = None
    band: Band | None = None
    label: Label | None = None
    category: str | None = None
    source: str | None = None
    warning: str | None = None

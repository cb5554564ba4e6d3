"""The risk of addresses over HTTP, and in the log before each decision that rests on it.

    GET  /v1/addresses/{address}?chain=ethereum          -> {"address", "score", "label", ...}
    POST /v1/addresses  {"addresses": [...], "chain": "ethereum"}   -> {"risks": [{...}, ...]}

Before an event with an `address` is decided about, the log is told what the chain says of the
address (`AddressScored`), if it was not told the same last: so features and rules see it, records
hold it, and a replay needs no chain. What was told stands in the log alone: a kill at any moment
leaves nothing told twice, and nothing forgotten.
Serves rows H3, H13 and H16 of the requirements.
"""

import asyncio
import logging
import re
from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from chopmark.engine import Engine
from chopmark.errors import InvalidInput, ServiceError, StoreError, did_you_mean
from chopmark.events.event import Event
from chopmark.events.schema import MAX_TEXT, Schema, type_name
from chopmark.graph.scored import AddressRisk, AddressScored
from chopmark.service.answers import Refusal, unavailable
from chopmark.times import moment

if TYPE_CHECKING:
    from chopmark.graph.risks import AddressRisks

logger = logging.getLogger(__name__)

MAX_ADDRESSES = 10_000
SCORED = type_name(AddressScored)
_FIELD = "address"
_STEP = 256
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,39}")

Ahead = Mapping[tuple[str | None, str], AddressRisk]
"""What is known of addresses, by the chain that events name and the address."""
_NOTHING: Ahead = {}


class AskedAddresses(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The body of a question about many addresses."""

    addresses: list[str]
    chain: str | None = None


class AddressAnswers(msgspec.Struct, frozen=True):
    """The answer to it, in the order of the question."""

    risks: list[AddressRisk]


_decoder = msgspec.json.Decoder(AskedAddresses)
_encode = msgspec.json.Encoder().encode


class Addresses:
    """The chains that a service knows, side by side.

    Parameters
    ----------
    chains : sequence of AddressRisks
        In the order in which they are asked.

    Raises
    ------
    InvalidInput
        If there is none, or two have one name, or a name is not of 1 to 40 letters, digits, `_`,
        `.` and `-`.
    """

    def __init__(self, chains: "Sequence[AddressRisks]") -> None:
        self.chains: Mapping[str, AddressRisks] = {one.name: one for one in chains}
        self._troubles: dict[str, str] = {}
        if not chains or len(self.chains) != len(chains):
            names = ", ".join(one.name for one in chains) or "none"
            raise InvalidInput(f"expected chains of different names, got {names}")
        for name in self.chains:
            if not _NAME.fullmatch(name):
                raise InvalidInput(
                    "expected the name of a chain of 1 to 40 letters, digits, `_`, `.` and `-`, "
                    f"got {name!r}"
                )

    @classmethod
    def open(cls, chains: Sequence[str]) -> "Addresses":
        """The chains of texts such as ``ethereum=FOLDER``, or ``FOLDER`` by its own name.

        Raises
        ------
        InvalidInput
            As the class does.
        StoreError
            If a folder has no chain that was learned.
        """
        # Who serves no chain pays for no table library.
        from chopmark.graph.risks import AddressRisks

        opened: list[AddressRisks] = []
        try:
            for text in chains:
                name, equals, folder = text.partition("=")
                named = bool(equals) and _NAME.fullmatch(name) is not None
                opened.append(
                    AddressRisks(Path(folder), name=name) if named else AddressRisks(Path(text))
                )
            return cls(opened)
        except BaseException:
            for one in opened:
                one.close()
            raise

    def check(self, schema: Schema) -> None:
        """Raise `ServiceError` if the log of this schema cannot be told of addresses."""
        if schema.types.get(SCORED) is not AddressScored:
            raise ServiceError(
                "expected the event type `AddressScored` in the schema of an application that "
                "serves chains, got none, so that no decision would see them; add "
                "`chopmark.graph.scored.AddressScored` to its event types, or serve no chain"
            )

    def close(self) -> None:
        """Let the folders go."""
        for one in self.chains.values():
            one.close()

    def risks(self, addresses: Sequence[str], chain: str | None = None) -> list[AddressRisk]:
        """What is known of addresses, in their order.

        Parameters
        ----------
        chain : str, optional
            Which one to ask. Else the first that knows the address answers, before it one that
            holds it for illicit: the same key opens an address on several chains.

        Raises
        ------
        Refusal
            404 if it is not served, 503 if labels cannot be read now.
        """
        if chain is not None and chain not in self.chains:
            raise Refusal(
                404, "not_found",
                "expected the name of a chain that is served, got another one"
                + did_you_mean(chain, self.chains),
            )  # fmt: skip
        asked = list(self.chains.values()) if chain is None else [self.chains[chain]]
        try:
            found = [one.of(addresses) for one in asked]
        except StoreError as error:
            logger.error("labels of addresses cannot be read: %s", error)
            raise unavailable(
                "expected the labels of addresses to be readable, got a failure; nothing was "
                "done, come again",
                code="labels_unavailable",
            ) from error
        finally:
            self._note()
        return found[0] if len(found) == 1 else [_first(told) for told in zip(*found, strict=True)]

    async def answer(self, body: bytes) -> bytes:
        """The answer to a question about many addresses; short requests may pass it.

        Raises
        ------
        Refusal
            400 if it is none; else as `risks`.
        """
        try:
            asked = _decoder.decode(body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise Refusal(
                400, "invalid_request",
                f"expected an object with `addresses`, a list of texts, and perhaps `chain`, "
                f"a text: {_told(error)}", place="$",
            ) from error  # fmt: skip
        if len(asked.addresses) > MAX_ADDRESSES:
            raise Refusal(
                400, "too_many_addresses",
                f"expected at most {MAX_ADDRESSES:,} addresses, got {len(asked.addresses):,}; "
                "send them in parts",
                place="$.addresses",
            )  # fmt: skip
        for position, address in enumerate(asked.addresses):
            check_address(address, place=f"$.addresses[{position}]")
        risks = self.risks([], asked.chain)  # a chain that is not served is refused at once
        for start in range(0, len(asked.addresses), _STEP):
            risks += self.risks(asked.addresses[start : start + _STEP], asked.chain)
            await asyncio.sleep(0)
        return _encode(AddressAnswers(risks))

    def ahead(self, engine: Engine, events: Sequence[Event]) -> Ahead:
        """What is known of the addresses of events that `tell` will be called with, asked at once.

        Raises
        ------
        Refusal
            As `risks`.
        """
        asked: dict[str | None, dict[str, None]] = {}
        for event in events:
            about = _about(engine, event)
            if about is not None:
                asked.setdefault(about[0], {})[about[1]] = None
        return {
            (chain, risk.address): risk
            for chain, addresses in asked.items()
            for risk in self.risks(list(addresses), chain if chain in self.chains else None)
        }

    def tell(self, engine: Engine, event: Event, ahead: Ahead = _NOTHING) -> bool:
        """Tell the log of the address of an event that is about to be decided about; whether.

        Nothing is told of an event that was taken already or will be refused.

        Parameters
        ----------
        ahead
            What `ahead` said of a batch with this event.

        Raises
        ------
        Refusal, InvalidEvent, LogUnavailable
            As `risks` and `Engine.assess`; the event is not to be decided about then.
        """
        about = _about(engine, event)
        if about is None:
            return False
        chain, address = about
        risk = ahead.get(about)
        if risk is None:
            (risk,) = self.risks([address], chain if chain in self.chains else None)
        last = engine.log.latest(SCORED, address)
        told = last if isinstance(last, AddressScored) else None
        if told is None and risk.score is None and risk.label is None:
            return False
        says = (risk.run, risk.score, risk.label or "", risk.band or "")
        if told is not None and says == (told.run, told.score, told.label, told.band):
            return False
        engine.check(event, decide=True)
        # Never an id that the log has: the same may be said again after something else was.
        before = told.id if told is not None else ""
        mark = sha256(msgspec.json.encode((before, address, says))).hexdigest()[:32]
        engine.observe(
            AddressScored(
                id=f"scored-{risk.chain}-{risk.run}-{risk.label or 'none'}-{mark}",
                happened_at=moment(engine.log.known_at()),
                address=address,
                score=risk.score,
                run=risk.run,
                label=risk.label or "",
                band=risk.band or "",
            )
        )
        return True

    def _note(self) -> None:
        """Write into the service's log when a folder is no longer followed, once."""
        for name, one in self.chains.items():
            if one.trouble != self._troubles.get(name, ""):
                self._troubles[name] = one.trouble
                if one.trouble:
                    logger.warning("chain %s goes on with run %s: %s", name, one.run, one.trouble)


def check_address(address: str, *, place: str | None = None) -> None:
    """Raise the `Refusal` of a text that can be no address."""
    if not 1 <= len(address) <= MAX_TEXT:
        raise Refusal(
            400, "invalid_request",
            f"expected an address of 1 to {MAX_TEXT} characters, got {len(address):,}",
            place=place,
        )  # fmt: skip


def refuse_told(event: Event) -> None:
    """Raise the `Refusal` of a client's `AddressScored`: where chains are served, they say so."""
    if isinstance(event, AddressScored):
        raise Refusal(
            400, "invalid_event",
            f"expected a fact, got an `{SCORED}`: these are made here, from the chains that are "
            "served",
        )  # fmt: skip


def _first(told: Sequence[AddressRisk]) -> AddressRisk:
    known = [one for one in told if one.score is not None or one.label is not None]
    return min(known, key=lambda one: one.label != "illicit") if known else told[0]


def _about(engine: Engine, event: Event) -> tuple[str | None, str] | None:
    """The chain and the address that an event names; None if the log need not be told of one."""
    if not _has_address(engine.schema, event):
        return None
    address = getattr(event, _FIELD)
    nobody = getattr(event, "user", None) is None  # about whom nothing is decided
    if address is None or nobody or engine.log.find(event.id) is not None:
        return None
    return getattr(event, "chain", None), address


def _has_address(schema: Schema, event: Event) -> bool:
    field = schema.fields.get(_FIELD)
    return (
        field is not None
        and field.entity == _FIELD
        and _FIELD in schema.fields_of[type_name(event)]
        and not isinstance(event, AddressScored)
    )


def _told(error: Exception) -> str:
    return str(error) if isinstance(error, msgspec.MsgspecError) else "no JSON in UTF-8"

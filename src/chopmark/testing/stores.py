"""The contract of the event log, as code: every implementation must pass `check_store`.

def test_my_log(tmp_path):
    check_store(lambda schema: MyLog(tmp_path / "log", schema))
"""

import threading
from collections.abc import Callable, Sequence
from typing import Annotated

from chopmark.errors import LogUnavailable, StoreError
from chopmark.events.chain import GENESIS, link, verify
from chopmark.events.event import Entity, Event
from chopmark.events.log import EventLog
from chopmark.events.schema import Schema
from chopmark.times import Instant, instant, moment

_START = 1_700_000_000_000_000


class CheckedPurchase(Event):
    """An event with a subject and a text of any length."""

    user: Annotated[str, Entity("user")]
    note: str = ""


class CheckedTick(Event):
    """An event without a subject."""

    count: int = 0


SCHEMA = Schema(CheckedPurchase, CheckedTick)


def check_store(
    open_log: Callable[[Schema], EventLog], *, num_events: int = 2_000, durable: bool = True
) -> None:
    """Raise `AssertionError` where a log does not do what `EventLog` says.

    Parameters
    ----------
    open_log : function of schema to log
        Opens the same store at each call, which is empty at the first one; a log is closed
        before the next is opened.
    num_events : int, >= 100
        Events of the longest check.
    durable : bool
        Whether a closed log is there again when it is opened. A log in memory is not, and is
        held to all the rest.
    """
    log = open_log(SCHEMA)
    try:
        _check_empty(log)
        _check_staging(log)
        _check_refusals(log)
        _check_clock(log)
        _check_latest(log)
        _check_threads(log, num_events=num_events)
        _check_reading(log)
        _check_chain(log)
        kept = [(offset, SCHEMA.encode(event)) for batch in log.read() for offset, event in batch]
        log.append(_purchase("staged-at-close", log))
    finally:
        log.close()
    _check_closed(log)
    if durable:
        _check_opened_again(open_log(SCHEMA), kept)


def _check_opened_again(log: EventLog, kept: Sequence[tuple[int, bytes]]) -> None:
    try:
        found = [pair for batch in log.read_bodies() for pair in batch]
        _expect(found[: len(kept)] == kept, "a log opened again has the same events")
        _expect(len(found) == len(kept) + 1, "close makes durable what is staged")
        _expect(_refuses(log, _purchase("first", log)), "ids are remembered over a restart")
        _expect(log.append(_purchase("after", log)) == len(kept) + 2, "offsets go on")
        _check_latest(log, suffix="-again")
        _check_chain(log)
    finally:
        log.close()


def _check_empty(log: EventLog) -> None:
    _expect(log.last_offset == 0 and len(log) == 0, "a new log is empty")
    _expect(log.last_known_at is None, "a new log has no last_known_at")
    _expect(log.head == GENESIS and list(log.read_records()) == [], "a new log has no records")
    _expect(log.find("first") is None and log.get_body("first") is None, "nothing is found")
    _expect(log.latest("checked_purchase", "ann") is None, "nothing is latest")
    _expect(list(log.read()) == [], "nothing is read")
    _expect(log.sync() == 0, "sync of nothing gives offset 0")
    _expect(log.known_at(Instant(_START)) == _START, "an empty log takes the proposed instant")


def _check_staging(log: EventLog) -> None:
    first, second = _purchase("first", log), _purchase("decision:first", log)
    _expect(log.append(first, second) == 1, "append gives the offset of the group's first")
    _expect(log.find("first") == first, "a staged event is found")
    _expect(log.get_body("first") == SCHEMA.encode(first), "the body is that of schema.encode")
    _expect(log.last_offset == 0, "last_offset counts durable events only")
    _expect(list(log.read()) == [], "staged events are not read")
    _expect(log.sync() == 2 and log.last_offset == 2 == len(log), "sync gives the last offset")
    _expect(log.find("decision:first") == second, "a durable event is found")
    _expect(log.get_body("first") == SCHEMA.encode(first), "a durable body is unchanged")
    _expect(log.recover() == 2, "recover of a healthy log gives the last durable offset")
    third = _purchase("recovered", log)
    log.append(third)
    _expect(log.recover() == 3 == log.last_offset, "recover of a healthy log syncs first")
    read = [pair for batch in log.read(after=2) for pair in batch]
    _expect(read == [(3, third)] and log.sync() == 3, "what recover synced is read, once")
    odd = [_purchase(name, log) for name in ("é", "a b", "'; --", "%", "x" * 128, "🪙")]
    _expect(log.append_encoded([(event, SCHEMA.encode(event)) for event in odd]) == 4, "encoded")
    log.sync()
    _expect(all(log.find(event.id) == event for event in odd), "ids are any text")
    _expect(log.find("X" * 128) is None, "ids differ by case")


def _check_refusals(log: EventLog) -> None:
    before = log.last_offset
    new = _purchase("new", log)
    _expect(_refuses(log, _purchase("first", log)), "a durable id is refused")
    _expect(_refuses(log, new, _purchase("first", log)), "a group with a durable id is refused")
    _expect(log.find("new") is None, "nothing of a refused group is staged")
    _expect(_refuses(log, new, new), "an id twice in a group is refused")
    log.append(new)
    _expect(_refuses(log, _purchase("new", log)), "a staged id is refused")
    unknown = CheckedTick(id="unknown", happened_at=moment(_START))
    _expect(_refuses(log, unknown), "an event without known_at is refused")
    early = CheckedTick(id="early", happened_at=moment(_START), known_at=moment(_START - 1))
    _expect(_refuses(log, early), "an event known before its predecessor is refused")
    _expect(log.sync() == before + 1, "what is refused takes no offset")


def _check_clock(log: EventLog) -> None:
    last = log.last_known_at
    assert last is not None
    _expect(log.known_at(Instant(last - 10)) == last, "a clock that goes back stops the log's")
    _expect(log.known_at(Instant(last + 10)) == last + 10, "a later instant is taken")
    _expect(log.known_at() > last, "without a proposal the clock is asked")
    at = moment(last + 5)
    log.append(CheckedTick(id="tick-a", happened_at=at, known_at=at))
    _expect(log.last_known_at == last + 5, "last_known_at counts staged events")
    log.append(CheckedTick(id="tick-b", happened_at=at, known_at=at, count=1))
    log.sync()


def _check_latest(log: EventLog, *, suffix: str = "") -> None:
    for number in range(3):
        name = f"latest-{number}{suffix}"
        log.append(_purchase(name, log, user="latest"), _purchase(f"other {name}", log))
        found = log.latest("checked_purchase", "latest")
        _expect(found is not None and found.id == name, "latest sees staged events")
        log.sync()
        found = log.latest("checked_purchase", "latest")
        _expect(found is not None and found.id == name, "latest sees durable events")
    _expect(log.latest("checked_tick", "latest") is None, "latest asks for the type")
    _expect(log.latest("checked_purchase", "Latest") is None, "latest asks for the subject")


def _check_threads(log: EventLog, *, num_events: int) -> None:
    """Four threads append pairs while one syncs."""
    before = log.last_offset
    at = moment(log.last_known_at or _START)
    failures: list[BaseException] = []

    def append(thread: int) -> None:
        try:
            for number in range(num_events // 8):
                name = f"thread-{thread}-{number}"
                event = CheckedPurchase(id=name, happened_at=at, known_at=at, user="many")
                answer = CheckedTick(id=f"decision:{name}", happened_at=at, known_at=at)
                log.append(event, answer)
                if log.find(name) is None or log.find(answer.id) is None:
                    raise AssertionError(f"{name} was appended and is not found")
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=append, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        log.sync()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]
    log.sync()
    ids = [event.id for batch in log.read(after=before) for _, event in batch]
    _expect(len(ids) == num_events // 8 * 8 == len(set(ids)), "each event is there once")
    pairs = zip(ids[::2], ids[1::2], strict=True)
    _expect(all(f"decision:{a}" == b for a, b in pairs), "a group stays together")


def _check_reading(log: EventLog) -> None:
    whole = [pair for batch in log.read_bodies() for pair in batch]
    offsets = [offset for offset, _ in whole]
    _expect(offsets == list(range(1, len(log) + 1)), "offsets are 1, 2, 3, ... without holes")
    for batch_size in (1, 7, 10_000):
        batches = list(log.read_bodies(after=5, limit=20, batch_size=batch_size))
        _expect([pair for batch in batches for pair in batch] == whole[5:25], "a part is read")
        _expect(max(map(len, batches)) <= batch_size, "batches are not larger than told")
    _expect(list(log.read(after=len(log))) == [], "beyond the end there is nothing")
    _expect(list(log.read(limit=0)) == [], "limit 0 reads nothing")
    events = [event for batch in log.read() for _, event in batch]
    _expect([SCHEMA.encode(event) for event in events] == [body for _, body in whole], "decoded")
    known = [event.known_at for event in events if event.known_at is not None]
    _expect(known == sorted(known) and len(known) == len(events), "knowledge order is log order")


def _check_chain(log: EventLog) -> None:
    log.sync()
    records = [record for batch in log.read_records(batch_size=7) for record in batch]
    whole = [pair for batch in log.read_bodies() for pair in batch]
    _expect([(record.offset, record.body) for record in records] == whole, "records have bodies")
    previous = GENESIS
    for record, event in zip(records, (e for b in log.read() for _, e in b), strict=True):
        _expect(record.id == event.id.encode(), "a record has the event's id")
        _expect(record.known_at == instant(event.known_at or ""), "and its known_at")
        _expect(record.hash == link(previous, *record[:6]), "hashes are a chain")
        previous = record.hash
    _expect(log.head == previous, "the head is the last record's hash")
    _expect(verify(log.read_records).fault is None, "the chain is verified")
    part = [record for batch in log.read_records(after=5, limit=20) for record in batch]
    _expect(part == records[5:25], "a part of the records is read")
    log.append(_purchase(f"staged-{len(log)}", log))
    _expect(log.head == previous, "the head is of durable records only")
    log.sync()
    _expect(log.head != previous, "each record moves the head")


def _check_closed(log: EventLog) -> None:
    at = moment(2 * _START)
    try:
        log.append(CheckedTick(id="too late", happened_at=at, known_at=at))
    except LogUnavailable:
        return
    raise AssertionError("a closed log refuses to append")


def _purchase(name: str, log: EventLog, *, user: str = "ann") -> CheckedPurchase:
    at = moment(log.last_known_at or _START)
    return CheckedPurchase(id=name, happened_at=at, known_at=at, user=user)


def _refuses(log: EventLog, *events: Event) -> bool:
    try:
        log.append(*events)
    except LogUnavailable:
        raise
    except StoreError:
        return True
    return False


def _expect(holds: bool, promise: str) -> None:
    if not holds:
        raise AssertionError(f"the log broke its contract: {promise}")

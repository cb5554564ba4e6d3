"""The log in memory keeps the contract of the log, save for what a disk is for."""

import pytest

from chopmark.errors import LogUnavailable, StoreError
from chopmark.events import MemoryLog
from chopmark.testing.stores import check_store
from tests.events.worlds import SCHEMA, START, Decision, pair


def test_the_memory_log_keeps_the_contract() -> None:
    check_store(MemoryLog, durable=False)


def test_the_contract_finds_a_log_that_forgets() -> None:
    with pytest.raises(AssertionError, match="opened again"):
        check_store(MemoryLog)


def test_a_closed_log_is_read_but_not_written() -> None:
    with MemoryLog(SCHEMA) as log:
        log.append(*pair("one"))
        log.append(*pair("two", at=START + 1, user="bo"))
    assert [event.id for batch in log.read() for _, event in batch] == [
        "one", "decision:one", "two", "decision:two",
    ]  # fmt: skip
    assert len(log) == log.last_offset == 4
    newest = log.latest("decision", "bo")
    assert isinstance(newest, Decision)
    for act in (lambda: log.append(*pair("three")), log.sync, log.recover):
        with pytest.raises(LogUnavailable, match="closed"):
            act()


def test_what_becomes_durable_while_it_is_read_is_read_too() -> None:
    log = MemoryLog(SCHEMA)
    log.append(*pair("one"))
    log.sync()
    found = []
    for batch in log.read(batch_size=1):
        found += [event.id for _, event in batch]
        if len(found) == 1:
            log.append(*pair("two", at=START + 1))
            log.sync()
            log.append(*pair("staged", at=START + 2))
    assert found == ["one", "decision:one", "two", "decision:two"]
    with pytest.raises(ValueError, match="batch_size >= 1"):
        list(log.read(batch_size=0))


def test_recover_syncs_what_is_staged() -> None:
    log = MemoryLog(SCHEMA)
    log.append(*pair("one"))
    assert log.recover() == 2 == len(log)


def test_the_contract_finds_a_recover_that_leaves_staged_groups() -> None:
    class Leaving(MemoryLog):
        def recover(self) -> int:
            return self._durable

    with pytest.raises(AssertionError, match="recover of a healthy log syncs first"):
        check_store(Leaving, durable=False)


def test_a_refused_group_leaves_nothing() -> None:
    log = MemoryLog(SCHEMA)
    log.append(*pair("one", at=START + 10))
    for bad in (pair("early", at=START), pair("one", at=START + 20)):
        with pytest.raises(StoreError):
            log.append(*pair("new", at=START + 10), *bad)
    assert log.find("new") is None
    assert log.last_known_at == START + 10
    assert log.append(*pair("new", at=START + 10)) == 3
    assert log.sync() == 4
    assert repr(log) == "<MemoryLog of 4 events>"

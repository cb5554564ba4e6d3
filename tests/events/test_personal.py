"""Identifiers become tokens, everywhere, and nothing shows them."""

import os
import pickle
import threading
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chopmark.errors import InvalidEvent, SchemaError, StoreError
from chopmark.events import Event, Identifier, Schema, SqliteLog, Vault
from chopmark.times import moment
from tests.events.worlds import SCHEMA, START, Purchase, Tick, Withdrawal, texts

VAULT = Vault(bytes(range(32)))


def withdrawal(**fields: str) -> Withdrawal:
    when = moment(START)
    return Withdrawal(id="w", happened_at=when, known_at=when, user="ann", **fields)


def test_identifiers_become_tokens_and_others_stay() -> None:
    sealed = VAULT.seal(withdrawal(account="12-34", ssn="078-05-1120"), SCHEMA)
    assert isinstance(sealed, Withdrawal)
    assert sealed.user == "ann"
    assert sealed.paid_card is None
    assert sealed.account == VAULT.token("account", "1234")
    assert sealed.ssn == VAULT.token("ssn", "078051120")
    assert sealed.ssn is not None
    assert len(sealed.ssn) == 36


def test_the_token_is_that_of_hmac_sha_256() -> None:
    import hmac

    said = hmac.digest(bytes(range(32)), b"card\x004111111111111111", "sha256").hex()
    assert VAULT.token("card", "4111 1111-1111.1111") == "tok_" + said[:32]


def test_tokens_are_equal_where_the_identifiers_are() -> None:
    when = moment(START)
    bought = Purchase(id="p", happened_at=when, user="ann", card="4111 1111")
    sealed = VAULT.seal(bought, SCHEMA)
    paid = VAULT.seal(withdrawal(paid_card="41111111", account="41111111"), SCHEMA)
    assert isinstance(sealed, Purchase)
    assert isinstance(paid, Withdrawal)
    assert sealed.card == paid.paid_card, "one kind of entity, whatever the field's name"
    assert paid.account != paid.paid_card, "two kinds never meet"
    assert VAULT.token("card", "1") != Vault(bytes(32)).token("card", "1")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("ab12", "AB 1.2"),
        ("de89 3704\u00a00044", "DE89-3704-0044"),
        ("\uff11\uff12\uff13", "123"),
        ("12\u201334", "1234"),
        ("1\t2", "12"),
        ("straße", "STRASSE"),
    ],
)
def test_writing_styles_do_not_matter(one: str, other: str) -> None:
    assert VAULT.token("account", one) == VAULT.token("account", other)


@given(texts)
def test_sealing_twice_changes_nothing(raw: str) -> None:
    try:
        once = VAULT.seal(withdrawal(ssn=raw), SCHEMA)
    except InvalidEvent:
        assert not raw.strip(" -.").strip() or not any(c.isalnum() for c in raw)
        return
    assert VAULT.seal(once, SCHEMA) is once


def test_events_without_identifiers_are_given_back_as_they_are() -> None:
    tick = Tick(id="t", happened_at=moment(START))
    assert VAULT.seal(tick, SCHEMA) is tick


@pytest.mark.parametrize("raw", ["", "  ", "---", ". -"])
def test_a_blank_identifier_is_no_link(raw: str) -> None:
    with pytest.raises(InvalidEvent, match=r"\$\.ssn"):
        VAULT.seal(withdrawal(ssn=raw), SCHEMA)
    with pytest.raises(InvalidEvent, match="kind `ssn`"):
        VAULT.token("ssn", raw)


def test_the_key_is_never_shown() -> None:
    vault = Vault(b"k" * 32)
    assert "kkk" not in repr(vault) + str(vault) + f"{vault!r:>99}"
    with pytest.raises(TypeError, match="not pickled"):
        pickle.dumps(vault)
    with pytest.raises(ValueError, match="32 bytes, got 3"):
        Vault(b"abc")


class Numbered(Event):
    number: Annotated[int, Identifier()]


class Strange(Event):
    pass


def test_what_cannot_be_sealed_is_refused() -> None:
    numbered = Numbered(id="o", happened_at=moment(START), number=1)
    with pytest.raises(SchemaError, match="must be str"):  # by the schema or by the vault
        VAULT.seal(numbered, Schema(Numbered))
    with pytest.raises(SchemaError, match="Strange"):
        VAULT.seal(Strange(id="s", happened_at=moment(START)), SCHEMA)


def test_a_key_file_is_made_once_and_closed_to_others(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "key"
    made = Vault.open(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == 32
    assert Vault.open(path).token("card", "1") == made.token("card", "1")
    assert [file.name for file in path.parent.iterdir()] == ["key"]


def test_processes_that_start_at_once_get_one_key(tmp_path: Path) -> None:
    tokens: list[str] = []

    def start() -> None:
        tokens.append(Vault.open(tmp_path / "key").token("card", "1"))

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tokens) == 8
    assert len(set(tokens)) == 1


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_key_file_of_another_size_is_refused(tmp_path: Path, size: int) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"s" * size)
    path.chmod(0o600)
    with pytest.raises(StoreError, match="expected 32 bytes") as caught:
        Vault.open(path)
    assert "sss" not in str(caught.value)


@pytest.mark.parametrize("mode", [0o604, 0o606, 0o620, 0o644])
def test_a_key_file_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    Vault.open(path)
    path.chmod(mode)
    with pytest.raises(StoreError, match=f"mode {mode:04o}.*chmod 600"):
        Vault.open(path)


def test_a_key_file_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError):
        Vault.open(tmp_path)


@given(st.sampled_from(["078051120", "4111111111111111"]), st.sampled_from(["ssn", "account"]))
def test_no_file_of_the_log_holds_a_raw_identifier(
    tmp_path_factory: pytest.TempPathFactory, raw: str, field: str
) -> None:
    folder = tmp_path_factory.mktemp("log")
    with SqliteLog(folder / "log.db", SCHEMA) as log:
        log.append(VAULT.seal(withdrawal(**{field: raw}), SCHEMA))
        log.sync()
        held = b"".join(path.read_bytes() for path in folder.iterdir() if path.is_file())
    assert raw.encode() not in held
    assert b"tok_" in held
    assert os.path.exists(folder / "log.db")

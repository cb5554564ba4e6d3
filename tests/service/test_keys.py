"""The ring of API keys."""

from pathlib import Path

import pytest

from chopmark.errors import StoreError
from chopmark.service import KeyRing, open_keys


def admits(ring: KeyRing, key: str) -> bool:
    return ring.admits(f"Bearer {key}".encode())


def test_a_key_opens_until_it_is_revoked(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    ring, first = open_keys(path)
    assert first is not None
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_keys(path)[1] is None
    second = ring.make("second")
    other = KeyRing(path)
    for key in (first, second):
        assert key not in path.read_text()
        assert admits(ring, key)
        assert admits(other, key)
    other.revoke("second")
    ring._look_again = 0.0
    assert not admits(ring, second)
    assert admits(ring, first)


@pytest.mark.parametrize("header", [None, b"", b"Bearer", b"Bearer ", b"Basic abc", b"\xff" * 9])
def test_other_headers_open_nothing(tmp_path: Path, header: bytes | None) -> None:
    ring, _ = open_keys(tmp_path / "keys.json")
    assert not ring.admits(header)


def test_names_are_of_one_key(tmp_path: Path) -> None:
    ring, _ = open_keys(tmp_path / "keys.json")
    with pytest.raises(StoreError, match="expected a new name"):
        ring.make("first")
    with pytest.raises(StoreError, match="expected the name of a key"):
        ring.revoke("nobody")


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"format":2}', b"\xff", b"null"])
def test_a_damaged_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "keys.json"
    path.write_bytes(content)
    path.chmod(0o600)
    with pytest.raises(StoreError, match="damaged"):
        KeyRing(path)


def test_a_file_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    open_keys(path)
    path.chmod(0o644)
    with pytest.raises(StoreError, match="chmod 600"):
        KeyRing(path)


def test_a_file_that_goes_away_leaves_the_keys_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    ring, first = open_keys(path)
    for damage in (path.unlink, lambda: path.write_bytes(b"damaged")):
        damage()
        ring._look_again = 0.0
        assert admits(ring, str(first))
        assert not admits(ring, "chop_other")


def test_a_key_gives_orders_in_its_own_name_if_at_all(tmp_path: Path) -> None:
    ring, first = open_keys(tmp_path / "keys.json")
    assert first is not None
    ring.make("app")
    ann = ring.make("ann", orders=True)
    for seen in (ring, KeyRing(tmp_path / "keys.json")):
        assert seen.holder(f"Bearer {ann}".encode()) == "ann"
        assert seen.may_order("first", "anybody")
        assert seen.may_order("ann", "ann")
        assert seen.may_order("ann", None)
        assert not seen.may_order("ann", "bob")
        assert not seen.may_order("app", "app")
    ring.revoke("ann")
    ring.make("ann")
    assert not ring.may_order("ann", "ann")

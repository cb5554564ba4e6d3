"""Keys from the command line: shown once, listed by what they may do, revoked."""

import pytest

from chopmark.service import KeyRing

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")


def test_a_key_is_made_listed_and_revoked(chopmark, tmp_path):
    code, out, _ = chopmark("keys", "add", tmp_path, "ann", "--orders")
    key = out.split()[-1]
    ring = KeyRing(tmp_path / "keys.json")
    assert (code, ring.holder(f"Bearer {key}".encode())) == (0, "ann")
    assert chopmark("keys", "add", tmp_path, "app")[0] == 0
    code, out, _ = chopmark("keys", "list", tmp_path)
    assert code == 0
    lines = {line.split()[1]: line for line in out.splitlines() if "events" in line}
    assert "events and orders" in lines["ann"]
    assert "orders" not in lines["app"]
    assert key not in out
    assert chopmark("keys", "revoke", tmp_path, "ann")[0] == 0
    code, _, err = chopmark("keys", "revoke", tmp_path, "ann")
    assert (code, "expected the name of a key" in err) == (1, True)
    code, _, err = chopmark("keys", "list", tmp_path / "none")
    assert (code, "expected the folder of a service" in err) == (1, True)

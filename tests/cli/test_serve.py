"""``chopmark serve`` with chains: what is refused before anything starts, and what is served."""

import re
import signal
import subprocess
import sys
import time

import httpx
import pytest

from tests.graph.chains import LISTED, SAFE, add_labels, make_chain

pytestmark = pytest.mark.filterwarnings("ignore:Cyclopts application invoked:UserWarning")


@pytest.fixture
def chain(tmp_path):
    folder = make_chain(tmp_path / "ethereum", {SAFE: 0.01, LISTED: 0.3})
    add_labels(folder, {LISTED: "illicit"}).close()
    return folder


def test_a_chain_that_is_none_is_said_before_the_log_is_opened(chopmark, tmp_path):
    code, out, errors = chopmark("serve", tmp_path / "data", "--chain", tmp_path / "nothing")
    assert code not in (0, None)
    assert "expected a chain" in out + errors
    assert "Traceback" not in out + errors
    assert not (tmp_path / "data" / "log.sqlite").exists()


def test_two_chains_of_one_name_are_refused(chopmark, tmp_path, chain):
    data = tmp_path / "data"
    code, out, errors = chopmark("serve", data, "--chain", chain, "--chain", f"ethereum={chain}")
    assert code not in (0, None)
    assert "different names" in out + errors


def test_an_application_without_the_event_is_told_to_add_it(chopmark, tmp_path, chain):
    (tmp_path / "app.py").write_text(
        "from typing import Annotated\n"
        "from chopmark.decisions import Decision\n"
        "from chopmark.engine import Application\n"
        "from chopmark.events import Entity, Event, Schema, Usd\n"
        "from chopmark.features import Aggregate, Catalog, Label\n"
        "class Purchase(Event):\n"
        "    user: Annotated[str, Entity('user')]\n"
        "    amount_usd: Usd\n"
        "catalog = Catalog(Schema(Purchase, Decision),\n"
        "    Aggregate('decision', 'sum', of='allowed_usd', window='7d'))\n"
        "application = Application(catalog)\n"
        "label = Label(events=('purchase',), where='amount_usd > 5')\n"
    )
    code, out, errors = chopmark(
        "serve", tmp_path / "data", "--app", tmp_path / "app.py", "--chain", chain
    )
    assert code not in (0, None)
    assert "AddressScored" in out + errors


def test_a_chain_is_served_beside_the_exchange(tmp_path, chain):
    told = tmp_path / "told"
    line = "from chopmark.cli import main; main()"
    with told.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-c", line, "serve", str(tmp_path / "data"), "--port=0", "--no-keys",
             f"--chain=main={chain}"],
            stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        for _ in range(600):
            found = re.search(r"serves on (\S+)", told.read_text())
            if found or process.poll() is not None:
                break
            time.sleep(0.05)
        assert found, told.read_text()
        risk = httpx.get(f"{found[1]}/v1/addresses/{LISTED}", timeout=20).json()
        assert (risk["chain"], risk["label"]) == ("main", "illicit")
        assert "/v1/addresses" in httpx.get(f"{found[1]}/schema", timeout=20).json()["paths"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0, told.read_text()
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()

"""Benchmarks are run seldom; that they still start is checked always."""

import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks"
OF_PEERS = {"http_twin.py", "rules_peers.py"}  # run in the environment of the rivals
SCRIPTS = sorted(
    path
    for path in FOLDER.glob("*.py")
    if path.name not in OF_PEERS and "__main__" in path.read_text()
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_benchmark_starts(script):
    done = subprocess.run(
        [sys.executable, str(script), "--help"], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "usage" in done.stdout

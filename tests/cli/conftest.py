"""What the tests of all commands share: a command line in this process, and a data folder."""

import subprocess
import sys

import pytest

from chopmark.cli import main, show


@pytest.fixture
def chopmark(monkeypatch, capsys):
    """Run a command line in this process; exit code, output, errors."""

    def run(*arguments, columns=200):
        monkeypatch.setattr(sys, "argv", ["chopmark", *map(str, arguments)])
        monkeypatch.setenv("COLUMNS", str(columns))
        show.console.width = show.warnings.width = columns
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code or 0
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture(scope="session")
def ingested(tmp_path_factory):
    """A data folder with the events of a simulated exchange; not to be written to."""
    folder = tmp_path_factory.mktemp("ingested")
    line = "from chopmark.cli import main; main()"
    for arguments in (
        ["simulate", "events.jsonl", "--num-users=60", "--days=130", "--fraud-scale=4"],
        ["ingest", "data", "events.jsonl"],
    ):
        subprocess.run(
            [sys.executable, "-c", line, *arguments], cwd=folder, check=True, timeout=120,
            capture_output=True,
        )  # fmt: skip
    return folder / "data"

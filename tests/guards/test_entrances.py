"""The two entrances, the service and the command line: light to import, and helpful."""

import importlib
import importlib.util
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import cyclopts
import pytest

LEARNERS = {"lightgbm", "pandas", "sklearn", "torch"}


def test_the_request_path_imports_no_learner() -> None:
    code = "import sys, json, chopmark.service.app; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    loaded = {name.partition(".")[0] for name in json.loads(done.stdout)}

    assert not loaded & LEARNERS


def application() -> cyclopts.App:
    """The command line's root: the App that chopmark.cli holds."""
    module = importlib.import_module("chopmark.cli")
    apps = [value for value in vars(module).values() if isinstance(value, cyclopts.App)]
    assert apps, "chopmark.cli has a main and no cyclopts.App"
    return next((app for app in apps if "chopmark" in app.name), apps[0])


def commands(app: cyclopts.App, *path: str) -> Iterator[tuple[tuple[str, ...], cyclopts.App]]:
    """Every command below an App with the words that call it."""
    for name in app:
        if not name.startswith("-"):
            yield (*path, name), app[name]
            yield from commands(app[name], *path, name)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    root = application()
    found = dict(commands(root))

    assert found
    assert not [" ".join(words) for words, app in found.items() if not app.help.strip()]
    for words in found:
        root([*words, "--help"], exit_on_error=False, result_action="return_value")
        shown = capsys.readouterr().out
        assert "Usage:" in shown
        assert " ".join(words) in shown


def test_the_installed_command_lists_its_commands() -> None:
    root = application()
    command = Path(sys.executable).with_name("chopmark")
    shown = subprocess.run([command, "--help"], check=True, capture_output=True, text=True).stdout

    assert not [name for name in root if not name.startswith("-") and name not in shown]

"""The files of the repository: no trace of a machine, requirements that are held to their word."""

import os
import re
import shutil
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import urlsplit

import pytest

ROOT = Path(__file__).parents[2]
ROWS = {"A": 21, "B": 16, "C": 16, "D": 12, "E": 20, "F": 13, "G": 32, "H": 16, "I": 16}


class Row(NamedTuple):
    """A line of the tables in docs/requirements.md."""

    id: str
    state: str
    place: str
    proof: str
    figure: str


def rows() -> list[Row]:
    lines = (ROOT / "docs" / "requirements.md").read_text().splitlines()
    cells = [line.strip("|").split("|") for line in lines if re.match(r"\| [A-Z]\d+ \|", line)]
    return [Row(*(cell.strip() for cell in row)) for row in cells]


def paths_in(cell: str) -> list[tuple[str, str]]:
    """The paths that a cell names, each with the test in it that is meant, or "".

    A cell is ``tests/test_engine.py::test_replay, benchmarks/replay.py``; backticks are optional.
    """
    parts = (part.strip(" `()") for part in re.split(r"[,;]|\s+and\s+|\s", cell))
    return [(path, name) for path, _, name in (part.partition("::") for part in parts) if path]


def test_requirements_have_every_row_once() -> None:
    expected = [f"{letter}{n}" for letter, last in ROWS.items() for n in range(1, last + 1)]

    assert len(expected) == 162
    assert [row.id for row in rows()] == expected


def test_every_requirement_is_in_a_known_state() -> None:
    assert not [row.id for row in rows() if row.state not in {"open", "partial", "closed"}]


@pytest.mark.parametrize("row", rows(), ids=lambda row: row.id)
def test_a_requirement_names_proof_that_exists(row: Row) -> None:
    if row.state == "closed":
        assert row.place != "-", "a closed row says where it lives"
        assert row.proof != "-", "a closed row names what proves it"
    if row.proof != "-":
        for path, name in paths_in(row.proof):
            assert (ROOT / path).exists(), f"{path} does not exist"
            if name:
                assert name.partition("[")[0] in (ROOT / path).read_text(), f"no {name} in {path}"


def test_every_row_says_what_it_asks() -> None:
    text = (ROOT / "docs" / "requirements.md").read_text()

    assert Counter(re.findall(r"^- \*\*([A-I]\d+)\*\* \S", text, flags=re.MULTILINE)) == Counter(
        row.id for row in rows()
    )


def committed_files() -> Iterator[tuple[str, str]]:
    """Path and text of every file that is, or is about to be, under version control."""
    if not (ROOT / ".git").exists() or not shutil.which("git"):
        pytest.skip("not a git working tree")
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    )
    for name in filter(None, listed.stdout.split("\0")):
        content = (ROOT / name).read_bytes() if (ROOT / name).is_file() else b"\0"
        if b"\0" not in content[:8192]:
            yield name, content.decode(errors="replace")


def findings(pattern: re.Pattern[str]) -> list[str]:
    """File, line and text of every match in the committed files."""
    return [
        f"{name}:{number}: {match[0]}"
        for name, text in committed_files()
        for number, line in enumerate(text.splitlines(), start=1)
        for match in pattern.finditer(line)
    ]


def machine_paths(*, root: Path, home: Path) -> re.Pattern[str]:
    """What matches an absolute path of this machine, or of anybody's home folder."""
    common = {
        Path(tempfile.gettempdir()),
        *map(Path, ("/", "/opt", "/usr", "/src", "/app", "/var")),
    }
    own = {str(folder) for folder in (root, root.parent, home) if folder not in common}
    homes = [r"/(?:home|Users)/[\w.-]+", r"/[r]oot"]
    choices = "|".join([re.escape(folder) for folder in sorted(own, reverse=True)] + homes)
    return re.compile(rf"(?<![\w.}})/*-])(?:{choices})(?=/|$|[\s\"'`:,;)])")


def registry_addresses() -> re.Pattern[str]:
    """What matches the address of a package registry, public or configured on this machine."""
    variables = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX")
    addresses = " ".join(os.environ.get(variable, "") for variable in variables).split()
    hosts = {urlsplit(address).hostname for address in addresses} - {None, "localhost", "127.0.0.1"}
    public = [
        r"(?:test[.])?pypi[.]org",
        r"pythonhosted[.]org",
        r"registry[.](?:npmjs[.]org|yarnpkg[.]com)",
        r"(?:download|wheels)[.]pytorch[.]org",
        r"(?:conda[.])?anaconda[.]org",
        r"proxy[.]golang[.]org",
    ]
    options = r"--(?:extra-)?index-url[ =]\S+|--find-links[ =]\S+"
    return re.compile("|".join([*public, options, *map(re.escape, sorted(filter(None, hosts)))]))


def test_no_committed_file_holds_a_path_of_a_machine() -> None:
    assert findings(machine_paths(root=ROOT, home=Path.home())) == []


def test_no_committed_file_holds_the_address_of_a_registry() -> None:
    assert findings(registry_addresses()) == []


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("data = '/srv/team/shared/data'", True),
        ("cd /srv/team/clone && make", True),
        ("see " + "/".join(["", "home", "someone", "notes"]), True),
        ("/".join(["", "Users", "someone"]), True),
        ("ran as " + "/".join(["", "root", ".cache"]), True),
        ("GET /v1/home/summary", False),
        ("../shared/data", False),
        ("/srv/teammates", False),
    ],
)
def test_the_guard_knows_the_paths_of_a_machine(line: str, found: bool) -> None:
    pattern = machine_paths(root=Path("/srv/team/clone"), home=Path("/srv/me"))

    assert bool(pattern.search(line)) == found


def test_constraints_pin_every_package_once_per_interpreter_without_addresses() -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pins = [line for line in lines if not line.startswith("#")]

    assert pins
    assert not [pin for pin in pins if not re.fullmatch(r"[\w.-]+==\d+(\.\d+)*( ; .+)?", pin)]


def test_make_offers_every_command_with_one_line_of_help() -> None:
    if not shutil.which("make"):
        pytest.skip("make is not installed")
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
    shown = subprocess.run(
        ["make", "--no-print-directory", "help"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout

    assert targets is not None
    assert {"help", "demo", "test", "check", "bench"} <= set(targets[1].split())
    assert re.findall(r"^  make (\w+) +\S", shown, flags=re.MULTILINE) == targets[1].split()

"""The documents are held to the code: what they show runs, what they name exists."""

import re
import tomllib
from pathlib import Path

import pytest

from chopmark.expressions import FUNCTIONS
from chopmark.rules.texts import TEXT_FUNCTIONS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def python_blocks(page: Path) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", page.read_text(), flags=re.M | re.S)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_of_a_page_runs(page, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {"__name__": "page"}
    for block in python_blocks(page):
        exec(compile(block, page.name, "exec"), names)


def test_the_first_twenty_lines_end_in_a_decision(capsys):
    exec(compile(python_blocks(PAGES[0])[0], "README.md", "exec"), {"__name__": "page"})
    shown = capsys.readouterr().out
    assert re.search(r"score=0\.\d+", shown)
    assert "limit_usd=" in shown
    assert "9000" not in shown.replace("9000.", "")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_a_page_names_exist(page):
    text = page.read_text()
    named = re.findall(r"\]\((?!http|#)([^)#]+)\)", text)
    named += re.findall(r"`((?:src|tests|recipes|benchmarks|docs)/[\w/.-]+\.\w+)`", text)
    for name in named:
        found = [(page.parent / name).exists(), (ROOT / name).exists()]
        assert any(found), f"{page.name} names {name}, which does not exist"


def test_the_layers_of_the_design_are_those_that_are_checked():
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    layers = next(one["layers"] for one in contracts["contracts"] if one["type"] == "layers")
    box = re.search(r"^## Where the module layers are\n.*?^```\n(.*?)^```",
                    (ROOT / "docs" / "design.md").read_text(), flags=re.M | re.S)  # fmt: skip
    assert box is not None
    assert box[1].splitlines() == [layer.strip("()") for layer in layers]


@pytest.mark.parametrize("name", [*FUNCTIONS, *TEXT_FUNCTIONS])
def test_every_function_of_a_rule_has_its_row_and_is_tried(name):
    page = (ROOT / "docs" / "rules.md").read_text()
    rows = "".join(line for line in page.splitlines() if line.startswith("| `"))
    assert f"`{name}(" in rows
    assert any(f"{name}(" in block for block in python_blocks(ROOT / "docs" / "rules.md"))

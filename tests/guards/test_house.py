"""The source keeps the house's rules: all that is public is documented, no foreign text is run."""

import ast
import importlib
import inspect
import re
import types
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src"
MODULES = sorted(SOURCE.rglob("*.py"))
PACKAGES = [path for path in MODULES if path.name == "__init__.py" and path.parent.parent != SOURCE]

UNSAFE_MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
UNSAFE_CALLS = {"eval", "exec"}


def of_path(path: Path) -> str:
    return str(path.relative_to(ROOT))


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(), filename=str(path))


def public_definitions(
    body: list[ast.stmt],
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef]:
    """The functions and classes of a body whose name does not open with an underscore."""
    for node in body:
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef
        if isinstance(node, kinds) and not node.name.startswith("_"):
            yield node


@cache
def contract_methods() -> frozenset[str]:
    """Names of the methods that a Protocol documents; who implements one need not repeat it."""
    protocols = (
        node
        for path in MODULES
        for node in public_definitions(tree(path).body)
        if isinstance(node, ast.ClassDef)
        and any("Protocol" in ast.unparse(base) for base in node.bases)
    )
    return frozenset(
        method.name
        for protocol in protocols
        for method in public_definitions(protocol.body)
        if ast.get_docstring(method)
    )


def undocumented(path: Path) -> Iterator[str]:
    """Places of the public names of a module that lack a docstring."""
    module = tree(path)
    if not ast.get_docstring(module):
        yield f"{of_path(path)}:1: the module"
    for node in public_definitions(module.body):
        if not ast.get_docstring(node):
            yield f"{of_path(path)}:{node.lineno}: {node.name}"
        if isinstance(node, ast.ClassDef):
            for method in public_definitions(node.body):
                names = {ast.unparse(decorator) for decorator in method.decorator_list}
                if names & {"overload", "override"} or any(n.endswith(".setter") for n in names):
                    continue
                if not ast.get_docstring(method) and method.name not in contract_methods():
                    yield f"{of_path(path)}:{method.lineno}: {node.name}.{method.name}"


def dangers(path: Path) -> Iterator[str]:
    """Places of a module that could run text or bytes from outside as code."""
    for node in ast.walk(tree(path)):
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in UNSAFE_CALLS:
                yield f"{of_path(path)}:{node.lineno}: {name}"
            case ast.Attribute(value=ast.Name(id="builtins"), attr=name) if name in UNSAFE_CALLS:
                yield f"{of_path(path)}:{node.lineno}: builtins.{name}"
            case ast.Import(names=names):
                for alias in names:
                    if alias.name.partition(".")[0] in UNSAFE_MODULES:
                        yield f"{of_path(path)}:{node.lineno}: import {alias.name}"
            case ast.ImportFrom(module=str(name), level=0):
                if name.partition(".")[0] in UNSAFE_MODULES:
                    yield f"{of_path(path)}:{node.lineno}: from {name} import"
            case ast.keyword(arg="allow_pickle", value=value):
                if not (isinstance(value, ast.Constant) and value.value is False):
                    yield f"{of_path(path)}:{node.value.lineno}: allow_pickle"


@pytest.mark.parametrize("path", MODULES, ids=of_path)
def test_every_public_name_has_a_docstring(path: Path) -> None:
    assert list(undocumented(path)) == []


@pytest.mark.parametrize("path", PACKAGES, ids=of_path)
def test_every_package_says_what_it_is_in_four_lines(path: Path) -> None:
    lines = [line for line in (ast.get_docstring(tree(path)) or "").splitlines() if line.strip()]

    assert len(lines) >= 4, "what it is, what comes in, what goes out, which rows it serves"


@pytest.mark.parametrize("path", PACKAGES, ids=of_path)
def test_every_name_that_a_package_offers_exists_and_is_documented(path: Path) -> None:
    name = ".".join(path.parent.relative_to(SOURCE).parts)
    package = importlib.import_module(name)

    for public in getattr(package, "__all__", ()):
        offered = getattr(package, public)
        if isinstance(offered, type | types.FunctionType):
            assert inspect.getdoc(offered), f"{name}.{public}"


@pytest.mark.parametrize("path", MODULES, ids=of_path)
def test_no_module_runs_text_or_unpickles(path: Path) -> None:
    assert list(dangers(path)) == []


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "exec(text)",
        "import builtins\nbuiltins.eval('1')",
        "import pickle",
        "import joblib.memory",
        "from pickle import loads",
        "numpy.load(path, allow_pickle=True)",
    ],
)
def test_the_guard_sees_what_it_forbids(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    (tmp_path / "module.py").write_text(code)

    assert len(list(dangers(tmp_path / "module.py"))) == 1


def test_no_note_to_self_is_left_in_the_code() -> None:
    note = re.compile(r"\b(TO[D]O|FIX[M]E|XX[X])\b")
    found = [
        f"{of_path(path)}:{number}"
        for folder in ("src", "tests", "recipes", "benchmarks", "scripts")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if note.search(line)
    ]

    assert not found

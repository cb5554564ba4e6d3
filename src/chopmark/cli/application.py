"""Finds the application that a command is to run: a Python file of one's own, or the demo's."""

import importlib.util
from pathlib import Path
from types import ModuleType

from chopmark.engine import Application
from chopmark.errors import InvalidInput
from chopmark.features import Label


def load_application(source: str | None) -> tuple[Application, Label]:
    """The application and the label of ``FILE.py``; of the simulated exchange if None.

    The file defines ``application`` (an `Application`) and ``label`` (a `Label`).

    Raises
    ------
    InvalidInput
        If there is no such file, or it lacks one of the two.
    """
    if source is None:
        from chopmark.pipelines import exchange

        return exchange.application(), exchange.LABEL
    return application_of(load_recipe(source), source)


def application_of(module: ModuleType, source: str) -> tuple[Application, Label]:
    """The application and the label of a module that was loaded from ``source``."""
    application = getattr(module, "application", None)
    label = getattr(module, "label", None)
    if not isinstance(application, Application) or not isinstance(label, Label):
        raise InvalidInput(
            f"expected `application = Application(...)` and `label = Label(...)` in {source}, "
            f"got {type(application).__name__} and {type(label).__name__}"
        )
    return application, label


def load_recipe(source: str) -> ModuleType:
    """The module of a Python file."""
    path = Path(source)
    if path.suffix != ".py" or not path.is_file():
        raise InvalidInput(f"expected the path of a Python file with an application, got {source}")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        raise InvalidInput(
            f"expected Python in {source}, got {error.msg} in line {error.lineno}"
        ) from error
    return module

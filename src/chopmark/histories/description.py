"""The description of a folder: JSON that says what it is, in which version, and what to expect.

    about = read_description(folder / "about.json", format="chopmark-graph", version=1, ...)

Histories, graphs, shards, ledgers, books of addresses and models of walks are folders with one.
Serves rows B1 and H5.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from chopmark.errors import StoreError


def read_description(
    path: Path,
    *,
    format: str,
    version: int,
    what: str,
    make: str,
    again: str,
    damaged: Callable[[Path, str], StoreError],
    folder: Path | None = None,
) -> dict[str, Any]:
    """The description in a file, if it is one of this format and version.

    Its other entries are for the caller to check.

    Parameters
    ----------
    what
        That the folder holds, as in "a graph".
    make
        How one comes to be, as in "make one with `Graph.save`".
    again
        What to do about another version, as in "update chopmark, or build it again".
    damaged
        Makes the error of a folder that cannot be read, of it and what is wrong.
    folder
        That errors name; None: where the file is.

    Raises
    ------
    StoreError
        If the file is missing, is no such description, or one of another version.
    """
    folder = path.parent if folder is None else folder
    try:
        about = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(
            f"expected a folder of {what} at `{folder}`, but it has no `{path.name}`; {make}"
        ) from error
    except (OSError, ValueError, RecursionError) as error:
        raise damaged(folder, f"`{path.name}` cannot be read ({error})") from error
    if not isinstance(about, dict) or about.get("format") != format:
        raise StoreError(f"expected `{path.name}` of format `{format}` in `{folder}`, got another")
    if about.get("version") != version:
        raise StoreError(
            f"expected {what} of version {version} in `{folder}`, got {about.get('version')!r}; "
            f"{again}"
        )
    return about

"""Paths as they are given on a command line. An empty one is a mistake, mostly of a variable that is not set.

Left to itself, an empty path is the current directory, which is hardly ever what was meant.
"""

from __future__ import annotations

from pathlib import Path

import typer


def given_path(text: str | Path) -> Path:
    """A path that was given.

    Raises:
        typer.BadParameter: It is empty.
    """
    if not str(text) or (isinstance(text, str) and not text.strip("\0")):
        raise typer.BadParameter("the path is empty")
    return Path(text)

"""Checks paths of the command line. An empty one is a mistake, mostly a variable that is not set.

Python takes an empty path as the current directory, which is hardly ever what was meant.
"""

from __future__ import annotations

from pathlib import Path

import typer


def given_path(text: str | Path) -> Path:
    """The path of an argument or option.

    Raises:
        typer.BadParameter: The path is empty.
    """
    if not str(text) or (isinstance(text, str) and not text.strip("\0")):
        raise typer.BadParameter("the path is empty")
    return Path(text)

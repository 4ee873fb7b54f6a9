"""Errors that nothing in a process has caught: what its log tells of them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

UNCAUGHT = ("was never retrieved", "Exception in callback", "Task was destroyed", "was never awaited")
"""What asyncio says of such an error."""


def uncaught_in(logs: Iterable[Path]) -> list[str]:
    """The lines of logs that tell of errors which nothing has caught."""
    return [
        f"{path.name}: {line[:500]}"
        for path in logs
        for line in path.read_text(errors="replace").splitlines()
        if any(words in line for words in UNCAUGHT)
    ]

"""Requests that are held back while leadership moves. Several may want that at once; each ends its own, once only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Self


class Hold:
    """Holds requests back, from its making to its release; a second release does nothing."""

    def __init__(self, holds: set[Hold], on_released: Callable[[], None]) -> None:
        """Begins the hold, and adds it to ``holds``; ``on_released`` is called when it ends."""
        self._holds = holds
        self._on_released = on_released
        holds.add(self)

    def release(self) -> None:
        """Ends the hold."""
        if self in self._holds:
            self._holds.remove(self)
            self._on_released()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

"""For how long applying waits for flushes and compactions.

Must not know why the engine stands still. Invariant: each time that begins is told, and so is its end.
"""

from __future__ import annotations

from collections.abc import Callable

from raft_node.raft.ready import Event


class Stalls:
    """Measures for how long the engine holds applying up."""

    def __init__(self, now_s: Callable[[], float], on_event: Callable[[Event], None]) -> None:
        """Begins without a stall.

        Args:
            now_s: The loop's clock.
            on_event: Takes an event when a stall begins and when it ends.
        """
        self._now_s = now_s
        self._on_event = on_event
        self._since_s: float | None = None
        self._past_s = 0.0

    @property
    def present_s(self) -> float:
        """For how long the present stall has lasted; 0 when there is none."""
        return 0.0 if self._since_s is None else self._now_s() - self._since_s

    @property
    def total_s(self) -> float:
        """For how long all stalls since the start have lasted together."""
        return self._past_s + self.present_s

    def note(self, stalled: bool, applied_index: int) -> None:
        """Notes whether the engine holds applying up now."""
        if stalled == (self._since_s is not None):
            return
        if self._since_s is None:
            self._since_s = self._now_s()
            self._on_event(Event("stall_began", {"applied": applied_index}))
            return
        duration_s = self.present_s
        self._past_s += duration_s
        self._since_s = None
        self._on_event(Event("stall_ended", {"duration_ms": round(duration_s * 1000), "applied": applied_index}))

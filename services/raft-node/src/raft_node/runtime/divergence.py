"""Has replicas compare what they hold, now and then, and tells when one differs (docs/adr/0004-state-divergence.md).

The leader proposes a mark (``raft_node.kv.state_hash``) whenever enough entries were applied since the last one. Every
replica compares when it applies the next. Nothing is stopped: a comparison tells that two differ, not who is right.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from raft_node.entry import EntryKind
from raft_node.kv.state_hash import Divergence, Mark
from raft_node.observability.logs import get_logger
from raft_node.observability.metrics import Metrics
from raft_node.raft.types import Role
from raft_node.runtime.events import Recorder

_log = get_logger()


class MarkedMachine(Protocol):
    """The state machine as this module sees it."""

    mark: Mark
    divergences: list[Divergence]


class StateMarks:
    """Proposes the marks at which replicas compare their states, and reports differences that were found."""

    def __init__(
        self,
        every: int,
        standing: Callable[[], tuple[Role, int, int, MarkedMachine]],
        propose: Callable[[EntryKind, bytes], bool],
        metrics: Metrics,
        record: Recorder,
    ) -> None:
        """Builds it. Requires: a running event loop.

        Args:
            every: How many entries lie between two marks; 0 for no marks.
            standing: Gives the role, the term, the applied index and the state machine of this node.
            propose: Proposes an entry; returns whether it was proposed.
            metrics: The metrics in which differences are counted.
            record: Notes each difference in the timeline.
        """
        self._every = every
        self._standing = standing
        self._propose = propose
        self._metrics = metrics
        self._record = record
        self._loop = asyncio.get_running_loop()
        self._proposed = (0, -1)
        """The term and the last mark of the newest proposal: a mark is proposed once in a term."""

    def look(self) -> None:
        """Proposes a mark if one is due, and reports new differences; called after entries were applied."""
        role, term, applied, machine = self._standing()
        if machine.divergences:
            found, machine.divergences = machine.divergences, []
            for divergence in found:
                self._tell(divergence)
        due = self._every and applied - machine.mark.at >= self._every
        if due and role is Role.LEADER and self._proposed != (term, machine.mark.at):
            self._proposed = (term, machine.mark.at)
            # Not now: the core is just handing out committed entries.
            self._loop.call_soon(self._set, machine)

    def _tell(self, found: Divergence) -> None:
        self._metrics.state_divergence.inc()
        details = {"index": found.at, "own": f"{found.own:016x}", "leader": f"{found.leader:016x}"}
        _log.error("state.diverged", **details)
        self._record("state_diverged", **details)

    def _set(self, machine: MarkedMachine) -> None:
        if not self._propose(EntryKind.STATE_HASH, machine.mark.encode()):
            # Too many proposals wait, or leadership is moving: it is tried again after the next entries.
            self._proposed = (0, -1)

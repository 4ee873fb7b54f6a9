"""Reads the log files of the children, and picks the lines that are printed on the console.

A child writes to its own file, not into a pipe to the supervisor: a supervisor that is stopped or dead can then never
make a node wait in the middle of a write. The files are bounded. The console shows leader changes and warnings, each
kind of warning at most once in ``QUIET_S`` per child.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

LOG_BYTES_MAX = 16 << 20
QUIET_S = 10.0
_READ_BYTES_MAX = 1 << 20
_LINE_BYTES_MAX = 64 << 10
_LOUD = {"warning", "error", "critical"}
_LEADER_EVENT = "raft.became_leader"
# The supervisor prints the first two itself, together with its reaction. The last one is what somebody just asked for,
# and is loud only so that no level of logging leaves it out.
_UNSAID_EVENTS = {"node.refused", "facade.refused", "operator.acted"}
# The prefix of the line tells these already, or they only matter to programs.
_HIDDEN = {"event", "level", "timestamp", "logger", "node", "node_id", "shard", "shard_id", "facade_id", "exception"}


class LogFile:
    """The file that one child logs to, followed by the supervisor."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last_line = ""
        self._offset = 0
        self._partial = b""

    def rotate(self) -> None:
        """Renames the log of an earlier start, once, before the child starts."""
        with contextlib.suppress(OSError):
            # Logs are no condition for a start: a file that cannot be renamed is appended to.
            if self.path.stat().st_size:
                self.path.replace(self._old)
        self._offset = 0

    def read_lines(self) -> list[str]:
        """The complete lines that were added since the last call, at most one megabyte."""
        try:
            with self.path.open("rb") as stream:
                stream.seek(self._offset)
                fresh = stream.read(_READ_BYTES_MAX)
        except OSError:
            # The file does not exist yet, or cannot be read: the child goes on, and its lines are not shown.
            return []
        self._offset += len(fresh)
        *lines, self._partial = (self._partial + fresh).split(b"\n")
        self._partial = self._partial[-_LINE_BYTES_MAX:]
        self._bound()
        texts = [line.decode(errors="replace").rstrip("\r") for line in lines]
        self.last_line = next((text for text in reversed(texts) if text.strip()), self.last_line)
        return texts

    def last_words(self) -> str:
        """The last line of a child that has ended, even without a newline; of a JSON line the message."""
        self.read_lines()
        line = self._partial.decode(errors="replace").strip() or self.last_line.strip()
        event = _parse(line)
        if event is None:
            return line
        return str(event.get("reason") or event.get("error") or _plain(event))

    def _bound(self) -> None:
        """Keeps a copy and empties the file once it is too long. The child appends, so it goes on at the new end."""
        if self._offset <= LOG_BYTES_MAX or self.path.stat().st_size != self._offset:
            return
        try:
            shutil.copyfile(self.path, self._old)
        except OSError:
            # The disk is full: the unfinished copy is removed, since the space is needed.
            self._old.unlink(missing_ok=True)
        with self.path.open("r+b") as stream:
            stream.truncate(0)
        self._offset = 0

    @property
    def _old(self) -> Path:
        return self.path.with_name(self.path.name + ".1")


class Console:
    """Decides which lines of the children are shown, and how.

    Args:
        say: Prints one line.
        clock: Monotonic seconds.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float]) -> None:
        self._say = say
        self._clock = clock
        self._shown: dict[tuple[str, str], tuple[float, int]] = {}

    def show(self, child: str, line: str) -> None:
        """Shows a line of a child if it is a leader change or a warning."""
        event = _parse(line)
        if event is None:
            # The line is none of our events but part of a traceback, of which the supervisor repeats the last line.
            return
        if event.get("event") == _LEADER_EVENT:
            self._say(f"{child}: leader of its shard since term {event.get('term', '?')}")
        elif event.get("event") not in _UNSAID_EVENTS and str(event.get("level", "")).lower() in _LOUD:
            self._show_warning(child, event)

    def _show_warning(self, child: str, event: dict[str, Any]) -> None:
        kind, now = (child, str(event.get("event"))), self._clock()
        since, suppressed = self._shown.get(kind, (now - QUIET_S, 0))
        if now - since < QUIET_S:
            self._shown[kind] = (since, suppressed + 1)
            return
        self._shown[kind] = (now, 0)
        again = f" ({suppressed} more like it before)" if suppressed else ""
        self._say(f"{child}: {event['level']}: {_plain(event)}{again}")


def _parse(line: str) -> dict[str, Any] | None:
    if not line.startswith("{"):
        return None
    try:
        event = json.loads(line)
    except ValueError:
        return None
    return event if isinstance(event, dict) else None


def _plain(event: dict[str, Any]) -> str:
    fields = " ".join(f"{name}={value}" for name, value in event.items() if name not in _HIDDEN)
    return f"{event.get('event', '')} {fields}".strip()

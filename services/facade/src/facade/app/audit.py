"""The audit log: what was refused, what operators did, and what was changed about users, as lines of JSON.

It says who, what, from where, which request, and what came of it. It never holds a value or a token. Must not know why
something is refused. Invariants:

1. However much there is to tell, it is bounded in lines a second; what is left out is counted, and the next line of the
   same event says how much it was.
2. Each event has a bound of its own: nobody who may do nothing else has lines of operators and changes left out.

Source: docs/auth.md, Audit log; OWASP, logging.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, MutableMapping, Sequence
from typing import Any, BinaryIO
from urllib.parse import quote_from_bytes

import orjson
import structlog
from prometheus_client import CollectorRegistry, Counter

from doug_wire.auth.grants import KeyRange, Target, Verb
from facade.client.access import NOBODY, Caller
from facade.errors import ProblemError, SettingsError
from facade.routes.raw import SCOPE_ASKED, request_id_of
from facade.settings import PREFIX

LINES_PER_S = 100.0
BURST = 1000.0
EVENTS = ("refused", "limited", "admin", "auth", "session")
KEY_CHARACTERS_MAX = 256
METHOD_CHARACTERS_MAX = 32
MAY_MAX = 32
"""How many grants and roles of one token or role a line tells of."""

log = structlog.get_logger()


def _shown(key: bytes) -> str:
    return quote_from_bytes(key, safe="/:{}@")[:KEY_CHARACTERS_MAX]


class _Room:
    """The room for lines of one kind of event.

    Attributes:
        left_out: The number of lines that were left out since the last one.
    """

    def __init__(self, now_s: float) -> None:
        self._lines = BURST
        self._looked_s = now_s
        self.left_out = 0

    def take(self, now_s: float) -> bool:
        """Takes room for a line; returns whether there was any."""
        self._lines = min(BURST, self._lines + max(0.0, now_s - self._looked_s) * LINES_PER_S)
        self._looked_s = now_s
        if self._lines < 1:
            self.left_out += 1
            return False
        self._lines -= 1
        return True


class Audit:
    """Writes the audit log, a line for each event."""

    def __init__(self, path: str, registry: CollectorRegistry, clock: Callable[[], float] = time.time) -> None:
        """Opens the file for appending; without a path the lines go to the facade's log.

        Raises:
            SettingsError: The file cannot be written to.
        """
        self._file: BinaryIO | None = None
        if path:
            try:
                # Private from its first moment: whoever has opened a file keeps on reading it.
                descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
                self._file = os.fdopen(descriptor, "ab", buffering=0)
                os.fchmod(descriptor, 0o600)
            except OSError as error:
                raise SettingsError(f"{PREFIX}AUDIT_FILE", f"{path}: {error.strerror}") from error
        self._clock = clock
        self._rooms = {event: _Room(clock()) for event in EVENTS}
        self._lines = Counter("dougdb_facade_audit_lines", "Lines of the audit log", ("event",), registry=registry)
        for event in EVENTS:
            self._lines.labels(event)
        self._dropped = Counter(
            "dougdb_facade_audit_dropped", "Lines that the audit log has left out", registry=registry
        )

    def refused(self, caller: Caller, verb: Verb, target: Target) -> None:
        """Notes that a request was refused because its sender has not the right."""
        fields: dict[str, object] = {"verb": verb.value, "outcome": "forbidden"}
        if isinstance(target, KeyRange):
            fields |= {"start": _shown(target.start), "end": _shown(target.end)}
        elif target is not None:
            fields["key"] = _shown(target)
        else:
            fields["path"] = caller.path[:KEY_CHARACTERS_MAX]
        self._tell("refused", caller, fields)

    def unknown(self, caller: Caller, reason: str) -> None:
        """Notes that a request was refused because its sender is not known."""
        path = caller.path[:KEY_CHARACTERS_MAX]
        self._tell("refused", caller, {"path": path, "outcome": "unauthenticated", "reason": reason})

    def turned_away(self, scope: MutableMapping[str, Any], error: ProblemError) -> None:
        """Notes that a request was refused before anybody asked who sent it: for its host, or the page behind it."""
        address = scope["client"][0] if scope.get("client") else ""
        caller = NOBODY._replace(
            request_id=request_id_of(scope).decode(), address=address, method=scope["method"][:METHOD_CHARACTERS_MAX]
        )
        fields = {"path": _shown(scope["raw_path"]), "outcome": error.code, "reason": error.detail}
        self._tell("refused", caller, fields)

    def limited(self, limit: str, client: str, times: int) -> None:
        """Notes that requests of a client, or its connections, were refused because it asks for more than its part.

        Args:
            limit: Which limit it is.
            client: The principal, or the address.
            times: How many were refused since this was noted of the client before.
        """
        fields = {"client": client[:KEY_CHARACTERS_MAX], "limit": limit, "times": times}
        self._tell("limited", NOBODY, {**fields, "outcome": "too_many_requests"})

    def acted(self, caller: Caller, scope: Mapping[str, Any], status: int) -> None:
        """Notes what an operator did, or tried to do: the path, and what the route says that it is asked for."""
        fields: dict[str, object] = {"path": scope["path"][:KEY_CHARACTERS_MAX]}
        asked: Mapping[str, str] = scope.get(SCOPE_ASKED, {})
        if told := {name: value[:KEY_CHARACTERS_MAX] for name, value in asked.items() if value}:
            fields["asked"] = told
        self._tell("admin", caller, {**fields, "outcome": str(status)})

    def changed(self, caller: Caller, what: str, name: str, may: Sequence[str] = ()) -> None:
        """Notes that a role, a user or a token was changed.

        Args:
            caller: Who has changed it.
            what: What was done.
            name: To what.
            may: The grants and roles that it has from now on: once a token is gone nothing else tells of them.
        """
        fields: dict[str, object] = {"action": what, "name": name[:KEY_CHARACTERS_MAX]}
        if may:
            fields["may"] = [each[:KEY_CHARACTERS_MAX] for each in may[:MAY_MAX]]
        if len(may) > MAY_MAX:
            fields["may_also"] = len(may) - MAY_MAX
        self._tell("auth", caller, {**fields, "outcome": "done"})

    def signed(self, caller: Caller, what: str, name: str) -> None:
        """Somebody signed in or out: anybody with a token may, as often as they like."""
        self._tell("session", caller, {"action": what, "name": name[:KEY_CHARACTERS_MAX], "outcome": "done"})

    def close(self) -> None:
        """Closes the file. Requires: nothing is noted afterwards."""
        if self._file is not None:
            self._file.close()

    def _tell(self, event: str, caller: Caller, fields: Mapping[str, object]) -> None:
        now_s = self._clock()
        room = self._rooms[event]
        if not room.take(now_s):
            self._dropped.inc()
            return
        self._lines.labels(event).inc()
        line: dict[str, object] = {
            "time": int(now_s * 1000),
            "event": event,
            "principal": caller.access.name,
            "address": caller.address,
            "request_id": caller.request_id,
            "method": caller.method,
            "route": caller.route,
            **fields,
        }
        if room.left_out:
            line["left_out"], room.left_out = room.left_out, 0
        if self._file is None:
            log.info("audit", **{("audited" if name == "event" else name): value for name, value in line.items()})
            return
        try:
            self._file.write(orjson.dumps(line) + b"\n")
        except OSError as error:
            self._dropped.inc()
            log.error("audit.not_written", reason=str(error))

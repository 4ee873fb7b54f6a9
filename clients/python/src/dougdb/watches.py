"""Watches: what is asked for, and how the lines of a stream are read. Pure functions, no network."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from dougdb import checks
from dougdb.answers import error_of_problem
from dougdb.calls import Call
from dougdb.checks import OCTET_STREAM, Bytes
from dougdb.errors import HistoryGoneError, InvalidArgumentError, ServerError
from dougdb.operations import bytes_fields, bytes_of, key_fields, key_of
from dougdb.ranges import Range
from dougdb.shapes import time_of

KINDS = ("put", "delete", "expire")
NOW, START = "now", "start"
PROGRESS = "progress"
_LINES = {"Accept": "application/x-ndjson"}


@dataclass(frozen=True, slots=True)
class Change:
    """A change of a key.

    Attributes:
        kind: ``put``, ``delete`` or ``expire``; ``progress`` is no change, and tells that all changes up to it were
            sent.
        id: The id behind which a watch can go on, at any facade; empty for keys that were there at the beginning.
        key: The key.
        revision: The revision that the change made.
        shard: The shard of the key.
        data: The value of a put; empty if no values were asked for.
        content_type: The content type of a put.
        content_encoding: The content encoding of a put; None if it has none.
        expires_at: When the value of a put expires; None for never.
    """

    kind: str
    id: str
    key: bytes = b""
    revision: str = ""
    shard: str = ""
    data: bytes = b""
    content_type: str = OCTET_STREAM
    content_encoding: str | None = None
    expires_at: datetime | None = None

    @property
    def text(self) -> str:
        """The key as text; bytes that are no UTF-8 are shown escaped."""
        return self.key.decode(errors="backslashreplace")


def watch(
    *,
    key: str | Bytes | None,
    prefix: str | Bytes | None,
    start: str | Bytes | None,
    end: str | Bytes | None,
    begin: str,
    kinds: Collection[str],
    values: bool,
) -> Call[None]:
    """The changes of a key or a range as a stream of lines; ``change_of_line`` reads them.

    Raises:
        InvalidArgumentError: The arguments make no sense.
    """
    if key is not None:
        if not (prefix is None and start is None and end is None):
            raise InvalidArgumentError("a watch has a key, or a range")
        params = key_fields(key)
    else:
        found = Range.of(prefix, start, end)
        params = bytes_fields(checks.key_bytes(prefix), "prefix") if prefix else found.params()
    strange = set(kinds) - set(KINDS)
    if strange or not kinds:
        raise InvalidArgumentError(f"kinds are some of {', '.join(KINDS)}, not {', '.join(sorted(strange)) or 'none'}")
    params["from"] = begin
    if set(kinds) != set(KINDS):
        params["events"] = ",".join(kind for kind in KINDS if kind in kinds)
    if not values:
        params["values"] = "false"
    return Call("GET", "/v1/watch", lambda answer: None, params, _LINES)


def change_of_line(line: bytes) -> Change:
    """Reads a line of a stream.

    Raises:
        HistoryGoneError: The changes that follow are not held any more.
        RejectedError: The client may not watch this any more.
        ServerError: The line is something else.
    """
    try:
        document = json.loads(line)
        event, data = str(document["event"]), document["data"]
        if event == "resync":
            oldest = data["oldest"]
            raise HistoryGoneError(f"shard {data['shard']} holds only the changes behind its revision {oldest} now")
        if event == "refused":
            raise error_of_problem(int(data["status"]), data, write=False)
        if event == PROGRESS:
            # Without an id while no watch could go on behind it: what was there at the beginning is of several moments.
            return Change(PROGRESS, str(document.get("id", "")))
        return Change(
            event,
            str(document.get("id", "")),
            key_of(data),
            str(data["revision"]),
            str(data["shard"]),
            bytes_of(data) if "value" in data else b"",
            str(data.get("content_type") or OCTET_STREAM),
            data.get("content_encoding"),
            time_of(data.get("expires_at")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(200, f"not an event of a watch: {error!r}") from None

"""Ranges of keys: what is asked for, what is left of it behind a key, and how entries are read. Pure functions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, NamedTuple

from dougdb import checks
from dougdb.answers import Answer, error_of_problem
from dougdb.calls import JSON, Call
from dougdb.checks import KEY_BYTES_MAX, OCTET_STREAM, Bytes
from dougdb.errors import InvalidArgumentError, ServerError, UnavailableError
from dougdb.operations import bytes_fields, bytes_of, key_of, value_fields
from dougdb.shapes import Consistency, consistency_params, shown_time, time_of

STEP_LIMIT = 10_000
"""The number of keys that one step of a deletion removes."""
_LINES = {"Accept": "application/x-ndjson"}


@dataclass(frozen=True, slots=True)
class Entry:
    """A key with its value.

    Attributes:
        key: The key's bytes.
        data: The value; empty if only keys were asked for.
        revision: The value's revision.
        content_type: The content type, which was stored with the value.
        content_encoding: The content encoding, which was stored with the value; None if it has none.
        expires_at: When the key expires; None for never.
    """

    key: bytes
    data: bytes
    revision: str
    content_type: str = OCTET_STREAM
    content_encoding: str | None = None
    expires_at: datetime | None = None

    @property
    def text(self) -> str:
        """The key as text; bytes that are no UTF-8 are shown escaped."""
        return self.key.decode(errors="backslashreplace")


@dataclass(frozen=True, slots=True)
class Page:
    """One page of a range: one point in the log of each shard.

    Attributes:
        items: The entries, in the order of their keys.
        prefixes: The common prefixes, when a delimiter was given.
        next_cursor: The cursor of the next page; None at the end.
        revisions: By shard, the shard's revision at that point.
    """

    items: tuple[Entry, ...]
    prefixes: tuple[bytes, ...]
    next_cursor: str | None
    revisions: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Deletion:
    """The result of a deletion of a range.

    Attributes:
        keys: How many keys were deleted, or with a dry run would have been. A step whose answer was lost is repeated,
            and the keys that it had deleted are not counted then.
        complete: Whether no key of the range is left.
        dry_run: Whether the keys were only counted.
    """

    keys: int
    complete: bool
    dry_run: bool


@dataclass(frozen=True, slots=True)
class Range:
    """Keys from ``start`` on, up to before ``end``; None for no bound."""

    start: bytes | None = None
    end: bytes | None = None
    reverse: bool = False

    @classmethod
    def of(
        cls,
        prefix: str | Bytes | None,
        start: str | Bytes | None,
        end: str | Bytes | None,
        *,
        reverse: bool = False,
    ) -> Range:
        """A range by prefix, or by its bounds.

        Raises:
            InvalidArgumentError: Both a prefix and bounds are given.
        """
        if prefix is not None:
            if start is not None or end is not None:
                raise InvalidArgumentError("a range has a prefix, or start and end")
            raw = _bound(prefix)
            return cls(raw or None, prefix_end(raw), reverse)
        return cls(_bound(start) if start else None, None if end is None else _bound(end), reverse)

    @property
    def is_empty(self) -> bool:
        """Whether no key can lie in the range."""
        return self.start is not None and self.end is not None and self.start >= self.end

    def behind(self, key: bytes) -> Range:
        """The rest of the range behind a key."""
        if self.reverse:
            return replace(self, end=key)
        following = key_after(key)
        return Range(key, key) if following is None else replace(self, start=following)

    def params(self) -> dict[str, str]:
        """The query parameters of the range."""
        query = {} if self.start is None else bytes_fields(self.start, "start")
        if self.end is not None:
            query |= bytes_fields(self.end, "end")
        return query | ({"reverse": "true"} if self.reverse else {})


def _bound(text: str | Bytes) -> bytes:
    return checks.key_bytes(text) if text else b""


def prefix_end(prefix: bytes) -> bytes | None:
    """The first key behind all keys with a prefix; None if there is none."""
    bare = prefix.rstrip(b"\xff")
    return bare[:-1] + bytes([bare[-1] + 1]) if bare else None


def key_after(key: bytes) -> bytes | None:
    """The first key behind a key; None if there is none."""
    return key + b"\0" if len(key) < KEY_BYTES_MAX else prefix_end(key)


def document_of(entry: Entry, *, keys_only: bool = False) -> dict[str, Any]:
    """An entry as documents show it; ``entry_of`` reads it again."""
    document: dict[str, Any] = bytes_fields(entry.key, "key")
    if not keys_only:
        value = value_fields(entry.data)
        document |= value | ({} if "encoding" in value else {"encoding": "utf-8"})
    document |= {"revision": entry.revision, "content_type": entry.content_type}
    if entry.content_encoding is not None:
        document["content_encoding"] = entry.content_encoding
    return {**document, "expires_at": shown_time(entry.expires_at)}


def entry_of(document: Mapping[str, Any]) -> Entry:
    """Reads an entry.

    Raises:
        ServerError: The document does not have the documented form.
    """
    try:
        return Entry(
            key_of(document),
            bytes_of(document) if "value" in document else b"",
            str(document["revision"]),
            str(document.get("content_type") or OCTET_STREAM),
            document.get("content_encoding"),
            time_of(document.get("expires_at")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(200, f"not an entry: {error!r}") from None


class End(NamedTuple):
    """The last line of a stream of entries.

    Attributes:
        complete: Whether the stream is complete.
        session: The session token of what the whole stream has shown; empty if the line has none.
    """

    complete: bool
    session: str


def lines(wanted: Range, *, limit: int | None, keys_only: bool, consistency: Consistency | str | None) -> Call[None]:
    """A range as a stream of lines; ``entry_of_line`` reads them."""
    params = wanted.params() | _options(limit, keys_only, consistency)
    return Call("GET", "/v1/kv", lambda answer: None, params, _LINES, reads=True)


def entry_of_line(line: bytes) -> Entry | End:
    """An entry, or the end of the stream.

    Raises:
        DougdbError: The line says that the stream was given up, and why.
        ServerError: The line is something else.
    """
    try:
        document = json.loads(line)
    except ValueError:
        raise ServerError(200, "a line of the stream is not JSON") from None
    if not isinstance(document, dict):
        raise ServerError(200, "a line of the stream is not a JSON object")
    if "complete" not in document:
        return entry_of(document)
    problem = document.get("error")
    if isinstance(problem, dict):
        raise error_of_problem(int(problem.get("status", 503)), problem, write=False)
    return End(bool(document["complete"]), str(document.get("session") or ""))


def page(
    wanted: Range,
    *,
    prefix: bytes | None,
    delimiter: str | None,
    limit: int | None,
    keys_only: bool,
    cursor: str | None,
    consistency: Consistency | str | None,
) -> Call[Page]:
    """One page of a range. A delimiter is looked for behind the prefix."""
    params = wanted.params()
    if prefix is not None:
        params = bytes_fields(prefix, "prefix") | ({"reverse": "true"} if wanted.reverse else {})
    params |= _options(limit, keys_only, consistency)
    if delimiter is not None:
        params["delimiter"] = delimiter
    if cursor is not None:
        params["cursor"] = cursor
    return Call("GET", "/v1/kv", _page_of, params, JSON, reads=True)


def _page_of(answer: Answer) -> Page:
    told = answer.document()
    try:
        prefixes = tuple(
            key_of(each, "prefix") if isinstance(each, dict) else str(each).encode() for each in told["prefixes"]
        )
        return Page(tuple(map(entry_of, told["items"])), prefixes, told["next_cursor"], dict(told["revisions"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(answer.status, f"not a page: {error!r}") from None


def count(wanted: Range, *, consistency: Consistency | str | None) -> Call[int]:
    """Counts the keys of a range."""

    def read(answer: Answer) -> int:
        try:
            return int(answer.document()["count"])
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(answer.status, f"not a count: {error!r}") from None

    params = wanted.params() | {"count_only": "true"} | _options(None, False, consistency)
    return Call("GET", "/v1/kv", read, params, JSON, reads=True)


def deletion(
    wanted: Range, *, everything: bool, limit: int, dry_run: bool, cursor: str | None
) -> Call[tuple[int, str | None]]:
    """One step of the deletion of a range: its result is how many keys went, and the cursor to go on with.

    Raises:
        InvalidArgumentError: The range has no bound, and it was not said that everything is meant; or it has one, and
            it was said.
    """
    params = wanted.params()
    if params and everything:
        raise InvalidArgumentError("everything=True means every key, and the range has a bound")
    if not params:
        if not everything:
            raise InvalidArgumentError("the range has no bound: say everything=True if every key is meant")
        params["all"] = "true"
    if dry_run:
        params["dry_run"] = "true"
    params["limit"] = str(limit)
    if cursor is not None:
        params["cursor"] = cursor

    def read(answer: Answer) -> tuple[int, str | None]:
        told = answer.document()
        try:
            return int(told["found" if dry_run else "deleted"]), told["next_cursor"]
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(answer.status, f"not an answer to a deletion: {error!r}") from None

    # Deleting what is gone does no harm.
    return Call("DELETE", "/v1/kv", read, params, JSON, write=not dry_run, harmless=True)


def _options(limit: int | None, keys_only: bool, consistency: Consistency | str | None) -> dict[str, str]:
    options = {"keys_only": "true"} if keys_only else {}
    if limit is not None:
        if limit < 1:
            raise InvalidArgumentError(f"a limit is at least 1, not {limit}")
        options["limit"] = str(limit)
    return options | consistency_params(consistency)


def broken_off() -> UnavailableError:
    """The error for a stream that ends without its last line."""
    return UnavailableError("the stream broke off before its last line")

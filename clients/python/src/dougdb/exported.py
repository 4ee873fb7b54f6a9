"""The format of the files that ``dougctl export`` writes and ``dougctl import`` reads.

A part of a file has a first line that names the format, a line for each entry (as the API shows entries), and a last
line with the number of entries. A file may have several parts, and a part may be an answer of GET /v1/kv: a stream of
lines, or a page. Must not know files on disk or stores. Invariants:

1. Nothing is left out silently: each line is read whole, or refused with its number. An unknown member and a value that
   is no text are refused, so that exactly the entries of the file are stored.
2. A part that was cut off is never taken for a complete one.
3. Memory is bounded by the longest line.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, BinaryIO

from dougdb import checks
from dougdb.checks import OCTET_STREAM
from dougdb.errors import InvalidKeyError
from dougdb.operations import bytes_of, key_of
from dougdb.ranges import Entry, document_of

FORMAT = "dougdb_export"
VERSION = 1
_BOUNDS = frozenset({"start", "start64", "end", "end64"})
_ENTRY = frozenset(
    {"key", "key64", "value", "encoding", "revision", "content_type", "content_encoding", "expires_at"},
)
_TRAILER = frozenset({"complete", "count", "next_cursor", "cut_changed", "revisions", "session", "error"})
_PAGE = frozenset({"items", "prefixes", "next_cursor", "complete", "revisions"})


class FormatError(Exception):
    """A file does not have the format of an export; the message names the line."""


@dataclass(frozen=True, slots=True)
class Line:
    """One entry of a file.

    Attributes:
        number: The number of the line, from 1.
        end: The position behind the line, in bytes from the beginning of the file.
        entry: The entry.
        is_last: Whether the line has no further entry; a page has many entries in one line.
    """

    number: int
    end: int
    entry: Entry
    is_last: bool = True


def header(bounds: dict[str, str]) -> bytes:
    """The first line of an export of a range."""
    return json.dumps({FORMAT: VERSION, **bounds}).encode() + b"\n"


def trailer(count: int) -> bytes:
    """The last line of an export of so many entries."""
    return json.dumps({"complete": True, "count": count}).encode() + b"\n"


def encode(entry: Entry) -> bytes:
    """The line of an entry."""
    return json.dumps(document_of(entry), ensure_ascii=False).encode() + b"\n"


def counted(number: int, noun: str = "entry", plural: str = "entries") -> str:
    """A number with its noun, such as ``1 entry`` or ``2,000 entries``."""
    return f"{number:,} {noun if number == 1 else plural}"


class Reader:
    """Reads the entries of a file one after the other.

    Attributes:
        bounds: The first line of the part that is being read; None if the part has none.
        count: How many entries of this part were read.
        end: The position behind the last whole line that was read, in bytes.
        complete: Whether the last line of this part was read, with the right number of entries.
        parts: How many parts had a last line.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.bounds: dict[str, Any] | None = None
        self.count = 0
        self.end = 0
        self.complete = False
        self.parts = 0

    @property
    def is_cut_off(self) -> bool:
        """Whether the last line of a part is missing. A file that consists of entries alone needs none."""
        return not self.complete and (self.bounds is not None or self.parts > 0)

    def __iter__(self) -> Iterator[Line]:
        """Reads the entries.

        Raises:
            FormatError: A line is neither an entry nor the first or last line of a part.
        """
        for number, text in enumerate(self._stream, 1):
            if not text.endswith(b"\n") and self.bounds is not None and not self.complete:
                raise FormatError(f"line {number} is cut off")
            if text.strip():
                yield from self._read(text, number)
            else:
                self.end += len(text)

    def _read(self, text: bytes, number: int) -> Iterator[Line]:
        where = f"line {number}"
        document = _document(text, where)
        entries: list[Entry] = []
        if FORMAT in document:
            self._begin(document, where)
        elif "items" in document:
            entries = self._page(document, where)
        elif "complete" in document and not document.keys() & {"key", "key64"}:
            self._finish(document, where)
        else:
            if self.complete:
                self.bounds, self.count, self.complete = None, 0, False
            entries = [_entry(document, where)]
            self.count += 1
        self.end += len(text)
        for entry in entries:
            yield Line(number, self.end, entry, is_last=entry is entries[-1])

    def _begin(self, document: dict[str, Any], where: str) -> None:
        version = document[FORMAT]
        if isinstance(version, bool) or version != VERSION:
            raise FormatError(f"{where}: not an export of version {VERSION}")
        _known(document, _BOUNDS | {FORMAT}, where)
        if not self.complete and (self.bounds is not None or self.count):
            raise FormatError(f"{where}: another export begins, and the one before it has no last line")
        self.bounds, self.count, self.complete = document, 0, False

    def _finish(self, document: dict[str, Any], where: str) -> None:
        _known(document, _TRAILER, where)
        before = f"{counted(self.count)} {'stands' if self.count == 1 else 'stand'} before it"
        if self.complete:
            raise FormatError(f"{where}: a second last line")
        if document["complete"] is not True:
            error = document.get("error")
            why = error.get("detail") or error.get("code") if isinstance(error, dict) else None
            raise FormatError(f"{where}: it is not complete{f' ({why})' if why else ''}; {before}")
        count = document.get("count", self.count)
        if isinstance(count, bool) or count != self.count:
            raise FormatError(f"{where}: {before}, and it counts {json.dumps(count)}")
        self.complete = True
        self.parts += 1

    def _page(self, document: dict[str, Any], where: str) -> list[Entry]:
        _known(document, _PAGE, where)
        if self.bounds is not None and not self.complete:
            raise FormatError(f"{where}: a page stands within an export")
        if document.get("complete") is not True or document.get("next_cursor") is not None:
            raise FormatError(
                f"{where}: the page is not complete, more keys follow; `dougctl export` writes all of them"
            )
        if document.get("prefixes"):
            raise FormatError(f"{where}: the page names folders without what lies in them; ask without a delimiter")
        items = document["items"]
        if not isinstance(items, list):
            raise FormatError(f'{where}: "items" is no list')
        found: list[Entry] = []
        for place, item in enumerate(items, 1):
            if not isinstance(item, dict):
                raise FormatError(f"{where}, item {place}: not a JSON object")
            found.append(_entry(item, f"{where}, item {place}"))
        return found


def _document(text: bytes, where: str) -> dict[str, Any]:
    try:
        document = json.loads(text)
    except RecursionError:
        raise FormatError(f"{where} is not an entry: it is nested too deeply") from None
    except ValueError as error:
        hint = "; an entry, or a page, stands on one line" if text.strip() in (b"{", b"[") else ""
        raise FormatError(f"{where} is not JSON: {error}{hint}") from None
    if not isinstance(document, dict):
        raise FormatError(f"{where} is not a JSON object")
    return document


def _known(document: dict[str, Any], members: frozenset[str], where: str) -> None:
    strange = sorted(document.keys() - members)
    if strange:
        raise FormatError(f"{where}: nobody knows {', '.join(map(json.dumps, strange))}")


def _entry(document: dict[str, Any], where: str) -> Entry:
    """Reads an entry; a member that is missing or malformed is refused, never guessed."""
    _known(document, _ENTRY, where)
    if ("key" in document) == ("key64" in document):
        raise FormatError(f'{where}: an entry has "key" or "key64"')
    if "value" not in document:
        raise FormatError(f"{where}: the entry has no value")
    for name in ("key", "key64", "value"):
        if name in document and not isinstance(document[name], str):
            raise FormatError(f'{where}: "{name}" is text, not {_kind(document[name])}')
    if document.get("encoding", "utf-8") not in ("utf-8", "base64"):
        raise FormatError(f'{where}: "encoding" is utf-8 or base64, not {json.dumps(document["encoding"])}')
    try:
        key, data = checks.key_bytes(key_of(document)), bytes_of(document)
    except UnicodeEncodeError:
        raise FormatError(f"{where}: half of a surrogate pair is no text") from None
    except (ValueError, InvalidKeyError) as error:
        raise FormatError(f"{where}: {error}") from None
    return Entry(
        key,
        data,
        _revision(document.get("revision"), where),
        _field(document, "content_type", where) or OCTET_STREAM,
        _field(document, "content_encoding", where),
        _time(document.get("expires_at"), where),
    )


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _revision(given: object, where: str) -> str:
    if given is None:
        return "0"
    if isinstance(given, str) and given.isascii() and given.isdigit():
        return given
    raise FormatError(f'{where}: "revision" is a whole number in quotes, not {json.dumps(given)}')


def _field(document: dict[str, Any], name: str, where: str) -> str | None:
    given = document.get(name)
    if given is None:
        return None
    if not isinstance(given, str):
        raise FormatError(f'{where}: "{name}" is text, not {_kind(given)}')
    try:
        return checks.content_type(given)
    except ValueError as error:
        raise FormatError(f'{where}: "{name}": {error}') from None


def _time(given: object, where: str) -> datetime | None:
    if given is None:
        return None
    try:
        time = datetime.fromisoformat(given) if isinstance(given, str) else None
    except ValueError:
        time = None
    if time is None:
        raise FormatError(f'{where}: "expires_at" is no time: {json.dumps(given)}')
    if time.tzinfo is None:
        raise FormatError(f"{where}: a time needs Z or an offset, unlike {json.dumps(given)}")
    return time

"""The JSON shapes of keys, values and operations: read strictly into commands, and written from results.

One shape for every route that has it. Must not know routes or shards. Invariants: (1) what is not understood in full is
refused, never ignored; (2) every command that comes out of here passes ``doug_wire.validity``, so that no node calls it
malformed; (3) keys and values of any bytes can be told and said.

Source: docs/api.md, Keys and values.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping, Sequence
from typing import Any, cast

from doug_wire import command as commands
from doug_wire.command import ABSENT, EXISTS, KEY_BYTES_MAX, VALUE_BYTES_MAX, Command, Condition, Opcode
from doug_wire.payload import INT64_MAX, INT64_MIN, Compare, CompareKind, encode_increment
from doug_wire.pipe import ResultRecord
from facade.errors import BadRequestError
from facade.routes.conditions import REVISION_MAX
from facade.routes.durations import timestamp, ttl_ms
from facade.routes.options import check_content, check_key, decode_key64

INCREMENT_BYTES_MAX = 4096

_INTEGER = re.compile(r"-?[0-9]{1,19}\Z")
_REVISION = re.compile(r"(?:0|[1-9][0-9]{0,19})\Z")

_CONDITIONS = frozenset({"if_revision", "if_absent", "if_exists"})
_COMMON = frozenset({"op", "key", "key64"})
_FIELDS: dict[str, tuple[Opcode, frozenset[str]]] = {
    "get": (Opcode.GET, _COMMON),
    "put": (
        Opcode.PUT,
        _COMMON | _CONDITIONS | {"value", "encoding", "ttl", "content_type", "content_encoding"},
    ),
    "delete": (Opcode.DELETE, _COMMON | _CONDITIONS),
    "increment": (Opcode.INCREMENT, _COMMON | _CONDITIONS | {"by", "initial", "ttl"}),
    "touch": (Opcode.TOUCH, _COMMON | _CONDITIONS | {"ttl"}),
}
_PUT = Opcode.PUT
_new = tuple.__new__  # Takes half the time of a call of the class, which matters for thousands of operations.
_COMPARES = frozenset({"exists", "absent", "revision", "value"})


def _bad(detail: str) -> BadRequestError:
    return BadRequestError("bad_operation", detail)


def _refuse_others(document: Mapping[str, Any], known: frozenset[str]) -> None:
    for name in document:
        if name not in known:
            raise _bad(f"Unknown member {name[:64]!r}; known: {', '.join(sorted(known))}.")


# Out: entries and values.


def key_view(key: bytes) -> dict[str, str]:
    """A key: ``key`` when it is text, ``key64`` otherwise."""
    try:
        return {"key": key.decode()}
    except UnicodeDecodeError:
        return {"key64": base64.urlsafe_b64encode(key).rstrip(b"=").decode()}


def value_view(value: bytes) -> dict[str, str]:
    """A value and its encoding."""
    try:
        return {"value": value.decode(), "encoding": "utf-8"}
    except UnicodeDecodeError:
        return {"value": base64.b64encode(value).decode(), "encoding": "base64"}


def entry_view(key: bytes, result: ResultRecord, content_type: bytes) -> dict[str, object]:
    """An entry, as every route shows it."""
    view: dict[str, object] = {
        **key_view(key),
        **value_view(result.value),
        "revision": str(result.revision),
        "content_type": content_type.decode("latin-1"),
        "expires_at": timestamp(result.expires_at_ms) if result.expires_at_ms else None,
    }
    if result.content_encoding:
        view["content_encoding"] = result.content_encoding.decode("latin-1")
    return view


# In: operations.


def parse_key(document: Mapping[str, Any]) -> bytes:
    """The key that a document names.

    Raises:
        BadRequestError: None, two, or no key.
    """
    key, key64 = document.get("key"), document.get("key64")
    if (key is None) == (key64 is None):
        raise _bad("The key is named by key, or by key64.")
    if key64 is not None:
        if not isinstance(key64, str) or not key64.isascii():
            raise BadRequestError("bad_key64", "key64 is a string of base64url (RFC 4648, 5).")
        return decode_key64(key64.encode())
    if not isinstance(key, str):
        raise _bad("key is a string.")
    return check_key(key.encode())


def parse_value(document: Mapping[str, Any]) -> bytes:
    """The value in a document.

    Raises:
        BadRequestError: It is missing, malformed or too large.
    """
    text, encoding = document.get("value"), document.get("encoding", "utf-8")
    if not isinstance(text, str):
        raise _bad("value is a string; other bytes go with encoding base64.")
    if encoding == "utf-8":
        value = text.encode()
    elif encoding == "base64":
        try:
            value = base64.b64decode(text, validate=True)
        except ValueError:  # binascii.Error, and what is not ASCII.
            raise _bad("value is not base64 (RFC 4648, 4).") from None
    else:
        raise _bad("encoding is utf-8 or base64.")
    if len(value) > VALUE_BYTES_MAX:
        raise BadRequestError("value_too_large", f"The value is larger than {VALUE_BYTES_MAX} bytes.", status=413)
    return value


def parse_integer(value: object, name: str) -> int:
    """An integer of 64 bits, as a number or in decimal digits.

    Raises:
        BadRequestError: The value is none of these.
    """
    if isinstance(value, str) and _INTEGER.match(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not INT64_MIN <= value <= INT64_MAX:
        raise _bad(f"{name} is an integer of 64 bits.")
    return value


def parse_increment(document: object) -> tuple[int, int]:
    """By how much, and what a key that is not there counts as.

    Raises:
        BadRequestError: The document is something else.
    """
    if not isinstance(document, dict):
        raise _bad('An increment is an object, as in {"by": 1}.')
    _refuse_others(document, frozenset({"by", "initial"}))
    return parse_integer(document.get("by", 1), "by"), parse_integer(document.get("initial", 0), "initial")


def parse_revision(value: object, name: str) -> int:
    """A revision, as a string or a number.

    Raises:
        BadRequestError: The value is none of these.
    """
    if isinstance(value, str) and _REVISION.match(value):
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= REVISION_MAX:
        raise _bad(f'{name} is a revision, as in "7".')
    return value


def _parse_condition(document: Mapping[str, Any]) -> Condition | None:
    named = [name for name in ("if_revision", "if_absent", "if_exists") if document.get(name) is not None]
    if not named:
        return None
    if len(named) > 1:
        raise _bad(f"There is one condition at most, not {' and '.join(named)}.")
    name = named[0]
    if name == "if_revision":
        return commands.revision(parse_revision(document[name], name))
    if document[name] is not True:
        raise _bad(f"{name} is true, or left out.")
    return ABSENT if name == "if_absent" else EXISTS


def _parse_ttl(value: object, *, may_keep: bool) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str) or not value.isascii():
        raise BadRequestError("bad_ttl", "ttl is a number of seconds, or a string like 500ms.")
    return ttl_ms(value.encode(), may_keep=may_keep)


def parse_operation(document: object) -> Command:
    """An operation of a batch or a transaction, as a command without epoch and token.

    Raises:
        BadRequestError: The value is none of these.
    """
    if not isinstance(document, dict):
        raise _bad("An operation is an object.")
    if len(document) == 3 and document.get("op") == "put":
        # Nearly all operations of large batches: a put of a text with no option. All else takes the way below.
        key, value = document.get("key"), document.get("value")
        if isinstance(key, str) and isinstance(value, str):
            key_bytes, value_bytes = key.encode(), value.encode()
            if 0 < len(key_bytes) <= KEY_BYTES_MAX and len(value_bytes) <= VALUE_BYTES_MAX:
                return _new(Command, (_PUT, key_bytes, b"", value_bytes, 0, None, 0, None, b""))
    known = _FIELDS.get(document["op"]) if isinstance(document.get("op"), str) else None
    if known is None:
        raise _bad(f"op is one of {', '.join(_FIELDS)}.")
    opcode, fields = known
    if not document.keys() <= fields:
        _refuse_others(document, fields)
    key = parse_key(document)
    if opcode is Opcode.GET:
        return Command(opcode, key, b"", b"", 0)
    condition = None if document.keys().isdisjoint(_CONDITIONS) else _parse_condition(document)
    ttl, found = 0, document.get("ttl")
    if found is not None:
        ttl = _parse_ttl(found, may_keep=opcode is not Opcode.TOUCH)
    content_type, content_encoding, value = b"", b"", b""
    if opcode is Opcode.PUT:
        value = parse_value(document)
        if "content_type" in document or "content_encoding" in document:
            content_type, content_encoding = check_content(
                _text(document, "content_type"), _text(document, "content_encoding")
            )
    elif opcode is Opcode.INCREMENT:
        by = parse_integer(document.get("by", 1), "by")
        value = encode_increment(by, parse_integer(document.get("initial", 0), "initial"))
    elif opcode is Opcode.TOUCH and not ttl:
        raise BadRequestError("bad_ttl", "A touch needs a ttl.")
    return Command(opcode, key, content_type, value, 0, condition, ttl, None, content_encoding)


def parse_puts(documents: Sequence[object]) -> tuple[list[bytes], list[bytes]] | None:
    """The keys and values of operations, at least one, of which each is a put of a text without options.

    None if one of them is anything else, or wrong: then ``parse_operation`` tells what it is.
    """
    count = len(documents)
    some = cast("Sequence[dict[str, Any]]", documents)
    try:
        if list(map(len, some)).count(3) != count or [each["op"] for each in some].count("put") != count:
            return None
        keys = [each["key"].encode() for each in some]
        values = [each["value"].encode() for each in some]
    except (TypeError, KeyError, AttributeError):
        return None
    key_sizes = list(map(len, keys))
    if min(key_sizes) == 0 or max(key_sizes) > KEY_BYTES_MAX or max(map(len, values)) > VALUE_BYTES_MAX:
        return None
    return keys, values


def _text(document: Mapping[str, Any], name: str) -> bytes | None:
    value = document.get(name)
    if value is None:
        return None
    if not isinstance(value, str):
        raise _bad(f"{name} is a string.")
    return value.encode()


def parse_compare(document: object) -> Compare:
    """One comparison of a transaction.

    Raises:
        BadRequestError: The value is none of these.
    """
    if not isinstance(document, dict):
        raise _bad("A comparison is an object.")
    _refuse_others(document, _COMPARES | {"key", "key64", "encoding"})
    named = sorted(_COMPARES & document.keys())
    if len(named) != 1:
        raise _bad("A comparison has one of exists, absent, revision, value.")
    key, name = parse_key(document), named[0]
    if name == "revision":
        return Compare(CompareKind.REVISION, key, parse_revision(document[name], name))
    if name == "value":
        return Compare(CompareKind.VALUE, key, 0, parse_value(document))
    if not isinstance(document[name], bool):
        raise _bad(f"{name} is true or false.")
    exists = document[name] is (name == "exists")
    return Compare(CompareKind.EXISTS if exists else CompareKind.ABSENT, key)

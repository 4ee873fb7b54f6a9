"""The operations of batches and transactions, their results, and the JSON of both.

Pure functions, no network. A wrong operation raises ``TypeError`` or ``ValueError`` before anything is sent.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from dougdb import checks
from dougdb.answers import error_of_problem
from dougdb.checks import OCTET_STREAM, Bytes
from dougdb.errors import DougdbError, InvalidArgumentError, PreconditionFailedError, ServerError
from dougdb.shapes import shown_time, time_of

Ttl = float | str | timedelta


@dataclass(frozen=True, slots=True)
class Get:
    """Reads a key."""

    key: str | Bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class _Conditional:
    """A write that may have one condition.

    Attributes:
        if_revision: The write happens only if the key has this revision.
        if_absent: The write happens only if there is no such key.
        if_exists: The write happens only if there is such a key.
    """

    if_revision: str | int | None = None
    if_absent: bool = False
    if_exists: bool = False


@dataclass(frozen=True, slots=True)
class Put(_Conditional):
    """Stores a value; see ``DougClient.put``."""

    key: str | Bytes
    value: Bytes
    content_type: str = OCTET_STREAM
    ttl: Ttl | None = None
    content_encoding: str | None = None


@dataclass(frozen=True, slots=True)
class Delete(_Conditional):
    """Removes a key; see ``DougClient.delete``."""

    key: str | Bytes


@dataclass(frozen=True, slots=True)
class Increment(_Conditional):
    """Adds to a number; see ``DougClient.increment``."""

    key: str | Bytes
    by: int = 1
    initial: int = 0
    ttl: Ttl | None = None


@dataclass(frozen=True, slots=True)
class Touch(_Conditional):
    """Gives a key another expiry; see ``DougClient.touch``."""

    key: str | Bytes
    ttl: Ttl


Operation = Get | Put | Delete | Increment | Touch


@dataclass(frozen=True, slots=True)
class Compare:
    """A comparison in a transaction. Beside the key, exactly one of the other attributes is given.

    Attributes:
        key: The key.
        exists: Whether there is such a key.
        revision: The revision that the key must have.
        value: The bytes that the value must have.
    """

    key: str | Bytes
    exists: bool | None = None
    revision: str | int | None = None
    value: Bytes | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """The result of one operation among others.

    Attributes:
        status: The HTTP status that the operation would have had alone.
        error: The error with which it failed; None for a success.
        revision: The revision that it read or made.
        data: The bytes that a ``Get`` read.
        number: The result of an ``Increment``.
        content_type: The content type of the value that a ``Get`` read.
        content_encoding: The content encoding of that value.
        expires_at: When the key expires, if it does.
        replayed: Whether the operation had happened before, under the same idempotency key.
    """

    status: int
    error: DougdbError | None = None
    revision: str | None = None
    data: bytes | None = None
    number: int | None = None
    content_type: str | None = None
    content_encoding: str | None = None
    expires_at: datetime | None = None
    replayed: bool = False

    @property
    def ok(self) -> bool:
        """Whether the operation was a success."""
        return self.error is None


@dataclass(frozen=True, slots=True)
class TxnResult:
    """The result of a transaction.

    Attributes:
        succeeded: Whether all comparisons held.
        results: The results of the operations that were carried out.
        revision: The shard's revision after the transaction.
    """

    succeeded: bool
    results: tuple[Result, ...]
    revision: str


def key_fields(key: str | Bytes, name: str = "key") -> dict[str, str]:
    """The members of a document for a key: text, or base64url if the key is no UTF-8."""
    raw = checks.key_bytes(key)
    return bytes_fields(raw, name)


def bytes_fields(raw: bytes, name: str) -> dict[str, str]:
    """The member of a document for bytes: text, or base64url under the name with ``64`` added if they are no UTF-8."""
    try:
        return {name: raw.decode()}
    except UnicodeDecodeError:
        return {f"{name}64": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}


def value_fields(value: Bytes) -> dict[str, str]:
    """The members of a document for a value: text, or base64 if the value is no UTF-8."""
    raw = checks.value_bytes(value)
    try:
        return {"value": raw.decode()}
    except UnicodeDecodeError:
        return {"value": base64.b64encode(raw).decode(), "encoding": "base64"}


def condition_fields(if_revision: str | int | None, if_absent: bool, if_exists: bool) -> dict[str, Any]:
    """The member of a document for a condition; empty without one.

    Raises:
        InvalidArgumentError: There are two conditions.
    """
    named = [
        name
        for name, given in (
            ("if_revision", if_revision is not None),
            ("if_absent", if_absent),
            ("if_exists", if_exists),
        )
        if given
    ]
    if len(named) > 1:
        raise InvalidArgumentError(f"there is one condition at most, not {' and '.join(named)}")
    if if_revision is not None:
        return {"if_revision": checks.revision(if_revision)}
    return dict.fromkeys(named, True)


def document_of(operation: Operation) -> dict[str, Any]:
    """The JSON document of an operation.

    Raises:
        TypeError: The argument is no operation, or a member has a wrong type.
        InvalidArgumentError: The operation has a wrong value.
    """
    if not isinstance(operation, Operation):
        raise TypeError(f"an operation is a Get, Put, Delete, Increment or Touch, not {type(operation).__name__}")
    document: dict[str, Any] = {"op": type(operation).__name__.lower(), **key_fields(operation.key)}
    if isinstance(operation, Get):
        return document
    document |= condition_fields(operation.if_revision, operation.if_absent, operation.if_exists)
    if isinstance(operation, Put):
        document |= value_fields(operation.value)
        document["content_type"] = checks.content_type(operation.content_type)
        if operation.content_encoding is not None:
            document["content_encoding"] = checks.content_type(operation.content_encoding)
    elif isinstance(operation, Increment):
        document |= increment_fields(operation.by, operation.initial)
    ttl = None if isinstance(operation, Delete) else operation.ttl
    if ttl is not None:
        document["ttl"] = checks.ttl(ttl, may_keep=not isinstance(operation, Touch))
    return document


def increment_fields(by: int, initial: int) -> dict[str, str]:
    """The numbers of an increment as strings, since not every JSON library keeps all digits of 64 bits."""
    for name, number in (("by", by), ("initial", initial)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(f"{name} is an int, not {type(number).__name__}")
        if not -(1 << 63) <= number < 1 << 63:
            raise InvalidArgumentError(f"{name} has more than 64 bits")
    return {"by": str(by), "initial": str(initial)}


def compare_document(compare: Compare) -> dict[str, Any]:
    """The JSON document of a comparison.

    Raises:
        InvalidArgumentError: The comparison asks for nothing, or for two things.
        TypeError: The argument is no comparison.
    """
    if not isinstance(compare, Compare):
        raise TypeError(f"a comparison is a Compare, not {type(compare).__name__}")
    asked: dict[str, Any] = {}
    if compare.exists is not None:
        asked |= {"exists": bool(compare.exists)}
    if compare.revision is not None:
        asked |= {"revision": checks.revision(compare.revision)}
    if compare.value is not None:
        asked |= value_fields(compare.value)
    if len(asked.keys() - {"encoding"}) != 1:
        raise InvalidArgumentError("a comparison has one of exists, revision, value")
    return {**key_fields(compare.key), **asked}


def is_write(operation: Operation) -> bool:
    """Whether an operation is a write."""
    return not isinstance(operation, Get)


def result_of(operation: Operation, document: Mapping[str, Any]) -> Result:
    """Reads the result of an operation.

    Raises:
        ServerError: The document does not have the documented form.
    """
    try:
        status = int(document["status"])
        if not 200 <= status < 300:
            text = checks.key_text(operation.key)
            error = error_of_problem(status, document, write=is_write(operation), key=text)
            return Result(status, error, replayed=bool(document.get("replayed")))
        revision = document.get("revision")
        counted = isinstance(operation, Increment)
        return Result(
            status,
            revision=None if revision is None else str(revision),
            data=bytes_of(document) if isinstance(operation, Get) else None,
            number=int(document["value"]) if counted else None,
            content_type=document.get("content_type"),
            content_encoding=document.get("content_encoding"),
            expires_at=time_of(document.get("expires_at")),
            replayed=bool(document.get("replayed")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(200, f"not a result of an operation: {error!r}") from None


def bytes_of(document: Mapping[str, Any]) -> bytes:
    """The value in an entry.

    Raises:
        KeyError: There is no value.
        TypeError: The value is no text.
        ValueError: The value is malformed.
    """
    text = _text(document, "value")
    encoding = document.get("encoding", "utf-8")
    if encoding == "utf-8":
        return text.encode()
    if encoding != "base64":
        raise ValueError(f"an encoding is utf-8 or base64, not {encoding!r}")
    return base64.b64decode(text, validate=True)


def key_of(document: Mapping[str, Any], name: str = "key") -> bytes:
    """The key in an entry.

    Raises:
        KeyError: There is no key.
        TypeError: The key is no text.
        ValueError: The key is malformed.
    """
    if name in document:
        return _text(document, name).encode()
    text = _text(document, f"{name}64").rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(f"not base64url: {error}") from None


def _text(document: Mapping[str, Any], name: str) -> str:
    text = document[name]
    if not isinstance(text, str):
        raise TypeError(f'"{name}" is text, not {json.dumps(text)}')
    return text


_MEMBERS: Mapping[str, frozenset[str]] = {
    "get": frozenset(),
    "put": frozenset({"value", "encoding", "ttl", "content_type", "content_encoding"}),
    "delete": frozenset(),
    "increment": frozenset({"by", "initial", "ttl"}),
    "touch": frozenset({"ttl"}),
}
_CONDITIONS = frozenset({"if_revision", "if_absent", "if_exists"})


def operation_from(document: object) -> Operation:
    """Reads the JSON document of an operation; the opposite of ``document_of``.

    Raises:
        InvalidArgumentError: It is something else.
        TypeError: A member has a wrong type.
    """
    if not isinstance(document, dict) or document.get("op") not in list(_MEMBERS):
        raise InvalidArgumentError(f'an operation is an object whose "op" is one of {", ".join(_MEMBERS)}')
    op = document["op"]
    known = _MEMBERS[op] | {"op", "key", "key64"} | (frozenset() if op == "get" else _CONDITIONS)
    strange = document.keys() - known
    if strange:
        raise InvalidArgumentError(f"{op} has no {', '.join(sorted(strange))}")
    try:
        key = key_of(document)
    except KeyError:
        raise InvalidArgumentError('an operation names its "key", or "key64"') from None
    given = {name: document[name] for name in _CONDITIONS & document.keys() if document[name] is not None}
    for name in ("if_absent", "if_exists"):
        if not isinstance(given.get(name, True), bool):
            raise InvalidArgumentError(f'"{name}" is true or false, not {json.dumps(given[name])}')
    if op == "get":
        return Get(key)
    if op == "delete":
        return Delete(key, **given)
    if op == "increment":
        by, initial = _number(document, "by", 1), _number(document, "initial", 0)
        return Increment(key, by, initial, document.get("ttl"), **given)
    if "value" not in document and op == "put":
        raise InvalidArgumentError('a put has a "value"')
    if op == "touch":
        if "ttl" not in document:
            raise InvalidArgumentError('a touch has a "ttl"')
        return Touch(key, document["ttl"], **given)
    content_type = document.get("content_type") or OCTET_STREAM
    return Put(key, bytes_of(document), content_type, document.get("ttl"), document.get("content_encoding"), **given)


def _number(document: Mapping[str, Any], name: str, default: int) -> int:
    given = document.get(name, default)
    if isinstance(given, str) and re.fullmatch(r"-?[0-9]{1,20}", given):
        return int(given)
    if isinstance(given, bool) or not isinstance(given, int):
        raise InvalidArgumentError(f'"{name}" is a whole number, not {json.dumps(given)}')
    return given


def compare_from(document: object) -> Compare:
    """Reads the JSON document of a comparison.

    Raises:
        InvalidArgumentError: It is something else.
        TypeError: A member has a wrong type.
    """
    known = {"key", "key64", "exists", "absent", "revision", "value", "encoding"}
    if not isinstance(document, dict) or not document.keys() <= known:
        raise InvalidArgumentError("a comparison has a key and one of exists, absent, revision, value")
    try:
        key = key_of(document)
    except KeyError:
        raise InvalidArgumentError('a comparison names its "key", or "key64"') from None
    exists = document.get("exists")
    if "absent" in document:
        exists = not document["absent"]
    value = bytes_of(document) if "value" in document else None
    compare = Compare(key, exists, document.get("revision"), value)
    compare_document(compare)
    return compare


def document_of_result(operation: Operation, result: Result) -> dict[str, Any]:
    """The JSON document of a result."""
    document: dict[str, Any] = {"status": result.status, **key_fields(operation.key)}
    if result.error is not None:
        document |= {"code": result.error.code, "detail": str(result.error), "outcome": result.error.outcome}
        if isinstance(result.error, PreconditionFailedError):
            document["current_revision"] = result.error.current_revision
    if result.revision is not None:
        document["revision"] = result.revision
    if result.data is not None:
        value = value_fields(result.data)
        document |= value | ({} if "encoding" in value else {"encoding": "utf-8"})
        document["content_type"] = result.content_type
    if result.number is not None:
        document["value"] = str(result.number)
    if result.expires_at is not None:
        document["expires_at"] = shown_time(result.expires_at)
    return document | ({"replayed": True} if result.replayed else {})

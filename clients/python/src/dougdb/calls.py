"""Makes the request of every call of the key-value interface, and reads its answer. Pure functions.

Both clients send the same calls. Must not know a network, a clock or a thread. A wrong argument raises ``TypeError`` or
``ValueError`` here, before anything is sent.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar
from urllib.parse import quote

from dougdb import checks
from dougdb.answers import Answer
from dougdb.checks import Bytes
from dougdb.errors import InvalidArgumentError, InvalidKeyError, ServerError
from dougdb.idempotency import AUTO, IdempotencyKey
from dougdb.operations import (
    Compare,
    Operation,
    Result,
    Ttl,
    TxnResult,
    bytes_fields,
    compare_document,
    document_of,
    increment_fields,
    is_write,
    result_of,
)
from dougdb.shapes import Consistency, Receipt, Value, consistency_params, encode_key, receipt_of, value_of

R = TypeVar("R")

JSON = {"Accept": "application/json"}
_JSON_BODY = {**JSON, "Content-Type": "application/json"}
_KEY_HEADER = "Idempotency-Key"


@dataclass(frozen=True, slots=True)
class Call(Generic[R]):
    """A request, and how its answer is read.

    Attributes:
        method: The HTTP method.
        path: The path below the facade's URL, percent-encoded.
        read: Reads the answer.
        params: The query.
        headers: The header fields.
        content: The body.
        write: Whether the request changes anything.
        key: The key that the request is for, as messages show it.
        token: The idempotency key; None for a request that has none.
        harmless: Whether a write may be sent again without an idempotency key.
        repeats: Whether the request is sent again at all.
        codes: Statuses beside 2xx that ``read`` understands.
        reads: Whether a session sends the request with its own consistency, unless the request names another one.
    """

    method: str
    path: str
    read: Callable[[Answer], R]
    params: Mapping[str, str] = field(default_factory=dict)
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes | None = None
    write: bool = False
    key: str = ""
    token: IdempotencyKey = None
    harmless: bool = False
    repeats: bool = True
    codes: frozenset[int] = frozenset()
    reads: bool = False

    def keyed(self, token: str | None) -> Call[R]:
        """The same call with another idempotency key; None removes it."""
        headers = {name: value for name, value in self.headers.items() if name != _KEY_HEADER}
        if token is not None:
            headers[_KEY_HEADER] = checks.idempotency_key(token)
        return replace(self, token=token, headers=headers)

    def result(self, answer: Answer) -> R:
        """Reads the result out of an answer.

        Raises:
            ServerError: The answer cannot be understood; the outcome of a write is then unknown.
        """
        try:
            return self.read(answer)
        except ServerError as error:
            if self.write:
                error.outcome = "unknown"
            raise

    @property
    def repeatable(self) -> bool:
        """Whether the request may be sent again although it may have been applied."""
        return not self.write or self.harmless or self.token is not None


@dataclass(frozen=True, slots=True)
class Counter:
    """The result of an increment."""

    value: int
    receipt: Receipt


@dataclass(frozen=True, slots=True)
class OperationState:
    """The outcome of a write that had an idempotency key.

    Attributes:
        state: ``applied`` if the shard decided it, ``unknown`` if it remembers nothing.
        status: The HTTP status of the outcome, 200 for any success.
        revision: The revision that the write made.
    """

    state: str
    status: int | None
    revision: str | None


def _place(key: str | Bytes, action: str = "") -> tuple[str, dict[str, str]]:
    """The path of a key, or the query for one that is no text."""
    raw = checks.key_bytes(key)
    try:
        return f"/v1/kv/{encode_key(raw)}{action}", {}
    except InvalidKeyError:
        return f"/v1/kv{action}", {"key64": base64.urlsafe_b64encode(raw).rstrip(b"=").decode()}


def conditions(if_revision: str | int | None, *, if_absent: bool = False, if_exists: bool = False) -> dict[str, str]:
    """The header fields of a condition.

    Raises:
        InvalidArgumentError: There are two conditions.
    """
    if (if_revision is not None) + bool(if_absent) + bool(if_exists) > 1:
        raise InvalidArgumentError("there is one condition at most: if_revision, if_absent or if_exists")
    if if_revision is not None:
        return {"If-Match": f'"{checks.revision(if_revision)}"'}
    if if_absent:
        return {"If-None-Match": "*"}
    return {"If-Match": "*"} if if_exists else {}


def get(
    key: str | Bytes, *, consistency: Consistency | str | None = None, if_revision: str | int | None = None
) -> Call[Value]:
    """Reads a value."""
    path, params = _place(key)
    headers = {"Accept": "*/*", **conditions(if_revision)}
    return Call(
        "GET",
        path,
        value_of,
        {**params, **consistency_params(consistency)},
        headers,
        key=checks.key_text(key),
        reads=True,
    )


def get_if_changed(
    key: str | Bytes, revision: str | int, *, consistency: Consistency | str | None = None
) -> Call[Value | None]:
    """Reads a value unless it has a revision."""
    path, params = _place(key)
    return Call(
        "GET",
        path,
        lambda answer: None if answer.status == 304 else value_of(answer),
        {**params, **consistency_params(consistency)},
        {"Accept": "*/*", "If-None-Match": f'"{checks.revision(revision)}"'},
        key=checks.key_text(key),
        codes=frozenset({304}),
        reads=True,
    )


def put(
    key: str | Bytes,
    value: Bytes,
    *,
    content_type: str,
    content_encoding: str | None = None,
    ttl: Ttl | None = None,
    condition: Mapping[str, str],
    token: IdempotencyKey = AUTO,
) -> Call[Receipt]:
    """Stores a value."""
    path, params = _place(key)
    headers = {"Content-Type": checks.content_type(content_type), **condition}
    if content_encoding is not None:
        headers["Content-Encoding"] = checks.content_type(content_encoding)
    if ttl is not None:
        params["ttl"] = checks.ttl(ttl)
    content = checks.value_bytes(value)
    return Call("PUT", path, receipt_of, params, headers, content, write=True, key=checks.key_text(key), token=token)


def delete(key: str | Bytes, *, condition: Mapping[str, str], token: IdempotencyKey = AUTO) -> Call[Receipt]:
    """Removes a key."""
    path, params = _place(key)
    return Call("DELETE", path, receipt_of, params, dict(condition), write=True, key=checks.key_text(key), token=token)


def increment(
    key: str | Bytes,
    by: int,
    *,
    initial: int = 0,
    ttl: Ttl | None = None,
    condition: Mapping[str, str],
    token: IdempotencyKey = AUTO,
) -> Call[Counter]:
    """Counts a key up."""
    path, params = _place(key, ":increment")
    if ttl is not None:
        params["ttl"] = checks.ttl(ttl)
    content = json.dumps(increment_fields(by, initial)).encode()
    headers = {**_JSON_BODY, **condition}
    return Call("POST", path, _counter_of, params, headers, content, write=True, key=checks.key_text(key), token=token)


def _counter_of(answer: Answer) -> Counter:
    try:
        return Counter(int(answer.document()["value"]), receipt_of(answer))
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(answer.status, f"not an answer to an increment: {error!r}") from None


def touch(key: str | Bytes, ttl: Ttl, *, condition: Mapping[str, str], token: IdempotencyKey = AUTO) -> Call[Receipt]:
    """Gives a key another expiry."""
    path, params = _place(key, ":touch")
    params["ttl"] = checks.ttl(ttl, may_keep=False)
    headers = {**JSON, **condition}
    return Call("POST", path, receipt_of, params, headers, write=True, key=checks.key_text(key), token=token)


def batch(operations: Sequence[Operation], *, token: IdempotencyKey = AUTO) -> Call[list[Result]]:
    """Many operations, each as if alone."""
    return batch_of([json.dumps(document_of(each), ensure_ascii=False) for each in operations], operations, token)


def batch_of(documents: Sequence[str], operations: Sequence[Operation], token: IdempotencyKey) -> Call[list[Result]]:
    """Many operations that are encoded already."""
    write = any(map(is_write, operations))

    def read(answer: Answer) -> list[Result]:
        results = answer.document().get("results")
        if not isinstance(results, list) or len(results) != len(operations):
            raise ServerError(answer.status, "not the results of the batch")
        return [result_of(operation, result) for operation, result in zip(operations, results, strict=True)]

    content = f'{{"operations":[{",".join(documents)}]}}'.encode()
    return Call(
        "POST", "/v1/batch", read, {}, _JSON_BODY, content, write=write, token=token if write else None, reads=True
    )


def txn(
    compare: Sequence[Compare],
    success: Sequence[Operation],
    failure: Sequence[Operation],
    *,
    token: IdempotencyKey = AUTO,
) -> Call[TxnResult]:
    """Operations that happen together or not at all."""
    write = any(map(is_write, (*success, *failure)))
    document = {
        "compare": [compare_document(each) for each in compare],
        "success": [document_of(each) for each in success],
        "failure": [document_of(each) for each in failure],
    }

    def read(answer: Answer) -> TxnResult:
        told = answer.document()
        try:
            done = success if told["succeeded"] else failure
            results = tuple(result_of(each, result) for each, result in zip(done, told["results"], strict=True))
            return TxnResult(bool(told["succeeded"]), results, str(told["revision"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ServerError(answer.status, f"not an answer to a transaction: {error!r}") from None

    content = json.dumps(document, ensure_ascii=False).encode()
    return Call("POST", "/v1/txn", read, {}, _JSON_BODY, content, write=write, token=token if write else None)


def operation_state(token: str, key: str | Bytes) -> Call[OperationState]:
    """Asks for the outcome of a write."""
    path = f"/v1/ops/{quote(checks.operation_key(token), safe='')}"
    return Call("GET", path, _state_of, bytes_fields(checks.key_bytes(key), "for"), JSON)


def _state_of(answer: Answer) -> OperationState:
    told = answer.document()
    try:
        return OperationState(str(told["state"]), told["status"], told["revision"])
    except KeyError as error:
        raise ServerError(answer.status, f"not the state of an operation: {error!r}") from None


def limits() -> Call[dict[str, Any]]:
    """Every limit that a request can meet."""
    return Call("GET", "/v1/limits", Answer.document, headers=JSON)

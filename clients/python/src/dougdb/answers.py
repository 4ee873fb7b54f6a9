"""The answer to a request, and the error that a failed answer stands for. Pure functions, no network.

Invariant: the error of a failed write says "not applied" only if that is certain. Otherwise it is an
``OutcomeUnknownError``.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Mapping
from typing import Any, NamedTuple

import httpx

from dougdb.errors import (
    CounterOverflowError,
    CrossShardError,
    DougdbError,
    ForeignSessionError,
    HistoryGoneError,
    IdempotencyFullError,
    KeyNotFoundError,
    KeyReusedError,
    NotANumberError,
    OutcomeUnknownError,
    PreconditionFailedError,
    RejectedError,
    ServerError,
    UnavailableError,
)

STORED_ENCODING = "Doug-Stored-Encoding"
"""The header to which ``Content-Encoding`` is renamed, so that httpx does not undo it: values stay as stored."""
# These errors happen before the request is sent: no byte of it has left.
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.ProxyError)
_REJECTED: Mapping[str, type[RejectedError]] = {
    "precondition_failed": PreconditionFailedError,
    "not_a_number": NotANumberError,
    "overflow": CounterOverflowError,
    "idempotency_key_reused": KeyReusedError,
    "cross_shard": CrossShardError,
    "foreign_session": ForeignSessionError,
}
_UNAVAILABLE_STATUSES = frozenset({502, 503, 504, 507})


class Answer(NamedTuple):
    """An answer that was read to its end.

    Attributes:
        status: The HTTP status.
        headers: The header fields.
        content: The body.
    """

    status: int
    headers: httpx.Headers
    content: bytes

    @property
    def is_success(self) -> bool:
        """Whether the status is one of 2xx."""
        return 200 <= self.status < 300

    def document(self) -> dict[str, Any]:
        """The body as a JSON object.

        Raises:
            ServerError: The body is no JSON object.
        """
        try:
            document = json.loads(self.content)
        except ValueError:
            raise ServerError(self.status, "the answer is not JSON") from None
        if not isinstance(document, dict):
            raise ServerError(self.status, "the answer is not a JSON object")
        return document


def hide_encoding(headers: httpx.Headers) -> None:
    """Renames the header ``Content-Encoding``, so that httpx leaves the content as it was stored."""
    encoding = headers.get("Content-Encoding")
    if encoding is not None:
        del headers["Content-Encoding"]
        headers[STORED_ENCODING] = encoding


def error_of(answer: Answer, *, write: bool, key: str = "") -> DougdbError:
    """The error that an answer of 4xx or 5xx stands for.

    Args:
        answer: The answer.
        write: Whether the request changes anything.
        key: The key that was asked for, for the message.
    """
    problem = _problem_of(answer)
    error = error_of_problem(answer.status, problem, write=write, key=key)
    error.request_id = answer.headers.get("Doug-Request-Id", "")
    if isinstance(error, UnavailableError):
        after = answer.headers.get("Retry-After", "")
        error.retry_after_s = float(after) if after.isascii() and after.isdigit() else 0.0
    return error


def error_of_problem(status: int, problem: Mapping[str, Any], *, write: bool, key: str = "") -> DougdbError:
    """The error that a problem document stands for; also that of one operation of a batch.

    Args:
        status: The HTTP status.
        problem: The document; empty when there was none.
        write: Whether the request changes anything.
        key: The key that was asked for, for the message.
    """
    error = _error_of(status, problem, write=write, key=key)
    error.status, error.code = status, str(problem.get("code", ""))
    return error


def _error_of(status: int, problem: Mapping[str, Any], *, write: bool, key: str) -> DougdbError:
    code = str(problem.get("code", ""))
    detail = str(problem.get("detail") or problem.get("title") or "no reason was given")
    if status == 404 and key and code == "not_found":
        return KeyNotFoundError(key)
    if status == 404 and not code:
        # A facade always gives a code. A 404 without one is of another server, and tells nothing about the key.
        detail += "; does the URL lead to a facade?"
    if code == "history_gone":
        return HistoryGoneError(detail)
    if status < 500:
        if write and problem.get("outcome") == "unknown":
            return OutcomeUnknownError(f"{detail} (HTTP {status}; the write may or may not have been applied)")
        error = _REJECTED.get(code, RejectedError)(status, code, detail)
        if isinstance(error, PreconditionFailedError):
            error.current_revision = problem.get("current_revision")
        elif isinstance(error, CrossShardError):
            error.slots = tuple(problem.get("slots", ()))
        return error
    if write and problem.get("outcome") != "not_applied":
        return OutcomeUnknownError(f"{detail} (HTTP {status}; the write may or may not have been applied)")
    if status in _UNAVAILABLE_STATUSES:
        kind = IdempotencyFullError if code == "idempotency_full" else UnavailableError
        return kind(f"{detail} (HTTP {status}{'; nothing was applied' if write else ''})")
    return ServerError(status, detail)


def error_of_transport(error: httpx.RequestError, url: str, *, write: bool) -> DougdbError:
    """The error for a failure of the connection."""
    reason = str(error) or type(error).__name__
    if isinstance(error, _NOT_SENT) or not write:
        unavailable = UnavailableError(f"{url} cannot be reached: {reason}")
        unavailable.passing = not _is_distrusted(error)
        return unavailable
    return OutcomeUnknownError(f"the connection to {url} failed after the write was sent: {reason}")


def _problem_of(answer: Answer) -> dict[str, Any]:
    """The problem document (RFC 9457) of an answer; empty when there is none."""
    if "json" not in answer.headers.get("Content-Type", ""):
        return {}
    try:
        return answer.document()
    except ServerError:
        return {}


def _is_distrusted(error: BaseException | None) -> bool:
    """Whether the facade cannot be reached because its certificate is not trusted."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return True
        error = error.__cause__ or error.__context__
    return False

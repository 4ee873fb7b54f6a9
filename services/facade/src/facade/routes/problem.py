"""Problem documents (RFC 9457): how every error is told, on the raw routes and on FastAPI's.

Must not know why something failed: ``facade.errors`` does. Invariant: no error leaves the facade in another form.
"""

from __future__ import annotations

from collections.abc import Iterable
from http import HTTPStatus

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.routing import Match

from facade.errors import ProblemError, UnexpectedError

MEDIA_TYPE = "application/problem+json"
TYPE_PREFIX = "urn:dougdb:problem:"

TITLES = {
    "already_leader": "It leads already",
    "already_member": "It is a member already",
    "auth_changed": "Somebody else changed it meanwhile",
    "auth_disabled": "Nobody has to say who they are here",
    "auth_full": "No more roles, users and tokens can be kept",
    "auth_not_understood": "What is held of roles, users and tokens is newer than this facade",
    "auth_unavailable": "It is not known who may do what",
    "already_initialised": "It is set up already",
    "bad_auth": "Not a role, user or token",
    "bad_condition": "Bad condition",
    "bad_consistency": "Unknown or contradictory consistency",
    "bad_content_encoding": "Bad content encoding",
    "bad_content_type": "Bad content type",
    "bad_cursor": "Not a cursor of this range",
    "bad_escape": "Bad percent-encoding",
    "bad_expectation": "Unknown expectation",
    "bad_host": "Bad Host",
    "bad_idempotency_key": "Bad idempotency key",
    "bad_json": "Malformed JSON",
    "bad_key64": "Bad base64url key",
    "bad_line": "A line is too long or malformed",
    "bad_operation": "Bad operation",
    "bad_parameter": "Bad query parameter",
    "bad_range": "Bad range of keys",
    "bad_request": "Bad request",
    "bad_session": "Not a session token",
    "bad_ttl": "Bad time to live",
    "bad_version": "Unknown version of HTTP",
    "body_timeout": "The body did not arrive in time",
    "body_too_large": "The body is too large",
    "change_under_way": "Another change comes first",
    "bad_key": "Bad key",
    "bad_watch_id": "Bad id of a watch",
    "cross_origin": "From another site's page",
    "csrf": "A session without its word",
    "cross_shard": "Keys of several shards",
    "deadline_exceeded": "No answer in time",
    "disk_full": "A disk is full",
    "future_watch_id": "The id is of the future",
    "foreign_watch_id": "The id is of another cluster",
    "empty_key": "Empty key",
    "fault_refused": "It cannot be done to this process now",
    "forbidden": "Not allowed",
    "foreign_session": "A session of another cluster",
    "head_timeout": "The head of the request did not arrive in time",
    "head_too_large": "The head of the request is too large",
    "history_gone": "The changes are not held any more",
    "idempotency_expired": "The idempotency key is too old",
    "idempotency_full": "No more idempotency keys can be kept",
    "idempotency_key_reused": "The idempotency key belongs to another request",
    "internal_error": "Internal error",
    "invalid_record": "Internal error",
    "key_not_utf8": "The key is not UTF-8",
    "key_too_long": "Key too long",
    "last_voter": "The last voter stays",
    "length_required": "Length required",
    "member_unreachable": "The node does not answer",
    "members_refused": "The members cannot be changed so",
    "method_not_allowed": "Method not allowed",
    "no_leader": "The shard has no leader",
    "not_a_number": "The value is not a number",
    "not_acceptable": "Not acceptable",
    "not_for_pages": "Not to be run or embedded by a page",
    "not_found": "No such key",
    "not_fresh_enough": "No replica is fresh enough",
    "not_implemented": "Not implemented",
    "outcome_unknown": "The outcome is unknown",
    "overflow": "Overflow",
    "overloaded": "Overloaded",
    "precondition_failed": "Precondition failed",
    "quorum_at_risk": "The others could not form a quorum",
    "result_too_large": "The results are too large",
    "starting": "Starting",
    "superseded": "Replaced by another leader",
    "too_many_requests": "More than this client's part",
    "transfer_failed": "Leadership was not seen to move",
    "transfer_refused": "Leadership cannot go there",
    "unauthenticated": "Not known who you are",
    "unavailable": "Unavailable",
    "unknown_host": "Not a name of this server",
    "unknown_member": "No such member",
    "unknown_parameter": "Unknown query parameter",
    "unknown_route": "No such route",
    "unknown_shard": "Unknown shard",
    "unknown_target": "No such node",
    "unsupported_media_type": "Unsupported media type",
    "value_too_large": "Value too large",
    "wrong_node": "Another node is there",
    "wrong_shard": "The key is being moved",
}

NOTHING_HERE = "There is nothing at this path; GET /docs shows what there is."
_PLAIN = {"unknown_route": NOTHING_HERE, "method_not_allowed": "There is no {method} here."}
"""What is said in place of Starlette's words."""


def document(error: ProblemError) -> bytes:
    """The problem document of an error."""
    body: dict[str, object] = {
        "type": TYPE_PREFIX + error.code,
        "title": TITLES.get(error.code) or HTTPStatus(error.status).phrase,
        "status": error.status,
        "detail": error.detail,
        "code": error.code,
        "retryable": error.retryable,
        "outcome": error.outcome,
    }
    if error.shard is not None:
        body["shard"] = error.shard
    body.update(error.members)
    return orjson.dumps(body)


def allow(methods: Iterable[str]) -> tuple[bytes, bytes]:
    """The header that names the methods of a path: HEAD is there wherever GET is (``facade.app.methods``)."""
    found = set(methods)
    return b"allow", ", ".join(sorted(found | {"HEAD"} if "GET" in found else found)).encode()


def headers(error: ProblemError, body: bytes) -> list[tuple[bytes, bytes]]:
    """The response headers of an error."""
    result = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", b"%d" % len(body))]
    if error.shard is not None and not any(name == b"doug-shard" for name, _ in error.headers):
        result.append((b"doug-shard", b"%d" % error.shard))
    result.extend(error.headers)
    return result


def response(error: ProblemError) -> Response:
    """An error as a FastAPI response."""
    body = document(error)
    result = Response(body, error.status)
    result.raw_headers = headers(error, body)
    return result


async def _on_problem(request: Request, error: Exception) -> Response:
    assert isinstance(error, ProblemError)
    return response(error)


async def _on_unexpected(request: Request, error: Exception) -> Response:
    # Starlette raises it again once this is sent, so that it comes to the log.
    return response(UnexpectedError())


def _methods_at(request: Request) -> set[str]:
    """The methods of all routes at a path. Starlette's own answer names those of the first one only."""
    methods: set[str] = set()
    for route in request.app.routes:
        for each in getattr(route, "effective_candidates", lambda route=route: (route,))():
            if each.matches(request.scope)[0] is not Match.NONE:
                methods |= getattr(each, "methods", None) or set()
    return methods


async def _on_http(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    if isinstance(error.__cause__, ProblemError):
        # FastAPI turns every error during the reading of a body into a plain 400.
        return response(error.__cause__)
    code = {404: "unknown_route", 405: "method_not_allowed"}.get(error.status_code, "http_error")
    told = dict(error.headers or {})
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        told["Allow"] = allow(_methods_at(request))[1].decode()
    extra = tuple((name.lower().encode(), value.encode()) for name, value in told.items())
    detail = _PLAIN.get(code, "{detail}.").format(detail=error.detail, method=request.method[:32])
    return response(ProblemError(code, detail, status=error.status_code, headers=extra))


async def _on_validation(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    reason = str(first["msg"]).removeprefix("Value error, ")
    return response(ProblemError("bad_request", f"{where}: {reason}.", status=400))


def install(app: FastAPI) -> None:
    """Makes FastAPI tell every error as a problem document."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(HTTPException, _on_http)
    app.add_exception_handler(RequestValidationError, _on_validation)
    app.add_exception_handler(Exception, _on_unexpected)

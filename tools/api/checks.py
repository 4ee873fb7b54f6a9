"""Our own checks for schemathesis, which loads this file by ``schemathesis.toml`` in this folder.

Must not import the facade: it knows only the served document.

Two of its own checks are replaced here, because they would have to be switched off for whole statuses:
``positive_data_acceptance`` (OpenAPI cannot say that one parameter excludes another) and ``not_a_server_error``
(501 is the right answer for features that are not there).
"""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.core.failures import Failure
from schemathesis.generation import GenerationMode

UNSAYABLE = frozenset(
    {
        "bad_condition",  # If-Match beside If-None-Match.
        "bad_consistency",  # consistency beside another Doug-Consistency, bounded without max_staleness.
        "bad_session",  # A token is opaque.
        "bad_cursor",  # So is a cursor.
        "bad_watch_id",  # So is an id.
        "bad_range",  # A prefix beside start and end; an end before its start.
        "bad_operation",  # Members of another operation, two conditions.
        "bad_key64",  # The key named twice.
        "bad_json",  # What JSON Schema takes as a number and nobody else does.
        "bad_parameter",  # after without wait.
        "bad_auth",  # A grant that is none.
        "bad_ttl",  # A time of more than a hundred years.
        "key_too_long",  # Bytes of UTF-8, where JSON Schema counts characters.
        "value_too_large",  # The same.
        "bad_request",  # for beside for64; a key for a verb that has none.
    }
)
"""The codes of 400 that a request may get although the document allows it: rules that OpenAPI cannot express."""

REFUSED = frozenset({405, 406, 411, 415, 417, 421, 431})
"""The statuses that no request gets that the document allows."""


def _code(response: Any) -> str | None:
    if response.headers.get("content-type", [""])[0] != "application/problem+json" or not response.content:
        return None
    found = response.json().get("code")
    return found if isinstance(found, str) else None


@schemathesis.hook
def map_query(context: Any, query: Any) -> Any:
    """Shortens allowed waits, since no changes come for which a request could wait."""
    if query and isinstance(query.get("wait"), str) and query["wait"].rstrip("s").isdigit():
        query["wait"] = "10ms"
    return query


@schemathesis.check
def problem_codes_are_documented(ctx: Any, response: Any, case: Any) -> None:
    """The code of a problem is among the examples of the operation's answer with this status."""
    if response.status_code < 400 or response.request.method == "HEAD":
        return
    told = response.headers.get("content-type", [""])[0]
    if told != "application/problem+json":
        raise Failure(operation=case.operation.label, title="An error that is no problem document", message=told)
    if response.request.method.lower() != case.operation.method.lower():
        return  # The request has another method than the operation.
    declared = case.operation.definition.raw["responses"].get(str(response.status_code), {})
    codes = declared.get("content", {}).get(told, {}).get("examples", {})
    code = _code(response)
    if code not in codes:
        text = f"{response.status_code} {code} is not among {sorted(codes)}"
        raise Failure(operation=case.operation.label, title="Undocumented problem code", message=text)


@schemathesis.check
def answers_name_their_request(ctx: Any, response: Any, case: Any) -> None:
    """Every answer has ``Doug-Request-Id``."""
    if "doug-request-id" not in response.headers:
        raise Failure(operation=case.operation.label, title="No Doug-Request-Id", message=str(response.status_code))


@schemathesis.check
def healthy_nodes_serve(ctx: Any, response: Any, case: Any) -> None:
    """No 5xx is answered but 501, and 503 for a bound of staleness that no node can prove in time."""
    status, code = response.status_code, _code(response)
    if status < 500 or status == 501:
        return
    bounded = "max_staleness" in f"{response.request.url} {response.request.headers.get('Doug-Consistency', '')}"
    if status == 503 and bounded and code in ("not_fresh_enough", None):
        return
    raise Failure(operation=case.operation.label, title="Server error", message=f"{status} {code}")


@schemathesis.check
def allowed_requests_are_taken(ctx: Any, response: Any, case: Any) -> None:
    """A request that the document allows is refused only by rules that OpenAPI cannot express."""
    if case.meta is None or case.meta.generation.mode != GenerationMode.POSITIVE:
        return
    status, code = response.status_code, _code(response)
    if status in REFUSED or (status == 400 and code is not None and code not in UNSAYABLE):
        raise Failure(operation=case.operation.label, title="Allowed request refused", message=f"{status} {code}")

"""The checks for a client in a role: those of ``tools.api.checks``, and that it is served what its role names, no more.

What a route needs is written here once more, as docs/auth.md has it, and not read from the facade. Batches,
transactions and ``/v1/ops`` are left out: what they need depends on what they hold.
"""

from __future__ import annotations

import os
import re
from typing import Any
from urllib.parse import parse_qs, urlsplit

import schemathesis
from schemathesis.core.failures import Failure
from tools.api import checks  # noqa: F401 - it is loaded for what it checks.

from doug_wire.auth.document import BUILT_IN
from doug_wire.auth.grants import Verb

LOOKING = (Verb.METRICS, Verb.MEMBERS)
NEEDED: tuple[tuple[str, str, tuple[Verb, ...]], ...] = (
    (r"/v1/kv\b.*", "GET HEAD", (Verb.READ,)),
    (r"/v1/kv\b.*", "PUT POST DELETE", (Verb.WRITE,)),
    (r"/v1/watch", "GET HEAD", (Verb.WATCH,)),
    (r"/metrics|/v1/cluster|/v1/console/.*|/v1/shards/[^/]+/(events|members)", "GET HEAD", LOOKING),
    (r"/v1/console/.*|/v1/shards/[^/]+/(leader|members.*)", "POST DELETE", (Verb.MEMBERS,)),
    (r"/v1/shards/[^/]+/backup", "GET HEAD", (Verb.BACKUP,)),
    (r"/v1/auth/(init|tokens|roles|users).*", "GET HEAD PUT POST DELETE", (Verb.AUTH,)),
)
"""Paths of the document, methods, and the rights one of which is needed."""

HELD = frozenset(grant.verb for grant in BUILT_IN[os.environ["API_ROLE"]])


def _needed(method: str, path: str, url: str) -> tuple[Verb, ...]:
    if method == "DELETE" and parse_qs(urlsplit(url).query).get("dry_run") == ["true"]:
        return (Verb.READ,)
    return next(
        (needed for pattern, methods, needed in NEEDED if method in methods.split() and re.fullmatch(pattern, path)), ()
    )


@schemathesis.check
def a_role_is_served_what_it_names(ctx: Any, response: Any, case: Any) -> None:
    """Nobody is served what their role does not name."""
    needed = _needed(response.request.method, case.operation.path, response.request.url)
    if not needed or response.status_code >= 400 or not HELD.isdisjoint(needed):
        return
    text = f"{response.status_code} of {response.request.method} {case.operation.path} without the right {needed[0]}"
    raise Failure(operation=case.operation.label, title="A role was served more than it names", message=text)

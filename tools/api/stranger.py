"""The checks for a stranger: beside those of ``tools.api.checks``, 401 on every route that is not open to everyone."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.core.failures import Failure
from tools.api import checks  # noqa: F401 - it is loaded for what it checks.

OPEN = frozenset({"/livez", "/readyz", "/", "/ui/{file}", "/docs", "/openapi.json"})
EARLIER = frozenset({400, 403, 405, 408, 413, 417, 421, 431, 501})
"""The statuses for faults of the request itself or its origin, which may be answered before authentication."""


@schemathesis.check
def strangers_are_not_served(ctx: Any, response: Any, case: Any) -> None:
    """A client that is not authenticated is not served, and is not told what exists."""
    if case.operation.path in OPEN or response.status_code == 401 or response.status_code in EARLIER:
        return
    text = f"{response.status_code} at {case.operation.path}"
    raise Failure(operation=case.operation.label, title="A stranger was served", message=text)

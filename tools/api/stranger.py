"""The checks for a stranger: beside those of ``tools.api.checks``, 401 everywhere but at what is open to everyone."""

from __future__ import annotations

from typing import Any

import schemathesis
from schemathesis.core.failures import Failure
from tools.api import checks  # noqa: F401 - it is loaded for what it checks.

OPEN = frozenset({"/livez", "/readyz", "/", "/ui/{file}", "/docs", "/openapi.json"})
EARLIER = frozenset({400, 403, 405, 408, 413, 417, 421, 431, 501})
"""What is wrong with the request itself, or with where it comes from, may be told before it is asked who sends it."""


@schemathesis.check
def strangers_are_not_served(ctx: Any, response: Any, case: Any) -> None:
    """Nothing is served to whoever has not said who they are, and nothing is told of what there is."""
    if case.operation.path in OPEN or response.status_code == 401 or response.status_code in EARLIER:
        return
    text = f"{response.status_code} at {case.operation.path}"
    raise Failure(operation=case.operation.label, title="A stranger was served", message=text)

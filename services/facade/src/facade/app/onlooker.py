"""What operators do while clients need not say who they are, for the audit log that a setting asks for.

Where clients authenticate themselves the gate tells it (``facade.app.gate``), with the principal. Must not know what a
route does.

Source: docs/auth.md, Audit log.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import Any

from facade.app.audit import Audit
from facade.app.rules import Rules
from facade.client.access import ANYONE
from facade.routes.raw import request_id_of


class Onlooker:
    """Tells the audit log of every use of a route for operators.

    Attributes:
        audit: The audit log.
    """

    def __init__(self, audit: Audit) -> None:
        """Takes the audit log."""
        self.audit = audit
        self._rules = Rules()

    def done(self, scope: MutableMapping[str, Any], status: int) -> None:
        """Notes the answer to a request, if its route is one for operators."""
        rule = self._rules.find(scope["method"], scope["raw_path"], scope["path"])
        if rule is None or not rule.is_admin:
            return
        caller = ANYONE._replace(
            request_id=request_id_of(scope).decode(),
            address=scope["client"][0] if scope.get("client") else "",
            method=scope["method"],
            route=rule.route,
        )
        self.audit.acted(caller, scope, status)

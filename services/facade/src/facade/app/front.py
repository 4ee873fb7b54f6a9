"""The state that all connections of a facade share: names, limits, and counts of what they hold together.

Must not know routes. It is made once and handed to every connection.
"""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import structlog

from doug_wire import descriptors
from facade.app.audit import Audit
from facade.app.crowds import Crowds
from facade.app.hosts import Hosts
from facade.app.progress import Account
from facade.app.quotas import Quotas
from facade.app.reserve import Reserve, check
from facade.client.metrics import Metrics
from facade.errors import BadRequestError, NotAppliedError, ProblemError
from facade.settings import Settings

MANY = 0.8
"""The part of a limit from which on a warning is logged."""
FEW = 0.7
"""The part of a limit below which the next warning becomes possible."""

log = structlog.get_logger()


class Front:
    """The names, limits and counts that all connections share.

    Attributes:
        hosts: The host names under which the facade may be asked.
        unread: The bytes of answers that clients have not taken.
        arriving: The bytes of bodies that have not come to their end.
        quotas: The rates and connections that each principal and address may have.
        crowds: The turns of the connections of networks that have many.
        connections_max: How many connections there may be.
        connections_refused: How many connections were refused.
        reserve: The connections beyond them, which probes and operators find.
        audit: The audit log; None without one.
        timed: Whether answers say how their time was spent.
    """

    def __init__(self, settings: Settings, metrics: Metrics) -> None:
        """Takes the limits from the settings."""
        self.hosts = Hosts(settings.allowed_hosts)
        self.quotas = Quotas(settings)
        self.crowds = Crowds()
        self.unread = Account(settings.unread_bytes_max)
        self.arriving = Account(settings.queue_bytes_max)
        self.descriptors_max = descriptors.raise_limit()
        self.connections_max = descriptors.connections_max(self.descriptors_max, settings.connections_max)
        self.connections_refused = 0
        self.reserve = Reserve()
        self.audit: Audit | None = None
        self.head_timeout_s = settings.head_timeout_ms / 1000
        self.timed = settings.server_timing_enabled
        self.write_timeout_s = settings.write_timeout_ms / 1000
        self.rate_min = settings.rate_min_bytes
        self._metrics = metrics
        self._told: set[str] = set()

    def look(self, connections: int, given_up: int = 0) -> None:
        """Warns while a limit is near; called now and then.

        Args:
            connections: How many connections there are, those that have only begun included.
            given_up: How many had to go before they had begun.
        """
        refused = self.connections_refused + given_up
        self._metrics.front(connections, self.connections_max, refused, self.unread.held, self.unread.refused)
        self._metrics.quotas(self.quotas.refused, self.quotas.refused_connections)
        self._near("connections", connections, self.connections_max)
        opened = descriptors.open_now()
        if opened is not None:
            self._near("descriptors", opened, self.descriptors_max)

    def _near(self, what: str, used: int, limit: int) -> None:
        if used >= MANY * limit and what not in self._told:
            self._told.add(what)
            log.warning(f"{what}.nearly_all_used", used=used, limit=limit)
        elif used < FEW * limit:
            self._told.discard(what)

    def turned_away(self, scope: MutableMapping[str, Any], error: ProblemError) -> None:
        """Tells the audit log, if there is one, of a request that was refused whoever sent it."""
        if self.audit is not None:
            self.audit.turned_away(scope, error)

    def check(self, scope: MutableMapping[str, Any], hosts: Sequence[bytes], *, guest: bool) -> None:
        """Refuses a request for another host, and one that came beyond the limit of connections and has no reserve.

        Args:
            scope: The request.
            hosts: The hosts that it names.
            guest: Whether its connection is beyond the limit.

        Raises:
            BadRequestError: 421; a host is not this facade's.
            NotAppliedError: The request is neither a probe nor a short one of operators.
        """
        try:
            self.hosts.check(hosts)
        except BadRequestError as error:
            self.turned_away(scope, error)
            raise
        if not guest:
            return
        try:
            check(scope)
        except NotAppliedError:
            self.connections_refused += 1
            raise

    def check_unread(self, address: str) -> None:
        """Refuses to read a value while clients, or those of this address alone, leave too many answers unread.

        Raises:
            NotAppliedError: Too many bytes of answers wait for clients.
        """
        if self.unread.full_for(address):
            self.unread.refused += 1
            raise too_much_unread()


def too_much_unread() -> NotAppliedError:
    """The error for a client that is refused because clients leave too many answers unread."""
    return NotAppliedError("overloaded", "Clients have left too much of their answers unread.")

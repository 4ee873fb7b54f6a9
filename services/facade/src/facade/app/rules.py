"""The rights that each route demands of a sender. The one table: a route that is not in it is served to nobody.

A route of keys is let in for everyone who is known, and each key and range that it touches is checked on its way
(``facade.client.access``). Every other route asks for one of some rights here. Must not know who is who.

Invariants:
    1. A request that no rule is for reaches no route.
    2. What is open to strangers tells nothing of keys, nodes or users.

Source: docs/auth.md, Grants and roles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from enum import Enum
from typing import NamedTuple

from doug_wire.auth.grants import Verb
from facade.client.access import LOOKING
from facade.client.metrics import KEY_ROUTE, RANGE_ROUTE
from facade.routes.key import KEY_PREFIX
from facade.routes.kv import INCREMENT, TOUCH
from facade.routes.ops import OPS_PREFIX


class Need(Enum):
    """What a route demands of a sender, where that is no single right."""

    OPEN = "nothing"
    """Nothing, so that strangers may use it: probes, and what describes the interface."""
    KNOWN = "to be known"
    """That the sender has proved who it is; no right is needed."""
    KEYS = "a right for each key"
    """The rights that the operations behind the route check, key by key."""


class Rule(NamedTuple):
    """What a route demands of a sender.

    Attributes:
        route: The route's template.
        methods: The methods of the route that the rule is for.
        need: The demand: a ``Need``, or the rights one of which is needed.
    """

    route: str
    methods: frozenset[str]
    need: Need | frozenset[Verb]

    @property
    def is_admin(self) -> bool:
        """Whether every use of the route is noted in the audit log, also one that is refused or fails."""
        return isinstance(self.need, frozenset) and Verb.METRICS not in self.need


def _rule(route: str, methods: str, *need: Need | Verb) -> Rule:
    asked = frozenset(each for each in need if isinstance(each, Verb))
    single = next((each for each in need if isinstance(each, Need)), None)
    named = set(methods.split())
    return Rule(route, frozenset(named | {"HEAD"} if "GET" in named else named), single or asked)


_ASSETS = "/ui/{file}"
_SHARD = "/v1/shards/{shard}"

RULES = (
    _rule("/livez", "GET", Need.OPEN),
    _rule("/readyz", "GET", Need.OPEN),
    _rule("/", "GET", Need.OPEN),
    _rule(_ASSETS, "GET", Need.OPEN),
    _rule("/v1/console/{what}", "GET", *LOOKING),
    _rule("/v1/console/{what}", "POST", Verb.MEMBERS),
    _rule("/docs", "GET", Need.OPEN),
    _rule("/openapi.json", "GET", Need.OPEN),
    _rule(KEY_ROUTE, "GET PUT DELETE POST", Need.KEYS),
    _rule(RANGE_ROUTE, "GET PUT DELETE POST", Need.KEYS),
    _rule("/v1/batch", "POST", Need.KEYS),
    _rule("/v1/txn", "POST", Need.KEYS),
    _rule("/v1/ops/{key}", "GET", Need.KEYS),
    _rule("/v1/watch", "GET", Need.KEYS),
    _rule("/v1/watch:progress", "POST", Need.KNOWN),
    _rule("/v1/version", "GET", Need.KNOWN),
    _rule("/v1/limits", "GET", Need.KNOWN),
    _rule("/v1/partitions", "GET", Need.KNOWN),
    _rule("/v1/auth/whoami", "GET", Need.KNOWN),
    _rule("/v1/auth/can-i", "GET", Need.KNOWN),
    _rule("/v1/auth/session", "POST DELETE", Need.KNOWN),
    _rule("/v1/auth/init", "POST", Verb.AUTH),
    _rule("/v1/auth/tokens", "GET POST", Verb.AUTH),
    _rule("/v1/auth/tokens/{name}", "DELETE", Verb.AUTH),
    _rule("/v1/auth/roles", "GET", Verb.AUTH),
    _rule("/v1/auth/roles/{name}", "PUT DELETE", Verb.AUTH),
    _rule("/v1/auth/users", "GET POST DELETE", Verb.AUTH),
    _rule("/metrics", "GET", Verb.METRICS),
    # Who makes a backup has to learn which shards there are.
    _rule("/v1/cluster", "GET", *LOOKING, Verb.BACKUP),
    _rule(f"{_SHARD}/events", "GET", *LOOKING),
    _rule(f"{_SHARD}/members", "GET", *LOOKING),
    _rule(f"{_SHARD}/members", "POST", Verb.MEMBERS),
    _rule(f"{_SHARD}/members/{{name}}", "DELETE", Verb.MEMBERS),
    _rule(f"{_SHARD}/members/{{name}}/replace", "POST", Verb.MEMBERS),
    _rule(f"{_SHARD}/leader", "POST", Verb.MEMBERS),
    _rule(f"{_SHARD}/backup", "GET", Verb.BACKUP),
)


class Rules:
    """Finds the rule of a request."""

    def __init__(self, rules: Iterable[Rule] = RULES) -> None:
        self._by_route: dict[str, list[Rule]] = {}
        for rule in rules:
            self._by_route.setdefault(rule.route, []).append(rule)
        self._patterns = [
            (re.compile(re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(route)) + r"\Z"), route)
            for route in self._by_route
            if "{" in route and route not in (KEY_ROUTE, "/v1/ops/{key}", _ASSETS)
        ]

    def find(self, method: str, raw_path: bytes, path: str) -> Rule | None:
        """The rule for a request; None if there is none.

        Args:
            method: The request's method.
            raw_path: The path as it was sent, by which the routes of keys are found.
            path: The path percent-decoded, by which all other routes are found.
        """
        found = self._of(raw_path, path)
        if method == "OPTIONS" and (found or raw_path == b"*"):
            # Which methods there are is no secret of those who may use them.
            needs = {rule.need for rule in found}
            route = found[0].route if found else "*"
            return Rule(route, frozenset({"OPTIONS"}), Need.OPEN if Need.OPEN in needs else Need.KNOWN)
        return next((rule for rule in found if method in rule.methods), None)

    def methods(self, raw_path: bytes, path: str) -> list[str]:
        """The methods for which there are rules at a path; for ``*``, those of any path."""
        if raw_path == b"*":
            return sorted({method for rule in RULES for method in rule.methods})
        found = {method for rule in self._of(raw_path, path) for method in rule.methods}
        if raw_path.startswith(KEY_PREFIX + b"/") and not raw_path.endswith((INCREMENT, TOUCH)):
            found.discard("POST")
        return sorted(found)

    def _of(self, raw_path: bytes, path: str) -> list[Rule]:
        if raw_path.startswith((KEY_PREFIX + b"/", KEY_PREFIX + b":")):
            return self._by_route.get(KEY_ROUTE, [])
        if raw_path == KEY_PREFIX:
            return self._by_route.get(RANGE_ROUTE, [])
        if raw_path.startswith(OPS_PREFIX):
            return self._by_route.get("/v1/ops/{key}", [])
        if raw_path == b"/ui" or raw_path.startswith(b"/ui/"):
            return self._by_route.get(_ASSETS, [])
        found = self._by_route.get(path)
        if found is None:
            found = next((self._by_route[route] for pattern, route in self._patterns if pattern.match(path)), [])
        return found

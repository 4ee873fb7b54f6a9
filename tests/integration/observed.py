"""A Prometheus that scrapes a cluster, as tests ask it: series of an expression, and what panels and alerts give.

Must not know how the cluster runs.
"""

from __future__ import annotations

import json
import re
import urllib.parse
from typing import Any

from bench.http11 import fetch
from tools import dashboards
from tools.observability.alert import Alert
from tools.observability.alerts import GROUPS

_SPLIT = re.compile(r"==|!=|>=|<=|>|<|\b(?:and|or|unless)\b(?:\s+(?:on|ignoring)\s*\([^)]*\))?")
_METRIC = re.compile(r"\b(?:dougdb|process|python)_\w+")


class Prometheus:
    """A server on loopback."""

    def __init__(self, port: int) -> None:
        self.port = port

    def api(self, path: str, **query: str) -> Any:
        """What Prometheus' API answers."""
        words = f"?{urllib.parse.urlencode(query)}" if query else ""
        answer = fetch(self.port, "GET", f"/api/v1/{path}{words}", timeout_s=10)
        document = json.loads(answer.body)
        assert document["status"] == "success", document
        return document["data"]

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The series that an expression gives now."""
        result: list[dict[str, Any]] = self.api("query", query=expr)["result"]
        return result

    def empty_panels(self, dashboard: str) -> list[str]:
        """The expressions of a dashboard that give nothing, by panel."""
        empty = []
        for panel in dashboards.DASHBOARDS[dashboard].panels:
            for query in panel.queries:
                expr = query.expr.replace("$__rate_interval", "20s")
                expr = re.sub(r"\$(namespace|job|shard)\b", ".*", expr)
                if not self.query(expr):
                    empty.append(f"{panel.title}: {expr}")
        return empty

    def rules(self) -> list[dict[str, Any]] | None:
        """Every rule, once each was evaluated without an error; None before."""
        rules = [rule for group in self.api("rules")["groups"] for rule in group["rules"]]
        return rules if rules and all(rule["health"] == "ok" for rule in rules) else None


def alerts() -> dict[str, Alert]:
    """Every alert by its name."""
    return {alert.name: alert for group in GROUPS.values() for alert in group}


def vectors(expr: str) -> list[str]:
    """What an alert's expression compares and joins: its parts between comparisons and set operators, numbers left out.

    A sound cluster gives nothing for the whole expression, but must give something for each of these.
    """
    parts, depth, start = [], 0, 0
    quoted = re.sub(r'"[^"]*"', lambda found: "_" * len(found[0]), expr)
    for found in re.finditer(r"[({\[]|[)}\]]|" + _SPLIT.pattern, quoted):
        if found[0] in "({[":
            depth += 1
        elif found[0] in ")}]":
            depth -= 1
        elif depth == 0:
            parts.append(expr[start : found.start()])
            start = found.end()
    assert depth == 0, expr
    parts.append(expr[start:])
    return [part for part in map(_unwrapped, parts) if _METRIC.search(part)]


def _unwrapped(part: str) -> str:
    """Without parentheses around the whole of it."""
    part, depth = part.strip(), 0
    for place, letter in enumerate(part):
        depth += (letter == "(") - (letter == ")")
        if depth == 0 and place < len(part) - 1:
            return part
    return part[1:-1].strip() if part.startswith("(") else part

"""The type of alerts, and the series on which their cases are tried.

Annotations use labels only, never the value, so that the expected text of a case can be derived.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

RUNBOOK = "https://github.com/dougdb/dougdb/blob/main/docs/operations.md"
SHARD = "namespace, job, shard"
NODE = "namespace, job, pod, instance, shard"
OF_NODES = {"namespace": "db", "job": "nodes"}
OF_FACADES = {"namespace": "db", "job": "facades"}


@dataclass(frozen=True, slots=True)
class Case:
    """A case: series in promtool's notation, one value a minute, and the minute at which the alert is checked."""

    series: dict[str, str]
    minutes: int
    labels: dict[str, str]
    """The labels of the expected alert, without ``alertname`` and ``severity``; not used if none is expected."""


@dataclass(frozen=True, slots=True)
class Alert:
    """One alerting rule."""

    name: str
    expr: str
    minutes: int
    severity: str
    summary: str
    description: str
    fires: Case
    silent: Case

    @property
    def runbook(self) -> str:
        """The section of docs/operations.md; a heading's anchor is its text in lower case."""
        return f"{RUNBOOK}#{self.name.lower()}"

    def annotations(self, labels: dict[str, str]) -> dict[str, str]:
        """The annotations of the alert when it fires with these labels."""

        def put_in(text: str) -> str:
            return re.sub(r"{{ \$labels\.(\w+) }}", lambda match: labels[match[1]], text)

        return {
            "summary": put_in(self.summary),
            "description": put_in(self.description),
            "runbook_url": self.runbook,
        }


def series(name: str, labels: dict[str, str]) -> str:
    """A series in Prometheus' notation."""
    return f"{name}{{{','.join(f'{key}={chr(34)}{value}{chr(34)}' for key, value in labels.items())}}}"


def node(name: str, number: int = 0, /, **labels: str) -> str:
    """A series of a node of shard 0."""
    return series(name, {**OF_NODES, "pod": f"n{number}", "instance": f"n{number}:1", "shard": "0", **labels})


def facade(name: str, number: int = 0, /, **labels: str) -> str:
    """A series of a facade."""
    return series(name, {**OF_FACADES, "pod": f"f{number}", "instance": f"f{number}:1", **labels})


def node_labels(number: int = 0) -> dict[str, str]:
    """The labels of an alert about a node of shard 0."""
    return {**OF_NODES, "pod": f"n{number}", "instance": f"n{number}:1", "shard": "0"}


def steady(value: float, minutes: int) -> str:
    """The same value all the time."""
    return f"{value:g}+0x{minutes}"


def rising(step: float, minutes: int, start: float = 0) -> str:
    """A counter that grows by ``step`` every minute."""
    return f"{start:g}+{step:g}x{minutes}"


ON_SHARD = {**OF_NODES, "shard": "0"}
FACADE_SHARD = {**OF_FACADES, "shard": "0"}
VOTERS = f'max by ({SHARD}) (dougdb_raft_members{{role="voter"}})'
UP = f"count by ({SHARD}) (dougdb_raft_term)"


def histogram(name: str, slow: bool, minutes: int, edge: str, above: str) -> dict[str, str]:
    """A histogram of a node in which every observation lies in the bucket ``above``, or in the one up to ``edge``."""
    low = 0 if slow else 60
    return {
        node(f"{name}_bucket", le=edge): rising(low, minutes),
        node(f"{name}_bucket", le=above): rising(60, minutes),
        node(f"{name}_bucket", le="+Inf"): rising(60, minutes),
    }

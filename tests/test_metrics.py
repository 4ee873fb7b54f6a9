"""The metrics are what docs/metrics.md says, name by name, and what Prometheus accepts."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from exported import Exported, exported, facade_registry, node_registry, series
from prometheus_client import CollectorRegistry, generate_latest

from facade.client.answers import RETRIED
from facade.client.metrics import RETRY_REASONS
from raft_node.observability.metrics import Metrics

ROOT = Path(__file__).resolve().parent.parent
ROW = re.compile(r"^\| `([a-z_]+)` \| (gauge|counter|histogram) \| ([^|]*)\| ([^|]+) \|$", re.MULTILINE)
REGISTRIES = {"Nodes": node_registry, "Facades": facade_registry}
OF_THE_PROCESS = (
    "dougdb_build_info",
    "dougdb_native_modules",
    "dougdb_tls_certificate_expiry_timestamp_seconds",
)
linux = pytest.mark.skipif(sys.platform != "linux", reason="process_* exist on Linux only")


def documented(section: str) -> list[Exported]:
    text = (ROOT / "docs" / "metrics.md").read_text()
    part = text.split(f"\n## {section}\n")[1].split("\n## ")[0]
    rows = [
        Exported(name, kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels, _ in ROW.findall(part)
    ]
    # Every line of a table is one that the expression understands.
    assert len(rows) == len(re.findall(r"^\| `", part, re.MULTILINE))
    return sorted(rows)


def source_of(module: str) -> str:
    return (ROOT / "services/facade/src" / module).read_text()


@linux
@pytest.mark.parametrize("section", REGISTRIES)
def test_the_document_has_exactly_what_is_exported(section: str) -> None:
    shown, told = exported(REGISTRIES[section]()), documented(section)
    assert sorted(set(shown) - set(told)) == [], "exported and not documented so"
    assert sorted(set(told) - set(shown)) == [], "documented and not exported so"
    assert len(told) == len(set(told)) == len(shown)


@pytest.mark.parametrize("section", REGISTRIES)
def test_no_label_can_hold_a_key(section: str) -> None:
    allowed = {
        *("shard", "role", "state", "outcome", "reason", "peer", "type", "level", "direction", "volume", "source"),
        *("service", "method", "grpc_type", "grpc_service", "grpc_method", "grpc_code", "version", "commit"),
        *("route", "code", "consistency", "kind", "rpc", "what", "op", "event"),
    }
    for metric in exported(REGISTRIES[section]()):
        assert metric.labels <= allowed, metric


def test_every_metric_of_a_node_but_the_process_names_its_shard() -> None:
    for metric in exported(node_registry()):
        if not metric.name.startswith("process_") and metric.name not in OF_THE_PROCESS:
            assert "shard" in metric.labels, metric.name


@pytest.mark.parametrize("section", REGISTRIES)
def test_counters_begin_at_zero(section: str) -> None:
    """A rate needs the zero before the one, so that outcomes which are rare are there from the start."""
    registry: CollectorRegistry = REGISTRIES[section]()
    rare = {
        "Nodes": ("dougdb_raft_proposals_failed_total", {"shard": "0", "reason": "timeout"}),
        "Facades": ("dougdb_facade_retries_total", {"reason": "silent"}),
    }
    assert registry.get_sample_value(*rare[section]) == 0
    assert not [name for name in series(registry) if name.endswith("_created")]


def test_every_outcome_that_is_counted_begins_at_zero() -> None:
    """Also those that are named where they are counted."""
    metrics, counted = Metrics(0), re.compile(r'metrics\.(\w+)\.labels\((?:self\._)?metrics\.shard, "(\w+)"\)')
    found = {
        each for path in (ROOT / "services/raft-node/src").rglob("*.py") for each in counted.findall(path.read_text())
    }
    assert len(found) > 10, found
    for name, value in sorted(found):
        (family,) = getattr(metrics, name).collect()
        shown = {label for sample in family.samples for key, label in sample.labels.items() if key != "shard"}
        assert value in shown, (name, value)


def test_every_reason_for_another_try_begins_at_zero() -> None:
    again = re.compile(r'(?:_again|_retry|\.retry)\((?:operation, )?"(\w+)"')
    named = [text for name in ("registry", "shard") for text in again.findall(source_of(f"facade/client/{name}.py"))]
    assert len(named) > 3, named
    assert {*RETRIED.values(), *named} == set(RETRY_REASONS)


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed (Debian: prometheus)")
@pytest.mark.parametrize("section", REGISTRIES)
def test_prometheus_finds_nothing_to_say_about_them(section: str) -> None:
    checked = subprocess.run(
        ["promtool", "check", "metrics"],
        input=generate_latest(REGISTRIES[section]()),
        capture_output=True,
        timeout=60,
        check=False,
    )
    remarks = {line.split()[0]: line for line in (checked.stderr + checked.stdout).decode().splitlines()}
    # Its name is older than this test; "count" is not a histogram's here, but what is counted.
    remarks.pop("dougdb_sstable_count", None)
    assert not remarks

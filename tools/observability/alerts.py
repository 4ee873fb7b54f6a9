"""All alerts, each with its expression, severity and annotations, and cases in which it must and must not fire.

Every case is run by promtool: ``fires`` must raise exactly its alert, ``silent`` must not. Annotations use labels only,
never the value, so that the expected text of a case can be derived.

Series are matched by ``namespace``, ``job`` and ``shard``: several clusters in one Prometheus keep apart. A label
that the scrape does not set is equal everywhere and does no harm.
"""

from __future__ import annotations

from tools.observability.alert import OF_NODES, Alert, Case, rising, series, steady
from tools.observability.facade_alerts import FACADE
from tools.observability.node_alerts import RAFT, STORAGE


def _process(start: str, minutes: int) -> dict[str, str]:
    labels = {**OF_NODES, "pod": "n0", "instance": "n0:1"}
    return {
        series("process_start_time_seconds", labels): start,
        series("dougdb_build_info", {**labels, "version": "0.1.0"}): steady(1, minutes),
    }


DAY_S = 86_400


def _certificate() -> str:
    labels = {**OF_NODES, "pod": "n0", "instance": "n0:1"}
    return series("dougdb_tls_certificate_expiry_timestamp_seconds", labels)


FLEET = [
    Alert(
        "DougDBFlapping",
        "changes(process_start_time_seconds[15m]) >= 3\nand on (namespace, job, pod, instance) dougdb_build_info",
        0,
        "warning",
        "{{ $labels.pod }} starts again and again.",
        "{{ $labels.pod }} was started three times or more within 15 minutes.",
        Case(_process(rising(60, 20, 1000), 20), 18, {**OF_NODES, "pod": "n0", "instance": "n0:1"}),
        Case(_process("1000+0x8 1500+0x12", 20), 18, OF_NODES),
    ),
    Alert(
        "DougDBVersionMismatch",
        "count by (namespace) (count by (namespace, version) (dougdb_build_info)) > 1",
        240,
        "warning",
        "More than one version runs in {{ $labels.namespace }}.",
        "Processes of different versions have run beside each other for four hours: an upgrade is stuck.",
        Case(
            {
                series("dougdb_build_info", {**OF_NODES, "instance": "n0:1", "version": "0.1.0"}): steady(1, 260),
                series("dougdb_build_info", {**OF_NODES, "instance": "n1:1", "version": "0.2.0"}): steady(1, 260),
            },
            250,
            {"namespace": "db"},
        ),
        Case(
            {
                series("dougdb_build_info", {**OF_NODES, "instance": f"n{n}:1", "version": "0.1.0"}): steady(1, 260)
                for n in range(2)
            },
            250,
            {"namespace": "db"},
        ),
    ),
    Alert(
        "DougDBCertificateExpiry",
        "dougdb_tls_certificate_expiry_timestamp_seconds - time() < 14 * 86400",
        60,
        "warning",
        "The certificate of {{ $labels.pod }} ends soon.",
        "The certificate that {{ $labels.pod }} uses ends within 14 days: its renewal has failed or was forgotten.",
        Case({_certificate(): steady(10 * DAY_S, 90)}, 80, {**OF_NODES, "pod": "n0", "instance": "n0:1"}),
        Case({_certificate(): steady(30 * DAY_S, 90)}, 80, OF_NODES),
    ),
]

GROUPS: dict[str, list[Alert]] = {"raft": RAFT, "storage": STORAGE, "facade": FACADE, "fleet": FLEET}

"""The audit log: what is bounded, and what no stranger can have left out."""

from __future__ import annotations

from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from facade.app.audit import BURST, Audit
from facade.client.access import NOBODY


def test_strangers_push_out_no_line_of_operators_and_changes() -> None:
    now_s = [1000.0]
    registry = CollectorRegistry()
    audit = Audit("", registry, lambda: now_s[0])
    with capture_logs() as lines:
        for _ in range(int(BURST) + 7):
            audit.unknown(NOBODY, "no token")
            audit.signed(NOBODY, "signed in", "somebody")
        audit.acted(NOBODY, "/v1/cluster/members", 200)
        audit.changed(NOBODY, "token created", "app")
        now_s[0] += 1
        audit.unknown(NOBODY, "no token")
    assert [line["audited"] for line in lines[2 * int(BURST) :]] == ["admin", "auth", "refused"]
    assert [line.get("left_out") for line in lines[2 * int(BURST) :]] == [None, None, 7]
    assert registry.get_sample_value("dougdb_facade_audit_dropped_total") == 14

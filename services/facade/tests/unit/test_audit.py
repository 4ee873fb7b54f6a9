"""The audit log: what is bounded, and what no stranger can have left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from facade.app.audit import BURST, Audit
from facade.client.access import NOBODY
from facade.errors import SettingsError


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


def test_its_file_is_private_before_anybody_can_open_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes = []
    monkeypatch.setattr(os, "fchmod", lambda descriptor, mode: modes.append(os.fstat(descriptor).st_mode & 0o777))
    before = os.umask(0)
    try:
        Audit(str(tmp_path / "audit.jsonl"), CollectorRegistry()).close()
    finally:
        os.umask(before)
    assert modes == [0o600]
    with pytest.raises(SettingsError, match="DOUGDB_AUDIT_FILE"):
        Audit(str(tmp_path), CollectorRegistry())

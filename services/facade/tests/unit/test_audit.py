"""The audit log: what is bounded, and what no stranger can have left out."""

from __future__ import annotations

import json
from pathlib import Path

from prometheus_client import CollectorRegistry

from facade.app.audit import BURST, Audit
from facade.client.access import NOBODY


def test_strangers_push_out_no_line_of_operators_and_changes(tmp_path: Path) -> None:
    now_s = [1000.0]
    audit = Audit(str(tmp_path / "audit"), CollectorRegistry(), lambda: now_s[0])
    for _ in range(int(BURST) + 7):
        audit.unknown(NOBODY, "no token")
    audit.acted(NOBODY, "/v1/cluster/members", 200)
    audit.changed(NOBODY, "token created", "app")
    now_s[0] += 1
    audit.unknown(NOBODY, "no token")
    lines = [json.loads(line) for line in (tmp_path / "audit").read_text().splitlines()]
    assert [line["event"] for line in lines[int(BURST) :]] == ["admin", "auth", "refused"]
    assert [line.get("left_out") for line in lines[int(BURST) :]] == [None, None, 7]

"""The audit log: what is bounded, and what no stranger can have left out."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from doug_wire.excess import CLIENTS_MAX, EVERY_S, FORGOTTEN, Excess
from facade.app.audit import BURST, KEY_CHARACTERS_MAX, MAY_MAX, Audit
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
        audit.acted(NOBODY, {"path": "/v1/cluster/members"}, 200)
        audit.changed(NOBODY, "token created", "app")
        now_s[0] += 1
        audit.unknown(NOBODY, "no token")
    assert [line["audited"] for line in lines[2 * int(BURST) :]] == ["admin", "auth", "refused"]
    assert [line.get("left_out") for line in lines[2 * int(BURST) :]] == [None, None, 7]
    assert registry.get_sample_value("dougdb_facade_audit_dropped_total") == 14


def test_of_many_grants_a_line_tells_some_and_how_many_more_there_are() -> None:
    audit = Audit("", CollectorRegistry(), lambda: 1000.0)
    with capture_logs() as lines:
        audit.changed(NOBODY, "role set", "r", ["read:" + "a" * 1000] * (MAY_MAX + 5))
    assert (len(lines[0]["may"]), len(lines[0]["may"][0]), lines[0]["may_also"]) == (MAY_MAX, KEY_CHARACTERS_MAX, 5)


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


def test_who_asks_for_too_much_has_a_line_a_minute_with_how_often_it_was() -> None:
    now_s = [1000.0]
    told: list[tuple[str, str, int]] = []
    excess = Excess(lambda *line: told.append(line), lambda: now_s[0])
    for _ in range(500):
        excess.note("rate", "token:greedy")
    excess.note("rate", "10.0.0.2")
    excess.note("share", "token:greedy")
    assert told == [("rate", "token:greedy", 1), ("rate", "10.0.0.2", 1), ("share", "token:greedy", 1)]
    now_s[0] += EVERY_S
    excess.note("rate", "token:greedy")
    assert told[3:] == [("rate", "token:greedy", 500)]


def test_what_is_kept_of_those_who_ask_for_too_much_is_bounded() -> None:
    now_s = [1000.0]
    told: list[str] = []
    excess = Excess(lambda limit, client, times: told.append(client), lambda: now_s[0])
    for number in range(CLIENTS_MAX + 10):
        for _ in range(2):
            excess.note("connections", str(number))
    assert len(told) == CLIENTS_MAX + 10
    assert CLIENTS_MAX - FORGOTTEN < len(excess._next_s) <= CLIENTS_MAX
    assert len(excess._untold) <= CLIENTS_MAX
    excess.note("connections", str(FORGOTTEN - 1))
    assert told[-1] == str(FORGOTTEN - 1), "many are forgotten at a time, since to look for one takes as long"
    now_s[0] += EVERY_S
    for number in range(FORGOTTEN):
        excess.note("connections", f"later {number}")
    assert (len(excess._next_s), len(excess._untold)) == (FORGOTTEN, 0)


def test_a_line_of_who_asks_for_too_much_says_who_and_which_limit() -> None:
    audit = Audit("", CollectorRegistry(), lambda: 1000.0)
    with capture_logs() as lines:
        audit.limited("rate", "token:greedy", 500)
    (line,) = lines
    expected = {"audited": "limited", "client": "token:greedy", "limit": "rate", "times": 500}
    assert line.items() >= {**expected, "outcome": "too_many_requests", "time": 1_000_000}.items()

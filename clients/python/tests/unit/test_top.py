"""What ``dougctl top`` shows: rows, rates, orders, 80 columns, and the terminal as it was."""

from __future__ import annotations

import json
import os
import pty
import select
import sys
import threading
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from dougdb.cli import app
from dougdb.client import DougClient
from dougdb.commands import common
from dougdb.commands import top as command
from dougdb.shapes import cluster_of
from dougdb.top import SORTS, WIDTH, HotSlot, Look, Row, hot_slots, in_order, lines_of, rows_of


def node(name: str, applied: int = 100, role: str = "follower", **vitals: Any) -> dict[str, Any]:
    figures = {"term": 3, "commit_index": 110 if role == "leader" else applied, "applied_index": applied}
    told = {"uptime_ms": 1000, "syncs": 10, "sync_seconds": 0.02, "leader_heard_ms": 20, **vitals}
    shown = {"id": name, "address": "", "admin": None, "role": role, "last_log_index": applied}
    return {**shown, **figures, **({} if role == "unreachable" else {"vitals": told})}


def document(*nodes: dict[str, Any]) -> dict[str, Any]:
    facade = {"id": "facade", "version": "0.1.0", "map_epoch": 2, "time_us": 0, "certificate_ends_s": None}
    return {"shards": [{"id": 0, "nodes": list(nodes)}], "facade": facade}


def partitions(**counts: int) -> dict[str, Any]:
    told = [counts.get(f"s{slot}", 0) for slot in range(1024)]
    return {"epoch": 2, "slots": [{"from": 0, "to": 1023, "shard": 0}], "counts": told}


def look(time_s: float, *nodes: dict[str, Any], counts: dict[str, Any] | None = None) -> Look:
    return Look(time_s, cluster_of(document(*nodes)), counts)


def test_rates_and_syncs_are_those_between_two_looks() -> None:
    before = look(10.0, node("n0", 100, "leader"), node("n1", 90))
    now = look(12.0, node("n0", 110, "leader", syncs=12, sync_seconds=0.04), node("n1", 100, uptime_ms=5))
    first, second = rows_of(now, before)
    assert first == Row("0", "n0", "leader", 3, 110, 110, 0, 5.0, first.sync_ms, 20)
    assert first.sync_ms == pytest.approx(10.0)
    # Its process is another one: nothing is known of the time before.
    assert (second.lag, second.rate) == (10, None)
    assert rows_of(before, None)[0].rate is None


def test_a_node_that_does_not_answer_is_dashes() -> None:
    now = look(1.0, node("n0", role="leader"), node("n1", role="unreachable"))
    line = lines_of(now, rows_of(now, None), [], "s")[3]
    assert line.split() == ["0", "n1", "down", *"------"]


@pytest.mark.parametrize("key", SORTS)
def test_every_order_holds_every_node_and_can_be_turned(key: str) -> None:
    now = look(1.0, node("b", 5, syncs=1), node("a", 9, "leader"), node("c", role="unreachable"))
    rows = in_order(rows_of(now, None), key)
    assert sorted(row.node for row in rows) == ["a", "b", "c"]
    assert in_order(rows, key, reverse=True) == rows[::-1]


def test_the_worst_comes_first() -> None:
    now = look(1.0, node("a", 110, "leader"), node("b", 10), node("c", 100, sync_seconds=9.0))
    rows = rows_of(now, None)
    assert in_order(rows, "l")[0].node == "b"
    assert in_order(rows, "f")[0].node == "c"


def test_hot_slots_are_those_that_were_asked_for_meanwhile() -> None:
    before = look(1.0, node("a"), counts=partitions(s3=100, s9=7))
    now = look(3.0, node("a"), counts=partitions(s3=110, s9=7, s1000=2))
    assert hot_slots(now, before) == [HotSlot(3, 0, 5.0), HotSlot(1000, 0, 1.0)]
    assert hot_slots(now, None) == hot_slots(now, look(1.0, node("a"))) == []
    # The facade was started anew.
    assert hot_slots(look(5.0, node("a"), counts=partitions()), now) == []


def test_no_line_is_wider_than_80_columns_whatever_is_in_it() -> None:
    long = node("a-very-long-name-of-a-release-dougdb-shard-0-3", 10**15, "pre-candidate", sync_seconds=1e6)
    now = look(2.0, {**long, "term": 10**9}, node("n1"), counts=partitions(**{f"s{slot}": 10**9 for slot in range(9)}))
    before = look(1.0, node("n1"), counts=partitions())
    lines = lines_of(now, rows_of(now, before), hot_slots(now, before), "r", keys=True)
    assert all(len(line) <= WIDTH for line in lines), lines
    # The end of a name tells nodes apart.
    assert "shard-0-3"[-7:] in lines[2]
    assert "1000000G" in lines[2]


# The command.


@pytest.fixture
def facade(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A facade that answers, and what it was asked."""
    asked: list[str] = []
    monkeypatch.setattr(
        common, "DougClient", lambda url, **options: DougClient(url, **options, transport=answering(asked))
    )
    return asked


def answering(asked: list[str]) -> httpx.MockTransport:
    def handle(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        if request.url.path == "/v1/cluster":
            return httpx.Response(200, json=document(node("n0", len(asked), "leader"), node("n1", 7)))
        return httpx.Response(200, json=partitions(s3=len(asked)))

    return httpx.MockTransport(handle)


def test_without_a_terminal_it_shows_once(facade: list[str]) -> None:
    result = CliRunner().invoke(app, ["top", "--interval", "0.1", "--sort", "applied"])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == "1 of 1 shards have a leader, 2 of 2 nodes answer; facade facade 0.1.0, map 2"
    assert [line.split()[1] for line in lines[1:4]] == ["NODE", "n1", "n0"]
    assert lines[4].startswith("hot slots here: 3 (shard 0) ")
    assert "\x1b" not in result.stdout


def test_json(facade: list[str]) -> None:
    found = json.loads(CliRunner().invoke(app, ["top", "--interval", "0.1", "--json"]).stdout)
    assert [each["node"] for each in found["nodes"]] == ["n0", "n1"]
    assert found["nodes"][0]["rate"] > 0
    assert found["hot_slots"][0]["slot"] == 3


def test_an_order_that_does_not_exist_is_wrong_usage(facade: list[str]) -> None:
    result = CliRunner().invoke(app, ["top", "--sort", "colour"])
    assert (result.exit_code, facade) == (2, [])


def test_a_terminal_is_left_as_it_was_and_keys_change_the_order(monkeypatch: pytest.MonkeyPatch) -> None:
    import termios  # noqa: PLC0415 - not on Windows

    outer, inner = pty.openpty()
    before = termios.tcgetattr(inner)
    seen = bytearray()

    def press() -> None:
        for key, wanted in ((b"l", b"by shard"), (b"q", b"by lag")):
            shown = bytearray()
            while wanted not in shown and select.select([outer], [], [], 30)[0]:
                shown += os.read(outer, 65536)
            seen.extend(shown)
            os.write(outer, key)

    presser = threading.Thread(target=press)
    with os.fdopen(os.dup(inner)) as stdin, os.fdopen(os.dup(inner), "w") as stdout:
        monkeypatch.setattr(sys, "stdin", stdin)
        monkeypatch.setattr(sys, "stdout", stdout)
        monkeypatch.setattr(os, "get_terminal_size", lambda: os.terminal_size((80, 24)))
        presser.start()
        with DougClient("http://127.0.0.1:1", transport=answering([])) as client:
            command._live(client, command._look(client), "s", 0.1)
        presser.join()
        while select.select([outer], [], [], 0)[0]:
            seen += os.read(outer, 65536)
        after = termios.tcgetattr(inner)
    os.close(inner)
    os.close(outer)
    assert after == before
    assert (seen.count(command._ENTER.encode()), b"by lag" in seen) == (1, True)
    assert seen.rstrip().endswith(command._LEAVE.encode())

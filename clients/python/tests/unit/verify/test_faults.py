"""The faults of ``dougctl verify --faults``: one node at a time, none stays paused, and only where they are wanted."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import httpx
import pytest
from typer.testing import CliRunner

from dougdb.cli import app
from dougdb.verify.faults import Faults, FaultsRefusedError, kinds_of

URL = "http://facade"


class FakeCluster(httpx.AsyncBaseTransport):
    """Three nodes that a supervisor kills, pauses and lets go on; a killed one is back at the second look."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.paused: set[str] = set()
        self.down: dict[str, int] = {}
        self.refusal: httpx.Response | None = None
        self.breaks: Callable[[str], bool] = lambda act: False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await asyncio.sleep(0)
        if request.url.path == "/v1/cluster":
            return httpx.Response(200, json={"shards": [{"id": 0, "nodes": self._nodes()}]})
        if self.refusal is not None:
            return self.refusal
        asked = json.loads(await request.aread())
        act, node = asked["do"], asked["node"]
        self.asked.append((act, node))
        if self.breaks(act):
            raise httpx.ConnectError("it did not get there")
        if act != "resume":
            assert not self.paused and not self.down, "another node is not back yet"
        if act == "kill":
            self.down[node] = 2
        elif act == "pause":
            self.paused.add(node)
        else:
            self.paused.discard(node)
        return httpx.Response(200, json=asked)

    def _nodes(self) -> list[dict[str, str]]:
        roles = {"n0": "leader", "n1": "follower", "n2": "follower"} | dict.fromkeys(self.paused, "unreachable")
        for node in list(self.down):
            self.down[node] -= 1
            if self.down[node]:
                roles[node] = "unreachable"
            else:
                del self.down[node]
        return [{"id": name, "role": role} for name, role in roles.items()]


async def caused(cluster: FakeCluster, kinds: tuple[str, ...], turns: int) -> Faults:
    """Has faults be caused until it has waited so often, and cancels it in the midst of the last wait."""
    waited, enough = 0, asyncio.Event()

    async def sleep(_: float) -> None:
        nonlocal waited
        waited += 1
        if waited == turns:
            enough.set()
            await asyncio.Event().wait()
        await asyncio.sleep(0)

    async with httpx.AsyncClient(transport=cluster) as client:
        faults = Faults(client, URL, kinds, 1, sleep)
        running, reached = asyncio.create_task(faults.run()), asyncio.create_task(enough.wait())
        await asyncio.wait([running, reached], return_when=asyncio.FIRST_COMPLETED)
        running.cancel()
        await asyncio.wait([running])
    assert running.cancelled()
    return faults


async def test_one_node_at_a_time_and_leaders_among_them() -> None:
    cluster = FakeCluster()
    faults = await caused(cluster, ("kill", "pause"), 80)
    assert faults.caused["kill"] > 5 and faults.caused["pause"] > 5
    assert {"n0", "n1", "n2"} <= {node for act, node in cluster.asked if act == "kill"}


@pytest.mark.parametrize("turns", [2, 4, 6])
async def test_who_is_paused_goes_on_also_when_the_command_ends_meanwhile(turns: int) -> None:
    """Every second wait is that of a pause."""
    cluster = FakeCluster()
    faults = await caused(cluster, ("pause",), turns)
    assert faults.caused == {"pause": turns // 2} and not cluster.paused
    assert cluster.asked[-1][0] == "resume"


async def test_a_request_that_is_lost_is_sent_again() -> None:
    cluster = FakeCluster()
    cluster.breaks = lambda act: act == "resume" and len(cluster.asked) % 3 == 0
    faults = await caused(cluster, ("pause",), 30)
    assert faults.caused["pause"] > 5, "no other fault comes while a node is paused"
    lost = FakeCluster()
    lost.breaks = lambda act: act == "pause"
    assert (await caused(lost, ("pause",), 20)).caused == {"pause": 0}
    assert ("resume", lost.asked[0][1]) in lost.asked, "it may be paused all the same"


async def test_a_cluster_that_takes_no_faults_is_told_apart_and_one_that_does_is_left_as_it_was() -> None:
    cluster = FakeCluster()
    async with httpx.AsyncClient(transport=cluster) as client:
        await Faults(client, URL, ("kill",), 1).check()
        assert cluster.asked == [("resume", "n0")]
        cluster.refusal = httpx.Response(404, json={"code": "unknown_route", "detail": "in dougctl dev alone"})
        with pytest.raises(FaultsRefusedError, match="in dougctl dev alone"):
            await Faults(client, URL, ("kill",), 1).check()
        cluster.refusal = httpx.Response(502, text="<html>")
        with pytest.raises(FaultsRefusedError, match="502"):
            await Faults(client, URL, ("kill",), 1).check()


def test_kinds() -> None:
    assert kinds_of("none") == ()
    assert kinds_of("pause, kill,kill") == ("pause", "kill")
    for text in ("", "none,kill", "kill,", "disk"):
        with pytest.raises(ValueError, match="--faults"):
            kinds_of(text)
    assert CliRunner().invoke(app, ["--url", "http://127.0.0.1:9", "verify", "--faults", "fire"]).exit_code == 2

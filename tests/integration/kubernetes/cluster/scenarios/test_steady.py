"""A release that is left alone under load: nothing restarts, and nothing complains.

Two minutes, or as many seconds as KUBE_STEADY_S says: `KUBE_STEADY_S=3600 make test-kube ARGS="-k steady"` is an hour.
"""

from __future__ import annotations

import datetime
import os
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from integration.kubernetes.cluster.driver import wait_for
from integration.kubernetes.cluster.helm import HELM_S, Release, namespace
from integration.kubernetes.cluster.kubectl import POD_NETWORK
from integration.kubernetes.cluster.scenarios.judged import judge

Figure = Callable[[str], None]
STEADY_S = float(os.environ.get("KUBE_STEADY_S", "120"))
FIRST_S = 60.0
"""Warnings are allowed for so long after the first put: probes come before the programs listen."""


@pytest.fixture
def release(kind: str, tools: None) -> Iterator[Release]:
    if kind != "kubectl" or not os.environ.get(POD_NETWORK):
        pytest.skip("needs a real cluster whose pods are in reach, as make test-kube has it")
    with namespace("steady") as one:
        one.deploy("--set", "backup.enabled=true")
        try:
            yield one
        finally:
            print(one.shown())


def last_seen(event: dict[str, Any]) -> datetime.datetime:
    """When an event came the last time."""
    told = (event.get("series") or {}).get("lastObservedTime") or event["lastTimestamp"] or event["eventTime"]
    return datetime.datetime.fromisoformat(told)


@pytest.mark.timeout(STEADY_S + 2400)
def test_nothing_restarts_and_nothing_warns_after_the_first_minute(release: Release, figure: Figure) -> None:
    wait_for(lambda: release.put("first", "x") == 200, HELM_S, "the first put to be answered")
    quiet = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=FIRST_S)
    before = release.runs()
    with release.loaded() as report:
        threading.Event().wait(FIRST_S + STEADY_S)
    warnings = release.json("get", "events", "--field-selector", "type=Warning")["items"]
    late = [f"{last_seen(one)} {one['reason']}: {one['message']}" for one in warnings if last_seen(one) > quiet]
    pods = {**release.pods("raft-node"), **release.pods("facade")}
    restarts = sum(one["restartCount"] for pod in pods.values() for one in pod["status"]["containerStatuses"])
    figure(f"{STEADY_S:.0f} s of load after the first minute: {restarts} restarts, {len(late)} warnings")
    judge(report, figure, "a release that is left alone")
    assert report[0]["seconds"] >= STEADY_S, "the load ended by itself"
    assert (release.runs(), restarts, late) == (before, 0, [])

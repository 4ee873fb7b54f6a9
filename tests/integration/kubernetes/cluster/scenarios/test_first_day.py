"""What every user of the chart does first, in a real cluster: install, lose a pod, restart, upgrade, remove.

The short part of the scenarios (`make test-kube ARGS="-m first_day"`): one
small release, used in the order of these tests. Skipped with podman.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator

import pytest
from integration.kubernetes.cluster.driver import wait_for
from integration.kubernetes.cluster.helm import HELM_S, Release, namespace
from integration.kubernetes.cluster.kubectl import POD_NETWORK
from integration.kubernetes.cluster.scenarios.judged import judge

Figure = Callable[[str], None]
pytestmark = pytest.mark.first_day
FIRST_PUT_S = 60.0
VALUES = {f"first/{number}": str(number) for number in range(20)}


@pytest.fixture(scope="module")
def release(kind: str, tools: None, figure: Figure) -> Iterator[Release]:
    if kind != "kubectl" or not os.environ.get(POD_NETWORK):
        pytest.skip("needs a real cluster whose pods are in reach, as make test-kube has it")
    with namespace("first") as one:
        began_s = time.monotonic()
        one.deploy()
        wait_for(lambda: one.put("first", "x") == 200, FIRST_PUT_S, "the first put to be answered")
        figure(f"helm install --wait of 5 pods, to the first answered put: {time.monotonic() - began_s:.1f} s")
        try:
            yield one
        finally:
            print(one.shown())


def test_what_is_put_is_got(release: Release) -> None:
    assert {release.put(key, value) for key, value in VALUES.items()} == {200}
    assert {key: release.get(key) for key in VALUES} == VALUES


def test_the_leaders_pod_is_deleted_under_load(release: Release, figure: Figure) -> None:
    leader = wait_for(release.leader, HELM_S, "a leader")
    with release.loaded() as report:
        release.kubectl("delete", "pod", leader)
        wait_for(lambda: release.leader() not in ("", leader), HELM_S, f"another leader than {leader}")
        release.settled()
    judge(report, figure, "the leader's pod deleted")
    assert {key: release.get(key) for key in VALUES} == VALUES


def test_a_rolling_restart_under_load_fails_no_request(release: Release, figure: Figure) -> None:
    before = release.runs()
    with release.loaded() as report:
        release.kubectl("rollout", "restart", "statefulset/dougdb-s0", "deployment/dougdb-facade")
        release.settled()
    judge(report, figure, "a rolling restart of 5 pods")
    assert not set(before.values()) & set(release.runs().values())


def test_an_upgrade_under_load_fails_no_request(release: Release, figure: Figure) -> None:
    """Of a setting of both services, which restarts every pod."""
    before = release.runs()
    with release.loaded() as report:
        release.deploy("--set", "raft.logLevel=warning,facade.logLevel=warning")
        release.settled()
    judge(report, figure, "an upgrade that restarts 5 pods")
    assert not set(before.values()) & set(release.runs().values())
    assert {key: release.get(key) for key in VALUES} == VALUES


def test_an_uninstallation_keeps_the_data(release: Release) -> None:
    assert release.helm("uninstall", "dougdb", "--wait").returncode == 0
    wait_for(lambda: not release.runs(), HELM_S, "every pod to be gone")
    claims = release.json("get", "pvc")["items"]
    assert len(claims) == 6
    release.deploy()
    assert {key: release.get(key) for key in VALUES} == VALUES

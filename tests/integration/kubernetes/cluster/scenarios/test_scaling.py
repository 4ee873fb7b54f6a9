"""Facades that a HorizontalPodAutoscaler adds under load and takes away again, by the figures of a metrics server.

Skipped with podman, and where the metrics server is not built.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Iterator

import pytest
from integration.kubernetes.cluster.driver import wait_for
from integration.kubernetes.cluster.helm import HELM_S, Release, namespace, program
from integration.kubernetes.cluster.kubectl import POD_NETWORK
from integration.kubernetes.cluster.scenarios.judged import judge

Figure = Callable[[str], None]
METRICS = "metrics-server"
HPA = "horizontalpodautoscaler/dougdb-facade"
# A facade of this cluster is busy with few requests, since the machine does everything else, too.
SCALED = ("--set", "facade.autoscaling.enabled=true,facade.autoscaling.maxReplicas=3,facade.resources.requests.cpu=50m")
BUSY, MANY = 200, 8


@pytest.fixture
def release(kind: str, tools: None) -> Iterator[Release]:
    if kind != "kubectl" or not os.environ.get(POD_NETWORK):
        pytest.skip("needs a real cluster whose pods are in reach, as make test-kube has it")
    if not shutil.which(METRICS):
        pytest.skip("the metrics server is not built")
    program("start", METRICS)
    try:
        with namespace("scaled") as one:
            one.deploy(*SCALED)
            wait_for(lambda: one.put("first", "x") == 200, HELM_S, "a put")
            try:
                yield one
            finally:
                print(one.kubectl("describe", HPA, check=False))
                print(one.shown())
    finally:
        program("stop", METRICS)


def ready(release: Release) -> int:
    count: int = release.json("get", "deployment/dougdb-facade")["status"].get("readyReplicas", 0)
    return count


def test_facades_come_and_go_with_the_load(release: Release, figure: Figure) -> None:
    # Five minutes of quiet before facades are taken away are the chart's; a test need not wait for them.
    soon = {"spec": {"behavior": {"scaleDown": {"stabilizationWindowSeconds": 15}}}}
    release.kubectl("patch", HPA, "--type=merge", "--patch", json.dumps(soon))
    wait_for(lambda: release.json("get", HPA)["status"].get("currentMetrics"), HELM_S, "the use of CPU to be known")
    wait_for(lambda: ready(release) == 2, HELM_S, "the least number of facades")
    began_s = time.monotonic()
    with release.loaded(BUSY, MANY) as busy:
        wait_for(lambda: ready(release) == 3, HELM_S, "a third facade")
        figure(f"a third facade was ready {time.monotonic() - began_s:.0f} s after {BUSY} requests a second began")
        # What is new gets connections of clients that connect.
        time.sleep(5)
    judge(busy, figure, "facades scaled from 2 to 3")
    with release.loaded(rate=10) as quiet:
        wait_for(lambda: ready(release) == 2, HELM_S, "the third facade to be taken away")
    judge(quiet, figure, "facades scaled from 3 to 2")

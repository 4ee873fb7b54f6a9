"""Every set of values that the chart's README shows, against a real API server: it takes all without a warning.

On the server's side, as Helm 4 applies, and as a client; nothing is kept (a dry run). The namespace enforces Pod
Security "restricted" and warns of it. Then each is installed, and upgraded with the same values, which changes nothing;
there is no room for any pod. Skipped with podman.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from functools import partial

import pytest
from integration.kubernetes.cluster.driver import wait_for
from integration.kubernetes.cluster.helm import HELM_S, Release, namespace
from integration.kubernetes.cluster.kubectl import find_kubectl
from tools.helm_chart import CHART
from tools.helm_matrix import MATRIX
from tools.rendering import Object, render

KNOWN = ("v1", "apps/v1", "batch/v1", "policy/v1", "autoscaling/v2")
OWNERS = ("rbac.authorization.k8s.io/", "networking.k8s.io/", "discovery.k8s.io/")
# Its sidecar is whatever a user likes, and this one says nothing of its rights.
WARNS = {"pods as one likes them": "violate PodSecurity"}

NOBODY = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "nobody"}, "spec": {"hard": {"pods": "0"}}}
"""Pods would only take time: this is about objects."""


@pytest.fixture(scope="module")
def release(kind: str, tools: None) -> Iterator[Release]:
    if kind != "kubectl":
        pytest.skip("needs a real API server")
    with namespace("values") as one:
        yield one


def objects_of(options: tuple[str, ...], release: Release) -> tuple[list[Object], bool]:
    """What a bare cluster knows of a set's objects, and whether that is all.

    Kinds of operators and gateways need definitions that it does not have.
    """
    objects = render(*options, "--namespace", release.namespace)
    known = [one for one in objects if one["apiVersion"] in KNOWN or one["apiVersion"].startswith(OWNERS)]
    return known, len(known) == len(objects)


@pytest.mark.parametrize("how", ["--server-side", "--server-side=false"])
def test_every_set_of_values_is_taken_without_a_warning(how: str, release: Release) -> None:
    told = {}
    for name, options in MATRIX.items():
        objects, _ = objects_of(options, release)
        assert {"StatefulSet", "Deployment", "Service"} <= {one["kind"] for one in objects}
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
        words = ("--namespace", release.namespace, "apply", how, "--dry-run=server", "--filename", "-")
        run = subprocess.run(
            [find_kubectl(), *words], input=document, capture_output=True, text=True, timeout=120, check=False
        )
        if run.returncode or (run.stderr.strip() and WARNS.get(name, "nothing") not in run.stderr):
            told[name] = run.stderr[-1000:]
        assert run.returncode or len(run.stdout.splitlines()) == len(objects), name
    assert not told


def generations(release: Release, called: str) -> dict[str, int]:
    """How often what makes pods was changed, by name."""
    kinds, mine = "statefulsets,deployments,cronjobs", f"app.kubernetes.io/instance={called}"
    found = release.json("get", kinds, "--selector", mine)["items"]
    return {f"{one['kind']} {one['metadata']['name']}": one["metadata"]["generation"] for one in found}


def is_scaled(release: Release, called: str) -> bool:
    """Whether an autoscaler, if there is one, has brought its Deployment to the fewest."""
    mine = f"app.kubernetes.io/instance={called}"
    bounds = [one["spec"] for one in release.json("get", "horizontalpodautoscalers", "--selector", mine)["items"]]
    return all(
        release.json("get", "deployment", one["scaleTargetRef"]["name"])["spec"]["replicas"] >= one["minReplicas"]
        for one in bounds
    )


def test_an_upgrade_with_the_same_values_changes_nothing_of_any_set(release: Release) -> None:
    """Neither for `kubectl diff` nor for the controllers, which would restart pods."""
    release.kubectl("apply", "--filename", "-", text=json.dumps(NOBODY))
    told, done = {}, 0
    for name, options in MATRIX.items():
        if not objects_of(options, release)[1]:
            continue
        called = f"set-{done}"
        run = release.helm("install", called, str(CHART), *options)
        assert run.returncode == 0, f"{name}: {run.stderr}"
        wait_for(partial(is_scaled, release, called), HELM_S, f"the autoscaler of {name}")
        before = generations(release, called)
        run = release.helm("upgrade", called, str(CHART), *options)
        assert run.returncode == 0, f"{name}: {run.stderr}"
        assert before, name
        manifest = release.helm("get", "manifest", called).stdout
        changed = release.kubectl("diff", "--filename", "-", text=manifest, check=False)
        if changed or generations(release, called) != before:
            told[name] = changed or f"{before}, {generations(release, called)}"
        # Its controllers would go on trying to make pods.
        release.helm("uninstall", called)
        done += 1
    assert not told
    assert done > len(MATRIX) / 2

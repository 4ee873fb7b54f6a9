"""Every set of values that the chart's README shows, against a real API server: it takes all without a warning.

On the server's side, as Helm 4 applies, and as a client; nothing is kept (a dry run). The namespace enforces Pod
Security "restricted" and warns of it. Skipped with podman.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest
from integration.kubernetes.cluster.helm import Release, namespace
from integration.kubernetes.cluster.kubectl import find_kubectl
from tools.helm_matrix import MATRIX
from tools.rendering import render

KNOWN = ("v1", "apps/v1", "batch/v1", "policy/v1", "autoscaling/v2")
OWNERS = ("rbac.authorization.k8s.io/", "networking.k8s.io/", "discovery.k8s.io/")
# Its sidecar is whatever a user likes, and this one says nothing of its rights.
WARNS = {"pods as one likes them": "violate PodSecurity"}


@pytest.fixture(scope="module")
def release(kind: str, tools: None) -> Iterator[Release]:
    if kind != "kubectl":
        pytest.skip("needs a real API server")
    with namespace("values") as one:
        yield one


@pytest.mark.parametrize("how", ["--server-side", "--server-side=false"])
def test_every_set_of_values_is_taken_without_a_warning(how: str, release: Release) -> None:
    told = {}
    for name, options in MATRIX.items():
        objects = [
            one
            for one in render(*options, "--namespace", release.namespace)
            # Kinds of operators and gateways need definitions that a bare cluster does not have.
            if one["apiVersion"] in KNOWN or one["apiVersion"].startswith(OWNERS)
        ]
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

"""What docs/kubernetes.md has operators type, typed as it stands there: a backup's restore, a shard without its quorum.

Only names, sizes and numbers are other ones, and each of them must be found in the document. Skipped with podman, and
where bash is missing.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from functools import partial

import pytest
from integration.kubernetes.cluster.driver import wait_for
from integration.kubernetes.cluster.helm import HELM_S, Release, namespace
from integration.kubernetes.cluster.kubectl import POD_NETWORK
from tools.helm_chart import ROOT

BACKED_UP = ("--set", "backup.enabled=true")
DOCUMENT = ROOT / "docs" / "kubernetes.md"
VALUES = {f"saved/{number}": str(number) for number in range(20)}
NODES = [f"dougdb-s0-{ordinal}" for ordinal in range(3)]
SURVIVOR, *LOST = NODES


@pytest.fixture(scope="module")
def release(kind: str, tools: None) -> Iterator[Release]:
    if kind != "kubectl" or not os.environ.get(POD_NETWORK):
        pytest.skip("needs a real cluster whose pods are in reach, as make test-kube has it")
    if not shutil.which("bash"):
        pytest.skip("there is no bash")
    with namespace("typed") as one:
        one.deploy(*BACKED_UP)
        wait_for(lambda: one.put("first", "x") == 200, HELM_S, "a put")
        try:
            yield one
        finally:
            print(one.shown())


def block(begin: str) -> str:
    """The document's commands that begin with a line, without their indentation."""
    text = DOCUMENT.read_text()
    found = re.search(rf"^    {re.escape(begin)}.*\n(?:    .*\n)*", text, re.M)
    assert found, f"the document has no commands that begin with {begin!r}"
    return re.sub(r"^    ", "", found[0], flags=re.M)


def typed(release: Release, script: str, others: Mapping[str, str]) -> str:
    """Runs commands in the release's namespace, with other words for some of theirs; what they printed."""
    for old, new in {**others, "-n dougdb ": f"-n {release.namespace} "}.items():
        assert old in script, f"the document's commands have no {old!r}"
        script = script.replace(old, new)
    words = ["bash", "-euo", "pipefail", "-c", script]
    run = subprocess.run(words, capture_output=True, text=True, timeout=HELM_S, check=False)
    assert run.returncode == 0, f"{script}\n{run.stdout[-2000:]}\n{run.stderr[-2000:]}"
    assert "warning" not in run.stderr.lower(), run.stderr
    return run.stdout


def found(release: Release) -> dict[str, str]:
    return {key: release.get(key) for key in VALUES}


def asks(release: Release, node: str) -> bool:
    """Whether a node with empty volumes runs and says what to do."""
    return "dougctl members" in release.kubectl("logs", node, check=False)


def test_a_backup_is_restored_into_an_empty_namespace(release: Release) -> None:
    assert {release.put(key, value) for key, value in VALUES.items()} == {200}
    _, begin = block(
        "helm -n dougdb upgrade dougdb deploy/helm/dougdb --reuse-values --set backup.enabled"
    ).splitlines()
    typed(release, begin, {})
    release.kubectl("wait", "--for=condition=Complete", "job/dougdb-backup-now", f"--timeout={HELM_S}s")
    told = re.search(r"/backups/(\S+): 1 shards", release.kubectl("logs", "job/dougdb-backup-now"))
    assert told
    assert release.put("saved/later", "lost") == 200
    assert release.helm("uninstall", "dougdb", "--wait").returncode == 0
    wait_for(lambda: not release.runs(), HELM_S, "every pod to be gone")
    claims = [f"{kind}-{node}" for node in NODES for kind in ("wal", "data")]
    release.kubectl("delete", "pvc", *claims, "--wait")
    script, installing, _ = block("backup=").rpartition("helm install ")
    assert installing
    others = {
        "20260504T031700Z-9f0c5a7b": told[1],
        "for shard in 0 1;": "for shard in 0;",
        "-s, 0 4)": "-s, 0 2)",
        "in 0 1 2 3 4;": "in 0 1 2;",
        "wal:2Gi data:10Gi": "wal:1Gi data:1Gi",
    }
    assert typed(release, script, others).count("condition met") >= 3
    release.deploy(*BACKED_UP)
    assert found(release) == VALUES
    assert release.call("GET", "/v1/kv/saved/later").status == 404


def test_one_survivor_goes_on_and_gets_its_members_back(release: Release) -> None:
    script = block("kubectl -n dougdb scale statefulset dougdb-s0 --replicas=0")
    plan = typed(release, script, {"dougdb-s0-3": SURVIVOR})
    token = re.search(r"--confirm (\S+)", plan)
    assert token and f"{SURVIVOR} alone" in plan, plan
    last = script.splitlines()[-1]
    assert last.endswith("recover-quorum")
    typed(release, f"{last} --confirm {token[1]}", {})
    release.kubectl("delete", "pod", "survivor", "--wait")
    release.kubectl("delete", "pvc", *(f"{kind}-{node}" for node in LOST for kind in ("wal", "data")), "--wait")
    release.kubectl("scale", "statefulset", "dougdb-s0", "--replicas=3")
    wait_for(lambda: release.leader() == SURVIVOR, HELM_S, "the survivor to lead")
    for node in LOST:
        wait_for(partial(asks, release, node), HELM_S, f"{node} to say what to do")
        release.replace(node)
    release.settled()
    assert found(release) == VALUES
    assert release.put("after", "y") == 200

"""The scripts that build images and make clusters, with every program that they call played and its calls recorded."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tools.helm_chart import ROOT
from tools.helm_tools import TOOLS
from tools.version import one_version

SHELLCHECK = TOOLS / "bin" / "shellcheck"
SCRIPTS = sorted([*(ROOT / "tools").rglob("*.sh"), ROOT / ".ci" / "run"])
VERSION = one_version()
RAFT_NODE, FACADE = f"docker.io/dougdb/raft-node:{VERSION}", f"docker.io/dougdb/facade:{VERSION}"

PLAYED = """#!/bin/sh
echo "$(basename "$0") $*" >>"$CALLS"
case "$(basename "$0") $*" in
"kind get clusters") cat "$CLUSTERS" 2>/dev/null ;;
"kind create"*) echo "$CLUSTER" >>"$CLUSTERS" ;;
"minikube status"*) exit 7 ;;
"podman info" | "docker info") exit "${ENGINE_CODE:-0}" ;;
"podman image exists"*) exit "${STAND_IN:-1}" ;;
*port-forward*) exec sleep 30 ;;
curl*PUT*) exit "${PUT_CODE:-0}" ;;
curl*) printf %s "${FOUND:-world}" ;;
esac
"""

Run = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Runs a script with played programs; gives its exit code, their calls, and what it wrote."""
    programs, calls = tmp_path / "bin", tmp_path / "calls"

    def call(*words: str, without: tuple[str, ...] = (), **environment: str) -> tuple[int, list[str], str]:
        programs.mkdir(exist_ok=True)
        for name in ("kind", "kubectl", "helm", "minikube", "podman", "docker", "curl"):
            program = programs / name
            program.unlink(missing_ok=True)
            if name not in without:
                program.write_text(PLAYED)
                program.chmod(0o755)
        # The real tools are found, but none of those that are played or left out.
        for name in ("sh", "sed", "git", "grep", "mktemp", "rm", "sleep", "basename", "cat", "dirname", "echo"):
            if not (programs / name).exists():
                (programs / name).symlink_to(next(Path(p, name) for p in os.get_exec_path() if Path(p, name).exists()))
        calls.write_text("")
        finished = subprocess.run(
            ["/bin/sh", *words],
            cwd=ROOT,
            env={
                "PATH": str(programs),
                "CALLS": str(calls),
                "CLUSTERS": str(tmp_path / "clusters"),
                "CLUSTER": "dougdb",
                "TMPDIR": str(tmp_path),
                **environment,
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return finished.returncode, calls.read_text().splitlines(), finished.stdout + finished.stderr

    return call


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
@pytest.mark.skipif(not SHELLCHECK.exists(), reason="shellcheck is not installed (make chart-tools)")
def test_the_linter_finds_nothing(script: Path) -> None:
    checked = subprocess.run([SHELLCHECK, script], capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_images_are_built_with_podman_first(run: Run) -> None:
    code, calls, _ = run("tools/images.sh")
    assert code == 0
    builds = [line for line in calls if " build " in line]
    assert [line.split()[0] for line in builds] == ["podman", "podman"]
    for line, image, service in zip(builds, (RAFT_NODE, FACADE), ("raft-node", "facade"), strict=True):
        assert f"-t {image} -f services/{service}/Dockerfile ." in line
        assert "--build-arg PYTHON_VERSION=3.13" in line
        assert f"--build-arg VERSION={VERSION}" in line
        assert "--pull=never" not in line


def test_images_are_built_with_docker_or_upon_the_stand_in(run: Run) -> None:
    _, calls, _ = run("tools/images.sh", without=("podman",))
    assert [line.split()[0] for line in calls if " build " in line] == ["docker", "docker"]
    _, calls, _ = run("tools/images.sh", STAND_IN="0")
    assert all("PYTHON_VERSION=3.11" in line and "--pull=never" in line for line in calls if " build " in line)


@pytest.mark.parametrize("without", [("podman", "docker"), ()])
def test_images_need_an_engine_that_works(without: tuple[str, ...], run: Run) -> None:
    code, calls, told = run("tools/images.sh", without=without, ENGINE_CODE="1")
    assert code == 1
    assert not [line for line in calls if " build " in line]
    assert "neither podman nor docker works here" in told


def in_order(calls: list[str], *starts: str) -> None:
    """Each of these calls was made, one after the other."""
    rest = iter(calls)
    for start in starts:
        assert any(line.startswith(start) for line in rest), f"{start}\n" + "\n".join(calls)


def test_kind_up_builds_loads_installs_puts_and_gets(run: Run) -> None:
    code, calls, told = run("tools/kubernetes.sh", "kind-up")
    assert code == 0, told
    in_order(
        calls,
        "kind create cluster --name dougdb",
        "podman build",
        "podman build",
        "podman save",
        "kind load image-archive --name dougdb",
        "podman save",
        "kind load image-archive --name dougdb",
        "helm --kube-context kind-dougdb upgrade --install dougdb deploy/helm/dougdb --namespace dougdb",
        "curl",
        "curl",
        "helm --kube-context kind-dougdb test dougdb",
    )
    (install,) = [line for line in calls if "upgrade" in line]
    assert "--values deploy/helm/dougdb/values-kind.yaml --wait" in install
    assert [line.split()[-1] for line in calls if line.startswith("podman save")] == [RAFT_NODE, FACADE]
    assert "put and got hello=world" in told
    code, calls, _ = run("tools/kubernetes.sh", "kind-up", HELM_ARGS="--set shards=1")
    assert code == 0
    assert not [line for line in calls if line.startswith("kind create")], "the cluster is there already"
    assert any("upgrade" in line and line.endswith("--set shards=1") for line in calls)


def test_minikube_up_does_the_same(run: Run) -> None:
    code, calls, told = run("tools/kubernetes.sh", "minikube-up", without=("kind",))
    assert code == 0, told
    in_order(
        calls,
        "minikube start --profile dougdb",
        "podman build",
        "minikube image load --profile dougdb",
        "helm --kube-context dougdb upgrade",
        "helm --kube-context dougdb test",
    )


def test_kind_down_deletes_the_cluster(run: Run) -> None:
    code, calls, _ = run("tools/kubernetes.sh", "kind-down")
    assert (code, calls) == (0, ["kind delete cluster --name dougdb"])


@pytest.mark.parametrize("code", [0, 1])
def test_test_kind_runs_the_scenarios_in_a_cluster_of_its_own(code: int, run: Run, tmp_path: Path) -> None:
    """And deletes it, whatever came of them."""
    pytest_played = tmp_path / "pytest"
    pytest_played.write_text(f'#!/bin/sh\necho "pytest $* in $KUBECONFIG" >>"$CALLS"\nexit {code}\n')
    pytest_played.chmod(0o755)
    ended, calls, told = run("tools/kubernetes.sh", "test-kind", PYTEST=str(pytest_played))
    assert ended == code, told
    in_order(
        calls,
        "kind create cluster --name dougdb-test",
        "podman build",
        "kind load image-archive --name dougdb-test",
        "kind load image-archive --name dougdb-test",
        f"pytest tests/integration/kubernetes/cluster in {tmp_path}/",
        "kind delete cluster --name dougdb-test",
    )
    assert not [line for line in calls if "--name dougdb " in line]
    ended, calls, told = run("tools/kubernetes.sh", "test-kind", without=("docker",))
    assert (ended, calls) == (1, [])
    assert "docker is not installed" in told


@pytest.mark.parametrize(
    ("environment", "text"),
    [({"FOUND": "something"}, "put world, got something"), ({"PUT_CODE": "22"}, "")],
)
def test_a_cluster_that_does_not_serve_fails(environment: dict[str, str], text: str, run: Run) -> None:
    code, calls, told = run("tools/kubernetes.sh", "kind-up", **environment)
    assert code != 0
    assert text in told
    assert not [line for line in calls if " test " in line]


def test_what_is_missing_is_named_before_anything_is_done(run: Run) -> None:
    code, calls, told = run("tools/kubernetes.sh", "kind-up", without=("helm",))
    assert (code, calls) == (1, [])
    assert "helm is not installed" in told
    assert run("tools/kubernetes.sh")[0] == 2

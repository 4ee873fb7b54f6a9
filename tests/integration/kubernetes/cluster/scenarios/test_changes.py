"""What a user changes in a release that runs and holds data: TLS, who decides how many facades there are, the chart.

Each in a release of its own, on a real cluster. Skipped with podman, which has neither helm's upgrades nor controllers.
"""

from __future__ import annotations

import base64
import re
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.http11 import HttpError, Secure, fetch
from integration.kubernetes.cluster.driver import wait_for
from integration.kubernetes.cluster.helm import HELM_S, SMALL, Release, program
from integration.kubernetes.cluster.scenarios.conftest import NewRelease
from integration.kubernetes.cluster.scenarios.judged import judge
from integration.kubernetes.cluster.scenarios.test_procedures import block, typed
from tools.helm_chart import CHART, ROOT
from tools.helm_tools import TOOLS
from tools.version import one_version

Figure = Callable[[str], None]
IMAGES = ("raft-node", "facade")


# -- TLS --------------------------------------------------------------------------------------------------------------


def switch(release: Release, mode: str) -> None:
    """Types what the document says, and waits."""
    script = block("kubectl -n dougdb scale statefulset,deployment")
    # Helm 4 does not change what kubectl has changed.
    others = {"tls.mode=selfSigned": f"tls.mode={mode}", "--reuse-values": "--reuse-values --force-conflicts"}
    typed(release, script, others)
    release.settled()


def trusted(release: Release) -> Secure:
    """What a client needs that trusts the chart's authority."""
    secret = release.json("get", "secret", "dougdb-tls")["data"]
    context = ssl.create_default_context(cadata=base64.b64decode(secret["ca.crt"]).decode())
    return Secure(context, f"dougdb-facade.{release.namespace}.svc")


def answered_in_the_clear(release: Release) -> bool:
    try:
        return fetch(8080, "GET", "/v1/kv/before", host=release.address, timeout_s=15).status == 200
    except HttpError:
        return False


def test_tls_is_switched_on_in_a_running_release_and_off_again(own_release: NewRelease) -> None:
    """With all pods stopped, as the chart insists and the document says; nothing is lost."""
    with own_release("secured") as release:
        release.deploy()
        wait_for(lambda: release.put("before", "x") == 200, HELM_S, "a put")
        refused = release.upgrade("--set", "tls.mode=selfSigned", wait=False)
        assert refused.returncode and "the nodes that run speak plaintext" in refused.stderr, refused.stderr
        switch(release, "selfSigned")
        assert not answered_in_the_clear(release)
        release.secure = trusted(release)
        wait_for(lambda: release.put("secured", "y") == 200, HELM_S, "a put over TLS")
        assert release.get("before") == "x"
        refused = release.upgrade(wait=False)
        assert refused.returncode and "the nodes that run speak TLS" in refused.stderr, refused.stderr
        switch(release, "disabled")
        release.secure = None
        wait_for(lambda: release.put("after", "z") == 200, HELM_S, "a put in the clear")
        assert (release.get("before"), release.get("secured")) == ("x", "y")


# -- autoscaling ------------------------------------------------------------------------------------------------------


def facades(release: Release) -> tuple[int, int]:
    """How many facades there are to be, and how many are ready."""
    found = release.json("get", "deployment/dougdb-facade")
    return found["spec"]["replicas"], found["status"].get("readyReplicas", 0)


def test_an_autoscaler_takes_facades_over_and_gives_them_back_under_load(
    own_release: NewRelease, figure: Figure
) -> None:
    """It begins with as many as there are, and upgrades leave its number alone. Its bounds it keeps without figures."""
    three, scaled = "facade.replicas=3", "facade.replicas=3,facade.autoscaling.enabled=true,facade.autoscaling."
    with own_release("taken-over") as release:
        release.deploy("--set", three)
        wait_for(lambda: release.put("first", "x") == 200, HELM_S, "a put")
        before = release.runs()
        with release.loaded() as report:
            release.deploy("--set", f"{scaled}maxReplicas=5")
            assert facades(release) == (3, 3)
            assert release.runs() == before, "no pod has gone for it"
            for _ in range(2):
                # The second time it is the autoscaler's number that must stay.
                release.deploy("--set", f"{scaled}maxReplicas=5", "--set", "facade.autoscaling.minReplicas=4")
                wait_for(lambda: facades(release) == (4, 4), HELM_S, "the autoscaler's fourth facade")
            refused = release.upgrade("--set", three)
            # The number is the autoscaler's, and Helm 4 asks before it takes it away.
            assert refused.returncode and ".spec.replicas" in refused.stderr, refused.stderr
            release.deploy("--set", three, "--force-conflicts")
            wait_for(lambda: facades(release) == (3, 3), HELM_S, "the number of the values")
        judge(report, figure, "an autoscaler that takes facades over, scales them, and is switched off")
        nodes = [name for name in before if not name.startswith("dougdb-facade")]
        assert {name: release.runs()[name] for name in nodes} == {name: before[name] for name in nodes}


# -- the chart --------------------------------------------------------------------------------------------------------


def git(*words: str) -> bytes:
    run = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, check=False)
    if run.returncode:
        pytest.skip(f"the history of this repository is not here: {run.stderr.decode().strip()}")
    return run.stdout


@pytest.fixture
def chart_before(tmp_path: Path) -> Path:
    """The chart of the version before, as the history of this repository has it."""
    name = CHART.relative_to(ROOT).as_posix()
    changed = git("log", "-1", "--format=%H", "-G^version:", "--", f"{name}/Chart.yaml").decode().strip()
    if not changed:
        pytest.skip("the history of this repository has no earlier version of the chart")
    archive = git("archive", f"{changed}^", name)
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive, check=True)
    return tmp_path / name


def images(release: Release) -> set[str]:
    return {
        pod["spec"]["containers"][0]["image"]
        for component in ("raft-node", "facade")
        for pod in release.pods(component).values()
    }


@pytest.mark.parametrize("helm", ["helm", "helm3"])
def test_a_release_of_the_chart_before_is_upgraded_with_its_values(
    helm: str, own_release: NewRelease, chart_before: Path, figure: Figure
) -> None:
    """`helm upgrade --reuse-values` under load. The images of that version are played by those of this one."""
    called = TOOLS / "bin" / helm
    if not called.exists():
        pytest.skip(f"there is no {helm} among the chart's tools on this platform")
    found = re.search(r'^appVersion: "(.*)"$', (chart_before / "Chart.yaml").read_text(), re.M)
    assert found and found[1] != one_version()
    for image in IMAGES:
        name = f"docker.io/dougdb/{image}"
        program("tag", f"{name}:{one_version()}", f"{name}:{found[1]}")
    waiting = ("--wait", "--timeout", f"{HELM_S}s")
    with own_release(f"before-{helm}") as release:
        values = ("--values", str(chart_before / "values-kind.yaml"), *SMALL)
        run = release.helm("install", "dougdb", str(chart_before), *values, *waiting, program=str(called))
        assert run.returncode == 0, f"{run.stderr}\n{release.shown()}"
        assert images(release) == {f"docker.io/dougdb/{image}:{found[1]}" for image in IMAGES}
        wait_for(lambda: release.put("before", "x") == 200, HELM_S, "a put")
        upgrade = ("upgrade", "dougdb", str(CHART), "--reuse-values", *waiting)
        with release.loaded() as report:
            run = release.helm(*upgrade, program=str(called))
            assert run.returncode == 0, run.stderr
            assert "warning" not in run.stderr.lower(), run.stderr
            release.settled()
        judge(report, figure, f"an upgrade from the chart {found[1]} with {helm}")
        assert images(release) == {f"docker.io/dougdb/{image}:{one_version()}" for image in IMAGES}
        assert release.get("before") == "x"
        runs = release.runs()
        assert release.helm(*upgrade, program=str(called)).returncode == 0
        manifest = release.helm("get", "manifest", "dougdb").stdout
        assert release.kubectl("diff", "--filename", "-", text=manifest) == ""
        assert release.runs() == runs

"""The command line of the one-node Kubernetes.

    python -m tools.kubernetes built | build | extras | up | down | load | install
    python -m tools.kubernetes stop PROGRAM | start PROGRAM | tag IMAGE NAME | exec COMMAND | test [PYTEST]
    python -m tools.kubernetes within SECONDS [PYTEST]

``up`` brings the cluster up; ``load`` builds DougDB's images and gives them to it; ``install`` does both, installs
the chart as a user would, puts and gets a key, and runs the chart's own test. ``exec`` runs a command in the
cluster's network, with its kubectl and KUBECONFIG; ``tag`` gives an image another name. ``test`` brings a cluster up,
runs the scenarios in it and removes it; on a machine where none can run it prints why and passes, or fails with
REQUIRE_KUBERNETES set; ``within`` does the same if there is time for it and for building first. A cluster whose
``test`` was killed is removed by the next of these. ``built`` succeeds if nothing is left to build but ``extras``: a
metrics server and an enforcer of network policies, which ``start`` starts, and the definitions of the Gateway API.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path
from types import FrameType

from tools.helm_chart import CHART
from tools.helm_tools import TOOLS
from tools.kubernetes import build, machine
from tools.kubernetes.layout import Layout
from tools.kubernetes.timely import Timely
from tools.version import one_version

SCENARIOS = "tests/integration/kubernetes/cluster"
IMAGES = ("raft-node", "facade")
IMAGES_FOLDER = "DOUGDB_IMAGES"
"""Names a folder whose archives of both images, ``raft-node.tar`` and ``facade.tar``, are taken; none is built."""
NAMESPACE = "dougdb"
TRY = """
import sys, urllib.request
url, timeout_s = sys.argv[1], float(sys.argv[2])
urllib.request.urlopen(urllib.request.Request(url, b"world", method="PUT"), timeout=timeout_s).read()
assert urllib.request.urlopen(url, timeout=timeout_s).read() == b"world"
"""


def say(text: str) -> None:
    """Prints a line for the user."""
    print(f"kubernetes: {text}", file=sys.stderr, flush=True)


ENDS_WITH_US = ("env", "--default-signal=INT", "setpriv", "--pdeathsig", "INT", "--")
"""Before a command: it is interrupted when this process is killed. In the background of a shell nobody heeds that."""


def run_in(layout: Layout, *words: str) -> int:
    """Runs a command in the cluster's network, with this machine's files; its exit code."""
    path = f"{layout.bin}:{TOOLS / 'bin'}:{os.environ['PATH']}"
    environment = {
        **os.environ,
        "PATH": path,
        "KUBECONFIG": str(layout.kubeconfig),
        # The tests' driver connects directly, not through a pod.
        "DOUGDB_TEST_POD_NETWORK": "1",
    }
    command = machine.enter(layout, words, network_only=True)
    return subprocess.run(command, env=environment, check=False).returncode


def engine() -> str:
    """The program that builds images: ENGINE, or else the one that tools/images.sh would take."""
    reasons = []
    for name in filter(None, (os.environ.get("ENGINE", ""), "podman", "docker")):
        try:
            run = subprocess.run([name, "info"], capture_output=True, text=True, check=False)
        except FileNotFoundError:
            reasons.append(f"{name} is not installed")
            continue
        if run.returncode == 0:
            return name
        reasons.append(f"{name} says: {(run.stderr.strip() or 'nothing').splitlines()[-1]}")
    raise machine.Unfit(f"neither podman nor docker works here, and the images have to be built ({'; '.join(reasons)})")


def prepare_engine() -> None:
    """Lets podman work: its defaults fail on cgroup v1 without the right to raise limits."""
    if not machine.unified():
        os.environ.setdefault("CONTAINERS_CONF", str(machine.ROOT / "tools" / "containers" / "containers.conf"))


def save_images(folder: Path) -> None:
    """Builds both images, and writes an archive of each into a folder."""
    program = engine()
    script = subprocess.run(
        ["sh", "tools/images.sh"], cwd=machine.ROOT, capture_output=True, text=True, check=False,
        env={**os.environ, "ENGINE": program},
    )  # fmt: skip
    if script.returncode:
        raise machine.Unfit(f"the images cannot be built (make base-image): {script.stderr[-1500:].strip()}")
    for name in IMAGES:
        archive = str(folder / f"{name}.tar")
        subprocess.run([program, "save", "--output", archive, image_of(name)], check=True, capture_output=True)


def image_of(name: str) -> str:
    """The name of an image in the cluster."""
    return f"docker.io/dougdb/{name}:{one_version()}"


def load(layout: Layout) -> None:
    """Gives both images to the node; builds them unless there are archives of them."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(os.environ.get(IMAGES_FOLDER) or made)
        if folder == Path(made):
            save_images(folder)
        for name in IMAGES:
            machine.call(layout, "load", str(folder / f"{name}.tar"))
            # The same image as another version, for a scenario that upgrades.
            machine.call(layout, "tag", image_of(name), f"{image_of(name)}-next")


def install(layout: Layout) -> int:
    """Installs the chart, with HELM_ARGS, and tries it."""
    begun_s = time.monotonic()
    helm = ("helm", "upgrade", "--install", "dougdb", str(CHART), "--namespace", NAMESPACE, "--create-namespace")
    limit = ("--timeout", f"{5 * layout.patience}m")
    more = shlex.split(os.environ.get("HELM_ARGS", ""))
    if run_in(layout, *helm, "--values", str(CHART / "values-kind.yaml"), "--wait", *limit, *more):
        return 1
    service = subprocess.run(
        machine.enter(
            layout,
            [
                *(str(layout.bin / "kubectl"), f"--kubeconfig={layout.kubeconfig}", "--namespace", NAMESPACE),
                *("get", "service", "dougdb-facade", "--output", "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}"),
            ],
            network_only=True,
        ),
        capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    url = urllib.parse.urlunsplit(("http", service, "/v1/kv/hello", "", ""))
    if run_in(layout, sys.executable, "-c", TRY, url, str(15 * layout.patience)):
        return 1
    say(f"put and got hello=world through the Service, {time.monotonic() - begun_s:.0f} s after the installation began")
    return run_in(layout, "helm", "test", "dougdb", "--namespace", NAMESPACE, "--logs", *limit)


def clear(layout: Layout) -> None:
    """Takes down the clusters that killed runs have left."""
    for version in machine.clear(layout):
        say(f"removed a cluster of version {version}, which was left behind by what was killed")


def up(layout: Layout, run: int = 0) -> None:
    """Brings the cluster up; for a run of the scenarios, if its pid is given."""
    begun_s = time.monotonic()
    machine.up(layout, run)
    say(f"Kubernetes {layout.version} is up after {time.monotonic() - begun_s:.0f} s")


def scenarios(words: list[str]) -> list[str]:
    """The arguments of pytest: all scenarios, unless a file or folder is named (``-m first_day`` names none)."""
    named = [word for word in words if (machine.ROOT / word.partition("::")[0]).exists()]
    return words if named else [SCENARIOS, *words]


def test(layout: Layout, words: list[str]) -> int:
    """The scenarios in a cluster of their own, which is removed whatever happens."""
    try:
        if reason := machine.taken(layout):
            raise machine.Broken(reason)
        if not os.environ.get(IMAGES_FOLDER):
            engine()
        up(layout, os.getpid())
    except machine.Unfit as unfit:
        say(f"skipped: {unfit}")
        return 1 if os.environ.get("REQUIRE_KUBERNETES") else 0

    def ended(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, ended)
    try:
        load(layout)
        return run_in(layout, *ENDS_WITH_US, sys.executable, "-m", "pytest", *scenarios(words))
    finally:
        machine.down(layout)
        say("the cluster is gone")


def main() -> int:
    """Runs the command line."""
    if len(sys.argv) < 2:
        print(__doc__, file=sys.stderr)
        return 2
    verb, *words = sys.argv[1:]
    prepare_engine()
    try:
        layout = Layout.of()
        if verb in ("up", "install", "test", "within"):
            clear(layout)
        if verb == "built":
            return 1 if build.missing(layout) else 0
        if verb == "build":
            machine.build_missing(layout)
        elif verb == "extras":
            machine.build_extras(layout)
        elif verb == "up":
            up(layout)
        elif verb == "down":
            machine.down(layout)
        elif verb == "load":
            load(layout)
        elif verb == "install":
            up(layout)
            load(layout)
            return install(layout)
        elif verb in ("start", "stop") and len(words) == 1:
            if verb == "start" and words[0] in build.missing_extras(layout):
                raise machine.Broken(f"{words[0]} is not built (python -m tools.kubernetes extras)")
            machine.call(layout, verb, *words)
        elif verb == "tag" and len(words) == 2:
            machine.call(layout, verb, *words)
        elif verb == "exec" and words:
            return run_in(layout, *words)
        elif verb == "within" and words:
            return Timely(layout, float(words[0]), say).test(words[1:])
        elif verb == "test":
            return test(layout, words)
        else:
            print(__doc__, file=sys.stderr)
            return 2
    except (machine.Unfit, machine.Broken, ValueError, subprocess.CalledProcessError) as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

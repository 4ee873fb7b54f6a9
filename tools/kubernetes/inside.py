"""What runs within the cluster's namespaces.

    python -m tools.kubernetes.inside hold | up | start PROGRAM | stop PROGRAM | load FILE | tag IMAGE NAME

``hold`` is process 1 there: it takes in orphans and waits. The others are called into its namespaces; what they start
becomes its child. ``stop`` knows a program by the pid that ``start`` has noted, which is one of this namespace: no
other process of the machine can be meant.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import FrameType

from tools.kubernetes import extras, programs
from tools.kubernetes.files import CONF
from tools.kubernetes.layout import (
    CONTAINERD,
    DNS_ADDRESS,
    NODE,
    NODE_ADDRESS,
    PAUSE,
    RUN,
    SERVICES,
    STATE,
    Layout,
)

PIDS = RUN / "pids"
LINK = "node"
STOP_S = 10.0


def run(*words: str, text: str | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Calls a program."""
    return subprocess.run(words, input=text, capture_output=True, text=True, check=check)


# -- process 1 --------------------------------------------------------------------------------------------------------


def reap(number: int, frame: FrameType | None) -> None:
    """Takes in who has ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def hold() -> None:
    """Stays until it is killed, which ends everything in its namespaces."""
    signal.signal(signal.SIGCHLD, reap)
    while True:
        signal.pause()


# -- programs ---------------------------------------------------------------------------------------------------------


def pid_of(name: str) -> int:
    """The pid of a program that runs, else 0."""
    try:
        pid = int((PIDS / name).read_text())
        os.kill(pid, 0)
    except (OSError, ValueError):
        return 0
    return pid


def start(layout: Layout, name: str) -> None:
    """Starts a program, unless it runs; what it writes goes to a file of its name."""
    if pid_of(name):
        return
    words = programs.command(name, layout)
    with (layout.logs / f"{name}.log").open("ab") as log:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
    (PIDS / name).write_text(str(process.pid))


def stop(name: str) -> None:
    """Ends a program, by force if it does not end by itself."""
    pid = pid_of(name)
    if not pid:
        return
    os.kill(pid, signal.SIGTERM)
    ends_s = time.monotonic() + STOP_S
    while pid_of(name):
        if time.monotonic() > ends_s:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    (PIDS / name).unlink()


def wait_for(layout: Layout, name: str, condition: Callable[[], bool], seconds: float) -> None:
    """Waits until a program is ready.

    Raises:
        TimeoutError: It is not, or it has ended; the message has the end of its log.
    """
    limit_s = seconds * layout.patience
    ends_s = time.monotonic() + limit_s
    while not condition():
        if time.monotonic() > ends_s or not pid_of(name):
            log = (layout.logs / f"{name}.log").read_text(errors="replace")
            raise TimeoutError(f"{name} is not ready within {limit_s:g} s, or has ended:\n{log[-3000:]}")
        # To look may start a program, which a slow machine must not do all the time.
        time.sleep(0.2 * layout.patience)


# -- the cluster ------------------------------------------------------------------------------------------------------


def prepare(layout: Layout) -> None:
    """Mounts and links. All of them are the namespaces' own."""
    # The kubelet wants mounts that are shared with containers; the machine's own tree is not touched by that.
    run("mount", "--make-rshared", "/")
    # Sockets, locks and network namespaces of pods vanish with it.
    run("mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", str(RUN))
    for folder in (STATE, PIDS, RUN / "lock", RUN / "netns"):
        folder.mkdir()
    run("mount", "--bind", str(layout.state), str(STATE))
    run("ip", "link", "set", "lo", "up")
    # A bridge without ports holds the node's addresses: there may be no dummy interface in the kernel.
    run("ip", "link", "add", LINK, "type", "bridge")
    run("ip", "link", "set", LINK, "up")
    for address in (NODE_ADDRESS, DNS_ADDRESS):
        run("ip", "address", "add", f"{address}/32", "dev", LINK)
    # A Service's address leads to a pod only after it was routed; there is no default route that would do.
    run("ip", "route", "add", SERVICES, "dev", LINK, "src", NODE_ADDRESS)
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


def pause_archive(program: Path) -> bytes:
    """An image of one layer with one program, as an archive that containerd imports."""

    def packed(files: dict[str, tuple[bytes, int]]) -> bytes:
        buffer = io.BytesIO()
        with tarfile.open(fileobj=buffer, mode="w") as archive:
            for name, (content, mode) in files.items():
                entry = tarfile.TarInfo(name)
                entry.size, entry.mode = len(content), mode
                archive.addfile(entry, io.BytesIO(content))
        return buffer.getvalue()

    layer = packed({"pause": (program.read_bytes(), 0o755)})
    architecture = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    config = {
        "architecture": architecture,
        "os": "linux",
        "config": {"Entrypoint": ["/pause"], "User": "65535:65535"},
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha256(layer).hexdigest()}"]},
    }
    manifest = [{"Config": "config.json", "RepoTags": [PAUSE], "Layers": ["layer.tar"]}]
    return packed(
        {
            "manifest.json": (json.dumps(manifest).encode(), 0o644),
            "config.json": (json.dumps(config).encode(), 0o644),
            "layer.tar": (layer, 0o644),
        }
    )


def ctr(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Calls containerd's client."""
    return run("ctr", "--address", str(CONTAINERD), "--namespace", "k8s.io", *words, check=check)


def load(archive: Path) -> None:
    """Gives images to the node."""
    ctr("images", "import", str(archive))


def kubectl(layout: Layout, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Calls kubectl as the administrator."""
    return run(str(layout.bin / "kubectl"), f"--kubeconfig={CONF}/admin.kubeconfig", *words, check=check)


def answers(url: str) -> bool:
    """Whether a URL is answered with success."""
    try:
        # An address of this machine, made here.
        with urllib.request.urlopen(url, timeout=1):  # nosec B310
            return True
    except (urllib.error.URLError, OSError):
        return False


def node_is_ready(layout: Layout) -> bool:
    """Whether the kubelet has said so."""
    path = "jsonpath={.status.conditions[?(@.type=='Ready')].status}"
    return kubectl(layout, "get", "node", NODE, "--output", path, check=False).stdout == "True"


def up(layout: Layout) -> None:
    """Starts every program in order."""
    prepare(layout)
    start(layout, "etcd")
    start(layout, "containerd")
    start(layout, "kube-apiserver")
    wait_for(layout, "containerd", lambda: ctr("version", check=False).returncode == 0, 60)
    with tempfile.NamedTemporaryFile(suffix=".tar") as file:
        file.write(pause_archive(layout.bin / "pause"))
        file.flush()
        load(Path(file.name))
    ready = ("get", "--raw", "/readyz")
    wait_for(layout, "kube-apiserver", lambda: kubectl(layout, *ready, check=False).returncode == 0, 180)
    start(layout, "kube-controller-manager")
    start(layout, "kube-scheduler")
    objects = Path(__file__).with_name("cluster.yaml")
    applied = kubectl(layout, "apply", "--server-side", "--filename", str(objects), check=False)
    if applied.returncode:
        raise RuntimeError(f"the API server does not take {objects}: {applied.stderr}")
    start(layout, "kubelet")
    start(layout, "kube-proxy")
    start(layout, "coredns")
    start(layout, "folders")
    wait_for(layout, "kubelet", lambda: node_is_ready(layout), 120)
    wait_for(layout, "coredns", lambda: answers(f"http://{DNS_ADDRESS}:8181/ready"), 60)
    # A namespace without its account would refuse the first pod.
    account = ("get", "serviceaccount", "default", "--namespace", "default")
    wait_for(layout, "kube-controller-manager", lambda: not kubectl(layout, *account, check=False).returncode, 60)


# -- what is there for a while ---------------------------------------------------------------------------------------


def begin(layout: Layout, name: str) -> None:
    """Starts a program, and lets the cluster know it if it is one that is there only for a while.

    Raises:
        FileNotFoundError: It is not built.
    """
    start(layout, name)
    wait_for(layout, name, lambda: extras.listens(name), 60)
    if path := extras.objects(name):
        kubectl(layout, "apply", "--server-side", "--filename", str(path))
    for rule in extras.rules(name):
        run("iptables", "--wait", "--insert", *rule)


def end(layout: Layout, name: str) -> None:
    """Takes back what ``begin`` did."""
    for rule in extras.rules(name):
        run("iptables", "--wait", "--delete", *rule, check=False)
    if path := extras.objects(name):
        kubectl(layout, "delete", "--ignore-not-found", "--filename", str(path))
    stop(name)


def main() -> None:
    """Runs the command line; errors are for ``tools.kubernetes.machine`` to show."""
    verb, *words = sys.argv[1:]
    layout = Layout.of()
    for name in ("iptables", "ip", "mount", "ctr"):
        assert shutil.which(name), name
    if verb == "hold":
        hold()
    elif verb == "up":
        up(layout)
    elif verb == "start":
        begin(layout, words[0])
    elif verb == "stop":
        end(layout, words[0])
    elif verb == "load":
        load(Path(words[0]))
    elif verb == "tag":
        ctr("images", "tag", "--force", *words)
    else:
        raise ValueError(verb)


if __name__ == "__main__":
    main()

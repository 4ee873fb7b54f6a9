"""Makes and removes the namespaces of the cluster, and calls into them. Needs root.

Invariants:
    1. One holder at a time for a layout; it is known by its pid and its start, so that no other process is ever meant.
       So is the run that a cluster was made for, if it was made for one: once that has ended, the cluster is nobody's.
    2. ``down`` may be called in any state and as often as one likes. Afterwards no process, mount, link, packet filter,
       cgroup or changed setting is left, and of the files only the programs and the logs of the last cluster.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from tools.kubernetes import build, files
from tools.kubernetes.layout import GROUP, Layout

ROOT = Path(__file__).resolve().parent.parent.parent
NEEDED = {
    "etcd": "etcd-server",
    "containerd": "containerd",
    "ctr": "containerd",
    "containerd-shim-runc-v2": "containerd",
    "runc": "runc",
    "iptables": "iptables",
    "ip": "iproute2",
    "unshare": "util-linux",
    "nsenter": "util-linux",
    "setpriv": "util-linux",
    "mount": "mount",
}
"""Programs that are not built here, and Debian's package of each."""
PLUGINS = ("ptp", "portmap", "host-local", "loopback")
GROUPS = Path("/sys/fs/cgroup")
CONTROLLERS_V1 = ("cpu", "cpuacct", "cpuset", "memory", "pids")
CONTROLLERS_V2 = ("cpu", "cpuset", "hugetlb", "memory", "pids")
"""All that the kubelet uses: it refuses a cgroup that lacks one which the kernel has."""
NEEDED_V2 = ("cpu", "memory", "pids")
"""Those without which it cannot do; a kernel for one processor has no cpuset."""
HANDED_DOWN = "cgroup.subtree_control"
WEIGHTS = {"cpu.shares": "10240", "cpu.weight": "1000"}
"""The pods' share of the processors, with cgroup v1 and v2: as much as ten processes beside them.

A group weighs as much as one process by default. On a machine where others work, a cluster of that weight cannot start
a program within minutes, and its probes end what is still starting.
"""
SYSCTLS = (
    *("vm/overcommit_memory", "vm/panic_on_oom"),
    *("kernel/panic", "kernel/panic_on_oops", "kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"),
)
"""What the kubelet sets for the whole machine."""
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
GONE_S = 60.0


class Unfit(Exception):  # noqa: N818 - it is no failure: a test is skipped with this as the reason
    """This machine cannot run the cluster; the message says what is missing."""


class Broken(Exception):  # noqa: N818 - read as a word: the cluster is broken
    """The cluster did not come up, or something in it failed."""


def unfit(layout: Layout) -> str:
    """Why the cluster cannot run here; empty when it can."""
    if sys.platform != "linux":
        return f"a Kubernetes node needs Linux, this is {sys.platform}"
    if os.geteuid():
        return "namespaces, mounts and cgroups need root"
    packages = sorted({package for name, package in NEEDED.items() if shutil.which(name, path=PATH) is None})
    lacking = [name for name in PLUGINS if not (files.CNI_PLUGINS / name).exists()]
    if lacking:
        packages.append("containernetworking-plugins")
    if packages:
        return f"programs are missing (Debian: {' '.join(packages)})"
    if not unified() and [name for name in CONTROLLERS_V1 if not (GROUPS / name).is_dir()]:
        return f"{GROUPS} has neither cgroup v2 nor the controllers {', '.join(CONTROLLERS_V1)} of v1"
    if unified() and not set(NEEDED_V2) <= _words(GROUPS / "cgroup.controllers"):
        return f"{GROUPS} lacks some of the controllers {', '.join(NEEDED_V2)}"
    if not has_overlay():
        return "the kernel has no overlay file system"
    if other := _other(layout):
        return f"a cluster of version {other.version} runs here (KUBERNETES_VERSION={other.version} make kube-down)"
    probe = subprocess.run([*UNSHARE, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        return f"no namespaces can be made here: {probe.stderr.strip()}"
    if build.missing(layout) and build.find_go() is None:
        return f"Kubernetes is not built in {layout.bin}, and there is no Go to build it with"
    return ""


def has_overlay(listed: Path = Path("/proc/filesystems"), load: Sequence[str] = ("modprobe", "overlay")) -> bool:
    """Whether containerd can stack layers. A kernel lists a file system that is a module only once it was used."""

    def is_listed() -> bool:
        return "\toverlay\n" in listed.read_text()

    if not is_listed():
        with contextlib.suppress(FileNotFoundError):
            subprocess.run(load, capture_output=True, check=False)
    return is_listed()


def _noted(layout: Layout) -> list[Layout]:
    """The layouts, of whatever version, that have the note of a holder: their clusters run, or have left something."""
    notes = sorted(layout.root.parent.glob("*/holder.json"))
    return [dataclasses.replace(layout, root=note.parent, version=note.parent.name) for note in notes]


def _other(layout: Layout) -> Layout | None:
    """Another version whose cluster runs. They would share the cgroup and the kubelet's settings."""
    return next((other for other in _noted(layout) if other.root != layout.root and holder(other)), None)


UNSHARE = (
    *("unshare", "--net", "--mount", "--pid", "--ipc", "--fork", "--kill-child", "--mount-proc"),
    *("--propagation", "private"),
)
"""The options of unshare. With --kill-child the end of the outer process ends the inner one, and so everything."""


def unified() -> bool:
    """Whether this machine has cgroup v2."""
    return (GROUPS / "cgroup.controllers").exists()


def _words(path: Path) -> set[str]:
    """The words of a file of cgroups; none if it cannot be read."""
    try:
        return set(path.read_text().split())
    except OSError:
        return set()


# -- the holder -------------------------------------------------------------------------------------------------------


def _stat(pid: int) -> list[str]:
    """The fields of a process from its state on; empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _started(pid: int) -> str:
    """When a process was started, in ticks; empty if there is no such process, or only a zombie of it."""
    fields = _stat(pid)
    return fields[19] if fields and fields[0] != "Z" else ""


def _child(pid: int) -> int:
    """The pid of the only child of a process; 0 if it has none."""
    children = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    found = [child for child in children if _stat(child)[1:2] == [str(pid)]]
    return found[0] if found else 0


def _note(layout: Layout) -> dict[str, str]:
    try:
        note: dict[str, str] = json.loads((layout.root / "holder.json").read_text())
    except FileNotFoundError:
        return {}
    return note


def holder(layout: Layout) -> int:
    """The pid of the process that holds the namespaces; 0 if there is none."""
    note = _note(layout)
    pid = int(note.get("pid", 0))
    return pid if pid and _started(pid) == note["started"] else 0


def owner(layout: Layout) -> int:
    """The pid of the run that a cluster was made for; 0 if it was made for none, or if that run has ended."""
    note = _note(layout)
    pid = int(note.get("owner", 0))
    return pid if pid and _started(pid) == note["owner_started"] else 0


def taken(layout: Layout) -> str:
    """Whose cluster runs here; empty if none does."""
    if not holder(layout):
        return ""
    if busy := owner(layout):
        return f"process {busy} runs the scenarios in the cluster that is here, and removes it at its end"
    return "another cluster runs here (make kube-down)"


def _is_left(layout: Layout) -> bool:
    """Whether nobody wants what is there: the cluster has ended without being removed, or its run has."""
    return not holder(layout) or ("owner" in _note(layout) and not owner(layout))


def clear(layout: Layout) -> list[str]:
    """Removes the clusters, of whatever version, whose runs were killed, and what is left of killed clusters.

    Those of runs that go on stay, and so do those that ``kube-up`` has made, which are for nobody but the user to end.

    Returns:
        The versions that were removed.

    Raises:
        Broken: A process did not end.
    """
    if sys.platform != "linux" or os.geteuid():
        return []
    left = [one for one in _noted(layout) if _is_left(one)]
    for one in left:
        down(one)
    return [one.version for one in left]


def _environment(layout: Layout) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{layout.bin}:{PATH}",
        "PYTHONPATH": str(ROOT),
        "KUBECONFIG": str(layout.kubeconfig),
        "KUBERNETES_VERSION": layout.version,
        "DOUGDB_KUBERNETES": str(layout.root.parent),
    }


def enter(layout: Layout, words: Sequence[str], *, network_only: bool = False) -> list[str]:
    """A command line that runs another one within the namespaces.

    Args:
        layout: The layout of the cluster.
        words: The command and its arguments.
        network_only: Whether it sees this machine's files and processes, as a test must.

    Raises:
        Broken: No cluster runs.
    """
    pid = holder(layout)
    if not pid:
        raise Broken("no cluster runs here (make kube-up)")
    spaces = ["--net"] if network_only else ["--net", "--mount", "--pid", "--ipc"]
    return ["nsenter", "--target", str(pid), *spaces, "--", *words]


def call(layout: Layout, *words: str) -> None:
    """Runs a verb of ``tools.kubernetes.inside``.

    Raises:
        Broken: The verb failed; the message has its output.
    """
    inside = enter(layout, [sys.executable, "-m", "tools.kubernetes.inside", *words])
    run = subprocess.run(inside, env=_environment(layout), cwd=ROOT, capture_output=True, text=True, check=False)
    if run.returncode:
        raise Broken(f"{' '.join(words)}: {run.stderr[-4000:].strip()}")


# -- up and down ------------------------------------------------------------------------------------------------------


def build_missing(layout: Layout) -> None:
    """Builds the missing programs."""
    go = build.find_go()
    if build.missing(layout) and go:
        build.Builder(layout, go).build()


def build_extras(layout: Layout) -> None:
    """Builds the missing extras, unless no cluster can run here, which ``up`` says."""
    go = build.find_go()
    if go and not unfit(layout):
        build.Builder(layout, go).build_extras()


def up(layout: Layout, run: int = 0) -> None:
    """Brings the cluster up; does nothing if it runs.

    Args:
        layout: The layout of the cluster.
        run: The pid of the run that it is for: once that has ended, the cluster may be removed by anybody. 0: it stays.

    Raises:
        Unfit: A cluster cannot run on this machine.
        Broken: The cluster did not come up, and its remains are removed; or the one that runs is that of another run.
    """
    if holder(layout):
        if owner(layout):
            raise Broken(taken(layout))
        return
    if reason := unfit(layout):
        raise Unfit(reason)
    down(layout)
    build_missing(layout)
    shutil.rmtree(layout.logs, ignore_errors=True)
    layout.logs.mkdir(parents=True)
    layout.state.mkdir()
    files.write_all(layout)
    settings = {name: Path("/proc/sys", name).read_text() for name in SYSCTLS if Path("/proc/sys", name).exists()}
    (layout.root / "sysctls.json").write_text(json.dumps(settings))
    (layout.root / "controllers").write_text(" ".join(_words(GROUPS / HANDED_DOWN)))
    try:
        make_group()
    except OSError as error:
        # A container may show a tree that it must not change.
        down(layout)
        raise Unfit(f"no cgroup for the pods can be made here: {error}") from error
    with (layout.logs / "holder.log").open("ab") as log:
        outer = subprocess.Popen(
            [*UNSHARE, sys.executable, "-m", "tools.kubernetes.inside", "hold"],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            env=_environment(layout),
            cwd=ROOT,
            start_new_session=True,
        )
    try:
        _note_holder(layout, outer, run)
        call(layout, "up")
    except BaseException:
        # The outer process is a child of this one: it must be reaped, or it would seem to be there.
        outer.kill()
        outer.wait()
        down(layout)
        raise


def _note_holder(layout: Layout, outer: subprocess.Popen[bytes], run: int) -> None:
    ends_s = time.monotonic() + GONE_S
    while not (pid := _child(outer.pid)):
        if outer.poll() is not None or time.monotonic() > ends_s:
            raise Broken(f"no namespaces: {(layout.logs / 'holder.log').read_text()[-2000:]}")
        time.sleep(0.02)
    note = {"pid": str(pid), "started": _started(pid)}
    if run:
        note |= {"owner": str(run), "owner_started": _started(run)}
    (layout.root / "holder.json").write_text(json.dumps(note))


def down(layout: Layout) -> None:
    """Ends the cluster and removes all of it.

    Raises:
        Broken: A process did not end.
    """
    pid = holder(layout)
    if pid:
        os.kill(pid, signal.SIGKILL)
        ends_s = time.monotonic() + GONE_S
        # The kernel ends process 1 once all other processes of its namespace have ended.
        while holder(layout):
            if time.monotonic() > ends_s:
                raise Broken(f"process {pid} does not end")
            time.sleep(0.05)
    if _other(layout) is None:
        # With it they are that one's.
        _remove_group()
        _take_back(layout)
        with contextlib.suppress(FileNotFoundError):
            for name, value in json.loads((layout.root / "sysctls.json").read_text()).items():
                Path("/proc/sys", name).write_text(value)
    for name in ("sysctls.json", "controllers", "holder.json"):
        (layout.root / name).unlink(missing_ok=True)
    shutil.rmtree(layout.state, ignore_errors=True)


def _group_folders() -> list[Path]:
    """The possible folders of the cgroup: with v1 in each controller's tree, and in that of v2, where runc makes it."""
    if unified():
        return [GROUPS / GROUP]
    # A folder that is a link to another (cpu to cpu,cpuacct) counts once.
    return sorted({path.resolve() / GROUP for path in GROUPS.iterdir() if path.is_dir()})


def make_group() -> None:
    """Makes the cgroup in which the kubelet makes those of the pods."""
    wanted = set(CONTROLLERS_V2) & _words(GROUPS / "cgroup.controllers")
    hand_down = " ".join(f"+{name}" for name in sorted(wanted))
    if unified():
        # A group has only the controllers that its parent hands down.
        (GROUPS / HANDED_DOWN).write_text(hand_down)
    for folder in _group_folders():
        folder.mkdir(exist_ok=True)
        if unified():
            (folder / HANDED_DOWN).write_text(hand_down)
        for name, weight in WEIGHTS.items():
            if (folder / name).exists():
                (folder / name).write_text(weight)


def _take_back(layout: Layout) -> None:
    """Has the root cgroup of v2 hand down what it did before the cluster was there.

    With the first container runc has every group above it hand down all that there is, whether or not it is used.
    """
    note = layout.root / "controllers"
    if not note.exists():
        return
    for name in sorted(_words(GROUPS / HANDED_DOWN) - _words(note)):
        # Somebody else may have begun to use it.
        with contextlib.suppress(OSError):
            (GROUPS / HANDED_DOWN).write_text(f"-{name}")


def _remove_group() -> None:
    for folder in _group_folders():
        for path, _, _ in os.walk(folder, topdown=False):
            ends_s = time.monotonic() + 10
            while True:
                try:
                    Path(path).rmdir()
                except FileNotFoundError:
                    break
                except OSError as error:
                    # Its last process is just ending.
                    if time.monotonic() > ends_s:
                        raise Broken(f"the cgroup {path} cannot be removed: {error}") from error
                    time.sleep(0.05)
                else:
                    break

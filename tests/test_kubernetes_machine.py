"""Whether a machine can run the one-node Kubernetes, and what is left as it was where it cannot. None is started."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from tools.kubernetes import build, machine
from tools.kubernetes.__main__ import ENDS_WITH_US
from tools.kubernetes.layout import GROUP, Layout

HANDED_DOWN = "cgroup.subtree_control"


def layout_in(folder: Path, **environment: str) -> Layout:
    return Layout.of({"DOUGDB_KUBERNETES": str(folder), **environment})


def fit_machine(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    """Has whatever a cluster needs seem to be there."""
    layout.bin.mkdir(parents=True)
    for name in build.missing(layout):
        (layout.bin / name).touch(mode=0o755)
    groups = layout.root.parent / "no-groups"
    groups.mkdir()
    # Nothing of this machine is looked at, and above all nothing is changed.
    monkeypatch.setattr(machine, "GROUPS", groups)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "NEEDED", {})
    monkeypatch.setattr(machine, "PLUGINS", ())
    monkeypatch.setattr(machine, "CONTROLLERS_V1", ())
    monkeypatch.setattr(machine, "UNSHARE", ("env",))
    monkeypatch.setattr(machine, "SYSCTLS", ())
    monkeypatch.setattr(machine, "has_overlay", lambda: True)


def test_a_file_system_that_is_a_module_is_loaded_before_it_is_missed(tmp_path: Path) -> None:
    listed = tmp_path / "filesystems"
    for text, load, found in (
        ("nodev\toverlay\n", ("false",), True),
        ("nodev\ttmpfs\n", ("sh", "-c", f"printf 'nodev\\toverlay\\n' >> {listed}"), True),
        ("nodev\ttmpfs\n", ("false",), False),
        ("nodev\ttmpfs\n", (str(tmp_path / "no-such-program"),), False),
    ):
        listed.write_text(text)
        assert machine.has_overlay(listed, load) is found, (text, load)


def test_a_cluster_of_another_version_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their cgroup is one, and the settings that come back later would be those of the other's kubelet."""
    layout, other = layout_in(tmp_path), layout_in(tmp_path, KUBERNETES_VERSION="1.35.0")
    fit_machine(layout, monkeypatch)
    other.root.mkdir(parents=True)
    started = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    note = other.root / "holder.json"
    note.write_text(json.dumps({"pid": str(os.getpid()), "started": "1"}))
    assert machine.unfit(layout) == ""
    note.write_text(json.dumps({"pid": str(os.getpid()), "started": started}))
    assert "a cluster of version 1.35.0 runs here" in machine.unfit(layout)
    with pytest.raises(machine.Unfit, match=r"KUBERNETES_VERSION=1\.35\.0 make kube-down"):
        machine.up(layout)


# -- what killed runs leave -------------------------------------------------------------------------------------------


class Processes:
    """The processes of a machine that is none; who is killed has ended at once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: dict[int, str] = {}
        monkeypatch.setattr(machine, "_started", lambda pid: self.started.get(pid, ""))
        monkeypatch.setattr(os, "kill", lambda pid, number: self.started.pop(pid))


HOLDER, RUN = 4711, 4700


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    return Processes(monkeypatch)


def noted(layout: Layout, processes: Processes, run: int = 0) -> None:
    """A cluster that runs, made for a run of the scenarios if one is given."""
    processes.started |= {HOLDER: "100"} | ({run: "90"} if run else {})
    layout.state.mkdir(parents=True)
    note = {"pid": str(HOLDER), "started": "100"}
    (layout.root / "holder.json").write_text(
        json.dumps(note | ({"owner": str(run), "owner_started": "90"} if run else {}))
    )


@pytest.mark.parametrize("version", ["1.34.4", "1.35.0"])
@pytest.mark.parametrize(
    ("run", "now", "left"),
    [
        (RUN, {HOLDER: "100"}, True),
        (RUN, {HOLDER: "100", RUN: "4000"}, True),
        (RUN, {HOLDER: "100", RUN: "90"}, False),
        (RUN, {RUN: "90"}, True),
        (0, {HOLDER: "100"}, False),
        (0, {HOLDER: "4000"}, True),
    ],
    ids=["killed", "killed, its pid is another's", "goes on", "goes on without its cluster", "of nobody", "was killed"],
)
def test_the_cluster_of_a_run_that_was_killed_is_removed_and_no_other(
    version: str,
    run: int,
    now: dict[int, str],
    left: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    processes: Processes,
) -> None:
    """Whichever version the next run has: it would be skipped for good, since nobody else ends that cluster."""
    layout, other = layout_in(tmp_path), layout_in(tmp_path, KUBERNETES_VERSION=version)
    fit_machine(layout, monkeypatch)
    noted(other, processes, run)
    processes.started = dict(now)
    assert machine.clear(layout) == ([version] if left else [])
    assert other.state.exists() is not left
    assert processes.started == {pid: at for pid, at in now.items() if not (left and (pid, at) == (HOLDER, "100"))}
    assert bool(machine.taken(layout) or machine.unfit(layout)) is not left
    assert machine.clear(layout) == []


def test_nobody_else_gets_the_cluster_of_a_run_that_goes_on(tmp_path: Path, processes: Processes) -> None:
    layout = layout_in(tmp_path)
    noted(layout, processes, RUN)
    assert machine.owner(layout) == RUN
    assert machine.taken(layout).startswith(f"process {RUN} runs the scenarios")
    with pytest.raises(machine.Broken, match=f"process {RUN} runs the scenarios"):
        machine.up(layout)
    (layout.root / "holder.json").unlink()
    layout.state.rmdir()
    noted(layout, processes)
    assert machine.taken(layout) == "another cluster runs here (make kube-down)"
    machine.up(layout)


def test_only_root_removes_anything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes) -> None:
    layout = layout_in(tmp_path)
    noted(layout, processes, RUN)
    del processes.started[RUN]
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert machine.clear(layout) == []
    assert processes.started == {HOLDER: "100"}


def test_what_is_left_of_one_version_goes_without_the_cgroup_that_another_uses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, processes: Processes
) -> None:
    """Its pods are in it, and the machine's settings are those of its kubelet."""
    layout, other = layout_in(tmp_path / "cache"), layout_in(tmp_path / "cache", KUBERNETES_VERSION="1.35.0")
    noted(other, processes)
    layout.state.mkdir(parents=True)
    group = tmp_path / "groups" / "memory" / GROUP
    group.mkdir(parents=True)
    monkeypatch.setattr(machine, "GROUPS", tmp_path / "groups")
    setting = tmp_path / "overcommit_memory"
    setting.write_text("1")
    (layout.root / "sysctls.json").write_text(json.dumps({str(setting): "0"}))
    machine.down(layout)
    assert (group.exists(), setting.read_text(), layout.state.exists()) == (True, "1", False)
    machine.down(other)
    assert not group.exists()


WAITS = """
import signal
signal.alarm(60)
try:
    print("began", flush=True)
    signal.pause()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_what_a_killed_run_was_doing_in_its_cluster_is_interrupted() -> None:
    """Also where the run is in the background of a shell, in which interrupts are ignored from the start."""
    code = f"import subprocess; subprocess.run({[*ENDS_WITH_US, sys.executable, '-c', WAITS]!r})"
    command = f"trap '' INT; exec {shlex.join([sys.executable, '-c', code])}"
    with subprocess.Popen(["sh", "-c", command], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stdout.readline() == "began\n"
        run.kill()
        assert run.stdout.read() == "interrupted\n"


def test_a_machine_whose_cgroups_cannot_be_changed_is_told_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: a reason to skip the tests, not to fail them."""
    layout = layout_in(tmp_path / "cache")
    fit_machine(layout, monkeypatch)
    groups = tmp_path / "groups"
    (groups / HANDED_DOWN).mkdir(parents=True)
    (groups / "cgroup.controllers").write_text(" ".join(machine.CONTROLLERS_V2))
    monkeypatch.setattr(machine, "GROUPS", groups)
    with pytest.raises(machine.Unfit, match="no cgroup for the pods can be made here"):
        machine.up(layout)
    assert {path.name for path in layout.root.iterdir()} == {"bin", "logs"}
    assert {path.name for path in groups.iterdir()} == {"cgroup.controllers", HANDED_DOWN}


def unified_groups(folder: Path, monkeypatch: pytest.MonkeyPatch, has: str, hands_down: str) -> Path:
    """The tree of cgroup v2; a file keeps what was written last, where the kernel would add and remove words."""
    folder.mkdir()
    (folder / "cgroup.controllers").write_text(has)
    (folder / HANDED_DOWN).write_text(hands_down)
    monkeypatch.setattr(machine, "GROUPS", folder)
    return folder


@pytest.mark.parametrize(
    ("has", "told"),
    [
        # Debian's kernel: the kubelet refuses a cgroup without hugetlb if the kernel has it.
        ("cpuset cpu io memory hugetlb pids rdma misc", {"+cpu", "+cpuset", "+hugetlb", "+memory", "+pids"}),
        # One processor, no huge pages: the kernel refuses the whole line if one word of it is unknown.
        ("cpu io memory pids", {"+cpu", "+memory", "+pids"}),
    ],
)
def test_the_pods_get_every_controller_of_the_kubelet_that_the_kernel_has(
    has: str, told: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = unified_groups(tmp_path / "groups", monkeypatch, has, "")
    machine.make_group()
    assert set((groups / HANDED_DOWN).read_text().split()) == told
    assert set((groups / GROUP / HANDED_DOWN).read_text().split()) == told


def test_only_controllers_without_which_the_kubelet_cannot_do_are_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_in(tmp_path / "cache")
    fit_machine(layout, monkeypatch)
    groups = unified_groups(tmp_path / "groups", monkeypatch, "cpu io memory pids", "")
    assert machine.unfit(layout) == ""
    (groups / "cgroup.controllers").write_text("cpu cpuset io pids")
    assert "lacks some of the controllers cpu, memory, pids" in machine.unfit(layout)


class Kernel:
    """The root's file of controllers as the kernel has it: words are added and removed, and some are in use."""

    def __init__(self, file: Path, used: str) -> None:
        self.file, self.used = file, used.split()
        self.write = Path.write_text

    def take(self, path: Path, text: str) -> int:
        if path.parent.name == GROUP:
            # Files of a cgroup are no obstacle to its removal, those of a test would be one.
            return 0
        if path != self.file:
            return self.write(path, text)
        words = self.file.read_text().split()
        for word in text.split():
            name = word[1:]
            if word == f"-{name}" and name in self.used:
                raise OSError(16, "Device or resource busy")
            words = [*(one for one in words if one != name), *([name] if word[0] == "+" else [])]
        return self.write(path, " ".join(words))


@pytest.mark.parametrize(("used", "after"), [("", "memory pids"), ("cpu", "cpu memory pids")])
def test_the_root_hands_down_what_it_did_before(
    used: str, after: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Save what somebody else began to use in the meantime."""
    layout = layout_in(tmp_path / "cache")
    fit_machine(layout, monkeypatch)
    every = "cpuset cpu io memory hugetlb pids rdma misc"
    groups = unified_groups(tmp_path / "groups", monkeypatch, every, "memory pids")
    kernel = Kernel(groups / HANDED_DOWN, used)

    def write(path: Path, text: str) -> int:
        return kernel.take(path, text)

    monkeypatch.setattr(Path, "write_text", write)
    # Namespaces could be made, but what is to hold them ends; before, runc hands down all there is.
    runc = f"echo {every} >{groups / HANDED_DOWN}; exit 1"
    monkeypatch.setattr(machine, "UNSHARE", ("sh", "-c", f'[ "$0" = true ] || {{ {runc}; }}'))
    with pytest.raises(machine.Broken, match="no namespaces"):
        machine.up(layout)
    assert sorted((groups / HANDED_DOWN).read_text().split()) == after.split()
    assert {path.name for path in layout.root.iterdir()} == {"bin", "logs"}

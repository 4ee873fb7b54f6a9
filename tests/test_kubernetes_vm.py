"""The virtual machine with cgroup v2 alone, and what is looked at in it, without starting it."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tools.kubernetes import __main__ as tool
from tools.kubernetes import build, machine, trial, vm
from tools.kubernetes.layout import Layout


def layout_in(folder: Path) -> Layout:
    return Layout.of({"DOUGDB_KUBERNETES": str(folder)})


def test_a_machine_that_cannot_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_in(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in vm.unfit(layout)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(vm, "NEEDED", {"no-such-program": "its-package", "no-other": "its-package"})
    assert vm.unfit(layout) == "programs are missing (Debian: its-package)"
    monkeypatch.setattr(vm, "NEEDED", {})
    monkeypatch.setattr(build, "find_go", lambda: None)
    assert "Kubernetes is not built" in vm.unfit(layout)
    layout.bin.mkdir(parents=True)
    for name in build.missing(layout):
        (layout.bin / name).touch(mode=0o755)
    assert vm.unfit(layout) == ""


@pytest.mark.parametrize(("required", "code"), [("", 0), ("1", 1)])
def test_it_is_skipped_there_or_fails_where_it_must_run(
    required: str,
    code: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("DOUGDB_KUBERNETES", str(tmp_path))
    monkeypatch.setenv("REQUIRE_KUBERNETES", required)
    monkeypatch.setattr(vm, "unfit", lambda _: "there is no root")
    assert vm.main() == code
    assert capsys.readouterr().err == "kubernetes: skipped: there is no root\n"


def test_it_is_skipped_where_debians_kernel_cannot_be_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def offline(folder: Path) -> None:
        raise subprocess.CalledProcessError(100, ["apt-get", "download"])

    layout = layout_in(tmp_path)
    layout.bin.mkdir(parents=True)
    for name in build.missing(layout):
        (layout.bin / name).touch(mode=0o755)
    monkeypatch.setenv("DOUGDB_KUBERNETES", str(tmp_path))
    monkeypatch.delenv("REQUIRE_KUBERNETES", raising=False)
    monkeypatch.setattr(vm, "unfit", lambda _: "")
    monkeypatch.setattr(vm, "make_kernel", offline)
    monkeypatch.setattr(sys, "argv", ["vm"])
    assert vm.main() == 0
    assert "skipped: Debian's kernel cannot be had" in capsys.readouterr().err


def test_the_trial_has_the_programs_of_this_machine_and_writes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_in(tmp_path)
    monkeypatch.setenv("PATH", "/a folder/bin:/bin")
    lines = vm.script(layout, ["-m", "first_day"]).splitlines()
    assert "export PATH='/a folder/bin:/bin'" in lines
    assert "export DOUGDB_KUBERNETES=/disk/kubernetes" in lines
    assert "export DOUGDB_IMAGES=/disk/kubernetes/images" in lines
    assert shlex.split(lines[-2]) == [sys.executable, "-m", "tools.kubernetes.trial", "-m", "first_day"]
    assert lines[-1] == "echo $? >/result/code"


@pytest.mark.parametrize(("helped", "patience"), [(True, "1"), (False, "10")])
def test_a_slow_machine_is_given_time_and_few_programs(
    helped: bool, patience: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vm, "is_helped", lambda: helped)
    monkeypatch.delenv("HELM_ARGS", raising=False)
    lines = vm.script(layout_in(tmp_path), []).splitlines()
    assert f"export DOUGDB_PATIENCE={patience}" in lines
    (small,) = (line for line in lines if line.startswith("export HELM_ARGS="))
    assert "--set=raft.replicas=3" in small
    monkeypatch.setenv("HELM_ARGS", "--set=shards=2")
    assert "export HELM_ARGS=--set=shards=2" in vm.script(layout_in(tmp_path), []).splitlines()


@pytest.mark.parametrize(
    ("flags", "device", "helped"),
    [("fpu vmx", True, True), ("fpu svm sse", True, True), ("fpu vmx", False, False), ("fpu vmx_none", True, False)],
)
def test_the_processor_helps_only_with_a_device_for_it(flags: str, device: bool, helped: bool, tmp_path: Path) -> None:
    about = tmp_path / "cpuinfo"
    about.write_text(f"processor\t: 0\nflags\t\t: {flags}\n")
    if device:
        (tmp_path / "kvm").touch()
    assert vm.is_helped(about, tmp_path / "kvm") is helped


def test_the_disk_has_the_programs_and_the_images_that_were_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_in(tmp_path / "cache")
    layout.bin.mkdir(parents=True)
    (layout.bin / "kubelet").touch(mode=0o755)
    held: list[list[str]] = []

    def run(words: Sequence[str], **how: object) -> None:
        content = Path(words[words.index("-d") + 1])
        held.append(sorted(str(path.relative_to(content)) for path in content.rglob("*") if path.is_file()))

    monkeypatch.setattr(vm, "save_images", lambda folder: (folder / "built.tar").touch())
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.delenv("DOUGDB_IMAGES", raising=False)
    vm.make_disk(layout, tmp_path / "disk", tmp_path / "content")
    (tmp_path / "images").mkdir()
    for name in ("facade.tar", "raft-node.tar", "other.tar"):
        (tmp_path / "images" / name).touch()
    monkeypatch.setenv("DOUGDB_IMAGES", str(tmp_path / "images"))
    vm.make_disk(layout, tmp_path / "disk", tmp_path / "content")
    program = f"kubernetes/{layout.version}/bin/kubelet"
    assert held[0] == [program, "kubernetes/images/built.tar"]
    assert held[1] == [program, "kubernetes/images/facade.tar", "kubernetes/images/raft-node.tar"]
    assert (tmp_path / "disk").stat().st_size == vm.DISK_BYTES
    assert not (tmp_path / "content").exists()
    assert (layout.bin / "kubelet").exists()


def kernel_in(folder: Path) -> Path:
    (folder / "boot").mkdir(parents=True)
    (folder / "boot" / "vmlinuz-6").touch()
    (folder / "begin.cpio").touch()
    return folder


@pytest.mark.parametrize("code", [0, 1, None])
def test_the_trials_exit_code_is_the_result_and_nothing_of_the_machine_stays(
    code: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """None: it has ended before it had one."""
    layout = layout_in(tmp_path)
    layout.bin.mkdir(parents=True)
    kernel_in(tmp_path / "vm")
    started: list[Path] = []

    def run(words: Sequence[str], **how: object) -> None:
        if words[0] != "qemu-system-x86_64":
            return
        (result,) = (Path(word.split("path=")[1].split(",")[0]) for word in words if "mount_tag=result" in word)
        assert (result.parent / "disk").stat().st_size == vm.DISK_BYTES
        assert {path.name for path in result.iterdir()} == {"trial.sh", "trial.service", "logs"}
        started.append(result)
        (result / "logs" / "kubelet.log").write_text(str(code))
        if code is not None:
            (result / "code").write_text(f"{code}\n")

    monkeypatch.setattr(vm, "save_images", lambda folder: (folder / "facade.tar").touch())
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.delenv("DOUGDB_IMAGES", raising=False)
    (tmp_path / "vm" / "logs").mkdir()
    (tmp_path / "vm" / "logs" / "of-an-earlier-one.log").touch()
    assert vm.run(layout, []) == (1 if code is None else code)
    assert len(started) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [layout.version, "vm"]
    assert [(path.name, path.read_text()) for path in (tmp_path / "vm" / "logs").iterdir()] == [
        ("kubelet.log", str(code))
    ]


def test_the_machine_reads_this_one_alone_and_has_no_network(tmp_path: Path) -> None:
    words = vm.command(kernel_in(tmp_path / "vm"), tmp_path / "disk", tmp_path / "result")
    assert words[words.index("-nic") + 1] == "none"
    shares = [words[place + 1] for place, word in enumerate(words) if word == "-virtfs"]
    assert [("path=/," in share, "readonly=on" in share) for share in shares] == [(True, True), (False, False)]


def test_the_kernel_is_made_of_debians_packages_with_what_it_begins_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "vm"
    module = tmp_path / "9p.ko"
    module.touch()
    told = {
        "apt-cache": "Package: linux-image-amd64\nDepends: linux-image-6.1.0-57-amd64 (= 6.1.192-3)\n",
        "modprobe": f"insmod {module} \ninsmod {module} \n",
    }
    did: list[str] = []

    def run(words: Sequence[str], **how: object) -> subprocess.CompletedProcess[str]:
        did.append(" ".join(words))
        if "download" in words:
            (folder / "kernel.deb").touch()
        if words[0] == "dpkg-deb":
            (folder / "bin").mkdir()
            (folder / "bin" / "busybox").touch()
        return subprocess.CompletedProcess(words, 0, told.get(words[0], ""))

    monkeypatch.setattr(subprocess, "run", run)
    vm.make_kernel(folder)
    assert any(line.endswith("download linux-image-6.1.0-57-amd64 busybox-static") for line in did)
    assert [path.name for path in (folder / "begin" / "modules").iterdir()] == ["00-9p.ko"]
    assert f"ln -s {folder}/lib/modules/6.1.0-57-amd64 " in (folder / "begin" / "init").read_text()
    assert not list(folder.glob("*.deb"))


def test_images_are_taken_from_a_folder_instead_of_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[str, ...]] = []
    built: list[Path] = []
    monkeypatch.setattr(machine, "call", lambda _, *words: called.append(words))
    monkeypatch.setattr(tool, "save_images", built.append)
    monkeypatch.setenv("DOUGDB_IMAGES", str(tmp_path))
    tool.load(layout_in(tmp_path))
    assert (built, called[0]) == ([], ("load", str(tmp_path / "raft-node.tar")))
    assert [words[0] for words in called] == ["load", "tag", "load", "tag"]
    assert called[1][2] == f"{called[1][1]}-next"
    monkeypatch.delenv("DOUGDB_IMAGES")
    tool.load(layout_in(tmp_path))
    assert len(built) == 1
    assert called[4] == ("load", str(built[0] / "raft-node.tar"))


# -- what is looked at ------------------------------------------------------------------------------------------------


def groups_in(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (folder / "a").mkdir(parents=True)
    for path in (folder, folder / "a"):
        (path / "cgroup.procs").write_text("")
        (path / "cgroup.subtree_control").write_text("memory pids\n")
    monkeypatch.setattr(machine, "GROUPS", folder)
    return folder


def test_whatever_a_cluster_could_leave_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = layout_in(tmp_path)
    layout.bin.mkdir(parents=True)
    groups = groups_in(tmp_path / "groups", monkeypatch)
    sysctls = {"vm/overcommit_memory": "0"}
    monkeypatch.setattr(trial, "settings", lambda: (f"setting {name} = {value}" for name, value in sysctls.items()))
    running = ["process 1 init"]
    monkeypatch.setattr(trial, "processes", lambda: iter(running))
    before = trial.seen(layout)
    assert "mount /" in before
    assert "link lo" in before
    assert trial.left(layout, before) == 0
    layout.logs.mkdir()
    # A module of the kernel brought it.
    sysctls["net/bridge/bridge-nf-call-iptables"] = "1"
    assert trial.left(layout, before) == 0
    layout.state.mkdir()
    sysctls["vm/overcommit_memory"] = "1"
    running.append("process 7 etcd")
    (groups / "b").mkdir()
    (groups / "b" / "cgroup.procs").write_text("")
    (groups / "cgroup.subtree_control").write_text("cpu memory pids\n")
    assert trial.left(layout, before) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"kubernetes: left: {groups}/cgroup.subtree_control = cpu memory pids",
        f"kubernetes: left: cgroup {groups}/b",
        f"kubernetes: left: file {layout.state}",
        "kubernetes: left: process 7 etcd",
        "kubernetes: left: setting vm/overcommit_memory = 1",
    ]


def test_counts_are_no_settings(tmp_path: Path) -> None:
    for name, text in (("vm/swappiness", "60\n"), ("fs/file-nr", "1\n"), ("kernel/random/uuid", "x\n")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert list(trial.settings(tmp_path)) == ["setting vm/swappiness = 60"]


@pytest.mark.parametrize(
    ("words", "fails", "verbs"),
    [
        ([], "", [("install",), ("down",)]),
        (["-m", "first_day"], "", [("install",), ("down",), ("test", "-m", "first_day")]),
        ([], "install", [("install",), ("down",)]),
        (["-x"], "test", [("install",), ("down",), ("test", "-x")]),
    ],
)
def test_a_trial_fails_if_any_step_of_it_does(
    words: list[str],
    fails: str,
    verbs: list[tuple[str, ...]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    layout_in(tmp_path).root.mkdir()
    did: list[tuple[str, ...]] = []

    def run(*verb: str) -> int:
        did.append(verb)
        return int(verb[0] == fails)

    def nothing(layout: Layout, before: Sequence[str]) -> int:
        return 0

    monkeypatch.setenv("DOUGDB_KUBERNETES", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["trial", *words])
    monkeypatch.setattr(trial, "tool", run)
    monkeypatch.setattr(trial, "left", nothing)
    groups_in(tmp_path / "groups", monkeypatch)
    assert trial.main() == int(bool(fails))
    assert did == verbs
    assert ("nothing is left" in capsys.readouterr().err) is not bool(fails)

"""Whether a machine can run the one-node Kubernetes, and what is left as it was where it cannot. None is started."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tools.kubernetes import build, machine
from tools.kubernetes.layout import Layout


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


def test_a_machine_whose_cgroups_cannot_be_changed_is_told_and_left_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container: a reason to skip the tests, not to fail them."""
    layout = layout_in(tmp_path / "cache")
    fit_machine(layout, monkeypatch)
    groups = tmp_path / "groups"
    (groups / "cgroup.subtree_control").mkdir(parents=True)
    (groups / "cgroup.controllers").write_text(" ".join(machine.CONTROLLERS_V2))
    monkeypatch.setattr(machine, "GROUPS", groups)
    with pytest.raises(machine.Unfit, match="no cgroup for the pods can be made here"):
        machine.up(layout)
    assert {path.name for path in layout.root.iterdir()} == {"bin", "logs"}
    assert {path.name for path in groups.iterdir()} == {"cgroup.controllers", "cgroup.subtree_control"}

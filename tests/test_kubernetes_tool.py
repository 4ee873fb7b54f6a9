"""The one-node Kubernetes without starting it: where things lie, what is refused, what is written and provisioned."""

from __future__ import annotations

import base64
import io
import json
import os
import subprocess
import sys
import tarfile
import time
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from tools.kubernetes import build, extras, files, folders, inside, machine, programs, timely
from tools.kubernetes.__main__ import SCENARIOS, engine, scenarios
from tools.kubernetes.layout import DNS_ADDRESS, GROUP, NODE_ADDRESS, PODS, SERVICES, STATE, Layout

CLAIM: dict[str, Any] = {
    "metadata": {
        "name": "data-x-0",
        "namespace": "n",
        "uid": "u1",
        "annotations": {folders.SELECTED: "node-0"},
    },
    "spec": {
        "storageClassName": "folders",
        "accessModes": ["ReadWriteOnce"],
        "resources": {"requests": {"storage": "1Gi"}},
    },
}


def layout_in(folder: Path, **environment: str) -> Layout:
    return Layout.of({"DOUGDB_KUBERNETES": str(folder), **environment})


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], [SCENARIOS]),
        (["-m", "first_day"], [SCENARIOS, "-m", "first_day"]),
        (["-k", "helm", "-x"], [SCENARIOS, "-k", "helm", "-x"]),
        ([f"{SCENARIOS}/scenarios/test_helm.py::test_x"], [f"{SCENARIOS}/scenarios/test_helm.py::test_x"]),
    ],
)
def test_all_scenarios_are_meant_unless_a_file_is_named(words: list[str], told: list[str]) -> None:
    assert scenarios(words) == told


def test_pods_are_told_their_zone_by_versions_that_have_to_be_asked(tmp_path: Path) -> None:
    for version, asked in (("1.32.0", False), ("1.34.4", True), ("1.35.0", False)):
        words = programs.command("kube-apiserver", layout_in(tmp_path, KUBERNETES_VERSION=version))
        assert ("--feature-gates=PodTopologyLabelsAdmission=true" in words) is asked, version


def test_each_version_has_a_folder_of_its_own(tmp_path: Path) -> None:
    layout = layout_in(tmp_path, KUBERNETES_VERSION="v1.35.0")
    assert (layout.version, layout.minor, layout.root) == ("1.35.0", 35, tmp_path / "1.35.0")
    assert layout_in(tmp_path).root != layout.root


@pytest.mark.parametrize(
    "wrong",
    [
        {"KUBERNETES_VERSION": "1.34"},
        {"KUBERNETES_VERSION": "latest"},
        {"DNS_TTL": "5s"},
        {"DOUGDB_PATIENCE": "0"},
        {"DOUGDB_PATIENCE": "2.5"},
        {"KUBERNETES_VERSION": "2.0.0"},
    ],
)
def test_what_is_no_version_or_number_is_refused(wrong: dict[str, str], tmp_path: Path) -> None:
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        layout_in(tmp_path, **wrong)


def test_a_slow_machine_is_given_more_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_in(tmp_path, DOUGDB_PATIENCE="10")
    layout.logs.mkdir(parents=True)
    (layout.logs / "kubelet.log").write_text("still starting")
    now_s = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now_s
        now_s += seconds

    monkeypatch.setattr(inside, "pid_of", lambda _: 1)
    monkeypatch.setattr(time, "monotonic", lambda: now_s)
    monkeypatch.setattr(time, "sleep", sleep)
    inside.wait_for(layout, "kubelet", lambda: now_s > 1100, 120)
    assert 1100 < now_s < 1105
    with pytest.raises(TimeoutError, match="kubelet is not ready within 1200 s, or has ended:\nstill starting"):
        inside.wait_for(layout, "kubelet", lambda: False, 120)


def test_what_is_built_is_not_built_again(tmp_path: Path) -> None:
    layout = layout_in(tmp_path)
    assert len(build.missing(layout)) == 8
    layout.bin.mkdir(parents=True)
    for name in build.missing(layout):
        (layout.bin / name).write_text("")
        (layout.bin / name).chmod(0o755)
    assert build.missing(layout) == []
    build.Builder(layout, "/no/go").build()
    (layout.bin / "pause").unlink()
    assert build.missing(layout) == ["pause"]


def test_an_extra_that_cannot_be_built_is_said_and_nothing_else_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = layout_in(tmp_path)
    built(layout)
    asked: list[str] = []

    def go(self: build.Builder, folder: Path, *words: str) -> str:
        asked.append(folder.name)
        raise subprocess.CalledProcessError(1, words)

    monkeypatch.setattr(build.Builder, "_staging", lambda _: "")
    monkeypatch.setattr(build.Builder, "_go", go)
    build.Builder(layout, "/no/go").build_extras()
    assert asked == [*build.missing_extras(layout), "src"]
    assert build.missing_extras(layout) == ["metrics-server", "kube-network-policies"]
    assert capsys.readouterr().err.count("its scenarios are skipped") == 3
    assert not layout.definitions.exists()


def test_the_definitions_of_the_gateway_api_are_copied_once_and_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = layout_in(tmp_path / "cache")
    layout.bin.mkdir(parents=True)
    for name in build.EXTRAS:
        (layout.bin / name).write_text("")
        (layout.bin / name).chmod(0o755)
    module = tmp_path / "module"
    (module / "config/crd/standard").mkdir(parents=True)
    (module / "config/crd/standard/routes.yaml").write_text("kind: CustomResourceDefinition")
    asked: list[str] = []

    def go(self: build.Builder, folder: Path, *words: str) -> str:
        asked.append(words[-1])
        return json.dumps({"Dir": str(module)})

    monkeypatch.setattr(build.Builder, "_go", go)
    for _ in range(2):
        build.Builder(layout, "/no/go").build_extras()
    assert asked == [f"sigs.k8s.io/gateway-api@v{build.GATEWAY}"]
    assert [path.name for path in layout.definitions.iterdir()] == ["routes.yaml"]


def test_a_machine_that_cannot_is_told_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_in(tmp_path)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "root" in machine.unfit(layout)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(machine, "NEEDED", {"no-such-program": "its-package"})
    assert "its-package" in machine.unfit(layout)
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "darwin" in machine.unfit(layout)
    assert not layout.root.exists(), "looking changes nothing"


def test_the_tests_are_skipped_there_or_fail_where_they_must_run(tmp_path: Path) -> None:
    """Here nobody can build images: no program is in the path."""
    found = {}
    for required in ("", "1"):
        run = subprocess.run(
            [sys.executable, "-m", "tools.kubernetes", "test"],
            env={"PATH": str(tmp_path), "DOUGDB_KUBERNETES": str(tmp_path), "REQUIRE_KUBERNETES": required},
            cwd=machine.ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        found[required] = (run.returncode, "skipped: neither podman nor docker" in run.stderr)
    assert found == {"": (0, True), "1": (1, True)}


def test_why_no_images_can_be_built_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    podman = tmp_path / "podman"
    podman.write_text('#!/bin/sh\necho "a warning\nError: there is no netavark" >&2\nexit 1\n')
    podman.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setenv("ENGINE", "no-such-engine")
    with pytest.raises(
        machine.Unfit, match="no-such-engine is not installed; podman says: Error: there is no netavark;"
    ):
        engine()


def test_no_holder_is_known_by_its_pid_alone(tmp_path: Path) -> None:
    """A pid that somebody else has now is nobody's: nothing is entered, nothing ended."""
    layout = layout_in(tmp_path)
    layout.root.mkdir()
    assert machine.holder(layout) == 0
    with pytest.raises(machine.Broken, match="kube-up"):
        machine.enter(layout, ["true"])
    note = layout.root / "holder.json"
    note.write_text(json.dumps({"pid": str(os.getpid()), "started": "1"}))
    assert machine.holder(layout) == 0
    started = Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19]
    note.write_text(json.dumps({"pid": str(os.getpid()), "started": started}))
    assert machine.holder(layout) == os.getpid()
    assert machine.enter(layout, ["true"], network_only=True) == [
        *("nsenter", "--target", str(os.getpid()), "--net", "--", "true"),
    ]


def test_the_pods_get_more_of_a_busy_machine_than_one_process_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = tmp_path / "v1" / "cpu" / GROUP
    second = tmp_path / "v2" / GROUP
    for folder, weight in ((first, "cpu.shares"), (second, "cpu.weight")):
        folder.mkdir(parents=True)
        (folder / weight).write_text("as the kernel has it")
    (tmp_path / "v2" / "cgroup.controllers").write_text("cpu")
    for groups in (tmp_path / "v1", tmp_path / "v2"):
        monkeypatch.setattr(machine, "GROUPS", groups)
        machine.make_group()
    assert int((first / "cpu.shares").read_text()) == 10 * 1024
    assert int((second / "cpu.weight").read_text()) == 10 * 100
    assert "cpu.weight" not in {path.name for path in first.iterdir()}


def test_down_restores_settings_and_leaves_programs_and_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_in(tmp_path / "cache")
    groups = tmp_path / "groups"
    for controller in ("cpu", "memory", "unified"):
        (groups / controller / GROUP / "kubepods" / "pod1").mkdir(parents=True)
    monkeypatch.setattr(machine, "GROUPS", groups)
    setting = tmp_path / "overcommit_memory"
    setting.write_text("1")
    for folder in (layout.bin, layout.logs, layout.state / "etcd"):
        folder.mkdir(parents=True)
    (layout.root / "sysctls.json").write_text(json.dumps({str(setting): "0"}))
    machine.down(layout)
    assert setting.read_text() == "0"
    assert {path.name for path in layout.root.iterdir()} == {"bin", "logs"}
    assert not list(groups.glob(f"*/{GROUP}"))
    machine.down(layout)


def test_everybody_has_a_certificate_of_the_authority(tmp_path: Path) -> None:
    layout = layout_in(tmp_path)
    files.write_all(layout)
    for name, (user, group) in files.USERS.items():
        path = layout.state / "conf" / f"{name}.kubeconfig"
        assert path.stat().st_mode & 0o077 == 0
        (entry,) = json.loads(path.read_text())["users"]
        certificate = x509.load_pem_x509_certificate(base64.b64decode(entry["user"]["client-certificate-data"]))
        assert [one.value for one in certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == [user]
        groups = [one.value for one in certificate.subject.get_attributes_for_oid(NameOID.ORGANIZATION_NAME)]
        assert groups == ([group] if group else [])
    server = x509.load_pem_x509_certificate((layout.state / "pki" / "apiserver.crt").read_bytes())
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "kubernetes.default.svc" in names.get_values_for_type(x509.DNSName)
    assert {str(one) for one in names.get_values_for_type(x509.IPAddress)} == {"10.96.0.1", NODE_ADDRESS}


def test_a_command_names_files_that_are_written(tmp_path: Path) -> None:
    layout = layout_in(tmp_path)
    files.write_all(layout)
    for name in ("etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "containerd", "kubelet",
                 "kube-proxy", "coredns", "folders", "metrics-server", "kube-network-policies"):  # fmt: skip
        for word in programs.command(name, layout):
            path = word.partition("=")[2] if word.startswith("--") else word
            if path.startswith((str(files.PKI), str(files.CONF))) and not path.endswith("/kubelet"):
                assert (layout.state / Path(path).relative_to(STATE)).exists(), word
    with pytest.raises(ValueError, match="no program 'etc'"):
        programs.command("etc", layout)


def test_nothing_leaves_the_machine() -> None:
    """Names are not forwarded, and all addresses are private."""
    assert "forward" not in files.corefile(5)
    assert f"bind {DNS_ADDRESS}" in files.corefile(5)
    assert {PODS.split(".")[0], SERVICES.split(".")[0], NODE_ADDRESS.split(".")[0]} == {"10"}


def test_the_pause_image_is_one_layer_with_its_digest(tmp_path: Path) -> None:
    program = tmp_path / "pause"
    program.write_bytes(b"program")
    with tarfile.open(fileobj=io.BytesIO(inside.pause_archive(program))) as archive:
        found = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    (layer,) = json.loads(found["config.json"])["rootfs"]["diff_ids"]
    assert layer == f"sha256:{sha256(found['layer.tar']).hexdigest()}"
    (manifest,) = json.loads(found["manifest.json"])
    assert manifest["Layers"] == ["layer.tar"]


class FakeApi:
    """An API server with claims and volumes."""

    def __init__(self, *claims: dict[str, Any]) -> None:
        self.claims = list(claims)
        self.volumes: dict[str, dict[str, Any]] = {}

    def call(self, method: str, path: str, document: Any = None) -> Any:
        if method == "POST":
            self.volumes[document["metadata"]["name"]] = document
        elif method == "DELETE":
            del self.volumes[path.rpartition("/")[2]]
        return {"items": self.claims if path.endswith("claims") else list(self.volumes.values())}


def test_a_claim_is_bound_at_first_use_and_its_folder_goes_with_it(tmp_path: Path) -> None:
    waits = json.loads(json.dumps(CLAIM))
    waits["metadata"] = {"name": "wal-x-0", "namespace": "n", "uid": "u2"}
    other = json.loads(json.dumps(CLAIM))
    other["metadata"]["uid"], other["spec"]["storageClassName"] = "u3", "somebody-elses"
    api = FakeApi(CLAIM, waits, other)
    folders.provision(api, tmp_path)
    folders.provision(api, tmp_path)
    assert list(api.volumes) == ["pvc-u1"]
    volume = api.volumes["pvc-u1"]
    folder = Path(volume["spec"]["hostPath"]["path"])
    assert folder.is_dir()
    assert volume["spec"]["claimRef"]["uid"] == "u1"
    (folder / "file").write_text("x")
    volume["status"] = {"phase": "Bound"}
    folders.provision(api, tmp_path)
    assert (folder / "file").exists()
    volume["status"] = {"phase": "Released"}
    api.claims.clear()
    folders.provision(api, tmp_path)
    assert not api.volumes
    assert not folder.exists()


@pytest.mark.parametrize(("quantity", "size"), [("100Mi", 100 << 20), ("2Gi", 2 << 30), ("4096", 4096)])
def test_a_quantity_is_so_many_bytes(quantity: str, size: int) -> None:
    assert folders.size_of(quantity) == size


@pytest.mark.parametrize(("name", "made"), [("memory", ["mount"]), ("disks", ["mkfs.ext4", "mount"]), ("folders", [])])
def test_a_claim_of_a_class_with_sizes_gets_a_file_system_of_its_own(
    name: str, made: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr(subprocess, "run", lambda words, **_: ran.append(words[0]))
    claim = json.loads(json.dumps(CLAIM))
    claim["spec"]["storageClassName"] = name
    folder = tmp_path / "claim"
    folders.make(folder, claim)
    assert ran == made
    sizes = [path.stat().st_size for path in tmp_path.glob("*.img")]
    assert sizes == ([1 << 30] if name == "disks" else [])
    folders.remove(folder)
    assert not list(tmp_path.iterdir())


def test_packets_are_led_to_the_enforcer_of_policies_alone_and_only_while_it_takes_them(tmp_path: Path) -> None:
    assert [rule[0] for rule in extras.rules("kube-network-policies")] == ["FORWARD", "INPUT"]
    queues = tmp_path / "queues"
    assert not extras.listens("kube-network-policies", queues)
    queues.write_text(f"  {extras.QUEUE + 1}  4711 0 2 128 0 0 0 1\n")
    assert not extras.listens("kube-network-policies", queues)
    queues.write_text(f"  {extras.QUEUE}  4711 0 2 128 0 0 0 1\n")
    assert extras.listens("kube-network-policies", queues)
    for other in ("kube-apiserver", "metrics-server"):
        assert extras.rules(other) == ()
        assert extras.listens(other, queues)


def test_the_metrics_server_is_where_the_api_server_looks_for_it(tmp_path: Path) -> None:
    path = extras.objects("metrics-server")
    assert path is not None
    text = path.read_text()
    words = programs.command("metrics-server", layout_in(tmp_path))
    (port,) = [word.partition("=")[2] for word in words if word.startswith("--secure-port=")]
    assert f"targetPort: {port}" in text
    assert f"port: {port}}}]" in text
    assert f"addresses: [{NODE_ADDRESS}]" in text
    assert extras.objects("kube-apiserver") is None


# -- the part that has a time ------------------------------------------------------------------------------------------


class Attempt:
    """Runs verbs in no time but the one that each is said to take; what is said and done is kept."""

    def __init__(self, layout: Layout, **takes_s: float) -> None:
        self.layout = layout
        self.takes_s = {"build": 60.0, "test": 200.0, **takes_s}
        self.codes = {"build": 0, "test": 0}
        self.now_s = 1000.0
        self.did: list[tuple[str, ...]] = []
        self.said: list[str] = []

    def run(self, words: Sequence[str], seconds: float) -> int | None:
        self.did.append(tuple(words))
        took_s = self.takes_s[words[0]]
        self.now_s += min(took_s, seconds)
        if took_s > seconds:
            return None
        if words[0] == "build" and not self.codes["build"]:
            built(self.layout)
        return self.codes[words[0]]

    def down(self, layout: Layout) -> None:
        assert layout is self.layout
        self.did.append(("down",))

    def within(self, seconds: float) -> int:
        part = timely.Timely(self.layout, seconds, self.said.append, self.run, self.down, lambda: self.now_s)
        return part.test(["-m", "first_day"])


def built(layout: Layout) -> None:
    layout.bin.mkdir(parents=True, exist_ok=True)
    for name in (*build.PROGRAMS, "coredns", "pause"):
        (layout.bin / name).touch(mode=0o755)


@pytest.fixture
def fit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "unfit", lambda _: "")
    monkeypatch.delenv("REQUIRE_KUBERNETES", raising=False)


PART = ("test", "-m", "first_day")


@pytest.mark.usefixtures("fit")
def test_the_part_runs_when_there_is_time_and_its_verdict_counts(tmp_path: Path) -> None:
    layout = layout_in(tmp_path)
    built(layout)
    attempt = Attempt(layout)
    assert attempt.within(timely.PART_S) == 0
    assert (attempt.did, attempt.said) == ([PART], [])
    attempt.codes["test"] = 1
    assert attempt.within(timely.PART_S) == 1


@pytest.mark.usefixtures("fit")
def test_the_part_is_built_first_when_there_is_time_for_both(tmp_path: Path) -> None:
    attempt = Attempt(layout_in(tmp_path))
    assert attempt.within(timely.BUILD_S + timely.PART_S) == 0
    assert (attempt.did, attempt.said) == ([("build",), PART], [])


@pytest.mark.usefixtures("fit")
@pytest.mark.parametrize(
    ("seconds", "there", "takes_s", "code", "did", "said"),
    [
        (timely.PART_S - 1, True, {}, 0, [], "may need 10 minutes, and 10 are left"),
        (timely.BUILD_S + timely.PART_S - 1, False, {}, 0, [], "building takes 8 minutes or more, and 8 are left"),
        (-5, False, {}, 0, [], "and 0 are left"),
        (timely.BUILD_S + timely.PART_S, False, {"build": 9e9}, 0, [("build",)], "before everything was built"),
        (timely.BUILD_S + timely.PART_S, False, {}, 1, [("build",)], "could not be built"),
        (1000, True, {"test": 9e9}, 0, [PART, ("down",)], "ended after 17 minutes, without a verdict"),
    ],
)
def test_what_there_is_no_time_for_is_said(
    seconds: float,
    there: bool,
    takes_s: dict[str, float],
    code: int,
    did: list[tuple[str, ...]],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    layout = layout_in(tmp_path)
    if there:
        built(layout)
    attempt = Attempt(layout, **takes_s)
    attempt.codes["build"] = code
    assert attempt.within(seconds) == 0
    assert attempt.did == did
    assert len(attempt.said) == 1
    assert said in attempt.said[0]
    monkeypatch.setenv("REQUIRE_KUBERNETES", "1")
    assert attempt.within(seconds) == 1


def test_where_it_cannot_run_the_part_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "unfit", lambda _: "there is no root")
    attempt = Attempt(layout_in(tmp_path))
    assert attempt.within(timely.BUILD_S + timely.PART_S) == 0
    assert (attempt.did, attempt.said) == ([], ["skipped: there is no root"])


@pytest.mark.usefixtures("fit")
def test_the_part_leaves_a_cluster_alone_that_runs_already(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = layout_in(tmp_path)
    built(layout)
    monkeypatch.setattr(machine, "holder", lambda _: 4711)
    attempt = Attempt(layout)
    assert attempt.within(timely.PART_S) == 0
    assert attempt.did == []
    assert "another cluster runs here" in attempt.said[0]

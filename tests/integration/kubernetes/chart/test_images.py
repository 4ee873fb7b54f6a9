"""The image files: what the linter says, and what must be so whatever it says."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
from tools.helm_chart import ROOT
from tools.helm_tools import TOOLS

from dougdb.dev.specs import _MALLOC

SERVICES = ("raft-node", "facade")
HADOLINT = TOOLS / "bin" / "hadolint"


def text_of(service: str) -> str:
    return (ROOT / "services" / service / "Dockerfile").read_text()


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.skipif(not HADOLINT.exists(), reason="hadolint is not installed (make chart-tools)")
def test_the_linter_finds_nothing(service: str) -> None:
    path = ROOT / "services" / service / "Dockerfile"
    run = subprocess.run([HADOLINT, path], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "")


@pytest.mark.parametrize("service", SERVICES)
def test_it_runs_without_root_and_without_a_shell(service: str) -> None:
    final = text_of(service).rpartition("\nFROM ")[2]
    assert re.search(r"^USER 10001:10001$", final, re.MULTILINE)
    module = service.replace("-", "_")
    assert f'\nENTRYPOINT ["/opt/dougdb/bin/python", "-m", "{module}"]\n' in final
    assert "PYTHONSAFEPATH=1" in final
    assert not re.search(r"^(?:CMD|ENTRYPOINT) [^\[]", final, re.MULTILINE)


@pytest.mark.parametrize("service", SERVICES)
def test_it_is_bound_to_no_architecture_and_to_the_lock(service: str) -> None:
    text = text_of(service)
    assert not re.search(r"--platform|amd64-|x86_64|aarch64", text)
    assert "ARG PYTHON_VERSION=3.13\n" in text
    assert set(re.findall(r"^FROM (\S+)", text, re.MULTILINE)) == {"python:${PYTHON_VERSION}-slim-bookworm"}
    assert f"uv export --quiet --frozen --no-dev --package {service} --extra tracing " in text
    assert "--require-hashes" in text
    assert "--only-binary :all:" in text
    assert re.findall(r"^COPY services/raft-node-testing/\S+", text, re.MULTILINE) == [
        "COPY services/raft-node-testing/pyproject.toml"
    ], "no image holds what is there for tests"


def test_every_locked_package_comes_for_both_architectures() -> None:
    """Without a wheel the image would need a compiler on one of them."""
    lock: dict[str, Any] = tomllib.loads((ROOT / "uv.lock").read_text())
    packages = {package["name"]: package for package in lock["package"]}
    needed, open_names = set[str](), list(SERVICES)
    while open_names:
        name = open_names.pop()
        if name not in needed:
            needed.add(name)
            open_names += [one["name"] for one in packages[name].get("dependencies", [])]
            # Extras that are in the lock are those that something asks for: the images have the one for traces.
            extras = packages[name].get("optional-dependencies", {})
            open_names += [one["name"] for extra in extras.values() for one in extra]
    assert len(needed) > 20
    assert "opentelemetry-sdk" in needed
    assert not needed & {"raft-node-testing", "pytest"}, "what is there for tests is in no image"
    missing = []
    for name in needed:
        wheels = [wheel["url"].rpartition("/")[2] for wheel in packages[name].get("wheels", [])]
        for machine in ("x86_64", "aarch64"):
            fits = re.compile(rf"-none-any\.whl$|-(?:cp313|cp3\d+-abi3)-.*manylinux.*{machine}.*\.whl$")
            if wheels and not any(fits.search(wheel) for wheel in wheels) and name != "colorama":
                missing.append(f"{name} for {machine}")
    assert not missing


def test_nodes_get_the_allocator_of_a_local_cluster() -> None:
    text = text_of("raft-node")
    for name, value in _MALLOC.items():
        assert f"    {name}={value} \\\n" in text


def test_the_build_sees_what_it_copies_and_no_more() -> None:
    ignored = {line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")}
    assert {".git", ".venv", "data", "tests", "deploy", "**/tests"} <= ignored
    for service in SERVICES:
        for source in re.findall(r"^COPY (?!--from)(.+) \S+$", text_of(service), re.MULTILINE):
            for name in source.split():
                assert (ROOT / name).exists(), name
                assert Path(name).parts[0] not in ignored

"""The recipe of a release: one version for all, notes from the changelog, checksums that can be checked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from tools import release
from tools.helm_chart import find_helm

CHANGELOG = """# Changelog

## [Unreleased]

- new

## [0.2.0] - 2026-05-04

### Added

- more

## [0.1.0]

- first
"""


def copy_of(root: Path) -> Path:
    for path in (*(f"{folder}/pyproject.toml" for folder in release.PACKAGES.values()), *release.MODULES,
                 f"{release.CHART}/Chart.yaml"):  # fmt: skip
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(release.ROOT / path, root / path)
    return root


def test_all_parts_of_this_tree_have_one_version() -> None:
    assert release.one_version(release.ROOT).count(".") == 2


@pytest.mark.parametrize("part", ["services/facade/pyproject.toml", release.MODULES[0], f"{release.CHART}/Chart.yaml"])
def test_a_part_with_another_version_is_named(part: str, tmp_path: Path) -> None:
    path = copy_of(tmp_path) / part
    path.write_text(path.read_text().replace(release.one_version(tmp_path), "9.9.9"))
    with pytest.raises(release.ReleaseError, match=r"9\.9\.9") as raised:
        release.one_version(tmp_path)
    assert part in str(raised.value)


def test_notes_are_the_section_of_the_version_or_what_is_unreleased() -> None:
    assert release.notes(CHANGELOG, "0.2.0") == "# DougDB 0.2.0\n\n### Added\n\n- more\n"
    assert release.notes(CHANGELOG, "0.3.0") == "# DougDB 0.3.0\n\n- new\n"
    with pytest.raises(release.ReleaseError, match="no section"):
        release.notes("# Changelog\n", "0.3.0")


def test_checksums_are_what_sha256sum_checks(tmp_path: Path) -> None:
    (tmp_path / "b.whl").write_bytes(b"b")
    (tmp_path / "a.tgz").write_bytes(b"a")
    (tmp_path / "SHA256SUMS").write_text(release.checksums(tmp_path))
    assert [line.split()[1] for line in release.checksums(tmp_path).splitlines()] == ["a.tgz", "b.whl"]
    run = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=False)
    assert run.returncode == 0


def test_packages_name_their_licences_as_far_as_they_tell_them() -> None:
    document = {"components": [{"name": "httpx"}, {"name": "no-such-package"}]}
    told, silent = release.with_licences(document)["components"]
    assert "BSD" in told["licenses"][0]["license"]["name"]
    assert "licenses" not in silent


@pytest.mark.slow
def test_a_client_that_does_not_work_alone_is_no_release(tmp_path: Path) -> None:
    """The wheel is installed, not looked at: one that is none makes pip fail."""
    (tmp_path / "dougdb-9.9.9-py3-none-any.whl").write_bytes(b"no wheel")
    with pytest.raises(release.ReleaseError, match="pip"):
        release.check_client(tmp_path, "9.9.9")


@pytest.mark.skipif(find_helm() is None, reason="helm is not installed (make chart-tools)")
def test_the_charts_package_has_the_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["--chart-only", "--out", str(tmp_path)]) == 0
    name = f"dougdb-{release.one_version(release.ROOT)}.tgz"
    assert (tmp_path / name).exists()
    assert capsys.readouterr().out.endswith(f"  {name}\n")

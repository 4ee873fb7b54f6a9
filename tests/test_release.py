"""The recipe of a release: one version for all, notes from the changelog, checksums that can be checked."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from importlib.metadata import distributions
from pathlib import Path

import pytest
from tools import release, version
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


PARTS = sorted({path for path, _ in version.places(version.ROOT)})


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A copy of whatever says the version."""
    for path in PARTS:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(version.ROOT / path, tmp_path / path)
    return tmp_path


def test_all_parts_of_this_tree_have_one_version_which_is_the_newest_of_the_changelog() -> None:
    newest = re.findall(r"^## \[(\d[^\]]*)\](.*)$", (version.ROOT / "CHANGELOG.md").read_text(), re.M)[0]
    assert newest[0] == version.one_version()
    assert re.fullmatch(r" - \d{4}-\d\d-\d\d", newest[1])


def test_documents_that_name_images_are_among_the_parts() -> None:
    assert {"docs/kubernetes.md", "uv.lock", version.CHART} <= set(PARTS)


@pytest.mark.parametrize("part", PARTS)
def test_a_part_with_another_version_is_named(part: str, tree: Path) -> None:
    path, own = tree / part, version.one_version(tree)
    path.write_text(path.read_text().replace(own, "9.9.9", 1))
    with pytest.raises(version.VersionError, match=rf" 9\.9\.9 +{part}:\d") as raised:
        version.one_version(tree)
    assert f"{own} " in str(raised.value)


def test_all_parts_get_another_version_together(tree: Path) -> None:
    own = version.one_version(tree)
    before = {part: (tree / part).read_text() for part in PARTS}
    (tree / PARTS[0]).write_text(before[PARTS[0]].replace(own, "9.9.9"))
    version.give(tree, "1.10.0")
    assert version.one_version(tree) == "1.10.0"
    # Nothing else was touched: back it is what it was.
    version.give(tree, own)
    assert {part: (tree / part).read_text() for part in PARTS} == before


def test_what_is_no_version_is_given_to_nothing(tree: Path) -> None:
    """Nor what is one to Python alone, or to helm alone."""
    own = version.one_version(tree)
    for text in ("v1.0.0", "1.0", "1.0.0rc1", "1.0.0-rc.1", ""):
        with pytest.raises(version.VersionError, match="is no version"):
            version.give(tree, text)
    (tree / "pyproject.toml").write_text("")
    with pytest.raises(version.VersionError, match=r"in pyproject\.toml$"):
        version.give(tree, "9.9.9")
    with pytest.raises(version.VersionError, match=rf"{own} .*\n.*none +pyproject\.toml$"):
        version.one_version(tree)


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


def installed_by(dockerfile: str) -> set[str]:
    """The packages that an image is built of, by its own commands, with those for other systems."""
    text = (version.ROOT / dockerfile).read_text().replace("\\\n", " ")
    exports = re.findall(r"uv (export .*?) --output-file \S+", text)
    assert exports
    told = "".join(release.call(str(release.UV), *words.split(), "--no-hashes") for words in exports)
    return set(re.findall(r"^([a-z0-9][a-z0-9-]*)(?:\[[a-z,]+\])?==", told, re.M))


@pytest.mark.seconds
def test_the_bill_of_materials_names_all_that_images_hold_with_its_licence() -> None:
    """And nothing that only tests and tools need."""
    document = json.loads(release.bill_of_materials("9.9.9"))
    assert (document["bomFormat"], document["metadata"]["component"]["version"]) == ("CycloneDX", "9.9.9")
    found = {each["name"]: each for each in document["components"]}
    for image in release.IMAGES:
        held = installed_by(f"services/{image}/Dockerfile")
        assert {"grpcio", "opentelemetry-sdk"} <= held
        assert held <= found.keys(), f"{image} holds {sorted(held - found.keys())}"
        here = {name for name in held if is_installed(name)}
        assert [name for name in here if not found[name].get("licenses")] == []
    static = version.ROOT / "services/facade/src/facade/console/static/vendor"
    for name, each in json.loads((static / "manifest.json").read_text()).items():
        assert (found[name]["version"], found[name]["purl"]) == (each["version"], f"pkg:npm/{name}@{each['version']}")
        assert found[name]["licenses"] == [{"license": {"id": each["licence"]}}]
    assert not {"pytest", "mypy", "ruff", "bandit", "hypothesis", "schemathesis"} & found.keys()


def is_installed(name: str) -> bool:
    return any(each.name.lower().replace("_", "-") == name for each in distributions())


@pytest.mark.slow
def test_a_client_that_does_not_work_alone_is_no_release(tmp_path: Path) -> None:
    """The wheel is installed, not looked at: one that is none makes pip fail."""
    (tmp_path / "dougdb-9.9.9-py3-none-any.whl").write_bytes(b"no wheel")
    with pytest.raises(release.ReleaseError, match="pip"):
        release.check_client(tmp_path, "9.9.9")


@pytest.mark.skipif(find_helm() is None, reason="helm is not installed (make chart-tools)")
def test_the_charts_package_has_the_version(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert release.main(["--chart-only", "--out", str(tmp_path)]) == 0
    name = f"dougdb-{version.one_version()}.tgz"
    assert (tmp_path / name).exists()
    assert capsys.readouterr().out.endswith(f"  {name}\n")


def test_a_folder_loses_nothing_but_an_earlier_release(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`--out .` must not cost the repository."""
    own = tmp_path / "own"
    (own / ".git").mkdir(parents=True)
    for name in ("work.py", "dougdb-0.2.0-py3-none-any.whl"):
        (own / name).write_text("mine")
    assert release.main(["--out", str(own), "--without-images"]) == 1
    assert "holds .git, work.py, which no release made" in capsys.readouterr().err
    assert {path.name for path in own.iterdir()} == {".git", "work.py", "dougdb-0.2.0-py3-none-any.whl"}
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    for name in ("dougdb-0.1.0-py3-none-any.whl", "dougdb-0.1.0.tgz", "facade-0.1.0.image.tar", "SHA256SUMS"):
        (earlier / name).write_text("old")
    release.empty(earlier)
    assert not list(earlier.iterdir())
    release.empty(tmp_path / "new" / "folder")

"""Makes a release in dist/: wheels, the chart, its images, an SBOM, notes and checksums. Nothing is published.

    python -m tools.release [--out dist] [--without-images] [--chart-only]

All parts carry one version; a part with another one is named, and nothing is made. The client's wheel is then installed
alone into an empty environment, as a user would. docs/releasing.md says what a maintainer does with the result.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

from tools import vendor
from tools.version import ROOT, VersionError, one_version

UV = ROOT / ".venv" / ".uv" / "bin" / "uv"
CHART = Path("deploy/helm/dougdb")
PACKAGES = ("dougdb", "dougdb-protos", "facade", "raft-node")
IMAGES = ("raft-node", "facade")
MADE = (
    *("*.whl", "*.tgz", "*.image.tar", "sbom.cdx.json", "RELEASE-NOTES.md", "SHA256SUMS"),
    ".gitignore",  # uv's.
)
"""The names of what a release makes; nothing else is ever removed."""


class ReleaseError(Exception):
    """A release cannot be made of this tree; the message says why."""


def notes(changelog: str, version: str) -> str:
    """What the changelog says of a version; before its section is named, what is unreleased.

    Raises:
        ReleaseError: It says nothing.
    """
    sections = re.split(r"^## \[([^\]]+)\].*$", changelog, flags=re.M)
    by_name = dict(zip(sections[1::2], sections[2::2], strict=True))
    text = by_name.get(version, "").strip() or by_name.get("Unreleased", "").strip()
    if not text:
        raise ReleaseError(f"CHANGELOG.md has no section [{version}], and nothing is unreleased")
    return f"# DougDB {version}\n\n{text}\n"


def checksums(folder: Path) -> str:
    """The lines of SHA256SUMS, which `sha256sum --check` reads."""
    files = sorted(path for path in folder.iterdir() if path.is_file() and path.name != "SHA256SUMS")
    return "".join(f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in files)


def empty(folder: Path) -> None:
    """Removes what an earlier release made; makes the folder if there is none.

    Raises:
        ReleaseError: Something else is there; nothing is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    found = sorted(folder.iterdir())
    others = [path.name for path in found if not path.is_file() or not any(path.match(name) for name in MADE)]
    if others:
        raise ReleaseError(f"{folder} holds {', '.join(others[:3])}, which no release made; take another folder")
    for path in found:
        path.unlink()


def call(*words: str, cwd: Path = ROOT) -> str:
    """Calls a program.

    Raises:
        ReleaseError: It failed; the message has the end of what it said.
    """
    run = subprocess.run(words, cwd=cwd, capture_output=True, text=True, check=False)
    if run.returncode:
        raise ReleaseError(f"{' '.join(words[:4])} ...: {run.stderr[-2000:].strip()}")
    return run.stdout


def package_chart(out: Path) -> None:
    """The chart as a package, as `helm push` takes it to an OCI registry."""
    helm = ROOT / ".venv" / ".chart" / "bin" / "helm"
    program = str(helm) if helm.exists() else shutil.which("helm")
    if program is None:
        raise ReleaseError("helm is not installed (make chart-tools)")
    call(program, "package", str(ROOT / CHART), "--destination", str(out))


def build_wheels(out: Path) -> None:
    """A wheel of every package that is installed somewhere."""
    for name in PACKAGES:
        call(str(UV), "build", "--quiet", "--wheel", "--package", name, "--out-dir", str(out))


def check_client(out: Path, version: str) -> None:
    """Installs the client's wheel alone into an empty environment, and has both of its faces tell their version.

    Raises:
        ReleaseError: It does not work there.
    """
    (wheel,) = out.glob(f"dougdb-{version}-*.whl")
    with tempfile.TemporaryDirectory() as folder:
        call(sys.executable, "-m", "venv", folder)
        call(f"{folder}/bin/pip", "--disable-pip-version-check", "install", "--quiet", str(wheel), cwd=Path(folder))
        for words in (("dougctl", "--version"), ("python", "-c", "import dougdb; print(dougdb.__version__)")):
            told = call(f"{folder}/bin/{words[0]}", *words[1:], cwd=Path(folder))
            if version not in told:
                raise ReleaseError(f"{' '.join(words)} of the installed client says {told!r}, not {version}")


def save_images(out: Path, version: str) -> None:
    """Builds both images and saves each as an archive."""
    engine = next((name for name in ("podman", "docker") if shutil.which(name)), "")
    if not engine:
        raise ReleaseError("neither podman nor docker is installed; --without-images leaves the images out")
    call("sh", "tools/images.sh")
    for name in IMAGES:
        archive = out / f"{name}-{version}.image.tar"
        call(engine, "save", "--output", str(archive), f"docker.io/dougdb/{name}:{version}")


def bill_of_materials(version: str) -> str:
    """What the wheels bring with them, as CycloneDX: from the lock, and what others wrote for the console.

    With all extras, since images have some of them.
    """
    words = ("--format", "cyclonedx1.5", "--quiet", "--frozen", "--no-dev", "--all-extras")
    packages = [word for name in PACKAGES for word in ("--package", name)]
    document = json.loads(call(str(UV), "export", *words, *packages))
    document["metadata"]["component"]["version"] = version
    document["components"] += of_the_console()
    return json.dumps(with_licences(document), indent=2) + "\n"


def of_the_console() -> list[dict[str, Any]]:
    """What the console holds of others, as components."""
    return [
        {
            "type": "library",
            "bom-ref": f"npm:{each.name}@{each.version}",
            "name": each.name,
            "version": each.version,
            "purl": f"pkg:npm/{each.name}@{each.version}",
            "licenses": [{"license": {"id": each.licence}}],
        }
        for each in vendor.PACKAGES
        if each.folder == vendor.CONSOLE
    ]


def licence_of(name: str) -> str:
    """What a package that is installed here says of its licence; empty if it says nothing, or is not installed."""
    try:
        told = metadata(name)
    except PackageNotFoundError:
        return ""
    expression, plain = ((told.get_all(key) or [""])[0].strip() for key in ("License-Expression", "License"))
    classes = [each.rpartition(" :: ")[2] for each in told.get_all("Classifier") or () if each.startswith("License ::")]
    return expression or ", ".join(classes) or (plain if "\n" not in plain else "")


def with_licences(document: dict[str, Any], find: Callable[[str], str] = licence_of) -> dict[str, Any]:
    """A bill of materials in which each package names its licence, as far as it tells one."""
    for component in document.get("components", ()):
        licence = "" if "licenses" in component else find(component["name"])
        if licence:
            component["licenses"] = [{"license": {"name": licence}}]
    return document


def release(out: Path, with_images: bool) -> str:
    """Makes everything; gives the version.

    Raises:
        ReleaseError: Something is not as a release has it.
        VersionError: The parts have not one version.
    """
    version = one_version()
    text = notes((ROOT / "CHANGELOG.md").read_text(), version)
    empty(out)
    build_wheels(out)
    check_client(out, version)
    package_chart(out)
    (out / "sbom.cdx.json").write_text(bill_of_materials(version))
    (out / "RELEASE-NOTES.md").write_text(text)
    if with_images:
        save_images(out, version)
    for path in out.glob(".gitignore"):
        path.unlink()
    (out / "SHA256SUMS").write_text(checksums(out))
    return version


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    parser = argparse.ArgumentParser(description="Makes a release; publishes nothing.")
    parser.add_argument(
        "--out", type=Path, default=ROOT / "dist", help="the folder; an earlier release in it is removed (dist)"
    )
    parser.add_argument("--without-images", action="store_true", help="build no images")
    parser.add_argument("--chart-only", action="store_true", help="the chart's package alone, with its checksum")
    options = parser.parse_args(arguments)
    out: Path = options.out.absolute()
    try:
        if options.chart_only:
            one_version()
            out.mkdir(parents=True, exist_ok=True)
            package_chart(out)
            (out / "SHA256SUMS").write_text(checksums(out))
        else:
            release(out, not options.without_images)
    except (ReleaseError, VersionError) as error:
        print(f"release: {error}", file=sys.stderr)
        return 1
    print((out / "SHA256SUMS").read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())

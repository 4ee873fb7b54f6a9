"""Fetches what others wrote for the console and its tests, from npm, and writes down what it is.

``make vendor`` fetches the packages of ``PACKAGES`` with npm, checks each against the integrity that its manifest has
(a version that is not there yet is written down), and writes the files, with the version in their names and the licence
beside them. ``python -m tools.vendor --check`` compares the files with the manifests, without a network.
"""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent
CONSOLE = ROOT / "services/facade/src/facade/console/static/vendor"
TESTS = ROOT / "tests/integration/browser/vendor"
MANIFEST = "manifest.json"


class Package(NamedTuple):
    """A package of npm.

    Attributes:
        name: Its name.
        version: Which version.
        licence: What it is licensed under.
        folder: Where its files go.
        files: Names here, by their names in the package.
    """

    name: str
    version: str
    licence: str
    folder: Path
    files: dict[str, str]


PACKAGES = (
    Package(
        "htm",
        "3.1.1",
        "Apache-2.0",
        CONSOLE,
        {"preact/standalone.module.js": "htm-preact-3.1.1.module.js", "LICENSE": "LICENSE.htm"},
    ),
    # It is within htm's file; only its licence is needed from its own package.
    Package("preact", "10.5.15", "MIT", CONSOLE, {"LICENSE": "LICENSE.preact"}),
    Package(
        "uplot",
        "1.6.32",
        "MIT",
        CONSOLE,
        {
            "dist/uPlot.iife.min.js": "uplot-1.6.32.iife.min.js",
            "dist/uPlot.min.css": "uplot-1.6.32.min.css",
            "LICENSE": "LICENSE.uplot",
        },
    ),
    Package("axe-core", "4.14.1", "MPL-2.0", TESTS, {"axe.min.js": "axe-4.14.1.min.js", "LICENSE": "LICENSE.axe-core"}),
)


def integrity(data: bytes) -> str:
    """The hash of some bytes, as npm and browsers write it."""
    return "sha512-" + base64.b64encode(hashlib.sha512(data).digest()).decode()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a manifest says, by package."""
    path = folder / MANIFEST
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    return found


def fetch(package: Package, known: dict[str, Any] | None) -> dict[str, Any]:
    """Fetches one package, writes its files, and returns what the manifest is to say.

    Raises:
        ValueError: It is not what it was.
    """
    with tempfile.TemporaryDirectory() as folder:
        named = f"{package.name}@{package.version}"
        told = subprocess.run(
            ["npm", "pack", "--json", named], cwd=folder, check=True, capture_output=True, text=True
        ).stdout
        archive = Path(folder) / json.loads(told)[0]["filename"]
        found = integrity(archive.read_bytes())
        if known is not None and known["version"] == package.version and known["integrity"] != found:
            raise ValueError(f"{named} is not what it was: {found}")
        files = {}
        with tarfile.open(archive) as tar:
            for inside, name in package.files.items():
                member = tar.extractfile(f"package/{inside}")
                assert member is not None, inside
                data = member.read()
                (package.folder / name).write_bytes(data)
                files[name] = {"from": inside, "integrity": integrity(data)}
    return {"version": package.version, "licence": package.licence, "integrity": found, "files": files}


def differences() -> Iterator[str]:
    """What is not as the manifests and ``PACKAGES`` say."""
    for folder in dict.fromkeys(package.folder for package in PACKAGES):
        manifest = read_manifest(folder)
        wanted = {package.name: package for package in PACKAGES if package.folder == folder}
        if manifest.keys() != wanted.keys():
            yield f"{folder.name}: the manifest names {sorted(manifest)}, not {sorted(wanted)}"
            continue
        names = {MANIFEST}
        for name, package in wanted.items():
            said = manifest[name]
            if said["version"] != package.version or set(said["files"]) != set(package.files.values()):
                yield f"{name}: the manifest is of another version or of other files"
            for file, facts in said["files"].items():
                names.add(file)
                path = folder / file
                if not path.exists() or integrity(path.read_bytes()) != facts["integrity"]:
                    yield f"{file} is missing or was changed"
        yield from (f"{path.name} is in no manifest" for path in folder.iterdir() if path.name not in names)


def main(arguments: list[str]) -> int:
    """Fetches, or with ``--check`` compares; returns the exit code."""
    if arguments == ["--check"]:
        found = list(differences())
        print("\n".join(found), end="\n" if found else "")
        return 1 if found else 0
    manifests: dict[Path, dict[str, Any]] = {}
    for package in PACKAGES:
        package.folder.mkdir(parents=True, exist_ok=True)
        known = read_manifest(package.folder).get(package.name)
        manifests.setdefault(package.folder, {})[package.name] = fetch(package, known)
    for folder, manifest in manifests.items():
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

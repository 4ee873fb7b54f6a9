"""The one version of all parts of DougDB: tells it, or gives all of them another one.

    python -m tools.version [NEW]

It is written in several files, because each package and the chart must carry it themselves. All of them are `PLACES`,
so that none is forgotten: a release and a test name whatever has another version. After a new one `make setup chart`
brings what is generated up to date (`make version` does all of it), and CHANGELOG.md needs a section.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHART = "deploy/helm/dougdb/Chart.yaml"
MEMBERS = {
    "clients/python": "src/dougdb",
    "protos": "wire/doug_wire",
    "services/facade": "src/facade",
    "services/raft-node": "src/raft_node",
    "services/raft-node-testing": "src/raft_testing",
}
"""The package in each member's folder."""
NUMBER = r"(\d+\.\d+\.\d+)"
"""Nothing behind it: what Python takes for a candidate (1.0.0rc1) is no version to helm, and the other way round."""
PROJECT = rf'^version = "{NUMBER}"$'
MODULE = rf'^__version__ = "{NUMBER}"$'
LOCKED = rf'^version = "{NUMBER}"\nsource = {{ (?:editable|virtual) = '
IMAGE = rf"dougdb/(?:raft-node|facade|\$image):{NUMBER}(?!-next)"
DOCUMENTS = ("docs/*.md", "services/*/README.md", "deploy/helm/README.md", "README.md")
"""Where commands for users name images."""
PLACES = (
    *((f"{folder}pyproject.toml", PROJECT) for folder in ("", *(f"{member}/" for member in MEMBERS))),
    *((f"{member}/{package}/__init__.py", MODULE) for member, package in MEMBERS.items()),
    ("uv.lock", LOCKED),
    (CHART, rf"^version: {NUMBER}$"),
    (CHART, rf'^appVersion: "{NUMBER}"$'),
    (CHART, IMAGE),
)
"""The files that must say it, and how."""


class VersionError(Exception):
    """The parts have not one version, or a text is none; the message says which."""


def places(root: Path) -> Iterator[tuple[str, str]]:
    """All files that say a version, with the expression that finds it; documents are those that name one."""
    yield from PLACES
    for pattern in DOCUMENTS:
        for path in sorted(root.glob(pattern)):
            if re.search(IMAGE, path.read_text()):
                yield path.relative_to(root).as_posix(), IMAGE


def versions(root: Path) -> dict[str, list[str]]:
    """The places that say each version, as file and line."""
    found: dict[str, list[str]] = {}
    for path, expression in places(root):
        text = (root / path).read_text()
        matches = list(re.finditer(expression, text, re.M))
        if not matches:
            found.setdefault("none", []).append(path)
        for match in matches:
            line = text.count("\n", 0, match.start()) + 1
            found.setdefault(match[1], []).append(f"{path}:{line}")
    return found


def one_version(root: Path = ROOT) -> str:
    """The version of all parts.

    Raises:
        VersionError: They have not the same; every place is named.
    """
    found = versions(root)
    if len(found) != 1:
        told = "\n".join(f"  {version:10} {place}" for version, named in sorted(found.items()) for place in named)
        raise VersionError(f"all parts have one version:\n{told}")
    return next(iter(found))


def give(root: Path, version: str) -> None:
    """Writes another version into all places, whatever they said.

    Raises:
        VersionError: It is no version, or a place says none.
    """
    if re.fullmatch(NUMBER, version) is None:
        raise VersionError(f"{version!r} is no version such as 0.2.0")
    if "none" in (found := versions(root)):
        raise VersionError(f"no version is found in {', '.join(found['none'])}")
    for path, expression in places(root):
        file = root / path
        file.write_text(re.sub(expression, lambda match: _with(match, version), file.read_text(), flags=re.M))


def _with(match: re.Match[str], version: str) -> str:
    begin, end = match.start(1) - match.start(), match.end(1) - match.start()
    return f"{match[0][:begin]}{version}{match[0][end:]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line."""
    words = sys.argv[1:] if arguments is None else arguments
    if len(words) > 1 or (words and words[0].startswith("-")):
        print(__doc__, file=sys.stderr)
        return 2
    try:
        if words:
            give(ROOT, words[0])
        print(one_version())
    except VersionError as error:
        print(f"version: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

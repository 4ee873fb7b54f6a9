"""The house rules that no linter knows, as tests of the code base itself.

Each rule names every offender, with its line where it has one.
"""

from __future__ import annotations

import ast
import functools
import gc
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULE_LINES_MAX = 500
TEST_LINES_MAX = 600
"""For tests, which nothing else rests on."""
WALK_WORDS_MAX = 282
"""What the walk of a put took when it named fewer modules."""
FUNCTION_LINES_MAX = 70
GENERATED = "protos/gen/"
REQUIRED = [
    *("README.md", "ARCHITECTURE.md", "CHANGELOG.md", "LICENSE", "Makefile", "pyproject.toml", "uv.lock", ".ci/run"),
    *(".gitignore", ".dockerignore", "protos", "deploy/helm/README.md", "deploy/k8s/README.md", "tests/integration"),
    *(
        "services/raft-node/README.md",
        "services/raft-node-testing/README.md",
        "services/facade/README.md",
        "clients/python/README.md",
    ),
    *("docs/formats.md", "docs/raft.md", "docs/api.md", "docs/testing.md", "docs/performance.md", "bench/README.md"),
]
# Built from parts, so that this file does not offend against its own rule.
BANNED = {
    "a path of one machine": re.compile(r"/(?:root|work|Users|home/[a-z]+)" + "/|/tmp/" + "brief"),
    "a note to be done later": re.compile(
        r"\b(?:" + "|".join(("FIX" + "ME", "TO" + "DO", "XX" + "X", "HA" + "CK")) + r")\b"
    ),
    "a word about how it was written": re.compile(
        r"\b(?:sub" + r"agents?|language " + r"model|AI-gen" + r"erated|issue " + r"#?\d)", re.IGNORECASE
    ),
    "a conflict marker": re.compile(r"^(?:<{7} |>{7} |={7}$)", re.MULTILINE),
}
TEXT_SUFFIXES = {".py", ".md", ".toml", ".proto", ".yaml", ".yml", ".json", ".txt", ".sh", ".cfg", ""}
LINK = re.compile(r"(?<!!)\[[^\]\n]*\]\(([^)\s]+)\)")
NAMED_TEST = re.compile(r"`((?:[\w-]+/)*test_\w+\.py)(?:::(test_\w+))?`")
NAMED_MODULE = re.compile(r"`((?:raft_node|raft_testing|facade|dougdb|doug_wire|doug_stream)(?:\.\w+)+)`")
NAMED_MEMBER = re.compile(r"`([A-Z]\w+)\.(\w+)`")
CITED = re.compile(r"\b(docs/[a-z-]+\.md|ARCHITECTURE\.md),\s+([A-Z][\w' -]*)")
"""A document with the name of one of its parts, as modules cite it."""
SOURCES = (
    "services/raft-node/src",
    "services/raft-node-testing/src",
    "services/facade/src",
    "clients/python/src",
    "protos/wire",
)
SCENARIOS = {*range(1, 12), 13, 14, *range(17, 32), 33, 34, 35, 38, 43}
HEADING = re.compile(r"^#+\s+(.*?)\s*#*$", re.MULTILINE)
FENCE = re.compile(r"^```.*?^```", re.MULTILINE | re.DOTALL)


@functools.cache
def files() -> tuple[Path, ...]:
    """Every file of the repository that git knows or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    names = sorted(set(listed.stdout.decode().split("\0")) - {""})
    return tuple(ROOT / name for name in names if (ROOT / name).is_file() and not name.startswith(GENERATED))


def modules() -> list[Path]:
    return [path for path in files() if path.suffix == ".py"]


@functools.cache
def text_of(path: Path) -> str:
    return path.read_text(errors="replace")


@functools.cache
def trees() -> dict[Path, ast.Module]:
    """Every module, parsed; the garbage collector would look through a million nodes again and again meanwhile."""
    gc.disable()
    try:
        return {path: ast.parse(text_of(path)) for path in modules()}
    finally:
        gc.freeze()
        gc.enable()


def parse(path: Path) -> ast.Module:
    return trees()[path]


@functools.cache
def names_of_tests(path: Path) -> frozenset[str]:
    return frozenset(re.findall(r"def (test_\w+)\(", text_of(path)))


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_modules_are_short() -> None:
    lengths = {name_of(path): len(text_of(path).splitlines()) for path in modules()}
    assert not {
        name: lines
        for name, lines in lengths.items()
        if lines > (TEST_LINES_MAX if "tests/" in name else MODULE_LINES_MAX)
    }


def test_functions_are_short() -> None:
    long = []
    for path in modules():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > FUNCTION_LINES_MAX:
                    long.append(f"{name_of(path)}:{node.lineno} {node.name}: {lines} lines")
    assert not long


def test_every_module_says_what_it_is() -> None:
    silent = [name_of(path) for path in modules() if not ast.get_docstring(parse(path)) and text_of(path).strip()]
    assert not silent


def test_annotations_are_not_evaluated() -> None:
    missing = []
    for path in modules():
        tree = parse(path)
        imported = [node for node in tree.body if isinstance(node, ast.ImportFrom) and node.module == "__future__"]
        kinds = ast.FunctionDef | ast.AsyncFunctionDef | ast.AnnAssign
        annotated = any(isinstance(node, kinds) for node in ast.walk(tree))
        if annotated and not any(name.name == "annotations" for node in imported for name in node.names):
            missing.append(name_of(path))
    # The bootstrap must parse under Pythons that do not know this.
    assert missing == ["tools/bootstrap.py"]


@pytest.mark.parametrize("rule", BANNED)
def test_nothing_banned_is_written(rule: str) -> None:
    found = []
    for path in files():
        if path.suffix not in TEXT_SUFFIXES or path.name in ("uv.lock", "LICENSE"):
            continue
        text = text_of(path)
        for match in BANNED[rule].finditer(text):
            found.append(f"{name_of(path)}:{text.count(chr(10), 0, match.start()) + 1} {match.group()!r}")
    assert not found


def test_unit_tests_do_not_sleep() -> None:
    found = []
    for path in modules():
        if "/tests/unit/" in name_of(path) or "/tests/property/" in name_of(path):
            found += [
                f"{name_of(path)}:{number}"
                for number, line in enumerate(text_of(path).splitlines(), 1)
                if "time.sleep(" in line
            ]
    assert not found


def test_nothing_is_raised_where_groups_are_taken_apart() -> None:
    """Up to Python 3.11.3, which Debian has, it comes out in another group, which no caller expects."""
    raised = [
        f"{name_of(path)}:{inside.lineno}"
        for path in modules()
        for node in ast.walk(parse(path))
        if isinstance(node, ast.TryStar)
        for handler in node.handlers
        for inside in ast.walk(handler)
        if isinstance(inside, ast.Raise)
    ]
    assert not raised


def test_no_pickle() -> None:
    found = []
    for path in modules():
        for node in ast.walk(parse(path)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or ""]
            if {"pickle", "marshal", "shelve"} & set(names):
                found.append(f"{name_of(path)}:{getattr(node, 'lineno', 0)}")
    assert not found


def anchors_of(path: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    text = FENCE.sub("", text_of(path))
    found: set[str] = set()
    for heading in HEADING.findall(text):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
        number = 1
        unique = slug
        while unique in found:
            unique, number = f"{slug}-{number}", number + 1
        found.add(unique)
    return found


def test_links_between_documents_resolve() -> None:
    broken = []
    for path in files():
        if path.suffix != ".md":
            continue
        for target in LINK.findall(FENCE.sub("", text_of(path))):
            if re.match(r"[a-z]+:", target):
                continue
            file, _, anchor = target.partition("#")
            aim = (path.parent / file).resolve() if file else path
            if not aim.exists() or (anchor and aim.suffix == ".md" and anchor not in anchors_of(aim)):
                broken.append(f"{name_of(path)}: {target}")
    assert not broken


def test_every_part_of_a_document_that_a_module_cites_exists() -> None:
    """A part is cited by words of its heading, or of a line that begins in bold."""
    broken = []
    for path in modules():
        for document, cited in CITED.findall(text_of(path)):
            aim = ROOT / document
            lines = text_of(aim).splitlines() if aim.exists() else []
            parts = [line.replace("`", "") for line in lines if line.startswith(("#", "- **", "**"))]
            if not any(cited.strip() in part for part in parts):
                broken.append(f"{name_of(path)}: {document}, {cited}")
    assert not broken


def test_every_test_that_a_document_names_exists() -> None:
    """A document may leave out the front of a path, but what it names has to be there."""
    missing, named = [], 0
    named_alike: dict[str, list[Path]] = {}
    for module in modules():
        named_alike.setdefault(module.name, []).append(module)
    for path in files():
        if path.suffix != ".md":
            continue
        for file, name in NAMED_TEST.findall(text_of(path)):
            named += 1
            found = [
                module for module in named_alike.get(Path(file).name, []) if f"/{name_of(module)}".endswith(f"/{file}")
            ]
            if not any(not name or name in names_of_tests(module) for module in found):
                missing.append(f"{name_of(path)}: {file}::{name}".removesuffix("::"))
    assert named > 30
    assert not missing


def test_every_scenario_of_the_simulator_names_its_tests() -> None:
    document = (ROOT / "docs/testing.md").read_text()
    scenarios = re.findall(r"^- \*\*S(\d+)\*\*: .+\n((?:  - .+\n)*)", document, re.MULTILINE)
    assert [int(number) for number, _ in scenarios] == sorted(SCENARIOS)
    for number, tests in scenarios:
        # That each of them exists is checked with all that documents name.
        lines = tests.splitlines()
        assert lines and all(name for line in lines for _, name in NAMED_TEST.findall(line)), f"S{number}: {tests}"
        assert all(len(NAMED_TEST.findall(line)) == 1 for line in lines), f"S{number}: {tests}"


def source_of(dotted: str) -> tuple[Path, str] | None:
    """The module that a dotted name begins with, and what is left of the name."""
    parts = dotted.split(".")
    for length in range(len(parts), 0, -1):
        for source in SOURCES:
            base = ROOT.joinpath(source, *parts[:length])
            for path in (base / "__init__.py", base.with_suffix(".py")):
                if path.exists():
                    return path, ".".join(parts[length:])
    return None


def test_every_module_that_a_document_names_exists() -> None:
    missing, named = [], 0
    for path in files():
        if path.suffix != ".md":
            continue
        for dotted in NAMED_MODULE.findall(text_of(path)):
            if dotted.endswith(".pid"):
                continue
            named += 1
            found = source_of(dotted)
            if found is None or not all(part in text_of(found[0]) for part in found[1].split(".")):
                missing.append(f"{name_of(path)}: {dotted}")
    assert named > 20
    assert not missing


def test_the_walk_of_a_put_is_short_and_names_its_modules_from_the_top_down() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text()
    walk = text.partition("## The way of a write")[2].partition("\n## ")[0]
    assert len(walk.split()) < WALK_WORDS_MAX
    named = [name for name in NAMED_MODULE.findall(walk) if not name.startswith("doug_wire")]
    order = ["facade.app", "facade.routes", "facade.client", "raft_node.rpc", "raft_node.runtime", "raft_node.raft"]
    first = [next(place for place, name in enumerate(named) if name.startswith(layer)) for layer in order]
    assert first == sorted(first) and len(named) > 20


def test_every_method_that_a_document_names_exists() -> None:
    classes: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.walk(parse(path)):
            if isinstance(node, ast.ClassDef):
                classes.setdefault(node.name, []).append(text_of(path))
    missing, named = [], 0
    for path in files():
        if path.suffix != ".md":
            continue
        for owner, member in NAMED_MEMBER.findall(text_of(path)):
            if owner not in classes:
                continue
            named += 1
            if not any(re.search(rf"\b{member}\b", text) for text in classes[owner]):
                missing.append(f"{name_of(path)}: {owner}.{member}")
    assert named > 20
    assert not missing


@pytest.mark.parametrize("path", REQUIRED)
def test_the_repository_is_complete(path: str) -> None:
    assert (ROOT / path).exists()


def layers() -> list[tuple[str, str]]:
    """Every package whose layers pyproject.toml names, with each of them."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    return [
        (container, layer.strip())
        for contract in contracts
        if contract["type"] == "layers"
        for container in contract["containers"]
        for names in contract["layers"]
        for layer in names.split("|")
    ]


def test_every_layer_that_the_import_rules_name_is_there() -> None:
    found = layers()
    assert {container.partition(".")[0] for container, _ in found} >= {"raft_node", "facade"}
    sources = {f"{container}.{layer}": source_of(f"{container}.{layer}") for container, layer in found}
    assert not [name for name, source in sources.items() if source is None or source[1]]


def test_no_test_file_is_lost() -> None:
    # pytest collects test_*.py only; a differently named file beside them would never run.
    stray = [
        name_of(path)
        for path in modules()
        if path.parent.name in ("unit", "property", "scenarios", "simulation", "integration")
        and "/tests/" in f"/{name_of(path)}"
        and "def test_" in text_of(path)
        and not path.name.startswith("test_")
    ]
    assert not stray

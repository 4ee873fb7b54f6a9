"""Makes a folder of the packages in which the listed modules are native.

mypyc writes C of all of them, and a C compiler makes one library of it, which a small extension for each module opens.
The folder has everything else of the packages, too, so that it takes their place as a whole: ``PYTHONPATH`` names it,
and an edited source is never hidden by an older native module. A stamp says of what it was made.

Invariants:
1. The folder appears at once, with its stamp, or not at all.
2. Nothing of it is older than the sources that its stamp names.

Source: mypyc's documentation, "Using mypyc with setuptools"; what is called here is what its `mypycify` gives.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from tools.compiled.modules import PACKAGES
from tools.compiled.rules import faults_of

ROOT = Path(__file__).resolve().parent.parent.parent
OWN = Path(__file__).resolve().parent
HEADER = OWN / "compiled.h"
STAMP = ".stamp"
LIBRARY = "dougdb"
"""What the one library is called: ``dougdb__mypyc``."""
OPTIMIZATION = "2"
"""-O3 takes longer and gives nothing that could be measured."""


class BuildError(Exception):
    """The modules cannot be made; the text says why."""


def folder_of(root: Path = ROOT) -> Path:
    """Where the packages with native modules lie for this Python."""
    return root / "out" / "compiled" / tag()


def tag() -> str:
    """The name of this Python's binary interface, which native modules are bound to."""
    return str(sysconfig.get_config_var("SOABI"))


def sources(root: Path = ROOT) -> dict[str, Path]:
    """All files of the packages, by their path below the folder."""
    found = {}
    for name, place in PACKAGES.items():
        base = root / place
        for path in sorted((base / name).rglob("*")):
            if path.is_file() and path.suffix != ".pyc":
                found[path.relative_to(base).as_posix()] = path
    return found


def fingerprint(files: dict[str, Path], modules: Iterable[str]) -> str:
    """What a folder is made of: the files, the list of modules, this tool, and the programs that make it."""
    digest = hashlib.sha256()
    for fact in (sys.version, tag(), metadata.version("mypy"), OPTIMIZATION, *modules):
        digest.update(fact.encode() + b"\0")
    for path in (*(OWN / name for name in sorted(os.listdir(OWN))), *files.values()):
        if path.is_file():
            digest.update(str(path.name).encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def is_current(folder: Path, wanted: str) -> bool:
    """Whether a folder is made of just that."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted


def file_of(module: str) -> str:
    """The path of a module below the folder."""
    return module.replace(".", "/") + ".py"


def check(files: dict[str, Path], modules: Sequence[str]) -> list[str]:
    """What is wrong with the list: modules that do not exist, and what the rules forbid."""
    wrong = []
    for module in modules:
        path = files.get(file_of(module))
        if path is None:
            wrong.append(f"{module}: there is no such module")
        else:
            wrong += faults_of(module, path.read_text(encoding="utf-8"))
    return wrong


def build(folder: Path, files: dict[str, Path], modules: Sequence[str]) -> None:
    """Makes the folder.

    Raises:
        BuildError: A module is not fit for it, or mypyc or the C compiler refuses one.
    """
    if wrong := check(files, modules):
        raise BuildError("\n".join(wrong))
    stamp = fingerprint(files, modules)
    work = folder.with_name(folder.name + ".work")
    copied = work / "packages"
    _copy(files, copied)
    made = _extensions(work, copied, modules)
    built = _compile(work, made)
    fresh = folder.with_name(folder.name + ".new")
    for path in (fresh, folder):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(copied, fresh)
    for place, path in built.items():
        shutil.copy2(path, fresh / place)
    (fresh / STAMP).write_text(stamp, encoding="utf-8")
    fresh.rename(folder)


def _copy(files: dict[str, Path], copied: Path) -> None:
    """Copies what has changed, so that mypy's cache stays of use, and removes what is gone."""
    for name, path in files.items():
        place = copied / name
        text = path.read_bytes()
        if not place.is_file() or place.read_bytes() != text:
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(text)
    for place in [*copied.rglob("*")]:
        if place.is_file() and place.relative_to(copied).as_posix() not in files:
            place.unlink()


def _extensions(work: Path, copied: Path, modules: Sequence[str]) -> list[Any]:
    """Has mypyc write the C, and tells what is to be compiled."""
    from mypyc.build import mypycify  # noqa: PLC0415 - it changes setuptools when it is imported

    options = [
        f"--config-file={ROOT / 'pyproject.toml'}",
        f"--cache-dir={work / 'mypy'}",
        f"--python-version={sys.version_info.major}.{sys.version_info.minor}",
    ]
    before = Path.cwd()
    os.chdir(copied)
    try:
        # It ends the program by itself when it refuses a module, and prints why.
        return list(
            mypycify(
                [*options, *map(file_of, modules)],
                opt_level=OPTIMIZATION,
                debug_level="0",
                multi_file=True,
                target_dir=str(work / "c"),
                group_name=LIBRARY,
            )
        )
    except SystemExit as error:
        raise BuildError("mypyc refuses these modules") from error
    finally:
        os.chdir(before)


def _compile(work: Path, made: list[Any]) -> dict[str, Path]:
    """Compiles and links everything; returns the libraries by their paths below the folder.

    An object that was made of the same C and the same headers before is taken again.
    """
    from setuptools._distutils import ccompiler, sysconfig as of_compilers  # noqa: PLC0415 - as mypyc's

    compiler: Any = ccompiler.new_compiler()
    of_compilers.customize_compiler(compiler)
    flags = ["-include", str(HEADER)]
    headers = hashlib.sha256(HEADER.read_bytes())
    for path in sorted((work / "c").rglob("*.h")):
        headers.update(path.read_bytes())
    objects = work / "objects"
    objects.mkdir(exist_ok=True)

    def one(source: str, extension: Any) -> str:
        name = str(Path(source).resolve())
        text = Path(source).read_bytes()
        arguments = repr((extension.include_dirs, extension.extra_compile_args))
        key = hashlib.sha256(name.encode() + text + headers.digest() + arguments.encode()).hexdigest()[:32]
        kept = objects / f"{key}.o"
        if not kept.exists():
            (written,) = compiler.compile(
                [source],
                output_dir=str(work / "o"),
                include_dirs=[*extension.include_dirs, sysconfig.get_paths()["include"]],
                extra_postargs=[*extension.extra_compile_args, *flags],
            )
            Path(written).rename(kept)
        return str(kept)

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        jobs = [[threads.submit(one, source, extension) for source in extension.sources] for extension in made]
        compiled = [[job.result() for job in each] for each in jobs]
    libraries = {}
    suffix = str(sysconfig.get_config_var("EXT_SUFFIX"))
    for extension, parts in zip(made, compiled, strict=True):
        place = extension.name.replace(".", "/") + suffix
        output = work / "so" / place
        compiler.link_shared_object(parts, str(output), extra_postargs=extension.extra_link_args)
        libraries[place] = output
    return libraries

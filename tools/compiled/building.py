"""Makes a folder of the packages in which the listed modules are native.

mypyc writes C of all of them, and a C compiler makes one library of it, which a small extension for each module opens.
The folder has everything else of the packages, too, so that it takes their place as a whole: ``PYTHONPATH`` names it,
and an edited source is never hidden by an older native module. A stamp says of what it was made.

Invariants:
1. The folder appears at once, with its stamp, or not at all; what takes its place never changes or empties it.
2. Nothing of it is older than the sources that its stamp names.
3. One build at a time is under way for a folder.

Source: mypyc's documentation, "Using mypyc with setuptools"; what is called here is what its `mypycify` gives.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import os
import shlex
import shutil
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from sysconfig import get_config_var, get_paths
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


class NotHereError(BuildError):
    """This machine has not what it needs to make them."""


def folder_of(root: Path = ROOT) -> Path:
    """Where the packages with native modules lie for this Python."""
    return root / "out" / "compiled" / tag()


def tag() -> str:
    """The name of this Python's binary interface, which native modules are bound to."""
    return str(get_config_var("SOABI"))


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
    for fact in (*programs(), OPTIMIZATION, *modules):
        digest.update(fact.encode() + b"\0")
    for name, path in (*((path.name, path) for path in sorted(OWN.iterdir())), *files.items()):
        if path.is_file():
            digest.update(name.encode() + b"\0" + hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def programs() -> tuple[str, ...]:
    """The programs that make a folder, by name and version: their headers are part of what is made."""
    return sys.version, tag(), metadata.version("mypy")


def make(modules: Sequence[str]) -> Path:
    """The folder, which is made first where it is not up to date.

    Raises:
        BuildError: It cannot be made.
    """
    folder = folder_of()
    with _alone(folder):
        files = sources()
        if not is_current(folder, fingerprint(files, modules)):
            begun = time.monotonic()
            build(folder, files, modules)
            print(f"compiled: {len(modules)} native modules in {time.monotonic() - begun:.0f} s", file=sys.stderr)
    return folder


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Waits until nobody else makes the folder. The system gives the lock back when a process ends, however it does."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(folder.name + ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def is_current(folder: Path, wanted: str) -> bool:
    """Whether a folder is made of just that."""
    stamp = folder / STAMP
    return stamp.is_file() and stamp.read_text(encoding="utf-8") == wanted


def file_of(module: str) -> str:
    """The path of a module below the folder."""
    return module.replace(".", "/") + ".py"


def can_build() -> bool:
    """Whether this machine has Python's headers, and the C compiler that is called: not each one is named cc."""
    compiler, *_ = shlex.split(os.environ.get("CC") or get_config_var("CC") or "cc")
    return shutil.which(compiler) is not None and (Path(get_paths()["include"]) / "Python.h").exists()


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
        NotHereError: There is no C compiler, or Python's headers are missing.
        BuildError: A module is not fit for it, or mypyc or the C compiler refuses one.
    """
    if not can_build():
        raise NotHereError("there is no C compiler, or Python's headers are missing (Debian: gcc, python3-dev)")
    if wrong := check(files, modules):
        raise BuildError("\n".join(wrong))
    stamp = fingerprint(files, modules)
    work = folder.with_name(folder.name + ".work")
    copied = work / "packages"
    _copy(files, copied)
    made = _extensions(work, copied, modules)
    built = _compile(work, made)
    fresh, old = folder.with_name(folder.name + ".new"), folder.with_name(folder.name + ".old")
    for path in (fresh, old):
        shutil.rmtree(path, ignore_errors=True)
    shutil.copytree(copied, fresh)
    for place, path in built.items():
        shutil.copy2(path, fresh / place)
    (fresh / STAMP).write_text(stamp, encoding="utf-8")
    if folder.exists():
        # Half a folder would still have its stamp: it is removed under another name.
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


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
    said = io.StringIO()
    before = Path.cwd()
    os.chdir(copied)
    try:
        # It says what it finds strange, too, which is nobody's concern unless it gives up; then it ends the program.
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
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
        raise BuildError(f"mypyc refuses these modules:\n{said.getvalue()}") from error
    finally:
        os.chdir(before)


class _Compiler:
    """The C compiler with which Python's own extensions are made. An object is taken again if it was made of the same.

    Its methods may be called by several threads.
    """

    def __init__(self, work: Path) -> None:
        from setuptools._distutils import ccompiler, sysconfig  # noqa: PLC0415 - behind mypyc, which changes them

        self._work = work
        self._compiler: Any = ccompiler.new_compiler()
        sysconfig.customize_compiler(self._compiler)
        # A library that is newer than its objects may still be of others: an object that is taken again is an old file.
        self._compiler.force = True
        self._headers = b"".join(path.read_bytes() for path in (HEADER, *sorted((work / "c").rglob("*.h"))))
        (work / "objects").mkdir(exist_ok=True)

    def compile(self, source: str, extension: Any) -> str:
        """Makes an object of a file of C; returns its path."""
        includes = [*extension.include_dirs, get_paths()["include"]]
        arguments = [*extension.extra_compile_args, "-include", str(HEADER)]
        called = repr((includes, arguments, self._compiler.compiler_so, programs())).encode()
        facts = (source.encode(), Path(source).read_bytes(), self._headers, called)
        kept = self._work / "objects" / f"{hashlib.sha256(b''.join(facts)).hexdigest()[:32]}.o"
        if not kept.exists():
            (made,) = self._compiler.compile(
                [source], output_dir=str(self._work / "o"), include_dirs=includes, extra_postargs=arguments
            )
            Path(made).rename(kept)
        return str(kept)

    def link(self, objects: Sequence[str], extension: Any) -> str:
        """Makes a library of objects; returns its path below the folder."""
        place = f"{extension.name.replace('.', '/')}{get_config_var('EXT_SUFFIX')}"
        output = str(self._work / "so" / place)
        self._compiler.link_shared_object(list(objects), output, extra_postargs=extension.extra_link_args)
        return place


def _compile(work: Path, extensions: Sequence[Any]) -> dict[str, Path]:
    """Compiles and links everything; returns the libraries by their paths below the folder.

    Raises:
        BuildError: There is no compiler, or it refuses a file; what it says is on standard error.
    """
    from setuptools._distutils.errors import CompileError, LinkError  # noqa: PLC0415 - as above

    compiler = _Compiler(work)
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        try:
            compiling = [[threads.submit(compiler.compile, each, one) for each in one.sources] for one in extensions]
            objects = [[job.result() for job in jobs] for jobs in compiling]
            linking = [threads.submit(compiler.link, *each) for each in zip(objects, extensions, strict=True)]
            places = [job.result() for job in linking]
        except (CompileError, LinkError) as error:
            threads.shutdown(cancel_futures=True)
            raise BuildError(f"the C compiler refuses: {error}") from error
    return {place: work / "so" / place for place in places}

# ruff: noqa: UP010, UP024, UP032, RUF005, PTH100, PTH107, PTH110, PTH112, PTH118, PTH120, PTH123
"""Makes .venv from nothing but a Python, its venv module, and a package index.

It may be started with any Python, so it must parse under all versions since 2.7: no annotations, no f-strings. It
looks for a fitting Python, makes .venv with it, installs a pinned uv beside it (.venv/.uv, since the lock does not list
uv and a sync would remove it), and lets uv install what uv.lock says. A second call sees from .venv/.stamp that there
is nothing to do.

Invariants: the stamp is written last, so that an interrupted call is simply repeated; a half-made environment is made
again. The user's configuration of pip applies to pip, and is passed on to uv.
"""

from __future__ import print_function

import hashlib
import os
import shutil
import subprocess
import sys

UV = "0.13.9"
OLDEST = (3, 11)
ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
TOOLS = os.path.join(VENV, ".uv")
UV_COMMAND = os.path.join(TOOLS, "bin", "uv")
STAMP = os.path.join(VENV, ".stamp")
INPUTS = (
    "uv.lock",
    "pyproject.toml",
    "protos/pyproject.toml",
    "services/raft-node/pyproject.toml",
    "services/raft-node-testing/pyproject.toml",
    "services/facade/pyproject.toml",
    "clients/python/pyproject.toml",
    "tools/bootstrap.py",
)
CANDIDATES = ("python3", "python3.14", "python3.13", "python3.12", "python3.11", "python")
PROBE = "import venv, ensurepip; print('yes')"
PYPI = "https://pypi.org/simple"


class Refused(Exception):  # noqa: N818 - it becomes the message, never a traceback
    """The environment cannot be made; the text says why and what to do."""


def main():
    # type: () -> int
    """Makes the environment if it is not there or not up to date."""
    if os.name == "nt" or sys.platform.startswith(("win", "cygwin", "msys")):
        print(
            "DougDB does not run on Windows itself. Install WSL2 and run the same command inside it.", file=sys.stderr
        )
        return 1
    try:
        # One call at a time; the second one then finds the first one's stamp.
        with open(os.path.abspath(__file__)) as lock:
            _lock(lock.fileno())
            if not _is_up_to_date():
                _make()
    except Refused as refusal:
        print("bootstrap: {}".format(refusal), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bootstrap: interrupted; the next call goes on", file=sys.stderr)
        return 130
    return 0


def _lock(fd):
    # type: (int) -> None
    try:
        import fcntl  # noqa: PLC0415 - not there on Windows

        fcntl.flock(fd, fcntl.LOCK_EX)
    except (ImportError, OSError, IOError):
        # The file system has no locks: the user must then avoid two calls at once.
        pass


def _make():
    # type: () -> None
    python = _find_python()
    if os.path.exists(STAMP):
        os.remove(STAMP)
    if not _is_usable(python):
        print("bootstrap: making .venv with {}".format(python), file=sys.stderr)
        if os.path.isdir(VENV):
            shutil.rmtree(VENV)
        _run([python, "-m", "venv", "--without-pip", VENV], "make .venv")
    if not _output([UV_COMMAND, "--version"]).startswith("uv " + UV):
        print("bootstrap: installing uv {}".format(UV), file=sys.stderr)
        _run([python, "-m", "venv", "--clear", TOOLS], "make .venv/.uv")
        pip = [os.path.join(TOOLS, "bin", "python"), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        _run(pip + ["uv==" + UV], "install uv from the package index")
    print("bootstrap: installing the locked packages", file=sys.stderr)
    _install(_uv_environment())
    with open(STAMP, "w") as stream:
        stream.write(_fingerprint())
    print("bootstrap: ready", file=sys.stderr)


def _install(environment):
    # type: (dict[str, str]) -> None
    index = environment.get("UV_DEFAULT_INDEX", PYPI)
    if index.rstrip("/") == PYPI:
        command = [UV_COMMAND, "sync", "--quiet", "--frozen", "--all-packages", "--python", VENV_PYTHON]
        _run(command, "install the packages of uv.lock", environment)
        return
    # The lock names PyPI's files. Behind a mirror the same versions, checked by the same hashes, come from there.
    requirements = os.path.join(VENV, ".requirements.txt")
    export = [UV_COMMAND, "export", "--quiet", "--frozen", "--all-packages", "--no-emit-workspace", "-o", requirements]
    _run(export, "read uv.lock", environment)
    install = [UV_COMMAND, "pip", "install", "--quiet", "--python", VENV_PYTHON]
    _run(
        install + ["--require-hashes", "-r", requirements], "install the packages of uv.lock from " + index, environment
    )
    members = []  # type: list[str]
    for path in INPUTS[2:7]:
        members += ["-e", os.path.join(ROOT, os.path.dirname(path))]
    _run(install + ["--no-deps"] + members, "install the members of the workspace", environment)


def _find_python():
    # type: () -> str
    """A Python that is new enough and can make environments: the user's choice, else the default, else the newest."""
    chosen = os.environ.get("PYTHON")
    seen = []  # type: list[str]
    for name in [chosen] if chosen else CANDIDATES:
        found = _version([name])
        version = ".".join(str(part) for part in found)
        if not found:
            continue
        if found < OLDEST:
            seen.append("{} is Python {}".format(name, version))
        elif not _output([name, "-c", PROBE]):
            seen.append(
                "{} is Python {}, but its venv or ensurepip module is missing "
                "(on Debian and Ubuntu: apt install python{}-venv)".format(name, version, version)
            )
        else:
            return name
    needed = "DougDB needs Python {}.{} or newer, with its venv module.".format(*OLDEST)
    if chosen and not seen:
        seen.append("PYTHON={} cannot be run".format(chosen))
    report = "Found: {}.".format("; ".join(seen)) if seen else "Found none."
    raise Refused("{} {} Install one, or name one with PYTHON=/path/to/python3.".format(needed, report))


def _uv_environment():
    # type: () -> dict[str, str]
    """The environment of uv: the user's, and what their pip is configured to use."""
    environment = dict(os.environ)
    # A virtual environment that is active in the user's shell must not influence ours.
    for name in ("VIRTUAL_ENV", "UV_PYTHON", "CONDA_PREFIX", "UV_FROZEN", "UV_LOCKED"):
        environment.pop(name, None)
    environment["UV_PROJECT_ENVIRONMENT"] = VENV
    environment["UV_PYTHON_DOWNLOADS"] = "never"
    environment.setdefault("UV_HTTP_TIMEOUT", "120")
    # Eleven processes start at once; without this each of them may compile every module anew.
    environment.setdefault("UV_COMPILE_BYTECODE", "1")
    if environment.get("UV_INDEX_URL"):
        environment.setdefault("UV_DEFAULT_INDEX", environment["UV_INDEX_URL"])
    settings = _pip_settings()
    for theirs, ours in (
        ("index-url", "UV_DEFAULT_INDEX"),
        ("extra-index-url", "UV_INDEX"),
        ("find-links", "UV_FIND_LINKS"),
        ("cert", "SSL_CERT_FILE"),
        ("trusted-host", "UV_INSECURE_HOST"),
    ):
        if settings.get(theirs):
            environment.setdefault(ours, settings[theirs])
    if settings.get("proxy"):
        environment.setdefault("HTTPS_PROXY", settings["proxy"])
        environment.setdefault("HTTP_PROXY", settings["proxy"])
    return environment


def _pip_settings():
    # type: () -> dict[str, str]
    """The user's settings of pip, from its files and from the environment."""
    pip = os.path.join(TOOLS, "bin", "python")
    settings = {}  # type: dict[str, str]
    for line in _output([pip, "-m", "pip", "config", "list"]).splitlines():
        name, equals, value = line.partition("=")
        section, dot, key = name.strip().rpartition(".")
        if equals and dot and section in ("global", "install", ":env:"):
            # Values are printed as Python literals; lists are separated by line ends.
            text = value.strip().strip("'\"").replace("\\n", " ")
            settings[key] = " ".join(text.split())
    return settings


def _is_usable(python):
    # type: (str) -> bool
    """Whether .venv works, is of the Python that shall be used, and was made in this place.

    One that was moved has the old paths in every script. One of another version is kept unless the user named a Python.
    """
    version = _version([VENV_PYTHON])
    if not version or version < OLDEST or (os.environ.get("PYTHON") and version != _version([python])):
        return False
    script = os.path.join(VENV, "bin", "dougctl")
    if not os.path.exists(script):
        return True
    with open(script) as stream:
        return VENV in stream.read(1000)


def _is_up_to_date():
    # type: () -> bool
    try:
        with open(STAMP) as stream:
            return stream.read() == _fingerprint() and os.path.exists(VENV_PYTHON)
    except (OSError, IOError):
        return False


def _fingerprint():
    # type: () -> str
    digest = hashlib.sha256((ROOT + "\0" + os.environ.get("PYTHON", "")).encode())
    for path in INPUTS:
        with open(os.path.join(ROOT, *path.split("/")), "rb") as stream:
            digest.update(stream.read() + b"\0")
    return digest.hexdigest()


def _run(command, purpose, environment=None):
    # type: (list[str], str, dict[str, str] | None) -> None
    code = subprocess.call(command, cwd=ROOT, env=environment, stdin=None)
    if code:
        raise Refused("could not {} (exit code {} of: {})".format(purpose, code, " ".join(command)))


def _version(command):
    # type: (list[str]) -> tuple[int, ...]
    """The version of a Python; empty if it cannot be run."""
    text = _output(command + ["-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    return tuple(int(part) for part in text.strip().split(".")) if text else ()


def _output(command):
    # type: (list[str]) -> str
    """What a command prints; empty if it cannot be run or fails."""
    try:
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        text = process.communicate()[0].decode("utf-8", "replace")
    except (OSError, IOError):
        return ""
    return text if process.returncode == 0 else ""


if __name__ == "__main__":
    sys.exit(main())

"""Tries a cluster on a machine that nobody else uses: python -m tools.kubernetes.trial [PYTEST].

The cluster is brought up, DougDB installed, a key put and got, and all of it removed; then, with words for pytest, the
scenarios that these name run in another cluster. After each the machine must be as it was before. Where others work,
what they do in the meantime would be taken for remains.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from tools.kubernetes import machine
from tools.kubernetes.__main__ import say
from tools.kubernetes.layout import Layout

COUNTS = ("fs/", "kernel/ns_last_pid", "kernel/random/", "kernel/pty/nr")
"""What is below /proc/sys without being a setting."""


def settings(root: Path = Path("/proc/sys")) -> Iterator[str]:
    """The settings of the kernel; some can only be written."""
    for path in root.rglob("*"):
        name = str(path.relative_to(root))
        if path.is_file() and not name.startswith(COUNTS):
            with contextlib.suppress(OSError):
                yield f"setting {name} = {path.read_text().strip()}"


def processes() -> Iterator[str]:
    """The programs that run, save this one; threads of the kernel have no command line."""
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            words = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if words and int(path.name) != os.getpid():
                yield f"process {path.name} {words}"


def seen(layout: Layout) -> set[str]:
    """What the machine has that a cluster could leave."""
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        *(f"mount {path}" for path in mounts),
        *(f"link {path.name}" for path in Path("/sys/class/net").iterdir()),
        *(f"loop device {path}" for path in Path("/sys/block").glob("loop*/loop/backing_file")),
        *(f"cgroup {path.parent}" for path in machine.GROUPS.rglob("cgroup.procs")),
        *(f"{path} = {path.read_text().strip()}" for path in machine.GROUPS.rglob("cgroup.subtree_control")),
        *(f"file {path}" for path in layout.root.iterdir() if path.name not in ("bin", "logs")),
        *processes(),
        *settings(),
    }


def tool(*words: str) -> int:
    """Runs a verb of the cluster's command line; its exit code."""
    say(f"{' '.join(words)} ...")
    began_s = time.monotonic()
    code = subprocess.run([sys.executable, "-m", "tools.kubernetes", *words], cwd=machine.ROOT, check=False).returncode
    say(f"{' '.join(words)}: exit code {code}, after {time.monotonic() - began_s:.0f} s")
    return code


def left(layout: Layout, before: set[str]) -> int:
    """Says what was not there before; 1 if there is any of it.

    A setting that was not there at all came with a module of the kernel, which stays.
    """
    known = {line.partition(" = ")[0] for line in before}
    new = seen(layout) - before
    lines = sorted(line for line in new if not line.startswith("setting ") or line.partition(" = ")[0] in known)
    for line in lines:
        say(f"left: {line}")
    return int(bool(lines))


def main() -> int:
    """Runs the command line."""
    layout, words = Layout.of(), sys.argv[1:]
    version = "v2 alone" if machine.unified() else "v1"
    say(f"Linux {os.uname().release}, cgroup {version}, process 1 is {Path('/proc/1/comm').read_text().strip()}")
    before = seen(layout)
    codes = [tool("install"), tool("down"), left(layout, before)]
    if words:
        codes += [tool("test", *words), left(layout, before)]
    else:
        say("no scenarios were asked for")
    if not any(codes):
        say("everything passed, and nothing is left")
    return int(any(codes))


if __name__ == "__main__":
    sys.exit(main())

"""The files of a Secret in a pod, put there and replaced as the kubelet does it.

The mount has a folder for each content, a link ``..data`` to the newest, and a link through it for each file. A reader
therefore sees every file of one content or every file of the next. Must not know containers or what the files are for.

Invariants:
    1. ``..data`` is replaced by one rename, once everything it leads to is written, with its owner and mode.
    2. Whoever is neither the owner nor in the group reads no file, if ``mode`` says so.

Source: Kubernetes, pkg/volume/util/atomic_writer.go (steps 5 to 13) and pkg/volume/volume_linux.go (fsGroup).
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

DATA = "..data"
FOLDER_MODE = 0o2755
"""Those of the kubelet, with the bit that hands the group on, as fsGroup sets it."""


def mount(folder: Path, files: Mapping[str, bytes], mode: int, group: int) -> None:
    """Makes the mount's content, or replaces it. The names are those of the first content, as a Secret's are.

    Args:
        folder: The mount.
        files: Content by name.
        mode: Of each file, as ``defaultMode`` says; the group reads at least, as fsGroup has it.
        group: The pod's fsGroup. The owner is who calls, as the kubelet's root is.

    Raises:
        PermissionError: The caller may not give files to this group.
    """
    folder.mkdir(parents=True, exist_ok=True)
    _give(folder, FOLDER_MODE, group)
    old = os.readlink(folder / DATA) if (folder / DATA).is_symlink() else ""
    new = next(name for name in (f"..{number}" for number in itertools.count()) if not (folder / name).exists())
    (folder / new).mkdir()
    for name, content in files.items():
        (folder / new / name).write_bytes(content)
        _give(folder / new / name, mode | 0o440, group)
    _give(folder / new, FOLDER_MODE, group)
    temporary = folder / "..data_tmp"
    temporary.symlink_to(new)
    temporary.replace(folder / DATA)
    for name in files:
        if not (folder / name).is_symlink():
            (folder / name).symlink_to(Path(DATA) / name)
    if old:
        shutil.rmtree(folder / old)


def _give(path: Path, mode: int, group: int) -> None:
    os.chown(path, -1, group)
    path.chmod(mode)

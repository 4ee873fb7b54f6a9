"""Reads how a process of a cluster was started, so that a test can start it again, unchanged or changed."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Launch:
    """The command line, environment and folder with which a process was started."""

    argv: list[str]
    environment: dict[str, str]
    folder: str

    def replaced(self, old: str, new: str) -> Launch:
        """A copy in which one path is replaced by another everywhere."""
        return Launch(
            [word.replace(old, new) for word in self.argv],
            {name: value.replace(old, new) for name, value in self.environment.items()},
            self.folder,
        )

    def start(self, output: Path) -> subprocess.Popen[bytes]:
        """Starts the process again, with its output in ``output``; its stdin stays open until the caller closes it."""
        with output.open("ab") as file:
            return subprocess.Popen(
                self.argv,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

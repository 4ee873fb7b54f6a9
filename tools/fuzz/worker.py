"""Fuzzes one target until its CPU time is used up; a process of its own, which ``tools.fuzz`` starts.

It needs atheris. An input that raises is kept, once for each place that raised it, and so is one that takes too long;
an input that ends the process (a crash of a library, too much memory, an endless loop) is told by libFuzzer with the
input.

Lines on the standard output, for ``tools.fuzz``: ``finding FILE REASON`` and, at the end, ``done EXECUTIONS CPU_S``.
"""

from __future__ import annotations

import hashlib
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import atheris

# The product's modules that are imported here are instrumented.
with atheris.instrument_imports(
    include=["raft_node", "doug_wire", "facade", "dougdb"], exclude=["raft_node.observability"]
):
    from tools.fuzz.targets import TARGETS

ADDRESS_SPACE_BYTES_MAX = 3 << 30
"""The largest address space; needing more raises a MemoryError, which is a finding."""
INPUT_CPU_S_MAX = 3.0
LOOK_EVERY = 64


class Findings:
    """Keeps the smallest input for each place that raised; a context manager around each run."""

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._name = name
        self._sizes: dict[str, int] = {}
        self._begun_s = 0.0
        self.data = b""

    def __enter__(self) -> Findings:
        self._begun_s = time.process_time()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool:
        if isinstance(error, KeyboardInterrupt | SystemExit):
            return False
        if error is not None:
            last = traceback.extract_tb(trace)[-1]
            place = f"{type(error).__name__} at {Path(last.filename).name}:{last.lineno} {last.name}"
            self._keep(place, " ".join(str(error).split())[:120])
        elif (spent_s := time.process_time() - self._begun_s) > INPUT_CPU_S_MAX:
            self._keep("too slow", f"{spent_s:.1f} s of CPU")
        return True

    def _keep(self, place: str, what: str) -> None:
        if len(self.data) < self._sizes.get(place, sys.maxsize):
            self._sizes[place] = len(self.data)
            path = (
                self._folder / f"{self._name}-{hashlib.sha1(place.encode(), usedforsecurity=False).hexdigest()[:8]}.bin"
            )
            path.write_bytes(self.data)
            print("finding", path, f"{place}: {what}", flush=True)


def main() -> None:
    """Arguments: target, CPU seconds, folder of findings, then those of libFuzzer."""
    name, cpu_s, folder = sys.argv[1], float(sys.argv[2]), Path(sys.argv[3])
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_SPACE_BYTES_MAX, ADDRESS_SPACE_BYTES_MAX))
    run: Callable[[bytes], None] = TARGETS[name].run
    findings = Findings(folder, name)
    executions, begun_s = 0, time.process_time()

    def one_input(data: bytes) -> None:
        nonlocal executions
        executions += 1
        findings.data = data
        with findings:
            run(data)
        if executions % LOOK_EVERY == 0 and time.process_time() - begun_s >= cpu_s:
            print("done", executions, round(time.process_time() - begun_s, 1), flush=True)
            sys.stderr.flush()
            os._exit(0)

    atheris.Setup([sys.argv[0], *sys.argv[4:]], one_input)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

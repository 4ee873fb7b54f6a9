"""Generates the gRPC stubs from protos/doug/v1, or checks that the committed ones are the generated ones.

Usage: python tools/protos.py [--check]
"""

from __future__ import annotations

import filecmp
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent / "protos"


def generate(target: Path) -> list[Path]:
    """Writes the stubs below ``target`` and returns their paths."""
    sources = sorted((ROOT / "doug" / "v1").glob("*.proto"))
    outputs = [f"--{plugin}_out={target}" for plugin in ("python", "grpc_python", "mypy", "mypy_grpc")]
    subprocess.run(
        [sys.executable, "-m", "grpc_tools.protoc", f"-I{ROOT}", *outputs, *(str(path) for path in sources)],
        check=True,
        # protoc looks for the plugins of mypy-protobuf in PATH; they lie beside this interpreter.
        env={**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])},
    )
    return sorted(path for path in target.rglob("*_pb2*.py*") if "__pycache__" not in path.parts)


def main() -> int:
    """Runs the command line."""
    committed = ROOT / "gen"
    if "--check" not in sys.argv[1:]:
        generate(committed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        fresh = Path(folder)
        names = {path.relative_to(fresh) for path in generate(fresh)}
        known = {
            path.relative_to(committed) for path in committed.rglob("*_pb2*.py*") if "__pycache__" not in path.parts
        }
        stale = sorted(
            str(name) for name in names & known if not filecmp.cmp(fresh / name, committed / name, shallow=False)
        )
        stale += sorted(str(name) for name in names ^ known)
    if stale:
        print("The generated stubs are not what protos/doug/v1 gives; run `make protos`:", *stale, sep="\n  ")
        return 1
    print("protos: the generated stubs are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())

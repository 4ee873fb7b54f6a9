"""Generates the files that come from the Helm chart, or checks that the committed ones are the generated ones.

Usage: python -m tools.helm_chart [--check]

- deploy/helm/dougdb/README.md: the table of values, from the comments in values.yaml, and the sets of values that are
  tested, from tools/helm_matrix.py;
- deploy/helm/dougdb/files/defaults.yaml: values.yaml without its comments, which templates can read and Helm does not
  replace by the values of an earlier release;
- deploy/k8s/dougdb.yaml: the chart with its default values, for those who do not use Helm. It needs helm.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tools.helm_matrix import MATRIX

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "deploy" / "helm" / "dougdb"
PLAIN = ROOT / "deploy" / "k8s" / "dougdb.yaml"
NAMESPACE = "dougdb"
_KEY = re.compile(r"^( *)([A-Za-z]\w*):(?: (.*))?$")


def find_helm() -> str | None:
    """The helm to call: that of the chart's tools, or else that in PATH; None if there is none."""
    own = ROOT / ".venv" / ".chart" / "bin" / "helm"
    return str(own) if own.exists() else shutil.which("helm")


def run_helm(
    *words: str, environment: dict[str, str] | None = None, program: str | None = None
) -> subprocess.CompletedProcess[str]:
    """Calls helm, or another program of it, with scratch folders of its own: the user's configuration has no influence.

    Raises:
        FileNotFoundError: There is no helm.
    """
    helm = program or find_helm()
    if helm is None:
        raise FileNotFoundError("helm")
    with tempfile.TemporaryDirectory() as folder:
        homes = {f"HELM_{name}_HOME": folder for name in ("CACHE", "CONFIG", "DATA")}
        return subprocess.run(
            [helm, *words],
            env={**os.environ, "KUBECONFIG": f"{folder}/none", **homes, **(environment or {})},
            capture_output=True,
            text=True,
            check=False,
        )


def describe_values(text: str) -> str:
    """The table of values in Markdown, from the text of values.yaml.

    A comment that begins with ``--`` describes the key in the next line; a key with keys below it needs none.

    Raises:
        ValueError: A key is not described.
    """
    rows, path, comment = [], list[tuple[int, str]](), ""
    for line in text.splitlines():
        match = _KEY.match(line)
        if match is None:
            comment = line.strip().removeprefix("# -- ") if line.strip().startswith("# -- ") else ""
            continue
        path = [(indent, key) for indent, key in path if indent < len(match[1])] + [(len(match[1]), match[2])]
        name = ".".join(key for _, key in path)
        if match[3] is not None:
            if not comment:
                raise ValueError(f"values.yaml does not describe {name}")
            rows.append(f"| **{name}** | `{match[3]}` | {comment} |")
        comment = ""
    return "\n".join(rows)


def describe_sets() -> str:
    """The table of the sets of values in Markdown, as one would write their options in the chart's folder."""
    lines = []
    for name, options in MATRIX.items():
        words = shlex.join(Path(one).name if one.startswith("/") else one for one in options)
        lines.append(f"| {name} | {f'`{words}`' if words else ''} |")
    return "\n".join(lines)


def between(text: str, name: str, table: str) -> str:
    """A text with another table between the marks of a name.

    Raises:
        ValueError: The text has lost its marks.
    """
    head, mark, rest = text.partition(f"<!-- {name} -->\n")
    _, end, tail = rest.partition(f"<!-- end of {name} -->")
    if not mark or not end:
        raise ValueError(f"README.md of the chart has lost the marks around its {name}")
    return f"{head}{mark}{table}\n{end}{tail}"


def readme() -> str:
    """The chart's README with the tables of its values and of the sets that are tested."""
    values = describe_values((CHART / "values.yaml").read_text())
    text = between((CHART / "README.md").read_text(), "values", f"| Value | Default | |\n|---|---|---|\n{values}")
    return between(text, "sets", f"| Set | Options |\n|---|---|\n{describe_sets()}")


def defaults() -> str:
    """The values without their comments."""
    lines = [line for line in (CHART / "values.yaml").read_text().splitlines() if line.strip()[:1] not in ("", "#")]
    return "\n".join(("# Generated from values.yaml by `make chart`; do not edit.", *lines, ""))


def plain() -> str:
    """The chart with its default values as plain manifests.

    Raises:
        ValueError: helm refuses the chart.
    """
    run = run_helm("template", "dougdb", str(CHART), "--namespace", NAMESPACE, "--skip-tests")
    if run.returncode:
        raise ValueError(run.stderr)
    head = (
        "# Generated from deploy/helm/dougdb with its default values by `make chart`; do not edit.\n"
        f"# kubectl create namespace {NAMESPACE} && kubectl apply -f deploy/k8s/dougdb.yaml\n"
    )
    return head + run.stdout


def expected(with_helm: bool) -> dict[Path, str]:
    """Every generated file with its text."""
    files = {CHART / "README.md": readme(), CHART / "files" / "defaults.yaml": defaults()}
    if with_helm:
        files[PLAIN] = plain()
    return files


def main() -> int:
    """Runs the command line."""
    check = "--check" in sys.argv[1:]
    with_helm = find_helm() is not None
    if not with_helm:
        print("chart: there is no helm (try `make chart-tools`), so deploy/k8s is left as it is", file=sys.stderr)
    files = expected(with_helm)
    stale = [path for path, text in files.items() if not path.exists() or path.read_text() != text]
    if not check:
        for path in stale:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(files[path])
        return 0
    if stale:
        print("These files are not what the chart gives; run `make chart`:", *stale, sep="\n  ")
        return 1
    print("chart: its README and deploy/k8s are up to date")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What the Helm chart renders, as the tests of the chart and of the containers read it.

Needs the chart's tools (`make chart-tools`). Must not know what the objects should be: that is for the tests to say.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tools.helm_chart import CHART, ROOT, find_helm, run_helm

PYTHON = ROOT / ".venv" / ".chart" / "bin" / "python"
RELEASE = "dougdb"
NAMESPACE = "dougdb"

Object = dict[str, Any]

_READ = "import json, sys, yaml; print(json.dumps([d for d in yaml.safe_load_all(sys.stdin) if d]))"
_VALIDATE = """
import json, sys
import kubernetes_validate
versions, documents = json.load(sys.stdin)
problems = []
for number, document in enumerate(documents):
    for version in versions:
        try:
            kubernetes_validate.validate(document, version, strict=True)
        except Exception as error:
            lines = str(error).splitlines() or [repr(error)]
            what = f"{version} {document.get('kind')} {document.get('metadata', {}).get('name')}"
            problems.append([number, document.get("apiVersion"), f"{what}: {type(error).__name__}: {lines[0]}"])
print(json.dumps(problems))
"""


def missing_tool() -> str:
    """What is not installed; empty when nothing is missing."""
    if find_helm() is None:
        return "helm is not installed (make chart-tools)"
    if not PYTHON.exists():
        return "the chart's tools are not installed (make chart-tools)"
    return ""


def _call(program: str, text: str) -> Any:
    run = subprocess.run([str(PYTHON), "-c", program], input=text, capture_output=True, text=True, check=True)
    return json.loads(run.stdout)


def read(text: str) -> list[Object]:
    """The objects of a YAML text."""
    objects: list[Object] = _call(_READ, text)
    return objects


def render(*words: str, chart: Path = CHART, environment: dict[str, str] | None = None) -> list[Object]:
    """The objects that the chart gives for these options of `helm template`."""
    run = run_helm("template", RELEASE, str(chart), "--namespace", NAMESPACE, *words, environment=environment)
    if run.returncode:
        raise ValueError(run.stderr)
    return read(run.stdout)


def refusal(*words: str, chart: Path = CHART, environment: dict[str, str] | None = None) -> str:
    """Why helm refuses; empty when it does not."""
    run = run_helm("template", RELEASE, str(chart), "--namespace", NAMESPACE, *words, environment=environment)
    return run.stderr if run.returncode else ""


def validate(objects: list[Object], versions: list[str]) -> list[tuple[int, str, str]]:
    """What Kubernetes' own schemas say against them: the object's place, its API version and a message, each time."""
    return [
        (number, version, message) for number, version, message in _call(_VALIDATE, json.dumps([versions, objects]))
    ]


def of_kind(objects: list[Object], kind: str) -> list[Object]:
    """The objects of one kind."""
    return [one for one in objects if one["kind"] == kind]


def named(objects: list[Object], kind: str, name: str) -> Object:
    """The one object with this kind and name."""
    (found,) = [one for one in of_kind(objects, kind) if one["metadata"]["name"] == name]
    return found


def pod_templates(objects: list[Object]) -> Iterator[tuple[str, Object]]:
    """Every pod that would run: its owner's name, and metadata with spec."""
    for one in objects:
        if one["kind"] == "Pod":
            yield one["metadata"]["name"], one
        elif one["kind"] in ("StatefulSet", "Deployment", "Job"):
            yield one["metadata"]["name"], one["spec"]["template"]
        elif one["kind"] == "CronJob":
            yield one["metadata"]["name"], one["spec"]["jobTemplate"]["spec"]["template"]


def _field(template: Object, pod_name: str, path: str) -> str:
    """A field of a pod, as the kubelet gives it; a label that is not there is empty."""
    if path == "metadata.name":
        return pod_name
    label = re.fullmatch(r"metadata\.labels\['(.+)'\]", path)
    assert label, path
    return str(template["metadata"]["labels"].get(label[1], ""))


def environment_of(objects: list[Object], template: Object, pod_name: str) -> dict[str, str]:
    """The environment that Kubernetes would give the first container of a pod with this name."""
    container = template["spec"]["containers"][0]
    values: dict[str, str] = {}
    for source in container.get("envFrom", []):
        values |= named(objects, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in container.get("env", []):
        if "value" in variable:
            text = re.sub(r"\$\((\w+)\)", lambda match: values[match[1]], variable["value"])
        else:
            text = _field(template, pod_name, variable["valueFrom"]["fieldRef"]["fieldPath"])
        values[variable["name"]] = text
    return values

"""The chart's CronJob: what it runs, into which claim, who lets it in, and that its image has what it runs."""

from __future__ import annotations

import re
from pathlib import Path

from tools.helm_chart import ROOT
from tools.rendering import Object, named, of_kind, pod_templates, render
from typer.testing import CliRunner

from dougdb.cli import app

NAME = "dougdb-backup"


def job_of(*options: str) -> tuple[list[Object], Object, Object]:
    objects = render("--set", "backup.enabled=true", *options)
    cron = named(objects, "CronJob", NAME)
    return objects, cron, cron["spec"]["jobTemplate"]["spec"]["template"]["spec"]


def test_there_is_none_by_default(default: list[Object]) -> None:
    assert not of_kind(default, "CronJob") and not of_kind(default, "PersistentVolumeClaim")


def test_it_runs_a_command_that_dougctl_has(tools: None, tmp_path: Path) -> None:
    _, cron, pod = job_of("--set", "backup.keep=3")
    (container,) = pod["containers"]
    command = container["command"] + container["args"]
    assert command[0] == "/opt/dougdb/bin/dougctl"
    assert command[1] == "--url" and command[3:] == ["backup", "create", "/backups", "--keep", "3"]
    assert re.fullmatch(r"http://dougdb-facade\.\S+\.svc\.cluster\.local:8080", command[2])
    # The same words, with a facade that does not answer: understood as far as that.
    words = ["--url", "http://127.0.0.1:1", *command[3:5], str(tmp_path), *command[6:]]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 4, result.output
    assert (cron["spec"]["concurrencyPolicy"], cron["spec"]["schedule"]) == ("Forbid", "17 3 * * *")


def test_its_image_has_dougctl() -> None:
    text = (ROOT / "services" / "facade" / "Dockerfile").read_text()
    assert "uv export --quiet --frozen --no-dev --package dougdb --no-emit-workspace" in text
    assert "./clients/python" in text and "COPY clients/python/src/ clients/python/src/" in text


def test_the_claim_stays_when_the_release_goes(tools: None) -> None:
    objects, _, pod = job_of()
    claim = named(objects, "PersistentVolumeClaim", NAME)
    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == NAME
    objects, _, pod = job_of("--set", "backup.claim.existing=mine")
    assert not of_kind(objects, "PersistentVolumeClaim")
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == "mine"


def test_the_claim_is_mounted_at_once(tools: None) -> None:
    """`helm install --wait` waits for a claim that a class binds at its first use only."""
    objects, _, _ = job_of()
    (job,) = of_kind(objects, "Job")
    (volume,) = job["spec"]["template"]["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == NAME
    assert not job["metadata"].get("annotations"), "a hook would run after what waits for it"
    assert not of_kind(job_of("--set", "backup.claim.existing=mine")[0], "Job"), "that is its owner's"
    (other,) = of_kind(job_of("--set", "facade.image.tag=next")[0], "Job")
    assert other["metadata"]["name"] != job["metadata"]["name"], "a Job cannot change"
    (same,) = of_kind(job_of("--set", "backup.keep=3")[0], "Job")
    assert same == job


def test_it_is_as_restricted_as_every_pod(tools: None) -> None:
    objects, _, _ = job_of()
    spec = dict(pod_templates(objects))[NAME]["spec"]
    (container,) = spec["containers"]
    assert spec["securityContext"]["runAsNonRoot"] and not spec["automountServiceAccountToken"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}

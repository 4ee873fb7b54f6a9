"""``make observe``: what it scrapes, and what it says when it cannot start."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

from tools import observe

from dougdb.dev.layout import Layout
from dougdb.dev.ports import PortPlan, facade_id

ROOT = Path(__file__).resolve().parent.parent


def run(*words: str, path: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, ROOT / "tools" / "observe.py", *words],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_it_scrapes_every_process_where_the_cluster_puts_it() -> None:
    layout = Layout(3, 5)
    plan = PortPlan(layout, 21_000, 8080, 2)
    expected = {
        layout.node_id(shard, index): f"127.0.0.1:{plan.node(shard, index).admin}" for shard, index in layout.places()
    }
    expected |= {facade_id(number): f"127.0.0.1:{plan.facade(number)}" for number in range(2)}
    found = observe.targets(3, 5, 2, 8080, 21_000)
    assert {target.pod: target.address for target in found} == expected
    options, others = observe.parse(["--data", "somewhere"])
    assert (options.shards, options.nodes, options.port, others) == (2, 5, 8080, ["--data", "somewhere"])


def test_the_configuration_names_rules_and_pods() -> None:
    document = json.loads(observe.configuration(observe.targets(1, 2, 1, 8080, 21_000)))
    assert [Path(file).name for file in document["rule_files"]] == ["dougdb.yaml"]
    assert Path(document["rule_files"][0]).exists()
    jobs = {job["job_name"]: job["static_configs"] for job in document["scrape_configs"]}
    assert jobs["dougdb-facades"] == [{"targets": ["127.0.0.1:8080"], "labels": {"pod": "facade"}}]
    assert [target["labels"]["pod"] for target in jobs["dougdb-nodes"]] == ["shard-0-0", "shard-0-1"]


def test_a_job_is_scraped_over_https_by_the_name_that_certificates_carry() -> None:
    secured = {"dougdb-nodes": observe.Secured("/ca.crt", "metrics.peers")}
    document = json.loads(observe.configuration(observe.targets(1, 2, 1, 8080, 21_000), secured=secured))
    jobs = {job["job_name"]: job for job in document["scrape_configs"]}
    assert jobs["dougdb-nodes"]["scheme"] == "https"
    assert jobs["dougdb-nodes"]["tls_config"] == {"ca_file": "/ca.crt", "server_name": "metrics.peers"}
    assert "scheme" not in jobs["dougdb-facades"]


def test_without_prometheus_it_says_how_to_get_it_and_starts_nothing(tmp_path: Path) -> None:
    ended = run("--data", str(tmp_path / "data"), path=str(tmp_path))
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "apt-get install prometheus" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data").exists()


def test_a_taken_port_is_named_and_nothing_is_started(tmp_path: Path) -> None:
    program = tmp_path / "prometheus"
    program.write_text("#!/bin/sh\nexit 9\n")
    program.chmod(0o755)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen(1)
        port = str(taken.getsockname()[1])
        ended = run("--prometheus-port", port, "--data", str(tmp_path / "data"), path=str(tmp_path))
    assert ended.returncode == 2
    assert f"port {port} is taken" in ended.stderr
    assert not (tmp_path / "data").exists()

"""What others make of the served OpenAPI, with real nodes: schemathesis, and a client that a generator made."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from bench.cluster import Cluster
from bench.http11 import fetch
from tools.api.__main__ import ENDLESS, run
from tools.generator_tools import PROGRAM

pytestmark = [pytest.mark.integration, pytest.mark.slow, pytest.mark.timeout(900)]

SECONDS = 90
"""Enough for examples and edge cases of every operation; what is left goes to requests that are drawn."""
SEED = int(os.environ.get("FUZZ_API_SEED", "1"))
CHANGES_MEMBERS = ("/v1/shards/{shard}/members/{name}", "/v1/shards/{shard}/members/{name}/replace")
"""Left out here: a name that was read may be sent back, and then a node is gone."""
KILLS_NODES = ("/v1/console/faults",)
"""Left out too: it does what it says, and whoever asks meanwhile finds no leader."""


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(shards=1, nodes=3).start()


def test_what_is_left_out_is_there(cluster: Cluster) -> None:
    """A path that was renamed would be tried again."""
    paths = fetch(cluster.port, "GET", "/openapi.json").json()["paths"]
    assert {*ENDLESS, *CHANGES_MEMBERS, *KILLS_NODES} <= paths.keys()


def test_schemathesis_finds_nothing_with_real_nodes(cluster: Cluster) -> None:
    print(f"seed {SEED}; again: FUZZ_API_SEED={SEED} .venv/bin/pytest {Path(__file__).name}")
    more = tuple(word for path in (*ENDLESS, *CHANGES_MEMBERS, *KILLS_NODES) for word in ("--exclude-path", path))
    assert run(cluster.url, seed=SEED, seconds=SECONDS, examples=1, more=more) == 0


@pytest.mark.skipif(not PROGRAM.exists(), reason="no generator of clients: make generator-tools installs one")
def test_a_client_that_others_generate_does_everything(cluster: Cluster, tmp_path: Path) -> None:
    document, config = tmp_path / "openapi.json", tmp_path / "config.yml"
    document.write_bytes(fetch(cluster.port, "GET", "/openapi.json").body)
    config.write_text("post_hooks: []\n")
    generate: list[str | Path] = [PROGRAM, "generate", "--path", document, "--config", config, "--meta", "none"]
    subprocess.run([*generate, "--output-path", tmp_path / "generated"], check=True, timeout=120)
    script = Path(__file__).with_name("use_generated_client.py")
    python = PROGRAM.with_name("python")
    used = subprocess.run(
        [python, script, tmp_path, cluster.url],
        env=os.environ | {"no_proxy": "*"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert used.stdout.strip() == "done", used.stderr
    assert used.returncode == 0

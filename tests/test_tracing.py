"""Tracing as a setting: off it is not even imported, on without its packages it is refused before anything begins."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NODES = json.dumps({"0": {"shard-0-0": "127.0.0.1:1"}})
SERVICES = ("facade", "raft_node")

# What the process does after its settings are read does not matter here: the ports are taken, by a name that is none.
RUN = """
import sys
for name in {blocked}:
    sys.modules[name] = None
sys.argv = ["test"]
from {service}.__main__ import main
code = main()
print(sorted(name for name in sys.modules if name.split(".")[0] == "opentelemetry" and sys.modules[name] is not None))
sys.exit(code)
"""


def run(
    service: str, folder: Path, blocked: tuple[str, ...] = (), **variables: str
) -> subprocess.CompletedProcess[str]:
    """Starts a service that cannot listen, and so ends by itself."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith(("DOUGDB_", "OTEL_"))},
        "DOUGDB_NODES": NODES,
        "DOUGDB_NODE_ID": "shard-0-0",
        "DOUGDB_SHARD_ID": "0",
        "DOUGDB_PEERS": "shard-0-0=127.0.0.1:1",
        "DOUGDB_WAL_DIR": str(folder / "wal"),
        "DOUGDB_DATA_DIR": str(folder / "data"),
        "DOUGDB_TLS_MODE": "disabled",
        # An address of documentation (RFC 5737): it is nobody's, so nothing can be bound to it.
        "DOUGDB_LISTEN": "192.0.2.1:8080",
        "DOUGDB_PEER_LISTEN": "192.0.2.1:21001",
        "DOUGDB_CLIENT_LISTEN": "192.0.2.1:21000",
        "DOUGDB_ADMIN_LISTEN": "127.0.0.1:0",
        **variables,
    }
    return subprocess.run(
        [sys.executable, "-c", RUN.format(service=service, blocked=list(blocked))],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.seconds
@pytest.mark.parametrize("service", SERVICES)
def test_off_by_default_nothing_of_it_is_imported(service: str, tmp_path: Path) -> None:
    ended = run(service, tmp_path, OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:1")
    assert (ended.returncode, "cannot listen" in ended.stderr) == (2, True), ended.stderr
    imported = set(json.loads(ended.stdout.splitlines()[-1].replace("'", '"')))
    if service == "raft_node":
        assert not imported
    else:
        # FastAPI itself imports the API of OpenTelemetry, without which it does not work.
        assert not {name for name in imported if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter"))}


@pytest.mark.slow
@pytest.mark.seconds
@pytest.mark.parametrize("service", SERVICES)
def test_off_it_needs_no_packages(service: str, tmp_path: Path) -> None:
    blocked = ("opentelemetry.sdk", "opentelemetry.exporter", *(("opentelemetry",) if service == "raft_node" else ()))
    ended = run(service, tmp_path, blocked)
    assert (ended.returncode, "cannot listen" in ended.stderr) == (2, True), ended.stderr


@pytest.mark.slow
@pytest.mark.seconds
@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("missing", ["opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http"])
def test_on_without_its_packages_it_is_refused_first(service: str, missing: str, tmp_path: Path) -> None:
    ended = run(service, tmp_path, (missing,), DOUGDB_TRACING_ENABLED="true")
    assert ended.returncode == 2
    assert "DOUGDB_TRACING_ENABLED" in ended.stderr
    assert f"install {service.replace('_', '-')}[tracing]" in ended.stderr
    assert "cannot listen" not in ended.stderr
    assert "Traceback" not in ended.stderr
    assert list(tmp_path.iterdir()) == [], "nothing was made"


@pytest.mark.seconds
@pytest.mark.parametrize("service", SERVICES)
def test_an_endpoint_that_is_no_url_is_refused(service: str, tmp_path: Path) -> None:
    ended = run(service, tmp_path, DOUGDB_TRACING_ENDPOINT="collector:4317")
    assert (ended.returncode, "DOUGDB_TRACING_ENDPOINT" in ended.stderr) == (2, True)

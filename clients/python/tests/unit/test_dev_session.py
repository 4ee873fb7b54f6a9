"""What ``dougctl dev`` tells a newcomer once its cluster is ready."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from dougdb.dev.session import tour_of


def test_the_tour_names_its_own_cluster_and_can_be_pasted(tmp_path: Path) -> None:
    """The bootstrap token is sent to the facade of this cluster, not to whoever listens at the usual port."""
    token_file = tmp_path / "my data" / "bootstrap.token"
    token_file.parent.mkdir()
    token_file.write_text("secret\n")
    *exports, create = tour_of("http://127.0.0.1:18480", "curl", token_file)
    assert create == "dougctl auth token create my-app --allow read:config/"
    script = "\n".join([*exports, "env"])
    told = subprocess.run(["sh", "-ec", script], env={"PATH": os.defpath}, capture_output=True, text=True, check=True)
    assert {"DOUGDB_URL=http://127.0.0.1:18480", "DOUGDB_TOKEN=secret"} <= set(told.stdout.splitlines())


def test_without_tokens_the_tour_writes_and_reads_at_this_cluster() -> None:
    commands = tour_of("https://127.0.0.1:8080", "curl --cacert ca.crt", None)
    assert all("curl --cacert ca.crt" in each and "https://127.0.0.1:8080/v1/" in each for each in commands)

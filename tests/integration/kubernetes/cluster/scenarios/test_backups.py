"""What the chart's CronJob backs up, and a new release whose claims were filled from it, as docs/kubernetes.md says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from integration.kubernetes.cluster.podman import Podman, podman
from integration.kubernetes.cluster.scenarios.conftest import NewCluster

SMALL = ("--set", "shards=1,raft.replicas=3,facade.replicas=1,backup.enabled=true")
KEYS = 20


@pytest.fixture
def old(new_release: NewCluster) -> Iterator[Podman]:
    with new_release(*SMALL) as cluster:
        if not isinstance(cluster, Podman):
            pytest.skip("a real cluster is restored by the commands of docs/kubernetes.md: test_procedures.py")
        yield cluster


def test_a_backup_is_restored_into_the_claims_of_a_new_release(old: Podman, new_release: NewCluster) -> None:
    old.install()
    values = {f"saved/{number}": str(number) for number in range(KEYS)}
    assert {old.put(key, value) for key, value in values.items()} == {200}
    assert "1 shards" in old.run_job("dougdb-backup")
    assert old.put("saved/later", "lost") == 200
    backups = f"{old.prefix}-dougdb-backup"
    (name,) = podman(
        "run", "--rm", "-v", f"{backups}:/b:ro", "--entrypoint", "/bin/ls", old.client_image(), "/b"
    ).split()
    with new_release(*SMALL) as new:
        assert isinstance(new, Podman)
        for shard in range(new.shards):
            members = ",".join(new.nodes(shard))
            for node in new.nodes(shard):
                place = ("--backup", f"/backups/{name}/shard-{shard}", "--members", members)
                new.restore(node, backups, *place, "--restore-id", f"{name}-first")
        new.install()
        assert {key: new.get(key) for key in values} == values
        assert new.get("saved/later") is None
        assert new.put("saved/later", "again") == 200

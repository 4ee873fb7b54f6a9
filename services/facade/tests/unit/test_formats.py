"""What the facade makes for backups, in bytes. A failure means that ``dougctl`` or a node may not understand it."""

from __future__ import annotations

from doug.v1 import admin_pb2
from facade.routes.operators.backup import facts_of

FACTS = b"""{
  "format": 1,
  "cluster_id": "c0ffee",
  "shard": 3,
  "initial_shards": 4,
  "index": 5,
  "term": 2,
  "log_time_us": 6,
  "voters": [
    "shard-3-0"
  ],
  "learners": [
    "shard-3-1"
  ],
  "node": "shard-3-0",
  "version": "1",
  "files": [
    {
      "name": "CHECKPOINT",
      "size_bytes": 103,
      "xxh3": "00000000000000ff"
    }
  ]
}
"""


def test_the_facts_of_a_shard() -> None:
    header = admin_pb2.BackupHeader(
        cluster_id=b"c0ffee",
        shard=3,
        initial_shards=4,
        index=5,
        term=2,
        log_time_us=6,
        voters=["shard-3-0"],
        learners=["shard-3-1"],
        node_id="shard-3-0",
        version="1",
        files=[admin_pb2.BackupFile(name="CHECKPOINT", size_bytes=103, xxh3=255)],
    )
    assert facts_of(header) == FACTS

"""What dougctl and the client write, in bytes: exports, manifests of backups, values of locks.

A failure means that files, backups or locks of other versions are not understood any more.
"""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import xxhash

from dougdb import backups, checking, exported
from dougdb.backups import BackupFile
from dougdb.leases import encode_holder
from dougdb.ranges import Entry

ENTRIES = (
    Entry("ä/1".encode(), b"ann", "7", "text/plain", "br", datetime(2026, 11, 29, 3, 0, 0, 250_000, UTC)),
    Entry(b"\xff", b"\0\xff", "8"),
)
EXPORT = (
    '{"dougdb_export": 1, "start": "a"}\n'
    '{"key": "ä/1", "value": "ann", "encoding": "utf-8", "revision": "7", "content_type": "text/plain", '
    '"content_encoding": "br", "expires_at": "2026-11-29T03:00:00.250Z"}\n'
    '{"key64": "_w", "value": "AP8=", "encoding": "base64", "revision": "8", '
    '"content_type": "application/octet-stream", "expires_at": null}\n'
    '{"complete": true, "count": 2}\n'
).encode()


def test_an_export() -> None:
    written = exported.header({"start": "a"}) + b"".join(map(exported.encode, ENTRIES)) + exported.trailer(2)
    assert written == EXPORT
    reader = exported.Reader(io.BytesIO(EXPORT))
    assert tuple(line.entry for line in reader) == ENTRIES
    assert reader.complete and reader.bounds == {"dougdb_export": 1, "start": "a"}


def test_the_value_of_a_lock() -> None:
    assert encode_holder("host:1", "00ff") == b'{"owner": "host:1", "nonce": "00ff"}'


FILE = {"name": "CHECKPOINT", "size_bytes": 103, "xxh3": "00000000000000ff"}
CUT = {
    "format": 1,
    "cluster_id": "c0ffee",
    "shard": 0,
    "initial_shards": 1,
    "index": 5,
    "term": 2,
    "log_time_us": 6,
    "voters": ["shard-0-0"],
    "learners": [],
    "node": "shard-0-0",
    "version": "1",
    "files": [FILE],
}
MANIFEST = """{
  "format": 1,
  "backup_id": "20260504T031700Z-9f0c5a7b",
  "cluster_id": "c0ffee",
  "begun_us": 3,
  "ended_us": 4,
  "version": "2",
  "shards": [
    {
      "shard": 0,
      "index": 5,
      "term": 2,
      "log_time_us": 6,
      "initial_shards": 1,
      "voters": [
        "shard-0-0"
      ],
      "learners": [],
      "node": "shard-0-0",
      "version": "1",
      "files": [
        {
          "name": "CHECKPOINT",
          "size_bytes": 103,
          "xxh3": "00000000000000ff"
        }
      ]
    }
  ],
  "xxh3": "dfe999049ed46366"
}
"""


def test_the_manifest_of_a_backup(tmp_path: Path) -> None:
    path = tmp_path / "20260504T031700Z-9f0c5a7b"
    path.mkdir()
    backups.finish(path, [backups.cut_of(CUT)], 3, 4, "2")
    assert (path / "BACKUP.json").read_text() == MANIFEST
    (cut,) = backups.load(path).shards
    assert (cut.shard, cut.index, cut.files) == (0, 5, (BackupFile("CHECKPOINT", 103, "00000000000000ff"),))


def test_a_shard_that_is_sent_to_a_restore(tmp_path: Path) -> None:
    path = tmp_path / "20260504T031700Z-9f0c5a7b"
    folder = path / "shard-0"
    folder.mkdir(parents=True)
    (folder / "CHECKPOINT").write_bytes(b"abc")
    named = {**FILE, "size_bytes": 3, "xxh3": xxhash.xxh3_64_hexdigest(b"abc")}
    made = backups.finish(path, [backups.cut_of({**CUT, "files": [named]})], 3, 4, "2")
    sent = io.BytesIO()
    checking.send(made, 0, None, sent)
    head, _, files = sent.getvalue().partition(b"\n")
    assert head.startswith(b'{"stream":1,"shard":0,"manifest":{"format":1,"backup_id":"20260504T031700Z-9f0c5a7b",')
    assert json.loads(head)["manifest"] == json.loads((path / "BACKUP.json").read_text())
    assert files == b"abc"

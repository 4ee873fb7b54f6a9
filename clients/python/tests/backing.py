"""What stands in place of facades and nodes while a backup is made and restored."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import httpx
import pytest
import xxhash
from typer.testing import CliRunner

from dougdb.cli import app
from dougdb.client import DougClient
from dougdb.commands import backup as command_module
from dougdb.commands import common
from dougdb.dev.layout import DataDirectory, Layout, RefusedError

RUNNER = CliRunner()
FILES = {"CHECKPOINT": b"c" * 700, "000001.sst": b"s" * 3000, "000002.sst": b"t" * 100}
SHARDS = 2


def facts_of(shard: int, **fields: Any) -> dict[str, Any]:
    files = [{"name": n, "size_bytes": len(c), "xxh3": xxhash.xxh3_64_hexdigest(c)} for n, c in FILES.items()]
    facts = {"format": 1, "cluster_id": "c0ffee", "shard": shard, "initial_shards": SHARDS, "index": 40 + shard}
    voters = [f"shard-{shard}-{n}" for n in range(3)]
    facts |= {"term": 4, "log_time_us": 77, "voters": voters, "learners": [], "node": voters[1], "version": "1"}
    return facts | {"files": files} | fields


def archive_of(members: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def shard_archive(shard: int, content: dict[str, bytes] | None = None, **fields: Any) -> bytes:
    facts = json.dumps(facts_of(shard, **fields)).encode()
    return archive_of({"SHARD.json": facts, **(FILES if content is None else content)})


class FakeFacade:
    """Answers what a backup asks. ``script`` holds what comes first for a shard: a body, or an exception on its way."""

    def __init__(self) -> None:
        self.script: dict[int, list[bytes | Exception | Callable[[], None]]] = {}
        self.asked: list[int] = []

    def handle(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path
        if path == "/v1/partitions":
            slots = [{"from": 0, "to": 511, "shard": 0, "epoch": 1}, {"from": 512, "to": 1023, "shard": 1, "epoch": 1}]
            return httpx.Response(200, json={"epoch": 1, "slots": slots})
        if path == "/v1/cluster":
            return httpx.Response(200, json={"shards": [{"id": shard, "nodes": []} for shard in range(SHARDS)]})
        shard = int(path.split("/")[3])
        self.asked.append(shard)
        todo = self.script.get(shard)
        return httpx.Response(200, stream=Streamed(todo.pop(0) if todo else shard_archive(shard)))


class Streamed(httpx.SyncByteStream):
    """A body that comes in pieces, and breaks where it is told to."""

    def __init__(self, what: bytes | Exception | Callable[[], None]) -> None:
        self.what = what

    def __iter__(self) -> Iterator[bytes]:
        body = self.what if isinstance(self.what, bytes) else shard_archive(1)[:2500]
        yield from (body[start : start + 999] for start in range(0, len(body), 999))
        if isinstance(self.what, Exception):
            raise self.what
        if not isinstance(self.what, bytes):
            self.what()


class FakeNode:
    """In place of raft-node: notes what it is asked to restore, and fails where it is told to."""

    def __init__(self, fails_at: int = 0, code: int = 3, reason: str = "the disk is full") -> None:
        self.calls: list[dict[str, str]] = []
        self.fed: list[bytes] = []
        self.fails_at = fails_at
        self.failure = (code, f"restore: {reason}\n")

    def run(
        self, arguments: Sequence[str], feed: Callable[[BinaryIO], None] | None = None
    ) -> subprocess.CompletedProcess[str]:
        assert arguments[0] == "restore"
        self.calls.append(dict(zip(arguments[1::2], arguments[2::2], strict=True)))
        assert (self.calls[-1]["--backup"] == "-") is (feed is not None)
        if feed is not None:
            given = io.BytesIO()
            feed(given)
            self.fed.append(given.getvalue())
        code, said = self.failure if len(self.calls) == self.fails_at else (0, "")
        if code == 0 or feed is not None:
            Path(self.calls[-1]["--data-dir"]).mkdir(parents=True, exist_ok=True)
        return subprocess.CompletedProcess([], code, "", said)


def starts(data: Path, layout: Layout) -> bool:
    """Whether ``dougctl dev`` would start there."""
    with contextlib.suppress(RefusedError), DataDirectory(data) as directory:
        directory.inspect(layout)
        return True
    return False


def facade_of(patch: pytest.MonkeyPatch) -> FakeFacade:
    """A facade that ``dougctl`` reaches."""
    made = FakeFacade()
    transport = httpx.MockTransport(made.handle)
    patch.setattr(common, "DougClient", lambda url, **options: DougClient(url, **options, transport=transport))
    patch.setattr(command_module, "PAUSE_S", 0.0)
    return made


def run(*arguments: object) -> Any:
    """Runs ``dougctl backup``."""
    return RUNNER.invoke(app, ["backup", *map(str, arguments)])

"""A damaged log: cut within its last append it starts, damaged elsewhere the node refuses and leaves the file alone.

A node of a stopped cluster is started by itself on a copy of its volumes, just as ``dougctl dev`` had started it. The
unit tests of the log try every byte; here it is the whole process that has to react, at a sample of the bytes.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from bench.cluster import Cluster, wait_for
from bench.http11 import HttpError, fetch
from bench.launch import Launch

from raft_node.storage import record
from raft_node.storage.wal import segment as wal_segment

pytestmark = [pytest.mark.integration, pytest.mark.safety]

NODE = "shard-0-1"
PUTS = 30
EXIT_REFUSED = 3
START_S = 60.0


class Stopped(NamedTuple):
    """A cluster that was killed, and how one of its nodes had been started."""

    cluster: Cluster
    launch: Launch
    values: dict[str, bytes]


class FrameAt(NamedTuple):
    """Where a frame lies in the file."""

    start: int
    end: int
    flags: int


@pytest.fixture(scope="module")
def stopped(new_cluster: Callable[..., Cluster]) -> Stopped:
    """One shard with a few puts, killed in a quiet moment: the last appends are the last puts."""
    cluster = new_cluster(shards=1, nodes=3, environment={"DOUGDB_TRAIL_MS": "0"}).start()
    values = {f"wal/{number}": f"value {number} ".encode() * 20 for number in range(PUTS)}
    for key, value in values.items():
        assert cluster.request("PUT", f"/v1/kv/{key}", value).status == 200
    cluster.await_equal("0")
    time.sleep(0.3)  # The last commit index is written down without anybody waiting for it.
    launch = cluster.launch_of(NODE)
    cluster.kill_all()
    return Stopped(cluster, launch, values)


class Trial:
    """One start of the node by itself, on a copy of its volumes."""

    def __init__(self, stopped: Stopped, folder: Path) -> None:
        source = stopped.cluster.data / NODE
        self.folder = folder / NODE
        shutil.copytree(source, self.folder)
        self.launch = stopped.launch.replaced(str(source), str(self.folder))
        self.output = folder / "node.log"
        self.wal = max((self.folder / "wal").glob("*.wal"))
        self.admin_port = int(self.launch.environment["DOUGDB_ADMIN_LISTEN"].rpartition(":")[2])

    def frames(self) -> list[FrameAt]:
        """The whole frames of the newest segment."""
        data, position = self.wal.read_bytes(), wal_segment.HEADER_BYTES
        framing, found = record.framing_of(int(self.wal.stem)), []
        while (frame := record.decode_header(data, position, framing)) is not None:
            found.append(FrameAt(position, position + frame.frame_bytes, frame.flags))
            position += frame.frame_bytes
        # Where puts are faster than this node's disk, a few of them share a frame.
        assert len(found) > PUTS // 3
        return found

    def starts(self) -> bool:
        """Starts the node and says whether it serves its admin port; it is stopped again."""
        process = self.launch.start(self.output)
        try:

            def answers() -> str | None:
                if process.poll() is not None:
                    return "ended"
                try:
                    return "serves" if fetch(self.admin_port, "GET", "/startupz", timeout_s=2).status == 200 else None
                except HttpError:
                    return None

            return wait_for(answers, START_S, f"the node to start or to end\n{self.text()}") == "serves"
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def exit_code(self) -> int:
        """Starts the node and waits until it ends by itself."""
        process = self.launch.start(self.output)
        try:
            return process.wait(START_S)
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()

    def text(self) -> str:
        """What the node printed."""
        return self.output.read_text() if self.output.exists() else ""

    def digests(self) -> dict[str, str]:
        """A digest of every file of the log."""
        return {
            path.name: hashlib.blake2b(path.read_bytes()).hexdigest() for path in sorted(self.wal.parent.glob("*.wal"))
        }


def last_append(trial: Trial) -> FrameAt:
    """The last frame that carries entries."""
    return [frame for frame in trial.frames() if frame.flags & wal_segment.FLAG_ENTRIES][-1]


def test_an_undamaged_copy_starts(stopped: Stopped, tmp_path: Path) -> None:
    trial = Trial(stopped, tmp_path)
    assert trial.starts(), trial.text()


@pytest.mark.parametrize(
    ("where", "how"),
    [
        (0.02, "truncated"),
        (0.5, "zeroed"),
        *(
            pytest.param(where, how, marks=pytest.mark.slow)
            for how in ("truncated", "zeroed")
            for where in (0.0, 0.02, 0.5, 0.999)
            if (where, how) not in {(0.02, "truncated"), (0.5, "zeroed")}
        ),
    ],
)
def test_a_log_that_is_cut_in_its_last_append_starts(stopped: Stopped, tmp_path: Path, where: float, how: str) -> None:
    trial = Trial(stopped, tmp_path)
    frame = last_append(trial)
    cut = frame.start + int(where * (frame.end - frame.start - 1))
    with trial.wal.open("r+b") as file:
        size = file.seek(0, 2)
        file.truncate(cut)
        if how == "zeroed":
            file.truncate(size)
    assert trial.starts(), trial.text()


@pytest.mark.parametrize(
    "part",
    [
        "segment header",
        pytest.param("first frame's header", marks=pytest.mark.slow),
        "payload",
        pytest.param("padding of a middle frame", marks=pytest.mark.slow),
    ],
)
def test_a_flipped_bit_is_refused_with_file_and_offset(stopped: Stopped, tmp_path: Path, part: str) -> None:
    trial = Trial(stopped, tmp_path)
    frames = trial.frames()
    middle = frames[len(frames) // 2]
    position = {
        "segment header": 20,
        "first frame's header": frames[0].start + 5,
        "payload": (middle.start + middle.end) // 2,
        "padding of a middle frame": middle.end - 1,
    }[part]
    with trial.wal.open("r+b") as file:
        file.seek(position)
        byte = file.read(1)[0]
        file.seek(position)
        file.write(bytes([byte ^ 0x10]))
    before = trial.digests()
    code = trial.exit_code()
    text = trial.text()
    print(text[-600:])
    assert code == EXIT_REFUSED
    assert trial.wal.name in text
    assert "offset" in text
    assert trial.digests() == before, "the damaged file is evidence and stays as it is"


@pytest.mark.slow
def test_a_cluster_whose_node_lost_its_torn_tail_has_everything(stopped: Stopped, tmp_path: Path) -> None:
    """The real volumes this time, and the last test: the node with the cut log takes part again and catches up."""
    cluster = stopped.cluster
    trial = Trial(stopped, tmp_path)
    frame = last_append(trial)
    wal = cluster.data / NODE / "wal" / trial.wal.name
    with wal.open("r+b") as file:
        file.truncate((frame.start + frame.end) // 2)
    cluster.start()
    cluster.await_equal("0")
    for key, value in stopped.values.items():
        assert cluster.request("GET", f"/v1/kv/{key}").body == value

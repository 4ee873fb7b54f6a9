"""One Pipe stream against a fake replica: every record is answered once, with the right status."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from math import inf
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import pytest

from doug.v1 import doug_pb2 as pb
from doug_wire import command as commands
from doug_wire import payload, pipe
from doug_wire.command import Opcode
from doug_wire.pipe import ResultRecord, Status
from doug_wire.slots import slot_of
from raft_node.errors import UnavailableError
from raft_node.kv.keyspace import StoredValue
from raft_node.kv.operations.work import Details
from raft_node.observability.metrics import Metrics
from raft_node.rpc.doug import answer_room, records
from raft_node.rpc.doug import pipe as sessions
from raft_node.rpc.doug.pipe import PipeSession
from raft_node.runtime.driver import Submission
from raft_node.runtime.log.commit_times import NodeTimes, WriteTimes
from raft_node.runtime.reads import freshness as freshnesses
from raft_node.runtime.reads.freshness import Freshness
from raft_node.runtime.reads.reader import Found
from raft_node.storage.engine import BlockNeeded

pytestmark = pytest.mark.pure


class Aborted(Exception):  # noqa: N818
    """What grpc raises out of ``abort``."""


class FakeContext:
    """A stream that the test feeds and reads."""

    def __init__(self) -> None:
        self.incoming: asyncio.Queue[Any] = asyncio.Queue()
        self.sent: list[pb.BatchResult] = []
        self.may_write = asyncio.Event()
        self.may_write.set()
        self.aborted: tuple[grpc.StatusCode, str] | None = None

    async def read(self) -> Any:
        return await self.incoming.get()

    async def write(self, message: pb.BatchResult) -> None:
        await self.may_write.wait()
        self.sent.append(message)

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.aborted = (code, details)
        raise Aborted

    def results(self) -> list[ResultRecord]:
        return [record for message in self.sent for record in pipe.decode_results(message.results)]


class FakeMachine:
    created = True

    def __init__(self, foreign: bytes = b"") -> None:
        self.foreign_slot = slot_of(foreign) if foreign else -1

    def owns(self, slot: int, epoch: int) -> bool:
        return slot != self.foreign_slot and epoch in (0, 1)


class FakeDriver:
    def __init__(self, machine: FakeMachine) -> None:
        self.machine = machine
        self.submitted: list[Submission] = []
        self.reads: list[Callable[[bool], None]] = []
        self.forwarded: list[bool] = []
        self.applied_index, self.proven_s = 7, -inf
        self.times = NodeTimes()
        self.clock_us = 1_000_000
        self.clock_moves: list[Callable[[bool], None]] = []

    def now_us(self) -> int:
        return self.clock_us

    def move_clock(self, callback: Callable[[bool], None]) -> None:
        self.clock_moves.append(callback)

    def submit(self, submissions: Sequence[Submission]) -> None:
        self.submitted.extend(submissions)

    def read(self, callback: Callable[[bool], None], *, forward: bool = False) -> None:
        self.reads.append(callback)
        self.forwarded.append(forward)


class Rig:
    def __init__(self, foreign: bytes = b"") -> None:
        self.context = FakeContext()
        self.driver = FakeDriver(FakeMachine(foreign))
        self.data: dict[bytes, StoredValue] = {}
        self.shard: Any = SimpleNamespace(
            number=0,
            is_leader=True,
            takes_requests=True,
            serves_local_reads=True,
            driver=self.driver,
            reader=SimpleNamespace(get=self.data.get),
            receipt=self.receipt,
            freshness=Freshness(self.driver, lambda: self.driver.proven_s, lambda: self.now_s),
            leader=lambda: ("other", "127.0.0.1:9"),
        )
        self.session = PipeSession(self.shard, self.context, Metrics(0))  # type: ignore[arg-type]
        self.task = asyncio.create_task(self.session.run())
        self.now_s = 100.0

    def receipt(self, proven_s: float = -inf) -> pb.Receipt:
        if proven_s == -inf:
            return pb.Receipt(node_id="n", term=3)
        return pb.Receipt(node_id="n", term=3, staleness_ms=round(1000 * (self.now_s - proven_s)))

    async def settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)

    async def send(
        self, kind: pb.BatchKind.ValueType, records: bytes, shard: int = 0, *, forward: bool = False
    ) -> None:
        self.context.incoming.put_nowait(pb.Batch(kind=kind, shard=shard, records=records, forward=forward))
        await self.settle()

    async def statuses(self) -> dict[int, int]:
        await self.settle()
        results = self.context.results()
        assert len({record.id for record in results}) == len(results), "a record was answered twice"
        return {record.id: record.status for record in results}

    async def end(self) -> None:
        self.context.incoming.put_nowait(grpc.aio.EOF)
        await self.task


def write(record_id: int, key: bytes = b"k", epoch: int = 0, value: bytes = b"v") -> bytes:
    command = commands.encode(Opcode.PUT, key, b"", value, epoch)
    return pipe.encode_write(record_id, commands.checksum(command), command)


async def test_writes_are_submitted_together_and_answered_on_their_stream() -> None:
    rig = Rig()
    await rig.send(pb.BATCH_KIND_WRITE, write(1) + write(2))
    assert [submission.record_id for submission in rig.driver.submitted] == [1, 2]
    for submission in rig.driver.submitted:
        submission.sink.resolve(submission.record_id, Status.OK, 7)
    assert await rig.statuses() == {1: Status.OK, 2: Status.OK}
    assert len(rig.context.sent) == 1, "results that are ready together travel together"
    await rig.end()


async def test_results_gather_while_a_message_is_being_written() -> None:
    rig = Rig()
    rig.context.may_write.clear()
    for record_id in range(5):
        rig.session.records.resolve(record_id, Status.OK, 1)
        await rig.settle()
    rig.context.may_write.set()
    await rig.settle()
    assert len(rig.context.sent) == 2
    await rig.end()


@pytest.mark.parametrize(
    ("record", "shard", "status"),
    [
        (write(1, key=b""), 0, Status.INVALID),
        (write(1, key=b"k" * 1025), 0, Status.INVALID),
        (pipe.encode_write(1, 0, commands.encode(Opcode.PUT, b"k", b"", b"v")), 0, Status.INVALID),
        (pipe.encode_write(1, 0, b"nonsense"), 0, Status.INVALID),
        (write(1), 1, Status.WRONG_SHARD),
        (write(1, key=b"foreign"), 0, Status.WRONG_SHARD),
        (write(1, epoch=9), 0, Status.WRONG_SHARD),
    ],
)
async def test_a_write_that_is_refused_is_never_proposed(record: bytes, shard: int, status: Status) -> None:
    rig = Rig(foreign=b"foreign")
    await rig.send(pb.BATCH_KIND_WRITE, record, shard)
    assert await rig.statuses() == {1: status}
    assert rig.driver.submitted == []
    await rig.end()


async def test_clients_cannot_send_commands_of_the_node_itself() -> None:
    rig = Rig()
    command = commands.encode(Opcode.CREATE_SHARD, b"k")
    await rig.send(pb.BATCH_KIND_WRITE, pipe.encode_write(1, commands.checksum(command), command))
    assert await rig.statuses() == {1: Status.INVALID}
    await rig.end()


async def test_linearizable_reads_wait_for_the_quorum_and_share_its_round() -> None:
    rig = Rig()
    rig.data[b"a"] = StoredValue(4, b"text/plain", b"value")
    await rig.send(pb.BATCH_KIND_READ_LINEARIZABLE, pipe.encode_read(1, 0, b"a") + pipe.encode_read(2, 0, b"b"))
    assert await rig.statuses() == {}
    assert len(rig.driver.reads) == 1
    rig.driver.reads[0](True)
    assert await rig.statuses() == {1: Status.OK, 2: Status.NOT_FOUND}
    assert rig.context.results()[0] == ResultRecord(1, Status.OK, 4, b"text/plain", b"value")
    await rig.end()


async def test_a_read_that_no_quorum_confirms_is_sent_elsewhere() -> None:
    rig = Rig()
    await rig.send(pb.BATCH_KIND_READ_LINEARIZABLE, pipe.encode_read(1, 0, b"a"))
    rig.driver.reads[0](False)
    assert await rig.statuses() == {1: Status.NOT_LEADER}
    assert rig.driver.forwarded == [False], "nobody asked for it"
    await rig.end()


async def test_a_node_outside_of_the_shard_serves_no_reads() -> None:
    rig = Rig()
    rig.data[b"a"] = StoredValue(4, b"text/plain", b"of the past")
    rig.shard.serves_local_reads = False
    await rig.send(pb.BATCH_KIND_READ_LOCAL, pipe.encode_read(1, 0, b"a") + pipe.encode_read(2, 0, b"b"))
    assert await rig.statuses() == {1: Status.UNAVAILABLE, 2: Status.UNAVAILABLE}
    await rig.end()


async def test_a_follower_refuses_linearizable_reads_with_the_leader_and_serves_local_ones() -> None:
    rig = Rig()
    rig.shard.is_leader = rig.shard.takes_requests = False
    await rig.send(pb.BATCH_KIND_READ_LINEARIZABLE, pipe.encode_read(1, 0, b"a"))
    await rig.send(pb.BATCH_KIND_READ_LOCAL, pipe.encode_read(2, 0, b"a"))
    assert await rig.statuses() == {1: Status.NOT_LEADER, 2: Status.NOT_FOUND}
    assert (rig.context.sent[0].leader_id, rig.context.sent[0].leader_address) == ("other", "127.0.0.1:9")
    await rig.end()


async def test_a_follower_serves_linearizable_reads_that_may_be_forwarded() -> None:
    rig = Rig()
    rig.shard.is_leader = rig.shard.takes_requests = False
    await rig.send(pb.BATCH_KIND_READ_LINEARIZABLE, pipe.encode_read(1, 0, b"a"), forward=True)
    assert await rig.statuses() == {} and rig.driver.forwarded == [True]
    rig.driver.reads[0](True)
    assert await rig.statuses() == {1: Status.NOT_FOUND}
    await rig.end()


async def test_a_follower_judges_what_has_expired_by_the_log_and_a_leader_by_its_clock_too() -> None:
    rig = Rig()
    rig.data[b"a"] = StoredValue(7, b"", b"v", expires_us=rig.driver.clock_us)
    rig.shard.is_leader = rig.shard.takes_requests = False
    await rig.send(pb.BATCH_KIND_READ_LINEARIZABLE, pipe.encode_read(1, 0, b"a"), forward=True)
    await rig.settle()
    rig.driver.reads[0](True)
    assert await rig.statuses() == {1: Status.OK} and not rig.driver.clock_moves
    rig.shard.is_leader = rig.shard.takes_requests = True
    await rig.send(pb.BATCH_KIND_READ_LINEARIZABLE, pipe.encode_read(2, 0, b"a"))
    await rig.settle()
    rig.driver.reads[1](True)
    assert await rig.statuses() == {1: Status.OK}
    await rig.send(pb.BATCH_KIND_READ_LINEARIZABLE, pipe.encode_read(3, 0, b"a"))
    rig.driver.reads[2](True)
    rig.driver.clock_moves[1](False)
    assert (await rig.statuses())[3] == Status.UNAVAILABLE, "it leads all the same, and nobody need look for another"
    del rig.data[b"a"]
    rig.driver.clock_moves[0](True)
    assert (await rig.statuses())[2] == Status.NOT_FOUND
    await rig.end()


async def test_reads_of_another_shards_keys_are_refused() -> None:
    rig = Rig(foreign=b"foreign")
    await rig.send(pb.BATCH_KIND_READ_LOCAL, pipe.encode_read(1, 0, b"foreign") + pipe.encode_read(2, 9, b"a"))
    await rig.send(pb.BATCH_KIND_READ_LOCAL, pipe.encode_read(3, 0, b"a"), shard=1)
    assert await rig.statuses() == dict.fromkeys((1, 2, 3), Status.WRONG_SHARD)
    await rig.end()


@pytest.mark.parametrize(
    ("kind", "records"),
    [
        (pb.BATCH_KIND_WRITE, write(1)[:-1]),
        (pb.BATCH_KIND_READ_LOCAL, b"short"),
        (pb.BATCH_KIND_UNSPECIFIED, b""),
    ],
)
async def test_a_malformed_batch_ends_the_stream(kind: pb.BatchKind.ValueType, records: bytes) -> None:
    rig = Rig()
    await rig.send(kind, records)
    with pytest.raises(Aborted):
        await rig.task
    assert rig.context.aborted is not None
    assert rig.context.aborted[0] is grpc.StatusCode.INVALID_ARGUMENT


async def test_too_many_waiting_results_hold_the_reading_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_RESULT_BYTES_WAITING_MAX", 100)
    rig = Rig()
    rig.context.may_write.clear()
    rig.data[b"a"] = StoredValue(4, b"", b"v" * 200)
    for record_id in (1, 2, 3):
        await rig.send(pb.BATCH_KIND_READ_LOCAL, pipe.encode_read(record_id, 0, b"a"))
    assert rig.context.incoming.qsize() >= 1
    rig.context.may_write.set()
    assert await rig.statuses() == dict.fromkeys((1, 2, 3), Status.OK)
    await rig.end()


async def test_transactions_wait_until_the_client_takes_the_answers_of_those_before_them() -> None:
    rig = Rig()
    rig.context.may_write.clear()
    read = payload.encode_txn(payload.Txn((), (commands.encode(Opcode.GET, b"k"),), ()))
    command = commands.encode(Opcode.TXN, b"k", b"", read)
    record = pipe.encode_write
    crc = commands.checksum(command)
    fit = answer_room.ANSWER_BYTES_MAX >> 20
    await rig.send(pb.BATCH_KIND_WRITE, b"".join(record(number, crc, command) for number in range(2 * fit)))
    answer = Details(value=b"v" * ((1 << 20) - 100))
    answered = 0
    while answered < len(rig.driver.submitted):
        submission = rig.driver.submitted[answered]
        submission.sink.resolve(submission.record_id, Status.OK, 1, answer)
        answered += 1
    await rig.settle()
    assert answered == fit
    rig.context.may_write.set()
    while len(rig.context.sent) < fit:
        await rig.settle()
    assert len(rig.driver.submitted) == 2 * fit
    await rig.end()


async def test_a_large_result_travels_alone() -> None:
    rig = Rig()
    rig.context.may_write.clear()
    rig.data[b"a"] = StoredValue(4, b"", b"v" * (1 << 20))
    await rig.send(pb.BATCH_KIND_READ_LOCAL, b"".join(pipe.encode_read(i, 0, b"a") for i in range(3)))
    rig.context.may_write.set()
    await rig.settle()
    assert [len(list(pipe.decode_results(message.results))) for message in rig.context.sent] == [1, 1, 1]
    await rig.end()


async def test_a_change_of_leader_is_told_without_any_result() -> None:
    rig = Rig()
    rig.shard.is_leader = False
    rig.session.tell_leader()
    await rig.settle()
    assert [(message.results, message.leader_id) for message in rig.context.sent] == [(b"", "other")]
    await rig.send(pb.BATCH_KIND_WRITE, write(1))
    rig.session.records.resolve(1, Status.NOT_LEADER, 0)
    assert await rig.statuses() == {1: Status.NOT_LEADER}
    assert len(rig.context.sent) == 2
    await rig.end()


async def test_many_reads_of_a_large_value_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "_RESULT_BYTES_WAITING_MAX", 1 << 20)
    rig = Rig()
    rig.context.may_write.clear()
    rig.data[b"a"] = StoredValue(4, b"", b"v" * (1 << 20))
    looked_up: list[bytes] = []

    def get(key: bytes) -> StoredValue | None:
        looked_up.append(key)
        return rig.data.get(key)

    rig.shard.reader.get = get
    await rig.send(pb.BATCH_KIND_READ_LOCAL, b"".join(pipe.encode_read(i, 0, b"a") for i in range(50)))
    assert len(looked_up) <= 3, "the rest waits until answers have left"
    rig.context.may_write.set()
    for _ in range(300):
        await asyncio.sleep(0)
    assert await rig.statuses() == dict.fromkeys(range(50), Status.OK)
    await rig.end()


def block_needed(key: bytes, position: int = 0) -> BlockNeeded:
    return BlockNeeded(key, SimpleNamespace(number=1), position, ())  # type: ignore[arg-type]


async def test_a_block_that_cannot_be_read_is_answered_and_so_are_the_reads_behind_it() -> None:
    rig = Rig()
    rig.shard.reader.get = lambda key: block_needed(key) if key == b"a" else None

    async def load_first(needed: Sequence[BlockNeeded]) -> list[Found]:
        return [UnavailableError("damaged")]

    rig.shard.reader.load_first = load_first
    reads = pipe.encode_read(1, 0, b"a") + pipe.encode_read(2, 0, b"a") + pipe.encode_read(3, 0, b"b")
    await rig.send(pb.BATCH_KIND_READ_LOCAL, reads)
    assert await rig.statuses() == {1: Status.UNAVAILABLE, 2: Status.UNAVAILABLE, 3: Status.NOT_FOUND}
    await rig.end()


async def test_reads_that_need_the_disk_go_there_together_those_of_one_block_side_by_side() -> None:
    rig = Rig()
    position_of = {b"a": 3, b"b": 1, b"c": 3, b"d": 2}
    rig.shard.reader.get = lambda key: block_needed(key, position_of[key]) if key in position_of else None
    asked: list[list[tuple[bytes, int]]] = []

    async def load_first(needed: Sequence[BlockNeeded]) -> list[Found]:
        asked.append([(each.key, each.position) for each in needed])
        if len(asked) == 1:
            # Two at once; one of them needs yet another block.
            return [StoredValue(1, b"", needed[0].key), block_needed(needed[1].key, 9)]
        return [None if each.key == b"d" else StoredValue(1, b"", each.key) for each in needed]

    rig.shard.reader.load_first = load_first
    reads = b"".join(pipe.encode_read(number, 0, key) for number, key in enumerate((b"a", b"b", b"x", b"c", b"d")))
    await rig.send(pb.BATCH_KIND_READ_LOCAL, reads)
    assert await rig.statuses() == {
        0: Status.OK,
        1: Status.OK,
        2: Status.NOT_FOUND,
        3: Status.OK,
        4: Status.NOT_FOUND,
    }
    assert asked == [[(b"b", 1), (b"d", 2), (b"a", 3), (b"c", 3)], [(b"a", 3), (b"c", 3), (b"d", 9)]]
    await rig.end()


async def test_few_reads_go_on_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sessions, "_HOP_READS_MAX", 2)
    rig = Rig()
    rig.shard.reader.get = block_needed
    asked: list[int] = []

    async def load_first(needed: Sequence[BlockNeeded]) -> list[Found]:
        asked.append(len(needed))
        return [None] * len(needed)

    rig.shard.reader.load_first = load_first
    await rig.send(pb.BATCH_KIND_READ_LOCAL, b"".join(pipe.encode_read(number, 0, b"k") for number in range(5)))
    assert await rig.statuses() == dict.fromkeys(range(5), Status.NOT_FOUND)
    assert asked == [2, 2, 1]
    await rig.end()


async def test_reads_that_need_the_disk_begin_anew_once_the_client_takes_answers_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(records, "_RESULT_BYTES_WAITING_MAX", 1000)
    rig = Rig()
    rig.context.may_write.clear()
    looked_up: list[bytes] = []
    loaded: list[bytes] = []

    def get(key: bytes) -> StoredValue | BlockNeeded:
        looked_up.append(key)
        return StoredValue(1, b"", bytes(2000)) if key == b"big" else block_needed(key)

    async def load_first(needed: Sequence[BlockNeeded]) -> list[Found]:
        loaded.extend(each.key for each in needed)
        return [StoredValue(1, b"", bytes(600)) for each in needed[:1]]

    rig.shard.reader.get, rig.shard.reader.load_first = get, load_first
    # The first message is on its way; the next result fills what may wait.
    rig.session.tell_leader()
    await rig.settle()
    await rig.send(pb.BATCH_KIND_READ_LOCAL, pipe.encode_read(1, 0, b"a") + pipe.encode_read(2, 0, b"big"))
    assert (looked_up, loaded) == ([b"a", b"big"], []), "nothing holds on to a table while the client waits"
    rig.context.may_write.set()
    await rig.settle()
    assert await rig.statuses() == {1: Status.OK, 2: Status.OK}
    assert (looked_up, loaded) == ([b"a", b"big", b"a"], [b"a"])
    await rig.end()


async def test_what_is_answered_after_the_stream_has_ended_is_dropped() -> None:
    rig = Rig()
    rig.data[b"a"] = StoredValue(4, b"", b"value")
    await rig.send(pb.BATCH_KIND_WRITE, write(1))
    await rig.send(pb.BATCH_KIND_READ_LINEARIZABLE, pipe.encode_read(2, 0, b"a"))
    await rig.end()
    rig.driver.submitted[0].sink.resolve(1, Status.OK, 1)
    rig.driver.reads[0](True)
    assert await rig.statuses() == {}
    assert not rig.session.records._results
    assert not rig.session._loads


async def test_a_value_that_makes_no_sense_is_not_answered_and_the_stream_goes_on() -> None:
    rig = Rig()

    def refuse(key: bytes) -> None:
        raise UnavailableError("a value of no known format")

    rig.shard.reader = SimpleNamespace(get=refuse)
    await rig.send(pb.BATCH_KIND_READ_LOCAL, pipe.encode_read(1, 0, b"k"))
    assert await rig.statuses() == {1: Status.UNAVAILABLE}
    await rig.send(pb.BATCH_KIND_WRITE, write(2))
    assert [submission.record_id for submission in rig.driver.submitted] == [2]
    await rig.end()


def waiting_read(record_id: int, *, min_index: int = 0, bound_ms: int = 0) -> bytes:
    return pipe.encode_read(record_id, 0, b"k", min_index, b"", bound_ms)


async def test_a_read_of_a_session_waits_until_its_index_is_applied() -> None:
    rig = Rig()
    rig.data[b"k"] = StoredValue(1, b"", b"old")
    await rig.send(pb.BATCH_KIND_READ_FRESH, waiting_read(1, min_index=7) + waiting_read(2, min_index=8))
    assert await rig.statuses() == {1: Status.OK}
    assert rig.driver.forwarded == [True], "the leader sends what a read waits for at once"
    rig.data[b"k"] = StoredValue(2, b"", b"new")
    rig.driver.applied_index = 8
    rig.shard.freshness.applied()
    assert await rig.statuses() == {1: Status.OK, 2: Status.OK}, "without the answer to that"
    assert [record.value for record in rig.context.results()] == [b"old", b"new"]
    await rig.end()


async def test_a_bounded_read_is_served_only_by_a_proof_that_is_young_enough() -> None:
    rig = Rig()
    await rig.send(pb.BATCH_KIND_READ_FRESH, waiting_read(1, bound_ms=2000))
    assert await rig.statuses() == {} and rig.driver.forwarded == [True], "it asks, and waits"
    rig.driver.proven_s = 99.5
    rig.driver.reads[0](True)
    assert await rig.statuses() == {1: Status.NOT_FOUND}
    assert rig.context.sent[-1].receipt.staleness_ms == 500
    rig.now_s = 101.6
    await rig.send(pb.BATCH_KIND_READ_FRESH, waiting_read(2, bound_ms=2000))
    assert 2 not in await rig.statuses(), "the proof is too old by now"
    assert len(rig.driver.reads) == 2, "another round is asked for"
    await rig.end()


async def test_what_waits_for_too_long_is_refused_and_may_be_asked_of_another_replica(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(freshnesses, "WAIT_S", 0.0)
    rig = Rig()
    await rig.send(pb.BATCH_KIND_READ_FRESH, waiting_read(1, min_index=9) + waiting_read(2, bound_ms=10))
    rig.shard.freshness._tick()
    assert await rig.statuses() == {1: Status.NOT_FRESH, 2: Status.NOT_FRESH}
    assert len(rig.shard.freshness) == 0
    await rig.end()


async def test_a_local_read_tells_its_staleness_only_if_it_is_proven() -> None:
    rig = Rig()
    await rig.send(pb.BATCH_KIND_READ_LOCAL, waiting_read(1))
    assert not rig.context.sent[-1].receipt.HasField("staleness_ms")
    rig.driver.proven_s = 97.0
    await rig.send(pb.BATCH_KIND_READ_LOCAL, waiting_read(2))
    assert rig.context.sent[-1].receipt.staleness_ms == 3000
    await rig.end()


async def test_what_was_looked_up_earlier_is_not_called_fresher_by_a_later_proof() -> None:
    rig = Rig()
    rig.driver.proven_s = 90.0
    rig.context.may_write.clear()
    await rig.send(pb.BATCH_KIND_READ_LOCAL, waiting_read(1))
    await rig.send(pb.BATCH_KIND_READ_LOCAL, waiting_read(2))
    rig.driver.proven_s = 99.0
    await rig.send(pb.BATCH_KIND_READ_LOCAL, waiting_read(3))
    rig.context.may_write.set()
    await rig.settle()
    assert [message.receipt.staleness_ms for message in rig.context.sent] == [10_000, 10_000]
    await rig.send(pb.BATCH_KIND_READ_LOCAL, waiting_read(4))
    assert rig.context.sent[-1].receipt.staleness_ms == 1000
    await rig.end()


async def test_a_stream_that_asks_is_told_where_the_time_went_and_others_are_not() -> None:
    rig = Rig()
    rig.data[b"k"] = StoredValue(4, b"", b"v")
    rig.driver.times.write, rig.driver.times.apply_s = WriteTimes(0.001, 0.002, 0.004), 0.0005
    await rig.send(pb.BATCH_KIND_WRITE, write(1))
    rig.session.records.resolve(1, Status.OK, 8)
    await rig.settle()
    assert not rig.context.sent[-1].HasField("timings")

    rig.context.incoming.put_nowait(pb.Batch(kind=pb.BATCH_KIND_WRITE, records=write(2), timed=True))
    await rig.settle()
    rig.session.records.resolve(2, Status.OK, 9)
    await rig.settle()
    assert rig.context.sent[-1].timings == pb.Timings(append_us=1000, fsync_us=2000, commit_us=4000, apply_us=500)

    # What was told is not told again: a message of reads says what reads took.
    rig.context.incoming.put_nowait(
        pb.Batch(kind=pb.BATCH_KIND_READ_LINEARIZABLE, records=pipe.encode_read(3, 0, b"k"), timed=True)
    )
    await rig.settle()
    rig.driver.times.confirm_s = 0.003
    rig.driver.reads.pop()(True)
    await rig.settle()
    timings = rig.context.sent[-1].timings
    assert (timings.commit_us, timings.append_us, timings.confirm_us) == (0, 0, 3000)
    await rig.end()

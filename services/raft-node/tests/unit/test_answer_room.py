"""The room for the answers of one stream: what it holds, what waits, what is refused."""

from __future__ import annotations

import pytest

from doug_wire import command as commands
from doug_wire.command import Command, Opcode
from doug_wire.payload import RESULT_BYTES_MAX, Txn, encode_batch, encode_increment, encode_txn
from doug_wire.pipe import Status
from raft_node.kv.operations.work import Details
from raft_node.rpc.doug import answer_room
from raft_node.rpc.doug.answer_room import ANSWER_BYTES_MAX, AnswerRoom, answer_bytes, answers_much
from raft_node.runtime.writes.proposals import Submission

GET = commands.encode(Opcode.GET, b"k")
PUT = commands.encode(Opcode.PUT, b"k", b"", b"v")
INCREMENT = commands.encode(Opcode.INCREMENT, b"k", b"", encode_increment(1))
READER = Command(Opcode.TXN, b"k", b"", encode_txn(Txn((), (GET,), ())), 0)
FIT = ANSWER_BYTES_MAX // RESULT_BYTES_MAX


class Stream:
    """A stream that sends nothing until the test says so, and what it proposes and answers."""

    def __init__(self) -> None:
        self.unsent = 0
        self.proposed: list[Submission] = []
        self.answers: dict[int, int] = {}
        self.room = AnswerRoom(self.proposed.extend, lambda: self.unsent)

    def resolve(self, record_id: int, status: int, revision: int, details: Details | None = None) -> None:
        self.answers[record_id] = status
        self.unsent += 0 if details is None else len(details.value)

    def send(self, record_id: int, command: Command = READER) -> None:
        taken = self.room.take(Submission(self, record_id, 0, commands.encode(*command)), command)
        if taken is not None:
            self.proposed.append(taken)

    def answer(self, value: bytes = b"") -> None:
        """Answers the first of what is proposed."""
        submission = self.proposed.pop(0)
        submission.sink.resolve(submission.record_id, Status.OK, 1, Details(value=value))

    def written(self) -> None:
        self.unsent = 0
        self.room.go_on()


@pytest.fixture
def stream() -> Stream:
    return Stream()


def test_what_answers_a_mebibyte_at_most_and_what_much_less() -> None:
    assert answer_bytes(READER) == RESULT_BYTES_MAX
    small = Command(Opcode.TXN, b"k", b"", encode_txn(Txn((), (PUT, INCREMENT), (PUT,))), 0)
    assert answer_bytes(small) < 1024
    batch = Command(Opcode.BATCH, b"k", b"", encode_batch((PUT,) * 1000), 0)
    assert 1000 * 20 <= answer_bytes(batch) <= 1000 * 40
    many = Command(Opcode.BATCH, b"k", b"", encode_batch((INCREMENT,) * 10_000), 0)
    assert answer_bytes(many) == RESULT_BYTES_MAX
    assert not answers_much(Command(Opcode.PUT, b"k", b"", b"v", 0))


def test_no_more_is_under_way_than_there_is_room_for_and_the_rest_waits_in_order(stream: Stream) -> None:
    for record_id in range(FIT + 3):
        stream.send(record_id)
    assert [submission.record_id for submission in stream.proposed] == list(range(FIT))
    stream.answer()
    stream.answer()
    assert [submission.record_id for submission in stream.proposed] == list(range(2, FIT + 2))
    assert stream.answers == {0: Status.OK, 1: Status.OK}


def test_what_was_answered_and_not_sent_takes_room_too(stream: Stream) -> None:
    for record_id in range(FIT + 1):
        stream.send(record_id)
    stream.answer(b"v" * RESULT_BYTES_MAX)
    assert len(stream.proposed) == FIT - 1
    stream.written()
    assert [submission.record_id for submission in stream.proposed] == list(range(1, FIT + 1))


def test_a_client_that_reads_nothing_fills_no_memory(stream: Stream) -> None:
    for record_id in range(3 * FIT):
        stream.send(record_id)
    for _ in range(3 * FIT):
        if stream.proposed:
            stream.answer(b"v" * RESULT_BYTES_MAX)
    assert stream.unsent <= ANSWER_BYTES_MAX


def test_one_behind_what_waits_does_not_overtake_it(stream: Stream) -> None:
    small = Command(Opcode.TXN, b"k", b"", encode_txn(Txn((), (PUT,), ())), 0)
    for record_id in range(FIT + 1):
        stream.send(record_id)
    stream.send(FIT + 1, small)
    assert len(stream.proposed) == FIT
    stream.answer()
    assert [submission.record_id for submission in stream.proposed][-1] == FIT


def test_what_finds_no_place_to_wait_is_refused_and_not_proposed(
    stream: Stream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answer_room, "WAITING_MAX", 2)
    for record_id in range(FIT + 4):
        stream.send(record_id)
    assert stream.answers == {FIT + 2: Status.OVERLOADED, FIT + 3: Status.OVERLOADED}
    assert len(stream.proposed) == FIT


def test_the_commands_that_wait_are_bounded_in_bytes(stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_room, "WAITING_BYTES_MAX", 3 * len(commands.encode(*READER)))
    for record_id in range(FIT + 4):
        stream.send(record_id)
    assert stream.answers == {FIT + 3: Status.OVERLOADED}


def test_nothing_is_proposed_behind_the_end(stream: Stream) -> None:
    for record_id in range(FIT + 4):
        stream.send(record_id)
    stream.room.close()
    while stream.proposed:
        stream.answer()
    assert len(stream.answers) == FIT


def test_all_room_is_given_back(stream: Stream) -> None:
    for record_id in range(2 * FIT):
        stream.send(record_id)
    while stream.proposed:
        stream.answer()
    assert (stream.room.reserved, len(stream.answers)) == (0, 2 * FIT)

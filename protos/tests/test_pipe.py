"""Records of the pipe: golden bytes, round trips, and malformed blobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from doug_wire import command, pipe
from doug_wire.pipe import PipeError, ReadRecord, ResultRecord, Status, WriteRecord

COMMAND = command.encode(command.Opcode.PUT, b"key", b"", b"value")
WRITES = [WriteRecord(number, command.checksum(COMMAND), COMMAND[: 20 + number]) for number in range(4)]
READS = [ReadRecord((1 << 64) - 1 - number, number, b"k" * number) for number in range(3)]
READS += [ReadRecord(1, 2, b"key", 7), ReadRecord(1, 2, b"key", 0, b"token"), ReadRecord(1, 2, b"key", 7, b"t" * 512)]
READS += [ReadRecord(1, 2, b"key", 0, b"", 9), ReadRecord(1, 2, b"key", 7, b"t", (1 << 32) - 1)]
RESULTS = [
    ResultRecord(1, Status.OK, (1 << 64) - 1, b"text/plain", b"value"),
    ResultRecord(2, Status.NOT_FOUND, 0, b"", b""),
    ResultRecord(3, Status.UNKNOWN, 0, b"", bytes(1 << 20)),
    ResultRecord(4, Status.OK, 1, b"t", b"v", (1 << 64) - 1),
    ResultRecord(5, Status.OK, 1, b"t", b"v", 0, b"br"),
    ResultRecord(6, Status.OK, 1, b"t", b"v", 0, b"", True),
    ResultRecord(7, Status.OK, 1, b"t", b"v", 9, b"gzip", True),
]
BLOBS: list[tuple[Callable[[bytes], Iterator[object]], list[bytes], list[object]]] = [
    (pipe.decode_writes, [pipe.encode_write(*record) for record in WRITES], [*WRITES]),
    (pipe.decode_reads, [pipe.encode_read(*record) for record in READS], [*READS]),
    (pipe.decode_results, [pipe.encode_result(*record) for record in RESULTS], [*RESULTS]),
]


def test_golden_bytes() -> None:
    assert pipe.encode_write(258, 0x0A0B0C0D, b"cmd").hex() == "02010000000000000d0c0b0a03000000636d64"
    assert pipe.encode_read(1, 2, b"key").hex() == "010000000000000002000000000000000300006b6579"
    assert pipe.encode_read(1, 2, b"key", 5, b"\0t").hex() == (
        "010000000000000002000000000000000300" + "03" + "0500000000000000" + "02000074" + "6b6579"
    )
    assert pipe.encode_read(1, 2, b"key", 0, b"", 258).hex() == (
        "010000000000000002000000000000000300" + "04" + "02010000" + "6b6579"
    )
    assert pipe.encode_result(1, Status.WRONG_SHARD, 2, b"t", b"val").hex() == (
        "0100000000000000030002000000000000000100030000007476616c"
    )
    assert pipe.encode_result(1, Status.OK, 2, b"t", b"val", 258, b"br", True).hex() == (
        "010000000000000000" + "07" + "0200000000000000" + "0100" + "030000000201000000000000" + "026272" + "7476616c"
    )


def test_statuses_are_frozen() -> None:
    assert [(status.name, status.value) for status in Status] == [
        ("OK", 0),
        ("NOT_FOUND", 1),
        ("NOT_LEADER", 2),
        ("WRONG_SHARD", 3),
        ("NOT_APPLIED", 4),
        ("OVERLOADED", 5),
        ("UNKNOWN", 6),
        ("INVALID", 7),
        ("UNAVAILABLE", 8),
        ("DISK_FULL", 9),
        ("PRECONDITION_FAILED", 10),
        ("NOT_A_NUMBER", 11),
        ("OVERFLOW", 12),
        ("TOKEN_REUSED", 13),
        ("TOKENS_FULL", 14),
        ("TOKEN_EXPIRED", 15),
        ("RESULT_TOO_LARGE", 16),
        ("NOT_FRESH", 17),
        ("FORBIDDEN", 18),
    ]


def test_only_certain_statuses_prove_that_nothing_was_written() -> None:
    # A retry rests on this: whatever may have been proposed must not be in it.
    assert {Status.OK, Status.NOT_FOUND, Status.UNKNOWN, Status.UNAVAILABLE}.isdisjoint(pipe.NOT_APPLIED)
    assert len(pipe.NOT_APPLIED) == 6
    # What was decided at apply is decided: another try would only decide anew.
    assert pipe.DECIDED.isdisjoint(pipe.NOT_APPLIED)
    others = {Status.UNKNOWN, Status.UNAVAILABLE, Status.NOT_FRESH, Status.FORBIDDEN}
    assert pipe.DECIDED | pipe.NOT_APPLIED | others == set(Status)


@pytest.mark.parametrize(("decode", "encoded", "records"), BLOBS)
def test_round_trip(decode: Callable[[bytes], Iterator[object]], encoded: list[bytes], records: list[object]) -> None:
    assert list(decode(b"".join(encoded))) == records
    assert list(decode(b"")) == []


@pytest.mark.parametrize(("decode", "encoded", "records"), BLOBS)
def test_every_cut_within_a_record_is_refused(
    decode: Callable[[bytes], Iterator[object]], encoded: list[bytes], records: list[object]
) -> None:
    for first, second in ((0, 1), (-1, 0)):
        refuse_cuts(decode, [encoded[first], encoded[second]], [records[first], records[second]])


def refuse_cuts(decode: Callable[[bytes], Iterator[object]], encoded: list[bytes], records: list[object]) -> None:
    blob = b"".join(encoded)
    whole = {0, len(encoded[0]), len(blob)}
    for cut in range(len(blob)):
        if cut in whole:
            assert list(decode(blob[:cut])) == records[: len(whole & set(range(1, cut + 1)))]
        else:
            with pytest.raises(PipeError):
                list(decode(blob[:cut]))


def test_a_length_that_reaches_beyond_the_blob_is_refused() -> None:
    for blob in (pipe.WRITE.pack(1, 2, 4) + b"cmd", pipe.WRITE.pack(1, 2, (1 << 32) - 1)):
        with pytest.raises(PipeError):
            list(pipe.decode_writes(blob))
    with pytest.raises(PipeError):
        list(pipe.decode_reads(pipe.READ.pack(1, 2, 65535, 0) + b"key"))
    with pytest.raises(PipeError):
        list(pipe.decode_results(pipe.RESULT.pack(1, 0, 0, 0, 1, (1 << 32) - 1) + b"tv"))


def test_records_before_a_malformed_one_are_given_out() -> None:
    # Readers that act on records as they come must expect that the blob proves bad later.
    records = pipe.decode_writes(pipe.encode_write(*WRITES[0]) + b"\1")
    assert next(records) == WRITES[0]
    with pytest.raises(PipeError):
        next(records)


@pytest.mark.parametrize(
    ("flags", "optional"),
    [(8, ""), (4, ""), (4, "00000000"), (0x80, ""), (1, "0000000000000000"), (2, "0000"), (2, "0500"), (1, "00")],
)
def test_options_of_a_read_that_make_no_sense_are_refused(flags: int, optional: str) -> None:
    with pytest.raises(PipeError):
        list(pipe.decode_reads(pipe.READ.pack(1, 2, 0, flags) + bytes.fromhex(optional)))


@pytest.mark.parametrize(
    ("flags", "optional"), [(8, ""), (0x80, ""), (1, "0000000000000000"), (2, "00"), (2, ""), (2, "0561"), (1, "00")]
)
def test_options_of_a_result_that_make_no_sense_are_refused(flags: int, optional: str) -> None:
    with pytest.raises(PipeError):
        list(pipe.decode_results(pipe.RESULT.pack(1, 0, flags, 0, 0, 0) + bytes.fromhex(optional)))


ANY_RESULT = st.builds(
    pipe.encode_result,
    st.integers(0, 9),
    st.integers(0, 9),
    st.integers(0, 9),
    st.sampled_from([b"", b"t"]),
    st.sampled_from([b"", b"v", bytes(24)]),
    st.sampled_from([0, 7]),
)
PLAIN_RESULT = st.builds(pipe.encode_result, st.integers(0, 9), st.integers(0, 9), st.integers(0, 9))


@given(
    st.one_of(st.lists(PLAIN_RESULT, max_size=5), st.lists(ANY_RESULT, max_size=5)).map(b"".join), st.integers(0, 200)
)
def test_results_without_values_have_a_way_of_their_own_and_come_out_the_same(blob: bytes, cut: int) -> None:
    for data in (blob, blob[:cut], blob[cut:]):
        found: list[object] = []
        for decode in (pipe.decode_results, pipe._decode_each):
            try:
                found.append(list(decode(data)))
            except PipeError as error:
                found.append(str(error))
        assert found[0] == found[1]

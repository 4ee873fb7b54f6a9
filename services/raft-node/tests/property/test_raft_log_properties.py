"""The log against a plain list, and codecs against themselves."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from raft_node.entry import Entry, EntryKind, encode
from raft_node.raft.configuration import ConfigurationError, decode_configuration, encode_configuration
from raft_node.raft.log import RaftLog
from raft_node.raft.types import Configuration, NodeId, Write
from raft_testing.lockstep import MemoryLog

OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(["append", "merge", "late", "begin", "end", "commit", "apply"]),
        st.integers(0, 9),
        st.integers(1, 6),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(OPERATIONS, st.integers(500, 3000))
def test_the_log_behaves_as_a_list_whatever_is_durable(
    operations: list[tuple[str, int, int]], cache_bytes_max: int
) -> None:
    store = MemoryLog()
    log = RaftLog(store, 0, 0, cache_bytes_max)
    model: list[Entry] = []
    history: list[tuple[int, list[Entry]]] = []
    under_way: Write | None = None
    term = 1

    def new(count: int, after: int) -> list[Entry]:
        return [encode(after + 1 + i, term, EntryKind.COMMAND, i, bytes(i)) for i in range(count)]

    for name, number, count in operations:
        if name == "append":
            entries = new(count, len(model))
            log.append(entries)
            model += entries
        elif name == "merge":
            # Another leader, whose log agrees up to somewhere at or behind the commit index.
            term += 1
            agree = min(len(model), log.commit_index + number)
            repeated = model[max(log.commit_index, agree - 3) : agree]
            entries = repeated + new(count, agree)
            assert log.merge(entries)
            model = model[:agree] + entries[len(repeated) :]
            history = [(i, e) for i, e in history if i < agree]
            history.append((agree, entries))
        elif name == "late" and history:
            _, entries = history[-1]
            # The last leader's message again, in part: all of it is there already.
            entries = [e for e in entries[:count] if log.commit_index < e.index]
            assert not log.merge(entries)
        elif name == "begin" and under_way is None and log.stable_index < len(model):
            truncate_from, writing = log.begin_write()
            under_way = Write(1, None, truncate_from, list(writing))
        elif name == "end" and under_way is not None:
            store.write(under_way)
            under_way = None
            log.end_write()
        elif name == "commit":
            log.commit_to(min(len(model), log.commit_index + number))
        elif name == "apply":
            log.applied_to(min(log.commit_index, log.stable_index, log.applied_index + number))
        log.validate()
        assert log.last_index == len(model)
        assert [log.term(i) for i in range(1, len(model) + 1)] == [e.term for e in model]
        assert store.stored[: log.stable_index] == model[: log.stable_index]
        read: list[Entry] = []
        while len(read) < len(model):
            read += log.entries(len(read) + 1, len(model) + 1, 100 * number + 1)
        assert read == model


NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)
MEMBERS = st.lists(
    st.builds(NodeId, NAMES, st.integers(0, (1 << 64) - 1)), min_size=1, max_size=9, unique_by=lambda m: m.name
)


@settings(max_examples=50)
@given(MEMBERS, st.integers(1, 9))
def test_a_configuration_survives_its_bytes(members: list[NodeId], voters: int) -> None:
    configuration = Configuration(tuple(members[:voters]), tuple(members[voters:]))
    assert decode_configuration(encode_configuration(configuration)) == configuration


@given(st.binary(max_size=80))
def test_any_bytes_are_a_configuration_or_a_typed_error(data: bytes) -> None:
    try:
        configuration = decode_configuration(data)
    except ConfigurationError:
        return
    assert encode_configuration(configuration) == data

"""What is kept of commands with tokens is bounded in bytes, and whoever has no room changes nothing."""

from __future__ import annotations

import pytest

from doug_wire import command as commands
from doug_wire.command import Command, Opcode
from doug_wire.idempotency import with_token
from doug_wire.payload import Txn, encode_increment, encode_txn
from doug_wire.pipe import Status
from raft_node import entry as entries
from raft_node.entry import EntryKind
from raft_node.errors import CorruptionError
from raft_node.kv.fetching import Fetching
from raft_node.kv.keyspace import (
    DUE_PREFIX,
    SHARE_PREFIX,
    STATE_KEY,
    TOKEN_PREFIX,
    State,
    due_key,
    token_key,
    user_key,
)
from raft_node.kv.operations import expiry, tokens
from raft_node.kv.operations.shares import Share
from raft_node.kv.operations.work import READ_BYTES_MAX, Limits, Outcome
from raft_node.kv.partitions import encode_create_shard
from raft_node.kv.state_machine import StateMachine
from raft_testing.fakes import DictStore

LARGE = b"x" * ((1 << 20) - 200)


class Shard:
    """A state machine with few bytes for tokens."""

    def __init__(self, bytes_max: int, count_max: int = 100_000) -> None:
        self.store = DictStore()
        self.machine = StateMachine.open(self.store)
        self.do(commands.encode(Opcode.CREATE_SHARD, b"", value=encode_create_shard(0, 1)))
        limits = tokens.encode_limits(Limits(1_000, count_max, bytes_max))
        self.do(commands.encode(Opcode.SET_LIMITS, b"", value=limits))

    def do(self, command: bytes, at_us: int = 0) -> Outcome:
        entry = entries.encode(self.store.applied_index + 1, 1, EntryKind.COMMAND, at_us, command)
        (outcome,) = self.machine.apply([entry])
        return outcome

    def put(self, key: bytes, value: bytes, ttl_ms: int = 0) -> None:
        self.do(commands.encode(Opcode.PUT, key, b"", value, ttl=ttl_ms))

    def put_once(self, owner: str, number: int, at_us: int = 0) -> int:
        """The status of a put with an idempotency key of a principal."""
        command = once(Command(Opcode.PUT, b"k%d" % number, b"", b"v", 0), f"key-{number}", owner)
        return self.do(command, at_us).status

    def takes(self, owner: str, count: int) -> int:
        """How many of so many puts with idempotency keys of a principal find room, one behind the other."""
        statuses = [self.put_once(owner, number) for number in range(count)]
        kept = statuses.count(Status.OK)
        assert statuses == [Status.OK] * kept + [Status.TOKENS_FULL] * (count - kept)
        return kept

    def shares(self) -> dict[bytes, Share]:
        """The shares that are in the store, by identity."""
        held = [(key, data) for key, data in self.store.data.items() if key.startswith(SHARE_PREFIX)]
        return {key.removeprefix(SHARE_PREFIX): Share.decode(data) for key, data in held if data is not None}

    def expires(self) -> None:
        """Removes all tokens that have expired."""
        notes = [key for key, data in self.store.data.items() if key.startswith(DUE_PREFIX) and data is not None]
        self.do(commands.encode(Opcode.EXPIRE, b"", value=expiry.encode_expire(notes)), at_us=2_000)

    def kept(self) -> int:
        """The bytes of all tokens that are in the store."""
        held = self.store.data.items()
        return sum(len(key) + len(data) for key, data in held if key.startswith(TOKEN_PREFIX) and data is not None)

    def user_keys(self) -> list[bytes]:
        return [key for key, data in self.store.data.items() if key[:1] == b"\x01" and data is not None]


def once(command: Command, key: str, owner: str = "") -> bytes:
    return commands.encode(*with_token(command, owner, key))


def read_and_write(key: str) -> bytes:
    operations = (commands.encode(Opcode.PUT, b"new", b"", b"v"), commands.encode(Opcode.GET, b"large"))
    return once(Command(Opcode.TXN, b"new", b"", encode_txn(Txn((), operations, ())), 0), key)


def test_what_is_kept_is_counted_by_its_bytes_and_given_back() -> None:
    shard = Shard(1 << 20)
    for number in range(20):
        assert shard.do(once(Command(Opcode.PUT, b"k%d" % number, b"", b"v", 0), f"key-{number}")).status == Status.OK
    assert shard.machine.token_bytes == shard.kept() > 20 * 40
    notes = [key for key in shard.store.data if key.startswith(b"\x00due/")]
    shard.do(commands.encode(Opcode.EXPIRE, b"", value=expiry.encode_expire(notes)), at_us=2_000)
    assert (shard.machine.tokens, shard.machine.token_bytes, shard.kept()) == (0, 0, 0)


HOUR_US = 3600 * 1_000_000


def uuid7(made_us: int) -> str:
    """A key of the version that contains its time."""
    digits = f"{made_us // 1000:012x}"
    return f"{digits[:8]}-{digits[8:]}-7000-8000-000000000000"


def set_kept(shard: Shard, hours: int, at_us: int) -> None:
    limits = tokens.encode_limits(Limits(kept_us=hours * HOUR_US))
    shard.do(commands.encode(Opcode.SET_LIMITS, b"", value=limits), at_us)


def test_a_longer_time_brings_no_forgotten_key_back() -> None:
    shard = Shard(1 << 20)
    increment = Command(Opcode.INCREMENT, b"n", b"", encode_increment(1), 0)
    start_us = 1000 * HOUR_US
    set_kept(shard, 1, start_us)
    early, late = once(increment, uuid7(start_us)), once(increment, uuid7(start_us + HOUR_US // 2))
    assert shard.do(early, start_us).status == Status.OK
    assert shard.do(late, start_us + HOUR_US // 2).status == Status.OK
    # The first is forgotten; the second is not yet, and is kept for no longer than it was to be.
    set_kept(shard, 24, start_us + HOUR_US)
    shard.machine = StateMachine.open(shard.store)
    assert shard.do(late, start_us + HOUR_US).details is not None
    assert shard.do(early, start_us + HOUR_US).status == Status.TOKEN_EXPIRED
    assert shard.do(late, start_us + 2 * HOUR_US).status == Status.TOKEN_EXPIRED
    assert shard.machine.revision == 2
    # Keys that are made since are kept for as long as is wanted now.
    fresh = once(increment, uuid7(start_us + 2 * HOUR_US))
    assert shard.do(fresh, start_us + 2 * HOUR_US).status == Status.OK
    replayed = shard.do(fresh, start_us + 25 * HOUR_US)
    assert (replayed.status, replayed.revision) == (Status.OK, 3)
    assert shard.machine.revision == 3


def test_the_shortest_time_counts_however_often_the_time_was_changed() -> None:
    limits = Limits(kept_us=1 * HOUR_US)
    for hours, at_hour in ((24, 10), (2, 11), (48, 13)):
        limits = tokens.changed_limits(limits, Limits(kept_us=hours * HOUR_US), at_hour * HOUR_US)
    assert (limits.before_us, limits.before_kept_us) == (13 * HOUR_US + 1, 2 * HOUR_US)
    limits = tokens.changed_limits(limits, Limits(kept_us=72 * HOUR_US), 14 * HOUR_US)
    assert (limits.before_us, limits.before_kept_us) == (14 * HOUR_US + 1, 2 * HOUR_US)
    assert tokens.decode_stored_limits(tokens.encode_stored_limits(limits)) == limits
    # What is too old by the present time needs no shorter one.
    limits = tokens.changed_limits(limits, Limits(kept_us=96 * HOUR_US), 200 * HOUR_US)
    assert (limits.before_us, limits.before_kept_us) == (200 * HOUR_US + 1, 72 * HOUR_US)


def test_the_bytes_are_in_the_state_that_every_replica_takes_up() -> None:
    shard = Shard(1 << 20)
    shard.do(once(Command(Opcode.PUT, b"k", b"", b"v", 0), "key"))
    stored = shard.store.data[STATE_KEY]
    assert stored is not None
    assert State.decode(stored).token_bytes == shard.kept() > 0
    assert StateMachine.open(shard.store).token_bytes == shard.kept()


def test_a_state_without_them_is_of_an_older_version() -> None:
    with pytest.raises(CorruptionError, match="older version"):
        State.decode(State(1, 2, 3).encode()[:24])


def test_results_are_kept_up_to_the_limit_and_a_command_without_room_changes_nothing() -> None:
    shard = Shard(5 << 20)
    shard.put(b"large", LARGE)
    statuses = [shard.do(read_and_write(f"key-{number}")).status for number in range(8)]
    assert statuses == [Status.OK] * 5 + [Status.TOKENS_FULL] * 3
    assert shard.kept() == shard.machine.token_bytes <= 5 << 20
    # What has no room leaves nothing: neither its write, nor a revision, nor a token.
    shard.do(commands.encode(Opcode.DELETE, b"new"))
    before = dict(shard.store.data), shard.machine.revision, shard.machine.tokens
    assert shard.do(read_and_write("another")).status == Status.TOKENS_FULL
    assert (shard.store.data, shard.machine.revision, shard.machine.tokens) == before
    # A repetition of what is kept needs no room, and a small result finds some.
    assert shard.do(read_and_write("key-0")).details is not None
    small = Command(Opcode.INCREMENT, b"n", b"", encode_increment(1), 0)
    assert shard.do(once(small, "small")).status == Status.OK


def test_small_results_never_go_beyond_the_limit() -> None:
    shard = Shard(2_000)
    statuses = [
        shard.do(once(Command(Opcode.INCREMENT, b"n", b"t" * 255, encode_increment(1), 0), f"{number}")).status
        for number in range(20)
    ]
    kept = statuses.count(Status.OK)
    assert statuses == [Status.OK] * kept + [Status.TOKENS_FULL] * (20 - kept)
    assert 0 < kept < 20
    assert shard.kept() == shard.machine.token_bytes <= 2_000


def test_a_token_that_has_expired_gives_its_bytes_to_the_one_in_its_place() -> None:
    shard = Shard(1 << 20)
    command = once(Command(Opcode.PUT, b"k", b"", b"v", 0), "key")
    shard.do(command)
    shard.do(command, at_us=5_000)
    assert (shard.machine.tokens, shard.machine.token_bytes) == (1, shard.kept())


def test_one_removal_of_what_has_expired_reads_a_bounded_number_of_bytes() -> None:
    shard = Shard(1 << 20)
    keys = [b"k%02d" % number for number in range(40)]
    for key in keys:
        shard.put(key, LARGE, ttl_ms=1)
    notes = [due_key(1_000, user_key(key)) for key in keys]
    seen = []
    while notes:
        outcome = shard.do(commands.encode(Opcode.EXPIRE, b"", value=expiry.encode_expire(notes)), at_us=2_000)
        assert outcome.status == Status.OK
        assert 0 < outcome.revision * len(LARGE) <= READ_BYTES_MAX + len(LARGE)
        seen.append(outcome.revision)
        notes = notes[outcome.revision :]
        assert len(shard.user_keys()) == len(notes)
    assert len(seen) == 3


def test_no_principal_takes_the_room_of_the_others() -> None:
    """Each may have as many kept as are free: one alone half of all, those who come later half of what is left."""
    shard = Shard(1 << 20, count_max=100)
    assert shard.takes("token:greedy", 200) == 50
    assert shard.takes("token:polite", 20) == 20, "who asks for less than its share gets it"
    assert shard.takes("token:other", 100) == 15
    assert shard.put_once("token:greedy", 200) == Status.TOKENS_FULL
    assert shard.put_once("token:greedy", 0) == Status.OK, "a repetition needs no room"
    assert shard.put_once("token:new", 0) == Status.OK
    assert shard.takes("", 100) == 14, "who shows no proof has what is left"
    assert shard.machine.tokens == 100
    assert shard.put_once("token:last", 0) == Status.TOKENS_FULL


def test_no_principal_takes_the_bytes_of_the_others() -> None:
    shard = Shard(16 << 20)
    shard.put(b"large", LARGE)
    reading = Command(Opcode.TXN, b"large", b"", encode_txn(Txn((), (commands.encode(Opcode.GET, b"large"),), ())), 0)
    statuses = [shard.do(once(reading, f"key-{number}", "token:greedy")).status for number in range(16)]
    assert statuses == [Status.OK] * 9 + [Status.TOKENS_FULL] * 7, "the one with which it has half of all is the last"
    assert [shard.do(once(reading, f"key-{number}", "token:polite")).status for number in range(3)] == [Status.OK] * 3
    assert shard.machine.token_bytes == shard.kept() == sum(share.size for share in shard.shares().values())


def test_shares_are_what_is_kept_and_go_with_it() -> None:
    """After a restart too, and a token that takes the place of an expired one counts once."""
    shard = Shard(1 << 20, count_max=100)
    for number in range(7):
        shard.put_once("token:ann", number)
    shard.put_once("token:bob", 0)
    shard.put_once("", 0)
    shard.machine = StateMachine.open(shard.store)
    shard.put_once("token:ann", 0, at_us=1_500)
    shares = shard.shares()
    assert {name: share.tokens for name, share in shares.items()} == {b"token:ann": 7, b"token:bob": 1}
    assert shares[b"token:ann"].size > 7 * 40
    shard.expires()
    assert {name: share.tokens for name, share in shard.shares().items()} == {b"token:ann": 1}
    assert (shard.machine.tokens, shard.machine.token_bytes) == (1, shard.shares()[b"token:ann"].size)


def test_a_transaction_that_is_undone_takes_nothing_of_a_share() -> None:
    shard = Shard(3 << 20)
    shard.put(b"large", LARGE)
    reading = Command(Opcode.TXN, b"large", b"", encode_txn(Txn((), (commands.encode(Opcode.GET, b"large"),), ())), 0)
    assert [shard.do(once(reading, name, "token:a")).status for name in "xy"] == [Status.OK] * 2
    before = shard.shares()
    assert shard.do(once(reading, "z", "token:b")).status == Status.OK
    assert shard.do(once(reading, "z", "token:c")).status == Status.TOKENS_FULL
    assert shard.shares().keys() - before.keys() == {b"token:b"}


def test_tokens_of_before_there_were_shares_are_in_none() -> None:
    shard = Shard(1 << 20)
    shard.put_once("token:ann", 0)
    shard.store.data[SHARE_PREFIX + b"token:ann"] = None
    shard.expires()
    assert (shard.machine.tokens, shard.shares()) == (0, {})


def test_a_share_that_is_none_is_damage() -> None:
    with pytest.raises(CorruptionError, match="a share of 3 bytes"):
        Share.decode(b"abc")


def test_the_key_of_a_token_counts() -> None:
    key = token_key(3, b"\0token")
    assert tokens.size_of(key, b"record") == len(key) + 6


def test_what_a_removal_would_read_beyond_its_bound_is_not_even_fetched() -> None:
    shard = Shard(1 << 20)
    keys = [b"k%03d" % number for number in range(expiry.NOTES_MAX)]
    for key in keys:
        # One object, that the test takes no memory; values of their own would.
        shard.store.data[user_key(key)] = LARGE
    notes = [due_key(1_000, user_key(key)) for key in keys]
    command = commands.encode(Opcode.EXPIRE, b"", value=expiry.encode_expire(notes))
    fetching = Fetching(shard.store)
    assert fetching.fetch([entries.encode(9, 1, EntryKind.COMMAND, 2_000, command)], ask=True) == 1
    fetched = sum(len(data) for data in fetching.values.values() if data is not None)
    assert fetched <= READ_BYTES_MAX + 32 * len(LARGE)

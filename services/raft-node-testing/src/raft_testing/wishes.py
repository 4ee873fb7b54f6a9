"""Draws random requests of every kind to a shard, with the mistakes that clients make.

Pure choice; ``raft_testing.operation_clients`` sends them, and tests apply them.
"""

from __future__ import annotations

import random
from typing import NamedTuple

from doug_wire import command as commands
from doug_wire import idempotency
from doug_wire.command import KEEP, Command, Opcode
from doug_wire.payload import Compare, CompareKind, Txn, encode_batch, encode_increment, encode_txn

SCAN = "*"
"""The key of a read of all keys."""
KEYS = (b"a", b"b", b"c")
COUNTERS = (b"n", b"m")
VALUES = (b"0", b"7", b"x", b"-3", b"9223372036854775800")


IDENTITIES = ("", "", "token:ann", "", "token:bob")
"""The principals to which idempotency keys belong, by turns."""


def _owned(wanted: Command, token: str) -> Command:
    """A command with an idempotency key and the principal to whom that belongs."""
    return idempotency.with_token(wanted, IDENTITIES[int(token.rpartition(".")[2]) % len(IDENTITIES)], token)


class Request(NamedTuple):
    """A request: the command of a write or the key of a read, and its idempotency key, if any."""

    command: bytes
    key: str
    token: str


class Wishes:
    """Draws the requests of one client.

    Attributes:
        seen: The last revision of each key that the client has seen; the sender of the requests notes them.
    """

    def __init__(self, chance: random.Random, name: str) -> None:
        self.seen: dict[bytes, int] = {}
        self._chance = chance
        self._name = name
        self._sent = 0
        self._tokens: list[str] = []

    def draw(self) -> Request:
        """The next request."""
        chance = self._chance
        key = chance.choice(KEYS + COUNTERS)
        kind = chance.random()
        if kind < 0.25:
            return Request(b"", key.decode(), "")
        if kind < 0.31:
            return Request(b"", SCAN, "")
        if kind < 0.43:
            wanted = self._txn()
        elif kind < 0.53:
            each = [commands.encode(*self._with_token(self._single(), 0.3)[0]) for _ in range(chance.randint(1, 4))]
            wanted = Command(Opcode.BATCH, commands.decode(each[0]).key, b"", encode_batch(each), 0)
            return Request(commands.encode(*wanted), "", "")
        else:
            wanted = self._single()
        wanted, token = self._with_token(wanted, 0.9 if wanted.opcode == Opcode.INCREMENT else 0.3)
        return Request(commands.encode(*wanted), wanted.key.decode(), token)

    def _with_token(self, wanted: Command, share: float) -> tuple[Command, str]:
        chance = self._chance
        if wanted.opcode == Opcode.GET or chance.random() >= share:
            return wanted, ""
        if self._tokens and chance.random() < 0.05:
            # A client's mistake: another request with an idempotency key that was used before.
            return _owned(wanted, chance.choice(self._tokens)), ""
        self._sent += 1
        token = f"t{self._name}.{self._sent}"
        self._tokens.append(token)
        return _owned(wanted, token), token

    def _single(self) -> Command:
        chance = self._chance
        key = chance.choice(KEYS)
        condition = None
        if chance.random() < 0.5:
            seen = commands.revision(self.seen.get(key, 0))
            condition = chance.choice((commands.EXISTS, commands.ABSENT, seen, seen))
        ttl = chance.choice((0, 0, 20, 200, 2_000))
        match chance.choice(("put", "put", "increment", "increment", "touch", "delete")):
            case "put":
                ttl = KEEP if chance.random() < 0.2 else ttl
                value = chance.choice(VALUES)
                # One without a type, condition, expiry and idempotency key is carried out in another way.
                content_type = b"t" if value == VALUES[0] else b""
                return Command(Opcode.PUT, key, content_type, value, chance.choice((0, 1)), condition, ttl)
            case "touch":
                return Command(Opcode.TOUCH, key, b"", b"", 0, condition, ttl or 50)
            case "delete":
                return Command(Opcode.DELETE, key, b"", b"", 0, condition)
            case _:
                by = chance.choice((1, 1, -5, 1 << 62))
                counter = chance.choice((key, *COUNTERS))
                value = encode_increment(by, chance.choice((0, 10)))
                return Command(Opcode.INCREMENT, counter, b"", value, 0, None, chance.choice((0, ttl)))

    def _txn(self) -> Command:
        chance = self._chance
        key = chance.choice(KEYS)
        compare = chance.choice(
            (
                Compare(CompareKind.EXISTS, key),
                Compare(CompareKind.ABSENT, key),
                Compare(CompareKind.REVISION, key, self.seen.get(key, 0)),
                Compare(CompareKind.VALUE, key, 0, chance.choice(VALUES)),
            )
        )
        success, failure = ([self._within() for _ in range(chance.randint(0, 3))] for _ in range(2))
        return Command(Opcode.TXN, key, b"", encode_txn(Txn((compare,), tuple(success), tuple(failure))), 0)

    def _within(self) -> bytes:
        if self._chance.random() < 0.3:
            return commands.encode(Opcode.GET, self._chance.choice(KEYS))
        return commands.encode(*self._single())

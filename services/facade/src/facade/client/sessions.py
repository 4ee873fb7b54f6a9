"""Session tokens: what a client has seen and written, as one opaque word that it carries from answer to request.

A token says up to which entry of each shard's log its client knows the data. Any facade reads it, and any replica that
has applied as much may serve its client. It belongs to one cluster, and a restored cluster is another one; and it
names the epoch of the partition map that it was made by, so that a facade with an older map loads a newer one before it
looks for the key: else it would ask a shard that does not own the key any more. Layout (docs/formats.md, Session
token), in base64url without padding; integers are varints (LEB128) where nothing else is said::

    u8 version (1) | u8 flags | 8 bytes of the cluster | u32 CRC32C, little-endian, of all but this field
    | map epoch | shard, entry | shard, entry | ...        the shard that was used last stands last

    entry  index of the shard's log, plus 2**44 times the generation of the shard (doug.proto, Receipt)

    flag 1  partial: some shards are left out

A token has ``TOKEN_BYTES_MAX`` at most. When there are too many shards, those that were used longest ago are left out
and the token is partial: a session read of a shard that a partial token does not name is linearizable, which is never
older than what was left out.

Must not know HTTP or nodes. Invariants:
    1. A token never promises less than one that it was made from.
    2. What is no token of this cluster is refused, never ignored; so is one that names an older generation of a shard,
       for some of what it has seen is lost.
    3. Whoever is of an older generation than a node has told is told apart (``is_behind``): a disk from before a
       recovery may have come back.

Source: docs/api.md, Consistency.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from crc32c import crc32c

from facade.errors import BadRequestError

TOKEN_BYTES_MAX = 512
VERSION = 1

_RAW_BYTES_MAX = TOKEN_BYTES_MAX * 3 // 4
_PARTIAL = 1
_TAG_BYTES = 8
_CRC_AT = 2 + _TAG_BYTES
_BODY_AT = _CRC_AT + 4
_VARINT_BYTES_MAX = 10
_INDEX_BITS = 44
_INDEX_MAX = (1 << _INDEX_BITS) - 1
_U64_MAX = (1 << 64) - 1


class Seen(NamedTuple):
    """How far an answer has shown the log of a shard.

    Attributes:
        shard: The shard's number.
        entry: The entry up to which, at least, the answer shows the log: see ``entry_of``.
        strong: Whether that includes all that was acknowledged before, as after a write or a linearizable read.
    """

    shard: int
    entry: int
    strong: bool


class Session(NamedTuple):
    """The content of a session token.

    Attributes:
        epoch: The epoch of the newest map by which the token was made.
        indexes: By shard, the last entry that the client may know; the shard that was used last is the last one.
        partial: Whether the client may know entries of other shards, too.
    """

    epoch: int
    indexes: Mapping[int, int]
    partial: bool = False

    def demand(self, shard: int) -> int | None:
        """Up to which entry a shard's replica must have applied its log; None if only a linearizable read will do."""
        known = self.indexes.get(shard)
        if known is None:
            return None if self.partial else 0
        return known & _INDEX_MAX


def entry_of(generation: int, index: int) -> int:
    """The number by which tokens name an entry of a shard's log."""
    return generation << _INDEX_BITS | index


def grown(session: Session | None, seen: Iterable[Seen]) -> Session:
    """A client's session after an answer: what it knew before, and what the answer has shown, strong parts first."""
    before = Session(0, {}) if session is None else session
    indexes = dict(before.indexes)
    for shard, index, strong in seen:
        known = indexes.pop(shard, None)
        if known is None and before.partial and not strong:
            # The session may have seen more of this shard than this answer shows.
            continue
        if known is not None and known >> _INDEX_BITS < index >> _INDEX_BITS:
            # An index of an older generation is kept, and is refused when the token is sent again.
            indexes[shard] = known
            continue
        indexes[shard] = index if known is None else max(known, index)
    return before._replace(indexes=indexes)


def _put_varint(out: bytearray, number: int) -> None:
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)


def _varints(data: bytes) -> list[int]:
    found, number, shift = [], 0, 0
    for byte in data:
        number |= (byte & 0x7F) << shift
        if byte & 0x80:
            shift += 7
            if shift >= 7 * _VARINT_BYTES_MAX:
                raise _malformed()
            continue
        if number > _U64_MAX or (not byte and shift):
            raise _malformed()
        found.append(number)
        number = shift = 0
    if shift:
        raise _malformed()
    return found


def _malformed() -> BadRequestError:
    return BadRequestError("bad_session", "Doug-Session is no session token.")


def foreign_session() -> BadRequestError:
    """The error for a token of another cluster, or of one that has lost entries since."""
    return BadRequestError(
        "foreign_session",
        "The session is of another cluster, or from before this one was restored or recovered; begin a new one.",
        status=409,
    )


class Sessions:
    """Makes and reads the tokens of the cluster that this facade serves.

    Attributes:
        epoch: The epoch of the map that this facade uses; 0 before it was loaded.
        recovered: Whether any shard has been recovered without its quorum, by what nodes or tokens said.
    """

    def __init__(self) -> None:
        self.epoch = 0
        self._tag = b""
        self._issued: dict[int, tuple[int, int, bytes]] = {}
        self._generations: dict[int, int] = {}
        self.recovered = False

    def know(self, cluster_id: bytes, epoch: int) -> None:
        """Takes the cluster's id and the map's epoch, whenever the map was loaded."""
        tag = hashlib.sha256(cluster_id).digest()[:_TAG_BYTES]
        if (tag, epoch) != (self._tag, self.epoch):
            if tag != self._tag:
                self._generations.clear()
                self.recovered = False
            self._tag, self.epoch = tag, epoch
            self._issued.clear()

    def issue(self, shard: int, index: int) -> bytes:
        """The token of a client that has seen this one entry alone; empty before the map was loaded."""
        if not self._tag:
            return b""
        known = self._issued.get(shard)
        if known is not None and known[:2] == (index, self.epoch):
            return known[2]
        token = self._encode(Session(self.epoch, {shard: index}))
        self._issued[shard] = (index, self.epoch, token)
        return token

    def add(self, session: Session | None, seen: Iterable[Seen]) -> bytes:
        """The token that goes with an answer: what the client knew before, and what the answer has shown.

        Args:
            session: What the request's token said; None without one.
            seen: What the answer has shown, of each shard that took part.
        """
        if not self._tag:
            return b""
        after = grown(session, seen)
        return self._encode(after._replace(epoch=max(after.epoch, self.epoch)))

    def read(self, text: bytes) -> Session:
        """Reads a token.

        Raises:
            BadRequestError: The text is no token, or a token of another cluster (``foreign_session``).
        """
        if len(text) > TOKEN_BYTES_MAX:
            raise _malformed()
        try:
            raw = base64.b64decode(text + b"=" * (-len(text) % 4), b"-_", validate=True)
        except binascii.Error:
            raise _malformed() from None
        if len(raw) <= _BODY_AT or raw[0] != VERSION or raw[1] & ~_PARTIAL:
            raise _malformed()
        if int.from_bytes(raw[_CRC_AT:_BODY_AT], "little") != crc32c(raw[_BODY_AT:], crc32c(raw[:_CRC_AT])):
            raise _malformed()
        if raw[2:_CRC_AT] != self._tag:
            raise foreign_session()
        epoch, *pairs = _varints(raw[_BODY_AT:])
        indexes = dict(zip(pairs[::2], pairs[1::2], strict=False))
        if len(pairs) != 2 * len(indexes):
            raise _malformed()
        session = Session(epoch, indexes, bool(raw[1] & _PARTIAL))
        if self.is_foreign(session):
            raise foreign_session()
        if any(entry >> _INDEX_BITS for entry in indexes.values()):
            # Another facade has heard of it. Only nodes say which tokens are too old: these words are not signed.
            self.recovered = True
        return session

    def heard(self, shard: int, generation: int) -> None:
        """Takes the generation that a node of a shard has told."""
        if generation > self._generations.get(shard, 0):
            self._generations[shard] = generation
            self.recovered = True

    def is_behind(self, shard: int, entry: int, session: Session | None = None) -> bool:
        """Whether who shows this entry has not heard of its shard's last recovery: nothing that it says counts.

        Of that recovery a node has told, or the token of the session for which it is asked.
        """
        generation = entry >> _INDEX_BITS
        if generation < self._generations.get(shard, 0):
            return True
        return session is not None and generation < session.indexes.get(shard, 0) >> _INDEX_BITS

    def is_foreign(self, session: Session | None) -> bool:
        """Whether a token names an older generation of a shard than a node has told."""
        generations = self._generations
        if not generations or session is None:
            return False
        return any(
            session.indexes[shard] >> _INDEX_BITS < generation
            for shard, generation in generations.items()
            if shard in session.indexes
        )

    def _encode(self, session: Session) -> bytes:
        epoch = bytearray()
        _put_varint(epoch, session.epoch)
        room = _RAW_BYTES_MAX - _BODY_AT - len(epoch)
        kept: list[bytearray] = []
        partial = session.partial
        for shard, index in reversed(list(session.indexes.items())):
            pair = bytearray()
            _put_varint(pair, shard)
            _put_varint(pair, index)
            if len(pair) > room:
                partial = True
                break
            room -= len(pair)
            kept.append(pair)
        head = bytes((VERSION, _PARTIAL if partial else 0)) + self._tag
        body = bytes(epoch) + b"".join(reversed(kept))
        raw = head + crc32c(body, crc32c(head)).to_bytes(4, "little") + body
        return base64.urlsafe_b64encode(raw).rstrip(b"=")

"""gRPC's messages within the bytes of a stream: a flag, four bytes of length, the message.

A message may come in many frames and a frame may carry many messages. Must not know frames or windows.

Invariant: what is kept is at most one message that is not complete, of at most ``limit`` bytes, and takes about as much
memory, however small the pieces are.

Source: grpc/doc/PROTOCOL-HTTP2.md, "Length-Prefixed-Message".
"""

from __future__ import annotations

from doug_stream.codes import StatusCode
from doug_stream.errors import CallError

PREFIX_BYTES = 5
_SMALL_BYTES = 4096
"""The size below which a piece is kept together with others: by itself it would take many times its bytes."""


def prefix(size: int) -> bytes:
    """The prefix of a message of this size."""
    return b"\0" + size.to_bytes(4, "big")


class Assembler:
    """Makes messages of pieces.

    Attributes:
        waiting_bytes: How much of the next message is here.
    """

    __slots__ = ("_limit", "_needed", "_pieces", "waiting_bytes")

    def __init__(self, limit: int) -> None:
        """Takes messages of up to ``limit`` bytes."""
        self._limit = limit
        self._pieces: list[bytes | bytearray] = []
        self._needed = PREFIX_BYTES
        self.waiting_bytes = 0

    def feed(self, piece: bytes) -> list[bytes]:
        """Takes the next bytes; gives the messages that they complete.

        Raises:
            CallError: A message is too long or compressed.
        """
        size = self.waiting_bytes + len(piece)
        if size < self._needed:
            if piece:
                self._keep(piece)
                self.waiting_bytes = size
            return []
        if self._pieces:
            self._pieces.append(piece)
            piece = b"".join(self._pieces)
            self._pieces.clear()
        found = []
        at = 0
        while size - at >= PREFIX_BYTES:
            end = at + PREFIX_BYTES + self._size(piece, at)
            if end > size:
                break
            found.append(piece[at + PREFIX_BYTES : end])
            at = end
        rest = size - at
        self.waiting_bytes = rest
        self._needed = PREFIX_BYTES
        if rest:
            self._keep(piece[at:] if at else piece)
            if rest >= PREFIX_BYTES:
                self._needed += self._size(piece, at)
        return found

    def _keep(self, piece: bytes) -> None:
        if len(piece) >= _SMALL_BYTES:
            self._pieces.append(piece)
        elif self._pieces and isinstance(last := self._pieces[-1], bytearray):
            last += piece
        else:
            self._pieces.append(bytearray(piece))

    def _size(self, data: bytes, at: int) -> int:
        if data[at]:
            # This end accepts nothing but identity, and says so.
            raise CallError(StatusCode.UNIMPLEMENTED, "compressed messages are not understood")
        size = int.from_bytes(data[at + 1 : at + PREFIX_BYTES], "big")
        if size > self._limit:
            raise CallError(
                StatusCode.RESOURCE_EXHAUSTED, f"a message of {size} bytes is longer than {self._limit} bytes"
            )
        return size

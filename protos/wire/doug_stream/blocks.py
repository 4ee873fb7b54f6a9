"""Header blocks as they come in: joined from their frames and unpacked.

Must not know streams.

Invariants:
    1. Every block is unpacked, also those of streams that are refused or over: both ends share one table.
    2. A block is at most as long, packed and unpacked, and in as many frames as the limits allow.

Source: RFC 9113, sections 4.3, 6.2 and 6.10; CVE-2024-27316.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

import hpack

from doug_stream import frames
from doug_stream.codes import END_HEADERS, END_STREAM, PRIORITIZED, ErrorCode
from doug_stream.errors import ProtocolError
from doug_stream.limits import Limits


class Block(NamedTuple):
    """A whole header block.

    ``fault`` says what is wrong with the frames around it.
    """

    stream_id: int
    end_stream: bool
    fields: list[tuple[str, str]]
    fault: ProtocolError | None = None


class BlockReader:
    """Collects blocks.

    Attributes:
        stream_id: The stream whose block has begun and not ended; 0 for none.
    """

    def __init__(self, limits: Limits) -> None:
        """Starts with an empty table."""
        self._limits = limits
        self._decoder = hpack.Decoder(max_header_list_size=limits.header_bytes_max)
        self._parts: list[bytes] = []
        self._size = 0
        self._end_stream = False
        self._fault: ProtocolError | None = None
        self.stream_id = 0

    def begin(self, flags: int, stream_id: int, payload: bytes) -> Block | None:
        """Takes a HEADERS frame; gives its block if it is whole.

        Raises:
            ProtocolError: The connection cannot go on.
        """
        self._fault = None
        payload = frames.unpadded(flags, payload)
        if flags & PRIORITIZED:
            try:
                frames.check_priority(stream_id, payload[:5])
            except ProtocolError as error:
                # The table needs the block all the same.
                self._fault = error
            payload = payload[5:]
        self._end_stream = bool(flags & END_STREAM)
        self.stream_id = stream_id
        return self._add(flags, payload)

    def go_on(self, flags: int, payload: bytes) -> Block | None:
        """Takes a CONTINUATION. Requires: a block has begun."""
        return self._add(flags, payload)

    def _add(self, flags: int, payload: bytes) -> Block | None:
        self._parts.append(payload)
        self._size += len(payload)
        if self._size > self._limits.header_bytes_max or len(self._parts) > self._limits.header_frames_max:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "a header block that is too long")
        if not flags & END_HEADERS:
            return None
        block = b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        stream_id, self.stream_id = self.stream_id, 0
        return Block(stream_id, self._end_stream, self._unpack(block), self._fault)

    def _unpack(self, block: bytes) -> list[tuple[str, str]]:
        try:
            # Text, whatever hpack's types say: native code would take them at their word.
            unpacked: Iterable[Any] = self._decoder.decode(block)
            return [(str(name), str(value)) for name, value in unpacked]
        except hpack.OversizedHeaderListError as error:
            raise ProtocolError(ErrorCode.ENHANCE_YOUR_CALM, "a header block that unpacks to too much") from error
        except (hpack.HPACKError, UnicodeDecodeError) as error:
            raise ProtocolError(ErrorCode.COMPRESSION_ERROR, "a header block that cannot be unpacked") from error

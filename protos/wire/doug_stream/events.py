"""What a connection tells when bytes have come in."""

from __future__ import annotations

from typing import NamedTuple

from doug_stream.codes import StatusCode
from doug_stream.headers import Metadata


class Ready(NamedTuple):
    """The peer's first SETTINGS are here: it speaks HTTP/2, and calls may begin."""


class RequestReceived(NamedTuple):
    """A call begins (server).

    ``timeout_s`` is how long the client waits for it, None if for ever.
    """

    stream_id: int
    path: str
    metadata: Metadata
    timeout_s: float | None


class ResponseReceived(NamedTuple):
    """The server has taken the call (client)."""

    stream_id: int
    metadata: Metadata


class MessageReceived(NamedTuple):
    """A message; ``owed`` is what ``Connection.consumed`` wants to hear once somebody has taken it."""

    stream_id: int
    message: bytes
    owed: int


class HalfClosed(NamedTuple):
    """The client sends no more messages in this call (server)."""

    stream_id: int


class CallEnded(NamedTuple):
    """The call is over: by the server's trailers (client), or because it was cut off (both)."""

    stream_id: int
    status: StatusCode
    details: str
    trailers: Metadata


class Drained(NamedTuple):
    """All messages of this call that waited for the peer's window have gone out."""

    stream_id: int


class GoingAway(NamedTuple):
    """The peer takes no further calls on this connection."""

    code: int
    details: str


class Terminated(NamedTuple):
    """The connection is over: the peer broke the rules. What is still to be sent says so; then close it."""

    code: int
    details: str


Event = (
    Ready
    | RequestReceived
    | ResponseReceived
    | MessageReceived
    | HalfClosed
    | CallEnded
    | Drained
    | GoingAway
    | Terminated
)

"""The numbers of HTTP/2 and of gRPC.

Source: RFC 9113, sections 6, 6.5.2 and 7; grpc/doc/statuscodes.md, grpc/doc/http-grpc-status-mapping.md.
"""

from __future__ import annotations

from enum import IntEnum

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITIZED = 0x20

WINDOW_MAX = (1 << 31) - 1
WINDOW_DEFAULT = 65_535
FRAME_BYTES_DEFAULT = 16_384
FRAME_BYTES_MAX = (1 << 24) - 1


class Setting(IntEnum):
    """The parameters that this end knows; others are ignored."""

    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6
    MARK = 0xD06B
    """Ours: this end is a client of this package. Whoever does not know it must ignore it (RFC 9113, 6.5.2)."""


class ErrorCode(IntEnum):
    """Why a stream or a connection ended."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class StatusCode(IntEnum):
    """How a call ended."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


_OF_RESET = {
    ErrorCode.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    ErrorCode.CANCEL: StatusCode.CANCELLED,
    ErrorCode.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    ErrorCode.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}

_OF_HTTP = {
    400: StatusCode.INTERNAL,
    401: StatusCode.UNAUTHENTICATED,
    403: StatusCode.PERMISSION_DENIED,
    404: StatusCode.UNIMPLEMENTED,
    429: StatusCode.UNAVAILABLE,
    502: StatusCode.UNAVAILABLE,
    503: StatusCode.UNAVAILABLE,
    504: StatusCode.UNAVAILABLE,
}


def status_of_reset(code: int) -> StatusCode:
    """The status of a call that an RST_STREAM ended."""
    try:
        return _OF_RESET.get(ErrorCode(code), StatusCode.INTERNAL)
    except ValueError:
        return StatusCode.INTERNAL


def status_of_http(status: int) -> StatusCode:
    """The status of a call that was answered with an HTTP status other than 200."""
    return _OF_HTTP.get(status, StatusCode.UNKNOWN)


def status_of_trailer(text: str | None) -> StatusCode:
    """The status in ``grpc-status``; UNKNOWN if it is missing or no code."""
    try:
        return StatusCode.UNKNOWN if text is None else StatusCode(int(text))
    except ValueError:
        return StatusCode.UNKNOWN

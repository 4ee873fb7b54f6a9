"""Header blocks: what must be in them, what must not, and what gRPC says in them.

Must not know streams. Packing and unpacking is the hpack package's.

Invariant: a list that came in is given on only if it is well-formed by RFC 9113, 8.2 and 8.3.

Source: RFC 9113, section 8; grpc/doc/PROTOCOL-HTTP2.md.
"""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple
from urllib.parse import quote, unquote

from doug_stream.codes import ErrorCode, StatusCode, status_of_http, status_of_trailer
from doug_stream.errors import ProtocolError

Metadata = tuple[tuple[str, str | bytes], ...]
"""Names and values; those of names that end in ``-bin`` are bytes."""
Fields = list[tuple[str, str]]

CONTENT_TYPE = "application/grpc"
_OF_REQUESTS = frozenset((":method", ":scheme", ":authority", ":path"))
_OF_RESPONSES = frozenset((":status",))
_OF_CONNECTIONS = frozenset(("connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade"))
_NAME = re.compile(r":?[a-z0-9!#$%&'*+.^_`|~-]+")
_BAD_IN_VALUES = re.compile(r"[\0\r\n]")
_METADATA_NAME = re.compile(r"[a-z0-9_.-]+")
_METADATA_VALUE = re.compile(r"[ -~]*")
_RESERVED = frozenset(("te", "content-type", "user-agent"))
_PER_S = {"n": 1e9, "u": 1e6, "m": 1e3, "S": 1.0, "M": 1 / 60, "H": 1 / 3600}
_LENGTH = re.compile(r"[0-9]{1,18}")
_TIMEOUT = re.compile(r"([0-9]{1,8})([HMSmun])")


class Head(NamedTuple):
    """A well-formed header list: what begins with a colon, and the rest."""

    pseudo: dict[str, str]
    fields: Fields

    def find(self, name: str) -> str | None:
        """The first value of a name."""
        return next((value for known, value in self.fields if known == name), None)


def check(fields: Iterable[tuple[str, str]], *, request: bool, trailers: bool) -> Head:
    """Checks a header list.

    Args:
        fields: Names and values.
        request: Whether a client sent it.
        trailers: Whether it ends a stream that had a head before.

    Raises:
        ProtocolError: The head is malformed.
    """
    known = frozenset() if trailers else (_OF_REQUESTS if request else _OF_RESPONSES)
    pseudo: dict[str, str] = {}
    rest: Fields = []
    for name, value in fields:
        if not _NAME.fullmatch(name) or _BAD_IN_VALUES.search(value) or value != value.strip(" \t"):
            raise _malformed(f"the header {name!r}")
        if name[0] == ":":
            if rest or name not in known or name in pseudo:
                raise _malformed(f"{name} where it must not be")
            pseudo[name] = value
            continue
        if name in _OF_CONNECTIONS or (name == "te" and value != "trailers"):
            raise _malformed(f"{name}, which has no place in HTTP/2")
        rest.append((name, value))
    if not trailers:
        needed = {":method", ":scheme", ":path"} if request else _OF_RESPONSES
        if not needed <= pseudo.keys() or not all(pseudo[name] for name in needed):
            raise _malformed("a head with something missing")
    return Head(pseudo, rest)


def _malformed(what: str) -> ProtocolError:
    return ProtocolError(ErrorCode.PROTOCOL_ERROR, f"malformed: {what}")


def is_grpc(head: Head) -> bool:
    """Whether the content is gRPC's, in whatever encoding of messages."""
    kind = head.find("content-type") or ""
    return kind == CONTENT_TYPE or kind.startswith((CONTENT_TYPE + "+", CONTENT_TYPE + ";"))


class Request(NamedTuple):
    """The request of a client.

    Attributes:
        path: The method.
        metadata: The metadata that came with it.
        timeout_s: How long the call may take; None for ever.
        refused: The HTTP status for a request that is none of gRPC; else empty.
        length: The bytes of its content, if it says so.
    """

    path: str
    metadata: Metadata
    timeout_s: float | None
    refused: str
    length: int | None = None


def read_request(fields: Fields) -> Request:
    """Reads the head of a request.

    Raises:
        ProtocolError: The head is malformed.
    """
    head = check(fields, request=True, trailers=False)
    refused = "405" if head.pseudo[":method"] != "POST" else ("" if is_grpc(head) else "415")
    timeout_s, length = decode_timeout(head.find("grpc-timeout")), length_of(head)
    return Request(head.pseudo[":path"], metadata_of(head.fields), timeout_s, refused, length)


def length_of(head: Head) -> int | None:
    """What ``content-length`` says; None without it.

    Raises:
        ProtocolError: It is no number.
    """
    text = head.find("content-length")
    if text is None:
        return None
    if not _LENGTH.fullmatch(text):
        raise _malformed("content-length")
    return int(text)


class Answer(NamedTuple):
    """The head or the trailers of a server: the end of the call if there is a status, else its beginning."""

    status: StatusCode | None
    details: str
    metadata: Metadata


def read_answer(fields: Fields, *, first: bool, last: bool) -> Answer | None:
    """Reads the head or the trailers of an answer; None if that was informational and the head is still to come.

    Args:
        fields: Names and values.
        first: Whether no head was read before.
        last: Whether nothing follows.

    Raises:
        ProtocolError: They are malformed.
    """
    head = check(fields, request=False, trailers=not first)
    metadata = metadata_of(head.fields)
    http = head.pseudo.get(":status", "200")
    if len(http) == 3 and http[0] == "1" and not last:
        return None
    if http != "200":
        status = status_of_http(int(http) if http.isdecimal() else 0)
        return Answer(status, f"the answer has the HTTP status {http}", metadata)
    if first and not is_grpc(head):
        return Answer(StatusCode.UNKNOWN, "the answer is none of gRPC", metadata)
    if not last:
        return Answer(None, "", metadata)
    return Answer(status_of_trailer(head.find("grpc-status")), decode_message(head.find("grpc-message")), metadata)


def metadata_of(fields: Fields) -> Metadata:
    """The metadata of a header list: all but what gRPC itself uses.

    Raises:
        ProtocolError: A binary value is no base64.
    """
    found: list[tuple[str, str | bytes]] = []
    for name, value in fields:
        if name.startswith("grpc-") or name in _RESERVED:
            continue
        if not name.endswith("-bin"):
            found.append((name, value))
            continue
        try:
            found += [
                (name, base64.b64decode(part.strip() + "=" * (-len(part.strip()) % 4), validate=True))
                for part in value.split(",")
            ]
        except binascii.Error as error:
            raise _malformed(f"the header {name!r}") from error
    return tuple(found)


def fields_of(metadata: Sequence[tuple[str, str | bytes]]) -> Fields:
    """Metadata as header fields.

    Raises:
        ValueError: A name or a value cannot be sent.
    """
    fields = []
    for name, value in metadata:
        if not _METADATA_NAME.fullmatch(name) or name.startswith("grpc-") or name in _RESERVED:
            raise ValueError(f"{name!r} is no name for metadata")
        if name.endswith("-bin"):
            raw = value if isinstance(value, bytes) else value.encode()
            fields.append((name, base64.b64encode(raw).decode().rstrip("=")))
            continue
        text = value if isinstance(value, str) else value.decode("latin-1")
        if not _METADATA_VALUE.fullmatch(text) or text != text.strip(" "):
            raise ValueError(f"the value of {name!r} has characters that cannot be sent")
        fields.append((name, text))
    return fields


def encode_message(details: str) -> str:
    """``grpc-message``: printable ASCII as it is, the rest as percent and hex digits of UTF-8."""
    return quote(details, safe=" !\"#$&'()*+,/:;<=>?@[\\]^`{|}~").strip() if details else ""


def decode_message(text: str | None) -> str:
    """The other way; what is no valid encoding is shown as it came."""
    return "" if text is None else unquote(text, errors="replace")


def encode_timeout(timeout_s: float) -> str:
    """``grpc-timeout``, rounded up so that the server never gives up first."""
    for unit, per_s in _PER_S.items():
        count = math.ceil(max(timeout_s, 0.0) * per_s)
        if count < 10**8:
            return f"{count}{unit}"
    return "99999999H"


def decode_timeout(text: str | None) -> float | None:
    """The other way, in seconds; None if there is none.

    Raises:
        ProtocolError: The text is no timeout.
    """
    if text is None:
        return None
    match = _TIMEOUT.fullmatch(text)
    if match is None:
        raise _malformed(f"the timeout {text!r}")
    return int(match[1]) / _PER_S[match[2]]

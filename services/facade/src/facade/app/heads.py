"""The rules that the head of a request must keep before the request is handled. Pure functions on bytes.

Must not know sockets or routes. The parser (llhttp) has already refused what is no HTTP at all; here is refused what it
lets pass. Invariant: what is refused here was not handed to any route.

Source: RFC 9110, 7.2 (Host), 7.8 (Upgrade), 10.1.1 (Expect); RFC 9112, 2.3 (version), 3.2 (Host), 6.1 (codings).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from facade.errors import BadRequestError

Header = tuple[bytes, bytes]

HEAD_BYTES_MAX = 32 << 10
FIELDS_MAX = 256
"""How many headers a request may have: each takes a hundred bytes of memory beside its own, which may be few."""
LINE_BYTES = 4
"""The bytes that a header has beside its name and value: a colon, a space, and the end of the line."""

VERSIONS = frozenset({"1.1", "1.0"})


def _error(code: str, detail: str, status: int = 400) -> Callable[[], BadRequestError]:
    """Makes the same error anew for each refusal: an exception that is raised again keeps every trace it had."""
    return lambda: BadRequestError(code, detail, status=status)


late = _error("head_timeout", "The head of the request did not arrive in time.", status=408)
slow_body = _error("body_timeout", "The body arrived too slowly.", status=408)
large = _error("head_too_large", f"The head exceeds {HEAD_BYTES_MAX} bytes or {FIELDS_MAX} headers.", status=431)
malformed = _error("bad_request", "This is not well-formed HTTP/1.1; paths are percent-encoded ASCII.")
bad_version = _error("bad_version", "Only HTTP/1.1 and HTTP/1.0 are spoken here.", status=505)
bad_coding = _error("not_implemented", "The only transfer coding that is known here is chunked.", status=501)
coding_of_old = _error("bad_request", "HTTP/1.0 has no Transfer-Encoding.")
bad_expectation = _error("bad_expectation", "The only expectation that is known is 100-continue.", status=417)
bad_host = _error("bad_host", "An HTTP/1.1 request has exactly one Host header.")
no_tunnel = _error("method_not_allowed", "Nothing is tunnelled here.", status=405)

_OF_PARSER = {"Invalid HTTP version": bad_version, "Pause on PRI/Upgrade": bad_version}


def of_parser(error: Exception) -> BadRequestError:
    """The error that a client is told when the parser refused its request."""
    return _OF_PARSER.get(str(error), malformed)()


def check_framing(version: str, headers: Sequence[Header]) -> None:
    """Refuses a head that leaves open where its request ends: nothing behind it on its connection can be read.

    Raises:
        BadRequestError: The head is of another version, or its body is in a coding that is not known.
    """
    if version not in VERSIONS:
        raise bad_version()
    for name, value in headers:
        if name == b"transfer-encoding":
            if value.strip().lower() != b"chunked":
                raise bad_coding()
            if version == "1.0":
                raise coding_of_old()


def check(version: str, headers: Sequence[Header]) -> None:
    """Refuses a head that is wrong, but shows where its request ends, so that the next one can be read.

    Raises:
        BadRequestError: The head expects what the facade does not do, or does not name its host exactly once.
    """
    for name, value in headers:
        if name == b"expect" and value.lower() != b"100-continue":
            raise bad_expectation()
    hosts = len(hosts_of(headers))
    if hosts != 1 and (hosts or version == "1.1"):
        raise bad_host()


def hosts_of(headers: Sequence[Header]) -> list[bytes]:
    """The values of all ``Host`` headers."""
    return [value for name, value in headers if name == b"host"]


def without_upgrade(headers: Sequence[Header]) -> list[Header]:
    """The headers of a request that is answered as if it did not ask for another protocol (RFC 9110, 7.8)."""
    kept = []
    for name, value in headers:
        if name == b"connection":
            options = [option.strip() for option in value.split(b",")]
            others = b", ".join(option for option in options if option and option.lower() != b"upgrade")
            if others:
                kept.append((name, others))
        elif name != b"upgrade":
            kept.append((name, value))
    return kept


def encode(method: bytes, target: bytes, version: str, headers: Sequence[Header]) -> bytes:
    """The bytes of a head."""
    lines = [b"%s %s HTTP/%s" % (method, target, version.encode())]
    lines.extend(b"%s: %s" % header for header in headers)
    return b"\r\n".join([*lines, b"", b""])

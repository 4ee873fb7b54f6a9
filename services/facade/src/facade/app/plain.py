"""Heads of plain requests: what the short way needs to know of one, and those that were seen before.

A client sends the same headers with every request, byte for byte, and only the line above them differs. So what the
parser and the rules found in a head is kept under its bytes, and a request that repeats a known head is told from its
first line alone. Whatever is not exactly one whole request with a known head goes to the parser. Where clients show
tokens, a head is kept under its hash, and what it shows as the hash that the gate knows it by: no token stays here.

Must not know connections or operations. Invariants: (1) a head is kept only when the parser read it and found nothing
but plain headers in it, each on a line of its own; (2) a request that repeats it is one that the parser would have read
in the same way; (3) what is kept is bounded in number and bytes; (4) it says nothing of who somebody is: each request
asks that anew; (5) without ``secret`` no head with ``Authorization`` is ever plain, so none is kept.

Source: RFC 9112, 2.1 and 3; measured in docs/performance.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import NamedTuple

from facade.client.receipts import SESSION
from facade.routes.key import KEY_PREFIX

HEADS_MAX = 1024
HEAD_BYTES_MAX = 2048
"""The longest head that is kept: clients repeat no longer one for plain requests."""
LINE_BYTES_MAX = 4096

ONCE = frozenset({SESSION, b"x-request-id", b"traceparent", b"tracestate", b"baggage"})
"""The headers that differ from request to request: to keep a head that has one would only drive others out."""

_LINE = re.compile(rb'(GET|PUT) (%b/[!-"$-~]+) HTTP/1\.1\r\n' % KEY_PREFIX)
"""A line that the parser takes: every visible character of ASCII but #, which would begin a fragment."""
_END = b"\r\n\r\n"


class PlainHead(NamedTuple):
    """The parts of a request's headers that the short way needs.

    Attributes:
        put: Whether it is a PUT; else it is a GET.
        length: The bytes of the request's body.
        consistency: What ``Doug-Consistency`` says; None without it.
        content_type: What ``Content-Type`` says; empty without it.
        proof: The hash of what ``Authorization`` says (``proof_of``); empty without it.
        session: What ``Doug-Session`` says; None without it.
        named: What ``X-Request-Id`` says; None without it.
        once: Whether the head has a header that differs from request to request.
        keep_alive: Whether the connection goes on behind the request.
    """

    put: bool
    length: int
    consistency: bytes | None
    content_type: bytes
    proof: bytes
    session: bytes | None
    named: bytes | None
    once: bool
    keep_alive: bool = True


def proof_of(authorization: bytes) -> bytes:
    """The hash under which the gate remembers what ``Authorization`` says; empty for nothing."""
    return hashlib.sha256(authorization).digest() if authorization else b""


def has_once(names: Collection[bytes]) -> bool:
    """Whether one of these headers differs from request to request."""
    return not ONCE.isdisjoint(names)


class KnownHeads:
    """The heads that were seen before, of all connections."""

    def __init__(self, *, secret: bool = False) -> None:
        """Starts with none; with ``secret`` heads may hold tokens, and none of their bytes is kept."""
        self._secret = secret
        self._heads: dict[bytes, PlainHead] = {}

    def learn(self, data: bytes, head: PlainHead, headers: int) -> None:
        """Keeps a head that the parser has read.

        Args:
            data: The bytes that were parsed, from the first byte of the request on.
            head: What the headers say.
            headers: How many headers the parser found.
        """
        line, end = data.find(b"\r\n"), data.find(_END)
        if head.once or end - line > HEAD_BYTES_MAX or len(data) != end + len(_END) + head.length:
            return
        raw = data[line : end + len(_END)]
        lines = raw.count(b"\r\n")
        if not raw.count(b"\n") == raw.count(b"\r") == lines == headers + 2 or proof_of(_shown(raw)) != head.proof:
            return  # The parser has split the lines differently than this search expects.
        if len(self._heads) >= HEADS_MAX:
            self._heads.clear()
        self._heads[hashlib.sha256(raw).digest() if self._secret else raw] = head

    def find(self, data: bytes) -> tuple[PlainHead, bytes, bytes] | None:
        """The head, the target and the body of a request, if the data is exactly one request with a known head."""
        line = _LINE.match(data, 0, LINE_BYTES_MAX)
        if line is None:
            return None
        end = data.find(_END, line.end() - 2)
        raw = data[line.end() - 2 : end + 4]
        head = self._heads.get(hashlib.sha256(raw).digest() if self._secret else raw)
        if head is None or len(data) - end - 4 != head.length or (line[1] == b"PUT") is not head.put:
            return None
        return head, line[2], data[end + 4 :]


def _shown(raw: bytes) -> bytes:
    """What ``Authorization`` says in a head's bytes; empty without it."""
    for line in raw.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"authorization":
            return value.strip(b" \t")
    return b""

"""Heads of plain requests: what the short way needs to know of one, and those that were seen before.

A client sends the same headers with every request, byte for byte, and only the line above them differs. So what the
parser and the rules found in a head is kept under its bytes, and a request that repeats a known head is told from its
first line alone. Two headers of plain writes, a revision in ``If-Match`` and an ``Idempotency-Key``, have another value
each time: a head with them is kept without these values, and repeated by one that is the same around others.
Whatever is not exactly one whole request with a known head goes to the parser. Where clients show tokens, a head is
kept under its hash, and what it shows as the hash that the gate knows it by: no token stays here longer than the
connection that shows it, which keeps the bytes of the head that it repeated last (``LastHead``).

Must not know connections or operations. Invariants: (1) a head is kept only when the parser read it and found nothing
but plain headers in it, each on a line of its own; (2) a request that repeats it is one that the parser would have read
in the same way; (3) what is kept is bounded in number and bytes; (4) it says nothing of who somebody is: that is asked
anew for each connection, and whenever the sender's proof has ended; (5) without ``secret`` no head with
``Authorization`` is ever plain, so none is kept; (6) only a value that can be read in one way alone is left out, and
the request's own is put in its place.

Source: RFC 9112, 2.1 and 3; measured in docs/performance.md.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection
from typing import NamedTuple

from doug_wire.command import Condition, ConditionKind
from facade.client.access import Caller
from facade.client.receipts import SESSION
from facade.routes.key import KEY_PREFIX

HEADS_MAX = 1024
HEAD_BYTES_MAX = 2048
"""The longest head that is kept: clients repeat no longer one for plain requests."""
LINE_BYTES_MAX = 4096

ONCE = frozenset({SESSION, b"x-request-id", b"traceparent", b"tracestate", b"baggage"})
"""The headers that differ from request to request: to keep a head that has one would only drive others out."""

_LINE = re.compile(rb'(GET|PUT|DELETE) (%b/[!-"$-~]+) HTTP/1\.1\r\n' % KEY_PREFIX)
"""A line that the parser takes: every visible character of ASCII but #, which would begin a fragment."""
_END = b"\r\n\r\n"
_VARYING = re.compile(
    rb'\r\n(?:If-Match: "([1-9][0-9]{0,18})"|Idempotency-Key: ([0-9A-Za-z._:/+-]{1,255}))(?=\r\n)', re.IGNORECASE
)
"""A header whose value is left out: a revision, or an idempotency key without quotes, on a line of its own."""
_TAG = 1
_REVISION = int(ConditionKind.REVISION)


class PlainHead(NamedTuple):
    """The parts of a request's headers that the short way needs.

    Attributes:
        method: ``GET``, ``PUT`` or ``DELETE``.
        length: The bytes of the request's body.
        consistency: What ``Doug-Consistency`` says; None without it.
        content_type: What ``Content-Type`` says; empty without it.
        proof: The hash of what ``Authorization`` says (``proof_of``); empty without it.
        session: What ``Doug-Session`` says; None without it.
        named: What ``X-Request-Id`` says; None without it.
        once: Whether the head has a header that differs from request to request.
        keep_alive: Whether the connection goes on behind the request.
        condition: The condition of a write; None for none.
        idempotency_key: The key that makes a write happen once; empty without one.
    """

    method: bytes
    length: int
    consistency: bytes | None
    content_type: bytes
    proof: bytes
    session: bytes | None
    named: bytes | None
    once: bool
    keep_alive: bool = True
    condition: Condition | None = None
    idempotency_key: str = ""


def proof_of(authorization: bytes) -> bytes:
    """The hash under which the gate remembers what ``Authorization`` says; empty for nothing."""
    return hashlib.sha256(authorization).digest() if authorization else b""


def has_once(names: Collection[bytes]) -> bool:
    """Whether one of these headers differs from request to request."""
    return not ONCE.isdisjoint(names)


class LastHead:
    """The head that one connection repeated last; most connections repeat one again and again.

    Attributes:
        head: What it says; None before the first.
        rest: Its bytes behind the line of the request, the ends of its lines included.
        caller: The sender that it was found to be of, who counts until ``caller.access.ended``; None for not asked yet.
    """

    __slots__ = ("caller", "head", "rest")

    def __init__(self) -> None:
        self.head: PlainHead | None = None
        self.rest = b""
        self.caller: Caller | None = None


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
        raw = head.method + data[line : end + len(_END)]
        lines = raw.count(b"\r\n")
        if not raw.count(b"\n") == raw.count(b"\r") == lines == headers + 2 or proof_of(_shown(raw)) != head.proof:
            return  # The parser has split the lines differently than this search expects.
        known = raw
        if head.idempotency_key or (head.condition is not None and head.condition.kind == _REVISION):
            known, condition, idempotency_key = _without_values(raw)
            if idempotency_key != head.idempotency_key or (condition or head.condition) != head.condition:
                return  # They are spelled in another way, and would be kept with their values.
            if condition is None and head.condition is not None and head.condition.kind == _REVISION:
                return
        if len(self._heads) >= HEADS_MAX:
            self._heads.clear()
        self._heads[hashlib.sha256(known).digest() if self._secret else known] = head

    def find(self, data: bytes, last: LastHead) -> tuple[PlainHead, bytes, bytes] | None:
        """The head, the target and the body of a request, if the data is exactly one request with a known head.

        Args:
            data: The bytes that have come.
            last: The head that the connection repeated last.
        """
        line = _LINE.match(data, 0, LINE_BYTES_MAX)
        if line is None:
            return None
        start = line.end() - 2
        head = last.head
        if head is not None and head.method == line[1] and data.startswith(last.rest, start):
            end = start + len(last.rest)
        else:
            end = data.find(_END, start) + len(_END)
            raw = line[1] + data[start:end]
            head = self._heads.get(hashlib.sha256(raw).digest() if self._secret else raw)
            if head is None:
                head = self._find_with_values(raw)
                if head is None:
                    return None
            else:
                last.head, last.rest, last.caller = head, data[start:end], None
        if len(data) - end != head.length:
            return None
        return head, line[2], data[end:]

    def _find_with_values(self, raw: bytes) -> PlainHead | None:
        """A head that was kept without the values that differ each time, with those of this request."""
        if len(raw) > 2 * HEAD_BYTES_MAX:
            return None
        known, condition, idempotency_key = _without_values(raw)
        head = self._heads.get(hashlib.sha256(known).digest() if self._secret else known)
        if head is None:
            return None
        return head._replace(condition=condition or head.condition, idempotency_key=idempotency_key)


def _without_values(raw: bytes) -> tuple[bytes, Condition | None, str]:
    """A head without the values that differ each time, and what these say.

    The pieces around the values are put together with their lengths, so that no other head has the same, and a whole
    one, which begins with its method, is never taken for one of these.
    """
    pieces, start = [], 0
    condition, idempotency_key = None, ""
    for found in _VARYING.finditer(raw):
        which = found.lastindex or _TAG
        end = found.start(which)
        pieces.append(b"%d:%b" % (end - start, raw[start:end]))
        start = found.end(which)
        if which == _TAG:
            condition = Condition(_REVISION, int(found[which]))
        else:
            idempotency_key = found[which].decode()
    pieces.append(b"%d:%b" % (len(raw) - start, raw[start:]))
    return b"".join(pieces), condition, idempotency_key


def _shown(raw: bytes) -> bytes:
    """What ``Authorization`` says in a head's bytes; empty without it."""
    for line in raw.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"authorization":
            return value.strip(b" \t")
    return b""

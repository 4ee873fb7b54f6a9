"""The stored form of a lock, and the time for which it is surely held. Pure arithmetic, no network and no clock.

Invariant: a holder considers its lock lost before any shard gives the lock to another holder. A shard counts the time
to live from the moment at which it handles the request, the holder from before it sent the request.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from dataclasses import dataclass
from typing import Any

from dougdb.shapes import Value

LOCK_PREFIX = "locks/"
ELECTION_PREFIX = "elections/"
DEFAULT_TTL_S = 15.0
TTL_MIN_S = 0.5
"""The shortest time to live: a shorter lease could not be renewed through an election."""
RENEWALS = 3
"""How often a lease is renewed within its time to live."""
POLL_MIN_S, POLL_MAX_S = 0.05, 1.0
CONTENT_TYPE = "application/json"


@dataclass(frozen=True, slots=True)
class Holder:
    """The holder of a lock.

    Attributes:
        name: The lock's name.
        owner: The name that the holder gives itself.
        revision: The lock's revision; every renewal makes a greater one.
        document: The whole value of the lock.
    """

    name: str
    owner: str
    revision: str
    document: dict[str, Any]


def default_owner() -> str:
    """The name of a holder that gives itself none: its machine and process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def encode_holder(owner: str, nonce: str) -> bytes:
    """The value of a lock. Each attempt to take a lock has another nonce, by which a holder recognizes its lock."""
    return json.dumps({"owner": owner, "nonce": nonce}).encode()


def holder_of(name: str, value: Value) -> Holder:
    """The holder of a lock, by the lock's value."""
    try:
        document = json.loads(value.data)
    except ValueError:
        document = None
    if not isinstance(document, dict):
        document = {}
    return Holder(name, str(document.get("owner", "")), value.revision, document)


class Lease:
    """The time for which a lock is surely held.

    Args:
        ttl_s: The time to live.
        revision: The revision that taking the lock made: the fencing token.
        sent_s: When the request was sent first, by the holder's clock.
    """

    def __init__(self, ttl_s: float, revision: str, sent_s: float) -> None:
        self._ttl_s = ttl_s
        self.token = int(revision)
        self.revision = revision
        self._sent_s = sent_s
        self._lost = False
        self._news = threading.Lock()

    @property
    def ends_s(self) -> float:
        """When the lease runs out unless it is renewed."""
        return self._sent_s + self._ttl_s

    def renewed(self, revision: str, sent_s: float) -> None:
        """Notes that the lease was renewed by a request that was sent at ``sent_s``."""
        self.revision = revision
        self._sent_s = sent_s

    def lose(self) -> bool:
        """Notes that the lock may have another holder; returns whether that is news, to one of several threads."""
        self._lost = True
        return self._news.acquire(blocking=False)

    def holds(self, now_s: float) -> bool:
        """Whether the lock is surely held."""
        return not self._lost and now_s < self.ends_s

    def left_s(self, now_s: float) -> float:
        """For how many seconds the lock is surely held unless it is renewed."""
        return max(0.0, self.ends_s - now_s) if not self._lost else 0.0

    def pause_s(self, now_s: float) -> float:
        """How long to wait before the next renewal."""
        return max(0.0, min(self._ttl_s / RENEWALS, self.ends_s - now_s))

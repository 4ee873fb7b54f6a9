"""Every error that the client raises.

::

    DougdbError
    +-- CertificateError          the file with the authority's certificate cannot be used; nothing was sent
    +-- ClientClosedError         the client was closed before; nothing was sent
    +-- InvalidKeyError           the key cannot be sent: empty, too long, or no text where text is needed
    +-- InvalidArgumentError      an argument makes no sense, a ``ValueError`` too; nothing was sent
    +-- KeyNotFoundError          there is no such key
    +-- RejectedError             the request was refused as it stands (4xx); nothing was changed
    |   +-- PreconditionFailedError   the condition does not hold; ``current_revision`` is the key's revision
    |   +-- NotANumberError           the value of the counter is no number
    |   +-- CounterOverflowError      the sum does not fit into 64 bits
    |   +-- KeyReusedError            another request has used the idempotency key
    |   +-- ForeignSessionError        the session is of another cluster, or from before it was restored
    |   +-- CrossShardError           the keys of a transaction belong to several shards; see ``slots``
    +-- UnavailableError          no node could serve the request now; a write was certainly not applied
    |   +-- IdempotencyFullError      the shard keeps as many idempotency keys as it may
    +-- OutcomeUnknownError       a write was sent and may or may not have been applied
    +-- HistoryGoneError          the changes that follow are not held any more: a watch begins anew
    +-- WaitTimeoutError          the condition of ``wait_for`` was not fulfilled in time, a ``TimeoutError`` too
    +-- LockTimeoutError          another holder kept the lock for the whole time of waiting
    +-- LockLostError             the lock was held, but is not held any more
    +-- ServerError               the server failed, or its answer cannot be understood

The outcome of a read is never unknown: whatever fails, nothing was changed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

Outcome = Literal["not_applied", "unknown"]


class DougdbError(Exception):
    """The root of the client's errors.

    Attributes:
        outcome: ``not_applied`` if certainly nothing was changed, ``unknown`` if a write may have been applied.
        status: The HTTP status, where there was an answer.
        code: The problem document's code; empty without one.
        request_id: The id of the request in the logs of the facade; empty without an answer.
    """

    outcome: Outcome = "not_applied"
    status: int | None = None
    code: str = ""
    request_id: str = ""


class CertificateError(DougdbError):
    """The file with the authority's certificate cannot be used."""


class ClientClosedError(DougdbError):
    """The client was closed before the call; nothing was sent."""


class InvalidKeyError(DougdbError):
    """The key cannot be sent: it is empty, too long, or text that has no UTF-8."""


class InvalidArgumentError(DougdbError, ValueError):
    """An argument of a call makes no sense; nothing was sent."""


class KeyNotFoundError(DougdbError):
    """There is no such key.

    Attributes:
        key: The key that was asked for.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"not found: {key}")
        self.key = key


class RejectedError(DougdbError):
    """The request was refused as it stands; nothing was changed, and a repetition will be refused too."""

    status: int

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"rejected with {status}{f' ({code})' if code else ''}: {detail}")
        self.status = status
        self.code = code


class PreconditionFailedError(RejectedError):
    """The condition does not hold.

    Attributes:
        current_revision: The key's revision; None when there is no such key.
    """

    current_revision: str | None = None


class NotANumberError(RejectedError):
    """The value to which a number was to be added is no decimal integer of 64 bits."""


class CounterOverflowError(RejectedError):
    """The sum does not fit into 64 bits."""


class KeyReusedError(RejectedError):
    """Another request has used the idempotency key."""


class ForeignSessionError(RejectedError):
    """The session is of another cluster, or from before the cluster was restored from a backup."""


class CrossShardError(RejectedError):
    """The keys of a transaction belong to several shards.

    Attributes:
        slots: Each key with its slot and its shard.
    """

    slots: Sequence[Mapping[str, Any]] = ()


class UnavailableError(DougdbError):
    """No node could serve the request now; a write was certainly not applied, so that it is safe to repeat.

    Attributes:
        retry_after_s: The seconds after which the server suggests another try; 0 if it suggests none.
        passing: Whether another try may help; it does not against a certificate that is not trusted.
    """

    retry_after_s: float = 0.0
    passing: bool = True


class IdempotencyFullError(UnavailableError):
    """The shard keeps as many idempotency keys as it may; none is forgotten early."""


class OutcomeUnknownError(DougdbError):
    """A write was sent and may or may not have been applied, now or later."""

    outcome: Outcome = "unknown"


class HistoryGoneError(DougdbError):
    """The changes that follow are not held any more: a watch begins anew, with ``begin="start"``."""


class WaitTimeoutError(DougdbError, TimeoutError):
    """The condition of ``wait_for`` was not fulfilled in time."""


class LockTimeoutError(DougdbError):
    """Another holder kept the lock for the whole time of waiting."""


class LockLostError(DougdbError):
    """The lock was held and is not any more: it ran out before it could be renewed, or somebody removed it."""


class ServerError(DougdbError):
    """The server failed, or this client does not understand its answer."""

    status: int

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"the server answered {status}: {detail}")
        self.status = status

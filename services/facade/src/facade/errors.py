"""Every operating error of the facade.

::

    FacadeError
    +-- SettingsError           a setting is missing or makes no sense; the facade does not start
    +-- AddressError            an address cannot be listened on; the facade does not start
    +-- ProblemError            what a client is told, as an RFC 9457 problem document
        +-- BadRequestError         the request is wrong; it will not become right by being repeated
        +-- UnauthenticatedError    401: it is not known who sent it
        +-- ForbiddenError          403: whoever sent it may not do this
        +-- DecidedError            4xx, 507: the shard decided, when it applied the request, to change nothing
        +-- NotAppliedError         503: refused before it was proposed, certainly without a trace
        |   +-- TooManyRequestsError    429: whoever sent it asks for more than their part
        |   +-- DiskFullError           507: the leader's disk is full, certainly without a trace
        +-- OutcomeUnknownError     504: the write was sent, and nobody can say what became of it
        +-- ReadTimeoutError        504: the read was sent and not answered in time; nothing was changed
        +-- InternalError           500: a raft-node called a record of ours malformed; nothing was changed
        +-- UnexpectedError         500: a defect of the facade; nobody can say what became of the request

Source: docs/api.md, Errors; RFC 9457.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Outcome = Literal["not_applied", "unknown"]

RETRY_AFTER_S = 1
"""What ``Retry-After`` says: an election takes well under a second."""


class FacadeError(Exception):
    """The root of the operating errors of the facade."""


class SettingsError(FacadeError):
    """A setting is missing or makes no sense.

    Attributes:
        setting: The environment variable.
        what: What is wrong with it.
    """

    def __init__(self, setting: str, what: str) -> None:
        super().__init__(f"{setting}: {what}")
        self.setting = setting
        self.what = what


class AddressError(FacadeError):
    """An address cannot be listened on.

    Attributes:
        address: The address as it was configured.
    """

    def __init__(self, address: str, what: str) -> None:
        super().__init__(f"cannot listen on {address}: {what}")
        self.address = address


class ProblemError(FacadeError):
    """What a client is told, as an RFC 9457 problem document.

    Attributes:
        status: The HTTP status.
        code: What happened, in one stable word.
        detail: What happened, in a sentence about this request.
        shard: The shard that the key belongs to, where it is known.
        retryable: Whether the same request may succeed later.
        outcome: Whether a write may have been applied. Reads never change anything.
        headers: Further response headers.
        members: Further members of the document.
    """

    status = 500
    retryable = False
    outcome: Outcome = "not_applied"

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        status: int | None = None,
        shard: int | None = None,
        headers: tuple[tuple[bytes, bytes], ...] = (),
        members: Mapping[str, object] | None = None,
        outcome: Outcome | None = None,
        retryable: bool | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.shard = shard
        self.headers = headers
        self.members = members or {}
        if status is not None:
            self.status = status
        if outcome is not None:
            self.outcome = outcome
        if retryable is not None:
            self.retryable = retryable


class BadRequestError(ProblemError):
    """The request is wrong; it will not become right by being repeated."""

    status = 400


class UnauthenticatedError(ProblemError):
    """The sender of the request is not known."""

    status = 401

    def __init__(self, detail: str) -> None:
        super().__init__("unauthenticated", detail, headers=((b"www-authenticate", b'Bearer realm="DougDB"'),))


class ForbiddenError(ProblemError):
    """The sender of the request has not the right to it.

    Attributes:
        verb: The right that is missing; empty when no right would do.
    """

    status = 403

    def __init__(self, detail: str, verb: str = "") -> None:
        super().__init__("forbidden", detail, members={"verb": verb} if verb else None)
        self.verb = verb


class DecidedError(ProblemError):
    """The shard decided, when it applied the request, to change nothing; a repetition is decided anew."""

    status = 409


class NotAppliedError(ProblemError):
    """Refused before it was proposed, certainly without a trace."""

    status = 503
    retryable = True

    def __init__(self, code: str, detail: str, *, shard: int | None = None) -> None:
        super().__init__(code, detail, shard=shard, headers=((b"retry-after", b"%d" % RETRY_AFTER_S),))


class TooManyRequestsError(NotAppliedError):
    """The sender of the request asks for more than its part; refused before it was proposed.

    Others are served meanwhile.
    """

    status = 429

    def __init__(self, detail: str, wait_s: int = RETRY_AFTER_S) -> None:
        super().__init__("too_many_requests", detail)
        self.headers = ((b"retry-after", b"%d" % wait_s),)


class DiskFullError(NotAppliedError):
    """The disk of the shard's leader is full, and leadership did not move to a node with room."""

    status = 507

    def __init__(self, *, shard: int | None = None) -> None:
        super().__init__("disk_full", "The disk of the shard's leader is full; reads go on.", shard=shard)


class OutcomeUnknownError(ProblemError):
    """The write was sent, and nobody can say what became of it.

    It is not called retryable: a second try may undo a write that somebody else made in between.
    """

    status = 504
    outcome: Outcome = "unknown"


class ReadTimeoutError(ProblemError):
    """The read was sent and not answered in time; nothing was changed."""

    status = 504
    retryable = True


class InternalError(ProblemError):
    """A raft-node called a record of ours malformed; nothing was changed."""

    status = 500


class UnexpectedError(ProblemError):
    """A defect of the facade; nobody can say what became of the request. What it was stands in the log."""

    status = 500
    outcome: Outcome = "unknown"

    def __init__(self) -> None:
        super().__init__("internal_error", "The facade met a defect; its log says which.")

"""Every error that the client raises.

::

    DougdbError
    +-- CertificateError      the file with the authority's certificate cannot be used; nothing was sent
    +-- InvalidKeyError       the key cannot be sent: empty, too long, or not UTF-8
    +-- KeyNotFoundError      there is no such key
    +-- RejectedError         the request was refused as it stands (4xx); nothing was changed
    +-- UnavailableError      nobody could serve it now; a write was certainly not applied
    +-- OutcomeUnknownError   a write was sent and may or may not have been applied
    +-- ServerError           the server failed, or answered what nobody understands

A read is never of unknown outcome: whatever goes wrong on its way, nothing was changed.
"""

from __future__ import annotations


class DougdbError(Exception):
    """The root of the client's errors."""


class CertificateError(DougdbError):
    """The file with the authority's certificate cannot be used."""


class InvalidKeyError(DougdbError):
    """The key cannot be sent: it is empty, too long, or not UTF-8."""


class KeyNotFoundError(DougdbError):
    """There is no such key.

    Attributes:
        key: The key that was asked for.
    """

    def __init__(self, key: str) -> None:
        super().__init__(f"not found: {key}")
        self.key = key


class RejectedError(DougdbError):
    """The request was refused as it stands; nothing was changed, and a repetition will be refused too.

    Attributes:
        status: The HTTP status, 4xx.
        code: The problem document's code, empty without one.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        super().__init__(f"rejected with {status}{f' ({code})' if code else ''}: {detail}")
        self.status = status
        self.code = code


class UnavailableError(DougdbError):
    """Nobody could serve it now; a write was certainly not applied, so that it is safe to repeat."""


class OutcomeUnknownError(DougdbError):
    """A write was sent and may or may not have been applied, now or later."""


class ServerError(DougdbError):
    """The server failed, or answered what this client does not understand.

    Attributes:
        status: The HTTP status.
    """

    def __init__(self, status: int, detail: str) -> None:
        super().__init__(f"the server answered {status}: {detail}")
        self.status = status

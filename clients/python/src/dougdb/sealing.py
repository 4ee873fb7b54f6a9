"""Encrypts files for the holders of keys, and decrypts them: the format age-encryption.org/v1, by ``pyrage``.

Data is read and written piece by piece, so that no file is held whole in memory or in a temporary file. Must not know
what the files contain. Invariants:

1. When ``seal`` returns, everything was written: an error of the target is never lost in the library.
2. ``unseal`` writes a piece only after the piece was authenticated, and fails if the end of the file is missing.

Source: https://age-encryption.org/v1; docs/operations.md, Encrypted backups.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Protocol

SUFFIX = ".age"
FORMAT = "age-encryption.org/v1"
KEY_BYTES_MAX = 1 << 20
_SECRET = "AGE-SECRET-KEY-"  # noqa: S105 - the prefix of every secret key, not a key
_PIECE_BYTES = 64 << 10
_TAG_BYTES = 16


class SealingError(Exception):
    """A file cannot be encrypted or decrypted; the message says why."""


class Sink(Protocol):
    """A target that bytes are written to."""

    def write(self, data: bytes, /) -> int:
        """Writes bytes; returns how many were written."""

    def flush(self) -> None:
        """Writes the bytes that are still buffered."""


class Recipients:
    """The recipients that can decrypt a file.

    Attributes:
        names: The recipients' public keys, as text.
        keys: The same keys, as objects of pyrage.
    """

    def __init__(self, names: Sequence[str], keys: Sequence[Any]) -> None:
        self.names = tuple(names)
        self.keys = list(keys)


class Identities:
    """The secret keys that decrypt files. No text that is made of this object shows them."""

    def __init__(self, keys: Sequence[Any]) -> None:
        self.keys = list(keys)


def make_key(path: Path) -> str:
    """Makes a new secret key in a new file that only its owner can read; returns the public key.

    Raises:
        SealingError: pyrage is not installed.
        OSError: The file exists already, or cannot be written.
    """
    key = _library().x25519.Identity.generate()
    public = str(key.to_public())
    path.touch(mode=0o600, exist_ok=False)
    path.write_text(f"# public key: {public}\n{key}\n")
    return public


def recipients_of(path: Path) -> Recipients:
    """Reads the public keys in a file, one in each line: keys of age or of SSH.

    Raises:
        SealingError: The file has no public key, or has a line that is none.
    """
    library, names, keys = _library(), [], []
    for line in _lines(path):
        if line.upper().startswith(_SECRET):
            raise SealingError(f"{path} holds a secret key: encrypting wants the public one, which begins with age1")
        try:
            key = library.ssh.Recipient if line.startswith("ssh-") else library.x25519.Recipient
            keys.append(key.from_str(line))
        except library.RecipientError as error:
            raise SealingError(f"{path} has a line that is no public key: {error}") from None
        names.append(line)
    if not keys:
        raise SealingError(f"{path} holds no public key")
    return Recipients(names, keys)


def identities_of(path: Path) -> Identities:
    """Reads the secret keys in a file: keys of age, one in each line, or one key of SSH without a passphrase.

    Raises:
        SealingError: The file has no secret key, or has a line that is none. The message has no part of a key.
    """
    library, lines = _library(), _lines(path)
    try:
        if lines and lines[0].startswith("-----BEGIN"):
            return Identities([library.ssh.Identity.from_buffer(path.read_bytes())])
        keys = [library.x25519.Identity.from_str(line) for line in lines]
    except library.IdentityError:
        raise SealingError(f"{path} has a line that is no secret key of age, AGE-SECRET-KEY-1...") from None
    except OSError as error:
        raise SealingError(f"{path}: {error.strerror}") from None
    if not keys:
        raise SealingError(f"{path} holds no secret key")
    return Identities(keys)


def seal(source: BinaryIO | Any, target: Sink, recipients: Recipients) -> None:
    """Reads ``source`` to its end, and writes it encrypted to ``target``.

    Raises:
        SealingError: The library failed.
        Exception: The error that reading or writing raised.
    """
    library, reader, writer = _library(), _Reader(source), _Writer(target)
    try:
        library.encrypt_io(reader, writer, recipients.keys)
        writer.flush()
    except (library.EncryptError, OSError) as error:
        raise reader.error or writer.error or SealingError(f"encrypting failed: {error}") from None
    # The library ignores an error of the target at the last piece.
    if writer.error is not None:
        raise writer.error
    least = reader.count + _TAG_BYTES * (1 + reader.count // _PIECE_BYTES)
    if writer.count < least:
        raise SealingError("encrypting failed: not all of it was written")


def unseal(source: BinaryIO, target: Sink, identities: Identities) -> None:
    """Reads ``source`` to its end, and writes it decrypted to ``target``.

    Raises:
        SealingError: The source is not encrypted, encrypted for other keys, damaged, or cut off.
        Exception: The error that reading or writing raised.
    """
    library, reader, writer = _library(), _Reader(source), _Writer(target)
    try:
        library.decrypt_io(reader, writer, identities.keys)
        writer.flush()
    except library.DecryptError as error:
        reason = str(error)
        if "matching keys" in reason:
            raise SealingError("it is encrypted for another key") from None
        if not reader.begins_as_sealed:
            raise SealingError("it is not encrypted, or its beginning is damaged") from None
        raise reader.error or SealingError(f"its beginning is damaged or cut off ({reason})") from None
    except OSError:
        raise reader.error or writer.error or SealingError("it is damaged or cut off") from None
    if writer.error is not None:
        raise writer.error


class _Reader:
    """A source that the library reads. It keeps the error that reading raised, since the library does not."""

    def __init__(self, source: BinaryIO | Any) -> None:
        self._source = source
        self._beginning = b""
        self.count = 0
        self.error: Exception | None = None

    @property
    def begins_as_sealed(self) -> bool:
        """Whether the source begins with the name of the format."""
        return self._beginning == FORMAT.encode()

    def read(self, size: int = -1) -> bytes:
        """Reads at most ``size`` bytes."""
        try:
            data: bytes = self._source.read(size if size > 0 else _PIECE_BYTES)
        except Exception as error:
            self.error = error
            raise
        if self.count < len(FORMAT):
            self._beginning = (self._beginning + data)[: len(FORMAT)]
        self.count += len(data)
        return data


class _Writer:
    """A target that the library writes to. It keeps the error that writing raised, since the library does not."""

    def __init__(self, target: Sink) -> None:
        self._target = target
        self.count = 0
        self.error: Exception | None = None

    def write(self, data: bytes) -> int:
        """Writes all bytes."""
        self._keep(lambda: self._target.write(data))
        self.count += len(data)
        return len(data)

    def flush(self) -> None:
        """Writes the bytes that are still buffered."""
        self._keep(self._target.flush)

    def _keep(self, act: Callable[[], object]) -> None:
        try:
            act()
        except Exception as error:
            self.error = self.error or error
            raise


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > KEY_BYTES_MAX:
            raise SealingError(f"{path} is no file of keys: it is too large")
        text = path.read_text()
    except OSError as error:
        raise SealingError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SealingError(f"{path} is no file of keys") from None
    return [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def _library() -> Any:
    """Imports and returns pyrage.

    Raises:
        SealingError: pyrage is not installed.
    """
    try:
        import pyrage  # noqa: PLC0415 - an optional dependency: only encryption needs it
    except ImportError:
        raise SealingError("encryption needs pyrage: pip install 'dougdb[encryption]'") from None
    return pyrage

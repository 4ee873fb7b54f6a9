"""Encrypted files: who can read them, what is said of files that are not what they should be, and that errors stay."""

from __future__ import annotations

import errno
import io
import os
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dougdb import sealing
from dougdb.sealing import SealingError


class Key:
    """A key, with its files."""

    def __init__(self, folder: Path, name: str) -> None:
        self.secret = folder / f"{name}.key"
        self.public = folder / f"{name}.pub"
        self.public.write_text(f"# of {name}\n\n{sealing.make_key(self.secret)}\n")

    @property
    def recipients(self) -> sealing.Recipients:
        return sealing.recipients_of(self.public)

    @property
    def identities(self) -> sealing.Identities:
        return sealing.identities_of(self.secret)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Key:
    return Key(tmp_path_factory.mktemp("keys"), "mine")


def sealed(content: bytes, key: Key) -> bytes:
    target = io.BytesIO()
    sealing.seal(io.BytesIO(content), target, key.recipients)
    return target.getvalue()


def unsealed(content: bytes, key: Key) -> bytes:
    target = io.BytesIO()
    sealing.unseal(io.BytesIO(content), target, key.identities)
    return target.getvalue()


def test_a_key_is_for_its_owner_alone_and_never_written_over(key: Key, tmp_path: Path) -> None:
    assert key.secret.stat().st_mode & 0o777 == 0o600
    before = key.secret.read_text()
    with pytest.raises(FileExistsError):
        sealing.make_key(key.secret)
    assert key.secret.read_text() == before and "AGE-SECRET-KEY-1" in before
    assert key.recipients.names[0].startswith("age1") and key.recipients.names[0] in before


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 300_000])
def test_what_is_sealed_is_read_by_the_holder_of_the_key(key: Key, size: int) -> None:
    content = os.urandom(size)
    hidden = sealed(content, key)
    assert unsealed(hidden, key) == content
    assert hidden.startswith(sealing.FORMAT.encode()) and (size < 100 or content not in hidden)


def test_several_keys_can_read_it(key: Key, tmp_path: Path) -> None:
    other = Key(tmp_path, "other")
    both = tmp_path / "both.pub"
    both.write_text(key.public.read_text() + other.public.read_text())
    target = io.BytesIO()
    sealing.seal(io.BytesIO(b"for both"), target, sealing.recipients_of(both))
    assert unsealed(target.getvalue(), key) == unsealed(target.getvalue(), other) == b"for both"


def test_another_key_a_cut_file_and_a_plain_one_are_told_apart(key: Key, tmp_path: Path) -> None:
    hidden = sealed(b"x" * 200_000, key)
    with pytest.raises(SealingError, match="encrypted for another key"):
        unsealed(hidden, Key(tmp_path, "other"))
    for plain in (b"", b"text", b"s" * 3000):
        with pytest.raises(SealingError, match="is not encrypted"):
            unsealed(plain, key)
    with pytest.raises(SealingError, match="its beginning is damaged or cut off"):
        unsealed(hidden[:60], key)
    for damaged in (hidden[:-1], hidden[:100_000], hidden + b"x", hidden[:9000] + b"\0\0" + hidden[9002:]):
        with pytest.raises(SealingError, match=r"it is damaged or cut off"):
            unsealed(damaged, key)


@given(st.data())
def test_no_flipped_byte_and_no_cut_is_ever_taken_for_the_content(key: Key, data: st.DataObject) -> None:
    hidden = bytearray(sealed(b"content" * 20, key))
    # The format puts some random bytes before the content, so where it ends differs.
    place = data.draw(st.integers(0, 1000)) % len(hidden)
    if data.draw(st.booleans()):
        hidden[place] ^= data.draw(st.integers(1, 255))
    else:
        del hidden[place:]
    with pytest.raises(SealingError):
        unsealed(bytes(hidden), key)


class FullDisk(io.BytesIO):
    """Takes so many bytes."""

    def __init__(self, room: int) -> None:
        super().__init__()
        self.room = room

    def write(self, data: object) -> int:
        assert isinstance(data, bytes)
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().write(data)


@pytest.mark.parametrize("content", [b"", b"little", b"x" * 300_000])
def test_a_full_disk_is_never_lost_on_the_way(key: Key, content: bytes) -> None:
    """The library forgets what its last write raises: a backup would be taken for whole."""
    for room in (0, len(content) // 2, len(content), len(content) + 100):
        with pytest.raises(OSError, match="No space left"):
            sealing.seal(io.BytesIO(content), FullDisk(room), key.recipients)
    if content:
        with pytest.raises(OSError, match="No space left"):
            sealing.unseal(io.BytesIO(sealed(content, key)), FullDisk(len(content) - 1), key.identities)


class Breaks(io.BytesIO):
    """Breaks off."""

    def read(self, size: int | None = -1, /) -> bytes:
        if data := super().read(min(size or 1, 1000)):
            return data
        raise ConnectionResetError("the other end has gone")


def test_a_source_that_breaks_off_says_so(key: Key) -> None:
    with pytest.raises(ConnectionResetError):
        sealing.seal(Breaks(b"x" * 5000), io.BytesIO(), key.recipients)


def test_files_that_hold_no_such_key_are_refused_in_words(key: Key, tmp_path: Path) -> None:
    file = tmp_path / "key"
    for content, words in (
        (b"", "holds no public key"),
        (b"age1nothing\n", "a line that is no public key"),
        (b"\xff\xfe", "no file of keys"),
        (key.secret.read_bytes(), "holds a secret key"),
        (b"x" * (sealing.KEY_BYTES_MAX + 1), "too large"),
    ):
        file.write_bytes(content)
        with pytest.raises(SealingError, match=words):
            sealing.recipients_of(file)
    secret = key.secret.read_text().splitlines()[-1]
    for text, words in (
        ("# nothing\n", "holds no secret key"),
        (secret[:-1] + "\n", "no secret key of age"),
        (key.public.read_text(), "no secret key of age"),
        ("-----BEGIN OPENSSH PRIVATE KEY-----\nx\n", "no secret key of age"),
    ):
        file.write_text(text)
        with pytest.raises(SealingError, match=words) as refused:
            sealing.identities_of(file)
        assert secret[:30] not in str(refused.value), "no part of a key is told"
    for read in (sealing.recipients_of, sealing.identities_of):
        with pytest.raises(SealingError, match="No such file"):
            read(tmp_path / "absent")


def test_without_the_library_it_is_said_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyrage", None)
    with pytest.raises(SealingError, match=r"pip install 'dougdb\[encryption\]'"):
        sealing.make_key(tmp_path / "key")
    assert not (tmp_path / "key").exists()

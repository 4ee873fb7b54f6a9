"""Which certificates a client trusts: those of the file as it is when the client is made."""

from __future__ import annotations

from pathlib import Path

import pytest

from dougdb.dev import certificates
from dougdb.errors import CertificateError
from dougdb.security import verify

URL = "https://localhost"


def authority(folder: Path) -> bytes:
    return (certificates.prepare(folder, ["node"], []).tls / "node" / "ca.crt").read_bytes()


def test_a_file_that_was_replaced_counts_for_the_next_client(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    old, new = authority(tmp_path / "old"), authority(tmp_path / "new")
    file.write_bytes(old)
    first = verify(URL, str(file))
    assert verify(URL, str(file)) is first, "a context takes long to make"
    file.write_bytes(old + new)
    both = verify(URL, str(file))
    assert [len(context.get_ca_certs()) for context in (first, both)] == [1, 2]
    file.write_bytes(new)
    assert verify(URL, str(file)).get_ca_certs() == [
        each for each in both.get_ca_certs() if each not in first.get_ca_certs()
    ]


def test_a_comment_beside_the_certificates_may_be_in_any_language(tmp_path: Path) -> None:
    file = tmp_path / "ca.crt"
    file.write_bytes("# Zürich\n".encode() + authority(tmp_path / "made"))
    assert len(verify(URL, str(file)).get_ca_certs()) == 1


@pytest.mark.parametrize("content", [b"", b"nothing", b"\xff\xfe"])
def test_a_file_without_certificates_is_named(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "ca.crt"
    file.write_bytes(content)
    with pytest.raises(CertificateError, match=r"ca\.crt"):
        verify(URL, str(file))
    assert verify("http://localhost", str(file)).get_ca_certs() == []

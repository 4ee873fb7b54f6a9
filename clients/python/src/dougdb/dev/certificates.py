"""Makes the certificates and the first token of a local cluster with ``--auth``, at each start.

The authority's key is never written: it is forgotten as soon as the certificates of this start are signed. Each process
has a certificate of its own, with its own name in it; a facade's certificate has ``FACADE_NAME``, too, by which nodes
recognize it.

Must not know how processes are started. Invariant: all files are readable by their owner alone.
"""

from __future__ import annotations

import ipaddress
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

FACADE_NAME = "dougdb-facade"
"""The second name in each facade's certificate: see DOUGDB_AUTH_FACADE_NAMES of the nodes."""
CLIENT_NAME = "dougdb-client"
"""The name in the certificate with which a client may reach the ports of nodes. It is no facade's and no node's, and no
address of this machine: who shows it has no right by it."""
LOCAL = ("localhost", "127.0.0.1", "::1")
SKEW = timedelta(hours=1)
LIFE = timedelta(days=365)
"""How long certificates are valid, and so how long a local cluster can run without a new start."""


@dataclass(frozen=True, slots=True)
class Access:
    """The paths of certificates and secrets.

    Attributes:
        tls: A folder for each process, and ``client`` for clients of nodes, with tls.crt, tls.key and ca.crt.
        token: The file of the bootstrap token.
        session_key: The file of the key that signs the console's sessions.
    """

    tls: Path
    token: Path
    session_key: Path


def prepare(run: Path, nodes: Iterable[str], facades: Iterable[str]) -> Access:
    """Makes the certificates of all processes, and the secrets that do not exist yet. Requires: a private umask."""
    access = Access(run / "tls", run / "bootstrap.token", run / "session.key")
    authority = _Authority()
    for name in nodes:
        authority.issue(access.tls / name, (name, *LOCAL))
    for name in facades:
        authority.issue(access.tls / name, (name, FACADE_NAME, *LOCAL))
    authority.issue(access.tls / "client", (CLIENT_NAME,))
    if not access.token.exists():
        _write(access.token, f"doug-bootstrap-{secrets.token_urlsafe(32)}\n".encode())
    if not access.session_key.exists():
        _write(access.session_key, f"{secrets.token_urlsafe(32)}\n".encode())
    access.token.chmod(0o600)
    access.session_key.chmod(0o600)
    return access


class _Authority:
    """Signs the certificates of one start."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = _subject("DougDB local cluster")
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        self._pem = certificate.public_bytes(serialization.Encoding.PEM)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        now = datetime.now(UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + LIFE)
        )

    def issue(self, folder: Path, names: Iterable[str]) -> None:
        """Writes a new certificate for these names, its key and the authority's certificate to a folder."""
        names = list(names)
        key = ec.generate_private_key(ec.SECP256R1())
        both = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        certificate = (
            self._builder(_subject(names[0]), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(both, critical=False)
            .add_extension(issuer, critical=False)
            .add_extension(x509.SubjectAlternativeName([_alternative(name) for name in names]), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        folder.mkdir(parents=True, exist_ok=True)
        pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        _write(folder / "tls.key", pem)
        _write(folder / "tls.crt", certificate.public_bytes(serialization.Encoding.PEM))
        _write(folder / "ca.crt", self._pem)


def _subject(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.touch(mode=0o600, exist_ok=False)
    temporary.write_bytes(data)
    temporary.replace(path)

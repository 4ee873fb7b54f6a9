"""Makes an authority and a certificate, for trying TLS locally. Not for production: the keys are not protected.

    python tools/certs.py [--out certs] [--name NAME ...]

The folder then holds ``ca.crt``, ``ca.key``, ``tls.crt`` and ``tls.key``. A second call keeps the authority, and renews
the certificate: running nodes and facades take it over within seconds.

The certificate is good for localhost, 127.0.0.1, ::1 and the names that are given, as a server and as a client.
"""

from __future__ import annotations

import argparse
import ipaddress
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOCAL = ("localhost", "127.0.0.1", "::1")
SKEW = timedelta(hours=1)
"""How far in the past certificates begin to be valid, since clocks of other machines may be late."""


def _subject(name: str, organization: str = "") -> x509.Name:
    attributes = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organization)] if organization else []
    return x509.Name([*attributes, x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


class Authority:
    """Signs certificates."""

    def __init__(self, key: ec.EllipticCurvePrivateKey, certificate: x509.Certificate) -> None:
        self._key = key
        self._certificate = certificate

    @classmethod
    def make(cls, name: str = "DougDB local authority", days: int = 3650) -> Authority:
        """Makes a new authority, whose certificate is signed by itself."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            x509.CertificateBuilder()
            .subject_name(_subject(name))
            .issuer_name(_subject(name))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .sign(key, hashes.SHA256())
        )
        return cls(key, certificate)

    @classmethod
    def load(cls, folder: Path) -> Authority:
        """Reads the authority that ``write`` has put into a folder."""
        key = serialization.load_pem_private_key((folder / "ca.key").read_bytes(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return cls(key, x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes()))

    @property
    def pem(self) -> bytes:
        """The authority's certificate, as PEM."""
        return self._certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The authority's private key, as PEM."""
        return _pem(self._key)

    def issue(
        self, names: Sequence[str], days: float = 90, common_name: str = "", organization: str = ""
    ) -> tuple[bytes, bytes]:
        """Makes a new key and a certificate.

        Args:
            names: The names and addresses for which the certificate is valid. A client's may have none.
            days: How many days it is valid.
            common_name: The common name; empty: the first of the names.
            organization: The organization, from which Kubernetes reads the group; empty: none.

        Returns:
            Certificate and key, as PEM.
        """
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(_subject(common_name or names[0], organization))
            .issuer_name(self._certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - SKEW)
            .not_valid_after(now + timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]),
                critical=False,
            )
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )
        if names:
            alternatives = x509.SubjectAlternativeName([_alternative(name) for name in names])
            builder = builder.add_extension(alternatives, critical=False)
        certificate = builder.sign(self._key, hashes.SHA256())
        return certificate.public_bytes(serialization.Encoding.PEM), _pem(key)

    def write(self, folder: Path) -> None:
        """Writes certificate and key into a folder."""
        write(folder / "ca.key", self.key_pem)
        write(folder / "ca.crt", self.pem)

    def write_certificate(self, folder: Path, names: Sequence[str], days: float = 90) -> None:
        """Issues a certificate and writes it with its key into a folder, each file whole or not at all."""
        certificate, key = self.issue(names, days)
        write(folder / "tls.key", key)
        write(folder / "tls.crt", certificate)


def write(path: Path, data: bytes) -> None:
    """Replaces a file; only its owner can read a key."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.unlink(missing_ok=True)
    mode = 0o600 if path.suffix == ".key" else 0o644
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(data)
    temporary.replace(path)


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command."""
    parser = argparse.ArgumentParser(description="Makes certificates for trying TLS locally.")
    parser.add_argument("--out", type=Path, default=Path("certs"), help="the folder (certs)")
    parser.add_argument("--name", action="append", default=[], help="a further DNS name or address; repeatable")
    parser.add_argument("--days", type=float, default=90, help="how long the certificate is good (90)")
    options = parser.parse_args(arguments)
    out: Path = options.out
    out.mkdir(mode=0o700, parents=True, exist_ok=True)
    if (out / "ca.key").exists() and (out / "ca.crt").exists():
        authority = Authority.load(out)
    else:
        authority = Authority.make()
        authority.write(out)
    names = [*LOCAL, *options.name]
    authority.write_certificate(out, names, options.days)
    print(f"{out}/: ca.crt, tls.crt and tls.key for {', '.join(names)}")
    print(f"  dougctl dev --tls {out}")
    print(f"  curl --cacert {out}/ca.crt https://localhost:8080/v1/cluster")
    return 0


if __name__ == "__main__":
    sys.exit(main())

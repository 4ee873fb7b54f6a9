"""Fuzz targets of authentication and authorization: tokens, JWTs, certificates' names, policies."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import cache

import jwt
import structlog
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from doug_wire.auth import document as documents
from doug_wire.auth import tokens
from doug_wire.auth.bearers import BearerError, Bearers, keys_of
from doug_wire.auth.certificates import shown_to_grpc
from doug_wire.auth.document import DocumentError, check_principal
from doug_wire.auth.grants import ALL, Grant, GrantError, KeyRange, Rights, authorize, parse_grant
from doug_wire.auth.issuer import Issuer
from facade.app import certificates
from raft_testing.fuzz.target import Target

_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
_FAR_S = 1 << 40


def check_token(content: bytes) -> None:
    """A token is an id and a secret, from which the same token can be made; other bytes are refused."""
    text = content.decode("latin-1")
    found = tokens.parse(text)
    if found is None:
        return
    assert f"doug_{found[0]}_{found[1]}" == text
    assert tokens.is_secret(found[1], b"salt", tokens.digest_of(b"salt", found[1]))


def seeds_token() -> Iterable[bytes]:
    """One, and some that are nearly one."""
    whole = b"doug_0123456789abcdef_" + b"Az-_" * 10 + b"Az0"
    yield whole
    yield whole + b"\n"
    yield whole.upper()


@cache
def _bearers() -> Bearers:
    bearers = Bearers(Issuer("https://issuer", "dougdb", "/never/read"), structlog.get_logger())
    public = json.loads(jwt.algorithms.OKPAlgorithm.to_jwk(_KEY.public_key()))
    bearers._keys = keys_of(json.dumps({"keys": [{**public, "kid": "one", "alg": "EdDSA"}]}).encode())
    return bearers


def sign(claims: bytes) -> bytes:
    """A JWT that the issuer's key has signed, whatever its claims are."""
    return jwt.PyJWS().encode(claims, _KEY, "EdDSA", headers={"kid": "one"}).encode()


def check_jwt(content: bytes) -> None:
    """An accepted JWT has a subject to whom a role can be given, and an expiry; others are refused."""
    try:
        found = _bearers().judge(content.decode("latin-1"))
    except BearerError:
        return
    for principal in found.principals:
        check_principal(principal)
    assert found.principals[0] == found.name and found.expires_s > 0


def seeds_jwt() -> Iterable[bytes]:
    """Claims that are accepted, and some that are not; raw ones are no JWTs, repaired ones are signed."""
    claims = {"iss": "https://issuer", "aud": ["dougdb"], "sub": "bob", "exp": _FAR_S, "groups": ["ops", 7]}
    yield json.dumps(claims).encode()
    yield json.dumps(claims | {"exp": 1.5e12, "nbf": 1, "iat": 2, "groups": []}).encode()
    yield json.dumps(claims | {"sub": {"a": 1}, "exp": True}).encode()
    yield sign(json.dumps(claims).encode())


def check_certificate(content: bytes) -> None:
    """A certificate, in DER or in the form of ``ssl``, gives a name to which a role can be given, or none."""
    pem = b"-----BEGIN CERTIFICATE-----\n" + base64.b64encode(content) + b"\n-----END CERTIFICATE-----\n"
    told = shown_to_grpc({"x509_pem_cert": [pem]})
    if told != certificates.NONE:
        check_principal(f"cert:{told.name}")
    parts = [part.decode("latin-1") for part in content.split(b"\n")]
    pairs = [tuple(part.split("=", 1)) for part in parts if "=" in part]
    shown = {
        "subject": tuple(((kind, value),) for kind, value in pairs if kind == "commonName"),
        "subjectAltName": tuple((kind, value) for kind, value in pairs if kind != "commonName"),
        "notAfter": parts[0],
    }
    found = certificates.read(shown)
    if found == certificates.NONE:
        return
    check_principal(f"cert:{found.name}")
    assert found.expires_s > 0


def seeds_certificate() -> Iterable[bytes]:
    """Names of both kinds, and ends; a certificate in DER."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "app")])
    start = datetime(2026, 1, 1, tzinfo=UTC)
    builder = x509.CertificateBuilder(subject, subject, _KEY.public_key(), 7, start, start + timedelta(days=9000))
    yield builder.sign(_KEY, None).public_bytes(Encoding.DER)
    yield b"Jan  5 09:34:43 2038 GMT\ncommonName=app"
    yield b"Jan  5 09:34:43 2038 GMT\nURI=spiffe://shop/cart\nDNS=cart\ncommonName=x"
    yield b"Feb 30 00:00:00 1901 GMT\ncommonName=a\ncommonName=b"


def check_grant(content: bytes) -> None:
    """The text of a grant reads as the same grant, which allows the keys with its prefix and no others."""
    try:
        text = content.decode()
        grant = parse_grant(text)
    except (UnicodeDecodeError, GrantError):
        return
    assert parse_grant(str(grant)) == grant
    rights = Rights([grant])
    if grant not in ALL.grants:
        assert authorize(rights, grant.verb, grant.prefix)
        assert authorize(rights, grant.verb, KeyRange(grant.prefix, grant.prefix + b"x"))
        assert not authorize(rights, grant.verb, KeyRange(grant.prefix)) or grant.prefix.strip(b"\xff") == b""
        assert not authorize(rights, grant.verb, grant.prefix[:-1])


def seeds_grant() -> Iterable[bytes]:
    """Verbs with and without a prefix."""
    yield b"read:config/"
    yield b"write:%2A%ff%FF"
    yield b"watch:*"
    yield b"admin:members"


def check_policy(content: bytes) -> None:
    """A document of users encodes to the same bytes, or is refused; ``authorize`` takes all its grants."""
    try:
        found = documents.decode(content)
    except DocumentError:
        return
    assert documents.decode(found.encode()) == found
    for name, record in found.tokens.items():
        rights = found.rights((f"token:{name}",), record.held)
        assert all(isinstance(grant, Grant) for grant in rights.grants)


def seeds_policy() -> Iterable[bytes]:
    """An empty document, and one with everything."""
    whole = documents.Document().with_role("r", [parse_grant("read:a/")]).with_user("oidc:bob", "r")
    held = documents.Held((parse_grant("write:b/"),), ("r",))
    record = documents.TokenRecord("0123456789abcdef", b"s" * 16, b"d" * 32, held, 1, 2, 3)
    yield documents.Document().encode()
    yield whole.with_token("app", record).encode()


TARGETS = (
    Target("token", "bearer tokens", check_token, seeds_token),
    Target("jwt", "JWTs, signed and not", check_jwt, seeds_jwt, sign),
    Target("certname", "names in clients' certificates", check_certificate, seeds_certificate),
    Target("grant", "grants", check_grant, seeds_grant),
    Target("policy", "documents of roles, users and tokens", check_policy, seeds_policy),
)

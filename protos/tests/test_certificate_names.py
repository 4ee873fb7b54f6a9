"""The name of a client's certificate, as servers of gRPC tell it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import NameOID
from cryptography.x509.name import _ASN1Type

from doug_wire import tls
from doug_wire.auth.certificates import NONE, Certificate, owner_of, shown_to_grpc

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
END = datetime(2051, 6, 1, tzinfo=UTC)


def certificate(*common_names: str, kind: _ASN1Type = _ASN1Type.UTF8String) -> bytes:
    """A certificate as PEM, of an organization whose name is no common one."""
    names = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, "other")]
    names += [x509.NameAttribute(NameOID.COMMON_NAME, name, kind) for name in common_names]
    builder = x509.CertificateBuilder(x509.Name(names[:1]), x509.Name(names), KEY.public_key(), 7)
    return (
        builder.not_valid_before(END - timedelta(days=1))
        .not_valid_after(END)
        .sign(KEY, None)
        .public_bytes(Encoding.PEM)
    )


def shown(*pems: bytes, uris: Sequence[bytes] = ()) -> Certificate:
    return shown_to_grpc({"x509_pem_cert": pems, "peer_uri": uris, "x509_common_name": [b"told"]})


@pytest.mark.parametrize("kind", [_ASN1Type.UTF8String, _ASN1Type.PrintableString, _ASN1Type.IA5String])
def test_the_name_is_the_one_common_name(kind: _ASN1Type) -> None:
    assert shown(certificate("ann", kind=kind)) == Certificate("ann", END.timestamp())
    assert shown(certificate("Zo\u00eb")).name == "Zo\u00eb"


def test_a_uri_goes_before_the_common_name() -> None:
    assert shown(certificate("ann"), uris=[b"spiffe://shop/cart"]).name == "spiffe://shop/cart"
    assert shown(certificate(), uris=[b"spiffe://shop/cart"]).name == "spiffe://shop/cart"


@pytest.mark.parametrize(
    ("pems", "uris"),
    [
        ((), ()),
        ((certificate("ann"), certificate("ann")), ()),
        ((certificate(),), ()),
        ((certificate("ann", "bob"),), ()),
        ((certificate("ann", kind=_ASN1Type.BMPString),), ()),
        ((certificate("ann"),), (b"spiffe://a", b"spiffe://b")),
        ((certificate("ann"),), (b"\xff",)),
        ((certificate("a\nb"),), ()),
        ((b"no certificate",), ()),
        ((certificate("ann")[:-200] + b"-----END CERTIFICATE-----",), ()),
    ],
)
def test_what_is_not_understood_has_no_name(pems: Sequence[bytes], uris: Sequence[bytes]) -> None:
    assert shown(*pems, uris=uris) == NONE


def test_common_names_are_read_in_their_order() -> None:
    assert tls.common_names(certificate("b", "a")) == ["b", "a"]
    assert owner_of([], ["b", "a"]) == ""

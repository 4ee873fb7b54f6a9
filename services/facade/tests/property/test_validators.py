"""Whatever the facade accepts, the node accepts: else a client's mistake becomes an internal error."""

from __future__ import annotations

from urllib.parse import quote_from_bytes

from hypothesis import example, given
from hypothesis import strategies as st

from doug_wire import command, validity
from doug_wire.command import Opcode
from facade.errors import BadRequestError
from facade.routes.key import key_of
from facade.routes.options import check_content

HEADER_BYTES = st.lists(st.sampled_from([*range(0x20, 0x7F), 0x09, *range(0x80, 0x100)]), max_size=300).map(bytes)
"""What an HTTP parser lets pass as the value of a header (RFC 9110, 5.5)."""


@given(HEADER_BYTES)
@example(b"text/plain;\tcharset=utf-8")
@example(b"x" * 255)
@example(b"x" * 256)
@example(b"\xe9")
def test_content_types(content_type: bytes) -> None:
    try:
        accepted, _ = check_content(content_type, None)
    except BadRequestError as error:
        assert error.status == 400
        return
    encoded = command.encode(Opcode.PUT, b"k", accepted, b"v")
    assert validity.validate(encoded).content_type == content_type


@given(HEADER_BYTES)
@example(b"gzip,\tbr")
@example(b"x" * 65)
@example(b"Identity")
def test_content_encodings(content_encoding: bytes) -> None:
    try:
        _, accepted = check_content(None, content_encoding)
    except BadRequestError as error:
        assert error.status == 400
        return
    encoded = command.encode(Opcode.PUT, b"k", b"", b"v", content_encoding=accepted)
    assert validity.validate(encoded).content_encoding == accepted


@given(st.binary(max_size=1030))
@example(b"\t")
@example(b"\x00")
def test_keys(key: bytes) -> None:
    try:
        accepted = key_of(b"/v1/kv/" + quote_from_bytes(key, safe="").encode())
    except BadRequestError as error:
        assert error.status == 400
        return
    assert validity.validate(command.encode(Opcode.DELETE, accepted)).key == key

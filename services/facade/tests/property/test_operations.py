"""Whatever a client sends, the facade refuses it or makes a command of it that every node takes."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from doug_wire import command as commands
from doug_wire import payload
from doug_wire.command import Command, Opcode
from doug_wire.validity import validate
from facade.client.requests import with_token
from facade.errors import BadRequestError
from facade.routes.options import EXPIRING_PARAMETERS, Headers, check_content, parse_idempotency_key, parse_write
from facade.routes.shapes import parse_compare, parse_operation, parse_puts

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(1 << 70), 1 << 70),
    st.floats(allow_nan=False),
    TEXT,
    st.lists(TEXT, max_size=2),
)
NAMES = ("op", "key", "key64", "value", "encoding", "ttl", "by", "initial", "if_revision", "if_absent", "if_exists",
         "content_type", "content_encoding", "exists", "absent", "revision")  # fmt: skip
LIKELY: dict[str, st.SearchStrategy[Any]] = {
    "op": st.sampled_from(["get", "put", "delete", "increment", "touch"]),
    "key": st.one_of(TEXT, st.just("k" * 1025)),
    "key64": st.sampled_from(["YQ", "_w==", "!", ""]),
    "encoding": st.sampled_from(["utf-8", "base64", "hex"]),
    "ttl": st.sampled_from(["30", "500ms", "keep", 30, "3w"]),
    "if_absent": st.just(True),
    "if_exists": st.just(True),
    "if_revision": st.sampled_from(["7", 7, "18446744073709551615", "18446744073709551616", "-1"]),
    "by": st.sampled_from([1, "-9223372036854775808", 1 << 63]),
    "content_type": st.sampled_from(["text/plain", "a\tb", "ü", "t" * 256]),
    "content_encoding": st.sampled_from(["gzip", "identity", "g" * 65]),
}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, object]:
    chosen = draw(st.sets(st.sampled_from(NAMES), max_size=6)) | {"op"}
    if draw(st.booleans()):
        chosen |= {"key", "value"}
    return {name: draw(st.one_of(LIKELY.get(name, TEXT), ODD)) for name in sorted(chosen)}


def check(wanted: Command) -> None:
    """Requires: it came out of a parser. Every node takes it, alone, with a token, and among others."""
    if wanted.opcode != Opcode.GET:
        validate(commands.encode(*wanted))
        validate(commands.encode(*with_token(wanted, "", "k")))
    encoded = commands.encode(*wanted)
    validate(commands.encode(Opcode.BATCH, wanted.key, value=payload.encode_batch([encoded])))
    txn = payload.encode_txn(payload.Txn((), (encoded,), ()))
    validate(commands.encode(Opcode.TXN, wanted.key, value=txn))


@given(st.one_of(documents(), ODD))
def test_an_operation_is_refused_or_taken_by_every_node(document: object) -> None:
    try:
        wanted = parse_operation(document)
    except BadRequestError as error:
        assert error.status in (400, 413)
    else:
        check(wanted)


@given(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["put", "get", "Put"]),
            "key": st.one_of(LIKELY["key"], ODD),
            "value": st.one_of(TEXT, ODD),
        }
    )
)
@example({"op": "put", "key": "", "value": "v"})
@example({"op": "put", "key": "k" * 1024, "value": "\u00e4" * (1 << 19)})
@example({"op": "put", "key": "k", "value": "v" * ((1 << 20) + 1)})
def test_a_put_without_options_is_read_as_one_that_says_the_usual(document: dict[str, object]) -> None:
    """It has a way of its own."""
    found: list[object] = []
    for said in (document, {**document, "encoding": "utf-8"} if document["op"] == "put" else document):
        try:
            found.append(parse_operation(said))
        except BadRequestError as error:
            found.append((error.status, error.code, error.detail))
    assert found[0] == found[1]


PUTS = st.fixed_dictionaries({"op": st.just("put"), "key": LIKELY["key"], "value": TEXT})


@given(st.lists(PUTS, min_size=1, max_size=4), st.one_of(st.none(), documents(), ODD), st.integers(0, 4))
@example([{"op": "put", "key": "", "value": "v"}], None, 0)
@example([{"op": "put", "key": "k" * 1025, "value": "v"}], None, 0)
@example([{"op": "put", "key": "k", "value": "\u00e4" * (1 << 19) + "v"}], None, 0)
@example([{"op": "put", "key": "k", "value": "\u00e4" * (1 << 19)}], None, 0)
def test_puts_are_read_together_as_each_of_them_is(puts: list[object], other: object, place: int) -> None:
    """Whatever else stands among them."""
    if other is not None:
        puts.insert(place, other)
    try:
        wanted = [parse_operation(each) for each in puts]
    except BadRequestError:
        wanted = []
    plain = [Command(Opcode.PUT, each.key, b"", each.value, 0) for each in wanted]
    found = parse_puts(puts)
    if found is None:
        usual = [set(each) == {"op", "key", "value"} for each in puts if isinstance(each, dict)]
        assert wanted != plain or not wanted or usual.count(True) != len(puts)
    else:
        assert [*zip(*found, strict=True)] == [(each.key, each.value) for each in wanted]
        assert wanted == plain


@given(st.one_of(documents().map(lambda found: {k: v for k, v in found.items() if k != "op"}), ODD))
def test_a_comparison_is_refused_or_taken_by_every_node(document: object) -> None:
    try:
        compare = parse_compare(document)
    except BadRequestError as error:
        assert error.status in (400, 413)
    else:
        txn = payload.encode_txn(payload.Txn((compare,), (), ()))
        validate(commands.encode(Opcode.TXN, compare.key, value=txn))


VALUES = st.one_of(
    st.binary(max_size=12),
    st.sampled_from(
        [b"*", b'"7"', b'W/"7"', b'"18446744073709551616"', b'"1","2"', b"gzip", b"text/plain", b"k" * 256]
    ),
)
HEADERS = st.lists(
    st.tuples(
        st.sampled_from([b"if-match", b"if-none-match", b"idempotency-key", b"content-type", b"content-encoding",
                         b"doug-consistency", b"if-unmodified-since"]),
        VALUES,
    ),
    max_size=4,
)  # fmt: skip
QUERIES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"ttl=30", b"ttl=keep", b"ttl=100000d", b"ttl=36600d", b"consistency=eventual", b"key64=_w"]),
)


@given(HEADERS, QUERIES, st.sampled_from([Opcode.PUT, Opcode.DELETE, Opcode.INCREMENT, Opcode.TOUCH]))
def test_head_and_query_are_refused_or_taken_by_every_node(
    raw: list[tuple[bytes, bytes]], query: bytes, opcode: Opcode
) -> None:
    try:
        headers = Headers(raw)
        options = parse_write(query, headers, EXPIRING_PARAMETERS, may_keep=opcode is not Opcode.TOUCH)
        content_type, encoding = check_content(headers.content_type, headers.content_encoding)
    except BadRequestError as error:
        assert error.status in (400, 501)
        return
    if opcode is Opcode.DELETE:
        options = options._replace(ttl=0)
    value = payload.encode_increment(1) if opcode is Opcode.INCREMENT else b""
    if opcode is not Opcode.PUT:
        content_type, encoding = b"", b""
    if opcode is Opcode.TOUCH and not options.ttl:
        return  # The route refuses it.
    wanted = Command(opcode, b"k", content_type, value, 1, options.condition, options.ttl, None, encoding)
    if options.idempotency_key:
        wanted = with_token(wanted, "", options.idempotency_key)
    validate(commands.encode(*wanted))


@given(st.binary(max_size=300))
def test_an_idempotency_key_fits_into_a_token_with_its_place(raw: bytes) -> None:
    try:
        key = parse_idempotency_key(raw)
    except BadRequestError:
        return
    validate(commands.encode(*with_token(Command(Opcode.DELETE, b"k", b"", b"", 0), "", f"{key}/999999999999")))

"""Conditions, times to live, idempotency keys: facade.routes.options, facade.routes.conditions."""

from __future__ import annotations

import pytest

from doug_wire import command
from doug_wire.command import ABSENT, EXISTS, KEEP, TTL_MS_MAX, Condition
from facade.errors import BadRequestError
from facade.routes.conditions import parse_tags, write_condition
from facade.routes.durations import timestamp, ttl_ms
from facade.routes.options import Headers, check_content, decode_key64, parse_idempotency_key, parse_read, parse_write
from facade.routes.raw import check_acceptable, check_media_type, request_id_of


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        (b"30", 30_000), (b"30s", 30_000), (b"500ms", 500), (b"5m", 300_000), (b"2h", 7_200_000), (b"7d", 604_800_000),
        (b"keep", KEEP), (b"0001", 1000), (b"%dms" % TTL_MS_MAX, TTL_MS_MAX),
    ],
)  # fmt: skip
def test_a_time_to_live(text: bytes, ms: int) -> None:
    assert ttl_ms(text, may_keep=True) == ms


@pytest.mark.parametrize(
    "text",
    [b"", b"0", b"0ms", b"-1", b"1.5s", b"3w", b"3 s", b"s", b"1e3", b"Keep", b"9" * 16, b"%dms" % (TTL_MS_MAX + 1),
     b"\xff", b"30s\n"],
)  # fmt: skip
def test_what_is_no_time_to_live(text: bytes) -> None:
    with pytest.raises(BadRequestError) as caught:
        ttl_ms(text, may_keep=True)
    assert (caught.value.code, caught.value.status) == ("bad_ttl", 400)


def test_keep_makes_sense_only_where_there_may_be_something_to_keep() -> None:
    with pytest.raises(BadRequestError):
        ttl_ms(b"keep", may_keep=False)


def test_a_timestamp_is_utc_with_milliseconds() -> None:
    assert timestamp(1_700_000_000_007) == "2023-11-14T22:13:20.007Z"


@pytest.mark.parametrize(
    ("if_match", "if_none_match", "wanted"),
    [
        (None, None, None),
        (b'"7"', None, command.revision(7)),
        (b' "7" ', None, command.revision(7)),
        (b'"7",,"7"', None, command.revision(7)),
        (b"*", None, EXISTS),
        (None, b"*", ABSENT),
        (b'"not-a-revision"', None, command.revision(0)),
        (b'"07"', None, command.revision(0)),
        (b'""', None, command.revision(0)),
    ],
)
def test_conditions_of_writes(if_match: bytes | None, if_none_match: bytes | None, wanted: Condition | None) -> None:
    assert write_condition(if_match, if_none_match) == wanted


@pytest.mark.parametrize(
    ("if_match", "if_none_match"),
    [
        (b"7", None), (b'"7', None), (b'7"', None), (b"", None), (b",", None), (b'"7" "8"', None), (b'"7", *', None),
        (b'W/"7"', None), (b'w/"7"', None), (b'"7", "8"', None), (b'"7"', b"*"), (None, b'"7"'), (None, b'W/"7"'),
    ],
)  # fmt: skip
def test_conditions_that_a_write_cannot_have(if_match: bytes | None, if_none_match: bytes | None) -> None:
    with pytest.raises(BadRequestError) as caught:
        write_condition(if_match, if_none_match)
    assert (caught.value.code, caught.value.status) == ("bad_condition", 400)


def test_weak_tags_count_for_reads_that_look_for_news() -> None:
    tags = parse_tags("If-None-Match", b'W/"7", "8"', weak=True)
    assert [tags.match(revision) for revision in (0, 7, 8, 9)] == [False, True, True, False]
    assert [parse_tags("If-Match", b"*", weak=False).match(revision) for revision in (0, 1)] == [False, True]


@pytest.mark.parametrize(
    ("text", "key"),
    [(None, ""), (b"abc", "abc"), (b'"abc"', "abc"), (b'"a\\"b"', 'a"b'), (b" a b ", "a b"), (b"k" * 255, "k" * 255)],
)
def test_idempotency_keys_with_and_without_quotes(text: bytes | None, key: str) -> None:
    assert parse_idempotency_key(text) == key


@pytest.mark.parametrize("text", [b"", b'""', b"k" * 256, b"\xff", b"a\tb", b"a\x00"])
def test_what_is_no_idempotency_key(text: bytes) -> None:
    with pytest.raises(BadRequestError) as caught:
        parse_idempotency_key(text)
    assert caught.value.code == "bad_idempotency_key"


def test_a_header_that_comes_twice_says_the_same_twice_or_is_refused() -> None:
    assert Headers([(b"doug-consistency", b"eventual")] * 2).consistency == b"eventual"
    assert Headers([(b"if-none-match", b'"1"'), (b"if-none-match", b'"2"')]).if_none_match == b'"1", "2"'
    for name, code in ((b"doug-consistency", "bad_consistency"), (b"idempotency-key", "bad_request")):
        with pytest.raises(BadRequestError) as caught:
            Headers([(name, b"eventual"), (name, b"linearizable")])
        assert caught.value.code == code


def test_keys_of_any_bytes() -> None:
    assert [decode_key64(text) for text in (b"YQ", b"YQ==", b"_-8")] == [b"a", b"a", b"\xff\xef"]
    for text in (b"", b"a", b"/+8", b"YQ===", b"Y Q", b"\xff", b"Y=Q", b"_x", b"YR", b"A" * 1400):
        with pytest.raises(BadRequestError):
            decode_key64(text)


def test_a_read_may_look_for_news_and_a_write_may_not_ask_for_dates() -> None:
    options = parse_read(b"consistency=eventual&key64=YQ", Headers([(b"if-none-match", b'"1"')]))
    assert (options.asked.mode.name, options.key, options.unless is not None) == ("eventual", b"a", True)
    with pytest.raises(BadRequestError) as caught:
        parse_write(b"", Headers([(b"if-unmodified-since", b"Sat, 29 Oct 1994 19:43:31 GMT")]))
    assert caught.value.status == 501


def test_content_that_cannot_be_kept() -> None:
    assert check_content(None, b"Identity") == (b"", b"")
    assert check_content(b"text/plain", b"gzip, br") == (b"text/plain", b"gzip, br")
    for content_type, encoding in ((b"a\tb", None), (b"t" * 256, None), (None, b"g\tz"), (None, b"g" * 65)):
        with pytest.raises(BadRequestError):
            check_content(content_type, encoding)


@pytest.mark.parametrize(
    ("accept", "fits"),
    [
        (None, True), (b"", True), (b"*/*", True), (b"application/*", True), (b"text/html, */*;q=0.1", True),
        (b"application/json; charset=utf-8", True), (b"text/html", False), (b"application/json;q=0", False),
        (b"application/json;q=0.0", False), (b"image/*, text/*", False),
    ],
)  # fmt: skip
def test_accept(accept: bytes | None, fits: bool) -> None:
    if fits:
        check_acceptable(accept, b"application/json")
        return
    with pytest.raises(BadRequestError) as caught:
        check_acceptable(accept, b"application/json")
    assert caught.value.status == 406


def test_media_types() -> None:
    assert check_media_type(b"Application/JSON; charset=utf-8", (b"application/json",)) == b"application/json"
    for content_type in (None, b"", b"application/x-www-form-urlencoded", b"text/json"):
        with pytest.raises(BadRequestError) as caught:
            check_media_type(content_type, (b"application/json",))
        assert caught.value.status == 415


def test_a_sane_request_id_is_taken_over_and_any_other_is_replaced() -> None:
    assert request_id_of({"headers": [(b"x-request-id", b"7f-A_b.c:1")]}) == b"7f-A_b.c:1"
    scope: dict[str, object] = {"headers": [(b"x-request-id", b"two words")]}
    own = request_id_of(scope)
    assert own != b"two words"
    assert request_id_of(scope) == own
    assert request_id_of({"headers": []}) != own

"""Requests that repeat the head of an earlier one are answered as if the parser had read them, and nothing else is."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from facade_under_test import comparable
from hypothesis import example, given
from hypothesis import strategies as st

from doug_wire import command as commands
from doug_wire.command import Condition
from facade.app.plain import HEAD_BYTES_MAX, HEADS_MAX, KnownHeads, LastHead, PlainHead, proof_of

BOOTSTRAP = "b" * 40
MakeFacade = Callable[..., Awaitable[Any]]

GET = b"GET /v1/kv/%b HTTP/1.1\r\nHost: localhost\r\nUser-Agent: u\r\n\r\n"
PUT = b"PUT /v1/kv/%b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\n%b"
LAST = b"HEAD /v1/kv/end HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"


class Connection:
    """A client that sends what it is told to and reads one answer after the other."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer

    @classmethod
    async def open(cls, port: int) -> Connection:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def ask(self, data: bytes) -> bytes:
        self.writer.write(data)
        async with asyncio.timeout(60):
            head = await self._reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"content-length: (\d+)", head)
            assert length is not None
            return head + await self._reader.readexactly(int(length[1]))

    async def rest(self) -> bytes:
        async with asyncio.timeout(60):
            return await self._reader.read()


def found(facade: Any) -> list[bool]:
    """What became of every look at the known heads."""
    lane, looks = facade.application.hot, []
    again = lane.again

    def look(*arguments: Any) -> Any:
        request = again(*arguments)
        looks.append(request is not None)
        return request

    lane.again = look
    return looks


@pytest.mark.pure
async def test_a_repeated_head_is_not_parsed_again(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    looks = found(facade)
    one = await Connection.open(await facade.listen())
    answers = [await one.ask(PUT % (b"k%d" % number, b"v%02d" % number)) for number in range(4)]
    answers += [await one.ask(GET % b"k%d" % number) for number in range(4)]
    assert [answer[:12] for answer in answers] == [b"HTTP/1.1 200"] * 8
    assert [answer[-3:] for answer in answers[4:]] == [b"v00", b"v01", b"v02", b"v03"]
    # The first request of a connection, and the first with a head, are parsed.
    assert looks == [False, True, True, False, True, True, True]
    other = await Connection.open(facade._servers[0][0].sockets[0].getsockname()[1])
    assert (await other.ask(GET % b"none"))[:12] == b"HTTP/1.1 404"
    assert (await other.ask(GET % b"k1?consistency=eventual"))[-3:] == b"v01"
    assert looks[-1:] == [True], "heads are known to all connections"
    for connection in (one, other):
        connection.writer.close()


NEARLY = [
    GET % b"k HTTP/1.1\r\nX: ",
    GET % b"k" + b"x",
    GET % b"a b",
    GET % b"k#x",
    GET % "\u00e9".encode(),
    GET % b"k?consistency=strong",
    GET % (b"k" * 1025),
    GET % b"%zz",
    b"G" + GET % b"k",
    (GET % b"k").replace(b"1.1", b"1.0"),
    (GET % b"k").replace(b"GET", b"PUT"),
    (GET % b"k").replace(b"\r\n\r\n", b"\r\nOrigin: https://a.example\r\n\r\n"),
    (GET % b"k").replace(b"u\r\n\r\n", b"u\n\n"),
    (PUT % (b"k", b"abc")).replace(b"PUT", b"GET"),
    (PUT % (b"k", b"abc")).replace(b": 3", b": 03"),
    (PUT % (b"k", b"abc")).replace(b": 3", b": 3\r\nTransfer-Encoding: chunked"),
    PUT % (b"k", b"abc") + b"PUT",
    PUT % (b"k", b"ab"),
    PUT % (b"k", b"abc") * 2,
    PUT % (b"k", b"abc") + GET % b"k",
    GET % b"k" + PUT % (b"k", b"abc"),
]


@pytest.mark.pure
async def test_what_nearly_repeats_one_is_answered_as_without_any(make_facade: MakeFacade) -> None:
    """Once where the heads are known, once where none is ever kept; each time behind requests that were answered."""
    facade = await make_facade(nodes=1)
    ports = [await facade.listen(), await facade.listen(hot=False)]
    store = facade.cluster.shards[0].store
    looks = found(facade)
    for data in NEARLY:
        answers, stored = [], []
        for port in ports:
            store.data.clear()
            store.revision = 0
            one = await Connection.open(port)
            for _ in range(2):
                await one.ask(PUT % (b"k", b"old"))
                await one.ask(GET % b"k")
            before = len(looks)
            one.writer.write(data)
            one.writer.write(LAST)
            answers.append(comparable(await one.rest()))
            stored.append({key: value.value for key, value in store.data.items()})
            assert not any(looks[before:]), data
            one.writer.close()
        assert answers[0] == answers[1], data
        assert stored[0] == stored[1], data
    assert sum(looks) >= 2 * len(NEARLY) - 2, "the requests before were not found"


CONDITIONAL = b"PUT /v1/kv/k HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n%b\r\n\r\nabc"
REPEATED = [
    (b'If-Match: "%d"', 1, 2, 3, 9, 1 << 62),
    (b'if-match: "%d"\r\nUser-Agent: u', 1, 2, 3, 9),
    (b'Idempotency-Key: i-%d\r\nIf-Match: "1"', 1, 1, 2, 3),
    (b'If-Match: "1"\r\nIdempotency-Key: 018f.%d/7:a_b+C', 1, 2, 2),
    (b"Idempotency-Key: %d", 1, 2, 3, 2),
    (b"Idempotency-Key: %d\r\nIf-Match: *", 1, 2, 1),
    (b"If-None-Match: *\r\nIdempotency-Key: %d", 1, 2, 1),
]
OTHERWISE = [
    b"If-Match: *",
    b"If-Match: 2",
    b'If-Match: "02"',
    b'If-Match: ""',
    b'If-Match: "2',
    b'If-Match: "2" ',
    b'If-Match:"2"',
    b'If-Match:  "2"',
    b'If-Match : "2"',
    b'If-Match: W/"2"',
    b'If-Match: "2", "x"',
    b'If-Match: "2", "3"',
    b'If-Match: "x,2"',
    b'If-Match: "2"\r\nIf-Match: "2"',
    b'If-Match: "2"\r\nIf-Match: "3"',
    b'If-Match: "2"\r\nIf-None-Match: *',
    b'If-None-Match: "2"',
    b'If-Match: "2"\r\n "3"',
    b'If-Match: "2"\r\nIdempotency-Key: "a"',
    b'If-Match: "2"\r\nIdempotency-Key: a\r\nIdempotency-Key: b',
    b'Idempotency-Key: a b\r\nIf-Match: "2"',
    b'Idempotency-Key: "a\\"b"',
    b"Idempotency-Key: \x00",
    b"Idempotency-Key: " + b"i" * 256,
    b'X: If-Match: "2"',
    b'If-Match: "18446744073709551616"',
    b'If-Match: "99999999999999999999999"',
]


def cleared(facade: Any) -> Any:
    """The store of the facade's shard, empty."""
    store = facade.cluster.shards[0].store
    store.data.clear()
    store.tokens.clear()
    store.revision = 0
    return store


@pytest.mark.parametrize("repeated", REPEATED, ids=lambda repeated: repeated[0].decode())
@pytest.mark.pure
async def test_a_head_is_repeated_by_one_with_another_revision_and_idempotency_key(
    make_facade: MakeFacade, repeated: tuple[Any, ...]
) -> None:
    facade = await make_facade(nodes=1)
    ports = [await facade.listen(), await facade.listen(hot=False)]
    looks = found(facade)
    template, *numbers = repeated
    answers, stored = [], []
    for port in ports:
        store = cleared(facade)
        one = await Connection.open(port)
        asked = [PUT % (b"k", b"old"), *(CONDITIONAL % (template % number) for number in numbers)]
        answers.append([comparable(await one.ask(data)) for data in asked])
        stored.append((dict(store.data), dict(store.tokens)))
        one.writer.close()
    assert answers[0] == answers[1]
    assert stored[0] == stored[1]
    assert looks == [False] + [True] * (len(numbers) - 1)


@pytest.mark.pure
async def test_what_nearly_repeats_one_with_another_revision_is_answered_as_without_any(
    make_facade: MakeFacade,
) -> None:
    facade = await make_facade(nodes=1)
    ports = [await facade.listen(), await facade.listen(hot=False)]
    looks = found(facade)
    before = [b'If-Match: "1"', b'If-Match: "2"', b'If-Match: "3"\r\nIdempotency-Key: q', b"Idempotency-Key: q"]
    for head in OTHERWISE:
        answers, stored = [], []
        for port in ports:
            store = cleared(facade)
            one = await Connection.open(port)
            for data in (PUT % (b"k", b"old"), *(CONDITIONAL % each for each in before)):
                await one.ask(data)
            seen = len(looks)
            one.writer.write(CONDITIONAL % head)
            one.writer.write(LAST)
            answers.append(comparable(await one.rest()))
            stored.append((dict(store.data), dict(store.tokens)))
            assert not any(looks[seen:]), head
            one.writer.close()
        assert answers[0] == answers[1], head
        assert stored[0] == stored[1], head


async def test_values_that_differ_each_time_drive_no_head_out(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    one = await Connection.open(await facade.listen())
    await one.ask(PUT % (b"k", b"old"))
    known = facade.application.hot._known._heads
    for number in range(3):
        for head in (
            b'If-Match: "%d"',
            b'If-Match:"%d"',
            b'If-Match: "x%d"',
            b"Idempotency-Key: %d",
            b'Idempotency-Key: "%d"',
        ):
            await one.ask(CONDITIONAL % (head % number))
    assert len(known) == 2
    one.writer.close()


@pytest.mark.pure
async def test_a_request_in_two_pieces_is_parsed(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    looks = found(facade)
    one = await Connection.open(await facade.listen())
    for _ in range(3):
        await one.ask(PUT % (b"k", b"abc"))
    assert looks == [False, True]
    data = PUT % (b"k", b"xyz")
    for cut in range(1, len(data)):
        one.writer.write(data[:cut])
        await one.writer.drain()
        await asyncio.sleep(0)
        assert (await one.ask(data[cut:]))[:12] == b"HTTP/1.1 200"
        assert (await one.ask(GET % b"k"))[-3:] == b"xyz"
    one.writer.close()


@pytest.mark.pure
async def test_a_body_is_never_taken_for_a_request(make_facade: MakeFacade) -> None:
    """Its head came with an earlier request, which is answered by now: whatever it looks like, it is a body."""
    facade = await make_facade(nodes=1)
    looks = found(facade)
    one = await Connection.open(await facade.listen())
    for _ in range(2):
        await one.ask(PUT % (b"mine", b"abc"))
    assert looks == [False]
    body = PUT % (b"another", b"bad")
    upload = PUT.replace(b"Length: 3", b"Length: %d" % len(body)) % (b"upload", b"")
    assert (await one.ask(GET % b"mine" + upload))[-3:] == b"abc"
    known = dict(facade.application.hot._known._heads)
    assert (await one.ask(body))[:12] == b"HTTP/1.1 200"
    assert (await one.ask(GET % b"upload")).endswith(b"\r\n\r\n" + body)
    assert b"another" not in facade.cluster.shards[0].store.data
    # Nor does anybody learn a head from it.
    assert (await one.ask(GET % b"mine" + upload))[-3:] == b"abc"
    one.writer.write(b"x" + body[1:] + PUT % (b"mine", b"def"))
    assert (await one.ask(b""))[:12] == (await one.ask(b""))[:12] == b"HTTP/1.1 200"
    assert all(head.length in (0, 3) for head in facade.application.hot._known._heads.values())
    assert known.keys() <= facade.application.hot._known._heads.keys()
    one.writer.close()


HEAD = PlainHead(b"GET", 0, None, b"", b"", None, None, False)


def test_what_is_kept_is_bounded() -> None:
    known = KnownHeads()
    for number in range(2 * HEADS_MAX + 10):
        known.learn(GET.replace(b": u", b": %d" % number) % b"k", HEAD, 2)
    assert len(known._heads) <= HEADS_MAX
    known.learn(GET.replace(b": u", b": " + b"u" * HEAD_BYTES_MAX) % b"k", HEAD, 2)
    assert all(len(raw) <= HEAD_BYTES_MAX + 4 for raw in known._heads)


def test_a_head_that_was_read_otherwise_is_not_kept() -> None:
    """What the parser took for one line, or for a body, must not be cut in another way here."""
    known = KnownHeads()
    known.learn(GET % b"k", HEAD, 1)
    known.learn(GET % b"k", HEAD, 3)
    known.learn((GET % b"k").replace(b": u", b": u\n"), HEAD, 2)
    known.learn(GET % b"k" + b"x", HEAD, 2)
    known.learn(GET % b"k", HEAD._replace(once=True), 2)
    known.learn(GET % b"k", HEAD._replace(proof=proof_of(b"Bearer of somebody")), 2)
    assert not known._heads


def test_where_heads_may_hold_tokens_no_token_is_kept() -> None:
    token = b"Bearer doug_0123456789abcdef_secret"
    data = (GET % b"k").replace(b"\r\n\r\n", b"\r\nAuthorization:  %b \r\n\r\n" % token)
    head = HEAD._replace(proof=proof_of(token))
    known = KnownHeads(secret=True)
    known.learn(data, head, 3)
    assert known.find(data, LastHead()) == (head, b"/v1/kv/k", b"")
    assert known.find(data.replace(b"secret", b"Secret"), LastHead()) is None
    assert b"secret" not in repr(known._heads).encode()
    known.learn(data.replace(b"Authorization", b"X-Another"), head, 3)
    known.learn(data, HEAD, 3)
    assert known.find(data, LastHead()) == (head, b"/v1/kv/k", b""), "what was read otherwise is not kept"
    assert len(known._heads) == 1


@given(st.binary(max_size=40), st.integers(0, 80), st.integers(0, 20))
@example(b"", 5, 0)
def test_a_request_that_is_found_differs_in_its_target_alone(put_in: bytes, at: int, taken_out: int) -> None:
    known = KnownHeads()
    whole = GET % b"some-key"
    known.learn(whole, HEAD, 2)
    last = LastHead()
    assert known.find(whole, last) == (HEAD, b"/v1/kv/some-key", b"")
    at = min(at, len(whole))
    data = whole[:at] + put_in + whole[at + taken_out :]
    got = known.find(data, last)
    assert got == known.find(data, LastHead()), "what a connection remembers finds the same"
    if got is None:
        return
    head, target, body = got
    assert (head, body) == (HEAD, b"")
    assert data == GET.replace(b"/v1/kv/%b", target) and re.fullmatch(rb'/v1/kv/[!-"$-~]+', target)


VALUES = re.compile(rb'\r\n(?:If-Match: "([1-9][0-9]{0,18})"|Idempotency-Key: ([0-9A-Za-z._:/+-]+))(?=\r\n)')
KEYED = CONDITIONAL % b'If-Match: "17"\r\nIdempotency-Key: abc'
KEYED_HEAD = HEAD._replace(method=b"PUT", length=3, condition=commands.revision(17), idempotency_key="abc")


def test_what_a_connection_remembers_is_of_one_method_and_length() -> None:
    known, last = KnownHeads(), LastHead()
    put = b"PUT" + (GET % b"k")[3:].replace(b"\r\n\r\n", b"\r\nContent-Length: 3\r\n\r\n") + b"abc"
    head = HEAD._replace(method=b"PUT", length=3)
    known.learn(put, head, 3)
    for _ in range(2):
        assert known.find(put, last) == (head, b"/v1/kv/k", b"abc")
        assert known.find(b"DELETE" + put[3:], last) is None
        assert known.find(put + b"d", last) is None
        assert known.find(put[:-1], last) is None
    assert last.head == head


@given(
    st.sampled_from([b"", b"1", b'"', b"0", b", ", b"\r\n", b'If-Match: "3"\r\n']),
    st.integers(50, 110),
    st.integers(0, 9),
)
@example(b"8", KEYED.index(b"17"), 2)
@example(b"x/2", KEYED.index(b"abc"), 3)
def test_a_head_that_is_found_differs_in_its_values_alone_and_has_its_own(
    put_in: bytes, at: int, taken_out: int
) -> None:
    known = KnownHeads()
    known.learn(KEYED, KEYED_HEAD, 4)
    data = KEYED[:at] + put_in + KEYED[at + taken_out :]
    got = known.find(data, LastHead())
    if got is None:
        return
    head, _, body = got
    tags = [found[1] for found in VALUES.finditer(data) if found[1]]
    keys = [found[2] for found in VALUES.finditer(data) if found[2]]
    assert (len(tags), len(keys), body) == (1, 1, data[-3:])
    assert head == KEYED_HEAD._replace(condition=commands.revision(int(tags[0])), idempotency_key=keys[0].decode())
    assert VALUES.sub(b"", data)[:-3] == VALUES.sub(b"", KEYED)[:-3]


@pytest.mark.parametrize(
    ("condition", "key"),
    [(commands.revision(18), "abc"), (None, "abc"), (commands.EXISTS, "abc"), (commands.revision(17), "")],
)
def test_a_head_whose_values_were_read_otherwise_is_not_kept(condition: Condition | None, key: str) -> None:
    known = KnownHeads()
    known.learn(KEYED, KEYED_HEAD._replace(condition=condition, idempotency_key=key), 4)
    assert not known._heads


@pytest.fixture
async def guarded(make_facade: MakeFacade, tmp_path: Path) -> Any:
    """A facade where clients show tokens, with its audit log in ``audit.jsonl``."""
    path = tmp_path / "bootstrap.token"
    path.write_text(BOOTSTRAP)
    return await make_facade(
        nodes=1,
        auth_mode="token",
        auth_bootstrap_file=str(path),
        auth_poll_ms=50,
        audit_file=str(tmp_path / "audit.jsonl"),
    )


async def token_of(facade: Any, *allow: str) -> str:
    made = {"name": "t", "allow": allow}
    answer = await facade.http.post("/v1/auth/tokens", json=made, headers={"authorization": f"Bearer {BOOTSTRAP}"})
    return str(answer.json()["token"])


def shown(data: bytes, token: str, *others: bytes) -> bytes:
    """A request that shows a token."""
    lines = b"\r\n".join([b"Authorization: Bearer " + token.encode(), *others])
    return data.replace(b"\r\n\r\n", b"\r\n%b\r\n\r\n" % lines, 1)


@pytest.mark.parametrize("data", [GET % b"a/k", PUT % (b"a/k", b"abc")])
@pytest.mark.pure
async def test_who_has_not_the_right_is_told_so_the_same_on_each_way(guarded: Any, tmp_path: Path, data: bytes) -> None:
    looks = found(guarded)
    token = await token_of(guarded, "read:b/", "write:b/")
    port = await guarded.listen()
    one, other = await Connection.open(port), await Connection.open(port)
    # The application finds out who sends the first; the parser reads the second's head; the third's is looked up; the
    # fourth's is the last one of the connection.
    answers = [await one.ask(shown(data, token)) for _ in range(4)]
    answers.append(await other.ask(shown(data, token, b"X-Unknown: 1")))
    assert looks == [False, True, True]
    assert answers[0].startswith(b"HTTP/1.1 403")
    assert b'"verb":"%b"' % (b"read" if data.startswith(b"GET") else b"write") in answers[0]
    assert len({comparable(answer) for answer in answers}) == 1
    lines = [json.loads(line) for line in (tmp_path / "audit.jsonl").read_text().splitlines()]
    refused = [line for line in lines if line["event"] == "refused"]
    assert len({line.pop("request_id") for line in refused}) == len(refused) == 5
    for line in refused:
        del line["time"]
        assert line == refused[0]
    assert guarded.cluster.shards[0].nodes[0].batches == [], "no node was asked"
    one.writer.close()
    other.writer.close()


@pytest.mark.pure
async def test_a_connection_forgets_who_asks_when_the_token_is_revoked(guarded: Any) -> None:
    looks = found(guarded)
    token = await token_of(guarded, "read:*", "write:*")
    one = await Connection.open(await guarded.listen())
    for _ in range(4):
        assert (await one.ask(shown(PUT % (b"k", b"abc"), token))).startswith(b"HTTP/1.1 200")
    headers = {"authorization": f"Bearer {BOOTSTRAP}"}
    assert (await guarded.http.delete("/v1/auth/tokens/t", headers=headers)).status_code == 200
    assert (await one.ask(shown(PUT % (b"k", b"abc"), token))).startswith(b"HTTP/1.1 401")
    assert looks == [False, True, True, False]
    one.writer.close()


async def test_a_cookie_without_a_token_may_be_a_session_and_is_left_to_the_application(
    guarded: Any, make_facade: MakeFacade
) -> None:
    """Where the connection's certificate is a proof, too, the short way would take that instead."""
    head = [(b"host", b"localhost"), (b"cookie", b"a=b")]
    assert guarded.application.hot._head(b"PUT", [*head, (b"content-length", b"1")], keep_alive=True) is None
    shown = [*head, (b"authorization", b"Bearer t")]
    assert guarded.application.hot._head(b"GET", shown, keep_alive=True) is not None
    free = await make_facade(nodes=1)
    assert free.application.hot._head(b"GET", head, keep_alive=True) is not None

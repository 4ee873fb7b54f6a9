"""An open load counts every request once, also those that it could not send."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from bench.flood import Crowd, code_of, offer_async

pytestmark = pytest.mark.sockets

OK = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n"
BODY = b'{"code":"too_many_requests"}'
REFUSED = b"HTTP/1.1 429 No\r\nretry-after: 1\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)


class Server(asyncio.Protocol):
    """Answers each request with the next of some answers; None for no answer."""

    def __init__(self, answer: Callable[[], bytes | None]) -> None:
        self._answer = answer

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        assert data.startswith(b"PUT /v1/kv/flood/")
        answer = self._answer()
        if answer is not None:
            self._transport.write(answer)


async def offered(answers: list[bytes | None], crowd: Crowd) -> tuple[dict[str, object], int]:
    """The figures of a load on a server whose last answer is repeated, and how many requests were due."""
    server = await asyncio.get_running_loop().create_server(
        lambda: Server(lambda: answers.pop(0) if len(answers) > 1 else answers[0]), "127.0.0.1", 0
    )
    outcome = await offer_async(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", crowd)
    server.close()
    assert sum(outcome.kinds.values()) + outcome.not_connected == outcome.sent
    return outcome.summary(crowd.seconds), outcome.sent + outcome.not_offered


async def test_answers_are_counted_by_what_they_say() -> None:
    crowd = Crowd(rate=200.0, connections=4, seconds=0.2, deadline_s=30.0)
    figures, due = await offered([OK, REFUSED, REFUSED, OK], crowd)
    assert isinstance(figures["kinds"], dict)
    assert figures["kinds"]["429 too_many_requests"] == 2
    assert set(figures["kinds"]) == {"200", "429 too_many_requests"}
    assert figures["with_retry_after"] == 2
    assert 30 <= due <= 40


async def test_what_nobody_answers_is_given_up_and_what_finds_no_connection_is_not_offered() -> None:
    crowd = Crowd(rate=200.0, connections=3, seconds=0.2, deadline_s=0.1)
    figures, due = await offered([None], crowd)
    assert isinstance(figures["kinds"], dict)
    assert set(figures["kinds"]) == {"gave up"}
    assert 3 <= figures["kinds"]["gave up"] < due


def test_a_problem_is_named_by_its_code() -> None:
    assert [code_of(body) for body in (BODY, b"", b"[]", b"<html>")] == ["too_many_requests", "", "", ""]

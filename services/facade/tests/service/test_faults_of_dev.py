"""What the console of ``dougctl dev`` may do to nodes, and that no other facade offers it."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from facade.settings import Settings

MakeFacade = Callable[..., Awaitable[Any]]
PATH = "/v1/console/faults"
WISH = {"node": "shard-0-1", "do": "kill"}
OWN = {"sec-fetch-site": "same-origin"}


class Supervisor:
    """What listens at the socket."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.answer = b'{"done": true}\n'

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.asked.append(json.loads(await reader.readline()))
        writer.write(self.answer)
        await writer.drain()
        writer.close()


@pytest.fixture
async def socket_and_supervisor() -> AsyncIterator[tuple[str, Supervisor]]:
    supervisor = Supervisor()
    with tempfile.TemporaryDirectory() as folder:
        path = str(Path(folder) / "s")
        server = await asyncio.start_unix_server(supervisor.serve, path)
        yield path, supervisor
        server.close()
        await server.wait_closed()


async def test_a_wish_reaches_the_supervisor(
    make_facade: MakeFacade, socket_and_supervisor: tuple[str, Supervisor]
) -> None:
    path, supervisor = socket_and_supervisor
    facade = await make_facade(nodes=1, dev_socket=path)
    await facade.application.console.collector.look()
    assert (await facade.http.get("/v1/console/state")).json()["facade"]["faults"] is True
    answer = await facade.http.post(PATH, json=WISH, headers=OWN)
    assert (answer.status_code, answer.json()) == (200, WISH)
    assert supervisor.asked == [WISH]
    for act in ("pause", "cut", "slow", "resume"):
        assert (await facade.http.post(PATH, json=WISH | {"do": act}, headers=OWN)).status_code == 200
        assert supervisor.asked.pop() == WISH | {"do": act}
    supervisor.answer = b'{"error": "shard-0-1 does not run now."}\n'
    answer = await facade.http.post(PATH, json=WISH, headers=OWN)
    assert (answer.status_code, answer.json()["code"]) == (409, "fault_refused")
    supervisor.answer = b""
    assert (await facade.http.post(PATH, json=WISH, headers=OWN)).status_code == 409
    Path(path).unlink()
    assert (await facade.http.post(PATH, json=WISH, headers=OWN)).status_code == 503


async def test_no_page_of_another_origin_and_nothing_that_makes_no_sense_reaches_it(
    make_facade: MakeFacade, socket_and_supervisor: tuple[str, Supervisor]
) -> None:
    path, supervisor = socket_and_supervisor
    facade = await make_facade(nodes=1, dev_socket=path, cors_origins="https://friend.example")
    for foreign in (
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"origin": "http://evil.example"},
        {"origin": "https://friend.example"},
        {"origin": "null"},
    ):
        answer = await facade.http.post(PATH, json=WISH, headers=foreign)
        assert (answer.status_code, answer.json()["code"]) == (403, "cross_origin"), foreign
    for content_type in ("text/plain", "application/x-www-form-urlencoded"):
        answer = await facade.http.post(PATH, content=json.dumps(WISH), headers={"content-type": content_type})
        assert answer.status_code == 415
    wishes: list[Any] = [{}, [], {"node": "a"}, {"node": 1, "do": "kill"}, {"node": "", "do": "kill"}]
    wishes += [{"node": "a", "do": "format"}, {"node": "a", "do": ["kill"]}, WISH | {"more": 1}]
    for wrong in wishes:
        assert (await facade.http.post(PATH, json=wrong, headers=OWN)).status_code == 400, wrong
    assert supervisor.asked == []


async def test_a_facade_without_a_supervisor_offers_none_and_refuses(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    await facade.application.console.collector.look()
    assert (await facade.http.get("/v1/console/state")).json()["facade"]["faults"] is False
    answer = await facade.http.post(PATH, json=WISH, headers=OWN)
    assert (answer.status_code, answer.json()["code"]) == (404, "unknown_route")


def test_a_facade_that_others_reach_does_not_start_with_one() -> None:
    nodes = {0: {"n": "127.0.0.1:1"}}
    for listen in ("127.0.0.1:8080,[::1]:8080", "localhost:8080"):
        assert Settings(nodes=nodes, listen=listen, dev_socket="/s").dev_socket == "/s"  # type: ignore[arg-type]
    for listen in ("0.0.0.0:8080", "127.0.0.1:8080,[::]:8080", "db.example:8080"):
        with pytest.raises(ValidationError, match="loopback alone"):
            Settings(nodes=nodes, listen=listen, dev_socket="/s")  # type: ignore[arg-type]

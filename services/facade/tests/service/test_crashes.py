"""What a defect does: a failed callback or thread ends the process, a failed request is answered, deadlines go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from facade.app import crashes
from facade.client.modes import LINEARIZABLE
from facade.errors import NotAppliedError

MakeFacade = Callable[..., Awaitable[Any]]


def boom(*arguments: object) -> Any:
    raise ValueError("a defect")


async def test_a_failed_callback_ends_the_process_and_a_broken_connection_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    loop, ended = asyncio.get_running_loop(), list[int]()
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    crashes.install(loop, ended.append)
    try:
        loop.call_soon(boom)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert ended == [crashes.EXIT_DEFECT]
        # As the loop reports what a protocol raised while it read.
        loop.call_exception_handler({"message": "Fatal error", "exception": ValueError(), "protocol": object()})
        assert len(ended) == 1
        thread = threading.Thread(target=boom)
        thread.start()
        thread.join()
        assert len(ended) == 2
    finally:
        loop.set_exception_handler(None)


async def test_deadlines_go_on_after_a_look_at_them_failed(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch
) -> None:
    facade = await make_facade(request_timeout_ms=200)
    router = facade.router
    loop = asyncio.get_running_loop()
    failed: list[object] = []
    loop.set_exception_handler(lambda _, context: failed.append(context["exception"]))
    look = router.registry._look_at_deadlines

    def fail_once(now_s: float) -> None:
        if not failed:
            boom()
        look(now_s)

    monkeypatch.setattr(router.registry, "_look_at_deadlines", fail_once)
    try:
        await facade.cluster.stop()
        operation = router.read(b"k", LINEARIZABLE)
        with pytest.raises(NotAppliedError):
            await asyncio.wait_for(operation.future, 60)
    finally:
        loop.set_exception_handler(None)
    assert len(failed) == 1


@pytest.mark.parametrize(
    ("path", "method", "attribute"), [("/v1/kv/k", "GET", "read"), ("/v1/cluster", "GET", "cluster")]
)
@pytest.mark.pure
async def test_a_request_that_meets_a_defect_is_answered_as_a_problem_and_counted(
    make_facade: MakeFacade, monkeypatch: pytest.MonkeyPatch, path: str, method: str, attribute: str
) -> None:
    facade = await make_facade()
    monkeypatch.setattr(facade.router, attribute, boom)
    transport = httpx.ASGITransport(facade.application, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://facade") as http:
        answer = await http.request(method, path)
        assert (answer.status_code, answer.headers["content-type"]) == (500, "application/problem+json")
        assert (answer.json()["code"], answer.json()["outcome"]) == ("internal_error", "unknown")
        counted = [
            line
            for line in (await http.get("/metrics")).text.splitlines()
            if "requests_total" in line and '"500"' in line
        ]
    assert len(counted) == 1 and counted[0].endswith(" 1.0"), counted

"""Routes that expect JSON: none is offered yet, so a route of the test's own shows what every one of them does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest
from fastapi import APIRouter, FastAPI
from pydantic import BaseModel, ConfigDict

from facade.routes import health, problem
from facade.routes.operators import cluster
from facade.routes.strict import JSON_BYTES_MAX, StrictRoute

MakeFacade = Callable[..., Awaitable[Any]]
JSON = {"content-type": "application/json"}


class Wish(BaseModel):
    model_config = ConfigDict(extra="forbid")

    by: int


class Probe:
    """One route that expects JSON, and what it was called with."""

    def __init__(self) -> None:
        self.wishes: list[Wish] = []
        routes = APIRouter(route_class=StrictRoute)

        @routes.post("/wish")
        async def wish(body: Wish) -> Wish:
            self.wishes.append(body)
            return body

        self.app = FastAPI()
        problem.install(self.app)
        self.app.include_router(routes)
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://facade")


@pytest.fixture
async def probe() -> AsyncIterator[Probe]:
    made = Probe()
    yield made
    await made.http.aclose()


async def test_well_formed_json_is_taken(probe: Probe) -> None:
    answer = await probe.http.post("/wish", content=b'{"by": 3}', headers=JSON)
    assert (answer.status_code, answer.json()) == (200, {"by": 3})
    assert probe.wishes == [Wish(by=3)]


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "bad_json"),
        (b"nonsense", 400, "bad_json"),
        (b'{"by": NaN}', 400, "bad_json"),
        (b'{"by": 1} {}', 400, "bad_json"),
        (b'{"by": 1, "x": "\xff"}', 400, "bad_json"),
        (b"[" * 100_000, 400, "bad_json"),
        (b"[" * 1000 + b"]" * 1000, 400, "bad_json"),
        (b'{"by": 1, "by": 1}', 400, "bad_json"),
        (b'{"by": 1, "\\u0062y": 2}', 400, "bad_json"),
        (b'{"by": {"x": [{"y": 1, "y": 2}]}}', 400, "bad_json"),
        (b'{"by": ' + b"1" * 10_000 + b"}", 400, "bad_json"),
        (b"", 400, "bad_request"),
        (b'{"by": "many"}', 400, "bad_request"),
        (b'{"by": 1, "for": "whom"}', 400, "bad_request"),
        (b'{"by": ' + b"1" * JSON_BYTES_MAX + b"}", 413, "value_too_large"),
    ],
)
async def test_malformed_json_is_a_problem_document_and_changes_nothing(
    probe: Probe, body: bytes, status: int, code: str
) -> None:
    answer = await probe.http.post("/wish", content=body, headers=JSON)
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    document = answer.json()
    assert (document["status"], document["code"], document["outcome"]) == (status, code, "not_applied")
    assert document["detail"]
    assert probe.wishes == []


async def test_every_route_behind_the_keys_is_strict(make_facade: MakeFacade) -> None:
    facade = await make_facade(nodes=1)
    routers = (
        cluster.make_router(facade.router, facade.settings, facade.metrics),
        health.make_router(facade.router, facade.metrics),
    )
    for router in routers:
        assert router.routes
        assert all(isinstance(route, StrictRoute) for route in router.routes)

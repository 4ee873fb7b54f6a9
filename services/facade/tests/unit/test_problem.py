"""Problem documents: facade.routes.problem."""

from __future__ import annotations

import json
import re
from pathlib import Path

import facade
from facade.errors import BadRequestError, NotAppliedError, OutcomeUnknownError, ProblemError, ReadTimeoutError
from facade.routes import problem, results


def test_members() -> None:
    error = NotAppliedError("no_leader", "Nobody leads.", shard=3)
    body = problem.document(error)
    assert json.loads(body) == {
        "type": "urn:dougdb:problem:no_leader",
        "title": "The shard has no leader",
        "status": 503,
        "detail": "Nobody leads.",
        "code": "no_leader",
        "retryable": True,
        "outcome": "not_applied",
        "shard": 3,
    }
    assert dict(problem.headers(error, body)) == {
        b"content-type": b"application/problem+json",
        b"content-length": b"%d" % len(body),
        b"doug-shard": b"3",
        b"retry-after": b"1",
    }


def test_a_shard_that_the_receipt_names_is_not_named_again() -> None:
    error = BadRequestError("not_found", "It is not there.", status=404, shard=3, headers=((b"doug-shard", b"3"),))
    assert [name for name, _ in problem.headers(error, b"")].count(b"doug-shard") == 1


def test_outcomes() -> None:
    told = {
        error: (error("c", "d").status, error("c", "d").outcome, error("c", "d").retryable)
        for error in (BadRequestError, NotAppliedError, OutcomeUnknownError, ReadTimeoutError)
    }
    assert told == {
        BadRequestError: (400, "not_applied", False),
        NotAppliedError: (503, "not_applied", True),
        OutcomeUnknownError: (504, "unknown", False),
        ReadTimeoutError: (504, "not_applied", True),
    }


def test_a_code_without_a_title_gets_the_phrase_of_its_status() -> None:
    assert json.loads(problem.document(ProblemError("odd", "d", status=418)))["title"] == "I'm a Teapot"


def test_every_code_of_the_key_routes_is_titled_and_documented() -> None:
    source = Path(facade.__file__).parent
    text = "".join(path.read_text() for path in source.rglob("*.py"))
    named = [code for code, _, _ in results._DECIDED.values()]
    named += re.findall(r'(?:BadRequest|NotApplied|OutcomeUnknown|ReadTimeout|Internal)Error\(\s*"(\w+)"', text)
    documented = (Path(__file__).parents[4] / "docs" / "api.md").read_text()
    assert len(set(named)) > 10
    for code in named:
        assert f"`{code}`" in documented, code
        assert code in problem.TITLES, code

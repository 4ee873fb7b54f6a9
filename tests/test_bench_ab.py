"""What ``make bench-ab`` makes of its figures, and what the requests of a load carry."""

from __future__ import annotations

import argparse
from typing import Any

import pytest
from bench.ab import Comparison, Load, overspent
from bench.guarded import settings_of
from bench.load import Workload, request_of


def figures(facade_us: float, leaders_us: float, messages: float = 1.0) -> dict[str, Any]:
    """What a load cost, beside what the load generator took."""
    spent = {"facade": facade_us, "leaders": leaders_us, "load generator": 99.0}
    return {"cpu_us_per_operation": spent, "grpc_messages_per_operation": messages}


@pytest.fixture
def comparison() -> Comparison:
    """Three pairs of which the second met a machine that was twice as slow."""
    found = Comparison(Load("put", "", 8))
    found.other = [figures(100, 300), figures(200, 600), figures(100, 300)]
    found.this = [figures(108, 272, 1.3), figures(216, 544, 1.3), figures(90, 272, 1.3)]
    return found


def options(limit: float, *, auth: bool) -> argparse.Namespace:
    return argparse.Namespace(limit=limit, auth=auth)


def test_two_versions_are_judged_by_the_cpu_of_all_processes_and_by_messages(comparison: Comparison) -> None:
    assert overspent(comparison, options(1.05, auth=False)) == ["put 8: 1.300 times the messages per operation"]
    assert not overspent(comparison, options(0.0, auth=False)), "without a limit nothing is too dear"


def test_what_authentication_costs_is_judged_by_the_cpu_of_the_facade(comparison: Comparison) -> None:
    assert overspent(comparison, options(1.05, auth=True)) == ["put 8: 1.080 times the CPU of a facade per operation"]
    assert not overspent(comparison, options(1.09, auth=True))


def test_the_means_say_how_sure_they_are(comparison: Comparison) -> None:
    assert comparison.means() == "put 8: CPU 0.935 ± 0.015, facade's CPU 1.020 ± 0.060 (means of 3 pairs)"
    del comparison.this[1:], comparison.other[1:]
    assert comparison.means() == "", "one pair tells nothing of it"


@pytest.mark.parametrize("kind", ["put", "get", "batch"])
def test_each_request_of_a_load_carries_the_headers(kind: str) -> None:
    load = Workload(kind=kind, seconds=1, headers=(("authorization", "Bearer abc"), ("x-other", "1")))
    head = request_of(load).partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert head[1:4] == [b"host: localhost", b"authorization: Bearer abc", b"x-other: 1"]


def test_the_two_facades_differ_in_authentication_alone() -> None:
    own = {
        "DOUGDB_AUTH_MODE": "token",
        "DOUGDB_AUTH_BOOTSTRAP_FILE": "run/bootstrap.token",
        "DOUGDB_AUDIT_FILE": "run/facade.audit.jsonl",
        "DOUGDB_TLS_MODE": "mutual",
        "DOUGDB_LISTEN": "127.0.0.1:1",
    }
    free, guarded = (settings_of(own, 2, guarded=each) for each in (False, True))
    assert guarded["DOUGDB_AUTH_MODE"] == "token"
    assert {name for name in guarded if name not in free} == {"DOUGDB_AUTH_MODE", "DOUGDB_AUTH_BOOTSTRAP_FILE"}
    assert free == {"DOUGDB_TLS_MODE": "mutual", "DOUGDB_LISTEN": "127.0.0.1:2", "PYTHONHASHSEED": "0"}

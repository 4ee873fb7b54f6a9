"""The load generator, the recorder and the HTTP client, against a stand-in for the facade."""

from __future__ import annotations

import asyncio
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.cluster import FACADE_PORTS, FACADE_PORTS_STRIDE, free_ports, is_free, wait_for
from bench.http11 import Client, HttpError, HttpTimeoutError, exchange_raw, fetch
from bench.load import Workload, run_blocking
from bench.recorder import KeyRing, Recorder, RegisterClient, problem, run_client

from raft_testing.linearizability import check_history

pytestmark = [pytest.mark.integration, pytest.mark.light, pytest.mark.seconds]


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    port = free_ports(*FACADE_PORTS, FACADE_PORTS_STRIDE)
    stub = Path(__file__).with_name("stub_facade.py")
    process = subprocess.Popen([sys.executable, str(stub), str(port)])
    try:
        wait_for(lambda: not is_free(port), 60, "the stand-in to listen")
        yield port
    finally:
        process.kill()
        process.wait()


def workload(kind: str, **options: object) -> Workload:
    return Workload(kind=kind, **{"connections": 4, "seconds": 10.0, "keys": 100, **options})  # type: ignore[arg-type]


def test_puts_then_gets_count_every_operation(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    puts = run_blocking(url, workload("put", operations=500))
    assert puts.begun == puts.ok == len(puts.latencies_ns) == 500
    assert not puts.errors
    gets = run_blocking(url, workload("get", operations=300, consistency="eventual"))
    assert gets.statuses == {"200": 300} or gets.statuses == {"404": 300}
    assert 0 < gets.percentile_ms(0.5) <= gets.percentile_ms(0.99) <= gets.percentile_ms(0.999)


def test_gets_read_what_was_put(port: int) -> None:
    url = f"http://127.0.0.1:{port}"
    assert run_blocking(url, workload("put", operations=40, prefix="half/")).ok == 40
    known = run_blocking(url, workload("get", operations=200, prefix="half/", known=40))
    assert known.statuses == {"200": 200}
    unknown = run_blocking(url, workload("get", operations=200, prefix="half/"))
    assert unknown.errors.keys() == {"404"}


def test_puts_have_the_condition_that_is_asked_for(port: int) -> None:
    url, tags = f"http://127.0.0.1:{port}", dict[bytes, bytes]()
    created = run_blocking(url, workload("put", operations=100, prefix="cas/", condition="absent"), tags)
    assert created.statuses == {"200": 100} and set(tags.values()) == {b'"1"'}
    assert run_blocking(url, workload("put", operations=100, prefix="cas/", condition="absent"), tags).errors == {
        "412": 100
    }
    assert run_blocking(url, workload("put", operations=250, prefix="cas/", condition="revision"), tags).ok == 250
    assert sorted(set(tags.values())) == [b'"3"', b'"4"']
    assert run_blocking(url, workload("put", operations=100, prefix="cas/", condition="exists"), tags).ok == 100
    assert run_blocking(url, workload("put", operations=9, prefix="none/", condition="exists"), tags).errors == {
        "412": 9
    }


def test_every_key_is_put_once_before_any_is_put_again() -> None:
    load = Workload(kind="put", keys=1000)
    assert len({load.key(index) for index in range(1000)}) == 1000
    assert load.key(1000) == load.key(0)


def test_the_run_ends_after_its_seconds(port: int) -> None:
    begun = time.monotonic()
    result = run_blocking(f"http://127.0.0.1:{port}", workload("put", seconds=0.5))
    assert time.monotonic() - begun > 0.3, "and that it ends at all is the other half"
    assert result.operations_per_s == pytest.approx(result.ok / result.seconds)


def test_errors_are_counted_by_status(port: int) -> None:
    result = run_blocking(f"http://127.0.0.1:{port}", workload("put", operations=20, prefix="refuse/"))
    assert result.errors == {"503": 20}
    assert result.ok == 0


def test_an_overdue_answer_is_a_timeout_and_the_run_still_ends(port: int) -> None:
    result = run_blocking(f"http://127.0.0.1:{port}", workload("put", seconds=0.5, prefix="slow/", timeout_s=0.3))
    assert result.errors.keys() == {"timeout"}


def test_a_connection_that_the_server_closes_is_opened_again(port: int) -> None:
    result = run_blocking(f"http://127.0.0.1:{port}", workload("put", operations=20, prefix="close/"))
    assert result.statuses == {"200": 20}


def test_no_server_is_not_connected() -> None:
    free = free_ports(*FACADE_PORTS, FACADE_PORTS_STRIDE)
    result = run_blocking(f"http://127.0.0.1:{free}", workload("put", seconds=0.2))
    assert result.errors.keys() == {"not connected"}
    assert result.begun == 0


def test_the_generator_costs_little(port: int) -> None:
    result = run_blocking(f"http://127.0.0.1:{port}", workload("put", connections=64, operations=10_000, keys=1000))
    print(f"{result.cpu_us_per_operation:.1f} us of CPU per operation")
    assert result.cpu_us_per_operation < 400, (
        "the goal is 40; a busy machine makes the same instructions take more time"
    )


async def test_the_client_keeps_its_connection_and_reads_whole_answers(port: int) -> None:
    async with Client("127.0.0.1", port) as client:
        body = bytes(range(256)) * 4096
        assert (await client.request("PUT", "/v1/kv/big", body)).status == 200
        assert (await client.request("GET", "/v1/kv/big")).body == body
        head = await client.request("HEAD", "/v1/kv/big")
        assert (head.status, head.body) == (200, b"")
        assert (await client.request("GET", "/v1/kv/missing")).status == 404


async def test_a_late_answer_closes_the_connection_of_the_client(port: int) -> None:
    async with Client("127.0.0.1", port) as client:
        with pytest.raises(HttpTimeoutError):
            await client.request("PUT", "/v1/kv/slow", b"x", timeout_s=0.2)
        assert (await client.request("PUT", "/v1/kv/a", b"x")).status == 200


def test_the_blocking_exchange_sends_what_it_is_given(port: int) -> None:
    assert fetch(port, "PUT", "/v1/kv/raw", b"x").status == 200
    assert exchange_raw(port, b"nonsense\r\n\r\n").status == 400
    with pytest.raises(HttpTimeoutError):
        fetch(port, "PUT", "/v1/kv/slow", b"x", timeout_s=0.2)
    with pytest.raises(HttpError):
        fetch(free_ports(*FACADE_PORTS, FACADE_PORTS_STRIDE), "GET", "/")


async def test_recorded_clients_of_a_sound_store_are_linearizable(port: int) -> None:
    recorder, ring = Recorder(), KeyRing((f"sound/{n}" for n in itertools.count()), 50)
    done = recorder.history.operations
    async with asyncio.TaskGroup() as group:
        for seed in range(8):
            group.create_task(run_client(recorder, "127.0.0.1", port, ring, seed, lambda: len(done) < 500))
    assert len(ring.used) > 2
    assert not recorder.oddities
    assert recorder.unknown_share() == 0
    assert check_history(recorder.history.operations) == []


async def test_a_refused_write_is_recorded_as_such_and_a_lost_one_as_unknown(port: int, tmp_path: Path) -> None:
    recorder = Recorder()
    client = RegisterClient(recorder, "127.0.0.1", port)
    refused = await client.put("refuse/a")
    # The stand-in's refusal is no problem document, so it proves nothing.
    assert refused.returned is None
    assert len(recorder.oddities) == 1
    await client.close()
    client = RegisterClient(recorder, "127.0.0.1", port, timeout_s=0.2)
    number = client.number
    lost = await client.put("slow/a")
    assert lost.returned is None
    assert client.number != number
    await client.close()
    assert recorder.unknown_share() == 1
    recorder.save(tmp_path / "history.jsonl")
    assert len((tmp_path / "history.jsonl").read_text().splitlines()) == 2


def test_only_a_problem_document_is_one(port: int) -> None:
    assert problem(fetch(port, "PUT", "/v1/kv/refuse", b"x")) == {}

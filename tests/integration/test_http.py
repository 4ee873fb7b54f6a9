"""The HTTP interface on real processes: what it keeps, what it refuses, and that a refusal changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import pytest
from bench.cluster import Cluster, wait_for
from bench.http11 import Response, exchange_raw, request_bytes

pytestmark = pytest.mark.integration

VALUE_BYTES_MAX = 1 << 20
KEY_BYTES_MAX = 1024
ENTRIES_OF_A_LEADER = 2
"""What a new leader may propose by itself, before anybody asks it for anything."""
NUMBERS = count()


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    return new_cluster(shards=2, nodes=3).start()


@pytest.fixture
def key() -> str:
    """A key that no other test uses."""
    return f"http/{next(NUMBERS)}"


@pytest.fixture
def unchanged(cluster: Cluster) -> Iterator[None]:
    """Checks that a test leaves every shard as it was: nothing is committed, nothing is proposed."""
    before = cluster.await_all_equal()
    yield
    for shard, after in cluster.await_all_equal().items():
        committed = max(view.commit_index for view in after) - max(view.commit_index for view in before[shard])
        # Whoever was elected meanwhile, as on a slow machine, has committed entries of its own.
        elected = max(view.term for view in after) - max(view.term for view in before[shard])
        assert committed <= ENTRIES_OF_A_LEADER * elected, f"shard {shard} has changed"


def assert_problem(response: Response, *statuses: int) -> dict[str, Any]:
    """An answer is a clear problem document with one of these statuses."""
    assert response.status in statuses, f"{response.status}: {response.body[:300]!r}"
    assert response.headers["content-type"].startswith("application/problem+json")
    document: dict[str, Any] = response.json()
    assert document["status"] == response.status
    for name in ("type", "title", "detail", "code"):
        assert isinstance(document[name], str), name
        assert document[name], name
    assert isinstance(document["retryable"], bool)
    return document


# -- what it keeps --------------------------------------------------------------------------------------------------


def test_a_value_and_its_content_type_are_kept(cluster: Cluster, key: str) -> None:
    value = bytes(range(256))
    put = cluster.request("PUT", f"/v1/kv/{key}", value, {"content-type": "image/x-nothing"})
    assert put.status == 200
    for consistency in ("", "?consistency=linearizable"):
        got = cluster.request("GET", f"/v1/kv/{key}{consistency}")
        assert (got.status, got.body, got.headers["content-type"]) == (200, value, "image/x-nothing")
    shards = cluster.shard_ids()
    assert got.headers["doug-shard"] == put.headers["doug-shard"]
    assert got.headers["doug-shard"] in shards
    assert got.headers["doug-served-by"] in cluster.node_ids


def test_head_is_get_without_the_body(cluster: Cluster, key: str) -> None:
    cluster.request("PUT", f"/v1/kv/{key}", b"12345", {"content-type": "text/plain"})
    head = cluster.request("HEAD", f"/v1/kv/{key}")
    assert (head.status, head.body) == (200, b"")
    assert (head.headers["content-length"], head.headers["content-type"]) == ("5", "text/plain")
    assert cluster.request("HEAD", f"/v1/kv/{key}-missing").status == 404


def test_delete_answers_204_also_when_there_is_nothing(cluster: Cluster, key: str) -> None:
    assert cluster.request("PUT", f"/v1/kv/{key}", b"x").status == 200
    for _ in range(2):
        deleted = cluster.request("DELETE", f"/v1/kv/{key}")
        assert (deleted.status, deleted.body) == (204, b"")
    document = assert_problem(cluster.request("GET", f"/v1/kv/{key}"), 404)
    assert document["code"] == "not_found"


def test_an_eventual_read_sees_the_value_in_the_end(cluster: Cluster, key: str) -> None:
    cluster.request("PUT", f"/v1/kv/{key}", b"seen")
    cluster.await_all_equal()
    servers = set()
    for _ in range(30):
        got = cluster.request("GET", f"/v1/kv/{key}?consistency=eventual")
        assert (got.status, got.body) == (200, b"seen")
        servers.add(got.headers["doug-served-by"])
    assert len(servers) > 1, "eventual reads are spread over the replicas"


@pytest.mark.parametrize(("value", "encoding", "shown"), [(b"word", "utf-8", "word"), (b"\xff\x00", "base64", "/wA=")])
def test_the_json_view_says_its_encoding(cluster: Cluster, key: str, value: bytes, encoding: str, shown: str) -> None:
    cluster.request("PUT", f"/v1/kv/{key}", value)
    document = cluster.request("GET", f"/v1/kv/{key}", headers={"accept": "application/json"}).json()
    assert (document["key"], document["value"], document["encoding"]) == (key, shown, encoding)


def test_an_escaped_slash_is_a_slash(cluster: Cluster) -> None:
    assert cluster.request("PUT", "/v1/kv/slash%2Fed%2fkey", b"one").status == 200
    assert cluster.request("GET", "/v1/kv/slash/ed/key").body == b"one"
    assert cluster.request("GET", "/v1/kv/slash/ed%2Fkey").body == b"one"


@pytest.mark.parametrize(
    "target",
    ["odd//key", "odd/../key", "odd/./key", "/odd", "odd/", "odd%00key", "odd%20key", "odd%C3%A9", "odde%CC%81"],
)
def test_keys_are_bytes_and_never_normalised(cluster: Cluster, target: str) -> None:
    value = target.encode()
    assert cluster.request("PUT", f"/v1/kv/{target}", value).status == 200
    assert cluster.request("GET", f"/v1/kv/{target}").body == value


def test_the_odd_keys_are_all_different(cluster: Cluster) -> None:
    for target in ("odd/key", "key", "odd", "odd%EF%BF%BD"):
        assert cluster.request("GET", f"/v1/kv/{target}").status == 404


def test_the_largest_key_and_the_largest_value_fit(cluster: Cluster) -> None:
    target = "/v1/kv/" + "%C3%A9" * (KEY_BYTES_MAX // 2)
    value = b"\x07" * VALUE_BYTES_MAX
    assert cluster.request("PUT", target, value).status == 200
    assert cluster.request("GET", target).body == value
    empty = "/v1/kv/" + "a" * KEY_BYTES_MAX
    assert cluster.request("PUT", empty, b"").status == 200
    got = cluster.request("GET", empty)
    assert (got.status, got.body) == (200, b"")


def test_a_chunked_body_is_a_body(cluster: Cluster, key: str) -> None:
    head = request_bytes("DELETE", f"/v1/kv/{key}", headers={"transfer-encoding": "chunked", "connection": "close"})
    body = b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"
    assert exchange_raw(cluster.port, head.replace(b"DELETE", b"PUT", 1) + body).status == 200
    assert cluster.request("GET", f"/v1/kv/{key}").body == b"hello world"


def test_the_other_routes_answer(cluster: Cluster) -> None:
    for path in ("/livez", "/readyz", "/metrics", "/docs", "/openapi.json", "/v1/version"):
        assert cluster.request("GET", path).status == 200, path
    assert cluster.request("GET", "/v1/version").json()["version"]
    paths = cluster.request("GET", "/openapi.json").json()["paths"]
    assert {"get", "put", "head", "delete"} <= paths["/v1/kv/{key}"].keys()


def test_the_partition_map_covers_every_slot_once(cluster: Cluster) -> None:
    document = cluster.request("GET", "/v1/partitions").json()
    slots = [slot for entry in document["slots"] for slot in range(entry["from"], entry["to"] + 1)]
    assert sorted(slots) == list(range(1024))
    assert {str(entry["shard"]) for entry in document["slots"]} == set(cluster.shard_ids())
    assert document["epoch"] >= 1


def test_the_cluster_is_shown_node_by_node(cluster: Cluster) -> None:
    def led() -> dict[str, Any] | None:
        document = cluster.status()
        roles = [sorted(node["role"] for node in shard["nodes"]) for shard in document["shards"]]
        return document if roles == [["follower", "follower", "leader"]] * 2 else None

    document = wait_for(led, 60, "a leader and two followers of each shard")
    fields = {"id", "address", "role", "term", "commit_index", "applied_index", "last_log_index", "admin"}
    for shard in document["shards"]:
        assert all(fields <= node.keys() for node in shard["nodes"])
    assert [view.id for view in cluster.views()] == cluster.node_ids


# -- what it refuses ------------------------------------------------------------------------------------------------

BAD_TARGETS = {
    "an empty key": ("/v1/kv/", 400),
    "a key over 1 KiB": ("/v1/kv/" + "k" * (KEY_BYTES_MAX + 1), 400),
    "a key over 1 KiB when decoded": ("/v1/kv/" + "%6B" * (KEY_BYTES_MAX + 1), 400),
    "a lone percent sign": ("/v1/kv/bad%", 400),
    "half an escape": ("/v1/kv/bad%2", 400),
    "an escape that is not hexadecimal": ("/v1/kv/bad%zz", 400),
    "a signed escape": ("/v1/kv/bad%+1", 400),
    "a byte that is never UTF-8": ("/v1/kv/bad%FF", 400),
    "a broken UTF-8 sequence": ("/v1/kv/bad%C3%28", 400),
    "a cut UTF-8 sequence": ("/v1/kv/bad%C3", 400),
    "an overlong UTF-8 sequence": ("/v1/kv/bad%C0%AF", 400),
    "a surrogate": ("/v1/kv/bad%ED%A0%80", 400),
    "an unknown consistency": ("/v1/kv/bad?consistency=strong", 400),
    "an empty consistency": ("/v1/kv/bad?consistency=", 400),
    "a consistency in capitals": ("/v1/kv/bad?consistency=EVENTUAL", 400),
    "two consistencies": ("/v1/kv/bad?consistency=eventual&consistency=linearizable", 400),
    "an unknown parameter": ("/v1/kv/bad?foo=1", 400),
    "an unknown parameter without a value": ("/v1/kv/bad?foo", 400),
    "a known and an unknown parameter": ("/v1/kv/bad?consistency=eventual&foo=1", 400),
    "a badly escaped parameter": ("/v1/kv/bad?consistency=%zz", 400),
}


@pytest.mark.usefixtures("unchanged")
def test_bad_targets_are_refused_by_every_method(cluster: Cluster) -> None:
    for what, (target, status) in BAD_TARGETS.items():
        for method in ("PUT", "GET", "DELETE", "HEAD"):
            response = cluster.request(method, target, b"x" if method == "PUT" else b"")
            print(f"{what}: {method} {response.status}")
            if method == "HEAD":
                assert (response.status, response.body) == (status, b"")
            else:
                assert_problem(response, status)


@pytest.mark.usefixtures("unchanged")
def test_bad_headers_are_refused(cluster: Cluster) -> None:
    assert_problem(cluster.request("GET", "/v1/kv/bad", headers={"doug-consistency": "strong"}), 400)
    assert_problem(cluster.request("PUT", "/v1/kv/bad", b"x", {"content-type": "x/" + "y" * 300}), 400)


@pytest.mark.usefixtures("unchanged")
def test_other_methods_and_routes_are_refused(cluster: Cluster) -> None:
    assert "GET" in cluster.request("POST", "/v1/kv/bad", b"x").headers["allow"]
    assert_problem(cluster.request("POST", "/v1/kv/bad", b"x"), 405)
    assert_problem(cluster.request("PATCH", "/v1/kv/bad", b"x"), 405)
    assert_problem(cluster.request("GET", "/v1/nothing"), 404)
    assert_problem(cluster.request("DELETE", "/v1/cluster"), 405)


@pytest.mark.usefixtures("unchanged")
def test_a_value_over_the_limit_is_refused_by_its_length_alone(cluster: Cluster) -> None:
    head = f"PUT /v1/kv/bad HTTP/1.1\r\nhost: localhost\r\ncontent-length: {VALUE_BYTES_MAX + 1}\r\n\r\n"
    document = assert_problem(exchange_raw(cluster.port, head.encode(), timeout_s=30), 413)
    assert str(VALUE_BYTES_MAX) in document["detail"], "the limit is named"


@pytest.mark.usefixtures("unchanged")
def test_a_value_over_the_limit_is_refused_while_it_streams(cluster: Cluster) -> None:
    chunk = b"10000\r\n" + b"v" * 65_536 + b"\r\n"
    head = b"PUT /v1/kv/bad HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n"
    # One chunk more than the limit allows, and then neither another nor an end.
    response = exchange_raw(cluster.port, head + chunk * (VALUE_BYTES_MAX // 65_536 + 1), timeout_s=30)
    assert_problem(response, 413)


@pytest.mark.usefixtures("unchanged")
def test_requests_that_are_not_http_are_refused(cluster: Cluster) -> None:
    """The server below the facade answers these itself, before there is a request that could be told of a problem."""
    for data in (
        b"PUT /v1/kv/bad HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nxx",
        b"PUT /v1/kv/bad HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\n"
        b"transfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"PUT /v1/kv/bad HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"PUT /v1/kv/bad key HTTP/1.1\r\nhost: localhost\r\n\r\n",
        b"nonsense\r\n\r\n",
    ):
        assert 400 <= exchange_raw(cluster.port, data, timeout_s=30).status < 500, data


def test_a_body_that_never_ends_changes_nothing(cluster: Cluster, key: str) -> None:
    head = f"PUT /v1/kv/{key} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 10\r\nconnection: close\r\n\r\nhalf"
    with pytest.raises(Exception, match="no whole answer"):
        exchange_raw(cluster.port, head.encode(), timeout_s=0.5)
    assert cluster.request("GET", f"/v1/kv/{key}").status == 404


@pytest.mark.usefixtures("unchanged")
def test_malformed_json_is_refused_wherever_json_is_expected(cluster: Cluster) -> None:
    """Takes the routes from the OpenAPI document, so that routes that come later are tested too."""
    tried = []
    for path, methods in cluster.request("GET", "/openapi.json").json()["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {}) if isinstance(operation, dict) else {}
            if path.startswith("/v1/kv/{key}") or "application/json" not in content:
                continue
            target = path.replace("{", "").replace("}", "")
            for body in (b"{", b"", b"nonsense", b'{"a": NaN}', b"[" * 100_000, b'"\xff"'):
                response = cluster.request(method.upper(), target, body, {"content-type": "application/json"})
                assert_problem(response, 400, 413, 422)
                tried.append((method, path))
    print(f"routes that expect JSON: {sorted(set(tried)) or 'none yet'}")


def test_a_value_that_says_it_is_json_is_bytes_all_the_same(cluster: Cluster, key: str) -> None:
    """On the key routes a body is a value: nothing is expected of it, whatever its type."""
    assert cluster.request("PUT", f"/v1/kv/{key}", b"{", {"content-type": "application/json"}).status == 200
    assert cluster.request("GET", f"/v1/kv/{key}").body == b"{"
    shown = cluster.request("GET", f"/v1/kv/{key}", headers={"accept": "application/json"})
    assert json.loads(shown.body)["value"] == "{"

"""A cluster whose clients have to say who they are, as ``dougctl dev --auth`` starts it.

What docs/auth.md promises a new user, and that no secret is where others look.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from bench.cluster import Cluster, wait_for
from bench.http11 import Response, fetch

from doug.v1 import admin_pb2, admin_pb2_grpc, doug_pb2, doug_pb2_grpc

pytestmark = [pytest.mark.integration, pytest.mark.slow]

PAGE = Path(__file__).parents[2] / "docs" / "auth.md"
VALUE = "a-value-that-nobody-logs"
REFUSED_S = 60.0
CALL_S = 15.0
SETTLED_S = 180.0
"""How long a machine with other work may need until nodes have a leader that stays."""


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    cluster = new_cluster(shards=1, nodes=3, options=["--auth"])
    cluster.proof = lambda: {"authorization": f"Bearer {bootstrap(cluster).read_text().strip()}"}
    return cluster.start()


def bootstrap(cluster: Cluster) -> Path:
    """The file of the token that may do everything."""
    return cluster.data / "run" / "bootstrap.token"


class Person:
    """Somebody with dougctl and a token."""

    def __init__(self, cluster: Cluster, token: str) -> None:
        self.cluster = cluster
        self.token = token

    def runs(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "DOUGDB_URL": self.cluster.url, "DOUGDB_TOKEN": self.token}
        command = [self.cluster.command[0], *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    def succeeds(self, *words: str) -> str:
        done = self.runs(*words)
        assert done.returncode == 0, (words, done.stderr)
        return done.stdout.rstrip("\n")

    def status(self, method: str, target: str, body: bytes = b"") -> int:
        return self.cluster.request(method, target, body, {"authorization": f"Bearer {self.token}"}).status

    def asks(self, method: str, target: str, **wanted: object) -> None:
        """Has something changed about users."""
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        answer = self.cluster.request(method, target, json.dumps(wanted).encode() if wanted else b"", headers)
        assert answer.status in (200, 201), answer.body

    def makes(self, name: str, **wanted: object) -> Person:
        """Somebody else, by a new token."""
        headers = {"authorization": f"Bearer {self.token}", "content-type": "application/json"}
        body = json.dumps({"name": name, **wanted}).encode()
        return Person(self.cluster, self.cluster.request("POST", "/v1/auth/tokens", body, headers).json()["token"])


@pytest.fixture(scope="module")
def operator(cluster: Cluster) -> Person:
    """Whoever has the bootstrap token."""
    return Person(cluster, bootstrap(cluster).read_text().strip())


def test_the_first_token_is_its_owners_alone(cluster: Cluster) -> None:
    assert bootstrap(cluster).stat().st_mode & 0o777 == 0o600


def test_an_application_that_may_only_read_config(cluster: Cluster, operator: Person) -> None:
    """The page's own way, in fewer than five commands: its lines are read from it."""
    steps = [line.split("#")[0].strip() for line in PAGE.read_text().splitlines() if line.startswith("    ")][:4]
    assert steps[0] == 'make run ARGS="--auth"'
    assert steps[1] == "export DOUGDB_TOKEN=$(cat data/run/bootstrap.token)"
    assert steps[2] == ".venv/bin/dougctl auth token create my-app --allow read:config/"
    assert steps[3] == 'curl -H "Authorization: Bearer TOKEN" localhost:8080/v1/kv/config/colour'
    assert operator.status("PUT", "/v1/kv/config/colour", b"green") == 200
    assert operator.status("PUT", "/v1/kv/secret/key", VALUE.encode()) == 200
    app = Person(cluster, operator.succeeds(*steps[2].split()[1:]))
    assert app.status("GET", "/v1/kv/config/colour") == 200
    assert app.status("GET", "/v1/kv?prefix=config/") == 200
    for method, target in (
        ("GET", "/v1/kv/secret/key"), ("PUT", "/v1/kv/config/colour"), ("DELETE", "/v1/kv/config/colour"),
        ("GET", "/v1/kv"), ("GET", "/v1/kv?start=config/"), ("GET", "/v1/kv?prefix=&delimiter=/"),
        ("GET", "/v1/watch?prefix=config/"), ("GET", "/v1/cluster"), ("GET", "/metrics"), ("GET", "/v1/auth/tokens"),
        ("GET", "/v1/shards/0/backup"), ("POST", "/v1/shards/0/leader"), ("GET", "/v1/console/state"),
    ):  # fmt: skip
        assert app.status(method, target, b"x" if method == "PUT" else b"") == 403, (method, target)
    assert app.succeeds("auth", "whoami").split() == ["token:my-app", "read:config/"]
    assert app.succeeds("auth", "can-i", "read", "config/colour") == "yes"
    assert (app.runs("auth", "can-i", "write", "config/colour").returncode) == 1
    operator.succeeds("auth", "token", "revoke", "my-app")
    wait_for(lambda: app.status("GET", "/v1/kv/config/colour") == 401, REFUSED_S, "the token to be refused")
    assert fetch(cluster.port, "GET", "/v1/kv/config/colour").status == 401
    assert fetch(cluster.port, "GET", "/livez").status == 200


def test_roles_come_and_go_and_tokens_expire(operator: Person) -> None:
    person = operator.makes("person", roles=["reader"])
    short = operator.makes("short", allow=["read:*"], ttl="1s")
    assert person.status("PUT", "/v1/kv/app/a", b"v") == 403
    operator.asks("PUT", "/v1/auth/roles/apps", allow=["write:app/"])
    operator.asks("POST", "/v1/auth/users", principal="token:person", role="apps")
    wait_for(lambda: person.status("PUT", "/v1/kv/app/a", b"v") == 200, REFUSED_S, "the role to count")
    assert person.status("PUT", "/v1/kv/other", b"v") == 403
    operator.asks("DELETE", "/v1/auth/users?principal=token:person&role=apps")
    wait_for(lambda: person.status("PUT", "/v1/kv/app/a", b"v") == 403, REFUSED_S, "the role to be taken")
    wait_for(lambda: short.status("GET", "/v1/kv/app/a") == 401, REFUSED_S, "the token to expire")
    listed = {each["name"]: each for each in json.loads(operator.succeeds("auth", "token", "list", "--json"))["tokens"]}
    assert "read:*" in listed["person"]["may"]
    assert person.token not in json.dumps(listed)


def test_a_watch_ends_with_its_token(operator: Person) -> None:
    watcher = operator.makes("watcher", allow=["watch:app/"])
    environment = {**os.environ, "DOUGDB_URL": operator.cluster.url, "DOUGDB_TOKEN": watcher.token}
    command = [operator.cluster.command[0], "watch", "app/", "--from", "start"]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as watching:
        try:
            assert watching.stdout is not None
            assert operator.status("PUT", "/v1/kv/app/seen", b"v") == 200
            assert "app/" in watching.stdout.readline()
            operator.asks("DELETE", "/v1/auth/tokens/watcher")
            _, told = watching.communicate(timeout=REFUSED_S)
        finally:
            watching.kill()
    assert watching.returncode not in (0, -9)
    assert "Traceback" not in told


def test_a_browser_signs_in_and_other_pages_get_nothing(cluster: Cluster, operator: Person) -> None:
    def ask(method: str, target: str, **headers: str) -> Response:
        return fetch(cluster.port, method, target, headers={name.replace("_", "-"): headers[name] for name in headers})

    signed = cluster.request("POST", "/v1/auth/session")
    assert signed.status == 201
    cookie, csrf = signed.headers["set-cookie"].split(";")[0], signed.json()["csrf"]
    state = "/v1/console/state"
    assert ask("GET", state, cookie=cookie).json()["code"] == "csrf"
    assert ask("GET", state, cookie=cookie, doug_csrf=csrf).status == 200
    foreign = ask("POST", "/v1/shards/0/members", cookie=cookie, doug_csrf=csrf, origin="http://evil.example")
    assert foreign.json()["code"] == "cross_origin"
    assert ask("DELETE", "/v1/auth/session", cookie=cookie, doug_csrf=csrf).status == 204
    assert ask("GET", state, cookie=cookie, doug_csrf=csrf).status == 401


def channel_to(cluster: Cluster, address: str, certificate: str) -> grpc.Channel:
    """A connection to a node's port with a certificate of the cluster; with none if its name is empty."""
    folder = cluster.data / "run" / "tls" / (certificate or "client")
    pair = ((folder / "tls.key").read_bytes(), (folder / "tls.crt").read_bytes()) if certificate else ()
    credentials = grpc.ssl_channel_credentials((folder / "ca.crt").read_bytes(), *pair)
    return grpc.secure_channel(address, credentials, [("grpc.enable_http_proxy", 0)])


def code_of(call: Callable[..., Any], request: Any, token: str = "") -> grpc.StatusCode:
    """The status of a call with a token."""
    metadata = (("authorization", f"Bearer {token}"),) if token else ()
    try:
        call(request, timeout=CALL_S, metadata=metadata)
    except grpc.RpcError as error:
        code: grpc.StatusCode = error.code()
        return code
    return grpc.StatusCode.OK


def test_the_ports_of_nodes_serve_no_stranger(cluster: Cluster) -> None:
    """Neither in plaintext nor with TLS and no certificate; that of a node is let in, which shows that they serve."""
    address, bearer = cluster.views()[0].address, cluster.proof()["authorization"].partition(" ")[2]
    for channel, expected in (
        (grpc.insecure_channel(address, [("grpc.enable_http_proxy", 0)]), grpc.StatusCode.UNAVAILABLE),
        (channel_to(cluster, address, ""), grpc.StatusCode.UNAVAILABLE),
        (channel_to(cluster, address, "client"), grpc.StatusCode.UNAUTHENTICATED),
        (channel_to(cluster, address, cluster.node_ids[0]), grpc.StatusCode.OK),
    ):
        with channel:
            stub = admin_pb2_grpc.AdminStub(channel)
            assert code_of(stub.Status, admin_pb2.StatusRequest(), bearer) is expected


UNSETTLED = (grpc.StatusCode.FAILED_PRECONDITION, grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
"""What a node answers that does not lead, or has lost its leader for a moment."""


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[list[grpc.Channel]]:
    """A client's connections to all nodes."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(channel_to(cluster, view.address, "client")) for view in cluster.views()]


def test_a_client_may_do_at_a_node_what_its_token_allows(
    cluster: Cluster, operator: Person, nodes: list[grpc.Channel]
) -> None:
    """By the same rule as at a facade."""
    ok, denied, unknown = grpc.StatusCode.OK, grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.UNAUTHENTICATED

    def code(stub: Callable[[grpc.Channel], Any], method: str, request: Any, token: str) -> grpc.StatusCode:
        """What the one that leads answers, or the first that refuses."""

        def asked() -> grpc.StatusCode | None:
            codes = (code_of(getattr(stub(channel), method), request, token) for channel in nodes)
            return next((each for each in codes if each not in UNSETTLED), None)

        return wait_for(asked, SETTLED_S, f"an answer to {method}")

    app = operator.makes("guest", allow=["read:config/", "write:jobs/", "watch:config/"])
    doug, admin = doug_pb2_grpc.DougStub, admin_pb2_grpc.AdminStub
    read = doug_pb2.GetRequest(key=b"config/a")
    for stub, method, request, expected in (
        (doug, "Get", read, ok),
        (doug, "Get", doug_pb2.GetRequest(key=b"app/a"), denied),
        (doug, "Get", doug_pb2.GetRequest(key=b"app/a", consistency=doug_pb2.CONSISTENCY_EVENTUAL), denied),
        (doug, "Put", doug_pb2.PutRequest(key=b"config/a", value=b"1"), denied),
        (doug, "Put", doug_pb2.PutRequest(key=b"jobs/a", value=b"1"), ok),
        (admin, "Status", admin_pb2.StatusRequest(), denied),
        (admin, "GetAuth", admin_pb2.GetAuthRequest(), denied),
    ):
        assert code(stub, method, request, app.token) is expected, request
        assert code(stub, method, request, "") is unknown, request
    assert code(admin, "Status", admin_pb2.StatusRequest(), operator.token) is unknown, "it counts at facades alone"
    both = (doug_pb2.Operation(get=doug_pb2.OperationGet(key=key)) for key in (b"jobs/a", b"config/a"))
    batch, shown = doug_pb2.ExecuteBatchRequest(operations=both), (("authorization", f"Bearer {app.token}"),)

    def carried_out() -> list[int] | None:
        for channel in nodes:
            with contextlib.suppress(grpc.RpcError):
                told = doug(channel).ExecuteBatch(batch, timeout=CALL_S, metadata=shown)
                return [each.status for each in told.results]
        return None

    each = wait_for(carried_out, SETTLED_S, "a batch")
    assert each == [doug_pb2.OPERATION_STATUS_FORBIDDEN, doug_pb2.OPERATION_STATUS_NOT_FOUND]
    for channel in nodes:
        # Every node of shard 0 judges and reads, those that follow, too.
        forwarded = doug_pb2.GetRequest(key=b"config/a", forward=True)
        get = doug(channel).Get
        wait_for(lambda: code_of(get, forwarded, app.token) is ok, SETTLED_S, "each node to serve")  # noqa: B023

    wanted = doug_pb2.WatchRequest(now=True, start=b"config/", end=b"config0")

    def begun() -> Iterator[doug_pb2.WatchBatch] | None:
        stream = doug(nodes[0]).Watch(wanted, metadata=(("authorization", f"Bearer {app.token}"),))
        with contextlib.suppress(grpc.RpcError):
            next(stream)
            return stream
        return None

    watching = wait_for(begun, SETTLED_S, "a watch")
    operator.succeeds("auth", "token", "revoke", "guest")
    with pytest.raises(grpc.RpcError) as ended:
        for _ in watching:
            pass
    assert ended.value.code() in (unknown, *UNSETTLED)
    for channel in nodes:
        get = doug(channel).Get
        wait_for(lambda: code_of(get, read, app.token) is unknown, SETTLED_S, "each node to refuse it")  # noqa: B023
    told = "".join((cluster.data / "run" / f"{name}.log").read_text() for name in cluster.node_ids)
    assert '"principal": "token:guest"' in told
    assert app.token.rpartition("_")[2] not in told


def test_a_stream_of_requests_is_refused_like_any_other_call(operator: Person, nodes: list[grpc.Channel]) -> None:
    """Pipe is for facades alone; a client that opens it is told so, and the log has no traceback of it."""
    app = operator.makes("piping", allow=["read:*", "write:*"])
    shown = (("authorization", f"Bearer {app.token}"),)

    def refused() -> grpc.StatusCode | None:
        codes = (doug_pb2_grpc.DougStub(each).Pipe(iter(()), timeout=CALL_S, metadata=shown).code() for each in nodes)
        # A node that has not heard of the token yet does not know it.
        return next((code for code in codes if code not in (*UNSETTLED, grpc.StatusCode.UNAUTHENTICATED)), None)

    assert wait_for(refused, SETTLED_S, "an answer") is grpc.StatusCode.PERMISSION_DENIED


@pytest.fixture(scope="module")
def secrets(cluster: Cluster, operator: Person) -> Iterator[dict[str, str]]:
    """Every kind of secret of this cluster, by what it is, all of them used."""
    app = operator.makes("app", allow=["read:*", "write:*"])
    assert app.status("PUT", "/v1/kv/secret/value", VALUE.encode()) == 200
    signed = cluster.request("POST", "/v1/auth/session", headers={"authorization": f"Bearer {app.token}"})
    cookie = signed.headers["set-cookie"].split(";")[0].partition("=")[2]
    wrong = app.token[:-4] + "AAAA"
    assert Person(cluster, wrong).status("GET", "/v1/kv/secret/value") == 401
    run = cluster.data / "run"
    key = (run / "tls" / "facade" / "tls.key").read_text().splitlines()[1]
    yield {
        "the bootstrap token": operator.token,
        "a token": app.token[-30:],
        "a wrong token": wrong.rpartition("_")[2],
        "the cookie of a session": cookie,
        "the word of a session": signed.json()["csrf"],
        "the key of sessions": (run / "session.key").read_text().strip(),
        "a private key": key,
        "a value": VALUE,
    }


def found_in(place: str, text: str, secrets: dict[str, str]) -> list[str]:
    return [f"{what} in {place}" for what, secret in secrets.items() if secret in text]


def test_no_secret_is_where_others_look(cluster: Cluster, secrets: dict[str, str], tmp_path: Path) -> None:
    """Process lists, environments, logs, the audit log, metrics, what operators see, and a backup's manifests."""
    with_backup = {**os.environ, "DOUGDB_URL": cluster.url, "DOUGDB_TOKEN_FILE": str(bootstrap(cluster))}
    making = [cluster.command[0], "backup", "create", str(tmp_path / "backup")]
    subprocess.run(making, env=with_backup, stdout=subprocess.DEVNULL, timeout=120, check=True)
    found: list[str] = []
    for each in cluster.processes():
        with contextlib.suppress(psutil.NoSuchProcess):
            found += found_in(f"the arguments of {each.pid}", " ".join(each.cmdline()), secrets)
            found += found_in(f"the environment of {each.pid}", json.dumps(each.environ()), secrets)
    logs = [*(cluster.data / "run").glob("*.log"), *(cluster.data / "run").glob("*.jsonl"), cluster.output]
    manifests = [path for path in (tmp_path / "backup").rglob("*") if path.is_file() and path.suffix == ".json"]
    assert len(logs) >= 6
    assert manifests
    for path in (*logs, *manifests):
        found += found_in(path.name, path.read_text(errors="replace"), secrets)
    for target in ("/metrics", "/v1/cluster?vitals=true", "/v1/shards/0/events", "/v1/auth/tokens", "/v1/limits"):
        answer = cluster.request("GET", target)
        assert answer.status == 200, target
        found += found_in(target, answer.body.decode(), secrets)
    assert found == []


def test_nodes_keep_no_token(cluster: Cluster, secrets: dict[str, str]) -> None:
    """Their disks hold salted hashes; that a value is found shows that this looks at what they hold."""
    found: set[str] = set()
    for node_id in cluster.node_ids:
        for path in filter(Path.is_file, cluster.files(node_id, "**/*")):
            with contextlib.suppress(FileNotFoundError):  # Files come and go.
                held = path.read_bytes()
                found |= {what for what, secret in secrets.items() if secret.encode() in held}
    assert found == {"a value"}


def test_servers_leave_no_core_dump(cluster: Cluster) -> None:
    for name in (*cluster.node_ids, "facade"):
        process = cluster.member(name)
        if hasattr(process, "rlimit"):
            assert process.rlimit(psutil.RLIMIT_CORE)[0] == 0

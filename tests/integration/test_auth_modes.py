"""A facade process that takes certificates and JWTs, too; and how soon a revoked token counts nowhere any more.

The cluster is that of ``dougctl dev --auth``. A second facade of it, which asks for TLS, has all modes but ``none``.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from bench.cluster import Cluster, free_ports, wait_for
from bench.http11 import HttpError, Response, Secure, fetch
from bench.witness import Witness
from cryptography.hazmat.primitives.asymmetric import ec
from tools.certs import Authority, write

from doug.v1 import admin_pb2, admin_pb2_grpc, doug_pb2, doug_pb2_grpc

pytestmark = [pytest.mark.integration, pytest.mark.slow]

READY_S = 60.0
REVOKED_S = 2.0
"""How soon a revoked token is refused everywhere."""
ISSUER, AUDIENCE = "https://issuer.example", "dougdb"
RELOAD_MS = 200
LOOK_S = 0.05
"""How long a look waits for the next one: many places are looked at side by side, and the machine has work to do."""


class Facade:
    """The second facade, with the files that its clients are judged by."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.port = free_ports(27_000, 28_000, 1)
        self.people, self.key = Authority.make("people"), ec.generate_private_key(ec.SECP256R1())
        self.authorities, self.keys = folder / "people.crt", folder / "jwks.json"
        write(self.authorities, self.people.pem)
        self.publish(one=self.key)
        launch = cluster.launch_of("facade")
        left_out = {"DOUGDB_DEV_SOCKET", "DOUGDB_AUDIT_FILE", "DOUGDB_SHARED_LISTEN", "DOUGDB_HTTP_TLS"}
        kept = {name: value for name, value in launch.environment.items() if name not in left_out}
        own = {
            "DOUGDB_LISTEN": f"127.0.0.1:{self.port}",
            "DOUGDB_AUTH_MODE": "token,mtls,oidc",
            "DOUGDB_AUTH_CLIENT_CA_FILE": str(self.authorities),
            "DOUGDB_AUTH_OIDC_ISSUER": ISSUER,
            "DOUGDB_AUTH_OIDC_AUDIENCE": AUDIENCE,
            "DOUGDB_AUTH_OIDC_JWKS": str(self.keys),
            "DOUGDB_TLS_RELOAD_MS": str(RELOAD_MS),
        }
        self.process = replace(launch, environment=kept | own).start(folder / "facade.log")
        wait_for(self._serves, READY_S, "the facade to serve")

    def _serves(self) -> bool:
        assert self.process.poll() is None, (self.folder / "facade.log").read_text()
        try:
            return self.asks("GET", "/readyz").status == 200
        except HttpError:
            return False

    def publish(self, **keys: ec.EllipticCurvePrivateKey) -> None:
        """Makes these keys the issuer's only ones, by their ids."""
        algorithm = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256)
        shown = {kid: json.loads(algorithm.to_jwk(key.public_key())) for kid, key in keys.items()}
        listed = [{**public, "kid": kid, "alg": "ES256", "use": "sig"} for kid, public in shown.items()]
        write(self.keys, json.dumps({"keys": listed}).encode())

    def secure(self, name: str = "", authority: Authority | None = None) -> Secure:
        """A connection to it, with a client's certificate of this name."""
        context = ssl.create_default_context(cafile=str(self.cluster.data / "run" / "tls" / "facade" / "ca.crt"))
        if name:
            place = self.folder / f"client-{name}"
            place.mkdir(exist_ok=True)
            (authority or self.people).write_certificate(place, [name])
            context.load_cert_chain(place / "tls.crt", place / "tls.key")
        return Secure(context, "localhost")

    def asks(
        self, method: str, target: str, bearer: str = "", body: bytes = b"", secure: Secure | None = None
    ) -> Response:
        """One request."""
        headers = {"authorization": f"Bearer {bearer}"} if bearer else {}
        return fetch(self.port, method, target, body, headers, secure=secure or self.secure())

    def close(self) -> None:
        """Ends it."""
        self.process.kill()
        self.process.wait()
        assert self.process.stdin is not None
        self.process.stdin.close()


@pytest.fixture(scope="module")
def cluster(new_cluster: Callable[..., Cluster]) -> Cluster:
    # A machine with other work keeps its leaders with these; they have nothing to do with what is bounded here.
    slow = ("DOUGDB_ELECTION_TIMEOUT_MS=1000", "DOUGDB_ELECTION_TIMEOUT_MAX_MS=2000")
    options = ["--auth", *(word for each in slow for word in ("--node-env", each))]
    cluster = new_cluster(shards=2, nodes=3, options=options)
    token = cluster.data / "run" / "bootstrap.token"
    cluster.proof = lambda: {"authorization": f"Bearer {token.read_text().strip()}"}
    return cluster.start()


@pytest.fixture(scope="module")
def facade(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Facade]:
    started = Facade(cluster, tmp_path_factory.mktemp("second"))
    yield started
    started.close()


def change(cluster: Cluster, method: str, target: str, **wanted: object) -> dict[str, Any]:
    """Has something changed about users."""
    body = json.dumps(wanted).encode() if wanted else b""

    def changed() -> Response | None:
        answer = cluster.request(method, target, body, {"content-type": "application/json"})
        return None if answer.status == 503 else answer  # Nothing was done: nobody leads for a moment.

    answer = wait_for(changed, READY_S, "a leader")
    assert answer.status in (200, 201), answer.body
    found: dict[str, Any] = answer.json()
    return found


def signed(facade: Facade, key: ec.EllipticCurvePrivateKey, kid: str = "one", audience: str = AUDIENCE) -> str:
    """A JWT of the issuer for bob."""
    claims = {"iss": ISSUER, "aud": audience, "sub": "bob", "exp": int(time.time()) + 600, "groups": ["ops"]}
    return jwt.encode(claims, key, "ES256", headers={"kid": kid})


def test_a_facade_takes_certificates_and_jwts(cluster: Cluster, facade: Facade) -> None:
    change(cluster, "PUT", "/v1/auth/roles/apps", allow=["write:app/"])
    ann, bob = facade.secure("ann"), signed(facade, facade.key)

    def writes(key: str = "app/a", bearer: str = "", secure: Secure | None = None) -> int:
        return facade.asks("PUT", f"/v1/kv/{key}", bearer, b"v", secure).status

    known = lambda: (writes(), writes(secure=ann), writes(bearer=bob)) == (401, 403, 403)  # noqa: E731
    wait_for(known, READY_S, "the facade to have read who may do what, and to know them")
    assert writes(bearer=signed(facade, facade.key, audience="another")) == 401
    with pytest.raises(HttpError):
        writes(secure=facade.secure("eve", Authority.make("others")))
    change(cluster, "POST", "/v1/auth/users", principal="cert:ann", role="apps")
    change(cluster, "POST", "/v1/auth/users", principal="group:ops", role="apps")
    wait_for(lambda: (writes(secure=ann), writes(bearer=bob)) == (200, 200), READY_S, "both to have the right")
    assert (writes("other", secure=ann), writes("other", bearer=bob), writes()) == (403, 403, 401)
    assert facade.asks("GET", "/v1/auth/whoami", secure=ann).json()["principal"] == "cert:ann"


def test_authorities_and_keys_are_replaced_while_clients_write(cluster: Cluster, facade: Facade) -> None:
    """No request of a valid client fails: what is new is added first, and the old taken away at the end."""
    change(cluster, "PUT", "/v1/auth/roles/rotated", allow=["write:rotated/"])
    for principal in ("cert:cat", "oidc:bob"):
        change(cluster, "POST", "/v1/auth/users", principal=principal, role="rotated")
    other, next_key = Authority.make("people"), ec.generate_private_key(ec.SECP256R1())
    cat, new_cat = facade.secure("cat"), facade.secure("cat", other)
    old_bob, new_bob = signed(facade, facade.key), signed(facade, next_key, "two")

    def status(bearer: str = "", secure: Secure | None = None) -> int:
        try:
            return facade.asks("PUT", "/v1/kv/rotated/a", bearer, b"v", secure).status
        except HttpError:
            return 0

    wait_for(lambda: (status(secure=cat), status(old_bob)) == (200, 200), READY_S, "both to have the right")
    shown: dict[str, Any] = {"cat": {"secure": cat}, "bob": {"bearer": old_bob}}
    answers: list[tuple[str, int]] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            answers.extend((name, status(**shown[name])) for name in shown)

    def goes_on() -> None:
        reached = len(answers) + 8
        wait_for(lambda: len(answers) > reached, READY_S, "both to be answered some more times")

    loading = threading.Thread(target=load)
    loading.start()
    try:
        write(facade.authorities, facade.people.pem + other.pem)
        facade.publish(one=facade.key, two=next_key)
        wait_for(lambda: status(secure=new_cat) == 200, READY_S, "the new authority to count")
        wait_for(lambda: status(new_bob) == 200, READY_S, "the new key to count")
        goes_on()
        shown |= {"cat": {"secure": new_cat}, "bob": {"bearer": new_bob}}
        goes_on()
        write(facade.authorities, other.pem)
        facade.publish(two=next_key)
        # A key that nobody knows has the set read at once, and not within a minute.
        stray = signed(facade, ec.generate_private_key(ec.SECP256R1()), "stray")
        gone = lambda: (status(stray), status(old_bob)) == (401, 401)  # noqa: E731
        wait_for(gone, READY_S, "the old key to count no more")
        wait_for(lambda: status(secure=cat) in (0, 401), READY_S, "the old authority to count no more")
        goes_on()
    finally:
        over.set()
        loading.join()
    assert set(answers) == {("cat", 200), ("bob", 200)}


class Place:
    """A place where a token counts, and when it was seen to count no more."""

    def __init__(self, name: str, counts: Callable[[], bool]) -> None:
        self.name, self._counts = name, counts
        self.ended_s = 0.0
        self._pause = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while self._counts():
            self._pause.wait(LOOK_S)
        self.ended_s = time.monotonic()

    def begin(self) -> None:
        """Looks from now on."""
        self._thread.start()

    def end(self) -> None:
        """Waits until it counts no more."""
        self._thread.join(READY_S)
        assert not self._thread.is_alive(), f"{self.name} goes on"


class Visits:
    """What whoever has a token may do at both facades, each in every way that lasts, and over a kept connection."""

    def __init__(self, cluster: Cluster, facade: Facade, token: str, stack: contextlib.ExitStack) -> None:
        self._bearer = {"authorization": f"Bearer {token}"}
        self._stack = stack
        context = facade.secure().context
        self._facades: dict[str, Callable[[], http.client.HTTPConnection]] = {
            "this facade": lambda: http.client.HTTPConnection("127.0.0.1", cluster.port, timeout=READY_S),
            "another facade": lambda: http.client.HTTPSConnection(
                "localhost", facade.port, timeout=READY_S, context=context
            ),
        }
        signed = cluster.request("POST", "/v1/auth/session", headers=self._bearer)
        assert signed.status == 201, signed.body
        cookie = signed.headers["set-cookie"].split(";")[0]
        self._session = {"cookie": f"{cookie}; __Host-{cookie}", "doug-csrf": signed.json()["csrf"]}

    def _asks(self, facade: str, target: str, headers: dict[str, str]) -> Callable[[], bool]:
        """Asks over one connection whether it is answered with anything else than 401."""
        connection = self._stack.enter_context(contextlib.closing(self._facades[facade]()))

        def counts() -> bool:
            connection.request("GET", target, headers=headers)
            with connection.getresponse() as answer:
                answer.read()
            return answer.status != 401

        return counts

    def _follows(self, facade: str, target: str) -> Callable[[], bool]:
        """Reads a stream, and tells whether it goes on."""
        connection = self._stack.enter_context(contextlib.closing(self._facades[facade]()))
        connection.request("GET", target, headers=self._bearer | {"accept": "text/event-stream"})
        answer = self._stack.enter_context(connection.getresponse())
        assert answer.status == 200, (target, answer.status)
        return lambda: answer.read1() != b""

    def places(self) -> list[Place]:
        """All of it."""
        return [
            Place(f"{what} at {facade}", counts)
            for facade in self._facades
            for what, counts in (
                ("a read", self._asks(facade, "/v1/kv/k", self._bearer)),
                ("a page", self._asks(facade, "/v1/kv?limit=1", self._bearer)),
                ("a look at the cluster", self._asks(facade, "/v1/cluster", self._bearer)),
                ("a long poll", self._asks(facade, "/v1/kv/k?wait=60s&after=0", self._bearer)),
                ("a session", self._asks(facade, "/v1/kv/k", self._session)),
                ("a watch", self._follows(facade, "/v1/watch")),
                ("the console", self._follows(facade, "/v1/console/stream")),
            )
        ]


class Calls:
    """The same at the nodes' own ports."""

    def __init__(self, cluster: Cluster, token: str, stack: contextlib.ExitStack) -> None:
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._views = cluster.views()
        tls = cluster.data / "run" / "tls" / "client"
        files = [(tls / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
        self._channels = {
            view.id: stack.enter_context(
                grpc.secure_channel(view.address, grpc.ssl_channel_credentials(*files), [("grpc.enable_http_proxy", 0)])
            )
            for view in self._views
        }

    def _asks(self, method: Callable[..., Any], request: Any) -> Callable[[], bool]:
        def counts() -> bool:
            try:
                method(request, metadata=self._metadata, timeout=10)
            except grpc.RpcError as error:
                return error.code() is not grpc.StatusCode.UNAUTHENTICATED
            return True

        return counts

    def _follows(self, node: str) -> Callable[[], bool]:
        stream = doug_pb2_grpc.DougStub(self._channels[node]).Watch(
            doug_pb2.WatchRequest(now=True), metadata=self._metadata
        )
        next(stream)

        def goes_on() -> bool:
            try:
                next(stream)
            except grpc.RpcError as error:
                assert error.code() is grpc.StatusCode.UNAUTHENTICATED, error
                return False
            return True

        return goes_on

    def places(self) -> list[Place]:
        """Every node of shard 0 judges; of another shard its leader, while the others send everybody to it."""
        found = []
        for view in self._views:
            doug = doug_pb2_grpc.DougStub(self._channels[view.id])
            admin = admin_pb2_grpc.AdminStub(self._channels[view.id])
            if view.shard == "0" or view.role == "leader":
                get, look = doug_pb2.GetRequest(key=b"k", forward=True), admin_pb2.StatusRequest()
                found.append(Place(f"a read at {view.id}", self._asks(doug.Get, get)))
                found.append(Place(f"an operator's look at {view.id}", self._asks(admin.Status, look)))
            if view.role == "leader":
                found.append(Place(f"a watch at {view.id}", self._follows(view.id)))
        return found


def test_a_revoked_token_is_refused_everywhere_within_two_seconds(
    cluster: Cluster, facade: Facade, tmp_path: Path
) -> None:
    """At the facade that revokes it, at another one, and at the nodes of all shards, whatever it was used for."""
    wanted = ["read:*", "watch:*", "metrics"]
    token = change(cluster, "POST", "/v1/auth/tokens", name="short", allow=wanted)["token"]
    shown = {"authorization": f"Bearer {token}"}
    wait_for(
        lambda: fetch(facade.port, "GET", "/v1/kv/k", headers=shown, secure=facade.secure()).status == 404,
        READY_S,
        "the token to count at another facade",
    )
    for shard in cluster.shard_ids():
        cluster.await_leader(shard)
    with contextlib.ExitStack() as stack:
        places = [*Visits(cluster, facade, token, stack).places(), *Calls(cluster, token, stack).places()]
        with Witness(tmp_path) as witness:
            for place in places:
                place.begin()
            asked_s = time.monotonic()
            change(cluster, "DELETE", "/v1/auth/tokens/short")
            revoked_s = time.monotonic()
            for place in places:
                place.end()
    took_s = {
        place.name: max(0.0, place.ended_s - revoked_s) - witness.stalled_s(revoked_s, place.ended_s)
        for place in places
    }
    print(witness.told(), {name: round(each_s, 2) for name, each_s in took_s.items()})
    assert len(took_s) == 14 + 2 * 4 + 2
    assert all(place.ended_s > asked_s for place in places), "nothing has ended by itself"
    assert not {name: each_s for name, each_s in took_s.items() if each_s >= REVOKED_S}

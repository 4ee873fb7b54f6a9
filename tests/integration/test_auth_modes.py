"""A facade process that takes certificates and JWTs, too; and how soon a revoked token counts nowhere any more.

The cluster is that of ``dougctl dev --auth``. A second facade of it, which asks for TLS, has all modes but ``none``.
"""

from __future__ import annotations

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

from doug.v1 import doug_pb2, doug_pb2_grpc

pytestmark = [pytest.mark.integration, pytest.mark.slow]

READY_S = 60.0
REVOKED_S = 2.0
"""How soon a revoked token is refused everywhere."""
ISSUER, AUDIENCE = "https://issuer.example", "dougdb"
RELOAD_MS = 200


class Facade:
    """The second facade, with the files that its clients are judged by."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster, self.folder = cluster, folder
        self.port = free_ports(27_000, 28_000, 1)
        self.people, self.key = Authority.make("people"), ec.generate_private_key(ec.SECP256R1())
        self.authorities, self.keys = folder / "people.crt", folder / "jwks.json"
        write(self.authorities, self.people.pem)
        self.publish("one", self.key)
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

    def publish(self, kid: str, key: ec.EllipticCurvePrivateKey) -> None:
        """Makes this key the issuer's only one."""
        public = json.loads(jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).to_jwk(key.public_key()))
        write(self.keys, json.dumps({"keys": [{**public, "kid": kid, "alg": "ES256", "use": "sig"}]}).encode())

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
    cluster = new_cluster(shards=1, nodes=3, options=["--auth"])
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
    answer = cluster.request(method, target, body, {"content-type": "application/json"})
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
    """No request of a valid client fails: the new authority is added first, and the old one taken away at the end."""
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
    answers: list[int] = []
    over = threading.Event()

    def load() -> None:
        while not over.is_set():
            answers.append(status(secure=cat))

    loading = threading.Thread(target=load)
    loading.start()
    try:
        write(facade.authorities, facade.people.pem + other.pem)
        wait_for(lambda: status(secure=new_cat) == 200, READY_S, "the new authority to count")
        facade.publish("two", next_key)
        wait_for(lambda: status(new_bob) == 200, READY_S, "the new key to count")
        wait_for(lambda: status(old_bob) == 401, READY_S, "the old key to count no more")
    finally:
        over.set()
        loading.join()
    assert answers and set(answers) == {200}, answers
    write(facade.authorities, other.pem)
    wait_for(lambda: status(secure=cat) in (0, 401), READY_S, "the old authority to count no more")
    assert status(secure=new_cat) == 200


class Place:
    """A place where a token counts, and when it was seen to count no more."""

    def __init__(self, name: str, counts: Callable[[], bool]) -> None:
        self.name, self._counts = name, counts
        self.ended_s = 0.0
        self._thread = threading.Thread(target=self._look)

    def _look(self) -> None:
        while self._counts():
            pass
        self.ended_s = time.monotonic()

    def __enter__(self) -> Place:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(READY_S)
        assert not self._thread.is_alive(), f"{self.name} goes on"


def test_a_revoked_token_is_refused_everywhere_within_two_seconds(
    cluster: Cluster, facade: Facade, tmp_path: Path
) -> None:
    """At the facade that revokes it, at another one, and at a node, by calls and by streams that are under way."""
    token = change(cluster, "POST", "/v1/auth/tokens", name="short", allow=["read:*", "watch:*"])["token"]
    shown = {"authorization": f"Bearer {token}"}
    leader = next(view for view in cluster.views() if view.role == "leader")
    tls = cluster.data / "run" / "tls" / "client"
    files = [(tls / name).read_bytes() for name in ("ca.crt", "tls.key", "tls.crt")]
    channel = grpc.secure_channel(leader.address, grpc.ssl_channel_credentials(*files), [("grpc.enable_http_proxy", 0)])
    doug, metadata = doug_pb2_grpc.DougStub(channel), (("authorization", f"Bearer {token}"),)
    watch = doug.Watch(doug_pb2.WatchRequest(), metadata=metadata)

    def at_node() -> bool:
        try:
            doug.Get(doug_pb2.GetRequest(key=b"k"), metadata=metadata, timeout=10)
        except grpc.RpcError as error:
            return error.code() is not grpc.StatusCode.UNAUTHENTICATED
        return True

    def streams() -> bool:
        try:
            next(watch)
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.UNAUTHENTICATED, error
            return False
        return True

    def reads(*words: Any, **more: Any) -> Callable[[], bool]:
        return lambda: fetch(*words, **more).status != 401

    wait_for(reads(facade.port, "GET", "/v1/kv/k", headers=shown, secure=facade.secure()), READY_S, "it to count")
    wait_for(lambda: at_node() and fetch(cluster.port, "GET", "/v1/kv/k", headers=shown).status == 404, READY_S, "it")
    places = [
        Place("this facade", reads(cluster.port, "GET", "/v1/kv/k", headers=shown)),
        Place("another facade", reads(facade.port, "GET", "/v1/kv/k", headers=shown, secure=facade.secure())),
        Place("a node", at_node),
        Place("a watch of a node", streams),
    ]
    with Witness(tmp_path) as witness:
        for place in places:
            place.__enter__()
        change(cluster, "DELETE", "/v1/auth/tokens/short")
        revoked_s = time.monotonic()
        ended: dict[str, float] = {}
        for place in places:
            place.__exit__()
            ended[place.name] = place.ended_s
    channel.close()
    print(witness.told(), {name: round(at_s - revoked_s, 2) for name, at_s in ended.items()})
    for name, at_s in ended.items():
        took_s = max(0.0, at_s - revoked_s) - witness.stalled_s(revoked_s, at_s)
        assert took_s < REVOKED_S, f"{name} took the token for {took_s:.2f} s"

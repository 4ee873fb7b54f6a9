"""Clients that call the nodes of a whole cluster themselves, by certificates and JWTs, as any library of gRPC does.

The cluster is that of ``dougctl dev --auth``, whose nodes have all modes but ``none`` here, and trust a second
authority.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import jwt
import pytest
from bench.cluster import Cluster, wait_for
from cryptography.hazmat.primitives.asymmetric import ec
from integration.uncaught import uncaught_in
from tools.certs import Authority, write

from doug.v1 import admin_pb2, admin_pb2_grpc, doug_pb2, doug_pb2_grpc

pytestmark = [pytest.mark.integration, pytest.mark.slow]

READY_S = 60.0
CALL_S = 10.0
ISSUER, AUDIENCE = "https://issuer.example", "dougdb"
PER_S = 500
"""How many operations a second each principal may ask a node for."""
DAY_S = 86_400
Status = grpc.StatusCode


class Nodes:
    """The nodes of a cluster, and whom they are asked by."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.people, self.key = Authority.make("people"), ec.generate_private_key(ec.SECP256R1())
        self.keys = folder / "jwks.json"
        self.publish(one=self.key)
        self._channels: list[grpc.Channel] = []
        tls = cluster.data / "run" / "tls"
        self._roots = (tls / "client" / "ca.crt").read_bytes()
        self._known = [(tls / "client" / name).read_bytes() for name in ("tls.crt", "tls.key")]

    def trust(self) -> None:
        """Has all nodes trust the people's authority beside that of the cluster."""
        for name in self.cluster.node_ids:
            place = self.cluster.data / "run" / "tls" / name / "ca.crt"
            write(place, place.read_bytes() + self.people.pem)

    def publish(self, **keys: ec.EllipticCurvePrivateKey) -> None:
        """Makes these keys the issuer's only ones, by their ids."""
        algorithm = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256)
        shown = {kid: json.loads(algorithm.to_jwk(key.public_key())) for kid, key in keys.items()}
        listed = [{**public, "kid": kid, "alg": "ES256", "use": "sig"} for kid, public in shown.items()]
        write(self.keys, json.dumps({"keys": listed}).encode())

    def signed(self, key: ec.EllipticCurvePrivateKey, kid: str = "one", **claims: object) -> str:
        """A JWT of the issuer for bob."""
        usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "bob", "exp": int(time.time()) + 600, "groups": ["ops"]}
        return jwt.encode(usual | claims, key, "ES256", headers={"kid": kid})

    def of(self, name: str = "", authority: Authority | None = None, days: float = 1) -> Client:
        """A client with a certificate of this name, or with one that the cluster has made for clients."""
        shown = self._known
        if name:
            shown = list((authority or self.people).issue([], days, common_name=name))
        return Client(self, grpc.ssl_channel_credentials(self._roots, shown[1], shown[0]))

    def open(self, address: str, credentials: grpc.ChannelCredentials) -> grpc.Channel:
        """A connection, which is closed at the end."""
        channel = grpc.secure_channel(address, credentials, [("grpc.enable_http_proxy", 0)])
        self._channels.append(channel)
        return channel

    def leaders(self) -> list[str]:
        """The addresses at which the leaders of all shards serve Doug."""
        return [view.address for view in self.cluster.views() if view.role == "leader"]

    def close(self) -> None:
        """Closes all connections."""
        for channel in self._channels:
            channel.close()


class Client:
    """A client that asks the leaders themselves."""

    def __init__(self, nodes: Nodes, credentials: grpc.ChannelCredentials) -> None:
        self._nodes, self._credentials = nodes, credentials
        self._by_address: dict[str, grpc.Channel] = {}

    def channel(self, address: str) -> grpc.Channel:
        """The connection to a node."""
        if address not in self._by_address:
            self._by_address[address] = self._nodes.open(address, self._credentials)
        return self._by_address[address]

    def call(self, method: str, request: Any, bearer: str = "") -> Any:
        """Asks the leaders, one after the other, until it is the one that has the key; returns how that call ended."""
        metadata = (("authorization", f"Bearer {bearer}"),) if bearer else ()
        for address in self._nodes.leaders():
            stub = doug_pb2_grpc.DougStub(self.channel(address))
            try:
                _, call = getattr(stub, method).with_call(request, metadata=metadata, timeout=CALL_S)
            except grpc.RpcError as error:
                if trailer(error).get("doug-code") == "WRONG_SHARD":
                    continue
                return error
            return call
        raise AssertionError("no shard has the key")

    def puts(self, key: str, bearer: str = "") -> grpc.StatusCode:
        """The status of a put."""
        found: grpc.StatusCode = self.call("Put", doug_pb2.PutRequest(key=key.encode(), value=b"v"), bearer).code()
        return found

    def gets(self, key: str, bearer: str = "") -> grpc.StatusCode:
        """The status of a get."""
        found: grpc.StatusCode = self.call("Get", doug_pb2.GetRequest(key=key.encode()), bearer).code()
        return found

    def changes_members(self) -> grpc.StatusCode:
        """The status of an operator's call, to the first leader."""
        stub = admin_pb2_grpc.AdminStub(self.channel(self._nodes.leaders()[0]))
        try:
            stub.RemoveMember(admin_pb2.RemoveMemberRequest(name="nobody"), timeout=CALL_S)
        except grpc.RpcError as error:
            found: grpc.StatusCode = error.code()
            return found
        return Status.OK


def trailer(ended: Any) -> dict[str, str]:
    """The metadata behind an answer or a refusal."""
    return dict(ended.trailing_metadata() or ())


@pytest.fixture(scope="module")
def nodes(new_cluster: Callable[..., Cluster], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    folder = tmp_path_factory.mktemp("keys")
    of_nodes = {
        "DOUGDB_AUTH_MODE": "token,mtls,oidc",
        "DOUGDB_AUTH_OIDC_ISSUER": ISSUER,
        "DOUGDB_AUTH_OIDC_AUDIENCE": AUDIENCE,
        "DOUGDB_AUTH_OIDC_JWKS": str(folder / "jwks.json"),
        "DOUGDB_CLIENT_REQUESTS_PER_S": str(PER_S),
        "DOUGDB_TLS_RELOAD_MS": "200",
    }
    options = [part for name, value in of_nodes.items() for part in ("--node-env", f"{name}={value}")]
    cluster = new_cluster(shards=2, nodes=3, options=["--auth", *options])
    token = cluster.data / "run" / "bootstrap.token"
    cluster.proof = lambda: {"authorization": f"Bearer {token.read_text().strip()}"}
    cluster.start()
    found = Nodes(cluster, folder)
    change(cluster, "PUT", "/v1/auth/roles/apps", allow=["read:app/", "write:app/"])
    found.trust()
    ann = found.of("first")
    wait_for(lambda: ann.puts("app/a") is Status.PERMISSION_DENIED, READY_S, "nodes to know the authority and users")
    yield found
    found.close()


def change(cluster: Cluster, method: str, target: str, **wanted: object) -> None:
    """Has something changed about users."""
    body = json.dumps(wanted).encode() if wanted else b""
    answer = cluster.request(method, target, body, {"content-type": "application/json"})
    assert answer.status in (200, 201, 204), answer.body


def gives(nodes: Nodes, principal: str) -> None:
    """Gives a principal the role of applications."""
    change(nodes.cluster, "POST", "/v1/auth/users", principal=principal, role="apps")


KEYS = [f"app/{number}" for number in range(8)]
"""Keys of which each shard has some: shards other than 0 judge by a copy."""


def test_a_certificate_does_what_its_principal_may(nodes: Nodes) -> None:
    """Everything else is refused, and all of it once the role is taken away."""
    ann = nodes.of("ann")
    assert {ann.puts(key) for key in KEYS} == {Status.PERMISSION_DENIED}
    gives(nodes, "cert:ann")
    wait_for(lambda: {ann.puts(key) for key in KEYS} == {Status.OK}, READY_S, "the role to count in all shards")
    assert {ann.gets(key) for key in KEYS} == {Status.OK}
    assert {ann.puts(key) for key in ("other", "app", "apq/a")} == {Status.PERMISSION_DENIED}
    assert ann.changes_members() is Status.PERMISSION_DENIED
    assert nodes.of("bob").puts("app/a") is Status.PERMISSION_DENIED
    assert ann.puts("app/a", "doug_0123456789abcdef_" + "A" * 43) is Status.UNAUTHENTICATED, "a token goes before it"
    change(nodes.cluster, "DELETE", "/v1/auth/users?principal=cert:ann&role=apps")
    taken_s = time.monotonic()
    refused = lambda: {ann.puts(key) for key in KEYS} == {Status.PERMISSION_DENIED}  # noqa: E731
    wait_for(refused, READY_S, "the role to count no more")
    print(f"refused everywhere after {time.monotonic() - taken_s:.2f} s")


def test_certificates_of_others_and_old_ones_are_none(nodes: Nodes) -> None:
    """They do not even come to a call; one that ends on an open connection is worth nothing from then on."""
    gives(nodes, "cert:eve")
    for stranger in (nodes.of("eve", Authority.make("others")), nodes.of("eve", days=-1 / DAY_S)):
        assert stranger.puts("app/a") is Status.UNAVAILABLE
    eve = nodes.of("eve", days=6 / DAY_S)
    wait_for(lambda: eve.puts("app/a") is Status.OK, READY_S, "the role to count")
    wait_for(lambda: eve.puts("app/a") is Status.UNAUTHENTICATED, READY_S, "the certificate to end")


def test_the_name_of_a_node_of_another_shard_gives_no_right(nodes: Nodes) -> None:
    """As a client's it is that of a principal, whom nobody has given anything; and Pipe is for one's own alone."""
    other = nodes.of("shard-9-0")
    assert {other.puts(key) for key in KEYS} == {Status.PERMISSION_DENIED}
    assert other.changes_members() is Status.PERMISSION_DENIED
    stub = doug_pb2_grpc.DougStub(other.channel(nodes.leaders()[0]))
    with pytest.raises(grpc.RpcError) as refused:
        list(stub.Pipe(iter(()), timeout=CALL_S))
    assert refused.value.code() is Status.PERMISSION_DENIED


def test_a_jwt_does_what_its_principal_and_groups_may(nodes: Nodes) -> None:
    """The certificate only opens the connection; keys of the issuer are replaced while nodes run."""
    client, bob = nodes.of(), nodes.signed(nodes.key)
    wait_for(lambda: client.puts("app/a", bob) is Status.PERMISSION_DENIED, READY_S, "nodes to know the issuer")
    gives(nodes, "group:ops")
    wait_for(lambda: {client.puts(key, bob) for key in KEYS} == {Status.OK}, READY_S, "the role to count everywhere")
    assert client.puts("other", bob) is Status.PERMISSION_DENIED
    others = (
        nodes.signed(ec.generate_private_key(ec.SECP256R1())),
        nodes.signed(nodes.key, aud="another"),
        nodes.signed(nodes.key, exp=int(time.time()) - 600),
    )
    for text in others:
        refused = client.call("Get", doug_pb2.GetRequest(key=b"app/a"), text)
        assert refused.code() is Status.UNAUTHENTICATED
        assert "the JWT does not count" in str(refused.details())


def test_keys_are_replaced_while_clients_call_nodes(nodes: Nodes) -> None:
    """No call of who counts before and after fails: the new key is added first, and the old one goes at the end."""
    client, next_key = nodes.of(), ec.generate_private_key(ec.SECP256R1())
    old_eva, new_eva = nodes.signed(nodes.key, sub="eva"), nodes.signed(next_key, "two", sub="eva")
    gives(nodes, "oidc:eva")
    wait_for(lambda: {client.puts(key, old_eva) for key in KEYS} == {Status.OK}, READY_S, "the role to count")
    bearer, answers, over = [old_eva], Counter[Status](), threading.Event()

    def load() -> None:
        while not over.is_set():
            answers.update(client.puts(key, bearer[0]) for key in KEYS)

    def goes_on() -> None:
        reached = answers.total() + len(KEYS)
        wait_for(lambda: answers.total() > reached, READY_S, "some more answers")

    loading = threading.Thread(target=load)
    loading.start()
    try:
        nodes.publish(one=nodes.key, two=next_key)
        wait_for(lambda: {client.puts(key, new_eva) for key in KEYS} == {Status.OK}, READY_S, "the new key to count")
        goes_on()
        bearer[0] = new_eva
        goes_on()
        nodes.publish(two=next_key)
        # A key that nobody knows has the set read at once, and not within a minute.
        stray = nodes.signed(ec.generate_private_key(ec.SECP256R1()), "stray")

        def refused() -> bool:
            asked = [(client.puts(key, stray), client.puts(key, old_eva)) for key in KEYS]
            return set(asked) == {(Status.UNAUTHENTICATED, Status.UNAUTHENTICATED)}

        wait_for(refused, READY_S, "the old key to count no more")
        goes_on()
    finally:
        over.set()
        loading.join()
    assert answers[Status.OK] > len(KEYS)
    assert not {Status.UNAUTHENTICATED, Status.PERMISSION_DENIED} & answers.keys(), answers


def test_a_principal_that_asks_for_too_much_is_told_when_to_come_again(nodes: Nodes) -> None:
    gives(nodes, "cert:greedy")
    greedy = nodes.of("greedy")
    wait_for(lambda: greedy.gets("app/a") is not Status.PERMISSION_DENIED, READY_S, "the role to count")
    asked = [doug_pb2.Operation(get=doug_pb2.OperationGet(key=b"app/a"))] * 1000
    batch = doug_pb2.ExecuteBatchRequest(operations=asked)
    answers = [greedy.call("ExecuteBatch", batch)]
    while answers[-1].code() is Status.OK and len(answers) < 50:  # The machine may stand still for as long as it takes.
        answers.append(greedy.call("ExecuteBatch", batch))
    assert answers[-1].code() is Status.RESOURCE_EXHAUSTED
    told = trailer(answers[-1])
    assert told["doug-code"] == "OVERLOADED"
    assert 1 <= int(told["retry-after"]) <= 2000 / PER_S
    assert nodes.of("another").gets("app/a") is Status.PERMISSION_DENIED, "others are answered"
    logs = "".join(path.read_text() for path in (nodes.cluster.data / "run").glob("shard-*.log"))
    assert logs.count('"caller.limited"') == 1 and '"client": "cert:greedy"' in logs


def test_no_process_has_left_an_error_uncaught(nodes: Nodes) -> None:
    """The last test: what those before it had the processes do."""
    assert uncaught_in((nodes.cluster.data / "run").glob("*.log")) == []
